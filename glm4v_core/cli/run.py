"""`glm4v run` on the screen: a progress bar, a table, totals and an exit status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glm4v_core.bulk.outputs import Totals
from glm4v_core.bulk.report import REPORT
from glm4v_core.bulk.rows import Row, read_rows
from glm4v_core.bulk.runner import BulkJob, FinishedPage, run
from glm4v_core.cli.plan import RunPlan
from glm4v_core.cli.terminal import DONE, INTERRUPTED, NOTHING_USABLE, SOME_FAILED, printable, progress_bar
from glm4v_core.errors import Glm4vError
from glm4v_core.media.files import Found
from glm4v_core.media.page_options import PageOptions
from glm4v_core.model import Glm4v
from glm4v_core.tasks.workflow import Column

ROWS_SHOWN = 40
STOPPED = "Stopped early; the rows so far are complete. The same command with --resume goes on."


def run_pages(
    paths: Sequence[Path],
    out: Path,
    plan: RunPlan,
    options: PageOptions,
    load: Callable[[], Glm4v],
    *,
    concurrency: int,
    overwrite: bool = False,
    resume: bool = False,
) -> int:
    """Run the plan over all pages and return the exit status; see `BulkJob` for the arguments.

    Args:
        paths: files and folders.
        out: folder for the results.
        plan: as given on the command line.
        options: how files are read.
        load: loads the model, after everything else has been checked.
        concurrency: pages in progress at the same time.
        overwrite: replace earlier results.
        resume: continue earlier results; start if there are none.
    """
    job = BulkJob(paths, out, plan.workflow(), options, plan.language, concurrency, overwrite, resume)
    screen, interrupted = _Screen(), False
    try:
        with screen:
            run(job, load, on_start=screen.start, on_page=screen.show, on_end=screen.finish)
    except KeyboardInterrupt:
        if screen.found is None:  # the model was still being loaded
            raise
        interrupted = True
    screen.print_results(tuple(job.workflow.steps), out)
    return INTERRUPTED if interrupted else _status(screen.totals)


class _Screen:
    """The progress bar of a run, and what to print when it is over.

    Attributes:
        found: None until the run has started.
    """

    def __init__(self) -> None:
        self.found: Found | None = None
        self.totals = Totals()
        self._progress = progress_bar()
        self._bar = self._progress.add_task("Pages", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.found is None:
            return
        self._progress.stop()
        if isinstance(error, (KeyboardInterrupt, Glm4vError)):
            Console(stderr=True).print(STOPPED)

    def start(self, found: Found) -> None:
        self.found = found
        self._progress.update(self._bar, total=len(found.files))
        self._progress.start()

    def show(self, done: FinishedPage) -> None:
        self._progress.update(self._bar, completed=done.totals.pages, total=done.expected)

    def finish(self, totals: Totals) -> None:
        self.totals = totals

    def print_results(self, columns: Sequence[Column], out: Path) -> None:
        """Print the table, unless it is too long, and the totals."""
        console, totals = Console(), self.totals
        if totals.pages <= ROWS_SHOWN:
            console.print(_table(read_rows(out), columns))
        skipped = len(self.found.skipped) if self.found is not None else 0
        parts = [
            f"{totals.pages} pages: {totals.done} done, {totals.failed} failed, {totals.warned} with warnings",
            f"{totals.kept} of them kept from before" if totals.kept else "",
            f"{skipped} other files skipped" if skipped else "",
        ]
        line = "; ".join(part for part in parts if part)
        console.print(printable(f"{line}. See {out / REPORT}"), soft_wrap=True)


def _status(totals: Totals) -> int:
    if not totals.done:
        return NOTHING_USABLE
    return SOME_FAILED if totals.failed else DONE


def _table(rows: Iterable[Row], columns: Sequence[Column]) -> Table:
    # The long text is in the files; the table shows the rest.
    shown = [column for column in columns if column != "text" or len(columns) == 1]
    table = Table("page", *shown)
    for row in rows:
        name = Path(row["source"]).name
        page = f"{name} {row['page']}/{row['pages']}" if row["pages"] > 1 else name
        table.add_row(printable(page), *_cells(row, shown))
    return table


def _cells(row: Row, shown: Sequence[Column]) -> list[Text]:
    """Return the cells of a row; an error takes the place of the first missing value."""
    cells = [_cell(row[column]) for column in shown]
    if error := row["error"]:
        place = next((place for place, column in enumerate(shown) if row[column] is None), 0)
        cells[place] = printable(f"{error['code']}: {error['message']}", "red")
    return cells


def _cell(value: object) -> Text:
    text = "" if value is None else str(value)
    return printable(text if len(text) <= 160 else text[:159] + "…")
