"""Engines of LlamaIndex show the model the images and text that they retrieve."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.chat_engine.multi_modal_condense_plus_context import MultiModalCondensePlusContextChatEngine
from llama_index.core.chat_engine.multi_modal_context import MultiModalContextChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.embeddings.mock_embed_model import MockMultiModalEmbedding
from llama_index.core.evaluation.multi_modal import MultiModalFaithfulnessEvaluator, MultiModalRelevancyEvaluator
from llama_index.core.indices.multi_modal import MultiModalVectorStoreIndex
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import MultiModalLLMCompletionProgram
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import ImageDocument, ImageNode, NodeWithScore, QueryBundle, TextNode
from pydantic import BaseModel

from glm4v_core import Image, Request
from tests.support.llamaindex_calls import Make


class Found(BaseRetriever):
    """Finds the same pages for every question."""

    def __init__(self, png_base64: str) -> None:
        super().__init__()
        self._nodes = [
            ImageNode(image=png_base64, image_mimetype="image/png", text="the first page"),
            TextNode(text="the second page"),
        ]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=node, score=1.0) for node in self._nodes]


def images_of(request: Request) -> list[Image]:
    return [part for message in request.messages for part in message.parts if isinstance(part, Image)]


def text_of(request: Request) -> str:
    return "\n".join(getattr(part, "text", "") for message in request.messages for part in message.parts)


@pytest.mark.parametrize("engine_class", [RetrieverQueryEngine, CitationQueryEngine])
@pytest.mark.parametrize("mode", [ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_query_engines_show_the_pages_they_found(
    scripted: Make, png: bytes, png_base64: str, engine_class: Any, mode: ResponseMode, asynchronous: bool
) -> None:
    llm, engine = scripted(lambda request: "A cat [1].")
    index = {"index": None} if engine_class is CitationQueryEngine else {}
    queries = engine_class.from_args(**index, retriever=Found(png_base64), llm=llm, response_mode=mode, multimodal=True)
    answer = (
        await queries.aquery("What is it?") if asynchronous else await asyncio.to_thread(queries.query, "What is it?")
    )
    assert str(answer) == "A cat [1]."
    assert [image for request in engine.history for image in images_of(request)] == [Image.load(png)]
    assert any("the second page" in text_of(request) for request in engine.history)
    assert all("What is it?" in text_of(request) for request in engine.history)


@pytest.mark.parametrize("engine_class", [MultiModalContextChatEngine, MultiModalCondensePlusContextChatEngine])
async def test_chat_engines_show_the_pages_they_found(
    scripted: Make, png: bytes, png_base64: str, engine_class: Any
) -> None:
    llm, engine = scripted(lambda request: "A cat.")
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    chat = engine_class.from_defaults(retriever=Found(png_base64), multi_modal_llm=llm, memory=memory)
    assert str(await asyncio.to_thread(chat.chat, "What is it?")) == "A cat."
    assert images_of(engine.history[-1]) == [Image.load(png)]
    stream = await chat.astream_chat("Are you sure?")
    assert "".join([token async for token in stream.async_response_gen()]) == "A cat."
    assert "the second page" in text_of(engine.history[-1])
    assert [message.role for message in engine.history[-1].messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize("engine_class", [MultiModalContextChatEngine, MultiModalCondensePlusContextChatEngine])
async def test_an_empty_stream_ends_a_chat_cleanly(scripted: Make, png_base64: str, engine_class: Any) -> None:
    llm, _ = scripted(lambda request: "")
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    chat = engine_class.from_defaults(retriever=Found(png_base64), multi_modal_llm=llm, memory=memory)
    stream = await chat.astream_chat("What is it?")
    assert "".join([token async for token in stream.async_response_gen()]) == ""


def test_an_index_recognises_it_as_a_multi_modal_model(
    scripted: Make, png: bytes, png_base64: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    llm, engine = scripted("A cat.")
    index = MultiModalVectorStoreIndex(
        nodes=[TextNode(text="the second page"), ImageNode(image=png_base64, text="the first page")],
        embed_model=MockEmbedding(embed_dim=3),
        image_embed_model=MockMultiModalEmbedding(embed_dim=3),
    )
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    assert index.as_chat_engine(chat_mode=ChatMode.CONTEXT, llm=llm, memory=memory)
    with pytest.deprecated_call(match="multimodal=True"):
        queries = index.as_query_engine(llm=llm)
    assert str(queries.query("What is it?")) == "A cat."
    assert images_of(engine.history[0]) == [Image.load(png)]
    assert "the second page" in text_of(engine.history[0])
    assert "multi-modal" not in caplog.text + capsys.readouterr().out


@pytest.mark.parametrize("judge", [MultiModalRelevancyEvaluator, MultiModalFaithfulnessEvaluator])
async def test_evaluators_show_images_to_the_model(scripted: Make, png_base64: str, png: bytes, judge: Any) -> None:
    llm, engine = scripted("YES", "NO")
    asked: dict[str, Any] = {"query": "What is it?", "response": "A cat.", "contexts": ["a cat"]}
    asked["image_urls"] = [f"data:image/png;base64,{png_base64}"]
    evaluator = judge(multi_modal_llm=llm)
    assert (await asyncio.to_thread(lambda: evaluator.evaluate(**asked))).passing is True
    assert (await evaluator.aevaluate(**asked)).passing is False
    assert [images_of(request) for request in engine.history] == [[Image.load(png)]] * 2


class Animal(BaseModel):
    kind: str


async def test_the_old_program_for_images_works(scripted: Make, png: bytes, png_base64: str) -> None:
    llm, engine = scripted('{"kind": "cat"}')
    program: Any = MultiModalLLMCompletionProgram.from_defaults(
        output_cls=Animal,
        image_documents=[ImageNode(image=png_base64)],
        prompt_template_str="Who?",
        multi_modal_llm=llm,
    )
    assert program() == Animal(kind="cat")
    assert images_of(engine.history[0]) == [Image.load(png)]


def test_documents_of_a_reader_are_images(scripted: Make, png: bytes, tmp_path: Any) -> None:
    llm, engine = scripted("A cat.")
    file = tmp_path / "page.png"
    file.write_bytes(png)
    llm.complete("What is it?", image_documents=[ImageDocument(image_path=str(file))])
    assert images_of(engine.history[0]) == [Image.load(png)]
