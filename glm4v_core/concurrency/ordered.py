"""Concurrent work on a long sequence of items, with bounded memory and results in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from glm4v_core.errors import ConfigError

S = TypeVar("S")
R = TypeVar("R")

PAGES_IN_FLIGHT = 16
"""Default number of pages processed at once."""
WORKFLOW_PAGES_IN_FLIGHT = 32
"""Default number of pages processed at once in a host's document workflow. It is higher because a page is idle between
its steps, and other pages keep the engine busy meanwhile."""
RUNNING_PER_PREFETCHED = 4
"""Prefetch one item per this many running ones, so that a freed slot never waits."""
FINISHED_AHEAD = 8
"""Maximum number of results kept while a slow item holds them up, as a multiple of `concurrency`."""


async def in_order(
    items: Iterable[S], work: Callable[[S], Coroutine[Any, Any, R]], concurrency: int = PAGES_IN_FLIGHT
) -> AsyncGenerator[R]:
    """Process up to `concurrency` items at once and yield the results in the order of the items.

    Closing the generator cancels the work that is still running.

    Args:
        items: fetched in a thread, since fetching an item may render a page, and only a few ahead of a free slot.
        work: processes one item. Its error is raised at the item's turn and ends the generator.
        concurrency: number of items processed at once.

    Raises:
        ConfigError: concurrency is less than one.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1, not {concurrency}.")
    line = _Line(items, work, concurrency)
    fetching = asyncio.create_task(line.fetch_all())
    # None marks the end of the queue, also if fetching failed.
    fetching.add_done_callback(lambda _: line.begun.put_nowait(None))
    try:
        while (task := await line.begun.get()) is not None:
            yield await task
            line.remove(task)
        await fetching  # raises the error of the iterable, if there was one
    finally:
        for begun in (fetching, *line.tasks):
            begun.cancel()
        await asyncio.gather(fetching, *line.tasks, return_exceptions=True)


async def all_at_once(runs: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Run a few coroutines at once and return their results in order; when one fails, the others are cancelled."""
    tasks = [asyncio.create_task(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Line(Generic[S, R]):
    """Tasks in the order of their items, with bounds on how many are running, prefetched and finished.

    Attributes:
        tasks: all that have started and whose result has not been taken.
        begun: the same tasks in order; None after the last one.
    """

    def __init__(self, items: Iterable[S], work: Callable[[S], Coroutine[Any, Any, R]], concurrency: int) -> None:
        self._items = iter(items)
        self._work = work
        # Three bounds: items being processed, items fetched but not finished, and tasks whose result is not taken yet.
        self._slots = asyncio.Semaphore(concurrency)
        self._fetched = asyncio.Semaphore(concurrency + math.ceil(concurrency / RUNNING_PER_PREFETCHED))
        self._kept = asyncio.Semaphore(concurrency * FINISHED_AHEAD)
        self.tasks: set[asyncio.Task[R]] = set()
        self.begun: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()

    async def fetch_all(self) -> None:
        """Fetch every item and start its task, as soon as the bounds allow."""
        while True:
            await self._kept.acquire()
            await self._fetched.acquire()
            item = await asyncio.to_thread(next, self._items, _EXHAUSTED)
            if isinstance(item, _Exhausted):
                return
            self._begin(item)

    def _begin(self, item: S) -> None:
        task = asyncio.create_task(self._work_in_slot(item))
        task.add_done_callback(lambda _: self._fetched.release())
        self.tasks.add(task)
        self.begun.put_nowait(task)

    async def _work_in_slot(self, item: S) -> R:
        async with self._slots:  # a fair semaphore: tasks get it in the order of their items
            return await self._work(item)

    def remove(self, task: asyncio.Task[R]) -> None:
        """Make room for another result, since the caller has taken this one."""
        self.tasks.discard(task)
        self._kept.release()


class _Exhausted:
    """Type of the end marker; a class, because any other value could be an item."""


_EXHAUSTED = _Exhausted()
