"""The thread that runs the model, with continuous batching: requests join and leave the batch between steps."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from glm4v_core.engines.transformers.generation import Generation
from glm4v_core.engines.transformers.outbox import Outbox
from glm4v_core.engines.transformers.prefixes import NO_PREFIX, PrefixCache
from glm4v_core.engines.transformers.reuse import ReuseCache
from glm4v_core.engines.transformers.runner import Runner
from glm4v_core.engines.transformers.sampling import StepLogprobs, sample
from glm4v_core.engines.transformers.scheduler import Scheduler
from glm4v_core.engines.transformers.vision import Vision
from glm4v_core.errors import EngineClosedError, EngineDeadError, EngineError, Glm4vError, OutOfMemoryError
from glm4v_core.types import Piece


class Worker:
    """Runs the forward passes in its own thread. `submit`, `cancel` and `close` may be called from any other thread.

    Args:
        runner: runs the language model.
        vision: encodes images.
        reuse: keeps image features and prompt prefixes.
        slots: maximum number of requests that run at once.
    """

    def __init__(self, runner: Runner, vision: Vision, reuse: ReuseCache, *, slots: int) -> None:
        self._runner = runner
        self._vision = vision
        self._reuse = reuse
        self._prefixes = PrefixCache(reuse)
        self._scheduler: Scheduler[Generation] = Scheduler(slots, self._prefixes.find, reuses=reuse.enabled)
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._outbox: Outbox[Generation] = Outbox()
        self._ending: Callable[[], EngineError] | None = None
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="glm4v-worker", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Queue a request.

        Raises:
            EngineClosedError: the engine was closed.
            EngineDeadError: the worker failed.
        """
        with self._gate:
            self.check()
            self._inbox.put(generation)

    def check(self) -> None:
        """Raise the error that `submit` would raise, if any."""
        if self._ending is not None:
            raise self._ending()

    def cancel(self, generation: Generation) -> None:
        """Remove a request before the next step."""
        generation.cancelled = True
        self._inbox.put(generation)

    def close(self) -> None:
        """Stop after the current step; unfinished requests fail. Closing twice is harmless."""
        self._end(lambda: EngineClosedError("The engine was closed."))
        self._inbox.put(None)
        self._thread.join()

    def _end(self, ending: Callable[[], EngineError]) -> None:
        with self._gate:
            self._ending = self._ending or ending

    def _work(self) -> None:
        try:
            with torch.inference_mode():
                while self._ending is None:
                    self._turn()
        except Exception as error:  # noqa: BLE001  # any error that ends the worker must reach every caller
            self._end(partial(_dead, error))
        self._abandon()

    def _abandon(self) -> None:
        """Send the final error to every caller that still waits.

        The device may be broken, so nothing is computed or moved before all callers have the error.
        """
        for generation in self._arrived(wait=False):
            if not generation.cancelled:
                self._scheduler.submit(generation)
        for generation in self._scheduler.requests:
            self._scheduler.leave(generation)
            if self._ending is not None:
                self._outbox.post(generation, self._ending())
        self._outbox.send()
        self._reuse.clear()
        self._runner.cache.release()

    def _turn(self) -> None:
        """Accept new requests, prefill one group of prompts, and decode one token of every running request.

        Only one group is prefilled per turn, so that running answers are not delayed for long.
        """
        for generation in self._arrived(wait=self._scheduler.idle):
            if generation.cancelled:
                self._leave(generation)
            else:
                self._scheduler.submit(generation)
        for generation in self._scheduler.upcoming():
            if generation.images is None:
                generation.images = self._vision.begin(generation.prompt.images)
        group = self._scheduler.admit()
        for generation in group:
            generation.clock.admitted = time.monotonic()
        # A group that fails is split, or tried again with more free memory; see `_again`.
        groups = [group] if group else []
        while groups:
            group = groups.pop(0)
            failure = self._prefill(group)
            if failure is not None:
                groups = self._again(group, failure) + groups
        self._send()
        if self._scheduler.running:
            self._step()
            self._send()

    def _arrived(self, *, wait: bool) -> list[Generation]:
        """Empty the inbox.

        Args:
            wait: if the inbox is empty, free the KV cache and block until a request arrives.
        """
        if wait and self._inbox.empty():
            self._runner.cache.release()
        arrived = [self._inbox.get()] if wait else []
        while not self._inbox.empty():
            arrived.append(self._inbox.get())
        return [generation for generation in arrived if generation is not None]

    def _send(self) -> None:
        for generation in self._outbox.send():
            self._leave(generation)

    def _prefill(self, group: Sequence[Generation]) -> Glm4vError | None:
        """Prefill prompts into free rows and sample their first tokens.

        Returns:
            The error if the pass failed. The caller frees memory and tries again, because the tensors of the failed
            pass are released only when this method has returned.
        """
        first = len(self._scheduler.running)
        try:
            features = self._vision.encode([(each.images or (), each.unread_image_tokens) for each in group])
            suffixes = [each.suffix(shown) for each, shown in zip(group, features, strict=True)]
            logits = self._runner.prefill(first, suffixes)
            tokens, logprobs = sample(logits, [generation.sampler for generation in group])
        except (Glm4vError, RuntimeError, MemoryError) as error:
            return _of_requests(error)
        self._scheduler.start(group)
        self._keep(group, first)
        for generation in group:
            generation.cached = generation.prefix.length
            generation.images, generation.prefix = (), NO_PREFIX
        self._accept(tokens, logprobs, first)
        return None

    def _keep(self, group: Sequence[Generation], first: int) -> None:
        """Keep the keys and values of the prompts for reuse, as long as there is memory."""
        try:
            for row, generation in enumerate(group, first):
                export = partial(self._runner.cache.export, row, len(generation.prompt.ids))
                self._prefixes.keep(generation.identity, generation.prefix.length, export)
        except (RuntimeError, MemoryError) as error:
            _of_requests(error)

    def _again(self, group: list[Generation], failure: Glm4vError) -> list[list[Generation]]:
        """Decide what to do after a failed prefill.

        A group is split into single requests. A single request is tried again if memory could be freed; otherwise it
        fails.

        Returns:
            The groups to prefill next.
        """
        if len(group) > 1:
            return [[generation] for generation in group]
        if isinstance(failure, OutOfMemoryError) and self._free():
            return [group]
        self._fail(group[0], failure)
        return []

    def _step(self) -> None:
        """Decode one token of every running request. If memory is not enough, the longest request fails, and so on."""
        while self._scheduler.running:
            failure = self._decode()
            if failure is None:
                return
            if not self._free():
                rows = enumerate(self._scheduler.running)
                self._fail(max(rows, key=lambda item: (item[1].length, item[0]))[1], failure)

    def _decode(self) -> Glm4vError | None:
        """Run one decode pass over all running requests; return the error if it failed."""
        running = self._scheduler.running
        try:
            logits = self._runner.decode(
                [generation.tokens[-1] for generation in running],
                [generation.length for generation in running],
                [generation.prompt.rope_delta for generation in running],
            )
            tokens, logprobs = sample(logits, [generation.sampler for generation in running])
        except (Glm4vError, RuntimeError, MemoryError) as error:
            return _of_requests(error)
        self._accept(tokens, logprobs, 0)
        return None

    def _accept(self, tokens: Sequence[int], logprobs: StepLogprobs, first: int) -> None:
        """Give each request its sampled token; requests that are finished leave.

        Args:
            tokens: one per request.
            logprobs: one per request.
            first: row of the first of these requests.
        """
        gone: list[Generation] = []
        for index, token in enumerate(tokens):
            generation = self._scheduler.running[first + index]
            try:
                item: Piece | EngineError | None = generation.accept(token, logprobs, index)
            except EngineError as error:
                item = error
            if item is not None:
                self._outbox.post(generation, item)
            if generation.finish is not None or isinstance(item, Exception):
                gone.append(generation)
        # A gap is filled with the last row. Going backwards, that row is never one that leaves as well.
        for generation in reversed(gone):
            self._leave(generation)

    def _fail(self, generation: Generation, error: EngineError | Glm4vError) -> None:
        self._outbox.post(generation, error)
        self._leave(generation)

    def _leave(self, generation: Generation) -> None:
        """Remove a request, and move the last row into its row, so that the rows stay without gaps."""
        move = self._scheduler.leave(generation)
        if move is not None:
            self._runner.cache.move(move.source, move.target, move.request.length)

    def _free(self) -> bool:
        """Empty the caches; return whether that may have helped."""
        for generation in self._scheduler.requests:
            generation.prefix = NO_PREFIX
        had = self._reuse.clear()
        if self._runner.device.type == "cuda":
            torch.cuda.empty_cache()
        return had


def _of_requests(error: Glm4vError | RuntimeError | MemoryError) -> Glm4vError:
    """Return the error that single requests get; raise one that means that the worker is broken."""
    if isinstance(error, Glm4vError):
        return error
    # On some devices an allocation that fails is a plain RuntimeError; only its text tells.
    told = "can't allocate memory" in str(error) or "out of memory" in str(error)
    if not told and not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        raise error
    failure = OutOfMemoryError(f"Memory ran out: {str(error).splitlines()[0]}")
    # Its traceback would keep the tensors of the failed pass alive.
    failure.__cause__ = error.with_traceback(None)
    return failure


def _dead(cause: Exception) -> EngineDeadError:
    error = EngineDeadError(f"The worker failed with {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
