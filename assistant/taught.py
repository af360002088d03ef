"""Taught sounds in one stream: from the tagger's embeddings to sounds that start and end.

One product tells all names. A sound begins when the mean value of two neighbouring windows reaches its threshold, and
goes on while single windows stay above a share of it; of several that are reached at once the plainest begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Detection, State, Tags
from assistant.taught_sounds import SIZE, TaughtSound, features, score_of

MODEL = "taught"
FIRST_KEY = 1 << 40  # detections of other trackers stay below
KEEP = 0.4  # times the threshold: evidence that a running sound goes on
HOLD = round(1.5 * SAMPLE_RATE)  # samples without evidence after which it ended
COOL_DOWN = 2 * SAMPLE_RATE  # samples after its end until it may be raised again
ONSET_IN_WINDOW = round(0.6 * SAMPLE_RATE)  # samples before the end of the first window that shows a sound


class Heads:
    """Several taught sounds as one matrix."""

    def __init__(self, sounds: Sequence[TaughtSound]) -> None:
        self.sounds = tuple(sounds)
        self._weights = np.array([sound.weights for sound in sounds], np.float32).reshape(len(sounds), SIZE)
        self._biases = np.array([sound.bias for sound in sounds], np.float32)

    def values(self, embedding: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Shape (sounds,): 1 is what the examples were taught to give, -1 everything else."""
        values: NDArray[np.float32] = self._weights @ features(embedding) + self._biases
        return values


@dataclass(slots=True, eq=False)
class _Running:
    key: int
    sound: TaughtSound
    start: int  # samples
    last: int  # samples: end of the last window that held it
    best: float  # value


class TaughtTracker:
    """The taught sounds of one stream. Pure: positions come with the windows and with `advance`."""

    def __init__(self, sounds: Sequence[TaughtSound] = ()) -> None:
        self.factor = 1.0  # times each threshold: the room's sensitivity
        self.expecting = False  # the last window alone would do: the next one decides
        self._heads = Heads(sounds)
        self._activity: int | None = None
        self._before: NDArray[np.float32] | None = None  # values of the window before, in this activity
        self._first_end = 0  # samples: where the window before ended
        self._running: dict[str, _Running] = {}
        self._ready_at: dict[str, int] = {}
        self._keys = FIRST_KEY

    @property
    def running(self) -> bool:
        """Whether one of them sounds."""
        return bool(self._running)

    def learn(self, sounds: Sequence[TaughtSound]) -> None:
        """From now on these sounds are known; one that runs goes on to its end."""
        self._heads, self._before = Heads(sounds), None

    def feed(self, tags: Tags, embedding: NDArray[np.uint8]) -> list[Detection]:
        """What a window starts, at most one sound. Windows come in the order of their ends."""
        window, sounds = tags.window, self._heads.sounds
        self.expecting = False
        if window.onset >= window.end or not sounds:  # nothing was active, or nobody taught anything
            return []
        if window.onset != self._activity:
            self._activity, self._before = window.onset, None
        values = self._heads.values(embedding)
        before, self._before = self._before, values
        first_end, self._first_end = self._first_end, window.end
        thresholds = np.array([self._threshold(sound) for sound in sounds])
        for sound, value, threshold in zip(sounds, values, thresholds, strict=True):
            running = self._running.get(sound.name)
            if running is not None and value >= KEEP * threshold:
                running.last, running.best = window.end, max(running.best, float(value))
        self.expecting = bool((values >= thresholds).any())
        if before is None:
            return []
        means = (values + before) / 2.0
        plain = means - thresholds
        plainest_running = max((plain[i] for i, s in enumerate(sounds) if s.name in self._running), default=-np.inf)
        for i in np.argsort(-plain):
            sound = sounds[i]
            if plain[i] < 0.0 or plain[i] <= plainest_running:
                return []
            if sound.name not in self._running and self._ready_at.get(sound.name, 0) <= window.end:
                self.expecting = False
                shown = first_end if before[i] >= KEEP * thresholds[i] else window.end
                return [self._start(sound, float(means[i]), shown, tags)]
        return []

    def advance(self, position: int) -> list[Detection]:
        """What has ended because nothing was heard of it for its hold, up to `position` (samples)."""
        return [self._end(one, position) for one in list(self._running.values()) if position - one.last >= HOLD]

    def end(self, position: int) -> list[Detection]:
        """The source has ended at `position` (samples), and so have its sounds."""
        return [self._end(one, position) for one in list(self._running.values())]

    def _threshold(self, sound: TaughtSound) -> float:
        return min(sound.threshold * self.factor, 0.95)

    def _start(self, sound: TaughtSound, value: float, shown: int, tags: Tags) -> Detection:
        self._keys += 1
        start = max(tags.window.onset, shown - ONSET_IN_WINDOW)
        self._running[sound.name] = running = _Running(self._keys, sound, start, tags.window.end, value)
        return self._detection(running, State.STARTED, tags.window.end, tags.window.level_dbfs)

    def _end(self, running: _Running, position: int) -> Detection:
        del self._running[running.sound.name]
        self._ready_at[running.sound.name] = running.last + COOL_DOWN
        return self._detection(running, State.ENDED, position, None)

    def _detection(self, running: _Running, state: State, heard_at: int, level_dbfs: float | None) -> Detection:
        return Detection(
            key=running.key,
            state=state,
            event_type=running.sound.name,
            label=running.sound.title,
            score=round(score_of(running.best), 3),
            start=running.start,
            end=running.last if state is State.ENDED else None,
            heard_at=heard_at,
            level_dbfs=level_dbfs,
            model=MODEL,
            also=running.sound.labels,
        )
