"""Which requests are read next and which rows they take. Plain bookkeeping: no thread, no clock, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from glm4v_core.engines.transformers.prefixes import Prefix, common_prefix

if TYPE_CHECKING:
    from glm4v_core.engines.transformers.prefixes import Identity

PREFILL_TOKENS = 2048
"""Most tokens, padding included, that one prefill pass reads together; a longer prompt is read alone."""

SHARED_TOKENS = 64
"""A prompt that shares this many tokens with one that is about to be read waits for it and reuses them."""


class Schedulable(Protocol):
    """What the scheduler knows of a request.

    Attributes:
        prefix: the part of its prompt that need not be read; set when the request is about to be read.
    """

    prefix: Prefix

    @property
    def identity(self) -> Identity: ...

    @property
    def ready(self) -> bool:
        """Whether reading can begin without waiting for pixels."""
        ...


R = TypeVar("R", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Move(Generic[R]):
    """Rows are occupied without gaps: `request` moves from the last row, `source`, into the freed row `target`."""

    request: R
    source: int
    target: int


class Scheduler(Generic[R]):
    """Follows each request from the line into a row and out again. Not thread-safe.

    First come, first served among those that are ready: a request whose pixels are still being made is passed by others
    near the head of the line, so that no slot is idle while a ready one waits. When nothing is ready and nothing runs,
    the first is read all the same, and the reader waits for its pixels. As many requests are read in one pass as are
    worth it.

    Args:
        slots: most requests that run at once.
        find: finds the held beginning of a prompt.
        reuses: whether what is read now can be found by `find` later.
    """

    def __init__(self, slots: int, find: Callable[[Identity], Prefix], *, reuses: bool) -> None:
        self._slots = slots
        self._find = find
        self._reuses = reuses
        # Dictionaries as ordered sets: a request may leave from the middle of the line.
        self._waiting: dict[R, None] = {}
        self._reading: dict[R, None] = {}
        self._running: list[R] = []

    @property
    def running(self) -> Sequence[R]:
        """Requests whose prompt is read, each at the index of its row."""
        return self._running

    @property
    def idle(self) -> bool:
        """Whether every request has left."""
        return not (self._running or self._reading or self._waiting)

    @property
    def requests(self) -> list[R]:
        """All that have been submitted and have not left."""
        return [*self._running, *self._reading, *self._waiting]

    def upcoming(self) -> Iterator[R]:
        """Yield the requests near the head of the line. Their pixels should be made by now; only they may be read."""
        return islice(self._waiting, 2 * self._slots)

    def submit(self, request: R) -> None:
        """Put a request at the end of the line."""
        self._waiting[request] = None

    def admit(self) -> list[R]:
        """Take the requests from the head of the line that are to be read next, in one pass.

        Each must be given to `start` or `leave` before the next call.
        """
        group = list(self._group())
        for request in group:
            del self._waiting[request]
        self._reading.update(dict.fromkeys(group))
        return group

    def start(self, requests: Sequence[R]) -> None:
        """Note that prompts were read, into the rows behind the occupied ones."""
        for request in requests:
            del self._reading[request]
            self._running.append(request)

    def leave(self, request: R) -> Move[R] | None:
        """Note that a request is finished, failed or cancelled, wherever it is; one that has left is ignored.

        Returns:
            Which row must be moved to close the gap; None if there is none.
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
        """Yield the first requests that are ready, as far as they are worth reading in one pass."""
        group: list[R] = []
        widths: list[int] = []
        for request in islice(self._readable(), self._slots - len(self._running)):
            prefix = self._find(request.identity)
            widths.append(len(request.identity) - prefix.length)
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
        """Whether a prompt could reuse what is about to be read for another one."""
        if not self._reuses:
            return False
        shared = max(common_prefix(request.identity, other.identity) for other in group)
        return shared - known >= SHARED_TOKENS
