"""`ChatGLM4V`: a GLM-V model on your own machine as a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from importlib.metadata import version
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.utils import from_env
from pydantic import ConfigDict, Field, SecretStr, model_validator

from glm4v_core import Constraint, Glm4v, Request, Sampling
from glm4v_core.errors import UnknownOptionError, UnsupportedError
from langchain_glm4v._convert import to_messages
from langchain_glm4v._loaded import Source, close, find_or_load
from langchain_glm4v._results import Chunks, to_message
from langchain_glm4v.errors import host_errors

IN_FLIGHT = 64
"""Threads of a `batch` without max_concurrency: enough to keep every slot of an engine busy."""
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed")
CALL_OPTIONS = (*_SAMPLING, "logprobs", "top_logprobs", "reasoning", "reasoning_budget", "constraint", "timeout")
"""What a call may set, besides `stop`."""
_OWN_KEYS = ("stream", "ls_structured_output_format")
"""Call options with which LangChain talks to itself."""


class ChatGLM4V(BaseChatModel):
    """A GLM-V model that runs in this process.

    Making one costs nothing; the first call loads the model, and all chat models with the same model, engine and
    engine options share it. Every setting of sampling and reasoning may also be given per call, as in
    `invoke(text, seed=1)`, or bound; a call wins over the constructor, and that over the family's default. Unknown
    settings raise.

    Example:
        ```python
        llm = ChatGLM4V(model="tiny")
        llm.invoke([HumanMessage([image_block("page.png"), {"type": "text", "text": "What is the total?"}])])
        ```
    """

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
    def _add_glm4v_version(self) -> Self:
        self._add_version("glm4v", version("glm4v"))
        return self

    def load(self) -> Glm4v:
        """Load the model now rather than with the first call, and return it."""
        with host_errors():
            return self.glm4v or find_or_load(self._source)

    def close(self) -> None:
        """Free the model that this and equal chat models share; a later call loads it again."""
        if self.glm4v is None:
            close(self._source)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs at once, in their order; `max_concurrency` in the config bounds how many run together.

        LangChain's own bound is a few threads per core, which would leave most of the engine's slots empty.
        """
        configs = get_config_list(config, len(inputs))
        if configs and configs[0].get("max_concurrency") is None:
            configs = [{**each, "max_concurrency": min(len(inputs), IN_FLIGHT)} for each in configs]
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Count the prompt's tokens, exactly and with its images."""
        if tools:
            raise UnsupportedError("Tools cannot be counted yet.", hint="Count the messages alone.")
        with host_errors():
            return self.load().count_tokens(self._request(messages, None, {})).prompt

    def get_num_tokens(self, text: str) -> int:
        """Count how many tokens this text adds to a prompt."""
        alone = self.get_num_tokens_from_messages([HumanMessage("")])
        return self.get_num_tokens_from_messages([HumanMessage(text)]) - alone

    def get_token_ids(self, text: str) -> list[int]:
        """Raise: the ids are the engine's own affair."""
        raise UnsupportedError("Token ids are not given out.", hint="Use get_num_tokens.")

    @property
    def _llm_type(self) -> str:
        return "chat-glm4v"

    @property
    def _source(self) -> Source:
        return Source(self.model, self.engine, self.engine_options)

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """Everything that changes an answer: the key of LangChain's caches."""
        names = ("model", "engine", "engine_options", "max_image_tokens", "stop", *CALL_OPTIONS)
        return {name: getattr(self, name) for name in names}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(list(self._stop(stop)) or None, **kwargs)
        params["ls_provider"] = "glm4v"
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with host_errors():
            model, request = self._prepare(messages, stop, kwargs)
            return _to_result(to_message(model.generate(request)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with host_errors():
            model, request = await asyncio.to_thread(self._prepare, messages, stop, kwargs)
            return _to_result(to_message(await model.agenerate(request)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with host_errors():
            model, request = self._prepare(messages, stop, kwargs)
            chunks = Chunks()
            with closing(model.stream(request)) as deltas:
                for delta in deltas:
                    yield chunks.make(delta)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with host_errors():
            model, request = await asyncio.to_thread(self._prepare, messages, stop, kwargs)
            chunks = Chunks()
            async with aclosing(model.astream(request)) as deltas:
                async for delta in deltas:
                    yield chunks.make(delta)

    def _prepare(
        self, messages: list[BaseMessage], stop: list[str] | None, options: Mapping[str, Any]
    ) -> tuple[Glm4v, Request]:
        """Convert before loading: a wrong request should not cost a load. Blocks, since it decodes images."""
        request = self._request(messages, stop, options)
        return self.load(), request

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, options: Mapping[str, Any]) -> Request:
        settings = self._with(options)
        return Request(
            to_messages(messages, self.max_image_tokens),
            sampling=Sampling(
                **{name: getattr(settings, name) for name in _SAMPLING},
                stop=settings._stop(stop),
                logprobs=(settings.top_logprobs or 0) if settings.logprobs else None,
            ),
            thinking=settings.reasoning,
            thinking_budget=settings.reasoning_budget,
            constraint=settings.constraint,
            timeout=settings.timeout,
        )

    def _with(self, options: Mapping[str, Any]) -> Self:
        """Set a call's options over the constructor's, checked by the same rules."""
        chosen = {name: value for name, value in options.items() if name not in _OWN_KEYS}
        if not chosen:
            return self
        if unknown := sorted(chosen.keys() - set(CALL_OPTIONS)):
            raise UnknownOptionError(
                f"ChatGLM4V has no call option {', '.join(unknown)}.", hint=f"It has: {', '.join(CALL_OPTIONS)}."
            )
        return self.model_validate({name: getattr(self, name) for name in self.model_fields_set} | chosen)

    def _stop(self, stop: list[str] | None) -> tuple[str, ...]:
        chosen = self.stop if stop is None else stop
        return (chosen,) if isinstance(chosen, str) else tuple(chosen or ())


def _to_result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])
