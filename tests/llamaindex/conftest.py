"""An LLM on a scripted engine: what it was asked can be looked at, what it answers is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM, ChatMessage, ChatResponse, CompletionResponse

from glm4v_core import Glm4v, ScriptedEngine
from llamaindex_glm4v import GLM4VMultiModal

Response = ChatResponse | CompletionResponse
Scripted = tuple[GLM4VMultiModal, ScriptedEngine]
Make = Callable[..., Scripted]

CHAT_WAYS = ("chat", "achat", "stream_chat", "astream_chat")
COMPLETE_WAYS = ("complete", "acomplete", "stream_complete", "astream_complete")
WAYS = (*CHAT_WAYS, *COMPLETE_WAYS)


@pytest.fixture
def scripted() -> Make:
    """Make an LLM that plays the given answers; keyword arguments go to the LLM."""

    def make(
        *answers: Any, family: str = "GLM-4.6V-Flash", context: int | None = None, latency: float = 0.0, **settings: Any
    ) -> Scripted:
        script = answers[0] if len(answers) == 1 and callable(answers[0]) else list(answers)
        engine = ScriptedEngine(script, family=family, context=context, latency=latency)
        return GLM4VMultiModal(glm4v=Glm4v.from_engine(engine), **settings), engine

    return make


async def ask(llm: LLM, way: str, question: str | ChatMessage, **options: Any) -> list[Response]:
    """Ask in one of the eight ways; a whole answer is a list of one."""
    if way.endswith("chat"):
        asked: Any = [question if isinstance(question, ChatMessage) else ChatMessage(content=question)]
    else:
        asked = question
    method = getattr(llm, way)
    if way.startswith("astream"):
        return [response async for response in await method(asked, **options)]
    if way.startswith("a"):
        return [await method(asked, **options)]
    if way.startswith("stream"):
        return await asyncio.to_thread(lambda: list(method(asked, **options)))
    return [await asyncio.to_thread(method, asked, **options)]


def text_of(response: Response) -> str:
    return response.text if isinstance(response, CompletionResponse) else response.message.content or ""


class Recorder(BaseEventHandler):
    """Keeps what LlamaIndex tells its observers."""

    events: list[Any]

    @classmethod
    def class_name(cls) -> str:
        return "Recorder"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def of(self, name: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__ == name]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    handler, root = Recorder(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def counter() -> TokenCountingHandler:
    return TokenCountingHandler(tokenizer=str.split)


@pytest.fixture
def counted(counter: TokenCountingHandler) -> CallbackManager:
    return CallbackManager([counter])
