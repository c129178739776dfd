"""One running request: what happens to each of its tokens until it ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from glm4v_core.engines.options import TransformersOptions
from glm4v_core.engines.preparing import PreparedPrompt
from glm4v_core.engines.sampling import Chooser, Likelihoods
from glm4v_core.engines.text import Detokenizer, StopStrings, TokenBytes
from glm4v_core.errors import EngineError
from glm4v_core.types import FinishReason, Piece, Request, Timings, TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that mean something to the decode loop.

    Attributes:
        ends: tokens that end the answer and are not part of it.
        think: opening and closing token of a thought.
        end_thinking: tokens that close a thought from outside.
        size: width of the model's logits.
    """

    table: TokenBytes
    ends: frozenset[int]
    think: tuple[int, int] | None
    end_thinking: tuple[int, ...]
    size: int


@dataclass(slots=True)
class Clock:
    """Moments of one request, in seconds of the monotonic clock."""

    submitted: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0

    def timings(self) -> Timings:
        total = time.monotonic() - self.submitted
        return Timings(self.admitted - self.submitted, self.first_token - self.submitted, total)


class Generation:
    """The state of one request. The worker thread owns it; the event loop only reads `events` and sets `cancelled`."""

    def __init__(
        self,
        request: Request,
        prompt: PreparedPrompt,
        chooser: Chooser,
        vocabulary: Vocabulary,
        options: TransformersOptions,
        *,
        max_tokens: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.prompt = prompt
        self.chooser = chooser
        self.clock = clock
        self.cancelled = False
        self.finish: FinishReason | None = None
        self.cached = 0
        self.pixels: list[Future[torch.Tensor]] | None = None
        self.tokens: list[int] = []
        self.loop = loop
        self.events: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._vocabulary = vocabulary
        self._options = options
        self._max_tokens = max_tokens
        self._budget = request.thinking_budget
        self._detokenizer = Detokenizer(vocabulary.table)
        self._stops = StopStrings(request.sampling.stop)
        self._forced: deque[int] = deque()
        self._in_thought = prompt.phase == "thinking"
        # Readers of the text must see the tag that the prompt holds already.
        self._opening = vocabulary.table.text(vocabulary.think[0]) if vocabulary.think and self._in_thought else ""
        self._thinking = 0
        self._unsent = 0
        if chooser.matcher is not None and not self._in_thought:
            chooser.constrained = True
            chooser.also_allowed = vocabulary.think[0] if vocabulary.think and prompt.phase == "free" else None

    @property
    def length(self) -> int:
        """Tokens whose keys and values are stored: all but the newest one."""
        return len(self.prompt.ids) + len(self.tokens) - 1

    @property
    def ready(self) -> bool:
        """Tell whether the pixels of its images are made."""
        return self.pixels is not None and all(job.done() for job in self.pixels)

    def accept(self, token: int, likelihoods: Likelihoods, row: int) -> Piece | None:
        """Take the token that was chosen, or overrule it; return what can be shown now."""
        token = self._overrule(token)
        logprob = likelihoods.of(row, token, self.chooser.logprobs, self._vocabulary.table)
        if not self.tokens:
            self.clock.first_token = time.monotonic()
        self.tokens.append(token)
        self._unsent += 1
        ended = token in self._vocabulary.ends
        text = "" if ended else self._show(token)
        if not ended:
            self._track(token)
        self.finish = self._verdict(ended)
        if self.finish is not None:
            text += self._stops.flush()
        if self._opening:
            text, self._opening = self._opening + text, ""
        if not text and logprob is None and self.finish is None:
            return None
        return self._piece(text, () if logprob is None else (logprob,))

    def _overrule(self, token: int) -> int:
        """Close a thought that has used its budget, or that would end the turn before a constrained answer."""
        if self._in_thought and not self._forced:
            spent = self._budget is not None and self._thinking >= self._budget
            unanswered = token in self._vocabulary.ends and self.chooser.matcher is not None
            if spent or unanswered:
                self._forced.extend(self._vocabulary.end_thinking)
                self._detokenizer = Detokenizer(self._vocabulary.table)
        return self._forced.popleft() if self._forced else token

    def _show(self, token: int) -> str:
        """Turn a token into text; stop strings count in the answer only."""
        text = self._detokenizer.feed(token)
        opens = self._vocabulary.think is not None and token == self._vocabulary.think[0]
        if self._in_thought or opens:
            return self._stops.flush() + text
        return self._stops.feed(text)

    def _track(self, token: int) -> None:
        """Follow the token through penalty, grammar and thought."""
        opening, closing = self._vocabulary.think or (-1, -1)
        self._thinking += self._in_thought and token != closing
        if token == opening:
            self._in_thought, self.chooser.constrained = True, False
        self.chooser.note(token)
        if token == closing and self._in_thought:
            self._in_thought, self.chooser.constrained = False, self.chooser.matcher is not None
        self.chooser.also_allowed = None
        if self.chooser.constrained and self.chooser.matcher.is_error():
            raise EngineError(f"The grammar engine failed: {self.chooser.matcher.get_error()}")

    def _verdict(self, ended: bool) -> FinishReason | None:
        if ended or self._stops.found or (self.chooser.constrained and self.chooser.matcher.is_stopped()):
            return "stop"
        if len(self.tokens) >= self._max_tokens:
            return "length_in_thinking" if self._in_thought else "length"
        # Every eighth token is soon enough, and independent of whatever else is in the batch.
        if len(self.tokens) % 8 == 0 and is_loop(self.tokens, self._options):
            return "repetition"
        return None

    def _piece(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> Piece:
        tokens, self._unsent = self._unsent, 0
        if self.finish is None:
            return Piece(text, tokens, logprobs)
        usage = Usage(len(self.prompt.ids), self.prompt.image_tokens, len(self.tokens), self._thinking, self.cached)
        return Piece(text, tokens, logprobs, self.finish, usage, self.clock.timings())


def is_loop(tokens: Sequence[int], options: TransformersOptions) -> bool:
    """Tell whether the tail is one pattern over and over."""
    for period in range(1, min(options.repetition_pattern, len(tokens) // 2) + 1):
        # So many tokens equal the token one period earlier when the pattern is repeated often and long enough.
        span = max(period * options.repetition_repeats, options.repetition_tokens) - period
        if tokens[-1] != tokens[-1 - period] or len(tokens) < span + period:
            continue
        if tokens[-span:] == tokens[-span - period : -period]:
            return True
    return False
