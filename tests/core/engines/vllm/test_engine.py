"""What only vLLM has: its caches, and how it dies. `conftest.py` leaves this file out where vLLM is not installed."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prometheus_client import REGISTRY
from vllm.exceptions import RetryableRequestError

from glm4v_core import Glm4v
from glm4v_core.engines.checkpoint.files import load_image_processor, read_files
from glm4v_core.engines.checkpoint.images import ProcessorSizer
from glm4v_core.engines.vllm.engine import VllmEngine
from glm4v_core.engines.vllm.loading import Loaded, VisionConfig
from glm4v_core.engines.vllm.options import VllmOptions
from glm4v_core.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    Glm4vError,
    ModelLoadError,
    UnsupportedError,
)
from glm4v_core.media.image import Image
from glm4v_core.tiny import checkpoint_path
from glm4v_core.types import Regex, Request
from tests.support.engine_calls import READ, ask, sample
from tests.support.serving import SETTINGS, Engine, end

pytestmark = [pytest.mark.loopback, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("loaded", ["vllm"], indirect=True)
class TestInThisProcess:
    def test_a_page_asked_three_times_is_prepared_once(self, model: Glm4v) -> None:
        def counted(name: str) -> float:
            values = [sample.value for metric in REGISTRY.collect() for sample in metric.samples if sample.name == name]
            return math.fsum(values)

        before = counted("vllm:mm_cache_queries_total"), counted("vllm:mm_cache_hits_total")
        fresh = Image.load(sample().pixels.rotate(90))
        for question in (READ, "Sum it up.", "Label it."):
            model.generate(ask(fresh, question, max_tokens=2))
        after = counted("vllm:mm_cache_queries_total"), counted("vllm:mm_cache_hits_total")
        assert (after[0] - before[0], after[1] - before[1]) == (3, 2)

    def test_info_tells_what_was_loaded(self, model: Glm4v) -> None:
        info = model.info
        assert (info.engine, info.family.name, info.context) == ("vllm", "tiny", 4096)
        assert (info.device, info.dtype) == ("cpu", "float32")

    def test_sleeping_without_having_enabled_it_is_refused(self, model: Glm4v) -> None:
        with pytest.raises(UnsupportedError, match="enable_sleep_mode"):
            model.sleep()
        assert model.generate(ask("Hello", max_tokens=3)).usage.completion


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"enable_sleep_mode": True}, "Sleep mode is not supported"), ({"gpu_memory_utilization": 1e-5}, "does not fit")],
)
def test_what_cannot_be_loaded_is_refused_at_once(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelLoadError, match=reason):
        Glm4v.load("tiny", "vllm", **options)


class Paused:
    """AsyncLLM asleep as of 0.33: it refuses requests, where 0.32 lets them wait."""

    errored = False
    output_handler = None
    output_processor = SimpleNamespace(propagate_error=lambda error: None)
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=4096, dtype="torch.float32"),
        device_config=SimpleNamespace(device_type="cpu"),
    )

    async def generate(self, *arguments: Any, **settings: Any) -> AsyncGenerator[Any, None]:
        raise RetryableRequestError("Generation is paused.")
        yield

    async def abort(self, names: list[str]) -> None:
        assert names == []

    def shutdown(self) -> None:
        pass


def test_a_request_that_vllm_refuses_while_asleep_raises_our_error() -> None:
    files = read_files(checkpoint_path(), None)
    vision = VisionConfig(ProcessorSizer(load_image_processor(files.folder), None), 14, 1568, 3)
    image_token = files.tokenizer.convert_tokens_to_ids(files.family.dialect.image_placeholder)
    llm: Any = Paused()
    with (
        Glm4v.from_engine(VllmEngine(Loaded(llm, files, VllmOptions(), vision, image_token))) as model,
        pytest.raises(EngineError, match=r"vLLM failed to serve this request: Generation is paused"),
    ):
        model.generate(ask("Hello", max_tokens=3))


class TestTheEnd:
    """Runs last: it kills the engine that the other tests use."""

    @pytest.mark.parametrize("loaded", ["vllm", "server"], indirect=True)
    def test_a_dead_engine_fails_all_requests_and_a_new_one_works(self, loaded: Engine) -> None:
        # A high temperature, or the repetition guard might end an answer before the engine dies.
        long = ask("Say it", constraint=Regex("[a-z ]{3000}"), max_tokens=3500, temperature=2.0)
        results: list[Any] = []
        waiting = [threading.Thread(target=_outcome, args=(loaded.model, long, results)) for _ in range(4)]
        for thread in waiting:
            thread.start()
        next(loaded.model.stream(ask("Hello", max_tokens=3)))
        _kill(loaded)
        for thread in waiting:
            thread.join(60)
        assert len(results) == 4
        assert [error for error in results if not isinstance(error, EngineError)] == []
        with pytest.raises(EngineError):
            loaded.model.generate(ask("Hello"))
        if loaded.name == "vllm":
            assert {type(error) for error in results} == {EngineDeadError}
            loaded.model.close()
            loaded.model = Glm4v.load("tiny", "vllm", **SETTINGS)
            assert loaded.model.generate(ask("Hello", max_tokens=3)).usage.completion

    @pytest.mark.parametrize("loaded", ["vllm"], indirect=True)
    def test_closing_ends_running_and_later_requests(self, loaded: Engine) -> None:
        results: list[Any] = []
        long = ask("Say it", constraint=Regex("[a-z ]{3000}"), max_tokens=3500, temperature=2.0)
        stream = loaded.model.stream(long)
        next(stream)
        waiting = threading.Thread(target=_outcome, args=(loaded.model, long, results))
        waiting.start()
        loaded.model.close()
        loaded.model.close()
        waiting.join(60)
        with pytest.raises(EngineClosedError):
            list(stream)
        with pytest.raises(EngineClosedError):
            loaded.model.generate(ask("Hello"))
        assert [type(error) for error in results] == [EngineClosedError]


def _outcome(model: Glm4v, request: Request, results: list[Any]) -> None:
    try:
        results.append(model.generate(request))
    except Glm4vError as error:
        results.append(error)


def _kill(engine: Engine) -> None:
    """Kill the processes in which vLLM runs the model."""
    if engine.server is not None:
        end(engine.server)
        return
    workers = psutil.Process().children(recursive=True)
    cores = [process for process in workers if "spawn_main" in " ".join(process.cmdline()) or "VLLM" in process.name()]
    assert cores
    for process in cores:
        os.kill(process.pid, signal.SIGKILL)
