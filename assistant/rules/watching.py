"""What one rule remembers: sounds that go on, how often it was heard, since when nothing was."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as with_default

from assistant.events import Event, Presence, RoomChanged, State
from assistant.rules.evaluations import KEPT, Evaluation, Outcome, missed
from assistant.rules.matching import Hours, matches
from assistant.rules.settings import Rule

OPEN_LIMIT = 1_000  # sounds that one rule follows at once; the oldest is forgotten


@dataclass(slots=True)
class _Open:
    """A sound that goes on."""

    event: Event
    onset: float
    fired: bool = False


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule's condition came true."""

    event: Event | None  # None: something was absent
    times: int | None = None
    lasted: float | None = None  # seconds


@dataclass(slots=True)
class Watch:
    """One rule, what it remembers and when it may fire again."""

    name: str
    rule: Rule
    hours: Hours
    since: float = 0.0  # last time that the sound was there, for `absent`
    quiet_until: float = float("-inf")
    told: bool = False  # `absent` fired; waits for the sound to come back
    open: dict[str, _Open] = with_default(default_factory=dict)
    hits: deque[float] = with_default(default_factory=deque)
    away: set[str] = with_default(default_factory=set)  # rooms that cannot hear
    evaluations: deque[Evaluation] = with_default(default_factory=lambda: deque(maxlen=KEPT))

    def note(self, now: float, outcome: Outcome, event: Event | None, value: float | None = None) -> None:
        """Remember what came of an event; None: of nothing, for which the rule waited."""
        if event is None:
            self.evaluations.append(Evaluation(now, outcome, value=value))
        else:
            self.evaluations.append(Evaluation(now, outcome, event.room, event.event_type, event.id, value))

    def waits_for(self, event: Event, text: str | None, now: float) -> bool:
        """Whether the event is what the rule names, in the state and at the time that it names."""
        return self._would_wait_for(event, text) and self.hours.hold(now)

    def _would_wait_for(self, event: Event, text: str | None) -> bool:
        """The same at any time."""
        when = self.rule.when
        wanted = when.state or (State.HEARD if when.is_speech else State.STARTED)
        return event.state == wanted and matches(when, event, text)

    def doubts(self, event: Event) -> bool:
        """Whether the rule must not act on this event, since only an audio language model heard it.

        The end of a sound that it follows is believed, and so is a sound that disproves an absence: nothing is done.
        """
        when = self.rule.when
        followed = when.lasting is not None and event.state is State.ENDED
        return not (event.witnessed or self.rule.unconfirmed or followed or when.absent is not None)

    def feed(self, event: Event, text: str | None, now: float) -> Iterator[Firing]:
        """What an event makes true, given what was said in it."""
        when = self.rule.when
        if when.lasting is not None or when.absent is not None:
            yield from self._follow(event, text, now)
            return
        if not self.waits_for(event, text, now):
            self._missed(event, text, now)
            return
        if when.times is None or when.within is None:
            yield Firing(event)
            return
        self.hits.append(now)
        while self.hits and self.hits[0] < now - when.within:
            self.hits.popleft()
        if len(self.hits) >= when.times:
            count = len(self.hits)
            self.hits.clear()
            yield Firing(event, times=count)
        else:
            self.note(now, Outcome.COUNTING, event, len(self.hits))

    def _missed(self, event: Event, text: str | None, now: float) -> None:
        """Note why an event of the right kind is not what the rule waits for."""
        reason = missed(self.rule.when, event, text)
        if reason is not None:
            self.note(now, reason, event, event.score if reason is Outcome.SCORE else None)
        elif not self.hours.hold(now) and self._would_wait_for(event, text):
            self.note(now, Outcome.HOURS, event)

    def _follow(self, event: Event, text: str | None, now: float) -> Iterator[Firing]:
        """Keep the book of sounds that go on."""
        when = self.rule.when
        if event.state is State.ENDED:
            going = self.open.pop(event.id, None)
            if going is None:
                return
            self.since, self.told = now, False
            # A file read faster than real time ends a sound before the clock says that it has lasted.
            long = when.lasting is not None and event.duration is not None and event.duration >= when.lasting
            if long and not going.fired and when.state is not State.ENDED and self.hours.hold(now):
                yield Firing(event, lasted=event.duration)
            elif when.lasting is not None and not going.fired:
                self.note(now, Outcome.HOURS if long else Outcome.SHORT, event, event.duration)
        elif not matches(when, event, text):
            self._missed(event, text, now)
        else:
            self.since, self.told = now, False
            if event.state is State.STARTED:
                while len(self.open) >= OPEN_LIMIT:
                    self.open.pop(next(iter(self.open)))
                heard_for = max(0.0, min(60.0, event.heard_at - event.offset))
                self.open[event.id] = _Open(event, now - heard_for)
                if when.lasting is not None:
                    self.note(now, Outcome.WAITING, event, now - heard_for + when.lasting)
            if when.absent is not None:
                self.note(now, Outcome.PRESENT, event)

    def presence(self, changed: RoomChanged, now: float) -> None:
        """A room that cannot hear ends its sounds and proves no absence."""
        if self.rule.when.room and changed.room not in self.rule.when.room:
            return
        if changed.presence is Presence.ONLINE:
            if changed.room in self.away:
                self.away.discard(changed.room)
                self.since = now
        else:
            # A room switched off is no longer part of the whole house, but a rule that names it waits for it.
            if changed.presence is Presence.OFFLINE or self.rule.when.room:
                self.away.add(changed.room)
            else:
                self.away.discard(changed.room)
            for key in [key for key, going in self.open.items() if going.event.room == changed.room]:
                del self.open[key]
                self.since = now

    def tick(self, now: float) -> Iterator[Firing]:
        """What time makes true."""
        when = self.rule.when
        if not self.hours.hold(now):
            return
        if when.lasting is not None and when.state is not State.ENDED:
            for going in self.open.values():
                if not going.fired and now >= going.onset + when.lasting:
                    going.fired = True
                    yield Firing(going.event, lasted=now - going.onset)
        elif self._absence_counts() and when.absent is not None and now >= self.since + when.absent:
            self.told = True
            yield Firing(None, lasted=now - self.since)

    def _absence_counts(self) -> bool:
        return self.rule.when.absent is not None and not (self.told or self.open or self.away)

    def deadline(self, now: float) -> float | None:
        """When `tick` should be called, as far as it is known."""
        when = self.rule.when
        due: list[float] = []
        if when.lasting is not None and when.state is not State.ENDED:
            due = [going.onset + when.lasting for going in self.open.values() if not going.fired]
        elif self._absence_counts() and when.absent is not None:
            due = [self.since + when.absent]
        return self.hours.opening(max(min(due), now)) if due else None

    def shift(self, by: float) -> None:
        """The clock was set back: what is remembered goes with it."""
        self.since += by
        self.quiet_until += by
        self.hits = deque(hit + by for hit in self.hits)
        for going in self.open.values():
            going.onset += by
