"""Each request of a batch gets the answer that it would get alone, which is that of `generate()`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import transformers

from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import Checkpoint, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.errors import ContextOverflowError, ImageShapeError
from glm4v_core.media.image import Image, ImageLimits
from glm4v_core.types import Piece, Request, Sampling
from tests.support.engine_calls import MIXED, Answer, answer, answers, ask, page

Open = Callable[..., TransformersEngine]


def texts(results: list[Answer]) -> list[tuple[str, int]]:
    return [(result.text, result.usage.completion) for result in results]


def generated(folder: Path, checkpoint: Checkpoint, request: Request, **settings: Any) -> str:
    """Answer with transformers' own `generate()` on a model loaded by transformers alone."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, processor = checkpoint.tokenizer, checkpoint.image_processor
    prompt = ChatTemplate(checkpoint.template, checkpoint.family.dialect).render(request)
    text, inputs = prompt.text, {}
    if prompt.images:
        inputs = dict(processor([image.pixels for image in prompt.images], return_tensors="pt"))
        parts = text.split("<|image|>")
        counts = [int(grid.prod()) // 4 for grid in inputs["image_grid_thw"]]
        text = parts[0] + "".join("<|image|>" * count + part for count, part in zip(counts, parts[1:], strict=True))
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    if prompt.images:
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    limit = request.sampling.max_tokens
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, **inputs, **settings
    )
    tokens = [token for token in output[0, ids.shape[1] :].tolist() if token not in checkpoint.stop_token_ids]
    return str(tokenizer.decode(tokens, skip_special_tokens=False)).rstrip("\ufffd")


async def test_a_batch_answers_as_each_request_does_alone(open_engine: Open) -> None:
    together = await answers(open_engine(cache_bytes=0), MIXED)
    alone_engine = open_engine(cache_bytes=0)
    alone = [await answer(alone_engine, request) for request in MIXED]
    assert texts(together) == texts(alone)
    assert len({result.text for result in together}) == len(MIXED)


async def test_requests_wait_in_line_for_free_slots(open_engine: Open) -> None:
    narrow = await answers(open_engine(slots=2), MIXED)
    wide = await answers(open_engine(slots=7), MIXED)
    assert texts(narrow) == texts(wide)
    assert max(result.timings.queue for result in narrow) > max(narrow[0].timings.queue, 0)


@pytest.mark.parametrize("index", range(len(MIXED)))
async def test_answers_equal_generate(
    engine: TransformersEngine, checkpoint_folder: Path, checkpoint: Checkpoint, index: int
) -> None:
    result = await answer(engine, MIXED[index])
    assert result.text.rstrip("\ufffd") == generated(checkpoint_folder, checkpoint, MIXED[index])


async def test_penalised_answers_equal_generate(
    engine: TransformersEngine, checkpoint_folder: Path, checkpoint: Checkpoint
) -> None:
    request = ask(page(1), "Read", max_tokens=40)
    penalised = replace(request, sampling=replace(request.sampling, repetition_penalty=1.3))
    both = await answers(engine, [request, penalised])
    assert both[1].text.rstrip("\ufffd") == generated(checkpoint_folder, checkpoint, request, repetition_penalty=1.3)
    assert both[0].text != both[1].text


@pytest.mark.parametrize("architecture", ["glm4v_moe", "glm_ocr"])
async def test_the_other_architectures_run_the_same_way(
    tmp_path: Path, build: Callable[..., Path], open_engine: Open, architecture: str
) -> None:
    folder = build(tmp_path, architecture=architecture)
    loaded = load_checkpoint(folder, TransformersOptions())
    together = await answers(open_engine(loaded), MIXED[:4])
    assert [result.text.rstrip("\ufffd") for result in together] == [
        generated(folder, loaded, request) for request in MIXED[:4]
    ]


async def test_a_template_may_name_the_special_tokens(open_engine: Open, checkpoint: Checkpoint) -> None:
    request = ask(page(1), "Read")
    naming = replace(checkpoint, template="{{ eos_token }}{{ eos_token }}" + str(checkpoint.template))
    plain = await open_engine().count_tokens(request)
    assert (await open_engine(naming).count_tokens(request)).prompt == plain.prompt + 2


async def test_reuse_saves_work_and_changes_no_answer(open_engine: Open) -> None:
    questions = [ask(page(7, 168, 168), question) for question in ("Read it.", "Which label fits best?", "Read it.")]
    warm, cold = open_engine(), open_engine(cache_bytes=0)
    reused = [await answer(warm, question) for question in questions]
    fresh = [await answer(cold, question) for question in questions]
    assert texts(reused) == texts(fresh)
    image = reused[0].usage.image
    assert image == 36
    assert [result.usage.cached for result in fresh] == [0, 0, 0]
    assert reused[0].usage.cached == 0
    assert reused[1].usage.cached > image
    assert reused[2].usage.cached == reused[2].usage.prompt - 1


async def test_questions_asked_at_once_share_their_page(engine: TransformersEngine, open_engine: Open) -> None:
    questions = [ask(page(8, 280, 280), question) for question in ("Read it.", "Sum it up.", "Label it.")]
    at_once = await answers(engine, questions)
    # Preparation runs in threads: any of the three may be first; the other two reuse its page.
    assert sorted(result.usage.cached > 100 for result in at_once) == [False, True, True]
    cold = open_engine(cache_bytes=0)
    assert texts(at_once) == texts([await answer(cold, question) for question in questions])


async def test_reuse_tells_pages_and_sizes_apart(engine: TransformersEngine, open_engine: Open) -> None:
    requests = [
        ask(page(1, 140, 140), "Read"),
        ask(page(2, 140, 140), "Read"),
        ask(page(1, 140, 140, max_tokens=9), "Read"),
        ask(page(2, 140, 140), page(1, 140, 140), "Read"),
    ]
    one_by_one = [await answer(engine, request) for request in requests]
    cold = open_engine(cache_bytes=0)
    assert texts(one_by_one) == texts([await answer(cold, request) for request in requests])
    assert [result.usage.image for result in one_by_one] == [25, 25, 9, 50]


async def test_reuse_stays_correct_with_hardly_any_room(open_engine: Open) -> None:
    tight = open_engine(cache_bytes=150_000)
    plain = open_engine(cache_bytes=0)
    requests = [ask(page(seed % 3), f"Question {seed}") for seed in range(7)]
    assert texts([await answer(tight, request) for request in requests]) == texts(await answers(plain, requests))


async def test_two_interleaved_streams_do_not_mix(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless)
    one, other = ask("Hello", max_tokens=20), ask(page(1), "Read", max_tokens=20)
    expected = [(await answer(engine, one)).text, (await answer(engine, other)).text]
    seen = ["", ""]
    async with aclosing(engine.stream(one)) as first, aclosing(engine.stream(other)) as second:
        for _ in range(20):
            for index, stream in enumerate((first, second)):
                seen[index] += (await anext(stream, Piece())).text
    assert seen == expected


async def test_each_request_of_a_batch_is_streamed(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless)
    results = await answers(engine, [ask("Hello", max_tokens=30), ask(page(1), "Read", max_tokens=30)])
    for result in results:
        assert len(result.pieces) > 15
        assert sum(piece.tokens for piece in result.pieces) == result.usage.completion


async def test_a_cancelled_stream_frees_its_slot(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless, slots=1)
    async with aclosing(engine.stream(ask("Tell me everything", max_tokens=4000))) as endless:
        await anext(endless)
        waiting = asyncio.create_task(answer(engine, ask("Hello", max_tokens=3)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
    assert (await asyncio.wait_for(waiting, 20)).usage.completion == 3


async def test_a_waiting_request_that_is_cancelled_is_never_prefilled(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless, slots=1)
    async with aclosing(engine.stream(ask("Tell me everything", max_tokens=4000))) as endless:
        await anext(endless)
        waiting = asyncio.create_task(answer(engine, ask(page(1), "Hello")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (await answer(engine, ask(page(1), "Hello", max_tokens=3))).usage.cached == 0


async def test_tokens_are_counted_exactly(engine: TransformersEngine) -> None:
    for request in MIXED:
        counted, result = await engine.count_tokens(request), await answer(engine, request)
        assert (counted.prompt, counted.image) == (result.usage.prompt, result.usage.image)


async def test_an_image_takes_no_more_tokens_than_allowed(open_engine: Open) -> None:
    engine = open_engine(max_image_tokens=20)
    counts = [await engine.count_tokens(ask(image, "Read")) for image in (page(1, 280, 280), page(1, 56, 56))]
    assert counts[0].image == 16
    assert counts[1].image == 9
    own_limit = await engine.count_tokens(ask(page(1, 280, 280, max_tokens=9), "Read"))
    assert own_limit.image == 9
    assert (await answer(engine, ask(page(1, 280, 280), "Read"))).usage.image == 16


async def test_what_does_not_fit_is_refused_before_it_runs(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(context=60)
    with pytest.raises(ContextOverflowError, match="60 tokens"):
        await answer(engine, ask("Hello", max_tokens=50))
    with pytest.raises(ContextOverflowError):
        await answer(engine, ask("word " * 80, max_tokens=None))
    engine = open_engine(endless, context=60)
    unlimited = await answer(engine, Request(ask("Hello").messages, sampling=Sampling(temperature=0), thinking=False))
    assert unlimited.usage.prompt + unlimited.usage.completion == 60
    assert unlimited.finish == "length"


async def test_an_image_too_elongated_for_the_model_is_refused(engine: TransformersEngine) -> None:
    strip = Image.load(PIL.Image.new("RGB", (8100, 30)), limits=ImageLimits(max_aspect=1000))
    with pytest.raises(ImageShapeError, match="8100x30"):
        await engine.count_tokens(ask(strip, "Read"))


async def test_timings_are_in_order(engine: TransformersEngine) -> None:
    timings = (await answer(engine, ask(page(1), "Read"))).timings
    assert 0 < timings.queue < timings.first_token < timings.total


async def test_info_tells_what_was_loaded(engine: TransformersEngine, checkpoint_folder: Path) -> None:
    info = engine.info
    assert (info.engine, info.model, info.device, info.dtype) == (
        "transformers",
        str(checkpoint_folder),
        "cpu",
        "float32",
    )
    assert (info.family.dialect.name, info.context) == ("glm46v", 4096)
    assert set(info.versions) == {"torch", "transformers"}
