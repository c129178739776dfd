"""The Engine protocol. Engines never import each other; `loading` chooses one, `sharing` keeps loaded engines."""

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
        engine: name of the engine.
        model: checkpoint folder, hub id or served name.
        context: maximum number of tokens of a prompt and its completion together.
        device: where the model runs, such as "cuda:0".
        dtype: of the weights, such as "bfloat16".
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
    """Exact number of tokens in a prompt; `image` is the number of visual tokens among them."""

    prompt: int
    image: int


def new_tokens(request: Request, info: EngineInfo, prompt: int) -> int:
    """Return the maximum number of new tokens.

    Args:
        request: its max_tokens is used if it is set. Otherwise it is what fits, at most the family's default.
        info: has the length of the context.
        prompt: number of tokens in the prompt.

    Raises:
        ContextOverflowError: prompt and new tokens do not fit into the context.
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
        """Yield raw text as it is generated; the last piece carries finish, usage and timings.

        Closing the generator aborts the request inside the engine. If the prompt already opened the reasoning, the
        text begins with the opening tag.

        Args:
            request: checked and complete, with all defaults filled in. Only max_tokens may be None, see `new_tokens`.
        """
        ...

    async def count_tokens(self, request: Request) -> TokenCount:
        """Count the tokens of a request's prompt, including its images."""
        ...

    async def close(self) -> None:
        """Free the memory. Closing twice is harmless; later calls of other methods raise EngineClosedError."""
        ...


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can release its device's memory and stay loaded."""

    async def sleep(self) -> None: ...

    async def wake_up(self) -> None: ...


def sleeper(engine: Engine) -> Sleeper:
    """Return the engine, typed as one that can sleep.

    Raises:
        UnsupportedError: the engine cannot sleep.
    """
    if not isinstance(engine, Sleeper):
        raise UnsupportedError(
            f"The {engine.info.engine} engine cannot sleep.", hint="Use engine='vllm' with enable_sleep_mode=True."
        )
    return engine
