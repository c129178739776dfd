"""The state of one running request."""

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
        images: the prompt's images until it is prefilled; None until their preparation has begun.
        prefix: the cached beginning of the prompt; has tensors only during prefill.
        cached: number of prompt tokens that came from the cache.
        events: pieces and errors for the caller, a queue of the event loop `loop`.
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
        if sampler.matcher is not None and not self._transcript.in_reasoning:
            # In phase "free" the model may still start with reasoning, which the grammar does not cover.
            sampler.constrained = True
            sampler.also_allowed = vocabulary.think[0] if vocabulary.think and prompt.phase == "free" else None

    @property
    def identity(self) -> Identity:
        """The prompt as the prefix cache compares it, [tokens]; see `prefixes.Identity`."""
        return self.prompt.identity

    @property
    def tokens(self) -> list[int]:
        """The answer's tokens so far, including a stop token."""
        return self._transcript.tokens

    @property
    def finish(self) -> FinishReason | None:
        return self._transcript.finish

    @property
    def length(self) -> int:
        """Number of tokens whose keys and values are stored: all but the newest one."""
        return len(self.prompt.ids) + len(self.tokens) - 1

    @property
    def ready(self) -> bool:
        """Whether prefill can begin without waiting for the patches of an image."""
        return self.images is not None and all(image.ready for image in self.images)

    @property
    def unread_image_tokens(self) -> int:
        """Number of visual tokens after the cached prefix; they belong to the last images of the prompt."""
        return int((self.identity[self.prefix.length :] < 0).sum())

    def suffix(self, features: torch.Tensor | None) -> Suffix:
        """Return the part of the prompt that must be prefilled.

        Args:
            features: its visual tokens, [unread image tokens, hidden size]; None if there are none.
        """
        start, prompt = self.prefix.length, self.prompt
        return Suffix(prompt.ids[start:], start, self.prefix.states, prompt.positions[:, start:], features)

    def accept(self, token: int, logprobs: StepLogprobs, row: int) -> Piece | None:
        """Add the sampled token, or a forced token in its place.

        Args:
            token: the sampled token.
            logprobs: of this step, for all requests.
            row: index of this request in `logprobs`.

        Returns:
            The next piece for the caller; None if there is nothing to send yet.

        Raises:
            EngineError: the grammar engine failed.
        """
        token = self._overrule(token)
        logprob = logprobs.of(row, token, self.sampler.logprobs, self._vocabulary.table)
        if not self.tokens:
            self.clock.first_token = time.monotonic()
        thinking = self._transcript.in_reasoning
        text = self._transcript.write(token)
        if not self._transcript.ended:
            self._guide(token, thinking)
        text += self._transcript.conclude(complete=self.sampler.constrained and self.sampler.matcher.is_stopped())
        prompt = Usage(len(self.prompt.ids), self.prompt.image_tokens, cached=self.cached)
        return self._transcript.piece(text, () if logprob is None else (logprob,), prompt, self.clock)

    def _overrule(self, token: int) -> int:
        """Return the token, or one that closes the reasoning.

        The reasoning is closed when its budget is used up, or when the model would end the turn without giving the
        constrained answer.
        """
        if self._transcript.in_reasoning and not self._forced:
            spent = self._budget is not None and self._transcript.thinking >= self._budget
            unanswered = token in self._vocabulary.stop_token_ids and self.sampler.matcher is not None
            if spent or unanswered:
                self._forced.extend(self._vocabulary.end_thinking)
        return self._forced.popleft() if self._forced else token

    def _guide(self, token: int, thinking: bool) -> None:
        """Update penalty and grammar with a token. The grammar is suspended during the reasoning.

        Args:
            token: the new token.
            thinking: whether it was part of the reasoning.
        """
        if self._transcript.in_reasoning:
            self.sampler.constrained = False
        self.sampler.note(token)
        # Only after `note`: the closing tag itself is not part of the grammar.
        if thinking and not self._transcript.in_reasoning:
            self.sampler.constrained = self.sampler.matcher is not None
        self.sampler.also_allowed = None
        if self.sampler.constrained and self.sampler.matcher.is_error():
            raise EngineError(f"The grammar engine failed: {self.sampler.matcher.get_error()}")
