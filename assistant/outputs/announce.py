"""Says to Home Assistant what there is, and removes what an earlier run announced and that is there no longer.

What was announced is remembered in a retained topic of our own, so that a broker shared with another installation, or
with other software, is never cleaned of what is not ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from assistant.outputs.homeassistant import HomeAssistantSettings, config_topic, hub_payload, room_payload
from assistant.outputs.topics import Home, Message, level_topic_part

log = logging.getLogger(__name__)

# Retained, but of sounds.
ROOM_STATES = ("status", "problem", "listening/state", "sensitivity/state", "last/sound", "last/speech")
VIA_DEVICE_PAUSE = 0.2  # seconds: Home Assistant must know the hub before a room names it

Send = Callable[[list[Message]], Awaitable[None]]


class Announcer:
    """Discovery of one home on one base topic. `send` is handed in, because each connection has its own."""

    def __init__(self, home: Home, base: str, settings: HomeAssistantSettings, clock: Callable[[], float]) -> None:
        self.home = home
        self.base = base
        self.settings = settings
        self.memory_topic = f"{base}/announced/{home.install}"
        self.swept = False  # before that the memory still says what an earlier run announced
        self.superseded: list[bytes] = []  # what this run announced and does not any more, as the memory said it
        self._clock = clock

    def change(self, home: Home) -> None:
        """From now on announce this home; what only the one before had is to be swept."""
        self.superseded.append(json.dumps(self._memory()).encode())
        self.home = home

    async def announce(self, send: Send, removed: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """Publish hub, rooms and memory. `removed`: event types to delete, by room id."""
        if self.settings.discovery:
            hub = hub_payload(self.home, self.base)
            await send([self._retained(self._config_topic(self.settings.prefix, None), hub)])
            await asyncio.sleep(VIA_DEVICE_PAUSE)
            for room in self.home.rooms:
                payload = room_payload(self.home, room, self.base, removed=(removed or {}).get(room.id, ()))
                await send([self._retained(self._config_topic(self.settings.prefix, room.id), payload)])
        if self.swept and not self.superseded:
            await send([self._retained(self.memory_topic, self._memory())])

    async def sweep(self, send: Send, memory: bytes) -> None:
        """Delete what an earlier run announced (in `memory`) and this one does not; then remember this one."""
        before, now = recalled(memory), self._memory()
        rooms, prefix, moved = before["rooms"], before["prefix"], before["prefix"] != now["prefix"]
        gone = [room for room in rooms if room not in now["rooms"]]
        removed: dict[str, tuple[str, ...]] = {}
        states = [f"{self.base}/{room}/{end}" for room in gone for end in ROOM_STATES]
        if before["transcripts"] and not now["transcripts"]:  # what was said may not stay on the broker
            states += [f"{self.base}/{room}/last/speech" for room in rooms if room not in gone]
        for room, event_types in rooms.items():
            dropped = tuple(event_type for event_type in event_types if event_type not in now["rooms"].get(room, ()))
            states += [f"{self.base}/{room}/sound/{kind}/{end}" for kind in dropped for end in ("state", "attributes")]
            if room not in gone and dropped:
                removed[room] = dropped
        if prefix is not None:
            if removed and not moved:
                await self.announce(send, removed)
                await asyncio.sleep(VIA_DEVICE_PAUSE)
                await self.announce(send)
            devices: list[str | None] = [*rooms, None] if moved else [*gone]  # None is the hub
            await self._empty(send, [self._config_topic(prefix, room) for room in devices])
        if states:
            await asyncio.sleep(VIA_DEVICE_PAUSE)  # entities go first: an empty state would make them complain
            await self._empty(send, states)
        if gone or removed:
            log.info("MQTT: removed what is configured no longer: rooms %s, sounds %s", gone, removed)
        await send([self._retained(self.memory_topic, now)])
        self.swept = True

    def _memory(self) -> dict[str, Any]:
        """What this run announces, for the one that comes after it."""
        return {
            "prefix": self.settings.prefix if self.settings.discovery else None,
            "transcripts": self.home.transcripts,
            "rooms": {room.id: [sound.event_type for sound in self.home.sounds] for room in self.home.rooms},
        }

    def _config_topic(self, prefix: str, room: str | None) -> str:
        return config_topic(prefix, self.home.install, room)

    def _retained(self, topic: str, payload: str | Mapping[str, Any]) -> Message:
        return Message(topic, payload, self._clock(), retain=True, state=True)

    async def _empty(self, send: Send, topics: list[str]) -> None:
        """Delete retained messages."""
        await send([self._retained(topic, "") for topic in topics])


def recalled(memory: bytes) -> dict[str, Any]:
    """`{"prefix", "transcripts", "rooms"}` of an earlier run; nothing for a memory that cannot be read."""
    try:
        before = json.loads(memory)
    except (ValueError, RecursionError):
        before = None
    if not isinstance(before, dict) or not isinstance(before.get("rooms"), dict):
        return {"prefix": None, "transcripts": False, "rooms": {}}
    # Whoever may write there must not make us delete what is not ours: each name is one level of a topic.
    rooms = {
        room: [kind for kind in event_types if isinstance(kind, str) and level_topic_part(kind) == kind]
        for room, event_types in before["rooms"].items()
        if isinstance(event_types, list) and level_topic_part(room) == room
    }
    prefix = before.get("prefix")
    return {
        "prefix": prefix if isinstance(prefix, str) and not set(prefix) & set("+#\0") else None,
        "transcripts": before.get("transcripts") is True,
        "rooms": rooms,
    }
