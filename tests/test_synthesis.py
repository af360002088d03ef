"""Computed sounds have the timing, level and pitch that they claim."""

import numpy as np
import pytest

from assistant import synthesis
from assistant.events import SAMPLE_RATE, Samples


def pulses(samples: Samples) -> list[tuple[float, float]]:
    """Onset and length in seconds of everything that is not digital silence for 20 ms."""
    loud = np.flatnonzero(samples)
    breaks = np.flatnonzero(np.diff(loud) > 320)
    onsets, ends = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]]
    return [(a / SAMPLE_RATE, (b - a) / SAMPLE_RATE) for a, b in zip(onsets, ends, strict=True)]


def strongest(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(samples))


def test_t3_timing() -> None:
    found = pulses(synthesis.t3(cycles=2))
    assert [onset for onset, _ in found] == pytest.approx([0, 1, 2, 4, 5, 6], abs=0.001)
    assert [length for _, length in found] == pytest.approx([0.5] * 6, abs=0.001)


def test_t4_timing_and_stretch() -> None:
    found = pulses(synthesis.t4(cycles=2, stretch=1.1))
    assert [onset for onset, _ in found[:4]] == pytest.approx([0, 0.22, 0.44, 0.66], abs=0.001)
    assert found[4][0] == pytest.approx(5.7 * 1.1, abs=0.001)
    assert [length for _, length in found] == pytest.approx([0.11] * 8, abs=0.001)


@pytest.mark.parametrize("frequency", [520.0, 3_100.0])
def test_pitch(frequency: float) -> None:
    assert strongest(synthesis.t3(frequency)) == pytest.approx(frequency, abs=3.0)


def test_low_sounders_have_odd_harmonics() -> None:
    spectrum = np.abs(np.fft.rfft(synthesis.tone(520.0, 1.0, square=True)))
    third, second = spectrum[1_550:1_570].max(), spectrum[1_030:1_050].max()
    assert third == pytest.approx(spectrum[515:525].max() / 3, rel=0.02)
    assert second < third / 50


@pytest.mark.parametrize("dbfs", [-60.0, -20.0])
def test_noise_has_the_level_asked_for_and_is_reproducible(dbfs: float) -> None:
    samples = synthesis.noise(2.0, dbfs, seed=4)
    assert 10 * np.log10(np.mean(np.square(samples, dtype=np.float64))) == pytest.approx(dbfs, abs=0.01)
    assert np.array_equal(samples, synthesis.noise(2.0, dbfs, seed=4))
    assert not np.array_equal(samples, synthesis.noise(2.0, dbfs, seed=5))


def test_nothing_in_nothing_out() -> None:
    assert len(synthesis.noise(0.0, -20.0)) == len(synthesis.silence(0.0)) == len(synthesis.tone(500.0, 0.0)) == 0
    assert not synthesis.scaled(synthesis.silence(1.0), -20.0).any()


def test_echo_decays_by_its_rt60() -> None:
    click = synthesis.silence(0.1)
    click[0] = 1.0
    wet = np.square(synthesis.echoed(click, 0.8, direct=0.5), dtype=np.float64)
    assert wet.sum() == pytest.approx(1.0, rel=0.01)
    early, late = wet[1_600:3_200].sum(), wet[8_000:9_600].sum()  # 0.4 s apart: half of 60 dB
    assert 10 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)


def test_placed_cuts_what_reaches_past_the_end() -> None:
    bed = synthesis.silence(1.0)
    mixed = synthesis.placed(bed, np.ones(SAMPLE_RATE, np.float32), 0.5)
    assert mixed.sum() == SAMPLE_RATE / 2
    assert not bed.any()


@pytest.mark.parametrize("sound", [synthesis.door_chime(), synthesis.siren(), synthesis.telephone(), synthesis.t4()])
def test_every_sound_is_float32_within_full_scale(sound: Samples) -> None:
    assert sound.dtype == np.float32
    assert 0.1 < np.abs(sound).max() <= 1.0
