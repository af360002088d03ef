"""What rules would have done with what was heard before: time is simulated, nothing is done.

The rules are the real ones (`rules.Rules`) with the clock of the events. What the history does not know is told: rooms
that were not heard for a while, what was said while `privacy.transcripts` was off, answers of a language model.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any
from urllib.parse import urlsplit

from assistant.errors import AssistantError
from assistant.events import Action, Ask, Event, Intent, KeepClip, Log, Publish, Say, State, Webhook, Word
from assistant.rules import Outcome, Rule, Rules

SHOWN = 100  # firings, the latest
DEEDS = 20  # of one firing
TEXT = 300  # characters of a payload
LOOK_EVERY = 64  # steps between two looks at the clock
WITNESSES = ("yamnet", "whisper", "t3", "t4", "test")


@dataclass(frozen=True, slots=True)
class Deed:
    """What would have been done."""

    kind: str  # of the action, as rules call it
    what: str  # the payload or text; nothing that may be a secret
    where: str | None = None  # a topic, a room or a host


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule would have fired."""

    rule: str
    time: float  # Unix seconds
    room: str | None = None  # None: something was absent
    event_type: str | None = None
    event_id: str | None = None
    deeds: tuple[Deed, ...] = ()


@dataclass(slots=True)
class Rehearsal:
    """What came of it."""

    fired: Counter[str] = field(default_factory=Counter)  # by name of the rule
    firings: list[Firing] = field(default_factory=list)  # the oldest first
    events: int = 0  # that were told to the rules
    wordless: int = 0  # of them speech whose words are not in the history


def rehearse(
    rules: Sequence[Rule],
    history: Sequence[Mapping[str, Any]],
    since: float,
    until: float,
    *,
    transcripts: bool = False,
    rooms: Mapping[str, str] | None = None,
    hold: Callable[[str], float] = lambda _event_type: 0.0,
    understood: bool = False,
    timezone: tzinfo | None = None,
    within: float = 20.0,
) -> Rehearsal:
    """Tell `rules` the events of a history (its JSON) in the order in which the house heard of them.

    `since`, `until` are Unix seconds; `hold` says how long after its end a sound of a type is told to have ended;
    `understood`: an audio language model was there, whose word alone does not count. Raises `AssistantError` after
    `within` seconds of processor time.
    """
    stage = _Stage(Rules(rules, transcripts=transcripts, rooms=rooms, timezone=timezone), time.thread_time() + within)
    told = sorted(
        (moment for body in history for moment in _moments(body, hold, understood)), key=lambda moment: moment[0]
    )
    stage.rules.tick(since)
    for now, event in told:
        if not since <= now < until:
            continue
        stage.let_pass(now)
        stage.act(stage.rules.feed(event, now), now)
        if event.state is not State.ENDED:
            stage.result.events += 1
            stage.result.wordless += event.kind == "speech" and event.text is None
    stage.let_pass(until)
    return stage.result


def event_of(body: Mapping[str, Any]) -> Event:
    """An event out of its JSON. Raises `KeyError`, `TypeError` and `ValueError` for anything else."""
    fields = {name: value for name, value in body.items() if name in Event.__dataclass_fields__}
    words, intent = body.get("words"), body.get("intent")
    return Event(
        **{
            **fields,
            "state": State(body["state"]),
            "words": None if words is None else tuple(Word(**word) for word in words),
            "intent": None if intent is None else Intent(**intent, language=""),
        }
    )


def _moments(body: Mapping[str, Any], hold: Callable[[str], float], understood: bool) -> list[tuple[float, Event]]:
    """When the house was told of an event, and of its end."""
    try:
        event = event_of(body)
        start = datetime.fromisoformat(event.start or "").timestamp()
        raised = start + max(0.0, event.heard_at - event.offset)
    except (KeyError, TypeError, ValueError):
        return []
    witnessed = not understood or "+" in event.model or event.model.startswith(WITNESSES)
    values = {name: getattr(event, name) for name in Event.__dataclass_fields__} | {"witnessed": witnessed}
    if event.kind != "sound":
        return [(raised, Event(**values))]
    begun = Event(**{**values, "state": State.STARTED, "end": None, "duration": None})
    over = Event(**{**values, "state": State.ENDED})
    ended = start + (event.duration or 0.0) + hold(event.event_type) if event.state is State.ENDED else raised
    return [(raised, begun), (max(raised, ended), over)]


class _Stage:
    """Rules that act, and who notes what they would do."""

    def __init__(self, rules: Rules, deadline: float) -> None:
        self.rules, self.result = rules, Rehearsal()
        self._deadline, self._steps = deadline, 0

    def let_pass(self, until: float) -> None:
        """Let time pass until then; what lasts or stays away becomes due meanwhile."""
        while (due := self.rules.next_deadline()) is not None and due < until:
            self.act(self.rules.tick(due), due)
        self.act(self.rules.tick(until), until)

    def act(self, actions: Sequence[Action], now: float) -> None:
        """Note what a step would have done."""
        self._steps += 1
        if self._steps % LOOK_EVERY == 0 and time.thread_time() > self._deadline:
            raise AssistantError("there is too much in the history to try this in time; remedy: fewer days")
        deeds: dict[str, list[Deed]] = {}
        left = list(actions)
        while left:
            action = left.pop(0)
            mine = deeds.setdefault(action.rule, [])
            if len(mine) < DEEDS:
                mine.append(_deed(action))
            if isinstance(action, Ask):
                left[:0] = self.rules.answered(action, None)
            elif isinstance(action, KeepClip):
                left[:0] = self.rules.kept(action, action.event.clip)
        for name, count in (self.rules.fired - self.result.fired).items():
            about = [one for one in self.rules.evaluations(name) if one.outcome is Outcome.FIRED][:count][::-1]
            for one in about:
                mine = deeds.get(name, [])
                share = -(-len(mine) // len(about))  # all of one rule do the same
                self.result.firings.append(
                    Firing(name, now, one.room, one.event_type, one.event_id, tuple(mine[:share]))
                )
                deeds[name] = mine[share:]
            self.result.fired[name] += count
        del self.result.firings[:-SHOWN]


def _deed(action: Action) -> Deed:  # noqa: PLR0911 (one for each kind)
    match action:
        case Publish():
            return Deed("publish", action.payload[:TEXT], action.topic[:TEXT])
        case Say():
            return Deed("say", action.text[:TEXT], action.room)
        case Log():
            return Deed("log", action.message[:TEXT])
        case Webhook():
            return Deed("webhook", action.method, urlsplit(action.url).netloc)
        case KeepClip():
            return Deed("keep_clip", "")
        case Ask(prompt=None):
            return Deed("describe", "")
    return Deed("ask", (action.prompt or "")[:TEXT])
