"""What open pages are told without asking: one WebSocket each, a bounded queue each.

WebSockets, not server-sent events: browsers open at most six of those to one host, and people leave tabs open.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from assistant.channel import Channel
from assistant.events import (
    ClipSettled,
    Event,
    Fact,
    HealthMeasured,
    LevelMeasured,
    ListeningChanged,
    ProblemChanged,
    Publish,
    RoomChanged,
    SensitivityChanged,
)

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from assistant.web.rooms import RoomService

log = logging.getLogger(__name__)

PAGES = 32  # open at once; more are refused
WAITING = 500  # messages to one page; then the oldest is shed and counted
SAID_LIMIT = 4_096  # characters of what a page says
TAKES_WITHIN = 15.0  # seconds for a page to take a message
GOING_AWAY, TOO_MANY, NOT_UNDERSTOOD = 1001, 1013, 1008


def message_of(fact: Fact | Publish) -> dict[str, Any] | None:
    """What pages are told of a fact; None: nothing, or something that needs a look at the room."""
    match fact:
        case Event():
            return {"type": "event", "event": fact.to_json()}
        case LevelMeasured():
            return {"type": "level", "room": fact.room, "dbfs": fact.dbfs, "floor": fact.floor, "peak": fact.peak}
        case ClipSettled():
            return {"type": "clip", "room": fact.room, "id": fact.id, "clip": fact.clip, "reason": fact.reason}
        case HealthMeasured():
            return {"type": "health", "figures": dict(fact.figures)}
    return None


class Feed:
    """All open pages. Facts are offered on the loop; a page that does not take them loses the oldest."""

    def __init__(self, rooms: RoomService, version: str) -> None:
        self._rooms, self._version = rooms, version
        self._pages: dict[Channel[str], frozenset[str]] = {}  # the rooms that each watches
        self._former_drops = 0
        self.watching: Callable[[frozenset[str]], None] | None = None  # told which rooms somebody watches

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def drops(self) -> int:
        """Messages that pages did not take."""
        return self._former_drops + sum(page.drops for page in self._pages)

    def offer(self, fact: Fact | Publish) -> None:
        """Tell every page of a fact."""
        if not self._pages:
            return
        if isinstance(fact, ListeningChanged) and fact.room is None:
            self.refresh()
        elif isinstance(fact, ListeningChanged | RoomChanged | ProblemChanged | SensitivityChanged):
            self.tell(*self._room_messages(fact.room))
        elif (message := message_of(fact)) is not None:
            self.tell(message)

    def refresh(self) -> None:
        """Tell every page of every room anew: some came or went."""
        self.tell(self._greeting())

    def tell(self, *messages: Mapping[str, Any], watchers_of: str | None = None) -> None:
        """Tell every page, or those that watch a room."""
        for message in messages:
            text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
            for page, watched in self._pages.items():
                if watchers_of is None or watchers_of in watched:
                    page.offer(text)

    def _greeting(self) -> dict[str, Any]:
        rooms = [room.model_dump(mode="json") for room in self._rooms.rooms()]
        return {"type": "rooms", "version": self._version, "listening": self._rooms.listening(), "rooms": rooms}

    def _room_messages(self, room: str | None) -> Iterator[dict[str, Any]]:
        for state in self._rooms.rooms():
            if state.id == room:
                yield {"type": "room", "room": state.model_dump(mode="json")}

    async def serve(self, websocket: WebSocket) -> None:
        """The life of one page."""
        from starlette.websockets import WebSocketDisconnect  # noqa: PLC0415 (only while the page is served)

        if len(self._pages) >= PAGES:
            await websocket.close(TOO_MANY, f"more than {PAGES} pages are open")
            return
        await websocket.accept()
        page: Channel[str] = Channel("web: an open page", WAITING)
        self._pages[page] = frozenset()
        page.offer(json.dumps(self._greeting(), ensure_ascii=False, separators=(",", ":")))
        sending = asyncio.create_task(self._send(websocket, page))
        try:
            while True:
                self._obey(page, await websocket.receive_text())
        except (WebSocketDisconnect, KeyError):
            pass
        except ValueError as error:
            with suppress(RuntimeError):
                await websocket.close(NOT_UNDERSTOOD, str(error))
        finally:
            self._former_drops += page.drops
            del self._pages[page]
            self._tell_watched()
            sending.cancel()
            page.close()

    async def _send(self, websocket: WebSocket, page: Channel[str]) -> None:
        try:
            async for text in page:
                async with asyncio.timeout(TAKES_WITHIN):
                    await websocket.send_text(text)
        except Exception as error:  # it went, or takes nothing
            log.debug("web: a page is left: %s", type(error).__name__)
            with suppress(Exception):
                async with asyncio.timeout(1.0):
                    await websocket.close(GOING_AWAY)

    def _obey(self, page: Channel[str], text: str) -> None:
        """Do what a page asks for: `{"watch": ["kitchen"]}`. Raises `ValueError`."""
        if len(text) > SAID_LIMIT:
            raise ValueError("too long")
        try:
            wish = json.loads(text)
            rooms = wish["watch"]
            watched = frozenset(room for room in rooms if isinstance(room, str))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError('say {"watch": ["kitchen"]}') from None
        self._pages[page] = watched
        self._tell_watched()

    def _tell_watched(self) -> None:
        if self.watching is not None:
            self.watching(frozenset().union(*self._pages.values()))
