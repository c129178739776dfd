"""JSON schemas from callers, and JSON from models: both are checked before anybody relies on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from glm4v_core.errors import ConstraintError, InvalidOutputError

MAX_SCHEMA_CHARACTERS = 200_000
MAX_SCHEMA_DEPTH = 60
CACHED_SCHEMAS = 128


def check_schema(schema: Mapping[str, Any], what: str) -> None:
    """Refuse what is no JSON schema, too large, or refers to something outside itself.

    `what` names the schema in the error.

    Raises:
        ConstraintError: says what is wrong and where.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"{what} is not JSON: {error}.", hint="Pass a JSON schema as a dict.") from error
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ConstraintError(f"{what} has {len(text)} characters, over the cap of {MAX_SCHEMA_CHARACTERS}.")
    problem = _schema_problem(text)
    if problem:
        raise ConstraintError(f"{what} {problem}")


def check_json(text: str, schema: Mapping[str, Any]) -> None:
    """Check a model's answer against a schema that `check_schema` has passed.

    Raises:
        InvalidOutputError: not JSON, or not what the schema describes.
        ConstraintError: the schema's references lead nowhere, or in a circle.
    """
    import jsonschema
    import referencing

    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidOutputError(f"The answer is not JSON: {error}. It begins {text[:200]!r}.") from error
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    # An empty registry, because the default one fetches remote references.
    validator = kind(schema, registry=referencing.Registry())
    try:
        problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except (referencing.exceptions.Unresolvable, RecursionError) as error:
        raise ConstraintError(f"A reference in the schema leads nowhere: {error}.") from error
    if problem is not None:
        raise InvalidOutputError(f"The answer does not fit its schema: {problem.message} (at {problem.json_path}).")


def closed_schema(schema: Mapping[str, Any], *, all_required: bool = False) -> dict[str, Any]:
    """Close every object that names its properties and does not say whether it takes further ones.

    JSON schemas are open by default, and a weak model that may add keys of its own adds them for ever.

    Args:
        schema: stays as it is.
        all_required: make every property required too, as OpenAI's strict mode does.
    """
    closed = {key: _closed_part(key, value, all_required) for key, value in schema.items()}
    if "properties" in closed:
        closed.setdefault("additionalProperties", False)
    if all_required and "properties" in closed:
        closed["required"] = list(closed["properties"])
    return closed


def _closed_part(key: str, value: Any, all_required: bool) -> Any:
    match key, value:
        case "properties" | "$defs" | "definitions", Mapping():
            return {name: _closed_part("items", part, all_required) for name, part in value.items()}
        case "anyOf" | "oneOf" | "prefixItems", list():
            return [_closed_part("items", part, all_required) for part in value]
        case "allOf", [single]:  # the parts of a longer one add up to one object
            return [_closed_part("items", single, all_required)]
        case "items" | "additionalProperties", Mapping():
            return closed_schema(value, all_required=all_required)
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


@lru_cache(maxsize=CACHED_SCHEMAS)
def _schema_problem(text: str) -> str | None:
    import jsonschema

    schema = json.loads(text)
    if not isinstance(schema, dict):
        return "is not a JSON object."
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        return f"is nested deeper than the cap of {MAX_SCHEMA_DEPTH}."
    remote = _remote_reference(schema)
    if remote is not None:
        return f"refers to {remote!r}; only references inside the schema are followed."
    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"is not a valid JSON schema: {error.message} (at {error.json_path})."
    return None


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [child for parent in level for child in _children(parent)]
    return depth


def _remote_reference(value: Any) -> str | None:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            return reference
    return next((found for child in _children(value) if (found := _remote_reference(child)) is not None), None)
