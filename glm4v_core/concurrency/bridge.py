"""Bridges to the engine loop, for coroutines and streams, from threads and from other event loops.

The names tell how the caller waits: `run_sync` and `iterate_sync` block the calling thread, `run_async` and
`iterate_async` are awaited in the caller's event loop. Only coroutines of engines use these bridges. Coroutines that
run user code belong in a separate loop, see `own_loop`.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from glm4v_core.concurrency.loop import engine_loop, on_engine_loop, refuse_on_engine_loop, runs_here
from glm4v_core.errors import EngineDeadError

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the engine loop and block this thread until it returns; an interrupt cancels it.

    Raises:
        UnsupportedError: called on the engine loop, which would deadlock.
    """
    refuse_on_engine_loop(coroutine)
    future = asyncio.run_coroutine_threadsafe(coroutine, engine_loop())
    try:
        return future.result()
    finally:
        future.cancel()


async def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the engine loop and await it in any loop; cancelling the caller cancels the coroutine."""
    if on_engine_loop():
        return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, engine_loop()))


def iterate_sync(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Run a generator on the engine loop and block this thread for each item.

    Closing the result cancels the generator and waits until it is closed.

    Raises:
        UnsupportedError: called on the engine loop, which would deadlock.
    """
    refuse_on_engine_loop()
    yield from iterate_on(engine_loop(), source)


async def iterate_async(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Run a generator on the engine loop and await its items in any loop.

    Closing the result cancels the generator and waits until it is closed.
    """
    here = asyncio.get_running_loop()
    items: asyncio.Queue[T | _StreamEnd] = asyncio.Queue()

    def deliver(item: T | _StreamEnd) -> None:
        if not here.is_closed():
            here.call_soon_threadsafe(items.put_nowait, item)

    pump = _Pump(engine_loop(), source, deliver)
    item: T | _StreamEnd | None = None
    try:
        while not isinstance(item := await items.get(), _StreamEnd):
            yield item
        item.check()
    finally:
        pump.cancel()
        while not isinstance(item, _StreamEnd):
            item = await items.get()


def iterate_on(loop: asyncio.AbstractEventLoop, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Run a generator on any loop of another thread and block this thread for each item; see `iterate_sync`.

    Args:
        loop: runs in another thread.
        source: is iterated in one task of that loop.
    """
    items: queue.SimpleQueue[T | _StreamEnd] = queue.SimpleQueue()
    pump = _Pump(loop, source, items.put)
    item: T | _StreamEnd | None = None
    try:
        while not isinstance(item := items.get(), _StreamEnd):
            yield item
        item.check()
    finally:
        pump.cancel()
        # Wait for the generator to close. Not on one of these loops, where the garbage collector may close an abandoned
        # stream: the loop would wait for itself.
        while not isinstance(item, _StreamEnd) and not (on_engine_loop() or runs_here(loop)):
            item = items.get()


@dataclass(frozen=True, slots=True)
class _StreamEnd:
    """The last item that a pump delivers: how its generator ended."""

    cancelled: bool
    error: BaseException | None

    @classmethod
    def of(cls, task: asyncio.Task[None]) -> _StreamEnd:
        """Read the outcome of a finished task."""
        return cls(True, None) if task.cancelled() else cls(False, task.exception())

    def check(self) -> None:
        """Raise the error that ended the generator, if there was one."""
        if self.cancelled:
            raise EngineDeadError("The event loop stopped before the answer was complete.")
        if self.error is not None:
            raise self.error


class _Pump(Generic[T]):
    """Runs a generator in one task of a loop and delivers its items, then an `_StreamEnd`.

    A single task runs the whole generator, because timeouts and context variables inside it are bound to their task.

    Args:
        loop: may run in any thread.
        source: the generator.
        deliver: called in the loop's thread with each item.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: AsyncGenerator[T, None],
        deliver: Callable[[T | _StreamEnd], None],
    ) -> None:
        self._loop = loop
        self._source = source
        self._deliver = deliver
        self._task: asyncio.Task[None]  # set by `_start`; the loop runs it before `_cancel`, in the order of the calls
        self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Cancel the generator; has no effect once it has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._pump())
        self._task.add_done_callback(lambda task: self._deliver(_StreamEnd.of(task)))

    def _cancel(self) -> None:
        self._task.cancel()

    async def _pump(self) -> None:
        async with aclosing(self._source):
            async for item in self._source:
                self._deliver(item)
