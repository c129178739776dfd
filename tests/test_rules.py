"""Rules that no linter holds: what an import costs, what is public, how long things may be.

Who may import whom is in pyproject.toml, under `tool.importlinter` and ruff's `banned-module-level-imports`.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.imports import find_imports
from tests.support.sizes import size_violations

ROOT = Path(__file__).parents[1]
CORE = "glm4v_core"
PACKAGES = [CORE, "langchain_glm4v", "llamaindex_glm4v"]
ROOMS = [f"{CORE}.{room}" for room in ("bulk", "evaluation", "hosts", "media", "store", "tasks")]
"""Rooms of the core that callers import from."""
MOST_NAMES = 50
FILES = sorted(
    path for folder in (*PACKAGES, "tests", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
TEST_FILES = [path for path in FILES if path.relative_to(ROOT).parts[0] == "tests"]
PACKAGE_FILES = [path for path in FILES if path.relative_to(ROOT).parts[0] in PACKAGES]
# What importing the core or an adapter must not load.
HEAVY = {"torch", "torchvision", "transformers", "tokenizers", "safetensors", "numpy", "vllm", "openai", "pypdfium2"}
HEAVY |= {"llguidance", "jinja2", "jsonschema", "referencing", "jiwer", "typer", "rich", "httpx", "yaml", "langgraph"}
WIDELY_NAMED = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_between_tests(source: str) -> Iterator[str]:
    """List the imports from `tests` that are not from `tests.support`, relative ones included."""
    for found in find_imports(ast.parse(source)):
        folder, _, inner = found.module.partition(".")
        if folder in ("", "conftest") or (folder == "tests" and inner.partition(".")[0] != "support"):
            yield found.module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_named_by_what_they_hold(path: Path) -> None:
    in_package = path in PACKAGE_FILES
    limits = {"function_lines": 40, "nesting": 3} if in_package else {"function_lines": 80, "nesting": 4}
    assert list(size_violations(path.read_text("utf-8"), lines=400, **limits)) == []
    assert path.stem.strip("_") not in WIDELY_NAMED


@pytest.mark.parametrize("path", TEST_FILES, ids=name_of)
def test_what_several_tests_need_is_imported_from_tests_support(path: Path) -> None:
    assert list(imports_between_tests(path.read_text("utf-8"))) == []


@pytest.mark.parametrize("package", [*PACKAGES, *ROOMS])
def test_exported_names_exist_and_are_sorted(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_the_core_has_few_names_and_the_documentation_has_them_all() -> None:
    names = importlib.import_module(CORE).__all__
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for language in (False, True):
        chosen = [page.read_text("utf-8") for page in pages if page.stem.endswith(".zh") == language]
        assert [name for name in names if not re.search(rf"\b{name}\b", "\n".join(chosen))] == []
    assert len(names) <= MOST_NAMES


@pytest.mark.parametrize("room", [f"{CORE}.hosts", f"{CORE}.store"])
def test_public_classes_and_functions_have_docstrings_of_their_own(room: str) -> None:
    module = importlib.import_module(room)
    public = [getattr(module, name) for name in module.__all__]
    defined = [each for each in public if getattr(each, "__module__", "").startswith(CORE)]
    assert [each.__name__ for each in defined if not vars(each).get("__doc__", each.__doc__)] == []


@pytest.mark.parametrize("package", [*PACKAGES, *ROOMS])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    host = "import langchain_core.language_models, langchain_core.runnables" if package == "langchain_glm4v" else ""
    if package == "llamaindex_glm4v":
        host = "import llama_index.core.llms"
    code = (
        f"import sys; {host or 'pass'}; before = set(sys.modules); import {package}; print(*set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert package.partition(".")[0] in loaded
    assert sorted(loaded & HEAVY) == []


class TestTheChecksThemselves:
    """A check that cannot fail proves nothing."""

    def test_sizes(self) -> None:
        nested = "def f():\n" + "".join(f"{'    ' * depth}if x:\n" for depth in range(1, 5)) + "    " * 5 + "pass\n"
        assert list(size_violations(nested, lines=400, function_lines=40, nesting=3)) == ["f is nested 4 deep"]
        long = "def f():\n" + "    x = 1\n" * 40
        assert list(size_violations(long, lines=400, function_lines=40, nesting=3)) == ["f has 41 lines"]
        assert list(size_violations("x = 1\n" * 401, lines=400, function_lines=40, nesting=3)) == ["has 401 lines"]

    def test_elif_and_inner_functions_are_not_nesting(self) -> None:
        ladder = "def f():\n    if a:\n        pass\n" + "    elif b:\n        pass\n" * 5
        inner = "def f():\n    with a:\n        def g():\n            if b:\n                pass\n"
        assert list(size_violations(ladder + inner, lines=400, function_lines=40, nesting=1)) == []

    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("from tests.core.test_model import ask", ["tests.core.test_model"]),
            ("from tests import conftest", ["tests"]),
            ("import tests.langchain.conftest", ["tests.langchain.conftest"]),
            ("from .conftest import ask", [".conftest"]),
            ("def f():\n    from conftest import ask", ["conftest"]),
            ("from tests.support.pdf import stream", []),
            ("from tests_of_another import ask", []),
        ],
    )
    def test_imports_between_tests(self, line: str, found: list[str]) -> None:
        assert list(imports_between_tests(line)) == found
