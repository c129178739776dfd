"""What one call returns: the same message in all four ways of calling."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import PIL.Image
import pytest
from langchain_core.exceptions import ContextOverflowError, ModelNotFoundError, ModelTimeoutError
from langchain_core.messages import AIMessageChunk, HumanMessage

from glm4v_core import Glm4v, Request, ScriptedEngine, Timings, TokenLogprob, Usage, errors
from glm4v_core.errors import UnsupportedError
from glm4v_core.types import Piece
from langchain_glm4v import (
    ChatContextOverflowError,
    ChatGLM4V,
    ChatModelNotFoundError,
    ChatTimeoutError,
    image_block,
)
from tests.support.langchain_calls import CHAT_WAYS, Make, ask

TOOL_CALL = "<tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_all_ways_of_asking_give_the_same_message(scripted: Make, way: str, picture: PIL.Image.Image) -> None:
    llm, engine = scripted(
        "<think>Let me see.</think>It is a cat, 貓 at <|begin_of_box|>[[0,0,500,1000]]<|end_of_box|>"
    )
    question = HumanMessage([image_block(picture), {"type": "text", "text": "What is it?"}])
    answer = await ask(llm, way, [question], reasoning=True)

    assert answer.text == answer.content
    assert "<think>" not in answer.text
    assert answer.text.startswith("It is a cat, 貓")
    assert answer.additional_kwargs["reasoning_content"] == "Let me see."
    assert [block["type"] for block in answer.content_blocks] == ["reasoning", "text"]
    (box,) = answer.additional_kwargs["boxes"]
    assert (box["x1"], box["y1"], box["x2"], box["y2"]) == (0, 0, 20, 30)
    assert answer.response_metadata["model_name"] == "scripted"
    assert answer.response_metadata["model_provider"] == "glm4v"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["timings"]["total"] > 0
    assert len(engine.history) == 1


class CountingEngine(ScriptedEngine):
    """Reports a usage of its own."""

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        usage = Usage(prompt=100, image=80, completion=10, thinking=0, cached=90)
        yield Piece("Hello")
        yield Piece(" there", finish="stop", usage=usage, timings=Timings(0.1, 0.2, 0.3))


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_usage_is_reported_once_in_details_that_do_not_overlap(way: str) -> None:
    answer = await ask(ChatGLM4V(glm4v=Glm4v.from_engine(CountingEngine())), way, "hi")
    assert answer.usage_metadata == {
        "input_tokens": 100,
        "output_tokens": 10,
        "total_tokens": 110,
        "input_token_details": {"cache_read": 90, "image": 10},
        "output_token_details": {"reasoning": 0},
    }
    assert answer.response_metadata["usage"]["image"] == 80
    assert answer.response_metadata["timings"] == {"queue": 0.1, "first_token": 0.2, "total": 0.3}


async def test_fields_that_must_not_be_added_up_are_on_the_last_chunk_only(scripted: Make) -> None:
    llm, _ = scripted("one two three")
    chunks = [chunk async for chunk in llm.astream("count")]
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    *before, last = chunks
    assert [chunk.text for chunk in before] == ["one", " two", " three"]
    assert all(chunk.usage_metadata is None for chunk in before)
    assert all(set(chunk.response_metadata) <= {"model_provider"} for chunk in before)
    assert last.chunk_position == "last"


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_tool_calls_good_and_broken(scripted: Make, way: str) -> None:
    good = TOOL_CALL.format(name="page", key="number", value="2") + TOOL_CALL.format(
        name="find", key="word", value="猫"
    )
    llm, _ = scripted(f"I look.{good}<tool_call></tool_call>")
    answer = await ask(llm, way, "Find it.")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [
        ("page", {"number": 2}),
        ("find", {"word": "猫"}),
    ]
    assert len({call["id"] for call in answer.tool_calls}) == 2
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert len(answer.invalid_tool_calls) == 1


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_log_probabilities_come_in_openai_shape(scripted: Make, way: str) -> None:
    tokens = (TokenLogprob("é", -0.5, (("é", -0.5), ("e", -1.5))), TokenLogprob("!", -0.25))
    llm, engine = scripted([Piece("é", 1, tokens[:1]), Piece("!", 1, tokens[1:])], logprobs=True, top_logprobs=2)
    answer = await ask(llm, way, "hi")
    assert engine.history[0].sampling.logprobs == 2
    first, second = answer.response_metadata["logprobs"]["content"]
    assert first == {
        "token": "é",
        "bytes": [195, 169],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "é", "bytes": [195, 169], "logprob": -0.5},
            {"token": "e", "bytes": [101], "logprob": -1.5},
        ],
    }
    assert second["top_logprobs"] == []


@pytest.mark.parametrize(
    ("answer", "options", "reason", "detail"),
    [
        ("one two three", {"max_tokens": 2}, "length", "length"),
        ("<think>one two three", {"max_tokens": 2, "reasoning": True}, "length", "length_in_thinking"),
        ([Piece("la la", finish="repetition")], {}, "repetition", "repetition"),
        ("one two STOP three", {"stop": ["STOP"]}, "stop", "stop"),
    ],
)
def test_finish_reasons(scripted: Make, answer: Any, options: dict[str, Any], reason: str, detail: str) -> None:
    llm, _ = scripted(answer)
    message = llm.invoke("go", **options)
    assert message.response_metadata["finish_reason"] == reason
    assert message.response_metadata["finish_detail"] == detail
    assert "STOP" not in message.text


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_failures_have_langchains_name_too(scripted: Make, way: str) -> None:
    failure = errors.ContextOverflowError("Too long.", hint="Cut it.")
    llm, _ = scripted(
        failure,
        errors.EngineTimeoutError("Too slow."),
        errors.ModelNotFoundError("None."),
        errors.OutOfMemoryError("Too big."),
    )
    with pytest.raises(ContextOverflowError) as caught:
        await ask(llm, way, "x")
    assert isinstance(caught.value, ChatContextOverflowError)
    assert (caught.value.hint, caught.value.__cause__) == ("Cut it.", failure)
    with pytest.raises(ModelTimeoutError) as slow:
        await ask(llm, way, "x")
    assert isinstance(slow.value, ChatTimeoutError)
    assert isinstance(slow.value, TimeoutError)
    with pytest.raises(ModelNotFoundError) as missing:
        await ask(llm, way, "x")
    assert isinstance(missing.value, ChatModelNotFoundError)
    with pytest.raises(errors.OutOfMemoryError):
        await ask(llm, way, "x")


def test_tokens_are_counted_as_the_engine_uses_them(scripted: Make, picture: PIL.Image.Image) -> None:
    llm, _ = scripted("ok")
    messages = [HumanMessage([image_block(picture), {"type": "text", "text": "How many?"}])]
    count = llm.get_num_tokens_from_messages(messages)
    usage = llm.invoke(messages).usage_metadata
    assert usage is not None
    assert count == usage["input_tokens"]
    assert llm.get_num_tokens("one two three") == 3
    with pytest.raises(UnsupportedError):
        llm.get_token_ids("one")


def test_streaming_inside_invoke_gives_the_same_message(scripted: Make) -> None:
    llm, _ = scripted("one two", streaming=True)
    answer = llm.invoke("x")
    assert (answer.text, answer.response_metadata["finish_reason"]) == ("one two", "stop")
    assert answer.response_metadata["model_name"] == "scripted"
