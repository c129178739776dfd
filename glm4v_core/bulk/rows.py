"""Result files of a run: results.jsonl is written row by row; results.json and results.csv are created from it."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from glm4v_core.errors import ConfigError
from glm4v_core.media.files import FileStamp
from glm4v_core.tasks.results import DocumentResult, Outcome, PageFailure
from glm4v_core.tasks.workflow import Column

Row = dict[str, Any]

JSONL, JSON, CSV = "results.jsonl", "results.json", "results.csv"
EARLIER = "results.earlier.jsonl"
"""The rows of earlier runs, during a resumed run; see `earlier.py`."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
"""Spreadsheets interpret text with such a beginning as a formula; full-width signs in Chinese and Japanese ones."""
_NESTED = ("error", "steps", "fields", "warnings", "notes")


NO_STAMP = FileStamp()


def row_of(outcome: Outcome, columns: Sequence[Column], stamp: FileStamp = NO_STAMP) -> Row:
    """Return the row of one page. All rows of a run have the same keys; a failure keeps the values of other steps."""
    page = outcome.page
    failure = outcome.error if isinstance(outcome, PageFailure) else None
    result = outcome if isinstance(outcome, DocumentResult) else outcome.partial
    return {
        "source": page.source,
        "page": page.number,
        "pages": page.count,
        "status": "failed" if failure else "ok",
        **{column: getattr(result, column, None) for column in columns},
        "warnings": list(result.warnings) if result else [],
        "error": asdict(failure) if failure else None,
        "bytes": stamp.bytes,
        "modified": stamp.modified,
        "sha256": page.sha256,
        "format": page.format,
        "width": page.size[0],
        "height": page.size[1],
        "notes": list(page.notes),
        "model": result.model if result else "",
        "steps": {name: asdict(step) for name, step in result.steps.items()} if result else {},
    }


def prepare_folder(folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Create the folder, and refuse one that has results of an earlier run.

    Args:
        folder: for the results.
        overwrite: allow earlier results, which are kept until the first file is written.
        resume: allow earlier results, in order to continue them.

    Raises:
        ConfigError: the folder has results and neither flag is set, both are set, or it cannot be written to.
    """
    if overwrite and resume:
        raise ConfigError("overwrite and resume contradict each other.", hint="Choose one of them.")
    with writing(folder, "made a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    with writing(folder):
        if any((folder / name).exists() for name in (JSONL, EARLIER)) and not (overwrite or resume):
            raise ConfigError(
                f"{folder} already holds results.",
                hint="Continue them (--resume), replace them (--overwrite), or choose another folder (--out).",
            )
        tempfile.TemporaryFile(dir=folder).close()  # fails now if the folder is not writable


@contextmanager
def writing(path: Path, what: str = "written") -> Iterator[None]:
    """Turn an OSError while writing `path` into a ConfigError."""
    try:
        yield
    except OSError as error:
        hint = "Choose another folder (--out), or free disk space and continue (--resume)."
        raise ConfigError(f"{path} cannot be {what}: {error.strerror or error}.", hint=hint) from error


def open_text(path: Path, encoding: str = "utf-8", newline: str = "\n") -> TextIO:
    """Open a text file for writing. Characters that cannot be encoded, as in some file names, are escaped."""
    with writing(path):
        return path.open("w", encoding=encoding, errors="backslashreplace", newline=newline)


class RowWriter:
    """Appends rows to results.jsonl. Each line is flushed, so that an interrupted run leaves a valid file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JSONL
        self._file = open_text(self._path)

    def close(self) -> None:
        with writing(self._path):
            self._file.close()

    def write(self, row: Row) -> None:
        """Append one row."""
        with writing(self._path):
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of results.jsonl one by one."""
    with (folder / JSONL).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def export(folder: Path) -> None:
    """Create results.json and results.csv from results.jsonl, without loading all rows at once."""
    with writing(folder):
        _export_json(folder)
        _export_csv(folder)


def _export_json(folder: Path) -> None:
    with open_text(folder / JSON) as file:
        file.write("[")
        for index, row in enumerate(read_rows(folder)):
            file.write(",\n" if index else "\n")
            file.write(json.dumps(row, ensure_ascii=False, indent=1))
        file.write("\n]\n")


def _export_csv(folder: Path) -> None:
    names = list(dict.fromkeys(name for row in read_rows(folder) for name in _flat(row)))
    with open_text(folder / CSV, "utf-8-sig", newline="") as file:  # the BOM tells Excel that it is UTF-8
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(map(_escaped, map(_flat, read_rows(folder))))


def _flat(row: Row) -> Row:
    """Return the cells of a row in a table, with nested values as separate cells."""
    cells = {name: value for name, value in row.items() if name not in _NESTED}
    cells |= _fields(row.get("fields"))
    error = row["error"] or {}
    cells |= {f"error_{part}": error.get(part, "") for part in ("code", "message", "hint")}
    cells |= {name: "; ".join(row[name]) for name in ("warnings", "notes")}
    return cells


def _fields(fields: Any) -> Mapping[str, Any]:
    if fields is None:
        return {}
    if isinstance(fields, Mapping):
        return {f"fields.{name}": _cell(value) for name, value in fields.items()}
    return {"fields": _cell(fields)}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _escaped(cells: Row) -> Row:
    return {escape_formula(name): escape_formula(value) for name, value in cells.items()}


def escape_formula(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would interpret as a formula; other values are unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
