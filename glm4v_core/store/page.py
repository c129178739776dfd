"""What a page store returns: pages as they were read, with the files and page numbers they are at."""

from __future__ import annotations

from dataclasses import dataclass


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
        sha256: of its pixels.
        places: where it is, sorted by file; at least one.
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
    """A page found by a search; a higher score is a better match."""

    page: StoredPage
    score: float
