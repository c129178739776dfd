"""Constraints on answers: checks of schemas, choices and tools, and the grammar that enforces them.

The grammar is written in llguidance's variant of Lark. It covers only the answer, for engines that start the grammar
after the reasoning, or the whole turn, for engines that apply a grammar from the first token on.

A method or function that is said to match something returns the grammar expression that does.
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
"""Maximum number of tool calls in one answer. Without a limit a weak model may never stop calling."""
CACHED_GRAMMARS = 128

# If white space is unlimited, a weak model may write endless spaces. Most models write one space after a separator.
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
# Text that would end an unquoted value, or the whole call, when the answer is parsed.
_NOT_IN_A_VALUE = ("<arg_value>", _VALUE_END, CALL_START, CALL_END, *TURN_TOKENS)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A checked grammar; `text` goes to `llguidance.LLMatcher(tokenizer, text)`."""

    text: str


def check_constraint(constraint: Constraint) -> None:
    """Refuse a constraint that no answer could satisfy.

    Raises:
        ConstraintError: says what is wrong. Errors that only a grammar compiler finds are left to `compile_grammar`.
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
    """Refuse tools that cannot be called, and a tool choice that cannot be met.

    Raises:
        ConstraintError: says what is wrong.
    """
    _check_tools(request.tools)
    _check_tool_choice(request)


def compile_grammar(request: Request, dialect: Dialect, turn: Phase | None = None) -> Grammar | None:
    """Return the grammar of everything between the reasoning and the stop token.

    Args:
        request: has passed `check_tools` and `check_constraint`.
        dialect: determines which tags are single tokens.
        turn: None for a grammar of the answer only. Otherwise the phase in which the model's output starts; the
            grammar then also covers the remaining reasoning and an optional stop token.

    Returns:
        None if the request has neither tools nor a constraint.

    Raises:
        ConstraintError: the constraint or a tool's schema cannot be compiled.
    """
    rules = _Rules(dialect)
    answer = _answer(rules, request)
    if answer is None:
        return None
    start = f"{_before_answer(dialect)} ({answer})"
    if turn is not None:
        start = f"{_reasoning(rules, dialect, turn)} {start} ({' | '.join(dialect.end_of_turn)})?"
    rules.rule("start", start)
    return _validated("\n".join(rules.lines))


def check_answer(text: str, constraint: Constraint) -> None:
    """Check a finished answer against its constraint, since a server may ignore it and a compiler may have bugs.

    Regular expressions are not checked again, because Python and Rust interpret them differently.

    Raises:
        InvalidOutputError: the answer does not satisfy the constraint.
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


class _Rules:
    """Collects the rules of one grammar, for a tokenizer in which tags are either single tokens or plain text."""

    def __init__(self, dialect: Dialect) -> None:
        self.lines = ["%llguidance {}"]
        # A tokenizer has tokens for the tool tags only if its chat template explains tools.
        self._spelled = frozenset() if dialect.tools == "template" else frozenset(TOOL_TAGS)

    def rule(self, name: str, body: str) -> str:
        """Add a rule, unless it is there already, and return its name without options such as `[lazy]`."""
        line = f"{name}: {body}"
        if line not in self.lines:
            self.lines.append(line)
        return name.partition("[")[0]

    def tag(self, tag: str) -> str:
        """Match a tag, as a token or as text."""
        return _lark_string(tag) if tag in self._spelled else tag

    def bare_text(self) -> str:
        """Match unquoted text that the parser reads as one value, and the closing tag after it."""
        excluded = "|".join(map(re.escape, _NOT_IN_A_VALUE))
        if _VALUE_END in self._spelled:
            # The tag is text too, so the terminal itself must end with it, and lazily: at the first one.
            others = "|".join(re.escape(tag) for tag in _NOT_IN_A_VALUE if tag != _VALUE_END)
            text = self.rule(
                "BARE_VALUE", f"/(?s:.*){_lark_regex(_VALUE_END)}/ & ~/(?s:.*)({_lark_regex(others)})(?s:.*)/"
            )
            return self.rule("bare_value[lazy]", text)
        text = self.rule("BARE_VALUE", f"/(?s:.*)/ & ~/(?s:.*)({_lark_regex(excluded)})(?s:.*)/")
        return self.rule("bare_value", f"{text} {_VALUE_END}")

    def free_text(self) -> str:
        """Match an answer in plain text: any text that does not open a call, and box tags."""
        return f"({self._text()}? {_BOX_TAG})* {self._text()}?"

    def opening(self) -> str:
        """Match free text, followed by the tag that opens a call."""
        if CALL_START not in self._spelled:
            return f"{self.free_text()} {CALL_START}"
        text = self.rule("text_and_tag[lazy]", f"/(?s:.*){_lark_regex(CALL_START)}/")
        return f"({self._text()}? {_BOX_TAG})* {text}"

    def _text(self) -> str:
        excluded = f" & ~/(?s:.*){_lark_regex(CALL_START)}(?s:.*)/" if CALL_START in self._spelled else ""
        return self.rule("TEXT", f"/(?s:.+)/{excluded}")


def _before_answer(dialect: Dialect) -> str:
    """Match what models may write before an answer: a newline and the opening tag of the answer."""
    return f"({_NEWLINE} {dialect.answer[0]})? {_NEWLINE}" if dialect.answer else _NEWLINE


def _reasoning(rules: _Rules, dialect: Dialect, phase: Phase) -> str:
    """Match the remaining reasoning: any text and box tags, up to its closing tag."""
    if dialect.think is None or phase == "answer":
        return ""
    opening, closing = dialect.think
    text = rules.rule("REASONING", "/(?s:.+)/")
    rest = f"({text}? {_BOX_TAG})* {text}? {closing}"
    return rest if phase == "thinking" else f"({_NEWLINE} {opening} {rest})?"


def _answer(rules: _Rules, request: Request) -> str | None:
    final = None if request.constraint is None else _constrained(request.constraint)
    choice = request.tool_choice
    if not request.tools:
        return final
    if choice == "none":
        return final or rules.free_text()
    if choice == "auto":
        return f"{final or rules.free_text()} | {_calls(rules, request, after_text=final is None)}"
    return _calls(rules, request)


def _constrained(constraint: Constraint) -> str:
    match constraint:
        case JsonSchema(schema):
            resolved = resolve_schema(schema)
            return _json(resolved.document(resolved.root))
        case Choices(options):
            return " | ".join(map(_lark_string, options))
        case Regex(pattern):
            return f"/{_lark_regex(pattern)}/"
        case _:
            assert_never(constraint)


def _calls(rules: _Rules, request: Request, *, after_text: bool = False) -> str:
    """Match the tool calls that a request allows, after free text if `after_text`."""
    chosen = [tool for tool in request.tools if request.tool_choice in ("auto", "required", tool.name)]
    call = rules.rule("call", " | ".join(_call(rules, tool) for tool in chosen))
    single = request.tool_choice not in ("auto", "required") or not request.parallel_tool_calls
    further = "" if single else f"({_NEWLINE} {rules.tag(CALL_START)} {call}){{0,{MAX_CALLS - 1}}}"
    return f"{rules.opening() if after_text else rules.tag(CALL_START)} {call} {further}"


def _call(rules: _Rules, tool: Tool) -> str:
    """Match a call of this tool after the opening tag; return the name of the rule."""
    known = ToolArguments(tool)
    arguments = [
        _argument(rules, _key(key), known, part) + ("" if key in known.required else "?")
        for key, part in known.named.items()
        if key in known.required or known.schema.kinds(part)  # an optional argument that allows no value is left out
    ]
    if known.further is not None and known.schema.kinds(known.further):
        arguments.append(_argument(rules, _ANY_KEY, known, known.further) + f"{{0,{MAX_CALLS}}}")
    return rules.rule(
        f"call_{len(rules.lines)}", f"{_lark_string(tool.name)} {_NEWLINE} {' '.join(arguments)} {rules.tag(CALL_END)}"
    )


def _argument(rules: _Rules, key: str, known: ToolArguments, part: Any) -> str:
    """Match one key and its value: a string is written without quotes, any other value as JSON."""
    literals = known.schema.literals(part)
    if literals:
        value = f"({' | '.join(map(_literal, literals))}) {rules.tag(_VALUE_END)}"
    elif "string" in known.schema.kinds(part):
        value = rules.bare_text()
    else:
        value = f"{_json(known.schema.document(part))} {rules.tag(_VALUE_END)}"
    key_span = f"{rules.tag('<arg_key>')} {key} {rules.tag('</arg_key>')}"
    return rules.rule(
        f"argument_{len(rules.lines)}", f"{key_span} {_NEWLINE} {rules.tag('<arg_value>')} {value} {_NEWLINE}"
    )


def _key(text: str) -> str:
    if "<" in text or text != text.strip():
        raise ConstraintError(f"A tool call cannot have an argument named {text!r}.", hint="Use letters, digits and _.")
    return _lark_string(text)


def _literal(text: str) -> str:
    if any(tag in text for tag in _NOT_IN_A_VALUE):
        raise ConstraintError(f"A tool call cannot contain the value {text!r}.", hint="Leave tags out of constants.")
    return _lark_string(text)


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)


def _lark_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _lark_regex(pattern: str) -> str:
    from llguidance import regex_to_lark

    return str(regex_to_lark(pattern, ""))


@lru_cache(maxsize=CACHED_GRAMMARS)
def _validated(text: str) -> Grammar:
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
        raise ConstraintError(f"Two tools have the same name: {names}.", hint="Give each tool a different name.")


def _check_tool_choice(request: Request) -> None:
    choice, names = request.tool_choice, [tool.name for tool in request.tools]
    if choice in ("auto", "none"):
        return
    if not names:
        raise ConstraintError(
            f"tool_choice is {choice!r}, but there are no tools.", hint="Pass tools, or leave it out."
        )
    if choice != "required" and choice not in names:
        raise ConstraintError(f"tool_choice names the unknown tool {choice!r}.", hint=f"Known tools: {names}.")


def _check_choices(options: Sequence[str]) -> None:
    if not options:
        raise ConstraintError("The list of choices is empty.", hint="Give at least one choice.")
    if not all(options) or len(set(options)) < len(options):
        raise ConstraintError("Choices must be non-empty and different.", hint="Remove empty choices and duplicates.")
