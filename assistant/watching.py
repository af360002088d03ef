"""What somebody who watches a room sees of it: level, noise floor and gate, spectrum, and what the tagger says.

About ten small messages a second of the stream, made once however many pages watch, and not at all while none does.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Chunk, Samples, seconds
from assistant.segment.activity import SILENCE_DBFS, Frame
from assistant.tracking import Candidate

EVERY = SAMPLE_RATE // 10  # samples of the stream between two messages
APART = 0.05  # seconds between two messages at least: a file may be read faster than it was recorded
BANDS = 64
HOP = 400  # samples between two columns: 40 a second
FRAME = 800  # samples of one column: 50 ms
LINES = 1024  # points of its transform
HELD = SAMPLE_RATE // 2  # samples that wait for a message; of more the last
LOWEST_HZ, HIGHEST_HZ = 60.0, 7_800.0
QUIETEST, LOUDEST = -110.0, -10.0  # dB of the bytes 0 and 255; a sine at full scale has 0 dB
TILT = 3.0  # dB an octave that high pitches are raised by: a room's noise falls by about as much

Message = Mapping[str, Any]


class Watching:
    """One room while somebody watches it, over every opening of its source. Pure: the clock is passed in."""

    def __init__(self, room: str, tell: Callable[[Message], None]) -> None:
        self._room, self._tell = room, tell
        self._rest: Samples = np.zeros(0, np.float32)  # of which no column was made yet
        self._end = -1  # position after the last sample; nothing was heard yet
        self._due = 0  # position of the next message
        self._told = self._scored = float("-inf")  # when the last message of each type went
        self._power, self._frames, self._peak = 0.0, 0, SILENCE_DBFS  # since the last of levels

    def hear(self, chunk: Chunk, frames: Sequence[Frame], now: float) -> None:
        """A chunk, with the frames that the gate made of it, heard at `now` (seconds of any clock that only grows)."""
        if chunk.start != self._end:  # another opening of the source, or audio was lost
            self._rest = self._rest[:0]
            self._due = chunk.start + EVERY
        self._end = chunk.end
        self._rest = np.concatenate((self._rest, chunk.samples))[-HELD:]
        for frame in frames:
            self._power += 10.0 ** (frame.dbfs / 10.0)
            self._peak = max(self._peak, frame.dbfs)
        self._frames += len(frames)
        if frames and chunk.end >= self._due and now - self._told >= APART:
            self._due = max(self._due + EVERY, chunk.end)
            self._told = now
            self._sound(chunk.end, frames[-1])

    def _sound(self, end: int, last: Frame) -> None:
        columns = self._columns()
        self._tell(
            {
                "type": "sound",
                "room": self._room,
                "at": round(seconds(end - len(self._rest)), 3),  # where the column after these begins
                "dbfs": round(10.0 * float(np.log10(self._power / self._frames)), 1),
                "floor": round(last.floor_dbfs, 1),
                "peak": round(self._peak, 1),
                "gate": last.active,
                "columns": base64.b64encode(columns.tobytes()).decode(),  # BANDS bytes each, low pitches first
            }
        )
        self._power, self._frames, self._peak = 0.0, 0, SILENCE_DBFS

    def tagged(self, position: int, candidates: Sequence[Candidate], now: float) -> None:
        """What the tagger says of a window that ended at `position`; nothing: it was one of the background."""
        if now - self._scored < APART:
            return
        self._scored = now
        self._tell(
            {
                "type": "scores",
                "room": self._room,
                "at": round(seconds(position), 3),
                "candidates": [
                    {
                        "label": one.label,
                        "event_type": one.event_type,
                        "score": round(one.score, 3),
                        "threshold": None if one.threshold is None else round(one.threshold, 3),
                        "standing": one.standing,
                    }
                    for one in candidates
                ],
            }
        )

    def _columns(self) -> NDArray[np.uint8]:
        """Shape (columns, BANDS): what can be made of what was heard; the rest waits."""
        count = max(0, (len(self._rest) - FRAME) // HOP + 1)
        if not count:
            return np.zeros((0, BANDS), np.uint8)
        cut = np.lib.stride_tricks.sliding_window_view(self._rest, FRAME)[: (count - 1) * HOP + 1 : HOP]
        made = spectrum(cut)
        self._rest = self._rest[count * HOP :]
        return made


class Watchers:
    """Which rooms somebody watches."""

    def __init__(self, tell: Callable[[str, Message], None]) -> None:
        """`tell` is given each message with the room that it is about."""
        self._tell = tell
        self._rooms: Container[str] = ()
        self._watching: dict[str, Watching] = {}

    def change(self, rooms: Container[str]) -> None:
        """From now on these are watched."""
        self._rooms = rooms
        self._watching = {room: watching for room, watching in self._watching.items() if room in rooms}

    def of(self, room: str) -> Watching | None:
        """What tells of a room; None: nobody watches it."""
        if room not in self._rooms:
            return None
        if room not in self._watching:
            self._watching[room] = Watching(room, partial(self._tell, room))
        return self._watching[room]


def spectrum(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Log-mel columns of shape (frames, BANDS) of frames of shape (frames, FRAME), as bytes from quiet to loud."""
    window, bands, tilt = _shapes()
    lines = np.abs(np.fft.rfft(np.nan_to_num(frames) * window, LINES)) ** 2
    decibels = 10.0 * np.log10(lines @ bands + 1e-12) - tilt
    share = (decibels - QUIETEST) / (LOUDEST - QUIETEST)
    return np.asarray(np.clip(255.0 * share, 0.0, 255.0).round(), np.uint8)


@cache
def _shapes() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The window of a frame, what each band takes of a spectrum, and how far each is lowered."""
    window = np.hanning(FRAME).astype(np.float32)
    low, high = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (LOWEST_HZ, HIGHEST_HZ))  # mel (O'Shaughnessy)
    edges = 700.0 * (10.0 ** (np.linspace(low, high, BANDS + 2) / 2595.0) - 1.0)
    lines = np.arange(LINES // 2 + 1) * SAMPLE_RATE / LINES
    half = np.maximum((edges[2:] - edges[:-2]) / 2, SAMPLE_RATE / LINES)  # a low band takes two lines at least
    weights = np.maximum(1.0 - np.abs(lines[:, None] - edges[1:-1]) / half, 0.0)
    bands = weights / weights.sum(axis=0) / (window.sum() / 2) ** 2
    tilt = TILT * np.log2(HIGHEST_HZ / edges[1:-1])
    return window, bands.astype(np.float32), tilt.astype(np.float32)
