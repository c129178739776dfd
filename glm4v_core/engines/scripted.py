"""A public test double: plays back prepared answers through the same path as a model, and records the requests."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace

from glm4v_core.dialect.families import Family, family_named
from glm4v_core.engines import EngineInfo, TokenCount, new_tokens
from glm4v_core.engines.checkpoint.stop_strings import StopStrings
from glm4v_core.errors import EngineClosedError, EngineError
from glm4v_core.media.image import Image
from glm4v_core.types import FinishReason, Part, Piece, Request, Text, Timings, ToolResult, Usage

Chunk = str | Piece | Exception
ScriptedAnswer = str | Exception | Sequence[Chunk]
"""The reply to one request: text, an error, or a sequence of text chunks, errors and whole pieces."""
Reply = Callable[[Request], ScriptedAnswer]

_TOKEN = re.compile(r"\s*(?:<[^<>\s]+>|\w+|[^\w\s])|\s+")


class ScriptedEngine:
    """Plays back `answers` in the order in which requests arrive.

    Answers are raw model text in the family's dialect, including tags. A token is a tag, a word or a punctuation mark,
    with the white space before it; an image takes one token per 28x28 pixels. Text is streamed token by token, a
    sequence chunk by chunk. `max_tokens` and `stop` are applied; sampling and constraints have no effect.

    Attributes:
        history: all requests, with defaults filled in as for any engine.
        cancelled: requests that were cancelled before their last piece.
        active: number of requests that are running.
        most_at_once: the highest value of `active` so far.
        closed: whether `close` was called.
    """

    OPTIONS = frozenset({"answers", "family", "context", "latency"})

    def __init__(
        self,
        answers: Sequence[ScriptedAnswer | Reply] | Reply = (),
        *,
        family: Family | str = "GLM-4.6V-Flash",
        context: int | None = None,
        latency: float = 0.0,
        model: str = "scripted",
    ) -> None:
        """Prepare the answers.

        Args:
            answers: one for each request, or a function that answers all of them.
            family: determines the dialect of the answers.
            context: maximum number of tokens of prompt and completion together; None is the family's.
            latency: delay before each chunk, in seconds.
            model: name of the model in `info`.
        """
        self._always = answers if callable(answers) else None
        self._answers = deque(() if callable(answers) else answers)
        self._latency = latency
        family = family_named(family) if isinstance(family, str) else family
        self._info = EngineInfo("scripted", model, family, context or family.context, "none", "none")
        self.active = 0
        self.history: list[Request] = []
        self.cancelled: list[Request] = []
        self.most_at_once = 0
        self.closed = False

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Play back the next answer."""
        self._check_open()
        self.history.append(request)
        self.active += 1
        self.most_at_once = max(self.most_at_once, self.active)
        finished = False
        try:
            async for piece in self._play(request, self._next_answer(request)):
                finished = piece.finish is not None
                yield piece
        except (GeneratorExit, asyncio.CancelledError):
            if not finished:  # closing the stream after its last piece is not a cancellation
                self.cancelled.append(request)
            raise
        finally:
            self.active -= 1

    async def count_tokens(self, request: Request) -> TokenCount:
        """Count the tokens of text and images as described at the class."""
        self._check_open()
        parts = [part for message in request.messages for part in _flat(message.parts)]
        text = sum(len(_tokens(part.text)) for part in parts if isinstance(part, Text))
        image = sum(_image_tokens(part) for part in parts if isinstance(part, Image))
        return TokenCount(text + image, image)

    async def close(self) -> None:
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise EngineClosedError("The scripted engine was closed.")

    def _next_answer(self, request: Request) -> ScriptedAnswer:
        if self._always is not None:
            return self._always(request)
        if not self._answers:
            raise EngineError(
                f"The script has no answer for request {len(self.history)}.", hint="Give the engine more answers."
            )
        answer = self._answers.popleft()
        return answer(request) if callable(answer) else answer

    async def _play(self, request: Request, answer: ScriptedAnswer) -> AsyncGenerator[Piece, None]:
        started, first, made = time.monotonic(), None, 0
        count = await self.count_tokens(request)
        limit = new_tokens(request, self._info, count.prompt)
        stops = StopStrings(request.sampling.stop)
        finish: FinishReason = "stop"
        for piece in _pieces(answer):
            await asyncio.sleep(self._latency)
            first = first or time.monotonic()
            if made + piece.tokens > limit:
                finish = "length"
                break
            made += piece.tokens
            yield replace(piece, text=stops.feed(piece.text), finish=None)
            if stops.found or piece.finish is not None:
                finish = "stop" if stops.found else piece.finish or "stop"
                break
        ended = time.monotonic()
        timings = Timings(0.0, (first or ended) - started, ended - started)
        yield Piece(stops.flush(), 0, (), finish, Usage(count.prompt, count.image, made), timings)


def _pieces(answer: ScriptedAnswer) -> Iterator[Piece]:
    chunks = _tokens(answer) if isinstance(answer, str) else [answer] if isinstance(answer, Exception) else answer
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield Piece(chunk, len(_tokens(chunk))) if isinstance(chunk, str) else chunk


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _image_tokens(image: Image) -> int:
    return math.ceil(image.width / 28) * math.ceil(image.height / 28)


def _flat(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        yield from part.parts if isinstance(part, ToolResult) else (part,)
