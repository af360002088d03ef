"""Wake words: microWakeWord's models (Apache-2.0, carried by `pymicro-wakeword`) on the stream of one room.

The models of a stream share one front end (40 features each 10 ms). They run only while the gate of the room is open,
from `PRE_ROLL` before it opened: a quiet room costs nothing, and a wake word that opens the gate is heard whole.

A detector tells "now", which is later than the end of the word by a time that differs from model to model and from
speaker to speaker. A position that is too late cuts the first word of the command off, one that is too early leaves
the wake word in it, which the grammar passes over: `LAG` is what is taken off, measured by `benchmarks/wake.py`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Chunk, Samples

log = logging.getLogger(__name__)

STEP = 160  # samples: one row of features, 10 ms
PRE_ROLL = SAMPLE_RATE  # samples before the gate opened that are heard too: the models' view is about that long
REFRACTORY = SAMPLE_RATE  # samples in which one wake word is told once
LAG = {"okay_nabu": 0.05, "hey_jarvis": 0.1, "hey_mycroft": 0.05, "alexa": 0.15}  # seconds


@dataclass(frozen=True, slots=True)
class Woken:
    """A wake word was said."""

    word: str
    position: int  # samples of the stream: where it ended
    score: float  # mean probability, 0 to 1


class WakeWords:
    """The wake words of one stream. Not thread-safe; about 0.1 ms for each word and 10 ms of sound."""

    def __init__(self, words: Iterable[str]) -> None:
        """Raises `ModelError` if this machine cannot run the models."""
        try:
            # Native code of about 5 MB: only where a room listens for wake words.
            from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model  # noqa: PLC0415

            self._features = MicroWakeWordFeatures()
            self._models = {word: MicroWakeWord.from_builtin(Model(word)) for word in dict.fromkeys(words)}
        except (ImportError, OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"wake words: pymicro-wakeword does not run here ({error}); remedy: pip install --force-reinstall "
                "pymicro-wakeword, or set `wake: none` in rooms where every utterance is a command"
            ) from error
        self._told: dict[str, int] = {}
        self._kept: deque[Chunk] = deque()  # what came before the gate opened
        self._running = False
        self._next: int | None = None  # position of the next sample if no audio is lost
        self._rest = b""  # less than one step

    def feed(self, chunk: Chunk, *, active: bool) -> list[Woken]:
        """The wake words that end in `chunk`. `active`: the gate of the room is open."""
        if chunk.start != self._next:
            self._restart()
            self._kept.clear()
        self._next = chunk.end
        if not active:
            if self._running:
                self._restart()
            self._kept.append(chunk)
            while self._kept and self._kept[0].end <= chunk.end - PRE_ROLL:
                self._kept.popleft()
            return []
        self._running = True
        pieces = [*self._kept, chunk]
        self._kept.clear()
        return [woken for piece in pieces for woken in self._listen(piece)]

    def close(self) -> None:
        """Free the models; the stream is over."""
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _listen(self, chunk: Chunk) -> list[Woken]:
        sound = self._rest + pcm16(chunk.samples)
        whole = len(sound) // (2 * STEP) * 2 * STEP
        begin = chunk.end - len(sound) // 2
        self._rest = sound[whole:]
        heard: list[Woken] = []
        for at in range(0, whole, 2 * STEP):
            now = begin + at // 2 + STEP
            for features in self._features.process_streaming(sound[at : at + 2 * STEP]):
                heard += [woken for word in self._models if (woken := self._detect(word, features, now)) is not None]
        return heard

    def _detect(self, word: str, features: NDArray[np.float32], now: int) -> Woken | None:
        model = self._models[word]
        score = model.process_streaming_prob(features)
        if score is None or score <= model.probability_cutoff:
            return None
        told = self._told.get(word)
        self._told[word] = now
        if told is not None and now - told < REFRACTORY:
            return None  # still the same
        return Woken(word, max(0, now - round(LAG[word] * SAMPLE_RATE)), float(score))

    def _restart(self) -> None:
        """Nothing that was heard so far belongs to what comes."""
        self._running = False
        self._rest = b""
        self._features.reset()
        for model in self._models.values():
            model.reset()


def pcm16(samples: Samples) -> bytes:
    """`samples` as little-endian 16 bit integers."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
