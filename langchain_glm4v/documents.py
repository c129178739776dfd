"""Scanned documents as LangChain's `Document`s, one per page: a loader, and a parser for blobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Unpack

from langchain_core.document_loaders import BaseBlobParser, BaseLoader, Blob
from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase

from glm4v_core import Family, Page, PageOptions, Step, tasks
from glm4v_core.errors import ConfigError
from glm4v_core.hosts import (
    PAGES_IN_FLIGHT,
    ImageSource,
    Language,
    OnError,
    PageText,
    Paths,
    answer_facts,
    check_choice,
    check_page_options,
    find_scans,
    iterate_in_own_loop,
    open_pages,
    read_texts,
)
from langchain_glm4v.chat_model import ChatGLM4V
from langchain_glm4v.workflows import StepAnswer, ask_step


class ParserOptions(PageOptions, total=False):
    """Settings of `GLM4VBlobParser`."""

    step: Step[str] | None
    language: Language | None
    errors: OnError
    concurrency: int


class GLM4VBlobParser(BaseBlobParser):
    """Reads pictures, scanned PDFs and multi-frame TIFFs, one `Document` per page, in the order of the pages.

    Several pages are read at the same time, also those of different blobs; they are opened as slots become free and
    are never all in memory. Stopping early aborts what is running.

    The metadata is that of the blob, with `source`, `page` (from 0), `total_pages`, `sha256` (of the pixels),
    `format`, `width`, `height`, `model`, `finish_reason`, and `notes` if opening the page changed something. A
    `finish_reason` other than "stop" means that the text is incomplete.
    """

    def __init__(
        self,
        llm: Runnable[LanguageModelInput, AIMessage],
        *,
        step: Step[str] | None = None,
        language: Language | None = None,
        errors: OnError = "raise",
        concurrency: int = PAGES_IN_FLIGHT,
        **options: Unpack[PageOptions],
    ) -> None:
        """Check the settings; nothing is loaded or opened.

        Args:
            llm: a ChatGLM4V, or a runnable around one, such as `llm.with_retry()`.
            step: of `glm4v_core.tasks`, what to ask about a page; None reads its text, with the prompt that a
                ChatGLM4V's family was trained on, if it has one.
            language: of the built-in prompt for reading, "en" if left out.
            errors: what to do about a page that fails. "raise" ends the run after the pages before it; "skip" leaves
                it out, with a warning in the log; "record" returns a Document without text, whose metadata has
                `error_code`, `error_message` and `error_hint`. An error that would hit every page is always raised.
            concurrency: pages in progress at the same time.
            **options: of `glm4v_core.load_pages`, such as `dpi` and `max_pages`.

        Raises:
            ConfigError: a setting is out of range, or step and language are both given.
        """
        if step is not None and language is not None:
            raise ConfigError("A step brings its own prompt.", hint="Pass step or language.")
        check_choice("errors", errors, OnError)
        check_page_options(**options)
        self._llm = llm
        self._step = step
        self._language: Language = language or "en"
        self._errors = errors
        self._concurrency = concurrency
        self._options = options

    def lazy_parse(self, blob: Blob) -> Iterator[Document]:
        """Read the pages of a blob, a few pages ahead of the caller and never all."""
        return self.lazy_parse_all([blob])

    def alazy_parse(self, blob: Blob) -> AsyncGenerator[Document]:
        """Asynchronous version of `lazy_parse`."""
        return self.alazy_parse_all([blob])

    def lazy_parse_all(self, blobs: Iterable[Blob]) -> Iterator[Document]:
        """Read the pages of all blobs; each is opened when its first page is due."""
        return iterate_in_own_loop(self.alazy_parse_all(blobs))

    async def alazy_parse_all(self, blobs: Iterable[Blob]) -> AsyncGenerator[Document]:
        """Asynchronous version of `lazy_parse_all`."""
        ask = ask_step(self._llm, await asyncio.to_thread(self._choose_step))

        async def read(page: Page) -> tuple[str, dict[str, Any]]:
            answer: StepAnswer[str] = await ask.ainvoke({"page": page})
            return answer.value, answer_facts(answer.completion)

        pages = ((blob, page) for blob in blobs for page in open_pages(_source(blob), _name(blob), self._options))
        texts = read_texts(pages, read, errors=self._errors, concurrency=self._concurrency)
        async with aclosing(texts):
            async for text in texts:
                yield _document(text)

    def _choose_step(self) -> Step[str]:
        """Return the step; looking up the family may load the model."""
        return self._step or tasks.ocr(self._language, family=family_of(self._llm))


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
            paths: files and folders. Folders are searched recursively for images and PDFs, in natural order; a
                warning in the log names other files in them.
            llm: a ChatGLM4V, or a runnable around one.
            **options: of `GLM4VBlobParser`.
        """
        self._paths = paths if isinstance(paths, (str, os.PathLike)) else tuple(paths)
        self._parser = GLM4VBlobParser(llm, **options)

    def lazy_load(self) -> Iterator[Document]:
        """Read page by page, a few pages ahead of the caller and never all."""
        return self._parser.lazy_parse_all(self._blobs())

    def alazy_load(self) -> AsyncGenerator[Document]:
        """Asynchronous version of `lazy_load`."""
        return self._parser.alazy_parse_all(self._blobs())

    def _blobs(self) -> Iterator[Blob]:
        yield from map(Blob.from_path, find_scans(self._paths))


def _source(blob: Blob) -> ImageSource:
    """Return the path if there is one, so that the size limit applies before the file is read."""
    return blob.path if blob.data is None and blob.path is not None else blob.as_bytes()


def _name(blob: Blob) -> str:
    return blob.source or "bytes"


def _document(read: PageText[Blob]) -> Document:
    page = read.page
    place = {"page": page.number - 1, "total_pages": page.count} if page.number else {}
    metadata = {**read.origin.metadata, "source": page.source, **place, **read.facts}
    return Document(page_content=read.text, metadata=metadata)


def family_of(llm: Runnable[LanguageModelInput, AIMessage]) -> Family | None:
    """Return the family of the ChatGLM4V inside bindings and retries, which loads it; None for another model."""
    while isinstance(llm, RunnableBindingBase):
        llm = llm.bound
    return llm.load().info.family if isinstance(llm, ChatGLM4V) else None
