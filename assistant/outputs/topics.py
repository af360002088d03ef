"""What the house says over MQTT: facts become messages, and the present state of every retained topic is remembered.

Pure: time is passed in, nothing is sent here. The topics are those of `docs/mqtt.md`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from assistant.events import (
    SCHEMA,
    ClipSettled,
    Event,
    Fact,
    HealthMeasured,
    IntentRecognised,
    LevelMeasured,
    ListeningChanged,
    Pictured,
    Presence,
    Problem,
    ProblemChanged,
    Publish,
    RoomChanged,
    Sensitivity,
    SensitivityChanged,
    State,
    link_to,
    without_words,
)

LATE_AFTER = 60.0  # seconds: an older event is marked late, an older trigger is not sent
REPEAT_EVERY = 10.0  # seconds between two ON of a sound that lasts
OFF_DELAY = 30  # seconds after which Home Assistant clears a sound by itself when OFF was lost
TEXT_LIMIT = 255  # characters of a Home Assistant state

EVENT_EXPIRY = 60  # seconds, MQTT 5: nobody automates on an event that is older
TRIGGER_EXPIRY = 10
DOORBELL_EXPIRY = 30
ON_EXPIRY = OFF_DELAY + 15
INTENT_EXPIRY = 30
CLIP_EXPIRY = 60
PICTURE_EXPIRY = 60
LEVEL_EXPIRY = 30
HEALTH_EXPIRY = 180

LEVEL_LIFETIME = 10.0  # seconds: an older level is not sent any more
LEVEL_FLOOR = -120.0  # dBFS: what digital silence is called
LEVEL_STEP = 3.0  # dB: a change that is told at once, but not within LEVEL_PAUSE
LEVEL_PAUSE = 2.0  # seconds
LEVEL_EVERY = 10.0  # seconds between levels that moved by LEVEL_DRIFT
LEVEL_DRIFT = 1.0  # dB
LEVEL_AT_LEAST = 30.0  # seconds: a level that does not move is repeated


@dataclass(frozen=True, slots=True)
class Room:
    """A room as the house announces it. `id` is `[a-z0-9_-]+`, `name` anything (台所)."""

    id: str
    name: str
    area: str | None = None
    source: str = "Microphone"  # what listens there, for the device page
    listening: bool = True  # its switch, as the run begins
    sensitivity: Sensitivity = Sensitivity.BALANCED  # its select, as the run begins


@dataclass(frozen=True, slots=True)
class SoundType:
    """An event type that has a state and a trigger of its own."""

    event_type: str
    name: str  # as people say it: "Dog barking"
    alert: bool = False  # counts for the whole-house alert
    life_safety: bool = False  # smoke or CO alarm: device class `safety`, a name that ends in "heard"


@dataclass(frozen=True, slots=True)
class Home:
    """What there is to tell about."""

    install: str  # stable over restarts, 4 or more of [a-z0-9]
    version: str
    rooms: tuple[Room, ...]
    sounds: tuple[SoundType, ...]
    transcripts: bool = False  # may what was said leave the machine?
    url: str | None = None  # the web page, for the device page
    listening: bool = True  # the switch of the whole house, as the run begins
    clips: bool = False  # are clips kept on disk?


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message to be sent. A mapping is sent as JSON, bytes are sent as they are."""

    topic: str
    payload: str | bytes | Mapping[str, Any]
    raised: float  # seconds of the clock that is passed in
    qos: int = 1
    retain: bool = False
    expiry: int | None = None  # seconds, MQTT 5
    lifetime: float | None = None  # seconds after which it is dropped rather than sent
    state: bool = False  # its topic is in the table of retained states
    sends: int = 0  # how often it was handed to a connection that broke
    rule: str = ""  # name of the rule that asked for it
    correlation: bytes | None = None  # MQTT 5: what a question carried, for its answer
    content: str | None = None  # MQTT 5: content type of bytes
    lasting: bool = False  # it must arrive, however long the broker is away and whatever becomes of this process
    number: int | None = None  # under which it lies on the disk

    @property
    def content_type(self) -> str | None:
        """MQTT 5: MIME type; None for a plain word or what a rule wrote."""
        return "application/json" if isinstance(self.payload, Mapping) else self.content

    def due(self, now: float) -> Message | None:
        """The message as it is to be sent at `now`: an event older than a minute is `late`; None if worthless."""
        age = now - self.raised
        if self.lifetime is not None and age > self.lifetime:
            return None
        if age > LATE_AFTER and isinstance(self.payload, Mapping) and self.payload.get("late") is False:
            return replace(self, payload={**self.payload, "late": True})
        return self

    def encoded(self) -> bytes:
        """The payload as UTF-8; numbers that JSON does not know are an error."""
        if isinstance(self.payload, str):
            return self.payload.encode()
        if isinstance(self.payload, bytes):
            return self.payload
        text = json.dumps(self.payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode(errors="backslashreplace")  # half a surrogate pair becomes an escape of JSON


def level_topic_part(name: str) -> str:
    """`name` without what an MQTT topic level must not hold."""
    return re.sub(r"[+#/\x00]", "_", name) or "_"


class House:
    """The present state of every retained topic, and the messages that a fact makes.

    `facts → messages(fact, now)`; `states()` settles a broker that missed some; `repeats(now)` says what still lasts.
    """

    def __init__(self, home: Home, base: str) -> None:
        self.home = home
        self.base = base
        self.closed = False  # after `close` nothing switches on any more
        self._sounds = {sound.event_type: sound for sound in home.sounds}
        self._states: dict[str, Message] = {}
        self._active: dict[tuple[str, str], set[str]] = {}
        self._levels: dict[str, tuple[float, float]] = {}  # room: time and level last told
        self._presence: dict[str, Presence] = {room.id: Presence.OFFLINE for room in home.rooms}  # of its source
        self._listening: dict[str | None, bool] = {None: home.listening}  # by room; None: the whole house
        self._keep(self._listening_state(None, 0.0))
        for room in home.rooms:
            self._add(room)
        self._keep(self._alert(0.0))

    def change(self, home: Home) -> None:
        """From now on it is this home: rooms and sounds that stay keep their states.

        Of those that went nothing is left here, and nothing of what was said once that is private.
        """
        before = {room.id for room in self.home.rooms}
        self.home = home
        known, self._sounds = self._sounds, {sound.event_type: sound for sound in home.sounds}
        for event_type in known.keys() - self._sounds.keys():
            for room_id in before:
                self._active.pop((room_id, event_type), None)
                for end in ("state", "attributes"):
                    self._states.pop(self._topic(room_id, "sound", event_type, end), None)
        for event_type in self._sounds.keys() - known.keys():
            for room in home.rooms:
                self._keep(self._sound_state(room.id, event_type, 0.0))
        for room in home.rooms:
            if room.id not in before:
                self._add(room)
        for gone in before - {room.id for room in home.rooms}:
            self._presence.pop(gone, None)
            self._listening.pop(gone, None)
            self._levels.pop(gone, None)
            self._active = {key: ids for key, ids in self._active.items() if key[0] != gone}
            self._states = {
                topic: state for topic, state in self._states.items() if not topic.startswith(self._topic(gone, ""))
            }
        if not home.transcripts:
            for room in home.rooms:
                self._states.pop(self._topic(room.id, "last", "speech"), None)
        self._keep(self._alert(0.0))

    def _add(self, room: Room) -> None:
        self._presence.setdefault(room.id, Presence.OFFLINE)
        self._listening[room.id] = room.listening
        self._keep(self._listening_state(room.id, 0.0))
        self._keep(self._sensitivity_state(SensitivityChanged(room.id, room.sensitivity), 0.0))
        self._keep(self._room_status(room.id, 0.0))
        self._keep(self._problem_state(ProblemChanged(room.id, Problem.NONE), 0.0))
        for sound in self.home.sounds:
            self._keep(self._sound_state(room.id, sound.event_type, 0.0))

    @property
    def status_topic(self) -> str:
        """Where the service says whether it lives."""
        return f"{self.base}/status"

    def status(self, now: float) -> Message:
        """The service itself: `online` until `close`."""
        payload = Presence.OFFLINE if self.closed else Presence.ONLINE
        return Message(self.status_topic, payload.value, now, retain=True, state=True)

    def states(self, now: float) -> list[Message]:
        """Every retained state as it is now, without the service's own status."""
        return [replace(message, raised=now) for message in self._states.values()]

    def state(self, topic: str, now: float) -> Message | None:
        """One of them; None: it is there no longer."""
        message = self._states.get(topic)
        return None if message is None else replace(message, raised=now)

    def repeats(self, now: float) -> list[Message]:
        """ON for what still lasts."""
        return [self._sound_state(room, event_type, now) for (room, event_type), ids in self._active.items() if ids]

    def close(self, now: float) -> list[Message]:
        """Service and rooms offline, every sound off. Later events are still told, but switch nothing on."""
        self.closed = True
        self._active.clear()
        rooms = []
        for room in self._presence:
            self._presence[room] = Presence.OFFLINE
            rooms.append(self._keep(self._room_status(room, now)))
        sounds = [
            self._keep(self._sound_state(room.id, sound.event_type, now))
            for room in self.home.rooms
            for sound in self.home.sounds
        ]
        return [self.status(now), *rooms, *sounds, self._keep(self._alert(now))]

    def messages(self, item: Fact | Publish, now: float) -> list[Message]:  # noqa: PLR0911 - one a fact
        """What is to be sent for this item, states first. Retained states are remembered."""
        match item:
            case Event():
                return self._event(item, now)
            case RoomChanged():
                return self._room(item, now)
            case ProblemChanged():
                return [self._keep(self._problem_state(item, now))]
            case LevelMeasured():
                return self._level(item, now)
            case HealthMeasured():
                return [self._keep(self._health(item, now))]
            case ListeningChanged():
                return self._switched(item, now)
            case SensitivityChanged():
                return [self._keep(self._sensitivity_state(item, now))]
            case Pictured():
                topic = self._topic(item.room, "spectrogram")
                return [Message(topic, item.png, now, qos=0, expiry=PICTURE_EXPIRY, content="image/png")]
            case ClipSettled():
                return self._clip(item, now)
            case IntentRecognised():
                return self._intent(item, now)
            case Publish():
                return [self._published(item, now)]

    @staticmethod
    def _published(item: Publish, now: float) -> Message:
        """What a rule or a command sends. With QoS 0 it asks for no care; a command is worth nothing later."""
        lasting = item.qos > 0 and item.within is None
        return Message(
            item.topic,
            item.payload,
            now,
            qos=item.qos,
            retain=item.retain,
            rule=item.rule,
            lifetime=item.within,
            lasting=lasting,
        )

    def _keep(self, message: Message) -> Message:
        self._states[message.topic] = message
        return message

    def _topic(self, room: str, *rest: str) -> str:
        return "/".join((self.base, level_topic_part(room), *rest))

    def _room_status(self, room: str, now: float) -> Message:
        return Message(self._topic(room, "status"), self._presence_of(room).value, now, retain=True, state=True)

    def _presence_of(self, room: str) -> Presence:
        """What is told of a room: while it may not listen, its source does not matter."""
        if self.closed:
            return Presence.OFFLINE
        if not (self._listening[None] and self._listening.get(room, True)):
            return Presence.DISABLED
        return self._presence[room]

    def _listening_state(self, room: str | None, now: float) -> Message:
        topic = f"{self.base}/listening/state" if room is None else self._topic(room, "listening", "state")
        return Message(topic, "ON" if self._listening[room] else "OFF", now, retain=True, state=True)

    def _sensitivity_state(self, change: SensitivityChanged, now: float) -> Message:
        topic = self._topic(change.room, "sensitivity", "state")
        return Message(topic, change.sensitivity.value, now, retain=True, state=True)

    def _problem_state(self, change: ProblemChanged, now: float) -> Message:
        return Message(self._topic(change.room, "problem"), change.problem.value, now, retain=True, state=True)

    def _sound_state(self, room: str, event_type: str, now: float) -> Message:
        lasts = bool(self._active.get((room, event_type)))
        topic = self._topic(room, "sound", event_type, "state")
        return Message(
            topic, "ON" if lasts else "OFF", now, retain=True, state=True, expiry=ON_EXPIRY if lasts else None
        )

    def _alert(self, now: float) -> Message:
        lasts = any(ids and self._sounds[event_type].alert for (_, event_type), ids in self._active.items())
        return Message(f"{self.base}/alert/state", "ON" if lasts else "OFF", now, retain=True, state=True)

    def _health(self, health: HealthMeasured, now: float) -> Message:
        figures = {key: _finite(value) for key, value in health.figures.items()}
        return Message(f"{self.base}/health", figures, now, qos=0, retain=True, state=True, expiry=HEALTH_EXPIRY)

    def _event(self, event: Event, now: float) -> list[Message]:
        body = self._body(event)
        room = event.room
        known = event.kind == "sound" and event.event_type in self._sounds
        messages = self._switch(event, body, now) if known else []
        if event.state is not State.ENDED:
            last = {**self._linked(body), "label": event.label[:TEXT_LIMIT], "text": _short(body["text"])}
            messages.append(
                self._keep(Message(self._topic(room, "last", event.kind), last, now, retain=True, state=True))
            )
        messages.append(Message(self._topic(room, "event"), body, now, expiry=EVENT_EXPIRY, lasting=True))
        if known and event.state is State.STARTED and not event.late:
            messages.append(self._prompt(self._topic(room, "trigger"), event.event_type, TRIGGER_EXPIRY, now))
            if event.event_type == "doorbell":
                ring = {"event_type": "ring", "id": event.id}
                messages.append(self._prompt(self._topic(room, "doorbell", "event"), ring, DOORBELL_EXPIRY, now))
        if self.home.transcripts and event.kind == "speech" and event.text:
            messages.append(Message(self._topic(room, "transcript"), body, now, expiry=EVENT_EXPIRY, lasting=True))
        return messages

    def _switch(self, event: Event, body: Mapping[str, Any], now: float) -> list[Message]:
        """State, attributes and alert after a sound began or ended."""
        key = (event.room, event.event_type)
        if event.state is State.STARTED and not self.closed:
            self._active.setdefault(key, set()).add(event.id)
        else:
            self._active.get(key, set()).discard(event.id)
        attributes = self._topic(event.room, "sound", event.event_type, "attributes")
        messages = [
            self._keep(self._sound_state(event.room, event.event_type, now)),
            self._keep(Message(attributes, self._linked(body), now, retain=True, state=True)),
        ]
        if self._sounds[event.event_type].alert:
            messages.append(self._keep(self._alert(now)))
        return messages

    def _body(self, event: Event) -> dict[str, Any]:
        return {key: _finite(value) for key, value in self._redacted(event).to_json().items()}

    def _linked(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """For attributes in Home Assistant: with the link to the event on the page, where its address is known."""
        url = link_to(self.home.url, body["id"])
        return body if url is None else {**body, "url": url}

    def _redacted(self, event: Event) -> Event:
        """The event arrives redacted; a mistake there must not leave the house."""
        return event if self.home.transcripts else without_words(event)

    def _clip(self, settled: ClipSettled, now: float) -> list[Message]:
        """What became of a clip. Retained states that name one which is not there are put right."""
        body = {"schema": SCHEMA, "id": settled.id, "clip": settled.clip, "reason": settled.reason}
        messages = [Message(self._topic(settled.room, "clip"), body, now, expiry=CLIP_EXPIRY, lasting=True)]
        for state in list(self._states.values()) if settled.clip is None else ():
            named = state.payload
            if isinstance(named, Mapping) and named.get("id") == settled.id and named.get("clip") is not None:
                messages.append(self._keep(replace(state, payload={**named, "clip": None}, raised=now)))
        return messages

    def _intent(self, recognised: IntentRecognised, now: float) -> list[Message]:
        """The intent by itself, for whoever acts on it; a command that waited for a minute is none any more."""
        event = self._redacted(recognised.event)
        if event.intent is None:
            return []
        body = {
            "schema": SCHEMA,
            "id": event.id,
            "room": event.room,
            **event.intent.to_json(),
            "language": event.intent.language,
            "handled": recognised.handled,
            "late": event.late,
        }
        return [self._prompt(self._topic(event.room, "intent"), body, INTENT_EXPIRY, now)]

    @staticmethod
    def _prompt(topic: str, payload: str | Mapping[str, Any], expiry: int, now: float) -> Message:
        return Message(topic, payload, now, expiry=expiry, lifetime=LATE_AFTER)

    def _room(self, change: RoomChanged, now: float) -> list[Message]:
        self._presence[change.room] = change.presence
        return self._told(change.room, now)

    def _told(self, room: str, now: float) -> list[Message]:
        """The status of a room, and what follows from it."""
        messages = [self._keep(self._room_status(room, now))]
        if self._presence_of(room) is Presence.ONLINE:
            return messages
        # nobody listens there any more: nothing can be said to last, even if its `ended` never came
        for (where, event_type), ids in self._active.items():
            if where == room and ids:
                ids.clear()
                messages.append(self._keep(self._sound_state(room, event_type, now)))
        return [*messages, self._keep(self._alert(now))] if len(messages) > 1 else messages

    def _switched(self, change: ListeningChanged, now: float) -> list[Message]:
        """A switch and the status of the rooms that it is for."""
        self._listening[change.room] = change.on
        messages = [self._keep(self._listening_state(change.room, now))]
        for room in list(self._presence) if change.room is None else [change.room]:
            if self._presence.setdefault(room, Presence.OFFLINE) is Presence.DISABLED and change.on:
                self._presence[room] = Presence.OFFLINE  # until its source says more
            messages += self._told(room, now)
        return messages

    def _level(self, level: LevelMeasured, now: float) -> list[Message]:
        figures = {name: _level(getattr(level, name)) for name in ("dbfs", "floor", "peak")}
        told_at, told = self._levels.get(level.room, (-math.inf, 0.0))
        waited, moved = now - told_at, abs(figures["dbfs"] - told)
        if not (
            waited >= LEVEL_AT_LEAST
            or (waited >= LEVEL_EVERY and moved >= LEVEL_DRIFT)
            or (waited >= LEVEL_PAUSE and moved >= LEVEL_STEP)
        ):
            return []
        self._levels[level.room] = (now, figures["dbfs"])
        topic = self._topic(level.room, "level")
        return [Message(topic, figures, now, qos=0, expiry=LEVEL_EXPIRY, lifetime=LEVEL_LIFETIME)]


def _short(text: str | None) -> str | None:
    return None if text is None else text[:TEXT_LIMIT]


def _level(dbfs: float) -> float:
    return round(max(LEVEL_FLOOR, dbfs), 1) if dbfs > LEVEL_FLOOR else LEVEL_FLOOR


def _finite(value: object) -> object:
    """JSON has no infinity and no NaN: unknown is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
