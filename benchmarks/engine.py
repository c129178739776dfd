"""Measure the transformers engine against plain `generate()`, all in one run, and print one table."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import PIL.Image
import PIL.ImageDraw
import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

from glm4v_core.dialect.template import ChatTemplate, Prompt
from glm4v_core.engines.transformers.attention import adapt
from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import Checkpoint, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.prompts import Preparer
from glm4v_core.media.image import Image
from glm4v_core.tiny import checkpoint_path
from glm4v_core.types import Message, Request, Sampling, Timings

REQUESTS = 32
SLOTS = 16
PAGE_SIDE = 448
QUESTIONS = (
    "Read the text on this page.",
    "Which label fits this document best?",
    "Extract these fields as JSON: total.",
)


def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder, or `tiny`.")] = "tiny",
    tokens: Annotated[int, typer.Option(help="Answer length where all are equal.")] = 200,
    random_9b: Annotated[
        bool, typer.Option(help="On a GPU: decode speed of a 9B-sized model of random weights.")
    ] = False,
) -> None:
    """Run the benchmark."""
    quiet()
    folder = checkpoint_path() if model == "tiny" else Path(model)
    Console().print(measure_random_9b(folder) if random_9b else measure_small(folder, tokens))


def measure_small(folder: Path, tokens: int) -> Table:
    """Measure throughput and reuse, with answers cut at fixed lengths."""
    title = f"{folder.name}, {torch.get_num_threads()} threads"
    table = Table("what", "glm4v", "compared with", "ratio", "goal", title=title)
    lengths = random.Random(0)
    for name, goal, limits in (
        ("32 requests, equal lengths", ">= 4", [tokens] * REQUESTS),
        ("32 requests, mixed lengths", ">= 3", [lengths.randint(40, 300) for _ in range(REQUESTS)]),
    ):
        naive, ours = apart(one_by_one, folder, limits), apart(together, folder, limits)
        rates = [f"{sum(limits) / seconds:.0f} tokens/s" for seconds in (ours, naive)]
        table.add_row(name, rates[0], f"{rates[1]}, generate() one by one", f"{naive / ours:.2f}", goal)
    warm, cold, joint, first, second = apart(three_questions, folder)
    for way, seconds, goal in (("at once", joint, ">= 1.5"), ("in turn", warm, "")):
        table.add_row(
            f"3 questions on a page, {way}", ms(seconds), f"{ms(cold)}, 3 cold calls", f"{cold / seconds:.2f}", goal
        )
    table.add_row(
        "first token of question 2", ms(second), f"{ms(first)}, of question 1", f"{second / first:.2f}", "<= 0.35"
    )
    return table


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a fresh process: the threads that one side leaves behind would slow the other down."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def one_by_one(folder: Path, limits: Sequence[int]) -> float:
    """Return the seconds that plain `generate()` takes for all requests."""
    quiet()
    plain = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    # Without stop tokens every answer has its full length, on both sides.
    plain.generation_config.eos_token_id = None
    checkpoint = endless(folder)
    generate(plain, checkpoint, ask(page(1000), "warm up", 8))
    return timed(lambda: [generate(plain, checkpoint, request) for request in requests_of(limits)])


def together(folder: Path, limits: Sequence[int]) -> float:
    """Return the seconds until the last of all requests is done, sent at once."""

    async def measure() -> float:
        engine = open_engine(endless(folder))
        await answer(engine, ask(page(1000), "warm up", 8))
        requests = requests_of(limits)
        start = time.perf_counter()
        await asyncio.gather(*(answer(engine, request) for request in requests))
        seconds = time.perf_counter() - start
        await engine.close()
        return seconds

    quiet()
    return asyncio.run(measure())


def three_questions(folder: Path) -> tuple[float, float, float, float, float]:
    quiet()
    return asyncio.run(questions(endless(folder)))


def requests_of(limits: Sequence[int]) -> list[Request]:
    return [ask(page(seed), QUESTIONS[seed % 3], limit) for seed, limit in enumerate(limits)]


def endless(folder: Path) -> Checkpoint:
    return dataclasses.replace(load_checkpoint(folder, TransformersOptions()), stop_token_ids=frozenset())


def quiet() -> None:
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def measure_random_9b(folder: Path) -> Table:
    """Measure decoding by a model of GLM-4.1V-9B's shape; the folder lends tokenizer and template."""
    checkpoint = random_checkpoint(folder, transformers.Glm4vConfig(), torch.device("cuda"), torch.bfloat16)
    table = Table("batch", "glm4v", "generate()", "ratio", "bandwidth bound", title="9B shape, decode tokens/s")
    for batch in (1, 8, 32):
        table.add_row(*decode_row(checkpoint, batch, tokens=128))
    return table


def random_checkpoint(folder: Path, config: Any, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Make a model of random weights that never ends an answer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config.image_token_id = tokenizer.convert_tokens_to_ids("<|image|>")
    with device:
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    lent = load_checkpoint(folder, TransformersOptions(device="cpu"))
    return dataclasses.replace(lent, model=model, stop_token_ids=frozenset())


def decode_row(checkpoint: Checkpoint, batch: int, tokens: int) -> list[str]:
    model = checkpoint.model
    requests = [ask(page(seed), QUESTIONS[0], tokens) for seed in range(batch)]
    prompt = Preparer(checkpoint, max_image_tokens=None).prepare(rendered(checkpoint, requests[0]))
    # Text of the same length: plain generate() decodes it at the same speed as a page.
    ids = torch.full((batch, len(prompt.ids)), 10, device=model.device)
    model.model.language_model.set_attn_implementation("sdpa")
    seconds = [
        timed(lambda limit=limit: model.generate(input_ids=ids, do_sample=False, max_new_tokens=limit))
        for limit in (1, 1, tokens)
    ]
    plain = batch * (tokens - 1) / (seconds[2] - seconds[1])
    engine = open_engine(dataclasses.replace(checkpoint, model=adapt(model)), slots=batch)
    ours = asyncio.run(decode_speed(engine, requests))
    bound = batch / ((weight_bytes(model) + batch * len(prompt.ids) * token_bytes(model)) / bandwidth(model.device))
    return [str(batch), f"{ours:.0f}", f"{plain:.0f}", f"{ours / plain:.2f}", f"{bound:.0f}"]


async def decode_speed(engine: TransformersEngine, requests: Sequence[Request]) -> float:
    """Return tokens per second from the moment when the last request has its first token."""
    await answer(engine, ask(page(1000), "warm up", 8))
    start = time.monotonic()
    timings = await asyncio.gather(*(answer(engine, request) for request in requests))
    running = max(each.first_token for each in timings)
    await engine.close()
    seconds = time.monotonic() - start - running
    # Requests that started earlier have decoded some tokens while the last prompt was read.
    share = [(each.total - running) / (each.total - each.first_token) for each in timings]
    limits = [request.sampling.max_tokens or 0 for request in requests]
    return sum(part * (limit - 1) for part, limit in zip(share, limits, strict=True)) / seconds


def weight_bytes(model: Any) -> int:
    """Bytes of the weights that one decoding step reads."""
    parts = (*model.model.language_model.layers.parameters(), *model.lm_head.parameters())
    return sum(weight.numel() * weight.element_size() for weight in parts)


def token_bytes(model: Any) -> int:
    """Bytes of one token's keys and values."""
    layers = model.model.language_model.layers
    projection = layers[0].self_attn.k_proj.weight
    return 2 * len(layers) * int(projection.shape[0]) * int(projection.element_size())


def bandwidth(device: torch.device) -> float:
    """Measure how many bytes per second the device reads."""
    block = torch.zeros(2**30 if device.type == "cuda" else 2**26, dtype=torch.int8, device=device)
    target = torch.empty_like(block)

    def copy() -> None:
        for _ in range(20):
            target.copy_(block)
        if device.type != "cpu":
            torch.accelerator.synchronize()

    copy()
    # Each copy reads and writes every byte once.
    return 20 * 2 * block.numel() / timed(copy)


def page(seed: int) -> Image:
    """Draw a page of words."""
    chance = random.Random(seed)
    picture = PIL.Image.new("RGB", (PAGE_SIDE, PAGE_SIDE), "white")
    draw = PIL.ImageDraw.Draw(picture)
    for line in range(20):
        words = " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(8))
        draw.text((12, 12 + 21 * line), words, fill="black")
    return Image.load(picture)


def ask(image: Image, question: str, tokens: int) -> Request:
    sampling = Sampling(temperature=0, max_tokens=tokens)
    return Request((Message.user(image, question),), sampling=sampling, thinking=False)


def generate(model: Any, checkpoint: Checkpoint, request: Request) -> list[int]:
    """Answer one request as a plain script would: image processor, tokenizer, one call of the library."""
    prompt = rendered(checkpoint, request)
    prepared = Preparer(checkpoint, max_image_tokens=None).prepare(prompt)
    ids = torch.tensor([prepared.ids])
    image = checkpoint.image_processor(prompt.images[0].pixels, return_tensors="pt")
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        pixel_values=image["pixel_values"],
        image_grid_thw=image["image_grid_thw"],
        do_sample=False,
        max_new_tokens=request.sampling.max_tokens,
    )
    answer: list[int] = output[0, ids.shape[1] :].tolist()
    return answer


def rendered(checkpoint: Checkpoint, request: Request) -> Prompt:
    return ChatTemplate(checkpoint.template, checkpoint.family.dialect).render(request)


async def questions(
    checkpoint: Checkpoint, tokens: int = 24, pages: int = 8
) -> tuple[float, float, float, float, float]:
    """Ask three questions about each page, with reuse in turn and at once, and without."""
    warm, cold, joint = open_engine(checkpoint), open_engine(checkpoint, cache_bytes=0), open_engine(checkpoint)
    rows: list[tuple[float, float, float, float, float]] = []
    for seed in range(pages + 1):
        three = [ask(page(2000 + seed), question, tokens) for question in QUESTIONS]
        first, second, third = [await answer(warm, request) for request in three]
        alone = [await answer(cold, request) for request in three]
        start = time.perf_counter()
        await asyncio.gather(*(answer(joint, request) for request in three))
        rows.append(
            (
                first.total + second.total + third.total,
                sum(each.total for each in alone),
                time.perf_counter() - start,
                first.first_token,
                second.first_token,
            )
        )
    for engine in (warm, cold, joint):
        await engine.close()
    # The first page warms up.
    warm_time, cold_time, joint_time, first_time, second_time = map(statistics.median, zip(*rows[1:], strict=True))
    return warm_time, cold_time, joint_time, first_time, second_time


def open_engine(checkpoint: Checkpoint, slots: int = SLOTS, **options: Any) -> TransformersEngine:
    # Answers without an end repeat themselves, and must not be cut for it here.
    return TransformersEngine(checkpoint, TransformersOptions(slots=slots, repetition_pattern=0, **options))


async def answer(engine: TransformersEngine, request: Request) -> Timings:
    timings = Timings()
    async for piece in engine.stream(request):
        timings = piece.timings or timings
    return timings


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


if __name__ == "__main__":
    typer.run(main)
