"""The alarm cadence detector: every alarm it must hear, every look-alike it must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant import synthesis
from assistant.events import SAMPLE_RATE, Chunk, Detection, Samples, State, frozen
from assistant.models.cadence import BINS, BLOCK, HANN, HOP, N_FFT, QUIET, WINDOW, Cadence, _power

BED_DBFS = -55.0
LEAD = 5.0  # seconds of bed before the sound
BED = synthesis.noise(80.0, BED_DBFS, seed=7)


def heard(samples: Samples, size: int = 1_600, first: int = 0) -> list[Detection]:
    cadence = Cadence()
    found = []
    for start in range(0, len(samples), size):
        found += cadence.feed(Chunk("room", "test", first + start, frozen(samples[start : start + size].copy()), 0.0))
    return found + cadence.end()


def started(samples: Samples) -> list[str]:
    return [found.model for found in heard(samples) if found.state is State.STARTED]


def in_room(sound: Samples, snr: float = 12.0, rt60: float = 0.0, trail: float = 3.0) -> Samples:
    """`sound` at `snr` dB (RMS where it sounds) in pink noise, with echo."""
    rms = float(np.sqrt(np.mean(np.square(sound[sound != 0]))))
    wet = synthesis.echoed(sound, rt60) if rt60 else sound
    bed = BED[: round((LEAD + trail) * SAMPLE_RATE) + len(wet)]
    return synthesis.placed(bed, wet * np.float32(10 ** ((BED_DBFS + snr) / 20) / rms), LEAD)


@pytest.mark.parametrize("reverberant", [False, True])
@pytest.mark.parametrize("stretch", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("snr", [0.0, 12.0, 40.0])
@pytest.mark.parametrize("frequency", [520.0, 3_100.0])
@pytest.mark.parametrize("pattern", ["t3", "t4"])
def test_alarm_is_heard(
    pattern: str, frequency: float, snr: float, stretch: float, reverberant: bool, *, request: pytest.FixtureRequest
) -> None:
    rt60 = 0.8 if reverberant else 0.0
    if (pattern, frequency, stretch, reverberant) == ("t4", 3_100.0, 1.0, True) and snr < 40:
        request.applymarker(pytest.mark.xfail(reason="echo fills the gaps of T4: docs/adr/0004", strict=True))
    make = {"t3": synthesis.t3, "t4": synthesis.t4}[pattern]
    sound = make(frequency, cycles=3, stretch=stretch)
    assert started(in_room(sound, snr, rt60)) == [pattern]


@pytest.mark.parametrize("pitch", [0.95, 1.0, 1.05])
@pytest.mark.parametrize("frequency", [520.0, 2_900.0, 3_100.0, 3_400.0])
def test_any_pitch_of_a_sounder(frequency: float, pitch: float) -> None:
    assert started(in_room(synthesis.t3(frequency * pitch))) == ["t3"]
    assert started(in_room(synthesis.t4(frequency * pitch))) == ["t4"]


@pytest.mark.parametrize(
    "alarm",
    [
        synthesis.t3(pulse=0.4),
        synthesis.t3(pulse=0.6),
        synthesis.t3(pause=1.0),
        synthesis.t3(pause=1.6),
        np.clip(8 * synthesis.t3(), -0.5, 0.5),
        synthesis.t3()[: round(10.6 * SAMPLE_RATE)],  # cut off after the last pulse
    ],
    ids=["short pulses", "long pulses", "short pause", "long pause", "clipped", "cut off"],
)
def test_variants_of_t3(alarm: Samples) -> None:
    assert started(in_room(alarm, rt60=0.4)) == ["t3"]


@pytest.mark.parametrize("pause", [4.8, 5.0, 5.3])
def test_variants_of_t4(pause: float) -> None:
    assert started(in_room(synthesis.t4(pause=pause), rt60=0.4)) == ["t4"]


def test_facts_of_a_detection() -> None:
    found = heard(in_room(synthesis.t3(cycles=4), snr=20.0, trail=20.0), first=32_000)
    start, end = found
    assert (start.state, end.state) == (State.STARTED, State.ENDED)
    assert start.key == end.key < 0
    assert (start.event_type, start.label, start.model) == ("smoke_alarm", "Smoke detector, smoke alarm", "t3")
    assert 0.9 < start.score <= end.score <= 1
    assert start.level_dbfs == pytest.approx(BED_DBFS + 20.0, abs=2.0)
    assert abs(start.start - 32_000 - LEAD * SAMPLE_RATE) < 0.3 * SAMPLE_RATE
    assert start.end is None
    assert end.start == start.start
    assert end.end is not None
    assert abs(end.end - 32_000 - (LEAD + 14.5) * SAMPLE_RATE) < 0.4 * SAMPLE_RATE
    # Three cycles and no fewer: the last pulse of the third ends 10.5 s after the onset of the first.
    assert 10.5 < (start.heard_at - start.start) / SAMPLE_RATE < 12.5


def test_carbon_monoxide_is_not_called_smoke() -> None:
    (start, _) = heard(in_room(synthesis.t4(cycles=3)))
    assert (start.event_type, start.label, start.model) == ("co_alarm", "Alarm", "t4")


def test_both_alarms_at_once() -> None:
    smoke, monoxide = in_room(synthesis.t3(3_300.0, cycles=6)), in_room(synthesis.t4(520.0, cycles=4))
    count = min(len(smoke), len(monoxide))
    assert sorted(started(smoke[:count] + monoxide[:count])) == ["t3", "t4"]


def test_a_lasting_alarm_is_one_event() -> None:
    found = heard(in_room(synthesis.t3(cycles=12), rt60=0.4, trail=15.0))
    assert [one.state for one in found] == [State.STARTED, State.ENDED]


def test_a_drowned_cycle_does_not_end_it() -> None:
    samples = in_room(synthesis.t3(cycles=8), trail=15.0)
    drowned = slice(round((LEAD + 16) * SAMPLE_RATE), round((LEAD + 20) * SAMPLE_RATE))
    samples[drowned] += synthesis.noise(4.0, -15.0, seed=3)
    found = heard(samples)
    assert [one.state for one in found] == [State.STARTED, State.ENDED]


def test_a_second_alarm_has_a_new_key() -> None:
    once = in_room(synthesis.t3(), trail=20.0)
    found = heard(np.concatenate([once, once]))
    assert [(one.state.value, one.key) for one in found] == [
        ("started", -1),
        ("ended", -1),
        ("started", -2),
        ("ended", -2),
    ]


@pytest.mark.parametrize("cycles", [1, 2])
def test_fewer_than_three_cycles_are_no_alarm(cycles: int) -> None:
    assert started(in_room(synthesis.t3(cycles=cycles), 30.0)) == []
    assert started(in_room(synthesis.t4(cycles=cycles), 30.0)) == []


def beeps(frequency: float, on: float, off: float, length: float = 40.0) -> Samples:
    cycles = int(length / (on + off))
    return synthesis.cadence(synthesis.tone(frequency, on), pulses=1, gap=0, pause=off, cycles=cycles)


def groups(frequency: float, pulses: int, on: float, off: float, pause: float) -> Samples:
    return synthesis.cadence(synthesis.tone(frequency, on), pulses=pulses, gap=off, pause=pause, cycles=8)


def sweep(low: float, high: float, period: float) -> Samples:
    time = np.arange(40 * SAMPLE_RATE) / SAMPLE_RATE
    frequency = (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * time / period)
    return (0.5 * np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE)).astype(np.float32)


def telephone() -> Samples:
    bell = synthesis.tone(3_050.0, 2.0) * np.float32(0.5)
    bell *= (np.sin(2 * np.pi * 20 * np.arange(len(bell)) / SAMPLE_RATE) > 0).astype(np.float32)
    return synthesis.cadence(bell, pulses=1, gap=0, pause=4.0, cycles=7)


LOOK_ALIKES = {
    "one beep a second": lambda f: beeps(f, 0.5, 0.5),
    "reversing lorry": lambda f: beeps(f, 0.4, 0.6),
    "two beeps a second": lambda f: beeps(f, 0.25, 0.25),
    "beep every two seconds": lambda f: beeps(f, 0.5, 1.5),
    "beep every four seconds": lambda f: beeps(f, 0.5, 3.5),
    "steady tone": lambda f: beeps(f, 39.0, 0.1),
    "alarm clock, four beeps": lambda f: groups(f, 4, 0.1, 0.1, 0.5),
    "alarm clock, four beeps, long pause": lambda f: groups(f, 4, 0.1, 0.1, 1.5),
    "timer, three quick beeps": lambda f: groups(f, 3, 0.1, 0.1, 1.0),
    "microwave, three beeps once": lambda f: groups(f, 3, 0.5, 0.5, 30.0)[: 20 * SAMPLE_RATE],
    "washing machine, five beeps": lambda f: groups(f, 5, 0.5, 0.5, 2.0),
    "two beeps and a pause": lambda f: groups(f, 2, 0.5, 0.5, 2.5),
    "four long beeps and a pause": lambda f: groups(f, 4, 0.5, 0.5, 1.5),
    "three beeps every ten seconds": lambda f: groups(f, 3, 0.5, 0.5, 7.5),
    "five beeps every 5.9 seconds": lambda f: groups(f, 5, 0.1, 0.1, 5.0),
    "three beeps every 5.7 seconds": lambda f: groups(f, 3, 0.1, 0.1, 5.2),
    "beep of 0.7 s every 5.7 seconds": lambda f: beeps(f, 0.7, 5.0),
    "ring tone, 2 s on, 4 s off": lambda f: beeps(f, 2.0, 4.0),
    "busy line": lambda f: beeps(f, 0.5, 0.5, 30.0),
    "other pitch": lambda f: groups(f * 1.5, 3, 0.5, 0.5, 1.5),
}


@pytest.mark.parametrize("rt60", [0.0, 0.6])
@pytest.mark.parametrize("frequency", [520.0, 3_100.0])
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alike_is_not_heard(name: str, frequency: float, rt60: float) -> None:
    sound = LOOK_ALIKES[name](frequency)[: 32 * SAMPLE_RATE]  # three cycles of the slowest
    assert started(in_room(sound, 25.0, rt60)) == []


@pytest.mark.parametrize(
    "sound",
    [telephone(), sweep(400, 700, 4.0), sweep(2_800, 3_400, 1.0), sweep(500, 3_500, 4.0)],
    ids=["telephone bell", "siren", "chirping", "wide siren"],
)
def test_other_signals_are_not_heard(sound: Samples) -> None:
    assert started(in_room(sound, 25.0)) == []


def test_knocks_in_t3_rhythm_are_not_heard() -> None:
    burst = synthesis.noise(0.5, -20.0, seed=2)
    assert started(in_room(synthesis.cadence(burst, pulses=3, gap=0.5, pause=1.5, cycles=6), 30.0)) == []


@given(seed=st.integers(0, 1_000), length=st.floats(0.0, 20.0), dbfs=st.floats(-100.0, -5.0))
@settings(max_examples=15, deadline=None)
def test_noise_never_fires(seed: int, length: float, dbfs: float) -> None:
    assert heard(synthesis.noise(length, dbfs, seed)) == []


@given(length=st.integers(0, 20 * SAMPLE_RATE), size=st.integers(1_000, 20_000), value=st.floats(-1, 1, width=32))
@settings(max_examples=15, deadline=None)
def test_silence_never_fires(length: int, size: int, value: float) -> None:
    assert heard(np.full(length, value, np.float32), size) == []


ALARM = in_room(synthesis.t3(3_250.0), 6.0, 0.3, trail=14.0)
WHOLE = heard(ALARM)


@given(sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_chunking_does_not_change_the_result(sizes: list[int]) -> None:
    sizes = [*sizes, 4_000]
    cadence, found, start, turn = Cadence(), [], 0, 0
    while start < len(ALARM):
        size = sizes[turn % len(sizes)]
        found += cadence.feed(Chunk("room", "test", start, frozen(ALARM[start : start + size].copy()), 0.0))
        start, turn = start + size, turn + 1
    assert found + cadence.end() == WHOLE
    assert len(WHOLE) == 2


def test_no_audio_at_all() -> None:
    assert Cadence().end() == []


def test_results_stay_within_what_was_heard() -> None:
    for found in heard(in_room(synthesis.t4(), trail=0.0)[: round((LEAD + 12.2) * SAMPLE_RATE)]):
        assert found.heard_at <= (LEAD + 12.2) * SAMPLE_RATE
        assert found.end is None or found.end <= found.heard_at


def test_broken_samples_are_silence() -> None:
    samples = in_room(synthesis.t3(cycles=6))
    samples[200_000:200_100] = np.nan
    samples[210_000] = np.inf
    assert started(samples) == ["t3"]


def test_a_short_loss_is_bridged_and_a_long_one_ends_the_alarm() -> None:
    samples = in_room(synthesis.t3(cycles=6), trail=0.0)
    cadence, found = Cadence(), []
    for start in range(0, len(samples), 1_600):
        if not 320_000 <= start < 324_800:  # 0.3 s are lost
            found += cadence.feed(Chunk("room", "test", start, frozen(samples[start : start + 1_600].copy()), 0.0))
    assert [one.state for one in found] == [State.STARTED]
    late = len(samples) + 60 * SAMPLE_RATE
    found = cadence.feed(Chunk("room", "test", late, frozen(np.zeros(1_600, np.float32)), 0.0))
    assert [one.state for one in found] == [State.ENDED]
    assert found[0].end is not None
    assert found[0].end <= len(samples)
    assert cadence.end() == []


def test_the_power_of_the_bins_is_that_of_a_fourier_transform() -> None:
    samples = np.random.default_rng(3).normal(0.0, 0.01, BLOCK * HOP + WINDOW - HOP).astype(np.float32)
    samples += synthesis.tone(3_100.0, 1.0)[: len(samples)]
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * HANN
    spectrum = np.fft.rfft(frames.astype(np.float64), N_FFT)[:, BINS]
    wanted = 10 * np.log10(np.abs(spectrum) ** 2 + QUIET)
    assert 10 * np.log10(_power(samples) + QUIET) == pytest.approx(wanted, abs=0.01)
