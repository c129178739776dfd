"""What was computed once and may be needed again: features of images, and keys and values of prompt beginnings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Identity = np.ndarray[tuple[int], np.dtype[np.int64]]
"""One number per prompt token: its id, or for a visual token the image's hash, made negative."""

SHORTEST_PREFIX = 16
"""Prompt beginnings under this many tokens are faster computed than looked up."""


@dataclass(frozen=True, slots=True)
class _Entry:
    tensor: torch.Tensor
    identity: Identity | None = None

    @property
    def size(self) -> int:
        return int(self.tensor.numel() * self.tensor.element_size())


class ReuseCache:
    """Keeps tensors under one bound on their bytes; the least recently used go first. Not thread-safe."""

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

    def features(self, key: str) -> torch.Tensor | None:
        """Return an image's visual tokens, [tokens, hidden size]."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key].tensor

    def keep_features(self, key: str, features: torch.Tensor) -> None:
        self._keep(key, _Entry(features))

    def prefix(self, identity: Identity) -> tuple[int, torch.Tensor | None]:
        """Find the stored prompt that shares the longest beginning with this one.

        Returns:
            How many tokens are shared, at least one fewer than the prompt has, and their keys and values.
        """
        best, found = 0, None
        for key, entry in self._entries.items():
            if entry.identity is not None and (shared := common_prefix(entry.identity, identity)) > best:
                best, found = shared, key
        best = min(best, len(identity) - 1)
        if found is None or best < SHORTEST_PREFIX:
            return 0, None
        self._entries.move_to_end(found)
        return best, self._entries[found].tensor[:, :, :, :best]

    def keep_prefix(self, identity: Identity, known: int, export: Callable[[], torch.Tensor]) -> None:
        """Store a prompt's keys and values, unless most of it is stored already.

        Args:
            identity: the whole prompt's.
            known: what `prefix` returned for it.
            export: copies the keys and values; called only when they are kept.
        """
        if not self.enabled or len(identity) < SHORTEST_PREFIX or known > 0.75 * len(identity):
            return
        covered = [
            key
            for key, entry in self._entries.items()
            if entry.identity is not None and common_prefix(entry.identity, identity) == len(entry.identity)
        ]
        for key in covered:
            self._drop(key)
        self._keep(identity.tobytes(), _Entry(export(), identity))

    def clear(self) -> bool:
        """Forget everything; tell whether there was anything."""
        had = bool(self._entries)
        self._entries.clear()
        self._size = 0
        return had

    def _keep(self, key: Hashable, entry: _Entry) -> None:
        if entry.size > self._capacity:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = entry
        self._size += entry.size
        while self._size > self._capacity:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        self._size -= self._entries.pop(key).size


def common_prefix(one: Identity, other: Identity) -> int:
    """Count the equal tokens at the beginning of two prompts."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
