"""The wheel contains what it must and nothing else, and works where neither torch nor a host is installed."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ("glm4v_core", "langchain_glm4v", "llamaindex_glm4v") if (ROOT / name).is_dir()]
DATA = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
ALIAS = {"llama_index/llms/glm4v/__init__.py", "llama_index/llms/glm4v/py.typed"}
"""A namespace package shared with LlamaIndex: an `__init__.py` further up would hide LlamaIndex."""
MAX_BYTES = 20 * 2**20


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the checkout, as a release would."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, ROOT], check=True, cwd=out)
    (built,) = out.glob("glm4v-*.whl")
    return built


@pytest.fixture(scope="session")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel with its required dependencies alone, and return that environment's Python."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder)
    python = folder / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", wheel], check=True)
    return python


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_all_modules_their_types_and_the_licence(wheel: Path) -> None:
    names = names_in(wheel)
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "glm4v_core/html").iterdir() if path.is_file()}
    assert {path.rpartition(".")[2] for path in pages} == {"css", "jinja", "py"}
    assert pages <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_holds_the_tiny_checkpoint(wheel: Path) -> None:
    folder = "glm4v_core/tiny/checkpoint/"
    assert {folder + name for name in DATA} <= names_in(wheel)


def test_the_wheel_holds_nothing_else_and_is_small(wheel: Path) -> None:
    names = names_in(wheel)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*PACKAGES, "llama_index"}
    assert {name for name in names if name.startswith("llama_index/")} == ALIAS
    assert wheel.stat().st_size < MAX_BYTES


def test_the_core_works_without_torch_or_a_host(empty_environment: Path, tmp_path: Path) -> None:
    code = """
from importlib.util import find_spec
from glm4v_core import Glm4v, Message, Request, ScriptedEngine, errors
assert not any(map(find_spec, ("torch", "transformers", "langchain_core", "typer")))
with Glm4v.from_engine(ScriptedEngine(["Hello."])) as model:
    print(model.generate(Request((Message.user("Hi."),))).text)
try:
    Glm4v.load("tiny")
except errors.MissingDependencyError as error:
    print(error.hint)
"""
    run = subprocess.run([empty_environment, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert run.stdout.splitlines() == ["Hello.", "pip install 'glm4v[hf]'"]


def test_the_command_line_names_the_extra_it_needs(empty_environment: Path, tmp_path: Path) -> None:
    command = empty_environment.parent / "glm4v"
    run = subprocess.run([command, "doctor"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode != 0
    assert "glm4v[cli]" in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
