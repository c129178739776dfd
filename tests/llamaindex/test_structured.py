"""Structured answers: the schema reaches the engine, and the object is returned or an error says why not."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage, ChatResponse, ImageBlock, TextBlock
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, field_validator

from glm4v_core import Image, JsonSchema, Request
from glm4v_core.errors import ConfigError, InvalidOutputError, TruncatedOutputError
from llamaindex_glm4v import GLM4VMultiModal
from tests.support.llamaindex_calls import CHAT_WAYS, Make, Recorder, ask
from tests.support.tool_calls import tool_call


class Kind(Enum):
    INVOICE = "invoice"
    LETTER = "letter"


class Line(BaseModel):
    item: str
    price: float


class Paper(BaseModel):
    kind: Kind
    lines: list[Line]
    note: str | None = None

    @field_validator("lines")
    @classmethod
    def _want_lines(cls, lines: list[Line]) -> list[Line]:
        if not lines:
            raise ValueError("a paper has lines")
        return lines


ANSWER = '{"kind": "invoice", "lines": [{"item": "glue {x}", "price": 1.5}], "note": null}'
PAPER = Paper(kind=Kind.INVOICE, lines=[Line(item="glue {x}", price=1.5)])
THOUGHT = "<think>{it} is an invoice.</think>"
PROMPT = PromptTemplate("What is {thing}?")
WAYS = ("structured_predict", "astructured_predict", "stream_structured_predict", "astream_structured_predict")


async def predict(llm: GLM4VMultiModal, way: str, prompt: Any = PROMPT, **options: Any) -> list[Any]:
    method = getattr(llm, way)
    match way:
        case "structured_predict":
            return [method(Paper, prompt, options, thing="it")]
        case "astructured_predict":
            return [await method(Paper, prompt, options, thing="it")]
        case "stream_structured_predict":
            return list(method(Paper, prompt, options, thing="it"))
        case _:
            return [partial async for partial in await method(Paper, prompt, options, thing="it")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("thought", ["", THOUGHT])
async def test_the_answer_is_an_object_constrained_by_its_schema(scripted: Make, way: str, thought: str) -> None:
    llm, engine = scripted(thought + ANSWER, system_prompt="Be exact.", thinking=bool(thought))
    *_, paper = await predict(llm, way, temperature=0.0)
    assert paper == PAPER
    (request,) = engine.history
    assert isinstance(request.constraint, JsonSchema)
    schema: Any = request.constraint.schema
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Line"]["additionalProperties"] is False
    assert schema["$defs"]["Kind"]["enum"] == ["invoice", "letter"]
    assert texts_of(request) == ["Be exact.", "What is it?"]
    assert request.sampling.temperature == 0.0
    assert request.tools == ()


def texts_of(request: Request) -> list[str]:
    return [part.text for message in request.messages for part in message.parts]  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WAYS[2:])
async def test_a_stream_shows_the_object_as_it_grows(scripted: Make, way: str) -> None:
    llm, _ = scripted(THOUGHT + ANSWER, thinking=True)
    *partials, last = await predict(llm, way)
    assert last == PAPER
    counts = [len(getattr(partial, "lines", None) or []) for partial in partials]
    assert (counts[0], counts[-1]) == (0, 1)
    assert any(not isinstance(partial, Paper) for partial in partials)


@pytest.mark.parametrize("way", WAYS)
async def test_observers_see_an_object_and_the_chat_behind_it(scripted: Make, recorder: Recorder, way: str) -> None:
    llm, _ = scripted(ANSWER)
    await predict(llm, way)
    for kind in ("LLMStructuredPredict", "LLMChat"):
        assert len(recorder.of(f"{kind}StartEvent")) == len(recorder.of(f"{kind}EndEvent")) == 1
    (end,) = recorder.of("LLMStructuredPredictEndEvent")
    assert end.output == PAPER


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_is_not_such_an_object_is_an_error(scripted: Make, way: str) -> None:
    llm, _ = scripted('{"kind": "invoice", "lines": []}', "I would say invoice.", [ANSWER[:20], ANSWER[20:]])
    with pytest.raises(InvalidOutputError, match="a paper has lines"):
        await predict(llm, way)
    with pytest.raises(InvalidOutputError, match="not JSON"):
        await predict(llm, way)
    with pytest.raises(TruncatedOutputError):
        await predict(llm, way, max_tokens=15)
    with pytest.raises(ConfigError, match="its own constraint"):
        await predict(llm, way, constraint=None)


# LlamaIndex's StructuredLLM writes growing objects with a deprecated method of pydantic.
@pytest.mark.filterwarnings("ignore:The `json` method is deprecated:pydantic.warnings.PydanticDeprecatedSince20")
@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_a_structured_llm_sees_images_and_braces(scripted: Make, way: str, png: bytes) -> None:
    llm, engine = scripted(ANSWER, system_prompt="Be exact.")
    message = ChatMessage(blocks=[TextBlock(text='What is {"this"}?'), ImageBlock(image=png)])
    *_, answer = await ask(llm.as_structured_llm(Paper), way, message)
    assert isinstance(answer, ChatResponse)
    assert Paper.model_validate_json(answer.message.content or "") == PAPER
    assert answer.raw == PAPER
    _, asked = engine.history[0].messages
    assert asked.parts[0].text == 'What is {"this"}?'  # type: ignore[union-attr]
    assert asked.parts[1] == Image.load(png)


async def test_images_in_a_chat_prompt_reach_the_engine(scripted: Make, png: bytes) -> None:
    llm, engine = scripted(ANSWER)
    prompt = ChatPromptTemplate([ChatMessage(blocks=[ImageBlock(image=png), TextBlock(text="What is {thing}?")])])
    assert await predict(llm, "structured_predict", prompt) == [PAPER]
    assert engine.history[0].messages[0].parts[0] == Image.load(png)


@pytest.mark.parametrize("way", WAYS)
async def test_other_program_modes_are_llama_indexs_own(scripted: Make, way: str) -> None:
    llm, engine = scripted(
        tool_call("Paper", kind="invoice", lines='[{"item": "glue {x}", "price": 1.5}]'),
        pydantic_program_mode=PydanticProgramMode.FUNCTION,
    )
    *_, paper = await predict(llm, way)
    assert paper == PAPER
    assert [tool.name for tool in engine.history[0].tools] == ["Paper"]
    assert engine.history[0].constraint is None
