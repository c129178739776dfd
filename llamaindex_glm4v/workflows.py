"""Reading, summarizing and classifying the pages of many files as a LlamaIndex workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index.core.workflow.retry_policy import RetryPolicy  # type: ignore[attr-defined]  # exported by use

import glm4v_core
from glm4v_core import DocumentResult, Failure, PageFailure, PageInfo, PageOptions, tasks
from glm4v_core.errors import ConfigError, EngineError, InputError
from glm4v_core.hosts import (
    WORKFLOW_PAGES_IN_FLIGHT,
    Answering,
    Language,
    Outcome,
    check_page_options,
    list_pages,
    load_page,
)
from llamaindex_glm4v._observed import ObservedModel
from llamaindex_glm4v._retrying import RetryingModel
from llamaindex_glm4v.llm import GLM4VMultiModal

_MOST = 1024
_PLACES, _SENT = "places", "sent"
"""Keys of a run's state: all pages as path, number and count, and how many of them have been sent."""

ListedPage = tuple[str, int, int]


class ScansEvent(StartEvent):
    """Starts a run with files and folders."""

    paths: str | Path | list[str | Path]


class PagesFound(Event):
    """Reports, on the run's event stream, how many pages there are; a document that cannot be opened counts as one."""

    count: int


class PageTask(Event):
    """A page to read; number 0 is a document that cannot be opened."""

    index: int
    path: str
    number: int
    count: int
    pages: int
    """Pages of the whole run."""


class PageRetried(Event):
    """Reports, on the event stream, that a question about a page is asked again."""

    index: int
    error: Failure
    attempt: int
    delay: float


class PageDone(Event):
    """The outcome of a page as soon as it is known; also on the event stream."""

    index: int
    pages: int
    outcome: DocumentResult | PageFailure


class DocumentWorkflow(Workflow):
    """Reads, summarizes and classifies the pages of many files: `find_pages`, then `read_page` for each, then `gather`.

    The result is a list of outcomes in the order of the pages: a `DocumentResult`, or a `PageFailure` for a page that
    failed. Only an error that would hit every page, such as a dead engine, ends the run.

    The model is shown page images only: no text of a page becomes part of a prompt, no tools are offered, and a label
    is one of those given.

    Example:
        ```python
        workflow = DocumentWorkflow(GLM4VMultiModal(), labels=["invoice", "letter"])
        run = workflow.run(paths=["scans/"])
        async for event in run.stream_events():
            print(event)
        for outcome in await run:
            print(outcome.page.source, outcome.page.number, outcome)
        ```
    """

    def __init__(
        self,
        llm: GLM4VMultiModal,
        *,
        labels: Sequence[str] = (),
        language: Language = "en",
        steps: glm4v_core.Workflow | None = None,
        retry: RetryPolicy | None = None,
        concurrency: int = WORKFLOW_PAGES_IN_FLIGHT,
        timeout: float | None = None,
        page_options: PageOptions | None = None,
        **options: Any,
    ) -> None:
        """Check the settings; nothing is loaded or opened.

        Args:
            llm: to ask; its settings apply where a step leaves them open.
            labels: to choose from; without any, pages are not classified.
            language: of the prompts.
            steps: instead of those that `glm4v_core.document_workflow` makes from labels and language.
            retry: a policy of LlamaIndex: how often and how soon to ask again. None asks three times in all, waiting
                1 and 2 seconds. Only transient failures of the engine are retried, and only the question that failed.
            concurrency: pages in progress at the same time, at most 1024.
            timeout: seconds for a whole run.
            page_options: of `glm4v_core.load_pages`, such as {"dpi": 300}.
            **options: of LlamaIndex's `Workflow`.

        Raises:
            ConfigError: a setting is out of range.
            ConstraintError: a label is empty or given twice.
        """
        super().__init__(timeout=timeout, **options)
        if not 1 <= concurrency <= _MOST:
            raise ConfigError(f"concurrency must be from 1 to {_MOST}, not {concurrency}.")
        self._options = PageOptions(max_image_tokens=llm.max_image_tokens)
        self._options.update(page_options or {})
        check_page_options(**self._options)
        if labels:
            tasks.check_labels(labels)
        self._llm, self._labels, self._language = llm, tuple(labels), language
        self._steps, self._retry, self._concurrency = steps, retry, concurrency

    @step
    async def find_pages(self, context: Context, event: ScansEvent) -> PageTask | StopEvent | None:
        """List the pages, and send the first of them, each as an event of its own."""
        paths = [event.paths] if isinstance(event.paths, (str, Path)) else event.paths
        places = await asyncio.to_thread(_find, paths, self._options)
        context.write_event_to_stream(PagesFound(count=len(places)))
        if not places:
            return StopEvent(result=[])
        # Not all at once: LlamaIndex copies all waiting events whenever it handles one.
        first = range(min(self._concurrency, len(places)))
        await context.store.set(_PLACES, places)
        await context.store.set(_SENT, len(first))
        for index in first:
            context.send_event(_task(places, index))
        return None

    @step(num_workers=_MOST)
    async def read_page(self, context: Context, event: PageTask) -> PageDone:
        """Open a page and ask all steps about it; only plain data stays in the run's state."""
        try:
            page = await asyncio.to_thread(load_page, event.path, event.number, **self._options)
        except InputError as error:
            info = PageInfo(event.path, event.number, event.count)
            outcome: Outcome = PageFailure(info, Failure.of(error))
        else:
            outcome = await (await self._choose_steps()).atry(self._model(context, event), page)
        done = PageDone(index=event.index, pages=event.pages, outcome=outcome)
        context.write_event_to_stream(done)
        return done

    @step(num_workers=1)
    async def gather(self, context: Context, event: PageDone) -> PageTask | StopEvent | None:
        """Send the next page; when all are done, return their outcomes in the order of the pages."""
        done = context.collect_events(event, [PageDone] * event.pages)
        if done is None:
            return await _next_task(context)
        return StopEvent(result=[page.outcome for page in sorted(done, key=lambda page: page.index)])

    async def _choose_steps(self) -> glm4v_core.Workflow:
        """Return the steps; looking up the family may load the model."""
        if self._steps is None:
            family = await asyncio.to_thread(lambda: self._llm.family)
            self._steps = glm4v_core.document_workflow(self._labels, language=self._language, family=family)
        return self._steps

    def _model(self, context: Context, task: PageTask) -> Answering:
        def announce(error: EngineError, attempt: int, delay: float) -> None:
            again = PageRetried(index=task.index, error=Failure.of(error), attempt=attempt, delay=delay)
            context.write_event_to_stream(again)

        return RetryingModel(ObservedModel(self._llm), self._retry, announce)


async def _next_task(context: Context) -> PageTask | None:
    places, index = await context.store.get(_PLACES), await context.store.get(_SENT)
    if index == len(places):
        return None
    await context.store.set(_SENT, index + 1)
    return _task(places, index)


def _task(places: Sequence[ListedPage], index: int) -> PageTask:
    path, number, count = places[index]
    return PageTask(index=index, path=path, number=number, count=count, pages=len(places))


def _find(paths: Iterable[str | Path], options: PageOptions) -> list[ListedPage]:
    return [(page.source, page.number, page.count) for page in list_pages(paths, options)]
