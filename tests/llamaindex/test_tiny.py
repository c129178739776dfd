"""The bundled checkpoint through LlamaIndex: what only a real model can show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from glm4v_core import Glm4v, Image, Message, Request
from langchain_glm4v import ChatGLM4V, image_block
from llamaindex_glm4v import GLM4VMultiModal
from tests.support.llamaindex_calls import IGNORE_AGENT_WARNINGS, WAYS, ask, text_of

SCAN = Path(__file__).parents[2] / "samples" / "scan-01.png"
KIND = "What kind of document is this?"

pytestmark = IGNORE_AGENT_WARNINGS


@pytest.fixture(scope="module")
def tiny() -> Iterator[Glm4v]:
    with Glm4v.load("tiny") as model:
        yield model


@pytest.fixture
def llm(tiny: Glm4v) -> GLM4VMultiModal:
    return GLM4VMultiModal(glm4v=tiny)


def about_the_scan(question: str) -> ChatMessage:
    return ChatMessage(blocks=[ImageBlock(path=SCAN), TextBlock(text=question)])


async def test_both_hosts_and_the_core_read_the_same(tiny: Glm4v, llm: GLM4VMultiModal) -> None:
    page = Image.load(SCAN)
    bare = tiny.generate(Request((Message.user(page, KIND),)))
    chain = ChatGLM4V(glm4v=tiny).invoke([HumanMessage([image_block(page), {"type": "text", "text": KIND}])])
    assert bare.text == chain.text == "invoice"
    for way in WAYS:
        asked: Any = about_the_scan(KIND) if way.endswith("chat") else KIND
        options = {} if way.endswith("chat") else {"image_documents": [SCAN]}
        *_, answer = await ask(llm, way, asked, **options)
        assert text_of(answer) == bare.text
        assert answer.raw["usage"]["prompt_tokens"] == bare.usage.prompt
        assert answer.raw["usage"]["prompt_tokens_details"]["image_tokens"] == bare.usage.image > 0


@pytest.mark.parametrize(("constructed", "called"), [(True, None), (False, None), (False, True), (True, False)])
async def test_the_thinking_setting_reaches_the_template(tiny: Glm4v, constructed: bool, called: bool | None) -> None:
    llm = GLM4VMultiModal(glm4v=tiny, thinking=constructed)
    options = {} if called is None else {"thinking": called}
    message = (await llm.achat([about_the_scan(KIND)], **options)).message
    aloud = constructed if called is None else called
    assert [block.block_type for block in message.blocks] == (["thinking", "text"] if aloud else ["text"])
    assert message.content == "invoice"


class Letterhead(BaseModel):
    date: str | None
    subject: str | None


async def test_a_grammar_constrains_the_answer_to_its_class(llm: GLM4VMultiModal) -> None:
    prompt = ChatPromptTemplate([about_the_scan("Extract as JSON: {fields}.")])
    head = await llm.astructured_predict(Letterhead, prompt, fields="date, subject")
    assert head == Letterhead(date="Mar 13, 1984", subject=None)


async def test_agents_look_at_images_and_call_tools(llm: GLM4VMultiModal) -> None:
    def magic_value(input: int) -> int:  # noqa: A002
        """A tool."""
        return input * 7

    looking = await FunctionAgent(llm=llm).run(about_the_scan(KIND))
    assert looking.response.content == "invoice"
    calling = await FunctionAgent(llm=llm, tools=[magic_value]).run("What is magic_value(3)? Use the tool.")
    assert [(call.tool_name, call.tool_kwargs) for call in calling.tool_calls] == [("magic_value", {"input": 3})]
    assert "21" in (calling.response.content or "")
