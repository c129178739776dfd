"""Scanned documents as LangChain's `Document`s, one per page: a loader, and a parser for blobs."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Unpack

from langchain_core.document_loaders import BaseBlobParser, BaseLoader, Blob
from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase

from glm4v_core import (
    Family,
    Glm4vError,
    ImageSource,
    Language,
    Page,
    PageInfo,
    PageOptions,
    Step,
    in_order,
    load_pages,
    pull,
    tasks,
)
from glm4v_core.errors import ConfigError, InputError
from langchain_glm4v._failures import is_of_one_page
from langchain_glm4v._files import Paths, find_scans
from langchain_glm4v.chat_model import ChatGLM4V
from langchain_glm4v.workflows import State, StepAnswer, ask_step

OnError = Literal["raise", "skip", "record"]
IN_FLIGHT = 16
"""Pages in work together."""

_log = logging.getLogger(__name__)


class ParserOptions(PageOptions, total=False):
    """Settings of `GLM4VBlobParser`."""

    step: Step[str] | None
    language: Language | None
    errors: OnError
    concurrency: int


class GLM4VBlobParser(BaseBlobParser):
    """Reads pictures, scanned PDFs and multi-frame TIFFs, one `Document` per page, in the order of the pages.

    Pages are in flight together, also those of several blobs; they are opened as there is room and never held all at
    once. Breaking off aborts what runs.

    The metadata is that of the blob, with `source`, `page` (from 0), `total_pages`, `sha256` (over the pixels),
    `format`, `width`, `height`, `model`, `finish_reason`, and `notes` where opening the page changed something. A
    `finish_reason` other than "stop" says that the text is incomplete.
    """

    def __init__(
        self,
        llm: Runnable[LanguageModelInput, AIMessage],
        *,
        step: Step[str] | None = None,
        language: Language | None = None,
        errors: OnError = "raise",
        concurrency: int = IN_FLIGHT,
        **options: Unpack[PageOptions],
    ) -> None:
        """Check the settings; nothing is loaded or opened.

        Args:
            llm: a ChatGLM4V, or a runnable around one, such as `llm.with_retry()`.
            step: of `glm4v_core.tasks`, what to ask about a page; None reads its text, with the prompt on which a
                ChatGLM4V's family was trained where it has one.
            language: of the built-in prompt for reading, "en" if left out.
            errors: what becomes of a page that fails. "raise" ends the run after the pages before it; "skip" leaves
                it out, with a warning in the log; "record" gives a Document without text, whose metadata has
                `error_code`, `error_message` and `error_hint`. What all pages would meet raises in any case.
            concurrency: pages in work together.
            **options: of `glm4v_core.load_pages`, such as `dpi` and `max_pages`.

        Raises:
            ConfigError: a setting is out of range, or step and language are both given.
        """
        if step is not None and language is not None:
            raise ConfigError("A step brings its own prompt.", hint="Pass step or language.")
        if errors not in ("raise", "skip", "record"):
            raise ConfigError(f"errors is {errors!r}; it must be 'raise', 'skip' or 'record'.")
        load_pages(b"", **options)  # checks the options, and reads nothing
        self._llm = llm
        self._step = step
        self._language: Language = language or "en"
        self._errors = errors
        self._concurrency = concurrency
        self._options = options

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """Read the pages of a blob; a few pages ahead of what was asked for, never all."""
        return self.lazy_parse_all([blob])

    def alazy_parse(self, blob: Blob) -> AsyncGenerator[Document]:
        """Do as `lazy_parse` does."""
        return self.alazy_parse_all([blob])

    def lazy_parse_all(self, blobs: Iterable[Blob]) -> Iterator[Document]:
        """Read the pages of all blobs, each opened when its first page has its turn."""
        return pull(self.alazy_parse_all(blobs))

    async def alazy_parse_all(self, blobs: Iterable[Blob]) -> AsyncGenerator[Document]:
        """Do as `lazy_parse_all` does."""
        ask = ask_step(self._llm, await asyncio.to_thread(self._choose_step))

        async def work(item: tuple[Blob, Page | _Unread]) -> Document | None:
            return await self._read(ask, *item)

        pages = ((blob, page) for blob in blobs for page in self._pages(blob))
        async with aclosing(in_order(pages, work, self._concurrency)) as documents:
            async for document in documents:
                if document is not None:
                    yield document

    def _choose_step(self) -> Step[str]:
        """Find the family out, which may load the model."""
        return self._step or tasks.ocr(self._language, family=_family(self._llm))

    def _pages(self, blob: Blob) -> Iterator[Page | _Unread]:
        try:
            for page in load_pages(_source(blob), errors="yield", **self._options):
                if isinstance(page, Page):
                    yield page
                else:
                    yield _Unread(PageInfo(page.source, page.number, page.count), page.error)
        except InputError as error:
            yield _Unread(PageInfo(""), error)

    async def _read(self, ask: Runnable[State, StepAnswer[str]], blob: Blob, page: Page | _Unread) -> Document | None:
        if isinstance(page, _Unread):
            return self._settle(blob, page.info, page.error)
        info = PageInfo.of(page)
        try:
            answer = await ask.ainvoke({"page": page})
        except Glm4vError as error:
            return self._settle(blob, info, error)
        done = answer.completion
        return _document(answer.value, blob, info, {"model": done.model, "finish_reason": done.finish})

    def _settle(self, blob: Blob, info: PageInfo, error: Glm4vError) -> Document | None:
        """Do with a failed page what the policy says."""
        place = f"page {info.number} of {_name(blob)}" if info.number else _name(blob)
        if self._errors == "raise" or not is_of_one_page(error):
            error.add_note(f"This happened at {place}.")
            raise error
        if self._errors == "record":
            details = {"error_code": error.code, "error_message": error.message, "error_hint": error.hint}
            return _document("", blob, info, details)
        _log.warning("Skipped %s: %s", place, error)
        return None


class ScannedDocumentLoader(BaseLoader):
    """Reads scanned files into one `Document` per page, as `GLM4VBlobParser` does.

    Example:
        ```python
        loader = ScannedDocumentLoader(["scans/", "contract.pdf"], ChatGLM4V(), errors="record")
        for document in loader.lazy_load():
            print(document.metadata["source"], document.metadata["page"], document.page_content)
        ```
    """

    def __init__(
        self,
        paths: Paths,
        llm: Runnable[LanguageModelInput, AIMessage],
        **options: Unpack[ParserOptions],
    ) -> None:
        """Check the settings; nothing is loaded or opened.

        Args:
            paths: files and folders. Folders are searched recursively for pictures and PDFs, sorted as people count;
                a warning in the log names other files in them.
            llm: a ChatGLM4V, or a runnable around one.
            **options: of `GLM4VBlobParser`.
        """
        self._paths = paths if isinstance(paths, (str, os.PathLike)) else tuple(paths)
        self._parser = GLM4VBlobParser(llm, **options)

    def lazy_load(self) -> Iterator[Document]:
        """Read page by page; a few pages ahead of what was asked for, never all."""
        return self._parser.lazy_parse_all(self._blobs())

    def alazy_load(self) -> AsyncGenerator[Document]:
        """Do as `lazy_load` does."""
        return self._parser.alazy_parse_all(self._blobs())

    def _blobs(self) -> Iterator[Blob]:
        yield from map(Blob.from_path, find_scans(self._paths))


@dataclass(frozen=True, slots=True)
class _Unread:
    """A page, or with number 0 a whole document, that could not be opened."""

    info: PageInfo
    error: Glm4vError


def _source(blob: Blob) -> ImageSource:
    """Leave a file to the gate, which caps it before it is read."""
    return blob.path if blob.data is None and blob.path is not None else blob.as_bytes()


def _name(blob: Blob) -> str:
    return blob.source or "bytes"


def _document(text: str, blob: Blob, info: PageInfo, outcome: Mapping[str, Any]) -> Document:
    facts: dict[str, Any] = {"source": _name(blob)}
    if info.number:
        facts |= {"page": info.number - 1, "total_pages": info.count}
    if info.sha256:
        width, height = info.size
        facts |= {"sha256": info.sha256, "format": info.format, "width": width, "height": height}
    if info.notes:
        facts["notes"] = "; ".join(info.notes)
    return Document(page_content=text, metadata={**blob.metadata, **facts, **outcome})


def _family(llm: Runnable[LanguageModelInput, AIMessage]) -> Family | None:
    """Look through bindings and retries for the ChatGLM4V, and load it."""
    while isinstance(llm, RunnableBindingBase):
        llm = llm.bound
    return llm.load().info.family if isinstance(llm, ChatGLM4V) else None
