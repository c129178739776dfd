"""Documents that a host's retriever found -> pages to ask the model about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glm4v_core.dialect.families import Family
from glm4v_core.errors import PageError
from glm4v_core.media.page_options import PageOptions, check_page_options
from glm4v_core.media.pages import load_page
from glm4v_core.store.asking import Evidence, Route, SourcedAnswer, ask_pages, page_request
from glm4v_core.store.page import Place
from glm4v_core.store.store import PageStore
from glm4v_core.tasks import Answering
from glm4v_core.tasks.prompts import Language
from glm4v_core.types import Request
from glm4v_core.validation import check_choice


@dataclass(frozen=True, slots=True)
class PageAsking:
    """How pages that a host's retriever found are opened and asked.

    Attributes:
        store: where pictures come from; without it, from the files that the metadata names.
        route: what the model is shown of a page.
        language: of the words around the question.
        options: for opening pages; with a store, they override those the page was indexed with.

    Raises:
        ConfigError: a setting is out of range.
    """

    store: PageStore | None = None
    route: Route = "both"
    language: Language = "en"
    options: PageOptions = field(default_factory=PageOptions)

    def __post_init__(self) -> None:
        check_choice("route", self.route, Route)
        check_choice("language", self.language, Language)
        check_page_options(**self.options)

    def open(self, facts: Mapping[str, Any], text: str, route: Route | None = None) -> Evidence:
        """Open a retrieved page.

        Args:
            facts: its metadata, with the keys of `page_facts`.
            text: of the page.
            route: instead of the one set; the picture is opened unless it is "text".

        Raises:
            ImageError, PageError: the metadata lacks a key, or the picture is gone.
        """
        try:
            place = Place(facts["source"], facts["page"] + 1, facts["total_pages"])
        except KeyError as error:
            raise PageError(
                f"A page has no {error} in its metadata.",
                hint="Make documents of stored pages, or with a loader or reader.",
            ) from error
        sha256 = facts.get("sha256", "")
        if (route or self.route) == "text":
            return Evidence(place, text, None, sha256)
        if self.store is not None:
            return Evidence(place, text, self.store.image(sha256, **self.options), sha256)
        image = load_page(place.source, place.number, **self.options).image
        return Evidence(place, text, image, image.sha256)

    async def ask(
        self, model: Answering, question: str, pages: Sequence[Evidence], family: Family | None
    ) -> SourcedAnswer:
        """Ask about each page separately and return the answer with its page; see `ask_pages`."""
        return await ask_pages(model, question, pages, self.route, language=self.language, family=family)

    def request(self, question: str, page: Evidence, family: Family | None) -> Request:
        """Return the request that puts the question to one page; see `page_request`."""
        return page_request(question, page, self.route, language=self.language, family=family)
