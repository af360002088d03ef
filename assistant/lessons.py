"""From recordings to examples: the very windows that the tagger would see, of each recording and its made-up copies.

A doorbell is heard from the hall, through a door, over a fan: a copy has its own echo, distance, level and noise. What
taught sounds are told from are computed sounds, heard the same way, in `config/common_sounds.npz`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from assistant import synthesis
from assistant.audio.wavfile import File
from assistant.config import Config, shipped
from assistant.errors import AssistantError, ConfigurationError
from assistant.events import SAMPLE_RATE, Chunk, Samples, Window, frozen
from assistant.segment.activity import Activity, ActivitySettings
from assistant.segment.windows import Windows, WindowSettings
from assistant.taught_folder import arrays_of
from assistant.taught_sounds import Example
from assistant.teaching import Sounds
from assistant.tracking import SoundTable

CHUNK = 800  # samples
Tagged = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""Embeddings and scores of neighbouring windows."""

DECODED = 300 * SAMPLE_RATE  # samples of a file that are looked at
DECODE_WITHIN = 20.0  # seconds
LONGEST = 8 * SAMPLE_RATE  # samples of an example: of more, the loudest stretch
COPIES = 2  # in made-up rooms
ECHO, DIRECT = (0.15, 0.6), (0.3, 0.9)  # seconds of reverberation; the direct sound's share
CUT_OFF = (2_500.0, 8_000.0)  # Hz: what distance, doors and walls leave
LEVEL, ABOVE_NOISE = (-45.0, -18.0), (8.0, 30.0)  # dBFS; dB
SOFTEST = 15.0  # dB below the loudest window of an example: softer ones are the room
LEAD, TAIL = (0.8, 1.6), 0.8  # seconds of the room alone
SOFTLY = 0.3  # times the threshold of a label at which it is part of what the tagger calls a sound
UNGROUPED = 0.3  # threshold of a label that the sound table gives none


@dataclass(frozen=True, slots=True)
class Hearing:
    """How recordings are cut."""

    activity: ActivitySettings = field(default_factory=ActivitySettings)
    windows: WindowSettings = field(default_factory=WindowSettings)


HEARD = Hearing()


def activities_of(samples: Samples, hearing: Hearing) -> list[list[Window]]:
    """The windows of a recording that is a stream of its own, activity by activity."""
    activity, windows = Activity(hearing.activity), Windows(hearing.windows)
    cut: list[Window] = []
    for at in range(0, len(samples), CHUNK):
        chunk = Chunk("", "", at, frozen(np.array(samples[at : at + CHUNK], np.float32)), 0.0)
        cut += windows.feed(chunk, activity.feed(chunk))
    cut += windows.end()
    found: dict[int, list[Window]] = {}
    for window in cut:
        if window.onset < window.end:
            found.setdefault(window.onset, []).append(window)
    return list(found.values())


def in_a_room(sound: Samples, rng: np.random.Generator) -> Samples:
    """The sound somewhere else: with an echo, from afar, softer, over noise."""
    wet = synthesis.echoed(sound, rng.uniform(*ECHO), direct=rng.uniform(*DIRECT), seed=int(rng.integers(1 << 30)))
    frequencies = np.fft.rfftfreq(len(wet), 1 / SAMPLE_RATE)
    muffled = np.fft.irfft(np.fft.rfft(wet) / np.sqrt(1 + (frequencies / rng.uniform(*CUT_OFF)) ** 2), len(wet))
    level = rng.uniform(*LEVEL)
    lead = rng.uniform(*LEAD)
    length = lead + len(wet) / SAMPLE_RATE + TAIL
    noise = synthesis.noise(length, level - rng.uniform(*ABOVE_NOISE), seed=int(rng.integers(1 << 30)))
    placed = synthesis.placed(noise, synthesis.scaled(muffled.astype(np.float32), level), lead)
    return np.asarray(np.clip(placed, -1.0, 1.0), np.float32)


def loudest(samples: Samples) -> Samples:
    """All of it, or of what is too long the loudest stretch."""
    if len(samples) <= LONGEST:
        return samples
    power = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    start = int((power[LONGEST:] - power[:-LONGEST]).argmax())
    return samples[start : start + LONGEST]


def takes_of(samples: Samples, title: str, hearing: Hearing) -> list[list[Window]]:
    """What is to be heard of an example and of its copies. Raises `ConfigurationError` for one without a sound."""
    samples = loudest(np.nan_to_num(samples, posinf=0.0, neginf=0.0))
    own = _loud(activities_of(samples, hearing))
    if not own:
        raise ConfigurationError(f"{title}: no sound is heard in it; remedy: record it louder, or nearer")
    rng = np.random.default_rng(len(samples))  # the same recording gives the same example
    copies = [take for _ in range(COPIES) for take in _loud(activities_of(in_a_room(samples, rng), hearing))]
    return [*own, *copies]


def _loud(activities: list[list[Window]]) -> list[list[Window]]:
    """Without what is only the room: the gate is open at first, until it knows the noise."""
    loudest = max((window.level_dbfs for activity in activities for window in activity), default=0.0)
    kept = [[window for window in activity if window.level_dbfs >= loudest - SOFTEST] for activity in activities]
    return [activity for activity in kept if activity]


class Tagger(Protocol):
    """A tagger that tells what its scores are made of."""

    labels: tuple[str, ...]

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        """Scores of shape (labels,), 0 to 1."""

    def embedding(self) -> NDArray[np.uint8]:
        """What it made of the window that `tag` was called with last."""


class Lesson:
    """Makes examples. `tagger` is called in the thread of whoever calls."""

    def __init__(self, tagger: Tagger, table: SoundTable, hearing: Hearing = HEARD) -> None:
        self.hearing = hearing
        self._tagger = tagger
        bars = _bars(table)
        self._bars = np.array([bars.get(label, SOFTLY * UNGROUPED) for label in tagger.labels])

    def tagged(self, windows: Sequence[Window]) -> Tagged:
        """Embeddings and scores of windows: 2 ms each."""
        embeddings, scores = [], []
        for window in windows:
            scores.append(self._tagger.tag(window.samples))
            embeddings.append(self._tagger.embedding())
        return np.array(embeddings, np.uint8), np.array(scores, np.float32)

    def example(self, title: str, tagged: Sequence[Tagged]) -> Example:
        """The example of what was tagged of its takes."""
        scores = np.concatenate([scores for _, scores in tagged])
        called = frozenset(
            label
            for label, score, bar in zip(self._tagger.labels, scores.max(axis=0), self._bars, strict=True)
            if score >= bar
        )
        return Example(title, tuple(embeddings for embeddings, _ in tagged), called)

    def heard(self, samples: Samples, title: str) -> Example:
        """The example of a recording, all of it at once."""
        return self.example(title, [self.tagged(take) for take in takes_of(samples, title, self.hearing)])


def _bars(table: SoundTable) -> Mapping[str, float]:
    """Score of a label from which it is part of what the tagger calls a sound; speech and places never are."""
    kinds = (*table.families.values(), *table.groups.values())
    softly = {label: SOFTLY * (kind.threshold or UNGROUPED) for kind in kinds for label in kind.labels}
    return softly | dict.fromkeys((*table.speech, *table.scenes), float("inf"))


def common_sounds(path: Path | None = None) -> Sounds:
    """What every house may sound like. Raises `ConfigurationError` for a file that is not the shipped one."""
    path = path or shipped("common_sounds.npz")
    try:
        arrays = arrays_of(path.read_bytes(), ("words", "windows"))
        words = [(str(word), int(count)) for word, count in json.loads(arrays["words"].tobytes())]
        pieces = np.split(arrays["windows"], np.cumsum([count for _, count in words])[:-1])
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error}); remedy: install kikimimi again") from error
    return Sounds([(word, piece) for (word, _), piece in zip(words, pieces, strict=True)])


def hearing_of(config: Config) -> Hearing:
    """How the rooms of this configuration are cut."""
    return Hearing(config.sounds.activity, config.sounds.windows)


async def recording(path: Path, title: str | None = None) -> Samples:
    """A file as mono 16 kHz, its first minutes. Raises `AssistantError`, with `title` in place of the path."""
    pieces: list[Samples] = []
    count = 0
    try:
        async with asyncio.timeout(DECODE_WITHIN), contextlib.aclosing(File("", path).chunks()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                pieces.append(chunk.samples)
                count += len(chunk.samples)
                if count >= DECODED:
                    break
    except TimeoutError:
        raise AssistantError(
            f"{title or path}: not decoded within {DECODE_WITHIN:.0f} s; remedy: a shorter file"
        ) from None
    except AssistantError as error:
        raise type(error)(str(error).replace(str(path), title) if title else str(error)) from error
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[Path]:
    """A file that decoders can open and that no disk ever sees."""
    descriptor = os.memfd_create("recording", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
