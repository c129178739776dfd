"""The server engine: a model that is served elsewhere, over vLLM's API or any OpenAI-compatible one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import openai

from glm4v_core.engines import EngineInfo, TokenCount, new_tokens
from glm4v_core.engines.server.client import Served, asynchronous_client, find_model
from glm4v_core.engines.server.errors import reported
from glm4v_core.engines.server.options import ServerOptions
from glm4v_core.engines.server.request import RequestWriter
from glm4v_core.engines.server.stream import AnswerStream
from glm4v_core.errors import (
    EngineClosedError,
    EngineTimeoutError,
    ModelNotFoundError,
    RequestRefusedError,
    ServerError,
    ServerUnreachableError,
    UnsupportedError,
)
from glm4v_core.types import Piece, Request, Timings

Chunks = openai.AsyncStream[Any]
_PARSER_FLAG = "--tool-call-parser"
"""Occurs in vLLM's error if it refuses tools because it was started without a tool parser."""

_log = logging.getLogger(__name__)


class ServerEngine:
    """Sends requests to one served model; implements `glm4v_core.engines.Engine`.

    The token counts of single pieces are exact if the server sends counts with its stream, as vLLM does. The usage at
    the end always comes from the server.
    """

    def __init__(self, served: Served, options: ServerOptions) -> None:
        self._options = options
        self._writer = RequestWriter(served, options, parses_calls=not options.grammars)
        self._client: openai.AsyncOpenAI | None = asynchronous_client(options)
        versions = {"openai": openai.__version__} | ({"vllm": served.version} if served.version else {})
        self._info = EngineInfo("server", served.name, served.family, served.context, "server", "server", versions)

    @classmethod
    def load(cls, model: str | None, options: ServerOptions) -> ServerEngine:
        """Find a model on a server; blocks for a few small requests.

        Args:
            model: as the server lists it; None if the server has only one model.
            options: see `ServerOptions`.

        Raises:
            ConfigError, ModelError, ServerError: see `find_model`.
        """
        return cls(find_model(model, options), options)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Yield raw text as it arrives; closing the iterator closes the connection, which also ends it on the server.

        Raises:
            ContextOverflowError: prompt and max_tokens exceed the context window.
            RequestRefusedError, ServerError, ServerAccessError, EngineTimeoutError: see `errors.reported`.
        """
        client, started = self._open(), time.monotonic()
        answer, first = AnswerStream(request, self._writer.served), 0.0
        deadline = self._deadline()
        async with await self._begin(client, request, deadline) as chunks:
            while (chunk := await self._next(chunks, deadline)) is not None:
                piece = answer.take(chunk)
                # vLLM sends the length of the prompt early; a prompt that is too long fails before any text is shown.
                if answer.usage and not first:
                    new_tokens(request, self._info, answer.usage.prompt)
                if piece is not None:
                    first = first or time.monotonic() - started
                    yield piece
        if answer.finish is None:
            raise ServerUnreachableError("The server's answer ended without a finish reason.")
        total = time.monotonic() - started
        yield Piece(finish=answer.finish, usage=answer.usage, timings=Timings(0.0, first or total, total))

    async def count_tokens(self, request: Request) -> TokenCount:
        """Count the tokens of a request's prompt exactly, including images, with vLLM's own endpoint.

        Raises:
            UnsupportedError: the server does not have this endpoint.
        """
        client = self._open()
        if self._writer.served.api == "openai":
            raise _uncountable()
        body = await asyncio.to_thread(self._writer.prompt, request)
        url = self._options.base_url.removesuffix("/v1") + "/tokenize"
        try:
            with self._reported():
                async with _until(self._deadline()):
                    answer: Any = await client.post(url, body={**body, "return_token_strs": True}, cast_to=object)
        except ModelNotFoundError as error:
            raise _uncountable() from error
        return _token_count(answer, self._info.family.dialect.image_placeholder)

    async def close(self) -> None:
        """Close the connections; running requests fail. The server is not affected."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _deadline(self) -> float | None:
        allowed = self._options.deadline
        return None if allowed is None else asyncio.get_running_loop().time() + allowed

    def _open(self) -> openai.AsyncOpenAI:
        if self._client is None:
            raise EngineClosedError("The engine was closed.")
        return self._client

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            with reported(self._options.secrets):
                yield
        except ServerUnreachableError as error:
            if self._client is not None:
                raise
            raise EngineClosedError("The engine was closed before the answer was complete.") from error

    async def _begin(self, client: openai.AsyncOpenAI, request: Request, deadline: float | None) -> Chunks:
        """Send a request and wait until the answer begins; the client's retries all count towards one deadline.

        A vLLM without a tool parser refuses tools. From then on tools are explained in the messages instead.
        """
        writer = self._writer
        try:
            return await self._send(client, writer, request, deadline)
        except RequestRefusedError as error:
            if not (writer.parses_calls and _PARSER_FLAG in error.message):
                raise
            _log.info("The server has no tool parser; tool calls are parsed by glm4v.")
            self._writer = replace(writer, parses_calls=False)
            return await self._send(client, self._writer, request, deadline)

    async def _send(
        self, client: openai.AsyncOpenAI, writer: RequestWriter, request: Request, deadline: float | None
    ) -> Chunks:
        # In a thread, since encoding images as PNG takes time.
        body = await asyncio.to_thread(writer.body, request)
        model, messages = body.pop("model"), body.pop("messages")
        with self._reported():
            async with _until(deadline):
                return await client.chat.completions.create(
                    model=model, messages=messages, stream=True, extra_body=body
                )

    async def _next(self, chunks: Chunks, deadline: float | None) -> Any:
        with self._reported():
            async with _until(deadline):
                return await anext(chunks, None)


@asynccontextmanager
async def _until(deadline: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise EngineTimeoutError(
            "The answer was not complete within the engine's deadline.", hint="Raise the engine's option deadline."
        ) from error


def _uncountable() -> UnsupportedError:
    return UnsupportedError(
        "This server cannot count tokens before it answers.",
        hint="vLLM can, at /tokenize. The usage of an answer always has the number of prompt tokens.",
    )


def _token_count(answer: Any, placeholder: str) -> TokenCount:
    if not isinstance(answer, dict) or not isinstance(answer.get("count"), int):
        raise ServerError("The server's token count cannot be read.")
    return TokenCount(answer["count"], (answer.get("token_strs") or []).count(placeholder))
