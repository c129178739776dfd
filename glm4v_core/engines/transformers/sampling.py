"""Samples the next token of all rows at once, each row with its own settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from glm4v_core.engines.checkpoint.tokens import TokenBytes
from glm4v_core.types import Sampling, TokenLogprob


class Sampler:
    """Sampling settings and state of one request.

    Args:
        sampling: of a complete request.
        prompt: token ids, for the repetition penalty.
        size: width of the model's logits.
        device: of the logits.
        matcher: llguidance's matcher of the request's grammar; None without a constraint.

    Attributes:
        seen: [vocabulary], True for tokens that occur in prompt or completion; None without a repetition penalty.
        matcher: state of the grammar.
        constrained: whether the grammar applies to the next token.
        also_allowed: a token that is allowed next in addition to those of the grammar; None if there is none.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], *, size: int, device: torch.device, matcher: Any
    ) -> None:
        self.temperature = sampling.temperature or 0.0
        self.top_k = sampling.top_k or 0
        self.top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self.penalty = sampling.repetition_penalty or 1.0
        self.logprobs = sampling.logprobs
        self.matcher = matcher
        self.constrained = False
        self.also_allowed: int | None = None
        self.seen: torch.Tensor | None = None
        if self.penalty != 1.0:
            self.seen = torch.zeros(size, dtype=torch.bool, device=device)
            self.seen[torch.tensor(prompt, device=device)] = True
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    @property
    def is_plain(self) -> bool:
        """Whether only the most likely token is needed."""
        return not (self.temperature or self.constrained or self.seen is not None or self.logprobs is not None)

    def uniform(self) -> float:
        """Return the next number from the request's random generator, at least 0 and below 1."""
        return float(torch.rand((), generator=self._random, dtype=torch.float64))

    def note(self, token: int) -> None:
        """Update penalty and grammar with the token that was chosen."""
        if self.seen is not None:
            self.seen[token] = True
        if self.constrained:
            self.matcher.consume_token(token)


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """Log probabilities (natural logarithm) of one step, before penalty, constraint and temperature.

    Attributes:
        rows: [vocabulary] each; None for a request that does not ask for them.
    """

    rows: Sequence[torch.Tensor | None]

    def of(self, row: int, token: int, alternatives: int | None, table: TokenBytes) -> TokenLogprob | None:
        """Return the log probability of one token, with the most likely alternatives.

        Args:
            row: index of the request.
            token: the one that was chosen.
            alternatives: how many to list; None is 0.
            table: texts of the tokens.

        Returns:
            None if the request does not ask for log probabilities.
        """
        values = self.rows[row]
        if values is None:
            return None
        top = values.topk(min(alternatives or 0, len(values)))
        likely = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return TokenLogprob(
            table.text(token), float(values[token]), tuple((table.text(other), value) for other, value in likely)
        )


def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> tuple[list[int], StepLogprobs]:
    """Sample one token per row.

    Args:
        logits: [rows, vocabulary].
        samplers: one per row.

    Returns:
        The tokens and their log probabilities, one per row.
    """
    if all(sampler.is_plain for sampler in samplers):
        return logits.argmax(-1).tolist(), StepLogprobs([None] * len(samplers))
    scores = logits.float()
    # Taken first: callers want the model's own probabilities, before penalty and constraint change the scores.
    logprobs = StepLogprobs(
        [None if sampler.logprobs is None else scores[row].log_softmax(-1) for row, sampler in enumerate(samplers)]
    )
    scores = _penalise(scores, samplers)
    scores = _constrain(scores, samplers)
    tokens: list[int] = scores.argmax(-1).tolist()
    random = [row for row, sampler in enumerate(samplers) if sampler.temperature]
    if random:
        sampled = _sample_at_random(scores[random], [samplers[row] for row in random])
        for row, token in zip(random, sampled, strict=True):
            tokens[row] = token
    return tokens, logprobs


def _penalise(scores: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Apply the repetition penalty as transformers does: divide positive scores, multiply negative ones.

    Args:
        scores: [rows, vocabulary]; not modified.
        samplers: one per row.

    Returns:
        [rows, vocabulary].
    """
    rows = [row for row, sampler in enumerate(samplers) if sampler.seen is not None]
    if not rows:
        return scores
    seen = torch.stack([sampler.seen for sampler in samplers if sampler.seen is not None])
    penalty = scores.new_tensor([[samplers[row].penalty] for row in rows])
    chosen = scores[rows]
    weakened = torch.where(chosen < 0, chosen * penalty, chosen / penalty)
    return scores.index_copy(0, torch.tensor(rows, device=scores.device), torch.where(seen, weakened, chosen))


def _constrain(scores: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Set the score of every token that a row's grammar forbids to minus infinity.

    Args:
        scores: [rows, vocabulary]; not modified.
        samplers: one per row.

    Returns:
        [rows, vocabulary].
    """
    rows = [row for row, sampler in enumerate(samplers) if sampler.constrained]
    if not rows:
        return scores
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    # [rows, vocabulary / 32] words of 32 bits, one bit per token. All bits are set at first, so that rows without a
    # grammar allow every token.
    bits = allocate_token_bitmask(len(samplers), scores.shape[-1])
    for row in rows:
        fill_next_token_bitmask(samplers[row].matcher, bits, row)
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, : scores.shape[-1]]
    for row in rows:
        if samplers[row].also_allowed is not None:
            allowed[row, samplers[row].also_allowed] = 1
    return scores.masked_fill(torch.from_numpy(allowed == 0).to(scores.device), -torch.inf)


def _sample_at_random(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Sample with temperature, top_k and top_p, by inverse transform sampling.

    The candidates' probabilities are laid out as intervals next to each other. A uniform random number falls into one
    of them, with the probability that is the interval's width. Each row takes the number from its own generator, so
    that a row does not depend on the other rows of the batch.

    Args:
        scores: [rows, vocabulary].
        samplers: one per row, with temperature > 0.

    Returns:
        One token per row.
    """
    width = scores.shape[-1]
    # Sorting the whole vocabulary is expensive; if all rows have a top_k, only that many candidates are needed.
    if all(sampler.top_k for sampler in samplers):
        width = min(width, max(sampler.top_k for sampler in samplers))
    columns = [[each.temperature, each.top_p, each.top_k or width, each.uniform()] for each in samplers]
    temperature, top_p, top_k, uniform = torch.tensor(columns, dtype=torch.float64).unsqueeze(-1).unbind(1)
    # The rest runs on the CPU in float64, which not every accelerator supports.
    ordered, tokens = (each.cpu() for each in scores.topk(width))
    likely = (ordered / temperature).masked_fill(torch.arange(width) >= top_k, -torch.inf).softmax(-1)
    before = likely.cumsum(-1) - likely  # probability of all candidates that are more likely
    # The clamp keeps the most likely token even if top_p is 0.
    cumulative = likely.masked_fill(before >= top_p.clamp(min=1e-12), 0).cumsum(-1)
    # Find the first candidate whose cumulative probability exceeds the random number. After top_p the probabilities
    # add up to less than 1; scaling the number by their sum saves normalising them again.
    place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp(max=width - 1)
    return [int(token) for token in tokens.gather(-1, place).squeeze(-1).tolist()]
