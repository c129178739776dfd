"""The answer of one request while its tokens arrive: what may be shown, what is thought, and when it is over."""

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
    """The tokens that mean something to whoever reads an answer token by token.

    Attributes:
        stop_token_ids: tokens that end the answer and are not part of it.
        think: opening and closing token of a thought.
        end_thinking: tokens that close a thought from outside.
        size: width of the model's logits.
    """

    table: TokenBytes
    stop_token_ids: frozenset[int]
    think: tuple[int, int] | None
    end_thinking: tuple[int, ...]
    size: int


def vocabulary_of(tokenizer: Any, family: Family, stop_token_ids: frozenset[int], size: int) -> Vocabulary:
    """Gather what a tokenizer and its family say."""
    dialect = family.dialect
    think = None
    if dialect.think is not None:
        opening, closing = tokenizer.convert_tokens_to_ids(list(dialect.think))
        think = (opening, closing)
    closing_text = tokenizer(dialect.end_thinking, add_special_tokens=False)["input_ids"]
    return Vocabulary(TokenBytes(tokenizer), stop_token_ids, think, tuple(closing_text), size)


@dataclass(slots=True)
class Clock:
    """Moments of one request, in seconds of the monotonic clock."""

    submitted: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0

    def timings(self) -> Timings:
        total = time.monotonic() - self.submitted
        return Timings(self.admitted - self.submitted, self.first_token - self.submitted, total)


class Transcript:
    """Follows one answer.

    Attributes:
        tokens: all of them, a stop token included.
        thinking: how many of them are thought.
        in_thought: whether the next one continues a thought.
        ended: whether the last one was a stop token.
        finish: why the answer is over; None while it is not.
    """

    def __init__(
        self, request: Request, vocabulary: Vocabulary, rule: RepetitionOptions, *, phase: Phase, max_tokens: int
    ) -> None:
        self.tokens: list[int] = []
        self.thinking = 0
        self.in_thought = phase == "thinking"
        self.ended = False
        self.finish: FinishReason | None = None
        self._vocabulary = vocabulary
        self._rule = rule
        self._max_tokens = max_tokens
        self._detokenizer = Detokenizer(vocabulary.table)
        self._stops = StopStrings(request.sampling.stop)
        # Readers of the text must see the tag that the prompt holds already.
        self._opening = vocabulary.table.text(vocabulary.think[0]) if vocabulary.think and self.in_thought else ""
        self._unsent = 0

    def write(self, token: int) -> str:
        """Take the next token and return what can be shown now; `conclude` must follow."""
        self.tokens.append(token)
        self._unsent += 1
        self.ended = token in self._vocabulary.stop_token_ids
        text = "" if self.ended else self._show(token)
        if not self.ended:
            self._track(token)
        text, self._opening = self._opening + text, ""
        return text

    def conclude(self, *, complete: bool = False) -> str:
        """Decide whether the answer is over, and return the text that was held back if it is.

        Args:
            complete: nothing more may follow, by the grammar.
        """
        self.finish = self._verdict(complete)
        return "" if self.finish is None else self._stops.flush()

    def piece(self, text: str, logprobs: Sequence[TokenLogprob], prompt: Usage, clock: Clock) -> Piece | None:
        """Return the next piece of the stream; None when there is nothing to tell yet.

        Args:
            prompt: counts of the prompt.
        """
        if not text and not logprobs and self.finish is None:
            return None
        tokens, self._unsent = self._unsent, 0
        if self.finish is None:
            return Piece(text, tokens, tuple(logprobs))
        usage = Usage(prompt.prompt, prompt.image, len(self.tokens), self.thinking, prompt.cached)
        return Piece(text, tokens, tuple(logprobs), self.finish, usage, clock.timings())

    def _show(self, token: int) -> str:
        """Turn a token into text; stop strings count in the answer only."""
        if self._vocabulary.think is not None and token in self._vocabulary.think:
            # A thought may be closed from outside in the middle of a character.
            self._detokenizer = Detokenizer(self._vocabulary.table)
        text = self._detokenizer.feed(token)
        opens = self._vocabulary.think is not None and token == self._vocabulary.think[0]
        if self.in_thought or opens:
            return self._stops.flush() + text
        return self._stops.feed(text)

    def _track(self, token: int) -> None:
        opening, closing = self._vocabulary.think or (-1, -1)
        self.thinking += self.in_thought and token != closing
        if token in (opening, closing):
            self.in_thought = token == opening

    def _verdict(self, complete: bool) -> FinishReason | None:
        if self.ended or self._stops.found or complete:
            return "stop"
        if len(self.tokens) >= self._max_tokens:
            return "length_in_thinking" if self.in_thought else "length"
        # Every eighth token is soon enough, and independent of whatever else is in the batch.
        if len(self.tokens) % 8 == 0 and is_loop(self.tokens, self._rule):
            return "repetition"
        return None


def is_loop(tokens: Sequence[int], rule: RepetitionOptions) -> bool:
    """Tell whether the tail is one pattern over and over."""
    for period in range(1, min(rule.repetition_pattern, len(tokens) // 2) + 1):
        # So many tokens equal the token one period earlier when the pattern is repeated often and long enough.
        span = max(period * rule.repetition_repeats, rule.repetition_tokens) - period
        if tokens[-1] != tokens[-1 - period] or len(tokens) < span + period:
            continue
        if tokens[-span:] == tokens[-span - period : -period]:
            return True
    return False
