"""LlamaIndex messages, images and tools to those of the core. Pure: the same input gives the same parts, in order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import IOBase
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.schema import BaseNode, ImageNode, Node, NodeWithScore
from llama_index.core.tools import BaseTool
from pydantic import BaseModel

from glm4v_core import Image, Message, Text, Thinking, Tool, ToolCall, ToolResult, load_pages
from glm4v_core.errors import MessageError, UnsupportedError
from glm4v_core.hosts import ImageSource, Part, Role, check_url, closed_schema

Holder = ImageSource | ImageBlock | BaseNode | NodeWithScore
ImageLike = Image | Holder
"""An image as a path, bytes, data URI, file object, PIL image or block, or the image of a node or document."""

_ROLES: Mapping[MessageRole, Role] = {
    **dict.fromkeys((MessageRole.SYSTEM, MessageRole.DEVELOPER), "system"),
    MessageRole.USER: "user",
    **dict.fromkeys((MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL), "assistant"),
    **dict.fromkeys((MessageRole.TOOL, MessageRole.FUNCTION), "tool"),
}


def to_messages(messages: Iterable[ChatMessage], max_image_tokens: int | None = None) -> tuple[Message, ...]:
    """Convert a conversation. System messages without text are left out: chat engines send them when they have none.

    Args:
        messages: of any roles.
        max_image_tokens: for every image.

    Raises:
        MessageError: a message that cannot be part of a conversation.
        UnsupportedError: a block that this version cannot read.
        ImageError: an image that the gate refuses.
    """
    return tuple(_to_message(message, max_image_tokens) for message in messages if not _is_void(message))


def to_question(prompt: str, images: Any, max_image_tokens: int | None = None) -> tuple[Message, ...]:
    """Ask about images, which come first, so that prompts about one page share a prefix.

    Args:
        prompt: of the user.
        images: an ImageLike, any number of them, or None.
        max_image_tokens: as for `to_messages`.
    """
    listed = [] if images is None else images if isinstance(images, (list, tuple)) else [images]
    return (Message.user(*(to_image(image, max_image_tokens) for image in listed), prompt),)


def to_image(source: ImageLike, max_image_tokens: int | None = None) -> Image:
    """Load an image from anything that holds one."""
    if isinstance(source, Image):
        return source
    return Image.load(to_source(source), max_image_tokens=max_image_tokens)


def to_source(holder: Holder) -> ImageSource:
    """Return the source of the image in a block, node or document, without opening it."""
    data: str | bytes | IOBase | None
    path: str | Path | None
    match holder:
        case NodeWithScore():
            return to_source(holder.node)
        case ImageBlock():
            data, path, url = holder.image, holder.path, holder.url
        case ImageNode():
            data, path, url = holder.image, holder.image_path or holder.metadata.get("file_path"), holder.image_url
        case Node() if holder.image_resource is not None:
            data, path, url = holder.image_resource.data, holder.image_resource.path, holder.image_resource.url
        case BaseNode():
            raise MessageError(f"The node {holder.node_id} holds no image.", hint="Pass nodes that hold images alone.")
        case _:
            return holder
    return _source_of(data, path, url, "An image")


def to_tools(tools: Iterable[BaseTool | Tool]) -> tuple[Tool, ...]:
    """Convert tools. Arguments may have no keys beyond their schema's."""
    return tuple(tool if isinstance(tool, Tool) else _to_tool(tool) for tool in tools)


def to_call(block: ToolCallBlock) -> ToolCall:
    """Read a call back; arguments may be JSON text, and those of a broken call are what the model wrote."""
    arguments = block.tool_kwargs
    raw = arguments if isinstance(arguments, str) else ""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = ""
    known = arguments if isinstance(arguments, dict) else None
    error = None if known is not None else "The arguments are not a JSON object."
    return ToolCall(block.tool_call_id or "", block.tool_name, known, raw, error)


def _is_void(message: ChatMessage) -> bool:
    return _ROLES[message.role] == "system" and not any(_has_content(block) for block in message.blocks)


def _has_content(block: BaseModel) -> bool:
    return not isinstance(block, TextBlock) or bool(block.text.strip())


def _to_message(message: ChatMessage, max_image_tokens: int | None) -> Message:
    role = _ROLES[message.role]
    parts = tuple(part for block in message.blocks for part in _to_parts(block, max_image_tokens))
    if role == "tool":
        return Message("tool", (_tool_result(message, parts),))
    if message.additional_kwargs.get("tool_calls") and not any(isinstance(part, ToolCall) for part in parts):
        raise MessageError(
            "A message has its tool calls in additional_kwargs alone.", hint="Give it a ToolCallBlock for every call."
        )
    return Message(role, parts)


def _tool_result(message: ChatMessage, parts: Sequence[Part]) -> ToolResult:
    call_id = message.additional_kwargs.get("tool_call_id")
    if not call_id:
        raise MessageError(
            "A tool message does not say which call it answers.", hint="Put tool_call_id into its additional_kwargs."
        )
    shown = tuple(part for part in parts if isinstance(part, (Text, Image)))
    if len(shown) < len(parts):
        raise MessageError("A tool result can hold only text, images and documents.")
    return ToolResult(call_id, shown)


def _to_parts(block: BaseModel, max_image_tokens: int | None) -> Iterator[Part]:
    match block:
        case TextBlock():
            yield Text(block.text)
        case ImageBlock():
            yield to_image(block, max_image_tokens)
        case DocumentBlock():
            source = _source_of(block.data, block.path, block.url, "A document")
            yield from (page.image for page in load_pages(source, max_image_tokens=max_image_tokens))
        case ThinkingBlock():
            yield Thinking(block.content or "")
        case ToolCallBlock():
            yield to_call(block)
        case CachePoint():
            pass  # no content; shared prompt prefixes are reused anyway
        case _:
            raise UnsupportedError(
                f"A {type(block).__name__} cannot be read.", hint="Send text, images and documents; a video as frames."
            )


def _source_of(data: str | bytes | IOBase | None, path: str | Path | None, url: Any, what: str) -> ImageSource:
    """Choose as LlamaIndex does: data, then a path, then a URL. Bytes and text are base64."""
    if isinstance(data, (str, bytes)) and data:
        # The gate looks at the bytes; a declared type is only a claim.
        return f"data:;base64,{data if isinstance(data, str) else data.decode()}"
    if isinstance(data, IOBase):
        return data  # type: ignore[return-value]  # what can be read in binary
    if path:
        return path
    if url:
        return check_url(str(url))
    raise MessageError(f"{what} has neither data nor a path nor a URL, or its data is empty.")


def _to_tool(tool: BaseTool) -> Tool:
    metadata = tool.metadata
    return Tool(metadata.get_name(), metadata.description, closed_schema(metadata.get_parameters_dict()))
