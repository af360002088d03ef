"""What the daemon says of itself: processor time, memory, lag, drops; measured when asked, never guessed."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
LATENCIES = 200  # the latest events that the lag is taken over
BOUNDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds, of the histogram


def rss_mb() -> float:
    """Resident memory now, in MB; the peak where /proc does not exist."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return pages * PAGE / 1e6


def open_files() -> int | None:
    """File descriptors of this process; None where /proc does not exist."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a list of names is all that is needed
    except OSError:
        return None


class Histogram:
    """How many latencies were not above each of `BOUNDS`."""

    def __init__(self) -> None:
        self.counts = [0] * len(BOUNDS)
        self.count = 0
        self.total = 0.0  # seconds

    def add(self, latency: float) -> None:
        """Count one, in seconds."""
        self.count += 1
        self.total += latency
        for index, bound in enumerate(BOUNDS):
            self.counts[index] += latency <= bound


class Meter:
    """Counts over the life of the daemon, and rates since the last look."""

    def __init__(self) -> None:
        self.events = 0
        self._sounds: deque[float] = deque(maxlen=LATENCIES)
        self._speech: deque[float] = deque(maxlen=LATENCIES)
        self._histograms = {"sound": Histogram(), "speech": Histogram()}
        self._started = self._looked = time.monotonic()
        self._cpu = time.process_time()

    def event(self, latency: float, *, speech: bool = False) -> None:
        """An event was handed to the outputs `latency` seconds after the last sample it used.

        Speech is counted apart: its latency is mostly the recogniser's, which no alarm waits for.
        """
        self.events += 1
        (self._speech if speech else self._sounds).append(latency)
        self._histograms["speech" if speech else "sound"].add(latency)

    @property
    def latencies(self) -> Mapping[str, Sequence[float]]:
        """Seconds of the latest events, by kind."""
        return {"sound": self._sounds, "speech": self._speech}

    @property
    def histograms(self) -> Mapping[str, Histogram]:
        """Latencies of all events since the start, by kind."""
        return self._histograms

    def figures(self, *, look: bool = True) -> dict[str, float | int | None]:
        """Uptime, share of one core since the last `look`, memory, lag and counts."""
        now, cpu = time.monotonic(), time.process_time()
        elapsed = max(now - self._looked, 1e-3)
        share = (cpu - self._cpu) / elapsed
        if look:
            self._looked, self._cpu = now, cpu
        return {
            "uptime_s": round(now - self._started),
            "cpu_percent": round(100.0 * share, 2),
            "rss_mb": round(rss_mb(), 1),
            "threads": threading.active_count(),
            "open_files": open_files(),
            "lag_ms_p95": _p95_ms(self._sounds),
            "speech_lag_ms_p95": _p95_ms(self._speech),
            "events": self.events,
        }


class Stages:
    """How long each stage took, the latest times of each."""

    def __init__(self) -> None:
        self._taken: dict[str, deque[float]] = {}

    def took(self, stage: str, seconds: float) -> None:
        """A stage took so long."""
        taken = self._taken.get(stage)
        if taken is None:
            taken = self._taken[stage] = deque(maxlen=LATENCIES)
        taken.append(seconds)

    @property
    def taken(self) -> Mapping[str, Sequence[float]]:
        """Seconds by stage."""
        return self._taken


def percentile(latencies: Sequence[float], share: float) -> float | None:
    """The latency that `share` of them (0 to 1) does not exceed; None: there is none."""
    ordered = sorted(latencies)
    return ordered[int(share * (len(ordered) - 1))] if ordered else None


def _p95_ms(latencies: Sequence[float]) -> float | None:
    """95th percentile in milliseconds; None before the first event."""
    found = percentile(latencies, 0.95)
    return None if found is None else round(1000.0 * found, 1)
