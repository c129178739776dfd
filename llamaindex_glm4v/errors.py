"""Errors for which LlamaIndex has its own convention."""

from __future__ import annotations

from glm4v_core import errors

__all__ = ["ToolCallError"]


class ToolCallError(errors.InvalidOutputError, ValueError):
    """The answer has no tool call, or one that cannot be read; a ValueError, as LlamaIndex's own models raise."""

    code = "tool_call"
    hint = "Ask again, require a tool, or raise max_tokens if the answer was cut off."
