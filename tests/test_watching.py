"""What is told of a room that somebody watches."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from assistant.events import SAMPLE_RATE, Chunk, Samples, frozen
from assistant.segment.activity import Activity
from assistant.synthesis import noise, placed, tone
from assistant.tracking import Candidate, Standing
from assistant.watching import BANDS, FRAME, HOP, Watchers, Watching, spectrum


def heard(samples: Samples, size: int, *, start: int = 0, pace: float = 1.0) -> list[dict[str, Any]]:
    """What is told while `samples` come in chunks of `size`, at `pace` times real time."""
    told: list[Any] = []
    watching, activity = Watching("kitchen", told.append), Activity()
    for at in range(0, len(samples) - size + 1, size):
        chunk = Chunk("kitchen", "mic", start + at, frozen(samples[at : at + size].astype(np.float32)), 0.0)
        watching.hear(chunk, activity.feed(chunk), (at + size) / SAMPLE_RATE / pace)
    return told


def columns(message: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(message["columns"]), np.uint8).reshape(-1, BANDS)


@pytest.mark.parametrize("size", [320, 640, 1024, 1600])
def test_about_ten_messages_a_second_whatever_the_chunks(size: int) -> None:
    told = heard(noise(10.0, -50.0), size)
    assert 80 <= len(told) <= 100
    assert all(message["type"] == "sound" and message["room"] == "kitchen" for message in told)
    assert max(len(message["columns"]) for message in told) < 1000
    assert sum(len(columns(message)) for message in told) == pytest.approx(400, abs=8)


def test_a_file_that_is_read_fast_does_not_flood() -> None:
    assert len(heard(noise(60.0, -50.0), 1600, pace=100.0)) <= 13


def test_level_floor_peak_and_gate_are_those_of_the_room() -> None:
    loud = placed(noise(20.0, -76.0), tone(1000.0, 1.0) * 0.5, 12.0)
    told = heard(loud, 640)
    quiet, beep = told[110], next(message for message in told if message["at"] > 12.5)
    assert quiet["dbfs"] == pytest.approx(-76, abs=3)
    assert quiet["floor"] == pytest.approx(-70, abs=4)
    assert not quiet["gate"]
    assert beep["dbfs"] > -16
    assert beep["dbfs"] <= beep["peak"]
    assert beep["floor"] == pytest.approx(-70, abs=4)
    assert beep["gate"]


def test_the_spectrum_shows_a_tone_in_its_band_and_silence_as_nothing() -> None:
    rising = [int(spectrum(tone(hertz, 0.05)[None, :FRAME]).argmax()) for hertz in (120.0, 500.0, 2000.0, 6000.0)]
    assert rising == sorted(set(rising))
    assert not spectrum(np.zeros((1, FRAME), np.float32)).any()
    assert spectrum(np.full((1, FRAME), np.nan, np.float32)).dtype == np.uint8


def test_columns_of_pieces_are_those_of_the_whole() -> None:
    sound = noise(1.0, -30.0).astype(np.float32)
    pieces = np.concatenate([columns(message) for message in heard(sound, 320)])
    whole = spectrum(np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP])
    assert np.array_equal(pieces, whole[: len(pieces)])


def test_a_jump_begins_anew_and_its_place_is_told() -> None:
    told: list[Any] = []
    watching, activity = Watching("kitchen", told.append), Activity()
    starts = (*range(0, 16_000, 640), *range(160_000, 176_000, 640), *range(0, 16_000, 640))
    for count, start in enumerate(starts):
        chunk = Chunk("kitchen", "mic", start, frozen(noise(0.04, -50.0).astype(np.float32)), 0.0)
        watching.hear(chunk, activity.feed(chunk), 0.04 * count)
    places = [message["at"] for message in told]
    assert sum(abs(b - a) > 5 for a, b in pairwise(places)) == 2
    assert len(told) > 20


def test_scores_are_told_with_what_they_need() -> None:
    told: list[Any] = []
    watching = Watching("kitchen", told.append)
    watching.tagged(16_000, [Candidate("Dog", "dog_bark", 0.51234, 0.3, Standing.OPEN)], 1.0)
    watching.tagged(32_000, [], 2.0)
    first, second = told
    assert first["candidates"] == [
        {"label": "Dog", "event_type": "dog_bark", "score": 0.512, "threshold": 0.3, "standing": "open"}
    ]
    assert (first["at"], second["candidates"]) == (1.0, [])


def test_only_what_is_watched_is_made_and_once_for_all() -> None:
    told: list[tuple[str, Any]] = []
    watchers = Watchers(lambda room, message: told.append((room, message)))
    assert watchers.of("kitchen") is None
    watchers.change(frozenset({"kitchen", "health"}))
    first = watchers.of("kitchen")
    assert first is not None
    assert watchers.of("kitchen") is first
    assert watchers.of("bedroom") is None
    first.tagged(0, [], 0.0)
    assert told[0][0] == "kitchen"
    watchers.change(frozenset())
    assert watchers.of("kitchen") is None
