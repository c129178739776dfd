"""Where keys, values and features are kept: rows without gaps, reuse within its bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from glm4v_core.engines.transformers.cache import GROWTH, Slots, grouped_attention
from glm4v_core.engines.transformers.reuse import Identity, ReuseCache

CPU = torch.device("cpu")


def prompt(*numbers: int) -> Identity:
    return np.array(numbers, dtype=np.int64)


def stored(length: int) -> torch.Tensor:
    """Keys and values of 64 bytes per token."""
    return torch.arange(length * 16.0).view(length, 16).T.reshape(2, 2, 2, 2, length).transpose(3, 4).contiguous()


def test_the_least_recently_used_features_go_first() -> None:
    cache = ReuseCache(300)
    for key in "abc":
        cache.keep_features(key, torch.zeros(25))
    assert (len(cache), cache.size) == (3, 300)
    assert cache.features("a") is not None
    cache.keep_features("d", torch.zeros(25))
    assert [key for key in "abcd" if cache.features(key) is not None] == ["a", "c", "d"]
    cache.keep_features("a", torch.ones(50))
    assert cache.size == 300
    cache.keep_features("e", torch.zeros(76))
    assert cache.features("e") is None
    assert len(cache) == 2
    assert cache.clear()
    assert not cache.clear()
    assert cache.size == 0


def test_the_longest_common_beginning_is_found() -> None:
    cache = ReuseCache(10_000)
    cache.keep_prefix(prompt(*range(20), 7, 7, 7, 7, 7, 7), 0, lambda: stored(26))
    cache.keep_prefix(prompt(*range(18), 9, 9, 9, 9, 9, 9, 9), 18, lambda: stored(25))
    assert len(cache) == 2
    known, prefix = cache.prefix(prompt(*range(20), 8))
    assert known == 20
    assert prefix is not None
    assert torch.equal(prefix, stored(26)[:, :, :, :20])
    # The last token is always read, for its logits.
    assert cache.prefix(prompt(*range(20)))[0] == 19
    assert cache.prefix(prompt(*range(5))) == (0, None)
    assert cache.prefix(prompt(5, *range(20))) == (0, None)


def test_a_prompt_replaces_its_own_beginning_and_little_news_is_not_kept() -> None:
    cache = ReuseCache(10_000)
    cache.keep_prefix(prompt(*range(40)), 0, lambda: stored(40))
    cache.keep_prefix(prompt(*range(60)), 40, lambda: stored(60))
    assert (len(cache), cache.size) == (1, 60 * 64)
    cache.keep_prefix(prompt(*range(64)), 60, lambda: pytest.fail("not worth a copy"))
    cache.keep_prefix(prompt(1, 2, 3), 0, lambda: pytest.fail("not worth a copy"))
    assert len(cache) == 1


def test_without_room_nothing_is_kept() -> None:
    cache = ReuseCache(0)
    assert not cache.enabled
    cache.keep_prefix(prompt(*range(40)), 0, lambda: pytest.fail("never copied"))
    cache.keep_features("a", torch.zeros(1))
    assert len(cache) == 0


@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_by_groups_equals_attention_with_repeated_heads(tokens: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, tokens, 8), torch.randn(3, 2, 10, 8), torch.randn(3, 2, 10, 8)
    mask = torch.arange(10) <= torch.tensor([3, 9, 6])[:, None, None, None] + torch.arange(tokens)[:, None]
    output, _ = grouped_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.5)
    repeated = [states.repeat_interleave(3, dim=1) for states in (key, value)]
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.5).transpose(1, 2)
    assert torch.allclose(output, expected, atol=1e-6)


def test_rows_are_written_at_their_own_places_and_survive_growth() -> None:
    slots = Slots(layers=1, heads=2, head_size=4, device=CPU, dtype=torch.float32)
    slots.reserve(2, 5)
    keys, values = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    slots.aim(slice(0, 2), torch.tensor([[0, 1, 2], [0, 1, 2]]), 3, fresh=True)
    assert slots.update(keys, values, 0)[0] is keys
    slots.reserve(3, GROWTH + 1)
    new = torch.randn(2, 2, 1, 4)
    slots.aim(slice(0, 2), torch.tensor([[3], [2]]), 4)
    read, _ = slots.update(new, new, 0)
    assert torch.equal(read[0], torch.cat([keys[0], new[0]], dim=1))
    assert torch.equal(read[1, :, :3], torch.cat([keys[1, :, :2], new[1]], dim=1))
    slots.move(1, 0, 3)
    assert torch.equal(slots.export(0, 3), slots.export(1, 3))
    slots.restore(2, slots.export(1, 3))
    assert torch.equal(slots.export(2, 3), slots.export(1, 3))
    assert slots.get_seq_length() == 4
    assert slots.get_mask_sizes(1, 0) == (4, 0)
    assert slots.get_max_length() == -1
