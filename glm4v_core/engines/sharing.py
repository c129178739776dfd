"""The one registry of loaded models: equal configurations share one engine, which is freed behind its last user.

Whoever asks for an engine gets a lease of it and must close that. Hosts copy their model objects at will: LangChain's
`configurable_fields` makes a new one for every call, LlamaIndex rebuilds them from dicts. So the objects of an adapter
have one model in common, kept here with a lease of its own, which every equal object finds and any may close.
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
class Plan:
    """What to load. Plans with equal keys share one engine.

    Attributes:
        load: blocking; runs in a thread of its own.
    """

    key: Hashable
    load: Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an adapter's object was told to load, before it is planned."""

    model: str
    engine: str
    options: Mapping[str, Any]


@dataclass(slots=True)
class _Shared:
    """One engine, or the load of it.

    Attributes:
        users: leases, and callers that wait for one.
        model: what adapters have in common on it, of a type that this module need not know; None when they have none.
        lease: the lease of `model`.
        configurations: by which adapters find `model`; a list, since options need not be hashable.
    """

    engine: asyncio.Task[Engine]
    users: int = 0
    model: Any = None
    lease: Lease | None = None
    configurations: list[Configuration] = field(default_factory=list)


# Changed on the engine loop only, so it needs no lock; `find` reads it from other threads.
_shared: dict[Hashable, _Shared] = {}


def find(configuration: Configuration) -> Any:
    """Return the model that adapters have in common for a configuration, or None. May be called from any thread."""
    for shared in tuple(_shared.values()):
        if shared.model is not None and configuration in shared.configurations:
            return shared.model
    return None


async def find_or_load(configuration: Configuration, plan: Plan, wrap: Callable[[Engine], Model]) -> Model:
    """Return the model that adapters have in common, loading the engine if need be. Runs on the engine loop.

    Args:
        configuration: `find` finds the model by it from now on.
        plan: what the configuration means.
        wrap: makes the model from an engine; every caller passes the same function.
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
    """Close the model that `find` finds; the next `find_or_load` makes another. Runs on the engine loop."""
    for shared in tuple(_shared.values()):
        if shared.lease is not None and configuration in shared.configurations:
            await shared.lease.close()


async def load_engine(plan: Plan) -> Lease:
    """Load what is planned, or take part in the engine that is loaded or being loaded already.

    Runs on the engine loop. Each result must be closed; the last `close` frees the memory.
    """
    shared = _shared.get(plan.key)
    if shared is None:
        shared = _shared[plan.key] = _Shared(asyncio.create_task(_in_its_own_thread(plan.load)))
    shared.users += 1
    async with AsyncExitStack() as undo:
        undo.push_async_callback(_release, plan.key, shared)
        # Shielded: one caller who gives up must not take the engine from the others.
        engine = await asyncio.shield(shared.engine)
        undo.pop_all()
    return Lease(plan.key, shared, engine)


async def _in_its_own_thread(load: Callable[[], Engine]) -> Engine:
    """Keep out of the loop's pool of threads: all of them may be waiting for this engine."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="glm4v-load")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, load)
    finally:
        thread.shutdown(wait=False)


async def _release(key: Hashable, shared: _Shared) -> None:
    shared.users -= 1
    if shared.users:
        return
    # Removed first: whoever asks from now on gets a new engine, also after a failed load.
    del _shared[key]
    await asyncio.wait([shared.engine])
    if shared.engine.exception() is None:
        await shared.engine.result().close()


class Lease:
    """One user's part in a shared engine; an `Engine` itself."""

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
    # The threads of the parent's engines do not exist in a child, so nothing there may find them.
    os.register_at_fork(after_in_child=_shared.clear)
