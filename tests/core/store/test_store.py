"""Page text is found by the words of a question, with the places that contain it and its image."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from glm4v_core import DocumentResult, Image, PageInfo, PageStore, StoredPage
from glm4v_core.errors import ConfigError, PageError, UnsupportedError
from glm4v_core.media.files import FileStamp
from tests.support.scans import ccitt_image, scanned_pdf


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    with PageStore(tmp_path / "pages.sqlite") as opened:
        yield opened


def add(store: PageStore, text: str, summary: str = "", *, source: str = "/scans/a.pdf", number: int = 1) -> str:
    page = PageInfo(source, number, 9, f"{text} {summary}".encode().hex())
    if source not in store.sources():
        store.begin(source, {})
    store.put(DocumentResult(page, text, summary, model="scripted"), source, "recipe")
    return page.sha256


def texts(store: PageStore, question: str, **options: Any) -> list[str]:
    return [found.page.text for found in store.search(question, **options)]


class TestSearch:
    def test_the_best_match_comes_first(self, store: PageStore) -> None:
        for number in range(1, 8):
            add(store, f"Invoice {number} of Glacier Ltd", number=number)
        add(store, "Invoice 8 of Marsh & Thorne, Marsh House", number=8)
        assert texts(store, "What is the number of the invoice from Marsh?")[0].startswith("Invoice 8")
        assert texts(store, "invoice 3", k=1) == ["Invoice 3 of Glacier Ltd"]
        first, second, third = store.search("Marsh, invoice 5")
        assert first.score >= second.score >= third.score > 0

    def test_a_whole_name_counts_more_than_its_words(self, store: PageStore) -> None:
        add(store, "Mona Thorne writes to Liam Holt, Holt Mona")
        add(store, "Holt Ltd writes to Mona, Mona Holt, a street and a town", number=2)
        assert texts(store, "What did Mona Holt say?", k=1) == [
            "Holt Ltd writes to Mona, Mona Holt, a street and a town"
        ]

    @pytest.mark.parametrize("question", ["Could you please tell me what they say in 4041?", "请问4041是多少？"])
    def test_the_phrasing_of_a_question_does_not_matter(self, store: PageStore, question: str) -> None:
        add(store, "Please tell us what you want, so that we can say what they could do. 请问多少？")
        for number in range(2, 6):
            add(store, f"Invoice 404{number - 1}", number=number)
        assert texts(store, question) == ["Invoice 4041"]
        assert texts(store, "what?")[0].startswith("Please")
        assert texts(store, "tell us what you want", k=1)[0].startswith("Please")

    @pytest.mark.parametrize("question", ["发票", "税", "金额是多少？", "ＡＢ－１２３", "ab123", "12.50", "invoices"])
    def test_chinese_numbers_and_word_forms_are_found(self, store: PageStore, question: str) -> None:
        add(store, "增值税发票 AB-123\n金额 12.50\ninvoice")
        add(store, "a letter", number=2)
        assert [page.text[:3] for page in (found.page for found in store.search(question))] == ["增值税"]

    def test_the_summary_is_searched_too(self, store: PageStore) -> None:
        add(store, "(unreadable)", "Receipt from Glacier Ltd")
        assert texts(store, "glacier") == ["(unreadable)"]

    @pytest.mark.parametrize("question", ["", "?!", "nowhere", 'NEAR("a" b)', '"', "* OR text:", "summary : a)"])
    def test_a_question_is_never_parsed_as_query_syntax(self, store: PageStore, question: str) -> None:
        add(store, "Invoice 1")
        assert texts(store, question) == []

    def test_asking_for_no_pages_is_refused(self, store: PageStore) -> None:
        with pytest.raises(ConfigError, match="k must be at least 1, not 0"):
            store.search("a", k=0)


class TestPages:
    def test_a_page_lists_the_places_that_contain_it(self, store: PageStore) -> None:
        sha256 = add(store, "same", source="/scans/b.pdf", number=4)
        assert store.place(PageInfo("", 2, 3, sha256), "/scans/a.tif", "recipe")
        assert not store.place(PageInfo("", 2, 3, sha256), "/scans/c.tif", "another recipe")
        (page,) = store.pages()
        assert page == store.get(sha256)
        assert isinstance(page, StoredPage)
        assert [(place.source, place.number, place.count) for place in page.places] == [
            ("/scans/a.tif", 2, 3),
            ("/scans/b.pdf", 4, 9),
        ]
        assert (page.text, page.label, page.model, store.count()) == ("same", None, "scripted", 1)

    def test_a_page_is_replaced_with_its_entry_in_the_index(self, store: PageStore) -> None:
        page = PageInfo("/a.png", 1, 1, "00")
        store.begin("/a.png", {})
        store.put(DocumentResult(page, "old words"), "/a.png", "one")
        store.put(DocumentResult(page, "new words", warnings=("text:length",)), "/a.png", "two")
        assert (texts(store, "old"), texts(store, "new"), store.count()) == ([], ["new words"], 1)
        assert store.get("00").warnings == ("text:length",)

    def test_removing_a_file_keeps_pages_that_other_files_contain(self, store: PageStore) -> None:
        shared = add(store, "shared")
        add(store, "alone", number=2)
        store.begin("/scans/b.pdf", {})
        assert store.place(PageInfo("", 1, 1, shared), "/scans/b.pdf", "recipe")
        store.forget(["/scans/a.pdf"])
        assert [page.text for page in store.pages()] == ["shared"]
        assert texts(store, "alone shared") == ["shared"]
        assert store.sources() == ("/scans/b.pdf",)

    def test_file_names_that_are_not_utf8_are_kept(self, store: PageStore) -> None:
        source = os.fsdecode(b"/scans/caf\xe9.png")
        add(store, "coffee", source=source)
        store.finish(source, [1], [], FileStamp(3, "now"), "recipe")
        assert store.search("coffee")[0].page.places[0].source == source
        assert store.count_done(source, FileStamp(3, "now"), "recipe") == 1

    def test_an_unknown_page_is_an_error(self, store: PageStore) -> None:
        with pytest.raises(PageError, match="no page 0123"):
            store.get("0123")


class TestPictures:
    @pytest.fixture
    def pdf(self, tmp_path: Path) -> Path:
        path = tmp_path / "scan.pdf"
        path.write_bytes(scanned_pdf(ccitt_image(1), ccitt_image(2)))
        return path

    def put(self, store: PageStore, pdf: Path, picture: Callable[[Image], Image | None]) -> Image:
        from glm4v_core.media import load_page

        page = load_page(pdf, 2, dpi=100, max_image_tokens=64)
        store.begin(str(pdf), {"dpi": 100, "max_image_tokens": 64, "password": "secret"})
        result = DocumentResult(PageInfo.of(page), "text")
        store.put(result, str(pdf), "recipe", picture(page.image))
        return page.image

    def test_they_are_rendered_from_the_file_with_the_original_options(self, store: PageStore, pdf: Path) -> None:
        image = self.put(store, pdf, lambda image: None)
        assert store.image(image.sha256) == image
        assert store.image(image.sha256, max_image_tokens=9).max_tokens == 9
        assert b"secret" not in store.path.read_bytes() + Path(f"{store.path}-wal").read_bytes()

    def test_they_may_be_stored(self, store: PageStore, pdf: Path) -> None:
        image = self.put(store, pdf, lambda image: image)
        pdf.unlink()
        assert store.image(image.sha256) == image

    @pytest.mark.parametrize("content", [None, scanned_pdf(ccitt_image(3), ccitt_image(4))], ids=["gone", "changed"])
    def test_a_file_that_has_changed_is_not_shown(self, store: PageStore, pdf: Path, content: bytes | None) -> None:
        image = self.put(store, pdf, lambda image: None)
        pdf.unlink()
        if content is not None:
            pdf.write_bytes(content)
        with pytest.raises(PageError, match=r"is gone.*scan.pdf") as caught:
            store.image(image.sha256)
        assert "Index the folder again" in caught.value.hint

    def test_another_file_with_the_same_page_is_used_instead(self, store: PageStore, pdf: Path, tmp_path: Path) -> None:
        image = self.put(store, pdf, lambda image: None)
        copy = tmp_path / "zweite.pdf"
        pdf.rename(copy)
        store.begin(str(copy), {"dpi": 100})
        assert store.place(PageInfo("", 2, 2, image.sha256), str(copy), "recipe")
        assert store.image(image.sha256).sha256 == image.sha256


class TestFile:
    def test_pages_are_kept_when_the_store_is_reopened(self, tmp_path: Path) -> None:
        with PageStore(tmp_path / "s") as store:
            add(store, "Invoice 1")
        with PageStore(tmp_path / "s", create=False) as store, PageStore(tmp_path / "s") as other:
            assert texts(store, "invoice") == texts(other, "invoice") == ["Invoice 1"]

    def test_a_missing_store_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="There is no page store") as caught:
            PageStore(tmp_path / "s", create=False)
        assert "glm4v index" in caught.value.hint

    @pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 9, None])
    def test_a_file_that_is_not_a_page_store_is_refused(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "s"
        if content is not None:
            path.write_bytes(content)
        else:
            connection = sqlite3.connect(path)
            connection.execute("create table pages (a)")
            connection.close()
        before = path.read_bytes()
        with pytest.raises(ConfigError, match=r"cannot be used|not a page store of this version"):
            PageStore(path)
        if content is not None:
            assert path.read_bytes() == before

    def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be used"):
            PageStore(tmp_path / "none" / "s")

    def test_a_closed_store_raises(self, tmp_path: Path) -> None:
        store = PageStore(tmp_path / "s")
        store.close()
        store.close()
        with pytest.raises(ConfigError, match="closed"):
            store.count()

    def test_sqlite_without_full_text_search_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Bare(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
                if "fts5" in statement:
                    raise sqlite3.OperationalError("no such module: fts5")
                return super().execute(statement, *values)

        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Bare))
        with pytest.raises(UnsupportedError, match="no full-text search") as caught:
            PageStore(tmp_path / "s")
        assert "FTS5" in caught.value.hint

    def test_several_threads_may_write(self, store: PageStore) -> None:
        def write(start: int) -> None:
            for number in range(start, start + 10):
                add(store, f"page {number}", source=f"/scans/{start}.pdf", number=number)

        threads = [threading.Thread(target=write, args=(10 * start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count() == 40


def test_a_picture_file_is_its_own_page(store: PageStore, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.new("RGB", (30, 40), "white").save(path)
    image = Image.load(path)
    store.begin(str(path), {})
    store.put(DocumentResult(PageInfo(str(path), 1, 1, image.sha256), "white"), str(path), "recipe")
    assert store.image(image.sha256) == image
