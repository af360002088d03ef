"""A key-value cache with spare room behind its end, so that a token is written and not everything copied.

The library's `DynamicCache` concatenates at each token, which reads and writes all keys and values: with eight rows of
300 tokens, 12 layers by 1024 in float32, 0.5 GB for each. Keys and values are views of the front of a larger tensor
here; all else is the library's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens of spare room at least; an eighth of the length when that is more


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, (batch, heads, tokens, width)."""

    _spare_keys: Tensor | None = None
    _spare_values: Tensor | None = None

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *_args: Any,  # noqa: ANN401 (the library's protocol)
        **_options: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Append and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._spare_keys, keys = _appended(self._spare_keys, self.keys, key_states)
        self._spare_values, values = _appended(self._spare_values, self.values, value_states)
        self.keys, self.values = keys, values
        return keys, values


def _appended(spare: Tensor | None, old: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor with room, and the view of its front that holds `old` and `new`."""
    start = old.shape[-2] if old is not None and old.numel() else 0
    end = start + new.shape[-2]
    # Rows that were selected or repeated since are no view of the spare tensor any more.
    ours = (
        spare is not None
        and old is not None
        and start
        and old.data_ptr() == spare.data_ptr()
        and len(old) == len(spare)
    )
    if spare is None or not ours or spare.shape[-2] < end:
        batch, heads, _, width = new.shape
        spare = new.new_empty(batch, heads, end + max(ROOM, end // 8), width)
        if old is not None and start:
            spare[..., :start, :] = old
    spare[..., start:end, :] = new
    return spare, spare[..., :end, :]


def growing_cache() -> Cache:
    """An empty cache for any number of layers."""
    return Cache(layer_class_to_replicate=GrowingLayer)
