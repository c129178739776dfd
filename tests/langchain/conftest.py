"""A chat model on a scripted engine, whose requests can be inspected and whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest

from glm4v_core import Glm4v, ScriptedEngine
from langchain_glm4v import ChatGLM4V
from tests.support.langchain_calls import Make, Scripted


@pytest.fixture
def scripted() -> Make:
    """Make a chat model that plays the given answers; keyword arguments go to the chat model."""

    def make(*answers: Any, family: str = "GLM-4.6V-Flash", latency: float = 0.0, **settings: Any) -> Scripted:
        script = answers[0] if len(answers) == 1 and callable(answers[0]) else list(answers)
        engine = ScriptedEngine(script, family=family, latency=latency)
        return ChatGLM4V(glm4v=Glm4v.from_engine(engine), **settings), engine

    return make
