"""Which audio a tagger sees: windows of its fixed length, cut while the gate is open.

The first window of a sound is cut as soon as it holds enough of it, the rest are spaced evenly; what a window lacks
comes from the audio before the sound, and in a clip shorter than a window from repeating the clip. Never zeros: they
make YAMNet say "Silence". Quiet sounds are lifted, because the model's log-mel has a floor, but never so far that the
room's own noise becomes loud. While nothing is active a window is cut now and then, so that the tracker learns what the
room sounds like to the tagger when nothing happens.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from pydantic import Field

from assistant.events import SAMPLE_RATE, Chunk, Samples, Window, frozen
from assistant.segment.activity import FRAME, SILENCE_DBFS, Frame, any_active, dbfs
from assistant.settings import Settings

WINDOW = 15_600  # samples: what YAMNet takes
PROBES = 6  # windows of an unchanged background after which they become rarer: nine tenths of it are learnt
LONGEST_WAIT = 600 * SAMPLE_RATE  # samples between two of them
CHANGED = 2.0  # dB: the noise floor of another background


class WindowSettings(Settings):
    """How densely active audio is tagged."""

    first: float = Field(default=0.44, ge=0.1, le=0.96, description="seconds of a sound in its first window")
    hop: float = Field(default=0.22, ge=0.06, le=0.48, description="seconds from one window to the next")
    trail: float = Field(default=0.24, ge=0.0, le=0.96, description="seconds tagged after the gate closed")
    probe: float = Field(
        default=4.0, ge=1.0, description="seconds between windows of the background; rarer while nothing changes"
    )
    level_dbfs: float = Field(default=-25.0, ge=-60.0, le=0.0, description="level that quieter sounds are lifted to")
    noise_dbfs: float = Field(default=-40.0, ge=-80.0, le=0.0, description="level the noise floor is not lifted above")


class LongWindowSettings(WindowSettings):
    """Windows of an audio language model: longer and fewer, because each costs it a tenth of a second and more."""

    first: float = Field(default=1.0, ge=0.1, le=3.0, description="seconds of a sound in its first window")
    hop: float = Field(default=1.5, ge=0.5, le=3.0, description="seconds from one window to the next")
    trail: float = Field(default=0.8, ge=0.0, le=3.0, description="seconds tagged after the gate closed")
    probe: float = Field(default=60.0, ge=1.0, description="seconds between windows of the background")


class Windows:
    """The cutter of one stream. Pure: feeding pieces gives the windows of feeding the whole.

    Feed each chunk together with the frames that `Activity.feed` made of it. A window of the background has its onset
    at its end: nothing of it was active. `samples` are lifted; `level_dbfs` and `floor_dbfs` are those of the room.
    """

    def __init__(self, settings: WindowSettings | None = None, *, length: int = WINDOW) -> None:
        """`length` of a window in samples: what the tagger takes."""
        self._settings = s = settings or WindowSettings()
        self._length = length
        self._probe = round(s.probe * SAMPLE_RATE)
        self._first, self._hop, self._trail = (round(x * SAMPLE_RATE) for x in (s.first, s.hop, s.trail))
        self._buffer: Samples = np.zeros(0, np.float32)
        self._filled = 0  # samples of the buffer in use: audio without a gap up to `_end`
        self._end = 0  # position after the last sample in use
        self._active: deque[tuple[int, float]] = deque(maxlen=length // FRAME + 1)  # start and power of loud frames
        self._floor = SILENCE_DBFS
        self._onset: int | None = None  # where the activity began; None between activities
        self._due = 0  # position at which the next window may end
        self._cut_at = 0  # where the last window ended
        self._closes_at = 0  # where the activity is over unless the gate opens again
        self._probes = 0  # windows of this background so far
        self._probed_dbfs = SILENCE_DBFS  # its noise floor

    @property
    def active_since(self) -> int | None:
        """Onset of the running activity in samples; None when nothing can be heard."""
        return self._onset

    def feed(self, chunk: Chunk, frames: list[Frame]) -> list[Window]:
        """The windows that `chunk` completes; `frames` are those that the gate made of the same chunk."""
        windows: list[Window] = []
        if chunk.start != self._end:  # audio was lost, or this is the first: what was open ends here
            windows += self.end()
            self._filled, self._floor = 0, SILENCE_DBFS
            self._active.clear()
        self._append(chunk.samples)
        self._end = chunk.end
        if self._nothing_in(frames):
            self._floor = frames[-1].floor_dbfs
        else:
            for frame in frames:
                windows += self._step(frame)
        return windows

    def _nothing_in(self, frames: list[Frame]) -> bool:
        """Whether no window can be due in `frames`: most of a quiet room."""
        if self._onset is not None or not frames or any_active(frames):
            return False
        quiet_for = frames[-1].start + FRAME - max(self._cut_at, self._closes_at)
        if quiet_for < self._probe:
            return True
        changed = any(abs(frame.floor_dbfs - self._probed_dbfs) >= CHANGED for frame in frames)
        return not changed and quiet_for < self._patience()

    def _patience(self) -> int:
        """Samples between two windows of a background that stays the same."""
        return min(self._probe << max(0, self._probes - PROBES + 1), max(self._probe, LONGEST_WAIT))

    def end(self) -> list[Window]:
        """The last window of a running activity when the source ends. The next audio begins a new activity."""
        windows = []
        if self._onset is not None and self._end > self._cut_at:
            windows.append(self._cut(self._onset, self._end))
        self._onset = None
        return windows

    def _append(self, samples: Samples) -> None:
        """Keep `samples`; when the buffer is full only the last window moves to its beginning."""
        filled = self._filled + len(samples)
        if filled > len(self._buffer):
            kept = self._buffer[max(0, self._filled - self._length - FRAME) : self._filled].copy()
            filled = len(kept) + len(samples)
            if filled > len(self._buffer):
                self._buffer = np.empty(filled + 2 * self._length, np.float32)
            self._buffer[: len(kept)] = kept
        self._buffer[filled - len(samples) : filled] = samples
        self._filled = filled

    def _step(self, frame: Frame) -> list[Window]:
        self._floor = frame.floor_dbfs
        end = frame.start + FRAME
        if frame.active:
            self._active.append((frame.start, 10.0 ** (frame.dbfs / 10.0)))
            if self._onset is None:
                self._probes = 0
                self._onset = frame.start
                self._due = frame.start + self._first
            self._closes_at = end + self._trail
        whole = end - (self._end - self._filled) >= self._length
        if self._onset is None:
            return [self._cut(end, end)] if whole and self._is_due(frame, end) else []
        windows = []
        if end >= self._due and whole:
            windows.append(self._cut(self._onset, end))
            self._due += self._hop * max(1, -((self._due - end) // self._hop))
        if end >= self._closes_at:
            self._onset = None
        return windows

    def _is_due(self, frame: Frame, end: int) -> bool:
        """Whether the background is to be heard again: the longer it stays the same, the less often."""
        quiet_for = end - max(self._cut_at, self._closes_at)
        if quiet_for < self._probe or frame.dbfs <= SILENCE_DBFS:
            return False
        if abs(frame.floor_dbfs - self._probed_dbfs) >= CHANGED:
            self._probes, self._probed_dbfs = 0, frame.floor_dbfs
        elif quiet_for < self._patience():
            return False
        self._probes += 1
        return True

    def _cut(self, onset: int, end: int) -> Window:
        self._cut_at = end
        last = self._filled - (self._end - end)
        samples = self._buffer[max(0, last - self._length) : last]
        length = len(samples)
        if length < self._length:
            samples = np.resize(samples, self._length)
        while self._active and self._active[0][0] < end - length:
            self._active.popleft()
        powers = [power for _, power in self._active]
        level = 10.0 * float(np.log10(sum(powers) / len(powers))) if powers else dbfs(samples)
        lifted, gain = self._lifted(samples, level, self._floor)
        return Window(end - length, end, frozen(lifted), onset, level, self._floor, gain)

    def _lifted(self, samples: Samples, level: float, floor: float) -> tuple[Samples, float | None]:
        """A copy, louder by as much as its level and the noise floor allow, and by how much; None: some are clipped."""
        gain_db = max(0.0, min(self._settings.level_dbfs - level, self._settings.noise_dbfs - floor))
        gain = np.float32(10.0 ** (gain_db / 20.0))
        lifted: Samples = samples * gain
        if max(float(lifted.max()), -float(lifted.min())) <= 1.0:
            return lifted, float(gain)
        return np.clip(lifted, -1.0, 1.0), None
