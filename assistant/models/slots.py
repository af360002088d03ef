"""Keys and values of many answers that are decoded together: each has a slot, its tokens at the front of it.

Each row has a length, positions and a stretch of the rotary base of its own. Rows come, and go, between two tokens; the
last row moves into a place that became free. The slots of a layer are one tensor, so that a step is one product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

STEP = 64  # slots are as long as a multiple of this


def rounded(tokens: int) -> int:
    """The length of a slot for so many tokens."""
    return -(-tokens // STEP) * STEP


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, (slots, heads, room, width), of which the rows in use are read."""

    owner: Slots

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_args: Any,  # noqa: ANN401 (the library's protocol)
        **_options: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Write one token of each row at its own place; keys and values up to the longest row's."""
        rows, at = self.owner.rows, self.owner.at
        assert self.keys is not None  # noqa: S101 (for the type checker, as below)
        assert self.values is not None  # noqa: S101
        self.keys[rows, :, at] = key_states[:, :, 0]
        self.values[rows, :, at] = value_states[:, :, 0]
        count, seen = len(rows), self.owner.seen
        return self.keys[:count, :, :seen], self.values[:count, :, :seen]


class Slots(Cache):
    """The cache of a batch whose rows have lengths of their own. It takes one token of each row at a time."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layers: list[Any]  # of `SlotLayer`
        self.slots, self.room = 0, 0  # how many there are; tokens in each
        self.lengths: list[int] = []  # tokens of each row in use
        self.alphas: list[float] = []
        self.rows = torch.empty(0, dtype=torch.long)  # what a step needs, set by `begin`
        self.at = torch.empty(0, dtype=torch.long)  # where each row's next token goes, which is its position
        self.mask = torch.empty(0)
        self.ntk_alpha = torch.ones(1)  # read by Qwen-Audio's decoder
        self.seen = 0  # keys that a step reads of each slot

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors of a step."""
        return self.rows, self.at, self.mask, self.ntk_alpha

    @inputs.setter
    def inputs(self, tensors: tuple[Tensor, ...]) -> None:
        self.rows, self.at, self.mask, self.ntk_alpha = tensors

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The longest row's."""
        return max(self.lengths, default=0)

    def put(self, cache: Cache, length: int, alpha: float, slots: int, room: int) -> None:
        """Give the prompt in `cache` (one row of `length` tokens) a slot; there are to be `slots` of `room` tokens."""
        if (slots, room) != (self.slots, self.room):
            self._lay_out(cache, slots, room)
        row = len(self.lengths)
        prompts: list[Any] = cache.layers  # of one row each
        for layer, prompt in zip(self.layers, prompts, strict=True):
            layer.keys[row, :, :length] = prompt.keys[0, :, :length]
            layer.values[row, :, :length] = prompt.values[0, :, :length]
        self.lengths.append(length)
        self.alphas.append(alpha)

    def drop(self, row: int) -> None:
        """Free the slot of a row; the last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            for layer in self.layers:
                layer.keys[row, :, :length] = layer.keys[last, :, :length]
                layer.values[row, :, :length] = layer.values[last, :, :length]
        self.lengths[row], self.alphas[row] = self.lengths[last], self.alphas[last]
        del self.lengths[last], self.alphas[last]

    def clear(self) -> None:
        """Hold nothing."""
        self.layers, self.lengths, self.alphas = [], [], []
        self.slots = self.room = 0

    def begin(self, dtype: torch.dtype, device: torch.device, *, rows: int | None = None, seen: int = 0) -> None:
        """Prepare a step of one token a row. `rows` and `seen`: at least so many, for graphs of fixed sizes.

        A row too many has no tokens: it sees its own new one alone, in a slot that nobody uses.
        """
        lengths = self.lengths + [0] * max(0, (rows or 0) - len(self.lengths))
        self.seen = max(seen, max(lengths) + 1)
        at = torch.tensor(lengths)
        beyond = torch.arange(self.seen)[None] > at[:, None]
        mask = torch.zeros(len(lengths), 1, 1, self.seen, dtype=dtype)
        mask.masked_fill_(beyond[:, None, None], torch.finfo(dtype).min)
        alphas = self.alphas + [1.0] * (len(lengths) - len(self.alphas))
        self.rows = torch.arange(len(lengths), device=device)
        self.at, self.mask = at.to(device), mask.to(device)
        self.ntk_alpha = torch.tensor(alphas, device=device)

    def end(self) -> None:
        """The step is done: each row is one token longer."""
        self.lengths = [length + 1 for length in self.lengths]

    def _lay_out(self, like: Cache, slots: int, room: int) -> None:
        """Make the slots anew, layer by layer; `like` tells heads, width, dtype and device."""
        if not self.layers:
            self.layers = [SlotLayer() for _ in like.layers]  # type: ignore[no-untyped-call]  # the library's
        count, longest = len(self.lengths), self.get_seq_length()
        # Memory may give out at any layer: until all are done there is what both layouts have.
        self.slots, self.room = min(self.slots, slots), min(self.room, room)
        prompts: list[Any] = like.layers
        for layer, prompt in zip(self.layers, prompts, strict=True):
            _, heads, _, width = prompt.keys.shape
            old = (layer.keys, layer.values) if layer.is_initialized else None
            layer.keys = prompt.keys.new_zeros(slots, heads, room, width)  # zeros: a masked NaN would still be one
            layer.values = prompt.values.new_zeros(slots, heads, room, width)
            if old is not None:
                layer.keys[:count, :, :longest] = old[0][:count, :, :longest]
                layer.values[:count, :, :longest] = old[1][:count, :, :longest]
            layer.is_initialized, layer.owner = True, self
        self.slots, self.room = slots, room
