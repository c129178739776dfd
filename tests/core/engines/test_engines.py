"""One suite for every engine: the same requests to the same model, and the same answers.

`make test` runs it on the transformers engine; `make test-vllm` on all three, in an environment that has vLLM.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from itertools import cycle, islice

import pytest

from glm4v_core import Glm4v
from glm4v_core.errors import (
    ConfigError,
    ConstraintError,
    ContextOverflowError,
    EngineTimeoutError,
    RequestRefusedError,
    TruncatedOutputError,
)
from glm4v_core.media.image import Image
from glm4v_core.types import Choices, Completion, JsonSchema, Message, Regex, Request, Text, Tool, ToolCall, ToolResult
from tests.support.engine_calls import READ, ask, sample
from tests.support.serving import Engine

pytestmark = [pytest.mark.loopback, pytest.mark.filterwarnings("default")]

LABELS = Choices(("invoice", "receipt", "信件"))
SCHEMA = JsonSchema(
    {
        "type": "object",
        "properties": {"paid": {"type": "boolean"}, "kind": {"enum": ["invoice", "letter"]}},
        "required": ["paid", "kind"],
        "additionalProperties": False,
    }
)
WEATHER = Tool(
    "weather",
    "Tell the weather.",
    {"type": "object", "properties": {"city": {"enum": ["Oslo", "北京"]}}, "required": ["city"]},
)
CLOCK = Tool("clock", "Tell the time.")


def conversation() -> Request:
    first = ask(sample(), READ, max_tokens=60)
    answered = Message.assistant("TAX INVOICE")
    return replace(first, messages=(*first.messages, answered, Message.user(sample("scan-03.png"), "And this page?")))


def after_a_call() -> Request:
    call = ToolCall("1", "weather", {"city": "Oslo"})
    asked = Message.user("How is the weather?")
    answered = Message("tool", (ToolResult("1", (Text("Rain."),)),))
    request = ask("?", tools=(WEATHER,), max_tokens=40)
    return replace(request, messages=(asked, Message("assistant", (call,)), answered))


GREEDY = {
    "text": lambda: ask("Hello", max_tokens=40),
    "chinese": lambda: ask("请逐行识别图片中的文字，只输出文字。", max_tokens=40),
    "page": lambda: ask(sample(), READ, max_tokens=200),
    "photo": lambda: ask(sample("phone.jpeg"), READ, max_tokens=120),
    "several images": lambda: ask(sample(), "and", sample("scan-03.png"), READ, max_tokens=120),
    "small image": lambda: ask(sample(max_tokens=30), READ, max_tokens=40),
    "several turns": conversation,
    "system text": lambda: replace(
        ask("Hello", max_tokens=30), messages=(Message.system("Be brief."), Message.user("Hello"))
    ),
    "after a call": after_a_call,
    "penalty": lambda: ask(sample(), READ, max_tokens=60, repetition_penalty=1.2),
    "thinking": lambda: ask("Why?", thinking=True, max_tokens=40),
}


class TestAnswers:
    @pytest.mark.parametrize("name", GREEDY)
    def test_greedy_text_is_that_of_the_transformers_engine(self, model: Glm4v, reference: Glm4v, name: str) -> None:
        request = GREEDY[name]()
        found, expected = model.generate(request), reference.generate(request)
        assert (found.text, found.thinking, found.finish) == (expected.text, expected.thinking, expected.finish)
        assert (found.usage.prompt, found.usage.image) == (expected.usage.prompt, expected.usage.image)
        assert found.usage.completion == expected.usage.completion

    def test_a_stream_adds_up_to_the_answer(self, model: Glm4v) -> None:
        request = ask(sample(), READ, max_tokens=60)
        deltas = list(model.stream(request))
        completion = deltas[-1].completion
        assert completion is not None
        assert "".join(delta.text for delta in deltas) == completion.text == model.generate(request).text
        assert len(deltas) > 10

    def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(self, model: Glm4v) -> None:
        request = ask(sample(), READ, max_tokens=60)
        whole = model.generate(request).text
        stop = whole[9:14]
        stopped = model.generate(replace(request, sampling=replace(request.sampling, stop=("never this", stop))))
        assert (stopped.text.rstrip(), stopped.finish) == (whole[: whole.index(stop)].rstrip(), "stop")

    def test_a_seed_repeats_a_draw(self, model: Glm4v) -> None:
        letters = Regex("[a-z]{24}")
        drawn = [ask("Say it", constraint=letters, temperature=2.0, seed=seed, max_tokens=40) for seed in (7, 7, 8)]
        first, again, other = model.generate_many(drawn)
        assert first.text == again.text != other.text

    def test_every_token_has_its_logprob(self, model: Glm4v, reference: Glm4v) -> None:
        request = ask("Hello", logprobs=2, max_tokens=12)
        found, expected = model.generate(request), reference.generate(request)
        assert len(found.logprobs) >= found.usage.completion - 1
        for ours, theirs in zip(found.logprobs, expected.logprobs, strict=False):
            assert ours.token == theirs.token
            assert ours.logprob == pytest.approx(theirs.logprob, abs=0.001)
            assert ours.top[0][0] == theirs.top[0][0]
            assert len(ours.top) == 2
        assert model.generate(ask("Hello", max_tokens=12)).logprobs == ()

    def test_settings_that_an_engine_does_not_take_are_refused(self, loaded: Engine, model: Glm4v) -> None:
        hot = ask("Hello", temperature=20.0, max_tokens=2)
        if loaded.name == "transformers":
            assert model.generate(hot).usage.completion
        else:
            with pytest.raises((ConfigError, RequestRefusedError), match="temperature"):
                model.generate(hot)

    def test_max_tokens_end_the_answer(self, model: Glm4v) -> None:
        answer = model.generate(ask(sample(), READ, max_tokens=7))
        assert (answer.finish, answer.usage.completion) == ("length", 7)

    def test_timings_are_in_order(self, model: Glm4v) -> None:
        timings = model.generate(ask("Hello", max_tokens=5)).timings
        assert 0 <= timings.queue <= timings.first_token <= timings.total


class TestConstraints:
    @pytest.mark.parametrize("thinking", [False, True])
    def test_choices_schemas_and_regexes_hold(self, model: Glm4v, thinking: bool) -> None:
        requests = [
            ask(sample(), "Label it", constraint=constraint, max_tokens=80, thinking=thinking)
            for constraint in (LABELS, SCHEMA, Regex("[0-9]{4}-[0-9]{2}"))
        ]
        label, record, date = model.generate_many(requests)
        assert label.text in LABELS.options
        assert '"kind"' in record.text  # `generate` checks it against the schema
        assert len(date.text) == 7
        assert [answer.finish for answer in (label, record, date)] == ["stop"] * 3

    def test_reasoning_is_bounded_and_the_constraint_applies_after_it(self, loaded: Engine, model: Glm4v) -> None:
        requests = [
            ask("Label it", constraint=LABELS, max_tokens=90, thinking=True, thinking_budget=budget)
            for budget in (0, 5)
        ]
        for answer, budget in zip(model.generate_many(requests), (0, 5), strict=True):
            assert answer.text in LABELS.options
            # A server does not report reasoning tokens; they are counted here, including their tags.
            assert answer.usage.thinking <= budget + 2 * (loaded.name == "server")

    @pytest.mark.parametrize("choice", ["required", "clock"])
    def test_a_required_tool_is_called(self, model: Glm4v, choice: str) -> None:
        answer = model.generate(ask("How late is it?", tools=(WEATHER, CLOCK), tool_choice=choice, max_tokens=300))
        assert answer.finish == "tool_calls"
        assert {call.name for call in answer.tool_calls} <= ({"clock"} if choice == "clock" else {"weather", "clock"})
        assert all(call.arguments is not None for call in answer.tool_calls)

    def test_forbidden_tools_are_not_called(self, model: Glm4v) -> None:
        answer = model.generate(ask("How is the weather?", tools=(WEATHER,), tool_choice="none", max_tokens=30))
        assert answer.tool_calls == ()

    def test_an_impossible_constraint_fails_alone(self, model: Glm4v) -> None:
        with pytest.raises(ConstraintError):
            model.generate(ask("Label it", constraint=Regex("(")))
        assert model.generate(ask("Hello", max_tokens=3)).usage.completion

    def test_a_repetition_loop_is_ended(self, model: Glm4v) -> None:
        with pytest.raises(TruncatedOutputError, match="repetition"):
            model.generate(ask("Say it", constraint=Regex("(ab){900}"), max_tokens=1500))


class TestLimits:
    def test_tokens_are_counted_exactly(self, model: Glm4v) -> None:
        for name in ("text", "page", "several turns", "small image"):
            request = replace(GREEDY[name](), sampling=replace(GREEDY[name]().sampling, max_tokens=2))
            counted, used = model.count_tokens(request), model.generate(request).usage
            assert (counted.prompt, counted.image) == (used.prompt, used.image)

    def test_what_does_not_fit_is_refused(self, model: Glm4v) -> None:
        with pytest.raises(ContextOverflowError):
            model.generate(ask("Hello", max_tokens=4096))
        with pytest.raises(ContextOverflowError):
            model.generate(ask("word " * 5000, max_tokens=1))

    def test_a_timeout_ends_the_wait_and_nothing_else(self, model: Glm4v) -> None:
        long = ask("Say it", constraint=Regex("[a-z ]{3000}"), max_tokens=3500, timeout=0.05)
        with pytest.raises(EngineTimeoutError):
            model.generate(long)
        assert model.generate(ask("Hello", max_tokens=3)).usage.completion

    def test_an_aborted_stream_frees_its_place(self, model: Glm4v) -> None:
        long = ask("Say it", constraint=Regex("[a-z ]{3000}"), max_tokens=3500, temperature=1.0, seed=1)

        async def break_off() -> list[Completion]:
            streams = [model.astream(long) for _ in range(16)]
            for stream in streams:
                async with aclosing(stream):
                    await anext(stream)
            return await asyncio.wait_for(model.agenerate_many([ask("Hello", max_tokens=3)] * 16), 60)

        assert len(asyncio.run(break_off())) == 16

    def test_a_page_that_is_asked_about_again_is_reused(self, model: Glm4v) -> None:
        # vLLM's build for CPUs reuses blocks of 128 tokens; one page of the tiny model is a little shorter.
        fresh = [Image.load(sample(name).pixels.rotate(180)) for name in ("scan-01.png", "scan-03.png")]
        first, second, third = (
            model.generate(ask(*fresh, question, max_tokens=4)).usage for question in (READ, "Sum it up.", "Label it.")
        )
        assert first.cached < 128
        assert 128 <= second.cached < second.prompt
        assert third.cached >= 128

    def test_64_streams_keep_their_own_settings(self, model: Glm4v, reference: Glm4v) -> None:
        kinds = [
            ask("Hello", max_tokens=20),
            ask(sample(), "Label it", constraint=LABELS, max_tokens=40),
            ask("Tell me", temperature=1.2, seed=5, max_tokens=20),
            ask("Extract", constraint=SCHEMA, max_tokens=60),
            ask(sample("scan-03.png"), READ, max_tokens=30, logprobs=1),
            ask("Label", constraint=LABELS, thinking=True, thinking_budget=3, max_tokens=60),
            ask(sample("scan-02.jpg"), READ, max_tokens=25, repetition_penalty=1.3),
            ask("A date", constraint=Regex("[0-9]{4}"), temperature=1.0, seed=2, max_tokens=30),
        ]
        together = model.generate_many(islice(cycle(kinds), 64))
        alone = [model.generate(kind) for kind in kinds]
        for index, answer in enumerate(together):
            assert answer.text == alone[index % len(kinds)].text, kinds[index % len(kinds)]
        assert reference.generate(kinds[4]).text == alone[4].text
