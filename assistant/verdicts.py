"""What people say of events, and what follows for thresholds: *not this* raises one a little, *correct* may lower it.

A threshold belongs to a kind of sound in a room. What verdicts make of it is a factor that is computed from all of them
in their order, so that taking one back leaves what the others alone would have made. Why these steps: docs/events.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from assistant.state_file import StateFile

RAISED = 1.2  # times the threshold at most, by one "not this"
LOWERED = 0.94  # times the threshold, by one "correct" of a weak event
WEAK = 1.5  # times its threshold: a score below that was nearly missed
ABOVE = 1.02  # times the score that was wrong: there the threshold need not rise any more
LOWEST, HIGHEST = 0.6, 3.0  # bounds of the factor
# Of smoke and CO alarms it rises by little: one that is missed is worse than many that are not.
CAREFULLY_RAISED, CAREFULLY_HIGHEST = 1.05, 1.2
MOST = 2_000  # verdicts that are remembered; then the oldest is forgotten


class Opinion(StrEnum):
    """What somebody says of an event."""

    CORRECT = "correct"
    WRONG = "wrong"


class Verdict(BaseModel):
    """What somebody said of one event."""

    event: str  # its id
    room: str
    kind: str  # of sound, as the tracker names it
    event_type: str
    label: str
    opinion: Opinion
    score: float | None = None  # of the event
    plain: float | None = None  # threshold that would have been in force without verdicts; None: there is none to move
    at: float  # Unix seconds


class _Kept(BaseModel):
    """The file."""

    verdicts: Annotated[list[Verdict], Field(max_length=MOST)] = []


def factor_of(verdicts: Sequence[Verdict], *, careful: bool = False) -> float:
    """By what these verdicts, the oldest first, multiply the threshold of their kind of sound.

    `careful`: it is an alarm that saves lives.
    """
    step, highest = (CAREFULLY_RAISED, CAREFULLY_HIGHEST) if careful else (RAISED, HIGHEST)
    factor = 1.0
    for verdict in verdicts:
        if verdict.score is None or not verdict.plain:
            continue
        over = verdict.score / (factor * verdict.plain)
        if verdict.opinion is Opinion.WRONG:
            factor *= min(step, max(1.0, ABOVE * over))
        elif over < WEAK:
            factor *= LOWERED
        factor = min(max(factor, LOWEST), highest)
    return factor


class Verdicts:
    """All verdicts of one home, in a file of their own. Files are written in a thread, one after the other."""

    def __init__(self, path: Path, careful: frozenset[str] = frozenset()) -> None:
        """`careful` are the kinds of sound that save lives."""
        self._careful = careful
        self._file = StateFile(
            path, _Kept, name="verdicts", otherwise="thresholds are as they are configured; say again what was wrong"
        )
        self._verdicts = {verdict.event: verdict for verdict in self._file.read().verdicts}  # the oldest first
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._verdicts)

    def of(self, event: str) -> Verdict | None:
        """What was said of an event."""
        return self._verdicts.get(event)

    def about(self, room: str, kind: str) -> list[Verdict]:
        """Those of one kind of sound in a room, the oldest first."""
        return [one for one in self._verdicts.values() if (one.room, one.kind) == (room, kind)]

    def kinds(self) -> list[tuple[str, str]]:
        """Room and kind of sound that something was said of."""
        return sorted({(one.room, one.kind) for one in self._verdicts.values()})

    def factor(self, room: str, kind: str) -> float:
        """By what the threshold of a kind of sound is multiplied in a room."""
        return factor_of(self.about(room, kind), careful=kind in self._careful)

    def factors(self, room: str) -> Mapping[str, float]:
        """All of them in a room that differ from 1."""
        found = {kind: self.factor(where, kind) for where, kind in self.kinds() if where == room}
        return {kind: factor for kind, factor in found.items() if factor != 1.0}

    async def give(self, verdict: Verdict) -> None:
        """Remember a verdict, in place of an earlier one of the same event."""
        self._verdicts.pop(verdict.event, None)
        self._verdicts[verdict.event] = verdict
        while len(self._verdicts) > MOST:
            del self._verdicts[next(iter(self._verdicts))]
        await self._write()

    async def withdraw(self, event: str) -> Verdict | None:
        """Take a verdict back. What it was; None: there was none."""
        verdict = self._verdicts.pop(event, None)
        if verdict is not None:
            await self._write()
        return verdict

    async def reset(self, room: str, kind: str) -> int:
        """Take all verdicts of a kind of sound in a room back. How many there were."""
        gone = self.about(room, kind)
        for verdict in gone:
            del self._verdicts[verdict.event]
        if gone:
            await self._write()
        return len(gone)

    async def _write(self) -> None:
        async with self._writing:
            kept = _Kept(verdicts=list(self._verdicts.values()))
            await asyncio.to_thread(self._file.write, kept)
