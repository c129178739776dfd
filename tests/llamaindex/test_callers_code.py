"""Event handlers of LlamaIndex, pages and caches never run in the thread of the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import Document, ImageDocument

from glm4v_core import Request
from llamaindex_glm4v import GLM4VMultiModal, GLM4VOCRTransform, GLM4VReader
from tests.support.llamaindex_calls import Make
from tests.support.scans import paper, read
from tests.support.threads import Threads

QUESTION = "Is anybody there?"


def answer(request: Request) -> Any:
    return "yes" if QUESTION in str(request.messages) else read(request)


class Handler(BaseEventHandler):
    """A handler that LlamaIndex calls in the thread of the event, and that calls the model itself."""

    threads: Any
    llm: GLM4VMultiModal
    asking: bool = False

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.threads.note("event")
        if not self.asking:
            self.asking = True
            self.llm.complete(QUESTION)
            self.asking = False


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    threads = Threads()
    threads.watch(monkeypatch)
    return threads


@pytest.fixture
def llm(scripted: Make, threads: Threads) -> Iterator[GLM4VMultiModal]:
    llm, _ = scripted(answer)
    handler, root = Handler(threads=threads, llm=llm), get_dispatcher()
    root.add_event_handler(handler)
    yield llm
    root.event_handlers.remove(handler)


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(1, 5)]
    for number, path in enumerate(paths, start=1):
        paper(number).save(path)
    return paths


TEXTS = [f"text of page {number}" for number in range(1, 5)]


@pytest.mark.parametrize("way", ["lazy_load_data", "load_data", "aload_data", "load_data beside a loop"])
def test_of_a_reader(llm: GLM4VMultiModal, threads: Threads, pages: list[Path], way: str) -> None:
    reader = GLM4VReader(llm=llm, concurrency=2, image_folder=pages[0].parent / "kept")

    async def beside() -> list[Document]:
        return await reader.aload_data(pages) if way == "aload_data" else reader.load_data(pages)

    documents = list(getattr(reader, way)(pages)) if way in ("lazy_load_data", "load_data") else asyncio.run(beside())
    assert [document.text for document in documents] == TEXTS
    threads.check("event", "decoding")


@pytest.mark.parametrize("way", ["call", "acall", "call beside a loop"])
def test_of_a_transform(llm: GLM4VMultiModal, threads: Threads, pages: list[Path], way: str) -> None:
    transform = GLM4VOCRTransform(llm=llm)
    nodes = [ImageDocument(image_path=str(path)) for path in pages]

    async def beside() -> Any:
        return await transform.acall(nodes) if way == "acall" else transform(nodes)

    read_nodes = transform(nodes) if way == "call" else asyncio.run(beside())
    assert [node.get_content() for node in read_nodes] == TEXTS
    threads.check("event", "decoding")
