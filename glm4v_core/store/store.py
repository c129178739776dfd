"""Pages by content hash, with text, summary, label and places, and a lexical index over them.

A page is complete or absent: it is written in one transaction together with its index entry. Equal pages are stored
once, whatever files they are in. Searching works while pages are being added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from glm4v_core.errors import ConfigError, Failure, Glm4vError, PageError
from glm4v_core.media.files import FileStamp
from glm4v_core.media.image import Image
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import PageInfo, load_page
from glm4v_core.storage.file import SqlRow, StoreFile, Write
from glm4v_core.store.lexicon import is_function_word, page_terms, query_terms
from glm4v_core.store.page import FoundPage, Place, StoredPage
from glm4v_core.tasks.results import DocumentResult, PageFailure

PAGES_FOUND = 3
"""How many pages a search returns by default."""
_KEPT_OPTIONS = ("dpi", "frames", "max_pages", "max_image_tokens")
"""Options stored with a file; the caller passes a password and limits each time."""
_FORGET_FILE = (
    "delete from places where source = ?",
    "delete from files where source = ?",
    "delete from failures where source = ?",
)


class PageStore:
    """One SQLite file of pages. It may be used by any thread, and open in several processes."""

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        """Open the file.

        Args:
            path: of the file; ":memory:" keeps the pages in memory.
            create: create the file if it does not exist.

        Raises:
            ConfigError: the file does not exist and is not to be created, or it is not a page store.
            UnsupportedError: this Python's SQLite has no full-text search.
        """
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise ConfigError(f"There is no page store {self.path}.", hint="Make one with `glm4v index FOLDER`.")
        self._file = StoreFile(self.path)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def count(self) -> int:
        """Return the number of pages."""
        return int(self._file.rows("select count(*) from pages")[0][0])

    def pages(self) -> tuple[StoredPage, ...]:
        """Return all pages in the order in which they were added."""
        with self._file.reading():
            return tuple(map(self._page, self._file.rows("select * from shown order by id")))

    def get(self, sha256: str) -> StoredPage:
        """Return a page by its content hash.

        Raises:
            PageError: it is not in the store.
        """
        with self._file.reading():
            pages = tuple(map(self._page, self._file.rows("select * from shown where sha256 = ?", sha256)))
        if not pages:
            raise PageError(f"{self.path} has no page {sha256[:12]}.", hint="Index its folder again.")
        return pages[0]

    def failures(self) -> tuple[PageFailure, ...]:
        """Return the pages and files that failed when their folder was last indexed."""
        rows = self._file.rows("select source, number, count, code, message, hint from failures order by 1, 2")
        return tuple(
            PageFailure(PageInfo(os.fsdecode(source), *place), Failure(code, os.fsdecode(message), hint))
            for source, *place, code, message, hint in rows
        )

    def search(self, question: str, k: int = PAGES_FOUND) -> tuple[FoundPage, ...]:
        """Return up to `k` pages for the words of a question, best first, ranked by BM25 over text and summary.

        Raises:
            ConfigError: k is less than one.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, not {k}.")
        match = _match(query_terms(question))
        if not match:
            return ()
        statement = (
            "select shown.*, -bm25(terms) as score from terms join shown on shown.id = terms.rowid"
            " where terms match ? order by score desc, shown.id limit ?"
        )
        with self._file.reading():
            rows = self._file.rows(statement, match, k)
            return tuple(FoundPage(self._page(row[:-1]), row[-1]) for row in rows)

    def image(self, sha256: str, **options: Unpack[PageOptions]) -> Image:
        """Return the image of a page: the stored one, or else from one of its files, if that has not changed.

        Args:
            sha256: of a page in the store.
            **options: of `load_page`; they override those the page was indexed with; a password, for example.

        Raises:
            PageError: the page is not in the store, or no longer in any file.
        """
        places = self.get(sha256).places
        for (png,) in self._file.rows("select png from pictures where sha256 = ?", sha256):
            tokens = self._options(places[0].source, options).get("max_image_tokens")
            return Image.load(png, max_image_tokens=tokens)
        problems = []
        for place in places:
            try:
                image = load_page(place.source, place.number, **self._options(place.source, options)).image
            except Glm4vError as error:
                problems.append(error.message)
                continue
            if image.sha256 == sha256:
                return image
            problems.append(f"Page {place.number} of {place.source} has changed.")
        raise PageError(
            f"The picture of page {sha256[:12]} is gone. {' '.join(problems)}",
            hint="Index the folder again, or let the store keep the pictures.",
        )

    def count_done(self, source: str, stamp: FileStamp, recipe: str) -> int:
        """Return how many pages a file has; 0 unless all were read by this recipe and the file is unchanged since."""
        rows = self._file.rows(
            "select count(*) from places join files using (source)"
            " where source = ? and bytes = ? and modified = ? and recipe = ?",
            *(source, stamp.bytes, stamp.modified, recipe),
        )
        return int(rows[0][0])

    def begin(self, source: str, options: PageOptions) -> None:
        """Record the options a file is opened with, and that its pages are not all done yet."""
        values = {name: value for name, value in options.items() if name in _KEPT_OPTIONS and value is not None}
        with self._file.writing() as write:
            write("insert or replace into files values (?, 0, '', ?, '')", source, json.dumps(values))

    def put(self, result: DocumentResult, source: str, recipe: str, picture: Image | None = None) -> None:
        """Insert or replace a page's text and index entry, and record that `source` contains it.

        Args:
            result: with text and summary.
            source: of the file; the page's number is in the result.
            recipe: identifies the settings it was read with.
            picture: to be stored.
        """
        sha256, text, summary = result.page.sha256, result.text or "", result.summary or ""
        png = None if picture is None else picture.png()
        row = (sha256, recipe, text, summary, result.label, result.model, json.dumps(result.warnings))
        with self._file.writing() as write:
            write("delete from terms where rowid in (select id from pages where sha256 = ?)", sha256)
            write("delete from pages where sha256 = ?", sha256)
            number = write("insert into pages values (null, ?, ?, ?, ?, ?, ?, ?)", *row)
            terms = (number, page_terms(text), page_terms(summary))
            write("insert into terms (rowid, text, summary) values (?, ?, ?)", *terms)
            if png is not None:
                write("insert or replace into pictures values (?, ?)", sha256, png)
            _place(write, result.page, source)

    def place(self, page: PageInfo, source: str, recipe: str) -> bool:
        """Record that `source` contains a page that was already read by this recipe; return False if it was not."""
        with self._file.writing() as write:
            known = self._file.rows("select 1 from pages where sha256 = ? and recipe = ?", page.sha256, recipe)
            if known:
                _place(write, page, source)
        return bool(known)

    def finish(
        self, source: str, numbers: Collection[int], failures: Sequence[PageFailure], stamp: FileStamp, recipe: str
    ) -> None:
        """Mark a file as ingested and drop pages it no longer has; without failures it is skipped until it changes.

        Args:
            source: of the file.
            numbers: of its pages.
            failures: of its other pages, or of the whole file.
            stamp: taken before it was opened.
            recipe: identifies the settings its pages were read with.
        """
        with self._file.writing() as write:
            numbered = json.dumps(sorted(numbers))
            gone = "delete from places where source = ? and number not in (select value from json_each(?))"
            write(gone, source, numbered)
            write("delete from failures where source = ?", source)
            for failure in failures:
                page, error = failure.page, failure.error
                values = (source, page.number, page.count, error.code, error.message, error.hint)
                write("insert into failures values (?, ?, ?, ?, ?, ?)", *values)
            if not failures:
                stamped = (stamp.bytes, stamp.modified, recipe, source)
                write("update files set bytes = ?, modified = ?, recipe = ? where source = ?", *stamped)
            _sweep(write)

    def sources(self) -> tuple[str, ...]:
        """Return the files that were indexed, including those that failed."""
        return tuple(os.fsdecode(source) for (source,) in self._file.rows("select source from files order by source"))

    def forget(self, sources: Collection[str]) -> None:
        """Remove files, and pages that are in no other file."""
        with self._file.writing() as write:
            for source in sources:
                for statement in _FORGET_FILE:
                    write(statement, source)
            _sweep(write)

    def _page(self, row: SqlRow) -> StoredPage:
        sha256, text, summary, label, model, warnings, _ = row
        rows = self._file.rows("select source, number, count from places where sha256 = ? order by 1, 2", sha256)
        places = tuple(Place(os.fsdecode(source), *numbers) for source, *numbers in rows)
        return StoredPage(sha256, text, summary, label, model, tuple(json.loads(warnings)), places)

    def _options(self, source: str, options: PageOptions) -> PageOptions:
        """Merge the caller's options into those a file was indexed with."""
        rows = self._file.rows("select options from files where source = ?", source)
        kept: PageOptions = json.loads(rows[0][0]) if rows else {}
        return kept | options


def _match(terms: Sequence[str]) -> str:
    """Return an FTS5 query: any of the terms, and neighbours again as phrases, so that whole names rank higher."""
    telling = [term for term in terms if not is_function_word(term)] or terms
    words = [f'"{term[:-1]}"*' if term.endswith("*") else f'"{term}"' for term in telling]
    pairs = [pair for pair in pairwise(terms) if not all(map(is_function_word, pair))]
    phrases = [f'"{first} {second}"' for first, second in pairs if "*" not in first + second]
    return " OR ".join(words + phrases)


def _place(write: Write, page: PageInfo, source: str) -> None:
    write("insert or replace into places values (?, ?, ?, ?)", source, page.number, page.count, page.sha256)


def _sweep(write: Write) -> None:
    """Remove pages that are in no file."""
    write("delete from terms where rowid in (select id from pages where sha256 not in (select sha256 from places))")
    write("delete from pictures where sha256 not in (select sha256 from places)")
    write("delete from pages where sha256 not in (select sha256 from places)")
