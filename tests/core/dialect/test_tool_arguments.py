"""Which arguments a grammar lets a model write, and how they are read back."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import referencing
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glm4v_core.dialect.dialects import GLM41V, GLM46V, Dialect
from glm4v_core.dialect.grammar import compile_grammar
from glm4v_core.dialect.parsing import Splitter, fold
from glm4v_core.errors import ConstraintError
from glm4v_core.types import Message, Request, Tool, ToolCall
from tests.support.grammars import accepts, grammar
from tests.support.tool_calls import tool_call

DEFINITIONS: dict[str, Any] = {
    "a/b": {"type": "string"},
    "c~d": {"type": ["string", "null"]},
    "é f%": {"type": "string", "minLength": 1},
    "Colour": {"enum": ["1", "null", "red"]},
    "Mixed": {"enum": ["1", 2, None, "x"]},
    "Count": {"$anchor": "count", "type": "integer"},
    "Name": {"$id": "https://example.org/name", "$ref": "#/$defs/inner", "$defs": {"inner": {"type": "string"}}},
    "Tree": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Tree"}}, {"type": "string"}]},
    "Nested": {"type": "array", "items": {"$ref": "#/$defs/Nested"}},
    "Either": {"oneOf": [{"$ref": "#/$defs/a~1b"}, {"type": "boolean"}]},
}
POINTERS = ["a~1b", "c~0d", "%C3%A9%20f%25", "é f%25", "Colour", "Mixed", "Count", "Tree", "Nested", "Either"]
REFERENCES = [f"#/$defs/{pointer}" for pointer in POINTERS] + ["#count", "https://example.org/name"]

constants = st.sampled_from(
    ["", "1", "1.0", "null", "true", "None", "red", '"red"', "[]", 1, 2, 2.5, None, True, [], [1]]
)
kinds = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
leaves = st.one_of(
    st.builds(lambda reference: {"$ref": reference}, st.sampled_from(REFERENCES)),
    st.builds(lambda kind: {"type": kind}, kinds | st.lists(kinds, min_size=1, max_size=3, unique=True)),
    st.builds(lambda value: {"const": value}, constants),
    st.builds(lambda values: {"enum": values}, st.lists(constants, min_size=1, max_size=3, unique_by=repr)),
    st.booleans(),
    st.just({}),
)
schemas = st.recursive(
    leaves,
    lambda below: st.one_of(
        st.dictionaries(
            st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(below, min_size=1, max_size=3), min_size=1
        ),
        st.builds(lambda items: {"type": "array", "items": items}, below),
        st.builds(lambda kind, reference: {"type": kind, "$ref": reference}, kinds, st.sampled_from(REFERENCES)),
    ),
    max_leaves=5,
)
texts = st.text(max_size=6) | st.text(alphabet='0123.e-"[]{}nultrafsNoe \n<>/', max_size=6)
values = st.recursive(
    constants | texts | st.integers(-3, 99) | st.floats(-2, 2),
    lambda below: st.lists(below, max_size=2) | st.dictionaries(texts, below, max_size=2),
    max_leaves=4,
)


def tool(schema: Any, **more: Any) -> Tool:
    return Tool("f", parameters={"type": "object", "properties": {"v": schema}, "$defs": DEFINITIONS, **more})


def read(tool: Tool, text: str, key: str = "v", dialect: Dialect = GLM46V) -> ToolCall:
    splitter = Splitter(dialect, "answer", (tool,))
    (found,) = fold([*splitter.feed(tool_call(tool.name, (key, text))), *splitter.finish()]).tool_calls
    return found


def allows(schema: Any, value: Any) -> bool:
    document = {"$defs": DEFINITIONS, "allOf": [schema]}
    return jsonschema.Draft202012Validator(document, registry=referencing.Registry()).is_valid(value)


def forced(tool: Tool, dialect: Dialect = GLM46V) -> str:
    request = Request((Message.user("?"),), tools=(tool,), tool_choice="f")
    return grammar(dialect, request)


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are the same JSON; in Python, 1 equals True."""
    return json.dumps(left) == json.dumps(right) or (left == right and {type(left), type(right)} == {int, float})


@settings(max_examples=400, deadline=None)
@given(schema=schemas, value=values)
def test_values_that_the_grammar_allows_are_read_back(schema: Any, value: Any) -> None:
    assume(allows(schema, value))
    written = tool(schema)
    try:
        text = forced(written)
    except ConstraintError as error:
        assume("cannot be compiled" not in str(error))  # what the grammar compiler does not support
        raise
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        assert accepts(GLM46V, text, tool_call("f", ("v", shown)))
    elif not accepts(GLM46V, text, tool_call("f", ("v", shown))):
        return  # such as 1.0 for an integer
    found = read(written, shown)
    assert found.arguments is not None
    if not same(found.arguments["v"], value):
        # Bare text that is also JSON for another allowed value is ambiguous; it is read as one of the two.
        assert isinstance(value, str)
        assert not all(allows(schema, value) is isinstance(value, str) for value in (1, None, True, [], {}, "", 1.5, 2))
        assert allows(schema, found.arguments["v"])


@settings(max_examples=300, deadline=None)
@given(schema=schemas, shown=texts)
def test_bare_text_is_read_as_a_string_unless_the_schema_allows_it_as_json(schema: Any, shown: str) -> None:
    written = tool(schema)
    try:
        text = forced(written)
    except ConstraintError:
        return
    if not accepts(GLM46V, text, tool_call("f", ("v", shown))):
        return
    found = read(written, shown).arguments
    assert found is not None
    if not same(found["v"], shown):
        assert allows(schema, found["v"])


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("reference", [*REFERENCES, "#/properties/other", "#/allOf/0/properties/third"])
def test_grammar_and_reader_follow_the_same_references(dialect: Dialect, reference: str) -> None:
    more = {"allOf": [{"properties": {"third": {"type": "string"}}}]}
    written = tool({"$ref": reference}, **more)
    written.parameters["properties"]["other"] = {"type": "string"}  # type: ignore[index]
    text = forced(written, dialect)
    numeric = reference.endswith(("Count", "#count"))
    bare = not numeric and not reference.endswith(("Nested", "Colour"))
    assert accepts(dialect, text, tool_call("f", ("v", "any text"))) is bare
    assert read(written, "any text", dialect=dialect).arguments == {"v": "any text"}
    assert accepts(dialect, text, tool_call("f", ("v", "1"))) is (not reference.endswith("Nested"))
    (one,) = (read(written, "1", dialect=dialect).arguments or {}).values()
    assert one == (1 if numeric or reference.endswith("Nested") else "1")


@pytest.mark.parametrize(
    "draft", ["http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"]
)
def test_keywords_beside_a_reference_count_if_the_draft_says_so(draft: str) -> None:
    """Up to draft 7 a reference replaces its sibling keywords."""
    written = tool({"$ref": "#/$defs/c~0d", "type": "null"})
    written = Tool("f", parameters={**written.parameters, "$schema": draft})
    text = forced(written)
    assert accepts(GLM46V, text, tool_call("f", ("v", "null")))
    assert accepts(GLM46V, text, tool_call("f", ("v", "word"))) is ("draft-07" in draft)
    assert read(written, "null").arguments == {"v": None}


def test_the_schema_of_all_arguments_may_be_a_reference_itself() -> None:
    """Pydantic writes recursive models like this."""
    node = {
        "type": "object",
        "properties": {"v": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "required": ["v"],
    }
    written = Tool("f", parameters={"$ref": "#/$defs/Node", "$defs": {"Node": node}})
    text = forced(written)
    assert accepts(GLM46V, text, tool_call("f", ("v", "12"), ("next", '{"v": "a"}')))
    assert not accepts(GLM46V, text, tool_call("f", ("next", "null")))
    assert read(written, "12").arguments == {"v": "12"}
    assert read(written, '{"v": "a"}', "next").arguments == {"next": {"v": "a"}}


def test_additional_arguments_have_the_type_that_the_schema_gives_them() -> None:
    written = Tool("f", parameters={"type": "object", "additionalProperties": {"type": "string"}})
    assert accepts(GLM46V, forced(written), tool_call("f", ("any", "12")))
    assert read(written, "12", "any").arguments == {"any": "12"}
    assert not accepts(GLM46V, forced(written), tool_call("f", (" any", "12")))


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("tag", ["<arg_value>", "<tool_call>", "</tool_call>", "<|user|>", "<|endoftext|>"])
def test_a_bare_value_cannot_contain_text_that_would_break_its_call(dialect: Dialect, tag: str) -> None:
    text = forced(tool({"type": "string"}), dialect)
    halves = "".join(f"{character}\u200b" for character in tag)
    assert accepts(dialect, text, tool_call("f", ("v", f"a {tag[:-1]} b {halves}")))
    assert not accepts(dialect, text, tool_call("f", ("v", f"a {tag} b")))


def test_an_argument_that_no_value_fits_is_left_out() -> None:
    text = forced(tool(False))
    assert accepts(GLM46V, text, tool_call("f"))
    assert not accepts(GLM46V, text, tool_call("f", ("v", "x")))
    with pytest.raises(ConstraintError, match="cannot be compiled"):
        forced(tool(False, required=["v"]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"properties": {"a<b": {"type": "string"}}}, "an argument named 'a<b'"),
        ({"properties": {" a": {"type": "string"}}}, "an argument named ' a'"),
        ({"properties": {"a": {"enum": ["</arg_value>"]}}}, "the value '</arg_value>'"),
    ],
)
def test_arguments_that_a_call_cannot_express_are_refused(parameters: dict[str, Any], message: str) -> None:
    request = Request((Message.user("?"),), tools=(Tool("f", parameters={"type": "object", **parameters}),))
    with pytest.raises(ConstraintError, match=message):
        compile_grammar(request, GLM46V)
