"""An extra brings everything that the code which needs it imports.

Undeclared and unused libraries are found by deptry (`make lint`), which sees all extras as one. What it cannot see is a
library that another extra declares, so each extra's code is followed here by what an import of it would import.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from glm4v_core.engines.doctor import EXTRAS
from tests.support.imports import find_imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("glm4v_core", "langchain_glm4v", "llamaindex_glm4v")
ENTRANCES = {
    "glm4v_core": (),
    "glm4v_core.engines.transformers.engine": ("hf",),
    "glm4v_core.engines.vllm.engine": ("vllm",),
    "glm4v_core.engines.server.engine": ("server",),
    "glm4v_core.evaluation.scoring": ("eval",),
    "glm4v_core.cli.app": ("cli",),
    "glm4v_core.cli.run": ("cli",),
    "glm4v_core.cli.eval": ("cli", "eval"),
    "langchain_glm4v": ("langchain",),
    "langchain_glm4v.graph": ("langchain", "langgraph"),
    "llamaindex_glm4v": ("llamaindex",),
}
"""Modules, and the extras that must be installed to import them."""
BROUGHT_BY_VLLM = {"torch"}
"""vLLM pins one torch, so the extra leaves it to vLLM."""


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def missing_from(entrance: str, extras: tuple[str, ...], sources: Mapping[str, str]) -> Iterator[str]:
    """Report libraries that importing a module imports although neither the core nor these extras declare them."""
    declared = names_of(PROJECT["dependencies"])
    for extra in extras:
        declared |= names_of(PROJECT["optional-dependencies"][extra])
    declared |= BROUGHT_BY_VLLM if "vllm" in extras else set()
    distributions = packages_distributions()
    for module in sorted(reached_from(entrance, sources)):
        for top in libraries_of(sources[module]):
            if declared.isdisjoint(map(canonicalize_name, distributions.get(top, [top]))):
                yield f"{module} imports {top}"


def reached_from(entrance: str, sources: Mapping[str, str]) -> set[str]:
    """Follow imports that run on import through our own modules."""
    reached: set[str] = set()
    waiting = [entrance]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in sources:
            continue
        reached.add(module)
        waiting.extend(".".join(module.split(".")[:depth]) for depth in range(1, module.count(".") + 1))
        for found in find_imports(ast.parse(sources[module])):
            if found.at_top:
                waiting += [found.module, *(f"{found.module}.{name}" for name in found.names)]
    return reached


def libraries_of(source: str) -> list[str]:

    tops = {found.module.partition(".")[0] for found in find_imports(ast.parse(source)) if found.at_top}
    return sorted(tops - sys.stdlib_module_names - set(PACKAGES))


def read_modules() -> dict[str, str]:
    modules = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = path.read_text("utf-8")
    return modules


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_an_extra_declares_what_its_code_imports(entrance: str) -> None:
    sources = read_modules()
    assert entrance in sources
    assert list(missing_from(entrance, ENTRANCES[entrance], sources)) == []


def test_the_check_finds_a_library_of_another_extra() -> None:
    sources = {"glm4v_core.scores": "import numpy", "glm4v_core.entrance": "from glm4v_core import scores"}
    assert list(missing_from("glm4v_core.entrance", ("documents",), sources)) == ["glm4v_core.scores imports numpy"]
    assert list(missing_from("glm4v_core.entrance", ("hf",), sources)) == []


def test_the_doctor_lists_what_the_extras_declare() -> None:
    extras = {extra: names_of(texts) for extra, texts in PROJECT["optional-dependencies"].items()}
    extras[""] = names_of(PROJECT["dependencies"]) | {"glm4v"}
    for extra in ("demo", "dev"):  # made of the others
        del extras[extra]
    # What vLLM shares with the transformers engine is listed there.
    assert {extra: set(names) for extra, names in EXTRAS.items()} == {**extras, "vllm": {"vllm"}}
