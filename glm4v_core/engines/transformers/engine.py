"""The transformers engine: GLM-V models on any device that torch supports, with many requests at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

import torch
import transformers

from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.engines import EngineInfo, TokenCount, new_tokens
from glm4v_core.engines.checkpoint.transcript import Clock
from glm4v_core.engines.transformers.generation import Generation
from glm4v_core.engines.transformers.grammars import Grammars
from glm4v_core.engines.transformers.loading import Checkpoint, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.prompts import PreparedPrompt, Preparer
from glm4v_core.engines.transformers.reuse import ReuseCache
from glm4v_core.engines.transformers.runner import Runner
from glm4v_core.engines.transformers.sampling import Sampler
from glm4v_core.engines.transformers.vision import Vision
from glm4v_core.engines.transformers.worker import Worker
from glm4v_core.errors import ConfigError, EngineClosedError
from glm4v_core.types import Piece, Request

CPU_CACHE_BYTES = 2**30
ACCELERATOR_PATCHES = 2**15
"""Maximum number of image patches that an accelerator encodes in one call."""
ACCELERATOR_CACHE_SHARE = 10
"""The cache of image features and prompt prefixes takes one part in this many of an accelerator's memory."""


DEFAULT_OPTIONS = TransformersOptions()


class TransformersEngine:
    """Serves one loaded checkpoint; implements `glm4v_core.engines.Engine`."""

    def __init__(self, checkpoint: Checkpoint, options: TransformersOptions = DEFAULT_OPTIONS) -> None:
        self._info = _info(checkpoint, options)
        self._machine: _Machine | None = _Machine(checkpoint, options, self._info)

    @classmethod
    def load(cls, model: str | os.PathLike[str], options: TransformersOptions = DEFAULT_OPTIONS) -> TransformersEngine:
        """Load a checkpoint folder or hub id; blocks until the weights are read.

        Raises:
            ModelNotFoundError, ModelLoadError, UnsupportedError: see `load_checkpoint`.
            ConfigError: `context` is longer than the model supports.
        """
        return cls(load_checkpoint(model, options), options)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
        """Yield raw text as it is generated; closing the iterator frees the request's slot before the next step.

        Raises:
            ContextOverflowError: prompt and max_tokens exceed the context window.
            OutOfMemoryError: this request did not fit; others continue.
            EngineDeadError, EngineClosedError: the engine failed or was closed.
        """
        clock, machine, loop = Clock(), self._open(), asyncio.get_running_loop()
        generation = await loop.run_in_executor(machine.threads, machine.generation, request, clock, loop)
        machine.worker.submit(generation)
        finished = False
        try:
            while not finished:
                item = await generation.events.get()
                finished = isinstance(item, Exception) or item.finish is not None
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if not finished:
                machine.worker.cancel(generation)

    async def count_tokens(self, request: Request) -> TokenCount:
        """Count the tokens of a request's prompt exactly, without processing any pixels."""
        machine = self._open()
        prompt = await asyncio.get_running_loop().run_in_executor(machine.threads, machine.prompt, request)
        return TokenCount(len(prompt.ids), prompt.image_tokens)

    async def close(self) -> None:
        """Stop the worker and free the model's memory; running requests fail."""
        machine, self._machine = self._machine, None
        if machine is not None:
            await asyncio.to_thread(machine.close)
            del machine  # the last reference to the weights; only then can their memory be freed
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()

    def _open(self) -> _Machine:
        if self._machine is None:
            raise EngineClosedError("The engine was closed.")
        self._machine.worker.check()
        return self._machine


class _Machine:
    """Everything that refers to the model, in one object, so that closing the engine can drop all of it.

    Attributes:
        worker: runs the model.
        threads: run `prompt` and `generation`, and cut images into patches.
    """

    def __init__(self, checkpoint: Checkpoint, options: TransformersOptions, info: EngineInfo) -> None:
        self._options = options
        self._info = info
        self._template = ChatTemplate(
            checkpoint.template, checkpoint.family.dialect, checkpoint.tokenizer.special_tokens_map
        )
        self._vocabulary = checkpoint.vocabulary()
        self._grammars = Grammars(checkpoint)
        self._preparer = Preparer(checkpoint, max_image_tokens=options.max_image_tokens)
        self.threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="glm4v-prepare")
        self._device: torch.device = checkpoint.model.lm_head.weight.device
        reuse = ReuseCache(_cache_bytes(options, self._device))
        # A CPU encodes one page at a time to keep its caches warm; an accelerator is faster with many at once.
        most = 1 if self._device.type == "cpu" else ACCELERATOR_PATCHES
        vision = Vision(checkpoint.model, reuse, self.threads, self._preparer.patches, most=most)
        self.worker = Worker(Runner(checkpoint.model, rows=options.slots), vision, reuse, slots=options.slots)

    def close(self) -> None:
        """Stop the worker, then the threads."""
        self.worker.close()
        self.threads.shutdown(cancel_futures=True)

    def prompt(self, request: Request) -> PreparedPrompt:
        """Return the prompt of a request as the model reads it."""
        return self._preparer.prepare(self._template.render(request))

    def generation(self, request: Request, clock: Clock, loop: asyncio.AbstractEventLoop) -> Generation:
        """Prepare a request for `Worker.submit`; its pieces are sent to `loop`."""
        prompt = self.prompt(request)
        wanted = new_tokens(request, self._info, len(prompt.ids))
        matcher = self._grammars.matcher(request)
        sampler = Sampler(
            request.sampling, prompt.ids, size=self._vocabulary.size, device=self._device, matcher=matcher
        )
        return Generation(
            request, prompt, sampler, self._vocabulary, self._options, max_tokens=wanted, clock=clock, loop=loop
        )


def _info(checkpoint: Checkpoint, options: TransformersOptions) -> EngineInfo:
    longest = checkpoint.model.config.text_config.max_position_embeddings
    context = longest if options.context is None else options.context
    if context > longest:
        raise ConfigError(f"context={context} is more than the {longest} tokens that the model supports.")
    weights = checkpoint.model.lm_head.weight
    return EngineInfo(
        engine="transformers",
        model=checkpoint.name,
        family=checkpoint.family,
        context=context,
        device=str(weights.device),
        dtype=str(weights.dtype).removeprefix("torch."),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def _cache_bytes(options: TransformersOptions, device: torch.device) -> int:
    if options.cache_bytes is not None:
        return options.cache_bytes
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    return int(torch.cuda.get_device_properties(device).total_memory // ACCELERATOR_CACHE_SHARE)
