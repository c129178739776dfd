"""A LlamaIndex workflow that reads pages concurrently, then summarizes and classifies their text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from enum import Enum
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from pydantic import BaseModel

from glm4v_core import Glm4v, Image, Message, Request, ScriptedEngine
from glm4v_core.errors import EngineError
from glm4v_core.types import Piece
from llamaindex_glm4v import GLM4VMultiModal

PAGES = 4


class PageEvent(Event):
    number: int
    image: bytes


class TextEvent(Event):
    number: int
    text: str
    failed: bool = False


class DocumentEvent(Event):
    text: str


class Label(Enum):
    INVOICE = "invoice"
    LETTER = "letter"


class Kind(BaseModel):
    label: Label


class Papers(Workflow):
    """OCR of every page, then a summary and a label of the whole."""

    def __init__(self, llm: GLM4VMultiModal) -> None:
        super().__init__(timeout=60)
        self._llm = llm

    @step
    async def split(self, context: Context, event: StartEvent) -> PageEvent | None:
        for number, image in enumerate(event.pages):
            context.send_event(PageEvent(number=number, image=image))
        return None

    @step(num_workers=PAGES)
    async def read(self, event: PageEvent) -> TextEvent:
        try:
            answer = await self._llm.acomplete(f"Read page {event.number}.", image_documents=[event.image])
        except EngineError as error:
            return TextEvent(number=event.number, text=error.code, failed=True)
        return TextEvent(number=event.number, text=answer.text)

    @step
    async def gather(self, context: Context, event: TextEvent) -> DocumentEvent | None:
        found = context.collect_events(event, [TextEvent] * PAGES)
        if found is None:
            return None
        return DocumentEvent(text=" ".join(page.text for page in sorted(found, key=lambda page: page.number)))

    @step
    async def understand(self, event: DocumentEvent) -> StopEvent:
        summary, kind = await asyncio.gather(
            self._llm.achat([ChatMessage(content=f"Summarize: {event.text}")]),
            self._llm.astructured_predict(Kind, PromptTemplate("Classify: {text}"), text=event.text),
        )
        return StopEvent(result=(event.text, summary.message.content, kind.label))


class PagesEngine(ScriptedEngine):
    """Answers the pages from last to first, once it has received all of them."""

    def __init__(self, broken: int | None) -> None:
        super().__init__(self._answer)
        self._broken = broken
        self._turn = asyncio.Condition()
        self._here = 0
        self._next = PAGES - 1

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        if (number := self._page(request)) is not None:
            await self._wait_for_turn(number)
        async for piece in super().stream(request):
            yield piece

    async def _wait_for_turn(self, number: int) -> None:
        async with asyncio.timeout(30), self._turn:
            self._here += 1
            self._turn.notify_all()
            await self._turn.wait_for(lambda: self._here == PAGES and self._next == number)
            self._next -= 1
            self._turn.notify_all()

    def _page(self, request: Request) -> int | None:
        text = self._text(request.messages[0])
        return int(text.removeprefix("Read page ").removesuffix(".")) if text.startswith("Read") else None

    def _answer(self, request: Request) -> Any:
        number = self._page(request)
        if number is not None:
            return EngineError("Torn.") if number == self._broken else f"text {number}"
        if request.constraint is not None:
            return '{"label": "letter"}'
        return self._text(request.messages[0]).upper()

    @staticmethod
    def _text(message: Message) -> str:
        return next(part.text for part in message.parts if not isinstance(part, Image))  # type: ignore[union-attr]


@pytest.mark.parametrize("broken", [None, 2])
async def test_pages_are_read_concurrently_and_come_back_in_order(png: bytes, broken: int | None) -> None:
    llm = GLM4VMultiModal(glm4v=Glm4v.from_engine(PagesEngine(broken)))
    text, summary, label = await Papers(llm).run(pages=[png] * PAGES)
    texts = [f"text {number}" if number != broken else "engine" for number in range(PAGES)]
    assert text == " ".join(texts)
    assert summary == f"SUMMARIZE: {text.upper()}"
    assert label is Label.LETTER
