"""OCR in an ingestion pipeline: every image gets its own text and is read once, whatever the host's cache compares."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document, ImageDocument, ImageNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from glm4v_core import Glm4v, Image, ScriptedEngine
from glm4v_core.errors import ImageNotFoundError, ImageUrlError, OutOfMemoryError
from llamaindex_glm4v import GLM4VMultiModal, GLM4VOCRTransform, GLM4VReader
from tests.support.llamaindex_calls import Make
from tests.support.scans import number_of, paper, read, save_fax
from tests.support.workflow_answers import first_page_last

WAYS = ("run", "arun")
SCAN = Path(__file__).parents[2] / "samples" / "scan-01.png"


async def ingest(pipeline: IngestionPipeline, way: str, documents: Sequence[BaseNode]) -> list[str]:
    """Return the texts; works on a copy of the list, since a pipeline may change it."""
    given: Any = list(documents)
    if way == "arun":
        nodes = await pipeline.arun(documents=given)
    else:
        nodes = await asyncio.to_thread(lambda: pipeline.run(documents=given))
    return [node.get_content() for node in nodes]


def bare(tmp_path: Path, number: int) -> ImageDocument:
    """A picture without any metadata."""
    path = tmp_path / f"{number}.png"
    paper(number).save(path)
    return ImageDocument(image_path=str(path))


@pytest.fixture
def fax(tmp_path: Path) -> Path:
    return save_fax(tmp_path)


class TestCache:
    @pytest.mark.parametrize("way", WAYS)
    async def test_two_images_without_metadata_get_two_texts(self, scripted: Make, tmp_path: Path, way: str) -> None:
        llm, engine = scripted(read)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm)])
        assert not pipeline.disable_cache
        assert await ingest(pipeline, way, [bare(tmp_path, 1)]) == ["text of page 1"]
        assert await ingest(pipeline, way, [bare(tmp_path, 2)]) == ["text of page 2"]
        assert len(engine.history) == 2

    @pytest.mark.parametrize("way", WAYS)
    async def test_a_second_run_asks_nothing(self, scripted: Make, fax: Path, tmp_path: Path, way: str) -> None:
        llm, engine = scripted(read)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm), SentenceSplitter()])
        pages = [*GLM4VReader().load_data(fax), bare(tmp_path, 6)]
        first = await ingest(pipeline, way, pages)
        assert first == await ingest(pipeline, way, pages) == [f"text of page {number}" for number in range(1, 7)]
        assert len(engine.history) == 6

    async def test_an_additional_page_is_the_only_one_asked(self, scripted: Make, tmp_path: Path) -> None:
        llm, engine = scripted(read)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm)])
        await ingest(pipeline, "arun", [bare(tmp_path, 1), bare(tmp_path, 2)])
        texts = await ingest(pipeline, "arun", [bare(tmp_path, 3), bare(tmp_path, 2), bare(tmp_path, 1)])
        assert texts == ["text of page 3", "text of page 2", "text of page 1"]
        assert [number_of(request) for request in engine.history] == [1, 2, 3]

    async def test_an_image_file_that_changes_is_read_again(self, scripted: Make, tmp_path: Path) -> None:
        llm, _ = scripted(read)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm)])
        document = bare(tmp_path, 1)
        assert await ingest(pipeline, "arun", [document]) == ["text of page 1"]
        paper(2).save(tmp_path / "1.png")
        assert await ingest(pipeline, "arun", [document]) == ["text of page 2"]

    @pytest.mark.parametrize(
        ("settings", "llm_settings"),
        [
            ({"prompt": "What is the total?"}, {}),
            ({"language": "zh"}, {}),
            ({}, {"temperature": 0.9}),
            ({}, {"max_tokens": 2}),
            ({}, {"max_image_tokens": 64}),
        ],
    )
    async def test_a_different_question_misses_it(
        self, scripted: Make, tmp_path: Path, settings: dict[str, Any], llm_settings: dict[str, Any]
    ) -> None:
        llm, engine = scripted(read)
        cache, pipeline_cache, page = IngestionCache(), IngestionCache(), bare(tmp_path, 1)
        changed = GLM4VMultiModal(glm4v=llm.glm4v, **llm_settings)
        for transform in (
            GLM4VOCRTransform(llm=llm, cache=cache),
            GLM4VOCRTransform(llm=changed, cache=cache, **settings),
            GLM4VOCRTransform(llm=llm, cache=cache),
        ):
            await ingest(IngestionPipeline(transformations=[transform], cache=pipeline_cache), "arun", [page])
        assert len(engine.history) == 2

    async def test_a_different_model_misses_it(self, tmp_path: Path) -> None:
        cache, pipeline_cache, page = IngestionCache(), IngestionCache(), bare(tmp_path, 1)
        for name in ("one", "other"):
            llm = GLM4VMultiModal(glm4v=Glm4v.from_engine(ScriptedEngine([f"read by {name}"], model=name)))
            transform = GLM4VOCRTransform(llm=llm, cache=cache)
            pipeline = IngestionPipeline(transformations=[transform], cache=pipeline_cache)
            assert await ingest(pipeline, "arun", [page]) == [f"read by {name}"]

    async def test_a_failure_is_never_cached(self, scripted: Make, tmp_path: Path) -> None:
        llm, _ = scripted(OutOfMemoryError("Too big."), read)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm, errors="record")])
        page = bare(tmp_path, 1)
        assert await ingest(pipeline, "arun", [page]) == [""]
        assert await ingest(pipeline, "arun", [page]) == ["text of page 1"]

    async def test_it_can_be_persisted(self, scripted: Make, fax: Path, tmp_path: Path) -> None:
        llm, engine = scripted(read)
        transform = GLM4VOCRTransform(llm=llm)
        pages = GLM4VReader().load_data(fax)
        await ingest(IngestionPipeline(transformations=[transform]), "arun", pages)
        transform.cache.persist(str(tmp_path / "pages.json"))
        again = GLM4VOCRTransform(llm=llm, cache=IngestionCache.from_persist_path(str(tmp_path / "pages.json")))
        nodes = await again.acall(pages)
        assert [node.get_content() for node in nodes] == [f"text of page {number}" for number in range(1, 6)]
        assert nodes[4].metadata["finish_reason"] == "stop"
        assert len(engine.history) == 5

    def test_no_two_calls_have_the_same_cache_key_in_the_host(self, scripted: Make) -> None:
        transform = GLM4VOCRTransform(llm=scripted()[0])
        assert get_transformation_hash([], transform) != get_transformation_hash([], transform)


class TestNodes:
    @pytest.mark.parametrize("way", WAYS)
    async def test_they_are_processed_concurrently_and_stay_in_order(self, scripted: Make, fax: Path, way: str) -> None:
        finished: list[int] = []
        llm, engine = scripted(first_page_last(finished, 4), latency=0.0001)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm)])
        texts = await ingest(pipeline, way, GLM4VReader().load_data(fax))
        assert texts == [f"text of page {number}" for number in range(1, 6)]
        assert finished[-1] == 1
        assert engine.most_at_once > 1

    async def test_concurrency_is_bounded(self, scripted: Make, fax: Path) -> None:
        llm, engine = scripted(read, latency=0.0001)
        await GLM4VOCRTransform(llm=llm, concurrency=2).acall(GLM4VReader().load_data(fax))
        assert engine.most_at_once <= 2

    async def test_the_given_nodes_are_not_changed(self, scripted: Make, tmp_path: Path) -> None:
        llm, _ = scripted(read)
        page = bare(tmp_path, 1)
        (done,) = await GLM4VOCRTransform(llm=llm).acall([page])
        assert (page.get_content(), page.metadata, page.excluded_llm_metadata_keys) == ("", {}, [])
        assert (done.id_, type(done)) == (page.id_, ImageDocument)
        assert done.metadata == {
            "sha256": Image.load(tmp_path / "1.png").sha256,
            "format": "PNG",
            "width": 120,
            "height": 160,
            "model": "scripted",
            "finish_reason": "stop",
        }

    async def test_images_are_found_wherever_a_node_has_them(
        self, scripted: Make, tmp_path: Path, png_base64: str
    ) -> None:
        llm, engine = scripted(lambda request: "seen")
        paper(2).save(tmp_path / "2.png")
        nodes = [
            ImageDocument(image=png_base64),
            ImageNode(image=png_base64),
            ImageNode(image_path=str(tmp_path / "2.png")),
            TextNode(text="", metadata={"file_path": str(tmp_path / "2.png"), "page": 0}),
        ]
        done = await GLM4VOCRTransform(llm=llm).acall(nodes)
        assert [node.get_content() for node in done] == ["seen"] * 4
        assert len({request.messages[0].parts[0] for request in engine.history}) == 2

    async def test_nodes_without_an_image_pass_through(self, scripted: Make, tmp_path: Path) -> None:
        llm, engine = scripted(read)
        known = ImageNode(image_path=str(tmp_path / "unread.png"), text="a caption")
        failed = TextNode(text="", metadata={"file_path": "x.pdf", "page": 1, "error_code": "page_broken"})
        nodes = [Document(text="a letter"), known, failed, Document(metadata={"file_path": "x"}), ImageNode()]
        assert await GLM4VOCRTransform(llm=llm).acall(nodes) == nodes
        assert engine.history == []

    async def test_an_image_survives_splitting(self, scripted: Make, fax: Path, tmp_path: Path) -> None:
        llm, _ = scripted(read)
        documents = GLM4VReader(image_folder=tmp_path / "pictures").load_data(fax)
        pipeline = IngestionPipeline(transformations=[GLM4VOCRTransform(llm=llm), SentenceSplitter()])
        nodes = await pipeline.arun(documents=documents)
        for node, document in zip(nodes, documents, strict=True):
            assert isinstance(node, ImageNode)
            assert node.image_path == node.metadata["page_image"] == document.metadata["page_image"]
            assert node.ref_doc_id == document.id_


class TestFailures:
    @pytest.fixture
    def pages(self, fax: Path) -> list[Document]:
        documents = GLM4VReader().load_data(fax)
        documents[1].metadata["page"] = 6  # there are only five
        return documents

    async def test_raise_names_the_place(self, scripted: Make, pages: list[Document], fax: Path) -> None:
        with pytest.raises(Exception, match="has no page 7") as caught:
            await GLM4VOCRTransform(llm=scripted(read)[0]).acall(pages)
        assert caught.value.__notes__ == [f"This happened at page 7 of {fax}."]

    async def test_skip_leaves_the_node_out(
        self, scripted: Make, pages: list[Document], caplog: pytest.LogCaptureFixture
    ) -> None:
        done = await GLM4VOCRTransform(llm=scripted(read)[0], errors="skip").acall(pages)
        assert [node.metadata["page"] for node in done] == [0, 2, 3, 4]
        assert "has no page 7" in caplog.text

    async def test_record_puts_the_error_into_the_metadata(self, scripted: Make, pages: list[Document]) -> None:
        done = await GLM4VOCRTransform(llm=scripted(read)[0], errors="record").acall(pages)
        assert [node.get_content() for node in done] == [
            *("text of page 1", "", "text of page 3", "text of page 4", "text of page 5")
        ]
        assert done[1].metadata["error_code"] == "page"

    async def test_an_image_outside_of_the_root_is_refused(self, scripted: Make, tmp_path: Path) -> None:
        llm, engine = scripted(read)
        (tmp_path / "inside").mkdir()
        transform = GLM4VOCRTransform(llm=llm, page_options={"root": tmp_path / "inside"})
        with pytest.raises(ImageNotFoundError):
            await transform.acall([bare(tmp_path, 1)])
        assert engine.history == []

    async def test_an_address_is_not_fetched(self, scripted: Make) -> None:
        llm, engine = scripted(read)
        with pytest.raises(ImageUrlError):
            await GLM4VOCRTransform(llm=llm).acall([ImageNode(image_url="https://example.com/page.png")])
        assert engine.history == []


class TestHost:
    async def test_a_document_store_lets_only_changed_pages_through(self, scripted: Make, tmp_path: Path) -> None:
        for number in (1, 2):
            paper(number).save(tmp_path / f"{number}.png")
        llm, engine = scripted(read)
        pipeline = IngestionPipeline(
            transformations=[GLM4VOCRTransform(llm=llm)],
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY,
        )
        folder = tmp_path
        assert len(await ingest(pipeline, "arun", GLM4VReader().load_data(folder))) == 2
        paper(3).save(tmp_path / "2.png")
        assert await ingest(pipeline, "arun", GLM4VReader().load_data(folder)) == ["text of page 3"]
        assert len(engine.history) == 3

    def test_it_is_restored_from_its_dict(self) -> None:
        transform = GLM4VOCRTransform(llm=GLM4VMultiModal(model="tiny"), prompt="What?", page_options={"dpi": 300})
        again = GLM4VOCRTransform.from_dict(transform.to_dict())
        assert (again.llm.model, again.prompt, again.page_options) == ("tiny", "What?", {"dpi": 300})

    async def test_observers_see_every_question(self, scripted: Make, fax: Path, recorder: Any) -> None:
        await GLM4VOCRTransform(llm=scripted(read)[0]).acall(GLM4VReader().load_data(fax))
        assert recorder.names().count("LLMCompletionStartEvent") == 5
        assert recorder.names().count("LLMCompletionEndEvent") == 5

    def test_it_can_be_pickled_before_a_model_is_loaded(self) -> None:
        transform = GLM4VOCRTransform(llm=GLM4VMultiModal(model="tiny"), prompt="What?")
        assert pickle.loads(pickle.dumps(transform)).prompt == "What?"


async def test_tiny_reads_a_scan_once() -> None:
    with Glm4v.load("tiny") as model:
        transform = GLM4VOCRTransform(llm=GLM4VMultiModal(glm4v=model))
        pipeline = IngestionPipeline(transformations=[transform])
        pages = GLM4VReader().load_data(SCAN)
        (text,) = await ingest(pipeline, "arun", pages)
        assert "INVOICE" in text.upper()
        assert [text] == await ingest(pipeline, "arun", pages)
