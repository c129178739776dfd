"""Everything that `glm4v run` puts out: result files, report, totals, and the table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glm4v_core.bulk.earlier import Earlier
from glm4v_core.bulk.report import REPORT, ReportWriter
from glm4v_core.bulk.rows import Row, RowWriter, export
from glm4v_core.bulk.settings import Settings, write_settings
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.workflow import Column

DONE, SOME_FAILED, NOTHING_USABLE = 0, 1, 2
ROWS_SHOWN = 40


@dataclass(slots=True)
class Totals:
    """What became of the pages so far; `kept` counts those that an earlier run did."""

    pages: int = 0
    done: int = 0
    failed: int = 0
    warned: int = 0
    kept: int = 0

    def count(self, row: Row, *, kept: bool) -> None:
        self.pages += 1
        self.done += row["status"] == "ok"
        self.failed += row["status"] == "failed"
        self.warned += bool(row["warnings"])
        self.kept += kept

    @property
    def status(self) -> int:
        if not self.done:
            return NOTHING_USABLE
        return SOME_FAILED if self.failed else DONE


class Outputs:
    """Takes each page's row, in the order of the pages; whatever ends the run, the files are left complete."""

    def __init__(
        self, out: Path, columns: Sequence[Column], language: Language, settings: Settings, earlier: Earlier
    ) -> None:
        self.columns = columns
        self.totals = Totals()
        self._out = out
        self._earlier = earlier
        self._shown: list[Row] = []
        earlier.set_aside()
        with ExitStack() as undo:
            self._rows = undo.enter_context(closing(RowWriter(out)))
            self._report = undo.enter_context(closing(ReportWriter(out, columns, language)))
            if not earlier:  # only now, since rows of other settings were in the file until it was opened
                write_settings(out, settings)
            self._files = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:
            if error is not None:  # else every row is replaced, or about a page that is no more
                for row in self._earlier.unreached():
                    self.put(row, kept=True)
            self._report.finish(asdict(self.totals))
            export(self._out)
        self._earlier.discard()

    @property
    def takes_pictures(self) -> bool:
        """Whether the report has room for another picture."""
        return not self._report.is_full

    def put(self, row: Row, picture: str | None = None, *, kept: bool = False) -> None:
        """Write one row everywhere."""
        self._rows.write(row)
        self._report.write(row, picture)
        self._earlier.replaced(row)
        self.totals.count(row, kept=kept)
        if len(self._shown) < ROWS_SHOWN:
            self._shown.append(row)

    def print(self, skipped: int) -> None:
        """Print the table, when it is not too long, and the totals."""
        console, totals = Console(), self.totals
        if totals.pages <= ROWS_SHOWN:
            console.print(_table(self._shown, self.columns))
        parts = [
            f"{totals.pages} pages: {totals.done} done, {totals.failed} failed, {totals.warned} with warnings",
            f"{totals.kept} of them kept from before" if totals.kept else "",
            f"{skipped} other files skipped" if skipped else "",
        ]
        line = "; ".join(part for part in parts if part)
        console.print(_text(f"{line}. See {self._out / REPORT}"), soft_wrap=True)


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    # The long text is in the files; the table shows what fits beside it.
    shown = [column for column in columns if column != "text" or len(columns) == 1]
    table = Table("page", *shown)
    for row in rows:
        name = Path(row["source"]).name
        page = f"{name} {row['page']}/{row['pages']}" if row["pages"] > 1 else name
        table.add_row(_text(page), *_cells(row, shown))
    return table


def _cells(row: Row, shown: Sequence[Column]) -> list[Text]:
    """Write the values, and an error in the place of the first that is missing."""
    cells = [_cell(row[column]) for column in shown]
    if error := row["error"]:
        place = next((place for place, column in enumerate(shown) if row[column] is None), 0)
        cells[place] = _text(f"{error['code']}: {error['message']}", "red")
    return cells


def _cell(value: object) -> Text:
    text = "" if value is None else str(value)
    return _text(text if len(text) <= 160 else text[:159] + "…")


def _text(text: str, style: str = "") -> Text:
    """Escape what a terminal cannot show: bytes of a file name that are no UTF-8."""
    return Text(text.encode("utf-8", "backslashreplace").decode("utf-8"), style)
