"""Whether somebody speaks over a reply: what a microphone hears beyond the echo of what is being played.

Pure: samples in, a verdict out. The reply is known, so its echo can be predicted: per band of the speech range, how
loud the microphone becomes for how loud the reply is (the coupling, learnt during the reply's first second), after a
delay found by correlating the two envelopes, with a tail for the room's reverberation. Barge-in is what exceeds both
that and the room's noise in several bands for long enough. A microphone that cancels the echo by itself has a small
coupling, and everything that is heard is somebody.

A wireless loudspeaker may be seconds late. Then what exceeds first is the reply itself, so where no delay is known it
must not rise and fall as the reply did at any time before.

When in doubt the reply goes on: there is no verdict before the coupling is known, and a voice well below the echo is
missed.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Samples

HOP = 320  # samples: 20 ms
WINDOW = 512
BANDS = 14  # of equal width on the mel scale
RANGE = (250.0, 4_500.0)  # Hz
DELAYS = 40  # hops of 20 ms: 0.8 s from a player's start until the microphone hears it
LEARN = 45  # hops with echo before there is a verdict
MARGIN_DB = 2.0  # above the loudest echo that the coupling lets expect
NOISE_DB = 12.0  # above the room's noise
TAIL_DB = 0.7  # a hop: reverberation of 60 dB in 1.7 s, more than a room has
SHARE = 0.25  # of the bands must exceed
SPAN = 25  # hops, of which
LONG = 9  # must exceed: 0.18 of 0.5 s
MEMORY = 400  # hops: 8 s of couplings
LATE = 175  # hops: an echo that has not come by then does not come
WAIT = 40  # hops from the first doubt to the verdict on it, which is about
DOUBTED = 65  # hops
# Of 24 replies each, 1 to 3.3 s late, and of talkers where the echo is cancelled: 0.64 to 0.84, and 0.27 to 0.57.
ALIKE = 0.6  # correlation over time and bands from which what is heard is the reply

Levels = NDArray[np.float64]


class Echo:
    """Listens to one room's microphone while one reply is played there. 16 kHz mono on both sides."""

    def __init__(self, reference: Samples) -> None:
        """`reference`: what is played, shape (n,)."""
        self.delay: int | None = None  # hops, once the envelopes have told
        self._reference = _levels(np.concatenate([reference, np.zeros(WINDOW, np.float32)]))
        # Above the band's usual level; 25 dB below its peak an echo tells nothing of the coupling.
        self._loud = self._reference > self._reference.max(axis=0, keepdims=True) - 25.0
        self._rest: Samples = np.zeros(0, np.float32)
        self._heard: deque[Levels] = deque(maxlen=MEMORY)
        self._first = 0  # hop of the oldest heard
        self._over: deque[bool] = deque(maxlen=SPAN)
        self._doubted: int | None = None  # hop at which something exceeded and no delay was known
        self._late = False  # that was the reply: there is no verdict on it any more
        self._coupling = np.full(BANDS, np.nan)
        self._noise = np.full(BANDS, np.nan)

    def feed(self, samples: Samples) -> bool:
        """The microphone's next samples, shape (n,), from the moment playing began. Whether somebody speaks over it."""
        self._rest = np.concatenate([self._rest, samples])
        fresh = (len(self._rest) - WINDOW) // HOP + 1
        if fresh <= 0:
            return False
        spoken_over = False
        for level in _levels(self._rest[: (fresh - 1) * HOP + WINDOW]):
            if len(self._heard) == MEMORY:
                self._first += 1
            self._heard.append(level)
            hop = self._first + len(self._heard) - 1
            if hop % 10 == 9 and not any(self._over):
                self._learn()
            self._over.append(self._exceeds(level, hop))
            spoken_over |= self._spoken_over(hop)
        self._rest = self._rest[fresh * HOP :]
        return spoken_over

    def _spoken_over(self, hop: int) -> bool:
        """The verdict at a hop, which was the last to be heard."""
        if self._doubted is None:
            if sum(self._over) < LONG:
                return False
            if self.delay is not None or hop > LATE:
                return not self._late
            self._doubted = hop
        if hop != self._doubted + WAIT:
            return False
        self._doubted = None
        self._late = self._late or self._likeness(hop) >= ALIKE
        return not self._late

    def _likeness(self, hop: int) -> float:
        """How much what was heard until `hop` is like the reply at the most similar time before."""
        heard = np.array(self._heard)
        recent = np.maximum(heard[-DOUBTED:], np.percentile(heard, 10, axis=0) + 6.0)
        hops = np.arange(hop - len(recent) + 1, hop + 1)
        faintest = self._reference.max(axis=0) - 40.0
        return max(
            _correlation(recent, np.maximum(self._at(hops - delay), faintest)) for delay in range(LATE + DELAYS + 1)
        )

    def _learn(self) -> None:
        """Delay, coupling and noise from what was heard so far."""
        heard = np.array(self._heard)
        self._noise = np.percentile(heard, 10, axis=0)
        hops = np.arange(self._first, self._first + len(heard))
        envelope = heard.mean(axis=1)
        best, self_delay = 0.0, None
        for delay in range(DELAYS + 1):
            reference = self._at(hops - delay).mean(axis=1)
            if len(envelope) > 10 and reference.std() > 1e-6 and envelope.std() > 1e-6:
                likeness = float(np.corrcoef(reference, envelope)[0, 1])
                if likeness > best:
                    best, self_delay = likeness, delay
        self.delay = self_delay if best > 0.4 else None
        expected, loud = self._expected(hops), self._loud_at(hops)
        if loud.any(axis=1).sum() < LEARN:
            return
        coupling = np.where(loud, heard - expected, np.nan)
        enough = np.isfinite(coupling).sum(axis=0) >= LEARN // 2
        learnt = np.full(BANDS, np.nan)
        if enough.any():
            learnt[enough] = np.nanpercentile(coupling[:, enough], 95, axis=0)
        self._coupling = learnt

    def _exceeds(self, level: Levels, hop: int) -> bool:
        known = np.isfinite(self._coupling)
        if known.sum() < BANDS // 2:
            return False
        echo = self._expected(np.array([hop]))[0] + self._coupling
        over = known & (level > np.maximum(echo + MARGIN_DB, self._noise + NOISE_DB))
        return bool(over.sum() >= SHARE * BANDS)

    def _at(self, hops: NDArray[np.intp]) -> Levels:
        """The reference at these hops; before and after it silence."""
        inside = (hops >= 0) & (hops < len(self._reference))
        return np.where(inside[:, None], self._reference[np.clip(hops, 0, len(self._reference) - 1)], -100.0)

    def _loud_at(self, hops: NDArray[np.intp]) -> NDArray[np.bool_]:
        shifted = hops - (self.delay or 0)
        inside = (shifted >= 0) & (shifted < len(self._reference))
        found: NDArray[np.bool_] = inside[:, None] & self._loud[np.clip(shifted, 0, len(self._reference) - 1)]
        return found

    def _expected(self, hops: NDArray[np.intp]) -> Levels:
        """What of the reference may be heard then, in its own decibels, with the tail of what came before.

        Around the delay, or at any of the possible ones while it is unknown.
        """
        near = range(self.delay - 2, self.delay + 3) if self.delay is not None else range(DELAYS + 1)
        last = max(near)
        expected = np.full((len(hops), BANDS), -100.0)
        for delay in [*near, *range(last + 1, last + 60)]:
            faded = max(0, delay - last) * TAIL_DB
            expected = np.maximum(expected, self._at(hops - delay) - faded)
        return expected


def _correlation(one: Levels, other: Levels) -> float:
    """Of the ups and downs of all bands, which have no level of their own here."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    energy = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / energy if energy > 0 else 0.0


def _bands() -> NDArray[np.float64]:
    """Rectangular bands of equal mel width (O'Shaughnessy 1987), shape (BANDS, WINDOW // 2 + 1)."""
    low, high = (2595.0 * np.log10(1.0 + edge / 700.0) for edge in RANGE)
    edges = 700.0 * (10.0 ** (np.linspace(low, high, BANDS + 1) / 2595.0) - 1.0)
    frequencies = np.arange(WINDOW // 2 + 1) * SAMPLE_RATE / WINDOW
    inside = (frequencies >= edges[:-1, None]) & (frequencies < edges[1:, None])
    weights: NDArray[np.float64] = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
    return weights


_BANDS = _bands()
_HANN = np.hanning(WINDOW)


def _levels(samples: Samples) -> Levels:
    """Decibels of each band each 20 ms, shape (hops, BANDS)."""
    if len(samples) < WINDOW:
        samples = np.pad(samples, (0, WINDOW - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * _HANN)) ** 2 / WINDOW
    levels: Levels = 10.0 * np.log10(power @ _BANDS.T + 1e-10)
    return levels
