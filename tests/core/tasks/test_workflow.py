"""Many pages at once: order, bounds, failures as values, and what a result contains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import PIL.Image
import pytest

from glm4v_core.concurrency.ordered import FINISHED_AHEAD, in_order
from glm4v_core.dialect.families import FAMILIES
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import ConfigError, EngineDeadError, Failure, OutOfMemoryError
from glm4v_core.media.image import Image
from glm4v_core.media.pages import Page, PageInfo
from glm4v_core.model import Glm4v
from glm4v_core.tasks.results import DocumentResult, PageFailure
from glm4v_core.tasks.workflow import Workflow, document_workflow
from glm4v_core.types import Request

LABELS = ("invoice", "letter")


def page(number: int, count: int = 1) -> Page:
    return Page(Image.load(PIL.Image.new("RGB", (28 * number, 28), "white")), f"{number}.png", number, count)


def shown(request: Request) -> int:
    """Tell the page of a request by its width."""
    image = request.messages[0].parts[0]
    assert isinstance(image, Image)
    return image.width // 28


def step_of(request: Request) -> str:
    text = request.messages[0].parts[1].text  # type: ignore[union-attr]
    return {"Read": "ocr", "Summ": "summarize", "Whic": "classify"}[text[:4]]


def answer(request: Request) -> str:
    number = shown(request)
    return {"ocr": f"text {number}", "summarize": f"summary {number}", "classify": LABELS[number % 2]}[step_of(request)]


async def collect(workflow: Workflow, model: Glm4v, pages: Iterator[Page | PageFailure], concurrency: int = 4) -> list:
    return [outcome async for outcome in workflow.astream(model, pages, concurrency=concurrency)]


class TestOnePage:
    async def test_result(self) -> None:
        engine = ScriptedEngine(answer)
        model = Glm4v.from_engine(engine)
        result = await document_workflow(LABELS).arun(model, page(3, count=5))
        assert (result.text, result.summary, result.label) == ("text 3", "summary 3", "letter")
        assert (result.caption, result.fields, result.answer) == (None, None, None)
        assert result.page == PageInfo("3.png", 3, 5, page(3).image.sha256, page(3).image.provenance.format, (84, 28))
        assert list(result.steps) == ["ocr", "summarize", "classify"]
        assert all(step.finish == "stop" and step.usage.image == 3 for step in result.steps.values())
        assert all(step.timings.total > 0 for step in result.steps.values())
        assert result.warnings == ()
        assert result.model == "scripted"

    async def test_the_first_step_ends_before_the_others_start_together(self) -> None:
        engine = ScriptedEngine(answer, latency=0.001)
        await document_workflow(LABELS).arun(Glm4v.from_engine(engine), page(1))
        assert step_of(engine.history[0]) == "ocr"
        assert engine.most_at_once == 2

    async def test_incomplete_text_is_a_warning(self) -> None:
        def endless(request: Request) -> str:
            return "word " * 1_000 if step_of(request) == "ocr" else answer(request)

        model = Glm4v.from_engine(ScriptedEngine(endless, context=600))
        result = await document_workflow(LABELS).arun(model, page(1))
        assert result.warnings == ("ocr:length",)
        assert result.steps["ocr"].finish == "length"

    def test_without_labels_pages_are_not_classified(self) -> None:
        assert list(document_workflow().steps) == ["text", "summary"]

    def test_the_family_may_replace_the_prompt(self) -> None:
        family = next(family for family in FAMILIES if family.ocr_prompt)
        assert document_workflow(LABELS, family=family).steps["text"].prompt == "Text Recognition:"


class TestManyPages:
    async def test_order_is_kept_though_later_pages_finish_first(self) -> None:
        def slow_first(request: Request) -> list[str]:
            return [""] * (40 if shown(request) == 1 else 1) + [answer(request)]

        engine = ScriptedEngine(slow_first, latency=0.001)
        outcomes = await collect(document_workflow(LABELS), Glm4v.from_engine(engine), map(page, range(1, 9)))
        assert [outcome.text for outcome in outcomes] == [f"text {number}" for number in range(1, 9)]
        finished = [shown(request) for request in engine.history if step_of(request) == "classify"]
        assert finished[0] != 1

    async def test_one_bad_page_costs_only_itself(self) -> None:
        def failing(request: Request) -> str | Exception:
            return OutOfMemoryError("too big") if shown(request) == 2 else answer(request)

        unread = PageFailure(PageInfo("gone.png"), Failure("image_not_found", "gone", "look"))
        pages = iter([page(1), page(2), unread, page(3)])
        outcomes = await collect(document_workflow(LABELS), Glm4v.from_engine(ScriptedEngine(failing)), pages)
        assert [type(outcome) for outcome in outcomes] == [DocumentResult, PageFailure, PageFailure, DocumentResult]
        assert outcomes[1].error == Failure("out_of_memory", "too big", OutOfMemoryError.hint)
        assert outcomes[1].page.source == "2.png"
        assert outcomes[2] is unread

    @pytest.mark.parametrize("broken", ["summarize", "classify"])
    async def test_a_failed_step_keeps_the_results_of_the_others(self, broken: str) -> None:
        def failing(request: Request) -> str | list[str | Exception]:
            step = step_of(request)
            return [OutOfMemoryError("full")] if step == broken else [""] * 20 * (step != "ocr") + [answer(request)]

        model = Glm4v.from_engine(ScriptedEngine(failing))
        (outcome,) = await collect(document_workflow(LABELS), model, iter([page(1)]))
        assert outcome.error == Failure("out_of_memory", "full", OutOfMemoryError.hint)
        found = {"ocr": "text 1", "summarize": "summary 1", "classify": "letter"} | {broken: None}
        assert (outcome.partial.text, outcome.partial.summary, outcome.partial.label) == tuple(found.values())
        assert list(outcome.partial.steps) == [step for step, value in found.items() if value]
        assert outcome.partial.page == outcome.page
        with pytest.raises(OutOfMemoryError):
            await document_workflow(LABELS).arun(model, page(1))

    async def test_after_a_failed_first_step_a_page_is_not_asked_further(self) -> None:
        engine = ScriptedEngine([OutOfMemoryError("full")])
        (outcome,) = await collect(document_workflow(LABELS), Glm4v.from_engine(engine), iter([page(1)]))
        assert (outcome.error.code, outcome.partial, len(engine.history)) == ("out_of_memory", None, 1)

    async def test_steps_that_run_when_the_engine_dies_are_stopped(self) -> None:
        def dying(request: Request) -> str | list[str] | Exception:
            plays = {"ocr": "text", "summarize": ["slow"] * 10_000, "classify": EngineDeadError("worker gone")}
            return plays[step_of(request)]

        engine = ScriptedEngine(dying, latency=0.001)
        with pytest.raises(EngineDeadError):
            await document_workflow(LABELS).atry(Glm4v.from_engine(engine), page(1))
        for _ in range(200):
            if engine.cancelled:
                break
            await asyncio.sleep(0.01)
        assert [step_of(request) for request in engine.cancelled] == ["summarize"]

    async def test_a_dead_engine_ends_the_run(self) -> None:
        def dying(request: Request) -> str | Exception:
            return EngineDeadError("worker gone") if shown(request) == 2 else answer(request)

        with pytest.raises(EngineDeadError):
            await collect(document_workflow(LABELS), Glm4v.from_engine(ScriptedEngine(dying)), map(page, range(1, 5)))

    def test_without_an_event_loop(self) -> None:
        with Glm4v.from_engine(ScriptedEngine(answer)) as model:
            outcomes = list(document_workflow(LABELS).stream(model, map(page, range(1, 4))))
        assert [outcome.label for outcome in outcomes if isinstance(outcome, DocumentResult)] == [
            "letter",
            "invoice",
            "letter",
        ]

    async def test_finished_pages_are_not_kept_in_memory(self) -> None:
        alive = most = 0

        class Counted:
            def __init__(self) -> None:
                nonlocal alive, most
                alive += 1
                most = max(most, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        async def work(item: Counted) -> int:
            await asyncio.sleep(0)
            return 1

        assert sum([result async for result in in_order((Counted() for _ in range(500)), work, 4)]) == 500
        assert most <= 4 + FINISHED_AHEAD


class TestInOrder:
    async def test_items_are_taken_only_when_there_is_room(self) -> None:
        drawn = 0

        def items() -> Iterator[int]:
            nonlocal drawn
            for number in range(1000):
                drawn += 1
                yield number

        gate = asyncio.Event()

        async def work(number: int) -> int:
            if number == 0:
                await gate.wait()
            return number

        results = in_order(items(), work, 2)
        first = asyncio.create_task(anext(results))
        for _ in range(300):
            await asyncio.sleep(0.001)
        assert drawn <= 2 * FINISHED_AHEAD + 1
        gate.set()
        assert await first == 0
        assert [number async for number in results] == list(range(1, 1000))

    async def test_a_few_items_are_prefetched_and_concurrency_is_bounded(self) -> None:
        drawn = active = most = 0
        gate = asyncio.Event()

        def items() -> Iterator[int]:
            nonlocal drawn
            for number in range(1, 31):
                drawn += 1
                yield number

        async def work(number: int) -> int:
            nonlocal active, most
            active += 1
            most = max(most, active)
            await gate.wait()
            active -= 1
            return number

        first = asyncio.create_task(anext(results := in_order(items(), work, 8)))
        while drawn < 10:
            await asyncio.sleep(0.001)
        for _ in range(100):  # gives an implementation that takes too many the chance to do so
            await asyncio.sleep(0)
        assert (drawn, most) == (10, 8)
        gate.set()
        assert [await first, *[number async for number in results]] == list(range(1, 31))
        assert most == 8

    async def test_a_concurrency_of_zero_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="concurrency must be at least 1, not 0"):
            await anext(in_order([1], asyncio.sleep, 0))

    async def test_items_are_taken_outside_the_event_loop(self) -> None:
        threads = set()

        def items() -> Iterator[int]:
            threads.add(threading.current_thread())
            yield 1

        async def work(number: int) -> int:
            return number

        assert [number async for number in in_order(items(), work)] == [1]
        assert threading.current_thread() not in threads

    async def test_errors_of_the_items_arrive_after_the_results_before_them(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise OSError("disk gone")

        async def work(number: int) -> int:
            return number

        results = in_order(items(), work)
        assert await anext(results) == 1
        with pytest.raises(OSError, match="disk gone"):
            await anext(results)

    async def test_closing_early_cancels_running_items(self) -> None:
        cancelled = []

        async def work(number: int) -> int:
            try:
                await asyncio.sleep(0 if number == 0 else 60)
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
            return number

        results = in_order(range(10), work, 3)
        assert await anext(results) == 0
        await asyncio.sleep(0.05)
        await results.aclose()
        assert len(cancelled) >= 2
