"""The KV cache: keys and values of all running requests, one row per request."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK = 64
"""The length that attention reads is rounded up to a multiple of this many tokens."""

GROWTH = 256
"""The length of the rows is rounded up to a multiple of this many tokens."""


class SlotCache(Cache):  # type: ignore[misc]  # its base is not analysed
    """A KV cache with one row per request.

    Each layer of the model has one tensor, [2, rows, heads, length, head size], first keys, then values. Before each
    forward pass `aim` sets which rows take part and at which index each of them writes.

    Args:
        layers: number of layers.
        heads: number of key-value heads.
        head_size: size of each head.
        device: of the tensors.
        dtype: of the tensors.
    """

    def __init__(self, *, layers: int, heads: int, head_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self._states = [torch.empty((2, 0, heads, 0, head_size), device=device, dtype=dtype) for _ in range(layers)]
        self._rows = slice(0, 0)
        self._length = 0
        self._indices: dict[int, torch.Tensor] = {}
        self._fresh = False
        super().__init__(layers=[_Layer(self, layer) for layer in range(layers)])

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, and keep the contents.

        Layers grow one by one, so that only one layer is in memory twice. If memory runs out in between, the first
        layers stay larger, which all other methods can handle.
        """
        # The last layer grows last, so it is the smallest.
        _, old_rows, _, old_length, _ = self._states[-1].shape
        if rows <= old_rows and length <= old_length:
            return
        if length > old_length:
            # Grow by at least half, so that a long answer is not copied again and again.
            length = -(-max(length, old_length * 3 // 2) // GROWTH) * GROWTH
        for layer in range(len(self._states)):
            self._states[layer] = _grown(self._states[layer], rows, length)

    def release(self) -> None:
        """Free the memory; allowed only while no row is in use."""
        for layer, states in enumerate(self._states):
            _, _, heads, _, size = states.shape
            self._states[layer] = states.new_empty((2, 0, heads, 0, size))

    def aim(self, rows: slice, positions: torch.Tensor, length: int, *, fresh: bool = False) -> None:
        """Prepare a forward pass.

        Args:
            rows: the rows that take part.
            positions: [rows, tokens], the index in its row at which each token is written.
            length: number of tokens of each row that the pass reads.
            fresh: whether the rows were empty, so that the pass reads only the new keys and values.
        """
        # `write` treats a layer's keys as a flat list, [rows * heads * capacity, head size], in which a token has the
        # index (row * heads + head) * capacity + position. These indices are computed here once for all layers. The
        # layers differ in capacity only if memory ran out while they grew.
        self._indices.clear()
        for heads, capacity in {tuple(states.shape[2:4]) for states in self._states}:
            first = torch.arange(rows.start * heads, rows.stop * heads, device=positions.device) * capacity
            self._indices[capacity] = (first.view(-1, heads, 1) + positions[:, None]).flatten()
        self._rows, self._length, self._fresh = rows, length, fresh

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values of one layer.

        Args:
            layer: index of the layer.
            keys: [rows, heads, tokens, head size].
            values: [rows, heads, tokens, head size].

        Returns:
            Keys and values that the pass reads, [rows, heads, length, head size] each.
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
        """Return a copy of a row's first `length` tokens, [layers, 2, heads, length, head size]."""
        return torch.stack([states[:, row, :, :length] for states in self._states])

    def restore(self, row: int, prefix: torch.Tensor) -> None:
        """Write a prefix, [layers, 2, heads, length, head size], to the beginning of a row."""
        for states, kept in zip(self._states, prefix, strict=True):
            states[:, row, :, : kept.shape[2]] = kept


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # its base is not analysed
    """One layer of the cache, in the form that transformers expects."""

    def __init__(self, cache: SlotCache, layer: int) -> None:
        super().__init__()
        self._cache = cache
        self._layer = layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values, [rows, heads, tokens, head size], and return those to read, see `SlotCache.write`."""
        return self._cache.write(self._layer, key_states, value_states)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing, since `reserve` allocates the memory."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache._length, 0

    def get_seq_length(self) -> int:
        return self._cache._length

    def get_max_length(self) -> int:
        return -1


def _grown(states: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Return a copy of states, [2, rows, heads, length, head size], enlarged to at least `rows` and `length`."""
    pair, old_rows, heads, old_length, size = states.shape
    grown = states.new_zeros((pair, max(rows, old_rows), heads, max(length, old_length), size))
    grown[:, :old_rows, :, :old_length] = states
    return grown
