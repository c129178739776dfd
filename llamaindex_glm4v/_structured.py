"""Answers as pydantic objects: a grammar holds the answer, never the reasoning, to the class's JSON schema."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # exported by use
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import Model, PydanticProgramMode
from pydantic import ValidationError

from glm4v_core import JsonSchema
from glm4v_core.errors import ConfigError, InvalidOutputError
from glm4v_core.hosts import closed_schema

dispatcher = get_dispatcher(__name__)


class StructuredLLM(FunctionCallingLLM):
    """Structured prediction by constraint. Program modes other than the default use LlamaIndex's own programs."""

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Answer with an object.

        Raises:
            TruncatedOutputError: the answer was cut off.
            InvalidOutputError: it fits the schema but fails the class's own validators.
        """
        if self._uses_programs:
            made: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return made
        _announce(output_cls, prompt, prompt_args)
        messages = self._ask_for_object(prompt, prompt_args)
        output = read_object(output_cls, self.chat(messages, **options_for(output_cls, llm_kwargs)))
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Asynchronous version of `structured_predict`."""
        if self._uses_programs:
            made: Model = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return made
        _announce(output_cls, prompt, prompt_args)
        messages = self._ask_for_object(prompt, prompt_args)
        output = read_object(output_cls, await self.achat(messages, **options_for(output_cls, llm_kwargs)))
        dispatcher.event(LLMStructuredPredictEndEvent(output=output))
        return output

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if self._uses_programs:
            yield from super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
            return
        partials = Partials(output_cls)
        messages = self._ask_for_object(prompt, prompt_args)
        for response in self.stream_chat(messages, **options_for(output_cls, llm_kwargs)):
            yield from partials.take(response)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if self._uses_programs:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        messages = self._ask_for_object(prompt, prompt_args)
        responses = await self.astream_chat(messages, **options_for(output_cls, llm_kwargs))

        async def objects() -> AsyncGenerator[Any, None]:
            partials = Partials(output_cls)
            async for response in responses:
                for partial in partials.take(response):
                    yield partial

        return objects()

    @property
    def _uses_programs(self) -> bool:
        return self.pydantic_program_mode != PydanticProgramMode.DEFAULT

    def _ask_for_object(self, prompt: PromptTemplate, prompt_args: Mapping[str, Any]) -> list[ChatMessage]:
        return self._extend_messages(prompt.format_messages(llm=self, **prompt_args))


class Partials:
    """Reads the partial objects of one stream, and the complete one at its end."""

    def __init__(self, output_cls: type[Model]) -> None:
        self._output_cls = output_cls
        self._current: list[Any] | None = None

    def take(self, response: ChatResponse) -> Generator[Any, None, None]:
        """Yield the object as far as the answer goes; until it is complete, fields may be missing."""
        if response.raw is not None:
            yield read_object(self._output_cls, response)
        elif response.delta:
            partial = process_streaming_objects(response, self._output_cls, self._current)
            self._current = [partial]
            yield partial


def options_for(output_cls: type[Model], llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options of a call whose answer must be an object of this class."""
    options = dict(llm_kwargs or {})
    if "constraint" in options:
        raise ConfigError("A structured answer has its own constraint.", hint="Leave `constraint` out.")
    return options | {"constraint": JsonSchema(closed_schema(output_cls.model_json_schema()))}


def read_object(output_cls: type[Model], response: ChatResponse) -> Model:
    """Read the object from a complete answer."""
    try:
        return output_cls.model_validate_json(response.message.content or "")
    except ValidationError as error:
        raise InvalidOutputError(
            f"The answer does not fit {output_cls.__name__}: {error}.",
            hint="Loosen the class's validators, or ask again.",
        ) from error


def _announce(output_cls: type[Model], prompt: PromptTemplate, prompt_args: dict[str, Any]) -> None:
    dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args))
