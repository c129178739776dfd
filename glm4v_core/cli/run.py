"""`glm4v run`: pages in, rows out, with progress, totals and an exit status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from glm4v_core.bulk.earlier import Earlier, KeptPage, PageTask, gather, page_tasks
from glm4v_core.bulk.rows import Row, prepare_folder, row_of
from glm4v_core.bulk.settings import Settings, check_settings, settings_of
from glm4v_core.cli.outputs import Outputs
from glm4v_core.cli.plan import Plan
from glm4v_core.concurrency.ordered import in_order
from glm4v_core.errors import Glm4vError, ImageNotFoundError, InputError
from glm4v_core.html.page import data_uri
from glm4v_core.media.files import FileStamp, Found, find_files, pages_wanted
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import Page
from glm4v_core.model import Glm4v
from glm4v_core.tasks.workflow import Workflow

INTERRUPTED = 130
STOPPED = "Stopped early; the rows so far are complete. The same command with --resume goes on."


def run_pages(
    paths: Sequence[Path],
    out: Path,
    plan: Plan,
    options: PageOptions,
    load: Callable[[], Glm4v],
    *,
    concurrency: int,
    overwrite: bool = False,
    resume: bool = False,
) -> int:
    """Run the plan over all pages and return the exit status.

    Args:
        paths: files and folders.
        out: folder for the results.
        plan: checked before anything is loaded, and so are the paths and the folder.
        options: how files are read.
        load: loads the model.
        concurrency: pages in flight.
        overwrite: replace earlier results.
        resume: keep what earlier runs have done; where there is nothing yet, begin.
    """
    settings = settings_of(plan.workflow(), options)
    found = _find(paths)
    prepare_folder(out, overwrite=overwrite, resume=resume)
    earlier = _earlier(out, settings, found.files) if resume else Earlier(out)
    with load() as model:
        settings = {**settings, "model": {"model": model.info.model}}
        if earlier:
            check_settings(out, settings)
        workflow = plan.workflow(model.info.family)
        outputs = Outputs(out, tuple(workflow.steps), plan.language, settings, earlier)
        tasks = page_tasks(found.files, options, earlier, unopened=lambda: not outputs.takes_pictures)
        rows = _rows(model, workflow, tasks, outputs, concurrency)
        interrupted = _fill(outputs, rows, len(found.files), options)
    outputs.print(len(found.skipped))
    return INTERRUPTED if interrupted else outputs.totals.status


def progress_bar() -> Progress:
    """Show progress on standard error, so that standard output holds results only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


def _find(paths: Sequence[Path]) -> Found:
    if not any(FileStamp.of(path).modified for path in paths):
        raise ImageNotFoundError(f"There is no file or folder {', '.join(map(str, paths[:5]))}.")
    found = find_files(paths)
    if not found.files:
        raise InputError(
            f"There is no picture and no PDF among {len(found.skipped)} files.", hint="Name files or their folder."
        )
    return found


def _earlier(out: Path, settings: Settings, files: Sequence[Path]) -> Earlier:
    earlier = gather(out)
    if earlier:
        check_settings(out, settings)
        earlier.check_overlap(files)
    return earlier


Finished = tuple[Row, str | None, bool]
"""A page's row, its picture for the report, and whether an earlier run did it."""


def _rows(
    model: Glm4v, workflow: Workflow, tasks: Iterable[PageTask], outputs: Outputs, concurrency: int
) -> AsyncGenerator[Finished]:
    """Yield the rows in the order of the pages."""

    async def work(task: PageTask) -> Finished:
        if isinstance(task, KeptPage):
            row = task.row
        else:
            row = row_of(await workflow.atry(model, task.page), outputs.columns, task.stamp)
        picture = None
        if isinstance(task.page, Page) and outputs.takes_pictures:
            picture = await asyncio.to_thread(data_uri, task.page.image)
        return row, picture, isinstance(task, KeptPage)

    return in_order(tasks, work, concurrency)


def _fill(outputs: Outputs, rows: AsyncGenerator[Finished], files: int, options: PageOptions) -> bool:
    """Write all rows, with progress.

    Returns:
        Whether the user broke it off.
    """
    try:
        with outputs, progress_bar() as progress:
            asyncio.run(_write(outputs, rows, progress, files, options))
    except (KeyboardInterrupt, Glm4vError) as error:
        Console(stderr=True).print(STOPPED)
        if isinstance(error, Glm4vError):
            raise
        return True
    return False


async def _write(
    outputs: Outputs, rows: AsyncGenerator[Finished], progress: Progress, expected: int, options: PageOptions
) -> None:
    bar = progress.add_task("Pages", total=expected)
    async with aclosing(rows):
        async for row, picture, kept in rows:
            outputs.put(row, picture, kept=kept)
            if row["page"] == 1:  # only now is it known how many pages the file has
                expected += pages_wanted(row["pages"], options) - 1
            pages = outputs.totals.pages
            progress.update(bar, completed=pages, total=max(expected, pages))
