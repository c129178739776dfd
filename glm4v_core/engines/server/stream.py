"""A server's chunks back to raw text, as the model wrote it: one parser reads the answers of every engine.

Where a server has parsers of its own, thoughts and calls arrive cut out and without their tags; here the tags come
back. Where it has none, the text passes through as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glm4v_core.dialect.dialects import THINK_TAGS
from glm4v_core.dialect.tool_calls import CALL_END, CALL_START, ToolArguments, write_call
from glm4v_core.engines.server.client import Served
from glm4v_core.errors import ServerError
from glm4v_core.types import FinishReason, Piece, Request, TokenLogprob, Tool, Usage

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "repetition": "repetition",
    "abort": "cancelled",
}
"""What servers say, and what it means; anything else is an error that names it."""


@dataclass(slots=True)
class _Call:
    name: str = ""
    arguments: str = ""


class AnswerStream:
    """One answer while it arrives.

    Attributes:
        finish: set by the chunk that ends the answer; the usage may come after it.
        usage: the server's last word on it.
    """

    def __init__(self, request: Request, served: Served) -> None:
        self._tools = request.tools
        # Where there is no thought to cut out, a server's parser may take the whole answer for one.
        self._thinks = served.family.dialect.think is not None and not served.family.never_thinks
        self._thinking = False
        self._calls: dict[int, _Call] = {}
        self._counted = 0
        self.finish: FinishReason | None = None
        self.usage: Usage | None = None

    def take(self, chunk: Any) -> Piece | None:
        """Take the next chunk and return what is new in it, if anything.

        Raises:
            ServerError: the answer ended in a way that nobody knows.
        """
        choice = next(iter(getattr(chunk, "choices", None) or ()), None)
        text = "" if choice is None else self._text(choice)
        logprobs = () if choice is None else tuple(_logprobs(choice))
        tokens = self._tokens(getattr(chunk, "usage", None), len(logprobs) or bool(text))
        return Piece(text, tokens, logprobs) if text or tokens or logprobs else None

    def _text(self, choice: Any) -> str:
        delta, ended = getattr(choice, "delta", None), getattr(choice, "finish_reason", None)
        thought = getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None)
        text = self._thought(thought or "") + self._answer(getattr(delta, "content", None) or "")
        for part in getattr(delta, "tool_calls", None) or ():
            self._take_call(part)
        if ended is not None:
            self.finish = _finish_reason(ended)
            text += self._answer("\n".join(self._written_calls()))
        return text

    def _thought(self, text: str) -> str:
        if not text or not self._thinks or self._thinking:
            return text
        self._thinking = True
        return THINK_TAGS[0] + text

    def _answer(self, text: str) -> str:
        if not text or not self._thinking:
            return text
        self._thinking = False
        return THINK_TAGS[1] + text

    def _take_call(self, part: Any) -> None:
        """Gather a call, which comes in parts; only the end of the answer says for sure that it is whole."""
        call = self._calls.setdefault(part.index, _Call())
        if part.function is not None:
            call.name += part.function.name or ""
            call.arguments += part.function.arguments or ""

    def _written_calls(self) -> Iterator[str]:
        whole = self.finish in ("stop", "tool_calls")
        last = max(self._calls, default=None)
        for index, call in sorted(self._calls.items()):
            yield _written(call, self._tools, closed=whole or index != last)

    def _tokens(self, said: Any, least: int) -> int:
        """Count a chunk's tokens: exactly where the server keeps count, else by what the chunk shows."""
        self.usage = _usage(said) or self.usage
        total = self.usage.completion if said and self.usage else self._counted + least
        new = max(0, total - self._counted)
        self._counted += new
        return new


def _finish_reason(said: str) -> FinishReason:
    if said not in FINISH_REASONS:
        raise ServerError(
            f"The server ended the answer with the reason {said!r}.", hint=f"Known are: {', '.join(FINISH_REASONS)}."
        )
    return FINISH_REASONS[said]


def _written(call: _Call, tools: Sequence[Tool], *, closed: bool) -> str:
    """Write a call as models do; arguments that are no JSON object stay as they are, for the parser to report."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if isinstance(arguments, dict):
        known = ToolArguments(next((tool for tool in tools if tool.name == call.name), Tool(call.name)))
        shown = {key: _shown(key, value, known) for key, value in arguments.items()}
        text = write_call(call.name, shown)
    else:
        text = f"{CALL_START}{call.name}\n{call.arguments}{CALL_END}"
    return text if closed else text.removesuffix(CALL_END)


def _shown(key: str, value: Any, known: ToolArguments) -> str:
    """Write a value so that it is read back unchanged: a string is bare where it cannot be taken for anything else."""
    if isinstance(value, str) and known.decode(key, value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _logprobs(choice: Any) -> Iterator[TokenLogprob]:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    for entry in content or ():
        yield TokenLogprob(entry.token, entry.logprob, tuple((top.token, top.logprob) for top in entry.top_logprobs))


def _usage(said: Any) -> Usage | None:
    if said is None:
        return None
    prompt = getattr(said, "prompt_tokens_details", None)
    completion = getattr(said, "completion_tokens_details", None)
    by_kind = getattr(prompt, "multimodal_tokens", None) or {}
    return Usage(
        prompt=said.prompt_tokens or 0,
        image=by_kind.get("image", 0),
        completion=said.completion_tokens or 0,
        thinking=getattr(completion, "reasoning_tokens", None) or 0,
        cached=getattr(prompt, "cached_tokens", None) or 0,
    )
