"""Resolves the references of a JSON schema with the library `referencing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from referencing import Resource

REFERENCE = "#/$defs/"
"""Beginning of every resolved reference; a number follows."""

# Keywords that have no effect any more once the references are resolved.
_SPENT = frozenset({"$defs", "definitions", "$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"})
_DYNAMIC = ("$dynamicRef", "$recursiveRef")
_WITHOUT_SIBLINGS = frozenset({"draft-04", "draft-06", "draft-07"})
"""Drafts in which `$ref` overrides the keywords beside it. In later drafts both apply."""


class SchemaError(Exception):
    """A problem of a schema. The message is the end of a sentence that begins with the schema's name."""


def check_keywords(schema: Any) -> None:
    """Check a schema against the meta-schema of its draft.

    Raises:
        SchemaError: the schema is not valid; the message says where.
    """
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SchemaError(f"is not a valid JSON schema: {error.message} (at {error.json_path}).") from error


def resolve_references(schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Number every schema that is referred to, and replace each reference with `#/$defs/<number>`.

    Pointers, anchors and identifiers are resolved by `referencing`. Nothing outside the schema is read.

    Args:
        schema: has passed `check_keywords`. It is not modified.

    Returns:
        The schema without its definitions, and the definitions by number.

    Raises:
        SchemaError: a reference leads out of the schema, or is a dynamic reference.
    """
    resolving = _Resolving(schema)
    return resolving.root, resolving.definitions


class _Resolving:
    """One pass over a schema. References may be circular, so their targets are queued and rewritten later."""

    def __init__(self, schema: dict[str, Any]) -> None:
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012, specification_with

        specification = specification_with(schema.get("$schema", ""), default=DRAFT202012)
        if specification.name == "draft-03":
            raise SchemaError("follows draft 3 of JSON schema, which is not supported; use a later one.")
        self._create = specification.create_resource
        self._drops_siblings = specification.name in _WITHOUT_SIBLINGS
        self._numbers: dict[int, str] = {}
        self._waiting: list[tuple[str, Resource[Any], Any]] = []
        self.definitions: dict[str, Any] = {}
        resource = self._create(schema)
        self.root: dict[str, Any] = self._rewritten(resource, Registry().resolver_with_root(resource))
        while self._waiting:
            number, resource, resolver = self._waiting.pop()
            self.definitions[number] = self._rewritten(resource, resolver)

    def _rewritten(self, resource: Resource[Any], resolver: Any) -> Any:
        schema = resource.contents
        if not isinstance(schema, dict):
            return schema
        for keyword in _DYNAMIC:
            if keyword in schema:
                raise SchemaError(f"uses {keyword}, which is not supported; use $ref.")
        # Subschemas are recognised by identity: a constant or an example may look like a schema but is not one.
        below = {id(each.contents): each for each in resource.subresources()}
        for key in ("$defs", "definitions"):  # checked even if nothing refers to them
            self._copied(schema.get(key), below, resolver)
        kept = ("$schema", "$ref") if "$ref" in schema and self._drops_siblings else schema.keys() - _SPENT
        copy = {key: self._copied(value, below, resolver) for key, value in schema.items() if key in kept}
        return copy | ({"$ref": self._target(schema["$ref"], resolver)} if "$ref" in schema else {})

    def _copied(self, value: Any, below: Mapping[int, Resource[Any]], resolver: Any) -> Any:
        if isinstance(value, dict) and id(value) in below:
            found = below[id(value)]
            return self._rewritten(found, resolver.in_subresource(found))
        if isinstance(value, dict):
            return {key: self._copied(each, below, resolver) for key, each in value.items()}
        return [self._copied(each, below, resolver) for each in value] if isinstance(value, list) else value

    def _target(self, reference: str, resolver: Any) -> str:
        from referencing.exceptions import Unresolvable

        try:
            found = resolver.lookup(reference)
        except (
            Unresolvable,
            TypeError,
            ValueError,
        ) as error:  # the last two: a pointer into a list or a string
            raise SchemaError(
                f"refers to {reference!r}, which it does not contain; only references inside the schema are followed."
            ) from error
        target = found.contents
        if id(target) not in self._numbers:
            check_keywords(target)  # a pointer may lead to a place that was not checked as a schema
            self._numbers[id(target)] = str(len(self._numbers))
            self._waiting.append((self._numbers[id(target)], self._create(target), found.resolver))
        return REFERENCE + self._numbers[id(target)]
