"""Concurrent work on a long line of items, with bounded memory and results in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from glm4v_core.errors import ConfigError

S = TypeVar("S")
R = TypeVar("R")

PAGES_IN_FLIGHT = 16
"""Pages in work together by default."""
WORKFLOW_PAGES_IN_FLIGHT = 32
"""Pages in work together by default in a host's document workflow: while one step of a page waits for the next, other
pages keep the engine busy."""
DRAWN_AHEAD = 4
"""One item is prefetched per this many running ones, so that a freed slot does not wait for it."""
FINISHED_AHEAD = 8
"""Results kept behind one slow item, as a multiple of the items in flight."""


async def in_order(
    items: Iterable[S], work: Callable[[S], Coroutine[Any, Any, R]], concurrency: int = PAGES_IN_FLIGHT
) -> AsyncGenerator[R]:
    """Work on up to `concurrency` items at once and yield the results in the order of the items.

    Items are drawn in a thread, since drawing may mean rendering a page, and only a few ahead of a free slot.

    Raises:
        ConfigError: concurrency is less than one.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1, not {concurrency}.")
    line = _Line(items, work, concurrency)
    drawing = asyncio.create_task(line.draw())
    drawing.add_done_callback(lambda _: line.begun.put_nowait(None))
    try:
        while (task := await line.begun.get()) is not None:
            yield await task
            line.leave(task)
        await drawing  # raises what the items raised
    finally:
        for begun in (drawing, *line.tasks):
            begun.cancel()
        await asyncio.gather(drawing, *line.tasks, return_exceptions=True)


class _Line(Generic[S, R]):
    """Tasks in the order of their items, few running at once and not many more finished."""

    def __init__(self, items: Iterable[S], work: Callable[[S], Coroutine[Any, Any, R]], concurrency: int) -> None:
        self._items = iter(items)
        self._work = work
        self._places = asyncio.Semaphore(concurrency)
        self._drawn = asyncio.Semaphore(concurrency + math.ceil(concurrency / DRAWN_AHEAD))
        self._room = asyncio.Semaphore(concurrency * FINISHED_AHEAD)
        self.tasks: set[asyncio.Task[R]] = set()
        self.begun: asyncio.Queue[asyncio.Task[R] | None] = asyncio.Queue()

    async def draw(self) -> None:
        while True:
            await self._room.acquire()
            await self._drawn.acquire()
            item = await asyncio.to_thread(next, self._items, _END)
            if isinstance(item, _End):
                return
            self._begin(item)

    def _begin(self, item: S) -> None:
        task = asyncio.create_task(self._take_place(item))
        task.add_done_callback(lambda _: self._drawn.release())
        self.tasks.add(task)
        self.begun.put_nowait(task)

    async def _take_place(self, item: S) -> R:
        async with self._places:  # in the order of arrival
            return await self._work(item)

    def leave(self, task: asyncio.Task[R]) -> None:
        self.tasks.discard(task)
        self._room.release()


class _End:
    """Marks the end of the items, which may be anything."""


_END = _End()
