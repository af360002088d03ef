"""What people say of events, and what follows: thresholds that move, sounds that are told to nobody for a while.

It joins `verdicts`, `snoozes` and the sound table for one home, with a page or without. It belongs to the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from assistant.errors import AssistantError
from assistant.events import ClipSettled, Event, Fact, Publish, Sensitivity, State
from assistant.snoozes import Snooze, Snoozes
from assistant.tracking import OTHER, SoundTable, in_force, kind_of
from assistant.verdicts import Opinion, Verdict, Verdicts

log = logging.getLogger(__name__)

LIFE_SAFETY = frozenset({"smoke_alarm", "co_alarm"})
FRESH = 300  # of the last events, which the history may not hold yet
NOT_SNOOZED = frozenset({"test", "speech"})

Why = Literal["moved", "no_threshold", "sure", "bound", "above"]


@dataclass(frozen=True, slots=True)
class House:
    """What is asked of the daemon."""

    table: SoundTable
    plain: Mapping[str, float]  # threshold of each kind of sound, as it is configured
    sensitivity: Callable[[str], Sensitivity]  # of a room
    weigh: Callable[[str], None]  # the thresholds of a room have changed
    emit: Callable[[Event], None]  # tell an event
    tell: Callable[[Mapping[str, Any]], None]  # tell open pages


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a kind of sound needs in a room."""

    room: str
    kind: str
    event_type: str
    label: str
    configured: float | None  # with the sensitivity of the room; None: there is none
    in_force: float | None  # after what was said of events
    correct: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of a verdict, or of taking one back."""

    opinion: Opinion | None
    threshold: Threshold | None
    before: float | None
    moved: bool
    why: Why


class Judging:
    """What was said of events, and the last of them. Files are written in threads."""

    def __init__(self, house: House, verdicts: Verdicts, snoozes: Snoozes) -> None:
        self._house, self._verdicts, self._snoozes = house, verdicts, snoozes
        self._fresh: dict[str, dict[str, Any]] = {}

    # what the daemon tells

    def takes(self, event: Event) -> bool:
        """Whether this event is snoozed: it goes no further."""
        taken = self._snoozes.takes(event, self.kind(event.event_type, event.label), time.time())
        if taken:
            log.debug("%s: %s %s is snoozed", event.room, event.event_type, event.state)
            if event.state is State.STARTED:
                self._tell_snoozes()
        return taken

    def note(self, fact: Fact | Publish) -> None:
        """Something is told; without words where these are private."""
        if isinstance(fact, ClipSettled) and fact.clip is None and fact.id in self._fresh:
            self._fresh[fact.id]["clip"] = None
        if not isinstance(fact, Event):
            return
        values = fact.to_json()
        known = self._fresh.pop(fact.id, None)
        if known is not None:  # when it was told remains that of its beginning, as in the history
            values |= {name: known[name] for name in ("heard_at", "latency", "late")}
        self._fresh[fact.id] = values
        while len(self._fresh) > FRESH:
            del self._fresh[next(iter(self._fresh))]

    def fresh(self, identity: str) -> dict[str, Any] | None:
        """One of the last events, as JSON."""
        return self._fresh.get(identity)

    def factors(self, room: str) -> Mapping[str, float]:
        """By what the thresholds of a room are multiplied."""
        return self._verdicts.factors(room)

    def left(self, room: str) -> None:
        """The source of a room has ended."""
        self._snoozes.left(room)

    async def tick(self) -> None:
        """End the snoozes whose time has come."""
        over = self._snoozes.over(time.time())
        for snooze in over:
            self._end(snooze.room, snooze.kind)
        if over:
            await self._snoozes.save()

    async def close(self) -> None:
        """Keep what was counted."""
        if self._snoozes.silenced:
            await self._snoozes.save()

    def health(self) -> dict[str, Any]:
        """Figures for the health topic."""
        return {
            "verdicts": len(self._verdicts),
            "snoozes": len(self._snoozes.all(time.time())),
            "silenced": self._snoozes.silenced,
        }

    # verdicts

    def opinion(self, identity: str) -> Opinion | None:
        """What was said of an event."""
        verdict = self._verdicts.of(identity)
        return None if verdict is None else verdict.opinion

    async def judge(self, body: Mapping[str, Any], opinion: Opinion) -> Moved:
        """Somebody says that an event was right or wrong."""
        room, kind = body["room"], self.kind(body["event_type"], body["label"])
        before = self._verdicts.factor(room, kind)
        await self._verdicts.give(
            Verdict(
                event=body["id"],
                room=room,
                kind=kind,
                event_type=body["event_type"],
                label=body["label"],
                opinion=opinion,
                score=body["score"],
                plain=self._plain(room, kind) if by_threshold(body["model"]) else None,
                at=time.time(),
            )
        )
        return self._moved(body["id"], room, kind, before)

    async def withdraw(self, identity: str) -> Moved | None:
        """Somebody takes that back; None: nothing was said."""
        said = self._verdicts.of(identity)
        if said is None:
            return None
        before = self._verdicts.factor(said.room, said.kind)
        await self._verdicts.withdraw(identity)
        return self._moved(identity, said.room, said.kind, before)

    async def reset(self, room: str, kind: str) -> bool:
        """Take back everything that was said of a kind of sound in a room. Whether anything was."""
        said = self._verdicts.about(room, kind)
        if not await self._verdicts.reset(room, kind):
            return False
        log.info("%s: the threshold of %s is as it is configured", room, kind)
        self._house.weigh(room)
        for one in said:
            self._house.tell({"type": "verdict", "id": one.event, "opinion": None})
        self._tell_thresholds()
        return True

    def thresholds(self) -> list[Threshold]:
        """Those that verdicts are about."""
        found = (self.threshold(room, kind) for room, kind in self._verdicts.kinds())
        return [threshold for threshold in found if threshold is not None]

    def threshold(self, room: str, kind: str) -> Threshold | None:
        """As it is now; None: there is none, and nothing was said."""
        plain, said = self._plain(room, kind), self._verdicts.about(room, kind)
        if plain is None and not said:
            return None
        return Threshold(
            room,
            kind,
            event_type=OTHER if kind.startswith(f"{OTHER}:") else kind,
            label=said[-1].label if said else "",
            configured=_rounded(plain),
            in_force=_rounded(self._in_force(room, kind, self._verdicts.factor(room, kind))),
            correct=sum(one.opinion is Opinion.CORRECT for one in said),
            wrong=sum(one.opinion is Opinion.WRONG for one in said),
        )

    def _moved(self, identity: str, room: str, kind: str, before: float) -> Moved:
        """Let a verdict take effect, and say what came of it."""
        after = self._verdicts.factor(room, kind)
        verdict = self._verdicts.of(identity)
        if after != before:
            log.info("%s: the threshold of %s is now %.2f times what is configured", room, kind, after)
            self._house.weigh(room)
        opinion = None if verdict is None else verdict.opinion
        self._house.tell({"type": "verdict", "id": identity, "opinion": opinion})
        self._tell_thresholds()
        return Moved(
            opinion,
            self.threshold(room, kind),
            _rounded(self._in_force(room, kind, before)),
            after != before,
            "moved" if after != before or verdict is None else _why(verdict, before),
        )

    # snoozes

    async def snooze(self, body: Mapping[str, Any], seconds: float) -> Snooze:
        """Tell nobody of more like this event for a while. Raises `AssistantError`."""
        event_type, room, now = body["event_type"], body["room"], time.time()
        if event_type in NOT_SNOOZED:
            raise AssistantError(f"{event_type} cannot be snoozed; remedy: the listening switch of the room")
        kind = self.kind(event_type, body["label"])
        self._snoozes.add(
            Snooze(room=room, kind=kind, event_type=event_type, label=body["label"], since=now, until=now + seconds)
        )
        log.warning("%s: %s is told to nobody for %.0f s", room, kind, seconds)
        self._tell_snoozes()
        await self._snoozes.save()
        return next(one for one in self._snoozes.all(now) if (one.room, one.kind) == (room, kind))

    def snoozes(self) -> list[Snooze]:
        """What is snoozed, what ends first first."""
        return self._snoozes.all(time.time())

    def snoozed_until(self, room: str, kind: str) -> float | None:
        """Until when a kind of sound is snoozed in a room (Unix seconds)."""
        snooze = self._snoozes.of(room, kind, time.time())
        return None if snooze is None else snooze.until

    async def wake(self, room: str, kind: str) -> bool:
        """End a snooze. Whether there was one."""
        ended = self._end(room, kind)
        if ended:
            await self._snoozes.save()
        return ended

    def _end(self, room: str, kind: str) -> bool:
        running = self._snoozes.end(room, kind)
        if running is None:
            return False
        log.info("%s: %s is told again", room, kind)
        self._tell_snoozes()
        for event in running:
            self._house.emit(event)
        return True

    # what both need

    def kind(self, event_type: str, label: str) -> str:
        """What has a threshold, and a snooze, of its own."""
        return kind_of(self._house.table, event_type, label)

    def _plain(self, room: str, kind: str) -> float | None:
        """The threshold of a kind of sound in a room without verdicts."""
        return self._in_force(room, kind, 1.0)

    def _in_force(self, room: str, kind: str, factor: float) -> float | None:
        plain = self._house.plain.get(kind)
        return None if plain is None else in_force(plain, self._house.sensitivity(room), factor)

    def _tell_snoozes(self) -> None:
        self._house.tell({"type": "snoozes", "snoozes": [shown(one) for one in self.snoozes()]})

    def _tell_thresholds(self) -> None:
        self._house.tell({"type": "thresholds", "thresholds": [asdict(one) for one in self.thresholds()]})


def shown(snooze: Snooze) -> dict[str, Any]:
    """A snooze as pages are told of it."""
    return {**snooze.model_dump(), "life_safety": snooze.kind in LIFE_SAFETY}


def by_threshold(model: str) -> bool:
    """Whether the tagger's threshold decided about an event, alone or beside an alarm's rhythm."""
    parts = model.split("+")
    return "yamnet" in parts and parts[0] in {"yamnet", "t3", "t4"}  # a language model names itself first


def _why(verdict: Verdict, factor: float) -> Why:
    """Why a verdict has moved nothing."""
    if verdict.plain is None or verdict.score is None:
        return "no_threshold"
    if verdict.opinion is Opinion.CORRECT and verdict.score >= factor * verdict.plain:
        return "sure"
    return "above" if verdict.score < factor * verdict.plain else "bound"


def _rounded(threshold: float | None) -> float | None:
    return None if threshold is None else round(threshold, 3)
