"""The Engine protocol. Engines never import each other; `loading` chooses one and `sharing` keeps those in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from glm4v_core.dialect.families import Family
from glm4v_core.errors import ContextOverflowError, UnsupportedError
from glm4v_core.types import Piece, Request


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was loaded, where it runs, and what it accepts.

    Attributes:
        context: tokens a prompt and its completion may hold together.
        versions: library name to version string.
    """

    engine: str
    model: str
    family: Family
    context: int
    device: str
    dtype: str
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Exact prompt length; `image` is the part taken by visual tokens."""

    prompt: int
    image: int


def new_tokens(request: Request, info: EngineInfo, prompt: int) -> int:
    """Return how many tokens may follow a prompt: what the request asks for, or what fits, up to the family's default.

    Raises:
        ContextOverflowError: the context has no room for them.
    """
    room = info.context - prompt
    default = info.family.sampling.max_tokens or info.context
    wanted = request.sampling.max_tokens or max(1, min(room, default))
    if wanted > room:
        raise ContextOverflowError(f"The prompt takes {prompt} of {info.context} tokens, so {wanted} more do not fit.")
    return wanted


class Engine(Protocol):
    """Runs one loaded model. All methods run on the engine loop (see `loop.py`)."""

    @property
    def info(self) -> EngineInfo: ...

    def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Yield raw text as it is made; the last piece carries finish, usage and timings.

        Closing the generator aborts the request inside the engine.
        `request` arrives checked and complete: thinking decided, sampling defaults filled in. Only max_tokens may be
        None; `new_tokens` says what it is then. Where the prompt ends inside a thought, the text begins with the tag
        that opened it.
        """
        ...

    async def count_tokens(self, request: Request) -> TokenCount: ...

    async def close(self) -> None:
        """Free the memory. Idempotent; later calls raise EngineClosedError."""
        ...


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can give its device's memory back and stay loaded."""

    async def sleep(self) -> None: ...

    async def wake_up(self) -> None: ...


def sleeper(engine: Engine) -> Sleeper:
    """Return an engine as one that can sleep.

    Raises:
        UnsupportedError: it cannot.
    """
    if not isinstance(engine, Sleeper):
        raise UnsupportedError(
            f"The {engine.info.engine} engine cannot sleep.", hint="Use engine='vllm' with enable_sleep_mode=True."
        )
    return engine
