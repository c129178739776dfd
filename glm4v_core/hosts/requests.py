"""What hosts say of a call -> the core's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glm4v_core.errors import ConstraintError
from glm4v_core.types import Tool, ToolChoice

_WORDS: Mapping[Any, ToolChoice] = {
    None: "auto",
    False: "auto",
    "auto": "auto",
    "none": "none",
    True: "required",
    "any": "required",
    "required": "required",
}


def read_tool_choice(choice: str | bool | Mapping[str, Any] | None, tools: Sequence[Tool]) -> ToolChoice:
    """Read a tool choice: auto, none, any, required, a bool, a tool's name, or the dict of OpenAI or Anthropic.

    Args:
        choice: as a caller of the host wrote it; None and False are "auto", True is "required".
        tools: of the same request; their names come before the words.

    Raises:
        ConstraintError: it names no tool of this request.
    """
    if isinstance(choice, Mapping):
        choice = choice.get("function", choice).get("name") or choice.get("type")
    names = [tool.name for tool in tools]
    if choice in names:
        return str(choice)
    if choice not in _WORDS:
        raise ConstraintError(f"tool_choice names the unknown tool {choice!r}.", hint=f"Known tools: {names}.")
    return _WORDS[choice]
