"""Each request keeps its own sampling settings, whatever else is in the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from glm4v_core.engines.checkpoint.tokens import Detokenizer, TokenBytes
from glm4v_core.engines.checkpoint.transcript import is_loop
from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import Checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.sampling import Sampler, sample
from glm4v_core.types import Sampling
from tests.support.engine_calls import MIXED, always_says, answer, answers, ask, page

Open = Callable[..., TransformersEngine]


@pytest.fixture
def engine(open_engine: Open, endless: Checkpoint) -> TransformersEngine:
    return open_engine(endless)


async def test_a_seed_gives_the_same_draw_in_any_batch(engine: TransformersEngine) -> None:
    request = ask(page(1), "Tell me", temperature=1.3, top_p=0.95, seed=7)
    alone = await answer(engine, request)
    crowd = await answers(engine, [*MIXED, request, ask("Other", temperature=1.0, seed=8)])
    assert crowd[len(MIXED)].text == alone.text
    another = await answer(engine, replace(request, sampling=replace(request.sampling, seed=8)))
    assert another.text != alone.text


async def test_without_a_seed_draws_differ(engine: TransformersEngine) -> None:
    results = await answers(engine, [ask("Tell me", temperature=1.5)] * 3)
    assert len({result.text for result in results}) == 3


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
async def test_narrow_draws_are_greedy(engine: TransformersEngine, settings: dict[str, float]) -> None:
    greedy, narrow = ask("Tell me"), ask("Tell me", **{"temperature": 1.0, "seed": 3} | settings)
    results = await answers(engine, [greedy, narrow])
    assert results[0].text == results[1].text


async def test_sampling_requests_do_not_affect_greedy_ones_in_the_batch(engine: TransformersEngine) -> None:
    request = ask("Tell me")
    alone = await answer(engine, request)
    mixed = await answers(engine, [ask("Other", temperature=1.0, repetition_penalty=1.5, logprobs=2), request])
    assert mixed[1].text == alone.text


def draws(settings: Sampling, logits: torch.Tensor, count: int = 4000) -> torch.Tensor:
    sampler = Sampler(settings, [], size=len(logits), device=logits.device, matcher=None)
    tokens = [sample(logits[None].clone(), [sampler])[0][0] for _ in range(count)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / count


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Sampling(temperature=1.0, seed=1), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(temperature=0.5, seed=1), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(temperature=1.0, top_k=2, seed=1), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.69, seed=1), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.71, seed=1), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(temperature=1.0, top_p=0.0, seed=1), [1, 0, 0, 0]),
    ],
)
def test_draws_follow_their_distribution(settings: Sampling, expected: list[float]) -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert draws(settings, logits).tolist() == pytest.approx(expected, abs=0.03)


def test_a_penalty_counts_prompt_and_completion() -> None:
    logits = torch.tensor([[1.0, 0.9, -0.1, -0.2]])
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=2.0), [0], size=4, device=logits.device, matcher=None)
    chosen = []
    for _ in range(3):
        [token], _ = sample(logits.clone(), [sampler])
        sampler.note(token)
        chosen.append(token)
    # 0 is in the prompt and counts half; then 1 counts half too, and 0 is the larger of the two.
    assert chosen == [1, 0, 0]


async def test_logprobs_are_those_of_the_model(engine: TransformersEngine) -> None:
    plain, listed, chosen_only = await answers(
        engine, [ask("Tell me"), ask("Tell me", logprobs=3), ask("Tell me", logprobs=0)]
    )
    assert plain.logprobs == ()
    assert plain.text == listed.text == chosen_only.text
    assert len(listed.logprobs) == len(chosen_only.logprobs) == listed.usage.completion
    for one, other in zip(listed.logprobs, chosen_only.logprobs, strict=True):
        # Greedy: the chosen token is the most likely one.
        assert one.top[0] == (one.token, one.logprob)
        assert [value for _, value in one.top] == sorted((value for _, value in one.top), reverse=True)
        assert len(one.top) == 3
        assert sum(math.exp(value) for _, value in one.top) <= 1.0
        assert other.top == ()
        assert other.logprob == pytest.approx(one.logprob, abs=1e-4)


async def test_stop_strings_end_the_answer_and_are_not_part_of_it(engine: TransformersEngine) -> None:
    whole = (await answer(engine, ask(page(1), "Read", max_tokens=40))).text
    assert "<think>" not in whole
    stops = [whole[start : start + 4] for start in range(2, len(whole) - 4, 5)]
    results = await answers(engine, [ask(page(1), "Read", max_tokens=40, stop=("never this", stop)) for stop in stops])
    for stop, result in zip(stops, results, strict=True):
        assert result.text == whole[: whole.index(stop)]
        assert result.finish == "stop"


async def test_an_incomplete_stop_string_is_part_of_the_answer(engine: TransformersEngine) -> None:
    whole = (await answer(engine, ask(page(1), "Read", max_tokens=12))).text
    result = await answer(engine, ask(page(1), "Read", max_tokens=12, stop=(whole[-3:] + "more",)))
    assert (result.text, result.finish) == (whole, "length")


def test_pieces_hold_whole_characters(checkpoint: Checkpoint) -> None:
    emoji = checkpoint.tokenizer("😀🎉图", add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(TokenBytes(checkpoint.tokenizer))
    assert len(emoji) > 3
    assert [piece for token in emoji if (piece := detokenizer.feed(token))] == ["😀", "🎉", "图"]


def test_every_token_has_its_bytes(checkpoint: Checkpoint) -> None:
    table = TokenBytes(checkpoint.tokenizer)
    ids = checkpoint.tokenizer("<think>naïve 😀🎉 图片</think> 50 €", add_special_tokens=False)["input_ids"]
    assert b"".join(table[token] for token in ids).decode() == "<think>naïve 😀🎉 图片</think> 50 €"
    assert table[10**6] == b""


@pytest.mark.parametrize(("repeats", "tokens", "expected"), [(8, 96, 96), (8, 10, 16), (20, 8, 24)])
async def test_a_repetition_loop_is_ended(
    open_engine: Open, endless: Checkpoint, repeats: int, tokens: int, expected: int
) -> None:
    engine = open_engine(endless, repetition_repeats=repeats, repetition_tokens=tokens)
    with always_says(endless, "a"):
        result = await answer(engine, ask("Tell me", max_tokens=120))
    assert (result.finish, result.text) == ("repetition", "a" * expected)


async def test_the_repetition_guard_can_be_turned_off(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless, repetition_pattern=0)
    with always_says(endless, "a"):
        result = await answer(engine, ask("Tell me", max_tokens=120))
    assert (result.finish, result.text) == ("length", "a" * 120)


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([*range(50), *[1, 2, 3] * 32], True),
        ([*range(50), *[1, 2, 3] * 31], False),
        ([*range(50), *range(20), *list(range(20)) * 7], True),
        ([*range(50), *list(range(20)) * 7], False),
        (list(range(70)) * 9, False),
        ([], False),
    ],
)
def test_a_repetition_loop_is_a_pattern_repeated_often_and_long(tokens: list[int], loop: bool) -> None:
    assert is_loop(tokens, TransformersOptions()) is loop


def test_the_repetition_guard_is_documented_with_its_defaults() -> None:
    options = TransformersOptions()
    assert (options.repetition_pattern, options.repetition_repeats, options.repetition_tokens) == (64, 8, 96)
