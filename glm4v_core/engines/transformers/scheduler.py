"""The worker thread: requests join and leave between steps, and all that run take each step together."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

import torch

from glm4v_core.engines.transformers.generation import Generation
from glm4v_core.engines.transformers.reuse import ReuseCache, common_prefix
from glm4v_core.engines.transformers.runner import PromptTail, Runner
from glm4v_core.engines.transformers.sampling import Likelihoods, choose
from glm4v_core.engines.transformers.vision import Vision
from glm4v_core.errors import EngineClosedError, EngineDeadError, EngineError, Glm4vError, OutOfMemoryError
from glm4v_core.types import Piece

PREFILL_TOKENS = 2048
"""Most tokens, padding included, that one prefill pass reads together; a longer prompt is read alone."""

SHARED_TOKENS = 64
"""A prompt that shares this many tokens with one that is about to be read waits for it and reuses them."""

Result = TypeVar("Result")
Choice = tuple[list[int], Likelihoods]


class Scheduler:
    """Owns the model from its own thread. `submit`, `cancel` and `close` may be called from any other."""

    def __init__(self, runner: Runner, vision: Vision, reuse: ReuseCache, *, slots: int) -> None:
        self._runner = runner
        self._vision = vision
        self._reuse = reuse
        self._slots = slots
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._waiting: deque[Generation] = deque()
        self._reading: list[Generation] = []
        self._running: list[Generation] = []
        self._mail = _Mail()
        self._ending: Callable[[], EngineError] | None = None
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="glm4v-worker", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Put a request in line.

        Raises:
            EngineClosedError: after close().
            EngineDeadError: after a failure of the worker.
        """
        with self._gate:
            self.check()
            self._inbox.put(generation)

    def check(self) -> None:
        """Raise what `submit` would raise."""
        if self._ending is not None:
            raise self._ending()

    def cancel(self, generation: Generation) -> None:
        """Have a request leave before the next step."""
        generation.cancelled = True
        self._inbox.put(None)

    def close(self) -> None:
        """Stop after the current step; requests that have not finished fail. Idempotent."""
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
        except Exception as error:  # noqa: BLE001  # the one mapper: whatever kills the worker reaches every caller
            self._end(partial(_dead, error))
        self._abandon()

    def _abandon(self) -> None:
        """Tell everybody who still waits that nothing will come."""
        self._collect(wait=False)
        # A prompt that was being read when the worker failed is in neither line.
        for generation in dict.fromkeys((*self._running, *self._reading, *self._waiting)):
            if self._ending is not None:
                self._mail.post(generation, self._ending())
        self._mail.send()
        self._running.clear()
        self._reading.clear()
        self._waiting.clear()
        self._reuse.clear()
        self._runner.slots.release()

    def _turn(self) -> None:
        """Take in new requests, read the next prompts, and have everybody take one step.

        Only one group of prompts is read per turn, so that the answers that run already do not stand still for long.
        """
        self._collect(wait=not self._running and not self._waiting)
        self._drop_cancelled()
        self._admit()
        self._mail.send()
        if self._running:
            self._step()
            self._mail.send()

    def _collect(self, *, wait: bool) -> None:
        """Empty the inbox; with nothing to do, give memory back and wait for the next request."""
        if wait and self._inbox.empty():
            self._runner.slots.release()
        arrived = [self._inbox.get()] if wait else []
        while not self._inbox.empty():
            arrived.append(self._inbox.get())
        self._waiting.extend(generation for generation in arrived if generation is not None)

    def _drop_cancelled(self) -> None:
        if any(generation.cancelled for generation in self._waiting):
            self._waiting = deque(generation for generation in self._waiting if not generation.cancelled)
        self._leave([row for row, generation in enumerate(self._running) if generation.cancelled])

    def _admit(self) -> None:
        """Give free slots to the head of the line, and have pixels made for what comes after."""
        for generation in islice(self._waiting, 2 * self._slots):
            if generation.pixels is None:
                generation.pixels = self._vision.begin(generation.prompt.images)
        group = self._group()
        for generation in group:
            self._waiting.popleft()
            generation.clock.admitted = time.monotonic()
        if group:
            self._reading = group
            self._prefill(group)
            self._reading = []

    def _group(self) -> list[Generation]:
        """Choose the requests at the head of the line that are worth reading in one pass."""
        group: list[Generation] = []
        widths: list[int] = []
        for generation in islice(self._waiting, self._slots - len(self._running)):
            if not generation.ready and (group or self._running):
                break
            known, _ = self._reuse.prefix(generation.prompt.identity)
            widths.append(len(generation.prompt.ids) - known)
            padded = max(widths) * len(widths)
            if group and (padded > min(PREFILL_TOKENS, 2 * sum(widths)) or self._shares(generation, group, known)):
                break
            group.append(generation)
        return group

    def _shares(self, generation: Generation, group: Sequence[Generation], known: int) -> bool:
        """Tell whether a prompt could reuse what is about to be read for another one."""
        identity = generation.prompt.identity
        shared = max(common_prefix(identity, other.prompt.identity) for other in group)
        return self._reuse.enabled and shared - known >= SHARED_TOKENS

    def _prefill(self, group: list[Generation]) -> None:
        """Read prompts into free rows and choose their first tokens; a prompt that does not fit fails alone."""
        first = len(self._running)
        outcome = self._attempt(lambda: self._read(group, first))
        if not isinstance(outcome, Glm4vError):
            self._attempt(lambda: self._keep(group, first))
            for generation in group:
                # The patches of a page are many times larger than its features.
                generation.pixels = []
            self._running.extend(group)
            self._accept(outcome, first)
        elif len(group) > 1:
            for generation in group:
                self._prefill([generation])
        elif self._free() and isinstance(outcome, OutOfMemoryError):
            self._prefill(group)
        else:
            self._mail.post(group[0], outcome)

    def _read(self, group: Sequence[Generation], first: int) -> Choice:
        prompts = [generation.prompt for generation in group]
        stored = [self._reuse.prefix(prompt.identity) for prompt in prompts]
        features = self._vision.features(prompts, [start for start, _ in stored])
        tails = [
            PromptTail(prompt.ids[start:], start, prefix, prompt.positions[:, start:], shown)
            for prompt, (start, prefix), shown in zip(prompts, stored, features, strict=True)
        ]
        for generation, (start, _) in zip(group, stored, strict=True):
            generation.cached = start
        return choose(self._runner.prefill(first, tails), [generation.chooser for generation in group])

    def _keep(self, group: Sequence[Generation], first: int) -> None:
        for row, generation in enumerate(group, first):
            prompt = generation.prompt
            export = partial(self._runner.slots.export, row, len(prompt.ids))
            self._reuse.keep_prefix(prompt.identity, generation.cached, export)

    def _step(self) -> None:
        """Choose one more token for every running request; while memory is short, the longest one fails."""
        while self._running:
            outcome = self._attempt(self._decode)
            if not isinstance(outcome, Glm4vError):
                self._accept(outcome, 0)
                return
            if not self._free():
                row = max(range(len(self._running)), key=lambda row: (self._running[row].length, row))
                self._mail.post(self._running[row], outcome)
                self._leave([row])

    def _decode(self) -> Choice:
        running = self._running
        logits = self._runner.decode(
            [generation.tokens[-1] for generation in running],
            [generation.length for generation in running],
            [generation.prompt.shift for generation in running],
        )
        return choose(logits, [generation.chooser for generation in running])

    def _accept(self, choice: Choice, first: int) -> None:
        """Hand the chosen tokens to the rows from `first` on; whoever is finished leaves."""
        tokens, likelihoods = choice
        gone: list[int] = []
        for index, token in enumerate(tokens):
            generation = self._running[first + index]
            try:
                item: Piece | EngineError | None = generation.accept(token, likelihoods, index)
            except EngineError as error:
                item = error
            if item is not None:
                self._mail.post(generation, item)
            if generation.finish is not None or isinstance(item, Exception):
                gone.append(first + index)
        self._leave(gone)

    def _leave(self, rows: Sequence[int]) -> None:
        """Free rows; the last rows move into the gaps, so that occupied rows stay without gaps."""
        for row in sorted(rows, reverse=True):
            last = self._running.pop()
            if row < len(self._running):
                self._runner.slots.move(len(self._running), row, last.length)
                self._running[row] = last

    def _attempt(self, work: Callable[[], Result]) -> Result | Glm4vError:
        """Run a forward pass; a failure that concerns single requests comes back as a value."""
        try:
            return work()
        except Glm4vError as error:
            return error
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            failure = OutOfMemoryError(f"Memory ran out: {str(error).splitlines()[0]}")
            # Its traceback would keep the tensors of the failed pass alive.
            failure.__cause__ = error.with_traceback(None)
            return failure

    def _free(self) -> bool:
        """Empty the caches; tell whether that may have helped."""
        had = self._reuse.clear()
        if self._runner.device.type == "cuda":
            torch.cuda.empty_cache()
        return had


class _Mail:
    """Carries pieces to the event loops of the callers, with one call per loop and step."""

    def __init__(self) -> None:
        self._items: list[tuple[Generation, Piece | Exception]] = []

    def post(self, generation: Generation, item: Piece | Exception) -> None:
        self._items.append((generation, item))

    def send(self) -> None:
        items, self._items = self._items, []
        for loop in {generation.loop for generation, _ in items}:
            mine = [(generation, item) for generation, item in items if generation.loop is loop]
            try:
                loop.call_soon_threadsafe(_deliver, mine)
            except RuntimeError:  # that loop is closed: nobody is left to read
                for generation, _ in mine:
                    generation.cancelled = True


def _deliver(items: Sequence[tuple[Generation, Piece | Exception]]) -> None:
    for generation, item in items:
        generation.events.put_nowait(item)


def _dead(cause: Exception) -> EngineDeadError:
    error = EngineDeadError(f"The worker failed with {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _is_out_of_memory(error: BaseException) -> bool:
    # On some devices an allocation that fails is a plain RuntimeError; only its text tells.
    told = "can't allocate memory" in str(error) or "out of memory" in str(error)
    return told or isinstance(error, (MemoryError, torch.OutOfMemoryError))
