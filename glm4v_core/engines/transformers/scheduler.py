"""Decides which requests are prefilled next and in which rows; pure bookkeeping without threads, clock or torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from glm4v_core.engines.transformers.prefixes import Prefix, common_prefix

if TYPE_CHECKING:
    from glm4v_core.engines.transformers.prefixes import Identity

PREFILL_TOKENS = 2048
"""Maximum number of tokens, including padding, in one prefill pass; a longer prompt is prefilled alone."""

SHARED_TOKENS = 64
"""A prompt that shares this many tokens with one that is about to be prefilled waits and reuses its keys and values."""


class Schedulable(Protocol):
    """What the scheduler needs to know about a request.

    Attributes:
        prefix: the cached beginning of its prompt; set when the request is admitted.
    """

    prefix: Prefix

    @property
    def identity(self) -> Identity:
        """[tokens], see `prefixes.Identity`."""
        ...

    @property
    def ready(self) -> bool:
        """Whether prefill can begin without waiting for image patches."""
        ...


R = TypeVar("R", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Move(Generic[R]):
    """`request` must move from the last row, `source`, to the freed row `target`, so that rows have no gaps."""

    request: R
    source: int
    target: int


class Scheduler(Generic[R]):
    """Tracks requests from the queue to their row until they leave. Not thread-safe.

    First come, first served among the requests that are ready: one whose image patches are still being made is passed
    by others near the head of the queue, so that no slot is idle while a ready request waits. If none is ready and none
    is running, the first is admitted anyway, and prefill waits for its patches. A pass takes as many requests as can be
    padded without much waste.

    Args:
        slots: maximum number of requests that run at once.
        find: returns the cached beginning of a prompt.
        reuses: whether prompts that are prefilled now can be found by `find` later.
    """

    def __init__(self, slots: int, find: Callable[[Identity], Prefix], *, reuses: bool) -> None:
        self._slots = slots
        self._find = find
        self._reuses = reuses
        # Dictionaries serve as ordered sets: a request may leave from the middle of the queue.
        self._waiting: dict[R, None] = {}
        self._reading: dict[R, None] = {}
        self._running: list[R] = []

    @property
    def running(self) -> Sequence[R]:
        """Requests whose prompt has been prefilled; the index is the row."""
        return self._running

    @property
    def idle(self) -> bool:
        """Whether every request has left."""
        return not (self._running or self._reading or self._waiting)

    @property
    def requests(self) -> list[R]:
        """All requests that were submitted and have not left."""
        return [*self._running, *self._reading, *self._waiting]

    def upcoming(self) -> Iterator[R]:
        """Yield the first requests of the queue. Their images should be prepared by now; only they may be admitted."""
        return islice(self._waiting, 2 * self._slots)

    def submit(self, request: R) -> None:
        """Append a request to the queue."""
        self._waiting[request] = None

    def admit(self) -> list[R]:
        """Remove the requests for the next prefill pass from the queue and return them.

        Each must be passed to `start` or `leave` before the next call.
        """
        group = list(self._group())
        for request in group:
            del self._waiting[request]
        self._reading.update(dict.fromkeys(group))
        return group

    def start(self, requests: Sequence[R]) -> None:
        """Record that requests have been prefilled, in the rows after those in use."""
        for request in requests:
            del self._reading[request]
            self._running.append(request)

    def leave(self, request: R) -> Move[R] | None:
        """Remove a request, wherever it is. A request that has already left is ignored.

        Returns:
            The move that closes the gap; None if there is no gap.
        """
        self._waiting.pop(request, None)
        self._reading.pop(request, None)
        if request not in self._running:
            return None
        row, last = self._running.index(request), self._running.pop()
        if last is request:
            return None
        self._running[row] = last
        return Move(last, len(self._running), row)

    def _group(self) -> Iterator[R]:
        """Yield the first ready requests, as many as should share one prefill pass."""
        group: list[R] = []
        widths: list[int] = []
        for request in islice(self._readable(), self._slots - len(self._running)):
            prefix = self._find(request.identity)
            widths.append(len(request.identity) - prefix.length)
            # All prompts of a pass are padded to the longest: stop before padding would be half of the work.
            padded = max(widths) * len(widths)
            too_wide = padded > min(PREFILL_TOKENS, 2 * sum(widths))
            if group and (too_wide or self._shares(request, group, prefix.length)):
                return
            request.prefix = prefix
            group.append(request)
            yield request

    def _readable(self) -> Sequence[R]:
        upcoming = list(self.upcoming())
        ready = [request for request in upcoming if request.ready]
        return ready if ready or self._running else upcoming[:1]

    def _shares(self, request: R, group: Sequence[R], known: int) -> bool:
        """Tell whether a prompt shares a long beginning with one that is about to be prefilled."""
        if not self._reuses:
            return False
        shared = max(common_prefix(request.identity, other.identity) for other in group)
        return shared - known >= SHARED_TOKENS
