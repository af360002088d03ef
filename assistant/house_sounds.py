"""What this house sounds like: a few windows of many sounds of the last days, from which taught sounds are told.

Kept are the tagger's embeddings and its best label, never audio and no words: 1,024 small numbers for a second, out of
which no voice and no sentence can be made again. When there are too many a random one goes, so that old ones fade.
"""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, Tags
from assistant.taught_folder import arrays_of, read_limited, write_whole
from assistant.taught_sounds import SIZE, Embeddings

log = logging.getLogger(__name__)

MOST = 1_000  # sounds: 3 MB
WINDOWS = 3  # of a sound, neighbours
AGAIN = 10 * SAMPLE_RATE  # samples after which an activity that goes on counts as another sound
DAY = 86_400.0  # seconds
FORGET = 14.0  # days after which the count of what was heard is halved


class HouseSounds:
    """The sounds of one home. `path` is their file; never raises for it."""

    def __init__(self, path: Path | None, *, most: int = MOST, seed: int | None = None) -> None:
        """Without `path` they are forgotten at the end. Nothing is read before `read`."""
        self.path = path
        self.days = 0.0  # heard so far, all rooms together counted once
        self.seen = 0  # sounds in that time, the kept ones among them
        self.changed = False
        self._most = most
        self._sounds: list[tuple[str, Embeddings]] = []
        self._random = random.Random(seed)  # noqa: S311 (a sample, not a secret)
        self._warned = False

    def __len__(self) -> int:
        return len(self._sounds)

    def add(self, label: str, windows: Embeddings) -> None:
        """A sound was heard."""
        self.seen += 1
        self.changed = True
        if len(self._sounds) < self._most:
            self._sounds.append((label, windows))
        else:
            self._sounds[self._random.randrange(self._most)] = (label, windows)

    def passed(self, seconds: float) -> None:
        """So long a time was listened."""
        self.days += seconds / DAY
        if self.days > FORGET:
            self.days, self.seen = self.days / 2, self.seen // 2

    def sounds(self) -> tuple[tuple[tuple[str, Embeddings], ...], float]:
        """The kept ones, and how many days they stand for."""
        share = 1.0 if not self.seen else min(1.0, len(self._sounds) / self.seen)
        return tuple(self._sounds), self.days * share

    def snapshot(self) -> Callable[[], bytes]:
        """All of it as a file: packed, in any thread, by what is returned."""
        self.changed = False
        return partial(_packed, tuple(self._sounds), self.days, self.seen)

    def read(self) -> None:
        """Go on from the file. One that cannot be used is told, and everything begins anew."""
        if self.path is None:
            return
        try:
            self._unpack(read_limited(self.path))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning(
                "%s cannot be used (%s): what this house sounds like is learnt anew; remedy: none is needed",
                self.path,
                error,
            )

    def _unpack(self, content: bytes) -> None:
        arrays = arrays_of(content, ("head", "windows"))
        head = json.loads(arrays["head"].tobytes())
        kept = [(str(label), int(count)) for label, count in head["sounds"]]
        windows = arrays["windows"]
        counts = [count for _, count in kept]
        whole = windows.dtype == np.uint8 and windows.shape == (sum(counts), SIZE)
        if not whole or not all(1 <= count <= WINDOWS for count in counts) or len(kept) > self._most:
            raise ValueError("it is not whole")
        days, seen = float(head["days"]), int(head["seen"])
        if not 0.0 <= days <= 10 * FORGET or not len(kept) <= seen:
            raise ValueError("its counts cannot be")
        pieces = np.split(windows, np.cumsum(counts)[:-1]) if kept else []
        self._sounds = [(label, piece) for (label, _), piece in zip(kept, pieces, strict=True)]
        self.days, self.seen = days, seen

    def write(self, content: bytes) -> None:
        """Keep what `snapshot` gave. What cannot be written is told once."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, content)
            self._warned = False
        except OSError as error:
            if not self._warned:
                log.warning("%s cannot be written (%s): it is forgotten at the end", self.path, error.strerror)
            self._warned = True


def _packed(sounds: Sequence[tuple[str, Embeddings]], days: float, seen: int) -> bytes:
    kept = [[label, len(windows)] for label, windows in sounds]
    head = {"version": 1, "days": round(days, 5), "seen": seen, "sounds": kept}
    file = io.BytesIO()
    text = np.frombuffer(json.dumps(head).encode(), np.uint8)
    windows = [windows for _, windows in sounds] or [np.zeros((0, SIZE), np.uint8)]
    np.savez_compressed(file, head=text, windows=np.concatenate(windows))
    return file.getvalue()


class Collector:
    """Picks from one stream what is kept of its house."""

    def __init__(self, house: HouseSounds, labels: tuple[str, ...]) -> None:
        """`labels` are the tagger's."""
        self._house, self._labels = house, labels
        self._activity: int | None = None
        self._since = 0  # samples: end of the first window of this sound
        self._windows: list[NDArray[np.uint8]] = []
        self._scores: NDArray[np.float32] | None = None

    def feed(self, tags: Tags, embedding: NDArray[np.uint8]) -> None:
        """One more window."""
        window = tags.window
        if window.onset >= window.end:
            return
        if window.onset != self._activity or window.end - self._since >= AGAIN:
            self.end()
            self._activity, self._since = window.onset, window.end
        if len(self._windows) < WINDOWS:
            self._windows.append(embedding)
            self._scores = tags.scores if self._scores is None else np.maximum(self._scores, tags.scores)

    def end(self) -> None:
        """The sound is over."""
        if self._windows and self._scores is not None:
            self._house.add(self._labels[int(self._scores.argmax())], np.array(self._windows, np.uint8))
        self._windows, self._scores = [], None
