"""Keys, values and image features: rows without gaps, and reuse within its bound."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from glm4v_core.engines.transformers.attention import grouped_attention
from glm4v_core.engines.transformers.cache import GROWTH, SlotCache
from glm4v_core.engines.transformers.prefixes import SHORTEST_PREFIX, Identity, PrefixCache, common_prefix
from glm4v_core.engines.transformers.reuse import ReuseCache

CPU = torch.device("cpu")


def prompt(*numbers: int) -> Identity:
    return np.array(numbers, dtype=np.int64)


def stored(length: int) -> torch.Tensor:
    """Keys and values of 64 bytes per token."""
    return torch.arange(length * 16.0).view(length, 16).T.reshape(2, 2, 2, 2, length).transpose(3, 4).contiguous()


def test_the_least_recently_used_tensors_are_dropped_first() -> None:
    cache, dropped = ReuseCache(300), list[str]()
    for key in "abc":
        assert cache.keep(key, torch.zeros(25), lambda key=key: dropped.append(key))
    assert (len(cache), cache.size) == (3, 300)
    assert cache.get("a") is not None
    cache.keep("d", torch.zeros(25))
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    cache.keep("a", torch.ones(50))
    assert cache.size == 300
    assert not cache.keep("e", torch.zeros(76))
    assert cache.get("e") is None
    assert len(cache) == 2
    assert dropped == ["b", "a", "c"]
    assert cache.clear()
    assert not cache.clear()
    assert cache.size == 0


def test_the_longest_common_prefix_is_found() -> None:
    reuse = ReuseCache(10_000)
    cache = PrefixCache(reuse)
    cache.keep(prompt(*range(20), 7, 7, 7, 7, 7, 7), 0, lambda: stored(26))
    cache.keep(prompt(*range(18), 9, 9, 9, 9, 9, 9, 9), 18, lambda: stored(25))
    assert len(reuse) == 2
    found = cache.find(prompt(*range(20), 8))
    assert found.length == 20
    assert found.states is not None
    assert torch.equal(found.states, stored(26)[:, :, :, :20])
    # The last token is always read, for its logits.
    assert cache.find(prompt(*range(20))).length == 19
    for unknown in (prompt(*range(5)), prompt(5, *range(20))):
        assert (cache.find(unknown).length, cache.find(unknown).states) == (0, None)


def test_a_prompt_replaces_its_own_prefix_and_a_short_extension_is_not_kept() -> None:
    reuse = ReuseCache(10_000)
    cache = PrefixCache(reuse)
    cache.keep(prompt(*range(40)), 0, lambda: stored(40))
    cache.keep(prompt(*range(60)), 40, lambda: stored(60))
    assert (len(reuse), reuse.size) == (1, 60 * 64)
    cache.keep(prompt(*range(64)), 60, lambda: pytest.fail("not worth a copy"))
    cache.keep(prompt(1, 2, 3), 0, lambda: pytest.fail("not worth a copy"))
    assert len(reuse) == 1


def test_without_room_nothing_is_kept() -> None:
    reuse = ReuseCache(0)
    cache = PrefixCache(reuse)
    assert not cache.enabled
    cache.keep(prompt(*range(40)), 0, lambda: pytest.fail("never copied"))
    reuse.keep("a", torch.zeros(1))
    assert len(reuse) == 0


def test_a_prompt_too_large_for_the_cache_is_not_found_later() -> None:
    cache = PrefixCache(ReuseCache(39 * 64))
    cache.keep(prompt(*range(40)), 0, lambda: stored(40))
    assert cache.find(prompt(*range(50))).length == 0


@pytest.mark.parametrize("seed", range(20))
def test_prefixes_are_found_as_by_comparing_with_every_kept_prompt(seed: int) -> None:
    chance = random.Random(seed)
    reuse = ReuseCache(600 * 64)
    cache = PrefixCache(reuse)
    kept: dict[bytes, Identity] = {}
    for _ in range(300):
        # Few distinct tokens, so that prompts diverge at every position and some extend others.
        length = chance.randint(1, 60)
        tokens = prompt(*(chance.choices([1, 2], [30, 1], k=length)))
        held = [one for key, one in kept.items() if reuse.get(key) is not None]
        known = min(max((common_prefix(one, tokens) for one in held), default=0), length - 1)
        found = cache.find(tokens)
        assert found.length == (known if known >= SHORTEST_PREFIX else 0)
        if found.states is not None:
            assert found.states.shape[3] == found.length
        cache.keep(tokens, 0, lambda length=length: stored(length))
        kept[tokens.tobytes()] = tokens
        if chance.random() < 0.02:
            reuse.clear()


class Counted(np.ndarray[Any, Any]):
    """An array that counts the elements that are compared, read or hashed."""

    work = 0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [np.asarray(each) for each in inputs]
        Counted.work += max(each.size for each in plain)
        return getattr(ufunc, method)(*plain, **options)

    def __getitem__(self, key: Any) -> Any:
        Counted.work += 1
        return super().__getitem__(key)


def work_of_a_look_up(kept: Sequence[Sequence[int]], asked: Sequence[int]) -> int:
    cache = PrefixCache(ReuseCache(2**30))
    for numbers in kept:
        cache.keep(prompt(*numbers).view(Counted), 0, partial(stored, len(numbers)))
    Counted.work = 0
    assert cache.find(prompt(*asked).view(Counted)).length == 150
    return Counted.work


def unlike(index: int) -> list[int]:
    """A prompt that shares nothing with the others."""
    return [1000 + index] * 200


def same_beginning(index: int) -> list[int]:
    """The same instructions before each page."""
    return [*range(100), *[1000 + index] * 100]


def each_shares_more(index: int) -> list[int]:
    """Each diverges from the one before it one token later."""
    return [*range(150), *[5] * (50 + index), 1000 + index]


@pytest.mark.parametrize("others", [unlike, same_beginning, each_shares_more])
def test_a_look_up_costs_the_same_for_any_number_of_kept_prompts(others: Callable[[int], list[int]]) -> None:
    target, asked = [*range(150), *[5] * 50], [*range(150), *[6] * 50]
    work = [work_of_a_look_up([*map(others, range(count)), target], asked) for count in (1, 100, 1000)]
    assert work[0] == work[1] == work[2] <= 3 * len(asked)


@pytest.mark.parametrize("tokens", [1, 3])
def test_grouped_query_attention_equals_attention_with_repeated_heads(tokens: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, tokens, 8), torch.randn(3, 2, 10, 8), torch.randn(3, 2, 10, 8)
    mask = torch.arange(10) <= torch.tensor([3, 9, 6])[:, None, None, None] + torch.arange(tokens)[:, None]
    output, _ = grouped_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.5)
    repeated = [states.repeat_interleave(3, dim=1) for states in (key, value)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.5).transpose(1, 2)
    assert torch.allclose(output, expected, atol=1e-6)


def cache_of(layers: int) -> SlotCache:
    return SlotCache(layers=layers, heads=2, head_size=4, device=CPU, dtype=torch.float32)


def filled(layers: int, rows: int, length: int) -> tuple[SlotCache, torch.Tensor]:
    """A cache, and its contents: [layers, 2, rows, heads, length, head size]."""
    cache, states = cache_of(layers), torch.randn(layers, 2, rows, 2, length, 4)
    cache.reserve(rows, length)
    cache.aim(slice(0, rows), torch.arange(length).expand(rows, -1), length, fresh=True)
    for layer, (keys, values) in enumerate(states):
        cache.update(keys, values, layer)
    return cache, states


def test_rows_are_written_at_their_own_positions_and_survive_growth() -> None:
    cache = cache_of(1)
    cache.reserve(2, 5)
    keys, values = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    cache.aim(slice(0, 2), torch.tensor([[0, 1, 2], [0, 1, 2]]), 3, fresh=True)
    assert cache.update(keys, values, 0)[0] is keys
    cache.reserve(3, GROWTH + 1)
    new = torch.randn(2, 2, 1, 4)
    cache.aim(slice(0, 2), torch.tensor([[3], [2]]), 4)
    read, _ = cache.update(new, new, 0)
    assert torch.equal(read[0], torch.cat([keys[0], new[0]], dim=1))
    assert torch.equal(read[1, :, :3], torch.cat([keys[1, :, :2], new[1]], dim=1))
    cache.move(1, 0, 3)
    assert torch.equal(cache.export(0, 3), cache.export(1, 3))
    cache.restore(2, cache.export(1, 3))
    assert torch.equal(cache.export(2, 3), cache.export(1, 3))
    assert cache.get_seq_length() == 4
    assert cache.get_mask_sizes(1, 0) == (4, 0)
    assert cache.get_max_length() == -1


def bytes_over_time(work: Callable[[], object], folder: Path) -> list[int]:
    """Run, and return how many bytes of new tensors were in memory after each allocation and release."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return [int(size) for size in np.cumsum([event["args"]["Bytes"] for event in changes])]


@pytest.mark.parametrize(("rows", "length"), [(4, GROWTH), (2, GROWTH + 1)], ids=["rows", "length"])
def test_growth_needs_memory_for_one_additional_layer(tmp_path: Path, rows: int, length: int) -> None:
    caches: list[SlotCache] = []

    def grow() -> None:
        caches.append(cache_of(10))
        caches[0].reserve(2, GROWTH)
        caches[0].reserve(rows, length)

    sizes = bytes_over_time(grow, tmp_path)
    small = 2 * 2 * 2 * GROWTH * 4 * 4
    # Each layer ends up twice as large; while one grows, its old states are still in memory.
    assert sizes[-1] == 10 * 2 * small
    assert max(sizes) == 10 * 2 * small + small


class LittleMemory(TorchFunctionMode):  # type: ignore[misc]  # its base is not analysed
    """Allows this many tensors to be allocated and no more."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.tensors = tensors

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.Tensor.new_zeros:
            if not self.tensors:
                raise torch.OutOfMemoryError("no room")
            self.tensors -= 1
        return function(*arguments, **options or {})


def test_running_out_of_memory_during_growth_leaves_all_rows_unchanged() -> None:
    cache, states = filled(layers=3, rows=2, length=5)
    with LittleMemory(tensors=2), pytest.raises(torch.OutOfMemoryError):
        cache.reserve(4, GROWTH + 1)
    cache.reserve(2, 6)
    new = torch.randn(3, 2, 2, 2, 1, 4)
    cache.aim(slice(0, 2), torch.tensor([[5], [5]]), 6)
    for layer, (keys, values) in enumerate(new):
        read = torch.stack(cache.update(keys, values, layer))
        assert torch.equal(read, torch.cat([states[layer], new[layer]], dim=3))
    cache.move(1, 0, 6)
    assert torch.equal(cache.export(0, 6), torch.cat([states, new], dim=4)[:, :, 1])
    cache.reserve(4, GROWTH + 1)
    cache.restore(3, cache.export(0, 6))
    assert torch.equal(cache.export(3, 6), cache.export(1, 6))
    cache.release()
    cache.reserve(1, 1)
    assert not cache.export(0, GROWTH).any()
