"""The document workflow as a graph: fan-out, order, retries, failures, and resuming an interrupted run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver

from glm4v_core import DocumentResult, PageFailure, Request, load_pages
from glm4v_core.errors import ConfigError, EngineDeadError, OutOfMemoryError, UnsupportedError
from glm4v_core.tasks.results import Outcome
from langchain_glm4v.graph import FIND_PAGES, READ_PAGE, RETRY, document_graph, outcomes_of
from langchain_glm4v.workflows import document_workflow
from tests.support.langchain_calls import Make
from tests.support.scans import ccitt_image, number_of, scanned_pdf
from tests.support.workflow_answers import LABELS, answer, asked, first_page_last, save_scans, step_of, texts

AT_ONCE = RETRY._replace(initial_interval=0, jitter=False)
CHAT_WAYS = ("invoke", "ainvoke")
THREAD: Any = {"configurable": {"thread_id": "scans"}}


async def run(graph: Any, way: str, given: Any, config: Any = None) -> list[Outcome]:
    return outcomes_of(graph.invoke(given, config) if way == "invoke" else await graph.ainvoke(given, config))


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, list[str]]:
    return {"paths": list(map(str, save_scans(tmp_path)))}


class TestResults:
    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_each_page_has_a_typed_result_in_order(self, scripted: Make, scans: Any, way: str) -> None:
        llm, engine = scripted(answer, latency=0.0001)
        outcomes = await run(document_graph(document_workflow(llm, labels=LABELS)), way, scans)
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]
        assert [(Path(outcome.page.source).name, outcome.page.number) for outcome in outcomes] == [
            *(("a.tif", number) for number in range(1, 6)),
            *(("b.pdf", number) for number in (1, 2)),
        ]
        assert asked(engine) == asked(engine, "summarize") == asked(engine, "classify") == list(range(1, 8))

    def test_a_result_is_what_the_workflow_gave(self, scripted: Make, scans: Any) -> None:
        llm, _ = scripted(answer)
        workflow = document_workflow(llm, labels=LABELS)
        first, *_ = outcomes_of(document_graph(workflow).invoke(scans))
        assert isinstance(first, DocumentResult)
        expected = workflow.invoke(next(load_pages(scans["paths"][0])))
        assert first.page == expected.page
        assert (first.text, first.summary, first.label) == ("text of page 1", "summary of page 1", "invoice")
        assert first.steps["ocr"].usage == expected.steps["ocr"].usage
        assert (first.steps["classify"].finish, first.model, first.warnings) == ("stop", "scripted", ())

    def test_it_speaks_chinese(self, scripted: Make, scans: Any) -> None:
        def chinese(request: Request) -> str:
            return {"ocr": "发票 2024年5月", "summarize": "一张发票。", "classify": "发票"}[step_of(request)]

        llm, engine = scripted(chinese)
        graph = document_graph(document_workflow(llm, labels=["发票", "信函"], language="zh"), frames=1)
        result, _ = outcomes_of(graph.invoke(scans))
        assert isinstance(result, DocumentResult)
        assert (result.text, result.summary, result.label) == ("发票 2024年5月", "一张发票。", "发票")
        prompts = {request.messages[0].parts[1].text for request in engine.history}  # type: ignore[union-attr]
        assert all(prompt.startswith(("请", "这份")) for prompt in prompts)

    def test_folders_are_searched_and_nothing_is_left_out_silently(
        self, scripted: Make, scans: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "notes.txt").write_text("not a scan")
        llm, _ = scripted(answer)
        assert len(outcomes_of(document_graph(document_workflow(llm)).invoke({"paths": [str(tmp_path)]}))) == 7
        assert "notes.txt" in caplog.text

    def test_a_folder_without_pages_gives_no_outcomes(self, scripted: Make, tmp_path: Path) -> None:
        llm, _ = scripted()
        assert outcomes_of(document_graph(document_workflow(llm)).invoke({"paths": [str(tmp_path)]})) == []

    def test_wrong_settings_are_refused_when_the_graph_is_made(self, scripted: Make) -> None:
        with pytest.raises(ConfigError, match="dpi"):
            document_graph(document_workflow(scripted()[0]), dpi=-1)


class TestFanOut:
    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_pages_are_processed_concurrently_and_results_stay_in_order(
        self, scripted: Make, scans: Any, way: str
    ) -> None:
        finished: list[int] = []
        llm, engine = scripted(first_page_last(finished, 6), latency=0.0001)
        outcomes = await run(document_graph(document_workflow(llm)), way, scans)
        assert finished[-1] == 1
        assert engine.most_at_once > 1
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]

    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_the_config_bounds_concurrency(self, scripted: Make, scans: Any, way: str) -> None:
        llm, engine = scripted(answer, latency=0.0001)
        graph = document_graph(document_workflow(llm))
        await run(graph, way, scans, {"max_concurrency": 1})
        assert engine.most_at_once == 1


class TestFailures:
    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_one_page_fails_beside_the_results_of_the_others(
        self, scripted: Make, scans: Any, tmp_path: Path, way: str
    ) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff cut off")
        llm, _ = scripted(lambda request: "a novel" if number_of(request) == 3 else answer(request))
        paths = [scans["paths"][0], str(tmp_path / "broken.jpg"), scans["paths"][1]]
        outcomes = await run(document_graph(document_workflow(llm, labels=LABELS)), way, {"paths": paths})
        assert [type(outcome).__name__ for outcome in outcomes] == [
            *["DocumentResult"] * 2,
            "PageFailure",
            *["DocumentResult"] * 2,
            "PageFailure",
            *["DocumentResult"] * 2,
        ]
        unlabelled, unread = outcomes[2], outcomes[5]
        assert isinstance(unlabelled, PageFailure)
        assert (unlabelled.page.source, unlabelled.page.number, unlabelled.page.count) == (paths[0], 3, 5)
        assert (unlabelled.error.code, bool(unlabelled.error.hint)) == ("output_invalid", True)
        assert isinstance(unread, PageFailure)
        assert (unread.page.source, unread.page.number, unread.error.code) == (paths[1], 0, "image_broken")

    def test_a_broken_page_of_a_document_is_a_failure_too(self, scripted: Make, tmp_path: Path) -> None:
        content = scanned_pdf(ccitt_image(1), ccitt_image(2)).replace(b"<</Type/Page/", b"<</Type/Void/", 1)
        (tmp_path / "scan.pdf").write_bytes(content)
        llm, _ = scripted(answer)
        outcomes = outcomes_of(document_graph(document_workflow(llm)).invoke({"paths": [str(tmp_path / "scan.pdf")]}))
        assert texts(outcomes) == ["page_broken", "text of page 2"]
        assert (outcomes[0].page.number, outcomes[0].page.count) == (1, 2)

    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_a_transient_failure_is_tried_again(self, scripted: Make, scans: Any, way: str) -> None:
        failures = [OutOfMemoryError("Too big."), OutOfMemoryError("Too big.")]

        def failing_twice(request: Request) -> Any:
            return failures.pop() if failures and number_of(request) == 2 else answer(request)

        llm, engine = scripted(failing_twice)
        outcomes = await run(document_graph(document_workflow(llm), retry=AT_ONCE), way, scans)
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]
        assert asked(engine) == [1, 2, 2, 2, 3, 4, 5, 6, 7]

    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_it_becomes_the_pages_failure_once_all_attempts_are_used_up(
        self, scripted: Make, scans: Any, way: str
    ) -> None:
        llm, engine = scripted(
            lambda request: OutOfMemoryError("Too big.") if number_of(request) == 2 else answer(request)
        )
        outcomes = await run(document_graph(document_workflow(llm), retry=AT_ONCE._replace(max_attempts=2)), way, scans)
        assert texts(outcomes)[:3] == ["text of page 1", "out_of_memory", "text of page 3"]
        assert asked(engine).count(2) == 2

    def test_other_failures_are_not_tried_again(self, scripted: Make, scans: Any) -> None:
        llm, engine = scripted(lambda request: "a novel" if step_of(request) == "classify" else answer(request))
        retry = AT_ONCE._replace(retry_on=Exception)
        outcomes = outcomes_of(document_graph(document_workflow(llm, labels=LABELS), retry=retry).invoke(scans))
        assert texts(outcomes) == ["output_invalid"] * 7
        assert asked(engine) == list(range(1, 8))

    @pytest.mark.parametrize("error", [EngineDeadError("The worker is gone."), UnsupportedError("No such thing.")])
    def test_errors_that_affect_every_page_end_the_run(self, scans: Any, error: Exception) -> None:
        def fail(_: Any) -> Any:
            raise error

        with pytest.raises(type(error)):
            document_graph(RunnableLambda(fail), retry=AT_ONCE).invoke(scans)


class TestCheckpoints:
    # When one task fails, LangGraph drops the coroutines of waiting tasks, and Python warns about them.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("way", CHAT_WAYS)
    async def test_an_interrupted_run_resumes_with_the_missing_pages(
        self, scripted: Make, scans: Any, way: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        dead = True

        def dying(request: Request) -> Any:
            return EngineDeadError("The worker is gone.") if dead and number_of(request) > 3 else answer(request)

        llm, engine = scripted(dying)
        graph = document_graph(document_workflow(llm, labels=LABELS), checkpointer=InMemorySaver())
        with pytest.raises(EngineDeadError):
            await run(graph, way, scans, THREAD | {"max_concurrency": 1})
        assert {1, 2, 3} <= set(asked(engine))

        dead = False
        engine.history.clear()
        outcomes = await run(graph, way, None, THREAD)
        assert asked(engine) == [4, 5, 6, 7]
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_a_run_stops_at_a_breakpoint_and_resumes(self, scripted: Make, scans: Any) -> None:
        llm, engine = scripted(answer)
        graph = document_graph(document_workflow(llm), checkpointer=InMemorySaver())
        state = await graph.ainvoke(scans, THREAD, interrupt_after=[FIND_PAGES])
        assert (outcomes_of(state), engine.history) == ([], [])
        stopped = graph.get_state(THREAD)
        assert set(stopped.next) == {READ_PAGE}
        assert [task["number"] for task in stopped.values["pages"]] == [1, 2, 3, 4, 5, 1, 2]
        graph.invoke(None, THREAD)
        outcomes = outcomes_of(graph.get_state(THREAD).values)
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]

    def test_a_thread_may_be_used_again(self, scripted: Make, scans: Any) -> None:
        llm, _ = scripted(answer)
        graph = document_graph(document_workflow(llm), checkpointer=InMemorySaver())
        graph.invoke(scans, THREAD)
        outcomes = outcomes_of(graph.invoke({"paths": scans["paths"][1:]}, THREAD))
        assert texts(outcomes) == ["text of page 6", "text of page 7"]

    def test_they_contain_plain_data_and_no_pixels(self, scripted: Make, scans: Any) -> None:
        llm, _ = scripted(lambda request: OutOfMemoryError("Too big.") if number_of(request) == 2 else answer(request))
        saver = InMemorySaver()
        graph = document_graph(document_workflow(llm, labels=LABELS), checkpointer=saver, retry=AT_ONCE)
        final = graph.invoke(scans, THREAD)
        assert json.loads(json.dumps(final)) == final
        pixels = sum(len(page.image.pixels.tobytes()) for path in scans["paths"] for page in load_pages(path))
        kept = list(saver.list(THREAD))
        assert len(kept) == 4
        for checkpoint in kept:
            size = len(saver.serde.dumps_typed((checkpoint.checkpoint, checkpoint.pending_writes))[1])
            assert size < 20_000 < pixels / 10

    def test_reading_them_back_creates_none_of_our_objects(
        self, scripted: Make, scans: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        llm, _ = scripted(answer)
        graph = document_graph(document_workflow(llm), checkpointer=InMemorySaver())
        graph.invoke(scans, THREAD)
        assert len(outcomes_of(graph.get_state(THREAD).values)) == 7
        assert "unregistered type" not in caplog.text
