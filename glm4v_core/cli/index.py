"""`glm4v index`: folders of scans into a page store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from glm4v_core.cli.terminal import DONE, INTERRUPTED, NOTHING_USABLE, SOME_FAILED, print_json, printable, progress_bar
from glm4v_core.media.files import find_named
from glm4v_core.media.page_options import PageOptions
from glm4v_core.model import Glm4v
from glm4v_core.store.ingestion import IngestedPage, Ingestion, IngestOptions, aingest
from glm4v_core.store.store import PageStore
from glm4v_core.tasks.results import PageFailure

STOPPED = "Stopped early; the pages so far are in the store. The same command goes on."


def index_pages(
    paths: Sequence[Path],
    store_path: Path,
    options: IngestOptions,
    page_options: PageOptions,
    load: Callable[[], Glm4v],
    *,
    as_json: bool,
) -> int:
    """Bring the store up to date and return the exit status; paths and store are checked before the model is loaded."""
    found = find_named(paths)
    if not store_path.is_file():  # pages of an existing store may have to be removed
        found.check()
    with PageStore(store_path) as store:
        with load() as model:
            try:
                outcome = _ingest(store, model, paths, options, page_options, len(found.files))
            except KeyboardInterrupt:
                Console(stderr=True).print(STOPPED)
                return INTERRUPTED
        pages = store.count()
    if as_json:
        print_json(_outcome_json(outcome, pages))
    else:
        _print_outcome(outcome, pages, store_path)
    if not (outcome.read or outcome.kept) and outcome.failed:
        return NOTHING_USABLE
    return SOME_FAILED if outcome.failed else DONE


def _ingest(
    store: PageStore,
    model: Glm4v,
    paths: Sequence[Path],
    options: IngestOptions,
    page_options: PageOptions,
    expected: int,
) -> Ingestion:
    with progress_bar() as progress:
        bar = progress.add_task("Pages", total=expected)
        done = 0

        def on_page(page: IngestedPage) -> None:
            nonlocal done, expected
            done += 1
            if page.page.number > 1:  # the file's page count is known only now
                expected += 1
            progress.update(bar, completed=done, total=max(done, expected))

        return asyncio.run(aingest(store, model, paths, options, on_page, **page_options))


def _outcome_json(outcome: Ingestion, pages: int) -> dict[str, Any]:
    return {
        "pages": pages,
        "read": outcome.read,
        "kept": outcome.kept,
        "failed": [_failure_json(failure) for failure in outcome.failed],
        "forgotten": list(outcome.forgotten),
        "skipped": [str(path) for path in outcome.skipped],
    }


def _failure_json(failure: PageFailure) -> dict[str, Any]:
    return {"source": failure.page.source, "page": failure.page.number, "error": asdict(failure.error)}


def _print_outcome(outcome: Ingestion, pages: int, store: Path) -> None:
    console = Console(soft_wrap=True)
    for failure in outcome.failed:
        place = f"{failure.page.source}, page {failure.page.number}" if failure.page.number else failure.page.source
        console.print(printable(f"{place}: {failure.error.code}: {failure.error.message}", "red"))
    parts = [
        f"{outcome.read} pages read, {outcome.kept} kept, {len(outcome.failed)} failed",
        f"{len(outcome.forgotten)} files forgotten" if outcome.forgotten else "",
        f"{len(outcome.skipped)} other files skipped" if outcome.skipped else "",
    ]
    line = "; ".join(part for part in parts if part)
    console.print(printable(f"{line}. {store} holds {pages} pages."))
