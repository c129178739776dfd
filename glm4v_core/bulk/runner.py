"""Runs a workflow over the pages of many files, writes the results to a folder, and resumes interrupted runs.

The command line adds a progress display; any Python program can call `run`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm4v_core.bulk.earlier import Earlier, JobPage, KeptPage, gather, job_pages
from glm4v_core.bulk.outputs import Outputs, Totals
from glm4v_core.bulk.rows import Row, prepare_folder, row_of
from glm4v_core.bulk.settings import check_settings
from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT, in_order
from glm4v_core.concurrency.own_loop import run_in_own_loop
from glm4v_core.errors import ConfigError
from glm4v_core.html.page import data_uri
from glm4v_core.media.files import Found, Paths, find_named, pages_wanted
from glm4v_core.media.page_options import PageOptions, check_page_options
from glm4v_core.media.pages import Page
from glm4v_core.model import Glm4v
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.workflow import Settings, Workflow, settings_of
from glm4v_core.validation import check_choice


@dataclass(frozen=True, slots=True)
class BulkJob:
    """Which steps to run on which pages, and where to write the results.

    Attributes:
        paths: files and folders; folders are searched recursively for pictures and PDFs.
        out: folder for the results; created if necessary.
        workflow: steps to run. The built-in OCR prompt is replaced by that of the model's family, if it has one.
        page_options: of `load_pages`, such as `dpi` and `frames`.
        language: of the report.
        concurrency: number of pages processed at once.
        overwrite: replace the results of an earlier run in `out`. Without `overwrite` or `resume` they are an error.
        resume: keep finished pages of earlier runs, and run only those that are missing, failed or changed.
    """

    paths: Paths
    out: Path
    workflow: Workflow
    page_options: PageOptions = field(default_factory=PageOptions)
    language: Language = "en"
    concurrency: int = PAGES_IN_FLIGHT
    overwrite: bool = False
    resume: bool = False


@dataclass(frozen=True, slots=True)
class FinishedPage:
    """A page whose row has been written.

    Attributes:
        row: as in results.jsonl.
        kept: whether the row is from an earlier run.
        expected: estimated pages of the whole run; grows as files with several pages are opened.
        totals: of the run so far, including this page.
    """

    row: Row
    kept: bool
    expected: int
    totals: Totals


@dataclass(frozen=True, slots=True)
class _Finished:
    """A page's row, with its picture for the report."""

    row: Row
    picture: str | None
    kept: bool


def run(
    job: BulkJob,
    model: Glm4v | Callable[[], Glm4v],
    *,
    on_start: Callable[[Found], None] = lambda found: None,
    on_page: Callable[[FinishedPage], None] = lambda done: None,
    on_end: Callable[[Totals], None] = lambda totals: None,
) -> Totals:
    """Run a job and write results.jsonl, results.json, results.csv and report.html to its folder.

    A page that fails gets a row with its error. If the run ends early, the files contain all rows so far, and the same
    job with `resume` continues it.

    Args:
        job: is checked, including its paths and folder, before the model is loaded.
        model: a loaded model, which stays open, or a function that loads one, which is closed at the end.
        on_start: called with the files after the model is loaded, before the first page is opened.
        on_page: called for each page in order, in this thread unless an event loop is already running in it.
        on_end: called when the files are complete, also after an interrupt or an error. Only these totals include the
            rows of an earlier run for pages that this run has not reached.

    Returns:
        The totals.

    Raises:
        ConfigError: a setting is wrong, or the folder has other results or cannot be written.
        ImageNotFoundError, InputError: the paths do not exist, or contain no pages.
        EngineError: the engine is closed or dead.
        KeyboardInterrupt: the user interrupted the run; the files are complete.
    """
    settings = _checked_settings(job)
    found = find_named(job.paths)
    found.check()
    prepare_folder(job.out, overwrite=job.overwrite, resume=job.resume)
    earlier = _earlier(job.out, settings, found.files) if job.resume else Earlier(job.out)
    with ExitStack() as stack:
        loaded = model if isinstance(model, Glm4v) else stack.enter_context(model())
        settings = {**settings, "model": {"model": loaded.info.model}}
        if earlier:
            check_settings(job.out, settings)
        workflow = job.workflow.for_family(loaded.info.family)
        on_start(found)
        outputs = Outputs(job.out, tuple(workflow.steps), job.language, settings, earlier)
        tasks = job_pages(found.files, job.page_options, earlier, unopened=lambda: not outputs.takes_pictures)
        rows = _rows(loaded, workflow, tasks, outputs, job.concurrency)
        try:
            with outputs:
                run_in_own_loop(_write(outputs, rows, len(found.files), job.page_options, on_page))
        finally:
            on_end(outputs.totals)
        return outputs.totals


def _checked_settings(job: BulkJob) -> Mapping[str, Mapping[str, Any]]:
    if job.concurrency < 1:
        raise ConfigError(f"concurrency is {job.concurrency}; it must be positive.")
    check_choice("language", job.language, Language)
    check_page_options(**job.page_options)
    return settings_of(job.workflow, job.page_options)


def _earlier(out: Path, settings: Settings, files: Sequence[Path]) -> Earlier:
    earlier = gather(out)
    if earlier:
        check_settings(out, settings)
        earlier.check_overlap(files)
    return earlier


def _rows(
    model: Glm4v, workflow: Workflow, tasks: Iterable[JobPage], outputs: Outputs, concurrency: int
) -> AsyncGenerator[_Finished]:
    """Yield the rows in the order of the pages."""

    async def work(task: JobPage) -> _Finished:
        if isinstance(task, KeptPage):
            row = task.row
        else:
            row = row_of(await workflow.atry(model, task.page), outputs.columns, task.stamp)
        picture = None
        if isinstance(task.page, Page) and outputs.takes_pictures:
            picture = await asyncio.to_thread(data_uri, task.page.image)
        return _Finished(row, picture, isinstance(task, KeptPage))

    return in_order(tasks, work, concurrency)


async def _write(
    outputs: Outputs,
    rows: AsyncGenerator[_Finished],
    expected: int,
    options: PageOptions,
    on_page: Callable[[FinishedPage], None],
) -> None:
    async with aclosing(rows):
        async for finished in rows:
            row = finished.row
            outputs.put(row, finished.picture, kept=finished.kept)
            if row["page"] == 1:  # only now the number of pages in the file is known
                expected += pages_wanted(row["pages"], options) - 1
            on_page(FinishedPage(row, finished.kept, max(expected, outputs.totals.pages), outputs.totals))
