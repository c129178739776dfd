"""What an answer may look like: eager checks of schemas, choices and tools, and the grammar that enforces them.

The grammar is text in llguidance's dialect of Lark. It covers the answer alone, for engines that start it when the
thought is over, or the whole turn, for engines that apply a grammar from the first token on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, assert_never

from glm4v_core.dialect.dialects import BOX_TAGS, TOOL_TAGS, Dialect
from glm4v_core.dialect.parsing import TURN_TOKENS, Phase
from glm4v_core.dialect.schemas import check_json, resolve_schema
from glm4v_core.dialect.tool_calls import CALL_END, CALL_START, NAME, ToolArguments
from glm4v_core.errors import ConstraintError, InvalidOutputError
from glm4v_core.types import Choices, Constraint, JsonSchema, Regex, Request, Tool

MAX_CALLS = 16
"""Calls one answer may hold; without a bound a weak model calls for ever."""
CACHED_GRAMMARS = 128

# Unbounded white space lets a model write spaces for ever; one space after a separator is how most models write.
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "coerce_one_of": True,
}
_NEWLINE = '"\\n"?'
_BOX_TAG = f"({' | '.join(BOX_TAGS)})"
_ANY_KEY = "/[^<\\s]([^<\\n]*[^<\\s])?/"
_VALUE_END = "</arg_value>"
# Text that would end a bare value, or the whole call, for the reader.
_NOT_IN_A_VALUE = ("<arg_value>", _VALUE_END, CALL_START, CALL_END, *TURN_TOKENS)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A checked grammar; `text` goes to `llguidance.LLMatcher(tokenizer, text)`."""

    text: str


def check_constraint(constraint: Constraint) -> None:
    """Refuse a constraint that no answer could satisfy.

    Raises:
        ConstraintError: names what is wrong. What only a grammar compiler can tell is left to `compile_grammar`.
    """
    match constraint:
        case JsonSchema(schema):
            resolve_schema(schema, "The answer's schema")
        case Choices(options):
            _check_choices(options)
        case Regex(pattern):
            if not pattern:
                raise ConstraintError("The regex is empty.", hint="Leave the constraint out, or give a pattern.")
        case _:
            assert_never(constraint)


def check_tools(request: Request) -> None:
    """Refuse tools that cannot be called, and a choice among them that cannot be met.

    Raises:
        ConstraintError: names what is wrong.
    """
    _check_tools(request.tools)
    _check_tool_choice(request)


def compile_grammar(request: Request, dialect: Dialect, turn: Phase | None = None) -> Grammar | None:
    """Write the grammar of everything between the reasoning and the token that ends the turn.

    Args:
        request: one that `check_tools` and `check_constraint` passed.
        turn: where the model's output starts, for a grammar of the whole turn: it lets the model think as the phase
            allows, and end the answer with any token that ends a turn.

    Returns:
        None when the request constrains nothing.

    Raises:
        ConstraintError: the constraint or a tool's schema cannot be compiled.
    """
    lark = _Lark(dialect)
    answer = _answer(lark, request)
    if answer is None:
        return None
    start = f"{_lead(dialect)} ({answer})"
    if turn is not None:
        start = f"{_thought(lark, dialect, turn)} {start} ({' | '.join(dialect.end_of_turn)})?"
    lark.rule("start", start)
    return _checked("\n".join(lark.lines))


def check_answer(text: str, constraint: Constraint) -> None:
    """Check a finished answer against its constraint once more; a grammar is only as good as its compiler.

    Regexes are left to the grammar: Python and Rust read them differently.

    Raises:
        InvalidOutputError: the answer is not what the constraint asked for.
    """
    match constraint:
        case JsonSchema(schema):
            check_json(text, schema)
        case Choices(options):
            if text not in options:
                raise InvalidOutputError(f"The answer {text[:200]!r} is not one of the {len(options)} choices.")
        case Regex():
            pass
        case _:
            assert_never(constraint)


class _Lark:
    """Collects the rules of one grammar and knows which tags are single tokens."""

    def __init__(self, dialect: Dialect) -> None:
        self.lines = ["%llguidance {}"]
        # Where our own system text explains tools, the tokenizer has no tokens for their tags.
        self._plain = frozenset() if dialect.tools == "template" else frozenset(TOOL_TAGS)

    def rule(self, name: str, body: str) -> str:
        line = f"{name}: {body}"
        if line not in self.lines:
            self.lines.append(line)
        return name.partition("[")[0]

    def tag(self, tag: str) -> str:
        return _quoted(tag) if tag in self._plain else tag

    def bare_text(self) -> str:
        """Match any text that the reader takes for one value, and the tag behind it."""
        excluded = "|".join(map(re.escape, _NOT_IN_A_VALUE))
        if _VALUE_END in self._plain:
            others = "|".join(re.escape(tag) for tag in _NOT_IN_A_VALUE if tag != _VALUE_END)
            text = self.rule("BARE_VALUE", f"/(?s:.*){_slashed(_VALUE_END)}/ & ~/(?s:.*)({_slashed(others)})(?s:.*)/")
            return self.rule("bare_value[lazy]", text)
        text = self.rule("BARE_VALUE", f"/(?s:.*)/ & ~/(?s:.*)({_slashed(excluded)})(?s:.*)/")
        return self.rule("bare_value", f"{text} {_VALUE_END}")

    def free_text(self) -> str:
        """Match an answer in words: any text that opens no call, and the tags around boxes."""
        return f"({self._text()}? {_BOX_TAG})* {self._text()}?"

    def opening(self) -> str:
        """Match free text up to the tag that opens a call, and that tag."""
        if CALL_START not in self._plain:
            return f"{self.free_text()} {CALL_START}"
        text = self.rule("text_and_tag[lazy]", f"/(?s:.*){_slashed(CALL_START)}/")
        return f"({self._text()}? {_BOX_TAG})* {text}"

    def _text(self) -> str:
        excluded = f" & ~/(?s:.*){_slashed(CALL_START)}(?s:.*)/" if CALL_START in self._plain else ""
        return self.rule("TEXT", f"/(?s:.+)/{excluded}")


def _lead(dialect: Dialect) -> str:
    """Allow what models write before an answer: a newline, and the tag that opens it."""
    return f"({_NEWLINE} {dialect.answer[0]})? {_NEWLINE}" if dialect.answer else _NEWLINE


def _thought(lark: _Lark, dialect: Dialect, phase: Phase) -> str:
    """Allow the thought that may still come: any text, and the tags around boxes."""
    if dialect.think is None or phase == "answer":
        return ""
    opening, closing = dialect.think
    text = lark.rule("THOUGHT", "/(?s:.+)/")
    rest = f"({text}? {_BOX_TAG})* {text}? {closing}"
    return rest if phase == "thinking" else f"({_NEWLINE} {opening} {rest})?"


def _answer(lark: _Lark, request: Request) -> str | None:
    final = None if request.constraint is None else _final(request.constraint)
    choice = request.tool_choice
    if not request.tools:
        return final
    if choice == "none":
        return final or lark.free_text()
    if choice == "auto":
        return f"{final or lark.free_text()} | {_calls(lark, request, after_text=final is None)}"
    return _calls(lark, request)


def _final(constraint: Constraint) -> str:
    match constraint:
        case JsonSchema(schema):
            resolved = resolve_schema(schema)
            return _json(resolved.document(resolved.root))
        case Choices(options):
            return " | ".join(map(_quoted, options))
        case Regex(pattern):
            return f"/{_slashed(pattern)}/"
        case _:
            assert_never(constraint)


def _calls(lark: _Lark, request: Request, *, after_text: bool = False) -> str:
    """Match the calls that a request allows."""
    chosen = [tool for tool in request.tools if request.tool_choice in ("auto", "required", tool.name)]
    call = lark.rule("call", " | ".join(_call(lark, tool) for tool in chosen))
    single = request.tool_choice not in ("auto", "required") or not request.parallel_tool_calls
    further = "" if single else f"({_NEWLINE} {lark.tag(CALL_START)} {call}){{0,{MAX_CALLS - 1}}}"
    return f"{lark.opening() if after_text else lark.tag(CALL_START)} {call} {further}"


def _call(lark: _Lark, tool: Tool) -> str:
    """Match a call behind its opening tag."""
    known = ToolArguments(tool)
    arguments = [
        _argument(lark, _key(key), known, part) + ("" if key in known.required else "?")
        for key, part in known.named.items()
        if key in known.required or known.schema.kinds(part)  # else there is no value to write
    ]
    if known.further is not None and known.schema.kinds(known.further):
        arguments.append(_argument(lark, _ANY_KEY, known, known.further) + f"{{0,{MAX_CALLS}}}")
    return lark.rule(
        f"call_{len(lark.lines)}", f"{_quoted(tool.name)} {_NEWLINE} {' '.join(arguments)} {lark.tag(CALL_END)}"
    )


def _argument(lark: _Lark, key: str, known: ToolArguments, part: Any) -> str:
    """Match one key and its value: a string is written bare between the tags, everything else as JSON."""
    literals = known.schema.literals(part)
    if literals:
        value = f"({' | '.join(map(_literal, literals))}) {lark.tag(_VALUE_END)}"
    elif "string" in known.schema.kinds(part):
        value = lark.bare_text()
    else:
        value = f"{_json(known.schema.document(part))} {lark.tag(_VALUE_END)}"
    key_span = f"{lark.tag('<arg_key>')} {key} {lark.tag('</arg_key>')}"
    return lark.rule(
        f"argument_{len(lark.lines)}", f"{key_span} {_NEWLINE} {lark.tag('<arg_value>')} {value} {_NEWLINE}"
    )


def _key(text: str) -> str:
    if "<" in text or text != text.strip():
        raise ConstraintError(f"A tool call cannot hold an argument named {text!r}.", hint="Use letters, digits and _.")
    return _quoted(text)


def _literal(text: str) -> str:
    if any(tag in text for tag in _NOT_IN_A_VALUE):
        raise ConstraintError(f"A tool call cannot hold the value {text!r}.", hint="Leave tags out of constants.")
    return _quoted(text)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _slashed(pattern: str) -> str:
    from llguidance import regex_to_lark

    return str(regex_to_lark(pattern, ""))


@lru_cache(maxsize=CACHED_GRAMMARS)
def _checked(text: str) -> Grammar:
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(text)
    if failed:
        raise ConstraintError(f"The constraint cannot be compiled: {messages[0].strip()}")
    return Grammar(text)


def _check_tools(tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    for tool in tools:
        if not NAME.fullmatch(tool.name):
            raise ConstraintError(f"{tool.name!r} cannot be a tool's name.", hint="Use letters, digits, - and _.")
        resolve_schema(tool.parameters, f"The schema of tool {tool.name!r}")
    if len(set(names)) < len(names):
        raise ConstraintError(f"Two tools have the same name: {names}.", hint="Give every tool a name of its own.")


def _check_tool_choice(request: Request) -> None:
    choice, names = request.tool_choice, [tool.name for tool in request.tools]
    if choice in ("auto", "none"):
        return
    if not names:
        raise ConstraintError(f"tool_choice is {choice!r}, but there are no tools.", hint="Pass some, or leave it out.")
    if choice != "required" and choice not in names:
        raise ConstraintError(f"tool_choice names the unknown tool {choice!r}.", hint=f"Known tools: {names}.")


def _check_choices(options: Sequence[str]) -> None:
    if not options:
        raise ConstraintError("The list of choices is empty.", hint="Give at least one choice.")
    if not all(options) or len(set(options)) < len(options):
        raise ConstraintError("Choices must be non-empty and different.", hint="Remove empty and double choices.")
