"""Whether anything can be heard: an adaptive noise floor and a gate over it, in frames of 20 ms.

The floor is a low quantile of the levels of the last seconds, so a constant hum and a fan that starts are followed
while a sound that comes and goes is not. It starts low, so that a sound at sample 0 opens the gate.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from pydantic import Field

from assistant.events import SAMPLE_RATE, Chunk, Samples
from assistant.settings import Settings

FRAME = 320  # samples: 20 ms, which webrtcvad accepts
SILENCE_DBFS = -100.0  # what digital silence is called
DEAD_DBFS = -96.0  # below one step of 16 bits: no microphone is that quiet
BLOCK = 5  # frames: the floor is learnt from means of 0.1 s, which fluctuate less than frames


class Frame(NamedTuple):
    """What the gate thinks of 20 ms of a stream."""

    start: int  # samples
    dbfs: float  # RMS
    floor_dbfs: float  # noise floor after this frame
    active: bool  # the gate is open, hangover included


def loudest(frames: Sequence[Frame]) -> float:
    """The level of the loudest of them in dBFS."""
    return max(map(_DBFS, frames), default=SILENCE_DBFS)


def any_active(frames: Sequence[Frame]) -> bool:
    """Whether the gate is open in any of them. Fifty a second in each room are looked through."""
    return any(map(_ACTIVE, frames))


_DBFS, _ACTIVE = itemgetter(Frame._fields.index("dbfs")), itemgetter(Frame._fields.index("active"))


class ActivitySettings(Settings):
    """When a room counts as active."""

    open_db: float = Field(default=5.0, ge=1.0, le=40.0, description="dB above the noise floor that open the gate")
    hangover: float = Field(
        default=0.4, ge=0.0, le=5.0, description="seconds the gate stays open after the last loud frame"
    )
    memory: float = Field(
        default=15.0, ge=2.0, le=120.0, description="seconds of the past the noise floor is learnt from"
    )
    quantile: float = Field(default=0.2, gt=0.0, lt=1.0, description="share of the past that is taken for background")
    lowest_floor_dbfs: float = Field(default=-70.0, ge=-95.0, le=-20.0, description="the floor never falls below this")


def dbfs(samples: Samples) -> float:
    """RMS level in dB relative to full scale, at least `SILENCE_DBFS`."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return max(SILENCE_DBFS, 10.0 * float(np.log10(power + 1e-10)))


class Activity:
    """The gate of one stream. Pure: feeding pieces gives the frames of feeding the whole."""

    def __init__(self, settings: ActivitySettings | None = None) -> None:
        self._settings = settings or ActivitySettings()
        s = self._settings
        self._hangover = round(s.hangover * SAMPLE_RATE / FRAME)
        blocks = max(10, round(s.memory * SAMPLE_RATE / FRAME / BLOCK))
        # A few blocks of the lowest floor stand for the past that was not heard: sounds at sample 0 open the gate,
        # and a loud room is learnt within seconds all the same.
        self._levels: deque[float] = deque([s.lowest_floor_dbfs] * max(1, blocks // 8), maxlen=blocks)
        self._ordered = sorted(self._levels)
        self._block: list[float] = []
        self._floor = s.lowest_floor_dbfs
        self._open_for = 0  # frames until the gate closes
        self._rest: Samples = np.zeros(0, np.float32)
        self._next: int | None = None  # position of the next sample if no audio is lost

    @property
    def floor_dbfs(self) -> float:
        """Noise floor now."""
        return self._floor

    def feed(self, chunk: Chunk) -> list[Frame]:
        """The frames that `chunk` completes; the remainder waits for the next chunk unless audio was lost."""
        if chunk.start != self._next:
            self._rest = self._rest[:0]
        self._next = chunk.end
        samples = np.concatenate((self._rest, chunk.samples)) if len(self._rest) else chunk.samples
        start = chunk.end - len(samples)
        n = len(samples) // FRAME
        self._rest = samples[n * FRAME :].copy()
        levels = _levels(samples[: n * FRAME].reshape(n, FRAME))
        starts, floors = range(start, start + n * FRAME, FRAME), self._floors(levels)
        above = self._settings.open_db
        if n and not self._open_for and max(levels) < min(floors) + above:  # most of what a quiet room gives
            return [Frame(*columns, False) for columns in zip(starts, levels, floors, strict=True)]
        frames, open_for = [], self._open_for
        for at, level, floor in zip(starts, levels, floors, strict=True):
            if level >= floor + above:
                open_for = self._hangover + 1
            elif open_for:
                open_for -= 1
            frames.append(Frame(at, level, floor, open_for > 0))
        self._open_for = open_for
        return frames

    def _floors(self, levels: list[float]) -> list[float]:
        """The noise floor after each frame."""
        if not levels:
            return []
        if min(levels) > DEAD_DBFS:
            floors = [self._floor] * (BLOCK - 1 - len(self._block))
            waiting = self._block + levels
            for at in range(0, len(waiting) - BLOCK + 1, BLOCK):
                self._learn(waiting[at : at + BLOCK])
                floors += [self._floor] * BLOCK
            self._block = waiting[len(waiting) // BLOCK * BLOCK :]
            return floors[: len(levels)]
        floors = []
        for level in levels:
            if level > DEAD_DBFS:  # digital silence says nothing about the room
                self._block.append(level)
                if len(self._block) == BLOCK:
                    self._learn(self._block)
                    self._block = []
            floors.append(self._floor)
        return floors

    def _learn(self, block: list[float]) -> None:
        ordered, levels = self._ordered, self._levels
        if len(levels) == levels.maxlen:
            del ordered[bisect_left(ordered, levels[0])]
        level = sum(block) / BLOCK
        levels.append(level)
        insort(ordered, level)
        self._floor = max(self._settings.lowest_floor_dbfs, ordered[int(self._settings.quantile * len(ordered))])


def _levels(frames: Samples) -> list[float]:
    """RMS of each row in dBFS; what is not a number counts as silence."""
    powers = np.vecdot(frames, frames).astype(np.float64)
    powers /= FRAME
    powers += 1e-10  # `SILENCE_DBFS`
    levels: list[float] = (10.0 * np.log10(powers, where=np.isfinite(powers), out=np.full(len(powers), -10.0))).tolist()
    return levels
