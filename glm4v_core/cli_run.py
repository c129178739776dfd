"""`glm4v run`: pages in, rows out, with progress, totals and an exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from glm4v_core.cli_plan import Plan
from glm4v_core.errors import InputError
from glm4v_core.model import Glm4v
from glm4v_core.ordered import in_order
from glm4v_core.page_files import find_files, read_pages
from glm4v_core.page_html import data_uri
from glm4v_core.pages import Page, PageOptions
from glm4v_core.report import REPORT, ReportWriter
from glm4v_core.results import Row, RowWriter, export, prepare_folder, row_of
from glm4v_core.workflow import Column, Outcome, PageFailure, Workflow

DONE, SOME_FAILED, NOTHING_USABLE, INTERRUPTED = 0, 1, 2, 130
ROWS_SHOWN = 40


@dataclass(slots=True)
class Totals:
    """What became of the pages so far."""

    pages: int = 0
    done: int = 0
    failed: int = 0
    warned: int = 0

    def count(self, row: Row) -> None:
        self.pages += 1
        self.done += row["status"] == "ok"
        self.failed += row["status"] == "failed"
        self.warned += bool(row["warnings"])

    @property
    def status(self) -> int:
        if not self.done:
            return NOTHING_USABLE
        return SOME_FAILED if self.failed else DONE


def run_pages(
    paths: Sequence[Path],
    out: Path,
    plan: Plan,
    options: PageOptions,
    load: Callable[[], Glm4v],
    *,
    concurrency: int,
    overwrite: bool,
) -> int:
    """Run the plan over all pages and return the exit status.

    Args:
        paths: files and folders.
        out: folder for the results.
        plan: checked before anything is loaded.
        options: how files are read.
        load: loads the model.
        concurrency: pages in flight.
        overwrite: replace earlier results.
    """
    plan.workflow()
    found = find_files(paths)
    if not found.files:
        raise InputError(
            f"There is no picture and no PDF among {len(found.skipped)} files.", hint="Name files or their folder."
        )
    prepare_folder(out, overwrite=overwrite)
    with progress_bar() as progress, load() as model:
        workflow = plan.workflow(model.info.family)
        run = _Run(model, workflow, out, plan, progress, len(found.files))
        interrupted = run.over(found.files, options, concurrency)
    _print_outcome(run, out, skipped=len(found.skipped), interrupted=interrupted)
    return INTERRUPTED if interrupted else run.totals.status


def progress_bar() -> Progress:
    """Show progress on standard error, so that standard output holds results only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


class _Run:
    """Writes each page's row to all outputs in the order of the pages."""

    def __init__(self, model: Glm4v, workflow: Workflow, out: Path, plan: Plan, progress: Progress, files: int) -> None:
        self._model = model
        self._workflow = workflow
        self._out = out
        self._language = plan.language
        self._progress = progress
        self._bar = progress.add_task("Pages", total=files)
        self._expected = files
        self.columns: Sequence[Column] = tuple(workflow.steps)
        self.totals = Totals()
        self.shown: list[Row] = []

    def over(self, files: Sequence[Path], options: PageOptions, concurrency: int) -> bool:
        """Run over the files; whatever ends the run, the outputs are left complete.

        Returns:
            Whether the user broke it off.
        """
        with (
            closing(RowWriter(self._out)) as rows,
            closing(ReportWriter(self._out, self.columns, self._language)) as report,
        ):
            try:
                asyncio.run(self._write(files, options, concurrency, rows, report))
            except KeyboardInterrupt:
                return True
            finally:
                report.finish(asdict(self.totals))
                export(self._out)
        return False

    async def _write(
        self, files: Sequence[Path], options: PageOptions, concurrency: int, rows: RowWriter, report: ReportWriter
    ) -> None:
        async def work(page: Page | PageFailure) -> tuple[Outcome, str | None]:
            outcome = await self._workflow.atry(self._model, page)
            if isinstance(page, PageFailure) or report.is_full:
                return outcome, None
            return outcome, await asyncio.to_thread(data_uri, page.image)

        async for outcome, picture in in_order(read_pages(files, options), work, concurrency):
            row = row_of(outcome, self.columns)
            rows.write(row)
            report.write(row, picture)
            self._count(row)

    def _count(self, row: Row) -> None:
        self.totals.count(row)
        if len(self.shown) < ROWS_SHOWN:
            self.shown.append(row)
        if row["page"] == 1:  # only now is it known how many pages the file has
            self._expected += max(row["pages"] - 1, 0)
        self._progress.update(self._bar, completed=self.totals.pages, total=max(self._expected, self.totals.pages))


def _print_outcome(run: _Run, out: Path, *, skipped: int, interrupted: bool) -> None:
    console, totals = Console(), run.totals
    if totals.pages <= ROWS_SHOWN:
        console.print(_table(run.shown, run.columns))
    line = f"{totals.pages} pages: {totals.done} done, {totals.failed} failed, {totals.warned} with warnings"
    skip = f"; {skipped} other files skipped" if skipped else ""
    console.print(Text(f"{line}{skip}. See {out / REPORT}"), soft_wrap=True)
    if interrupted:
        Console(stderr=True).print("Stopped early; the rows so far are complete.")


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    # The long text is in the files; the table shows what fits beside it.
    shown = [column for column in columns if column != "text" or len(columns) == 1]
    table = Table("page", *shown)
    for row in rows:
        name = Path(row["source"]).name
        page = f"{name} {row['page']}/{row['pages']}" if row["pages"] > 1 else name
        error = row["error"]
        cells = [Text(f"{error['code']}: {error['message']}", "red")] if error else [_cell(row[name]) for name in shown]
        table.add_row(Text(page), *cells)
    return table


def _cell(value: object) -> Text:
    text = value if isinstance(value, str) else str(value)
    return Text(text if len(text) <= 160 else text[:159] + "…")
