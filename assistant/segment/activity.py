"""Whether anything can be heard: an adaptive noise floor and a gate over it, in frames of 20 ms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assistant.events import Samples

FRAME = 320  # samples: 20 ms, which webrtcvad accepts
SILENCE_DBFS = -100.0  # what digital silence is called


@dataclass(frozen=True, slots=True)
class Frame:
    """What the gate thinks of 20 ms of a stream."""

    start: int  # samples
    dbfs: float  # RMS
    floor_dbfs: float  # noise floor after this frame
    active: bool  # the gate is open, hangover included


def dbfs(samples: Samples) -> float:
    """RMS level in dB relative to full scale, at least `SILENCE_DBFS`."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return max(SILENCE_DBFS, 10.0 * float(np.log10(power + 1e-10)))
