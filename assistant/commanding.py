"""What makes commands of what is said in one room: wake words, whose turn it is, which room acts, what was meant."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from assistant.attention import Wake
from assistant.events import Chunk, Cut, Event, Intent, Utterance
from assistant.segment.activity import Frame, any_active

if TYPE_CHECKING:
    from assistant.arbitration import Arbiter, Claim
    from assistant.attention import Address, Attention
    from assistant.echo import Echo
    from assistant.intents import NotUnderstood
    from assistant.models.wakeword import WakeWords
    from assistant.voices.voice import Spoken

log = logging.getLogger(__name__)

# Of the silence that ends an utterance (docs/adr/0017):
SETTLED = 2 / 3  # is enough after a command that nothing can change which may follow
UNFINISHED = 1.5  # is waited for after what is no command yet


@runtime_checkable
class Turns(Protocol):
    """A source that wants to know whose turn it is: a satellite, which streams until it is told that it may stop."""

    on_wake: Callable[[int, str], None]  # called with the position of a wake word that it heard itself
    on_ready: Callable[[], None]  # called when it is there, which may be long before it has anything to stream

    async def play(self, speech: Spoken) -> None:
        """It is its room's loudspeaker too."""

    def position(self) -> int:
        """Samples of its stream so far, as if audio came now: it may have streamed nothing for long."""

    def detected(self, name: str, position: int) -> None:
        """A wake word was heard in what it streams."""

    def voice_started(self, position: int) -> None:
        """Somebody speaks."""

    def voice_stopped(self, position: int) -> None:
        """Nobody speaks any more."""

    def turn_ended(self, text: str) -> None:
        """What was said, or an empty text: listen for the next wake word."""


@dataclass(slots=True, eq=False)
class Addressed:
    """An utterance that is meant for the house, on its way to an intent."""

    address: Address
    claim: Claim
    meaning: Intent | NotUnderstood | None = None  # None: another room acts, or it was our own voice

    @property
    def start(self) -> int:
        """Samples of the stream: where the command begins, after the wake word."""
        return self.address.start


class RoomCommands:
    """The commands of one opening of one room's source. Positions are samples of its stream."""

    def __init__(
        self,
        room: str,
        attention: Attention,
        wakewords: WakeWords | None,
        arbiter: Arbiter,
        *,
        understand: Callable[[str, str | None, str], Awaitable[Intent | NotUnderstood]],
        settled: Callable[[str, str | None, str], Awaitable[bool]],
        handle: Callable[[Event, Intent | NotUnderstood, Address], None],
        hush: Callable[[], bool],
        turns: Turns | None = None,
    ) -> None:
        """`understand` and `settled` are given text, language and room: what it means, and whether that is certain.

        `handle` does what was meant; `hush` silences the room.
        """
        self.attention = attention
        self.woken = 0  # wake words heard
        self._room = room
        self._wakewords = wakewords
        self._arbiter = arbiter
        self._understand = understand
        self._settled = settled
        self._handle = handle
        self._hush = hush
        self._turns = turns
        self._echo: Echo | None = None
        self._echo_at = 0  # position that it is to hear next
        self._speaking = False
        self._position = 0

    def hear(self, chunk: Chunk, frames: Sequence[Frame], *, speaking: bool) -> None:
        """Take what everything else took too. `speaking`: an utterance is in progress."""
        self._position = chunk.end
        if self._wakewords is not None:
            for woken in self._wakewords.feed(chunk, active=any_active(frames)):
                self.wake(woken.position, woken.word)
                if self._turns is not None:
                    self._turns.detected(woken.word, woken.position)
        if self._spoken_over(chunk):
            log.info("%s: somebody speaks over the reply, which stops", self._room)
            self._echo = None
            self._hush()
        if speaking is not self._speaking:
            self._speaking = speaking
            if self._turns is not None:
                (self._turns.voice_started if speaking else self._turns.voice_stopped)(chunk.end)

    def _spoken_over(self, chunk: Chunk) -> bool:
        """Whether somebody speaks over the reply. What a satellite kept from before it is left out."""
        if self._echo is None or chunk.end <= self._echo_at:
            return False
        stopped = self._turns is not None and not chunk.samples.any()  # a satellite, and this is padding
        if stopped or chunk.start > self._echo_at:
            self._echo = None  # it cannot be told any more which part of the reply is heard when
            return False
        heard = chunk.samples[self._echo_at - chunk.start :]
        self._echo_at = chunk.end
        return self._echo.feed(heard)

    @property
    def replying(self) -> bool:
        """Whether a reply is played here, which somebody may speak over."""
        return self._echo is not None

    def wake(self, position: int, word: str) -> None:
        """A wake word ended at `position`: here, or in a satellite that listens for it itself."""
        self.woken += 1
        log.debug("%s: %s", self._room, word)
        if self.attention.woken(position, word):
            self._hush()

    def uttered(self, utterance: Utterance, began: float) -> Addressed | None:
        """Whether a complete utterance, begun at `began` Unix seconds, is a command."""
        whole = utterance.cut is not Cut.CAP
        address = self.attention.address(utterance.start, utterance.end, whole=whole, silence=utterance.silence)
        if address is None:
            return None
        snr = utterance.level_dbfs - utterance.floor_dbfs
        return Addressed(address, self._arbiter.claim(self._room, utterance, began, snr))

    def foresee(self, utterance: Utterance) -> int | None:
        """Where a command would begin if the speaker has finished; None: it would be none. Nothing comes of asking."""
        address = self.attention.foresee(utterance.start, utterance.end, silence=utterance.silence)
        return None if address is None else address.start

    @property
    def patient(self) -> bool:
        """Whether the speaker of half a sentence is waited for: one who speaks to the house, and to this room only.

        Rooms that may hear one utterance have to end it alike, so that the best of them acts.
        """
        return self._arbiter.alone() and self.attention.mode is not Wake.NONE

    async def patience(self, text: str, language: str | None) -> float:
        """How much of the silence that ends an utterance its speaker needs after `text`: 1 is all of it."""
        if not self._arbiter.alone():
            return 1.0
        if await self._settled(text, language, self._room):
            return SETTLED
        if not self.patient:
            return 1.0
        meaning = await self._understand(text, language, self._room)
        return 1.0 if isinstance(meaning, Intent) or meaning.matched else UNFINISHED

    async def understand(self, addressed: Addressed, event: Event) -> Event:
        """The event of the utterance with its intent, if it has one and this room is the one that acts."""
        text = event.text or ""
        if self.attention.echoes(text, addressed.address):
            log.debug("%s: that was our own voice", self._room)
            return event
        if not await addressed.claim.won():
            log.debug("%s: another room heard it better", self._room)
            return event
        addressed.meaning = await self._understand(text, event.language, self._room)
        return replace(event, intent=addressed.meaning) if isinstance(addressed.meaning, Intent) else event

    def answer(self, addressed: Addressed, event: Event | None) -> None:
        """The event is out: do what it says, and tell a satellite that its turn is over."""
        if self._turns is not None:
            self._turns.turn_ended((event.text if event is not None else None) or "")
        if event is not None and addressed.meaning is not None:
            self._handle(event, addressed.meaning, addressed.address)

    def reply_began(self, text: str, echo: Echo | None) -> None:
        """A text is played in this room from now on."""
        self._echo, self._echo_at = echo, self._now()
        self.attention.reply_began(self._echo_at, text)

    def reply_ended(self, *, follow_up: bool) -> None:
        """It was played, or silenced."""
        self.attention.reply_ended(self._now(), follow_up=follow_up)
        self._echo = None

    def _now(self) -> int:
        return self._position if self._turns is None else max(self._position, self._turns.position())

    def close(self) -> None:
        """Free the models."""
        if self._wakewords is not None:
            self._wakewords.close()
