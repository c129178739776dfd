"""Questions over many pages: the model is asked about each retrieved page separately; the best-ranked answer is cited.

An answer therefore comes from exactly one page, and a page cannot influence what is said about another. The content
of a page is data: its text is wrapped, no tools are offered while it is read, and the answer is only returned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, Unpack

from glm4v_core.concurrency.ordered import all_at_once
from glm4v_core.concurrency.own_loop import run_in_own_loop
from glm4v_core.dialect.families import Family
from glm4v_core.errors import ConfigError, ImageError, InputError, PageError
from glm4v_core.media.image import Image
from glm4v_core.media.page_options import PageOptions
from glm4v_core.model import Glm4v
from glm4v_core.store.page import FoundPage, Place
from glm4v_core.store.store import PAGES_FOUND, PageStore
from glm4v_core.tasks import Answering, ask
from glm4v_core.tasks.prompts import ASK_PAGE, NOT_ON_PAGE, Language
from glm4v_core.types import Completion, Message, Request
from glm4v_core.validation import check_choice

T = TypeVar("T")
Route = Literal["image", "text", "both"]
"""What the model is shown of a page: its image, its text, or both."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A page that may hold the answer.

    Attributes:
        image: None where the route is "text".
        sha256: of the page's pixels; empty if unknown.
    """

    place: Place
    text: str
    image: Image | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """What the model answered from one page; `text` is None if the page does not say."""

    evidence: Evidence
    text: str | None
    completion: Completion


@dataclass(frozen=True, slots=True)
class SourcedAnswer:
    """An answer with its source.

    Attributes:
        text: None if no page has an answer.
        citation: the page that answered, with its picture.
        asked: every page the model was asked about, best match first.
    """

    question: str
    text: str | None
    citation: Evidence | None
    asked: tuple[PageAnswer, ...]


def query_pages(
    store: PageStore,
    model: Glm4v,
    question: str,
    *,
    find: str | None = None,
    k: int = PAGES_FOUND,
    route: Route = "both",
    language: Language = "en",
    **options: Unpack[PageOptions],
) -> SourcedAnswer:
    """Blocking version of `aquery_pages`."""
    return run_in_own_loop(
        aquery_pages(store, model, question, find=find, k=k, route=route, language=language, **options)
    )


async def aquery_pages(
    store: PageStore,
    model: Glm4v,
    question: str,
    *,
    find: str | None = None,
    k: int = PAGES_FOUND,
    route: Route = "both",
    language: Language = "en",
    **options: Unpack[PageOptions],
) -> SourcedAnswer:
    """Find pages, ask about each, and answer from the best-ranked page that has an answer.

    Args:
        store: with the pages.
        model: to ask.
        question: put to each page; without `find`, it also finds them, so it should use words from the pages.
        find: search words, if they differ from the question: a name, or a term in the language of the pages. The
            model does not see them.
        k: how many pages to find.
        route: ask about the image of a page, its text, or both.
        language: of the words around the question.
        **options: of `load_page`; they override those the page was indexed with. The password of a PDF, for example.

    Raises:
        ConfigError: k, route or language is out of range.
        ImageError, PageError: none of the pages found can be opened; see `open_each`.
    """
    check_choice("language", language, Language)
    evidence = await asyncio.to_thread(find_evidence, store, find or question, k=k, route=route, **options)
    return await ask_pages(model, question, evidence, route, language=language, family=model.info.family)


async def ask_pages(
    model: Answering,
    question: str,
    evidence: Sequence[Evidence],
    route: Route,
    *,
    language: Language = "en",
    family: Family | None = None,
) -> SourcedAnswer:
    """Ask about each page separately, all at once, and answer with the best-ranked page that has an answer.

    Args:
        model: to ask.
        question: of the user.
        evidence: the pages, best match first.
        route: what the model is shown of a page.
        language: of the words around the question.
        family: of the model, for one that was trained on a wording of its own.

    Raises:
        Glm4vError: of the first page that failed; the other requests are aborted.
    """
    requests = [page_request(question, page, route, language=language, family=family) for page in evidence]
    return choose_answer(question, evidence, await all_at_once(model.agenerate(request) for request in requests))


def find_evidence(
    store: PageStore, words: str, *, k: int, route: Route, **options: Unpack[PageOptions]
) -> list[Evidence]:
    """Find pages in a store and open their images, unless the route is "text"."""
    check_choice("route", route, Route)

    def open_one(found: FoundPage) -> Evidence:
        page = found.page
        image = None if route == "text" else store.image(page.sha256, **options)
        return Evidence(page.places[0], page.text, image, page.sha256)

    return [evidence for _, evidence in open_each(open_one, store.search(words, k))]


def open_each(open_one: Callable[[T], Evidence], found: Iterable[T]) -> list[tuple[T, Evidence]]:
    """Open retrieved pages; leave out, with a warning, those that cannot be opened, since another may have the answer.

    Args:
        open_one: opens one of them.
        found: what was retrieved, best match first.

    Returns:
        Each with its opened page.

    Raises:
        ImageError, PageError: none can be opened; the error is that of the best match.
    """
    opened: list[tuple[T, Evidence]] = []
    errors: list[InputError] = []
    for one in found:
        try:
            opened.append((one, open_one(one)))
        except (ImageError, PageError) as error:
            errors.append(error)
    if errors and not opened:
        raise errors[0]
    for missing in errors:
        _log.warning("A page that was found is not asked: %s", missing)
    return opened


def page_request(
    question: str, evidence: Evidence, route: Route, *, language: Language = "en", family: Family | None = None
) -> Request:
    """Return the request that puts a question to one page. The text is wrapped as data, and no tools are offered.

    Args:
        question: of the user.
        evidence: the page.
        route: what the model is shown of it.
        language: of the words around the question.
        family: of the model, for one that was trained on a wording of its own.

    Raises:
        ConfigError: the route needs an image, but the evidence has none.
    """
    check_choice("route", route, Route)
    wording = family.page_question if family is not None else None
    step = ask((wording or ASK_PAGE[language]).format(question=question))
    if route == "text":
        return step.request(evidence.text)
    if evidence.image is None:
        raise ConfigError(f'There is no picture of {evidence.place.source}, and the route is "{route}".')
    if route == "image":
        return step.request(evidence.image)
    (about_text,) = step.request(evidence.text).messages
    return Request((Message.user(evidence.image, *about_text.parts),), thinking=step.thinking)


def choose_answer(question: str, evidence: Sequence[Evidence], completions: Sequence[Completion]) -> SourcedAnswer:
    """Return the answer of the best-ranked page that has one.

    Args:
        question: as it was asked.
        evidence: the pages, best match first.
        completions: the answer from each.
    """
    asked = tuple(
        PageAnswer(page, _said(completion), completion) for page, completion in zip(evidence, completions, strict=True)
    )
    best = next((page for page in asked if page.text is not None), None)
    if best is None:
        return SourcedAnswer(question, None, None, asked)
    return SourcedAnswer(question, best.text, best.evidence, asked)


def _said(completion: Completion) -> str | None:
    """Return the text of an answer, or None if it is empty or says that the page does not say."""
    text = completion.text.strip()
    return text if text and text.rstrip(_ENDS).casefold() not in _ABSENT else None


_ENDS = ".。 "
_ABSENT = frozenset(text.rstrip(_ENDS).casefold() for text in NOT_ON_PAGE.values())
