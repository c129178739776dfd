"""LangChain's ways to call a chat model and a document loader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessageChunk

from glm4v_core import ScriptedEngine
from langchain_glm4v import ChatGLM4V, ScannedDocumentLoader

Scripted = tuple[ChatGLM4V, ScriptedEngine]
Make = Callable[..., Scripted]

CHAT_WAYS = ("invoke", "ainvoke", "stream", "astream")
LOAD_WAYS = ("lazy_load", "alazy_load")


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


async def iterate(loader: ScannedDocumentLoader, way: str) -> AsyncIterator[Document]:
    if way == "lazy_load":
        for document in loader.lazy_load():
            yield document
    else:
        async for document in loader.alazy_load():
            yield document


async def load(loader: ScannedDocumentLoader, way: str) -> list[Document]:
    return [document async for document in iterate(loader, way)]
