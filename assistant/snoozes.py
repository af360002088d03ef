"""Sounds that nobody wants to hear of for a while: one kind in one room, until a time. They survive restarts.

What began before a snooze ends as usual. What begins in it is told to nobody; if it still sounds when the snooze is
over it is told then, since an alarm that goes on must not stay silent for ever.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from assistant.errors import AssistantError
from assistant.events import Event, State
from assistant.state_file import StateFile

MOST = 200  # at once


class Snooze(BaseModel):
    """One kind of sound in one room that is told to nobody."""

    room: str
    kind: str  # of sound, as the tracker names it
    event_type: str
    label: str
    since: float  # Unix seconds
    until: float
    silenced: int = 0  # sounds so far


class _Kept(BaseModel):
    """The file."""

    snoozes: Annotated[list[Snooze], Field(max_length=MOST)] = []


class Snoozes:
    """The snoozes of one home, in a file of their own. Time (Unix seconds) is passed in."""

    def __init__(self, path: Path) -> None:
        self._file = StateFile(
            path, _Kept, name="snoozes", otherwise="every sound is told; snooze again what should not be"
        )
        self._snoozes = {(one.room, one.kind): one for one in self._file.read().snoozes}
        self._silent: dict[str, tuple[Event, str]] = {}  # sounds that run and were told to nobody, and their kind
        self._writing = asyncio.Lock()
        self.silenced = 0  # sounds since the start

    def all(self, now: float) -> list[Snooze]:
        """What is snoozed, what ends first first."""
        return sorted((one for one in self._snoozes.values() if one.until > now), key=lambda one: one.until)

    def of(self, room: str, kind: str, now: float) -> Snooze | None:
        """The snooze of a kind of sound in a room."""
        snooze = self._snoozes.get((room, kind))
        return snooze if snooze is not None and snooze.until > now else None

    def takes(self, event: Event, kind: str, now: float) -> bool:
        """Whether this event is to be told to nobody."""
        if event.kind != "sound":
            return False
        if event.state is State.ENDED:
            return self._silent.pop(event.id, None) is not None
        snooze = self.of(event.room, kind, now)
        if snooze is None:
            return False
        snooze.silenced += 1
        self.silenced += 1
        self._silent[event.id] = (event, kind)
        return True

    def left(self, room: str) -> None:
        """Its source has ended, and with it what sounded there."""
        self._silent = {key: running for key, running in self._silent.items() if running[0].room != room}

    def add(self, snooze: Snooze) -> None:
        """Begin a snooze, or let one end at another time. Raises `AssistantError` when there are too many."""
        key = (snooze.room, snooze.kind)
        before = self._snoozes.get(key)
        if before is None and len(self._snoozes) >= MOST:
            raise AssistantError(f"{MOST} kinds of sound are snoozed already; remedy: end some of them")
        if before is not None:
            snooze = snooze.model_copy(update={"since": before.since, "silenced": before.silenced})
        self._snoozes[key] = snooze

    def end(self, room: str, kind: str) -> list[Event] | None:
        """End a snooze. What began in it and still sounds, to be told now; None: nothing was snoozed."""
        if self._snoozes.pop((room, kind), None) is None:
            return None
        woken = [event for event, what in self._silent.values() if (event.room, what) == (room, kind)]
        for event in woken:
            del self._silent[event.id]
        return woken

    def over(self, now: float) -> list[Snooze]:
        """Those whose time has come at `now`, for `end`."""
        return [one for one in self._snoozes.values() if one.until <= now]

    async def save(self) -> None:
        """Write them down, as they are now."""
        async with self._writing:
            kept = _Kept(snoozes=[one.model_copy() for one in self._snoozes.values()])
            await asyncio.to_thread(self._file.write, kept)
