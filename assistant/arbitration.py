"""One voice, one action: of the rooms that hear the same utterance, the one that hears it best acts.

The first room's claim opens a window of 0.3 s in which others may claim the same utterance; then the best
signal-to-noise ratio wins. A claim that comes later loses. Two utterances are the same when they overlap in time and
their envelopes rise and fall together; in doubt they are, since a missed command is better than two actions.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Samples, Utterance

WINDOW = 0.3  # seconds from the first claim to the decision
HOP = 320  # samples: 20 ms, one step of an envelope
LAG = 15  # hops: rooms disagree by up to 0.3 s about when a sound was heard
OVERLAP = 0.5  # of the shorter of two utterances that are the same
SHORTEST = 25  # hops of two envelopes that can be compared at all
# 180 pairs of one clip in two simulated rooms, the farther at 20, 10 and 5 dB: 1 in 100 is below 0.78, 0.73, 0.61; of
# pairs of different clips, half are above 0.36 and one in ten above 0.69.
ALIKE = 0.6  # correlation from which two envelopes are of one voice
REMEMBERED = 32  # utterances

Envelope = NDArray[np.float32]


@dataclass(eq=False, slots=True)
class Claim:
    """One room's claim on an utterance."""

    room: str
    began: float  # Unix seconds
    ended: float
    snr_db: float
    envelope: Envelope
    contest: Contest = field(repr=False)

    async def won(self) -> bool:
        """Whether this room is the one that acts; known when the window has closed."""
        wait = self.contest.closes - self.contest.clock()
        if wait > 0 and not self.contest.alone():
            await asyncio.sleep(wait)
        return self.contest.winner() is self


@dataclass(eq=False, slots=True)
class Contest:
    """The claims on one utterance."""

    closes: float  # of `clock`
    clock: Callable[[], float]
    alone: Callable[[], bool]
    claims: list[Claim] = field(default_factory=list)
    late: list[Claim] = field(default_factory=list)
    decided: Claim | None = None

    def winner(self) -> Claim:
        """The best claim so far. Asking decides: nobody who comes later wins."""
        if self.decided is None:
            self.decided = max(self.claims, key=lambda claim: claim.snr_db)
        return self.decided

    @property
    def open(self) -> bool:
        """Whether a claim can still win."""
        return self.decided is None and self.clock() < self.closes


class Arbiter:
    """Decides between the rooms of one house."""

    def __init__(
        self, alone: Callable[[], bool] = lambda: False, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`alone`: there is one room only, so nobody needs to be waited for."""
        self.claims = 0
        self.shared = 0  # claims on an utterance that another room had claimed already
        self.alone = alone
        self._clock = clock
        self._contests: deque[Contest] = deque(maxlen=REMEMBERED)

    def claim(self, room: str, utterance: Utterance, began: float, snr_db: float) -> Claim:
        """A room's claim on an utterance that began at `began` Unix seconds by the clock of its source."""
        self.claims += 1
        ended = began + len(utterance.samples) / SAMPLE_RATE
        shape = envelope(utterance.samples, utterance.floor_dbfs)
        for contest in reversed(self._contests):
            first = contest.claims[0]
            if any(other.room == room for other in (*contest.claims, *contest.late)):
                continue
            shift = round((first.began - began) * SAMPLE_RATE / HOP)
            if overlap(began, ended, first.began, first.ended) >= OVERLAP and alike(shape, first.envelope, shift):
                self.shared += 1
                claim = Claim(room, began, ended, snr_db, shape, contest)
                (contest.claims if contest.open else contest.late).append(claim)
                return claim
        contest = Contest(self._clock() + WINDOW, self._clock, self.alone)
        self._contests.append(contest)
        contest.claims.append(Claim(room, began, ended, snr_db, shape, contest))
        return contest.claims[0]


def overlap(began: float, ended: float, other_began: float, other_ended: float) -> float:
    """The share of the shorter span that lies in both."""
    shared = min(ended, other_ended) - max(began, other_began)
    return max(0.0, shared) / max(1e-6, min(ended - began, other_ended - other_began))


def envelope(samples: Samples, floor_dbfs: float) -> Envelope:
    """Levels in dB of each 20 ms, shape (hops,); what is little above the noise floor counts as the floor."""
    whole = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    power = np.einsum("ij,ij->i", whole, whole, dtype=np.float64) / HOP
    levels: Envelope = np.maximum(10.0 * np.log10(power + 1e-12), floor_dbfs + 3.0).astype(np.float32)
    return levels


def alike(one: Envelope, other: Envelope, shift: int = 0) -> bool:
    """Whether two envelopes are of one voice; `other` begins `shift` hops after `one`.

    What is too short to be told apart is.
    """
    shared = min(len(one) - shift, len(other)) - max(0, -shift)
    if shared < SHORTEST:
        return True
    return max(_correlation(one, other, shift + lag) for lag in range(-LAG, LAG + 1)) >= ALIKE


def _correlation(one: Envelope, other: Envelope, lag: int) -> float:
    left, right = (one[lag:], other) if lag >= 0 else (one, other[-lag:])
    length = min(len(left), len(right))
    if length < SHORTEST // 2:
        return -1.0
    left, right = left[:length], right[:length]
    left, right = left - left.mean(), right - right.mean()
    energy = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / energy if energy > 0 else 1.0
