"""Scanned pages by a question: a retriever over a page store, and a query engine that answers from what it finds."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from typing import Any, Unpack

from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import Response
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import BaseNode, ImageDocument, MetadataMode, NodeWithScore, QueryBundle, TextNode

from glm4v_core import Evidence, Image, PageOptions, PageStore, StoredPage
from glm4v_core.errors import ConfigError, ImageError, PageError
from glm4v_core.hosts import PAGES_FOUND, Language, PageAsking, Route, open_each, page_facts, page_id
from llamaindex_glm4v._observed import ObservedModel
from llamaindex_glm4v.llm import GLM4VMultiModal

_log = logging.getLogger(__name__)

_TECHNICAL = ("sha256", "model", "total_pages")
"""Metadata hidden from models; embeddings see only the summary and the label."""


class PageRetriever(BaseRetriever):
    """Finds pages of a store by the words of a question, best match first, as nodes with text.

    The metadata of a node is `source`, `page` (from 0), `total_pages`, `sha256`, `summary`, `model`, and `label` where
    there is one. For a page in several files it names the first; `store.get` lists all.

    To search with other words than the question, put them into `custom_embedding_strs` of a `QueryBundle`.

    Example:
        ```python
        store = PageStore("glm4v-pages.sqlite")
        ingest(store, llm.load(), "scans/")
        PageRetriever(store).retrieve("What is the total on the invoice from Marsh & Thorne?")
        ```
    """

    def __init__(self, store: PageStore, *, k: int = PAGES_FOUND, pictures: bool = False, **kwargs: Any) -> None:
        """Check the settings.

        Args:
            store: with the pages.
            k: most pages to find.
            pictures: put each page's image into its node, for LlamaIndex's query engines with `multimodal=True`.
            **kwargs: of LlamaIndex's BaseRetriever.

        Raises:
            ConfigError: k is less than one.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, not {k}.")
        super().__init__(**kwargs)
        self.store = store
        self._k, self._pictures = k, pictures

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        words = " ".join(query_bundle.embedding_strs)  # those of the question, unless the caller set others
        return [
            NodeWithScore(node=self._node(found.page), score=found.score) for found in self.store.search(words, self._k)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _node(self, page: StoredPage) -> BaseNode:
        return page_node(page, self.store.image(page.sha256) if self._pictures else None)


def page_node(page: StoredPage, picture: Image | None = None) -> BaseNode:
    """Make a node of a stored page, for an index that replaces the lexical one.

    The id comes from the page's content hash, so that a page is not added twice.

    Args:
        page: of a `PageStore`.
        picture: put into the node; without it, the image stays in the store or its file.
    """
    node = TextNode(
        id_=page_id(page.sha256),
        text=page.text,
        metadata=page_facts(page),
        excluded_embed_metadata_keys=["source", "page", *_TECHNICAL],
        excluded_llm_metadata_keys=list(_TECHNICAL),
    )
    return node if picture is None else _with_picture(node, picture)


class PageQueryEngine(BaseQueryEngine):
    """Answers questions from scanned pages: asks about each page found separately, and cites the best that answers.

    The one source node of a response is the page that answered, with its image. If no page has an answer, there is
    no source node, and the response is None. `asked` in the response's metadata has the answer from every page. The
    content of a page is data: its text is wrapped, and no tools are offered while it is read.
    """

    def __init__(
        self,
        llm: GLM4VMultiModal,
        retriever: BaseRetriever,
        *,
        store: PageStore | None = None,
        route: Route = "both",
        language: Language = "en",
        **options: Unpack[PageOptions],
    ) -> None:
        """Check the settings.

        Args:
            llm: to ask.
            retriever: a `PageRetriever`, or another whose nodes have the metadata of `page_node`, such as that of an
                index.
            store: where images come from; without it, from the files that the metadata names.
            route: what the model is shown of a page.
            language: of the words around the question.
            **options: for opening pages; with a store, they override those of its index.

        Raises:
            ConfigError: a setting is out of range.
        """
        if store is None and isinstance(retriever, PageRetriever):
            store = retriever.store
        self._asking = PageAsking(store, route, language, options)
        super().__init__(llm.callback_manager)
        self._llm, self._retriever = llm, retriever

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """Find pages without asking about them."""
        return self._retriever.retrieve(query_bundle)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _query(self, query_bundle: QueryBundle) -> Response:
        nodes = self._retriever.retrieve(query_bundle)  # not every vector store has an asynchronous client
        response: Response = asyncio_run(self._answer(query_bundle.query_str, nodes))
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> Response:
        return await self._answer(query_bundle.query_str, await self._retriever.aretrieve(query_bundle))

    async def _answer(self, question: str, nodes: Sequence[NodeWithScore]) -> Response:
        opened = await asyncio.to_thread(open_each, self._open, nodes)
        evidence = [page for _, page in opened]
        family = await asyncio.to_thread(lambda: self._llm.family) if evidence else None  # may load the model
        answer = await self._asking.ask(ObservedModel(self._llm), question, evidence, family)
        asked = [{**_place(page.evidence), "answer": page.text} for page in answer.asked]
        cited = [pair for pair in opened if pair[1] is answer.citation]
        sources = [await asyncio.to_thread(self._cite, *pair) for pair in cited]
        return Response(answer.text, source_nodes=sources, metadata={"asked": asked})

    def _open(self, found: NodeWithScore, route: Route | None = None) -> Evidence:
        return self._asking.open(found.node.metadata, found.node.get_content(metadata_mode=MetadataMode.NONE), route)

    def _cite(self, found: NodeWithScore, page: Evidence) -> NodeWithScore:
        picture = page.image or self._picture(found)
        node = found.node if picture is None else _with_picture(found.node, picture)
        return NodeWithScore(node=node, score=found.score)

    def _picture(self, found: NodeWithScore) -> Image | None:
        """Open the image of a page that answered from its text; the answer is valid without it."""
        try:
            return self._open(found, "image").image
        except (ImageError, PageError) as error:
            _log.warning("The answer has no picture: %s", error)
            return None


def _place(evidence: Evidence) -> dict[str, Any]:
    place = evidence.place
    return {"source": place.source, "page": place.number - 1, "sha256": evidence.sha256}


def _with_picture(node: BaseNode, picture: Image) -> ImageDocument:
    """Put text and image into one node; an ImageNode would show only its image."""
    return ImageDocument(
        id_=node.node_id,
        text=node.get_content(metadata_mode=MetadataMode.NONE),
        metadata=node.metadata,
        excluded_embed_metadata_keys=node.excluded_embed_metadata_keys,
        excluded_llm_metadata_keys=node.excluded_llm_metadata_keys,
        image=base64.b64encode(picture.png()).decode(),
        image_mimetype="image/png",
    )
