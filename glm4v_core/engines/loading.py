"""Chooses an engine and plans how to load it, without loading anything."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from glm4v_core.engines import Engine
from glm4v_core.engines.sharing import EnginePlan
from glm4v_core.errors import MissingDependencyError, UnknownOptionError
from glm4v_core.tiny import checkpoint_path

MODEL_VARIABLE = "GLM4V_MODEL"
ENGINE_VARIABLE = "GLM4V_ENGINE"

_TRANSFORMERS_NEEDS = ("torch", "transformers", "llguidance")

_log = logging.getLogger(__name__)


def plan_engine(model: str | os.PathLike[str] | None, engine: str | None, options: Mapping[str, Any]) -> EnginePlan:
    """Decide what to load, without loading it.

    Args:
        model: checkpoint folder, hub id or served name; None reads GLM4V_MODEL, then falls back to "tiny".
        engine: its name, or "auto"; None reads GLM4V_ENGINE, then falls back to "auto".
        options: of the engine.

    Raises:
        UnknownOptionError: there is no such engine or option.
        ConfigError: an option has a wrong value.
        MissingDependencyError: a library is missing or has a version that is not supported.
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
    """Return the engine that "auto" means on this machine, and the reason."""
    from glm4v_core.engines.vllm.support import obstacle

    found = obstacle()
    return ("transformers", found) if found else ("vllm", "vLLM is installed and a supported GPU is available")


def _plan_vllm(model: str, options: Mapping[str, Any]) -> EnginePlan:
    from glm4v_core.engines.vllm.options import VllmOptions
    from glm4v_core.engines.vllm.support import VLLM_RUN, check_vllm, was_run

    settings = VllmOptions(**options)
    found = check_vllm()
    if not was_run(found):
        _log.warning("vLLM %s is installed; glm4v is tested with vLLM %s only.", found, VLLM_RUN)
    source = _source(model)

    def load() -> Engine:
        from glm4v_core.engines.vllm.engine import VllmEngine

        return VllmEngine.load(source, settings)

    return EnginePlan(("vllm", source, settings), load)


def _plan_transformers(model: str, options: Mapping[str, Any]) -> EnginePlan:
    from glm4v_core.engines.transformers.options import TransformersOptions

    settings = TransformersOptions(**options)
    missing = [name for name in _TRANSFORMERS_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The transformers engine needs {', '.join(missing)}.", hint="pip install 'glm4v[hf]'"
        )
    source = _source(model)

    def load() -> Engine:
        from glm4v_core.engines.transformers.engine import TransformersEngine

        return TransformersEngine.load(source, settings)

    return EnginePlan(("transformers", source, settings), load)


def _plan_server(model: str | None, options: Mapping[str, Any]) -> EnginePlan:
    from glm4v_core.engines.server.options import ServerOptions

    missing = [name for name in ("openai", "llguidance") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The server engine needs {', '.join(missing)}.", hint="pip install 'glm4v[server]'"
        )
    settings = ServerOptions(**options)

    def load() -> Engine:
        from glm4v_core.engines.server.engine import ServerEngine

        return ServerEngine.load(model, settings)

    return EnginePlan(("server", model, settings), load)


def _plan_scripted(model: str, options: Mapping[str, Any]) -> EnginePlan:
    from glm4v_core.engines.scripted import ScriptedEngine

    unknown = sorted(set(options) - ScriptedEngine.OPTIONS)
    if unknown:
        raise UnknownOptionError(
            f"The scripted engine has no option {', '.join(unknown)}.",
            hint=f"It has: {', '.join(sorted(ScriptedEngine.OPTIONS))}.",
        )
    return EnginePlan(("scripted", model, _canonical(options)), lambda: ScriptedEngine(**options, model=model))


def _source(model: str) -> str:
    """Return the absolute path of a folder, or a hub id unchanged."""
    path = checkpoint_path() if model == "tiny" else Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _canonical(options: Mapping[str, Any]) -> Hashable:
    """Return a key that is equal for equal options. Options that are not plain data are never equal to others."""
    try:
        return json.dumps(options, sort_keys=True)
    except TypeError:
        return object()
