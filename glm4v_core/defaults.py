"""The one place where requests are completed and checked; engines and dialects do not check them again.

Errors that only a loaded checkpoint or a grammar compiler can find are raised later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from glm4v_core.dialect.families import Family
from glm4v_core.dialect.grammar import check_constraint, check_tools
from glm4v_core.errors import ConfigError, MessageError, UnsupportedError
from glm4v_core.media.image import Image
from glm4v_core.types import Request, Sampling, ToolCall, ToolResult
from glm4v_core.validation import Options

MAX_LOGPROBS = 20


class _Settings(Options):
    """Types and bounds of a complete request's settings."""

    # The request keeps its original values, so a value that pydantic would have to convert is an error.
    model_config = ConfigDict(strict=True)

    owner: ClassVar[str] = "A request"

    temperature: float | None = Field(ge=0)
    top_p: float | None = Field(ge=0, le=1)
    top_k: int | None = Field(ge=0)
    repetition_penalty: float | None = Field(gt=0)
    max_tokens: int | None = Field(ge=1)
    seed: int | None
    logprobs: int | None = Field(ge=0, le=MAX_LOGPROBS)
    thinking_budget: int | None = Field(ge=0)
    timeout: float | None = Field(gt=0)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Settings of a model for requests that do not set them. None means the family's default."""

    sampling: Sampling = field(default_factory=Sampling)
    thinking: bool | None = None
    thinking_budget: int | None = None
    timeout: float | None = None


def complete(request: Request, defaults: Defaults, family: Family) -> Request:
    """Fill in the settings that a request does not set, and check it.

    Args:
        request: its own settings come first.
        defaults: of the model; used second.
        family: its defaults come last, except for max_tokens: that stays None unless request or model set it, see
            `engines.new_tokens`.

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
    # The family's max_tokens must be capped by the room that the prompt leaves, which only `engines.new_tokens` knows.
    family = replace(family, max_tokens=None)
    values = {name: _first(*(getattr(level, name) for level in (call, model, family))) for name in _SAMPLING}
    return Sampling(**values, stop=call.stop or model.stop)


_SAMPLING = [entry.name for entry in fields(Sampling) if entry.name != "stop"]


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _check_settings(request: Request) -> None:
    sampling = {name: getattr(request.sampling, name) for name in _SAMPLING}
    _Settings(**sampling, thinking_budget=request.thinking_budget, timeout=request.timeout)
    if not all(request.sampling.stop):
        raise ConfigError("A stop string is empty.", hint="Leave it out.")


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
