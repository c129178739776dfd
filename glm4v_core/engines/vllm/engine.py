"""The vLLM engine: AsyncLLM in this process, on the engine loop. vLLM runs the model in separate processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn

import vllm
from vllm.exceptions import GenerationError, VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
from vllm.v1.engine.exceptions import EngineGenerateError

from glm4v_core.dialect.grammar import compile_grammar
from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.engines import EngineInfo, TokenCount, new_tokens
from glm4v_core.engines.checkpoint.prompt_tokenizer import PromptTokenizer, TokenizedPrompt
from glm4v_core.engines.checkpoint.transcript import Clock, Transcript, vocabulary_of
from glm4v_core.engines.vllm.loading import Loaded, load_llm
from glm4v_core.engines.vllm.options import VllmOptions
from glm4v_core.engines.vllm.requests import ResizedPages, logprob_of, prompt_of, sampling_of
from glm4v_core.errors import (
    ConfigError,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    InputError,
    UnsupportedError,
)
from glm4v_core.types import Piece, Request, TokenLogprob, Usage

DEFAULT_OPTIONS = VllmOptions()


class VllmEngine:
    """Serves one loaded checkpoint; implements `glm4v_core.engines.Engine`.

    AsyncLLM is bound to the event loop of its first request, so all methods must be called on the engine loop, as
    `Glm4v` does.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._info = _info(loaded)
        self._running: _Running | None = _Running(loaded, self._info)

    @classmethod
    def load(cls, model: str | os.PathLike[str], options: VllmOptions = DEFAULT_OPTIONS) -> VllmEngine:
        """Load a checkpoint folder or hub id; blocks until vLLM is ready to answer.

        Raises:
            MissingDependencyError: the version of vLLM is not supported.
            ModelNotFoundError, ModelLoadError, UnsupportedError: see `load_llm`.
        """
        return cls(load_llm(model, options))

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Yield raw text as it is generated; closing the iterator aborts the request inside vLLM.

        Raises:
            ContextOverflowError: prompt and max_tokens exceed the context window.
            EngineDeadError, EngineClosedError: the engine failed or was closed.
        """
        running, clock = self._open(), Clock()
        job = await running.prepare(request)
        answer = _Answer(job, running, clock)
        async with aclosing(running.outputs(job)) as outputs:
            async for output in outputs:
                piece = answer.take(output)
                if piece is not None:
                    yield piece
                if answer.transcript.finish is not None:
                    return
                if output.finished:
                    running.explain(output)

    async def count_tokens(self, request: Request) -> TokenCount:
        """Count the tokens of a request's prompt exactly, without processing any pixels."""
        tokenized = await self._open().tokenize(request)
        return TokenCount(tokenized.length, tokenized.image_tokens)

    async def sleep(self) -> None:
        """Release the GPU memory and keep the weights in main memory; running requests are aborted.

        Raises:
            UnsupportedError: the engine was loaded without enable_sleep_mode.
        """
        running = self._open()
        if not running.options.enable_sleep_mode:
            raise UnsupportedError(
                "This engine was loaded without support for sleep.", hint="Load it with enable_sleep_mode=True."
            )
        await running.llm.sleep()

    async def wake_up(self) -> None:
        """Undo `sleep`."""
        await self._open().llm.wake_up()

    async def close(self) -> None:
        """End vLLM's processes; running requests fail."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    def _open(self) -> _Running:
        if self._running is None:
            raise EngineClosedError("The engine was closed.")
        return self._running


@dataclass(frozen=True, slots=True)
class _Job:
    """A request in vLLM's format."""

    request: Request
    tokenized: TokenizedPrompt
    prompt: dict[str, Any]
    parameters: SamplingParams
    max_tokens: int


class _Running:
    """vLLM, and everything that is needed to send requests to it."""

    def __init__(self, loaded: Loaded, info: EngineInfo) -> None:
        self.llm: AsyncLLM = loaded.llm
        self.options = loaded.options
        files = loaded.files
        self.vocabulary = vocabulary_of(files.tokenizer, files.family, files.stop_token_ids, len(files.tokenizer))
        self._info = info
        self._family = files.family
        self._template = ChatTemplate(files.template, files.family.dialect, files.tokenizer.special_tokens_map)
        self._shortest: int = loaded.vision.sizer.bounds()["shortest_edge"]
        self._tokenizer = PromptTokenizer(files.tokenizer, loaded.image_token, loaded.vision.sizer)
        self._pages = ResizedPages(loaded.vision.patch, loaded.vision.resample)
        adapter = loaded.options.lora
        self._lora = None if adapter is None else LoRARequest("adapter", 1, adapter)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="glm4v-prepare")
        self._numbers = itertools.count()
        self._requests: set[str] = set()
        self._closing = False

    async def tokenize(self, request: Request) -> TokenizedPrompt:
        """Tokenize a request's prompt in another thread."""
        self._check_alive()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._tokenize, request)

    async def prepare(self, request: Request) -> _Job:
        """Prepare a request in another thread."""
        self._check_alive()
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, request)

    async def outputs(self, job: _Job) -> AsyncGenerator[RequestOutput, None]:
        """Yield vLLM's outputs for one request, and translate its errors into ours."""
        self._check_alive()
        name = f"glm4v-{next(self._numbers)}"
        self._requests.add(name)
        try:
            async with aclosing(
                self.llm.generate(job.prompt, job.parameters, name, lora_request=self._lora)
            ) as outputs:
                async for output in outputs:
                    yield output
        except VllmDeadError as error:
            raise self._death() from error
        except VLLMClientError as error:
            raise InputError(f"vLLM refuses the request: {error}") from error
        except (EngineGenerateError, GenerationError) as error:
            raise EngineError(f"vLLM failed to serve this request: {error.__cause__ or error}") from error
        finally:
            self._requests.discard(name)

    def explain(self, output: RequestOutput) -> NoReturn:
        """Raise the error for an answer that vLLM ended although `Transcript` did not."""
        if self._closing:
            raise EngineClosedError("The engine was closed.")
        reason = output.outputs[0].finish_reason
        raise EngineError(f"vLLM ended the request early ({reason}).")

    async def close(self) -> None:
        """Abort all requests, shut vLLM down, and wake callers that still wait."""
        self._closing = True
        if not self.llm.errored:
            await self.llm.abort(list(self._requests))
        if self.llm.output_handler is not None:
            # The handler would log the end of vLLM's processes as a failure.
            self.llm.output_handler.cancel()
        await asyncio.to_thread(self.llm.shutdown)
        # The cancelled handler would have failed requests that arrived meanwhile; do it here.
        self.llm.output_processor.propagate_error(VllmDeadError())
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_alive(self) -> None:
        if self._closing:
            raise EngineClosedError("The engine was closed.")
        if self.llm.errored:
            raise self._death()

    def _death(self) -> EngineError:
        if self._closing:
            return EngineClosedError("The engine was closed.")
        return EngineDeadError("vLLM's engine process died; the reason is in its log output above.")

    def _tokenize(self, request: Request) -> TokenizedPrompt:
        return self._tokenizer.tokenize(self._template.render(request))

    def _prepare(self, request: Request) -> _Job:
        tokenized = self._tokenize(request)
        wanted = new_tokens(request, self._info, tokenized.length)
        dialect = self._family.dialect
        grammar = compile_grammar(request, dialect, tokenized.phase)
        if grammar is not None and self._family.remote_tokenizer:
            raise UnsupportedError(
                f"{self._family.name} does not support constraints: vLLM cannot use its tokenizer for them."
            )
        pixels = [self._pages.get(image) for image in tokenized.images]
        settings = sampling_of(
            request, sorted(self.vocabulary.stop_token_ids), wanted, budget=dialect.think is not None
        )
        structured = None if grammar is None else StructuredOutputsParams(grammar=grammar.text)
        try:
            parameters = SamplingParams(**settings, output_kind=RequestOutputKind.DELTA, structured_outputs=structured)
        except VLLMClientError as error:
            raise ConfigError(f"vLLM refuses the settings: {error}") from error
        return _Job(request, tokenized, prompt_of(tokenized, pixels, self._shortest), parameters, wanted)


class _Answer:
    """Converts vLLM's outputs for one request to pieces."""

    def __init__(self, job: _Job, running: _Running, clock: Clock) -> None:
        self.transcript = Transcript(
            job.request, running.vocabulary, running.options, phase=job.tokenized.phase, max_tokens=job.max_tokens
        )
        self._alternatives = job.request.sampling.logprobs
        self._table = running.vocabulary.table
        self._prompt = Usage(job.tokenized.length, job.tokenized.image_tokens)
        self._clock = clock
        self._clock.admitted = time.monotonic()

    def take(self, output: RequestOutput) -> Piece | None:
        """Process the next tokens; tokens after the end of the answer are dropped."""
        made = output.outputs[0]
        text = ""
        logprobs: list[TokenLogprob] = []
        for place, token in enumerate(made.token_ids):
            if not self.transcript.tokens:
                self._start(output)
            text += self.transcript.write(token) + self.transcript.conclude()
            if self._alternatives is not None and made.logprobs is not None:
                logprobs.append(logprob_of(token, made.logprobs[place], self._alternatives, self._table))
            if self.transcript.finish is not None:
                break
        return self.transcript.piece(text, logprobs, self._prompt, self._clock)

    def _start(self, output: RequestOutput) -> None:
        self._clock.first_token = time.monotonic()
        self._prompt = Usage(self._prompt.prompt, self._prompt.image, cached=output.num_cached_tokens or 0)
        waited = output.metrics
        if waited is not None:
            # Both times are from vLLM's own clock, so only their difference is meaningful here.
            self._clock.admitted += waited.scheduled_ts - waited.queued_ts


def _info(loaded: Loaded) -> EngineInfo:
    config = loaded.llm.vllm_config
    return EngineInfo(
        engine="vllm",
        model=loaded.files.name,
        family=loaded.files.family,
        context=config.model_config.max_model_len,
        device=str(config.device_config.device_type),
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        versions={"vllm": vllm.__version__},
    )
