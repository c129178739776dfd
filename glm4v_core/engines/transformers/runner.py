"""The model's forward passes: image features, prompts into slots, one token for every slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glm4v_core.engines.transformers.cache import BLOCK, Slots


@dataclass(frozen=True, slots=True)
class PromptTail:
    """The part of a prompt that is not stored yet.

    Attributes:
        ids: its tokens.
        start: tokens that are stored already.
        stored: keys and values of these, as `Slots.export` returns them.
        positions: [3, tokens].
        features: [visual tokens in `ids`, hidden size], None without any.
    """

    ids: Sequence[int]
    start: int
    stored: torch.Tensor | None
    positions: torch.Tensor
    features: torch.Tensor | None


class Runner:
    """Runs one model over its slots. Rows are numbered 0 to occupied - 1, without gaps."""

    def __init__(self, model: Any, *, rows: int) -> None:
        self._model = model.model
        self._text = model.model.language_model
        self._head = model.lm_head
        self._embed = model.get_input_embeddings()
        self._image_token: int = model.config.image_token_id
        self._rows = rows
        attention = self._text.layers[0].self_attn
        heads = model.config.text_config.num_key_value_heads
        self.device: torch.device = self._head.weight.device
        self.slots = Slots(
            layers=len(self._text.layers),
            heads=heads,
            head_size=attention.head_dim,
            device=self.device,
            dtype=self._head.weight.dtype,
        )

    def encode(self, patches: Sequence[torch.Tensor], grids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the visual tokens of images, [tokens, hidden size] each."""
        pixels = torch.cat(list(patches)).to(self.device)
        output = self._model.get_image_features(pixels, torch.cat(list(grids)).to(self.device))
        # Own memory for each image, so that dropping one from the cache gives its bytes back.
        return [features.clone() for features in output.pooler_output]

    def prefill(self, first: int, tails: Sequence[PromptTail]) -> torch.Tensor:
        """Read prompts into the rows from `first` on and return the logits behind each, [rows, vocabulary].

        Shorter prompts are padded on the right: what is written there is overwritten before it is ever read.
        """
        rows = slice(first, first + len(tails))
        width = max(len(tail.ids) for tail in tails)
        length = max(tail.start for tail in tails) + width
        self.slots.reserve(self._grown(rows.stop), length)
        for row, tail in enumerate(tails, first):
            if tail.stored is not None:
                self.slots.restore(row, tail.stored)
        places = torch.tensor([[tail.start] for tail in tails], device=self.device)
        places = places + torch.arange(width, device=self.device)
        fresh = not any(tail.start for tail in tails)
        self.slots.aim(rows, places, length, fresh=fresh)
        mask = None if fresh else torch.arange(length, device=self.device) <= places[:, None, :, None]
        hidden = self._forward(self._embedded(tails, width), self._positions(tails, width), mask)
        last = torch.tensor([len(tail.ids) - 1 for tail in tails], device=self.device)
        return self._logits(hidden[torch.arange(len(tails), device=self.device), last])

    def decode(self, tokens: Sequence[int], lengths: Sequence[int], shifts: Sequence[int]) -> torch.Tensor:
        """Read one more token in every occupied row and return the logits behind it, [rows, vocabulary].

        Args:
            tokens: the newest token of each row.
            lengths: tokens stored in each row so far.
            shifts: what each row's position is beyond its length.
        """
        rows = len(tokens)
        length = -(-(max(lengths) + 1) // BLOCK) * BLOCK
        self.slots.reserve(rows, length)
        state = torch.tensor([tokens, lengths, shifts]).to(self.device)
        places = state[1][:, None]
        self.slots.aim(slice(0, rows), places, length)
        mask = torch.arange(length, device=self.device) <= places[:, :, None, None]
        positions = (places + state[2][:, None]).expand(3, -1, -1)
        hidden = self._forward(self._embed(state[0][:, None]), positions, mask)
        return self._logits(hidden[:, 0])

    def _forward(self, embedded: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        output = self._text(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self.slots,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(hidden)
        return logits

    def _embedded(self, tails: Sequence[PromptTail], width: int) -> torch.Tensor:
        padding = next(token for token in (0, 1) if token != self._image_token)
        ids = torch.tensor([[*tail.ids, *[padding] * (width - len(tail.ids))] for tail in tails]).to(self.device)
        embedded: torch.Tensor = self._embed(ids)
        features = [tail.features for tail in tails if tail.features is not None]
        if features:
            embedded[ids == self._image_token] = torch.cat(features).to(embedded.dtype)
        return embedded

    def _positions(self, tails: Sequence[PromptTail], width: int) -> torch.Tensor:
        positions = torch.zeros(3, len(tails), width, dtype=torch.long)
        for row, tail in enumerate(tails):
            positions[:, row, : len(tail.ids)] = tail.positions
        return positions.to(self.device)

    def _grown(self, rows: int) -> int:
        """Double the rows when one more is needed, up to all of them, so that filling the slots copies little."""
        return min(self._rows, 1 << (rows - 1).bit_length())
