"""A chime of our own that no shipped sound is, rung in rooms of all kinds, and things that are not it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from assistant.events import SAMPLE_RATE, Samples
from assistant.lessons import in_a_room
from assistant.synthesis import door_chime, noise, placed, scaled, silence, struck, telephone, tone

MELODY = ((523.0, 0.0), (784.0, 0.22), (659.0, 0.44), (1047.0, 0.66))


def chime() -> Samples:
    """Four struck notes, up, down and up."""
    bed = silence(2.2)
    for frequency, at in MELODY:
        bed = placed(bed, struck(frequency, 1.4, 0.25), at)
    return bed


def rings(seed: int) -> Samples:
    """The chime, somewhere."""
    return in_a_room(scaled(chime(), -20.0), np.random.default_rng(seed))


def files(folder: Path, seeds: Sequence[int] = (1, 2, 3, 4)) -> list[Path]:
    """Recordings of it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for seed in seeds:
        made.append(folder / f"ring{seed}.wav")
        soundfile.write(made[-1], rings(seed), SAMPLE_RATE, subtype="PCM_16")
    return made


def house(*, ring_at: float = 8.0, length: float = 22.0, seed: int = 9) -> Samples:
    """A quiet room with the chime in it, then a telephone and a beep that are not it."""
    bed = noise(length, -60.0, seed=seed)
    bed = placed(bed, scaled(rings(seed), -28.0), ring_at)
    bed = placed(bed, scaled(telephone(1), -28.0), ring_at + 6.0)
    return placed(bed, 0.2 * tone(2_000.0, 0.6), ring_at + 11.0)


def others() -> Samples:
    """Nothing of it: a door chime, a telephone, beeps."""
    bed = noise(20.0, -60.0, seed=2)
    bed = placed(bed, scaled(door_chime(), -26.0), 3.0)
    bed = placed(bed, scaled(telephone(1), -26.0), 10.0)
    return placed(bed, 0.2 * tone(1_000.0, 0.5), 16.0)


def types(lines: str) -> list[str]:
    """Event types that started, of JSON lines."""
    events = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return [event["event_type"] for event in events if event["state"] == "started"]
