"""Pages by content: the store, its lexical index, ingestion, and questions that are answered from pages."""

from glm4v_core.store.asking import (
    Evidence,
    PageAnswer,
    Route,
    SourcedAnswer,
    aquery_pages,
    ask_pages,
    choose_answer,
    find_evidence,
    page_request,
    query_pages,
)
from glm4v_core.store.ingestion import IngestedPage, Ingestion, IngestOptions, aingest, ingest
from glm4v_core.store.page import FoundPage, Place, StoredPage
from glm4v_core.store.store import PAGES_FOUND, PageStore

__all__ = [
    "PAGES_FOUND",
    "Evidence",
    "FoundPage",
    "IngestOptions",
    "IngestedPage",
    "Ingestion",
    "PageAnswer",
    "PageStore",
    "Place",
    "Route",
    "SourcedAnswer",
    "StoredPage",
    "aingest",
    "aquery_pages",
    "ask_pages",
    "choose_answer",
    "find_evidence",
    "ingest",
    "page_request",
    "query_pages",
]
