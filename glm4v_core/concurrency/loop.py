"""The one background event loop on which every engine lives, and the bridges to it from threads and other loops.

It starts with the first use and ends with the process. A forked child starts its own; engines that were loaded before
the fork stay with the parent and must be loaded again.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from glm4v_core.errors import EngineDeadError, UnsupportedError

T = TypeVar("T")

_SECONDS_TO_STOP = 5.0


class LoopThread:
    """A daemon thread that runs one event loop until `stop`, at the latest when the process ends."""

    def __init__(self, name: str) -> None:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._serve, args=(started,), name=name, daemon=True)
        self._thread.start()
        self.loop = started.result()
        atexit.register(self.stop)

    def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner() as runner:
            started.set_result(runner.get_loop())
            runner.get_loop().run_forever()

    def stop(self, *, wait: bool = True) -> None:
        """Cancel what runs and end the thread.

        Args:
            wait: return when the thread has ended, or does not end within seconds.
        """
        self.forget()
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        if wait:
            self._thread.join(_SECONDS_TO_STOP)

    def forget(self) -> None:
        """Do not stop at the end of the process: after a fork the thread does not exist in the child."""
        atexit.unregister(self.stop)


_lock = threading.Lock()
_running: LoopThread | None = None


def engine_loop() -> asyncio.AbstractEventLoop:
    """Return the engine loop, starting it if need be."""
    global _running
    with _lock:
        if _running is None:
            _running = LoopThread("glm4v-engines")
        return _running.loop


def _forget() -> None:
    """Leave the parent's loop alone after a fork: its thread does not exist in the child."""
    global _lock, _running
    if _running is not None:
        _running.forget()
    _lock, _running = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the engine loop and wait for its result; an interrupt cancels it.

    Raises:
        UnsupportedError: called on the engine loop itself, which would wait for itself.
    """
    refuse_on_engine_loop(coroutine)
    future = asyncio.run_coroutine_threadsafe(coroutine, engine_loop())
    try:
        return future.result()
    finally:
        future.cancel()


async def call(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the engine loop, from any loop; cancelling cancels it there."""
    if on_engine_loop():
        return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, engine_loop()))


def iterate(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate in this thread over a generator on the engine loop; closing closes it there, and waits for it."""
    refuse_on_engine_loop()
    yield from iterate_on(engine_loop(), source)


def iterate_on(loop: asyncio.AbstractEventLoop, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate in this thread over a generator on the loop of another; closing closes it there, and waits for it."""
    items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    pump = _Pump(loop, source, items.put)
    item: T | _End | None = None
    try:
        while not isinstance(item := items.get(), _End):
            yield item
        item.check()
    finally:
        pump.cancel()
        # The garbage collector may close an abandoned stream on one of these loops, which must not wait for itself.
        while not isinstance(item, _End) and not (on_engine_loop() or _runs_here(loop)):
            item = items.get()


async def bridge(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Iterate in any loop over a generator on the engine loop; closing closes it there, and waits for it."""
    here = asyncio.get_running_loop()
    items: asyncio.Queue[T | _End] = asyncio.Queue()

    def deliver(item: T | _End) -> None:
        if not here.is_closed():
            here.call_soon_threadsafe(items.put_nowait, item)

    pump = _Pump(engine_loop(), source, deliver)
    item: T | _End | None = None
    try:
        while not isinstance(item := await items.get(), _End):
            yield item
        item.check()
    finally:
        pump.cancel()
        while not isinstance(item, _End):
            item = await items.get()


def on_engine_loop() -> bool:
    """Tell whether the caller runs on the engine loop."""
    return _running is not None and _runs_here(_running.loop)


def refuse_on_engine_loop(*unused: Coroutine[Any, Any, Any]) -> None:
    """Refuse a call that would block the engine loop, and close the coroutines that it will not run.

    Raises:
        UnsupportedError: the caller runs on it.
    """
    if on_engine_loop():
        for coroutine in unused:
            coroutine.close()
        raise UnsupportedError("A blocking call cannot be made on the engine loop.", hint="Use the async method.")


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # no loop runs in this thread
        return False


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing a pump delivers: how its generator ended."""

    cancelled: bool
    error: BaseException | None

    @classmethod
    def of(cls, task: asyncio.Task[None]) -> _End:
        return cls(True, None) if task.cancelled() else cls(False, task.exception())

    def check(self) -> None:
        """Raise what ended the source, if it was an error."""
        if self.cancelled:
            raise EngineDeadError("The event loop stopped before the answer was complete.")
        if self.error is not None:
            raise self.error


class _Pump(Generic[T]):
    """Runs a generator in one task of a loop and delivers its items, then an `_End`.

    One task for the whole generator, because timeouts and context variables inside it belong to a task.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, source: AsyncGenerator[T, None], deliver: Callable[[T | _End], None]
    ) -> None:
        self._loop = loop
        self._source = source
        self._deliver = deliver
        self._task: asyncio.Task[None]  # known once `_start` ran, which is before any `_cancel`
        self._loop.call_soon_threadsafe(self._start)

    def cancel(self) -> None:
        """Stop the generator where it is; no effect once it has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._pump())
        self._task.add_done_callback(lambda task: self._deliver(_End.of(task)))

    def _cancel(self) -> None:
        self._task.cancel()

    async def _pump(self) -> None:
        async with aclosing(self._source):
            async for item in self._source:
                self._deliver(item)
