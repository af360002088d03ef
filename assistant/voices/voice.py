"""The contract of all voices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from assistant.events import Samples


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """Synthesised speech."""

    samples: Samples  # mono, shape (n,), nominally -1 to 1, read-only
    rate: int  # Hz

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


class Voice(Protocol):
    """An engine that speaks. Constructors start nothing."""

    name: str

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` as speech in `language` (ISO 639-1; None: that of the voice).

        Raises `VoiceError` that names the engine and the remedy, also when it takes too long; a cancel ends its
        process.
        """
