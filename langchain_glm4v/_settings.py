"""What a ChatGLM4V can be told, how the options of a call win over it, and the core's request that follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.utils import from_env
from pydantic import ConfigDict, Field, SecretStr, model_validator

from glm4v_core import Constraint, Glm4v, Request, Sampling
from glm4v_core.errors import ConfigError, UnknownOptionError
from langchain_glm4v._convert import to_messages
from langchain_glm4v._tools import to_constraint, to_tool_choice, to_tools

_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed")
SETTINGS = (*_SAMPLING, "n", "logprobs", "top_logprobs", "reasoning", "reasoning_budget", "constraint", "timeout")
_BINDINGS = ("model", "tools", "tool_choice", "parallel_tool_calls", "response_format")
CALL_OPTIONS = (*SETTINGS, *_BINDINGS)
"""What a call may set, besides `stop`: settings of the constructor, and what only calls have."""
_OWN_KEYS = ("stream", "ls_structured_output_format")
"""Call options with which LangChain talks to itself."""


class ChatSettings(BaseChatModel):
    """The settings of `ChatGLM4V`, which adds the methods."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    model: str = Field(default_factory=from_env("GLM4V_MODEL", default="tiny"), alias="model_name")
    """Checkpoint folder, hub id, or the bundled "tiny"."""
    engine: str = Field(default_factory=from_env("GLM4V_ENGINE", default="auto"))
    """auto, transformers or scripted."""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """The engine's own settings, such as `device` and `slots`."""
    glm4v: Glm4v | None = Field(default=None, exclude=True, repr=False)
    """A model that is loaded already; its owner closes it."""

    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    """Upper bound on new tokens, reasoning included."""
    stop: list[str] | str | None = Field(default=None, alias="stop_sequences")
    """Strings that end the answer and are not part of it."""
    seed: int | None = None
    n: int = Field(default=1, ge=1)
    """Answers per call, each with its own usage; with a seed, the seeds count up from it."""
    logprobs: bool = False
    """Give the log probability of each token, in OpenAI's shape."""
    top_logprobs: int | None = None
    """How many alternatives per token; needs `logprobs`."""
    reasoning: bool | None = None
    """Whether the model thinks first; None is its family's default."""
    reasoning_budget: int | None = None
    """Most tokens of reasoning; then the answer begins."""
    constraint: Constraint | None = None
    """Binds the answer, never the reasoning, to a JSON schema, choices or a regex."""
    timeout: float | None = None
    """Seconds for a whole answer."""
    max_image_tokens: int | None = None
    """Most visual tokens per image; larger images are scaled down."""

    streaming: bool = False
    """Stream inside `invoke` too, for callbacks that want tokens."""
    max_retries: int = 2
    """For a remote server; in this process there is nothing that a second try would mend."""
    api_key: SecretStr | None = None
    """For a remote server."""

    @model_validator(mode="after")
    def _take_names_from_a_loaded_model(self) -> Self:
        if self.glm4v is None:
            return self
        info = self.glm4v.info
        for name, actual in (("model", info.model), ("engine", info.engine)):
            if name in self.model_fields_set and getattr(self, name) != actual:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but the loaded model's is {actual!r}.")
            setattr(self, name, actual)
        if self.engine_options:
            raise ValueError("engine_options cannot be changed on a loaded model.")
        return self

    @model_validator(mode="after")
    def _want_logprobs_with_alternatives(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=True.")
        return self

    @model_validator(mode="after")
    def _stream_one_answer(self) -> Self:
        if self.streaming and self.n > 1:
            raise ValueError("n must be 1 when streaming.")
        return self

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, options: Mapping[str, Any]) -> Request:
        settings = self._with(options)
        tools = to_tools(options.get("tools"))
        response = to_constraint(options.get("response_format"))
        if response is not None and "constraint" in options:
            raise ConfigError("constraint and response_format exclude each other.", hint="Pass one of them.")
        return Request(
            to_messages(messages, self.max_image_tokens),
            tools=tools,
            tool_choice=to_tool_choice(options.get("tool_choice"), tools),
            parallel_tool_calls=options.get("parallel_tool_calls") is not False,
            sampling=Sampling(
                **{name: getattr(settings, name) for name in _SAMPLING},
                stop=settings._stop(stop),
                logprobs=(settings.top_logprobs or 0) if settings.logprobs else None,
            ),
            thinking=settings.reasoning,
            thinking_budget=settings.reasoning_budget,
            constraint=response or settings.constraint,
            timeout=settings.timeout,
        )

    def _with(self, options: Mapping[str, Any]) -> Self:
        """Set a call's options over the constructor's, checked by the same rules."""
        if unknown := sorted(options.keys() - {*CALL_OPTIONS, *_OWN_KEYS}):
            raise UnknownOptionError(
                f"ChatGLM4V has no call option {', '.join(unknown)}.", hint=f"It has: {', '.join(CALL_OPTIONS)}."
            )
        chosen = {name: value for name, value in options.items() if name in SETTINGS}
        if not chosen:
            return self
        return self.model_validate({name: getattr(self, name) for name in self.model_fields_set} | chosen)

    def _stop(self, stop: list[str] | None) -> tuple[str, ...]:
        chosen = self.stop if stop is None else stop
        return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())
