"""Slots hold what the caches of their rows held, whoever comes, goes or fails to."""

from __future__ import annotations

import pytest
import torch
from transformers import Cache

from assistant.models.growing_cache import growing_cache
from assistant.models.slots import Slots, rounded

LAYERS, HEADS, WIDTH = 2, 3, 4


def prompt(length: int, seed: int) -> Cache:
    random = torch.Generator().manual_seed(seed)
    cache = growing_cache()
    for layer in range(LAYERS):
        cache.update(*torch.randn(2, 1, HEADS, length, WIDTH, generator=random).unbind(), layer)
    return cache


def holds(slots: Slots, row: int, cache: Cache, length: int) -> bool:
    return all(
        torch.equal(layer.keys[row, :, :length], other.keys[0])
        and torch.equal(layer.values[row, :, :length], other.values[0])  # type: ignore[union-attr]
        for layer, other in zip(slots.layers, cache.layers, strict=True)
    )


def test_rows_move_up_and_slots_grow_without_losing_a_token() -> None:
    prompts = {length: prompt(length, length) for length in (5, 9, 3, 70)}
    slots = Slots()
    slots.put(prompts[5], 5, 1.0, 1, 64)
    slots.put(prompts[9], 9, 3.0, 2, 64)
    slots.put(prompts[3], 3, 7.0, 4, 64)
    slots.put(prompts[70], 70, 1.0, 4, 128)
    slots.drop(0)
    assert slots.lengths == [70, 9, 3]
    assert slots.alphas == [1.0, 3.0, 7.0]
    assert all(holds(slots, row, prompts[length], length) for row, length in enumerate(slots.lengths))
    slots.drop(2)
    assert slots.lengths == [70, 9]
    assert slots.get_seq_length() == 70


def test_a_step_writes_each_row_at_its_own_end_and_shows_it_no_more_than_that() -> None:
    slots = Slots()
    for length in (5, 9):
        slots.put(prompt(length, length), length, 1.0, 2, 64)
    slots.begin(torch.float32, torch.device("cpu"))
    assert slots.at.tolist() == [5, 9]
    assert [int((row == 0).sum()) for row in slots.mask[:, 0, 0]] == [6, 10]
    states = torch.full((2, HEADS, 1, WIDTH), 8.0)
    keys, values = slots.update(states, -states, 0)
    assert keys.shape == values.shape == (2, HEADS, 10, WIDTH)
    assert bool((keys[0, :, 5] == 8.0).all())
    assert bool((values[1, :, 9] == -8.0).all())
    assert bool((keys[0, :, 6:] == 0.0).all())  # nothing of others
    slots.end()
    assert slots.lengths == [6, 10]


def test_a_step_of_fixed_sizes_shows_rows_without_tokens_nothing_but_themselves() -> None:
    slots = Slots()
    slots.put(prompt(5, 1), 5, 1.0, 4, 64)
    slots.begin(torch.float32, torch.device("cpu"), rows=4, seen=32)
    assert slots.mask.shape == (4, 1, 1, 32)
    assert [int((row == 0).sum()) for row in slots.mask[:, 0, 0]] == [6, 1, 1, 1]
    assert slots.ntk_alpha.tolist() == [1.0] * 4


def test_memory_that_gives_out_while_slots_grow_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = prompt(5, 1), prompt(100, 2)
    slots = Slots()
    slots.put(first, 5, 1.0, 2, 64)
    calls = 0
    new_zeros = torch.Tensor.new_zeros

    def tight(self: torch.Tensor, *size: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # the second layer
            raise MemoryError("CUDA out of memory")
        return new_zeros(self, *size)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "new_zeros", tight)
    with pytest.raises(MemoryError):
        slots.put(second, 100, 1.0, 1 + 1, 128)
    assert (slots.slots, slots.room) == (2, 64)
    assert slots.lengths == [5]
    assert holds(slots, 0, first, 5)
    slots.put(second, 100, 1.0, 2, 128)
    assert holds(slots, 0, first, 5)
    assert holds(slots, 1, second, 100)


def test_rooms_are_rounded_up() -> None:
    assert [rounded(tokens) for tokens in (1, 64, 65)] == [64, 64, 128]
