"""Chats about recordings, in memory alone: what was asked, what was answered, and the clips that it was about.

Pure: the time is passed in. Everything is bounded; what does not fit is refused with what to do about it, and a chat
that nobody has used for a day is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from ulid import ULID

from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Samples, frozen

CHATS: Final = 20  # at once
CLIPS: Final = 24  # of one chat
TURNS: Final = 100  # of one chat
LONGEST: Final = 600.0  # seconds of one clip
ALL: Final = 3_600.0  # seconds of all clips of all chats: 115 MB
KEPT: Final = 86_400.0  # seconds that a chat is kept after it was used last
TITLE_LIMIT: Final = 60  # characters


class Origin(StrEnum):
    """Where a clip came from."""

    UPLOAD = "upload"
    MICROPHONE = "microphone"  # of the browser
    EVENT = "event"
    ROOM = "room"


class Kind(StrEnum):
    """What a chat is for."""

    CHAT = "chat"
    PRACTICE = "practice"  # of a language


class Ended(StrEnum):
    """Why an answer is not longer."""

    END = "end"
    LENGTH = "length"  # as many tokens as the model may say at once
    STOPPED = "stopped"  # by somebody
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A recording of a chat, as 16-bit samples: half the memory, and what is played."""

    id: str
    name: str
    origin: Origin
    added: float  # Unix seconds
    pcm: NDArray[np.int16] = field(repr=False)  # mono 16 kHz, read-only

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.pcm) / SAMPLE_RATE

    def samples(self) -> Samples:
        """As models take it."""
        return frozen(self.pcm.astype(np.float32) / np.float32(32_768.0))


def pcm_of(samples: Samples) -> NDArray[np.int16]:
    """Mono 16 kHz samples as a clip holds them, read-only."""
    pcm = np.round(np.clip(np.nan_to_num(samples), -1.0, 1.0) * np.float32(32_767.0)).astype(np.int16)
    pcm.flags.writeable = False
    return pcm


@dataclass(slots=True, eq=False)
class Turn:
    """A question and its answer, which grows while it is made."""

    id: str
    asked: float  # Unix seconds
    task: str
    options: dict[str, str]  # text, to, language: those that were given
    clips: tuple[str, ...]  # ids of those it is about
    text: str = ""  # the answer; after `FAILED` what came before
    data: dict[str, Any] | None = None  # the same for a program
    model: str | None = None
    ended: Ended | None = None  # None: it is being made
    problem: str | None = None  # what failed


@dataclass(slots=True, eq=False)
class Chat:
    """Turns and clips that belong together, the oldest first."""

    id: str
    kind: Kind
    made: float  # Unix seconds
    used: float  # Unix seconds
    turns: list[Turn] = field(default_factory=list)
    clips: dict[str, Clip] = field(default_factory=dict)

    @property
    def answering(self) -> Turn | None:
        """The turn whose answer is being made."""
        return next((turn for turn in self.turns if turn.ended is None), None)

    @property
    def title(self) -> str:
        """The first free question, else the first recording; empty while there is neither."""
        asked = (turn.options["text"] for turn in self.turns if turn.task == "ask" and "text" in turn.options)
        named = (clip.name for clip in self.clips.values() if clip.name)
        return next(asked, next(named, ""))[:TITLE_LIMIT]


class Chats:
    """All of them. Raises `AssistantError` for what does not fit, `KeyError` for what is not there."""

    def __init__(self) -> None:
        self._chats: dict[str, Chat] = {}
        self.refused = 0
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._chats)

    @property
    def seconds(self) -> float:
        """Of audio in memory."""
        return sum(clip.seconds for chat in self._chats.values() for clip in chat.clips.values())

    def all(self) -> Sequence[Chat]:
        """The one used last first."""
        return sorted(self._chats.values(), key=lambda chat: chat.used, reverse=True)

    def get(self, identity: str) -> Chat:
        """A chat."""
        return self._chats[identity]

    def forget_old(self, now: float) -> None:
        """Forget chats that nobody has used for long."""
        for chat in list(self._chats.values()):
            if now - chat.used > KEPT and chat.answering is None:
                del self._chats[chat.id]
                self.forgotten += 1

    def begin(self, kind: Kind, now: float) -> Chat:
        """A new chat."""
        self.forget_old(now)
        if len(self._chats) >= CHATS:
            self._refuse(f"there are {CHATS} chats already, which is all that memory is given; remedy: delete one")
        chat = Chat(str(ULID()), kind, now, now)
        self._chats[chat.id] = chat
        return chat

    def end(self, identity: str) -> None:
        """Forget a chat and its recordings."""
        del self._chats[identity]

    def fits(self, identity: str, seconds: float) -> None:
        """Raise what keeps a clip of `seconds` out of a chat; called also before it is recorded."""
        if len(self._chats[identity].clips) >= CLIPS:
            self._refuse(f"this chat holds {CLIPS} recordings already; remedy: remove one, or begin another chat")
        if seconds > LONGEST:
            self._refuse(f"the recording is longer than {LONGEST / 60:.0f} minutes; remedy: cut it")
        if self.seconds + seconds > ALL:
            self._refuse(
                f"all chats together hold {ALL / 60:.0f} minutes of audio, and this would be more; remedy: delete one"
            )

    def add(self, identity: str, pcm: NDArray[np.int16], name: str, origin: Origin, now: float) -> Clip:
        """Keep a recording in a chat."""
        chat = self._chats[identity]
        self.fits(identity, len(pcm) / SAMPLE_RATE)
        clip = Clip(str(ULID()), name, origin, now, pcm)
        chat.clips[clip.id] = clip
        chat.used = now
        return clip

    def remove(self, identity: str, clip: str) -> None:
        """Forget a recording; what was said about it stays."""
        del self._chats[identity].clips[clip]

    def ask(self, identity: str, task: str, options: dict[str, str], clips: tuple[str, ...], now: float) -> Turn:
        """A new question of a chat; its answer is to be made."""
        chat = self._chats[identity]
        if chat.answering is not None:
            raise AssistantError("the answer before it is still being made; remedy: wait, or stop it")
        if len(chat.turns) >= TURNS:
            if chat.kind is Kind.CHAT:
                self._refuse(f"this chat has {TURNS} questions already; remedy: begin another chat")
            del chat.turns[0]  # of practice the last ones matter
        turn = Turn(str(ULID()), now, task, options, clips)
        chat.turns.append(turn)
        chat.used = now
        return turn

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        raise AssistantError(reason)
