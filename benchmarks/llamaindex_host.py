"""Measure llamaindex_glm4v: what a call through the adapter costs, and whether an engine ever waits for pages.

The engine of the second part is scripted: it takes a second for an answer and any number of questions at once. It notes
when it is idle, and how many of its promised places are empty. LlamaIndex's own counterpart for images,
`HuggingFaceMultiModal`, cannot load a GLM-V checkpoint ("Unsupported model architecture:
Glm4vForConditionalGeneration"), so there is nothing to compare with.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from engine import timed
from langchain_host import PROMPT, import_time
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import Document
from rich.console import Console
from rich.table import Table

from glm4v_core import Glm4v, IngestOptions, Message, PageStore, Request, ScriptedEngine, ingest
from glm4v_core.tiny import checkpoint_path
from glm4v_core.types import Piece
from llamaindex_glm4v import GLM4VMultiModal, GLM4VOCRTransform, GLM4VReader

PAGES, IN_FLIGHT = 160, 16
CALLS, RUNS = 400, 3
CHUNKS, LATENCY = 10, 0.1
"""Pieces of an answer, and the seconds before each."""
SIZE = (1240, 1754)
"""A4 at 150 dpi."""


class WatchedEngine(ScriptedEngine):
    """Adds up how long it was idle, and how long its questions were running."""

    def __init__(self) -> None:
        super().__init__(lambda _: ["word "] * CHUNKS, latency=LATENCY)
        self.start()

    def start(self) -> None:
        """Reset the sums."""
        self.idle = self.worked = 0.0
        self._since = time.perf_counter()

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        self.note()
        async with aclosing(super().stream(request)) as pieces:
            async for piece in pieces:
                if piece.finish is not None:
                    self.note()
                yield piece
        self.note()

    def note(self) -> None:
        """Add the time since the last change to the sums."""
        now = time.perf_counter()
        self.worked += self.active * (now - self._since)
        self.idle += (now - self._since) * (self.active == 0)
        self._since = now


def main() -> None:
    """Run the benchmark and print its tables; where there are three numbers, they are of three runs."""
    calls = Table("what", "llamaindex_glm4v", "compared with", "difference", title="Calls")
    runs = [overhead() for _ in range(RUNS)]
    ours, bare, real = (statistics.median(values) for values in zip(*runs, strict=True))
    spread = ", ".join(ms(adapter - core) for adapter, core, _ in runs)
    calls.add_row("one call without a model", ms(ours), f"{ms(bare)}, Glm4v", spread)
    calls.add_row("that beside a call of the bundled model", "", ms(real), f"{(ours - bare) / real:.2%}")
    mine, theirs = (import_time(name) for name in ("llamaindex_glm4v", "llama_index.core.llms"))
    calls.add_row("import", ms(mine), f"{ms(theirs)}, llama_index.core.llms", ms(mine - theirs))
    Console().print(calls)

    pages = Table("what", "pages/s", "of the best", "engine idle", "places empty", title=f"{PAGES} pages")
    with tempfile.TemporaryDirectory() as name:
        folder = make_pages(Path(name))
        for what, way in WAYS.items():
            found = [watched(way, folder) for _ in range(RUNS)]
            best = IN_FLIGHT / (way.questions * CHUNKS * LATENCY)
            rates = ", ".join(f"{PAGES / seconds:.2f}" for seconds, _ in found)
            shares = (f"{PAGES / seconds / best:.1%}" for seconds, _ in found)
            idle = (f"{engine.idle / seconds:.1%}" for seconds, engine in found)
            empty = (f"{1 - engine.worked / (IN_FLIGHT * seconds):.1%}" for seconds, engine in found)
            pages.add_row(what, rates, *map(", ".join, (shares, idle, empty)))
    Console(width=140).print(pages)


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def overhead() -> tuple[float, float, float]:
    """Return the seconds of a call through the adapter, of one through the core, and of one to a real model."""
    request = Request((Message.user("Hello."),))
    with Glm4v.from_engine(ScriptedEngine(lambda _: "ok")) as model:
        llm, message = GLM4VMultiModal(glm4v=model), [ChatMessage("Hello.")]
        pairs = [(timed(lambda: llm.chat(message)), timed(lambda: model.generate(request))) for _ in range(CALLS)]
        adapter, bare = (statistics.median(values) for values in zip(*pairs, strict=True))
    with Glm4v.load(checkpoint_path()) as model:
        summary = Request((Message.user(PROMPT.format(number=1)),))
        return adapter, bare, statistics.median(timed(lambda: model.generate(summary)) for _ in range(9))


def make_pages(folder: Path) -> Path:
    """Write different pages as a scanner would."""
    random = np.random.default_rng(1)
    for number in range(PAGES):
        grey = np.repeat(np.repeat(random.integers(180, 256, (SIZE[1] // 8, SIZE[0] // 8)), 8, 0), 8, 1)
        PIL.Image.fromarray(grey.astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=85)
    return folder


def watched(way: Way, folder: Path) -> tuple[float, WatchedEngine]:
    """Return the seconds that a way takes, from the first file or document on, with its engine."""
    engine = WatchedEngine()
    with Glm4v.from_engine(engine) as model:
        pages = way.prepare(folder)
        engine.start()
        seconds = timed(lambda: way.work(model, pages))
        engine.note()
        return seconds, engine


def read(model: Glm4v, folder: Path) -> None:
    """Read pages one after the other, as the caller asks for them."""
    reader = GLM4VReader(llm=GLM4VMultiModal(glm4v=model), concurrency=IN_FLIGHT)
    assert sum(1 for _ in reader.lazy_load_data(folder)) == PAGES


def transform(model: Glm4v, documents: list[Document]) -> None:
    """Read pages in an ingestion pipeline, which needs a list of them first."""
    reading = GLM4VOCRTransform(llm=GLM4VMultiModal(glm4v=model), concurrency=IN_FLIGHT)
    nodes = asyncio.run(IngestionPipeline(transformations=[reading]).arun(documents=documents))
    assert len(nodes) == PAGES


def fill_store(model: Glm4v, folder: Path) -> None:
    """Read and summarize pages into a page store on disk."""
    with tempfile.TemporaryDirectory() as name, PageStore(Path(name) / "pages.sqlite") as store:
        assert ingest(store, model, folder, IngestOptions(concurrency=IN_FLIGHT)).read == PAGES


@dataclass(frozen=True, slots=True)
class Way:
    """A way to ingest pages, with its questions about each; what `prepare` does is not measured."""

    questions: int
    prepare: Callable[[Path], Any]
    work: Callable[[Glm4v, Any], None]


WAYS: Mapping[str, Way] = {
    "GLM4VReader": Way(1, lambda folder: folder, read),
    "GLM4VOCRTransform": Way(1, lambda folder: GLM4VReader().load_data(folder), transform),
    "page store": Way(2, lambda folder: folder, fill_store),
}


if __name__ == "__main__":
    main()
