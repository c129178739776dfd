"""The settings of a ChatGLM4V, how the options of a call override them, and the core's request made from both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from pydantic import ConfigDict, Field, model_validator

from glm4v_core import Request
from glm4v_core.errors import ConfigError
from glm4v_core.hosts import CallSettings, ModelSettings, read_tool_choice
from langchain_glm4v._convert import to_messages
from langchain_glm4v._tools import to_constraint, to_tools

_BINDINGS = ("model", "tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Options that only calls have."""
_OWN_KEYS = ("stream", "ls_structured_output_format")
"""Call options that LangChain passes to itself."""


class ChatCallSettings(CallSettings):
    """Settings for both the constructor of `ChatGLM4V` and its calls."""

    model_config = ConfigDict(title="a call of ChatGLM4V")

    n: int = Field(default=1, ge=1)
    """Answers per call, each with its own usage; with a seed, further answers use seed + 1, seed + 2 and so on."""
    reasoning: bool | None = None
    """Whether the model thinks first; None is its family's default."""
    reasoning_budget: int | None = None
    """Most tokens of reasoning; then the answer begins."""


class ChatSettings(ChatCallSettings, ModelSettings, BaseChatModel):
    """The settings of `ChatGLM4V`, which adds the methods."""

    model_config = ConfigDict(
        extra="forbid"
    )  # the chat model's own configuration, applied last, would ignore unknown ones

    streaming: bool = False
    """Stream inside `invoke` too, for callbacks that want tokens."""

    @model_validator(mode="after")
    def _stream_one_answer(self) -> Self:
        if self.streaming and self.n > 1:
            raise ValueError("n must be 1 when streaming.")
        return self

    def _settings_of(self, stop: list[str] | None, options: Mapping[str, Any]) -> ChatCallSettings:
        chosen = {name: value for name, value in options.items() if name not in _OWN_KEYS}
        return ChatCallSettings.merged(self, chosen if stop is None else chosen | {"stop": stop}, _BINDINGS)

    def _request(self, messages: list[BaseMessage], settings: ChatCallSettings, options: Mapping[str, Any]) -> Request:
        tools = to_tools(options.get("tools"))
        response = to_constraint(options.get("response_format"))
        if response is not None and "constraint" in options:
            raise ConfigError("constraint and response_format exclude each other.", hint="Pass one of them.")
        return settings.request(
            to_messages(messages, self.max_image_tokens),
            tools=tools,
            tool_choice=read_tool_choice(options.get("tool_choice"), tools),
            parallel_tool_calls=options.get("parallel_tool_calls"),
            thinking=settings.reasoning,
            thinking_budget=settings.reasoning_budget,
            constraint=response,
        )
