"""Whether what a source gives can be a room at all: digital silence, a stuck converter, permanent clipping.

Judged on the samples as the device gives them, before they are mixed and resampled, because there a stuck driver
repeats itself bit by bit and a clipped sample stands at full scale. A quiet room is no fault: it has noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assistant.events import Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

SILENT_PEAK = 10.0 ** (-96.0 / 20.0)  # below half a step of 16 bits: no microphone is that quiet
CLIPPED_SHARE = 0.05  # of the samples of a second; loud music, mastered to full scale, has less than a tenth of it
FAULTY_SECONDS = 10  # of the same fault in a row
WELL_SECONDS = 3  # in a row until a fault is over
LOOK_EVERY = 5.0  # seconds between two looks for audio that repeats itself
LONGEST_LOOP = 2.0  # seconds: what a driver or a sound server holds at most
ANCHOR = 256  # samples in a row that do not come twice by chance


class Faults:
    """The judge of one source. Pure: time is that of the samples.

    `feed` costs a comparison of two samples a block; a look for repetition, every five seconds, about 0.1 ms.
    """

    def __init__(self) -> None:
        self.problem = Problem.NONE
        self._verdict = Problem.NONE  # of the last seconds
        self._seconds = 0  # that it has been the same
        self._loop = _Loop()
        self._length = 0.0  # of the second in progress
        self._samples = 0
        self._clipped = 0
        self._silent = self._stuck = True  # so far in this second

    def feed(self, block: NDArray[np.float32], rate: float, peak: float, clipped: int) -> None:
        """`block` of shape (frames, channels), which nobody writes to any more.

        `peak` is its largest magnitude, `clipped` how many of its samples, of all channels, are at full scale.
        """
        if not len(block):
            return
        silent = peak <= SILENT_PEAK
        self._silent &= silent
        repeats = self._loop.feed(block, rate)
        self._stuck &= silent or repeats or _constant(block)
        self._samples += block.size
        self._clipped += clipped
        self._length += len(block) / rate
        if self._length >= 1.0:
            self._judge()

    def _judge(self) -> None:
        """A second is over."""
        if self._silent:
            verdict = Problem.SILENT
        elif self._stuck:
            verdict = Problem.STUCK
        elif self._clipped >= CLIPPED_SHARE * self._samples:
            verdict = Problem.CLIPPED
        else:
            verdict = Problem.NONE
        self._seconds = self._seconds + 1 if verdict is self._verdict else 1
        self._verdict = verdict
        if self._seconds >= (WELL_SECONDS if verdict is Problem.NONE else FAULTY_SECONDS):
            self.problem = verdict
        self._length, self._samples, self._clipped = 0.0, 0, 0
        self._silent = self._stuck = True


class _Loop:
    """Finds audio that repeats itself exactly, and follows it while it does."""

    def __init__(self) -> None:
        self._wait = LOOK_EVERY  # seconds until blocks are kept again
        self._kept: list[NDArray[np.float32]] = []
        self._seconds = 0.0  # in `_kept`
        self._pattern: NDArray[np.float32] | None = None  # one period
        self._phase = 0  # where in it the next sample should be

    def feed(self, block: NDArray[np.float32], rate: float) -> bool:
        """Whether `block` repeats what came before it."""
        if self._pattern is not None:
            if self._goes_on(block[:, 0], self._pattern):
                return True
            self._pattern = None
        self._wait -= len(block) / rate
        if self._wait > 0.0:
            return False
        self._kept.append(block[:, 0])
        self._seconds += len(block) / rate
        if self._seconds < LONGEST_LOOP:
            return False
        self._pattern, self._phase = period(np.concatenate(self._kept)), 0
        self._kept.clear()
        self._wait, self._seconds = LOOK_EVERY, 0.0
        return self._pattern is not None

    def _goes_on(self, samples: NDArray[np.float32], pattern: NDArray[np.float32]) -> bool:
        expected = np.take(pattern, np.arange(self._phase, self._phase + len(samples)), mode="wrap")
        self._phase = (self._phase + len(samples)) % len(pattern)
        return np.array_equal(samples, expected)


def period(samples: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """The last period of `samples` when their end has been there before, and all between repeats; else None."""
    anchor = samples[-ANCHOR:]
    if len(samples) < 2 * ANCHOR or (anchor == anchor[0]).all():  # what is constant needs no look
        return None
    ends = np.flatnonzero(samples[ANCHOR - 1 : -1] == anchor[-1]) + ANCHOR - 1
    for back in range(2, ANCHOR + 1):
        ends = ends[samples[ends - back + 1] == anchor[-back]]
        if not len(ends):
            return None
    return samples[ends[-1] + 1 :]


def _constant(block: NDArray[np.float32]) -> bool:
    """Whether every channel stands still. Three rows tell nearly always."""
    first = block[0]
    if (first != block[-1]).any() or (first != block[len(block) // 2]).any():
        return False
    return bool((block == first).all())
