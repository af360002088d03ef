"""Which utterances are meant for the house: after a wake word, right after a reply, or every one.

Pure: positions are samples of the room's stream. What was woken or replied is told as it happens; `address` is asked
when an utterance is complete:

- A wake word inside it, with speech after it: the command begins where the wake word ended.
- A wake word at its end or alone: nothing yet; the turn stays open for `TURN`, the next utterance is the command.
- No wake word, and it overlaps a reply that was played (or its tail): our own voice, never a command.
- Within `follow_up` seconds of a reply, in rooms with `wake: follow-up`: a command.
- In rooms with `wake: none`: a command.

One wake word, or one reply, makes one command.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Literal

from pydantic import Field

from assistant.events import SAMPLE_RATE
from assistant.settings import Settings

WakeWord = Literal["okay_nabu", "hey_jarvis", "hey_mycroft", "alexa"]

TURN = 8 * SAMPLE_RATE  # samples after a wake word in which the command may begin
LEAST = round(0.25 * SAMPLE_RATE)  # of speech after a wake word that make a command of the same breath
LATE = round(0.3 * SAMPLE_RATE)  # a wake word is placed that far after the end of its utterance at most
TAIL = round(0.5 * SAMPLE_RATE)  # a reply is still heard in the room after it was played
ECHO = 3 * SAMPLE_RATE  # a reply may be heard that much later than it was played: wireless speakers, satellites
ALIKE = 0.75  # share of a text's letters that stand in the reply in the same order
LEAST_LETTERS = 4  # of a text that can be told from a reply
PIECE = 3  # letters in a row that are no coincidence
REPLIES = 4  # that are remembered


class Wake(StrEnum):
    """What makes an utterance of a room a command."""

    WAKE = "wake"  # a wake word before it
    FOLLOW_UP = "follow-up"  # the same, and for some seconds after a reply nothing
    NONE = "none"  # nothing: every utterance is one


class WakeSettings(Settings):
    """When speech is a command."""

    words: tuple[WakeWord, ...] = Field(default=("okay_nabu",), min_length=1, description="wake words, any of them")
    follow_up: float = Field(
        default=8.0, ge=1.0, le=60.0, description="seconds after a reply in rooms with `wake: follow-up`"
    )


@dataclass(frozen=True, slots=True)
class Address:
    """An utterance is a command."""

    start: int  # samples: where its words begin, after the wake word
    by: Wake  # why
    word: str | None = None  # the wake word


@dataclass(slots=True)
class _Reply:
    """A text that was played."""

    letters: str
    began: int
    ended: int | None = None  # None: it is still played


class Attention:
    """Whose turn it is in one room."""

    def __init__(self, mode: Wake, settings: WakeSettings | None = None) -> None:
        self.mode = mode
        self._follow_up = round((settings or WakeSettings()).follow_up * SAMPLE_RATE)
        self._woken: tuple[int, str] | None = None  # the wake word that no command has used yet
        self._open_from, self._open_until = 0, -1  # where a command without a wake word may begin
        self._replies: deque[_Reply] = deque(maxlen=REPLIES)

    def woken(self, position: int, word: str) -> bool:
        """A wake word ended at `position`. Whether a reply is played and should stop: somebody has interrupted it.

        A wake word in the words of the reply itself is none.
        """
        playing = self._playing()
        if playing is not None and letters(word) in playing.letters:
            return False
        self._woken = (position, word)
        return playing is not None

    def reply_began(self, position: int, text: str) -> None:
        """A text is played from now on."""
        self.reply_ended(position, follow_up=False)
        self._replies.append(_Reply(letters(text), position))

    def reply_ended(self, position: int, *, follow_up: bool) -> None:
        """It was played or silenced. `follow_up`: it answered somebody, who may now go on."""
        playing = self._playing()
        if playing is None:
            return
        playing.ended = position
        if follow_up and self.mode is Wake.FOLLOW_UP:
            self._open_from, self._open_until = position, position + self._follow_up

    def address(self, start: int, end: int, *, whole: bool = True, silence: int = 0) -> Address | None:
        """Whether the utterance from `start` to `end` is a command.

        `whole`: it goes on no further than `end`. `silence`: samples at its end without speech.
        """
        found = self.foresee(start, end, whole=whole, silence=silence)
        if found is None:
            if self._woken is not None and start - self._woken[0] > TURN:
                self._woken = None
        elif found.by is Wake.WAKE:
            self._woken = None
        elif found.by is Wake.FOLLOW_UP:
            self._open_until = -1
        return found

    def foresee(self, start: int, end: int, *, whole: bool = True, silence: int = 0) -> Address | None:
        """What `address` would say; nothing is used up by asking."""
        if self._woken is not None:
            position, word = self._woken
            if position <= end + LATE and start - position <= TURN:
                if position > start and (not whole or end - silence - position < LEAST):
                    return None  # the command is in the next one
                return Address(max(start, position), Wake.WAKE, word)
        if self._muted(start, end):
            return None
        if self.mode is Wake.NONE:
            return Address(start, Wake.NONE)
        if self._open_from <= start <= self._open_until:
            return Address(start, Wake.FOLLOW_UP)
        return None

    def echoes(self, text: str, address: Address) -> bool:
        """Whether `text` is what a reply said, heard by the microphone. After a wake word it is somebody's own."""
        heard = letters(text)
        if address.by is Wake.WAKE or len(heard) < LEAST_LETTERS:
            return False
        return any(
            _within(heard, reply.letters)
            for reply in self._replies
            if reply.ended is None or address.start <= reply.ended + ECHO
        )

    def _playing(self) -> _Reply | None:
        return next((reply for reply in self._replies if reply.ended is None), None)

    def _muted(self, start: int, end: int) -> bool:
        return any(reply.began < end and (reply.ended is None or start < reply.ended + TAIL) for reply in self._replies)


def letters(text: str) -> str:
    """The letters and digits of `text` in one case: what two transcripts of the same words share."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in folded if sign.isalnum())


def _within(heard: str, said: str) -> bool:
    """Whether `heard` is, for the most part, a piece of `said`."""
    if heard in said:
        return True
    blocks = SequenceMatcher(None, heard, said, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= PIECE) >= ALIKE * len(heard)
