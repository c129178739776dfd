"""Asking again after a transient failure of the engine, with tenacity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from llama_index.core.workflow.retry_policy import RetryPolicy  # type: ignore[attr-defined]  # exported by use

from glm4v_core import Completion, Request
from glm4v_core.errors import EngineError, is_transient
from glm4v_core.hosts import Answering

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

ATTEMPTS = 3
"""How often a question is asked where there is no policy, the first time included."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt; each further wait is twice as long."""

OnRetry = Callable[[EngineError, int, float], None]
"""Called before a wait with the failure, the number of the attempt to come, and the seconds until then."""


class RetryingModel:
    """A model that repeats a request when the engine fails transiently; other failures are raised at once."""

    def __init__(self, model: Answering, policy: RetryPolicy | None, on_retry: OnRetry) -> None:
        self._model, self._policy, self._on_retry = model, policy, on_retry

    async def agenerate(self, request: Request) -> Completion:
        """Return the whole answer, or raise the failure of the last attempt."""
        retrying = _retrying(self._policy, self._on_retry)
        completion: Completion = await retrying(self._model.agenerate, request)
        return completion


def _retrying(policy: RetryPolicy | None, on_retry: OnRetry) -> AsyncRetrying:
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

    def announce(state: RetryCallState) -> None:
        on_retry(_failure(state), state.attempt_number + 1, state.upcoming_sleep)

    retrying = AsyncRetrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential(multiplier=FIRST_WAIT),
        stop=stop_after_attempt(ATTEMPTS),
        before_sleep=announce,
        reraise=True,
    )
    return retrying if policy is None else retrying.copy(wait=_wait_of(policy), stop=_gives_up)


def _wait_of(policy: RetryPolicy) -> Callable[[RetryCallState], float]:
    """Wait as a policy of LlamaIndex says; one that gives up waits for ever, which `_gives_up` notices."""

    def wait(state: RetryCallState) -> float:
        delay = policy.next(state.seconds_since_start or 0.0, state.attempt_number, _failure(state))
        return math.inf if delay is None else delay

    return wait


def _gives_up(state: RetryCallState) -> bool:
    return state.upcoming_sleep == math.inf


def _failure(state: RetryCallState) -> EngineError:
    """Return what the last attempt raised; tenacity asks only after failures that `is_transient` lets through."""
    return cast("EngineError", state.outcome and state.outcome.exception())
