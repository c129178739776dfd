"""Checks JSON schemas from callers and JSON from models.

References are resolved here, once. Both the grammar that constrains a model and the code that reads its output use the
result, so they cannot disagree about a schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from glm4v_core.dialect.references import REFERENCE, SchemaError, check_keywords, resolve_references
from glm4v_core.errors import ConstraintError, InvalidOutputError

MAX_SCHEMA_CHARACTERS = 200_000
MAX_SCHEMA_DEPTH = 60
CACHED_SCHEMAS = 128

Kind = Literal["null", "boolean", "integer", "number", "string", "array", "object"]
"""A JSON type. Unlike in JSON schema, "number" excludes the integers, so that every value has exactly one kind."""
KINDS: frozenset[Kind] = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})


class ResolvedSchema:
    """A JSON schema in which every reference has the form `#/$defs/<number>`.

    Its methods take a part, which is `root` or any schema inside it.

    Attributes:
        root: the schema itself.
    """

    def __init__(self, root: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
        """Analyse a schema whose references are resolved.

        Args:
            root: the schema.
            definitions: the schemas that it refers to, by number.

        Raises:
            CycleError: a reference leads back to itself without going into a part of the value.
        """
        self.root = root
        self._definitions = definitions
        self._kinds: dict[str, frozenset[Kind]] = {}
        self._chain: dict[str, int] = {}
        needs = {name: set(_references_in_place(part)) for name, part in definitions.items()}
        # In this order, what a definition refers to is known before the definition itself is analysed.
        for name in TopologicalSorter(needs).static_order():
            self._kinds[name] = self.kinds(definitions[name])
            self._chain[name] = 1 + max((self._chain[needed] for needed in needs[name]), default=0)

    @property
    def longest_chain(self) -> int:
        """The largest number of references that must be followed to check one level of a value."""
        return max(self._chain.values(), default=0)

    def follow(self, part: Any) -> Any:
        """Follow the references of a part to the end; a part without one is returned unchanged."""
        while isinstance(part, Mapping) and "$ref" in part:
            part = self._definitions[_name(part)]
        return part

    def kinds(self, part: Any) -> frozenset[Kind]:
        """Return the kinds of value that a part allows, judged by its types, constants and combinations."""
        if not isinstance(part, Mapping):
            return KINDS if part else frozenset()
        allowed = KINDS
        if "$ref" in part:
            allowed &= self._kinds[_name(part)]
        if "type" in part:
            allowed &= _declared(part["type"])
        constants = _constants(part)
        if constants is not None:
            allowed &= frozenset(kind_of(value) for value in constants)
        for each in part.get("allOf", ()):
            allowed &= self.kinds(each)
        for keyword in ("anyOf", "oneOf"):
            if keyword in part:
                allowed &= frozenset().union(*map(self.kinds, part[keyword]))
        return allowed

    def literals(self, part: Any) -> list[str] | None:
        """Return the strings that a part lists as the only allowed values; None if it allows anything else."""
        constants, kinds = _constants(self.follow(part)), self.kinds(part)
        if constants is None or kinds != {"string"}:
            return None
        return [value for value in constants if isinstance(value, str)]

    def document(self, part: Any) -> dict[str, Any]:
        """Return a part as a standalone schema with all definitions."""
        base = {"$schema": self.root["$schema"]} if "$schema" in self.root else {}
        definitions = {"$defs": self._definitions} if self._definitions else {}
        return {**base, **definitions, **(part if isinstance(part, Mapping) else {} if part else {"not": {}})}

    def problem(self, part: Any, value: Any) -> str | None:
        """Return why a part does not allow a value; None if it allows it."""
        import jsonschema
        import referencing

        document = self.document(part)
        kind = jsonschema.validators.validator_for(document, jsonschema.Draft202012Validator)
        # An empty registry, because the default one fetches remote references.
        errors = kind(document, registry=referencing.Registry()).iter_errors(value)
        try:
            found = jsonschema.exceptions.best_match(errors)
        except RecursionError:
            return "it is nested too deeply"
        return None if found is None else f"{found.message} (at {found.json_path})"


def resolve_schema(schema: Mapping[str, Any], what: str = "The schema") -> ResolvedSchema:
    """Check a schema and resolve its references.

    Args:
        schema: is not modified.
        what: name of the schema in error messages.

    Raises:
        ConstraintError: it is not a valid JSON schema, is too large, or refers to something outside it.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"{what} is not JSON: {error}.", hint="Pass a JSON schema as a dict.") from error
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ConstraintError(f"{what} has {len(text)} characters, over the cap of {MAX_SCHEMA_CHARACTERS}.")
    found = _resolved(text)  # cached by text, since dicts cannot be keys
    if isinstance(found, str):
        raise ConstraintError(f"{what} {found}")
    return found


def check_json(text: str, schema: Mapping[str, Any]) -> None:
    """Check a model's answer against a schema.

    Raises:
        InvalidOutputError: it is not JSON, or does not match the schema.
        ConstraintError: the schema itself is not valid.
    """
    resolved = resolve_schema(schema)
    try:
        value = read_json(text)
    except ValueError as error:
        raise InvalidOutputError(f"The answer is not JSON: {error}. It begins {text[:200]!r}.") from error
    problem = resolved.problem(resolved.root, value)
    if problem is not None:
        raise InvalidOutputError(f"The answer does not match its schema: {problem}.")


def read_json(text: str) -> Any:
    """Decode strict JSON, without NaN and Infinity.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:  # a model in a loop may write endless brackets
        raise ValueError("it is nested too deeply") from error


def kind_of(value: Any) -> Kind:
    """Return the kind of a decoded JSON value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def closed_schema(schema: Mapping[str, Any], *, all_required: bool = False) -> dict[str, Any]:
    """Return a copy of a schema whose objects allow no properties beyond the listed ones, unless the schema says so.

    JSON schemas allow additional properties by default, and a weak model that may invent keys does not stop doing so.

    Args:
        schema: is not modified.
        all_required: also make every property required, like OpenAI's strict mode.
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
        case "allOf", [single]:  # the parts of a longer list form one object together, so none of them may be closed
            return [_closed_part("items", single, all_required)]
        case "items" | "additionalProperties", Mapping():
            return closed_schema(value, all_required=all_required)
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


@lru_cache(maxsize=CACHED_SCHEMAS)
def _resolved(text: str) -> ResolvedSchema | str:
    """Return the resolved schema, or the problem as the end of a sentence, since a cache does not keep exceptions."""
    schema = json.loads(text)
    if not isinstance(schema, dict):
        return "is not a JSON object."
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        return f"is nested deeper than the cap of {MAX_SCHEMA_DEPTH}."
    try:
        check_keywords(schema)
        resolved = ResolvedSchema(*resolve_references(schema))
    except SchemaError as error:
        return str(error)
    except CycleError:
        return "has a reference that leads back to itself."
    if resolved.longest_chain > MAX_SCHEMA_DEPTH:
        return f"chains more references than the cap of {MAX_SCHEMA_DEPTH}."
    return resolved


def _references_in_place(part: Any) -> Iterator[str]:
    """Yield the definitions that apply to the value itself, as opposed to values inside it."""
    if not isinstance(part, Mapping):
        return
    if "$ref" in part:
        yield _name(part)
    for keyword in ("allOf", "anyOf", "oneOf"):
        for each in part.get(keyword, ()):
            yield from _references_in_place(each)
    for keyword in ("not", "if", "then", "else"):
        yield from _references_in_place(part.get(keyword))
    for each in part.get("dependentSchemas", {}).values():
        yield from _references_in_place(each)


def _name(part: Mapping[str, Any]) -> str:
    return str(part["$ref"]).removeprefix(REFERENCE)


def _declared(types: str | Iterable[str]) -> frozenset[Kind]:
    names = {types} if isinstance(types, str) else set(types)
    return frozenset(kind for kind in KINDS if kind in names or (kind == "integer" and "number" in names))


def _constants(part: Any) -> Sequence[Any] | None:
    if not isinstance(part, Mapping):
        return None
    return [part["const"]] if "const" in part else part.get("enum")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [child for parent in level for child in _children(parent)]
    return depth


def _children(value: Any) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()
