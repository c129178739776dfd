"""How many frames and hand-offs lie between a chat model and torch; `tests/support/frames.py` defines the counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.frames import Way

ROOT = Path(__file__).parents[2]
FRAMES = 14
FRAMES_TO_THE_ENGINE = 6
HAND_OFFS = 3
"""Caller to engine loop, loop to the thread that prepares the prompt, loop to the worker."""


@pytest.fixture(scope="module")
def way() -> Way:
    command = [sys.executable, "-m", "tests.support.frames"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Way(**json.loads(run.stdout))


def test_few_frames_lie_between_a_chat_model_and_torch(way: Way) -> None:
    assert way.stacks[0][0] == "ChatGLM4V._generate", str(way)
    assert way.frames <= FRAMES, f"{way.frames} frames:\n{way}"


def test_few_of_them_lie_above_the_engine(way: Way) -> None:
    names = [name for stack in way.stacks for name in stack]
    above = names.index("TransformersEngine.stream")
    assert above <= FRAMES_TO_THE_ENGINE, f"{above} frames:\n{way}"


def test_each_hand_off_between_threads_has_a_reason(way: Way) -> None:
    assert way.hand_offs <= HAND_OFFS, f"{way.hand_offs} hand-offs:\n{way}"
