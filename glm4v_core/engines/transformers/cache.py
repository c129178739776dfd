"""Keys and values of all running requests: one row each, written at its own position."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "glm4v_grouped"
BLOCK = 64
"""Attention reads rows in steps of this many tokens."""

GROWTH = 256
"""Rows grow in steps of this many tokens."""


class Slots(Cache):  # type: ignore[misc]  # its base is not analysed
    """A key-value cache with a row per request.

    The store is one tensor [layers, 2, rows, heads, length, head size]. `aim` says before each forward pass which rows
    it is for and where each row writes; the layers then do so.
    """

    def __init__(self, *, layers: int, heads: int, head_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self._store = torch.empty((layers, 2, 0, heads, 0, head_size), device=device, dtype=dtype)
        self._rows = slice(0, 0)
        self._length = 0
        self._index = torch.empty(0, dtype=torch.long, device=device)
        self._fresh = False
        super().__init__(layers=[_Layer(self, layer) for layer in range(layers)])

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, keeping what is there."""
        layers, pair, old_rows, heads, old_length, size = self._store.shape
        if rows <= old_rows and length <= old_length:
            return
        if length > old_length:
            # At least half as much again, so that a long answer is not copied at every step.
            length = -(-max(length, old_length * 3 // 2) // GROWTH) * GROWTH
        shape = (layers, pair, max(rows, old_rows), heads, max(length, old_length), size)
        store = self._store.new_zeros(shape)
        store[:, :, :old_rows, :, :old_length] = self._store
        self._store = store

    def release(self) -> None:
        """Give the memory back; only while no row is in use."""
        layers, pair, _, heads, _, size = self._store.shape
        self._store = self._store.new_empty((layers, pair, 0, heads, 0, size))

    def aim(self, rows: slice, positions: torch.Tensor, length: int, *, fresh: bool = False) -> None:
        """Prepare a forward pass.

        Args:
            rows: the rows it is for.
            positions: [rows, tokens], where in its row each token is written.
            length: the pass reads this many tokens of each row.
            fresh: the rows are empty so far, so the new keys and values are all there is to read.
        """
        heads, capacity = self._store.shape[3:5]
        first = torch.arange(rows.start * heads, rows.stop * heads, device=positions.device) * capacity
        self._index = (first.view(-1, heads, 1) + positions[:, None]).flatten()
        self._rows, self._length, self._fresh = rows, length, fresh

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values, [rows, heads, tokens, head size], and return all that the pass may read."""
        all_keys, all_values = self._store[layer].unbind()
        size = keys.shape[-1]
        all_keys.view(-1, size).index_copy_(0, self._index, keys.reshape(-1, size))
        all_values.view(-1, size).index_copy_(0, self._index, values.reshape(-1, size))
        if self._fresh:
            return keys, values
        return all_keys[self._rows, :, : self._length], all_values[self._rows, :, : self._length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens over another row."""
        self._store[:, :, target, :, :length] = self._store[:, :, source, :, :length]

    def export(self, row: int, length: int) -> torch.Tensor:
        """Return a copy of a row's beginning, [layers, 2, heads, length, head size]."""
        return self._store[:, :, row, :, :length].clone()

    def restore(self, row: int, prefix: torch.Tensor) -> None:
        """Fill the beginning of a row with what `export` returned, or the beginning of that."""
        self._store[:, :, row, :, : prefix.shape[3]] = prefix


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # its base is not analysed
    """The view of one model layer on the store."""

    def __init__(self, slots: Slots, layer: int) -> None:
        super().__init__()
        self._slots = slots
        self._layer = layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._slots.write(self._layer, key_states, value_states)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the store exists already."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots._length, 0

    def get_seq_length(self) -> int:
        return self._slots._length

    def get_max_length(self) -> int:
        return -1


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend without repeating keys and values for the query heads that share them.

    While decoding, the query heads of one group become the rows of one small matrix. That reads the cache once, where
    the usual repetition copies it as often as a group has heads (16 in the 9B models).
    """
    rows, heads, tokens, size = query.shape
    shared = key.shape[1]
    if tokens == 1:
        query = query.view(rows, shared, heads // shared, size)
        output = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
        return output.reshape(rows, 1, heads, size), None
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, grouped_attention)
