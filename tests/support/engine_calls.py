"""Requests about pages of noise, and an engine's answers to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from glm4v_core.engines import Engine
from glm4v_core.engines.transformers.loading import Checkpoint
from glm4v_core.media.image import Image
from glm4v_core.types import FinishReason, Message, Piece, Request, Sampling, Timings, TokenLogprob, Usage

SAMPLES = Path(__file__).parents[2] / "samples"
READ = "Read the text on this page, line by line. Output only the text."


@dataclass(frozen=True)
class Answer:
    text: str
    finish: FinishReason
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...]
    pieces: tuple[Piece, ...]


def sample(name: str = "scan-01.png", *, max_tokens: int | None = None) -> Image:
    return Image.load(SAMPLES / name, max_image_tokens=max_tokens)


def page(seed: int, width: int = 112, height: int = 84, *, max_tokens: int | None = None) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.load(PIL.Image.fromarray(pixels), max_image_tokens=max_tokens)


def ask(*parts: Image | str, thinking: bool = False, **settings: Any) -> Request:
    """Build a request; settings go to the sampling when it has such a field, and else to the request."""
    sampling = {name: settings.pop(name) for name in Sampling.__dataclass_fields__ if name in settings}
    defaults = {"temperature": 0.0, "max_tokens": 24}
    return Request((Message.user(*parts),), sampling=Sampling(**defaults | sampling), thinking=thinking, **settings)


async def answer(engine: Engine, request: Request) -> Answer:
    pieces = [piece async for piece in engine.stream(request)]
    last = pieces[-1]
    assert last.finish is not None
    assert last.usage is not None
    assert last.timings is not None
    assert all(piece.finish is None for piece in pieces[:-1])
    text = "".join(piece.text for piece in pieces)
    logprobs = tuple(logprob for piece in pieces for logprob in piece.logprobs)
    return Answer(text, last.finish, last.usage, last.timings, logprobs, tuple(pieces))


async def answers(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    return list(await asyncio.gather(*(answer(engine, request) for request in requests)))


@contextmanager
def always_says(checkpoint: Checkpoint, token: str) -> Iterator[None]:
    """Make a model prefer one token whenever it may choose it."""
    number = checkpoint.tokenizer.convert_tokens_to_ids(token)

    def prefer(module: torch.nn.Module, arguments: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([number]), 1e4)

    hook = checkpoint.model.lm_head.register_forward_hook(prefer)
    try:
        yield
    finally:
        hook.remove()


MIXED = (
    ask("Hello", max_tokens=31),
    ask(page(1), "Read the text on this page, line by line.", max_tokens=40),
    ask("请逐行识别图片中的文字，只输出文字。" * 4, max_tokens=12),
    ask(page(2, 224, 140), "What is", page(1), "compared with", page(3, 56, 280), "?", max_tokens=25),
    ask("One", max_tokens=1),
    ask(page(1), "Summarize this document in one sentence.", max_tokens=17),
    ask("The quick brown fox jumps over the lazy dog. " * 8, max_tokens=33),
)
