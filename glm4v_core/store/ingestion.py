"""Folders of scans -> a page store. A page is read once, and again only if it or the way of reading it changed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Unpack

from pydantic import AfterValidator, PositiveInt

from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT, in_order
from glm4v_core.concurrency.own_loop import run_in_own_loop
from glm4v_core.errors import Failure
from glm4v_core.media.files import FileStamp, Paths, absolute_path, find_files
from glm4v_core.media.page_options import PageOptions, check_page_options
from glm4v_core.media.pages import Page, PageInfo
from glm4v_core.model import Glm4v
from glm4v_core.store.store import PageStore
from glm4v_core.tasks import check_labels
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.results import PageFailure, read_pages
from glm4v_core.tasks.workflow import Workflow, document_workflow, settings_of
from glm4v_core.validation import Options

Status = Literal["read", "kept", "failed"]


@dataclass(frozen=True, slots=True)
class IngestedPage:
    """What happened to a page: it was read, was known already, or failed."""

    page: PageInfo
    status: Status
    error: Failure | None = None


@dataclass(slots=True)
class Ingestion:
    """What an ingestion did.

    Attributes:
        read: pages that the model read.
        kept: pages known already, by their file or their pixels.
        failed: pages and whole files that could not be read; the store lists them too.
        forgotten: files that no longer exist.
        skipped: files in the folders that are neither images nor PDF.
    """

    read: int = 0
    kept: int = 0
    failed: list[PageFailure] = field(default_factory=list)
    forgotten: tuple[str, ...] = ()
    skipped: tuple[Path, ...] = ()


def _checked_labels(labels: Sequence[str]) -> Sequence[str]:
    if labels:
        check_labels(labels)
    return labels


class IngestOptions(Options):
    """How to ingest.

    Attributes:
        labels: to choose from; without any, pages are not classified.
        language: of the prompts.
        concurrency: pages in progress at the same time.
        keep_pictures: store each page's image, so that it can be shown after its file is gone; about a megabyte per
            page. Otherwise images are read from the files.
    """

    owner: ClassVar[str] = "IngestOptions"

    labels: Annotated[Sequence[str], AfterValidator(_checked_labels)] = ()
    language: Language = "en"
    concurrency: PositiveInt = PAGES_IN_FLIGHT
    keep_pictures: bool = False


DEFAULT_OPTIONS = IngestOptions()


def ingest(
    store: PageStore,
    model: Glm4v,
    paths: Paths,
    options: IngestOptions = DEFAULT_OPTIONS,
    on_page: Callable[[IngestedPage], None] = lambda page: None,
    **page_options: Unpack[PageOptions],
) -> Ingestion:
    """Blocking version of `aingest`; `on_page` is called in this thread, unless it already runs an event loop."""
    return run_in_own_loop(aingest(store, model, paths, options, on_page, **page_options))


async def aingest(
    store: PageStore,
    model: Glm4v,
    paths: Paths,
    options: IngestOptions = DEFAULT_OPTIONS,
    on_page: Callable[[IngestedPage], None] = lambda page: None,
    **page_options: Unpack[PageOptions],
) -> Ingestion:
    """Bring the store up to date with files and folders.

    A file whose size and modification time are unchanged is not opened, and a page whose pixels are known is not read
    again. Pages of files that no longer exist are removed, unless their folder cannot be listed. With another model
    or other prompts everything is read again. Each page is written as soon as it is read, so the same call resumes
    after an interruption. A page that fails is recorded, and tried again next time.

    Args:
        store: to write to.
        model: that reads the pages.
        paths: files, and folders, which are searched recursively.
        options: how to ingest.
        on_page: called for each page in order, on the caller's event loop, which it must not block for long.
        **page_options: of `load_pages`, such as `dpi` and `max_pages`.

    Raises:
        ConfigError: a setting is wrong, or the store cannot be written.
        EngineError: the engine is closed or dead.
    """
    check_page_options(**page_options)
    workflow = document_workflow(options.labels, language=options.language, family=model.info.family)
    reader = _Reader(store, model, workflow, options, page_options)
    roots = [absolute_path(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    found = await asyncio.to_thread(find_files, roots)
    outcome = Ingestion(skipped=found.skipped)
    async with aclosing(reader.read(found.files)) as pages:
        async for page in pages:
            _count(outcome, page)
            on_page(page)
    outcome.forgotten = await asyncio.to_thread(_forget_gone, store, roots, found.files)
    return outcome


def _count(outcome: Ingestion, page: IngestedPage) -> None:
    outcome.read += page.status == "read"
    outcome.kept += page.status == "kept"
    if page.error is not None:
        outcome.failed.append(PageFailure(page.page, page.error))


def _forget_gone(store: PageStore, roots: Sequence[Path], found: Sequence[Path]) -> tuple[str, ...]:
    gone = tuple(_gone(store.sources(), roots, found))
    store.forget(gone)
    return gone


def _gone(known: Sequence[str], roots: Sequence[Path], found: Sequence[Path]) -> Iterator[str]:
    """Yield known files below the roots that no longer exist; not those of a folder that cannot be listed."""
    there = set(found)
    for source in known:
        above = set(Path(source).parents)
        if Path(source) not in there and not above.isdisjoint(roots) and above.isdisjoint(there):
            yield source


@dataclass(frozen=True, slots=True)
class _EndOfFile:
    """Follows the pages of a file; `kept` is the number of its pages if it was not opened."""

    source: str
    stamp: FileStamp
    kept: int = 0


class _Reader:
    """Reads the pages of many files, several at the same time."""

    def __init__(
        self, store: PageStore, model: Glm4v, workflow: Workflow, options: IngestOptions, page_options: PageOptions
    ) -> None:
        self._store, self._model, self._workflow = store, model, workflow
        self._options, self._page_options = options, page_options
        self._recipe, self._file_recipe = _recipes(model.info.model, workflow, page_options)
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, files: Sequence[Path]) -> AsyncGenerator[IngestedPage]:
        """Yield what happened to each page, in order."""
        done: list[IngestedPage] = []
        async with aclosing(in_order(self._items(files), self._work, self._options.concurrency)) as items:
            async for item in items:
                if isinstance(item, IngestedPage):
                    done.append(item)
                    yield item
                    continue
                await asyncio.to_thread(self._finish, item, done)
                for _ in range(item.kept):
                    yield IngestedPage(PageInfo(item.source), "kept")
                done = []

    def _items(self, files: Sequence[Path]) -> Iterator[Page | PageFailure | _EndOfFile]:
        for file in files:
            source, stamp = str(file), FileStamp.of(file)
            if kept := self._store.count_done(source, stamp, self._file_recipe):
                yield _EndOfFile(source, stamp, kept)
                continue
            self._store.begin(source, self._page_options)
            yield from read_pages([file], self._page_options)
            yield _EndOfFile(source, stamp)

    async def _work(self, item: Page | PageFailure | _EndOfFile) -> IngestedPage | _EndOfFile:
        if isinstance(item, _EndOfFile):
            return item
        if isinstance(item, PageFailure):
            return IngestedPage(item.page, "failed", item.error)
        async with self._turns[item.image.sha256]:  # an equal page may be in progress
            return await self._read_page(item)

    async def _read_page(self, page: Page) -> IngestedPage:
        info = PageInfo.of(page)
        if await asyncio.to_thread(self._store.place, info, page.source, self._recipe):
            return IngestedPage(info, "kept")
        outcome = await self._workflow.atry(self._model, page)
        if isinstance(outcome, PageFailure):
            return IngestedPage(info, "failed", outcome.error)
        picture = page.image if self._options.keep_pictures else None
        await asyncio.to_thread(self._store.put, outcome, page.source, self._recipe, picture)
        return IngestedPage(info, "read")

    def _finish(self, end: _EndOfFile, done: Sequence[IngestedPage]) -> None:
        if end.kept:
            return
        failures = [PageFailure(page.page, page.error) for page in done if page.error is not None]
        numbers = [page.page.number for page in done if page.error is None]
        self._store.finish(end.source, numbers, failures, end.stamp, self._file_recipe)


def _recipes(model: str, workflow: Workflow, options: PageOptions) -> tuple[str, str]:
    """Hash the settings that the text of a page depends on, and those for a file, whose pages depend on more."""
    settings = settings_of(workflow, options)
    tokens = {"max_image_tokens": settings["pages"]["max_image_tokens"]}
    recipes = ({"model": model, "steps": settings["steps"], "pages": pages} for pages in (tokens, settings["pages"]))
    page, file = (hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest() for recipe in recipes)
    return page, file
