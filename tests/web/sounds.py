"""Recordings of a room in which one sound is heard again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile

from assistant.events import SAMPLE_RATE, Samples
from assistant.synthesis import door_chime, noise, placed, scaled, siren, t3

EVERY = 8.0  # seconds: each begins so long after the one before


def repeated(path: Path, sound: Samples, *, every: float = EVERY, count: int = 12, first: float = 2.0) -> Path:
    """A quiet room in which `sound` is heard again and again, at -27 dBFS."""
    room = noise(first + every * count + 5.0, -62.0)
    for i in range(count):
        room = placed(room, scaled(sound, -27.0), first + every * i)
    soundfile.write(path, room, SAMPLE_RATE, subtype="PCM_16")
    return path


def doorbells(path: Path, **how: Any) -> Path:
    """YAMNet scores these 0.3 to 0.8 and needs 0.12."""
    return repeated(path, door_chime(), **how)


def sirens(path: Path, **how: Any) -> Path:
    """YAMNet scores these 0.8 to 0.9 and needs 0.3."""
    return repeated(path, siren(3.0), **how)


def alarm(path: Path, *, cycles: int = 30) -> Path:
    """A smoke alarm that goes on and on."""
    room = placed(noise(4.0 * cycles + 6.0, -60.0), 0.2 * t3(cycles=cycles), 2.0)
    soundfile.write(path, room, SAMPLE_RATE, subtype="PCM_16")
    return path
