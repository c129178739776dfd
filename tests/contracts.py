"""Reads source text and reports what breaks the project's rules; `test_boundaries.py` says which rules."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CORE = "glm4v_core"
NESTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
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


def layer_violations(
    sources: Mapping[str, str], layers: Sequence[frozenset[str]], engines: frozenset[str]
) -> Iterator[str]:
    """Report arrows that point upward, modules without a layer, and engines that know each other.

    Args:
        sources: source text by module name below the core, such as `engines.loop`.
        layers: top-level module names, lowest layer first. Within a layer any arrow is allowed.
        engines: modules below `engines` of which none may import another.
    """
    height = {name: level for level, names in enumerate(layers) for name in names}
    for module, source in sources.items():
        own = module.partition(".")[0]
        if own not in height:
            yield f"{module}: has no layer; give it one"
            continue
        for target in _core_targets(ast.parse(source)):
            if height.get(target.partition(".")[0], len(layers)) > height[own]:
                yield f"{module}: imports {target or CORE}, which lies above it"
            if module in engines and target in engines - {module}:
                yield f"{module}: imports {target}, another engine"


def _core_targets(tree: ast.Module) -> Iterator[str]:
    """Name the core modules that are imported, without the package's name; the package itself is ``""``."""
    for found in find_imports(tree):
        package, _, module = found.module.partition(".")
        if package != CORE:
            continue
        yield from [module] if module != "engines" else (f"engines.{name}" for name in found.names)


def adapter_violations(source: str, hosts: Sequence[str], own: str, public: Sequence[str]) -> Iterator[str]:
    """Report what an adapter takes from other packages beyond its host and the core's public names."""
    for found in find_imports(ast.parse(source)):
        package = found.module.partition(".")[0]
        if package == CORE:
            yield from _private_names(found, public)
        elif package.startswith("."):
            yield f"imports {found.module}; write the package's name"
        elif package not in (own, *hosts):
            yield f"imports {found.module}, neither its host nor the core"


def _private_names(found: Import, public: Sequence[str]) -> Iterator[str]:
    """Public are the names that the core exports, and those in a module that it exports, such as `errors`."""
    module = found.module.removeprefix(CORE).removeprefix(".")
    if module and module not in public:
        yield f"imports {found.module}; take public names from {CORE}"
    for name in found.names:
        if name.startswith("_") or (not module and name not in public):
            yield f"imports {name}, not a public name"


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
            continue  # a function within a function is judged on its own
        # elif is a nested If in the tree, but not to a reader
        flat = isinstance(statement, ast.If) and len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If)
        children = [child for child in ast.iter_child_nodes(statement) if not (flat and child in statement.orelse)]
        depths.append(isinstance(statement, NESTING) + _depth(children))
        if flat:
            depths.append(_depth(statement.orelse))
    return max(depths)


def read_sources(folder: Path) -> dict[str, str]:
    """Map module names below a package folder to their source text; the package itself is ``__init__``."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        sources[name] = path.read_text("utf-8")
    return sources
