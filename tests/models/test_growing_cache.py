"""The cache with spare room holds what the library's holds, whatever is done to it in between."""

from __future__ import annotations

import copy

import torch
from transformers import Cache, DynamicCache

from assistant.models.growing_cache import ROOM, growing_cache


def fill(cache: Cache, tokens: int, rows: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 3, tokens, 4, generator=random).unbind()
    return cache.update(keys, values, 0)


def same(first: Cache, second: Cache) -> bool:
    one, two = first.layers[0], second.layers[0]
    return torch.equal(one.keys, two.keys) and torch.equal(one.values, two.values)


def test_appending_cropping_repeating_and_selecting() -> None:
    ours, theirs = growing_cache(), DynamicCache()
    for cache in (ours, theirs):
        fill(cache, 30)
        for seed in range(2 * ROOM):
            fill(cache, 1, seed=seed)
        cache.crop(-5)
        fill(cache, 3, seed=7)
        cache.batch_repeat_interleave(2)
        fill(cache, 1, rows=4, seed=8)
        cache.batch_select_indices(torch.tensor([3, 0, 1]))
        fill(cache, 2, rows=3, seed=9)
    assert same(ours, theirs)
    assert ours.get_seq_length() == 30 + 2 * ROOM - 5 + 3 + 1 + 2


def test_a_copy_does_not_write_into_its_original() -> None:
    original = growing_cache()
    fill(original, 4)
    before = original.layers[0].keys.clone()
    twin = copy.deepcopy(original)
    fill(original, 1, seed=1)
    fill(twin, 1, seed=2)
    assert torch.equal(original.layers[0].keys[..., :4, :], before)
    assert not same(original, twin)


def test_a_token_is_written_in_place_while_there_is_room() -> None:
    cache = growing_cache()
    fill(cache, 10)
    place = cache.layers[0].keys.data_ptr()
    for seed in range(ROOM):
        fill(cache, 1, seed=seed)
    assert cache.layers[0].keys.data_ptr() == place
    fill(cache, 1)
    assert cache.layers[0].keys.data_ptr() != place
    cache.reset()
    assert cache.get_seq_length() == 0
    fill(cache, 2)
    assert cache.get_seq_length() == 2
