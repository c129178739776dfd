"""An echo for the scripted engine: it obeys constraint and tool choice with words from the prompt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from glm4v_core import JsonSchema, Message, Request, Text, Tool, ToolResult
from glm4v_core.types import Part


def echo(request: Request) -> str:
    """Answer as a model of the 4.6V dialect that copies."""
    asked = request.messages[-1]
    thought = "<think>I copy.</think>\n" if request.thinking else ""
    answered = any(isinstance(part, ToolResult) for part in asked.parts)
    if request.tools and request.tool_choice != "none" and not (answered and request.tool_choice == "auto"):
        named = [tool for tool in request.tools if tool.name == request.tool_choice]
        return thought + _call((named or request.tools)[0], request)
    if isinstance(request.constraint, JsonSchema):
        return thought + json.dumps(_value(request.constraint.schema, request.constraint.schema, request))
    return thought + f"You said: {_said(asked)[:200]}"


def _call(tool: Tool, request: Request) -> str:
    properties = tool.parameters.get("properties", {})
    arguments = {key: _value(schema, tool.parameters, request) for key, schema in properties.items()}
    lines = (
        f"<arg_key>{key}</arg_key>\n<arg_value>{value if isinstance(value, str) else json.dumps(value)}</arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call>{tool.name}\n{''.join(lines)}</tool_call>"


def _value(schema: Mapping[str, Any], root: Mapping[str, Any], request: Request) -> Any:
    if "$ref" in schema:
        return _value(root["$defs"][schema["$ref"].rpartition("/")[2]], root, request)
    if "anyOf" in schema:
        return _value(schema["anyOf"][0], root, request)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    prompt = " ".join(map(_said, request.messages))
    match schema.get("type"):
        case "object":
            return {key: _value(part, root, request) for key, part in schema.get("properties", {}).items()}
        case "array":
            return [_value(schema.get("items", {}), root, request)]
        case "integer" | "number":
            return int(found[0]) if (found := re.search(r"\d+", prompt)) else 1
        case "boolean":
            return True
        case "null":
            return None
    return found[1] if (found := re.search(r"'([^']+)'", prompt)) else "echo"


def _said(message: Message) -> str:
    return " ".join(filter(None, map(_text, message.parts)))


def _text(part: Part) -> str:
    match part:
        case Text(text):
            return text
        case ToolResult(parts=parts):
            return " ".join(map(_text, parts))
    return ""
