"""Prefix cache: a radix tree finds the longest beginning of a prompt whose keys and values are cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from glm4v_core.engines.transformers.reuse import ReuseCache

Identity = np.ndarray[tuple[int], np.dtype[np.int64]]
"""[tokens], one number per prompt token: the token id, or a negative hash of the image for a visual token."""

SHORTEST_PREFIX = 16
"""Prefixes with fewer tokens are computed faster than they are looked up."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt whose keys and values are cached.

    Attributes:
        length: number of tokens.
        states: keys and values, [layers, 2, heads, length, head size]; None if `length` is 0.
    """

    length: int = 0
    states: torch.Tensor | None = None


NO_PREFIX = Prefix()


class PrefixCache:
    """Caches the keys and values of prompts. Not thread-safe.

    Args:
        reuse: keeps the tensors, within a limit that they share with image features.
    """

    def __init__(self, reuse: ReuseCache) -> None:
        self._reuse = reuse
        self._tree = PrefixTree()

    @property
    def enabled(self) -> bool:
        """Whether anything is cached."""
        return self._reuse.enabled

    def find(self, identity: Identity) -> Prefix:
        """Return the longest cached beginning of a prompt, [tokens]."""
        shared, key = self._tree.longest(identity)
        # At least one token must be prefilled, since its logits give the first token of the answer.
        length = min(shared, len(identity) - 1)
        if key is None or length < SHORTEST_PREFIX:
            return NO_PREFIX
        states = self._reuse.get(key)
        return NO_PREFIX if states is None else Prefix(length, states[:, :, :, :length])

    def keep(self, identity: Identity, known: int, export: Callable[[], torch.Tensor]) -> None:
        """Cache a prompt's keys and values, unless most of them are already cached.

        Args:
            identity: of the whole prompt, [tokens].
            known: length of the cached prefix that was used to prefill it.
            export: copies the keys and values, [layers, 2, heads, tokens, head size]; called only if they are cached.
        """
        if not self.enabled or len(identity) < SHORTEST_PREFIX or known > 0.75 * len(identity):
            return
        # Cached prompts with which the new one begins are redundant now.
        for key in self._tree.covered(identity):
            self._reuse.drop(key)
        key = identity.tobytes()
        if self._reuse.keep(key, export(), lambda: self._tree.remove(identity)):
            self._tree.insert(identity, key)


@dataclass(slots=True, eq=False)
class _Node:
    """A node of the tree, where a cached prompt ends or several prompts diverge.

    Attributes:
        edge: the tokens between the parent and this node, [tokens].
        own: key of the prompt that ends here; None if there is none.
        any: key of any prompt that begins with the tokens from the root to this node.
        children: by the first token of their edge.
    """

    edge: Identity
    own: bytes | None = None
    any: bytes | None = None
    children: dict[int, _Node] = field(default_factory=dict)

    def adopt(self, child: _Node) -> None:
        """Make a node a child of this one."""
        self.children[int(child.edge[0])] = child

    def choose(self) -> None:
        """Update `any` after the node or one of its children has changed."""
        self.any = self.own or next((child.any for child in self.children.values()), None)


class PrefixTree:
    """A radix tree of prompts. The time of a look-up depends on the length of the prompt, not on their number."""

    def __init__(self) -> None:
        self._root = _Node(np.empty(0, dtype=np.int64))

    def longest(self, identity: Identity) -> tuple[int, bytes | None]:
        """Return the longest beginning that a prompt, [tokens], shares with one in the tree, and that one's key."""
        path = self._walk(identity)
        return sum(shared for _, shared in path), path[-1][0].any

    def covered(self, identity: Identity) -> list[bytes]:
        """Return the keys of the prompts in the tree with which a prompt, [tokens], begins, or which equal it."""
        path = self._walk(identity)
        return [node.own for node, shared in path if node.own is not None and shared == len(node.edge)]

    def insert(self, identity: Identity, key: bytes) -> None:
        """Add a prompt, [tokens]."""
        path = self._walk(identity)
        node, shared = path[-1]
        if shared < len(node.edge):  # the prompt diverges in the middle of an edge
            node = _split(path[-2][0], node, shared)
            path[-1] = node, shared
        done = sum(shared for _, shared in path)
        if done < len(identity):
            leaf = _Node(identity[done:])
            node.adopt(leaf)
            path.append((leaf, len(leaf.edge)))
        path[-1][0].own = key
        for node, _ in reversed(path):  # from the leaf up, since `any` depends on the children
            node.choose()

    def remove(self, identity: Identity) -> None:
        """Remove a prompt, [tokens], that was added."""
        nodes = [node for node, _ in self._walk(identity)]
        nodes[-1].own = None
        for parent, node in zip(nodes[-2::-1], nodes[:0:-1], strict=True):
            node.choose()
            if node.own is None and len(node.children) < 2:
                _bypass(parent, node)
        self._root.choose()

    def _walk(self, identity: Identity) -> list[tuple[_Node, int]]:
        """Follow a prompt, [tokens], down from the root.

        Returns:
            Each node and the number of tokens of its edge that the prompt shares: all, except at the last node.
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
    """Split the edge of a child after its first `shared` tokens; return the new node between them."""
    middle = _Node(child.edge[:shared])
    child.edge = child.edge[shared:]
    middle.adopt(child)
    parent.adopt(middle)
    return middle


def _bypass(parent: _Node, node: _Node) -> None:
    """Remove a node where no prompt ends and no prompts diverge."""
    del parent.children[int(node.edge[0])]
    for child in node.children.values():
        child.edge = np.concatenate((node.edge, child.edge))
        parent.adopt(child)


def common_prefix(one: Identity, other: Identity) -> int:
    """Return the number of equal tokens at the beginning of two prompts, [tokens] each."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
