"""Stored pages under the keys that hosts use in the metadata of their documents and nodes."""

from __future__ import annotations

import uuid
from typing import Any

from glm4v_core.store.page import StoredPage


def page_id(sha256: str) -> str:
    """Make a page's id for a database that wants a UUID; the same content hash always gives the same id."""
    return str(uuid.UUID(sha256[:32]))


def page_facts(page: StoredPage) -> dict[str, Any]:
    """Return a page's metadata for a host's document.

    The keys are `source`, `page` (counted from 0, as hosts count), `total_pages`, `sha256`, `summary`, `model`, and
    `label` if there is one. A page that is in several files gets the first of them as its source.
    """
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
