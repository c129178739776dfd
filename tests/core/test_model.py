"""Glm4v answers: one parsed stream behind every way to ask, and errors instead of wrong answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import PIL.Image
import pytest

from glm4v_core.defaults import Defaults
from glm4v_core.engines import EngineInfo, TokenCount
from glm4v_core.engines.scripted import Reply, ScriptedAnswer, ScriptedEngine
from glm4v_core.errors import (
    ContextOverflowError,
    EngineClosedError,
    EngineError,
    EngineTimeoutError,
    Glm4vError,
    InvalidOutputError,
    OutOfMemoryError,
    OutputError,
    TruncatedOutputError,
)
from glm4v_core.media.image import Image
from glm4v_core.model import Glm4v
from glm4v_core.types import (
    Box,
    Choices,
    Completion,
    Delta,
    JsonSchema,
    Message,
    Piece,
    Regex,
    Request,
    Sampling,
    Timings,
    TokenLogprob,
    Tool,
    Usage,
)

ASKED = Request((Message.user("Hi"),))
CALL = "<tool_call>{}\n<arg_key>n</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"
ADD = Tool("add", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})

Ask = Callable[[Glm4v, Request], list[Delta]]


def scripted(*answers: ScriptedAnswer | Reply, **settings: Any) -> Glm4v:
    return Glm4v.from_engine(ScriptedEngine(answers, **settings))


def by_stream(model: Glm4v, request: Request) -> list[Delta]:
    return list(model.stream(request))


def by_async_stream(model: Glm4v, request: Request) -> list[Delta]:
    async def collect() -> list[Delta]:
        return [delta async for delta in model.astream(request)]

    return asyncio.run(collect())


def by_generate(model: Glm4v, request: Request) -> list[Delta]:
    return [Delta(completion=model.generate(request))]


def by_async_generate(model: Glm4v, request: Request) -> list[Delta]:
    return [Delta(completion=asyncio.run(model.agenerate(request)))]


def by_many(model: Glm4v, request: Request) -> list[Delta]:
    return [Delta(completion=model.generate_many([request])[0])]


def by_async_many(model: Glm4v, request: Request) -> list[Delta]:
    return [Delta(completion=asyncio.run(model.agenerate_many([request]))[0])]


@pytest.fixture(params=[by_stream, by_async_stream, by_generate, by_async_generate, by_many, by_async_many])
def ask(request: pytest.FixtureRequest) -> Ask:
    way: Ask = request.param
    return way


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def completion(deltas: list[Delta]) -> Completion:
    last = deltas[-1].completion
    assert last is not None
    return last


def test_every_way_to_ask_gives_the_same_answer(ask: Ask) -> None:
    deltas = ask(scripted("<think>\nLet me see.</think>\nIt is <|begin_of_box|>42<|end_of_box|>."), ASKED)
    answer = completion(deltas)
    assert (answer.text, answer.thinking, answer.finish) == ("It is 42.", "Let me see.", "stop")
    assert (answer.model, answer.usage.prompt, answer.usage.completion) == ("scripted", 1, 12)
    assert answer.timings.total > 0
    if len(deltas) > 1:
        assert "".join(delta.text for delta in deltas) == answer.text
        assert "".join(delta.thinking for delta in deltas) == answer.thinking
        assert len(deltas) > 5
        assert [delta.completion for delta in deltas[:-1]] == [None] * (len(deltas) - 1)


def test_every_way_to_ask_raises_the_engines_error(ask: Ask) -> None:
    with pytest.raises(OutOfMemoryError, match="full"):
        ask(scripted(["Some", OutOfMemoryError("full")]), ASKED)


def test_thinking_tokens_are_those_before_the_answer() -> None:
    answer = scripted("<think>One two three.</think>\nFour five").generate(ASKED)
    assert (answer.usage.thinking, answer.usage.completion) == (5, 8)
    spoken = scripted("No thought.").generate(ASKED)
    assert spoken.usage.thinking == 0


def test_the_engines_own_count_of_thinking_tokens_wins() -> None:
    class Exact(ScriptedEngine):
        async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
            yield Piece("<think>a</think>b", 9, finish="stop", usage=Usage(5, 0, 9, 4), timings=Timings(1, 2, 3))

    answer = Glm4v.from_engine(Exact()).generate(ASKED)
    assert (answer.usage, answer.timings) == (Usage(5, 0, 9, 4), Timings(1, 2, 3))


def test_tokens_are_counted_here_when_the_engine_reports_no_usage() -> None:
    class Silent(ScriptedEngine):
        async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
            yield Piece("<think>a</think>", 3)
            yield Piece("b", 1, finish="stop")

    assert Glm4v.from_engine(Silent()).generate(ASKED).usage == Usage(0, 0, 4, 3)


def test_an_engine_that_never_finishes_is_an_error() -> None:
    class Broken(ScriptedEngine):
        async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
            yield Piece("half")

    with pytest.raises(EngineError, match="without a finish"):
        Glm4v.from_engine(Broken()).generate(ASKED)


def test_text_is_reclassified_as_reasoning_when_only_its_closing_tag_appears() -> None:
    model = scripted("I wonder.</think>\nYes", family="GLM-4.6V")
    deltas = list(model.stream(Request(ASKED.messages, thinking=True)))
    answer = completion(deltas)
    assert (answer.text, answer.thinking, answer.usage.thinking) == ("Yes", "I wonder.", 4)
    assert [delta.retracted for delta in deltas].count(True) == 1


def test_with_thinking_off_text_is_the_answer_from_the_start() -> None:
    model = scripted("I wonder.</think>\nYes")
    answer = model.generate(Request(ASKED.messages, thinking=False))
    assert (answer.text, answer.thinking) == ("I wonder.\nYes", "")


@pytest.mark.parametrize(
    ("text", "finish"), [("<think>One two three four", "length_in_thinking"), ("One two three four", "length")]
)
def test_a_truncated_answer_says_where_it_was_cut(text: str, finish: str) -> None:
    answer = scripted(text).generate(Request(ASKED.messages, sampling=Sampling(max_tokens=3)))
    assert answer.finish == finish


def test_repetition_is_reported() -> None:
    assert scripted(["a a a", Piece("", finish="repetition")]).generate(ASKED).finish == "repetition"


def test_tool_calls_come_parsed_and_in_order(ask: Ask) -> None:
    model = scripted("Adding.\n" + CALL.format("add", 3) + "\n" + CALL.format("sub", "x"))
    deltas = ask(model, Request(ASKED.messages, tools=(ADD,)))
    answer = completion(deltas)
    assert answer.finish == "tool_calls"
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("add", {"n": 3}), ("sub", {"n": "x"})]
    assert answer.text == "Adding."
    if len(deltas) > 1:
        assert tuple(delta.tool_call for delta in deltas if delta.tool_call) == answer.tool_calls


def test_boxes_are_in_pixels_of_the_original_image() -> None:
    page = Image.load(PIL.Image.new("RGB", (200, 100)))
    model = scripted("It is at <|begin_of_box|>[[100, 200, 500, 1000]]<|end_of_box|>")
    answer = model.generate(Request((Message.user(page, "Where?"),)))
    assert answer.boxes == (Box(20, 20, 100, 100),)


def test_logprobs_reach_deltas_and_completion() -> None:
    chosen = TokenLogprob("a", -0.5, (("b", -1.0),))
    deltas = list(scripted([Piece("a", 1, (chosen,))]).stream(ASKED))
    assert [delta.logprobs for delta in deltas if delta.logprobs] == [(chosen,)]
    assert completion(deltas).logprobs == (chosen,)


class TestConstrainedAnswers:
    """A grammar may be missing or wrong; the answer is checked against the constraint in any case."""

    SCHEMA = JsonSchema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})

    @pytest.mark.parametrize(
        ("constraint", "text"), [(SCHEMA, '\n{"n": 1}'), (Choices(("a", "b")), "\nb"), (Regex("[0-9]+"), "12")]
    )
    def test_good_ones_pass(self, constraint: Any, text: str) -> None:
        answer = scripted(text).generate(Request(ASKED.messages, constraint=constraint))
        assert answer.text == text.strip()

    @pytest.mark.parametrize(
        ("constraint", "text"), [(SCHEMA, '{"n": "one"}'), (SCHEMA, "one"), (Choices(("a", "b")), "c")]
    )
    def test_wrong_ones_are_errors(self, ask: Ask, constraint: Any, text: str) -> None:
        with pytest.raises(InvalidOutputError):
            ask(scripted(text), Request(ASKED.messages, constraint=constraint))

    @pytest.mark.parametrize(
        ("constraint", "text"), [(SCHEMA, '{"n": 1}'), (Choices(("a b c",)), "a b c"), (Regex("[a-z ]+"), "a b c")]
    )
    def test_truncated_ones_have_their_own_error(self, constraint: Any, text: str) -> None:
        asked = Request(ASKED.messages, constraint=constraint, sampling=Sampling(max_tokens=2))
        with pytest.raises(TruncatedOutputError, match=r"length.*2 tokens"):
            scripted(text).generate(asked)

    def test_an_answer_that_ends_with_the_last_token_is_whole(self) -> None:
        asked = Request(ASKED.messages, constraint=Choices(("a b",)))
        assert scripted(["a b", Piece("", finish="length")]).generate(asked).text == "a b"

    def test_tool_calls_take_the_place_of_the_answer(self) -> None:
        asked = Request(ASKED.messages, constraint=self.SCHEMA, tools=(ADD,))
        assert scripted(CALL.format("add", 1)).generate(asked).finish == "tool_calls"
        with pytest.raises(InvalidOutputError):
            scripted("neither").generate(asked)

    @pytest.mark.parametrize("choice", ["required", "add"])
    def test_a_missing_required_call_is_an_error(self, choice: str) -> None:
        asked = Request(ASKED.messages, tools=(ADD,), tool_choice=choice)
        assert scripted(CALL.format("add", 1)).generate(asked).tool_calls
        with pytest.raises(InvalidOutputError, match="called no tool"):
            scripted("Hello").generate(asked)

    def test_a_cancelled_answer_is_not_judged(self) -> None:
        asked = Request(ASKED.messages, constraint=self.SCHEMA)
        assert scripted([Piece("{", finish="cancelled")]).generate(asked).finish == "cancelled"


class TestMany:
    """Many requests are many streams at once."""

    def test_results_are_in_input_order(self) -> None:
        engine = ScriptedEngine(lambda request: "x " * (9 - len(request.messages)), latency=0.001)
        requests = [Request(ASKED.messages * count) for count in range(1, 9)]
        answers = Glm4v.from_engine(engine).generate_many(requests)
        assert [len(answer.text.split()) for answer in answers] == list(range(8, 0, -1))
        assert engine.most_at_once == 8

    def test_errors_take_the_place_of_their_answer(self) -> None:
        model = scripted("a", OutOfMemoryError("full"), "c")
        answers = model.generate_many([ASKED, Request(()), ASKED, ASKED], return_errors=True)
        assert [answer.code if isinstance(answer, Glm4vError) else answer.text for answer in answers] == [
            *("a", "message", "out_of_memory", "c")
        ]

    def test_the_first_error_ends_all_others(self) -> None:
        engine = ScriptedEngine([["a"] * 1000, OutputError("bad"), ["b"] * 1000], latency=0.001)
        with pytest.raises(OutputError, match="bad"):
            Glm4v.from_engine(engine).generate_many([ASKED] * 3)
        assert len(engine.cancelled) == 2

    def test_no_requests_give_no_answers(self) -> None:
        assert scripted().generate_many([]) == []


class TestBreakingOff:
    """Ending a stream early aborts the request in the engine."""

    @pytest.fixture
    def engine(self) -> ScriptedEngine:
        return ScriptedEngine(lambda request: ["word "] * 1000, latency=0.001)

    def test_closing_a_stream(self, engine: ScriptedEngine) -> None:
        stream = Glm4v.from_engine(engine).stream(ASKED)
        next(stream)
        stream.close()
        assert len(engine.cancelled) == 1

    async def test_closing_an_async_stream(self, engine: ScriptedEngine) -> None:
        stream = Glm4v.from_engine(engine).astream(ASKED)
        await anext(stream)
        await stream.aclose()
        assert len(engine.cancelled) == 1

    async def test_cancelling_a_task_that_streams(self, engine: ScriptedEngine) -> None:
        async def read() -> None:
            async for _ in model.astream(ASKED):
                started.set()

        model, started = Glm4v.from_engine(engine), asyncio.Event()
        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(engine.cancelled) == 1

    async def test_cancelling_a_task_that_waits(self, engine: ScriptedEngine) -> None:
        task = asyncio.create_task(Glm4v.from_engine(engine).agenerate(ASKED))
        await asyncio.to_thread(wait_until, lambda: engine.history)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: engine.cancelled)

    def test_a_timeout(self, ask: Ask, engine: ScriptedEngine) -> None:
        with pytest.raises(EngineTimeoutError, match="timeout") as caught:
            ask(Glm4v.from_engine(engine), Request(ASKED.messages, timeout=0.02))
        assert isinstance(caught.value, TimeoutError)
        assert len(engine.cancelled) == 1

    def test_an_engines_own_timeout_keeps_its_words(self) -> None:
        with pytest.raises(EngineTimeoutError, match="gateway"):
            scripted(EngineTimeoutError("gateway")).generate(ASKED)


class TestCounting:
    """Prompts are measured before anything is generated."""

    async def test_both_ways(self) -> None:
        asked = Request((Message.user(Image.load(PIL.Image.new("RGB", (56, 28))), "two words"),))
        model = scripted()
        assert model.count_tokens(asked) == await model.acount_tokens(asked) == TokenCount(4, 2)

    def test_too_long_a_prompt_is_an_error(self, ask: Ask) -> None:
        with pytest.raises(ContextOverflowError):
            ask(scripted("never", context=5), Request((Message.user("1 2 3"),), sampling=Sampling(max_tokens=3)))

    def test_without_max_tokens_the_answer_gets_what_is_left(self) -> None:
        answer = scripted("1 2 3 4 5", context=5).generate(Request((Message.user("1 2"),)))
        assert (answer.text, answer.finish) == ("1 2 3", "length")
        with pytest.raises(ContextOverflowError):
            scripted("never", context=2).generate(Request((Message.user("1 2"),)))


class TestClosing:
    """A closed model raises."""

    def test_by_hand_and_twice(self) -> None:
        engine = ScriptedEngine(["x"])
        model = Glm4v.from_engine(engine)
        model.close()
        model.close()
        assert engine.closed
        with pytest.raises(EngineClosedError):
            model.generate(ASKED)
        with pytest.raises(EngineClosedError):
            model.count_tokens(ASKED)

    def test_with(self) -> None:
        with Glm4v.load(engine="scripted", answers=["x"]) as model:
            assert isinstance(model.info, EngineInfo)
        with pytest.raises(EngineClosedError):
            list(model.stream(ASKED))

    async def test_async_with(self) -> None:
        engine = ScriptedEngine(["x"])
        async with Glm4v(engine, Defaults()) as model:
            assert (await model.agenerate(ASKED)).text == "x"
        assert engine.closed
