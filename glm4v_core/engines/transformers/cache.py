"""Keys and values of all running requests: one row each, written at its own position."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK = 64
"""Attention reads rows in steps of this many tokens."""

GROWTH = 256
"""Rows grow in steps of this many tokens."""


class SlotCache(Cache):  # type: ignore[misc]  # its base is not analysed
    """A key-value cache with a row per request.

    Each layer of the model has one tensor, [2, rows, heads, length, head size], keys before values. `aim` says before
    each forward pass which rows it is for and where each row writes; the layers then do so.
    """

    def __init__(self, *, layers: int, heads: int, head_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self._states = [torch.empty((2, 0, heads, 0, head_size), device=device, dtype=dtype) for _ in range(layers)]
        self._rows = slice(0, 0)
        self._length = 0
        self._indices: dict[int, torch.Tensor] = {}
        self._fresh = False
        super().__init__(layers=[_Layer(self, layer) for layer in range(layers)])

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, keeping what is there.

        Layers grow one after the other, so that the old and the new states of only one layer are in memory together.
        If memory ends between two layers, the first ones stay larger, which every other method can deal with.
        """
        # The last layer grows last, so it is the smallest.
        _, old_rows, _, old_length, _ = self._states[-1].shape
        if rows <= old_rows and length <= old_length:
            return
        if length > old_length:
            # At least half as much again, so that a long answer is not copied at every step.
            length = -(-max(length, old_length * 3 // 2) // GROWTH) * GROWTH
        for layer in range(len(self._states)):
            self._states[layer] = _grown(self._states[layer], rows, length)

    def release(self) -> None:
        """Give the memory back; only while no row is in use."""
        for layer, states in enumerate(self._states):
            _, _, heads, _, size = states.shape
            self._states[layer] = states.new_empty((2, 0, heads, 0, size))

    def aim(self, rows: slice, positions: torch.Tensor, length: int, *, fresh: bool = False) -> None:
        """Prepare a forward pass.

        Args:
            rows: the rows it is for.
            positions: [rows, tokens], where in its row each token is written.
            length: the pass reads this many tokens of each row.
            fresh: the rows are empty so far, so the new keys and values are all there is to read.
        """
        # `write` sees a layer's keys as one long list, [rows * heads * capacity, head size]. The entry of a token lies
        # (row * heads + head) * capacity + position from its beginning. Layers differ in capacity only where memory
        # ended while they grew.
        self._indices.clear()
        for heads, capacity in {tuple(states.shape[2:4]) for states in self._states}:
            first = torch.arange(rows.start * heads, rows.stop * heads, device=positions.device) * capacity
            self._indices[capacity] = (first.view(-1, heads, 1) + positions[:, None]).flatten()
        self._rows, self._length, self._fresh = rows, length, fresh

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values, [rows, heads, tokens, head size].

        Returns:
            All that the pass may read: keys and values, [rows, heads, length, head size] each.
        """
        all_keys, all_values = self._states[layer].unbind()
        index, size = self._indices[all_keys.shape[2]], keys.shape[-1]
        all_keys.view(-1, size).index_copy_(0, index, keys.reshape(-1, size))
        all_values.view(-1, size).index_copy_(0, index, values.reshape(-1, size))
        if self._fresh:
            return keys, values
        return all_keys[self._rows, :, : self._length], all_values[self._rows, :, : self._length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens over another row."""
        for states in self._states:
            states[:, target, :, :length] = states[:, source, :, :length]

    def export(self, row: int, length: int) -> torch.Tensor:
        """Return a copy of a row's beginning, [layers, 2, heads, length, head size]."""
        return torch.stack([states[:, row, :, :length] for states in self._states])

    def restore(self, row: int, prefix: torch.Tensor) -> None:
        """Fill the beginning of a row with what `export` returned, or the beginning of that."""
        for states, kept in zip(self._states, prefix, strict=True):
            states[:, row, :, : kept.shape[2]] = kept


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # its base is not analysed
    """The cache as one layer of the model sees it."""

    def __init__(self, cache: SlotCache, layer: int) -> None:
        super().__init__()
        self._cache = cache
        self._layer = layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values, [rows, heads, tokens, head size], and return all that the pass may read."""
        return self._cache.write(self._layer, key_states, value_states)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: `reserve` makes the room."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache._length, 0

    def get_seq_length(self) -> int:
        return self._cache._length

    def get_max_length(self) -> int:
        return -1


def _grown(states: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Return a layer's states, [2, rows, heads, length, head size], with room for at least so many rows and tokens."""
    pair, old_rows, heads, old_length, size = states.shape
    grown = states.new_zeros((pair, max(rows, old_rows), heads, max(length, old_length), size))
    grown[:, :old_rows, :, :old_length] = states
    return grown
