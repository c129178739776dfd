"""Prompts rendered by the templates in `tests/templates`, and parts to write them from."""

from __future__ import annotations

from pathlib import Path

import PIL.Image

from glm4v_core.dialect.families import Dialect
from glm4v_core.dialect.template import ChatTemplate, Prompt
from glm4v_core.media.image import Image
from glm4v_core.types import Message, Request, Text, Tool, ToolCall, ToolResult

TEMPLATES = Path(__file__).parents[1] / "templates"
RED, BLUE = (Image.load(PIL.Image.new("RGB", (28, 28), colour)) for colour in ("red", "blue"))
WEATHER = Tool("weather", "Tells the weather in 北京.", {"type": "object", "properties": {"city": {"type": "string"}}})


def template(dialect: Dialect) -> ChatTemplate:
    return ChatTemplate((TEMPLATES / f"{dialect.name.removeprefix('glm')}.jinja").read_text(), dialect)


def render(dialect: Dialect, *messages: Message, tools: tuple[Tool, ...] = (), thinking: bool | None = True) -> Prompt:
    return template(dialect).render(Request(messages, tools=tools, thinking=thinking))


def call(id_: str = "1", **arguments: object) -> ToolCall:
    return ToolCall(id_, "weather", arguments or {"city": "北京", "days": [1, "二"]})


def result(*parts: Text | Image, id_: str = "1") -> Message:
    return Message("tool", (ToolResult(id_, parts),))
