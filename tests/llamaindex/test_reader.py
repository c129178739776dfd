"""Scanned files become one document per page, in order, and failures follow the error policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from llama_index.core import SimpleDirectoryReader
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.readers.base import BasePydanticReader, ReaderConfig
from llama_index.core.schema import Document, ImageDocument, MetadataMode
from pydantic import ValidationError

from glm4v_core import Image, ScriptedEngine, Text, load_pages
from glm4v_core.errors import EngineDeadError, ImageBrokenError, OutOfMemoryError
from llamaindex_glm4v import GLM4VMultiModal, GLM4VReader
from tests.support.llamaindex_calls import Make
from tests.support.scans import ccitt_image, fax_tiff, number_of, paper, read, save_fax, save_mixed, scanned_pdf
from tests.support.workflow_answers import only_the_first_page_ends, wait_for_cancelled

WAYS = ("lazy_load_data", "load_data", "alazy_load_data", "aload_data")


async def iterate(reader: GLM4VReader, way: str, *args: Any, **options: Any) -> AsyncIterator[Document]:
    method = getattr(reader, way)
    if way == "alazy_load_data":
        async for document in await method(*args, **options):
            yield document
    elif way == "lazy_load_data":
        for document in method(*args, **options):
            yield document
    else:
        for document in await method(*args, **options) if way == "aload_data" else method(*args, **options):
            yield document


async def load(reader: GLM4VReader, way: str, *args: Any, **options: Any) -> list[Document]:
    return [document async for document in iterate(reader, way, *args, **options)]


def texts(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


def prompts(engine: ScriptedEngine) -> set[str]:
    return {part.text for request in engine.history for part in request.messages[0].parts if isinstance(part, Text)}


@pytest.fixture
def fax(tmp_path: Path) -> Path:
    return save_fax(tmp_path)


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    return save_mixed(tmp_path)


class TestPages:
    @pytest.mark.parametrize("way", WAYS)
    async def test_each_is_a_document_in_order(self, scripted: Make, fax: Path, way: str) -> None:
        (fax.parent / "scan.pdf").write_bytes(scanned_pdf(ccitt_image(6), ccitt_image(7)))
        paper(8).save(fax.parent / "single.png")
        llm, engine = scripted(read, latency=0.0001)
        documents = await load(GLM4VReader(llm=llm), way, fax.parent)
        assert texts(documents) == [f"text of page {number}" for number in range(1, 9)]
        assert [document.metadata["page_label"] for document in documents] == ["1", "2", "3", "4", "5", "1", "2", "1"]
        assert engine.most_at_once > 1

    def test_without_a_model_they_have_no_text(self, fax: Path) -> None:
        documents = GLM4VReader().load_data(fax)
        assert texts(documents) == [""] * 5
        assert "model" not in documents[0].metadata

    @pytest.mark.parametrize("way", ["lazy_load_data", "alazy_load_data"])
    async def test_they_are_read_only_on_demand(self, scripted: Make, fax: Path, tmp_path: Path, way: str) -> None:
        (tmp_path / "long.tif").write_bytes(fax_tiff(40))
        llm, engine = scripted(lambda request: "a text", latency=0.0001)
        documents = iterate(GLM4VReader(llm=llm, concurrency=1), way, tmp_path / "long.tif")
        await anext(documents)
        await documents.aclose()  # type: ignore[attr-defined]  # a generator
        assert len(engine.history) < 40

    async def test_closing_early_aborts_running_requests(self, scripted: Make, fax: Path) -> None:
        held: list[ScriptedEngine] = []
        llm, engine = scripted(only_the_first_page_ends(lambda: held[0].active, 5), latency=0.0001)
        held.append(engine)
        documents = await GLM4VReader(llm=llm).alazy_load_data(fax)
        assert (await anext(documents)).text == "text of page 1"
        await documents.aclose()
        await wait_for_cancelled(engine, 4)
        assert {number_of(request) for request in engine.cancelled} == {2, 3, 4, 5}
        assert engine.active == 0


class TestMetadata:
    def test_it_has_the_usual_keys_and_what_a_scan_adds(self, scripted: Make, fax: Path) -> None:
        llm, _ = scripted(read)
        document = GLM4VReader(llm=llm).load_data(fax)[1]
        assert document.metadata == {
            "source": str(fax),
            "file_path": str(fax),
            "file_name": "fax.tif",
            "page": 1,
            "page_label": "2",
            "total_pages": 5,
            "page_image": f"{fax}#page=2",
            "sha256": list(load_pages(fax))[1].image.sha256,
            "format": "TIFF",
            "width": 120,
            "height": 160,
            "model": "scripted",
            "finish_reason": "stop",
        }

    @pytest.mark.parametrize("mode", [MetadataMode.LLM, MetadataMode.EMBED])
    def test_a_model_is_shown_only_the_place(self, scripted: Make, fax: Path, mode: MetadataMode) -> None:
        llm, _ = scripted(read)
        document = GLM4VReader(llm=llm).load_data(fax)[1]
        assert document.get_content(mode) == f"file_path: {fax}\npage_label: 2\n\ntext of page 2"

    def test_an_image_file_is_its_own_page_image(self, tmp_path: Path) -> None:
        path = tmp_path / "odd#page=1.png"
        paper(3).save(path)
        (document,) = GLM4VReader().load_data(path)
        assert isinstance(document, ImageDocument)
        assert (document.image_path, document.metadata["page_image"]) == (str(path), str(path))

    def test_page_images_are_kept_on_request(self, fax: Path, tmp_path: Path) -> None:
        folder = tmp_path / "kept" / "pictures"
        documents = GLM4VReader(image_folder=folder).load_data(fax)
        again = GLM4VReader(image_folder=folder).load_data(fax)
        assert [document.image_path for document in documents] == [document.image_path for document in again]  # type: ignore[attr-defined]
        assert len(list(folder.iterdir())) == 5
        for document, page in zip(documents, load_pages(fax), strict=True):
            assert document.metadata["page_image"] == document.image_path  # type: ignore[attr-defined]
            assert Image.load(document.image_path) == page.image  # type: ignore[attr-defined]

    def test_a_page_keeps_its_id_and_changes_its_hash_with_its_pixels(self, fax: Path) -> None:
        before = GLM4VReader().load_data(fax)
        fax.write_bytes(fax_tiff(2)[:-1] + b"\0")
        paper(9).save(fax, "TIFF")
        (after,) = GLM4VReader().load_data(fax)
        assert after.id_ == before[0].id_
        assert after.hash != before[0].hash
        assert len({document.id_ for document in before}) == len({document.hash for document in before}) == 5

    def test_extra_info_is_kept(self, fax: Path) -> None:
        documents = GLM4VReader().load_data(fax, extra_info={"customer": 12, "page": 99})
        assert [(document.metadata["customer"], document.metadata["page"]) for document in documents] == [
            (12, number) for number in range(5)
        ]


class TestFailures:
    @pytest.mark.parametrize("way", ["lazy_load_data", "alazy_load_data"])
    async def test_raise_ends_the_run_after_the_pages_before(self, scripted: Make, mixed: list[Path], way: str) -> None:
        llm, _ = scripted(read)
        documents = iterate(GLM4VReader(llm=llm), way, mixed)
        assert texts([await anext(documents), await anext(documents)]) == ["text of page 1", "text of page 2"]
        with pytest.raises(ImageBrokenError) as caught:
            await anext(documents)
        assert caught.value.__notes__ == [f"This happened at {mixed[1]}."]

    @pytest.mark.parametrize("way", WAYS)
    async def test_skip_leaves_it_out_and_says_so(
        self, scripted: Make, mixed: list[Path], way: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        llm, _ = scripted(read)
        documents = await load(GLM4VReader(llm=llm, errors="skip"), way, mixed)
        assert texts(documents) == [f"text of page {number}" for number in (1, 2, 3)]
        assert f"Skipped {mixed[1]}" in caplog.text

    @pytest.mark.parametrize("way", WAYS)
    async def test_record_gives_a_document_without_text(self, scripted: Make, mixed: list[Path], way: str) -> None:
        llm, _ = scripted(read)
        documents = await load(GLM4VReader(llm=llm, errors="record"), way, mixed)
        assert texts(documents) == ["text of page 1", "text of page 2", "", "text of page 3"]
        failure = dict(documents[2].metadata)
        assert failure.pop("error_message").startswith(str(mixed[1]))
        assert failure == {
            "source": str(mixed[1]),
            "file_path": str(mixed[1]),
            "file_name": "b.jpg",
            "error_code": "image_broken",
            "error_hint": ImageBrokenError.hint,
        }

    def test_a_page_that_the_model_fails_on_follows_the_same_policy(self, scripted: Make, fax: Path) -> None:
        llm, _ = scripted(lambda request: OutOfMemoryError("Too big.") if number_of(request) == 3 else read(request))
        documents = GLM4VReader(llm=llm, errors="record").load_data(fax)
        assert [document.metadata.get("error_code") for document in documents] == [
            *(None, None, "out_of_memory", None, None)
        ]
        assert (documents[2].metadata["page"], documents[2].text) == (2, "")

    @pytest.mark.parametrize("errors", ["raise", "skip", "record"])
    def test_a_dead_engine_always_raises(self, scripted: Make, fax: Path, errors: Any) -> None:
        llm, _ = scripted(lambda request: EngineDeadError("The worker is gone."))
        with pytest.raises(EngineDeadError):
            GLM4VReader(llm=llm, errors=errors).load_data(fax)


class TestHost:
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_a_directory_reader_uses_it_for_its_suffixes(
        self, scripted: Make, fax: Path, asynchronous: bool
    ) -> None:
        (fax.parent / "notes.txt").write_text("a note")
        llm, _ = scripted(read)
        directory = SimpleDirectoryReader(
            fax.parent, file_extractor={".tif": GLM4VReader(llm=llm)}, raise_on_error=True
        )
        documents = await (directory.aload_data() if asynchronous else asyncio.to_thread(directory.load_data))
        assert texts(documents) == [*(f"text of page {number}" for number in range(1, 6)), "a note"]
        assert documents[1].metadata["file_size"] == len(fax_tiff(5))
        assert documents[1].metadata["page_label"] == "2"

    def test_files_of_another_file_system_are_read(self, scripted: Make, tmp_path: Path) -> None:
        fs = MemoryFileSystem()
        fs.pipe("/papers/fax.tif", fax_tiff(2))
        llm, _ = scripted(read)
        directory = SimpleDirectoryReader(
            "/papers", file_extractor={".tif": GLM4VReader(llm=llm)}, fs=fs, raise_on_error=True
        )
        documents = directory.load_data()
        assert texts(documents) == ["text of page 1", "text of page 2"]
        assert documents[0].metadata["page_image"] == "/papers/fax.tif#page=1"
        (missing,) = GLM4VReader(errors="record").load_data("/gone.tif", fs=fs)
        assert missing.metadata["error_code"] == "input"

    def test_a_pipeline_can_use_it(self, fax: Path) -> None:
        reader = GLM4VReader(page_options={"frames": 2})
        assert isinstance(reader, BasePydanticReader)
        pipeline = IngestionPipeline(
            readers=[ReaderConfig(reader=reader, reader_args=[str(fax)])], transformations=[], disable_cache=True
        )
        assert len(pipeline.run()) == 2

    def test_it_is_restored_from_its_dict_without_secrets(self) -> None:
        llm = GLM4VMultiModal(model="tiny", temperature=0.5)
        reader = GLM4VReader(llm=llm, language="zh", page_options={"dpi": 300, "password": "secret"})
        again = GLM4VReader.from_dict(reader.to_dict())
        assert "secret" not in str(reader.to_dict())
        assert again.llm is not None
        assert (again.llm.temperature, again.language, again.page_options) == (0.5, "zh", {"dpi": 300})


class TestQuestions:
    @pytest.mark.parametrize(
        ("settings", "family", "begins"),
        [
            ({}, "GLM-4.6V-Flash", "Read the text"),
            ({"language": "zh"}, "GLM-4.6V-Flash", "请逐行识别"),
            ({}, "GLM-OCR", "Text Recognition:"),
            ({"prompt": "What is the total?"}, "GLM-OCR", "What is the total?"),
        ],
    )
    def test_the_chosen_step_is_asked(
        self, scripted: Make, fax: Path, settings: dict[str, Any], family: str, begins: str
    ) -> None:
        llm, engine = scripted(read, family=family)
        GLM4VReader(llm=llm, **settings).load_data(fax)
        (prompt,) = prompts(engine)
        assert prompt.startswith(begins)

    def test_settings_of_the_llm_apply_and_no_tool_is_offered(self, scripted: Make, fax: Path) -> None:
        llm, engine = scripted(read, seed=7, max_image_tokens=64)
        GLM4VReader(llm=llm).load_data(fax)
        for request in engine.history:
            image = request.messages[0].parts[0]
            assert isinstance(image, Image)
            assert (request.sampling.seed, image.max_tokens, request.tools) == (7, 64, ())


@pytest.mark.parametrize(
    "settings",
    [
        *({"errors": "ignore"}, {"concurrency": 0}, {"prompt": "x", "language": "zh"}, {"dpi": 300}),
        *({"page_options": {"dpi": 0}}, {"page_options": {"dip": 300}}),
    ],
)
def test_wrong_settings_are_refused_when_the_reader_is_made(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GLM4VReader(**settings)
