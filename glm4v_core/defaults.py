"""The one place where requests are completed and checked; engines and dialects trust what arrives.

What only a loaded checkpoint or a grammar compiler can tell is refused later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from glm4v_core.dialect.families import Family
from glm4v_core.dialect.grammar import check_constraint, check_tools
from glm4v_core.errors import ConfigError, MessageError, UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.types import Request, Sampling, ToolCall, ToolResult

MAX_LOGPROBS = 20

# Smallest and largest value; None is no bound.
_BOUNDS: dict[str, tuple[float, float | None]] = {
    "temperature": (0.0, None),
    "top_p": (0.0, 1.0),
    "top_k": (0, None),
    "repetition_penalty": (0.0, None),
    "max_tokens": (1, None),
    "logprobs": (0, MAX_LOGPROBS),
}


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings of a model, for whatever a request leaves open. None leaves it to the family."""

    sampling: Sampling = field(default_factory=Sampling)
    thinking: bool | None = None
    thinking_budget: int | None = None
    timeout: float | None = None


def complete(request: Request, defaults: Defaults, family: Family) -> Request:
    """Fill in what a request leaves open, and check it. max_tokens stays None unless the request or the model sets it.

    Raises:
        InputError, ConfigError: no engine could serve the request.
    """
    filled = replace(
        request,
        sampling=_filled(request.sampling, defaults.sampling, family.sampling),
        thinking=_first(request.thinking, defaults.thinking, family.thinking),
        thinking_budget=_first(request.thinking_budget, defaults.thinking_budget),
        timeout=_first(request.timeout, defaults.timeout),
    )
    _check_settings(filled)
    _check_family(filled, family)
    _check_images(filled, family)
    check_tools(filled)
    if filled.constraint is not None:
        check_constraint(filled.constraint)
    return filled


def images_of(request: Request) -> Iterator[Image]:
    """Yield the images of a request in the order of its messages, including those in tool results."""
    for part in (part for message in request.messages for part in message.parts):
        for inner in part.parts if isinstance(part, ToolResult) else (part,):
            if isinstance(inner, Image):
                yield inner


def _filled(call: Sampling, model: Sampling, family: Sampling) -> Sampling:
    # The family's max_tokens is capped by the room that the prompt leaves; see `engines.new_tokens`.
    family = replace(family, max_tokens=None)
    values = {name: _first(*(getattr(level, name) for level in (call, model, family))) for name in _SAMPLING}
    return Sampling(**values, stop=call.stop or model.stop)


_SAMPLING = [entry.name for entry in fields(Sampling) if entry.name != "stop"]


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_settings(request: Request) -> None:
    for name, (lowest, highest) in _BOUNDS.items():
        value = getattr(request.sampling, name)
        if value is not None and not (lowest <= value <= (value if highest is None else highest)):
            raise ConfigError(
                f"{name}={value} is out of range.", hint=f"At least {lowest}, at most {highest or 'any'}."
            )
    if request.sampling.repetition_penalty == 0:
        raise ConfigError("repetition_penalty=0 is out of range.", hint="1 is off; more than 1 discourages repetition.")
    if not all(request.sampling.stop):
        raise ConfigError("A stop string is empty.", hint="Leave it out.")
    if request.thinking_budget is not None and request.thinking_budget < 0:
        raise ConfigError(f"thinking_budget={request.thinking_budget} is negative.", hint="0 turns reasoning off.")
    if request.timeout is not None and request.timeout <= 0:
        raise ConfigError(f"timeout={request.timeout} is not positive.", hint="None waits without a limit.")


def _check_family(request: Request, family: Family) -> None:
    if not request.messages:
        raise MessageError("The request has no messages.", hint="Send at least one user message.")
    if request.thinking and family.dialect.think is None:
        raise UnsupportedError(f"{family.name} cannot think.", hint="Leave thinking off.")
    calls = (part for message in request.messages for part in message.parts if isinstance(part, ToolCall | ToolResult))
    wants_tools = (request.tools and request.tool_choice != "none") or any(calls)
    if wants_tools and family.dialect.tools == "none":
        raise UnsupportedError(f"{family.name} does not support tools.", hint="Leave out tools and tool calls.")


def _check_images(request: Request, family: Family) -> None:
    count, most = sum(1 for _ in images_of(request)), family.limits.max_images
    if count > most:
        raise MessageError(
            f"The request has {count} images; {family.name} takes {most}.", hint="Send fewer images in one request."
        )
