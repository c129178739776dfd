"""Execute the notebooks and store their output in them.

    python scripts/run_notebooks.py                                    # all of them, in place
    python scripts/run_notebooks.py --out DIR notebooks/01_quickstart.ipynb

A cell that fails ends the run with its traceback and status 1; that notebook is left unchanged.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SECONDS = 300
"""For one cell."""
NO_WIDGETS = "ignore:IProgress not found"
"""A progress bar of a library would like widgets, which a committed notebook cannot show."""


def execute(path: Path, target: Path) -> None:
    """Run a notebook in its own folder and write it without times, so that the same results give the same file."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=os.environ | {"PYTHONWARNINGS": NO_WIDGETS})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(notebook, target)


def joined(outputs: list[Any]) -> list[Any]:
    """Merge text that was printed in pieces into one output."""
    kept: list[Any] = []
    for output in outputs:
        before = kept[-1] if kept else None
        if before is not None and before.output_type == "stream" == output.output_type and before.name == output.name:
            before.text += output.text
        else:
            kept.append(output)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", default=sorted(FOLDER.glob("*.ipynb")))
    parser.add_argument("--out", type=Path, help="write here and leave the notebooks unchanged")
    options = parser.parse_args()
    for path in options.notebooks:
        execute(path, options.out / path.name if options.out else path)
        print(path.name)


if __name__ == "__main__":
    main()
