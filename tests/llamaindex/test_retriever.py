"""LlamaIndex's retriever over a page store, and answers from retrieved pages, with any retriever."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import ImageDocument, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from glm4v_core import Image, PageStore
from glm4v_core.errors import ConfigError, PageError
from llamaindex_glm4v import PageQueryEngine, PageRetriever, page_node
from tests.support.embeddings import embed
from tests.support.letters import ABSENT, TEXTS, fill, read, width_of, words_of
from tests.support.llamaindex_calls import Make, Recorder


class LocalEmbedding(BaseEmbedding):
    """WordLlama for LlamaIndex."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return embed([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    with PageStore(tmp_path / "pages.sqlite") as opened:
        fill(opened, tmp_path / "scans")
        yield opened


async def query(engine: PageQueryEngine, question: str, *, asynchronous: bool = True) -> Any:
    return await engine.aquery(question) if asynchronous else await asyncio.to_thread(engine.query, question)


class TestRetriever:
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_nodes_name_the_places_that_contain_them(
        self, store: PageStore, tmp_path: Path, asynchronous: bool
    ) -> None:
        retriever = PageRetriever(store, k=1)
        question = "the letter of Glacier"
        found = await retriever.aretrieve(question) if asynchronous else retriever.retrieve(question)
        (node,) = found
        assert node.score is not None
        assert node.score > 0
        assert (node.text, node.node.metadata) == (
            TEXTS[2],
            {
                "source": str(tmp_path / "scans" / "2.png"),
                "page": 0,
                "total_pages": 1,
                "sha256": Image.load(tmp_path / "scans" / "2.png").sha256,
                "summary": "A letter.",
                "model": "scripted",
            },
        )
        assert not isinstance(node.node, ImageDocument)

    def test_settings_are_checked(self, store: PageStore) -> None:
        with pytest.raises(ConfigError, match="k must be at least 1, not 0"):
            PageRetriever(store, k=0)

    @pytest.mark.parametrize("pictures", [False, True])
    async def test_query_engines_of_llamaindex_accept_it(
        self, store: PageStore, scripted: Make, pictures: bool
    ) -> None:
        llm, engine = scripted(lambda request: "22.00")
        retriever = PageRetriever(store, k=1, pictures=pictures)
        answer = await RetrieverQueryEngine.from_args(retriever, llm=llm, multimodal=pictures).aquery("Glacier letter")
        assert str(answer) == "22.00"
        assert [width_of(request) for request in engine.history] == [2 if pictures else 0]
        assert "Glacier Ltd" in words_of(engine.history[0])


class TestQueryEngine:
    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_it_answers_with_page_and_picture(
        self, store: PageStore, scripted: Make, tmp_path: Path, asynchronous: bool, recorder: Recorder
    ) -> None:
        llm, engine = scripted(read)
        queries = PageQueryEngine(llm, PageRetriever(store, k=2))
        response = await query(queries, "What is the total of Glacier Ltd?", asynchronous=asynchronous)
        assert str(response) == "22.00"
        (source,) = response.source_nodes
        assert (Path(source.node.metadata["source"]).name, source.node.text) == ("2.png", TEXTS[2])
        shown = Image.load(base64.b64decode(source.node.image))
        assert shown == Image.load(tmp_path / "scans" / "2.png")
        best = response.metadata["asked"][0]
        assert (Path(best["source"]).name, best["answer"]) == ("2.png", "22.00")
        assert len(engine.history) == 2
        names = recorder.names()
        assert names.count("QueryStartEvent") == names.count("QueryEndEvent") == 1
        assert names.count("RetrievalStartEvent") == 1
        assert names.count("LLMCompletionStartEvent") == 2

    async def test_routes(self, store: PageStore, scripted: Make) -> None:
        llm, engine = scripted(read)
        for route in ("image", "text", "both"):
            queries = PageQueryEngine(llm, PageRetriever(store, k=1), route=route)  # type: ignore[arg-type]
            response = await query(queries, "张伟的信")
            assert str(response) == "33.00"
            assert isinstance(response.source_nodes[0].node, ImageDocument)
        assert [bool(width_of(request)) for request in engine.history] == [True, False, True]
        assert ["<document>" in words_of(request) for request in engine.history] == [False, True, True]
        assert all(not request.tools and request.thinking is False for request in engine.history)

    @pytest.mark.parametrize("asynchronous", [False, True])
    async def test_pages_may_be_searched_with_different_words_than_the_question(
        self, store: PageStore, scripted: Make, asynchronous: bool
    ) -> None:
        llm, engine = scripted(read)
        queries = PageQueryEngine(llm, PageRetriever(store), language="zh")
        asked: Any = QueryBundle("总金额是多少？", custom_embedding_strs=["Glacier"])
        response = await query(queries, asked, asynchronous=asynchronous)
        assert str(response) == "22.00"
        (request,) = engine.history
        assert "总金额是多少？" in words_of(request)
        assert "Glacier" not in words_of(request).partition("</document>")[2]

    async def test_a_question_that_no_page_answers_has_no_answer(self, store: PageStore, scripted: Make) -> None:
        llm, engine = scripted(lambda request: ABSENT)
        queries = PageQueryEngine(llm, PageRetriever(store))
        response = await query(queries, "Zanzibar")
        assert (response.response, response.source_nodes, engine.history) == (None, [], [])
        response = await query(queries, "Glacier")
        assert (response.response, response.source_nodes) == (None, [])
        assert [page["answer"] for page in response.metadata["asked"]] == [None]

    async def test_missing_images_do_not_stop_a_query(
        self, store: PageStore, scripted: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        llm, engine = scripted(read)
        (tmp_path / "scans" / "1.png").unlink()
        response = await query(PageQueryEngine(llm, PageRetriever(store)), "What is the total of Glacier Ltd?")
        assert (str(response), len(engine.history)) == ("22.00", 2)
        assert Path(response.source_nodes[0].node.metadata["source"]).name == "2.png"
        (tmp_path / "scans" / "2.png").unlink()
        response = await query(PageQueryEngine(llm, PageRetriever(store), route="text"), "Glacier")
        assert (str(response), response.source_nodes[0].node.text) == ("22.00", TEXTS[2])
        assert all(name in record.message for name, record in zip(("1.png", "2.png"), caplog.records, strict=True))
        with pytest.raises(PageError, match="is gone"):
            await query(PageQueryEngine(llm, PageRetriever(store)), "Glacier")

    def test_it_can_retrieve_without_asking(self, store: PageStore, scripted: Make) -> None:
        llm, engine = scripted()
        (node,) = PageQueryEngine(llm, PageRetriever(store)).retrieve(QueryBundle("Glacier"))
        assert (node.text, engine.history) == (TEXTS[2], [])

    async def test_settings_and_nodes_are_checked(self, store: PageStore, scripted: Make) -> None:
        llm, _ = scripted()
        with pytest.raises(ConfigError, match="route"):
            PageQueryEngine(llm, PageRetriever(store), route="video")  # type: ignore[arg-type]

        class Found(BaseRetriever):
            def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
                return [NodeWithScore(node=TextNode(text="text"))]

        with pytest.raises(PageError, match="no 'source' in its metadata"):
            await query(PageQueryEngine(llm, Found()), "?")


@pytest.mark.parametrize("kind", ["simple", "qdrant"])
async def test_a_vector_index_can_replace_the_lexical_one(store: PageStore, scripted: Make, kind: str) -> None:
    vectors: Any = SimpleVectorStore()
    if kind == "qdrant":
        vectors = QdrantVectorStore("pages", client=QdrantClient(":memory:"), index_doc_id=False)
    index = VectorStoreIndex(
        nodes=[page_node(page) for page in store.pages()],
        storage_context=StorageContext.from_defaults(vector_store=vectors),
        embed_model=LocalEmbedding(),
    )
    llm, engine = scripted(read)
    queries = PageQueryEngine(llm, index.as_retriever(similarity_top_k=3), store=store)
    response = await query(queries, "a letter from Glacier Ltd of Turin", asynchronous=False)
    assert str(response) == "22.00"
    assert sorted(width_of(request) for request in engine.history) == [1, 2, 3]
    assert isinstance(response.source_nodes[0].node, ImageDocument)
