"""Commands that come over MQTT: switches, sensitivities, tests and texts to say, from Home Assistant or from people.

Whatever arrives is untrusted: what is no command is refused with a line in the log and a count, and never raises.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant.events import Command, Say, SendTest, Sensitivity, SetListening, SetSensitivity
from assistant.outputs.mqtt_client import Arrived
from assistant.outputs.topics import level_topic_part

log = logging.getLogger(__name__)

PAYLOAD_LIMIT = 8_192  # bytes of any command
TEXT_LIMIT = 1_000  # characters that are said at once
BURST, PER_SECOND = 100.0, 10.0  # commands taken at once, and from then on
TELL_EVERY = 60.0  # seconds between two log lines of one kind of refusal
REMEMBERED = 64  # commands that a repeat is compared with; MQTT allows no more to be in flight than we ask for
SWITCH = {"ON": True, "OFF": False}


class Saying(BaseModel):
    """What somebody wants to be said aloud, where it comes as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: str
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$", max_length=32)] | None = None
    room: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class RefusedError(Exception):
    """Why a command is refused; `kind` is the same for all that are logged as one."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Commands:
    """Makes a `Command` of what arrives on the command topics below `base` and hands it to `command`."""

    def __init__(
        self, base: str, rooms: Iterable[str], command: Callable[[Command], None], clock: Callable[[], float]
    ) -> None:
        """`rooms` are the ids of the rooms there are; `clock` counts seconds."""
        self.topics = (
            f"{base}/listening/set",
            f"{base}/+/listening/set",
            f"{base}/+/sensitivity/set",
            f"{base}/+/test",
            f"{base}/+/say",
            f"{base}/say",
        )
        self.taken = 0
        self.refused = 0
        self.repeated = 0  # sent again by the broker, and left alone
        self._base = base
        self._command = command
        self.know(rooms)
        self._clock = clock
        self._recent: deque[tuple[int, str, bytes]] = deque(maxlen=REMEMBERED)
        self._tokens, self._refilled = BURST, clock()
        self._told: dict[str, tuple[float, int]] = {}  # kind of refusal → when it was logged, how many since

    def know(self, rooms: Iterable[str]) -> None:
        """From now on these are the rooms there are."""
        self._rooms = {level_topic_part(room): room for room in rooms}

    def takes(self, topic: str) -> bool:
        """Whether this is a topic of commands, of a room that exists or not."""
        return self._target(topic) is not None

    def received(self, message: Arrived) -> None:
        """Take what arrived on one of `topics`. Never raises."""
        try:
            command = self._read(message)
            if command is not None:
                self._command(command)
                self.taken += 1
        except RefusedError as refusal:
            self._refuse(message.topic, refusal)
        except Exception:
            self.refused += 1
            if self._may_tell("error"):
                log.exception("MQTT: the command on %s failed", _shown(message.topic))

    def health(self) -> dict[str, int]:
        """Figures for the health topic."""
        return {
            "commands": self.taken,
            "commands_refused": self.refused,
            "commands_repeated": self.repeated,
        }

    def _target(self, topic: str) -> tuple[str | None, str] | None:
        """The room as the topic names it (None: the house) and what it is about; None for another topic."""
        base, _, rest = topic.partition(f"{self._base}/")
        if base or not rest:
            return None
        match rest.split("/"):
            case ["listening", "set"]:
                return None, "listening"
            case ["say"]:
                return None, "say"
            case [room, ("listening" | "sensitivity") as what, "set"]:
                return room, what
            case [room, ("test" | "say") as what]:
                return room, what
        return None

    def _read(self, message: Arrived) -> Command | None:
        """The command of a message; None for what is none and harmless. Raises `RefusedError`."""
        target = self._target(message.topic)
        if target is None:
            return None
        if not message.payload:
            return None  # this is how a retained message is deleted
        if message.retained:
            raise RefusedError(
                "retained", "a retained command would act again at each start; remedy: publish it without retain"
            )
        if self._seen(message):
            return None
        if not self._token():
            raise RefusedError("flood", f"more than {PER_SECOND:.0f} commands a second")
        name, what = target
        room = None if name is None else self._room(name)
        text = _text(message.payload)
        if what == "say":
            return self._say(text, room)
        if what == "listening":
            return SetListening(room, _switch(text))
        assert room is not None  # noqa: S101 - only these two have a topic without a room
        return SendTest(room) if what == "test" else SetSensitivity(room, _sensitivity(text))

    def _room(self, name: str) -> str:
        if name not in self._rooms:
            known = ", ".join(sorted(self._rooms)) or "none"
            raise RefusedError("room", f"there is no room {_shown(name)}; there are: {known}")
        return self._rooms[name]

    def _say(self, text: str, room: str | None) -> Say:
        saying = _saying(text)
        if saying.room is not None:
            if room is not None:
                raise RefusedError("say", "the topic names the room already; remedy: leave the key room out")
            room = self._room(saying.room)
        said = "".join(letter for letter in saying.text if letter.isprintable() or letter in "\n\t").strip()
        if not said:
            raise RefusedError("say", "there is nothing to say")
        if len(said) > TEXT_LIMIT:
            raise RefusedError("say", f"the text has {len(said)} characters, at most {TEXT_LIMIT} are said")
        return Say(said, room, saying.language)

    def _seen(self, message: Arrived) -> bool:
        """Whether the broker sends again, after a reconnection, what was acted upon before it."""
        if message.identifier == 0:  # QoS 0 is never sent again
            return False
        key = (message.identifier, message.topic, message.payload)
        if message.duplicate and key in self._recent:
            self.repeated += 1
            return True
        self._recent.append(key)
        return False

    def _token(self) -> bool:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + PER_SECOND * (now - self._refilled))
        self._refilled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _refuse(self, topic: str, refusal: RefusedError) -> None:
        self.refused += 1
        untold = self._told.get(refusal.kind, (0.0, 0))[1]
        if self._may_tell(refusal.kind):
            more = f" ({untold} more like it since the last such line)" if untold else ""
            log.warning("MQTT: the command on %s is refused: %s%s", _shown(topic), refusal, more)

    def _may_tell(self, kind: str) -> bool:
        """Whether a line of this kind may be logged now; a flood must not fill the log."""
        now = self._clock()
        told_at, untold = self._told.get(kind, (-math.inf, 0))
        if now - told_at < TELL_EVERY:
            self._told[kind] = (told_at, untold + 1)
            return False
        self._told[kind] = (now, 0)
        return True


def _text(payload: bytes) -> str:
    if len(payload) > PAYLOAD_LIMIT:
        raise RefusedError("size", f"it has {len(payload)} bytes, at most {PAYLOAD_LIMIT} are read")
    try:
        return payload.decode().strip()
    except UnicodeDecodeError:
        raise RefusedError("text", "it is not UTF-8 text") from None


def _switch(text: str) -> bool:
    if text.upper() not in SWITCH:
        raise RefusedError("listening", f"{_shown(text)} is neither ON nor OFF")
    return SWITCH[text.upper()]


def _sensitivity(text: str) -> Sensitivity:
    try:
        return Sensitivity(text.lower())
    except ValueError:
        choices = ", ".join(sensitivity.value for sensitivity in Sensitivity)
        raise RefusedError("sensitivity", f"{_shown(text)} is none of: {choices}") from None


def _saying(text: str) -> Saying:
    """Plain text, or JSON where it begins with {. Raises `RefusedError`, never with the text in it."""
    if not text.startswith("{"):
        return Saying(text=text)
    try:
        return Saying.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = _shown(str(first["loc"][0])) if first["loc"] else "it"
        raise RefusedError(
            "say", f"{key}: {first['msg']}; remedy: plain text, or the keys text, language, room"
        ) from None
    except (ValueError, RecursionError):
        raise RefusedError("say", "it begins with { but is not JSON; remedy: plain text, or a JSON object") from None


def _shown(text: str) -> str:
    """A foreign text for a log line: quoted, of a bearable length, without line breaks."""
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
