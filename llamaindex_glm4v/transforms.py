"""Reading the text of page images inside an ingestion pipeline."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self

from llama_index.core.ingestion import IngestionCache
from llama_index.core.schema import BaseNode, ImageNode, Node, TextNode, TransformComponent
from pydantic import Field

from glm4v_core import Image, Page, Step
from glm4v_core.errors import InputError
from glm4v_core.hosts import Facts, ModelSettings, PageText, UnreadPage, load_page, read_texts, run_in_own_loop
from llamaindex_glm4v._convert import to_source
from llamaindex_glm4v._reading import PageReading, Read, ask_with, hide
from llamaindex_glm4v.llm import GLM4VMultiModal

COLLECTION = "glm4v_pages"
"""The collection of the cache that holds the texts."""
_DECISIVE = {*ModelSettings.model_fields, "thinking", "thinking_budget"} - {"glm4v", "timeout"}
"""Settings of an LLM that an answer may depend on."""
_OF_PICTURES = ("limits", "root", "fetch", "max_image_tokens")
"""Page options that also apply to single images."""


class GLM4VOCRTransform(PageReading, TransformComponent):
    """Adds the text of page images to their nodes, many pages at the same time; the order stays.

    A node is read if it has no text but an image: its own, or the page of a file that its metadata name as `file_path`
    and `page`, as those of `GLM4VReader` do. Other nodes pass unchanged. Nodes are copied, never changed in place.

    Texts are cached per page by pixels, question and model: equal pages are read once, another image never gets their
    text, and failures are not cached. The pipeline's own cache compares neither pixels nor, for a document without
    text, metadata, so it would give one image the text of another; `to_dict` therefore makes every call differ.

    Use `pipeline.arun`, and no `num_workers`: processes cannot share a model.

    Example:
        ```python
        transform = GLM4VOCRTransform(llm=GLM4VMultiModal())
        pipeline = IngestionPipeline(transformations=[transform, SentenceSplitter()])
        nodes = await pipeline.arun(documents=GLM4VReader().load_data("scans/"))
        transform.cache.persist("pages.json")
        ```
    """

    llm: GLM4VMultiModal
    cache: IngestionCache = Field(default_factory=IngestionCache, exclude=True, repr=False)
    """Caches texts; `IngestionCache.from_persist_path` loads those of an earlier process."""

    @classmethod
    def class_name(cls) -> str:
        return "GLM4VOCRTransform"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings with a unique mark, so that no two calls are equal."""
        return {**super().to_dict(**kwargs), "call": uuid.uuid4().hex}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **kwargs: Any) -> Self:
        """Make a transform from what `to_dict` returned, with an empty cache."""
        return super().from_dict({name: value for name, value in data.items() if name != "call"}, **kwargs)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Return the nodes with their text added."""
        return run_in_own_loop(self.acall(nodes))

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Asynchronous version of calling the transform."""
        return [node async for node in self._read(nodes)]

    async def _read(self, nodes: Sequence[BaseNode]) -> AsyncGenerator[BaseNode, None]:
        waiting = {index for index, node in enumerate(nodes) if _is_unread_page(node)}
        done = {index: node for index, node in enumerate(nodes) if index not in waiting}
        if waiting:
            pages = ((index, self._page(nodes[index])) for index in sorted(waiting))
            read = self._remembering(await self._step(self.llm))
            texts = read_texts(pages, read, errors=self.errors, concurrency=self.concurrency)
            async with aclosing(texts):
                async for text in texts:
                    done[text.origin] = _with_text(nodes[text.origin], text)
        for index in sorted(done):
            yield done[index]

    def _page(self, node: BaseNode) -> Page | UnreadPage:
        facts = node.metadata
        source, number, count = str(facts.get("file_path") or node.node_id), _number(node), facts.get("total_pages", 1)
        try:
            if _has_picture(node):
                return Page(self._picture(node), source, number, count)
            return load_page(facts["file_path"], number, **self._options())
        except InputError as error:
            return UnreadPage(error, source, number, count)

    def _picture(self, node: BaseNode) -> Image:
        options = {name: value for name, value in self._options().items() if name in _OF_PICTURES}
        return Image.load(to_source(node), **options)  # type: ignore[arg-type]  # checked when they were set

    def _remembering(self, step: Step[str]) -> Read:
        ask = ask_with(self.llm, step)
        question = [step.prompt, repr(step.thinking), _identity(self.llm)]

        async def read(page: Page) -> tuple[str, Facts]:
            known = json.dumps([page.image.sha256, page.image.max_tokens, *question])
            key = hashlib.sha256(known.encode()).hexdigest()
            if kept := await asyncio.to_thread(self.cache.get, key, COLLECTION):
                return kept[0].get_content(), kept[0].metadata
            text, facts = await ask(page)
            await asyncio.to_thread(self.cache.put, key, [TextNode(text=text, metadata=dict(facts))], COLLECTION)
            return text, facts

        return read


def _is_unread_page(node: BaseNode) -> bool:
    if node.get_content().strip() or "error_code" in node.metadata:
        return False
    return _has_picture(node) or ("file_path" in node.metadata and "page" in node.metadata)


def _has_picture(node: BaseNode) -> bool:
    if isinstance(node, ImageNode):
        return bool(node.image or node.image_path or node.image_url)
    return isinstance(node, Node) and node.image_resource is not None


def _number(node: BaseNode) -> int:
    return int(node.metadata.get("page", 0)) + 1


def _with_text(node: BaseNode, read: PageText[int]) -> BaseNode:
    copy = node.model_copy()
    copy.metadata = {**node.metadata, **read.facts}
    copy.set_content(read.text)
    hide(copy)
    return copy


def _identity(llm: GLM4VMultiModal) -> str:
    defaults = repr(llm.glm4v.defaults) if llm.glm4v is not None else ""
    settings = llm.model_dump(include=_DECISIVE)
    return json.dumps([settings, defaults], sort_keys=True, default=repr)
