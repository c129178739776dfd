"""Tools: how the engine is told about them, and how calls are returned."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.llms import ChatMessage, ImageBlock
from llama_index.core.program.function_program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from glm4v_core import Image, Message, Tool
from glm4v_core.errors import ConstraintError
from llamaindex_glm4v import ToolCallError
from tests.support.llamaindex_calls import CHAT_WAYS, Make, ask
from tests.support.tool_calls import tool_call


class Where(BaseModel):
    folder: str
    depth: int = 1


class Find(BaseModel):
    word: str
    where: Where | None = None


def find(word: str, where: dict[str, str]) -> str:
    return f"{word} is in {where['folder']}"


def page(number: int) -> str:
    """Show a page."""
    return f"page {number}"


def clock() -> str:
    """Tell the time."""
    return "noon"


TOOLS = [
    FunctionTool.from_defaults(find, description="Find a word.", fn_schema=Find),
    FunctionTool.from_defaults(page),
    FunctionTool.from_defaults(clock),
]


def test_tools_reach_the_engine_with_closed_schemas(scripted: Make) -> None:
    llm, engine = scripted("No need.")
    llm.chat_with_tools(TOOLS, user_msg="x")
    tools = engine.history[0].tools
    assert [tool.name for tool in tools] == ["find", "page", "clock"]
    assert "Find a word." in tools[0].description
    assert tools[0].parameters["$defs"]["Where"]["additionalProperties"] is False
    assert tools[0].parameters["required"] == ["word"]
    assert tools[2].parameters["properties"] == {}


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, "auto"),
        ({"tool_required": True}, "required"),
        ({"tool_choice": "none", "tool_required": True}, "none"),
        ({"tool_choice": "auto"}, "auto"),
        ({"tool_choice": "any"}, "required"),
        ({"tool_choice": "page"}, "page"),
        ({"tool_choice": {"type": "function", "function": {"name": "page"}}}, "page"),
        ({"tool_choice": {"type": "any"}}, "required"),
    ],
)
def test_a_choice_of_tools_reaches_the_engine(scripted: Make, options: dict[str, Any], choice: str) -> None:
    llm, engine = scripted(tool_call("page", number="2"))
    llm.chat_with_tools(TOOLS, user_msg="x", **options)
    assert engine.history[0].tool_choice == choice
    assert engine.history[0].parallel_tool_calls is False


def test_an_unknown_choice_is_refused(scripted: Make) -> None:
    llm, engine = scripted()
    with pytest.raises(ConstraintError, match="fly"):
        llm.chat_with_tools(TOOLS, user_msg="x", tool_choice="fly")
    assert engine.history == []


def test_the_callers_history_stays_as_it_is(scripted: Make) -> None:
    llm, engine = scripted("a", "b", "c")
    history = [ChatMessage(content="before")]
    llm.chat_with_tools(TOOLS, user_msg="now", chat_history=history, allow_parallel_tool_calls=True)
    llm.chat_with_tools(TOOLS, user_msg=ChatMessage(content="now"), chat_history=history)
    llm.chat_with_tools(TOOLS, chat_history=history)
    assert history == [ChatMessage(content="before")]
    first, second, third = engine.history
    assert first.messages == second.messages == (Message.user("before"), Message.user("now"))
    assert third.messages == (Message.user("before"),)
    assert (first.parallel_tool_calls, second.parallel_tool_calls) == (True, False)


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_calls_come_back_whole(scripted: Make, way: str) -> None:
    llm, _ = scripted("I look." + tool_call("page", number="2") + tool_call("page", number="2") + tool_call("clock"))
    tools = [Tool("page", parameters={"type": "object", "properties": {"number": {"type": "integer"}}})]
    responses = await ask(llm, way, "Find it.", tools=tools)
    counts = [len(llm.get_tool_calls_from_response(each, error_on_no_tool_call=False)) for each in responses]
    assert counts == sorted(counts)
    last: Any = responses[-1]
    calls = llm.get_tool_calls_from_response(last)
    assert [(each.tool_name, each.tool_kwargs) for each in calls] == [
        ("page", {"number": 2}),
        ("page", {"number": 2}),
        ("clock", {}),
    ]
    assert len({each.tool_id for each in calls}) == 3
    assert last.message.content == "I look."
    assert last.raw["finish_reason"] == "tool_calls"
    written = last.message.additional_kwargs["tool_calls"]
    assert [each["id"] for each in written] == [each.tool_id for each in calls]
    assert written[0]["function"] == {"name": "page", "arguments": '{"number": 2}'}


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_a_broken_call_is_an_error_once_the_answer_is_over(scripted: Make, way: str) -> None:
    llm, _ = scripted(tool_call("page", number="2") + "<tool_call>page\n<arg_key>number</arg_key>\n<arg_value>3")
    *growing, last = await ask(llm, way, "Find it.", tools=TOOLS)
    for response in growing:
        assert len(llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)) <= 1
    with pytest.raises(ToolCallError, match=r"The call of 'page' cannot be read.*<arg_value>3"):
        llm.get_tool_calls_from_response(last, error_on_no_tool_call=False)  # type: ignore[arg-type]


async def test_a_missing_call_is_an_error_where_one_was_expected(scripted: Make) -> None:
    llm, _ = scripted("No.", "No.", "No.")
    response = llm.chat_with_tools(TOOLS, user_msg="x")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="at least one tool call"):
        llm.get_tool_calls_from_response(response)
    with pytest.raises(ToolCallError):
        llm.predict_and_call(TOOLS, "x")
    assert str(await llm.apredict_and_call(TOOLS, "x", error_on_no_tool_call=False)) == "No."


async def test_predicted_calls_are_executed(scripted: Make) -> None:
    answer = tool_call("find", word="glue", where='{"folder": "attic"}') + tool_call("clock")
    llm, _ = scripted(answer, answer, tool_call("clock"))
    for result in (
        llm.predict_and_call(TOOLS, "x", allow_parallel_tool_calls=True),
        await llm.apredict_and_call(TOOLS, "x", allow_parallel_tool_calls=True),
    ):
        assert str(result) == "glue is in attic\n\nnoon"
    assert str(llm.predict_and_call(TOOLS, "x")) == "noon"


def test_a_conversation_continues_after_a_call(scripted: Make, png: bytes) -> None:
    llm, engine = scripted(tool_call("page", number="2"), "It is a cat.")
    question = ChatMessage(content="What is on page 2?")
    answer = llm.chat_with_tools(TOOLS, user_msg=question)
    (chosen,) = llm.get_tool_calls_from_response(answer)
    result = ChatMessage(
        role="tool", blocks=[ImageBlock(image=png)], additional_kwargs={"tool_call_id": chosen.tool_id}
    )
    restored = ChatMessage.model_validate_json(answer.message.model_dump_json())
    llm.chat_with_tools(TOOLS, chat_history=[question, restored, result])
    _, said, shown = engine.history[1].messages
    assert [getattr(part, "arguments", None) for part in said.parts] == [None, {"number": 2}]
    assert shown.parts[0].parts == (Image.load(png),)  # type: ignore[union-attr]


async def test_a_program_of_llama_index_calls_a_tool(scripted: Make) -> None:
    answer = tool_call("Where", folder="attic", depth="3")
    llm, engine = scripted(answer, answer, answer)
    program: Any = FunctionCallingProgram.from_defaults(Where, "Where is {thing}?", llm=llm)
    assert program(thing="it") == await program.acall(thing="it") == Where(folder="attic", depth=3)
    assert list(program.stream_call(thing="it"))[-1] == Where(folder="attic", depth=3)
    assert [request.tool_choice for request in engine.history] == ["required", "required", "auto"]
