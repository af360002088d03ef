"""Smoke and carbon monoxide alarms by their cadence: signal processing on every chunk, no model, always on.

T3 (ISO 8201, NFPA 72): three pulses of 0.5 s, 0.5 s apart, then 1.5 s of silence. T4 (NFPA 720, UL 2034): four pulses
of 0.1 s, 0.1 s apart, then 5 s of silence. Both at 3.1 kHz (piezo) or 520 Hz (low-frequency sounders).

How: every 10 ms the *tonality* of each band (its power over that of its neighbours, dB, so that knocks and voices weigh
little) is kept for some seconds. A *cycle* is a place where the pulses of a pattern stand out of the gaps between and
around them. Three cycles at a steady period and pitch raise the alarm, if the median cycle is clean, so that
another sound may spoil any one pulse or gap. Why these numbers: docs/adr/0004-alarm-cadence.md.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Chunk, Detection, Samples, State

Frames = NDArray[np.float32]

HOP = 160  # samples: 10 ms
WINDOW = 400  # samples: 25 ms
N_FFT = 512  # 31.25 Hz a bin
BLOCK = 50  # frames worked on at once: 0.5 s, wherever the chunks end
TOGETHER = 4  # blocks that are transformed at once, where a chunk holds so many
RATE = SAMPLE_RATE // HOP  # frames a second
HISTORY = 600  # frames searched: the longest cycle, the silence before and after it, and a block
KEPT = 1_800  # frames of tonality kept: three cycles of T4
SPARE = 600  # frames more, so that what is kept moves every six seconds only
BANDS = (*range(15, 19), *range(88, 115, 2))  # centre bins: 437 to 594 Hz and 2,720 to 3,590 Hz, each three bins wide
NEIGHBOURS = (*range(-9, -4), *range(5, 10))  # bins: what a tone must stand out of
QUIET = np.float32(1e-10)  # power in a bin: -100 dBFS; below it nothing is a tone
BIAS = np.float32(7.3)  # dB: a little over what three bins of white noise measure against their neighbours
LOUD = 8.0  # dB of tonality that wake the search
AWAKE = 25  # such frames within the history
MAX_LOST = SAMPLE_RATE  # samples of lost audio that count as silence; more starts anew
TAIL = 3 * SAMPLE_RATE  # samples of silence added at the end of a source
PATIENCE = 2.2  # periods without a cycle until an alarm has ended: one may be drowned
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
    quiet_from: float  # seconds after the onset: no more pulses until the next cycle
    jitter: int  # frames: how far the period may vary from cycle to cycle
    step: int  # frames: how finely onsets are tried
    gap_contrast: float  # dB: pulses over gaps on average; echo fills short gaps
    least_dip: float  # dB: the same for each gap of a typical cycle
    gaps_by_level: bool  # judge them by level: in 50 ms the tonality is too restless to tell a gap from a steady tone
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
    quiet_from=2.9,
    jitter=30,
    step=2,
    gap_contrast=3.0,
    least_dip=4.0,
    gaps_by_level=False,
    contrast=5.0,
)
T4 = Pattern(
    model="t4",
    event_type="co_alarm",
    label="Alarm",  # AudioSet has no carbon monoxide alarm; "Smoke detector" would name the wrong danger
    on=((0.03, 0.09), (0.23, 0.29), (0.43, 0.49), (0.63, 0.69)),
    off=((0.14, 0.19), (0.34, 0.39), (0.54, 0.59)),
    around=(
        (-1.3, -0.9),
        (-0.85, -0.45),
        (-0.4, -0.2),
        (-0.18, -0.08),
        (0.84, 0.9),
        (0.92, 1.0),
        (1.02, 1.1),
    ),
    length=0.7,
    period=(4.6, 6.9),
    quiet_from=1.0,
    jitter=12,
    step=2,
    gap_contrast=1.0,
    least_dip=-1.5,
    gaps_by_level=True,
    contrast=6.0,
)
PATTERNS = (T3, T4)
DEEP = 6.0  # dB: a gap this deep is a gap; a deeper one proves no more
EVEN = 6.0  # dB: an alarm's pulses are equally loud


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """One place where a pattern fits."""

    frame: int  # of the first pulse's onset, since the stream began
    band: int
    means: Frames  # shape (slots,): mean tonality of the pulses, the gaps and the silence around, dB
    levels: Frames  # shape (slots,): mean level of the same, dBFS
    rank: float  # dB: of two places that overlap the higher is the better


@dataclass(slots=True)
class Search:
    """What has been seen of one pattern."""

    pattern: Pattern
    cycles: list[Cycle] = field(default_factory=list)  # the best of each place, oldest first
    raised: Detection | None = None  # the alarm that is sounding, with its best score
    last: Cycle | None = None  # its newest cycle
    period: float = 0.0  # frames


def rises_of(means: Frames, pattern: Pattern) -> tuple[Frames, Frames]:
    """How far the faintest pulse stands above the loudest silence around (dB), and the same without the worst of all.

    `means` has shape (slots, ...); the results have shape (...).
    """
    on = np.partition(means[: len(pattern.on)], 1, axis=0)
    around = np.partition(means[len(pattern.on) + len(pattern.off) :], len(pattern.around) - 2, axis=0)
    return on[0] - around[-1], np.maximum(on[1] - around[-1], on[0] - around[-2])


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
    frames: NDArray[np.intp] = np.rint(np.array(STRETCH)[:, None, None] * slots * RATE).astype(np.intp)
    return frames


SLOTS = {pattern.model: slots_of(pattern) for pattern in PATTERNS}
BINS = sorted({band + offset for band in BANDS for offset in (-1, 0, 1, *NEIGHBOURS)})
HANN = np.hanning(WINDOW + 1)[:WINDOW].astype(np.float32)
HANN /= np.sqrt(N_FFT * np.square(HANN).sum() / 2)  # the power of a tone, summed over its bins, is its mean square
HALF = WINDOW // 2
_ANGLES = np.outer(np.arange(HALF), 2 * np.pi * np.array(BINS) / N_FFT)  # from the middle of the window
COSINES = (HANN[HALF:, None] * np.cos(_ANGLES)).astype(np.float32)
SINES = (HANN[HALF:, None] * np.sin(_ANGLES)).astype(np.float32)
ROWS = 17  # frames multiplied at once: OpenBLAS starts threads for more, which on busy cores cost twenty times as much
_OFFSETS = np.subtract.outer(BINS, BANDS)
NEAR = (np.abs(_OFFSETS) <= 1).astype(np.float32)  # (bins, bands): the sum over a band
BESIDE = np.isin(_OFFSETS, NEIGHBOURS).astype(np.float32) / len(
    NEIGHBOURS
)  # (bins, bands): the mean over its neighbours
BESIDE_DB = 10 * BESIDE
STILL = np.zeros(len(BANDS), np.intp)  # frames of a block without a tone, nobody writes to it


def tonality(samples: Samples) -> tuple[Frames, Frames]:
    """Tonality (dB, at least 0) and level (dBFS, RMS) of each band, both of shape (frames, bands).

    `samples` has shape (frames * HOP + WINDOW - HOP,).
    """
    power = _power(samples)
    power += QUIET
    level = np.log10(power @ NEAR)
    level *= 10
    tonal = level - np.log10(power, out=power) @ BESIDE_DB
    tonal -= BIAS
    return np.maximum(tonal, 0, out=tonal), level


def _power(samples: Samples) -> Frames:
    """Shape (frames, bins): power of the bins that are needed, a third of what an FFT of all of them costs.

    The window is symmetric about its middle, so each half of its samples is multiplied once: sums give the cosines'
    part of a bin, differences the sines'.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    frames, step = (len(samples) - WINDOW) // HOP + 1, samples.itemsize
    right = np.ndarray((frames, HALF), np.float32, samples, HALF * step, (HOP * step, step))
    left = np.ndarray((frames, HALF), np.float32, samples, HALF * step, (HOP * step, -step))
    even, odd = right + left, right - left
    even[:, 0] = right[:, 0]  # the middle itself, which is there once
    cosines, sines = np.empty((2, frames, len(BINS)), np.float32)
    for at in range(0, frames, ROWS):
        rows = slice(at, at + ROWS)
        np.matmul(even[rows], COSINES, out=cosines[rows])
        np.matmul(odd[rows], SINES, out=sines[rows])
    np.square(cosines, out=cosines)
    np.square(sines, out=sines)
    cosines += sines
    return cosines


class Cadence:
    """The detector of one stream. Its results do not depend on how the stream is cut into chunks."""

    def __init__(self) -> None:
        self._searches = [Search(pattern) for pattern in PATTERNS]
        self._alarms = 0  # raised so far
        self._restart(0)

    def _restart(self, start: int) -> None:
        self._origin = start  # position of the first frame
        self._next = start  # where the next chunk should start
        self._waiting: list[Samples] = []
        self._frames = 0  # worked on so far
        self._filled = KEPT  # frames in use of the two below; the rest is spare
        self._tonals = np.zeros((KEPT + SPARE, len(BANDS)), np.float32)
        self._levels = np.full((KEPT + SPARE, len(BANDS)), -100.0, np.float32)
        self._loud_blocks = deque([STILL] * (HISTORY // BLOCK))  # loud frames of each band, by block
        self._loud = STILL.copy()  # the same in all of them
        self._most = 0  # in one band

    @property
    def awake(self) -> bool:
        """Whether there are tones that may become an alarm."""
        return self._most >= AWAKE

    @property
    def _tonal(self) -> Frames:
        """Shape (at least KEPT, bands): the newest last."""
        return self._tonals[: self._filled]

    @property
    def _level(self) -> Frames:
        """Shape (HISTORY, bands): the newest last."""
        return self._levels[self._filled - HISTORY : self._filled]

    def _keep(self, tonal: Frames, level: Frames) -> None:
        if self._filled + BLOCK > len(self._tonals):
            self._tonals[: KEPT - BLOCK] = self._tonals[self._filled - (KEPT - BLOCK) : self._filled]
            self._levels[: KEPT - BLOCK] = self._levels[self._filled - (KEPT - BLOCK) : self._filled]
            self._filled = KEPT - BLOCK
        self._tonals[self._filled : self._filled + BLOCK] = tonal
        self._levels[self._filled : self._filled + BLOCK] = level
        self._filled += BLOCK
        loud, oldest = tonal > LOUD, self._loud_blocks.popleft()
        self._loud_blocks.append(np.add.reduce(loud, axis=0, dtype=np.intp) if loud.any() else STILL)
        if oldest is not self._loud_blocks[-1]:
            self._loud += self._loud_blocks[-1] - oldest
            self._most = int(self._loud.max())

    def feed(self, chunk: Chunk) -> list[Detection]:
        """Hear the next chunk: alarms that began or ended. The work is done twice a second.

        Up to a second of lost audio counts as silence; more, or a step back in time, ends what sounds and starts anew.
        """
        found: list[Detection] = []
        if self._next == self._origin:
            self._restart(chunk.start)
        lost = chunk.start - self._next
        if not 0 <= lost <= MAX_LOST:
            found += self.end()
            self._restart(chunk.start)
        elif lost:
            found += self._hear(np.zeros(lost, np.float32))
        return found + self._hear(chunk.samples)

    def end(self) -> list[Detection]:
        """The source ended: judge what is waiting, then end what still sounds. The next chunk starts anew."""
        heard = self._next
        found = self._hear(np.zeros(TAIL, np.float32))  # silence, so that a last cycle is seen whole
        for search in self._searches:
            if search.raised is not None:
                found.append(self._ended(search, search.raised))
            search.cycles.clear()
        self._restart(heard)
        return [
            replace(one, heard_at=min(one.heard_at, heard), end=None if one.end is None else min(one.end, heard))
            for one in found
        ]

    def _hear(self, samples: Samples) -> list[Detection]:
        self._waiting.append(samples)
        self._next += len(samples)
        size = BLOCK * HOP + WINDOW - HOP
        if self._next - self._origin - self._frames * HOP < size:
            return []
        waiting = np.concatenate(self._waiting)
        if not np.isfinite(waiting).all():
            waiting = np.nan_to_num(waiting, nan=0.0, posinf=0.0, neginf=0.0)
        found: list[Detection] = []
        while len(waiting) >= size:
            blocks = min(TOGETHER, 1 + (len(waiting) - size) // (BLOCK * HOP))
            tonal, level = tonality(waiting[: size + (blocks - 1) * BLOCK * HOP])
            for at in range(0, blocks * BLOCK, BLOCK):
                found += self._work(tonal[at : at + BLOCK], level[at : at + BLOCK])
            waiting = waiting[blocks * BLOCK * HOP :]
        self._waiting = [waiting]
        return found

    def _work(self, tonal: Frames, level: Frames) -> list[Detection]:
        self._keep(tonal, level)
        self._frames += BLOCK
        found: list[Detection] = []
        for search in self._searches:
            for cycle in self._cycles(search.pattern, np.flatnonzero(self._loud >= AWAKE)) if self.awake else ():
                found += self._follow(search, cycle)
            if search.raised is not None:
                found += self._expire(search, search.raised)
        return found

    def _cycles(self, pattern: Pattern, awake: NDArray[np.intp]) -> list[Cycle]:
        """The best fit in each band that is awake, among the onsets whose cycle has now been heard."""
        slots = SLOTS[pattern.model]
        sums = np.zeros((HISTORY + 1, len(awake)), np.float32)
        np.cumsum(self._tonal[-HISTORY:, awake], axis=0, out=sums[1:])
        newest = HISTORY - int(slots.max())
        onsets = np.arange(newest - BLOCK, newest, pattern.step)
        at = onsets[:, None, None, None] + slots  # (onsets, tempos, slots, 2)
        width = (slots[..., 1] - slots[..., 0])[None, :, :, None]
        means = np.moveaxis((sums[at[..., 1]] - sums[at[..., 0]]) / width, 2, 0)  # (slots, onsets, tempos, bands)
        means = np.ascontiguousarray(means, np.float32)
        dip = dips_of(means, pattern).mean(axis=0)
        rise, forgiven = rises_of(means, pattern)
        fits = (dip > pattern.gap_contrast) & (forgiven > pattern.contrast)
        ranks = np.where(fits, 2 * dip + rise, -np.inf)
        cycles = []
        for column, band in enumerate(awake):
            onset, tempo = divmod(int(np.argmax(ranks[..., column])), len(STRETCH))
            rank = float(ranks[onset, tempo, column])
            if np.isfinite(rank):
                levels = np.array([self._level[a:b, band].mean() for a, b in at[onset, tempo]])
                frame = self._frames - HISTORY + int(onsets[onset])
                cycle = Cycle(frame, int(band), means[:, onset, tempo, column], levels, rank)
                cycles.append(cycle)
        return cycles

    def _follow(self, search: Search, cycle: Cycle) -> list[Detection]:
        """Join a cycle to those before it: the third at one period raises the alarm, later ones keep it alive."""
        if search.raised is not None:
            _prolong(search, search.raised, cycle)
            return []
        shortest, longest = (RATE * seconds for seconds in search.pattern.period)
        rivals = [c for c in search.cycles if abs(c.band - cycle.band) <= 1 and cycle.frame - c.frame < shortest / 2]
        if any(rival.rank >= cycle.rank for rival in rivals):
            return []
        earlier = [c for c in search.cycles if c not in rivals and cycle.frame - c.frame < 2.1 * longest]
        search.cycles = [*earlier, cycle]
        for second, first in itertools.combinations(reversed(earlier), 2):
            chain = (first, second, cycle)
            if (
                steady(chain, search.pattern)
                and convincing(chain, search.pattern)
                and self._quiet_between(chain, search.pattern)
            ):
                return [self._started(search, chain)]
        return []

    def _quiet_between(self, chain: tuple[Cycle, Cycle, Cycle], pattern: Pattern) -> bool:
        """Whether nothing like a pulse lies between the cycles: a further beep belongs to some other signal.

        One of the two pauses may be disturbed.
        """
        best = max(chain, key=lambda cycle: cycle.rank)  # the bands beside it have little of the tone
        band, pulse = best.band, float(best.means[: len(pattern.on)].mean())
        worst = []
        for before, after in itertools.pairwise(chain):
            first = before.frame + round(pattern.quiet_from * RATE)
            pause = self._tonal[first - self._frames : after.frame - 5 - self._frames, band]
            width = round(pattern.on[0][1] * RATE) // 2
            sums = np.convolve(pause, np.full(width, 1 / width, np.float32), mode="valid")
            worst.append(float(sums.max(initial=0.0)))
        return min(worst) < pulse - EVEN

    def _started(self, search: Search, chain: tuple[Cycle, Cycle, Cycle]) -> Detection:
        pattern = search.pattern
        first, second, third = chain
        search.last = third
        search.period = min(second.frame - first.frame, third.frame - second.frame)
        search.cycles.clear()
        self._alarms += 1
        search.raised = Detection(
            key=-self._alarms,
            state=State.STARTED,
            event_type=pattern.event_type,
            label=pattern.label,
            score=score_of(typical_of(chain), pattern),
            start=max(self._origin, self._position(first.frame)),
            end=None,
            heard_at=self._heard(),
            level_dbfs=round(float(np.median([cycle.levels[: len(pattern.on)] for cycle in chain])), 1),
            model=pattern.model,
        )
        return search.raised

    def _expire(self, search: Search, raised: Detection) -> list[Detection]:
        if search.last is None:
            return []
        if self._frames - search.last.frame < PATIENCE * search.period + search.pattern.length * RATE:
            return []
        return [self._ended(search, raised)]

    def _ended(self, search: Search, started: Detection) -> Detection:
        last = search.last.frame if search.last is not None else 0
        end = self._position(last) + round(search.pattern.length * SAMPLE_RATE)
        search.raised = search.last = None
        return replace(started, state=State.ENDED, end=end, heard_at=self._heard())

    def _position(self, frame: int) -> int:
        return self._origin + frame * HOP + WINDOW // 2

    def _heard(self) -> int:
        return self._origin + self._frames * HOP + WINDOW - HOP


def steady(chain: tuple[Cycle, Cycle, Cycle], pattern: Pattern) -> bool:
    """Whether three cycles follow each other at one pitch and period."""
    first, second, third = chain
    if abs(first.band - second.band) > 1 or abs(second.band - third.band) > 1:
        return False
    shortest, longest = (RATE * seconds for seconds in pattern.period)
    before, after = second.frame - first.frame, third.frame - second.frame
    return shortest <= min(before, after) and max(before, after) <= longest and abs(before - after) <= pattern.jitter


def unspoilt(means: Frames, levels: Frames, pattern: Pattern) -> bool:
    """Whether a cycle, or the median of some, has every pulse, gap and silence of the pattern."""
    dips = dips_of(levels if pattern.gaps_by_level else means, pattern)
    rise, _ = rises_of(means, pattern)
    return bool(dips.mean() > pattern.gap_contrast and dips.min() > pattern.least_dip and rise > pattern.contrast)


def convincing(chain: tuple[Cycle, Cycle, Cycle], pattern: Pattern) -> bool:
    """Whether two cycles of three and their median are unspoilt and the pulses equally loud."""
    good = sum(unspoilt(cycle.means, cycle.levels, pattern) for cycle in chain)
    levels = np.median([cycle.levels for cycle in chain], axis=0)
    on = levels[: len(pattern.on)]
    even = on.max() - on.min() < EVEN
    return bool(even and good >= 2 and unspoilt(typical_of(chain), levels, pattern))


def typical_of(chain: tuple[Cycle, Cycle, Cycle]) -> Frames:
    """The median of three cycles, shape (slots,)."""
    return np.asarray(np.median([cycle.means for cycle in chain], axis=0), np.float32)


def score_of(means: Frames, pattern: Pattern) -> float:
    """Share of the tone's power, 0 to 1, that falls into the pulses rather than into the silence around them."""
    contrast = means[: len(pattern.on)].mean() - means[len(pattern.on) + len(pattern.off) :].mean()
    return round(float(1 / (1 + 10 ** (-contrast / 10))), 3)


def _prolong(search: Search, raised: Detection, cycle: Cycle) -> None:
    """Take `cycle` as the newest of the alarm that sounds, if it is in time and in tune."""
    last = search.last
    if last is None or abs(cycle.band - last.band) > 1:
        return
    periods = max(1, round((cycle.frame - last.frame) / search.period))
    if abs(cycle.frame - last.frame - periods * search.period) > search.pattern.jitter:
        return
    search.last = cycle
    search.raised = replace(raised, score=max(raised.score, score_of(cycle.means, search.pattern)))
