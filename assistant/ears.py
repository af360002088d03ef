"""What is known of a room while the daemon runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assistant.commanding import RoomCommands, Turns
from assistant.events import Event, Presence, Problem, RoomChanged
from assistant.pipeline import MODEL_TIMEOUT, UTTERANCES
from assistant.startup import Room

if TYPE_CHECKING:
    from assistant.audio.source import Source
    from assistant.errors import AssistantError
    from assistant.pipeline import Pipeline

log = logging.getLogger(__name__)

SWITCHED_OFF = "listening is switched off"
LOSS_TOLD = 1.0  # seconds of audio or speech lost since they were last told
CHUNK_HANGS = 30.0  # seconds: sources give up after less without audio, the tagger needs milliseconds
RETRY_HANGS = 90.0 + UTTERANCES * MODEL_TIMEOUT  # seconds: the longest back-off, after the last words were recognised

PROBLEMS = {
    Problem.SILENT: "nothing but digital silence: the microphone is muted, unplugged or broken; remedy: unmute it, or "
    "choose another one of kikimimi devices",
    Problem.STUCK: "one value, or the same stretch, over and over: the microphone or its driver hangs; remedy: unplug "
    "it and plug it in again, or restart the sound server",
    Problem.CLIPPED: "at full scale all the time: the microphone is far too loud; remedy: turn its gain down "
    "(alsamixer, F4, or pavucontrol)",
}


@dataclass(slots=True, eq=False)
class Ear:
    """A room, the source that is heard there now, and what earlier openings of it lost."""

    room: Room
    source: Source | None = None
    pipeline: Pipeline | None = None
    commands: RoomCommands | None = None
    online: bool = False
    live: bool = True  # it does not end by itself: opened again when it breaks
    sounds_before: float = 0.0  # seconds of audio that earlier openings of the source lost
    speech_before: float = 0.0  # seconds of speech that earlier openings shed
    reported: float = 0.0  # seconds lost when that was last told
    utterances_before: int = 0  # utterances shed by earlier openings
    errors_before: int = 0  # errors of the models in earlier openings
    woken_before: int = 0  # wake words of earlier openings
    failures: int = 0  # times that its source broke or could not be opened
    heard: bool = False  # it was online at least once
    problem: Problem = Problem.NONE  # of what its source gives, as last told
    last: Event | None = None  # that was told of it
    failure: AssistantError | None = None  # why it is not heard
    told: str | None = None  # the reason that was told last
    tried: float = field(default_factory=time.monotonic)  # when its source was opened last, or has ended
    turned: asyncio.Event = field(default_factory=asyncio.Event)  # its listening switch was turned

    def sounds_shed(self) -> float:
        """Seconds of audio that nobody heard: lost by the source, or shed because the tagger had no time."""
        return self.sounds_before + (self.source.stats.lost_seconds if self.source is not None else 0.0)

    def speech_shed(self) -> float:
        """Seconds of speech that the recogniser had no time for."""
        return self.speech_before + (self.pipeline.speech_shed if self.pipeline is not None else 0.0)

    def lost(self) -> float:
        """Seconds of audio and speech lost so far."""
        return self.sounds_shed() + self.speech_shed()

    def utterances_shed(self) -> int:
        """Utterances that the recogniser had no time for."""
        return self.utterances_before + (self.pipeline.utterances.drops if self.pipeline is not None else 0)

    def model_errors(self) -> int:
        """Windows and utterances lost to an exception of a model."""
        return self.errors_before + (self.pipeline.model_errors if self.pipeline is not None else 0)

    def woken(self) -> int:
        """Wake words heard."""
        return self.woken_before + (self.commands.woken if self.commands is not None else 0)

    @property
    def presence(self) -> RoomChanged | None:
        """As it was told last; None: nothing was told yet."""
        if self.online:
            return RoomChanged(self.room.id, Presence.ONLINE)
        if self.told is None:
            return None
        return RoomChanged(
            self.room.id, Presence.DISABLED if self.told == SWITCHED_OFF else Presence.OFFLINE, self.told
        )

    def hanging(self, now: float) -> str | None:
        """What makes no progress there at `now` (monotonic); None: all is well, or the reason lies outside.

        A source that fails is tried again, and one that falls silent fails: as long as that turns nothing hangs.
        """
        pipeline, source = self.pipeline, self.source
        if not self.live or self.told == SWITCHED_OFF:
            return None
        if not self.online or pipeline is None:
            tried = now - self.tried
            return f"{self.room.id}: its source was not tried again for {tried:.0f} s" if tried > RETRY_HANGS else None
        if pipeline.hearing_since is not None:
            stuck = now - pipeline.hearing_since
            return f"{self.room.id}: a chunk is not through for {stuck:.0f} s" if stuck > CHUNK_HANGS else None
        if source is not None and isinstance(source, Turns):
            return None  # a satellite streams when it likes; that it lives, its pings tell
        waited = now - pipeline.heard_at
        return f"{self.room.id}: no chunk came for {waited:.0f} s" if waited > CHUNK_HANGS else None

    def count_for(self, other: Ear) -> None:
        """`other` is not heard any more: what it counted stays counted here."""
        self.sounds_before += other.sounds_shed()
        self.speech_before += other.speech_shed()
        self.utterances_before += other.utterances_shed()
        self.errors_before += other.model_errors()
        self.woken_before += other.woken()
        self.failures += other.failures

    def opened(self, source: Source) -> None:
        """A new source: what the one before it lost stays counted."""
        self.sounds_before, self.speech_before = self.sounds_shed(), self.speech_shed()
        self.utterances_before, self.errors_before = self.utterances_shed(), self.model_errors()
        self.woken_before = self.woken()
        self.source, self.pipeline, self.commands = source, None, None


def figures_of(ears: Iterable[Ear], former: Ear) -> dict[str, Any]:
    """What all rooms counted; `former` counts for those that were removed."""
    now = list(ears)
    ever = [*now, former]
    figures: dict[str, Any] = {
        "model_errors": sum(ear.model_errors() for ear in ever),
        "source_errors": sum(ear.failures for ear in ever),
        "dropped_s_total": round(sum(ear.lost() for ear in ever), 1),
        "shed_sounds_s": round(sum(ear.sounds_shed() for ear in ever), 1),
        "shed_speech_s": round(sum(ear.speech_shed() for ear in ever), 1),
        "utterances_dropped": sum(ear.utterances_shed() for ear in ever),
        "utterances_waiting": sum(len(ear.pipeline.utterances) for ear in now if ear.pipeline),
        "rooms_online": sum(ear.online for ear in now),
    }
    figures |= {f"rooms_{problem}": sum(ear.problem is problem for ear in now) for problem in PROBLEMS}
    return figures | {"rooms": len(now), "wake_words": sum(ear.woken() for ear in ever)}


def tell_losses(ears: Iterable[Ear]) -> None:
    """Log which rooms lost audio since that was last told."""
    for ear in ears:
        if ear.lost() - ear.reported >= LOSS_TOLD:
            log.warning(
                "%s: %.1f s of audio were not heard and %.1f s of speech not recognised so far; remedy: fewer "
                "rooms, a faster machine, or a smaller model",
                ear.room.id,
                ear.sounds_shed(),
                ear.speech_shed(),
            )
            ear.reported = ear.lost()
