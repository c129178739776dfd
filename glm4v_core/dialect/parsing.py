"""Splits raw model text into reasoning, answer and tool calls. The result does not depend on how the text is chunked.

The rules, which also cover malformed output:

- `<think>` opens the reasoning and `</think>` closes it. `<answer>` and `<tool_call>` close it too.
- In phase "thinking" the prompt already opened the reasoning. In phase "free", text before any tag is passed on as
  answer immediately. If the first tag after it is `</think>`, that text was reasoning: a `Retraction` event says so,
  and `fold` applies it. Any other stray `</think>` is dropped.
- Blank lines before the answer and white space at its end are dropped; reasoning is stripped on both sides.
- Answer, box, role and stop tokens are never part of the text. Boxes are kept in `Splitter.boxed` for `find_boxes`.
- Inside a tool call only the tags of calls and the tokens that end a turn are recognised; the rest is its text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from glm4v_core.dialect.boxes import find_boxes
from glm4v_core.dialect.dialects import BOX_TAGS, ROLE_TOKENS, Dialect
from glm4v_core.dialect.tool_calls import CALL_END, CALL_START, read_call
from glm4v_core.types import Tool, ToolCall

__all__ = [
    "TURN_TOKENS",
    "AnswerText",
    "CallMade",
    "Event",
    "Phase",
    "Retraction",
    "Split",
    "Splitter",
    "ThinkingText",
    "find_boxes",
    "fold",
]

Phase = Literal["free", "thinking", "answer"]
"""Where the model's output starts: before the reasoning ("free"), inside it, or after it."""

TURN_TOKENS = (*ROLE_TOKENS, "<|endoftext|>")
"""Tokens that end the turn, and thus a tool call that is still open."""


@dataclass(frozen=True, slots=True)
class ThinkingText:
    """New text of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """New text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallMade:
    """A tool call that is over, whether it could be read or not."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Retraction:
    """All answer text so far was reasoning, whose opening tag was missing."""


Event = ThinkingText | AnswerText | CallMade | Retraction


@dataclass(frozen=True, slots=True)
class Split:
    """The result of all events of one answer."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def fold(events: Iterable[Event]) -> Split:
    """Combine the events of one answer."""
    text, thinking, calls = "", "", []
    for event in events:
        match event:
            case ThinkingText(more):
                thinking += more
            case AnswerText(more):
                text += more
            case CallMade(call):
                calls.append(call)
            case Retraction():
                text, thinking = "", text
            case _:
                assert_never(event)
    return Split(text, thinking, tuple(calls))


class Splitter:
    """Splits one answer. Call `feed` with each piece of text, including special tokens, then `finish` once.

    The effect of a tag in each state, given as the next state ("-": the tag is dropped and nothing changes):

    | tag                        | thinking       | answer                      | call                            |
    |----------------------------|----------------|-----------------------------|---------------------------------|
    | `<think>`                  | -              | thinking                    | text of the call                |
    | `</think>`                 | answer         | - (see `Retraction`)        | text of the call                |
    | `<answer>`, `</answer>`    | answer         | -                           | text of the call                |
    | `<tool_call>`              | call           | call                        | broken call ends, next one: call|
    | `</tool_call>`             | -              | -                           | call ends: answer               |
    | box tags                   | -              | kept in `boxed`             | text of the call                |
    | role tokens, end of text   | -              | -                           | broken call ends: answer        |
    """

    def __init__(self, dialect: Dialect, phase: Phase, tools: Sequence[Tool] = ()) -> None:
        self._tools = tuple(tools)
        self._state: Literal["thinking", "answer", "call"] = "thinking" if phase == "thinking" else "answer"
        self._actions = self._actions_of(dialect)
        self._tags = _Tags((*TURN_TOKENS, *BOX_TAGS, *self._actions))
        self._call_tags = _Tags((*TURN_TOKENS, CALL_START, CALL_END))
        self._may_retract = phase == "free"
        self._undecided = ""  # the end of the text so far, if it may be the beginning of a tag
        self._space = ""  # white space that is passed on only if more text of the same kind follows
        self._reasoned = False
        self._answered = False
        self._call_text: list[str] = []
        self._answer_with_boxes: list[str] = []
        self._events: list[Event] = []

    @property
    def boxed(self) -> str:
        """The answer so far with its box tokens, for `find_boxes`."""
        return "".join(self._answer_with_boxes)

    def feed(self, text: str) -> list[Event]:
        """Process the next piece of raw text and return the events that are certain by now."""
        self._undecided += text
        # The set of tags depends on the state, so each search comes after the previous tag has taken effect.
        while found := self._current_tags.search(self._undecided):
            before, self._undecided = self._undecided[: found.start()], self._undecided[found.end() :]
            self._add(before)
            self._act_on(found[0])
        certain = self._current_tags.certain(self._undecided)
        self._add(self._undecided[:certain])
        self._undecided = self._undecided[certain:]
        return self._take_events()

    def finish(self) -> list[Event]:
        """End the answer: an incomplete tag becomes text, and an incomplete call is reported as broken."""
        self._add(self._undecided)
        self._undecided = ""
        if self._state == "call":
            self._end_call(closed=False)
        return self._take_events()

    @property
    def _current_tags(self) -> _Tags:
        return self._call_tags if self._state == "call" else self._tags

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _add(self, text: str) -> None:
        """Add text that contains no tag."""
        match self._state:
            case "call":
                self._call_text.append(text)
            case "thinking":
                self._reasoned = self._emit(text, ThinkingText, self._reasoned)
            case "answer":
                self._answer_with_boxes.append(text)
                self._answered = self._emit(text, AnswerText, self._answered)
            case _:
                assert_never(self._state)

    def _emit(self, text: str, kind: type[ThinkingText | AnswerText], started: bool) -> bool:
        """Emit `text` without trailing white space, which is kept until more text follows.

        Returns:
            Whether any text of this kind has been emitted so far, given that `started` says so before this call.
        """
        solid = text.rstrip()
        if not solid:
            self._space += text
            return started
        whole = self._space + solid
        self._space = text[len(solid) :]
        self._events.append(kind(whole if started else _without_blank_lines(whole, kind)))
        return True

    def _actions_of(self, dialect: Dialect) -> dict[str, Callable[[], None]]:
        """Map each tag of the dialect to its effect."""
        actions: dict[str, Callable[[], None]] = {}
        if dialect.think:
            actions |= zip(dialect.think, (self._open_reasoning, self._close_reasoning), strict=True)
        if dialect.answer:
            actions |= dict.fromkeys(dialect.answer, self._enter_answer)
        if dialect.tools != "none":
            actions |= {CALL_START: self._start_call, CALL_END: self._close_call}
        return actions

    def _act_on(self, tag: str) -> None:
        if tag in self._actions:
            self._actions[tag]()
            self._may_retract = False  # only the first tag can show that the opening tag was missing
        elif tag in BOX_TAGS and self._state == "answer":
            self._answer_with_boxes.append(tag)
        elif tag in TURN_TOKENS and self._state == "call":
            self._end_call(closed=False)

    def _open_reasoning(self) -> None:
        if self._state == "answer":
            self._state = "thinking"
            self._space = "\n" if self._reasoned else ""  # separates several parts of the reasoning

    def _close_reasoning(self) -> None:
        if self._state == "answer" and self._may_retract and self._answered:
            self._events.append(Retraction())
            self._answered, self._reasoned = False, True
            self._answer_with_boxes.clear()
            self._space = ""
        self._enter_answer()

    def _enter_answer(self) -> None:
        if self._state == "thinking":
            self._state = "answer"
            self._space = "\n" if self._answered else ""

    def _start_call(self) -> None:
        if self._state == "call":
            self._end_call(closed=False)
        self._enter_answer()  # a call closes the reasoning, too
        self._state = "call"

    def _close_call(self) -> None:
        if self._state == "call":
            self._end_call(closed=True)

    def _end_call(self, *, closed: bool) -> None:
        call = read_call("".join(self._call_text), closed=closed, tools=self._tools)
        self._call_text.clear()
        self._events.append(CallMade(call))
        self._state = "answer"


class _Tags:
    """A set of tags to search for in text that is still growing."""

    def __init__(self, tags: Sequence[str]) -> None:
        self.search = re.compile("|".join(re.escape(tag) for tag in tags)).search
        self._beginnings = {tag[:length] for tag in tags for length in range(1, len(tag))}
        self._longest = max(len(tag) for tag in tags) - 1

    def certain(self, text: str) -> int:
        """Return the length of `text` without the longest suffix that may be the beginning of a tag."""
        start = max(0, len(text) - self._longest)
        return next((cut for cut in range(start, len(text)) if text[cut:] in self._beginnings), len(text))


def _without_blank_lines(text: str, kind: type[ThinkingText | AnswerText]) -> str:
    """Drop blank lines at the start. The first line of an answer keeps its indentation, that of reasoning does not."""
    solid = text.lstrip()
    if kind is ThinkingText:
        return solid
    space = text[: len(text) - len(solid)]
    return space.rpartition("\n")[2] + solid
