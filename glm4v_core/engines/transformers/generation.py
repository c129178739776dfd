"""One running request: what happens to each of its tokens until it ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Future

import torch

from glm4v_core.engines.checkpoint.transcript import Clock, Transcript, Vocabulary
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.prompts import PreparedPrompt
from glm4v_core.engines.transformers.sampling import Chooser, Likelihoods
from glm4v_core.errors import EngineError
from glm4v_core.types import FinishReason, Piece, Request, Usage


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
        self.cached = 0
        self.pixels: list[Future[torch.Tensor]] | None = None
        self.loop = loop
        self.events: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._vocabulary = vocabulary
        self._budget = request.thinking_budget
        self._transcript = Transcript(request, vocabulary, options, phase=prompt.phase, max_tokens=max_tokens)
        self._forced: deque[int] = deque()
        if chooser.matcher is not None and not self._transcript.in_thought:
            chooser.constrained = True
            chooser.also_allowed = vocabulary.think[0] if vocabulary.think and prompt.phase == "free" else None

    @property
    def tokens(self) -> list[int]:
        return self._transcript.tokens

    @property
    def finish(self) -> FinishReason | None:
        return self._transcript.finish

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
        thinking = self._transcript.in_thought
        text = self._transcript.write(token)
        if not self._transcript.ended:
            self._guide(token, thinking)
        text += self._transcript.conclude(complete=self.chooser.constrained and self.chooser.matcher.is_stopped())
        prompt = Usage(len(self.prompt.ids), self.prompt.image_tokens, cached=self.cached)
        return self._transcript.piece(text, () if logprob is None else (logprob,), prompt, self.clock)

    def _overrule(self, token: int) -> int:
        """Close a thought that has used its budget, or that would end the turn before a constrained answer."""
        if self._transcript.in_thought and not self._forced:
            spent = self._budget is not None and self._transcript.thinking >= self._budget
            unanswered = token in self._vocabulary.ends and self.chooser.matcher is not None
            if spent or unanswered:
                self._forced.extend(self._vocabulary.end_thinking)
        return self._forced.popleft() if self._forced else token

    def _guide(self, token: int, thinking: bool) -> None:
        """Lead penalty and grammar past a token; the grammar rests while the model thinks."""
        if self._transcript.in_thought:
            self.chooser.constrained = False
        self.chooser.note(token)
        if thinking and not self._transcript.in_thought:
            self.chooser.constrained = self.chooser.matcher is not None
        self.chooser.also_allowed = None
        if self.chooser.constrained and self.chooser.matcher.is_error():
            raise EngineError(f"The grammar engine failed: {self.chooser.matcher.get_error()}")
