"""Pages are processed concurrently and returned in order, only as fast as the caller takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glm4v_core import Request, ScriptedEngine, tasks
from langchain_glm4v import ChatGLM4V, ScannedDocumentLoader
from tests.support.langchain_calls import LOAD_WAYS, Make, load
from tests.support.scans import fax_tiff, number_of, read, save_fax
from tests.support.workflow_answers import first_page_last, only_the_first_page_ends, wait_for_cancelled


@pytest.fixture
def fax(tmp_path: Path) -> Path:
    return save_fax(tmp_path)


class TestInFlight:
    def together(self, engine: Callable[[], ScriptedEngine], wanted: int) -> Callable[[Request], Iterator[str]]:
        """Answer only once this many pages are being processed."""

        def answer(request: Request) -> Iterator[str]:
            for _ in range(100_000):
                if engine().most_at_once >= wanted:
                    break
                yield ""
            yield read(request)

        return answer

    @pytest.mark.parametrize("way", LOAD_WAYS)
    async def test_pages_of_all_files_are_processed_concurrently(
        self, scripted: Make, tmp_path: Path, way: str
    ) -> None:
        for name in ("a.tif", "b.tif"):
            (tmp_path / name).write_bytes(fax_tiff(2))
        held: list[ScriptedEngine] = []
        llm, engine = scripted(self.together(lambda: held[0], 4), latency=0.0001)
        held.append(engine)
        documents = await load(ScannedDocumentLoader(tmp_path, llm, concurrency=4), way)
        assert engine.most_at_once == 4
        assert [(Path(document.metadata["source"]).name, document.page_content) for document in documents] == [
            (name, f"text of page {number}") for name in ("a.tif", "b.tif") for number in (1, 2)
        ]

    @pytest.mark.parametrize("way", LOAD_WAYS)
    async def test_concurrency_is_bounded(self, scripted: Make, fax: Path, way: str) -> None:
        llm, engine = scripted(read, latency=0.0001)
        assert len(await load(ScannedDocumentLoader(fax, llm, concurrency=2), way)) == 5
        assert engine.most_at_once <= 2

    @pytest.mark.parametrize("way", LOAD_WAYS)
    async def test_order_is_kept_though_later_pages_finish_first(self, scripted: Make, fax: Path, way: str) -> None:
        finished: list[int] = []
        llm, _ = scripted(first_page_last(finished, 4), latency=0.0001)
        documents = await load(ScannedDocumentLoader(fax, llm), way)
        assert finished[-1] == 1
        assert [document.metadata["page"] for document in documents] == [0, 1, 2, 3, 4]


class TestLaziness:
    @pytest.fixture
    def long(self, tmp_path: Path) -> list[Path]:
        """Thirty pages."""
        (tmp_path / "long.tif").write_bytes(fax_tiff(10))
        return [tmp_path / "long.tif"] * 3

    def test_the_first_document_comes_before_most_pages_are_asked(self, scripted: Make, long: list[Path]) -> None:
        llm, engine = scripted(read)
        documents = ScannedDocumentLoader(long, llm, concurrency=1).lazy_load()
        assert engine.history == []
        assert next(documents).page_content == "text of page 1"
        for _ in range(50):  # gives a loader that reads ahead the chance to do so
            llm.get_num_tokens("a")
        assert len(engine.history) <= 10
        assert len(list(documents)) == 29

    async def test_the_first_document_comes_early_without_blocking_too(self, scripted: Make, long: list[Path]) -> None:
        llm, engine = scripted(read)
        documents = ScannedDocumentLoader(long, llm, concurrency=1).alazy_load()
        assert engine.history == []
        assert (await anext(documents)).page_content == "text of page 1"
        for _ in range(50):
            await asyncio.to_thread(llm.get_num_tokens, "a")
        assert len(engine.history) <= 10
        assert len([document async for document in documents]) == 29

    async def test_closing_early_aborts_running_requests(self, scripted: Make, fax: Path) -> None:
        held: list[ScriptedEngine] = []
        llm, engine = scripted(only_the_first_page_ends(lambda: held[0].active, 5), latency=0.0001)
        held.append(engine)
        documents = ScannedDocumentLoader(fax, llm).alazy_load()
        assert (await anext(documents)).page_content == "text of page 1"
        await documents.aclose()
        await wait_for_cancelled(engine, 4)
        assert {number_of(request) for request in engine.cancelled} == {2, 3, 4, 5}
        assert engine.active == 0

    def test_making_a_loader_opens_nothing(self) -> None:
        loader = ScannedDocumentLoader("no/such/file.pdf", ChatGLM4V(model="no/such/model"))
        assert loader.lazy_load()

    def test_the_first_page_loads_the_model(self, long: list[Path]) -> None:
        llm = ChatGLM4V(engine="scripted", engine_options={"answers": read})
        try:
            assert len(ScannedDocumentLoader(long, llm, step=tasks.caption(), concurrency=64).load()) == 30
        finally:
            llm.close()
