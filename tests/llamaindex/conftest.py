"""An LLM on a scripted engine, whose requests can be inspected and whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher

from glm4v_core import Glm4v, ScriptedEngine
from llamaindex_glm4v import GLM4VMultiModal
from tests.support.llamaindex_calls import Make, Recorder, Scripted


@pytest.fixture
def scripted() -> Make:
    """Make an LLM that plays the given answers; keyword arguments go to the LLM."""

    def make(
        *answers: Any, family: str = "GLM-4.6V-Flash", context: int | None = None, latency: float = 0.0, **settings: Any
    ) -> Scripted:
        script = answers[0] if len(answers) == 1 and callable(answers[0]) else list(answers)
        engine = ScriptedEngine(script, family=family, context=context, latency=latency)
        return GLM4VMultiModal(glm4v=Glm4v.from_engine(engine), **settings), engine

    return make


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    handler, root = Recorder(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def counter() -> TokenCountingHandler:
    return TokenCountingHandler(tokenizer=str.split)


@pytest.fixture
def counted(counter: TokenCountingHandler) -> CallbackManager:
    return CallbackManager([counter])
