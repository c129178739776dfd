"""Answers obey their constraint, reasoning does not, and reasoning is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from glm4v_core.dialect.grammar import check_answer
from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import Checkpoint
from glm4v_core.errors import ConstraintError, EngineError
from glm4v_core.types import Choices, JsonSchema, Regex, Tool
from tests.support.engine_calls import MIXED, Answer, always_says, answer, answers, ask, page

Open = Callable[..., TransformersEngine]

SCHEMA = JsonSchema(
    {
        "type": "object",
        "properties": {"paid": {"type": "boolean"}, "kind": {"enum": ["invoice", "letter"]}},
        "required": ["paid", "kind"],
        "additionalProperties": False,
    }
)
LABELS = Choices(("invoice", "receipt", "信件"))


def split(text: str) -> tuple[str, str]:
    thought, _, rest = text.rpartition("</think>")
    return thought, rest.strip("\n")


async def test_constrained_answers_are_valid_beside_unconstrained_ones(engine: TransformersEngine) -> None:
    free = await answers(engine, MIXED[:3])
    requests = [
        ask(page(1), "Label it", constraint=LABELS, max_tokens=60),
        ask("Extract", constraint=SCHEMA, max_tokens=60),
        ask("A date", constraint=Regex("[0-9]{4}-[0-9]{2}"), max_tokens=60, temperature=1.0, seed=1),
    ]
    results = await answers(engine, [*MIXED[:3], *requests])
    assert [result.text for result in results[:3]] == [result.text for result in free]
    assert [result.finish for result in results[3:]] == ["stop"] * 3
    check_answer(results[3].text.strip("\n"), LABELS)
    check_answer(results[4].text, SCHEMA)
    assert len(json.dumps(json.loads(results[4].text))) >= len(results[4].text.strip())
    year, _, month = results[5].text.strip("\n").partition("-")
    assert (len(year), len(month)) == (4, 2)


@pytest.mark.parametrize("budget", [0, 1, 20])
async def test_the_constraint_applies_after_the_end_of_the_reasoning(
    open_engine: Open, endless: Checkpoint, budget: int
) -> None:
    # A prompt that ends inside the reasoning.
    thinking = replace(endless, template=str(endless.template) + "{{ '<think>' if enable_thinking }}")
    engine = open_engine(thinking)
    request = ask("Label it", thinking=True, thinking_budget=budget, constraint=LABELS, max_tokens=90)
    free = replace(request, constraint=None)
    result, unconstrained = await answers(engine, [request, free])
    thought, label = split(result.text)
    assert thought.startswith("<think>")
    assert label in LABELS.options
    assert thought == split(unconstrained.text)[0]
    assert result.usage.thinking == budget
    assert result.finish == "stop"
    # The closing tag and a newline are forced even without a constraint.
    assert unconstrained.text.startswith(thought + "</think>\n")


async def test_a_model_that_skips_its_reasoning_is_constrained_at_once(engine: TransformersEngine) -> None:
    result = await answer(engine, ask("Label it", thinking=True, constraint=LABELS, max_tokens=60))
    assert result.text.strip("\n") in LABELS.options
    assert result.usage.thinking == 0


async def test_reasoning_that_the_model_opens_is_unconstrained_and_its_answer_is_not(
    open_engine: Open, endless: Checkpoint
) -> None:
    engine = open_engine(endless)
    with always_says(endless, "<think>"):
        request = ask("Label it", thinking=True, thinking_budget=9, constraint=LABELS, max_tokens=60)
        result = await answer(engine, request)
    assert result.text.startswith("<think>" * 10 + "</think>\n")
    assert split(result.text)[1] in LABELS.options


async def test_a_stop_token_during_reasoning_closes_it_when_an_answer_is_due(
    open_engine: Open, checkpoint: Checkpoint
) -> None:
    thinking = replace(checkpoint, template=str(checkpoint.template) + "{{ '<think>' if enable_thinking }}")
    request = ask("Label it", thinking=True, constraint=LABELS, max_tokens=60)
    with always_says(checkpoint, "<|user|>"):
        free, due = await answers(open_engine(thinking), [replace(request, constraint=None), request])
    assert (free.text, free.finish, free.usage.completion) == ("<think>", "stop", 1)
    assert due.text.startswith("<think></think>\n")
    assert split(due.text)[1] in LABELS.options


async def test_running_out_of_tokens_is_reported_separately_for_reasoning_and_answer(
    open_engine: Open, endless: Checkpoint
) -> None:
    thinking = replace(endless, template=str(endless.template) + "{{ '<think>' if enable_thinking }}")
    results = await answers(open_engine(thinking), [ask("Why", thinking=True), ask("Why", thinking=False)])
    assert [result.finish for result in results] == ["length_in_thinking", "length"]
    assert [result.usage.thinking for result in results] == [24, 0]


async def test_stop_strings_do_not_apply_to_reasoning(open_engine: Open, endless: Checkpoint) -> None:
    thinking = replace(endless, template=str(endless.template) + "{{ '<think>' if enable_thinking }}")
    engine = open_engine(thinking)
    request = ask("Why", thinking=True, thinking_budget=12, max_tokens=40)
    whole = (await answer(engine, request)).text
    thought, said = whole.split("</think>\n")
    stopped = await answer(
        engine, replace(request, sampling=replace(request.sampling, stop=(thought[9:11], said[6:9])))
    )
    ends = [said.index(stop) for stop in (thought[9:11], said[6:9]) if stop in said]
    assert stopped.text == f"{thought}</think>\n{said[: min(ends)]}"


async def test_a_required_tool_is_called(engine: TransformersEngine) -> None:
    tool = Tool("weather", parameters={"type": "object", "properties": {"city": {"enum": ["Oslo", "北京"]}}})
    request = ask("How is the weather?", tools=(tool,), tool_choice="required", max_tokens=300)
    result = await answer(engine, replace(request))
    assert result.text.strip("\n").startswith("<tool_call>weather")
    assert result.text.endswith("</tool_call>") or result.finish != "stop"


async def test_an_answer_that_its_grammar_cannot_follow_fails_alone(open_engine: Open, endless: Checkpoint) -> None:
    # A closing tag, which no answer may begin with.
    dialect = replace(endless.family.dialect, end_thinking="</think>xyz")
    odd = replace(
        endless,
        family=replace(endless.family, dialect=dialect),
        template=str(endless.template) + "{{ '<think>' if enable_thinking }}",
    )
    requests = [
        ask("Label it", thinking=True, thinking_budget=3, constraint=LABELS),
        ask("Label it", thinking=True, thinking_budget=3),
    ]
    results = await asyncio.gather(*(answer(open_engine(odd), request) for request in requests), return_exceptions=True)
    assert isinstance(results[0], EngineError)
    assert isinstance(results[1], Answer)
    assert "</think>xyz" in results[1].text


async def test_an_impossible_constraint_fails_alone(engine: TransformersEngine) -> None:
    with pytest.raises(ConstraintError):
        await answer(engine, ask("Label it", constraint=Regex("(")))
    assert (await answer(engine, ask("Hello"))).text
