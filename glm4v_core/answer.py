"""From the raw text that an engine yields for one request to deltas and the final completion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

from glm4v_core.defaults import images_of
from glm4v_core.dialect.grammar import check_answer
from glm4v_core.dialect.parsing import (
    AnswerText,
    CallMade,
    Event,
    Phase,
    Retraction,
    Splitter,
    ThinkingText,
    find_boxes,
    fold,
)
from glm4v_core.engines import EngineInfo
from glm4v_core.errors import InvalidOutputError, TruncatedOutputError
from glm4v_core.types import Completion, Delta, FinishReason, Piece, Regex, Request, Timings, TokenLogprob, Usage


class AnswerReader:
    """The answer to one request while it is being generated."""

    def __init__(self, request: Request, info: EngineInfo) -> None:
        self._request = request
        self._info = info
        self._splitter = Splitter(info.family.dialect, _phase(request, info), request.tools)
        self._events: list[Event] = []
        self._logprobs: list[TokenLogprob] = []
        self._tokens = 0
        self._thinking_tokens = 0
        self._open_tokens = 0  # tokens whose text may still turn out to be reasoning

    def take(self, piece: Piece) -> Iterator[Delta]:
        """Take the engine's next piece and yield the text that can now be classified."""
        self._tokens += piece.tokens
        self._open_tokens += piece.tokens
        self._logprobs += piece.logprobs
        events = self._splitter.feed(piece.text)
        if piece.finish is not None:
            events += self._splitter.finish()
        self._events += events
        self._count(events)
        if piece.logprobs:
            yield Delta(logprobs=piece.logprobs)
        yield from map(_delta, events)

    def complete(self, last: Piece) -> Completion:
        """Build the completion and check it against the request.

        Args:
            last: the engine's last piece, with finish, usage and timings.

        Raises:
            TruncatedOutputError, InvalidOutputError: it does not satisfy the constraint or the tool choice.
        """
        split = fold(self._events)
        sizes = [image.provenance.size for image in images_of(self._request)]
        usage = last.usage or Usage(completion=self._tokens)
        completion = Completion(
            text=split.text,
            thinking=split.thinking,
            boxes=find_boxes(self._splitter.boxed, sizes),
            tool_calls=split.tool_calls,
            finish=self._finish(last.finish or "stop", called=bool(split.tool_calls)),
            usage=replace(usage, thinking=usage.thinking or self._thinking_tokens),
            timings=last.timings or Timings(),
            logprobs=tuple(self._logprobs),
            model=self._info.model,
        )
        _check(completion, self._request)
        return completion

    def _count(self, events: list[Event]) -> None:
        """Attribute the tokens since the last event to reasoning or to the answer."""
        if not events:
            return  # the splitter holds the text back, perhaps as the beginning of a tag
        if any(isinstance(event, Retraction) for event in events):
            self._thinking_tokens = self._tokens  # all text so far was reasoning
        elif any(isinstance(event, ThinkingText) for event in events):
            self._thinking_tokens += self._open_tokens
        self._open_tokens = 0

    def _finish(self, finish: FinishReason, *, called: bool) -> FinishReason:
        if finish == "stop" and called:
            return "tool_calls"
        if finish == "length" and self._events and isinstance(self._events[-1], ThinkingText):
            return "length_in_thinking"
        return finish


def _phase(request: Request, info: EngineInfo) -> Phase:
    """Tell whether the engine's text may begin with reasoning."""
    dialect = info.family.dialect
    return "answer" if dialect.think is None or not request.thinking else "free"


def _delta(event: Event) -> Delta:
    match event:
        case ThinkingText(text):
            return Delta(thinking=text)
        case AnswerText(text):
            return Delta(text=text)
        case CallMade(call):
            return Delta(tool_call=call)
        case Retraction():
            return Delta(retracted=True)
        case _:
            assert_never(event)


def _check(completion: Completion, request: Request) -> None:
    """Raise an OutputError if the answer does not satisfy the request."""
    forced = request.tool_choice not in ("auto", "none")
    called = any(call.arguments is not None for call in completion.tool_calls)
    if completion.finish == "cancelled" or called or (completion.tool_calls and not forced):
        return
    try:
        if forced:
            raise InvalidOutputError("The model called no tool.", hint="Ask again, or with fewer tools.")
        if request.constraint is not None:
            check_answer(completion.text, request.constraint)
    except InvalidOutputError as error:
        if completion.finish == "stop":
            raise
        raise _truncated(completion) from error
    # `check_answer` does not check a regex, so a truncated answer would pass unnoticed.
    if isinstance(request.constraint, Regex) and completion.finish != "stop":
        raise _truncated(completion)


def _truncated(completion: Completion) -> TruncatedOutputError:
    hint = "Raise repetition_penalty, or limit the schema's strings and lists with maxLength and maxItems."
    return TruncatedOutputError(
        f"The answer was cut off ({completion.finish}) after {completion.usage.completion} tokens: "
        f"{completion.text[:200]!r}.",
        hint=hint if completion.finish == "repetition" else None,
    )
