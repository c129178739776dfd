"""Reports functions and files that are too long or too deeply nested; the limits are in `tests/test_rules.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

NESTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def size_violations(source: str, *, lines: int, function_lines: int, nesting: int) -> Iterator[str]:
    """Report a file or function that is too long, and nesting that is too deep."""
    count = len(source.splitlines())
    if count > lines:
        yield f"has {count} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            if (length := function_length(node)) > function_lines:
                yield f"{node.name} has {length} lines"
            if (depth := _depth(node.body)) > nesting:
                yield f"{node.name} is nested {depth} deep"


def function_length(node: Function) -> int:
    """Count the lines of a function without its docstring and its decorators."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def _depth(statements: Sequence[ast.AST]) -> int:
    depths = [0]
    for statement in statements:
        if isinstance(statement, Function):
            continue  # nested functions are checked separately
        # elif is a nested If in the tree, but not to a reader
        flat = isinstance(statement, ast.If) and len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If)
        children = [child for child in ast.iter_child_nodes(statement) if not (flat and child in statement.orelse)]
        depths.append(isinstance(statement, NESTING) + _depth(children))
        if flat:
            depths.append(_depth(statement.orelse))
    return max(depths)
