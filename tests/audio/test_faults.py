"""Silent, stuck and clipped sources are told apart in time; what a room sounds like is no fault."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from assistant.audio.faults import Faults, period
from assistant.audio.source import Converter, SourceStats
from assistant.events import SAMPLE_RATE, Problem
from assistant.synthesis import noise, t3

Block = NDArray[np.float32]
RATE = 48_000


def heard(samples: Block, rate: int = SAMPLE_RATE, block: float = 0.04) -> list[Problem]:
    """The problem after each second of `samples`, of shape (n,) or (n, channels)."""
    stats = SourceStats()
    converter = Converter("mic", stats)
    size = round(rate * block)
    told = []
    for start in range(0, len(samples), size):
        converter.feed(np.atleast_2d(samples[start : start + size].T).T.astype(np.float32), rate)
        told.append(stats.problem)
    return told[:: round(1 / block)]


def room(length: float, dbfs: float = -60.0, rate: int = SAMPLE_RATE) -> Block:
    return noise(length * rate / SAMPLE_RATE, dbfs)


def in_16_bits(samples: Block) -> Block:
    return (np.round(samples * 32768) / 32768).astype(np.float32)


def test_digital_silence() -> None:
    told = heard(np.zeros(30 * SAMPLE_RATE, np.float32))
    assert told[8] is Problem.NONE
    assert told[12] is Problem.SILENT


def test_dither_below_any_microphone_is_silence() -> None:
    assert heard(room(15.0, -125.0))[-1] is Problem.SILENT


@pytest.mark.parametrize("value", [0.25, -1.0, 0.001])
def test_a_constant_value_is_stuck(value: float) -> None:
    assert heard(np.full((15 * RATE, 2), value, np.float32), RATE)[-1] is Problem.STUCK


@pytest.mark.parametrize(
    ("rate", "length"), [(48_000, 480), (48_000, 1024), (44_100, 1024), (16_000, 997), (48_000, 90_000)]
)
def test_the_same_stretch_over_and_over_is_stuck_within_30_seconds(rate: int, length: int) -> None:
    stretch = in_16_bits(room(length / rate, -40.0, rate))[:length]
    healthy = in_16_bits(room(20.0, -40.0, rate))
    told = heard(np.concatenate((healthy, np.tile(stretch, 60 * rate // length))), rate)
    assert set(told[:20]) == {Problem.NONE}
    assert told[50] is Problem.STUCK


def test_clipping() -> None:
    overdriven = np.clip(8.0 * room(30.0, -12.0), -1.0, 1.0)
    told = heard(overdriven)
    assert told[12] is Problem.CLIPPED
    assert heard(np.stack((overdriven, room(30.0)), axis=1))[-1] is Problem.CLIPPED  # one channel is enough


def test_it_ends_by_itself() -> None:
    for bad in (np.zeros(15 * SAMPLE_RATE), np.full(15 * SAMPLE_RATE, 0.5), np.sign(room(15.0))):
        told = heard(np.concatenate((bad, room(10.0))).astype(np.float32))
        assert told[14] is not Problem.NONE
        assert told[20] is Problem.NONE


def test_one_problem_becomes_another() -> None:
    told = heard(np.concatenate((np.zeros(15 * SAMPLE_RATE), np.full(15 * SAMPLE_RATE, 0.5))).astype(np.float32))
    assert (told[14], told[29]) == (Problem.SILENT, Problem.STUCK)


@pytest.mark.parametrize("dbfs", [-90.0, -75.0, -40.0, -12.0])
def test_a_quiet_or_loud_room_is_no_fault(dbfs: float) -> None:
    samples = in_16_bits(room(40.0, dbfs))
    assert set(heard(samples)) == {Problem.NONE}
    assert set(heard(np.stack((samples, 0 * samples), axis=1))) == {Problem.NONE}  # a channel without a microphone


def test_hum_and_alarms_over_the_noise_of_a_microphone_are_no_fault() -> None:
    at = np.arange(60 * SAMPLE_RATE) / SAMPLE_RATE
    hum = 0.3 * np.sin(2 * np.pi * 50 * at) + room(60.0, -80.0)
    assert set(heard(in_16_bits(hum))) == {Problem.NONE}
    alarm = np.tile(0.99 * t3(cycles=5), 4)
    assert set(heard(in_16_bits(alarm + room(len(alarm) / SAMPLE_RATE, -80.0)))) == {Problem.NONE}


def test_music_at_full_scale_is_no_fault() -> None:
    """Mastered loud: 0.5 % of the samples stand at full scale."""
    loud = np.clip(room(40.0, -10.0), -1.0, 1.0)
    loud /= np.quantile(np.abs(loud), 0.995)
    assert set(heard(np.clip(loud, -1.0, 1.0))) == {Problem.NONE}


def test_bits_of_silence_between_words_are_no_fault() -> None:
    """A speakerphone that gates its noise."""
    gated = room(60.0, -30.0).reshape(-1, 4 * SAMPLE_RATE).copy()
    gated[:, SAMPLE_RATE:] = 0.0
    assert set(heard(gated.reshape(-1))) == {Problem.NONE}


def test_nan_does_not_disturb_it() -> None:
    assert heard(np.full(15 * SAMPLE_RATE, np.nan, np.float32))[-1] is Problem.SILENT


def test_the_period_is_the_shortest() -> None:
    stretch = in_16_bits(room(0.1, -40.0))
    found = period(np.tile(stretch, 5))
    assert found is not None
    assert np.array_equal(found, stretch)
    assert period(room(2.0)) is None
    assert period(np.ones(5_000, np.float32)) is None
    assert period(np.zeros(10, np.float32)) is None


def test_an_empty_block_is_none() -> None:
    faults = Faults()
    faults.feed(np.zeros((0, 2), np.float32), 48_000.0, 0.0, 0)
    assert faults.problem is Problem.NONE
