"""One running request: what happens to each of its tokens until it ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from glm4v_core.engines.checkpoint.transcript import Clock, Transcript, Vocabulary
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.prefixes import NO_PREFIX, Identity
from glm4v_core.engines.transformers.prompts import PreparedPrompt
from glm4v_core.engines.transformers.runner import Suffix
from glm4v_core.engines.transformers.sampling import Sampler, StepLogprobs
from glm4v_core.errors import EngineError
from glm4v_core.types import FinishReason, Piece, Request, Usage

if TYPE_CHECKING:
    import torch

    from glm4v_core.engines.transformers.vision import ImageFeatures


class Generation:
    """The state of one request. The worker thread owns it; the event loop only reads `events` and sets `cancelled`.

    Attributes:
        images: the prompt's images until it is read; None until they are begun.
        prefix: the part of the prompt that need not be read; holds tensors only while the rest of it is read.
        cached: tokens of the prompt that were not read.
    """

    def __init__(
        self,
        request: Request,
        prompt: PreparedPrompt,
        sampler: Sampler,
        vocabulary: Vocabulary,
        options: TransformersOptions,
        *,
        max_tokens: int,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.prompt = prompt
        self.sampler = sampler
        self.clock = clock
        self.cancelled = False
        self.cached = 0
        self.images: Sequence[ImageFeatures] | None = None
        self.prefix = NO_PREFIX
        self.loop = loop
        self.events: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._vocabulary = vocabulary
        self._budget = request.thinking_budget
        self._transcript = Transcript(request, vocabulary, options, phase=prompt.phase, max_tokens=max_tokens)
        self._forced: deque[int] = deque()
        if sampler.matcher is not None and not self._transcript.in_thought:
            sampler.constrained = True
            sampler.also_allowed = vocabulary.think[0] if vocabulary.think and prompt.phase == "free" else None

    @property
    def identity(self) -> Identity:
        return self.prompt.identity

    @property
    def tokens(self) -> list[int]:
        """The answer's tokens so far, a stop token included."""
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
        """Whether reading the prompt can begin without waiting for the patches of an image."""
        return self.images is not None and all(image.ready for image in self.images)

    @property
    def unread_image_tokens(self) -> int:
        """Visual tokens of the prompt that are not stored yet; they are those of its last images."""
        return int((self.identity[self.prefix.length :] < 0).sum())

    def suffix(self, features: torch.Tensor | None) -> Suffix:
        """Return the part of the prompt that is not stored yet.

        Args:
            features: its visual tokens, [unread image tokens, hidden size]; None if there are none.
        """
        start, prompt = self.prefix.length, self.prompt
        return Suffix(prompt.ids[start:], start, self.prefix.states, prompt.positions[:, start:], features)

    def accept(self, token: int, logprobs: StepLogprobs, row: int) -> Piece | None:
        """Take the sampled token, or overrule it; return what can be shown now.

        Args:
            row: the request's index in `logprobs`.
        """
        token = self._overrule(token)
        logprob = logprobs.of(row, token, self.sampler.logprobs, self._vocabulary.table)
        if not self.tokens:
            self.clock.first_token = time.monotonic()
        thinking = self._transcript.in_thought
        text = self._transcript.write(token)
        if not self._transcript.ended:
            self._guide(token, thinking)
        text += self._transcript.conclude(complete=self.sampler.constrained and self.sampler.matcher.is_stopped())
        prompt = Usage(len(self.prompt.ids), self.prompt.image_tokens, cached=self.cached)
        return self._transcript.piece(text, () if logprob is None else (logprob,), prompt, self.clock)

    def _overrule(self, token: int) -> int:
        """Close a thought that has used its budget, or that would end the turn before a constrained answer."""
        if self._transcript.in_thought and not self._forced:
            spent = self._budget is not None and self._transcript.thinking >= self._budget
            unanswered = token in self._vocabulary.stop_token_ids and self.sampler.matcher is not None
            if spent or unanswered:
                self._forced.extend(self._vocabulary.end_thinking)
        return self._forced.popleft() if self._forced else token

    def _guide(self, token: int, thinking: bool) -> None:
        """Lead penalty and grammar past a token; the grammar rests while the model thinks."""
        if self._transcript.in_thought:
            self.sampler.constrained = False
        self.sampler.note(token)
        if thinking and not self._transcript.in_thought:
            self.sampler.constrained = self.sampler.matcher is not None
        self.sampler.also_allowed = None
        if self.sampler.constrained and self.sampler.matcher.is_error():
            raise EngineError(f"The grammar engine failed: {self.sampler.matcher.get_error()}")
