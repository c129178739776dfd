"""Threads, event loops and processes: one engine loop serves them all and never waits for itself."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from glm4v_core.concurrency.bridge import run_sync
from glm4v_core.concurrency.loop import engine_loop
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import EngineDeadError, UnsupportedError
from glm4v_core.model import Glm4v
from glm4v_core.types import Message, Request

ASKED = Request((Message.user("Hi"),))


def endless() -> ScriptedEngine:
    return ScriptedEngine(lambda request: ["word "] * 100_000, latency=0.001)


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_threads_and_loops_share_one_model() -> None:
    engine = ScriptedEngine(lambda request: "a b c", latency=0.002)
    model = Glm4v.from_engine(engine)

    def in_a_loop_of_its_own(_: int) -> str:
        return asyncio.run(model.agenerate(ASKED)).text

    def in_a_thread(_: int) -> str:
        return "".join(delta.text for delta in model.stream(ASKED))

    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(in_a_loop_of_its_own, range(4)), *threads.map(in_a_thread, range(4))]
    assert answers == ["a b c"] * 8
    assert engine.most_at_once > 1


async def test_two_streams_in_one_loop_do_not_mix() -> None:
    model = Glm4v.from_engine(ScriptedEngine(["a " * 20, "b " * 20], latency=0.001))

    async def read() -> str:
        return "".join([delta.text async for delta in model.astream(ASKED)])

    assert sorted(await asyncio.gather(read(), read())) == [("a " * 20).strip(), ("b " * 20).strip()]


async def test_a_sync_call_works_where_a_loop_is_running() -> None:
    assert Glm4v.from_engine(ScriptedEngine(["as in a notebook"])).generate(ASKED).text == "as in a notebook"


def test_a_model_loads_even_while_every_thread_of_the_loop_waits_for_it() -> None:
    def load(_: int) -> None:
        Glm4v.load("crowded", "scripted", answers=["fine"]).close()

    async def crowd() -> None:
        await asyncio.gather(*(asyncio.to_thread(load, number) for number in range(64)))

    run_sync(crowd())


def test_on_the_engine_loop_async_calls_work_and_blocking_ones_are_refused() -> None:
    model = Glm4v.from_engine(ScriptedEngine(lambda request: "fine"))

    async def on_the_engine_loop() -> list[str]:
        assert asyncio.get_running_loop() is engine_loop()
        with pytest.raises(UnsupportedError, match="engine loop"):
            model.generate(ASKED)
        with pytest.raises(UnsupportedError, match="engine loop"):
            next(model.stream(ASKED))
        streamed = "".join([delta.text async for delta in model.astream(ASKED)])
        return [streamed, (await model.agenerate(ASKED)).text]

    assert run_sync(on_the_engine_loop()) == ["fine", "fine"]


def test_context_variables_of_the_caller_reach_the_engine() -> None:
    trace = contextvars.ContextVar("trace", default="none")
    model = Glm4v.from_engine(ScriptedEngine(lambda request: trace.get()))
    trace.set("mine")
    assert model.generate(ASKED).text == "mine"
    assert "".join(delta.text for delta in model.stream(ASKED)) == "mine"


def test_an_abandoned_stream_is_aborted() -> None:
    engine = endless()
    stream = Glm4v.from_engine(engine).stream(ASKED)
    next(stream)
    del stream
    gc.collect()
    wait_until(lambda: engine.cancelled)


def test_a_stream_abandoned_to_the_engine_loop_does_not_block_it() -> None:
    engine = endless()
    held = [Glm4v.from_engine(engine).stream(ASKED)]
    next(held[0])

    async def collect_garbage() -> None:
        held.clear()

    run_sync(collect_garbage())
    wait_until(lambda: engine.cancelled)


def test_a_stream_ends_with_its_event_loop() -> None:
    engine = endless()

    async def read_one() -> None:
        stream = Glm4v.from_engine(engine).astream(ASKED)
        await anext(stream)

    asyncio.run(read_one())
    wait_until(lambda: engine.cancelled)


# Python itself warns about a generator whose loop was closed first.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_closed_event_loop_does_not_harm_the_engine() -> None:
    engine = ScriptedEngine([["a"] * 20, "b"], latency=0.002)
    model, loop = Glm4v.from_engine(engine), asyncio.new_event_loop()
    stream = model.astream(ASKED)
    loop.run_until_complete(anext(stream))
    loop.close()
    wait_until(lambda: not engine.active)
    assert model.generate(ASKED).text == "b"


def test_a_request_cancelled_by_the_engine_loop_does_not_end_silently() -> None:
    def cancel_everything(request: Request) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "never"

    with pytest.raises(EngineDeadError):
        list(Glm4v.from_engine(ScriptedEngine(cancel_everything)).stream(ASKED))


def run_script(script: str) -> str:
    preamble = (
        "import os, threading\n"
        "from glm4v_core.engines.scripted import ScriptedEngine\n"
        "from glm4v_core.model import Glm4v\n"
        "from glm4v_core.types import Message, Request\n"
        "asked = Request((Message.user('Hi'),))\n"
        "model = Glm4v.from_engine(ScriptedEngine(lambda request: 'a b', latency=0.01))\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", preamble + script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_process_can_exit_in_the_middle_of_an_answer() -> None:
    assert run_script("stream = model.stream(asked)\nprint(next(stream).text)") == "a\n"


def test_a_process_can_exit_while_iterating_in_its_own_loop() -> None:
    script = (
        "from glm4v_core.concurrency.own_loop import iterate_in_own_loop\n"
        "stream = iterate_in_own_loop(model.astream(asked))\n"
        "print(next(stream).text)"
    )
    assert run_script(script) == "a\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_gets_its_own_engine_loop() -> None:
    script = (
        "print(model.generate(asked).text, flush=True)\n"
        "child = os.fork()\n"
        "print(model.generate(asked).text + '\\n', end='', flush=True)\n"  # one write: two processes print
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert run_script(script) == "a b\n" * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_loads_its_own_copy_of_its_parents_model() -> None:
    script = (
        "from glm4v_core.hosts import ModelSettings\n"
        "from glm4v_core.errors import EngineClosedError\n"
        "settings = ModelSettings(engine='scripted', engine_options={'answers': ['mine', 'mine too']})\n"
        "parents = settings.load()\n"
        "assert parents.generate(asked).text == 'mine'\n"
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert settings.loaded() is parents\n"
        "    print(parents.generate(asked).text)\n"
        "else:\n"
        "    try:\n"
        "        parents.generate(asked)\n"
        "    except EngineClosedError as error:\n"
        "        print(error, flush=True)\n"
        "    parents.close()\n"
        "    print(settings.loaded().generate(asked).text, flush=True)\n"
    )
    told, of_the_child, of_the_parent = run_script(script).splitlines()
    assert "before the process was forked. Hint: Load it again" in told
    assert (of_the_child, of_the_parent) == ("mine", "mine too")
