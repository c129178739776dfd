"""A cache for tensors, limited in bytes: image features, and keys and values of prompts."""

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
    """Keeps tensors by key and drops the least recently used ones. Not thread-safe.

    Args:
        capacity: maximum size in bytes; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._capacity > 0

    @property
    def size(self) -> int:
        """Size of all tensors in bytes."""
        return self._size

    def get(self, key: Hashable) -> torch.Tensor | None:
        """Return a tensor of any shape and mark it as recently used; None if the key is unknown."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key].tensor

    def keep(self, key: Hashable, tensor: torch.Tensor, dropped: Callable[[], None] = _nothing) -> bool:
        """Keep a tensor, replacing one with the same key.

        Args:
            key: for `get`.
            tensor: of any shape.
            dropped: called when the tensor is dropped for any reason.

        Returns:
            False if the tensor is larger than the capacity and was not kept.
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
        """Drop a tensor; an unknown key is ignored."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
            entry.dropped()

    def clear(self) -> bool:
        """Drop all tensors; return whether there were any."""
        had = bool(self._entries)
        for key in list(self._entries):
            self.drop(key)
        return had
