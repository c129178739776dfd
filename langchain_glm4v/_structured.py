"""Chains that end in an object instead of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.base import BaseGenerationOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_glm4v._tools import ToolSource, json_schema, to_openai_tool

Method = Literal["json_schema", "function_calling", "json_mode"]
Parser = BaseGenerationOutputParser[Any] | BaseOutputParser[Any]


def options_of(schema: ToolSource | None, method: Method, strict: bool | None) -> dict[str, Any]:
    """Return what to bind to a chat model so that its answers fit the schema.

    Raises:
        ValueError: the method is unknown, or it needs a schema.
    """
    if schema is None and method != "json_mode":
        raise ValueError(f"method={method!r} needs a schema; json_mode goes without.")
    told = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
    match method:
        case "function_calling":
            tool = to_openai_tool(_known(schema), strict)
            return told | {"tools": [tool], "tool_choice": tool["function"]["name"], "parallel_tool_calls": False}
        case "json_mode" if schema is None:
            return {"response_format": {"type": "json_object"}}
        case "json_schema" | "json_mode":
            return told | {"response_format": _format(_known(schema), strict)}
    raise ValueError(f"method={method!r} is unknown. Use json_schema, function_calling or json_mode.")


def parser_of(schema: ToolSource | None, method: Method) -> Parser:
    """Return the parser that reads the object from an answer; streamed dicts arrive in growing parts."""
    pydantic: Any = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    if method == "function_calling" and pydantic:
        return PydanticToolsParser(tools=[pydantic], first_tool_only=True)
    if method == "function_calling":
        name = to_openai_tool(_known(schema))["function"]["name"]
        return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
    return PydanticOutputParser(pydantic_object=pydantic) if pydantic else JsonOutputParser()


def with_parser(
    llm: Runnable[LanguageModelInput, AIMessage], parser: Parser, *, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """Join a model and a parser; with `include_raw` to a dict of raw, parsed and parsing_error."""
    if not include_raw:
        return llm | parser

    def read(message: AIMessage) -> dict[str, Any]:
        try:
            return {"raw": message, "parsed": parser.invoke(message), "parsing_error": None}
        except ValueError as error:  # of the parser and of pydantic; a truncated answer raises before this
            return {"raw": message, "parsed": None, "parsing_error": error}

    return llm | RunnableLambda(read, name="parsed_with_raw")


def _format(schema: ToolSource, strict: bool | None) -> dict[str, Any]:
    written = json_schema(schema)
    described = {"name": written.get("title") or "answer", "schema": written, "strict": strict}
    return {"type": "json_schema", "json_schema": described}


def _known(schema: ToolSource | None) -> Any:
    return dict(schema) if isinstance(schema, Mapping) else schema
