"""One physical sound, one event: what two detectors say of the same sound at the same time is joined."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from assistant.events import SAMPLE_RATE, Detection, State

CADENCES = frozenset({"t3", "t4"})  # models that know an alarm by its rhythm
MISTAKEN = frozenset({"phone", "appliance_beep", "alarm_clock"})  # what a tagger calls those same beeps
TAUGHT = "taught"  # model of the sounds that the household taught
SLACK = SAMPLE_RATE  # samples: the tagger's onsets are only that exact


@dataclass(slots=True)
class _Open:
    """The event that is out, and the detections it stands for."""

    first: Detection
    best: float
    keys: dict[int, str]  # detections not yet ended, and the model of each
    models: list[str]  # all that took part, in order


class Merger:
    """Joins overlapping detections of one event type when they come from different models.

    A tagger and a cadence detector both raise `smoke_alarm` for one alarm; the house is told once. Two sounds of one
    model stay two: that model's tracker has already decided.

    What only a language model heard is no ground to act: when another model hears it too, that is told as a sound of
    its own, and the doubtful one ends.

    A tagger calls the beeps of an alarm a telephone, an alarm clock or an appliance (so YAMNet, most
    T3 and T4). While a cadence is heard those are not told, and one that began with it ends when the cadence is known.

    A taught sound stands for whatever else the tagger calls it, except for an alert: that is never kept back.
    """

    def __init__(self, alerts: Collection[str] = ()) -> None:
        """`alerts` are the event types that are always told."""
        self._alerts = frozenset(alerts)
        self._taught: list[Detection] = []  # those that last, and the last one that ended
        self._open: list[_Open] = []
        self._mistaken: set[int] = set()  # keys of detections that were the beeps of an alarm

    def feed(self, detection: Detection) -> list[Detection]:
        """The detections to announce; none when an event that is out already stands for this one."""
        if detection.state is not State.STARTED:
            return self._ended(detection)
        if (detection.event_type in MISTAKEN and self._alarm_sounds()) or self._is_taught(detection):
            self._mistaken.add(detection.key)
            return []
        started = self._started(detection)
        if detection.model == TAUGHT:
            self._taught = [sound for sound in self._taught if sound.end is None] + [detection]
            return [*started, *self._end_taught(detection)]
        return [*started, *self._end_mistaken(detection)] if detection.model in CADENCES else started

    def _is_taught(self, detection: Detection) -> bool:
        """Whether a taught sound that is out already stands for it: by its name, or because both began together."""
        if detection.model in {TAUGHT, *CADENCES} or detection.event_type in self._alerts:
            return False
        return any(
            (detection.label in sound.also or abs(detection.start - sound.start) <= SLACK)
            and (sound.end is None or detection.start <= sound.end + SLACK)
            for sound in self._taught
        )

    def _end_taught(self, taught: Detection) -> list[Detection]:
        """End what `taught` was called since it began; what sounded before it goes on."""
        called = [
            sound
            for sound in self._open
            if sound.first.start >= taught.start - SLACK
            and sound.first.event_type not in self._alerts
            and not CADENCES & set(sound.models)
            and sound.first.model != TAUGHT
        ]
        return self._withdraw(called, taught.heard_at)

    def _alarm_sounds(self) -> bool:
        return any(model in CADENCES for sound in self._open for model in sound.keys.values())

    def _withdraw(self, sounds: list[_Open], now: int) -> list[Detection]:
        """End sounds at `now` that another one stands for from here on."""
        for sound in sounds:
            self._open.remove(sound)
            self._mistaken.update(sound.keys)
        return [
            replace(sound.first, state=State.ENDED, score=sound.best, end=now, heard_at=now, level_dbfs=None)
            for sound in sounds
        ]

    def _end_mistaken(self, alarm: Detection) -> list[Detection]:
        """End what `alarm` was taken for since it began; a telephone that rang before it goes on ringing."""
        beeps = [
            sound
            for sound in self._open
            if sound.first.event_type in MISTAKEN and sound.first.start >= alarm.start - SLACK
        ]
        return self._withdraw(beeps, alarm.heard_at)

    def _started(self, detection: Detection) -> list[Detection]:
        same = [sound for sound in self._open if sound.first.event_type == detection.event_type]
        doubtful = [sound for sound in same if detection.witnessed and not sound.first.witnessed]
        ended = self._withdraw(doubtful, detection.heard_at)
        for sound in same:
            if sound not in doubtful and detection.model not in sound.keys.values():
                sound.keys[detection.key] = detection.model
                sound.best = max(sound.best, detection.score)
                if detection.model not in sound.models:
                    sound.models.append(detection.model)
                return ended
        self._open.append(_Open(detection, detection.score, {detection.key: detection.model}, [detection.model]))
        return [*ended, detection]

    def _ended(self, detection: Detection) -> list[Detection]:
        if detection.model == TAUGHT:
            self._taught = [replace(s, end=detection.end) if s.key == detection.key else s for s in self._taught]
        if detection.key in self._mistaken:
            self._mistaken.remove(detection.key)
            return []
        for sound in self._open:
            if detection.key in sound.keys:
                del sound.keys[detection.key]
                sound.best = max(sound.best, detection.score)
                if sound.keys:
                    return []
                self._open.remove(sound)
                last = replace(
                    detection,
                    key=sound.first.key,
                    label=sound.first.label,
                    event_type=sound.first.event_type,
                    start=sound.first.start,
                    score=sound.best,
                    model="+".join(dict.fromkeys("+".join(sound.models).split("+"))),
                    witnessed=sound.first.witnessed,
                )
                return [last]
        return [detection]
