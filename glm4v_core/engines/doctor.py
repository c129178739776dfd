"""`glm4v doctor`: what is installed, and which engines and models this machine can run."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from glm4v_core.dialect.families import FAMILIES, EngineName, Family
from glm4v_core.engines.loading import choose_engine, plan_engine
from glm4v_core.engines.vllm.support import vllm_version
from glm4v_core.errors import ConfigError, ModelNotFoundError
from glm4v_core.tiny import checkpoint_path

EXTRAS: Mapping[str, Sequence[str]] = {
    "": ("glm4v", "pydantic", "pillow", "jsonschema", "packaging", "referencing", "typing-extensions"),
    "hf": ("torch", "transformers", "safetensors", "huggingface-hub", "llguidance", "numpy"),
    "vllm": ("vllm",),
    "server": ("openai", "llguidance"),
    "documents": ("pypdfium2",),
    "langchain": ("langchain-core",),
    "llamaindex": ("llama-index-core", "tenacity"),
    "langgraph": ("langgraph",),
    "cli": ("typer", "rich", "jinja2"),
    "eval": ("jiwer", "jinja2", "numpy", "rapidfuzz"),
}
READY = "ready"
BEYOND_WEIGHTS = 1.2
"""Factor on the size of the weights, for activations, image features and the KV cache of a few long prompts."""


@dataclass(frozen=True, slots=True)
class Package:
    """A library that glm4v can use; `version` is None if it is not installed."""

    name: str
    extra: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a model can run on, with its memory in GB; None if that is unknown."""

    name: str
    kind: str
    memory: float | None


@dataclass(frozen=True, slots=True)
class ModelFinding:
    """Whether one model family can run on this machine.

    Attributes:
        memory: GB needed, by kind of device ("cpu" or "gpu").
        runs_on: names of the devices with enough memory.
        obstacles: known reasons why it cannot run.
    """

    family: str
    hub_id: str
    memory: Mapping[str, float]
    runs_on: tuple[str, ...]
    obstacles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything the doctor found.

    Attributes:
        engines: "ready", or the reason why an engine cannot run, by engine.
        auto: the engine that "auto" means on this machine, and the reason.
    """

    system: str
    python: str
    packages: tuple[Package, ...]
    devices: tuple[Device, ...]
    engines: Mapping[str, str]
    auto: str
    models: tuple[ModelFinding, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Findings:
    """Examine this machine without loading a model; torch is imported to list accelerators."""
    packages = tuple(Package(name, extra, _version(name)) for extra, names in EXTRAS.items() for name in names)
    devices = (_processor(), *_accelerators())
    engines = {engine: _engine_state(engine) for engine in get_args(EngineName)}
    return Findings(
        system=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        packages=packages,
        devices=devices,
        engines=engines,
        auto=": ".join(choose_engine()),
        models=tuple(_examine_model(family, devices, engines) for family in FAMILIES),
    )


def memory_needed(family: Family, kind: str) -> float:
    """Estimate the memory in GB for weights and activations: float32 on a CPU, bfloat16 on an accelerator."""
    return round(family.weights_gb * (2 if kind == "cpu" else 1) * BEYOND_WEIGHTS, 2)


def _engine_state(engine: EngineName) -> str:
    try:
        plan_engine("any model", engine, {})
    except ConfigError as error:
        return f"{error.message} {error.hint}"
    return READY


def _examine_model(family: Family, devices: Sequence[Device], engines: Mapping[str, str]) -> ModelFinding:
    memory = {kind: memory_needed(family, kind) for kind in ("cpu", "gpu")}
    fitting = tuple(device.name for device in devices if device.memory and device.memory >= memory[device.kind])
    obstacles = [*_engine_obstacles(family, engines), *([] if fitting else ["not enough memory"])]
    if family.name == "tiny":
        obstacles += _tiny_obstacles()
    return ModelFinding(
        family=family.name,
        hub_id=family.hub_ids[0] if family.hub_ids else family.name,
        memory=memory,
        runs_on=() if obstacles else fitting,
        obstacles=tuple(obstacles),
    )


def _engine_obstacles(family: Family, engines: Mapping[str, str]) -> list[str]:
    """Return why none of the engines can run a family; an empty list if one can."""
    ready = [engine for engine in family.engines if engines[engine] == READY]
    if not ready:
        return [f"none of its engines is ready: {', '.join(family.engines)}"]
    outdated = [_outdated(engine, family.needs.get(engine)) for engine in ready]
    return outdated if all(outdated) else []


def _outdated(library: str, needed: str | None) -> str:
    if needed is None:
        return ""
    from packaging.version import Version

    found = _version(library) or "0"
    return "" if Version(found) >= Version(needed) else f"{library} {found} is older than {needed}"


def _tiny_obstacles() -> list[str]:
    try:
        checkpoint_path()
    except ModelNotFoundError as error:
        return [error.message]
    return []


def _version(package: str) -> str | None:
    if package == "vllm":
        return vllm_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> Device:
    names = getattr(os, "sysconf_names", {})
    known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= names.keys()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9 if known else None
    return Device("CPU", "cpu", memory and round(memory, 1))


def _accelerators() -> list[Device]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    cuda = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    devices = [Device(found.name, "gpu", round(found.total_memory / 1e9, 1)) for found in cuda]
    if torch.backends.mps.is_available():
        devices.append(Device("Apple GPU", "gpu", round(torch.mps.recommended_max_memory() / 1e9, 1)))
    return devices
