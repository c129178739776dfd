"""The background event loop on which all engines run, and threads that run event loops.

The engine loop starts with its first use and ends with the process. A forked child starts a new one; engines that were
loaded before the fork belong to the parent and must be loaded again.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from glm4v_core.errors import UnsupportedError

_SECONDS_TO_STOP = 5.0


class LoopThread:
    """A daemon thread that runs an event loop until `stop` is called or the process ends."""

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
        """Cancel all tasks of the loop and end the thread.

        Args:
            wait: block until the thread has ended, at most for a few seconds.
        """
        self.forget()
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        if wait:
            self._thread.join(_SECONDS_TO_STOP)

    def forget(self) -> None:
        """Unregister `stop` from the end of the process, for a forked child in which the thread does not exist."""
        atexit.unregister(self.stop)


_lock = threading.Lock()
_running: LoopThread | None = None


def engine_loop() -> asyncio.AbstractEventLoop:
    """Return the engine loop; the first call starts it."""
    global _running
    with _lock:
        if _running is None:
            _running = LoopThread("glm4v-engines")
        return _running.loop


def on_engine_loop() -> bool:
    """Tell whether the caller runs on the engine loop."""
    return _running is not None and runs_here(_running.loop)


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether the caller runs on `loop`."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # no loop runs in this thread
        return False


def refuse_on_engine_loop(*unused: Coroutine[Any, Any, Any]) -> None:
    """Refuse a blocking call on the engine loop, and close the coroutines that will not be awaited.

    Raises:
        UnsupportedError: the caller runs on the engine loop.
    """
    if on_engine_loop():
        for coroutine in unused:
            coroutine.close()
        raise UnsupportedError("A blocking call cannot be made on the engine loop.", hint="Use the async method.")


def _leave_to_parent() -> None:
    """Drop the engine loop in a forked child, in which its thread does not exist."""
    global _lock, _running
    if _running is not None:
        _running.forget()
    # A new lock too: another thread of the parent may have held the old one during the fork.
    _lock, _running = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
