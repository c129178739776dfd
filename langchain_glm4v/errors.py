"""Errors that LangChain has a class for: each is both an error of glm4v and the one its middleware catches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import langchain_core.exceptions as host

from glm4v_core import errors

__all__ = ["ChatContextOverflowError", "ChatModelNotFoundError", "ChatTimeoutError"]


class ChatContextOverflowError(errors.ContextOverflowError, host.ContextOverflowError):
    """The prompt and max_tokens exceed the context window; summarization middleware shortens and tries again."""


class ChatTimeoutError(errors.EngineTimeoutError, host.ModelTimeoutError):
    """The answer was not complete in time."""


class ChatModelNotFoundError(errors.ModelNotFoundError, host.ModelNotFoundError):
    """The checkpoint does not exist."""


_TABLE: dict[type[errors.Glm4vError], type[errors.Glm4vError]] = {
    errors.ContextOverflowError: ChatContextOverflowError,
    errors.EngineTimeoutError: ChatTimeoutError,
    errors.ModelNotFoundError: ChatModelNotFoundError,
}


@contextmanager
def host_errors() -> Iterator[None]:
    """Raise the core's errors as their LangChain classes, chained; those without one pass unchanged."""
    try:
        yield
    except errors.Glm4vError as error:
        known = _TABLE.get(type(error))
        if known is None:
            raise
        raise known(error.message, hint=error.hint) from error
