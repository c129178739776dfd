"""Raw model text to thinking, answer and tool calls. Pure; a whole answer and any chunking of it give the same result.

The rules, for output that is not always well formed:

- `<think>` opens a thought and `</think>` closes it. `<answer>` and `<tool_call>` close it too.
- A missing `<think>` is accepted where the prompt ended inside the thought (phase "thinking"). In phase "free", text
  that does not begin with `<think>` is given out as answer at once; if the first tag after it is `</think>`, it was a
  thought, and `Retraction` says so; `fold` honours it. Elsewhere a stray `</think>` is dropped.
- Blank lines before the answer and white space at its end are dropped; a thought is stripped.
- Answer, box, role and end tags never reach the text. Boxes stay in `Splitter.boxed` for `find_boxes`.
- Inside a tool call only the call's own tags and the role tokens count.
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
"""Where the output starts: before everything, inside a thought, or after it."""

TURN_TOKENS = (*ROLE_TOKENS, "<|endoftext|>")
"""Tokens that end a call wherever they come."""


@dataclass(frozen=True, slots=True)
class ThinkingText:
    text: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    text: str


@dataclass(frozen=True, slots=True)
class CallMade:
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Retraction:
    """All answer text so far was a thought whose opening tag was missing."""


Event = ThinkingText | AnswerText | CallMade | Retraction


@dataclass(frozen=True, slots=True)
class Split:
    """What the events of one answer add up to."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def fold(events: Iterable[Event]) -> Split:
    """Add up the events of one answer."""
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
    """Splits one answer; feed it text as it comes, with special tokens kept, then finish it once."""

    def __init__(self, dialect: Dialect, phase: Phase, tools: Sequence[Tool] = ()) -> None:
        self._tools = tuple(tools)
        self._state: Literal["thinking", "answer", "call"] = "thinking" if phase == "thinking" else "answer"
        self._actions = self._actions_of(dialect)
        self._tags = _Tags((*TURN_TOKENS, *BOX_TAGS, *self._actions))
        self._call_tags = _Tags((*TURN_TOKENS, CALL_START, CALL_END))
        self._untagged = phase == "free"
        self._waiting = ""  # text whose meaning is open: it may be the beginning of a tag
        self._space = ""  # white space, given out only before more text of the same kind
        self._thought = False
        self._answered = False
        self._body: list[str] = []
        self._boxed: list[str] = []
        self._events: list[Event] = []

    @property
    def boxed(self) -> str:
        """The answer so far with its box tokens, for `find_boxes`."""
        return "".join(self._boxed)

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of raw text and return what became certain."""
        self._waiting += text
        while found := self._current_tags.search(self._waiting):
            before, self._waiting = self._waiting[: found.start()], self._waiting[found.end() :]
            self._add(before)
            self._apply(found[0])
        certain = self._current_tags.certain(self._waiting)
        self._add(self._waiting[:certain])
        self._waiting = self._waiting[certain:]
        return self._take_events()

    def finish(self) -> list[Event]:
        """End the answer: what was held back is text, and an open call is a broken one."""
        self._add(self._waiting)
        self._waiting = ""
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
        """Add text that holds no tag."""
        match self._state:
            case "call":
                self._body.append(text)
            case "thinking":
                self._thought = self._give(text, ThinkingText, self._thought)
            case "answer":
                self._boxed.append(text)
                self._answered = self._give(text, AnswerText, self._answered)
            case _:
                assert_never(self._state)

    def _give(self, text: str, kind: type[ThinkingText | AnswerText], started: bool) -> bool:
        """Give out `text` without the white space at its end; return whether text of this kind has begun."""
        solid = text.rstrip()
        if not solid:
            self._space += text
            return started
        whole = self._space + solid
        self._space = text[len(solid) :]
        self._events.append(kind(whole if started else _without_blank_lines(whole, kind)))
        return True

    def _actions_of(self, dialect: Dialect) -> dict[str, Callable[[], None]]:
        """Say what each tag of the dialect does."""
        actions: dict[str, Callable[[], None]] = {}
        if dialect.think:
            actions |= zip(dialect.think, (self._open_thought, self._close_thought), strict=True)
        if dialect.answer:
            actions |= dict.fromkeys(dialect.answer, self._enter_answer)
        if dialect.tools != "none":
            actions |= {CALL_START: self._start_call, CALL_END: self._close_call}
        return actions

    def _apply(self, tag: str) -> None:
        if tag in self._actions:
            self._actions[tag]()
            self._untagged = False
        elif tag in BOX_TAGS and self._state == "answer":
            self._boxed.append(tag)
        elif tag in TURN_TOKENS and self._state == "call":
            self._end_call(closed=False)

    def _open_thought(self) -> None:
        if self._state == "answer":
            self._state = "thinking"
            self._space = "\n" if self._thought else ""

    def _close_thought(self) -> None:
        if self._state == "answer" and self._untagged and self._answered:
            self._events.append(Retraction())
            self._answered, self._thought = False, True
            self._boxed.clear()
            self._space = ""
        self._enter_answer()

    def _enter_answer(self) -> None:
        if self._state == "thinking":
            self._state = "answer"
            self._space = "\n" if self._answered else ""

    def _start_call(self) -> None:
        if self._state == "call":
            self._end_call(closed=False)
        self._enter_answer()
        self._state = "call"

    def _close_call(self) -> None:
        if self._state == "call":
            self._end_call(closed=True)

    def _end_call(self, *, closed: bool) -> None:
        call = read_call("".join(self._body), closed=closed, tools=self._tools)
        self._body.clear()
        self._events.append(CallMade(call))
        self._state = "answer"


class _Tags:
    """A set of tags to look for in text that is still growing."""

    def __init__(self, tags: Sequence[str]) -> None:
        self.search = re.compile("|".join(re.escape(tag) for tag in tags)).search
        self._beginnings = {tag[:length] for tag in tags for length in range(1, len(tag))}
        self._longest = max(len(tag) for tag in tags) - 1

    def certain(self, text: str) -> int:
        """Count the characters before the longest end of `text` that may become a tag."""
        start = max(0, len(text) - self._longest)
        return next((cut for cut in range(start, len(text)) if text[cut:] in self._beginnings), len(text))


def _without_blank_lines(text: str, kind: type[ThinkingText | AnswerText]) -> str:
    """Drop what stands before the first character; an answer keeps the indentation of its first line."""
    solid = text.lstrip()
    if kind is ThinkingText:
        return solid
    space = text[: len(text) - len(solid)]
    return space.rpartition("\n")[2] + solid
