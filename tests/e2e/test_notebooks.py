"""The notebooks run unchanged with the bundled model, and their committed output is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def shown(notebook: Any) -> list[set[str]]:
    """Name the kinds of output of each code cell: printed, text/plain, image/png ..."""
    return [
        {
            kind
            for output in cell.outputs
            for kind in ({output.name} if output.output_type == "stream" else output.get("data", {"error"}))
        }
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_is_committed(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "run_notebooks.py"), "--out", str(tmp_path), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    committed, fresh = (nbformat.read(file, as_version=4) for file in (path, tmp_path / path.name))
    assert shown(fresh) == shown(committed)
    kinds = set().union(*shown(committed))
    assert kinds & {"image/png", "image/jpeg"}
    assert kinds.isdisjoint({"error", "stderr"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_says_which_line_to_change(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert 'MODEL = "tiny"' in notebook.cells[0].source + notebook.cells[1].source
    assert "zai-org/GLM-4.6V-Flash" in notebook.cells[0].source
    assert sum("tiny" in cell.source for cell in notebook.cells if cell.cell_type == "code") == 1


def test_the_five_notebooks_are_there_and_two_in_chinese() -> None:
    names = [path.stem for path in NOTEBOOKS]
    assert [name[:2] for name in names if not name.endswith("_zh")] == ["01", "02", "03", "04", "05"]
    assert [name[:2] for name in names if name.endswith("_zh")] == ["01", "04"]
