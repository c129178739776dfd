"""`Glm4v`: a loaded model, as adapters, the command line and all other callers use it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, overload

from glm4v_core.answer import AnswerReader
from glm4v_core.concurrency.bridge import iterate_async, iterate_sync, run_async, run_sync
from glm4v_core.defaults import Defaults, complete
from glm4v_core.engines import Engine, EngineInfo, TokenCount, sleeper
from glm4v_core.engines.loading import plan_engine
from glm4v_core.engines.sharing import load_engine
from glm4v_core.errors import EngineError, EngineTimeoutError, Glm4vError
from glm4v_core.types import Completion, Delta, Request, Sampling


class Glm4v:
    """A loaded model. Blocking methods may be called from any thread, methods that begin with `a` from any event loop.

    All of them run the same asynchronous stream on the engine loop. A whole answer is collected from its stream, a
    batch is several streams at once, and cancelling a call aborts its requests inside the engine.
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
        """Load a model, or share one that is already loaded with the same engine and options.

        Args:
            model: checkpoint folder, hub id or "tiny". None reads GLM4V_MODEL, then falls back to "tiny". With the
                server engine it is the name under which the model is served; None works if the server has only one.
            engine: auto, vllm, transformers, server or scripted. None reads GLM4V_ENGINE, then falls back to auto.
            sampling: default for requests that do not set it, like the next three; see `Request`.
            thinking: see `Request`.
            thinking_budget: see `Request`.
            timeout: see `Request`.
            **options: for the engine, such as `device`, `slots` or `base_url`.

        Raises:
            ConfigError: an option is unknown or wrong, or a library is missing.
            ModelError: the model cannot be found or loaded.
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
        timeout: float | None = None,  # noqa: ASYNC109  # for requests, not for loading
        **options: Any,
    ) -> Self:
        """Asynchronous version of `load`. Large weights take minutes; the event loop is not blocked meanwhile."""
        plan = await asyncio.to_thread(plan_engine, model, engine, options)
        return cls(
            await run_async(load_engine(plan)), Defaults(sampling or Sampling(), thinking, thinking_budget, timeout)
        )

    @classmethod
    def from_engine(cls, engine: Engine, defaults: Defaults | None = None) -> Self:
        """Use an engine that you created yourself, such as a ScriptedEngine; `close` closes it."""
        return cls(engine, defaults)

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    @property
    def defaults(self) -> Defaults:
        """Settings for requests that do not set them; they take precedence over the family's defaults."""
        return self._defaults

    def stream(self, request: Request) -> Generator[Delta, None, None]:
        """Yield the answer as it is generated; the last delta carries the whole completion.

        Raises:
            InputError, ConfigError: the request is wrong.
            EngineError: the engine failed, or the request's timeout passed.
            OutputError: the answer does not satisfy the request's constraint or tool choice.
        """
        return iterate_sync(self._deltas(request))

    def astream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Asynchronous version of `stream`."""
        return iterate_async(self._deltas(request))

    def generate(self, request: Request) -> Completion:
        """Return the whole answer; raises the same errors as `stream`."""
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
        """Run all requests at once and return their answers in the same order.

        Args:
            requests: their settings may differ.
            return_errors: return an error in place of an answer. Otherwise the first error is raised and cancels the
                other requests.
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
        """Count the tokens of a request's prompt exactly, including its images."""
        return run_sync(self._count_tokens(request))

    async def acount_tokens(self, request: Request) -> TokenCount:
        """Asynchronous version of `count_tokens`."""
        return await run_async(self._count_tokens(request))

    def sleep(self) -> None:
        """Release the GPU memory and keep the weights in main memory; for vLLM with enable_sleep_mode=True.

        Running requests fail, and new ones wait for `wake_up`. This affects everything that shares the engine.

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
        """Release the engine; its memory is freed once its last user has closed it. Closing twice is harmless."""
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
        """Run one request: check and complete it, read the engine's stream within the timeout, and parse it."""
        info = self._engine.info
        request = complete(request, self._defaults, info.family)
        answer = AnswerReader(request, info)
        deadline = None if request.timeout is None else asyncio.get_running_loop().time() + request.timeout
        async with aclosing(self._engine.stream(request)) as pieces:
            while True:
                # The timeout is only checked while waiting for the engine: between pieces the caller's code runs, and
                # cancelling it there would raise in the wrong place.
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
    """Return a completion, or an error of the request; raise any other error, such as a cancellation."""
    if isinstance(outcome, BaseException) and not isinstance(outcome, Glm4vError):
        raise outcome
    return outcome


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncGenerator[None, None]:
    """Raise an EngineTimeoutError if the block is not finished at `deadline`, in seconds of the event loop's clock."""
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise EngineTimeoutError("The answer was not complete within the request's timeout.") from error
