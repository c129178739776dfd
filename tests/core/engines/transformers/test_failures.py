"""A failing request fails alone; a dead worker fails all requests; a closed engine keeps no memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import Checkpoint, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.errors import EngineClosedError, EngineDeadError, EngineError, MessageError, OutOfMemoryError
from glm4v_core.types import Piece
from tests.support.engine_calls import answer, answers, ask, page

Open = Callable[..., TransformersEngine]


@contextmanager
def failing(module: torch.nn.Module, when: Callable[[torch.Tensor], bool], error: Exception) -> Iterator[list[Any]]:
    """Make a module raise when `when` holds for what it reads; yields the shapes it failed on."""
    failed: list[Any] = []

    def check(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        read = named.get("inputs_embeds", arguments[0] if arguments else None)
        if when(read):
            failed.append(tuple(read.shape))
            raise error

    hook = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failed
    finally:
        hook.remove()


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError("no memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 1 TB"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
async def test_a_prompt_that_does_not_fit_fails_alone(
    open_engine: Open, checkpoint: Checkpoint, error: Exception
) -> None:
    engine = open_engine()
    small, large = ask("Hello"), ask("word " * 60)
    expected = (await answer(engine, small)).text
    with failing(checkpoint.model.model.language_model, lambda read: read.shape[1] > 60, error):
        results = await asyncio.gather(
            *(answer(engine, each) for each in (small, large, small)), return_exceptions=True
        )
    assert isinstance(results[1], OutOfMemoryError)
    assert results[1].__cause__ is error
    assert [result.text for result in (results[0], results[2]) if not isinstance(result, BaseException)] == [
        expected
    ] * 2
    assert (await answer(engine, large)).text


async def test_memory_short_while_decoding_costs_the_longest_request(
    open_engine: Open, checkpoint: Checkpoint, endless: Checkpoint
) -> None:
    engine = open_engine(endless)
    requests = [ask("Hello"), ask("word " * 60), ask("Good morning"), ask("word " * 70)]
    expected = [await answer(engine, request) for request in requests]
    tight = failing(
        checkpoint.model.model.language_model,
        lambda read: read.shape[1] == 1 and read.shape[0] > 2,
        torch.OutOfMemoryError("CUDA out of memory."),
    )
    with tight as failed:
        results = await asyncio.gather(*(answer(engine, request) for request in requests), return_exceptions=True)
    assert failed
    assert [isinstance(result, OutOfMemoryError) for result in results] == [False, True, False, True]
    assert results[0].text == expected[0].text  # type: ignore[union-attr]
    assert results[2].text == expected[2].text  # type: ignore[union-attr]


async def test_memory_too_small_for_any_request_fails_each_of_them(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless)
    error = torch.OutOfMemoryError("CUDA out of memory.")
    with failing(endless.model.model.language_model, lambda read: read.shape[1] == 1, error):
        results = await asyncio.gather(*(answer(engine, ask("Hello")) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [OutOfMemoryError] * 3
    assert (await answer(engine, ask("Hello"))).text


async def test_memory_kept_for_reuse_is_freed_first(open_engine: Open, checkpoint: Checkpoint) -> None:
    engine = open_engine()
    request = ask(page(1), "Read")
    expected = (await answer(engine, request)).text
    broken = iter([True])
    once = failing(
        checkpoint.model.model.language_model, lambda read: next(broken, False), torch.OutOfMemoryError("CUDA is full.")
    )
    with once as failed:
        again = await answer(engine, request)
    assert len(failed) == 1
    assert (again.text, again.usage.cached) == (expected, 0)


async def test_an_image_that_cannot_be_prepared_fails_alone(open_engine: Open, checkpoint: Checkpoint) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(checkpoint.image_processor, name)

        def __call__(self, *arguments: Any, **settings: Any) -> Any:
            raise failure

    failure: Exception = OSError("broken")
    engine = open_engine(replace(checkpoint, image_processor=Broken()))
    results = await asyncio.gather(
        *(answer(engine, request) for request in (ask("Hello"), ask(page(1), "Read"))), return_exceptions=True
    )
    assert not isinstance(results[0], BaseException)
    assert isinstance(results[1], EngineError)
    assert results[1].__cause__ is failure
    failure = MemoryError()
    with pytest.raises(OutOfMemoryError):
        await answer(engine, ask(page(2), "Read"))


async def test_a_worker_that_dies_during_prefill_fails_its_requests(open_engine: Open, checkpoint: Checkpoint) -> None:
    engine = open_engine()
    with failing(checkpoint.model.model.language_model, lambda read: True, ValueError("a bug")):
        results = await asyncio.gather(*(answer(engine, ask("Hello")) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [EngineDeadError] * 3


@pytest.mark.parametrize("cause", [ValueError("a bug"), RuntimeError("a bug")], ids=lambda cause: type(cause).__name__)
async def test_the_death_of_the_worker_fails_all_requests(
    open_engine: Open, endless: Checkpoint, cause: Exception
) -> None:
    engine = open_engine(endless, slots=2)
    long = ask("Hello", max_tokens=1000)
    with failing(endless.model.model.language_model, lambda read: read.shape[0] == 2, cause):
        results = await asyncio.gather(*(answer(engine, long) for _ in range(4)), return_exceptions=True)
    for result in results:
        assert isinstance(result, EngineDeadError)
        assert result.__cause__ is cause
        assert f"{type(cause).__name__}: a bug" in str(result)
    assert len({id(result) for result in results}) == 4
    for call in (answer(engine, long), engine.count_tokens(long)):
        with pytest.raises(EngineDeadError):
            await call


async def test_closing_ends_running_and_later_requests(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless, slots=1)
    stream = engine.stream(ask("Hello", max_tokens=1000))
    assert isinstance(await anext(stream), Piece)
    waiting = asyncio.create_task(answer(engine, ask("Hello")))
    await asyncio.sleep(0.05)
    await engine.close()
    await engine.close()
    with pytest.raises(EngineClosedError):
        async for _ in stream:
            pass
    with pytest.raises(EngineClosedError):
        await waiting
    with pytest.raises(EngineClosedError):
        await answer(engine, ask("Hello"))
    with pytest.raises(EngineClosedError):
        await engine.count_tokens(ask("Hello"))


async def test_closing_ends_all_running_requests(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless)
    streams = [engine.stream(ask("Hello", max_tokens=4000)) for _ in range(3)]
    for stream in streams:
        assert isinstance(await anext(stream), Piece)
    await engine.close()
    for stream in streams:
        with pytest.raises(EngineClosedError):
            async for _ in stream:
                pass


async def test_closing_releases_the_model(checkpoint_folder: Path) -> None:
    loaded = load_checkpoint(checkpoint_folder, TransformersOptions())
    model = weakref.ref(loaded.model.lm_head)
    engine = TransformersEngine(loaded)
    del loaded
    await answers(engine, [ask("Hello"), ask(page(1), "Read")])
    assert model() is not None
    await engine.close()
    gc.collect()
    assert model() is None


async def test_a_request_whose_images_do_not_match_is_refused(open_engine: Open, checkpoint: Checkpoint) -> None:
    doubled = replace(checkpoint, template=str(checkpoint.template) + "<|image|>")
    with pytest.raises(MessageError, match="2 image placeholders"):
        await answer(open_engine(doubled), ask(page(1), "Read"))


def test_a_caller_whose_loop_is_closed_does_not_hold_up_others(open_engine: Open, endless: Checkpoint) -> None:
    engine = open_engine(endless, slots=1)
    loop = asyncio.new_event_loop()
    stream = engine.stream(ask("Hello", max_tokens=4000))
    loop.run_until_complete(anext(stream))
    loop.close()
    assert asyncio.run(asyncio.wait_for(answer(engine, ask("Hello", max_tokens=3)), 30)).text


def test_one_engine_serves_several_loops(engine: TransformersEngine) -> None:
    texts = {asyncio.run(answer(engine, ask("Hello"))).text for _ in range(2)}
    assert len(texts) == 1
