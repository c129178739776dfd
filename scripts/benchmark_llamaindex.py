"""Measure llamaindex_glm4v: what a call through the adapter costs, and whether an engine ever waits for pages.

The engine of the second part is scripted: it takes a second for a page and any number of pages at once, so what is
missing to the best possible rate is time in which it had less to do than it was promised.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
from benchmark import ms, timed
from benchmark_langchain import PROMPT, import_time
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import ChatMessage
from rich.console import Console
from rich.table import Table

from glm4v_core import Glm4v, Message, Request, ScriptedEngine
from glm4v_core.tiny import checkpoint_path
from llamaindex_glm4v import GLM4VMultiModal, GLM4VOCRTransform, GLM4VReader

PAGES, IN_FLIGHT = 160, 16
CHUNKS, LATENCY = 10, 0.1
"""Pieces of an answer, and the seconds before each."""
SIZE = (1240, 1754)
"""A4 at 150 dpi."""


def main() -> None:
    """Run the benchmark and print one table."""
    table = Table("what", "llamaindex_glm4v", "compared with", "difference", title="LlamaIndex")
    adapter, bare, real = overhead()
    table.add_row("one call without a model", ms(adapter), f"{ms(bare)}, Glm4v", ms(adapter - bare))
    table.add_row("that beside a call of the bundled model", "", ms(real), f"{100 * (adapter - bare) / real:.1f} %")
    best = IN_FLIGHT / (CHUNKS * LATENCY)
    with tempfile.TemporaryDirectory() as name:
        folder = make_pages(Path(name))
        for what, rate in (("reader", read(folder)), ("reader and transform", asyncio.run(ingest(folder)))):
            shown = f"{rate:.1f} pages/s", f"{best:.1f} pages/s, {IN_FLIGHT} always in work"
            table.add_row(f"{what}, {PAGES} pages", *shown, f"{100 * (1 - rate / best):.1f} % idle")
    mine, theirs = (import_time(name) for name in ("llamaindex_glm4v", "llama_index.core.llms"))
    table.add_row("import", ms(mine), f"{ms(theirs)}, llama_index.core.llms", ms(mine - theirs))
    Console().print(table)


def overhead() -> tuple[float, float, float]:
    """Return the seconds of a call through the adapter, of one through the core, and of one that really answers."""
    request = Request((Message.user("Hello."),))
    with Glm4v.from_engine(ScriptedEngine(lambda _: "ok")) as model:
        llm, message = GLM4VMultiModal(glm4v=model), [ChatMessage("Hello.")]
        adapter, bare = (
            statistics.median(timed(call) for _ in range(400))
            for call in (lambda: llm.chat(message), lambda: model.generate(request))
        )
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


def read(folder: Path) -> float:
    """Return how many pages a second the reader gives."""
    with slow() as model:
        reader = GLM4VReader(llm=GLM4VMultiModal(glm4v=model), concurrency=IN_FLIGHT)
        started = time.perf_counter()
        assert sum(1 for _ in reader.lazy_load_data(folder)) == PAGES
        return PAGES / (time.perf_counter() - started)


async def ingest(folder: Path) -> float:
    """Do the same in an ingestion pipeline, where the pages were listed before."""
    with slow() as model:
        documents = GLM4VReader().load_data(folder)
        pipeline = IngestionPipeline(
            transformations=[GLM4VOCRTransform(llm=GLM4VMultiModal(glm4v=model), concurrency=IN_FLIGHT)]
        )
        started = time.perf_counter()
        assert len(await pipeline.arun(documents=documents)) == PAGES
        return PAGES / (time.perf_counter() - started)


def slow() -> Glm4v:
    return Glm4v.from_engine(ScriptedEngine(lambda _: ["word "] * CHUNKS, latency=LATENCY))


if __name__ == "__main__":
    main()
