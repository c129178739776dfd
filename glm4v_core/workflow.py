"""Several steps on each of many pages: in flight together, given back in the order of the pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from glm4v_core.engines.loop import iterate
from glm4v_core.errors import EngineClosedError, EngineDeadError, Glm4vError
from glm4v_core.families import Family
from glm4v_core.ordered import IN_FLIGHT, in_order
from glm4v_core.pages import Page
from glm4v_core.task_prompts import Language
from glm4v_core.tasks import INCOMPLETE, Step, classify, ocr, summarize
from glm4v_core.types import Completion, FinishReason, Timings, Usage

if TYPE_CHECKING:
    from glm4v_core.model import Glm4v

R = TypeVar("R")

Column = Literal["text", "summary", "label", "caption", "fields", "answer"]
"""Where a step's value goes in a DocumentResult."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result; never text of the model."""

    code: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: Glm4vError) -> Failure:
        return cls(error.code, error.message, error.hint)


@dataclass(frozen=True, slots=True)
class PageInfo:
    """Which page a result is about.

    Attributes:
        number: counts from 1; 0 stands for the whole source, when it could not be opened.
        sha256: over mode, size and pixels, so equal pages are known again under any name.
        size: width and height in pixels before orientation and scaling.
        notes: what the image gate had to do, such as leaving out further frames.
    """

    source: str
    number: int = 0
    count: int = 0
    sha256: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, page: Page) -> PageInfo:
        origin = page.image.provenance
        return cls(
            source=str(page.source),
            number=page.number,
            count=page.count,
            sha256=page.image.sha256,
            format=origin.format,
            size=origin.size,
            orientation=origin.orientation,
            notes=origin.notes,
        )


@dataclass(frozen=True, slots=True)
class StepInfo:
    """How one step went."""

    finish: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """What the steps found on one page. A value is None when its step was not asked.

    Attributes:
        steps: by the step's name.
        warnings: steps whose answer is incomplete, as "step:finish reason".
    """

    page: PageInfo
    text: str | None = None
    summary: str | None = None
    label: str | None = None
    caption: str | None = None
    fields: Any = None
    answer: str | None = None
    steps: Mapping[str, StepInfo] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    model: str = ""

    @classmethod
    def of(cls, page: Page, values: Mapping[str, Any], completions: Mapping[str, Completion]) -> DocumentResult:
        """Gather the values of a page, with the completions they were read from by step name."""
        return cls(
            page=PageInfo.of(page),
            steps={name: StepInfo(done.finish, done.usage, done.timings) for name, done in completions.items()},
            warnings=_warnings(completions),
            model=next((done.model for done in completions.values()), ""),
            **values,
        )


@dataclass(frozen=True, slots=True)
class PageFailure:
    """A page without a result; the other pages go on."""

    page: PageInfo
    error: Failure


Outcome = DocumentResult | PageFailure


@dataclass(frozen=True, slots=True)
class Workflow:
    """Steps to ask about every page.

    Attributes:
        steps: the first runs alone, so that the others find the page's prompt prefix already computed.
    """

    steps: Mapping[Column, Step[Any]]

    async def arun(self, model: Glm4v, page: Page) -> DocumentResult:
        """Ask all steps about one page.

        Raises:
            Glm4vError: of the first step that failed.
        """
        first, *others = self.steps.values()
        answers = [await first.arun(model, page.image)]
        answers += await _together(step.arun(model, page.image) for step in others)
        values: dict[str, Any] = {column: value for column, (value, _) in zip(self.steps, answers, strict=True)}
        completions = {step.name: done for step, (_, done) in zip(self.steps.values(), answers, strict=True)}
        return DocumentResult.of(page, values, completions)

    async def atry(self, model: Glm4v, page: Page | PageFailure) -> Outcome:
        """Give this page's failure back instead of raising it; an earlier failure passes through.

        Raises:
            EngineError: the engine is closed or dead, so that no other page can go on either.
        """
        if isinstance(page, PageFailure):
            return page
        try:
            return await self.arun(model, page)
        except (EngineClosedError, EngineDeadError):
            raise
        except Glm4vError as error:
            return PageFailure(PageInfo.of(page), Failure.of(error))

    def astream(
        self, model: Glm4v, pages: Iterable[Page | PageFailure], *, concurrency: int = IN_FLIGHT
    ) -> AsyncGenerator[Outcome]:
        """Run over many pages; they are drawn as there is room, never held all at once."""

        async def work(page: Page | PageFailure) -> Outcome:
            return await self.atry(model, page)

        return in_order(pages, work, concurrency)

    def stream(
        self, model: Glm4v, pages: Iterable[Page | PageFailure], *, concurrency: int = IN_FLIGHT
    ) -> Generator[Outcome]:
        """Do as `astream` does, without an event loop."""
        return iterate(self.astream(model, pages, concurrency=concurrency))


def document_workflow(
    labels: Sequence[str] = (), *, language: Language = "en", family: Family | None = None
) -> Workflow:
    """Read and summarize each page, and classify it when there are labels to choose from."""
    steps: dict[Column, Step[Any]] = {"text": ocr(language, family=family), "summary": summarize(language)}
    return Workflow(steps | {"label": classify(labels, language)} if labels else steps)


async def _together(runs: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    tasks = [asyncio.create_task(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # after a failure the rest would be in vain
            task.cancel()


def _warnings(completions: Mapping[str, Completion]) -> tuple[str, ...]:
    return tuple(f"{name}:{done.finish}" for name, done in completions.items() if done.finish in INCOMPLETE)
