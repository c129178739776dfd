"""`GLM4VMultiModal`: a GLM-V model on your own machine as a LlamaIndex LLM.

LlamaIndex's eight methods and its tool calls are all made from the one stream of the core.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Self, TypeAlias, TypeVar

from llama_index.core.base.llms.generic_utils import messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import model_validator

from glm4v_core import Completion, Family, Glm4v, Message, Request
from glm4v_core.hosts import ModelSettings, read_tool_choice
from llamaindex_glm4v._convert import ImageLike, to_call, to_messages, to_question, to_tools
from llamaindex_glm4v._results import Responses, to_chat_response, to_completion_response
from llamaindex_glm4v._settings import GLM4VMetadata, LLMCallSettings
from llamaindex_glm4v._structured import StructuredLLM
from llamaindex_glm4v.errors import ToolCallError

try:
    from llama_index.core.multi_modal_llms import MultiModalLLM
except ImportError:  # LlamaIndex is giving the class up; everything but the type works without it
    MultiModalLLM = object  # type: ignore[assignment,misc]

R = TypeVar("R", ChatResponse, CompletionResponse)
Images: TypeAlias = ImageLike | Sequence[ImageLike] | None
Ask: TypeAlias = Callable[[int | None], tuple[Message, ...]]
"""Converts what was asked; takes the limit of tokens per image."""

_BINDINGS = ("tools", "tool_choice", "parallel_tool_calls")
"""Options that only calls have."""
_PAYLOAD = ("model", "engine", "temperature", "top_p", "top_k", "max_tokens", "seed", "thinking", "thinking_budget")
"""Settings that observers may see; engine options may hold secrets."""


class _Methods(LLMCallSettings, ModelSettings, StructuredLLM):
    """The methods of `GLM4VMultiModal`.

    They are in a class of their own because MultiModalLLM wraps those that its direct subclasses define; observers
    would then see each call twice.
    """

    @model_validator(mode="after")
    def _refuse_prompts_of_completion_models(self) -> Self:
        if self.query_wrapper_prompt is not None or self.messages_to_prompt is not messages_to_prompt:
            raise ValueError("messages_to_prompt and query_wrapper_prompt have no effect: prompts are chat templates.")
        return self

    @classmethod
    def class_name(cls) -> str:
        return "glm4v_multi_modal_llm"

    @property
    def metadata(self) -> GLM4VMetadata:
        """What the model can do; loads the model if necessary."""
        model = self.loaded()
        info = model.info
        default = model.defaults.sampling.max_tokens or min(
            info.family.sampling.max_tokens or info.context, info.context // 2
        )
        return GLM4VMetadata(
            context_window=info.context,
            num_output=self.max_tokens or default,
            is_chat_model=True,
            is_function_calling_model=info.family.dialect.tools != "none",
            model_name=self.model or info.model,
            num_input_files=info.family.limits.max_images,
        )

    @property
    def family(self) -> Family:
        """The model's generation; loads the model if necessary."""
        return self.loaded().info.family

    def to_payload(self) -> dict[str, Any]:
        """Return the settings that observers may see; loads nothing."""
        return {"class_name": self.class_name(), **{name: getattr(self, name) for name in _PAYLOAD}}

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation; options of the call override the constructor's, and unknown ones raise."""
        return to_chat_response(self._generate(partial(to_messages, messages), kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Asynchronous version of `chat`."""
        return to_chat_response(await self._agenerate(partial(to_messages, messages), kwargs))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Generator[ChatResponse, None, None]:
        """Yield the answer to a conversation as it grows."""
        return self._stream(partial(to_messages, messages), kwargs, _unchanged)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncGenerator[ChatResponse, None]:
        """Asynchronous version of `stream_chat`."""
        return self._astream(partial(to_messages, messages), kwargs, _unchanged)

    @llm_completion_callback()
    def complete(
        self, prompt: str, image_documents: Images | bool = None, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt about images.

        Args:
            prompt: of the user; it follows the images.
            image_documents: paths, bytes, data URIs, PIL images, blocks, nodes and documents in any mixture.
                A bool is taken as `formatted`, which is the second parameter of other LLMs.
            formatted: do not apply `completion_to_prompt`.
            **kwargs: options of the call, as for `chat`.
        """
        ask = self._question(prompt, image_documents, formatted)
        return to_completion_response(to_chat_response(self._generate(ask, kwargs)))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, image_documents: Images | bool = None, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Asynchronous version of `complete`."""
        ask = self._question(prompt, image_documents, formatted)
        return to_completion_response(to_chat_response(await self._agenerate(ask, kwargs)))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, image_documents: Images | bool = None, formatted: bool = False, **kwargs: Any
    ) -> Generator[CompletionResponse, None, None]:
        """Yield the answer to a prompt as it grows; arguments as for `complete`."""
        return self._stream(self._question(prompt, image_documents, formatted), kwargs, to_completion_response)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, image_documents: Images | bool = None, formatted: bool = False, **kwargs: Any
    ) -> AsyncGenerator[CompletionResponse, None]:
        """Asynchronous version of `stream_complete`."""
        return self._astream(self._question(prompt, image_documents, formatted), kwargs, to_completion_response)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the calls of an answer, or those that are complete in a partial one.

        Raises:
            ToolCallError: the complete answer has a call that cannot be read, or no call.
        """
        calls = [to_call(block) for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        broken = next((call for call in calls if call.arguments is None), None)
        if broken is not None and response.raw is not None:
            raise ToolCallError(f"The call of {broken.name!r} cannot be read: {broken.raw[:200]!r}.")
        if not calls and error_on_no_tool_call:
            raise ToolCallError("Expected at least one tool call, but the answer has none.")
        return [
            ToolSelection(tool_id=call.id, tool_name=call.name, tool_kwargs=dict(call.arguments))
            for call in calls
            if call.arguments is not None
        ]

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        offered = to_tools(tools)
        choice = tool_required if tool_choice is None else tool_choice
        return {
            "messages": [*(chat_history or ()), *((user_msg,) if user_msg else ())],
            "tools": offered,
            "tool_choice": read_tool_choice(choice, offered),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _question(self, prompt: str, images: Images | bool, formatted: bool) -> Ask:
        if isinstance(images, bool):
            return self._question(prompt, None, images)
        if self.completion_to_prompt is not None and not formatted:
            prompt = self.completion_to_prompt(prompt)
        return partial(to_question, prompt, images)

    def _generate(self, ask: Ask, options: Mapping[str, Any]) -> Completion:
        model, request = self._prepare(ask, options)
        return model.generate(request)

    async def _agenerate(self, ask: Ask, options: Mapping[str, Any]) -> Completion:
        model, request = await asyncio.to_thread(self._prepare, ask, options)
        return await model.agenerate(request)

    def _stream(
        self, ask: Ask, options: Mapping[str, Any], shape: Callable[[ChatResponse], R]
    ) -> Generator[R, None, None]:
        model, request = self._prepare(ask, options)
        responses = Responses()
        with closing(model.stream(request)) as deltas:
            for delta in deltas:
                yield shape(responses.make(delta))

    async def _astream(
        self, ask: Ask, options: Mapping[str, Any], shape: Callable[[ChatResponse], R]
    ) -> AsyncGenerator[R, None]:
        model, request = await asyncio.to_thread(self._prepare, ask, options)
        responses = Responses()
        async with aclosing(model.astream(request)) as deltas:
            async for delta in deltas:
                yield shape(responses.make(delta))

    def _prepare(self, ask: Ask, options: Mapping[str, Any]) -> tuple[Glm4v, Request]:
        """Convert before loading, so that a wrong request does not cost a load. Blocks, since it decodes images."""
        settings = LLMCallSettings.merged(self, options, _BINDINGS)
        tools = to_tools(options.get("tools") or ())
        request = settings.request(
            ask(self.max_image_tokens),
            tools=tools,
            tool_choice=read_tool_choice(options.get("tool_choice"), tools),
            parallel_tool_calls=options.get("parallel_tool_calls"),
            thinking=settings.thinking,
            thinking_budget=settings.thinking_budget,
        )
        return self.loaded(), request


class GLM4VMultiModal(_Methods, MultiModalLLM):  # type: ignore[misc]  # its bases disagree on `complete`
    """A GLM-V model that runs in this process, for everything that takes an LLM or a MultiModalLLM.

    Creating one loads nothing; the first call loads the model, and all LLMs with the same model, engine and engine
    options share it. Settings of sampling and thinking may also be passed per call, as in `chat(messages, seed=1)`; a
    call overrides the constructor, which overrides the family's default. Unknown settings raise.

    Example:
        ```python
        llm = GLM4VMultiModal(model="tiny")
        llm.complete("What is the total?", image_documents=["page.png"])
        ```
    """


def _unchanged(response: ChatResponse) -> ChatResponse:
    return response
