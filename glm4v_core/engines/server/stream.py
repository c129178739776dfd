"""Converts a server's chunks back to the raw text of the model, so that one parser reads the answers of all engines.

A server with parsers sends reasoning and tool calls separately and without their tags; the tags are restored here. The
text of a server without parsers is passed on unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glm4v_core.dialect.dialects import THINK_TAGS
from glm4v_core.dialect.tool_calls import CALL_END, CALL_START, ToolArguments, write_call
from glm4v_core.engines.server.client import Served
from glm4v_core.errors import ServerError
from glm4v_core.types import FinishReason, Piece, Request, TokenLogprob, Tool, Usage

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "repetition": "repetition",
    "abort": "cancelled",
}
"""Finish reasons of servers and ours. Any other reason is an error."""


@dataclass(slots=True)
class _Call:
    name: str = ""
    arguments: str = ""


class AnswerStream:
    """One answer while it arrives.

    Attributes:
        finish: set by the chunk that ends the answer; the usage may come in a later chunk.
        usage: the last one that the server sent.
    """

    def __init__(self, request: Request, served: Served) -> None:
        self._tools = request.tools
        # For a model that never reasons, a server's parser may report the whole answer as reasoning.
        self._thinks = served.family.dialect.think is not None and not served.family.never_thinks
        self._thinking = False
        self._calls: dict[int, _Call] = {}
        self._counted = 0
        self.finish: FinishReason | None = None
        self.usage: Usage | None = None

    def take(self, chunk: Any) -> Piece | None:
        """Process the next chunk; return its new text, tokens and log probabilities, or None if there are none.

        Raises:
            ServerError: the finish reason is unknown.
        """
        choice = next(iter(getattr(chunk, "choices", None) or ()), None)
        text = "" if choice is None else self._text(choice)
        logprobs = () if choice is None else tuple(_logprobs(choice))
        tokens = self._tokens(getattr(chunk, "usage", None), len(logprobs) or bool(text))
        return Piece(text, tokens, logprobs) if text or tokens or logprobs else None

    def _text(self, choice: Any) -> str:
        delta, ended = getattr(choice, "delta", None), getattr(choice, "finish_reason", None)
        # vLLM calls the field "reasoning", older versions and other servers "reasoning_content".
        reasoning = getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None)
        text = self._reasoning(reasoning or "") + self._answer(getattr(delta, "content", None) or "")
        for part in getattr(delta, "tool_calls", None) or ():
            self._take_call(part)
        if ended is not None:
            self.finish = _finish_reason(ended)
            text += self._answer("\n".join(self._written_calls()))
        return text

    def _reasoning(self, text: str) -> str:
        if not text or not self._thinks or self._thinking:
            return text
        self._thinking = True
        return THINK_TAGS[0] + text

    def _answer(self, text: str) -> str:
        if not text or not self._thinking:
            return text
        self._thinking = False
        return THINK_TAGS[1] + text

    def _take_call(self, part: Any) -> None:
        """Collect a part of a tool call. Only at the end of the answer it is certain that the call is complete."""
        call = self._calls.setdefault(part.index, _Call())
        if part.function is not None:
            call.name += part.function.name or ""
            call.arguments += part.function.arguments or ""

    def _written_calls(self) -> Iterator[str]:
        whole = self.finish in ("stop", "tool_calls")
        last = max(self._calls, default=None)
        for index, call in sorted(self._calls.items()):
            yield _written(call, self._tools, closed=whole or index != last)

    def _tokens(self, said: Any, least: int) -> int:
        """Return the number of tokens in a chunk: from the server's counts if it sends them, otherwise `least`."""
        self.usage = _usage(said) or self.usage
        total = self.usage.completion if said and self.usage else self._counted + least
        new = max(0, total - self._counted)
        self._counted += new
        return new


def _finish_reason(said: str) -> FinishReason:
    if said not in FINISH_REASONS:
        raise ServerError(
            f"The server ended the answer with the reason {said!r}.",
            hint=f"Known reasons: {', '.join(FINISH_REASONS)}.",
        )
    return FINISH_REASONS[said]


def _written(call: _Call, tools: Sequence[Tool], *, closed: bool) -> str:
    """Return the text of a call as models write it. Arguments that are not a JSON object are left for the parser."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        known = ToolArguments(next((tool for tool in tools if tool.name == call.name), Tool(call.name)))
        shown = {key: _shown(key, value, known) for key, value in arguments.items()}
        text = write_call(call.name, shown)
    else:
        text = f"{CALL_START}{call.name}\n{call.arguments}{CALL_END}"
    return text if closed else text.removesuffix(CALL_END)


def _shown(key: str, value: Any, known: ToolArguments) -> str:
    """Return a value as text that the parser reads back unchanged: a string without quotes unless it is ambiguous."""
    if isinstance(value, str) and known.decode(key, value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _logprobs(choice: Any) -> Iterator[TokenLogprob]:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    for entry in content or ():
        yield TokenLogprob(entry.token, entry.logprob, tuple((top.token, top.logprob) for top in entry.top_logprobs))


def _usage(said: Any) -> Usage | None:
    if said is None:
        return None
    prompt = getattr(said, "prompt_tokens_details", None)
    completion = getattr(said, "completion_tokens_details", None)
    by_kind = getattr(prompt, "multimodal_tokens", None) or {}
    return Usage(
        prompt=said.prompt_tokens or 0,
        image=by_kind.get("image", 0),
        completion=said.completion_tokens or 0,
        thinking=getattr(completion, "reasoning_tokens", None) or 0,
        cached=getattr(prompt, "cached_tokens", None) or 0,
    )
