"""The gate: adaptive noise floor over synthetic rooms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.events import SAMPLE_RATE, Chunk
from assistant.segment.activity import FRAME, SILENCE_DBFS, Activity, ActivitySettings, Frame, dbfs


def noise(seconds: float, level_dbfs: float, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=round(seconds * SAMPLE_RATE)) * 10 ** (level_dbfs / 20)).astype(
        np.float32
    )


def chunks(samples: np.ndarray, size: int = 800, start: int = 0) -> list[Chunk]:
    return [Chunk("home", "test", start + i, samples[i : i + size], 0.0) for i in range(0, len(samples), size)]


def feed(activity: Activity, samples: np.ndarray, size: int = 800, start: int = 0) -> list[Frame]:
    return [frame for chunk in chunks(samples, size, start) for frame in activity.feed(chunk)]


def active_share(frames: list[Frame], begin: float, end: float) -> float:
    inside = [f.active for f in frames if begin * SAMPLE_RATE <= f.start < end * SAMPLE_RATE]
    return sum(inside) / len(inside)


def test_level_of_a_full_scale_sine_and_of_silence() -> None:
    sine = np.sin(np.arange(SAMPLE_RATE) * 2 * np.pi * 1000 / SAMPLE_RATE).astype(np.float32)
    assert dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    assert dbfs(np.zeros(100, np.float32)) == SILENCE_DBFS
    assert dbfs(np.zeros(0, np.float32)) == SILENCE_DBFS


def test_a_sound_at_sample_0_opens_the_gate() -> None:
    frames = feed(Activity(), noise(0.5, -45))
    assert frames[0].active


def test_a_short_sound_in_a_learnt_room_opens_the_gate_within_a_frame() -> None:
    room = noise(20, -55)
    room[10 * SAMPLE_RATE : 10 * SAMPLE_RATE + 1600] += noise(0.1, -40, seed=2)
    frames = feed(Activity(), room)
    opened = next(f.start for f in frames if f.active and f.start > 8 * SAMPLE_RATE)
    assert opened - 10 * SAMPLE_RATE in range(-FRAME, FRAME + 1)
    assert active_share(frames, 8, 9.9) == 0
    assert active_share(frames, 11, 20) == 0


@pytest.mark.parametrize("level", [-65, -50, -30])
def test_a_constant_noise_is_learnt_whatever_its_level(level: float) -> None:
    frames = feed(Activity(), noise(30, level))
    assert active_share(frames, 10, 30) < 0.02
    assert frames[-1].floor_dbfs == pytest.approx(level, abs=1.5)


def test_a_hum_is_learnt_and_a_sound_over_it_still_opens() -> None:
    t = np.arange(30 * SAMPLE_RATE) / SAMPLE_RATE
    hum = (0.02 * np.sin(2 * np.pi * 100 * t) + 0.01 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)
    hum[20 * SAMPLE_RATE : 21 * SAMPLE_RATE] += noise(1, -25)
    frames = feed(Activity(), hum)
    assert active_share(frames, 10, 20) == 0
    assert active_share(frames, 20, 21) == 1


def test_a_fan_that_starts_is_heard_then_learnt() -> None:
    room = np.concatenate((noise(20, -60), noise(40, -40, seed=2)))
    frames = feed(Activity(), room)
    assert active_share(frames, 20, 24) == 1
    assert active_share(frames, 40, 60) < 0.02


def test_a_fan_that_stops_gives_back_the_quiet_floor() -> None:
    room = np.concatenate((noise(30, -40), noise(10, -60, seed=2)))
    assert feed(Activity(), room)[-1].floor_dbfs == pytest.approx(-60, abs=1.5)


def test_beeps_do_not_become_the_floor() -> None:
    room = noise(60, -60)
    for second in range(10, 60):
        room[second * SAMPLE_RATE : second * SAMPLE_RATE + 8000] += noise(0.5, -30, seed=second)
    frames = feed(Activity(), room)
    assert frames[-1].floor_dbfs < -55
    assert all(active_share(frames, second, second + 0.5) == 1 for second in range(10, 60))


def test_digital_silence_does_not_spoil_the_floor() -> None:
    activity = Activity()
    feed(activity, noise(20, -50))
    floor = activity.floor_dbfs
    silent = feed(activity, np.zeros(60 * SAMPLE_RATE, np.float32), start=20 * SAMPLE_RATE)
    assert not any(f.active for f in silent[50:])
    assert activity.floor_dbfs == floor
    back = feed(activity, noise(10, -50, seed=3), start=80 * SAMPLE_RATE)
    assert not any(f.active for f in back)


def test_noise_after_a_dead_start_is_learnt_soon() -> None:
    activity = Activity()
    feed(activity, np.zeros(60 * SAMPLE_RATE, np.float32))
    frames = feed(activity, noise(20, -45), start=60 * SAMPLE_RATE)
    assert frames[0].active
    assert not any(f.active for f in frames[len(frames) // 2 :])


def test_not_a_number_counts_as_silence() -> None:
    activity = Activity()
    frames = feed(activity, np.full(SAMPLE_RATE, np.nan, np.float32))
    assert {f.dbfs for f in frames} == {SILENCE_DBFS}
    assert feed(activity, noise(0.1, -30), start=SAMPLE_RATE)[0].active


def test_lost_audio_drops_the_remainder() -> None:
    activity = Activity()
    assert activity.feed(Chunk("home", "test", 0, noise(0.015, -30), 0.0)) == []
    frames = activity.feed(Chunk("home", "test", 5000, noise(0.05, -30), 0.0))
    assert [f.start for f in frames] == [5000, 5320]


@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=12), quiet=st.booleans())
def test_feeding_pieces_equals_feeding_the_whole(sizes: list[int], quiet: bool) -> None:
    levels = (-75, -72, -75) if quiet else (-40, -60, -30)
    samples = np.concatenate(
        (noise(0.5, levels[0]), np.zeros(1100, np.float32), *(noise(0.8, dbfs) for dbfs in levels[1:]))
    )
    activity, frames, at = Activity(), [], 0
    for size in [*sizes, len(samples)]:
        if at < len(samples):
            frames += activity.feed(Chunk("home", "test", at, samples[at : at + size], 0.0))
            at += size
    assert frames == Activity().feed(Chunk("home", "test", 0, samples, 0.0))


def test_settings_refuse_what_makes_no_gate() -> None:
    with pytest.raises(ValueError, match="open_db"):
        ActivitySettings(open_db=0)
