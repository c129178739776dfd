"""Translates errors of the client and the server into ours, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import openai

from glm4v_core.errors import (
    ContextOverflowError,
    EngineTimeoutError,
    Glm4vError,
    ModelNotFoundError,
    RequestRefusedError,
    ServerAccessError,
    ServerBusyError,
    ServerError,
    ServerUnreachableError,
)

_BY_STATUS: dict[int, type[Glm4vError]] = {
    HTTPStatus.UNAUTHORIZED: ServerAccessError,
    HTTPStatus.FORBIDDEN: ServerAccessError,
    HTTPStatus.NOT_FOUND: ModelNotFoundError,
    HTTPStatus.REQUEST_TIMEOUT: EngineTimeoutError,
    HTTPStatus.TOO_MANY_REQUESTS: ServerBusyError,
    HTTPStatus.SERVICE_UNAVAILABLE: ServerBusyError,
    HTTPStatus.GATEWAY_TIMEOUT: EngineTimeoutError,
}
_OVERFLOW_MARKS = ("context_length_exceeded", "maximum context length", "max_model_len", "context window")
_HINTS: dict[type[Glm4vError], str] = {
    ModelNotFoundError: "Check base_url, and that the server still serves this model.",
}
_SILENT = "Check that the server runs and has room; raise the engine's options connect_timeout or deadline."
_LONGEST_REASON = 500


@contextmanager
def reported(secrets: Sequence[str]) -> Iterator[None]:
    """Translate errors of the client into ours, with the cause chained and secrets removed from both.

    Args:
        secrets: texts that must not appear in an error.

    Raises:
        RequestRefusedError, ContextOverflowError: the server rejects the request.
        ServerAccessError: the server rejects the key.
        ModelNotFoundError: the server does not serve the model.
        EngineTimeoutError: there was no answer in time.
        ServerError: anything else that went wrong; see its subclasses.
    """
    try:
        yield
    except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError) as error:
        _blot(error, secrets)
        raise _translated(error) from error


def _translated(error: Exception) -> Glm4vError:
    match error:
        case openai.APITimeoutError():
            return EngineTimeoutError("The server did not answer in time.", hint=_SILENT)
        case openai.APIConnectionError():
            reason = error.__cause__ or error
            return ServerUnreachableError(
                f"The connection to the server failed: {str(reason) or type(reason).__name__}"
            )
        case openai.APIError():
            return _from_reason(_status(error), _reason(error))
        case json.JSONDecodeError() | UnicodeDecodeError():
            return ServerError("The server's response is not JSON.", hint="Check base_url.")
        case _:
            return ServerError(f"The client failed: {error}")


def _from_reason(status: int | None, reason: str) -> Glm4vError:
    if status is None:
        return ServerError(f"The server aborted the answer: {reason}")
    text = f"The server answered {status}: {reason}"
    if status in _BY_STATUS:
        kind = _BY_STATUS[status]
        return kind(text, hint=_HINTS.get(kind))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ServerError(text)
    if any(mark in reason for mark in _OVERFLOW_MARKS):
        return ContextOverflowError(text)
    return RequestRefusedError(text)


def _status(error: openai.APIError) -> int | None:
    """Return the HTTP status; for an error inside a stream it is the code in the body."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code
    return int(error.code) if error.code is not None and error.code.isdecimal() else None


def _reason(error: openai.APIError) -> str:
    body: Any = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("error") or body.get("detail") or body
    name = "" if error.code is None or error.code.isdecimal() else f"{error.code}: "
    return f"{name}{body or error.message}"[:_LONGEST_REASON]


def _blot(error: BaseException | None, secrets: Sequence[str]) -> None:
    """Remove secrets that a server or library repeats from an error and its causes, before it can be printed."""
    while error is not None and secrets:
        error.args = tuple(_without(argument, secrets) for argument in error.args)
        if isinstance(error, openai.APIError):
            error.message, error.body = _without(error.message, secrets), _without(error.body, secrets)
        error = error.__cause__ or error.__context__


def _without(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, secrets) for key, item in value.items()}
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    return value
