"""Tools, tool choices and response formats in LangChain's many spellings, to the core's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel

from glm4v_core import JsonSchema, Tool
from glm4v_core.errors import UnsupportedError
from glm4v_core.hosts import Constraint, closed_schema

ToolSource: TypeAlias = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
"""A function, a pydantic class, a TypedDict, a BaseTool, or a dict in OpenAI's or Anthropic's shape."""


def to_openai_tool(tool: ToolSource, strict: bool | None = None) -> dict[str, Any]:
    """Return a tool in OpenAI's shape.

    Raises:
        UnsupportedError: a built-in tool of a hosted model, or one without a schema.
    """
    written = convert_to_openai_tool(dict(tool) if isinstance(tool, Mapping) else tool, strict=strict)
    if written.get("type") != "function" or "name" not in written.get("function", {}):
        raise UnsupportedError(
            f"A tool of type {written.get('type')!r} does not run here.", hint="Pass functions, which you run yourself."
        )
    return written


def to_tools(tools: Sequence[ToolSource] | None) -> tuple[Tool, ...]:
    """Convert tools for a request.

    Arguments may have no keys beyond their schema's, unless a tool says `strict: False`.
    """
    functions = [to_openai_tool(tool)["function"] for tool in tools or ()]
    return tuple(
        Tool(
            function["name"],
            function.get("description") or "",
            closed(_parameters(function), strict=function.get("strict")),
        )
        for function in functions
    )


def to_constraint(response_format: Any) -> Constraint | None:
    """Read a response format of OpenAI's API, or a schema in any spelling.

    Raises:
        UnsupportedError: a format of another type.
    """
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return JsonSchema({"type": "object"})
        case {"type": "json_schema", "json_schema": {"schema": Mapping() as schema} as described}:
            return JsonSchema(closed(schema, strict=described.get("strict")))
        case {"type": kind} if kind != "object":
            raise UnsupportedError(
                f"A response_format of type {kind!r} is unknown.", hint="Use text, json_object or json_schema."
            )
        case _:
            return JsonSchema(closed(json_schema(response_format)))


def json_schema(schema: ToolSource) -> dict[str, Any]:
    """Return a schema in any spelling as a JSON schema, with its definitions."""
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        # LangChain's own conversion expands references and cuts recursive ones.
        return schema.model_json_schema()
    if isinstance(schema, Mapping):
        function = "parameters" in schema or "input_schema" in schema or "function" in schema
        return convert_to_json_schema(dict(schema)) if function else dict(schema)
    return convert_to_json_schema(schema)


def closed(schema: Mapping[str, Any], *, strict: bool | None = None) -> dict[str, Any]:
    """Close the objects of a schema; True also makes all properties required, and False leaves the schema open."""
    return dict(schema) if strict is False else closed_schema(schema, all_required=bool(strict))


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    return function.get("parameters") or {"type": "object", "properties": {}}
