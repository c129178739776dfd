"""Chooses an engine, loads it, and shares one loaded engine among all who ask for the same configuration."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v_core.engines import Engine, EngineInfo, TokenCount, sleeper
from glm4v_core.errors import EngineClosedError, MissingDependencyError, UnknownOptionError
from glm4v_core.tiny import checkpoint_path
from glm4v_core.types import Piece, Request

MODEL_VARIABLE = "GLM4V_MODEL"
ENGINE_VARIABLE = "GLM4V_ENGINE"

_TRANSFORMERS_NEEDS = ("torch", "transformers", "llguidance")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load. Plans with equal keys share one engine.

    Attributes:
        load: blocking; runs in a thread of its own.
    """

    key: Hashable
    load: Callable[[], Engine]


def plan_engine(model: str | os.PathLike[str] | None, engine: str | None, options: Mapping[str, Any]) -> Plan:
    """Decide what to load, without loading it. None is the environment's choice, or else the default.

    Raises:
        UnknownOptionError: an engine or option that nobody knows.
        MissingDependencyError: a library that the engine needs is not installed, or has an untested version.
    """
    named = model or os.environ.get(MODEL_VARIABLE)
    model = os.fspath(named or "tiny")
    engine = engine or os.environ.get(ENGINE_VARIABLE) or "auto"
    match engine:
        case "auto":
            chosen, reason = choose_engine()
            plan = plan_engine(model, chosen, options)
            _log.info("Engine %s chosen for %s: %s.", chosen, model, reason)
            return plan
        case "transformers":
            return _plan_transformers(model, options)
        case "scripted":
            return _plan_scripted(model, options)
        case "server":
            return _plan_server(model if named else None, options)
        case "vllm":
            return _plan_vllm(model, options)
        case _:
            raise UnknownOptionError(
                f"There is no engine {engine!r}.", hint="Engines: auto, vllm, transformers, server, scripted."
            )


def choose_engine() -> tuple[str, str]:
    """Return what engine "auto" is on this machine, and why."""
    from glm4v_core.engines.vllm.support import obstacle

    found = obstacle()
    return ("transformers", found) if found else ("vllm", "vLLM is installed and a GPU that it supports is there")


def _plan_vllm(model: str, options: Mapping[str, Any]) -> Plan:
    from glm4v_core.engines.vllm.options import VllmOptions
    from glm4v_core.engines.vllm.support import check_vllm

    settings = VllmOptions.from_mapping(options)
    check_vllm()
    source = _source(model)

    def load() -> Engine:
        from glm4v_core.engines.vllm.engine import VllmEngine

        return VllmEngine.load(source, settings)

    return Plan(("vllm", source, settings), load)


def _plan_transformers(model: str, options: Mapping[str, Any]) -> Plan:
    from glm4v_core.engines.transformers.options import TransformersOptions

    settings = TransformersOptions.from_mapping(options)
    missing = [name for name in _TRANSFORMERS_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The transformers engine needs {', '.join(missing)}.", hint="pip install 'glm4v[hf]'"
        )
    source = _source(model)

    def load() -> Engine:
        from glm4v_core.engines.transformers.engine import TransformersEngine

        return TransformersEngine.load(source, settings)

    return Plan(("transformers", source, settings), load)


def _plan_server(model: str | None, options: Mapping[str, Any]) -> Plan:
    from glm4v_core.engines.server.options import ServerOptions

    missing = [name for name in ("openai", "llguidance") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The server engine needs {', '.join(missing)}.", hint="pip install 'glm4v[server]'"
        )
    settings = ServerOptions.from_mapping(options)

    def load() -> Engine:
        from glm4v_core.engines.server.engine import ServerEngine

        return ServerEngine.load(model, settings)

    return Plan(("server", model, settings), load)


def _plan_scripted(model: str, options: Mapping[str, Any]) -> Plan:
    from glm4v_core.engines.scripted import ScriptedEngine

    unknown = sorted(set(options) - ScriptedEngine.OPTIONS)
    if unknown:
        raise UnknownOptionError(
            f"The scripted engine has no option {', '.join(unknown)}.",
            hint=f"It has: {', '.join(sorted(ScriptedEngine.OPTIONS))}.",
        )
    return Plan(("scripted", model, _canonical(options)), lambda: ScriptedEngine(**options, model=model))


def _source(model: str) -> str:
    """Return a folder's full path, or the hub id as it is."""
    path = checkpoint_path() if model == "tiny" else Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _canonical(options: Mapping[str, Any]) -> Hashable:
    """Write options so that equal ones look equal; what is not plain data equals only itself."""
    try:
        return json.dumps(options, sort_keys=True)
    except TypeError:
        return object()


@dataclass(slots=True)
class _Shared:
    engine: asyncio.Task[Engine]
    users: int = 0


# Touched on the engine loop only, so it needs no lock.
_shared: dict[Hashable, _Shared] = {}


async def load_engine(plan: Plan) -> Engine:
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
    return _Lease(plan.key, shared, engine)


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


class _Lease:
    """One user's part in a shared engine."""

    def __init__(self, key: Hashable, shared: _Shared, engine: Engine) -> None:
        self._key = key
        self._shared = shared
        self._engine = engine
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        return self._open_engine().stream(request)

    async def count_tokens(self, request: Request) -> TokenCount:
        return await self._open_engine().count_tokens(request)

    async def sleep(self) -> None:
        await sleeper(self._open_engine()).sleep()

    async def wake_up(self) -> None:
        await sleeper(self._open_engine()).wake_up()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await _release(self._key, self._shared)

    def _open_engine(self) -> Engine:
        if self._closed:
            raise EngineClosedError("This model was closed.")
        return self._engine
