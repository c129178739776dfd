"""Prompts that begin alike: a radix tree finds the longest beginning whose keys and values are held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from glm4v_core.engines.transformers.reuse import ReuseCache

Identity = np.ndarray[tuple[int], np.dtype[np.int64]]
"""One number per prompt token: its id, or for a visual token the image's hash, made negative."""

SHORTEST_PREFIX = 16
"""Prompt beginnings under this many tokens are faster computed than looked up."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt whose keys and values are held.

    Attributes:
        length: its tokens.
        states: keys and values, [layers, 2, heads, length, head size]; None if `length` is 0.
    """

    length: int = 0
    states: torch.Tensor | None = None


NO_PREFIX = Prefix()


class PrefixCache:
    """Finds and keeps the keys and values of prompts. Not thread-safe.

    Args:
        reuse: holds the tensors, under the bound that they share with the features of images.
    """

    def __init__(self, reuse: ReuseCache) -> None:
        self._reuse = reuse
        self._tree = PrefixTree()

    @property
    def enabled(self) -> bool:
        return self._reuse.enabled

    def find(self, identity: Identity) -> Prefix:
        """Return the longest held beginning of a prompt, at least one token shorter than the prompt itself."""
        shared, key = self._tree.longest(identity)
        length = min(shared, len(identity) - 1)
        if key is None or length < SHORTEST_PREFIX:
            return NO_PREFIX
        states = self._reuse.get(key)
        return NO_PREFIX if states is None else Prefix(length, states[:, :, :, :length])

    def keep(self, identity: Identity, known: int, export: Callable[[], torch.Tensor]) -> None:
        """Keep a prompt's keys and values, unless most of them are held already.

        Args:
            identity: the whole prompt's.
            known: length of the prefix with which it was read.
            export: copies the keys and values; called only when they are kept.
        """
        if not self.enabled or len(identity) < SHORTEST_PREFIX or known > 0.75 * len(identity):
            return
        # The new prompt covers every kept one that it begins with.
        for key in self._tree.covered(identity):
            self._reuse.drop(key)
        key = identity.tobytes()
        if self._reuse.keep(key, export(), lambda: self._tree.remove(identity)):
            self._tree.insert(identity, key)


@dataclass(slots=True, eq=False)
class _Node:
    """A point where kept prompts end or part.

    Attributes:
        edge: the tokens between the parent and this node.
        own: key of the prompt that ends here; None if none does.
        any: key of one of the prompts that begin with the tokens down to this node.
        children: by the first token of their edge.
    """

    edge: Identity
    own: bytes | None = None
    any: bytes | None = None
    children: dict[int, _Node] = field(default_factory=dict)

    def adopt(self, child: _Node) -> None:
        self.children[int(child.edge[0])] = child

    def choose(self) -> None:
        """Choose `any` again, after the node or one of its children has changed."""
        self.any = self.own or next((child.any for child in self.children.values()), None)


class PrefixTree:
    """A radix tree of prompts: a look-up reads the prompt once, however many prompts the tree holds."""

    def __init__(self) -> None:
        self._root = _Node(np.empty(0, dtype=np.int64))

    def longest(self, identity: Identity) -> tuple[int, bytes | None]:
        """Return how many tokens a prompt shares with the tree's most similar one, and the key of such a one."""
        path = self._walk(identity)
        return sum(shared for _, shared in path), path[-1][0].any

    def covered(self, identity: Identity) -> list[bytes]:
        """Return the keys of prompts that are the beginning of another prompt, or equal to it."""
        path = self._walk(identity)
        return [node.own for node, shared in path if node.own is not None and shared == len(node.edge)]

    def insert(self, identity: Identity, key: bytes) -> None:
        """Add a prompt."""
        path = self._walk(identity)
        node, shared = path[-1]
        if shared < len(node.edge):
            node = _split(path[-2][0], node, shared)
            path[-1] = node, shared
        done = sum(shared for _, shared in path)
        if done < len(identity):
            leaf = _Node(identity[done:])
            node.adopt(leaf)
            path.append((leaf, len(leaf.edge)))
        path[-1][0].own = key
        for node, _ in reversed(path):
            node.choose()

    def remove(self, identity: Identity) -> None:
        """Take out a prompt that was added."""
        nodes = [node for node, _ in self._walk(identity)]
        nodes[-1].own = None
        for parent, node in zip(nodes[-2::-1], nodes[:0:-1], strict=True):
            node.choose()
            if node.own is None and len(node.children) < 2:
                _bypass(parent, node)
        self._root.choose()

    def _walk(self, identity: Identity) -> list[tuple[_Node, int]]:
        """Follow a prompt downward from the root.

        Returns:
            Each node, and how many tokens of its edge the prompt shares: all of them, but for the last node.
        """
        path = [(self._root, 0)]
        done = 0
        while done < len(identity):
            child = path[-1][0].children.get(int(identity[done]))
            if child is None:
                break
            shared = common_prefix(child.edge, identity[done:])
            path.append((child, shared))
            if shared < len(child.edge):
                break
            done += shared
        return path


def _split(parent: _Node, child: _Node, shared: int) -> _Node:
    """Put a node into a child's edge, behind its first `shared` tokens."""
    middle = _Node(child.edge[:shared])
    child.edge = child.edge[shared:]
    middle.adopt(child)
    parent.adopt(middle)
    return middle


def _bypass(parent: _Node, node: _Node) -> None:
    """Take out a node where no prompt ends and none part."""
    del parent.children[int(node.edge[0])]
    for child in node.children.values():
        child.edge = np.concatenate((node.edge, child.edge))
        parent.adopt(child)


def common_prefix(one: Identity, other: Identity) -> int:
    """Count the equal tokens at the beginning of two prompts."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
