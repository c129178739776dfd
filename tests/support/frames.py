"""Counts our frames between `ChatGLM4V._generate` and torch, for one text request to the bundled model.

A stack is everything that runs under one outermost frame of ours: the target of a thread, a job of a pool, or the
coroutine of a task with all that it awaits. A request passes through the stacks that are entered between `_generate`
and the first call of a torch module. In each stack, our open frames are counted where it is deepest among the points at
which it hands work to another stack or calls torch; in a stack that only returns a result, just its outermost frame
counts. Frames of libraries do not count, nor do calls that return before the work is handed on, nor the thread in which
the event loop runs. A hand-off is work given to another thread; starting a task on the same event loop is not one.

Only threads that start after profiling has begun are profiled, so this runs as a separate process:
`python -m tests.support.frames`.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / name}/" for name in ("glm4v_core", "langchain_glm4v"))
START = "ChatGLM4V._generate"
TORCH = ("torch/nn/modules/module.py", "_wrapped_call_impl")
TO_A_THREAD = {"run_coroutine_threadsafe", "ThreadPoolExecutor.submit", "BaseEventLoop.call_soon_threadsafe"}
"""The standard library's functions that hand work to another thread; `SimpleQueue.put` is another."""
TO_A_TASK = "create_task"
CALLBACK = "Handle._run"
"""The function that runs each step of a task in an event loop."""


@dataclass
class Way:
    """The stacks that a request passes through, each a list of function names, outermost first."""

    stacks: list[list[str]] = field(default_factory=list)  # the one that calls torch comes last
    hand_offs: int = 0

    @property
    def frames(self) -> int:
        return sum(map(len, self.stacks))

    def __str__(self) -> str:
        return "\n".join(" -> ".join(stack) for stack in self.stacks)


class Recorder:
    """A profile function for all threads; records one call."""

    def __init__(self) -> None:
        self.way = Way()
        self._stacks: dict[FrameType, list[str]] = {}
        self._armed = self._recording = False

    def arm(self) -> None:
        """Record from the next `_generate` to the next call of a torch module."""
        self._armed = True

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self._armed or event not in ("call", "c_call"):
            return
        code = frame.f_code
        if event == "c_call":
            if _is_ours(code) and argument.__qualname__ == "SimpleQueue.put":
                self._note(frame, to_a_thread=True)
        elif _is_ours(code):
            self._recording = self._recording or code.co_qualname == START
            self._note(frame, entered=True)
        elif code.co_filename.endswith(TORCH[0]) and code.co_name == TORCH[1]:
            self._end(frame)
        elif code.co_qualname in {*TO_A_THREAD, TO_A_TASK}:
            self._note(frame, to_a_thread=code.co_qualname in TO_A_THREAD)

    def _note(self, frame: FrameType, *, entered: bool = False, to_a_thread: bool = False) -> None:
        frames = _open_frames(frame)
        if not self._recording or not frames:
            return
        known = self._stacks.setdefault(frames[0], [frames[0].f_code.co_qualname])
        if not entered and len(frames) > len(known):
            known[:] = [each.f_code.co_qualname for each in frames]
        # The library's functions call each other; only a call from our own code is a hand-off.
        self.way.hand_offs += to_a_thread and _handed_on_by_us(frame)

    def _end(self, frame: FrameType) -> None:
        if self._recording and _open_frames(frame):
            self._note(frame)
            last = self._stacks.pop(_open_frames(frame)[0])
            self.way.stacks = [*self._stacks.values(), last]
            self._armed = self._recording = False


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(OURS)


def _open_frames(frame: FrameType | None) -> list[FrameType]:
    """List our frames at a point, from `_generate` or the event loop's callback on, outermost first."""
    frames: list[FrameType] = []
    while frame is not None and frame.f_code.co_qualname != CALLBACK:
        # Python 3.12 no longer makes frames of comprehensions.
        if _is_ours(frame.f_code) and frame.f_code.co_name != "<listcomp>":
            frames.insert(0, frame)
            if frame.f_code.co_qualname == START:
                break
        frame = frame.f_back
    return frames


def _handed_on_by_us(frame: FrameType) -> bool:
    """Tell whether no other hand-off lies between a call and our code."""
    if _is_ours(frame.f_code):
        return True
    outer = frame.f_back
    while outer is not None and not _is_ours(outer.f_code):
        if outer.f_code.co_qualname in TO_A_THREAD:
            return False
        outer = outer.f_back
    return outer is not None


def main() -> None:
    """Record the second of two requests and print its way as JSON."""
    recorder = Recorder()
    threading.setprofile(recorder)
    from langchain_glm4v import ChatGLM4V

    llm = ChatGLM4V(model="tiny", engine="transformers", max_tokens=2)
    llm.invoke("Hello.")
    # The collector may close an abandoned generator on any stack, which would count as a hand-off.
    gc.collect()
    gc.disable()
    sys.setprofile(recorder)
    recorder.arm()
    llm.invoke("What is the total?")
    sys.setprofile(None)
    llm.close()
    sys.stdout.write(json.dumps(asdict(recorder.way)))


if __name__ == "__main__":
    main()
