"""The last seconds of a stream, for who wants to hear a sound again: a model that is asked about it."""

from __future__ import annotations

from collections import deque

import numpy as np

from assistant.events import SAMPLE_RATE, Chunk, Samples, frozen

KEEP = 30 * SAMPLE_RATE  # samples: 2 MB a stream


class Recent:
    """Holds on to the chunks of the last 30 s; nothing is copied before it is asked for."""

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self._chunks: deque[Chunk] = deque()

    def feed(self, chunk: Chunk) -> None:
        """Remember `chunk`, forget what is too old."""
        self._chunks.append(chunk)
        while self._chunks[0].end <= chunk.end - self._keep:
            self._chunks.popleft()

    def cut(self, start: int, end: int) -> Samples:
        """What is still there of `start` to `end` (samples of the stream); what was lost on its way is left out."""
        pieces = [
            chunk.samples[max(0, start - chunk.start) : end - chunk.start]
            for chunk in self._chunks
            if chunk.start < end and chunk.end > start
        ]
        return frozen(np.concatenate(pieces)) if pieces else frozen(np.zeros(0, np.float32))
