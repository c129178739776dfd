"""Tools in every spelling reach the engine, and a tool choice decides what is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from pydantic import BaseModel, Field

from glm4v_core import JsonSchema, Tool
from glm4v_core.errors import ConfigError, ConstraintError, UnsupportedError
from langchain_glm4v import ChatGLM4V
from tests.support.echo import echo
from tests.support.langchain_calls import CHAT_WAYS, Make, ask


def find_page(topic: str, count: int = 3) -> str:
    """Find pages.

    Args:
        topic: what they are about.
        count: how many.
    """
    return f"{count} pages about {topic}"


class FindPage(BaseModel):
    """Find pages."""

    topic: str = Field(description="what they are about")
    count: int = Field(3, description="how many")


class Point(TypedDict):
    """Mark a point."""

    x: int
    y: int


@tool
def clock() -> str:
    """Tell the time."""
    return "noon"


PARAMETERS = {
    "type": "object",
    "properties": {"topic": {"type": "string"}, "count": {"type": "integer", "default": 3}},
    "required": ["topic"],
}
OPENAI = {"type": "function", "function": {"name": "find_page", "description": "Find pages.", "parameters": PARAMETERS}}
ANTHROPIC = {"name": "find_page", "description": "Find pages.", "input_schema": PARAMETERS}


def asked(scripted: Make, tools: list[Any], **options: Any) -> Any:
    llm, engine = scripted(echo)
    llm.bind_tools(tools, **options).invoke("?")
    return engine.history[0]


@pytest.mark.parametrize(
    "source", [find_page, tool(find_page), FindPage, OPENAI, OPENAI["function"], ANTHROPIC], ids=repr
)
def test_every_spelling_of_a_tool_is_the_same_tool(scripted: Make, source: Any) -> None:
    (sent,) = asked(scripted, [source]).tools
    assert sent.name.lower().replace("_", "") == "findpage"
    assert sent.description.startswith("Find pages.")
    assert {key: value["type"] for key, value in sent.parameters["properties"].items()} == {
        "topic": "string",
        "count": "integer",
    }
    assert sent.parameters["required"] == ["topic"]
    assert sent.parameters["additionalProperties"] is False


def test_a_typed_dict_and_a_tool_without_arguments(scripted: Make) -> None:
    point, time = asked(scripted, [Point, clock]).tools
    assert point.parameters["required"] == ["x", "y"]
    assert time == Tool("clock", "Tell the time.", {"type": "object", "properties": {}, "additionalProperties": False})


def test_objects_inside_arguments_are_closed_unless_strict_is_false(scripted: Make) -> None:
    inner = {"type": "object", "properties": {"a": {"type": "integer"}}}
    source = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {"v": inner}}}
    (closed,) = asked(scripted, [source]).tools
    (strict,) = asked(scripted, [source], strict=True).tools
    (loose,) = asked(scripted, [source], strict=False).tools
    assert closed.parameters["properties"]["v"] == inner | {"additionalProperties": False}
    assert strict.parameters["properties"]["v"] == inner | {"additionalProperties": False, "required": ["a"]}
    assert loose.parameters["properties"]["v"] == inner


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("any", "required"),
        ("required", "required"),
        (True, "required"),
        ("clock", "clock"),
        ({"type": "function", "function": {"name": "clock"}}, "clock"),
        ({"type": "tool", "name": "clock"}, "clock"),
        ({"type": "any"}, "required"),
    ],
    ids=repr,
)
def test_every_spelling_of_a_tool_choice_works(scripted: Make, choice: Any, expected: str) -> None:
    assert asked(scripted, [find_page, clock], tool_choice=choice).tool_choice == expected


def test_an_empty_list_of_tools_offers_none(scripted: Make) -> None:
    request = asked(scripted, [], tool_choice=None)
    assert request.tools == ()
    assert request.tool_choice == "auto"


@pytest.mark.parametrize(
    ("tools", "options", "error", "words"),
    [
        ([clock], {"tool_choice": "wrong"}, ConstraintError, "'wrong'.*clock"),
        ([clock], {"tool_choice": {"type": "function", "function": {"name": "wrong"}}}, ConstraintError, "wrong"),
        ([{"type": "web_search"}], {}, UnsupportedError, "web_search"),
        ([clock], {"tool_chioce": "any"}, ConfigError, "tool_chioce"),
        ([clock, clock], {}, ConstraintError, "same name"),
        ([], {"tool_choice": "any"}, ConstraintError, "no tools"),
    ],
)
def test_tools_that_cannot_be_bound_are_refused_by_name(
    scripted: Make, tools: list[Any], options: dict[str, Any], error: type[ValueError], words: str
) -> None:
    with pytest.raises(error, match=words):
        asked(scripted, tools, **options)


def test_parallel_calls_can_be_forbidden(scripted: Make) -> None:
    assert asked(scripted, [clock]).parallel_tool_calls is True
    assert asked(scripted, [clock], parallel_tool_calls=False).parallel_tool_calls is False


def test_tools_can_be_combined_with_a_response_format(scripted: Make) -> None:
    request = asked(scripted, [clock], response_format=FindPage)
    assert isinstance(request.constraint, JsonSchema)
    assert request.constraint.schema["properties"].keys() == {"topic", "count"}
    assert request.tools[0].name == "clock"


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}, "strict": False},
            },
            {"type": "object", "properties": {}},
        ),
    ],
)
def test_response_formats_of_openai_are_accepted(scripted: Make, response_format: Any, schema: Any) -> None:
    llm, engine = scripted(echo)
    llm.invoke("?", response_format=response_format)
    found = engine.history[0].constraint
    assert (found and found.schema) == schema


def test_a_response_format_of_another_type_is_refused(scripted: Make) -> None:
    llm, _ = scripted("{}")
    with pytest.raises(UnsupportedError, match="grammar"):
        llm.invoke("?", response_format={"type": "grammar"})
    with pytest.raises(ConfigError, match="exclude each other"):
        llm.invoke("?", response_format={"type": "json_object"}, constraint=JsonSchema({}))


def test_a_model_name_for_one_call_needs_a_second_chat_model(scripted: Make) -> None:
    llm, _ = scripted("ok", "ok")
    assert llm.invoke("?", model="scripted").text == "ok"
    with pytest.raises(UnsupportedError, match="other"):
        llm.invoke("?", model="other")


@pytest.mark.parametrize("way", CHAT_WAYS)
async def test_parallel_calls_keep_apart(scripted: Make, way: str) -> None:
    call = "<tool_call>find_page\n<arg_key>topic</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"
    llm, _ = scripted(f"Let me look.\n{call.format('bills')}\n{call.format(7)}")
    message = await ask(llm.bind_tools([find_page]), way, "?")
    assert [(found["name"], found["args"]) for found in message.tool_calls] == [
        ("find_page", {"topic": "bills"}),
        ("find_page", {"topic": "7"}),
    ]
    assert len({found["id"] for found in message.tool_calls}) == 2
    assert message.text == "Let me look."
    assert message.response_metadata["finish_reason"] == "tool_calls"


def test_streamed_calls_have_their_own_chunk_indexes(scripted: Make) -> None:
    llm, _ = scripted("<think>Hm.</think>\nSo:\n" + "<tool_call>clock\n</tool_call>\n" * 2)
    chunks = [chunk for chunk in llm.bind_tools([clock]).stream("?", reasoning=True) if chunk.tool_call_chunks]
    assert [len(chunk.tool_call_chunks) for chunk in chunks] == [1, 1]
    first, second = (chunk.tool_call_chunks[0] for chunk in chunks)
    assert first["index"] != second["index"]
    assert {first["index"], second["index"]}.isdisjoint({0, 1})  # the reasoning's and the text's


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_reasoning_text_and_calls_are_separate_blocks_in_version_1(scripted: Make, way: str) -> None:
    llm, _ = scripted("<think>Hm.</think>\nSo:\n" + "<tool_call>clock\n</tool_call>\n" * 2, output_version="v1")
    message = await ask(llm.bind_tools([clock]), way, "?", reasoning=True)
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call", "tool_call"]


def test_a_tool_loop_passes_the_reasoning_back_to_the_model(scripted: Make) -> None:
    llm, engine = scripted("<think>I need the time.</think>\n<tool_call>clock\n</tool_call>", "Noon.")
    bound = llm.bind_tools([clock])
    messages: list[BaseMessage] = [HumanMessage("What time is it?")]
    call = bound.invoke(messages, reasoning=True)
    result = ToolMessage("noon", tool_call_id=call.tool_calls[0]["id"])
    assert bound.invoke([*messages, call, result], reasoning=True).text == "Noon."
    kinds = [type(part).__name__ for part in engine.history[1].messages[1].parts]
    assert kinds == ["Thinking", "ToolCall"]


class TestEnforced:
    """The bundled model on the transformers engine: a grammar enforces the choice."""

    llm = ChatGLM4V(model="tiny", engine="transformers", max_tokens=200)

    def calls(
        self, choice: Any, prompt: str = "Call find_page with topic blue lamp and count 7.", **options: Any
    ) -> Any:
        return self.llm.bind_tools([find_page, clock], tool_choice=choice, **options).invoke(prompt)

    def test_by_name(self) -> None:
        for choice in ("clock", {"type": "function", "function": {"name": "clock"}}):
            assert [call["name"] for call in self.calls(choice).tool_calls] == ["clock"]

    @pytest.mark.parametrize("choice", ["any", "required", True])
    def test_any(self, choice: Any) -> None:
        message = self.calls(choice, "Classify this page.")
        assert message.tool_calls
        assert {call["name"] for call in message.tool_calls} <= {"find_page", "clock"}
        assert message.invalid_tool_calls == []

    def test_none(self) -> None:
        message = self.calls("none")
        assert message.tool_calls == []
        assert message.text

    def test_auto(self) -> None:
        (call,) = self.calls("auto").tool_calls
        assert call["name"] == "find_page"
        assert call["args"] == {"topic": "blue lamp", "count": 7}

    def test_streamed(self) -> None:
        total: AIMessageChunk | None = None
        for chunk in self.llm.bind_tools([clock], tool_choice="any").stream("Now?"):
            total = chunk if total is None else total + chunk
        assert isinstance(total, AIMessage)
        assert [call["name"] for call in total.tool_calls] == ["clock"]

    def test_tokens_are_counted_with_the_tools(self) -> None:
        tools: list[BaseTool | Callable[..., str]] = [clock, find_page]
        messages = [HumanMessage("What time is it?")]
        counted = self.llm.get_num_tokens_from_messages(messages, tools=tools)
        usage = self.llm.bind_tools(tools).invoke(messages).usage_metadata
        assert usage is not None
        assert usage["input_tokens"] == counted > self.llm.get_num_tokens_from_messages(messages)
