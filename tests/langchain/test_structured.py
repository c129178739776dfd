"""Objects instead of messages: every spelling of a schema, every method, complete and streamed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, TypedDict

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, Field, field_validator

from glm4v_core import JsonSchema
from glm4v_core.errors import InvalidOutputError, TruncatedOutputError
from langchain_glm4v import ChatGLM4V
from tests.support.echo import echo
from tests.support.langchain_calls import Make

METHODS = ("json_schema", "function_calling", "json_mode")


class Kind(StrEnum):
    invoice = "invoice"
    memo = "memo"


class Line(BaseModel):
    name: str
    price: float


class Bill(BaseModel):
    """A bill."""

    kind: Kind
    lines: list[Line]
    note: str | None = None
    total: int | Literal["unknown"] = Field(description="of all lines")


class BillDict(TypedDict):
    """A bill."""

    number: str
    total: int


class Tree(BaseModel):
    """A tree."""

    name: str
    children: list[Tree] = Field(default_factory=list, max_length=2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Bill, Bill.model_json_schema(), BillDict], ids=["pydantic", "json", "typed dict"])
def test_every_schema_with_every_method(scripted: Make, method: Any, schema: Any) -> None:
    llm, _ = scripted(echo)
    found = llm.with_structured_output(schema, method=method).invoke("Read bill 7 of 'Ann'.")
    if schema is Bill:
        assert found == Bill(kind=Kind.invoice, lines=[Line(name="Ann", price=7)], note="Ann", total=7)
    elif schema is BillDict:
        assert found == {"number": "Ann", "total": 7}
    else:
        assert found["lines"] == [{"name": "Ann", "price": 7}]


@pytest.mark.parametrize("method", METHODS)
async def test_streams_end_with_the_same_object(scripted: Make, method: Any) -> None:
    llm, _ = scripted(echo)
    chain = llm.with_structured_output(BillDict, method=method)
    parts = [part async for part in chain.astream("Read bill 7 of 'Ann'.")]
    assert parts[-1] == await chain.ainvoke("Read bill 7 of 'Ann'.") == {"number": "Ann", "total": 7}


def test_json_is_streamed_in_growing_parts(scripted: Make) -> None:
    llm, _ = scripted(echo)
    parts = list(llm.with_structured_output(BillDict).stream("Read bill 7 of 'Ann'."))
    assert len(parts) > 2
    assert parts[-1] == {"number": "Ann", "total": 7}
    assert all("Ann".startswith(part.get("number", "")) and part.get("total", 7) == 7 for part in parts)


def test_the_engine_gets_a_closed_schema_or_the_one_tool(scripted: Make) -> None:
    llm, engine = scripted(echo)
    llm.with_structured_output(Bill).invoke("1")
    llm.with_structured_output(Bill, strict=True).invoke("1")
    llm.with_structured_output(Bill, strict=False).invoke("1")
    llm.with_structured_output(Bill, method="function_calling").invoke("1")
    default, strict, loose = (request.constraint for request in engine.history[:3])
    assert isinstance(default, JsonSchema)
    assert isinstance(strict, JsonSchema)
    assert isinstance(loose, JsonSchema)
    assert default.schema["$defs"]["Line"]["additionalProperties"] is False
    assert default.schema["required"] == ["kind", "lines", "total"]
    assert strict.schema["required"] == ["kind", "lines", "note", "total"]
    assert "additionalProperties" not in loose.schema
    forced = engine.history[3]
    assert (forced.tool_choice, forced.parallel_tool_calls, forced.constraint) == ("Bill", False, None)


def test_a_schema_that_refers_to_itself_stays_whole(scripted: Make) -> None:
    llm, engine = scripted('{"name": "a", "children": [{"name": "b", "children": []}]}')
    found = llm.with_structured_output(Tree).invoke("?")
    assert found.children[0].name == "b"
    (request,) = engine.history
    assert isinstance(request.constraint, JsonSchema)
    assert "Tree" in request.constraint.schema["$defs"]


def test_json_mode_needs_no_schema(scripted: Make) -> None:
    llm, engine = scripted('{"any": "thing"}')
    assert llm.with_structured_output(method="json_mode").invoke("?") == {"any": "thing"}
    assert engine.history[0].constraint == JsonSchema({"type": "object"})


class Even(BaseModel):
    """An even number."""

    number: int

    @field_validator("number")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("odd")
        return value


@pytest.mark.parametrize("method", METHODS)
def test_values_that_only_pydantic_rejects_are_parsing_errors(scripted: Make, method: Any) -> None:
    llm, _ = scripted(echo)
    raw = llm.with_structured_output(Even, method=method, include_raw=True)
    good, bad = raw.invoke("Say 2."), raw.invoke("Say 3.")
    assert (good["parsed"], good["parsing_error"]) == (Even(number=2), None)
    assert good["raw"].usage_metadata["output_tokens"] > 0
    assert bad["parsed"] is None
    assert "odd" in str(bad["parsing_error"])
    with pytest.raises((OutputParserException, ValueError), match="odd"):
        llm.with_structured_output(Even, method=method).invoke("Say 3.")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("include_raw", [False, True])
def test_a_truncated_answer_is_reported_as_such_and_not_as_a_parsing_error(
    scripted: Make, method: Any, include_raw: bool
) -> None:
    call = "<tool_call>Even\n<arg_key>number</arg_key>\n<arg_value>2"
    llm, _ = scripted(call if method == "function_calling" else '{"number": 2', max_tokens=3)
    with pytest.raises(TruncatedOutputError):
        llm.with_structured_output(Even, method=method, include_raw=include_raw).invoke("?")


def test_an_answer_that_violates_the_schema_never_passes(scripted: Make) -> None:
    llm, _ = scripted('{"number": "two"}')
    with pytest.raises(InvalidOutputError, match="two"):
        llm.with_structured_output(Even).invoke("?")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"schema": Bill, "method": "telepathy"}, "telepathy"),
        ({"schema": None}, "needs a schema"),
        ({"schema": Bill, "include_row": True}, "include_row"),
    ],
)
def test_wrong_settings_raise(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChatGLM4V(engine="scripted").with_structured_output(**arguments)


def test_reasoning_stays_out_of_the_object(scripted: Make) -> None:
    llm, _ = scripted(echo)
    found = llm.with_structured_output(BillDict, include_raw=True).invoke("Read 7.", reasoning=True)
    assert found["raw"].additional_kwargs["reasoning_content"] == "I copy."
    assert found["parsed"] == {"number": "echo", "total": 7}
