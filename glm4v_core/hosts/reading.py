"""Many pages -> their texts: several at the same time, in order, with one policy for failures.

The document loaders of both hosts are built on this; each adds only the shape of its documents.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from glm4v_core.concurrency.ordered import in_order
from glm4v_core.errors import Glm4vError, InputError, is_of_one_page
from glm4v_core.media.image import ImageSource
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import Page, PageInfo, load_pages
from glm4v_core.types import Completion

O = TypeVar("O")  # noqa: E741  # the origin

OnError = Literal["raise", "skip", "record"]
"""What to do about a page that fails: end the run, leave the page out with a warning, or keep it with its error."""
Facts = Mapping[str, Any]
"""Metadata of a document."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnreadPage:
    """A page, or with number 0 a whole document, that could not be opened."""

    error: Glm4vError
    source: str
    number: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class PageText(Generic[O]):
    """The text of a page.

    Attributes:
        origin: caller-supplied value that identifies where the page came from.
        text: empty if reading failed and the policy is "record".
        facts: about the image and the answer, or about the error; see `read_texts`.
    """

    origin: O
    page: PageInfo
    text: str
    facts: Facts


def open_pages(source: ImageSource, name: str, options: PageOptions) -> Iterator[Page | UnreadPage]:
    """Open the pages of a document one after the other, and yield a failure instead of raising it.

    Args:
        source: see `load_pages`.
        name: of the source, for the pages' metadata.
        options: of `load_pages`.
    """
    try:
        for page in load_pages(source, errors="yield", **options):
            if isinstance(page, Page):
                yield replace(page, source=name)
            else:
                yield UnreadPage(page.error, name, page.number, page.count)
    except InputError as error:
        yield UnreadPage(error, name)


async def read_texts(
    pages: Iterable[tuple[O, Page | UnreadPage]],
    read: Callable[[Page], Awaitable[tuple[str, Facts]]],
    *,
    errors: OnError,
    concurrency: int,
) -> AsyncGenerator[PageText[O], None]:
    """Read pages, opened as slots become free and never all in memory; closing aborts what is running.

    The facts of a page are `sha256` (of the pixels), `format`, `width`, `height`, `notes` if opening it changed
    something, and what `read` adds. Those of a recorded failure are `error_code`, `error_message` and `error_hint`.

    Args:
        pages: each with its origin.
        read: returns a page's text and further facts.
        errors: what to do about a page that fails. An error that would hit every page is always raised.
        concurrency: pages in progress at the same time.
    """

    async def work(item: tuple[O, Page | UnreadPage]) -> PageText[O] | None:
        origin, page = item
        if isinstance(page, UnreadPage):
            info = PageInfo(page.source, page.number, page.count)
            return _settle(origin, info, page.error, errors)
        info = PageInfo.of(page)
        try:
            text, facts = await read(page)
        except Glm4vError as error:
            return _settle(origin, info, error, errors)
        return PageText(origin, info, text, {**_picture_facts(info), **facts})

    async with aclosing(in_order(pages, work, concurrency)) as texts:
        async for text in texts:
            if text is not None:
                yield text


def answer_facts(completion: Completion) -> dict[str, Any]:
    """Return `model` and `finish_reason`; a finish reason other than "stop" means that the text is incomplete."""
    return {"model": completion.model, "finish_reason": completion.finish}


def _settle(origin: O, page: PageInfo, error: Glm4vError, errors: OnError) -> PageText[O] | None:
    place = f"page {page.number} of {page.source}" if page.number else page.source
    if errors == "raise" or not is_of_one_page(error):
        error.add_note(f"This happened at {place}.")
        raise error
    if errors == "skip":
        _log.warning("Skipped %s: %s", place, error)
        return None
    details = {"error_code": error.code, "error_message": error.message, "error_hint": error.hint}
    return PageText(origin, page, "", _picture_facts(page) | details)


def _picture_facts(page: PageInfo) -> dict[str, Any]:
    if not page.sha256:
        return {}
    width, height = page.size
    facts: dict[str, Any] = {"sha256": page.sha256, "format": page.format, "width": width, "height": height}
    return facts | ({"notes": "; ".join(page.notes)} if page.notes else {})
