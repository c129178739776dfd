"""A scripted OpenAI-compatible server on this machine: plays chunks and faults, and records its requests."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from glm4v_core import Glm4v

Connect = Callable[..., Glm4v]
"""Loads the model of the test's server, with options of the engine."""

HOLD = object()
"""In a script: send nothing more until the client has gone."""
DROP = object()
"""In a script: break the connection."""

MODEL = {"id": "glm", "root": "zai-org/GLM-4.6V-Flash", "owned_by": "vllm", "max_model_len": 4096}


@dataclass(frozen=True)
class Failure:
    """An error response in place of an answer.

    Attributes:
        body: JSON, or text that is sent as it is.
    """

    status: int
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        if isinstance(self.body, str):
            return Response(self.body, self.status, self.headers)
        return JSONResponse(self.body, self.status, self.headers)


Script = Sequence[Any] | Failure


def chunk(finish: str | None = None, *, usage: Mapping[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    """Write one chunk of a stream; `logprobs` goes beside the delta."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": delta.pop("logprobs", None)}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "choices": [choice], "usage": usage}


def usage(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    """Write the chunk that ends a stream."""
    total = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **details}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": total}


def says(text: str, finish: str = "stop") -> list[Any]:
    """Write a whole answer, a character in each chunk."""
    return [*(chunk(content=letter) for letter in text), chunk(finish), usage(7, len(text))]


class FakeServer:
    """Answers chat completions from a script.

    Attributes:
        models: what /v1/models lists, a Failure, or HOLD.
        version: what /version says; nothing is there when None.
        count: what /tokenize answers, or a Failure; it is not there when None.
        key: what clients must bring, if anything.
        asked: the bodies of all chat completions.
        counted: the bodies of all /tokenize requests.
        headers: of all requests.
        left: set when a client goes away in the middle of an answer.
    """

    def __init__(self) -> None:
        self.models: Any = {"object": "list", "data": [MODEL]}
        self.version: str | None = "0.32.0"
        self.count: Any = None
        self.key: str | None = None
        self.asked: list[dict[str, Any]] = []
        self.counted: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.left = threading.Event()
        self.port = 0
        self._scripts: deque[Script] = deque()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def will(self, *scripts: Script) -> None:
        """Add answers, one for each request to come."""
        self._scripts += scripts

    async def _list(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if self.models is HOLD:
            await asyncio.Event().wait()
        return self.models.response() if isinstance(self.models, Failure) else JSONResponse(self.models)

    async def _tell_version(self, request: Request) -> Response:
        return JSONResponse({"version": self.version}, 404 if self.version is None else 200)

    async def _tokenize(self, request: Request) -> Response:
        self.counted.append(await request.json())
        if self.count is None:
            return JSONResponse({"detail": "Not Found"}, 404)
        return self.count.response() if isinstance(self.count, Failure) else JSONResponse(self.count)

    async def _chat(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        self.asked.append(await request.json())
        script = self._scripts.popleft()
        if isinstance(script, Failure):
            return script.response()
        return StreamingResponse(self._play(script), media_type="text/event-stream")

    async def _play(self, script: Iterable[Any]) -> AsyncGenerator[str, None]:
        ended = False
        try:
            for item in script:
                if item is HOLD:
                    await asyncio.Event().wait()
                if item is DROP:
                    raise ConnectionAbortedError
                yield f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n"
            yield "data: [DONE]\n\n"
            ended = True
        finally:
            if not ended:
                self.left.set()

    def _refusal(self, request: Request) -> Response | None:
        self.headers.append(dict(request.headers))
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        wrong = request.headers.get("authorization", "").removeprefix("Bearer ")
        return JSONResponse({"error": {"message": f"Incorrect API key: {wrong}", "code": "invalid_api_key"}}, 401)

    @contextmanager
    def running(self) -> Iterator[FakeServer]:
        """Serve from a thread."""
        app = Starlette(
            routes=[
                Route("/v1/models", self._list),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/version", self._tell_version),
            ]
        )
        server = uvicorn.Server(
            uvicorn.Config(app, "127.0.0.1", 0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        self.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()
