"""LlamaIndex's ways to call an LLM and a workflow, and a recorder of its events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM, ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.workflow import Event, Workflow

from glm4v_core import ScriptedEngine
from glm4v_core.tasks.results import Outcome
from llamaindex_glm4v import GLM4VMultiModal

Response = ChatResponse | CompletionResponse
Scripted = tuple[GLM4VMultiModal, ScriptedEngine]
Make = Callable[..., Scripted]

CHAT_WAYS = ("chat", "achat", "stream_chat", "astream_chat")
COMPLETE_WAYS = ("complete", "acomplete", "stream_complete", "astream_complete")
WAYS = (*CHAT_WAYS, *COMPLETE_WAYS)

# LlamaIndex looks for an agent's steps among all its attributes, those that pydantic deprecates included.
IGNORE_AGENT_WARNINGS = [
    pytest.mark.filterwarnings("ignore:The `__fields(_set)?__` attribute:pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.warnings.PydanticDeprecatedSince211"),
    # Its agents call a deprecated method of their workflow.
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


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
    """Records the events that LlamaIndex sends to observers."""

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


async def run_workflow(workflow: Workflow, paths: Any) -> tuple[list[Outcome], list[Event]]:
    """Return the outcomes and the events of the stream."""
    handler = workflow.run(paths=paths)
    events = [event async for event in handler.stream_events()]
    return await handler, events
