"""Separate event loops for blocking calls, so that user code never runs on the engine loop.

The engine loop serves every stream of the process, so a single slow callback would delay all of them. A blocking call
therefore runs its coroutines in a private loop that ends with the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import aclosing, closing
from typing import Any, TypeVar

from glm4v_core.concurrency.bridge import iterate_on
from glm4v_core.concurrency.loop import LoopThread, refuse_on_engine_loop

T = TypeVar("T")

_THREAD = "glm4v-call"


def run_in_own_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a private event loop and return its result; an interrupt cancels it.

    The loop runs in the calling thread. If that thread already runs a loop, as in a notebook, the private loop runs in
    a new thread with the caller's context variables, while the caller waits.

    Raises:
        UnsupportedError: called on the engine loop, which would deadlock.
    """
    refuse_on_engine_loop(coroutine)
    if _has_running_loop():
        return _run_in_new_thread(coroutine)
    # With a factory the runner does not touch what `asyncio.get_event_loop` returns in the caller's thread.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


def iterate_in_own_loop(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over an asynchronous generator that runs in a private event loop and thread.

    Tasks that the generator has started continue while the caller works on an item, but the generator itself is
    resumed only when the next item is requested. Closing cancels the generator and waits until it is closed.

    Raises:
        UnsupportedError: called on the engine loop, which would deadlock.
    """
    refuse_on_engine_loop()
    thread = LoopThread(_THREAD)
    wanted = asyncio.Semaphore(0)

    async def paced() -> AsyncGenerator[T, None]:
        # The bridge takes items as fast as they come. The semaphore stops the generator after each one, so that it is
        # never further ahead than the caller has asked for.
        async with aclosing(source):
            async for item in source:
                yield item
                await wanted.acquire()

    try:
        with closing(iterate_on(thread.loop, paced())) as items:
            for item in items:
                yield item
                thread.loop.call_soon_threadsafe(wanted.release)
    finally:
        # Without waiting: the garbage collector may run this in that very thread, or in one that its loop waits for.
        thread.stop(wait=False)


def _run_in_new_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    thread = LoopThread(_THREAD)
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, thread.loop).result()
    finally:
        thread.stop()


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
