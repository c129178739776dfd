"""What a page store returns: pages as they were read, with the files and page numbers where they are found."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """File and page number of a page; `number` counts from 1."""

    source: str
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A page as it was read.

    Attributes:
        sha256: over its pixels.
        places: the files that hold it, sorted; at least one.
        warnings: steps whose answer is incomplete, as "step:finish reason".
    """

    sha256: str
    text: str
    summary: str
    label: str | None
    model: str
    warnings: tuple[str, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class FoundPage:
    """A page that a question led to; a higher score is a better match."""

    page: StoredPage
    score: float


def page_id(sha256: str) -> str:
    """Make the id of a page for other databases, some of which want a UUID, of its content hash."""
    return str(uuid.UUID(sha256[:32]))


def page_facts(page: StoredPage) -> dict[str, Any]:
    """Describe a page under the keys that both hosts use; `page` counts from 0, and the source is the first of all."""
    first = page.places[0]
    facts = {
        "source": first.source,
        "page": first.number - 1,
        "total_pages": first.count,
        "sha256": page.sha256,
        "summary": page.summary,
        "model": page.model,
    }
    return facts if page.label is None else facts | {"label": page.label}
