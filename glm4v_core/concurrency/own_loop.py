"""Event loops of blocking calls: orchestration and callers' code run in them, never on the engine loop.

The engine loop serves every stream of the process, so one slow callback there would delay all of them. A blocking call
therefore runs its coroutines in a loop that nothing else shares and that ends with the call.
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
    """Run a coroutine in an event loop of its own and return its result; an interrupt cancels it.

    The loop runs in the calling thread. Where that thread already runs a loop, as in a notebook, it runs in a new
    thread, with the caller's context variables, while the caller waits.

    Raises:
        UnsupportedError: called on the engine loop, which would wait for itself.
    """
    refuse_on_engine_loop(coroutine)
    if _has_running_loop():
        return _run_in_new_thread(coroutine)
    # With a factory the runner does not touch what `asyncio.get_event_loop` returns in the caller's thread.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


def iterate_in_own_loop(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Iterate over a generator that runs in an event loop and a thread of its own.

    What the generator has begun goes on while the caller works on an item, but it is resumed only when the next item
    is asked for. Closing cancels it where it is, and waits until it is closed.

    Raises:
        UnsupportedError: called on the engine loop, which would wait for itself.
    """
    refuse_on_engine_loop()
    thread = LoopThread(_THREAD)
    wanted = asyncio.Semaphore(0)

    async def paced() -> AsyncGenerator[T, None]:
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
        # Not joined: the garbage collector may run this in that thread, or in one for which its loop waits.
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
