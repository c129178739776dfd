"""Converts messages to the dicts that a chat template expects, in a form from which the template drops nothing.

Images are collected in the step that writes their placeholder, so that both are in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, assert_never

from glm4v_core.dialect.control_text import neutralise, neutralise_all
from glm4v_core.dialect.dialects import BOX_TAGS, TOOL_TAGS, Dialect
from glm4v_core.dialect.tool_calls import CALL_END, CALL_START, describe_tools, write_call
from glm4v_core.errors import MessageError, UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.types import Message, Part, Text, Thinking, Tool, ToolCall, ToolResult, Video

TemplateDict = dict[str, Any]

_ALLOWED: dict[str, tuple[type, ...]] = {
    "system": (Text,),
    "user": (Text, Image),
    "assistant": (Text, Thinking, ToolCall),
    "tool": (ToolResult,),
}


class Conversation:
    """Messages for a chat template, and their images.

    Attributes:
        messages: message dicts for the template.
        images: images of all messages, in the order of their placeholders.
        tools: tool dicts for the template; empty if the template does not explain tools.
    """

    def __init__(self, messages: Sequence[Message], tools: Sequence[Tool], dialect: Dialect) -> None:
        self._dialect = dialect
        self.messages: list[TemplateDict] = []
        self.images: list[Image] = []
        self.tools = [_tool_dict(tool, dialect) for tool in tools]
        for message in _in_call_order(_checked(messages)):
            self._write(message)
        if self.tools and dialect.tools == "prompt":
            self._explain_tools()

    def _write(self, message: Message) -> None:
        match message.role:
            case "system":
                self._append("system", _joined_text(message.parts, self._dialect))
            case "user":
                self._append("user", self._shown(message.parts))
            case "assistant":
                self._write_assistant(message.parts)
            case "tool":
                self._write_results([part for part in message.parts if isinstance(part, ToolResult)])
            case _:
                assert_never(message.role)

    def _append(self, role: str, content: str | list[TemplateDict]) -> None:
        self.messages.append({"role": role, "content": content})

    def _shown(self, parts: Sequence[Part]) -> str | list[TemplateDict]:
        """Convert text and images to a list of items, or to one text for a template that accepts nothing else."""
        items: list[TemplateDict] = []
        for is_text, group in groupby(parts, key=lambda part: isinstance(part, Text)):
            if is_text:
                # Join first, then break control tokens: two texts may be the halves of one.
                items.append(_text_item(_joined_text(list(group), self._dialect)))
            else:
                images = [part for part in group if isinstance(part, Image)]
                self.images += images
                items += [{"type": "image"} for _ in images]
        if self._dialect.user_content == "items":
            return items
        return "".join(item.get("text", self._dialect.image_block) for item in items)

    def _write_assistant(self, parts: Sequence[Part]) -> None:
        reasoning, text = _reasoning_and_answer(parts, self._dialect)
        calls = [part for part in parts if isinstance(part, ToolCall)]
        broken = [_broken_text(call, self._dialect) for call in calls if call.arguments is None]
        good = [_plain_call(call, self._dialect) for call in calls if call.arguments is not None]
        if self._dialect.tools == "template":
            functions = [{"type": "function", "function": call} for call in good]
            content = "\n".join(filter(None, [text, *broken]))
            message = {"role": "assistant", "content": content, "tool_calls": functions}
            self.messages.append(message | ({"reasoning_content": reasoning} if reasoning else {}))
        else:
            self._append("assistant", "\n".join(filter(None, [text, *broken, *(write_call(**call) for call in good)])))

    def _write_results(self, results: Sequence[ToolResult]) -> None:
        if self._dialect.tools == "prompt":
            self._write_results_as_user(results)
        elif self._dialect.images_in_tool_results:
            for result in results:
                has_image = any(isinstance(part, Image) for part in result.parts)
                shown = self._shown(result.parts) if has_image else _joined_text(result.parts, self._dialect)
                self._append("tool", shown)
        else:
            self._write_results_without_images(results)

    def _write_results_as_user(self, results: Sequence[ToolResult]) -> None:
        """Write the results as a user turn, because templates of this dialect silently drop the tool role."""
        items: list[TemplateDict] = []
        for result in results:
            opening = "\n<tool_response>\n" if items else "<tool_response>\n"
            items += [_text_item(opening), *self._shown(result.parts), _text_item("\n</tool_response>")]
        self._append("user", items)

    def _write_results_without_images(self, results: Sequence[ToolResult]) -> None:
        """Move the images to a user turn after the results, numbered, because the template drops images in results."""
        moved: list[Part] = []
        for result in results:
            parts: list[Part] = []
            for part in result.parts:
                if isinstance(part, Image):
                    name = Text(f"[image {len(moved) // 2 + 1}]")
                    moved += [name, part]  # two entries per image, hence the division above
                    parts.append(name)
                else:
                    parts.append(part)
            self._append("tool", _joined_text(parts, self._dialect))
        if moved:
            self._append("user", self._shown(moved))

    def _explain_tools(self) -> None:
        """Put the explanation of tools at the start of the system message, like newer templates."""
        text = describe_tools(self.tools)
        if self.messages[0]["role"] == "system":
            self.messages[0]["content"] = f"{text}\n\n{self.messages[0]['content']}"
        else:
            self.messages.insert(0, {"role": "system", "content": text})
        self.tools = []


def _checked(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages; raise a MessageError or UnsupportedError if no template can render them."""
    for number, message in enumerate(messages, 1):
        if message.role not in _ALLOWED:
            raise MessageError(f"Message {number} has the unknown role {message.role!r}.")
        if not message.parts and message.role != "assistant":
            raise MessageError(f"Message {number} ({message.role}) is empty.")
        for part in message.parts:
            _check_part(part, message.role, number)
    if messages[-1].role == "assistant":
        raise MessageError(
            "The last message is from the assistant, so there is nothing to answer.",
            hint="End with a user or tool message; continuing an assistant message is not supported.",
        )
    return messages


def _check_part(part: Part, role: str, number: int) -> None:
    inner = part.parts if isinstance(part, ToolResult) else (part,)
    if any(isinstance(item, Video) for item in inner):
        raise UnsupportedError(
            f"Message {number} contains a video, which is not supported.", hint="Pass its frames as images, in order."
        )
    if not isinstance(part, _ALLOWED[role]):
        raise MessageError(f"Message {number}: a {role} message cannot contain {type(part).__name__}.")
    if isinstance(part, ToolResult) and not all(isinstance(item, Text | Image) for item in inner):
        raise MessageError(f"Message {number}: a tool result can contain only text and images.")


def _in_call_order(messages: Sequence[Message]) -> Iterator[Message]:
    """Merge consecutive tool messages into one, with the results in the order of the calls.

    Templates do not write call ids. Only the order shows which result belongs to which call, so none may be missing.
    """
    calls: list[str] = []
    for is_tool, run in groupby(messages, key=lambda message: message.role == "tool"):
        if is_tool:
            results = [part for message in run for part in message.parts if isinstance(part, ToolResult)]
            yield Message("tool", _matched(calls, results))
            calls = []
            continue
        for message in run:
            _matched(calls, [])
            calls = _call_ids(message)
            yield message


def _call_ids(message: Message) -> list[str]:
    """Return the ids in the order in which calls are written: broken calls are part of the text and come first."""
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    return [call.id for call in sorted(calls, key=lambda call: call.arguments is not None)]


def _matched(calls: Sequence[str], results: Sequence[ToolResult]) -> tuple[ToolResult, ...]:
    """Return the results in the order of the calls; raise a MessageError unless each call has exactly one result."""
    by_call = {result.call_id: result for result in results}
    if len(by_call) < len(results) or len(set(calls)) < len(calls):
        raise MessageError("Two tool calls, or two tool results, have the same id.")
    if missing := [call for call in calls if call not in by_call]:
        raise MessageError(f"The tool call {missing[0]!r} has no result.", hint="Send a tool result for every call.")
    if unknown := [call for call in by_call if call not in calls]:
        raise MessageError(f"The tool result {unknown[0]!r} does not answer a call of the message before it.")
    return tuple(by_call[call] for call in calls)


def _joined_text(parts: Sequence[Part], dialect: Dialect) -> str:
    return neutralise("".join(part.text for part in parts if isinstance(part, Text)), dialect)


def _text_item(text: str) -> TemplateDict:
    return {"type": "text", "text": text}


def _reasoning_and_answer(parts: Sequence[Part], dialect: Dialect) -> tuple[str, str]:
    """Return the reasoning and the answer of an earlier turn, even if a caller sends back raw text with tags."""
    text = "".join(part.text for part in parts if isinstance(part, Text))
    reasoning = "".join(part.text for part in parts if isinstance(part, Thinking))
    if dialect.think:
        before, _, text = text.rpartition(dialect.think[1])
        reasoning = reasoning or before.replace(dialect.think[0], "")
    for tag in (*BOX_TAGS, *(dialect.answer or ())):
        text = text.replace(tag, "")
    return neutralise(reasoning.strip(), dialect), neutralise(text.strip(), dialect)


def _plain_call(call: ToolCall, dialect: Dialect) -> TemplateDict:
    return {"name": neutralise(call.name, dialect), "arguments": neutralise_all(call.arguments, dialect)}


def _broken_text(call: ToolCall, dialect: Dialect) -> str:
    """Return a call that could not be read as the model wrote it, since a template needs decoded arguments."""
    text = neutralise(call.raw or f"{CALL_START}{call.name}\n", dialect, keep=TOOL_TAGS)
    return text if text.endswith(CALL_END) else text + CALL_END


def _tool_dict(tool: Tool, dialect: Dialect) -> TemplateDict:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": neutralise_all(function, dialect)}
