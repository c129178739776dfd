"""What grammars accept, tested on a byte tokenizer with and without tokens for the tags."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher

from glm4v_core.dialect.dialects import GLM4V, GLM41V, GLM46V, Dialect
from glm4v_core.dialect.grammar import (
    check_answer,
    check_tools,
    compile_grammar,
)
from glm4v_core.dialect.schemas import MAX_SCHEMA_CHARACTERS, MAX_SCHEMA_DEPTH
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import ConstraintError, InvalidOutputError
from glm4v_core.model import Glm4v
from glm4v_core.types import Choices, Constraint, JsonSchema, Message, Regex, Request, Tool
from tests.support.grammars import accepts, byte_tokenizer, grammar
from tests.support.tool_calls import tool_call

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}}},
    "required": ["x"],
    "additionalProperties": False,
    "$defs": {"Tag": {"enum": ["中", "b"]}},
}
WEATHER = Tool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"$ref": "#/$defs/Unit"},
            "point": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
        },
        "required": ["city"],
        "$defs": {"Unit": {"enum": ["C", "F"]}, "Point": {"type": "array", "items": {"type": "integer"}}},
    },
)
CLOCK = Tool("clock")


def request(constraint: Constraint | None = None, **settings: Any) -> Request:
    return Request((Message.user("?"),), constraint=constraint, **settings)


@pytest.mark.parametrize("dialect", [GLM4V, GLM41V, GLM46V], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            JsonSchema(POINT),
            ['{"x":1}', '\n{"x": 1, "tags": ["中","b"]}'],
            ['{"x":  1}', '{"x":1,\n"tags":[]}', "{}", '{"x":1,"tags":["c"]}', '{"x":1} ', 'Sure: {"x":1}'],
        ),
        (Choices(("memo", "memo 2", '发"票\\')), ["memo", "\nmemo 2", '发"票\\'], ["mem", "memo\n", "letter", ""]),
        (Regex(r"[0-9]{4}/\d\d|\p{Han}+"), ["2024/05", "发票"], ["2024-05", "24/05", "2024/05 "]),
    ],
)
def test_final_answers_follow_their_constraint(
    dialect: Dialect, constraint: Constraint, good: list[str], bad: list[str]
) -> None:
    text = grammar(dialect, request(constraint))
    assert {answer: accepts(dialect, text, answer) for answer in good + bad} == {
        **dict.fromkeys(good, True),
        **dict.fromkeys(bad, False),
    }


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("newline", ["\n", ""])
def test_required_calls_are_typed_by_the_schema(dialect: Dialect, newline: str) -> None:
    text = grammar(dialect, request(tools=(WEATHER, CLOCK), tool_choice="required"))

    def fits(*arguments: tuple[str, str]) -> bool:
        return accepts(dialect, text, tool_call("get_weather", *arguments, newline=newline))

    assert fits(("city", '北京 "x" </arg_val\n'))
    assert fits(("city", ""), ("days", "3"), ("unit", "F"), ("point", "[1, 2]"))
    assert fits(("city", "x"), ("point", "null"))
    assert not fits()
    assert not fits(("city", "x"), ("days", "three"))
    assert not fits(("city", "x"), ("unit", "K"))
    assert not fits(("city", "x"), ("town", "y"))
    assert accepts(dialect, text, "\n" + tool_call("clock") + "\n" + tool_call("clock"))
    assert not accepts(dialect, text, "It rains.")
    assert not accepts(dialect, text, tool_call("unknown"))


def test_a_value_cannot_spell_its_own_end() -> None:
    text = grammar(GLM46V, request(tools=(WEATHER,), tool_choice="required"))
    encoder, tokens = byte_tokenizer(GLM46V)
    matcher = LLMatcher(tokens, text)
    start = encoder.encode("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome").ids
    spelled = [index for character in "</arg_value>" if (index := encoder.token_to_id(character)) is not None]
    assert matcher.consume_tokens(start)
    assert matcher.validate_tokens(spelled) == len(spelled) - 1


def test_a_named_tool_is_called_once() -> None:
    text = grammar(GLM46V, request(tools=(WEATHER, CLOCK), tool_choice="clock"))
    assert accepts(GLM46V, text, tool_call("clock"))
    assert not accepts(GLM46V, text, tool_call("get_weather", ("city", "x")))
    assert not accepts(GLM46V, text, tool_call("clock") * 2)


def test_tools_and_a_constraint_mean_calls_or_the_final_answer() -> None:
    asked = request(JsonSchema(POINT), tools=(CLOCK,))
    text = grammar(GLM46V, asked)
    assert accepts(GLM46V, text, tool_call("clock"))
    assert accepts(GLM46V, text, '{"x": 1}')
    assert not accepts(GLM46V, text, "plain text")
    forbidden = grammar(GLM46V, request(JsonSchema(POINT), tools=(CLOCK,), tool_choice="none"))
    assert not accepts(GLM46V, forbidden, tool_call("clock"))


def test_additional_arguments_are_allowed_only_where_the_schema_asks_for_them() -> None:
    labels = Tool("label", parameters={"type": "object", "additionalProperties": {"type": "integer"}})
    text = grammar(GLM46V, request(tools=(labels,), tool_choice="label"))
    assert accepts(GLM46V, text, tool_call("label", ("a", "1"), ("b", "2")))
    assert not accepts(GLM46V, text, tool_call("label", ("a", "one")))


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"const": "a"}, "a", True),
        ({"const": 1}, "1", True),
        ({"const": 1}, "2", False),
        ({"enum": ["a", 1]}, "anything", True),
        ({"type": ["string", "null"]}, "raw", True),
        ({"allOf": [{"type": "string"}]}, "raw", True),
        ({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, "true", True),
        ({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, "raw", False),
        ({"$ref": "#/$defs/loop"}, "[[]]", True),
        ({}, "raw", True),
        (True, "raw", True),
    ],
)
def test_strings_are_written_bare_and_other_values_as_json(schema: Any, value: str, fits: bool) -> None:
    loop = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/loop"}}, {"$ref": "#/$defs/number"}]}
    definitions = {"loop": loop, "number": {"type": "number"}}
    tool = Tool("f", parameters={"type": "object", "properties": {"v": schema}, "$defs": definitions})
    text = grammar(GLM46V, request(tools=(tool,), tool_choice="f"))
    assert accepts(GLM46V, text, tool_call("f", ("v", value))) is fits


def test_the_answer_tag_of_the_older_dialect_may_come_first() -> None:
    text = grammar(GLM41V, request(Choices(("yes",))))
    assert accepts(GLM41V, text, "<answer>yes")
    assert accepts(GLM41V, text, "\n<answer>\nyes")
    assert accepts(GLM41V, text, "yes")


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
def test_by_default_text_is_unconstrained_and_calls_are_typed(dialect: Dialect) -> None:
    text = grammar(dialect, request(tools=(WEATHER, CLOCK)))

    def fits(answer: str) -> bool:
        return accepts(dialect, text, answer)

    assert fits("")
    assert fits("It rains.\n\n3 < 4 <tool_\n")
    assert fits("The box is <|begin_of_box|>[[1, 2, 3, 4]]<|end_of_box|>.")
    assert fits("Let me look.\n" + tool_call("clock"))
    assert fits("<|begin_of_box|>1<|end_of_box|>" + tool_call("clock") + tool_call("get_weather", ("city", "Rome")))
    assert not fits("Let me look.\n" + tool_call("unknown"))
    assert not fits(tool_call("get_weather", ("city", "x"), ("days", "three")))
    assert not fits("<tool_call>clock")
    assert not fits(tool_call("clock") + "and then?")


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
def test_without_parallel_calls_there_is_at_most_one_call(dialect: Dialect) -> None:
    for choice in ("auto", "required"):
        text = grammar(dialect, request(tools=(CLOCK,), tool_choice=choice, parallel_tool_calls=False))
        assert accepts(dialect, text, tool_call("clock"))
        assert not accepts(dialect, text, tool_call("clock") * 2)


@pytest.mark.parametrize("dialect", [GLM41V, GLM46V], ids=lambda dialect: dialect.name)
def test_a_forbidden_tool_is_not_called(dialect: Dialect) -> None:
    text = grammar(dialect, request(tools=(CLOCK,), tool_choice="none"))
    assert accepts(dialect, text, "It is noon.")
    assert not accepts(dialect, text, tool_call("clock"))


def test_without_a_constraint_or_tools_there_is_no_grammar() -> None:
    assert compile_grammar(request(), GLM46V) is None


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def circular() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    schema["items"] = schema
    return schema


def chained(length: int) -> dict[str, Any]:
    links: dict[str, Any] = {str(number): {"$ref": f"#/$defs/{number + 1}"} for number in range(length - 1)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(length - 1): {"type": "integer"}}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (request(JsonSchema({"type": "objekt"})), "not a valid JSON schema"),
        (request(JsonSchema({"default": {1, 2}})), "is not JSON"),
        (request(JsonSchema(circular())), "is not JSON"),
        (request(JsonSchema(nested(MAX_SCHEMA_DEPTH))), "deeper"),
        (request(JsonSchema({"title": "x" * MAX_SCHEMA_CHARACTERS})), "characters"),
        (request(JsonSchema({"items": {"$ref": "http://example.org/x"}})), "example.org"),
        (request(JsonSchema({"$defs": {"unused": {"$ref": "http://example.org/x"}}})), "example.org"),
        (request(JsonSchema({"$ref": "#/$defs/missing"})), "'#/\\$defs/missing', which it does not contain"),
        (request(JsonSchema({"$ref": "#missing"})), "'#missing', which it does not contain"),
        (request(JsonSchema({"$ref": "#/title/x", "title": "t"})), "does not contain"),
        (request(JsonSchema({"$ref": "#/title", "title": "t"})), "not a valid JSON schema"),
        (request(JsonSchema({"$ref": "#"})), "leads back to itself"),
        (request(JsonSchema({"anyOf": [{"$ref": "#"}, {"type": "null"}]})), "leads back to itself"),
        (request(JsonSchema(chained(MAX_SCHEMA_DEPTH + 1))), "chains more references"),
        (request(JsonSchema({"$dynamicRef": "#a"})), "dynamicRef, which is not supported"),
        (request(JsonSchema({"$schema": "http://json-schema.org/draft-03/schema#"})), "draft 3"),
        (request(JsonSchema({"pattern": r"\p{Han}"})), "regex"),
        (request(JsonSchema([])), "not a JSON object"),  # type: ignore[arg-type]
        (request(Choices(())), "empty"),
        (request(Choices(("a", ""))), "non-empty"),
        (request(Choices(("a", "a"))), "different"),
        (request(Regex("")), "empty"),
        (request(tools=(CLOCK, CLOCK)), "same name"),
        (request(tools=(Tool("a\nb"),)), "name"),
        (request(tools=(Tool("a b"),)), "name"),
        (request(tools=(Tool("f", parameters={"type": 1}),)), "tool 'f'"),
        (request(tool_choice="required"), "no tools"),
        (request(tools=(CLOCK,), tool_choice="watch"), "watch"),
    ],
)
def test_wrong_constraints_are_refused_before_anything_runs(wrong: Request, message: str) -> None:
    engine = ScriptedEngine(["never"])
    with pytest.raises(ConstraintError, match=message):
        Glm4v.from_engine(engine).generate(wrong)
    assert engine.history == []


@pytest.mark.parametrize(
    "constraint",
    [Regex("(a"), Regex("a(?=b)"), JsonSchema({"not": {"type": "string"}})],
)
def test_schemas_that_the_compiler_does_not_support_are_refused_by_name(constraint: Constraint) -> None:
    with pytest.raises(ConstraintError, match="cannot be compiled"):
        compile_grammar(request(constraint), GLM46V)


def test_a_dangling_reference_in_a_tool_is_refused() -> None:
    tool = Tool("f", parameters={"type": "object", "properties": {"v": {"$ref": "#/$defs/missing"}}})
    with pytest.raises(ConstraintError, match="schema of tool 'f' refers to"):
        check_tools(request(tools=(tool,), tool_choice="f"))


@pytest.mark.parametrize("length", [1, MAX_SCHEMA_DEPTH])
def test_chains_of_references_are_followed(length: int) -> None:
    text = grammar(GLM46V, request(JsonSchema(chained(length))))
    assert accepts(GLM46V, text, "1")
    assert not accepts(GLM46V, text, '"a"')


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [(JsonSchema(POINT), '{"x": 1}'), (Choices(("a", "b")), "b"), (Regex("a+"), "anything")],
)
def test_good_answers_pass(constraint: Constraint, answer: str) -> None:
    check_answer(answer, constraint)


@pytest.mark.parametrize(
    ("constraint", "answer", "message"),
    [
        (JsonSchema(POINT), '{"x": 1', "not JSON"),
        (JsonSchema(POINT), '{"x": "1"}', r"\$\.x"),
        (JsonSchema(POINT), '{"x": NaN}', "NaN"),
        (JsonSchema(POINT), "[" * 100_000, "not JSON"),
        (Choices(("a", "b")), "c", "2 choices"),
    ],
)
def test_bad_answers_are_errors(constraint: Constraint, answer: str, message: str) -> None:
    with pytest.raises(InvalidOutputError, match=message):
        check_answer(answer, constraint)


@pytest.mark.parametrize("reference", ["#", "#/$defs/missing"])
def test_dangling_references_are_reported_as_errors_of_the_schema(reference: str) -> None:
    with pytest.raises(ConstraintError, match="refer"):
        check_answer("1", JsonSchema({"$ref": reference}))
