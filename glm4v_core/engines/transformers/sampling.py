"""Sampling the next token of every row at once, each row by its own settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from glm4v_core.engines.checkpoint.tokens import TokenBytes
from glm4v_core.types import Sampling, TokenLogprob


class Sampler:
    """What one request needs to sample its tokens.

    Attributes:
        seen: [vocabulary], which tokens occur in prompt and completion; None without a repetition penalty.
        matcher: the grammar's state; it takes part only while `constrained` is set.
        also_allowed: a token that may come next although the grammar does not know it.
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
        """Whether the most likely token is all that is asked for."""
        return not (self.temperature or self.constrained or self.seen is not None or self.logprobs is not None)

    def uniform(self) -> float:
        """Return the next number of the request's own generator, from 0 to 1."""
        return float(torch.rand((), generator=self._random, dtype=torch.float64))

    def note(self, token: int) -> None:
        """Take note of the token that was chosen, for the penalty and the grammar."""
        if self.seen is not None:
            self.seen[token] = True
        if self.constrained:
            self.matcher.consume_token(token)


@dataclass(frozen=True, slots=True)
class StepLogprobs:
    """Natural logarithms of the probabilities in one step, before penalty, constraint and temperature.

    Attributes:
        rows: [vocabulary] each; None for a request that asks for none.
    """

    rows: Sequence[torch.Tensor | None]

    def of(self, row: int, token: int, alternatives: int | None, table: TokenBytes) -> TokenLogprob | None:
        """Return the entry of one token, with the most likely alternatives; None if the row has none."""
        values = self.rows[row]
        if values is None:
            return None
        top = values.topk(min(alternatives or 0, len(values)))
        likely = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return TokenLogprob(
            table.text(token), float(values[token]), tuple((table.text(other), value) for other, value in likely)
        )


def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> tuple[list[int], StepLogprobs]:
    """Sample one token per row of `logits`, [rows, vocabulary]."""
    if all(sampler.is_plain for sampler in samplers):
        return logits.argmax(-1).tolist(), StepLogprobs([None] * len(samplers))
    scores = logits.float()
    logprobs = StepLogprobs(
        [None if sampler.logprobs is None else scores[row].log_softmax(-1) for row, sampler in enumerate(samplers)]
    )
    scores = _penalise(scores, samplers)
    scores = _constrain(scores, samplers)
    tokens: list[int] = scores.argmax(-1).tolist()
    random = [row for row, sampler in enumerate(samplers) if sampler.temperature]
    if random:
        drawn = _draw(scores[random], [samplers[row] for row in random])
        for row, token in zip(random, drawn, strict=True):
            tokens[row] = token
    return tokens, logprobs


def _penalise(scores: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Make tokens that occurred less likely as transformers does: divide positive scores, multiply negative ones.

    Args:
        scores: [rows, vocabulary]; not changed.
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
    """Give every token that a row's grammar forbids a score of minus infinity.

    Args:
        scores: [rows, vocabulary]; not changed.
    """
    rows = [row for row, sampler in enumerate(samplers) if sampler.constrained]
    if not rows:
        return scores
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    bits = allocate_token_bitmask(len(samplers), scores.shape[-1])
    for row in rows:
        fill_next_token_bitmask(samplers[row].matcher, bits, row)
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, : scores.shape[-1]]
    for row in rows:
        if samplers[row].also_allowed is not None:
            allowed[row, samplers[row].also_allowed] = 1
    return scores.masked_fill(torch.from_numpy(allowed == 0).to(scores.device), -torch.inf)


def _draw(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Draw from the tokens that temperature, top_k and top_p leave.

    Inverse transform sampling: a uniform number between 0 and the candidates' total weight falls into the interval of
    one candidate, which is as wide as its probability. Each row takes that number from its own generator, so that no
    row depends on its neighbours.

    Args:
        scores: [rows, vocabulary].
    """
    width = scores.shape[-1]
    if all(sampler.top_k for sampler in samplers):
        width = min(width, max(sampler.top_k for sampler in samplers))
    columns = [[each.temperature, each.top_p, each.top_k or width, each.uniform()] for each in samplers]
    temperature, top_p, top_k, uniform = torch.tensor(columns, dtype=torch.float64).unsqueeze(-1).unbind(1)
    # The few candidates are weighed on the CPU: not every accelerator has numbers of this precision.
    ordered, tokens = (each.cpu() for each in scores.topk(width))
    likely = (ordered / temperature).masked_fill(torch.arange(width) >= top_k, -torch.inf).softmax(-1)
    before = likely.cumsum(-1) - likely
    # The first token always stays, whatever top_p is.
    cumulative = likely.masked_fill(before >= top_p.clamp(min=1e-12), 0).cumsum(-1)
    # The first candidate at which the running total exceeds the number. top_p is applied to what is not normalised
    # again, so the number is stretched to the total that is left.
    place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp(max=width - 1)
    return [int(token) for token in tokens.gather(-1, place).squeeze(-1).tolist()]
