"""Runs several steps on each of many pages, many at once, and returns the results in the order of the pages."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT, all_at_once, in_order
from glm4v_core.concurrency.own_loop import iterate_in_own_loop
from glm4v_core.dialect.families import Family
from glm4v_core.errors import Failure, Glm4vError, is_of_one_page
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import Page
from glm4v_core.tasks import Answering, Step, classify, ocr, summarize
from glm4v_core.tasks.prompts import PROMPTS, Language
from glm4v_core.tasks.results import DocumentResult, Outcome, PageFailure
from glm4v_core.types import Completion

Column = Literal["text", "summary", "label", "caption", "fields", "answer"]
"""Attribute of DocumentResult for a step's value."""
Settings = Mapping[str, Mapping[str, Any]]
"""The settings that determine the results of a workflow, by section, as plain data."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """Steps to run on every page.

    Attributes:
        steps: by the attribute of the result. The first step runs before the others, which then find the page's prompt
            prefix in the cache.
    """

    steps: Mapping[Column, Step[Any]]

    def for_family(self, family: Family) -> Workflow:
        """Replace the built-in OCR prompt if `family` was trained on a fixed one; other prompts are kept."""
        if family.ocr_prompt is None:
            return self
        built_in = PROMPTS["ocr"].values()
        return Workflow(
            {
                column: ocr(family=family) if step.name == "ocr" and step.prompt in built_in else step
                for column, step in self.steps.items()
            }
        )

    async def arun(self, model: Answering, page: Page) -> DocumentResult:
        """Run all steps on one page.

        Raises:
            Glm4vError: the error of the first step that failed.
        """
        result, error = await self._ask(model, page)
        if error is not None:
            raise error
        return result

    async def atry(self, model: Answering, page: Page | PageFailure) -> Outcome:
        """Run all steps on one page, and return an error that affects only this page instead of raising it.

        Args:
            model: to ask.
            page: a PageFailure is returned unchanged.

        Raises:
            Glm4vError: the error would affect every page: the engine is closed or dead, or a setting is wrong.
        """
        if isinstance(page, PageFailure):
            return page
        result, error = await self._ask(model, page)
        if error is None:
            return result
        return PageFailure(result.page, Failure.of(error), result if result.steps else None)

    def astream(
        self, model: Answering, pages: Iterable[Page | PageFailure], *, concurrency: int = PAGES_IN_FLIGHT
    ) -> AsyncGenerator[Outcome]:
        """Run on many pages and yield the results in order. Pages are fetched as they are needed, never all at once."""

        async def work(page: Page | PageFailure) -> Outcome:
            return await self.atry(model, page)

        return in_order(pages, work, concurrency)

    def stream(
        self, model: Answering, pages: Iterable[Page | PageFailure], *, concurrency: int = PAGES_IN_FLIGHT
    ) -> Generator[Outcome]:
        """Blocking version of `astream`; the steps run in a separate thread with a private event loop."""
        return iterate_in_own_loop(self.astream(model, pages, concurrency=concurrency))

    async def _ask(self, model: Answering, page: Page) -> tuple[DocumentResult, Glm4vError | None]:
        """Return the values of the steps and the first error. If the first step fails, the others are not run."""
        first, *others = self.steps.values()
        attempts = [await _attempt(first, model, page)]
        if not isinstance(attempts[0], Glm4vError):
            attempts += await all_at_once(_attempt(step, model, page) for step in others)
        values: dict[str, Any] = {}
        completions: dict[str, Completion] = {}
        for column, step, attempt in zip(self.steps, self.steps.values(), attempts, strict=False):
            if not isinstance(attempt, Glm4vError):
                values[column], completions[step.name] = attempt
        failed = next((attempt for attempt in attempts if isinstance(attempt, Glm4vError)), None)
        return DocumentResult.of(page, values, completions), failed


def document_workflow(
    labels: Sequence[str] = (), *, language: Language = "en", family: Family | None = None
) -> Workflow:
    """Return a workflow that reads and summarizes each page, and classifies it if there are labels to choose from.

    `langchain_glm4v.document_workflow` makes a runnable of the same steps.
    """
    steps: dict[Column, Step[Any]] = {"text": ocr(language, family=family), "summary": summarize(language)}
    return Workflow(steps | {"label": classify(labels, language)} if labels else steps)


def settings_of(workflow: Workflow, options: PageOptions) -> Settings:
    """Return the settings that determine the results: the prompts, and how pages are rendered.

    Engine, concurrency and password are not included.

    Args:
        workflow: its prompts and constraints are included.
        options: with which pages are opened.

    Returns:
        Plain values, equal to those read back from a JSON file.
    """
    steps: dict[str, Any] = {}
    for column, step in workflow.steps.items():
        steps |= {f"{column}.prompt": step.prompt, f"{column}.constraint": step.constraint and asdict(step.constraint)}
    pages = {name: options.get(name) for name in ("frames", "dpi", "max_image_tokens")}
    settings: Settings = json.loads(json.dumps({"steps": steps, "pages": pages}))
    return settings


async def _attempt(step: Step[Any], model: Answering, page: Page) -> tuple[Any, Completion] | Glm4vError:
    """Run one step; return an error that affects only this page, so that the other steps can continue."""
    try:
        return await step.arun(model, page.image)
    except Glm4vError as error:
        if not is_of_one_page(error):
            raise
        return error
