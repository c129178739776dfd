"""The document workflow: fan-out, order, retries, failures and progress; its results equal LangChain's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.workflow import JsonSerializer

import glm4v_core
from glm4v_core import DocumentResult, Glm4v, PageFailure, Request, tasks
from glm4v_core.errors import ConfigError, ConstraintError, EngineDeadError, OutOfMemoryError, UnsupportedError
from glm4v_core.tasks.results import Outcome
from langchain_glm4v import ChatGLM4V
from langchain_glm4v import document_workflow as langchain_workflow
from llamaindex_glm4v import DocumentWorkflow, GLM4VMultiModal
from llamaindex_glm4v.workflows import PageDone, PageRetried, PagesFound
from tests.support.llamaindex_calls import Make, run_workflow
from tests.support.scans import number_of
from tests.support.workflow_answers import (
    LABELS,
    answer,
    asked,
    first_page_last,
    save_scans,
    step_of,
    texts,
    wait_for_cancelled,
)


@dataclasses.dataclass(frozen=True)
class AtOnce:
    """A retry policy as LlamaIndex calls it; it does not wait."""

    attempts: int = 3

    def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float | None:
        return 0 if attempts < self.attempts else None


AT_ONCE = AtOnce()
SAMPLES = Path(__file__).parents[2] / "samples"


def plain(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return results without their timings, for comparison."""
    made = [dataclasses.asdict(outcome) for outcome in outcomes]
    for outcome in made:
        for step in outcome.get("steps", {}).values():
            del step["timings"]
    return made


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    return save_scans(tmp_path)


class TestResults:
    async def test_each_page_has_a_typed_result_in_order(self, scripted: Make, scans: list[Path]) -> None:
        llm, engine = scripted(answer, latency=0.0001)
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, labels=LABELS), scans)
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]
        assert [(Path(outcome.page.source).name, outcome.page.number) for outcome in outcomes] == [
            *(("a.tif", number) for number in range(1, 6)),
            *(("b.pdf", number) for number in (1, 2)),
        ]
        first = outcomes[0]
        assert isinstance(first, DocumentResult)
        assert (first.summary, first.label, first.model) == ("summary of page 1", "invoice", "scripted")
        assert asked(engine) == asked(engine, "summarize") == asked(engine, "classify") == list(range(1, 8))

    async def test_they_equal_those_of_the_core_and_of_langchain(self, scripted: Make, scans: list[Path]) -> None:
        llm, engine = scripted(answer, temperature=0.3)
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, labels=LABELS), scans)
        questions = {(request.messages, request.sampling, request.constraint) for request in engine.history}
        engine.history.clear()

        assert llm.glm4v is not None
        pages = [page for path in scans for page in glm4v_core.load_pages(path)]
        chain = langchain_workflow(ChatGLM4V(glm4v=llm.glm4v, temperature=0.3), labels=LABELS)
        assert plain(chain.batch(pages)) == plain(outcomes)  # type: ignore[arg-type]
        assert {(request.messages, request.sampling, request.constraint) for request in engine.history} == questions
        steps = glm4v_core.document_workflow(LABELS)
        assert plain(list(steps.stream(llm.glm4v, pages))) == plain(outcomes)

    async def test_a_folder_is_searched_and_an_empty_one_has_no_pages(
        self, scripted: Make, scans: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        llm, _ = scripted(answer)
        (tmp_path / "notes.txt").write_text("not a scan")
        (tmp_path / "empty").mkdir()
        assert len((await run_workflow(DocumentWorkflow(llm), str(tmp_path)))[0]) == 7
        assert "notes.txt" in caplog.text
        assert (await run_workflow(DocumentWorkflow(llm), tmp_path / "empty"))[0] == []

    async def test_it_speaks_chinese(self, scripted: Make, scans: list[Path]) -> None:
        def chinese(request: Request) -> str:
            return {"ocr": "发票 2024年5月", "summarize": "一张发票。", "classify": "发票"}[step_of(request)]

        llm, _ = scripted(chinese)
        workflow = DocumentWorkflow(llm, labels=["发票", "信函"], language="zh", page_options={"frames": 1})
        (result, _), _ = await run_workflow(workflow, scans)
        assert isinstance(result, DocumentResult)
        assert (result.text, result.summary, result.label) == ("发票 2024年5月", "一张发票。", "发票")

    async def test_a_model_is_asked_with_the_prompt_it_was_trained_on(self, scripted: Make, scans: list[Path]) -> None:
        llm, engine = scripted(lambda request: "text", family="GLM-OCR", max_image_tokens=64)
        await run_workflow(DocumentWorkflow(llm, page_options={"frames": 1}), scans)
        prompts = {request.messages[0].parts[1].text for request in engine.history}  # type: ignore[union-attr]
        assert "Text Recognition:" in prompts
        assert {request.messages[0].parts[0].max_tokens for request in engine.history} == {64}  # type: ignore[union-attr]

    async def test_other_steps_may_be_asked(self, scripted: Make, scans: list[Path]) -> None:
        llm, _ = scripted(lambda request: "一张传真")
        steps = glm4v_core.Workflow({"caption": tasks.caption("zh")})
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, steps=steps), scans)
        assert [outcome.caption for outcome in outcomes if isinstance(outcome, DocumentResult)] == ["一张传真"] * 7

    async def test_observers_see_every_question(self, scripted: Make, scans: list[Path], recorder: Any) -> None:
        llm, _ = scripted(answer)
        await run_workflow(DocumentWorkflow(llm, labels=LABELS), scans)
        assert recorder.names().count("LLMCompletionEndEvent") == 21


class TestProgress:
    async def test_the_event_stream_reports_progress(self, scripted: Make, scans: list[Path]) -> None:
        llm, _ = scripted(answer)
        outcomes, events = await run_workflow(DocumentWorkflow(llm), scans)
        assert [event.count for event in events if isinstance(event, PagesFound)] == [7]
        done = sorted((event for event in events if isinstance(event, PageDone)), key=lambda event: event.index)
        assert [(event.index, event.pages) for event in done] == [(index, 7) for index in range(7)]
        assert [event.outcome for event in done] == outcomes

    async def test_pages_are_processed_concurrently_and_results_stay_in_order(
        self, scripted: Make, scans: list[Path]
    ) -> None:
        finished: list[int] = []
        llm, engine = scripted(first_page_last(finished, 6), latency=0.0001)
        outcomes, events = await run_workflow(DocumentWorkflow(llm), scans)
        assert finished[-1] == 1
        assert engine.most_at_once > 1
        assert [event.index for event in events if isinstance(event, PageDone)][-1] == 0
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]

    @pytest.mark.parametrize("concurrency", [1, 2])
    async def test_concurrency_is_bounded(self, scripted: Make, scans: list[Path], concurrency: int) -> None:
        llm, engine = scripted(answer, latency=0.0001)
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, concurrency=concurrency), scans)
        assert engine.most_at_once <= concurrency
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]

    async def test_cancelling_aborts_running_requests(self, scripted: Make, scans: list[Path]) -> None:
        llm, engine = scripted(lambda request: ["word "] * 100_000, latency=0.0001)
        handler = DocumentWorkflow(llm).run(paths=scans[1:])
        while engine.active < 2:
            await asyncio.sleep(0.001)
        await handler.cancel_run()
        await wait_for_cancelled(engine, 2)
        assert (len(engine.cancelled), engine.active) == (2, 0)

    async def test_a_run_can_be_serialized(self, scripted: Make, scans: list[Path]) -> None:
        llm, _ = scripted(answer)
        handler = DocumentWorkflow(llm, labels=LABELS).run(paths=scans)
        outcomes = await handler
        assert handler.ctx.to_dict(serializer=JsonSerializer())
        event = PageDone(index=0, pages=7, outcome=outcomes[0])
        assert PageDone.model_validate_json(event.model_dump_json()).outcome == outcomes[0]


class TestFailures:
    async def test_one_page_fails_beside_the_results_of_the_others(
        self, scripted: Make, scans: list[Path], tmp_path: Path
    ) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff cut off")
        llm, _ = scripted(lambda request: "a novel" if number_of(request) == 3 else answer(request))
        paths = [scans[0], tmp_path / "broken.jpg", scans[1]]
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, labels=LABELS), paths)
        failed = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, PageFailure)}
        assert (len(outcomes), set(failed)) == (8, {2, 5})
        assert (failed[2].page.number, failed[2].error.code, bool(failed[2].error.hint)) == (3, "output_invalid", True)
        assert failed[2].partial is not None
        assert failed[2].partial.text == "a novel"
        assert (failed[5].page.source, failed[5].page.number) == (str(paths[1]), 0)
        assert failed[5].error.code == "image_broken"

    async def test_a_transient_failure_repeats_its_question_alone(self, scripted: Make, scans: list[Path]) -> None:
        failures = [OutOfMemoryError("Too big."), OutOfMemoryError("Too big.")]

        def failing_twice(request: Request) -> Any:
            due = failures and number_of(request) == 2 and step_of(request) == "classify"
            return failures.pop() if due else answer(request)

        llm, engine = scripted(failing_twice)
        outcomes, events = await run_workflow(DocumentWorkflow(llm, labels=LABELS, retry=AT_ONCE), scans)
        assert texts(outcomes) == [f"text of page {number}" for number in range(1, 8)]
        assert asked(engine) == list(range(1, 8))
        assert asked(engine, "classify").count(2) == 3
        retried = [event for event in events if isinstance(event, PageRetried)]
        assert [(event.index, event.attempt, event.error.code) for event in retried] == [
            (1, attempt, "out_of_memory") for attempt in (2, 3)
        ]

    async def test_it_becomes_the_pages_failure_once_all_attempts_are_used_up(
        self, scripted: Make, scans: list[Path]
    ) -> None:
        llm, engine = scripted(
            lambda request: OutOfMemoryError("Too big.") if number_of(request) == 2 else answer(request)
        )
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, retry=AtOnce(2)), scans)
        assert texts(outcomes)[:3] == ["text of page 1", "out_of_memory", "text of page 3"]
        assert asked(engine).count(2) == 2

    async def test_other_failures_are_not_tried_again_whatever_the_policy(
        self, scripted: Make, scans: list[Path]
    ) -> None:
        class Always:
            def next(self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None) -> float:
                return 0

        llm, engine = scripted(lambda request: "a novel" if step_of(request) == "classify" else answer(request))
        outcomes, _ = await run_workflow(DocumentWorkflow(llm, labels=LABELS, retry=Always()), scans)
        assert texts(outcomes) == ["output_invalid"] * 7
        assert asked(engine, "classify") == list(range(1, 8))

    @pytest.mark.parametrize("error", [EngineDeadError("The worker is gone."), UnsupportedError("No such thing.")])
    async def test_errors_that_affect_every_page_end_the_run(
        self, scripted: Make, scans: list[Path], error: Exception
    ) -> None:
        llm, _ = scripted(lambda request: error)
        with pytest.raises(type(error)):
            await DocumentWorkflow(llm, retry=AT_ONCE).run(paths=scans[1:])

    async def test_without_a_policy_it_asks_three_times_and_waits_twice_as_long(
        self, scripted: Make, scans: list[Path]
    ) -> None:
        llm, engine = scripted(
            lambda request: OutOfMemoryError("Too big.") if number_of(request) == 2 else answer(request)
        )
        outcomes, events = await run_workflow(DocumentWorkflow(llm), scans)
        assert texts(outcomes)[:3] == ["text of page 1", "out_of_memory", "text of page 3"]
        assert asked(engine).count(2) == 3
        assert [(event.attempt, event.delay) for event in events if isinstance(event, PageRetried)] == [(2, 1), (3, 2)]

    async def test_a_policy_hears_of_each_failure_and_chooses_the_wait(self, scripted: Make, scans: list[Path]) -> None:
        heard: list[tuple[int, str]] = []

        class Listening:
            def next(
                self, elapsed_time: float, attempts: int, error: Exception, *, seed: int | None = None
            ) -> float | None:
                heard.append((attempts, str(error)))
                return 0.001 * attempts if attempts < 4 else None

        llm, _ = scripted(lambda request: OutOfMemoryError("Too big.") if number_of(request) == 2 else answer(request))
        outcomes, events = await run_workflow(DocumentWorkflow(llm, retry=Listening()), scans)
        assert texts(outcomes)[1] == "out_of_memory"
        assert [attempts for attempts, _ in heard] == [1, 2, 3, 4]
        assert [event.delay for event in events if isinstance(event, PageRetried)] == [0.001, 0.002, 0.003]

    def test_wrong_settings_are_refused_when_it_is_made(self, scripted: Make) -> None:
        llm, _ = scripted()
        with pytest.raises(ConfigError, match="dpi"):
            DocumentWorkflow(llm, page_options={"dpi": -1})
        with pytest.raises(ConfigError, match="concurrency"):
            DocumentWorkflow(llm, concurrency=0)
        with pytest.raises(ConstraintError):
            DocumentWorkflow(llm, labels=["a", "a"])


async def test_tiny_works_through_the_samples() -> None:
    with Glm4v.load("tiny") as model:
        workflow = DocumentWorkflow(GLM4VMultiModal(glm4v=model), labels=["invoice", "receipt", "letter"])
        outcomes, _ = await run_workflow(workflow, [SAMPLES / "scan-01.png", SAMPLES / "broken.png"])
    assert isinstance(outcomes[0], DocumentResult)
    assert (outcomes[0].label, bool(outcomes[0].summary)) == ("invoice", True)
    assert isinstance(outcomes[1], PageFailure)
