"""One physical sound, one event: what two detectors say of the same type at the same time is joined."""

from __future__ import annotations

from dataclasses import dataclass, replace

from assistant.events import Detection, State


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
    """

    def __init__(self) -> None:
        self._open: list[_Open] = []

    def feed(self, detection: Detection) -> Detection | None:
        """The detection to announce, or None when an event that is out already stands for it."""
        if detection.state is State.STARTED:
            return self._started(detection)
        return self._ended(detection)

    def _started(self, detection: Detection) -> Detection | None:
        for sound in self._open:
            if sound.first.event_type == detection.event_type and detection.model not in sound.keys.values():
                sound.keys[detection.key] = detection.model
                sound.best = max(sound.best, detection.score)
                if detection.model not in sound.models:
                    sound.models.append(detection.model)
                return None
        self._open.append(_Open(detection, detection.score, {detection.key: detection.model}, [detection.model]))
        return detection

    def _ended(self, detection: Detection) -> Detection | None:
        for sound in self._open:
            if detection.key in sound.keys:
                del sound.keys[detection.key]
                sound.best = max(sound.best, detection.score)
                if sound.keys:
                    return None
                self._open.remove(sound)
                return replace(
                    detection,
                    key=sound.first.key,
                    label=sound.first.label,
                    event_type=sound.first.event_type,
                    start=sound.first.start,
                    score=sound.best,
                    model="+".join(sound.models),
                )
        return detection
