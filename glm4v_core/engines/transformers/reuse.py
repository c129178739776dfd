"""Tensors that may be needed again, under one bound on their bytes: features of images, keys and values of prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class _Entry:
    tensor: torch.Tensor
    dropped: Callable[[], None]

    @property
    def size(self) -> int:
        return int(self.tensor.numel() * self.tensor.element_size())


class ReuseCache:
    """Keeps tensors by key; the least recently used go first. Not thread-safe.

    Args:
        capacity: most bytes held; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        return self._capacity > 0

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def get(self, key: Hashable) -> torch.Tensor | None:
        """Return a tensor, which becomes the most recently used one; None if it is not held."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key].tensor

    def keep(self, key: Hashable, tensor: torch.Tensor, dropped: Callable[[], None] = _nothing) -> bool:
        """Hold a tensor, in place of one with the same key; return whether it fits at all.

        Args:
            dropped: called once the tensor is no longer held, whatever the reason.
        """
        entry = _Entry(tensor, dropped)
        if entry.size > self._capacity:
            return False
        self.drop(key)
        self._entries[key] = entry
        self._size += entry.size
        while self._size > self._capacity:
            self.drop(next(iter(self._entries)))
        return True

    def drop(self, key: Hashable) -> None:
        """Stop holding a tensor; a key that is not held is ignored."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
            entry.dropped()

    def clear(self) -> bool:
        """Drop everything; return whether there was anything."""
        had = bool(self._entries)
        for key in list(self._entries):
            self.drop(key)
        return had
