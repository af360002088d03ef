"""Sounds made by arithmetic: alarm signals, chimes, rings, noise and rooms, for the demo, the tests and the benchmarks.

Everything is mono float32 at 16 kHz and the same on every run. Alarm timing: ISO 8201:2017 and NFPA 72 (temporal three,
"T3", smoke), NFPA 720 and UL 2034 (temporal four, "T4", carbon monoxide); 520 Hz square-wave sounders: NFPA 72, 18.4.6.
"""

from __future__ import annotations

import numpy as np

from assistant.events import SAMPLE_RATE, Samples

EDGE = 0.005  # seconds: rise and fall of a pulse, so that it does not click


def silence(length: float) -> Samples:
    """`length` seconds of digital silence."""
    return np.zeros(round(length * SAMPLE_RATE), np.float32)


def tone(frequency: float, length: float, *, square: bool = False) -> Samples:
    """A pulse of `length` seconds at 0.5 peak (fundamental); `square` adds the odd harmonics up to 7.5 kHz."""
    time = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
    orders = [n for n in range(1, 16, 2) if n * frequency < 7_500] if square else [1]
    wave = 0.5 * sum((np.sin(2 * np.pi * n * frequency * time) / n for n in orders), start=np.zeros_like(time))
    edge = np.minimum(1.0, np.minimum(time, time[::-1]) / EDGE) if len(time) else time
    return np.asarray(wave * edge, np.float32)


def cadence(pulse: Samples, *, pulses: int, gap: float, pause: float, cycles: int) -> Samples:
    """`cycles` times: `pulses` pulses with `gap` seconds between them, then `pause` seconds of silence."""
    cycle = [part for _ in range(pulses) for part in (pulse, silence(gap))][:-1]
    return np.concatenate([*cycle, silence(pause)] * cycles)


def t3(
    frequency: float = 3_100.0, *, cycles: int = 3, stretch: float = 1.0, pulse: float = 0.5, pause: float = 1.5
) -> Samples:
    """A smoke alarm: three pulses a second apart, then `pause`; all times multiplied by `stretch`."""
    on = tone(frequency, pulse * stretch, square=frequency < 1_000)
    return cadence(on, pulses=3, gap=(1.0 - pulse) * stretch, pause=pause * stretch, cycles=cycles)


def t4(
    frequency: float = 3_100.0, *, cycles: int = 3, stretch: float = 1.0, pulse: float = 0.1, pause: float = 5.0
) -> Samples:
    """A carbon monoxide alarm: four pulses 0.2 s apart, then `pause`; all times multiplied by `stretch`."""
    on = tone(frequency, pulse * stretch, square=frequency < 1_000)
    return cadence(on, pulses=4, gap=(0.2 - pulse) * stretch, pause=pause * stretch, cycles=cycles)


def noise(length: float, dbfs: float, seed: int = 0) -> Samples:
    """Room noise that falls by 3 dB an octave (pink), at `dbfs` RMS."""
    count = round(length * SAMPLE_RATE)
    if count == 0:
        return silence(0.0)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return scaled(np.fft.irfft(spectrum, count).astype(np.float32), dbfs)


def scaled(samples: Samples, dbfs: float) -> Samples:
    """The same sound at `dbfs` RMS; silence stays silence."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
    return samples if rms == 0.0 else np.asarray(samples * (10 ** (dbfs / 20) / rms), np.float32)


def echoed(samples: Samples, rt60: float, *, direct: float = 0.5, seed: int = 0) -> Samples:
    """The sound in a room: exponentially decaying noise as impulse response, -60 dB after `rt60` seconds.

    `direct` is the direct sound's share of the energy (0.5: as strong as all reflections together). The result is as
    long as the input plus `rt60`.
    """
    time = np.arange(round(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = np.random.default_rng(seed).standard_normal(len(time)) * 10 ** (-3 * time / rt60)
    tail[: round(0.002 * SAMPLE_RATE)] = 0  # the first reflection comes 2 ms after the direct sound
    response = tail * np.sqrt((1 - direct) / np.sum(np.square(tail)))
    response[0] = np.sqrt(direct)
    count = len(samples) + len(response) - 1
    size = 1 << (count - 1).bit_length()  # a transform of a length with large prime factors is many times slower
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[:count].astype(np.float32)


def placed(bed: Samples, sound: Samples, start: float) -> Samples:
    """`bed` with `sound` added from `start` seconds on; what reaches past the end is cut."""
    mixed = bed.copy()
    first = round(start * SAMPLE_RATE)
    part = sound[: max(0, len(bed) - first)]
    mixed[first : first + len(part)] += part
    return mixed


def struck(frequency: float, length: float, decay: float = 0.5) -> Samples:
    """A struck bar or bell: inharmonic partials that die away, 60 dB in `decay` × 6.9 seconds for the lowest."""
    time = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
    partials = ((1.0, 1.0, 1.0), (2.76, 0.35, 0.5), (5.4, 0.15, 0.25))  # of a free bar: ratio, strength, decay
    wave = sum(
        (a * np.sin(2 * np.pi * r * frequency * time) * np.exp(-time / (decay * d)) for r, a, d in partials),
        start=np.zeros_like(time),
    )
    return np.asarray(0.4 * wave * np.minimum(1.0, time / 0.002), np.float32)


def door_chime() -> Samples:
    """Ding-dong: two struck bars a major third apart, twice."""
    ding_dong = placed(placed(silence(2.5), struck(784.0, 2.5), 0.0), struck(622.3, 1.8), 0.7)
    return np.concatenate([ding_dong, ding_dong])


def siren(length: float = 5.0) -> Samples:
    """A wail that climbs from 700 to 1,600 Hz and falls again within four seconds, with the harmonics of a horn."""
    time = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
    climb = 1 - np.abs(2 * (time / 4 % 1) - 1)
    phase = 2 * np.pi * np.cumsum(700 + 900 * climb) / SAMPLE_RATE
    wave = sum((np.sin(n * phase) / n for n in range(1, 5)), start=np.zeros_like(time))
    edge = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.2)
    return np.asarray(0.3 * wave * edge, np.float32)


def telephone(rings: int = 2) -> Samples:
    """An electromechanical bell: two gongs struck 20 times a second, 2 s of ringing and 1 s of silence."""
    ring = silence(2.4)
    for stroke in range(40):
        ring = placed(ring, np.float32(0.5) * struck(1_300.0 if stroke % 2 else 1_480.0, 0.35, 0.12), stroke / 20)
    return np.concatenate([np.concatenate([ring, silence(0.6)])] * rings)
