"""Which engine is chosen, and how one loaded engine is shared and freed."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from glm4v_core.concurrency.bridge import run_async
from glm4v_core.engines import Engine, loading
from glm4v_core.engines.loading import plan_engine
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.engines.sharing import EnginePlan, load_engine
from glm4v_core.errors import (
    EngineClosedError,
    MissingDependencyError,
    ModelLoadError,
    ModelNotFoundError,
    UnknownOptionError,
    UnsupportedError,
)
from glm4v_core.model import Glm4v
from glm4v_core.tiny import checkpoint_path
from glm4v_core.types import Message, Request

ASKED = Request((Message.user("?"),))


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(loading.MODEL_VARIABLE, raising=False)
    monkeypatch.delenv(loading.ENGINE_VARIABLE, raising=False)


class Loader:
    """Makes plans that load scripted engines, and counts the loads."""

    def __init__(self, *errors: Exception) -> None:
        self.engines: list[ScriptedEngine] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.key = object()
        self._errors = list(errors)

    def load(self) -> Engine:
        self.threads.append(threading.current_thread().name)
        assert self.gate.wait(5)
        if self._errors:
            raise self._errors.pop(0)
        self.engines.append(ScriptedEngine(lambda request: "x"))
        return self.engines[-1]

    @property
    def plan(self) -> EnginePlan:
        return EnginePlan(self.key, self.load)


async def test_equal_plans_share_one_engine_until_the_last_is_closed() -> None:
    loader = Loader()
    first, second = await asyncio.gather(load_engine(loader.plan), load_engine(loader.plan))
    third = await load_engine(loader.plan)
    (engine,) = loader.engines
    assert first.info is second.info is third.info
    await first.close()
    await first.close()
    await second.close()
    assert not engine.closed
    with pytest.raises(EngineClosedError):
        first.stream(ASKED)
    with pytest.raises(EngineClosedError):
        await first.count_tokens(ASKED)
    assert (await third.count_tokens(ASKED)).prompt == 1
    assert [piece async for piece in third.stream(ASKED)]
    await third.close()
    assert engine.closed
    await (await load_engine(loader.plan)).close()
    assert len(loader.engines) == 2


async def test_loading_leaves_the_loop_free() -> None:
    loader = Loader()
    loader.gate.clear()
    loads = asyncio.create_task(load_engine(loader.plan))
    await asyncio.sleep(0.01)
    assert not loads.done()
    loader.gate.set()
    await (await loads).close()
    assert loader.threads != [threading.current_thread().name]


async def test_a_failed_load_reaches_all_and_is_tried_again() -> None:
    loader = Loader(ModelLoadError("broken"))
    results = await asyncio.gather(*(load_engine(loader.plan) for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results] == [ModelLoadError] * 2
    assert len(loader.threads) == 1
    await (await load_engine(loader.plan)).close()
    assert len(loader.threads) == 2


async def test_a_caller_that_gives_up_leaves_the_load_to_the_others() -> None:
    loader = Loader()
    loader.gate.clear()
    patient, hasty = (asyncio.create_task(load_engine(loader.plan)) for _ in range(2))
    await asyncio.sleep(0.01)
    hasty.cancel()
    loader.gate.set()
    engine = await patient
    assert not loader.engines[0].closed
    await engine.close()


async def test_an_engine_that_no_caller_is_waiting_for_is_freed() -> None:
    loader = Loader()
    loader.gate.clear()
    alone = asyncio.create_task(load_engine(loader.plan))
    await asyncio.sleep(0.01)
    alone.cancel()
    await asyncio.sleep(0)
    loader.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert loader.engines[0].closed


def test_equal_options_share_an_engine_in_any_order() -> None:
    options: dict[str, Any] = {"answers": ["a"], "context": 99, "engine": "scripted"}
    with Glm4v.load(**options) as one, Glm4v.load(**dict(reversed(options.items()))) as other:
        assert one.info is other.info
        with Glm4v.load(**{**options, "context": 98}) as different:
            assert different.info is not one.info
        with Glm4v.load("tiny", "scripted", answers=len) as unique, Glm4v.load("tiny", "scripted", answers=len) as new:
            assert unique.info is not new.info


def test_threads_that_load_at_once_share_an_engine() -> None:
    models: list[Glm4v] = []
    threads = [
        threading.Thread(target=lambda: models.append(Glm4v.load(engine="scripted", answers=["x"], context=77)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model.info) for model in models}) == 1
    for model in models:
        model.close()


async def test_a_model_is_loaded_in_the_background() -> None:
    async with await Glm4v.aload(engine="scripted", answers=["x"], timeout=9) as model:
        assert model.defaults.timeout == 9
        assert (await model.agenerate(ASKED)).text == "x"


class Drowsy(ScriptedEngine):
    """Records how it was put to sleep."""

    def __init__(self) -> None:
        super().__init__(lambda request: "x")
        self.nights: list[str] = []

    async def sleep(self) -> None:
        self.nights.append("asleep")

    async def wake_up(self) -> None:
        self.nights.append("awake")


class TestSleep:
    async def test_sleeping_affects_all_models_that_share_an_engine(self) -> None:
        drowsy = Drowsy()
        async with Glm4v.from_engine(await run_async(load_engine(EnginePlan(object(), lambda: drowsy)))) as model:
            await model.asleep()
            await model.awake_up()
            await asyncio.to_thread(model.sleep)
            await asyncio.to_thread(model.wake_up)
        assert drowsy.nights == ["asleep", "awake"] * 2

    def test_other_engines_say_that_they_cannot(self) -> None:
        with Glm4v.load(engine="scripted", answers=["x"]) as model:
            for change in (model.sleep, model.wake_up):
                with pytest.raises(UnsupportedError, match="enable_sleep_mode"):
                    change()
        with pytest.raises(EngineClosedError):
            model.sleep()


class TestChoice:
    """Plans are made without loading anything."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        return str(tmp_path)

    def test_auto_takes_transformers_and_says_so_once(self, folder: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "glm4v_core")
        assert plan_engine(folder, None, {}).key == plan_engine(folder, "transformers", {}).key
        assert [record.message.partition(":")[0] for record in caplog.records] == [
            f"Engine transformers chosen for {folder}"
        ]

    def test_call_before_environment_before_default(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GLM4V_MODEL", folder)
        monkeypatch.setenv("GLM4V_ENGINE", "scripted")
        assert plan_engine(None, None, {"answers": ["x"]}).key == plan_engine(None, "scripted", {"answers": ["x"]}).key
        assert plan_engine(None, "transformers", {}).key == plan_engine(folder, "transformers", {}).key
        assert plan_engine("zai-org/x", "transformers", {}).key != plan_engine(None, "transformers", {}).key

    def test_differently_spelled_paths_of_one_folder_are_equal(
        self, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        assert plan_engine(".", "transformers", {}).key == plan_engine(Path(folder), "transformers", {}).key

    def test_explicit_defaults_equal_omitted_ones(self, folder: str) -> None:
        plain, explicit = (plan_engine(folder, "transformers", options) for options in ({}, {"slots": 16}))
        assert plain.key == explicit.key
        assert plain.key != plan_engine(folder, "transformers", {"slots": 4}).key

    @pytest.mark.parametrize(
        ("engine", "options"), [("llama", {}), ("scripted", {"slots": 1}), ("transformers", {"slot": 1})]
    )
    def test_unknown_names_are_refused(self, folder: str, engine: str, options: dict[str, Any]) -> None:
        with pytest.raises(UnknownOptionError):
            plan_engine(folder, engine, options)

    def test_a_missing_library_is_named_with_its_extra(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
        with pytest.raises(MissingDependencyError, match=r"needs torch.*glm4v\[hf\]"):
            plan_engine(folder, "transformers", {})

    def test_the_tiny_model_is_found_or_named_as_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("glm4v_core.tiny.CHECKPOINT", tmp_path)
        with pytest.raises(ModelNotFoundError, match="tiny"):
            plan_engine("tiny", "transformers", {})
        (tmp_path / "config.json").write_text("{}")
        assert checkpoint_path() == tmp_path
        assert plan_engine(None, "transformers", {}).key == plan_engine(tmp_path, "transformers", {}).key

    async def test_a_plan_loads_what_it_says(self, tmp_path: Path) -> None:
        plan = plan_engine(tmp_path, "transformers", {})
        with pytest.raises(ModelNotFoundError, match="not a checkpoint"):
            await load_engine(plan)
