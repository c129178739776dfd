"""Tool calls in the models' format: `<tool_call>name`, then key and value tags, then `</tool_call>`."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from glm4v_core.dialect.schemas import read_json, resolve_schema
from glm4v_core.types import Tool, ToolCall

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_ARGUMENT = re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)
NAME = re.compile(r"[^\s<>{}\"]+")
"""Matches a tool name that can be read back from a call."""
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
    """Return the system text with which newer templates explain tools, for templates that do not."""
    return _TOOLS_TEXT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Return the text of a call as newer templates write it, for templates that do not write calls."""
    lines = [f"{CALL_START}{name}"]
    for key, value in arguments.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"<arg_key>{key}</arg_key>\n<arg_value>{shown}</arg_value>")
    return "\n".join([*lines, CALL_END])


def read_call(body: str, *, closed: bool, tools: Sequence[Tool]) -> ToolCall:
    """Read the text between the call tags.

    Newlines between the parts are optional. Unknown tools and arguments are kept; their values are decoded as JSON if
    possible and are text otherwise.

    Args:
        body: text after the opening tag, without the closing tag.
        closed: whether there was a closing tag.
        tools: the tools of the request; their schemas determine how values are decoded.

    Returns:
        The call. If it cannot be read or was not closed, `arguments` is None and `error` says why.
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
    if not NAME.fullmatch(name):
        raise ValueError(f"The call does not begin with a tool's name, but with {name!r}.")
    known = next((ToolArguments(tool) for tool in tools if tool.name == name), None)
    arguments: dict[str, Any] = {}
    for key, value in _pairs(text):
        if key in arguments:
            raise ValueError(f"The argument {key!r} is given twice.")
        arguments[key] = _decode_json(value) if known is None else known.decode(key, value)
    return arguments


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while found := _ARGUMENT.match(text, position):
        if "<arg_value>" in found[2]:
            # The lazy match ran on to the closing tag of a later value.
            raise ValueError(f"The value of {found[1].strip()!r} is not closed.")
        yield found[1].strip(), found[2]
        position = found.end()
    if text[position:].strip():
        raise ValueError(f"This part of the call is not a key and a value: {text[position:].strip()!r}.")


class ToolArguments:
    """The arguments of one tool and how their values are decoded.

    Attributes:
        schema: resolves the references in the schemas below.
        named: argument name to schema.
        required: names of arguments that every call must have.
        further: schema of all other arguments; False forbids them, None means that the tool's schema does not say.
    """

    def __init__(self, tool: Tool) -> None:
        self.schema = resolve_schema(tool.parameters, f"The schema of tool {tool.name!r}")
        self.named: dict[str, Any] = {}
        self.required: set[str] = set()
        self.further: Any = None
        self._add(self.schema.root)

    def decode(self, key: str, text: str) -> Any:
        """Decode one argument: as a string if the schema requires one, otherwise as JSON if possible, else as text."""
        part = self.named.get(key, True if self.further is None else self.further)
        kinds = self.schema.kinds(part)
        if kinds == {"string"}:
            return text
        value = _decode_json(text)
        # A string is written without quotes, so the text 12 may be a number or a string: the schema decides.
        if "string" in kinds and self.schema.problem(part, value) is not None:
            return text
        # 12.0 is an integer in JSON schema; a tool that asks for one should not get a float.
        whole = "integer" in kinds and "number" not in kinds and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value

    def _add(self, part: Any) -> None:
        """Collect the arguments of an object schema, including those in its `$ref` and `allOf`."""
        part = part if isinstance(part, Mapping) else {}
        for key, schema in part.get("properties", {}).items():
            self.named[key] = {"allOf": [self.named[key], schema]} if key in self.named else schema
        self.required.update(part.get("required", ()))
        self.further = part.get("additionalProperties", self.further)
        if "$ref" in part:
            self._add(self.schema.follow(part))
        for each in part.get("allOf", ()):
            self._add(each)


def _decode_json(text: str) -> Any:
    """Decode JSON or a constant in Python's spelling; return any other text unchanged."""
    stripped = text.strip()
    if stripped in _SPELLED:
        return _SPELLED[stripped]
    try:
        return read_json(stripped)
    except ValueError:
        return text
