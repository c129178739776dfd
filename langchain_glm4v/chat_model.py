"""`ChatGLM4V`: a GLM-V model on your own machine as a LangChain chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import model_validator

from glm4v_core import Completion, Glm4v, Request
from glm4v_core.errors import UnsupportedError
from glm4v_core.hosts import read_tool_choice
from langchain_glm4v._profiles import find_profile, profile_of
from langchain_glm4v._results import Chunks, to_message
from langchain_glm4v._settings import ChatCallSettings, ChatSettings
from langchain_glm4v._structured import Method, options_of, parser_of, with_parser
from langchain_glm4v._tools import ToolSource, to_openai_tool, to_tools
from langchain_glm4v.errors import host_errors

IN_FLIGHT = 64
"""Threads of a `batch` without max_concurrency: enough to keep every slot of an engine busy."""


class ChatGLM4V(ChatSettings):
    """A GLM-V model that runs in this process.

    Setup:
        `pip install "glm4v[hf,langchain]"`; PDF pages need `documents` too. No key, no server.

    Key init args:
        model: checkpoint folder, hub id, or the bundled "tiny"; GLM4V_MODEL in the environment.
        engine, engine_options: what runs it, and its own settings, such as `device` and `slots`.
        api_key, max_retries: with `engine="server"`, the key it wants and how often a request is repeated.
        temperature, top_p, top_k, repetition_penalty, max_tokens, stop, seed, n, logprobs: as in OpenAI's API.
        reasoning, reasoning_budget: whether the model thinks first, and how many tokens it may.
        max_image_tokens, timeout, constraint: see the fields.

    Creating one loads nothing; the first call loads the model, and all chat models with the same model, engine and
    engine options share it. Every setting of sampling and reasoning may also be passed per call, or bound; a call
    overrides the constructor, which overrides the family's default. Unknown settings raise.

    Instantiate, with image input:
        ```python
        llm = ChatGLM4V(model="tiny")
        question = [HumanMessage([image_block("page.png"), {"type": "text", "text": "What is the total?"}])]
        ```

    Invoke, stream, async, batch:
        ```python
        llm.invoke(question, seed=1).text
        for chunk in llm.stream(question): ...
        await llm.ainvoke(question)
        llm.batch([question, question])  # decoded together
        ```

    Tool calling and structured output, held to their schemas by a grammar:
        ```python
        llm.bind_tools([find_bill], tool_choice="any").invoke(question).tool_calls
        llm.with_structured_output(Bill).invoke(question)
        ```

    Token usage and response metadata:
        ```python
        answer = llm.invoke(question, reasoning=True)
        answer.usage_metadata  # images, cached tokens and reasoning counted separately
        answer.response_metadata["finish_reason"]
        answer.additional_kwargs["reasoning_content"]
        ```
    """

    @model_validator(mode="after")
    def _add_glm4v_version(self) -> Self:
        self._add_version("glm4v", version("glm4v"))
        return self

    def load(self) -> Glm4v:
        """Load the model now rather than with the first call, and return it."""
        with host_errors():
            model = super().load()
        self.profile = self.profile or profile_of(model.info.family)
        return model

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer all inputs at once, in their order; `max_concurrency` in the config limits how many run together.

        LangChain's own limit is a few threads per core, which would leave most of the engine's slots empty.
        """
        configs = get_config_list(config, len(inputs))
        if configs and configs[0].get("max_concurrency") is None:
            configs = [{**each, "max_concurrency": min(len(inputs), IN_FLIGHT)} for each in configs]
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    def bind_tools(
        self,
        tools: Sequence[ToolSource],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools. A grammar holds every call to a known tool and to its schema.

        Args:
            tools: functions, pydantic classes, TypedDicts, BaseTools, or dicts as OpenAI or Anthropic write them.
            tool_choice: auto (the default), none, any or required or True, or a tool's name; also as OpenAI's dict.
            strict: True makes all parameters required; False allows further keys in objects inside arguments.
            parallel_tool_calls: False allows one call per answer.
            response_format: for the final answer, which comes instead of calls: a schema, or OpenAI's dict.
            **kwargs: further call options.

        Raises:
            ValueError: tool_choice names no tool, or an option is unknown.
        """
        written = [to_openai_tool(tool, strict) for tool in tools]
        choice = read_tool_choice(tool_choice, to_tools(written))
        bound: dict[str, Any] = {"tools": written or None, "tool_choice": choice if choice != "auto" else None}
        bound |= {"parallel_tool_calls": parallel_tool_calls, "response_format": response_format}
        return self.bind(**{name: value for name, value in bound.items() if value is not None}, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answer with an object of a schema; a grammar prevents anything else.

        Only function_calling shows the model the schema with its descriptions. The other methods only constrain the
        answer, so say in the prompt what you want.

        Args:
            schema: pydantic class (returns instances), TypedDict, JSON schema or tool (return dicts).
            method: json_schema, function_calling, or json_mode, which allows any JSON object if there is no schema.
            include_raw: return a dict with raw (the message), parsed and parsing_error.
            strict: True makes all properties required; False allows keys beyond the schema's.
            **kwargs: not accepted; any raises.

        Raises:
            ValueError: an unknown method or option.
            TruncatedOutputError: when called: max_tokens ended the answer before its object was complete.
        """
        if kwargs:
            raise ValueError(f"with_structured_output has no option {', '.join(sorted(kwargs))}.")
        llm = self.bind(**options_of(schema, method, strict))
        return with_parser(llm, parser_of(schema, method), include_raw=include_raw)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[ToolSource] | None = None
    ) -> int:
        """Count the prompt's tokens, exactly, with its images and tools."""
        with host_errors():
            request = self._request(messages, self, {"tools": tools})
            return self.loaded().count_tokens(request).prompt

    def get_num_tokens(self, text: str) -> int:
        """Count how many tokens this text adds to a prompt."""
        alone = self.get_num_tokens_from_messages([HumanMessage("")])
        return self.get_num_tokens_from_messages([HumanMessage(text)]) - alone

    def get_token_ids(self, text: str) -> list[int]:
        """Raise an error: token ids are not public."""
        raise UnsupportedError("Token ids are not public.", hint="Use get_num_tokens.")

    def _resolve_model_profile(self) -> ModelProfile | None:
        """Look up the profile; that of a checkpoint folder is known once it is loaded."""
        return find_profile(self.model) if self.glm4v is None else profile_of(self.glm4v.info.family)

    @property
    def _llm_type(self) -> str:
        return "chat-glm4v"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """Everything that affects an answer: the key of LangChain's caches."""
        names = ("model", "engine", "engine_options", "max_image_tokens", *ChatCallSettings.model_fields)
        return {name: getattr(self, name) for name in names}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(list(stop or self.sampling().stop) or None, **kwargs)
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
            model, requests = self._prepare(messages, stop, kwargs)
            return _to_result(model.generate_many(requests))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with host_errors():
            model, requests = await asyncio.to_thread(self._prepare, messages, stop, kwargs)
            return _to_result(await model.agenerate_many(requests))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with host_errors():
            model, (request,) = self._prepare(messages, stop, kwargs, streams=True)
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
            model, (request,) = await asyncio.to_thread(self._prepare, messages, stop, kwargs, streams=True)
            chunks = Chunks()
            async with aclosing(model.astream(request)) as deltas:
                async for delta in deltas:
                    yield chunks.make(delta)

    def _prepare(
        self, messages: list[BaseMessage], stop: list[str] | None, options: Mapping[str, Any], *, streams: bool = False
    ) -> tuple[Glm4v, list[Request]]:
        """Convert before loading, so that a wrong request does not cost a load. Blocks, since it decodes images."""
        settings = self._settings_of(stop, options)
        if streams and settings.n > 1:
            raise UnsupportedError(
                "Several answers cannot be streamed.", hint="Call invoke or generate, or leave n at 1."
            )
        request = self._request(messages, settings, options)
        model = self.loaded(options.get("model"))
        if self.profile is None and options.get("model") in (None, self.model):
            self.profile = profile_of(model.info.family)
        return model, _repeated(request, settings.n)


def _repeated(request: Request, n: int) -> list[Request]:
    """Repeat the request n times with rising seeds, since equal seeds would give equal answers."""
    seed = request.sampling.seed
    seeds = [None if seed is None else seed + index for index in range(n)]
    return [replace(request, sampling=replace(request.sampling, seed=each)) for each in seeds]


def _to_result(completions: Iterable[Completion]) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=to_message(completion)) for completion in completions])
