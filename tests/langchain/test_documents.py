"""Scanned files become one document per page, in order, and failures follow the error policy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from langchain_core.document_loaders import Blob
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from glm4v_core import ImageLimits, Message, Request, Text, load_pages, tasks
from glm4v_core.errors import (
    ConfigError,
    EngineDeadError,
    ImageBrokenError,
    ImageNotFoundError,
    OutOfMemoryError,
    PageBrokenError,
    PageLimitError,
    UnknownOptionError,
    UnsupportedError,
)
from langchain_glm4v import ChatGLM4V, GLM4VBlobParser, ScannedDocumentLoader
from tests.support.langchain_calls import LOAD_WAYS, Make, iterate, load
from tests.support.scans import (
    bar_of,
    ccitt_image,
    fax_tiff,
    jbig2_image,
    number_of,
    paper,
    read,
    save_fax,
    save_mixed,
    scanned_pdf,
    seen,
)


def prompt_of(request: Request) -> str:
    part = request.messages[0].parts[1]
    assert isinstance(part, Text)
    return part.text


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


@pytest.fixture
def fax(tmp_path: Path) -> Path:
    return save_fax(tmp_path)


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    return save_mixed(tmp_path)


class TestFormats:
    @pytest.mark.parametrize(
        ("content", "bars"),
        [
            (fax_tiff(3), [(0, 0, 8, 12), (0, 0, 17, 12), (0, 0, 25, 12)]),
            (fax_tiff(2, rows_per_strip=16), [(0, 0, 8, 12), (0, 0, 17, 12)]),
            (scanned_pdf(ccitt_image(1), ccitt_image(3)), [(0, 0, 8, 12), (0, 0, 25, 12)]),
            (scanned_pdf(jbig2_image(2)), [(0, 0, 17, 12)]),
            (scanned_pdf(ccitt_image(1), turned=90), [(88, 0, 100, 8)]),
            (scanned_pdf(jbig2_image(1), turned=180), [(92, 88, 100, 100)]),
        ],
        ids=["group 4", "group 4 in strips", "CCITT", "JBIG2", "turned right", "upside down"],
    )
    def test_the_model_sees_each_page_upright_and_whole(
        self, scripted: Make, tmp_path: Path, content: bytes, bars: list[tuple[int, ...]]
    ) -> None:
        path = tmp_path / "scan"
        path.write_bytes(content)
        llm, _ = scripted(lambda request: str(bar_of(seen(request).pixels)))
        documents = ScannedDocumentLoader(path, llm, dpi=144).load()
        assert texts(documents) == [str(bar) for bar in bars]

    def test_a_picture_is_a_document_of_one_page(self, scripted: Make, tmp_path: Path) -> None:
        paper(4).save(tmp_path / "page.png")
        llm, _ = scripted(read)
        (document,) = ScannedDocumentLoader(str(tmp_path / "page.png"), llm).load()
        assert (document.page_content, document.metadata["total_pages"]) == ("text of page 4", 1)


class TestMetadata:
    def test_it_has_the_usual_keys_and_what_a_scan_adds(self, scripted: Make, fax: Path) -> None:
        llm, _ = scripted(read)
        documents = ScannedDocumentLoader(fax, llm).load()
        pages = list(load_pages(fax))
        assert documents[1].metadata == {
            "source": str(fax),
            "page": 1,
            "total_pages": 5,
            "sha256": pages[1].image.sha256,
            "format": "TIFF",
            "width": 120,
            "height": 160,
            "model": "scripted",
            "finish_reason": "stop",
        }
        assert len({document.metadata["sha256"] for document in documents}) == 5

    def test_an_incomplete_text_is_told_by_its_finish_reason(self, scripted: Make, tmp_path: Path) -> None:
        paper().save(tmp_path / "page.png")
        llm, _ = scripted("one two three four", max_tokens=2)
        (document,) = ScannedDocumentLoader(tmp_path / "page.png", llm).load()
        assert (document.page_content, document.metadata["finish_reason"]) == ("one two", "length")

    def test_changes_made_while_loading_are_noted(self, scripted: Make, tmp_path: Path) -> None:
        (tmp_path / "large.pdf").write_bytes(scanned_pdf(ccitt_image()))
        llm, _ = scripted(read)
        (document,) = ScannedDocumentLoader(
            tmp_path / "large.pdf", llm, dpi=144, limits=ImageLimits(max_pixels=10_000)
        ).load()
        assert "instead of 144 dpi" in document.metadata["notes"]

    def test_metadata_of_a_blob_is_kept(self, scripted: Make) -> None:
        llm, _ = scripted(read)
        blob = Blob.from_data(fax_tiff(2), metadata={"source": "mail 7", "customer": 12})
        documents = GLM4VBlobParser(llm).parse(blob)
        assert texts(documents) == ["text of page 1", "text of page 2"]
        assert [document.metadata["source"] for document in documents] == ["mail 7"] * 2
        assert [document.metadata["customer"] for document in documents] == [12] * 2

    async def test_a_blob_is_parsed_without_blocking_too(self, scripted: Make) -> None:
        llm, _ = scripted(read)
        blob = Blob.from_data(fax_tiff(3))
        assert texts([document async for document in GLM4VBlobParser(llm).alazy_parse(blob)]) == [
            f"text of page {number}" for number in (1, 2, 3)
        ]

    def test_a_blob_without_a_name_is_called_bytes(self, scripted: Make) -> None:
        llm, _ = scripted(read)
        (document,) = GLM4VBlobParser(llm).parse(Blob.from_data(fax_tiff(1)))
        assert document.metadata["source"] == "bytes"


class TestFailures:
    @pytest.mark.parametrize("way", LOAD_WAYS)
    async def test_raise_ends_the_run_after_the_pages_before(self, scripted: Make, mixed: list[Path], way: str) -> None:
        llm, _ = scripted(read)
        documents = iterate(ScannedDocumentLoader(mixed, llm), way)
        assert texts([await anext(documents), await anext(documents)]) == ["text of page 1", "text of page 2"]
        with pytest.raises(ImageBrokenError) as caught:
            await anext(documents)
        assert caught.value.__notes__ == [f"This happened at {mixed[1]}."]

    @pytest.mark.parametrize("way", LOAD_WAYS)
    async def test_skip_leaves_it_out_and_says_so(
        self, scripted: Make, mixed: list[Path], way: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        llm, _ = scripted(read)
        documents = await load(ScannedDocumentLoader(mixed, llm, errors="skip"), way)
        assert texts(documents) == [f"text of page {number}" for number in (1, 2, 3)]
        (warning,) = [record for record in caplog.records if record.name == "glm4v_core.hosts.reading"]
        assert warning.levelno == logging.WARNING
        assert str(mixed[1]) in warning.getMessage()
        assert "copy or scan it again" in warning.getMessage()

    @pytest.mark.parametrize("way", LOAD_WAYS)
    async def test_record_gives_a_document_without_text(self, scripted: Make, mixed: list[Path], way: str) -> None:
        llm, _ = scripted(read)
        documents = await load(ScannedDocumentLoader(mixed, llm, errors="record"), way)
        assert texts(documents) == [
            "text of page 1",
            "text of page 2",
            "",
            "text of page 3",
        ]
        failure = documents[2].metadata
        assert failure.pop("error_message").startswith(str(mixed[1]))
        assert failure == {
            "source": str(mixed[1]),
            "error_code": "image_broken",
            "error_hint": ImageBrokenError.hint,
        }
        assert not any("error_code" in documents[index].metadata for index in (0, 1, 3))

    def test_one_page_of_a_document_fails_alone(self, scripted: Make, tmp_path: Path) -> None:
        path = tmp_path / "scan.pdf"
        path.write_bytes(scanned_pdf(ccitt_image(1), ccitt_image(2)).replace(b"<</Type/Page/", b"<</Type/Void/", 1))
        llm, _ = scripted(read)
        broken, sound = ScannedDocumentLoader(path, llm, errors="record").load()
        assert (broken.metadata["page"], broken.metadata["total_pages"]) == (0, 2)
        assert (broken.page_content, broken.metadata["error_code"]) == ("", PageBrokenError.code)
        assert (sound.page_content, sound.metadata["page"]) == ("text of page 2", 1)

    @pytest.mark.parametrize(("errors", "count"), [("skip", 4), ("record", 5)])
    def test_a_page_that_the_model_fails_on_follows_the_same_policy(
        self, scripted: Make, fax: Path, errors: Any, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        llm, _ = scripted(lambda request: OutOfMemoryError("Too big.") if number_of(request) == 3 else read(request))
        documents = ScannedDocumentLoader(fax, llm, errors=errors).load()
        assert len(documents) == count
        recorded = [document.metadata for document in documents if not document.page_content]
        failures = [(facts["page"], facts["error_code"], facts["width"]) for facts in recorded]
        assert failures == [(2, "out_of_memory", 120)] * (count - 4)
        assert (f"page 3 of {fax}" in caplog.text) == (errors == "skip")

    def test_an_error_is_raised_with_its_place(self, scripted: Make, fax: Path) -> None:
        llm, _ = scripted(lambda request: OutOfMemoryError("Too big.") if number_of(request) == 3 else read(request))
        with pytest.raises(OutOfMemoryError) as caught:
            ScannedDocumentLoader(fax, llm).load()
        assert caught.value.__notes__ == [f"This happened at page 3 of {fax}."]

    @pytest.mark.parametrize("errors", ["raise", "skip", "record"])
    @pytest.mark.parametrize("error", [EngineDeadError("The worker is gone."), UnsupportedError("No such thing.")])
    def test_errors_that_affect_every_page_always_raise(self, fax: Path, errors: Any, error: Exception) -> None:
        def fail(_: Any, **options: Any) -> Any:
            raise error

        with pytest.raises(type(error)):
            ScannedDocumentLoader(fax, RunnableLambda(fail), errors=errors).load()

    def test_a_missing_file_and_one_with_too_many_pages_are_failures_like_others(
        self, scripted: Make, fax: Path, tmp_path: Path
    ) -> None:
        llm, _ = scripted(read)
        loader = ScannedDocumentLoader([tmp_path / "gone.png", fax], llm, errors="record", max_pages=3)
        codes = [document.metadata["error_code"] for document in loader.load()]
        assert codes == [ImageNotFoundError.code, PageLimitError.code]


class TestQuestions:
    @pytest.mark.parametrize(("language", "begins"), [("en", "Read the text"), ("zh", "请逐行识别")])
    def test_the_prompt_is_in_the_chosen_language(self, scripted: Make, fax: Path, language: Any, begins: str) -> None:
        llm, engine = scripted(read)
        ScannedDocumentLoader(fax, llm, language=language).load()
        assert {prompt_of(request)[: len(begins)] for request in engine.history} == {begins}

    @pytest.mark.parametrize("wrap", [lambda llm: llm, lambda llm: llm.with_retry().with_config(tags=["scan"])])
    def test_a_model_is_asked_with_the_prompt_it_was_trained_on(self, scripted: Make, fax: Path, wrap: Any) -> None:
        llm, engine = scripted(read, family="GLM-OCR")
        ScannedDocumentLoader(fax, wrap(llm)).load()
        assert {prompt_of(request) for request in engine.history} == {"Text Recognition:"}

    def test_another_step_may_be_asked(self, scripted: Make, fax: Path) -> None:
        llm, engine = scripted(lambda request: "一张传真")
        documents = ScannedDocumentLoader(fax, llm, step=tasks.caption("zh"), frames=1).load()
        assert texts(documents) == ["一张传真"]
        assert engine.history[0].messages == (Message.user(seen(engine.history[0]), "用一两句话描述这张图片。"),)

    def test_settings_and_retries_of_the_chat_model_hold(self, scripted: Make, tmp_path: Path) -> None:
        paper(2).save(tmp_path / "page.png")
        llm, engine = scripted(OutOfMemoryError("Too big."), read, seed=7)
        (document,) = ScannedDocumentLoader(tmp_path, llm.with_retry(wait_exponential_jitter=False)).load()
        assert document.page_content == "text of page 2"
        assert [request.sampling.seed for request in engine.history] == [7, 7]


class TestSettings:
    @pytest.mark.parametrize(
        "options", [{"errors": "ignore"}, {"dpi": 0}, {"max_pages": 0}, {"step": tasks.caption(), "language": "zh"}]
    )
    def test_wrong_ones_are_refused_when_the_loader_is_made(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            ScannedDocumentLoader("unread.pdf", ChatGLM4V(), **options)

    def test_unknown_ones_are_refused_by_name(self) -> None:
        with pytest.raises(UnknownOptionError, match=r"no option dip.*dpi"):
            GLM4VBlobParser(ChatGLM4V(), dip=300)  # type: ignore[call-arg]

    def test_a_concurrency_of_zero_is_refused(self, scripted: Make, fax: Path) -> None:
        with pytest.raises(ConfigError, match="concurrency"):
            ScannedDocumentLoader(fax, scripted(read)[0], concurrency=0).load()

    def test_skipped_files_of_a_folder_are_named(
        self, scripted: Make, fax: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(7):
            (fax.parent / f"notes{number}.txt").write_text("not a scan")
        llm, _ = scripted(read)
        assert len(ScannedDocumentLoader(fax.parent, llm).load()) == 5
        assert "7 files are neither pictures nor PDF" in caplog.text
        assert "notes4.txt, ..." in caplog.text
