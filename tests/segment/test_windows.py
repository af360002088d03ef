"""Windows: where they are cut, what fills them, how loud they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from assistant.events import SAMPLE_RATE, Chunk, Window
from assistant.segment.activity import Activity
from assistant.segment.windows import WINDOW, LongWindowSettings, Windows, WindowSettings

UNLIFTED = WindowSettings(level_dbfs=-60, noise_dbfs=-80)


def noise(seconds: float, level_dbfs: float, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=round(seconds * SAMPLE_RATE)) * 10 ** (level_dbfs / 20)).astype(
        np.float32
    )


def room_with_sound(at: float, lasts: float, seconds: float = 20, level: float = -30) -> np.ndarray:
    room = noise(seconds, -60)
    begin = round(at * SAMPLE_RATE)
    sound = noise(lasts, level, seed=2)
    room[begin : begin + len(sound)] += sound
    return room


def cut(samples: np.ndarray, sizes: list[int] | None = None, settings: WindowSettings = UNLIFTED) -> list[Window]:
    activity, windows, found, at = Activity(), Windows(settings), [], 0
    sizes = sizes or [800]
    i = 0
    while at < len(samples):
        size = sizes[i % len(sizes)]
        chunk = Chunk("home", "test", at, samples[at : at + size], 0.0)
        found += windows.feed(chunk, activity.feed(chunk))
        at, i = at + size, i + 1
    return found + windows.end()


def active(windows: list[Window], begin: float, end: float) -> list[Window]:
    return [w for w in windows if w.onset < w.end and begin * SAMPLE_RATE <= w.end < end * SAMPLE_RATE]


def test_the_first_window_comes_soon_and_the_rest_evenly() -> None:
    found = active(cut(room_with_sound(10, 2)), 9, 14)
    onset = 10 * SAMPLE_RATE
    assert abs(found[0].onset - onset) <= 320
    assert found[0].end - onset == pytest.approx(0.44 * SAMPLE_RATE, abs=640)
    assert {w.onset for w in found} == {found[0].onset}
    hops = np.diff([w.end for w in found])
    assert np.all(np.abs(hops - 0.22 * SAMPLE_RATE) <= 320)
    assert found[-1].end > onset + 2 * SAMPLE_RATE


def test_a_window_is_the_audio_of_its_positions() -> None:
    samples = room_with_sound(10, 1)
    for window in active(cut(samples), 9, 13):
        assert window.end - window.start == WINDOW
        np.testing.assert_array_equal(window.samples, samples[window.start : window.end])
        assert not window.samples.flags.writeable


def test_levels_are_those_of_the_active_part_and_of_the_room() -> None:
    window = active(cut(room_with_sound(10, 3)), 11.5, 13)[0]
    assert window.level_dbfs == pytest.approx(-30, abs=1)
    assert window.floor_dbfs == pytest.approx(-60, abs=1.5)


def test_a_quiet_room_gives_background_windows_only() -> None:
    found = [w for w in cut(noise(40, -60)) if w.end > 10 * SAMPLE_RATE]
    assert 5 <= len(found) <= 8
    assert all(w.onset == w.end for w in found)


@pytest.mark.parametrize("seconds", [0.03, 0.14, 0.5, 0.97])
def test_a_clip_shorter_than_a_window_is_repeated(seconds: float) -> None:
    samples = noise(seconds, -20)
    (window,) = cut(samples)
    assert (window.start, window.end) == (0, len(samples))
    assert window.samples.shape == (WINDOW,)
    np.testing.assert_array_equal(window.samples[: len(samples)], samples)
    np.testing.assert_array_equal(window.samples[len(samples) : 2 * len(samples)], samples[: WINDOW - len(samples)])


def test_the_end_of_a_source_is_filled_from_earlier_audio() -> None:
    samples = room_with_sound(9.9, 0.1, seconds=10)
    last = cut(samples)[-1]
    assert last.end == len(samples)
    np.testing.assert_array_equal(last.samples, samples[-WINDOW:])


def test_lost_audio_closes_the_activity() -> None:
    activity, windows = Activity(), Windows(UNLIFTED)
    loud = noise(1.5, -20)
    found = []
    for start in (0, 100_000):
        for i in range(0, len(loud), 800):
            chunk = Chunk("home", "test", start + i, loud[i : i + 800], 0.0)
            found += windows.feed(chunk, activity.feed(chunk))
    assert {w.onset for w in found} == {0, 100_000}
    assert all(w.end <= len(loud) or w.start >= 100_000 for w in found)


def test_a_dead_microphone_gives_no_window() -> None:
    assert cut(np.zeros(60 * SAMPLE_RATE, np.float32)) == []


def test_quiet_sounds_are_lifted_but_not_the_noise_of_the_room() -> None:
    settings = WindowSettings(level_dbfs=-25, noise_dbfs=-40)
    quiet = active(cut(room_with_sound(10, 3, level=-45), settings=settings), 11.5, 13)[0]
    plain = active(cut(room_with_sound(10, 3, level=-45)), 11.5, 13)[0]
    gain_db = 20 * np.log10(np.abs(quiet.samples).max() / np.abs(plain.samples).max())
    assert gain_db == pytest.approx(min(-25 - quiet.level_dbfs, -40 - quiet.floor_dbfs), abs=0.01)
    assert quiet.level_dbfs == plain.level_dbfs
    loud = active(cut(room_with_sound(10, 3, level=-15), settings=settings), 11.5, 13)[0]
    np.testing.assert_array_equal(loud.samples, active(cut(room_with_sound(10, 3, level=-15)), 11.5, 13)[0].samples)


@hypothesis_settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 300))
def test_feeding_pieces_equals_feeding_the_whole(sizes: list[int]) -> None:
    samples = np.concatenate((room_with_sound(3, 0.7, seconds=6), noise(0.01, -20)))
    pieces, whole = cut(samples, sizes), cut(samples, [len(samples)])
    assert [(w.start, w.end, w.onset, w.level_dbfs, w.floor_dbfs) for w in pieces] == [
        (w.start, w.end, w.onset, w.level_dbfs, w.floor_dbfs) for w in whole
    ]
    for piece, window in zip(pieces, whole, strict=True):
        np.testing.assert_array_equal(piece.samples, window.samples)


def test_a_slower_tagger_gets_longer_windows_further_apart() -> None:
    samples = room_with_sound(10, 6)
    activity, windows = Activity(), Windows(LongWindowSettings(), length=3 * SAMPLE_RATE)
    found: list[Window] = []
    for at in range(0, len(samples), 800):
        chunk = Chunk("home", "test", at, samples[at : at + 800], 0.0)
        found += windows.feed(chunk, activity.feed(chunk))
    found = active(found, 9, 18)
    assert {len(window.samples) for window in found} == {3 * SAMPLE_RATE}
    assert found[0].end - 10 * SAMPLE_RATE == pytest.approx(SAMPLE_RATE, abs=640)
    assert np.all(np.abs(np.diff([window.end for window in found]) - 1.5 * SAMPLE_RATE) <= 320)


def test_an_unchanged_background_is_heard_less_and_less_often() -> None:
    """Six times as configured, then each time twice as late; a sound or another noise begins anew."""
    quiet = np.random.default_rng(2).normal(0.0, 0.001, 400 * SAMPLE_RATE).astype(np.float32)
    loud = np.float32(3.0) * quiet[: 60 * SAMPLE_RATE]  # a fan: 10 dB more, and the gate closes when that is learnt
    activity, windows = Activity(), Windows()
    found: list[tuple[float, bool]] = []
    for start in range(0, len(quiet) + len(loud), 1280):
        samples = _piece(quiet, loud, start)
        chunk = Chunk("room", "test", start, samples, 0.0)
        found += [(w.end / SAMPLE_RATE, w.onset >= w.end) for w in windows.feed(chunk, activity.feed(chunk))]
    before = [end for end, background in found if background and end < 400]
    waits = np.round(np.diff(before))
    first = int(np.argmax(waits > 5.0))
    assert list(waits[first - 5 : first]) == [4.0] * 5
    assert list(waits[first : first + 4]) == [8.0, 16.0, 32.0, 64.0]
    assert any(not background for end, background in found if end > 400)
    after = [end for end, background in found if background and end > 400]
    assert len(after) >= 3
    assert np.round(np.diff(after))[0] == 4.0


def _piece(quiet: np.ndarray, loud: np.ndarray, start: int) -> np.ndarray:
    return quiet[start : start + 1280] if start < len(quiet) else loud[start - len(quiet) : start - len(quiet) + 1280]
