"""Tool calls as models write them, well-formed and malformed."""

from __future__ import annotations

from typing import Any

import pytest

from glm4v_core.dialect.families import GLM41V, GLM46V
from glm4v_core.dialect.parsing import Splitter, fold
from glm4v_core.dialect.tool_calls import write_call
from glm4v_core.types import Tool, ToolCall

PROPERTIES: dict[str, Any] = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "ratio": {"type": "number"},
    "flag": {"type": "boolean"},
    "items": {"type": "array", "items": {"type": "string"}},
    "options": {"$ref": "#/$defs/Options"},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "either": {"type": ["integer", "string"]},
    "colour": {"enum": ["1", "2"]},
    "level": {"enum": [1, 2.5, None, True, [], {}]},
    "fixed": {"const": "7"},
    "anything": True,
}
DEFINITIONS = {"Options": {"type": "object"}}
TOOL = Tool("f", "", {"type": "object", "properties": PROPERTIES, "$defs": DEFINITIONS})


def read(raw: str) -> tuple[ToolCall, ...]:
    splitter = Splitter(GLM46V, "answer", (TOOL,))
    return fold([*splitter.feed(raw), *splitter.finish()]).tool_calls


def read_argument(key: str, text: str) -> Any:
    (call,) = read(f"<tool_call>f\n<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>")
    assert call.arguments is not None
    return call.arguments[key]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "北京", "北京"),
        ("text", "12", "12"),
        ("text", '"quoted"', '"quoted"'),
        ("text", " two\nlines ", " two\nlines "),
        ("text", "true", "true"),
        ("count", "12", 12),
        ("count", "\n12\n", 12),
        ("count", "12.0", 12),
        ("count", "12.5", 12.5),
        ("count", "a dozen", "a dozen"),
        ("ratio", "3", 3),
        ("ratio", "2.0", 2.0),
        ("ratio", "NaN", "NaN"),
        ("flag", "true", True),
        ("flag", "False", False),
        ("items", '["a", "b"]', ["a", "b"]),
        ("items", '["a", ', '["a", '),
        ("items", "[" * 100_000, "[" * 100_000),
        ("options", '{"a": {"b": 1}}', {"a": {"b": 1}}),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("maybe", "12", "12"),
        ("either", "12", 12),
        ("either", "twelve", "twelve"),
        ("colour", "1", "1"),
        ("level", "1", 1),
        ("fixed", "7", "7"),
        ("anything", "[1]", [1]),
        ("unknown", '{"a": 1}', {"a": 1}),
        ("unknown", "007", "007"),
    ],
)
def test_values_are_decoded_by_the_schema(key: str, text: str, value: Any) -> None:
    decoded = read_argument(key, text)
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("gap", ["\n", "", " \n "])
def test_separators_are_optional(gap: str) -> None:
    parts = ("f", "<arg_key>text</arg_key>", "<arg_value>x</arg_value>", "<arg_key>count</arg_key>")
    raw = gap.join(("<tool_call>", *parts, "<arg_value>1</arg_value>", "</tool_call>"))
    (call,) = read(raw)
    assert (call.name, call.error, call.raw) == ("f", None, raw)
    assert list((call.arguments or {}).items()) == [("text", "x"), ("count", 1)]


def test_several_calls_in_a_row_have_different_ids() -> None:
    first, second, third = read("<tool_call>f</tool_call><tool_call>g\n</tool_call>\n<tool_call>f</tool_call>")
    assert [call.name for call in (first, second, third)] == ["f", "g", "f"]
    assert first.arguments == second.arguments == {}
    assert len({first.id, second.id, third.id}) == 3
    assert first.id.startswith("call_")
    int(first.id.removeprefix("call_"), 16)


@pytest.mark.parametrize(
    ("raw", "name", "error"),
    [
        ("<tool_call>f\n<arg_key>text</arg_key>\n<arg_val", "f", "not finished"),
        ("<tool_call>f\n<|observation|>", "f", "not finished"),
        ("<tool_call>", "", "not finished"),
        ("<tool_call></tool_call>", "", "does not begin with a tool's name"),
        ("<tool_call>two words</tool_call>", "two words", "does not begin with a tool's name"),
        ("<tool_call>f\nmore</tool_call>", "f", "does not begin with a tool's name"),
        ('<tool_call>{"name":"f"}</tool_call>', '{"name":"f"}', "does not begin with a tool's name"),
        ("<tool_call>f<arg_key>a</arg_key></tool_call>", "f", "not a key and a value"),
        (
            "<tool_call>f<arg_key>a</arg_key><arg_key>b</arg_key><arg_value>1</arg_value></tool_call>",
            "f",
            "not a key and a value",
        ),
        (
            "<tool_call>f<arg_key>a</arg_key><arg_value>1<arg_key>b</arg_key><arg_value>2</arg_value></tool_call>",
            "f",
            "value of 'a' is not closed",
        ),
        (
            f"<tool_call>f{'<arg_key>a</arg_key><arg_value>1</arg_value>' * 2}</tool_call>",
            "f",
            "'a' is given twice",
        ),
    ],
)
def test_a_broken_call_is_kept_with_its_reason(raw: str, name: str, error: str) -> None:
    (call,) = read(raw)
    assert call.name == name
    assert call.arguments is None
    assert error in (call.error or "")
    assert call.raw == raw.removesuffix("<|observation|>")


def test_an_unfinished_call_does_not_hide_the_next_one() -> None:
    first, second = read("<tool_call>f\n<tool_call>g</tool_call>")
    assert (first.name, first.arguments, second.name, second.arguments) == ("f", None, "g", {})


def test_reasoning_tags_inside_a_call_are_text() -> None:
    assert read_argument("text", "<think>x</think><answer>") == "<think>x</think><answer>"


def test_calls_written_for_older_models_are_read_back() -> None:
    arguments = {"text": "a\n<b>", "count": 3, "items": ["é"], "flag": True, "maybe": None}
    splitter = Splitter(GLM41V, "answer", (TOOL,))
    events = [*splitter.feed(write_call("f", arguments)), *splitter.finish()]
    (call,) = fold(events).tool_calls
    assert call.arguments == arguments
