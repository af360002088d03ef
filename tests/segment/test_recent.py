"""What was heard a moment ago can be heard again, and nothing older is kept."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.events import Chunk, frozen
from assistant.segment.recent import Recent


def chunk(start: int, length: int = 100) -> Chunk:
    return Chunk("kitchen", "mic", start, frozen(np.arange(start, start + length, dtype=np.float32)), 0.0)


def test_any_stretch_of_the_last_while_is_there() -> None:
    recent = Recent(keep=1_000)
    for start in range(0, 2_000, 100):
        recent.feed(chunk(start))
    assert recent.cut(1_250, 1_460).tolist() == list(range(1_250, 1_460))
    assert recent.cut(0, 1_050).tolist() == list(range(1_000, 1_050))  # what is older is gone
    assert recent.cut(1_950, 9_999).tolist() == list(range(1_950, 2_000))
    assert recent.cut(5_000, 6_000).size == 0
    with pytest.raises(ValueError, match="read-only"):
        recent.cut(1_000, 1_100)[0] = 1.0


def test_lost_audio_is_left_out() -> None:
    recent = Recent()
    recent.feed(chunk(0))
    recent.feed(chunk(500))
    assert recent.cut(50, 550).tolist() == [*range(50, 100), *range(500, 550)]


def test_it_does_not_grow() -> None:
    recent = Recent(keep=1_000)
    for start in range(0, 1_000_000, 100):
        recent.feed(chunk(start))
    assert len(recent.cut(0, 1_000_000)) == 1_000
