"""Resuming an interrupted run: rows of finished pages are kept, failed and missing pages are run again.

A resumed run writes results.jsonl from the beginning, in the order of its pages. Meanwhile the rows of earlier runs are
kept in results.earlier.jsonl. If the run is killed at any time, the two files together contain all rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from glm4v_core.bulk.rows import EARLIER, JSONL, Row, writing
from glm4v_core.errors import ConfigError
from glm4v_core.media.files import FileStamp, absolute_path, pages_wanted
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import Page
from glm4v_core.tasks.results import PageFailure, read_pages

RowOffsets = dict[str, dict[int, tuple[Path, int]]]
"""Absolute path of a source -> page number -> file with its row, and byte offset of the row in that file."""

_NEEDED = frozenset({"source", "page", "pages", "status", "sha256", "bytes", "modified", "warnings", "error"})


@dataclass(frozen=True, slots=True)
class NewPage:
    """A page to run the steps on."""

    page: Page | PageFailure
    stamp: FileStamp


@dataclass(frozen=True, slots=True)
class KeptPage:
    """A page that an earlier run finished; `page` is None if its file did not have to be opened."""

    row: Row
    page: Page | None = None


JobPage = NewPage | KeptPage


class Earlier:
    """The rows of earlier runs. Only their positions are in memory; rows are read when they are needed."""

    def __init__(self, folder: Path, places: RowOffsets | None = None) -> None:
        self._path = folder / EARLIER
        self._places = places or {}
        self._passed: set[str] = set()
        self._source = ""
        self._numbers: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._places)

    def done(self, file: Path) -> dict[int, Row]:
        """Return the successful rows of a file, by page number."""
        pages = self._places.get(_key(file), {})
        return {row["page"]: row for row in _rows_at(pages.values()) if row["status"] == "ok"}

    def others(self, files: Iterable[Path]) -> Iterator[Row]:
        """Yield the successful rows of all other files."""
        named = set(map(_key, files))
        for source, pages in self._places.items():
            if source not in named:
                yield from (row for row in _rows_at(pages.values()) if row["status"] == "ok")

    def check_overlap(self, files: Iterable[Path]) -> None:
        """Refuse to resume with entirely different files.

        Raises:
            ConfigError: no row belongs to any of these files, for instance because of different relative paths.
        """
        if self._places and self._places.keys().isdisjoint(map(_key, files)):
            raise ConfigError(
                f"None of these files is in the results, which are about {next(iter(self._places))} and others.",
                hint="Name the same files from the same folder as before, or choose another folder (--out).",
            )

    def set_aside(self) -> None:
        """Copy all rows to results.earlier.jsonl, so that results.jsonl can be rewritten."""
        if not self._places:
            self.discard()
            return
        # Written under another name first: if the copy is interrupted, the old files are still complete.
        fresh = self._path.with_suffix(".new")
        with writing(fresh), fresh.open("wb") as file:
            for pages in self._places.values():
                for number, place in pages.items():
                    pages[number] = self._path, file.tell()
                    file.write(_line_at(*place))
        with writing(self._path):
            fresh.replace(self._path)

    def replaced(self, row: Row) -> None:
        """Record that results.jsonl now has this row. Rows arrive grouped by source."""
        source = _key(row["source"])
        if source != self._source:
            self._passed.add(self._source)
            self._source, self._numbers = source, set()
        self._numbers.add(row["page"])

    def unreached(self) -> Iterator[Row]:
        """Yield earlier rows for pages that this run has not reached."""
        for source, pages in self._places.items():
            numbers = self._numbers if source == self._source else ()
            if source not in self._passed:
                yield from _rows_at(place for number, place in pages.items() if number not in numbers)

    def discard(self) -> None:
        """Delete results.earlier.jsonl, once results.jsonl has its rows."""
        with writing(self._path):
            self._path.unlink(missing_ok=True)


def gather(folder: Path) -> Earlier:
    """Find the latest row of every page in a folder, without changing any file.

    Raises:
        ConfigError: a line is not a valid row. A last line without a line break was cut off and counts as missing.
    """
    places: RowOffsets = {}
    for path in (folder / EARLIER, folder / JSONL):
        for source, number, place in _pages_in(path):
            places.setdefault(source, {})[number] = path, place
    return Earlier(folder, places)


def job_pages(
    files: Sequence[Path], options: PageOptions, earlier: Earlier, *, unopened: Callable[[], bool]
) -> Iterator[JobPage]:
    """Yield every page of the files in order, then the finished rows of other files.

    Args:
        files: of this run.
        options: with which pages are opened.
        earlier: a row in it is kept if the page's pixels are the same.
        unopened: while it returns True, a file with an equal stamp whose pages are all done is not opened at all.
    """
    for file in files:
        done, stamp = earlier.done(file), FileStamp.of(file)
        rows = {number: row | {"source": str(file), **asdict(stamp)} for number, row in done.items()}
        if unopened() and _is_whole(done, stamp, options):
            yield from (KeptPage(rows[number]) for number in sorted(rows))
        else:
            yield from (_task(page, stamp, rows) for page in read_pages([file], options))
    yield from map(KeptPage, earlier.others(files))


def _is_whole(done: Mapping[int, Row], stamp: FileStamp, options: PageOptions) -> bool:
    """Tell whether a file is unchanged and all of its pages are done."""
    same = [row for row in done.values() if (row["bytes"], row["modified"]) == (stamp.bytes, stamp.modified)]
    return bool(same) and len(same) == pages_wanted(same[0]["pages"], options)


def _task(page: Page | PageFailure, stamp: FileStamp, done: Mapping[int, Row]) -> JobPage:
    if isinstance(page, Page):
        row = done.get(page.number)
        if row is not None and row["sha256"] == page.image.sha256:
            return KeptPage(row, page)
    return NewPage(page, stamp)


def _pages_in(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield source, page number and byte offset of every row in a file."""
    if not path.exists():
        return
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield *_page_of(line, f"Line {number} of {path}"), place
            place += len(line)


def _page_of(line: bytes, name: str) -> tuple[str, int]:
    try:
        row = json.loads(line)
        if missing := _NEEDED - row.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return _key(row["source"]), int(row["page"])
    except (ValueError, AttributeError, TypeError) as error:
        hint = "Choose another folder (--out), or replace the results (--overwrite)."
        raise ConfigError(f"{name} is not a row of results: {error}.", hint=hint) from error


def _rows_at(places: Iterable[tuple[Path, int]]) -> Iterator[Row]:
    return (json.loads(_line_at(*place)) for place in places)


def _line_at(path: Path, place: int) -> bytes:
    with path.open("rb") as file:
        file.seek(place)
        return file.readline()


def _key(source: str | Path) -> str:
    return str(absolute_path(source))
