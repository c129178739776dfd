"""Converts messages to the format of OpenAI-compatible servers, with images as data URIs."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import PIL.Image

from glm4v_core.dialect.conversation import Conversation, TemplateDict
from glm4v_core.dialect.families import Family
from glm4v_core.dialect.resize import visual_size, visual_tokens
from glm4v_core.errors import UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.media.pixels import encode_png
from glm4v_core.types import Request

WireDict = dict[str, Any]


def wire_messages(
    request: Request, family: Family, max_image_tokens: int | None
) -> tuple[list[WireDict], list[WireDict]]:
    """Convert a request's messages and tools.

    The same rules apply as for the engines that render the template themselves: control tokens in data are broken,
    images in tool results are moved if the family's template drops them, and tools are explained in a system text if
    the template does not explain them.

    Args:
        request: complete and checked.
        family: determines these rules and the bounds of images.
        max_image_tokens: maximum number of visual tokens per image; None for the server's limit only.

    Returns:
        The messages and the tools.
    """
    tools = () if request.tool_choice == "none" else request.tools
    # Servers take lists of items and convert them to what the template expects.
    conversation = Conversation(request.messages, tools, replace(family.dialect, user_content="items"))
    images = (_image_item(image, family, max_image_tokens) for image in conversation.images)
    return list(_with_ids(conversation.messages, images)), conversation.tools


def _with_ids(messages: Sequence[TemplateDict], images: Iterator[WireDict]) -> Iterator[WireDict]:
    """Add ids to tool calls and results: templates rely on their order, but servers require ids.

    A call that could not be read is part of the text. Its result comes first and gets an id without a call.
    """
    total, ids = 0, list[str]()
    for index, message in enumerate(messages):
        wire = {**message, "content": _content(message["content"], images)}
        calls = wire.pop("tool_calls", [])
        if message["role"] == "assistant":
            ids = [f"call_{total + number}" for number in range(len(calls))]
            total += len(calls)
        if calls:
            wire["tool_calls"] = list(map(_call, calls, ids))
        if message["role"] == "tool":
            behind = _results_behind(messages, index)
            wire["tool_call_id"] = ids[-1 - behind] if behind < len(ids) else f"unread_{index}"
        yield wire


def _call(call: TemplateDict, call_id: str) -> WireDict:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _results_behind(messages: Sequence[TemplateDict], index: int) -> int:
    """Return the number of consecutive tool results after this one."""
    behind = 0
    while index + behind + 1 < len(messages) and messages[index + behind + 1]["role"] == "tool":
        behind += 1
    return behind


def _content(content: str | list[TemplateDict], images: Iterator[WireDict]) -> str | list[WireDict]:
    if isinstance(content, str):
        return content
    return [next(images) if item["type"] == "image" else item for item in content]


def _image_item(image: Image, family: Family, max_image_tokens: int | None) -> WireDict:
    png = encode_png(_fitted(image, family, max_image_tokens), compress_level=1)
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def _fitted(image: Image, family: Family, max_image_tokens: int | None) -> PIL.Image.Image:
    """Scale an image down to its budget as the model's image processor would, so that the server need not resize it."""
    budgets = [budget for budget in (image.max_tokens, max_image_tokens) if budget is not None]
    if not budgets:
        return image.pixels
    limits = family.limits
    side = limits.patch * limits.merge
    fewest = math.ceil(limits.min_pixels / side**2)
    if min(budgets) < fewest:
        raise UnsupportedError(
            f"max_image_tokens is {min(budgets)}, but the server uses at least {fewest} tokens for any image.",
            hint=f"Use at least {fewest}.",
        )
    bounds = {"min_pixels": limits.min_pixels, "max_pixels": min(budgets) * side**2, "factor": side}
    if visual_tokens(image.width, image.height, min_pixels=0, max_pixels=math.inf, factor=side) <= min(budgets):
        return image.pixels
    return image.pixels.resize(visual_size(image.width, image.height, **bounds), PIL.Image.Resampling.BICUBIC)
