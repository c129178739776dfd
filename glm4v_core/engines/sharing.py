"""The registry of loaded models: equal configurations share one engine, which is freed after its last user.

Each user of an engine gets a lease and must close it. Hosts copy their model objects freely: LangChain's
`configurable_fields` creates a new one for every call, and LlamaIndex rebuilds them from dicts. Therefore all equal
objects of an adapter share one model. It is kept here with its lease; any of these objects finds it and may close it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from glm4v_core.engines import Engine, TokenCount, sleeper
from glm4v_core.errors import EngineClosedError
from glm4v_core.types import Piece, Request

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What to load. Plans with equal keys share one engine.

    Attributes:
        key: identifies engine, model and options.
        load: loads the engine; blocks, so it runs in a separate thread.
    """

    key: Hashable
    load: Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings from which an adapter's object loads its model."""

    model: str
    engine: str
    options: Mapping[str, Any]


@dataclass(slots=True)
class _Shared:
    """One engine that is loaded or being loaded.

    Attributes:
        engine: the task that loads it.
        users: number of leases and of callers that wait for one.
        model: shared by the objects of adapters, of a type that this module does not depend on; None if there is none.
        lease: the lease of `model`.
        configurations: those with which adapters find `model`; a list, since options may not be hashable.
    """

    engine: asyncio.Task[Engine]
    users: int = 0
    model: Any = None
    lease: Lease | None = None
    configurations: list[Configuration] = field(default_factory=list)


# Modified only on the engine loop, so it does not need a lock; `find` reads a copy from other threads.
_shared: dict[Hashable, _Shared] = {}


def find(configuration: Configuration) -> Any:
    """Return the shared model for a configuration, or None. May be called from any thread."""
    for shared in tuple(_shared.values()):
        if shared.model is not None and configuration in shared.configurations:
            return shared.model
    return None


async def find_or_load(configuration: Configuration, plan: EnginePlan, wrap: Callable[[Engine], Model]) -> Model:
    """Return the shared model, loading the engine if necessary. Must run on the engine loop.

    Args:
        configuration: with which `find` finds the model from now on.
        plan: how to load the engine of this configuration.
        wrap: creates the model from an engine; every caller must pass the same function.
    """
    lease = await load_engine(plan)
    shared = lease.shared
    if shared.model is None:
        shared.model, shared.lease = wrap(lease), lease
    else:
        await lease.close()
    if configuration not in shared.configurations:
        shared.configurations.append(configuration)
    model: Model = shared.model
    return model


async def close(configuration: Configuration) -> None:
    """Close the model that `find` returns; the next `find_or_load` creates a new one. Must run on the engine loop."""
    for shared in tuple(_shared.values()):
        if shared.lease is not None and configuration in shared.configurations:
            await shared.lease.close()


async def load_engine(plan: EnginePlan) -> Lease:
    """Load the planned engine, or share it if it is already loaded or being loaded. Must run on the engine loop.

    Returns:
        A lease, which the caller must close. Closing the last one frees the memory.
    """
    shared = _shared.get(plan.key)
    if shared is None:
        shared = _shared[plan.key] = _Shared(asyncio.create_task(_in_its_own_thread(plan.load)))
    shared.users += 1
    async with AsyncExitStack() as undo:
        undo.push_async_callback(_release, plan.key, shared)
        # Shielded, so that cancelling one caller does not cancel the load for the others.
        engine = await asyncio.shield(shared.engine)
        undo.pop_all()
    return Lease(plan.key, shared, engine)


async def _in_its_own_thread(load: Callable[[], Engine]) -> Engine:
    """Load in a new thread. All threads of the loop's default pool may be waiting for this engine."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="glm4v-load")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, load)
    finally:
        thread.shutdown(wait=False)


async def _release(key: Hashable, shared: _Shared) -> None:
    """Count one user less; the last one closes the engine."""
    shared.users -= 1
    if shared.users:
        return
    # Removed before closing: a request for it during the close, or after a failed load, must start a new engine.
    del _shared[key]
    await asyncio.wait([shared.engine])
    if shared.engine.exception() is None:
        await shared.engine.result().close()


class Lease:
    """One user's share of an engine; implements `Engine` itself."""

    def __init__(self, key: Hashable, shared: _Shared, engine: Engine) -> None:
        self.info = engine.info
        self.shared = shared
        self._key = key
        self._engine = engine
        self._closed = False

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        return self._open_engine().stream(request)

    async def count_tokens(self, request: Request) -> TokenCount:
        return await self._open_engine().count_tokens(request)

    async def sleep(self) -> None:
        await sleeper(self._open_engine()).sleep()

    async def wake_up(self) -> None:
        await sleeper(self._open_engine()).wake_up()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.shared.lease is self:
            self.shared.model = self.shared.lease = None
            self.shared.configurations.clear()
        if _shared.get(self._key) is self.shared:
            await _release(self._key, self.shared)

    def _open_engine(self) -> Engine:
        if self._closed:
            raise EngineClosedError("This model was closed.")
        if _shared.get(self._key) is not self.shared:
            raise EngineClosedError(
                "This model was loaded before the process was forked.", hint="Load it again in this process."
            )
        return self._engine


if hasattr(os, "register_at_fork"):
    # A forked child does not have the threads of the parent's engines, so it must not find these engines.
    os.register_at_fork(after_in_child=_shared.clear)
