"""Values that travel between adapters, model and engines. All frozen, no behaviour beyond construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glm4v_core.media.image import Image

Role = Literal["system", "user", "assistant", "tool"]
ToolChoice = Literal["auto", "none", "required"] | str
"""auto, none, required, or the name of the one tool that must be called."""
FinishReason = Literal["stop", "length", "length_in_thinking", "tool_calls", "repetition", "cancelled"]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Video:
    """Frames in order, each with its time in seconds from the start."""

    frames: tuple[Image, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Thinking:
    """The model's own reasoning, sent back in history; each dialect keeps or drops it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call by the model.

    Attributes:
        arguments: decoded by the tool's schema; None when they could not be decoded.
        raw: the text the model wrote for this call; the only trace of a broken call.
        error: why arguments is None.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered; images in it reach the model."""

    call_id: str
    parts: tuple[Text | Image, ...]


Part = Text | Image | Video | Thinking | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...]

    @classmethod
    def system(cls, text: str) -> Message:
        return cls("system", (Text(text),))

    @classmethod
    def user(cls, *parts: Part | str) -> Message:
        return cls("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))

    @classmethod
    def assistant(cls, *parts: Part | str) -> Message:
        return cls("assistant", tuple(Text(part) if isinstance(part, str) else part for part in parts))


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. None means: the family's default.

    Attributes:
        temperature: 0 is greedy.
        repetition_penalty: 1 is off; over prompt and completion, as in transformers.
        max_tokens: upper bound on new tokens, thinking included.
        stop: strings that end the answer and are never part of it.
        seed: makes a draw repeatable whatever else is in the batch.
        logprobs: number of alternatives per token (0: the chosen token only); None: none.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON valid under `schema`."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """The answer is exactly one of `options`."""

    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole answer matches `pattern` (Rust regex syntax)."""

    pattern: str


Constraint = JsonSchema | Choices | Regex


@dataclass(frozen=True, slots=True)
class Request:
    """Everything one generation needs; nothing else in a batch changes it.

    Attributes:
        thinking: on, off, or None for the family's default.
        thinking_budget: most thinking tokens; then the thought is closed and the answer begins.
        parallel_tool_calls: whether one answer may hold several calls.
        constraint: applies to the answer, never to the thought. With tools it means "tool calls or this".
        timeout: seconds from submission to the last token; None waits for ever.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    sampling: Sampling = Sampling()
    thinking: bool | None = None
    thinking_budget: int | None = None
    constraint: Constraint | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `image` and `cached` are parts of `prompt`, `thinking` is a part of `completion`."""

    prompt: int = 0
    image: int = 0
    completion: int = 0
    thinking: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds: waiting for a slot, submission to first token, submission to end."""

    queue: float = 0.0
    first_token: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's log probability (natural logarithm) with the most likely alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the original image `image` (index over all images of the request)."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    image: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What an engine yields: raw text with special tokens kept; the last one carries finish, usage, timings."""

    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """One parsed step of a stream; its pieces add up to the Completion.

    Attributes:
        tool_call: a finished call, in order of appearance.
        retracted: all text so far was thinking, its opening tag was missing; rare, and only in unconstrained answers.
        completion: the whole result, on the last delta only.
    """

    text: str = ""
    thinking: str = ""
    tool_call: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    retracted: bool = False
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """One whole answer."""

    text: str
    thinking: str = ""
    boxes: tuple[Box, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    finish: FinishReason = "stop"
    usage: Usage = Usage()
    timings: Timings = Timings()
    logprobs: tuple[TokenLogprob, ...] = ()
    model: str = ""
