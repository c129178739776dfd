"""`Glm4v`: the one door to a loaded model, for the adapters, the command line and every other caller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, overload

from glm4v_core.answer import Answer
from glm4v_core.concurrency.bridge import iterate_async, iterate_sync, run_async, run_sync
from glm4v_core.defaults import Defaults, complete
from glm4v_core.engines import Engine, EngineInfo, TokenCount, sleeper
from glm4v_core.engines.loading import plan_engine
from glm4v_core.engines.sharing import load_engine
from glm4v_core.errors import EngineError, EngineTimeoutError, Glm4vError
from glm4v_core.types import Completion, Delta, Request, Sampling


class Glm4v:
    """A loaded model. Every method may be called from any thread, those that begin with `a` from any event loop.

    All of them run one asynchronous stream on the engine loop: a whole answer is the fold of its stream, many answers
    are many streams at once, and breaking off a call aborts its requests inside the engine.
    """

    def __init__(self, engine: Engine, defaults: Defaults | None = None) -> None:
        self._engine = engine
        self._defaults = defaults or Defaults()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        *,
        sampling: Sampling | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Self:
        """Load a model, or share it when it is loaded already with the same engine and options.

        Args:
            model: checkpoint folder, hub id or "tiny"; None is GLM4V_MODEL, or else "tiny". With the engine server,
                the name by which it is served; None is the only one there is.
            engine: auto, vllm, transformers, server or scripted; None is GLM4V_ENGINE, or else auto.
            sampling: what requests use where they say nothing, as do the next three.
            thinking: see `Request`.
            thinking_budget: see `Request`.
            timeout: see `Request`.
            **options: the engine's own, such as `device`, `slots` or `base_url`; unknown ones raise.
        """
        plan = plan_engine(model, engine, options)
        defaults = Defaults(sampling or Sampling(), thinking, thinking_budget, timeout)
        return cls(run_sync(load_engine(plan)), defaults)

    @classmethod
    async def aload(
        cls,
        model: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        *,
        sampling: Sampling | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # of requests, not of loading
        **options: Any,
    ) -> Self:
        """Asynchronous version of `load`; large weights take minutes, for which the event loop stays free."""
        plan = await asyncio.to_thread(plan_engine, model, engine, options)
        return cls(
            await run_async(load_engine(plan)), Defaults(sampling or Sampling(), thinking, thinking_budget, timeout)
        )

    @classmethod
    def from_engine(cls, engine: Engine, defaults: Defaults | None = None) -> Self:
        """Use an engine that was made by hand, such as a ScriptedEngine; `close` closes it."""
        return cls(engine, defaults)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def defaults(self) -> Defaults:
        """What requests use where they say nothing, before the family's own defaults."""
        return self._defaults

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Yield the answer as it is made; the last delta carries the whole completion."""
        return iterate_sync(self._deltas(request))

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Asynchronous version of `stream`."""
        return iterate_async(self._deltas(request))

    def generate(self, request: Request) -> Completion:
        """Return the whole answer."""
        return run_sync(self._generate(request))

    async def agenerate(self, request: Request) -> Completion:
        """Asynchronous version of `generate`."""
        return await run_async(self._generate(request))

    @overload
    def generate_many(
        self, requests: Iterable[Request], *, return_errors: Literal[False] = False
    ) -> list[Completion]: ...

    @overload
    def generate_many(self, requests: Iterable[Request], *, return_errors: bool) -> list[Completion | Glm4vError]: ...

    def generate_many(
        self, requests: Iterable[Request], *, return_errors: bool = False
    ) -> Sequence[Completion | Glm4vError]:
        """Return the answers to all requests, which run at once, in their order.

        Args:
            requests: each with settings of its own.
            return_errors: put an error in the place of its answer; otherwise the first one ends all and is raised.
        """
        return run_sync(self._generate_many(list(requests), return_errors))

    @overload
    async def agenerate_many(
        self, requests: Iterable[Request], *, return_errors: Literal[False] = False
    ) -> list[Completion]: ...

    @overload
    async def agenerate_many(
        self, requests: Iterable[Request], *, return_errors: bool
    ) -> list[Completion | Glm4vError]: ...

    async def agenerate_many(
        self, requests: Iterable[Request], *, return_errors: bool = False
    ) -> Sequence[Completion | Glm4vError]:
        """Asynchronous version of `generate_many`."""
        return await run_async(self._generate_many(list(requests), return_errors))

    def count_tokens(self, request: Request) -> TokenCount:
        """Count the tokens of a request's prompt, exactly and with its images."""
        return run_sync(self._count_tokens(request))

    async def acount_tokens(self, request: Request) -> TokenCount:
        """Asynchronous version of `count_tokens`."""
        return await run_async(self._count_tokens(request))

    def sleep(self) -> None:
        """Give the GPU memory back and keep the weights in the computer's; for vLLM with enable_sleep_mode=True.

        Requests that run fail, those that come wait for `wake_up`. All who share the engine sleep with it.

        Raises:
            UnsupportedError: this engine cannot sleep.
        """
        run_sync(sleeper(self._engine).sleep())

    async def asleep(self) -> None:
        """Asynchronous version of `sleep`."""
        await run_async(sleeper(self._engine).sleep())

    def wake_up(self) -> None:
        """Undo `sleep`."""
        run_sync(sleeper(self._engine).wake_up())

    async def awake_up(self) -> None:
        """Asynchronous version of `wake_up`."""
        await run_async(sleeper(self._engine).wake_up())

    def close(self) -> None:
        """Give the engine back; its memory is freed when nobody shares it any more. Closing twice is harmless."""
        run_sync(self._engine.close())

    async def aclose(self) -> None:
        """Asynchronous version of `close`."""
        await run_async(self._engine.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Run one request: check and complete it, read the engine's stream under its timeout, and parse that."""
        info = self._engine.info
        request = complete(request, self._defaults, info.family)
        answer = Answer(request, info)
        deadline = None if request.timeout is None else asyncio.get_running_loop().time() + request.timeout
        async with aclosing(self._engine.stream(request)) as pieces:
            while True:
                # Between pieces the caller's code runs, whose time is not the engine's.
                async with _until(deadline):
                    piece = await anext(pieces, None)
                if piece is None:
                    raise EngineError("The engine's stream ended without a finish reason.")
                for delta in answer.take(piece):
                    yield delta
                if piece.finish is not None:
                    yield Delta(completion=answer.complete(piece))
                    return

    async def _generate(self, request: Request) -> Completion:
        async with aclosing(self._deltas(request)) as deltas:
            completions = [delta.completion async for delta in deltas if delta.completion is not None]
        return completions[-1]

    async def _generate_many(
        self, requests: Sequence[Request], return_errors: bool
    ) -> Sequence[Completion | Glm4vError]:
        tasks = [asyncio.create_task(self._generate(request)) for request in requests]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=return_errors)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [_expected(outcome) for outcome in outcomes]

    async def _count_tokens(self, request: Request) -> TokenCount:
        return await self._engine.count_tokens(complete(request, self._defaults, self._engine.info.family))


def _expected(outcome: Completion | BaseException) -> Completion | Glm4vError:
    """Return an outcome that stands in a list; raise one that is not an error of the request."""
    if isinstance(outcome, BaseException) and not isinstance(outcome, Glm4vError):
        raise outcome
    return outcome


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncGenerator[None, None]:
    """Raise an EngineTimeoutError when the block takes longer than until `deadline`, in the loop's time."""
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise EngineTimeoutError("The answer was not complete within the request's timeout.") from error
