"""Follows an answer token by token: which text can be shown, what is reasoning, and when the answer ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from glm4v_core.dialect.families import Family
from glm4v_core.dialect.parsing import Phase
from glm4v_core.engines.checkpoint.stop_strings import StopStrings
from glm4v_core.engines.checkpoint.tokens import Detokenizer, TokenBytes
from glm4v_core.engines.options import RepetitionOptions
from glm4v_core.types import FinishReason, Piece, Request, Timings, TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens with a special meaning in an answer.

    Attributes:
        table: bytes of all tokens.
        stop_token_ids: tokens that end the answer and are not part of it.
        think: opening and closing token of the reasoning; None if the model cannot reason.
        end_thinking: tokens that are inserted to close the reasoning.
        size: width of the model's logits.
    """

    table: TokenBytes
    stop_token_ids: frozenset[int]
    think: tuple[int, int] | None
    end_thinking: tuple[int, ...]
    size: int


def vocabulary_of(tokenizer: Any, family: Family, stop_token_ids: frozenset[int], size: int) -> Vocabulary:
    """Collect the special tokens of a tokenizer.

    Args:
        tokenizer: of transformers.
        family: has the tags of the reasoning.
        stop_token_ids: see `Vocabulary`.
        size: see `Vocabulary`.
    """
    dialect = family.dialect
    think = None
    if dialect.think is not None:
        opening, closing = tokenizer.convert_tokens_to_ids(list(dialect.think))
        think = (opening, closing)
    closing_text = tokenizer(dialect.end_thinking, add_special_tokens=False)["input_ids"]
    return Vocabulary(TokenBytes(tokenizer), stop_token_ids, think, tuple(closing_text), size)


@dataclass(slots=True)
class Clock:
    """Points in time of one request, in seconds of the monotonic clock."""

    submitted: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0

    def timings(self) -> Timings:
        """Return the durations up to now."""
        total = time.monotonic() - self.submitted
        return Timings(self.admitted - self.submitted, self.first_token - self.submitted, total)


class Transcript:
    """Follows one answer.

    Attributes:
        tokens: all tokens so far, including a stop token.
        thinking: number of reasoning tokens among them.
        in_reasoning: whether the next token continues the reasoning.
        ended: whether the last token was a stop token.
        finish: why the answer ended; None while it continues.
    """

    def __init__(
        self, request: Request, vocabulary: Vocabulary, rule: RepetitionOptions, *, phase: Phase, max_tokens: int
    ) -> None:
        self.tokens: list[int] = []
        self.thinking = 0
        self.in_reasoning = phase == "thinking"
        self.ended = False
        self.finish: FinishReason | None = None
        self._vocabulary = vocabulary
        self._rule = rule
        self._max_tokens = max_tokens
        self._detokenizer = Detokenizer(vocabulary.table)
        self._stops = StopStrings(request.sampling.stop)
        # The text must contain the opening tag, which is already in the prompt.
        self._opening = vocabulary.table.text(vocabulary.think[0]) if vocabulary.think and self.in_reasoning else ""
        self._unsent = 0

    def write(self, token: int) -> str:
        """Add the next token and return the text that can be shown; `conclude` must be called next."""
        self.tokens.append(token)
        self._unsent += 1
        self.ended = token in self._vocabulary.stop_token_ids
        text = "" if self.ended else self._show(token)
        if not self.ended:
            self._track(token)
        text, self._opening = self._opening + text, ""
        return text

    def conclude(self, *, complete: bool = False) -> str:
        """Set `finish` if the answer is over, and return the text that was held back until now.

        Args:
            complete: whether the grammar allows no further token.
        """
        self.finish = self._verdict(complete)
        return "" if self.finish is None else self._stops.flush()

    def piece(self, text: str, logprobs: Sequence[TokenLogprob], prompt: Usage, clock: Clock) -> Piece | None:
        """Return the next piece of the stream; None if there is nothing to send yet.

        Args:
            text: what can be shown.
            logprobs: of the tokens since the last piece.
            prompt: token counts of the prompt.
            clock: for the timings of the last piece.
        """
        if not text and not logprobs and self.finish is None:
            return None
        tokens, self._unsent = self._unsent, 0
        if self.finish is None:
            return Piece(text, tokens, tuple(logprobs))
        usage = Usage(prompt.prompt, prompt.image, len(self.tokens), self.thinking, prompt.cached)
        return Piece(text, tokens, tuple(logprobs), self.finish, usage, clock.timings())

    def _show(self, token: int) -> str:
        """Return the text of a token. Stop strings are looked for in the answer only, not in the reasoning."""
        if self._vocabulary.think is not None and token in self._vocabulary.think:
            # The reasoning may have been closed by us in the middle of a character; drop its incomplete bytes.
            self._detokenizer = Detokenizer(self._vocabulary.table)
        text = self._detokenizer.feed(token)
        opens = self._vocabulary.think is not None and token == self._vocabulary.think[0]
        if self.in_reasoning or opens:
            return self._stops.flush() + text
        return self._stops.feed(text)

    def _track(self, token: int) -> None:
        """Count reasoning tokens and note where the reasoning begins and ends."""
        opening, closing = self._vocabulary.think or (-1, -1)
        self.thinking += self.in_reasoning and token != closing
        if token in (opening, closing):
            self.in_reasoning = token == opening

    def _verdict(self, complete: bool) -> FinishReason | None:
        if self.ended or self._stops.found or complete:
            return "stop"
        if len(self.tokens) >= self._max_tokens:
            return "length_in_thinking" if self.in_reasoning else "length"
        # Checking every eighth token is enough. It must not depend on other requests, so that answers are repeatable.
        if len(self.tokens) % 8 == 0 and is_loop(self.tokens, self._rule):
            return "repetition"
        return None


def is_loop(tokens: Sequence[int], rule: RepetitionOptions) -> bool:
    """Tell whether the last tokens are one pattern, repeated as often and as long as `rule` says."""
    for period in range(1, min(rule.repetition_pattern, len(tokens) // 2) + 1):
        # If the pattern is repeated often and long enough, the last `span` tokens equal those one period earlier.
        span = max(period * rule.repetition_repeats, rule.repetition_tokens) - period
        if tokens[-1] != tokens[-1 - period] or len(tokens) < span + period:
            continue
        if tokens[-span:] == tokens[-span - period : -period]:
            return True
    return False
