"""Results and failures of pages, and reading the pages of files as input for steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm4v_core.errors import Failure, Glm4vError
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import FailedPage, Page, PageInfo, load_pages
from glm4v_core.tasks import INCOMPLETE
from glm4v_core.types import Completion, FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Finish reason, token counts and timings of one step."""

    finish: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class DocumentResult:
    """The values that the steps found on one page. A value is None if its step was not run or failed.

    Attributes:
        page: the page that it is about.
        text: of the page.
        summary: one sentence.
        label: one of the labels.
        caption: a description of the picture.
        fields: of `tasks.extract`: a dict, or an instance of the pydantic model.
        answer: to a free question.
        steps: details by the step's name.
        warnings: steps whose answer is incomplete, as "step:finish reason".
        model: name of the model that answered.
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
        """Combine the values of a page, by attribute, with the completions from which they were read, by step name."""
        return cls(
            page=PageInfo.of(page),
            steps={name: StepInfo(done.finish, done.usage, done.timings) for name, done in completions.items()},
            warnings=_warnings(completions),
            model=next((done.model for done in completions.values()), ""),
            **values,
        )


@dataclass(frozen=True, slots=True)
class PageFailure:
    """A page without a complete result; other pages are not affected.

    Attributes:
        page: the page that it is about.
        error: of the first step that failed, or of reading the page.
        partial: values of the steps that succeeded; None if there are none.
    """

    page: PageInfo
    error: Failure
    partial: DocumentResult | None = None


Outcome = DocumentResult | PageFailure


def read_pages(files: Sequence[Path], options: PageOptions) -> Iterator[Page | PageFailure]:
    """Yield the pages of all files, with a PageFailure for each that cannot be read. Files are opened one by one."""
    for file in files:
        try:
            for page in load_pages(file, errors="yield", **options):
                yield page if isinstance(page, Page) else _failure(page)
        except Glm4vError as error:
            yield PageFailure(PageInfo(str(file)), Failure.of(error))


def _failure(page: FailedPage) -> PageFailure:
    return PageFailure(PageInfo(page.source, page.number, page.count), Failure.of(page.error))


def _warnings(completions: Mapping[str, Completion]) -> tuple[str, ...]:
    return tuple(f"{name}:{done.finish}" for name, done in completions.items() if done.finish in INCOMPLETE)
