"""The models and engines of these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm4v_core import Glm4v
from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import Checkpoint, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from tests.support.checkpoints import build_checkpoint
from tests.support.fake_server import Connect, FakeServer
from tests.support.serving import ENGINES, Engine, running

collect_ignore = [] if "vllm" in ENGINES else ["vllm/test_engine.py", "vllm/test_legacy.py"]

OpenEngine = Callable[..., TransformersEngine]


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense architecture, 4.6V dialect."""
    return build_checkpoint(tmp_path_factory.mktemp("glm4v"))


@pytest.fixture(scope="session")
def build() -> Callable[..., Path]:
    return build_checkpoint


@pytest.fixture(scope="session")
def checkpoint(checkpoint_folder: Path) -> Checkpoint:
    return load_checkpoint(checkpoint_folder, TransformersOptions())


@pytest.fixture(scope="session")
def endless(checkpoint: Checkpoint) -> Checkpoint:
    """The same model without stop tokens: every answer has its maximum length."""
    return replace(checkpoint, stop_token_ids=frozenset())


@pytest.fixture
def open_engine(checkpoint: Checkpoint) -> Iterator[OpenEngine]:
    """Open engines on the one loaded checkpoint; they are closed after the test."""
    opened: list[TransformersEngine] = []

    def open_one(loaded: Checkpoint = checkpoint, **options: Any) -> TransformersEngine:
        opened.append(TransformersEngine(loaded, TransformersOptions(**options)))
        return opened[-1]

    yield open_one
    for engine in opened:
        asyncio.run(engine.close())


@pytest.fixture
def engine(open_engine: OpenEngine) -> TransformersEngine:
    return open_engine()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().running() as running:
        yield running


@pytest.fixture
def connect(server: FakeServer) -> Iterator[Connect]:
    opened: list[Glm4v] = []

    def connect_to(**options: Any) -> Glm4v:
        opened.append(Glm4v.load(engine="server", **{"base_url": server.url, **options}))
        return opened[-1]

    yield connect_to
    for model in opened:
        model.close()


@pytest.fixture(scope="session", params=ENGINES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Every engine in turn, each loaded once for all its tests."""
    with running(request.param, tmp_path_factory.mktemp("server") / "log") as found:
        yield found


@pytest.fixture
def model(loaded: Engine) -> Glm4v:
    return loaded.model


@pytest.fixture(scope="session")
def reference() -> Iterator[Glm4v]:
    """The transformers engine, whose answers are compared with `generate()` elsewhere."""
    with Glm4v.load("tiny", "transformers") as model:
        yield model
