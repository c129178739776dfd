"""What the reader and the transform share: how each page is read, and which metadata its document hides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self

from llama_index.core.schema import BaseComponent, BaseNode
from pydantic import ConfigDict, Field, field_serializer, field_validator, model_validator

from glm4v_core import Page, PageOptions, Step, tasks
from glm4v_core.errors import ConfigError
from glm4v_core.hosts import PAGES_IN_FLIGHT, Facts, Language, OnError, answer_facts, check_page_options
from llamaindex_glm4v._observed import ObservedModel
from llamaindex_glm4v.llm import GLM4VMultiModal

TECHNICAL = (
    *("source", "file_name", "page", "total_pages", "page_image", "sha256", "format", "width", "height", "notes"),
    *("model", "finish_reason", "error_code", "error_message", "error_hint"),
)
"""Metadata hidden from models and embeddings; `file_path` and `page_label` are shown, for citations."""

Read = Callable[[Page], Awaitable[tuple[str, Facts]]]


class PageReading(BaseComponent):
    """The settings of `GLM4VReader` and `GLM4VOCRTransform`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    llm: GLM4VMultiModal | None = None
    """Reads the text of the pages."""
    prompt: str | None = None
    """What to ask about a page; None asks for its text, with the prompt that the model's family was trained on, if it
    has one."""
    language: Language | None = None
    """Of the built-in prompt, "en" if left out."""
    errors: OnError = "raise"
    """What to do about a page that fails. "raise" ends the run; "skip" leaves the page out, with a warning in the log;
    "record" returns a document without text, whose metadata has `error_code`, `error_message` and `error_hint`. An
    error that would hit every page is always raised."""
    concurrency: int = Field(default=PAGES_IN_FLIGHT, ge=1)
    """Pages in progress at the same time."""
    page_options: dict[str, Any] = Field(default_factory=dict)
    """Of `glm4v_core.load_pages`, such as {"dpi": 300, "max_pages": 50}."""

    @field_validator("llm", mode="before")
    @classmethod
    def _rebuild(cls, llm: Any) -> Any:
        return GLM4VMultiModal.from_dict(llm) if isinstance(llm, dict) else llm

    @field_serializer("page_options")
    def _without_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name not in ("password", "fetch")}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompt is not None and self.language is not None:
            raise ConfigError("A prompt has its own language.", hint="Pass prompt or language.")
        check_page_options(**self.page_options)
        return self

    def _options(self) -> PageOptions:
        limit = self.llm.max_image_tokens if self.llm is not None else None
        options = PageOptions(max_image_tokens=limit)
        options.update(self.page_options)  # type: ignore[typeddict-item]  # checked when it was set
        return options

    async def _step(self, llm: GLM4VMultiModal) -> Step[str]:
        """Choose the question; looking up the family may load the model."""
        if self.prompt is not None:
            return tasks.ask(self.prompt)
        return tasks.ocr(self.language or "en", family=await asyncio.to_thread(lambda: llm.family))


def ask_with(llm: GLM4VMultiModal, step: Step[str]) -> Read:
    """Return a function that reads a page: its text, and facts about the answer."""
    model = ObservedModel(llm)

    async def read(page: Page) -> tuple[str, Facts]:
        text, completion = await step.arun(model, page.image)
        return text, answer_facts(completion)

    return read


def hide(node: BaseNode, keys: Iterable[str] = TECHNICAL) -> None:
    """Hide these metadata from models and embeddings."""
    node.excluded_embed_metadata_keys = list(dict.fromkeys([*node.excluded_embed_metadata_keys, *keys]))
    node.excluded_llm_metadata_keys = list(dict.fromkeys([*node.excluded_llm_metadata_keys, *keys]))
