"""Values that are passed between adapters, model and engines. All are frozen and only hold data."""

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
    """The model's reasoning in an earlier turn; each dialect keeps or drops it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call by the model.

    Attributes:
        id: matches the call with its `ToolResult`.
        name: of the tool.
        arguments: decoded by the tool's schema; None if they could not be decoded.
        raw: the text that the model wrote for this call; a call that cannot be decoded has nothing else.
        error: why arguments is None.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] | None
    raw: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned; the model sees its images too."""

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
    """A function that the model may call. `parameters` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled. None means the family's default.

    Attributes:
        temperature: 0 is greedy decoding.
        top_p: sample from the most likely tokens that together have this probability; 1 is off.
        top_k: sample from this many of the most likely tokens; 0 is off.
        repetition_penalty: for tokens that occur in prompt or completion, as in transformers; 1 is off.
        max_tokens: upper bound on new tokens, including reasoning.
        stop: strings that end the answer and are never part of it.
        seed: makes sampling repeatable, whatever else is in the batch.
        logprobs: number of alternatives per token, 0 for the chosen token only; None for no log probabilities.
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
    """Everything that one generation needs. Other requests in the same batch do not change its result.

    Attributes:
        messages: the conversation so far; the last one is from the user or a tool.
        tools: functions that the model may call.
        tool_choice: see `ToolChoice`.
        parallel_tool_calls: whether one answer may contain several calls.
        sampling: how tokens are sampled.
        thinking: whether the model reasons before it answers; None is the family's default.
        thinking_budget: maximum number of reasoning tokens; after these the reasoning is closed and the answer begins.
        constraint: applies to the answer, never to the reasoning. With tools it means "tool calls or this".
        timeout: seconds from submission to the last token; None waits forever.
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
    """Durations of one request, in seconds.

    Attributes:
        queue: from submission until the request got a slot.
        first_token: from submission to the first token.
        total: from submission to the end.
    """

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
    """A rectangle in pixels of the original image. `image` is the index of that image in the request."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str = ""
    image: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """What an engine yields: raw text including special tokens. The last piece has finish, usage and timings."""

    text: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """One parsed step of a stream. The deltas of a stream add up to its Completion.

    Attributes:
        text: new text of the answer.
        thinking: new text of the reasoning.
        tool_call: a finished call, in order of appearance.
        retracted: all text so far was reasoning whose opening tag was missing; rare, and only in unconstrained answers.
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
