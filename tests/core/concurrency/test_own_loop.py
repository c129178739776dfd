"""Blocking calls run the caller's code in an event loop of their own, never on the engine loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from glm4v_core import (
    Glm4v,
    IngestOptions,
    Message,
    PageStore,
    Request,
    ScriptedEngine,
    Workflow,
    ingest,
    query_pages,
    tasks,
)
from glm4v_core.concurrency.own_loop import iterate_in_own_loop, run_in_own_loop
from glm4v_core.hosts import open_pages, read_texts
from glm4v_core.store import aingest, aquery_pages
from glm4v_core.tasks import Step
from tests.support.letters import TEXTS, read, save_pages
from tests.support.threads import ENGINES, Threads

ASKED = Request((Message.user("Read this."),))
TRACE = contextvars.ContextVar("trace", default="none")


@dataclass
class Caller:
    """A program with pages, a store and a model; every callback records its thread and makes a blocking call."""

    threads: Threads
    folder: Path
    store: PageStore
    model: Glm4v
    traces: set[str]

    def note(self, what: str) -> None:
        self.threads.note(what)
        self.traces.add(TRACE.get())
        assert self.model.generate(ASKED).text == "fine"

    def on_page(self, page: object) -> None:
        self.note("callback")

    def workflow(self) -> Workflow:
        def value(completion: Any) -> str:
            self.note("reader")
            return str(completion.text)

        return Workflow({"answer": Step("ask", "How wide is it?", value)})

    def pages(self) -> Iterator[Any]:
        for path in sorted(self.folder.iterdir()):
            self.note("pages")
            yield from open_pages(path, path.name, {})

    def texts(self) -> AsyncGenerator[Any, None]:
        async def read_page(page: Any) -> tuple[str, dict[str, Any]]:
            self.note("reader")
            value, _ = await tasks.ocr().arun(self.model, page.image)
            return value, {}

        return read_texts(((None, page) for page in self.pages()), read_page, errors="raise", concurrency=2)


def answer(request: Request) -> str:
    return "fine" if request.messages == ASKED.messages else read(request)


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    threads = Threads()
    threads.watch(monkeypatch)
    save_pages(tmp_path / "scans")
    with PageStore(tmp_path / "pages.sqlite") as store:
        model = Glm4v.from_engine(ScriptedEngine(answer))
        yield Caller(threads, tmp_path / "scans", store, model, set())


def wait_until(happened: Callable[[], object]) -> None:
    """Give other threads time; fail when nothing happens for seconds."""
    pause = threading.Event()
    for _ in range(1000):
        if happened():
            return
        pause.wait(0.01)
    raise AssertionError


async def collect(items: AsyncGenerator[Any, None]) -> list[Any]:
    return [item async for item in items]


BLOCKING: dict[str, Callable[[Caller], object]] = {
    "ingest": lambda caller: ingest(caller.store, caller.model, caller.folder, IngestOptions(), caller.on_page),
    "query": lambda caller: query_pages(caller.store, caller.model, "Which city?"),
    "workflow": lambda caller: list(caller.workflow().stream(caller.model, caller.pages())),
    "texts": lambda caller: list(iterate_in_own_loop(caller.texts())),
    "all texts": lambda caller: run_in_own_loop(collect(caller.texts())),
}
ASYNC: dict[str, Callable[[Caller], Awaitable[object]]] = {
    "ingest": lambda caller: aingest(caller.store, caller.model, caller.folder, IngestOptions(), caller.on_page),
    "query": lambda caller: aquery_pages(caller.store, caller.model, "Which city?"),
    "workflow": lambda caller: collect(caller.workflow().astream(caller.model, caller.pages())),
    "texts": lambda caller: collect(caller.texts()),
}
RUNS = {
    "ingest": ["callback", "SQLite", "decoding"],
    "query": ["SQLite"],
    "workflow": ["reader", "pages", "decoding"],
    "texts": ["reader", "pages", "decoding"],
    "all texts": ["reader", "pages", "decoding"],
}


async def in_a_loop(call: Callable[[Caller], object], caller: Caller) -> None:
    call(caller)  # blocking, as in a notebook


class TestNothingOfTheCallersRunsOnTheEngineLoop:
    def check(self, caller: Caller, entry: str) -> None:
        caller.threads.check(*RUNS[entry])
        assert caller.traces <= {"mine"}

    @pytest.mark.parametrize("entry", BLOCKING)
    def test_in_blocking_calls(self, caller: Caller, entry: str) -> None:
        contextvars.copy_context().run(self.call, BLOCKING[entry], caller)
        self.check(caller, entry)
        assert caller.threads.of["callback"] <= {threading.current_thread().name}

    @pytest.mark.parametrize("entry", BLOCKING)
    def test_in_blocking_calls_while_a_loop_is_running(self, caller: Caller, entry: str) -> None:
        contextvars.copy_context().run(
            self.call, lambda caller: asyncio.run(in_a_loop(BLOCKING[entry], caller)), caller
        )
        self.check(caller, entry)

    @pytest.mark.parametrize("entry", ASYNC)
    def test_in_async_calls(self, caller: Caller, entry: str) -> None:
        contextvars.copy_context().run(
            self.call, lambda caller: asyncio.run(self.awaited(ASYNC[entry], caller)), caller
        )
        self.check(caller, entry)

    @staticmethod
    def call(call: Callable[[Caller], object], caller: Caller) -> None:
        TRACE.set("mine")
        call(caller)

    @staticmethod
    async def awaited(call: Callable[[Caller], Awaitable[object]], caller: Caller) -> None:
        await call(caller)

    async def test_in_a_workflow_on_a_single_page(self, caller: Caller) -> None:
        page = next(page for page in caller.pages())
        await caller.workflow().arun(caller.model, page)
        caller.threads.check("reader")

    def test_when_deleted_files_are_removed_from_the_store(self, caller: Caller) -> None:
        ingest(caller.store, caller.model, caller.folder)
        (caller.folder / "1.png").unlink()
        assert len(ingest(caller.store, caller.model, caller.folder).forgotten) == 1
        caller.threads.check("SQLite")


def test_a_slow_callback_does_not_hold_up_another_stream(caller: Caller) -> None:
    tokens = threading.Semaphore(0)
    more = Glm4v.from_engine(ScriptedEngine(lambda request: "word " * 10_000, latency=0.0001))
    stream = more.stream(ASKED)

    def read_on() -> None:
        for _ in range(60):
            next(stream)
            tokens.release()

    def slow(page: object) -> None:
        for _ in range(20):
            assert tokens.acquire(timeout=10)

    other = threading.Thread(target=read_on)
    other.start()
    try:
        assert ingest(caller.store, caller.model, caller.folder, IngestOptions(), slow).read == 3
    finally:
        other.join()
        stream.close()


class TestIterating:
    def test_items_are_produced_only_on_demand(self) -> None:
        made: list[int] = []
        closed: list[str] = []

        async def numbers() -> AsyncGenerator[int, None]:
            try:
                for number in range(5):
                    made.append(number)
                    yield number
            finally:
                closed.append(threading.current_thread().name)

        items = iterate_in_own_loop(numbers())
        assert made == []
        for number in range(3):
            assert next(items) == number
            for _ in range(10):
                run_in_own_loop(asyncio.sleep(0))
            assert made == list(range(number + 1))
        items.close()
        assert made == [0, 1, 2]
        assert len(closed) == 1
        assert closed[0] != ENGINES
        assert list(iterate_in_own_loop(numbers())) == [0, 1, 2, 3, 4]

    def test_errors_reach_the_caller(self) -> None:
        async def failing() -> AsyncGenerator[int, None]:
            yield 1
            raise OSError("disk gone")

        items = iterate_in_own_loop(failing())
        assert next(items) == 1
        with pytest.raises(OSError, match="disk gone"):
            next(items)

    def test_running_work_continues_while_the_caller_handles_an_item(self) -> None:
        went_on = threading.Event()

        async def items() -> AsyncGenerator[int, None]:
            begun = asyncio.create_task(go_on())
            yield 1
            await begun

        async def go_on() -> None:
            await asyncio.sleep(0.01)
            went_on.set()

        iterated = iterate_in_own_loop(items())
        next(iterated)
        assert went_on.wait(10)
        assert list(iterated) == []

    @pytest.mark.parametrize("end", ["close", "abandon"])
    def test_ending_early_aborts_running_work(self, caller: Caller, end: str) -> None:
        def reply(request: Request) -> Iterator[str]:
            first = len(engine.history) == 1
            for _ in range(100_000):
                if first and engine.most_at_once == 2:
                    break
                yield "word "

        engine = ScriptedEngine(reply, latency=0.0001)
        workflow = Workflow({"answer": tasks.ask("How wide?")})
        outcomes = workflow.stream(Glm4v.from_engine(engine), caller.pages(), concurrency=2)
        next(outcomes)
        if end == "close":
            outcomes.close()
        del outcomes
        gc.collect()
        wait_until(lambda: engine.cancelled and not engine.active)

    def test_no_thread_is_left_behind(self, caller: Caller) -> None:
        list(caller.workflow().stream(caller.model, caller.pages()))
        wait_until(lambda: not any(thread.name == "glm4v-call" for thread in threading.enumerate()))


class TestInterrupts:
    def interrupted(self, caller: Caller) -> None:
        engine = ScriptedEngine(lambda request: ["word "] * 100_000, latency=0.0001)

        async def interrupt() -> None:
            asking = asyncio.create_task(Glm4v.from_engine(engine).agenerate(ASKED))
            while not engine.active:
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            await asking

        with pytest.raises(KeyboardInterrupt):
            run_in_own_loop(interrupt())
        wait_until(lambda: engine.cancelled)

    def test_cancel_running_work(self, caller: Caller) -> None:
        self.interrupted(caller)

    def test_cancel_running_work_while_a_loop_is_running(self, caller: Caller) -> None:
        async def notebook() -> None:
            self.interrupted(caller)

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(notebook())
        finally:
            loop.close()


def test_the_callers_event_loop_setting_is_left_alone() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        run_in_own_loop(asyncio.sleep(0))
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_every_page_is_read(caller: Caller) -> None:
    assert [text.text for text in iterate_in_own_loop(caller.texts())] == list(TEXTS.values())
