"""Finds the imports in source text."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, with the names taken from it.

    Attributes:
        at_top: runs when the importing module is imported.
    """

    module: str
    names: tuple[str, ...]
    at_top: bool


def find_imports(tree: ast.Module) -> Iterator[Import]:
    """List all imports, those inside functions and under TYPE_CHECKING too."""
    top = set(_run_on_import(tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, (), node in top) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield Import(module, tuple(alias.name for alias in node.names), node in top)


def _run_on_import(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run_on_import(ast.iter_child_nodes(node))
