"""Tool calls as the models write them: `<tool_call>name`, then key and value tags, then `</tool_call>`."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glm4v_core.types import Tool, ToolCall

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_ARGUMENT = re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)
_NAME = re.compile(r"[^\s<>{}\"]+")
_SPELLED: Mapping[str, Any] = {"True": True, "False": False, "None": None}

_TOOLS_TEXT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, output the function name and arguments within the following XML format:
<tool_call>{{function-name}}
<arg_key>{{arg-key-1}}</arg_key>
<arg_value>{{arg-value-1}}</arg_value>
<arg_key>{{arg-key-2}}</arg_key>
<arg_value>{{arg-value-2}}</arg_value>
...
</tool_call>"""


def describe_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """Write the tools text that newer templates contain, for a template without one."""
    return _TOOLS_TEXT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call as newer templates do, for a template that cannot."""
    lines = [f"{CALL_START}{name}"]
    for key, value in arguments.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"<arg_key>{key}</arg_key>\n<arg_value>{shown}</arg_value>")
    return "\n".join([*lines, CALL_END])


def read_call(body: str, *, closed: bool, tools: Sequence[Tool]) -> ToolCall:
    """Read the text between the call tags.

    Newlines between the parts are optional. Unknown tools and arguments are kept, their values decoded by best effort.
    A call that cannot be read, or was never closed, has arguments None and says why.
    """
    head, mark, rest = body.partition("<arg_key>")
    name = head.strip()
    raw = f"{CALL_START}{body}{CALL_END if closed else ''}"
    arguments: dict[str, Any] | None = None
    error: str | None = None
    try:
        if not closed:
            raise ValueError("The call was not finished.")
        arguments = _read_arguments(name, mark + rest, tools)
    except ValueError as reason:
        error = str(reason)
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name.partition("\n")[0], arguments, raw, error)


def _read_arguments(name: str, text: str, tools: Sequence[Tool]) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise ValueError(f"The call does not begin with a tool's name but with {name!r}.")
    schema = next((tool.parameters for tool in tools if tool.name == name), {})
    properties = schema.get("properties") or {}
    arguments: dict[str, Any] = {}
    for key, value in _pairs(text):
        if key in arguments:
            raise ValueError(f"The argument {key!r} is given twice.")
        arguments[key] = decode_value(value, properties.get(key), schema)
    return arguments


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while found := _ARGUMENT.match(text, position):
        if "<arg_value>" in found[2]:
            raise ValueError(f"The value of {found[1].strip()!r} is not closed.")
        yield found[1].strip(), found[2]
        position = found.end()
    if text[position:].strip():
        raise ValueError(f"This part of the call is not a key and a value: {text[position:].strip()!r}.")


def decode_value(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """Decode one argument: a string where the schema wants one, else JSON where the text is JSON, else the text.

    Args:
        text: what stood between the value tags.
        schema: JSON schema of this argument; None when it is unknown.
        root: the schema that holds `$defs`.
    """
    wanted = _types(schema, root)
    if wanted == {"string"}:
        return text
    try:
        value = _read_json(text)
    except ValueError:
        return text
    if "integer" in wanted and isinstance(value, float) and value.is_integer():
        value = int(value)
    if "string" in wanted and not wanted & _types_of(value):
        return text
    return value


def _read_json(text: str) -> Any:
    """Read JSON, or a Python constant; raise ValueError for anything else."""
    stripped = text.strip()
    if stripped in _SPELLED:
        return _SPELLED[stripped]
    try:
        return json.loads(stripped, parse_constant=_refuse_constant)
    except RecursionError as reason:  # a model that repeats itself writes endless brackets
        raise ValueError("nested too deeply") from reason


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _types(schema: Any, root: Mapping[str, Any], seen: tuple[str, ...] = ()) -> set[str]:
    """Name the JSON types that a schema allows; empty means unknown."""
    if not isinstance(schema, Mapping):
        return set()
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        return _types(_resolve(reference, root), root, (*seen, reference))
    declared = schema.get("type")
    if declared is not None:
        return {declared} if isinstance(declared, str) else set(declared)
    options = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    types = set().union(*(_types_of(option) for option in options))
    for keyword in ("anyOf", "oneOf", "allOf"):
        types.update(*(_types(part, root, seen) for part in schema.get(keyword) or ()))
    return types


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    schema: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        schema = schema.get(step) if isinstance(schema, Mapping) else None
    return schema


def _types_of(value: Any) -> set[str]:
    match value:
        case None:
            return {"null"}
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}
        case float():
            return {"number"}
        case str():
            return {"string"}
        case list():
            return {"array"}
        case _:
            return {"object"}
