"""LangChain messages to messages of the core. Pure: the same input gives the same parts, in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import PIL.Image
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from glm4v_core import Image, Message, PageOptions, Text, Thinking, ToolCall, ToolResult, load_pages
from glm4v_core.errors import MessageError, UnsupportedError
from glm4v_core.hosts import ImageSource, Part, Role, check_url

_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "human": "user", "assistant": "assistant"}
_REFUSED = ("video", "video_url", "audio", "input_audio")


def image_block(source: ImageSource | Image, *, max_image_tokens: int | None = None) -> dict[str, Any]:
    """Make a content block of a path, bytes, data URI, file object, PIL image or loaded image.

    The image is checked and decoded here and not encoded again: no base64 in prompts, traces and cache keys.

    Args:
        source: paths are accepted only here, never from a message, which may come from a stranger.
        max_image_tokens: most visual tokens for it.
    """
    image = source if isinstance(source, Image) else Image.load(source, max_image_tokens=max_image_tokens)
    # A standard type, because LangChain turns a tool's blocks of unknown types into text. Its caches key objects by
    # their repr; the hash tells two images apart there.
    return {"type": "image", "image": image, "sha256": image.sha256}


def document_blocks(source: ImageSource, **options: Unpack[PageOptions]) -> list[dict[str, Any]]:
    """Make one image block per page of a PDF or per frame of a TIFF.

    Args:
        source: see `image_block`.
        **options: of `glm4v_core.load_pages`, such as `dpi`, `frames`, `password` and `max_image_tokens`.
    """
    return [image_block(page.image) for page in load_pages(source, **options)]


def to_messages(messages: Iterable[BaseMessage], max_image_tokens: int | None = None) -> tuple[Message, ...]:
    """Convert a conversation.

    Args:
        messages: as `BaseChatModel` passes them, with normalised blocks.
        max_image_tokens: for every image without a limit of its own.

    Raises:
        MessageError: an unknown kind of message or block.
        UnsupportedError: a known block that this version cannot read.
        ImageError: an image that is refused.
    """
    return tuple(_to_message(message, max_image_tokens) for message in messages)


def _to_message(message: BaseMessage, max_image_tokens: int | None) -> Message:
    parts = tuple(part for block in message.content_blocks for part in _to_parts(block, max_image_tokens))
    match message:
        case SystemMessage():
            return Message("system", parts)
        case HumanMessage():
            return Message("user", parts)
        case AIMessage():
            return Message("assistant", (*_each_call_once(parts), *map(_broken_call, message.invalid_tool_calls)))
        case ToolMessage():
            return Message("tool", (_tool_result(message, parts),))
        case ChatMessage() if message.role in _ROLES:
            return Message(_ROLES[message.role], parts)
    role = f" with role {message.role!r}" if isinstance(message, ChatMessage) else ""
    raise MessageError(f"A {type(message).__name__}{role} cannot be sent to the model.")


def _tool_result(message: ToolMessage, parts: Sequence[Part]) -> ToolResult:
    return ToolResult(message.tool_call_id, tuple(part for part in parts if isinstance(part, (Text, Image))))


def _each_call_once(parts: Iterable[Part]) -> Iterator[Part]:
    """Drop calls that are in both the blocks and `tool_calls`, as in Anthropic's messages."""
    known: set[str] = set()
    for part in parts:
        if isinstance(part, ToolCall) and part.id:
            if part.id in known:
                continue
            known.add(part.id)
        yield part


def _broken_call(call: Mapping[str, Any]) -> ToolCall:
    return ToolCall(call["id"] or "", call["name"] or "", None, raw=call["args"] or "", error=call["error"])


def _to_parts(block: Mapping[str, Any], max_image_tokens: int | None) -> Iterator[Part]:
    """Convert a block; a document becomes its pages."""
    match block:
        case {"type": "file", "base64": str(data)}:
            yield from _to_pages(f"data:;base64,{data}", max_image_tokens)
        case {"type": "file", "url": str(url)}:
            yield from _to_pages(_checked_url(url), max_image_tokens)
        case {"type": "file" | "image", "file_id": str(name)}:
            raise UnsupportedError(
                f"The block names the uploaded file {name!r}, but there is no file store.",
                hint="Pass the file itself: image_block(path), document_blocks(path), base64 or a data URI.",
            )
        case _:
            yield _to_part(block, max_image_tokens)


def _to_pages(source: ImageSource, max_image_tokens: int | None) -> Iterator[Image]:
    return (page.image for page in load_pages(source, max_image_tokens=max_image_tokens))


def _to_part(block: Mapping[str, Any], max_image_tokens: int | None) -> Part:
    match block:
        case {"type": "text" | "text-plain", "text": str(text)}:
            return Text(text)
        case {"type": "image"}:
            return _to_image(block, max_image_tokens)
        case {"type": "reasoning"}:
            return Thinking(block.get("reasoning", ""))
        case {"type": "tool_call", "name": name, "args": arguments}:
            return ToolCall(block.get("id") or "", name, arguments)
        case {"type": "non_standard", "value": Mapping() as value}:
            return _to_foreign_part(value, max_image_tokens)
    return _refuse(block)


def _to_foreign_part(value: Mapping[str, Any], max_image_tokens: int | None) -> Part:
    """Convert a block that LangChain does not normalise."""
    match value:
        case {"type": "image_url" | "input_image", "image_url": str(url)}:
            return _from_url(url, max_image_tokens)
        case {"type": "thinking", "thinking": str(thought)}:
            return Thinking(thought)
        case {"type": "tool_use", "name": str(name), "input": Mapping() as arguments}:
            return ToolCall(value.get("id") or "", name, arguments)
        case {"type": "json", "json": data}:
            return Text(json.dumps(data, ensure_ascii=False))
    return _refuse(value)


def _to_image(block: Mapping[str, Any], max_image_tokens: int | None) -> Image:
    match block:
        case {"image": Image() as image}:
            return image if image.max_tokens is not None else replace(image, max_tokens=max_image_tokens)
        case {"image": PIL.Image.Image() as pixels}:
            return Image.load(pixels, max_image_tokens=max_image_tokens)
        case {"base64": str(data)}:
            # The type is read from the bytes; the declared one is only a claim.
            return Image.load(f"data:;base64,{data}", max_image_tokens=max_image_tokens)
        case {"url": str(url)}:
            return _from_url(url, max_image_tokens)
    raise MessageError(f"An image block has {_keys(block)}, but no image, base64 or url.")


def _from_url(url: str, max_image_tokens: int | None) -> Image:
    return Image.load(_checked_url(url), max_image_tokens=max_image_tokens)


def _checked_url(url: str) -> str:
    return check_url(url, hint="Pass a path as image_block(path), or as bytes.")


def _refuse(block: Mapping[str, Any]) -> Part:
    kind = block.get("type")
    if kind in _REFUSED:
        raise UnsupportedError(
            f"A content block of type {kind!r} cannot be read.", hint="Send frames of a video as images: image_block."
        )
    raise MessageError(f"A content block of type {kind!r} with {_keys(block)} is unknown.")


def _keys(block: Mapping[str, Any]) -> str:
    return "the keys " + ", ".join(map(str, block))
