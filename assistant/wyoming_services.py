"""What the Wyoming server asks of the daemon, and what its connections share."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from assistant.events import Intent, Samples, Transcript
    from assistant.voices.voice import Spoken

log = logging.getLogger(__name__)

COMPLAIN_EVERY = 60.0  # seconds between two log lines about the same kind of trouble


@dataclass(frozen=True, slots=True)
class Conversation:
    """What came of a sentence."""

    handled: bool
    text: str = ""  # what to answer, in the language of the sentence
    intent: Intent | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """A voice that is offered. Home Assistant names a voice, never a language: offer one for each language."""

    name: str
    languages: tuple[str, ...]
    description: str = ""


class Services(Protocol):
    """What the server passes on to. An `AssistantError` is told to the peer; any other exception is a bug."""

    async def transcribe(self, samples: Samples, language: str | None) -> Transcript:
        """What is said in `samples` (mono 16 kHz, at most two minutes); waits for a model that still loads."""

    async def converse(self, text: str, language: str | None, *, device: str | None, area: str | None) -> Conversation:
        """Do what a sentence says. `device`, `area`: where it was said, as Home Assistant names them, if it tells."""

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` as speech; `language` None: find out."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may take. Times in seconds."""

    connections: int = 32
    idle: float = 60.0  # nothing sent, nothing to wait for
    body: float = 15.0  # for the rest of an event whose first line is there
    write: float = 15.0  # for a peer to take what it asked for
    answer: float = 60.0  # for a model, its loading included
    turn: float = 120.0  # seconds of audio of one utterance
    held: float = 1200.0  # seconds of audio of all utterances at once: 38 MB
    line: int = 65_536  # bytes of the first line of an event
    data: int = 262_144  # bytes of its data
    payload: int = 4_194_304  # bytes of its audio


class Complaints:
    """Counts troubles and logs the first of each kind, then one a minute with how many there were meanwhile."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}  # kind → when it was logged (monotonic), count then

    def add(self, kind: str, message: str) -> None:
        """One more of `kind`."""
        self.counts[kind] += 1
        now = asyncio.get_running_loop().time()
        when, count = self._told.get(kind, (-COMPLAIN_EVERY, 0))
        if now - when >= COMPLAIN_EVERY:
            more = self.counts[kind] - count - 1
            self._told[kind] = (now, self.counts[kind])
            log.warning("wyoming: %s%s", message, f" (and {more} more like it)" if more else "")


@dataclass(slots=True)
class Desk:
    """What all connections share."""

    services: Services
    info: dict[str, Any]
    languages: tuple[str, ...]
    speakers: tuple[Speaker, ...]
    conversing: bool
    limits: Limits
    complaints: Complaints
    held: int = 0  # samples of all utterances that are being sent or recognised
