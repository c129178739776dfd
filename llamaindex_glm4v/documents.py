"""Scanned documents as LlamaIndex's `Document`s, one per page."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import Document, ImageDocument, MediaResource

from glm4v_core import Page
from glm4v_core.errors import InputError
from glm4v_core.hosts import Facts, PageText, Paths, UnreadPage, find_scans, iterate_in_own_loop, open_pages, read_texts
from llamaindex_glm4v._reading import PageReading, Read, ask_with, hide


class FileSystem(Protocol):
    """The part of fsspec's file systems that is used."""

    def open(self, path: str, mode: str) -> Any: ...


class GLM4VReader(PageReading, BasePydanticReader):
    """Reads pictures, scanned PDFs and multi-frame TIFFs, one `Document` per page, in the order of the pages.

    Several pages are read at the same time; they are opened as slots become free and are never all in memory. Stopping
    early aborts what is running. Without an LLM the documents have no text, which `GLM4VOCRTransform` can add.

    The metadata has `source`, `file_path`, `file_name`, `page` (from 0), `page_label` (from 1), `total_pages`,
    `page_image`, `sha256` (of the pixels), `format`, `width`, `height`, and `notes` if opening the page changed
    something; with an LLM also `model` and `finish_reason`, of which any but "stop" means that the text is incomplete.
    If the page's image is a file, the document is an `ImageDocument` of it. A page has the same id in every run.

    Example:
        ```python
        reader = GLM4VReader(llm=GLM4VMultiModal(), errors="record", image_folder="pages/")
        for document in reader.lazy_load_data("scans/"):
            print(document.metadata["file_name"], document.metadata["page_label"], document.text)

        by_suffix = dict.fromkeys([".pdf", ".tif", ".tiff", ".png", ".jpg"], reader)
        documents = SimpleDirectoryReader("mixed/", file_extractor=by_suffix).load_data()
        ```
    """

    image_folder: Path | None = None
    """Where to save the image of each page as PNG, named by its hash, for query engines that show pages to a model.
    Without it only files that are a single image have one; `page_image` of others is "file#page=number"."""

    @classmethod
    def class_name(cls) -> str:
        return "GLM4VReader"

    def lazy_load_data(
        self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: FileSystem | None = None
    ) -> Generator[Document, None, None]:
        """Read page by page, a few pages ahead of the caller and never all.

        Args:
            file: a file, a folder, or several. Folders are searched recursively for pictures and PDFs, in natural
                order; a warning in the log names other files in them.
            extra_info: metadata for every document.
            fs: opens `file`, which must then be a single file.
        """
        return iterate_in_own_loop(self._documents(file, extra_info, fs))

    async def alazy_load_data(  # type: ignore[override]  # the base class cannot be lazy without blocking
        self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: FileSystem | None = None
    ) -> AsyncGenerator[Document, None]:
        """Asynchronous version of `lazy_load_data`: `async for document in await reader.alazy_load_data(path)`."""
        return self._documents(file, extra_info, fs)

    async def aload_data(
        self, file: Paths, extra_info: Mapping[str, Any] | None = None, fs: FileSystem | None = None
    ) -> list[Document]:
        """Return all documents."""
        return [document async for document in self._documents(file, extra_info, fs)]

    async def _documents(
        self, file: Paths, extra_info: Mapping[str, Any] | None, fs: FileSystem | None
    ) -> AsyncGenerator[Document, None]:
        pages = ((None, page) for page in self._pages(file, fs))
        read = await self._read_and_keep(local=fs is None)
        texts = read_texts(pages, read, errors=self.errors, concurrency=self.concurrency)
        async with aclosing(texts):
            async for text in texts:
                yield _document(text, extra_info or {})

    def _pages(self, file: Paths, fs: FileSystem | None) -> Iterator[Page | UnreadPage]:
        options = self._options()
        if fs is None:
            for path in find_scans(file):
                yield from open_pages(path, str(path), options)
            return
        name = os.fspath(file)  # type: ignore[arg-type]  # one file
        try:
            opened = fs.open(name, "rb")
        except OSError as error:
            yield UnreadPage(InputError(f"{name} cannot be opened: {error}"), name)
            return
        with opened:
            yield from open_pages(opened, name, options)

    async def _read_and_keep(self, *, local: bool) -> Read:
        ask = ask_with(self.llm, await self._step(self.llm)) if self.llm is not None else None

        async def read(page: Page) -> tuple[str, Facts]:
            text, facts = ("", {}) if ask is None else await ask(page)
            return text, {**facts, "page_image": await asyncio.to_thread(self._keep, page, local)}

        return read

    def _keep(self, page: Page, local: bool) -> str:
        """Return where the image of a page is."""
        if self.image_folder is not None:
            return str(_save(page, self.image_folder))
        is_file = local and page.count == 1 and page.image.provenance.format != "PDF"
        return page.source if is_file else _place(page.source, page.number)


def _place(source: str, number: int) -> str:
    return f"{source}#page={number}"


def _save(page: Page, folder: Path) -> Path:
    path = folder / f"{page.image.sha256}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid.uuid4().hex}")
        partial.write_bytes(page.image.png())
        partial.replace(path)  # complete or not at all, even with several writers
    return path


def _document(read: PageText[None], extra_info: Mapping[str, Any]) -> Document:
    page = read.page
    metadata = {**extra_info, "source": page.source, "file_path": page.source, "file_name": Path(page.source).name}
    if page.number:
        metadata |= {"page": page.number - 1, "page_label": str(page.number), "total_pages": page.count}
    metadata |= read.facts
    place = _place(page.source, page.number)
    picture = metadata.get("page_image", place)
    kind = Document if picture == place else ImageDocument
    document = kind(
        # Vector stores want UUIDs, and a document store must recognise a page.
        id_=str(uuid.uuid5(uuid.NAMESPACE_URL, place)),
        # Set even if empty: without a text, LlamaIndex ignores the metadata when it compares documents.
        text_resource=MediaResource(text=read.text),
        image_resource=None if kind is Document else MediaResource(path=Path(picture)),
        metadata=metadata,
    )
    hide(document)
    return document
