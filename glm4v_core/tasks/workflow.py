"""Several steps on each of many pages: in flight together, given back in the order of the pages."""

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
"""Where a step's value goes in a DocumentResult."""
Settings = Mapping[str, Mapping[str, Any]]
"""What decides the results of a workflow, by section, as plain data."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """Steps to ask about every page.

    Attributes:
        steps: the first runs alone, so that the others find the page's prompt prefix already computed.
    """

    steps: Mapping[Column, Step[Any]]

    def for_family(self, family: Family) -> Workflow:
        """Read text with the prompt on which `family` was trained, if it has one; other prompts stay."""
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
        """Ask all steps about one page.

        Raises:
            Glm4vError: of the first step that failed.
        """
        result, error = await self._ask(model, page)
        if error is not None:
            raise error
        return result

    async def atry(self, model: Answering, page: Page | PageFailure) -> Outcome:
        """Give this page's failure back instead of raising it, with what other steps found; earlier ones pass through.

        Raises:
            Glm4vError: all pages would meet it: the engine is closed or dead, or a setting is wrong.
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
        """Run over many pages; they are drawn as there is room, never held all at once."""

        async def work(page: Page | PageFailure) -> Outcome:
            return await self.atry(model, page)

        return in_order(pages, work, concurrency)

    def stream(
        self, model: Answering, pages: Iterable[Page | PageFailure], *, concurrency: int = PAGES_IN_FLIGHT
    ) -> Generator[Outcome]:
        """Blocking version of `astream`; the steps run in a thread and an event loop of their own."""
        return iterate_in_own_loop(self.astream(model, pages, concurrency=concurrency))

    async def _ask(self, model: Answering, page: Page) -> tuple[DocumentResult, Glm4vError | None]:
        """Gather what the steps found, with the error of the first that failed; without the first none is asked."""
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
    """Read and summarize each page, and classify it when there are labels to choose from."""
    steps: dict[Column, Step[Any]] = {"text": ocr(language, family=family), "summary": summarize(language)}
    return Workflow(steps | {"label": classify(labels, language)} if labels else steps)


def settings_of(workflow: Workflow, options: PageOptions) -> Settings:
    """Gather what decides the results: the questions, and how pages are rendered.

    Neither engine nor concurrency is in it, and no password. The values are as JSON gives them back.
    """
    steps: dict[str, Any] = {}
    for column, step in workflow.steps.items():
        steps |= {f"{column}.prompt": step.prompt, f"{column}.constraint": step.constraint and asdict(step.constraint)}
    pages = {name: options.get(name) for name in ("frames", "dpi", "max_image_tokens")}
    settings: Settings = json.loads(json.dumps({"steps": steps, "pages": pages}))
    return settings


async def _attempt(step: Step[Any], model: Answering, page: Page) -> tuple[Any, Completion] | Glm4vError:
    """Let the other steps on the page go on after an error that concerns this one alone."""
    try:
        return await step.arun(model, page.image)
    except Glm4vError as error:
        if not is_of_one_page(error):
            raise
        return error
