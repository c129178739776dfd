"""A chat model on a scripted engine: what it was asked can be looked at, what it answers is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessageChunk

from glm4v_core import Glm4v, ScriptedEngine
from langchain_glm4v import ChatGLM4V

WAYS = ("invoke", "ainvoke", "stream", "astream")
Scripted = tuple[ChatGLM4V, ScriptedEngine]


@pytest.fixture
def scripted() -> Callable[..., Scripted]:
    """Make a chat model that plays the given answers; keyword arguments go to the chat model."""

    def make(*answers: Any, family: str = "GLM-4.6V-Flash", latency: float = 0.0, **settings: Any) -> Scripted:
        script = answers[0] if len(answers) == 1 and callable(answers[0]) else list(answers)
        engine = ScriptedEngine(script, family=family, latency=latency)
        return ChatGLM4V(glm4v=Glm4v.from_engine(engine), **settings), engine

    return make


async def ask(llm: ChatGLM4V, way: str, *args: Any, **options: Any) -> AIMessage:
    """Ask in one of the four ways; a stream is added up."""
    if way == "ainvoke":
        return await llm.ainvoke(*args, **options)
    if way == "astream":
        return fold(iter([chunk async for chunk in llm.astream(*args, **options)]))
    if way == "stream":
        return await asyncio.to_thread(lambda: fold(iter(llm.stream(*args, **options))))
    return await asyncio.to_thread(llm.invoke, *args, **options)


def fold(chunks: Iterator[BaseMessageChunk]) -> Any:
    total = next(chunks)
    for chunk in chunks:
        total += chunk
    return total
