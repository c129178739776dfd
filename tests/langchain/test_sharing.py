"""One model for many callers: copies, threads, tasks, batches and cancellations."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField

from glm4v_core import Glm4v, Request, ScriptedEngine, errors
from glm4v_core.errors import ConfigError, EngineClosedError
from glm4v_core.types import Piece
from langchain_glm4v import ChatGLM4V
from tests.support.langchain_calls import Make


def test_equal_chat_models_and_their_copies_share_one_model() -> None:
    first, second = (make_shared("one", "two", "three", "four") for _ in range(2))
    other = make_shared("elsewhere")
    assert [first.invoke("x").text, second.invoke("x").text, other.invoke("x").text] == ["one", "two", "elsewhere"]
    warm = first.configurable_fields(temperature=ConfigurableField(id="temperature"))
    assert warm.with_config(configurable={"temperature": 0.9}).invoke("x").text == "three"
    assert first.bind(seed=1).invoke("x").text == "four"
    assert first.load() is second.load() is not other.load()
    first.close()
    assert second.invoke("x").text == "one"  # loaded again
    second.close()
    second.close()
    other.close()


def make_shared(*answers: str) -> ChatGLM4V:
    return ChatGLM4V(engine="scripted", engine_options={"answers": list(answers)})


async def test_two_threads_that_load_at_once_get_one_model() -> None:
    llm = make_shared("loaded at once")
    models = await asyncio.gather(*(asyncio.to_thread(llm.load) for _ in range(8)))
    assert len({id(model) for model in models}) == 1
    llm.close()


def test_close_leaves_a_model_that_was_passed_in_to_its_owner() -> None:
    loaded = Glm4v.from_engine(ScriptedEngine(["still here"]))
    llm = ChatGLM4V(glm4v=loaded)
    llm.close()
    assert llm.invoke("x").text == "still here"
    loaded.close()
    with pytest.raises(EngineClosedError):
        llm.invoke("x")


def test_a_copy_from_another_process_loads_nothing_unasked(tmp_path: Path) -> None:
    file = tmp_path / "llm.pickle"
    code = """
import pickle, sys
from pathlib import Path
from langchain_glm4v import ChatGLM4V
llm = ChatGLM4V(engine="scripted", engine_options={"answers": ["here"]})
Path(sys.argv[1]).write_bytes(pickle.dumps(llm))
"""
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    llm: ChatGLM4V = pickle.loads(file.read_bytes())
    with pytest.raises(ConfigError, match="another process"):
        llm.invoke("x")
    llm.load()
    assert llm.invoke("x").text == "here"
    llm.close()


def echo(request: Request) -> str:
    return f"{request.messages[0].parts[0].text}!"  # type: ignore[union-attr]


class MeetingEngine(ScriptedEngine):
    """Answers only once all expected requests have arrived."""

    def __init__(self, expected: int) -> None:
        super().__init__(echo)
        self._expected = expected
        self._complete = asyncio.Event()

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        self._expected -= 1
        if not self._expected:
            self._complete.set()
        async with asyncio.timeout(30):
            await self._complete.wait()
        async for piece in super().stream(request):
            yield piece


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_a_batch_reaches_the_engine_at_once_and_keeps_its_order(way: str) -> None:
    llm = ChatGLM4V(glm4v=Glm4v.from_engine(MeetingEngine(32)))
    questions = [f"q{number}" for number in range(32)]
    answers = await (llm.abatch(questions) if way == "abatch" else asyncio.to_thread(llm.batch, questions))
    assert [answer.text for answer in answers] == [f"{question}!" for question in questions]


def test_an_empty_batch_gives_no_answers(scripted: Make) -> None:
    llm, _ = scripted()
    assert llm.batch([]) == []


def test_max_concurrency_bounds_a_batch(scripted: Make) -> None:
    llm, engine = scripted(echo, latency=0.02)
    llm.batch(["a", "b", "c", "d"], {"max_concurrency": 2})
    assert engine.most_at_once == 2


def test_one_bad_input_of_a_batch_fails_alone(scripted: Make) -> None:
    llm, _ = scripted(echo)
    bad = [HumanMessage([{"type": "hologram"}])]
    first, second, third = llm.batch(["a", bad, "c"], return_exceptions=True)
    assert (first.text, third.text) == ("a!", "c!")
    assert isinstance(second, errors.MessageError)


async def test_closing_a_stream_aborts_the_request_in_the_engine(scripted: Make) -> None:
    llm, engine = scripted(*["one two three four five"] * 3, latency=0.05)
    async with aclosing(cast("AsyncGenerator[Any]", llm.astream("x"))) as chunks:
        await anext(chunks)
    with closing(cast("Generator[Any]", llm.stream("x"))) as stream:
        await asyncio.to_thread(next, stream)
    task = asyncio.create_task(llm.ainvoke("x"))
    while len(engine.history) < 3:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while len(engine.cancelled) < 3:
        await asyncio.sleep(0.01)


async def test_a_blocking_call_works_inside_a_running_loop(scripted: Make) -> None:
    llm, _ = scripted("from a notebook")
    assert llm.invoke("x").text == "from a notebook"


async def test_threads_and_tasks_together_get_their_own_answers(scripted: Make) -> None:
    llm, _ = scripted(echo, latency=0.01)
    tasks = [llm.ainvoke(f"task {number}") for number in range(8)]
    threads = [asyncio.to_thread(llm.invoke, f"thread {number}") for number in range(8)]
    answers = await asyncio.gather(*tasks, *threads)
    expected = [f"task {number}!" for number in range(8)] + [f"thread {number}!" for number in range(8)]
    assert [answer.text for answer in answers] == expected
