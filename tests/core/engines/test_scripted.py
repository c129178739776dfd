"""The scripted engine keeps the promises of its documentation, on which other tests rely."""

from __future__ import annotations

import asyncio
from typing import Any

import PIL.Image
import pytest

from glm4v_core.dialect.families import FAMILIES
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import (
    ContextOverflowError,
    EngineClosedError,
    EngineError,
    OutOfMemoryError,
    UnknownOptionError,
)
from glm4v_core.media.image import Image
from glm4v_core.types import Message, Piece, Request, Sampling, Text, ToolResult


def request(text: str = "Hi there!", **sampling: Any) -> Request:
    return Request((Message.user(text),), sampling=Sampling(**sampling))


async def play(engine: ScriptedEngine, asked: Request) -> tuple[list[str], Piece]:
    pieces = [piece async for piece in engine.stream(asked)]
    return [piece.text for piece in pieces[:-1]], pieces[-1]


async def test_text_comes_token_by_token() -> None:
    engine = ScriptedEngine(["<think>So.</think>\nIt is 5 €"])
    texts, last = await play(engine, request())
    assert texts == ["<think>", "So", ".", "</think>", "\nIt", " is", " 5", " €"]
    assert last.finish == "stop"
    assert last.usage is not None
    assert (last.usage.prompt, last.usage.completion) == (3, 8)
    assert last.timings is not None
    assert last.timings.total >= last.timings.first_token >= 0


async def test_answers_may_be_chunks_pieces_errors_or_functions() -> None:
    engine = ScriptedEngine(
        [
            ["one two", Piece(" three", 7, finish="repetition"), "never"],
            ["a", OutOfMemoryError("full")],
            EngineError("no"),
            lambda asked: str(len(asked.messages)),
        ]
    )
    texts, last = await play(engine, request())
    assert (texts, last.finish) == (["one two", " three"], "repetition")
    assert last.usage is not None
    assert last.usage.completion == 9
    stream = engine.stream(request())
    assert (await anext(stream)).text == "a"
    with pytest.raises(OutOfMemoryError):
        await anext(stream)
    with pytest.raises(EngineError, match="no"):
        await play(engine, request())
    assert (await play(engine, request()))[0] == ["1"]
    with pytest.raises(EngineError, match="no answer for request 5"):
        await play(engine, request())
    assert engine.cancelled == []
    assert len(engine.history) == 5


async def test_one_function_answers_everything() -> None:
    engine = ScriptedEngine(lambda asked: "yes")
    assert [(await play(engine, request()))[0] for _ in range(2)] == [["yes"], ["yes"]]


async def test_max_tokens_and_stop_strings_hold() -> None:
    engine = ScriptedEngine(lambda asked: "one two three")
    texts, last = await play(engine, request(max_tokens=2))
    assert ("".join(texts), last.finish) == ("one two", "length")
    texts, last = await play(engine, request(stop=("o thr",)))
    assert ("".join(texts) + last.text, last.finish) == ("one tw", "stop")
    texts, last = await play(engine, request(stop=("eX",)))
    assert "".join(texts) + last.text == "one two three"


async def test_prompts_are_counted_with_their_images() -> None:
    page = Image.load(PIL.Image.new("RGB", (57, 28)))
    engine = ScriptedEngine(["x"], context=12)
    shown = ToolResult("1", (Text("two words"), page))
    asked = Request((Message.user(page, "one"), Message("tool", (shown,))))
    count = await engine.count_tokens(asked)
    assert (count.prompt, count.image) == (9, 6)
    assert engine.info.context == 12
    with pytest.raises(ContextOverflowError, match="9 of 12"):
        await play(engine, Request(asked.messages, sampling=Sampling(max_tokens=4)))


async def test_concurrent_and_aborted_requests_are_recorded() -> None:
    engine = ScriptedEngine(lambda asked: "a b c", latency=0.001)
    await asyncio.gather(*(play(engine, request()) for _ in range(3)))
    assert engine.most_at_once == 3
    stream = engine.stream(request("left"))
    await anext(stream)
    await stream.aclose()
    task = asyncio.create_task(play(engine, request("cancelled")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert [asked.messages[0].parts for asked in engine.cancelled] == [(Text("left"),), (Text("cancelled"),)]


async def test_leaving_after_the_last_piece_is_not_a_cancellation() -> None:
    engine = ScriptedEngine(["a"])
    stream = engine.stream(request())
    while (await anext(stream)).finish is None:
        pass
    await stream.aclose()
    assert engine.cancelled == []


async def test_a_closed_engine_serves_no_requests() -> None:
    engine = ScriptedEngine(["x"])
    await engine.close()
    await engine.close()
    assert engine.closed
    with pytest.raises(EngineClosedError):
        await play(engine, request())
    with pytest.raises(EngineClosedError):
        await engine.count_tokens(request())


def test_the_family_goes_by_name_or_value() -> None:
    assert ScriptedEngine(family="GLM-OCR").info.family.name == "GLM-OCR"
    assert ScriptedEngine(family=FAMILIES[0]).info.context == FAMILIES[0].context
    with pytest.raises(UnknownOptionError, match="GLM-9V"):
        ScriptedEngine(family="GLM-9V")
