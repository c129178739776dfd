"""The forward passes of the language model: prefill of prompts, and decoding one token of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch

from glm4v_core.engines.transformers.cache import BLOCK, SlotCache


@dataclass(frozen=True, slots=True)
class Suffix:
    """The part of a prompt that must be prefilled.

    Attributes:
        ids: its token ids.
        start: number of tokens before it, whose keys and values are cached.
        stored: these keys and values, [layers, 2, heads, start, head size]; None if `start` is 0.
        positions: [3, tokens in `ids`], positions in time, height and width.
        features: [visual tokens in `ids`, hidden size]; None if there are none.
    """

    ids: Sequence[int]
    start: int
    stored: torch.Tensor | None
    positions: torch.Tensor
    features: torch.Tensor | None


class Runner:
    """Runs one model with its KV cache. The rows in use are 0 to their number - 1, without gaps.

    Args:
        model: a `...ForConditionalGeneration` of the GLM-V family.
        rows: maximum number of rows in the cache.
    """

    def __init__(self, model: Any, *, rows: int) -> None:
        self._text = model.model.language_model
        self._head = model.lm_head
        self._embed = model.get_input_embeddings()
        self._image_token: int = model.config.image_token_id
        self._rows = rows
        attention = self._text.layers[0].self_attn
        heads = model.config.text_config.num_key_value_heads
        self.device: torch.device = self._head.weight.device
        self.cache = SlotCache(
            layers=len(self._text.layers),
            heads=heads,
            head_size=attention.head_dim,
            device=self.device,
            dtype=self._head.weight.dtype,
        )
        # transformers 5.24 gave the argument a new name, and drops the old one in 5.40.
        argument = "cache" if "cache" in signature(self._text.forward).parameters else "past_key_values"
        self._forward = partial(self._text, **{argument: self.cache}, use_cache=True)

    def prefill(self, first: int, suffixes: Sequence[Suffix]) -> torch.Tensor:
        """Prefill prompts into the rows from `first` on.

        Shorter prompts are padded on the right. The keys and values of the padding are overwritten by later tokens
        before the mask allows them to be read.

        Args:
            first: the first free row.
            suffixes: one per prompt.

        Returns:
            Logits after the last token of each prompt, [rows, vocabulary].
        """
        rows = slice(first, first + len(suffixes))
        width = max(len(suffix.ids) for suffix in suffixes)
        length = max(suffix.start for suffix in suffixes) + width
        self.cache.reserve(self._grown(rows.stop), length)
        for row, suffix in enumerate(suffixes, first):
            if suffix.stored is not None:
                self.cache.restore(row, suffix.stored)
        # [rows, width]: the index of each token in its row.
        places = torch.tensor([[suffix.start] for suffix in suffixes], device=self.device)
        places = places + torch.arange(width, device=self.device)
        fresh = not any(suffix.start for suffix in suffixes)
        self.cache.aim(rows, places, length, fresh=fresh)
        # [rows, 1, width, length]: a token may attend to everything up to its own index. Without cached prefixes this
        # is plain causal attention, which is faster without a mask.
        mask = None if fresh else torch.arange(length, device=self.device) <= places[:, None, :, None]
        embedded, positions = self._embedded(suffixes, width), self._positions(suffixes, width)
        output = self._forward(inputs_embeds=embedded, position_ids=positions, attention_mask=mask)
        # Only the last token of each prompt needs logits; for all tokens they would take much memory.
        last = torch.tensor([len(suffix.ids) - 1 for suffix in suffixes], device=self.device)
        logits: torch.Tensor = self._head(
            output.last_hidden_state[torch.arange(len(suffixes), device=self.device), last]
        )
        return logits

    def decode(self, tokens: Sequence[int], lengths: Sequence[int], rope_deltas: Sequence[int]) -> torch.Tensor:
        """Run one decode step: read the newest token of every row in use.

        Args:
            tokens: the newest token of each row.
            lengths: number of tokens stored in each row so far.
            rope_deltas: mRoPE offset of each row: position minus index of its next token.

        Returns:
            Logits of the next token, [rows, vocabulary].
        """
        rows = len(tokens)
        # Rounded up, so that the shapes stay the same over many steps.
        length = -(-(max(lengths) + 1) // BLOCK) * BLOCK
        self.cache.reserve(rows, length)
        state = torch.tensor([tokens, lengths, rope_deltas]).to(self.device)  # one copy to the device instead of three
        places = state[1][:, None]
        self.cache.aim(slice(0, rows), places, length)
        mask = torch.arange(length, device=self.device) <= places[:, :, None, None]
        positions = (places + state[2][:, None]).expand(3, -1, -1)
        embedded = self._embed(state[0][:, None])
        output = self._forward(inputs_embeds=embedded, position_ids=positions, attention_mask=mask)
        logits: torch.Tensor = self._head(output.last_hidden_state[:, 0])
        return logits

    def _embedded(self, suffixes: Sequence[Suffix], width: int) -> torch.Tensor:
        """Return the embeddings, [rows, width, hidden size], with image features in place of image tokens."""
        # Features are placed wherever the image token is, so the padding must be any other token.
        padding = next(token for token in (0, 1) if token != self._image_token)
        ids = torch.tensor([[*suffix.ids, *[padding] * (width - len(suffix.ids))] for suffix in suffixes]).to(
            self.device
        )
        embedded: torch.Tensor = self._embed(ids)
        features = [suffix.features for suffix in suffixes if suffix.features is not None]
        if features:
            embedded[ids == self._image_token] = torch.cat(features).to(embedded.dtype)
        return embedded

    def _positions(self, suffixes: Sequence[Suffix], width: int) -> torch.Tensor:
        """Return the positions of all tokens in time, height and width, [3, rows, width]; 0 for padding."""
        positions = torch.zeros(3, len(suffixes), width, dtype=torch.long)
        for row, suffix in enumerate(suffixes):
            positions[:, row, : len(suffix.ids)] = suffix.positions
        return positions.to(self.device)

    def _grown(self, rows: int) -> int:
        """Round the number of rows up to a power of two, so that growing the cache row by row copies little."""
        return min(self._rows, 1 << (rows - 1).bit_length())
