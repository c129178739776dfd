"""LangChain's event streams of content blocks: reasoning, text and calls, wherever the engine's text is cut."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

from tests.support.langchain_calls import Make

pytestmark = pytest.mark.filterwarnings("ignore:.*beta:langchain_core._api.LangChainBetaWarning")

CALL = "<tool_call>find_page\n<arg_key>topic</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"
RAW = f"<think>Two are needed.</think>\nI look.\n{CALL.format('bills')}\n{CALL.format('工具')}"
CUTS = range(1, len(RAW))


@tool
def find_page(topic: str) -> str:
    """Find a page."""
    return topic


def check(message: AIMessage) -> None:
    thought, text, *calls = message.content_blocks
    assert thought["type"] == "reasoning"
    assert thought["reasoning"] == "Two are needed."
    assert text["type"] == "text"
    assert text["text"].strip() == "I look."
    assert [call["type"] for call in calls] == ["tool_call", "tool_call"]
    assert [call["args"] for call in message.tool_calls] == [{"topic": "bills"}, {"topic": "工具"}]
    assert len({call["id"] for call in message.tool_calls}) == 2


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_events_are_valid_and_add_up_however_the_text_is_cut(scripted: Make, output_version: str) -> None:
    llm, _ = scripted(*((RAW[:cut], RAW[cut:]) for cut in CUTS), output_version=output_version)
    bound = llm.bind_tools([find_page])
    for _ in CUTS:
        stream = bound.stream_events("?", version="v3", reasoning=True)
        assert_valid_event_stream(list(stream))
        check(stream.output)


async def test_asynchronous_events_are_valid_too(scripted: Make) -> None:
    llm, _ = scripted(tuple(RAW))
    stream = await llm.bind_tools([find_page]).astream_events("?", version="v3", reasoning=True)
    assert_valid_event_stream([event async for event in stream])
    check(await stream.output)
