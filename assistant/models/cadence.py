"""Smoke and carbon monoxide alarms by their cadence: signal processing on every chunk, no model, always on.

T3 (ISO 8201, NFPA 72): three pulses of 0.5 s, 0.5 s apart, then 1.5 s of silence. T4 (NFPA 720, UL 2034): four pulses
of 0.1 s, 0.1 s apart, then 5 s of silence. Both at 3.1 kHz (piezo) or 520 Hz (low-frequency sounders).

How: every 10 ms the *tonality* of each band (its power over that of its neighbours, dB, so that knocks and voices weigh
little) is kept for some seconds. A *cycle* is a place where the pulses of a pattern stand out of the gaps between and
around them. Three cycles at a steady period and pitch raise the alarm, if the median cycle is clean, so that
another sound may spoil any one pulse or gap. Why these numbers: docs/adr/0004-alarm-cadence.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Chunk, Detection, Samples, State

Frames = NDArray[np.float32]

HOP = 160  # samples: 10 ms
WINDOW = 400  # samples: 25 ms
N_FFT = 512  # 31.25 Hz a bin
BLOCK = 50  # frames worked on at once: 0.5 s, wherever the chunks end
RATE = SAMPLE_RATE // HOP  # frames a second
HISTORY = 600  # frames kept: the longest cycle, the silence before and after it, and a block
BANDS = (*range(15, 19), *range(88, 115, 2))  # centre bins: 437 to 594 Hz and 2,720 to 3,590 Hz, each three bins wide
NEIGHBOURS = (*range(-9, -4), *range(5, 10))  # bins: what a tone must stand out of
QUIET = 1e-6  # power of a tone at -100 dBFS: below it nothing is a tone
NOISE_BIAS = 2.5  # dB: of three bins' mean power over their neighbours' mean level in white noise
LOUD = 8.0  # dB of tonality that wake the search
AWAKE = 25  # such frames within the history
MAX_GAP = SAMPLE_RATE  # samples of lost audio that are filled with silence; more starts anew
STRETCH = tuple(float(s) for s in np.linspace(0.88, 1.12, 9))  # tempo of the pulses


@dataclass(frozen=True, slots=True)
class Pattern:
    """An alarm signal: where its pulses and gaps are, in seconds from the first pulse, less room for echo and drift."""

    model: str
    event_type: str
    label: str
    on: tuple[tuple[float, float], ...]
    off: tuple[tuple[float, float], ...]  # between the pulses
    around: tuple[tuple[float, float], ...]  # before and after them
    length: float  # from the first pulse to the end of the last one
    period: tuple[float, float]
    step: int  # frames: how finely onsets are tried
    gap_contrast: float  # dB: pulses over gaps on average; echo fills short gaps
    least_dip: float  # dB: the same for each gap of a typical cycle
    contrast: float  # dB: pulses over the silence around


T3 = Pattern(
    model="t3",
    event_type="smoke_alarm",
    label="Smoke detector, smoke alarm",
    on=((0.03, 0.37), (1.03, 1.37), (2.03, 2.37)),
    off=((0.66, 0.97), (1.66, 1.97)),
    around=((-0.75, -0.42), (-0.36, -0.04), (2.66, 2.97), (3.03, 3.35)),
    length=2.5,
    period=(3.1, 4.6),
    step=2,
    gap_contrast=3.0,
    least_dip=4.0,
    contrast=5.0,
)
T4 = Pattern(
    model="t4",
    event_type="co_alarm",
    label="Alarm",  # AudioSet has no carbon monoxide alarm; "Smoke detector" would name the wrong danger
    on=((0.03, 0.09), (0.23, 0.29), (0.43, 0.49), (0.63, 0.69)),
    off=((0.14, 0.19), (0.34, 0.39), (0.54, 0.59)),
    around=((-1.3, -0.9), (-0.85, -0.45), (-0.4, -0.04), (1.0, 1.35), (1.4, 1.75), (1.8, 2.1)),
    length=0.7,
    period=(5.0, 6.5),
    step=2,
    gap_contrast=1.0,
    least_dip=0.0,
    contrast=6.0,
)
PATTERNS = (T3, T4)
DEEP = 6.0  # dB: a gap this deep is a gap; a deeper one proves no more
JITTER = 30  # frames: how far the period may vary from cycle to cycle


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """One place where a pattern fits."""

    frame: int  # of the first pulse's onset, since the stream began
    band: int
    means: Frames  # shape (slots,): mean tonality of the pulses, the gaps and the silence around, dB
    rank: float  # dB: of two places that overlap the higher is the better


@dataclass(slots=True)
class Search:
    """What has been seen of one pattern."""

    pattern: Pattern
    cycles: list[Cycle] = field(default_factory=list)  # the best of each place, oldest first
    raised: Detection | None = None
    last: int = 0  # frame of the last cycle's onset
    band: int = 0
    period: float = 0.0  # frames


def rise_of(means: Frames, pattern: Pattern, *, forgiving: bool) -> Frames:
    """How far the faintest pulse stands above the loudest silence around (dB); `forgiving` leaves out the worst of all.

    `means` has shape (slots, ...); the result has shape (...).
    """
    on, around = means[: len(pattern.on)], means[len(pattern.on) + len(pattern.off) :]
    faintest, loudest = on.min(axis=0), around.max(axis=0)
    if not forgiving:
        return np.asarray(faintest - loudest)
    second_faintest = np.partition(on, 1, axis=0)[1]
    second_loudest = np.partition(around, len(around) - 2, axis=0)[-2]
    return np.asarray(np.maximum(second_faintest - loudest, faintest - second_loudest))


def dips_of(means: Frames, pattern: Pattern) -> Frames:
    """How far each gap lies below the pulses beside it (dB): local, since echo builds up from pulse to pulse.

    `means` has shape (slots, ...); the result has shape (gaps, ...).
    """
    pulses = len(pattern.on)
    on = means[:pulses]
    return np.minimum((on[:-1] + on[1:]) / 2 - means[pulses : pulses + len(pattern.off)], DEEP)


def slots_of(pattern: Pattern) -> NDArray[np.intp]:
    """Frames, relative to the onset, of shape (tempos, slots, 2)."""
    slots = np.array([*pattern.on, *pattern.off, *pattern.around])
    return np.rint(np.array(STRETCH)[:, None, None] * slots * RATE).astype(np.intp)


SLOTS = {pattern.model: slots_of(pattern) for pattern in PATTERNS}
HANN = np.hanning(WINDOW + 1)[:WINDOW].astype(np.float32)
LOWEST = min(BANDS) + min(NEIGHBOURS)
HIGHEST = max(BANDS) + max(NEIGHBOURS) + 1
AVERAGE = np.zeros((HIGHEST - LOWEST, len(BANDS)), np.float32)
for _column, _band in enumerate(BANDS):
    AVERAGE[[_band + offset - LOWEST for offset in NEIGHBOURS], _column] = 1.0 / len(NEIGHBOURS)


def tonality(samples: Samples) -> tuple[Frames, Frames]:
    """Tonality (dB, at least 0) and level (dBFS) of each band, both of shape (frames, bands).

    `samples` has shape (frames * HOP + WINDOW - HOP,).
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * HANN
    spectrum = np.fft.rfft(frames, N_FFT)[:, LOWEST:HIGHEST]
    power = np.square(spectrum.real) + np.square(spectrum.imag) + QUIET
    centre = np.array(BANDS) - LOWEST
    band = (power[:, centre - 1] + power[:, centre] + power[:, centre + 1]) / 3
    level = 10 * np.log10(band)
    tonal = np.maximum(level - 10 * np.log10(power) @ AVERAGE - NOISE_BIAS, 0)
    return tonal.astype(np.float32), (level - 20 * np.log10(HANN.sum() / 2)).astype(np.float32)


class Cadence:
    """The detector of one stream. Its results do not depend on how the stream is cut into chunks."""

    def __init__(self) -> None:
        self._searches = [Search(pattern) for pattern in PATTERNS]
        self._raised = 0  # alarms so far
        self._restart(0)

    def _restart(self, start: int) -> None:
        self._origin = start  # position of frame 0
        self._next = start  # expected start of the next chunk
        self._pending: list[Samples] = []
        self._waiting = 0  # samples in _pending
        self._frames = 0  # worked on so far
        self._tonal = np.zeros((HISTORY, len(BANDS)), np.float32)
        self._level = np.full((HISTORY, len(BANDS)), -100.0, np.float32)

    def feed(self, chunk: Chunk) -> list[Detection]:
        """Hear the next chunk: alarms that began or ended. Work is done once per half second."""
        found: list[Detection] = []
        if self._frames == 0 and not self._pending:
            self._restart(chunk.start)
        lost = chunk.start - self._next
        if lost > MAX_GAP or lost < 0:
            found += self.end()
            self._restart(chunk.start)
        elif lost > 0:
            found += self._hear(np.zeros(lost, np.float32))
        return found + self._hear(chunk.samples)

    def end(self) -> list[Detection]:
        """The source ended: finish what is waiting, then end what is still sounding."""
        heard = self._next
        tail = 3 * SAMPLE_RATE  # silence, so that a last cycle is seen whole
        found = self._hear(np.zeros(tail, np.float32)) if self._frames or self._pending else []
        for search in self._searches:
            if search.raised is not None:
                found.append(self._ended(search))
            search.cycles.clear()
        self._restart(heard)
        return [_heard_until(detection, heard) for detection in found]

    def _hear(self, samples: Samples) -> list[Detection]:
        found: list[Detection] = []
        self._pending.append(samples)
        self._waiting += len(samples)
        self._next += len(samples)
        if self._waiting < BLOCK * HOP + WINDOW - HOP:
            return found
        waiting = np.nan_to_num(np.concatenate(self._pending), nan=0.0, posinf=0.0, neginf=0.0)
        while len(waiting) >= BLOCK * HOP + WINDOW - HOP:
            found += self._work(waiting[: BLOCK * HOP + WINDOW - HOP])
            waiting = waiting[BLOCK * HOP :]
        self._pending = [waiting]
        self._waiting = len(waiting)
        return found

    def _work(self, samples: Samples) -> list[Detection]:
        tonal, level = tonality(samples)
        self._tonal = np.concatenate([self._tonal[BLOCK:], tonal])
        self._level = np.concatenate([self._level[BLOCK:], level])
        self._frames += BLOCK
        awake = np.flatnonzero(np.count_nonzero(self._tonal > LOUD, axis=0) >= AWAKE)
        found: list[Detection] = []
        for search in self._searches:
            for cycle in self._cycles(search.pattern, awake) if len(awake) else []:
                found += self._follow(search, cycle)
            found += self._expire(search)
        return found

    def _cycles(self, pattern: Pattern, awake: NDArray[np.intp]) -> list[Cycle]:
        """The best fit in each band that is awake, among the onsets whose cycle has now been heard."""
        slots = SLOTS[pattern.model]
        sums = np.zeros((HISTORY + 1, len(awake)), np.float32)
        np.cumsum(self._tonal[:, awake], axis=0, out=sums[1:])
        onsets = np.arange(HISTORY - int(slots.max()) - BLOCK, HISTORY - int(slots.max()), pattern.step)
        at = onsets[:, None, None, None] + slots  # (onsets, tempos, slots, 2)
        width = (slots[..., 1] - slots[..., 0])[None, :, :, None]
        means = np.moveaxis((sums[at[..., 1]] - sums[at[..., 0]]) / width, 2, 0)  # (slots, onsets, tempos, bands)
        dip = dips_of(means, pattern).mean(axis=0)
        fits = (dip > pattern.gap_contrast) & (rise_of(means, pattern, forgiving=True) > pattern.contrast)
        ranks = np.where(fits, 2 * dip + rise_of(means, pattern, forgiving=False), -np.inf)
        cycles = []
        first = self._frames - HISTORY
        for column, band in enumerate(awake):
            onset, tempo = divmod(int(np.argmax(ranks[..., column])), len(STRETCH))
            rank = float(ranks[onset, tempo, column])
            if rank > -np.inf:
                cycles.append(Cycle(first + int(onsets[onset]), int(band), means[:, onset, tempo, column].copy(), rank))
        return cycles

    def _follow(self, search: Search, cycle: Cycle) -> list[Detection]:
        """Join a cycle to those before it; the third of a kind raises the alarm."""
        pattern = search.pattern
        if search.raised is not None:
            if abs(cycle.band - search.band) <= 1:
                search.last = max(search.last, cycle.frame)
            return []
        shortest, longest = (RATE * seconds for seconds in pattern.period)
        rivals = [c for c in search.cycles if abs(c.band - cycle.band) <= 1 and cycle.frame - c.frame < shortest / 2]
        if any(rival.rank >= cycle.rank for rival in rivals):
            return []
        earlier = [c for c in search.cycles if c not in rivals and cycle.frame - c.frame < 4.2 * longest]
        search.cycles = [*earlier, cycle]
        for second in reversed(earlier):
            for first in reversed(earlier):
                chain = (first, second, cycle)
                if steady(chain, shortest, longest):
                    typical = np.median([c.means for c in chain], axis=0)
                    if clean(typical, pattern):
                        return [self._started(search, chain, typical)]
        return []

    def _started(self, search: Search, chain: tuple[Cycle, ...], typical: Frames) -> Detection:
        pattern = search.pattern
        pulses = len(pattern.on)
        contrast = float(typical[:pulses].mean() - typical[pulses:].mean())
        search.last, search.band = chain[-1].frame, chain[-1].band
        search.period = (chain[-1].frame - chain[-2].frame) * 1.0
        search.cycles.clear()
        self._raised += 1
        search.raised = Detection(
            key=-self._raised,
            state=State.STARTED,
            event_type=pattern.event_type,
            label=pattern.label,
            score=round(1 / (1 + 10 ** (-contrast / 10)), 3),
            start=max(self._origin, self._position(chain[0].frame)),
            end=None,
            heard_at=self._heard(),
            level_dbfs=None,
            model=pattern.model,
        )
        return search.raised

    def _expire(self, search: Search) -> list[Detection]:
        if search.raised is None:
            return []
        quiet_for = self._frames - search.last
        if quiet_for < 2.2 * search.period + search.pattern.length * RATE:
            return []
        return [self._ended(search)]

    def _ended(self, search: Search) -> Detection:
        started = search.raised
        assert started is not None  # noqa: S101
        search.raised = None
        end = self._position(search.last) + round(search.pattern.length * SAMPLE_RATE)
        return Detection(
            key=started.key,
            state=State.ENDED,
            event_type=started.event_type,
            label=started.label,
            score=started.score,
            start=started.start,
            end=end,
            heard_at=self._heard(),
            level_dbfs=started.level_dbfs,
            model=started.model,
        )

    def _position(self, frame: int) -> int:
        return self._origin + frame * HOP + WINDOW // 2

    def _heard(self) -> int:
        return self._origin + self._frames * HOP + WINDOW - HOP


def steady(chain: tuple[Cycle, Cycle, Cycle], shortest: float, longest: float) -> bool:
    """Whether three cycles keep their pitch and period (frames); a spoilt cycle may be missing between two of them."""
    first, second, third = chain
    if abs(first.band - second.band) > 1 or abs(second.band - third.band) > 1:
        return False
    before, after = second.frame - first.frame, third.frame - second.frame
    return any(
        shortest <= before / n <= longest and shortest <= after / m <= longest and abs(before / n - after / m) <= JITTER
        for n, m in ((1, 1), (1, 2), (2, 1))
    )


def clean(typical: Frames, pattern: Pattern) -> bool:
    """Whether the median of three cycles, of shape (slots,), is the pattern with nothing left to forgive."""
    dips = dips_of(typical, pattern)
    return bool(
        dips.mean() > pattern.gap_contrast
        and dips.min() > pattern.least_dip
        and rise_of(typical, pattern, forgiving=False) > pattern.contrast
    )


def _heard_until(detection: Detection, heard: int) -> Detection:
    return detection
