"""The rules that keep the project small: who may import whom, what an import costs, how long things may be."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.contracts import CORE, adapter_violations, find_imports, layer_violations, read_sources, size_violations

ROOT = Path(__file__).parents[1]
HOSTS = {
    "langchain_glm4v": ("langchain_core", "langgraph"),
    "llamaindex_glm4v": ("llama_index",),
}
ADAPTERS = [name for name in HOSTS if (ROOT / name).is_dir()]
PACKAGES = [CORE, *ADAPTERS]
ADAPTER_FILES = [path for name in ADAPTERS for path in sorted((ROOT / name).rglob("*.py"))]
FILES = sorted(path for folder in (*PACKAGES, "tests", "scripts") for path in (ROOT / folder).rglob("*.py"))
PACKAGE_FILES = [path for path in FILES if path.relative_to(ROOT).parts[0] in PACKAGES]

LAYERS = tuple(
    frozenset(line.split())
    for line in """
        errors
        image_limits image_source image_decode image_pixels images
        types
        task_prompts tiny dialects families
        pages control_text conversation prompt boxes tool_calls parsing references schemas constraint
        engines
        answer defaults model
        ordered tasks workflow
        shared settings
        page_files reading page_html metrics evaluation_truth evaluation_probes evaluation evaluation_report
        lexicon store_file stored_page pagestore
        results report doctor resume resume_settings ingestion answering
        cli_plan cli_ask cli_doctor cli_outputs cli_eval cli_run cli_pages cli_app cli
    """.strip().splitlines()
)
ENGINES = frozenset({"engines.transformers", "engines.vllm", "engines.server", "engines.scripted"})
HEAVY = {"torch", "torchvision", "transformers", "tokenizers", "safetensors", "numpy", "vllm", "openai", "pypdfium2"}
HEAVY |= {"llguidance", "jinja2", "jsonschema", "referencing", "jiwer", "typer", "rich", "httpx", "yaml", "langgraph"}
WIDELY_NAMED = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_core_layers_point_downward() -> None:
    sources = read_sources(ROOT / CORE)
    del sources["__init__"]  # gathers the public names of every layer
    assert list(layer_violations(sources, LAYERS, ENGINES)) == []


def test_core_modules_form_no_circle_when_imported() -> None:
    sources = read_sources(ROOT / CORE)
    graph = {
        module: {
            found.module.removeprefix(f"{CORE}.")
            for found in find_imports(ast.parse(source))
            if found.at_top and found.module.startswith(f"{CORE}.") and found.module != f"{CORE}.{module}"
        }
        for module, source in sources.items()
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", ADAPTER_FILES, ids=name_of)
def test_adapters_use_their_host_and_public_names_of_core(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    hosts = (*HOSTS[own], *sys.stdlib_module_names, "pydantic", "PIL")
    public = importlib.import_module(CORE).__all__
    assert list(adapter_violations(path.read_text("utf-8"), hosts, own, public)) == []


@pytest.mark.parametrize("path", [path for path in PACKAGE_FILES if path.is_relative_to(ROOT / CORE)], ids=name_of)
def test_core_knows_no_host(path: Path) -> None:
    modules = {found.module.partition(".")[0] for found in find_imports(ast.parse(path.read_text("utf-8")))}
    assert modules.isdisjoint({*HOSTS, "langchain", "langchain_core", "langgraph", "llama_index"})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_named_by_what_they_hold(path: Path) -> None:
    in_package = path in PACKAGE_FILES
    limits = {"function_lines": 40, "nesting": 3} if in_package else {"function_lines": 80, "nesting": 4}
    assert list(size_violations(path.read_text("utf-8"), lines=400, **limits)) == []
    assert path.stem.strip("_") not in WIDELY_NAMED


@pytest.mark.parametrize("package", PACKAGES)
def test_exported_names_exist_and_are_sorted(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    public = {name for name, value in vars(module).items() if not name.startswith("_") and not _is_module(value)}
    assert public - {"annotations"} <= set(module.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    host = "import langchain_core.language_models, langchain_core.runnables" if package == "langchain_glm4v" else ""
    if package == "llamaindex_glm4v":
        host = "import llama_index.core.llms"
    code = (
        f"import sys; {host or 'pass'}; before = set(sys.modules); import {package}; print(*set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert package in loaded
    assert sorted(loaded & HEAVY) == []


def _is_module(value: object) -> bool:
    return isinstance(value, type(sys))


class TestTheChecksThemselves:
    """A check that cannot fail holds nothing."""

    layers = (frozenset({"errors"}), frozenset({"engines"}), frozenset({"model"}))
    hosts = ("langchain_core",)
    public = ("Glm4v", "errors")

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("errors", "from glm4v_core.model import Glm4v"),
            ("errors", "def late():\n    import glm4v_core.engines.loop"),
            ("errors", "from glm4v_core import Glm4v"),
            ("engines.transformers", "from glm4v_core.engines.vllm import VllmEngine"),
            ("engines.transformers", "from glm4v_core.engines import vllm"),
            ("stranger", "pass"),
        ],
    )
    def test_layers(self, module: str, source: str) -> None:
        assert len(list(layer_violations({module: source}, self.layers, ENGINES))) == 1

    def test_layers_let_good_arrows_pass(self) -> None:
        sources = {
            "model": "from glm4v_core.engines import Engine\nfrom glm4v_core.errors import Glm4vError",
            "engines.loading": "def load():\n    from glm4v_core.engines.vllm import VllmEngine",
        }
        assert list(layer_violations(sources, self.layers, ENGINES)) == []

    @pytest.mark.parametrize(
        "source",
        [
            "import torch",
            "from glm4v_core.model import Glm4v",
            "from glm4v_core import hidden",
            "from glm4v_core.errors import _hidden",
            "import llamaindex_glm4v",
            "from . import chat_model",
        ],
    )
    def test_adapters(self, source: str) -> None:
        assert list(adapter_violations(source, self.hosts, "langchain_glm4v", self.public))

    def test_adapters_may_use_host_core_and_themselves(self) -> None:
        source = (
            "import langchain_core\nfrom glm4v_core import Glm4v\nfrom glm4v_core.errors import Glm4vError\n"
            "from langchain_glm4v import _convert"
        )
        assert list(adapter_violations(source, self.hosts, "langchain_glm4v", self.public)) == []

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

    def test_imports_under_type_checking_do_not_run(self) -> None:
        source = "if TYPE_CHECKING:\n    import a\ntry:\n    import b\nexcept E:\n    pass\ndef f():\n    import c"
        found = {imported.module: imported.at_top for imported in find_imports(ast.parse(source))}
        assert found == {"a": False, "b": True, "c": False}
