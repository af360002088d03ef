"""From a tagger's scores to sounds that start and end: once per sound, with its best label.

Labels are folded into *families*: the home's groups, kinds of sound that the tagger mixes up, and the rest one by one.
A family's evidence is the mean score of its best label over the last windows of an activity, less what the room always
sounds like; the more windows agree, the less each must say. One physical sound has one voice: while a sound is running
another family must be plainly stronger.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Detection, State, Tags
from assistant.settings import Settings

OTHER = "other"  # event type of a label in no group
Scores = NDArray[np.float32]


class Sensitivity(StrEnum):
    """How much must be heard before something is said."""

    FEWER = "fewer false alarms"
    BALANCED = "balanced"
    MISS_NOTHING = "miss nothing"


SHIFT = {Sensitivity.FEWER: 1.35, Sensitivity.BALANCED: 1.0, Sensitivity.MISS_NOTHING: 0.65}  # times each threshold


class SoundSettings(Settings):
    """How scores become sounds."""

    sensitivity: Sensitivity = Field(default=Sensitivity.BALANCED, description="shifts every threshold")
    threshold: float = Field(default=0.3, gt=0.0, le=1.0, description="mean score a family needs when windows agree")
    single: float = Field(default=0.3, ge=0.0, le=1.0, description="added to the threshold for a single window")
    memory: int = Field(default=4, ge=1, le=20, description="windows of an activity that are averaged")
    second_voice: float = Field(default=0.25, ge=0.0, le=1.0, description="added while another sound is running")
    hold: float = Field(default=1.5, ge=0.2, le=60.0, description="seconds without evidence after which a sound ended")
    background_seconds: float = Field(default=60.0, gt=0.0, description="seconds of activity that teach the background")


class SoundGroup(Settings):
    """One family of the sound table."""

    labels: tuple[str, ...] = Field(description="AudioSet display names")
    threshold: float | None = Field(default=None, gt=0.0, le=1.0, description="score at which it counts as heard")
    agreement: int = Field(default=1, ge=1, le=10, description="windows that must agree")
    cool_down: float = Field(default=2.0, ge=0.0, description="seconds after its end until it may be raised again")
    alert: bool = Field(default=False, description="somebody must hear about it: never learnt as background")


class SoundTable(Settings):
    """`config/sounds.yaml`: what the house calls the labels."""

    groups: Mapping[str, SoundGroup] = Field(description="event types")
    families: Mapping[str, SoundGroup] = Field(default_factory=dict, description="families of event type other")
    general: tuple[str, ...] = Field(default=(), description="labels that say too little")
    speech: tuple[str, ...] = Field(default=(), description="labels of speech: never sound events")
    scenes: tuple[str, ...] = Field(default=(), description="labels of places and silence: never events")


def load_table(path: Path) -> SoundTable:
    """The sound table of a YAML file. Raises `ConfigurationError`."""
    try:
        return SoundTable.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {where}: {first['msg']}; remedy: see the comments of the default") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read as YAML: {error}") from error


@dataclass(frozen=True, slots=True)
class _Family:
    event_type: str
    group: SoundGroup
    indices: tuple[int, ...]
    general: bool = False


@dataclass(slots=True, eq=False)
class _Sound:
    """A sound that is running."""

    key: int
    family: int
    label: str
    score: float
    start: int
    last: int  # samples: end of the last window that held evidence


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """One window as the tracker keeps it."""

    end: int
    labels: Scores  # shape (labels,), background subtracted
    families: Scores  # shape (families,), best of each
    speech: float


def _families(table: SoundTable, labels: Sequence[str]) -> list[_Family]:
    index = {label: i for i, label in enumerate(labels)}
    taken: dict[str, str] = {}

    def indices(name: str, members: Sequence[str]) -> tuple[int, ...]:
        for label in members:
            if label not in index:
                raise ConfigurationError(f"sounds: {name}: {label!r} is no AudioSet display name of the tagger")
            if label in taken:
                raise ConfigurationError(f"sounds: {label!r} is in {taken[label]} and in {name}; keep one of them")
            taken[label] = name
        return tuple(index[label] for label in members)

    for name, members in (("speech", table.speech), ("scenes", table.scenes)):
        indices(name, members)
    families = [
        _Family(slug, group, indices(slug, group.labels)) for slug, group in table.groups.items() if group.labels
    ]
    families += [_Family(OTHER, group, indices(name, group.labels)) for name, group in table.families.items()]
    families += [
        _Family(OTHER, SoundGroup(labels=(label,), threshold=0.7), indices("general", (label,)), general=True)
        for label in table.general
    ]
    families += [_Family(OTHER, SoundGroup(labels=(label,)), (i,)) for label, i in index.items() if label not in taken]
    return families


class Tracker:
    """The sounds of one stream. Pure: positions come with the windows and with `advance`."""

    def __init__(self, table: SoundTable, labels: Sequence[str], settings: SoundSettings | None = None) -> None:
        """`labels` are the tagger's, in the order of its scores. Raises `ConfigurationError` for unknown labels."""
        self._settings = settings or SoundSettings()
        self._labels = tuple(labels)
        self._families = _families(table, labels)
        self._members = np.concatenate([family.indices for family in self._families])
        self._starts = np.cumsum([0] + [len(family.indices) for family in self._families[:-1]])
        shift = SHIFT[self._settings.sensitivity]
        self._thresholds = np.array([(f.group.threshold or self._settings.threshold) * shift for f in self._families])
        self._general = np.array([f.general for f in self._families])
        self._speech = np.array([labels.index(label) for label in table.speech], np.intp)
        self._learns = np.ones(len(labels), bool)
        for family in self._families:
            if family.group.alert:
                self._learns[list(family.indices)] = False
        self._quiet = np.zeros(len(labels), np.float32)  # scores of the room when nothing happens
        self._usual = np.zeros(len(labels), np.float32)  # scores of the room when the gate is open
        self._recent: deque[_Heard] = deque(maxlen=self._settings.memory)
        self._activity: int | None = None
        self._onset = 0
        self._last_end = 0
        self._running: dict[int, _Sound] = {}  # by family
        self._ready_at: dict[int, int] = {}  # family → samples: cool-down over
        self._keys = 0

    def feed(self, tags: Tags) -> list[Detection]:
        """What a window starts. Windows come in order of their ends."""
        window = tags.window
        if window.onset >= window.end:  # the background alone
            self._quiet += np.float32(0.3) * (tags.scores - self._quiet)
            return []
        if window.onset != self._activity:
            self._recent.clear()
            self._activity = window.onset
        heard = self._subtract(tags)
        self._learn(tags)
        self._recent.append(heard)
        self._follow(heard)
        family, evidence = self._best()
        if family is None:
            return []
        return [self._start(family, evidence, tags)]

    def _subtract(self, tags: Tags) -> _Heard:
        background = np.maximum(BGQ * self._quiet, BGU * self._usual)
        labels = np.maximum(tags.scores - background, 0.0)
        families = np.maximum.reduceat(labels[self._members], self._starts)
        speech = float(tags.scores[self._speech].max(initial=0.0))
        return _Heard(tags.window.end, labels, families, speech)

    def _learn(self, tags: Tags) -> None:
        step = min(max(tags.window.end - self._last_end, 0), SAMPLE_RATE // 2) / SAMPLE_RATE
        self._last_end = tags.window.end
        rate = np.float32(step / self._settings.background_seconds)
        self._usual[self._learns] += rate * (tags.scores - self._usual)[self._learns]

    def _follow(self, heard: _Heard) -> None:
        for sound in self._running.values():
            if heard.families[sound.family] >= KEEP * self._thresholds[sound.family]:
                sound.last = heard.end
                sound.score = max(sound.score, float(heard.families[sound.family]))

    def _best(self) -> tuple[int | None, float]:
        n = len(self._recent)
        stack = np.array([h.families for h in self._recent])[::-1]
        means = np.cumsum(stack, axis=0) / np.arange(1, n + 1)[:, None]
        extra = self._settings.single * np.array([1.0, .5, .25] + [0.0] * 20)[:n, None]
        margins = means - extra - self._thresholds
        for i, f in enumerate(self._families):
            if f.group.agreement > 1: margins[: f.group.agreement - 1, i] = -1
        margin = margins.max(axis=0)
        speech = np.mean([h.speech for h in self._recent])
        if speech > 0.4: margin = margin - SPEECH * speech
        exact = margin[~self._general].max()
        if (means[-1][~self._general]).max() > 0.15: margin = np.where(self._general, -1, margin)
        end = self._recent[-1].end
        rivals = [s for s in self._running.values() if end - s.last < SAMPLE_RATE]
        if rivals:
            cur = max(means[-1][s.family] for s in rivals)
            margin = np.where(means[-1] > cur, margin - self._settings.second_voice, -1)
        for fam in self._running: margin[fam] = -1
        for fam, at in self._ready_at.items():
            if at > end: margin[fam] = -1
        best = int(margin.argmax())
        if margin[best] < 0:
            return None, 0.0
        return best, float(means[-1][best])

    def _start(self, family, evidence, tags):
        window = tags.window
        members = list(self._families[family].indices)
        mean = np.mean([h.labels[members] for h in self._recent], axis=0)
        label = self._labels[members[int(mean.argmax())]]
        first = next((h for h in self._recent if h.families[family] >= 0.3 * self._thresholds[family]), self._recent[-1])
        start = max(window.onset, first.end - SAMPLE_RATE * 6 // 10)
        self._keys += 1
        self._running[family] = _Sound(self._keys, family, label, evidence, start, window.end)
        return Detection(self._keys, State.STARTED, self._families[family].event_type, label, float(min(1,evidence)), start, None, window.end, window.level_dbfs, "yamnet")

    def advance(self, position: int) -> list[Detection]:
        """What ended because nothing was heard of it up to `position`."""
        hold = round(self._settings.hold * SAMPLE_RATE)
        return [self._end(s, position) for s in list(self._running.values()) if position - s.last >= hold]

    def end(self, position: int) -> list[Detection]:
        """The source has ended: so have its sounds."""
        return [self._end(s, position) for s in list(self._running.values())]

    def _end(self, sound, position):
        del self._running[sound.family]
        group = self._families[sound.family].group
        self._ready_at[sound.family] = sound.last + round(group.cool_down * SAMPLE_RATE)
        return Detection(sound.key, State.ENDED, self._families[sound.family].event_type, sound.label, min(1.0,sound.score), sound.start, sound.last, position, None, "yamnet")

BGQ=1.0;BGU=1.0;KEEP=0.4;SPEECH=0.3
