"""What went to one place: counted where it is sent, for whoever wants to know what leaves the machine."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

KEPT = 200  # the latest answers


@dataclass(slots=True)
class Traffic:
    """Messages and bytes since the start, and how long answers took."""

    messages: int = 0
    bytes: int = 0  # of topics, addresses and bodies; what the protocol adds is not known here
    last: float | None = None  # Unix seconds of the latest
    answers: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))  # seconds until each was acknowledged

    def sent(self, size: int) -> None:
        """A message of `size` bytes goes out."""
        self.messages += 1
        self.bytes += size
        self.last = time.time()
