"""From a tagger's scores to sounds that start and end: once per sound, with its best label.

Labels are folded into *families*: the home's groups, kinds of sound that the tagger mixes up, and the rest one by one.
A family's evidence is the mean score of its best label over the last windows of an activity, less what the room always
sounds like; the more windows agree, the less each must say. One physical sound has one voice: while a sound is running
another family must be plainly stronger. How the numbers were found: docs/adr/0001-sound-tracking.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from assistant.bounded_yaml import BoundedLoader
from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Detection, Sensitivity, State, Tags
from assistant.settings import Settings

SIZE_LIMIT = 256 * 1024  # bytes of a sound table
OTHER = "other"  # event type of a label in no group
Scores = NDArray[np.float32]
AGREEMENT = (1.0, 0.25, 0.0)  # share of `single` that one, two, three agreeing windows must bring
UNNAMED = 1.25  # times its threshold that a family of event type other needs: a home names what it expects
SURE = 0.8  # no single window must score more than this: YAMNet seldom does
KEEP = 0.4  # times the threshold: evidence that a running sound goes on
FAINT = 0.3  # times the threshold: evidence that a sound has begun
SPEAKING = 0.4  # mean speech score above which somebody speaks
SPEECH_CAUTION = 0.5  # thresholds rise by this share of the speech score while somebody speaks
EXPLAINED = 0.3  # times the threshold: an exact family this strong explains what a general label says
GENERAL_NAME = 0.6  # times the best label's score at which a family's first label, its general name, is said instead
GENERAL_THRESHOLD = 0.7
LATE_AFTER = 2 * SAMPLE_RATE  # samples: the age of an activity from which
LATE_UNTIL = 6 * SAMPLE_RATE  # to which (older ones are the room's noise, over which new sounds come)
LATE_CAUTION = 1.25  # thresholds are so many times higher: many windows of the same sound have said nothing by then
QUIET_WEIGHT = 2.5  # times the mean background score that is subtracted: scores of noise fluctuate
QUIET_RATE = 0.3  # share of the newest background window in the mean
ONSET_IN_WINDOW = round(0.6 * SAMPLE_RATE)  # samples before the end of the first window that shows a sound
SHIFT = {Sensitivity.FEWER: 1.35, Sensitivity.BALANCED: 1.0, Sensitivity.MOST: 0.65}  # times each threshold
HIGHEST = 0.95  # a shifted threshold: above it nothing would ever be heard
NEAREST = 5  # candidates that a person is shown
WORTH_SHOWING = 0.01  # score of a candidate; of speech ten times that


class SoundSettings(Settings):
    """How scores become sounds."""

    sensitivity: Sensitivity = Field(
        default=Sensitivity.BALANCED, description="shifts every threshold; rooms may differ"
    )
    threshold: float = Field(default=0.3, gt=0.0, le=1.0, description="mean score a family needs when windows agree")
    single: float = Field(default=1.75, ge=1.0, le=5.0, description="times the threshold for a single window")
    memory: int = Field(default=4, ge=1, le=20, description="windows of an activity that are averaged")
    second_voice: float = Field(default=1.15, ge=1.0, le=10.0, description="times the threshold while a sound runs")
    hold: float = Field(default=1.5, ge=0.2, le=60.0, description="seconds without evidence after which a sound ended")
    background_seconds: float = Field(default=60.0, gt=0.0, description="seconds of activity that teach the background")


class SoundGroup(Settings):
    """One family of the sound table."""

    labels: tuple[str, ...] = Field(description="AudioSet display names, the general name first")
    threshold: float | None = Field(default=None, gt=0.0, le=1.0, description="score at which it counts as heard")
    agreement: int = Field(default=1, ge=1, le=10, description="windows that must agree")
    hold: float | None = Field(default=None, ge=0.2, le=600.0, description="seconds without evidence until it ended")
    cool_down: float = Field(default=2.0, ge=0.0, description="seconds after its end until it may be raised again")
    alert: bool = Field(default=False, description="somebody must hear about it: never learnt as background")


class SoundTable(Settings):
    """`config/sounds.yaml`: what the house calls the labels."""

    groups: Mapping[str, SoundGroup] = Field(description="event types")
    families: Mapping[str, SoundGroup] = Field(default_factory=dict, description="families of event type other")
    general: tuple[str, ...] = Field(default=(), description="labels that say too little")
    speech: tuple[str, ...] = Field(default=(), description="labels of speech: never sound events")
    scenes: tuple[str, ...] = Field(default=(), description="labels of places and silence: never events")


class _Plain(BoundedLoader):
    """YAML without aliases, which can make much of little."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Raises `yaml.YAMLError` for an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*) are not read here", mark)
        return super().compose_node(parent, index)


def load_table(path: Path) -> SoundTable:
    """The sound table of a YAML file. Raises `ConfigurationError`."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
        if len(content) > SIZE_LIMIT:
            raise ConfigurationError(f"{path}: larger than {SIZE_LIMIT // 1024} KiB; this is hardly a sound table")
        return SoundTable.model_validate(yaml.load(content.decode("utf-8-sig"), _Plain) or {})  # noqa: S506 (a safe one)
    except RecursionError:
        raise ConfigurationError(f"{path}: too deeply nested") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {where}: {first['msg']}; remedy: see the comments of the default") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read as YAML: {error}") from error


def slow_table(table: SoundTable, hold: float) -> SoundTable:
    """The same table for a tagger whose windows are seconds apart: one decides, and sounds are held for longer."""

    def slow(kinds: Mapping[str, SoundGroup]) -> dict[str, SoundGroup]:
        return {
            name: group.model_copy(update={"agreement": 1, "hold": max(hold, group.hold or 0.0)})
            for name, group in kinds.items()
        }

    return table.model_copy(update={"groups": slow(table.groups), "families": slow(table.families)})


def labels_of(table: SoundTable) -> tuple[str, ...]:
    """Every label of a table, each once."""
    kinds = (*table.groups.values(), *table.families.values())
    named = (label for kind in kinds for label in kind.labels)
    return tuple(dict.fromkeys((*named, *table.general, *table.speech, *table.scenes)))


@dataclass(frozen=True, slots=True)
class _Family:
    """Labels that mean one kind of sound."""

    event_type: str
    group: SoundGroup
    indices: tuple[int, ...]
    general: bool = False
    kind: str = ""  # as `kind_of` names it


@dataclass(slots=True, eq=False)
class _Sound:
    """A sound that is running."""

    key: int
    family: int
    label: str
    score: float  # best so far
    start: int  # samples
    last: int  # samples: end of the last window that held evidence


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """One window as the tracker keeps it."""

    end: int
    labels: Scores  # shape (labels,), background subtracted
    families: Scores  # shape (families,), best label of each
    speech: float


class Standing(StrEnum):
    """What a candidate lacks to be told, beside its score."""

    OPEN = "open"  # nothing: it starts when its score reaches its threshold
    SOUNDING = "sounding"  # it has started; its threshold is what keeps it alive
    COOLING = "cooling"  # it has just ended, and is not told again so soon
    AGREEING = "agreeing"  # more windows must agree
    EXPLAINED = "explained"  # a general label, which something exact explains
    WEAKER = "weaker"  # another sound is running that is stronger
    WITNESS = "witness"  # the audio language model decides, the tagger only speaks for it
    SPEECH = "speech"  # never a sound: it is for the recogniser


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the last window says of one kind of sound, and what decides about it."""

    label: str
    event_type: str
    score: float  # 0 to 1: mean of the windows that say most for it, less what the room always sounds like
    threshold: float | None  # which the score must reach, after this window, in this room; None: nothing is decided
    standing: Standing


@dataclass(frozen=True, slots=True, eq=False)
class _Weighed:
    """The last windows of an activity: what each family has, and what it needs."""

    means: NDArray[np.float64]  # shape (windows, families): of the newest, of the two newest …
    bars: NDArray[np.float64]  # the same shape: what each of these must reach; infinite where more windows must agree
    factor: float  # by which bars are higher than usual
    held: Mapping[Standing, NDArray[np.intp]]  # families that may not start, whatever they score

    @property
    def strengths(self) -> NDArray[np.float64]:
        """Shape (families,): evidence over what a start needs; 1 starts the sound."""
        strengths: NDArray[np.float64] = np.maximum.reduce(self.means / self.bars)
        for families in self.held.values():
            strengths[families] = 0.0
        return strengths


def _families(table: SoundTable, labels: Sequence[str]) -> list[_Family]:
    """Every label of the tagger in one family, but speech and scenes. A group takes its labels out of all else."""
    index = {label: i for i, label in enumerate(labels)}
    taken: dict[str, str] = {}

    def take(name: str, members: Sequence[str], *, claim: bool = False) -> tuple[int, ...]:
        chosen = []
        for label in members:
            if label not in index:
                raise ConfigurationError(f"sounds: {name}: {label!r} is no label of the tagger; see the shipped table")
            if claim and label in taken:
                raise ConfigurationError(
                    f"sounds: {label!r} is in {taken[label]} and in {name}; keep it in one of them"
                )
            if label not in taken:
                taken[label] = name
                chosen.append(index[label])
        return tuple(chosen)

    families = [
        _Family(slug, group, take(slug, group.labels, claim=True), kind=slug) for slug, group in table.groups.items()
    ]
    take("speech", table.speech)
    take("scenes", table.scenes)
    families += [
        _Family(OTHER, group, take(name, group.labels), kind=_other(name)) for name, group in table.families.items()
    ]
    for label in table.general:
        group = SoundGroup(labels=(label,), threshold=GENERAL_THRESHOLD)
        families.append(_Family(OTHER, group, take("general", (label,)), general=True, kind=_other(label)))
    families += [
        _Family(OTHER, SoundGroup(labels=(label,)), take(label, (label,)), kind=_other(label)) for label in labels
    ]
    return [family for family in families if family.indices]


def _other(name: str) -> str:
    return f"{OTHER}:{name}"


def kind_of(table: SoundTable, event_type: str, label: str) -> str:
    """What has a threshold of its own: an event type, or for `other` the family of the label: `other:door`."""
    if event_type != OTHER:
        return event_type
    return _other(next((name for name, family in table.families.items() if label in family.labels), label))


def plain_thresholds(table: SoundTable, labels: Sequence[str], settings: SoundSettings) -> dict[str, float]:
    """Each kind of sound that a tagger with these `labels` can tell, and its threshold as it is configured."""
    return {family.kind: _plain(family, settings) for family in _families(table, labels)}


def _plain(family: _Family, settings: SoundSettings) -> float:
    threshold = family.group.threshold or settings.threshold
    return threshold * UNNAMED if family.event_type == OTHER and not family.general else threshold


def in_force(plain: float, sensitivity: Sensitivity, factor: float = 1.0) -> float:
    """A threshold in a room of this sensitivity, where verdicts have multiplied it by `factor`."""
    return min(SHIFT[sensitivity] * factor * plain, max(plain, HIGHEST))


class Tracker:
    """The sounds of one stream. Pure: positions come with the windows and with `advance`."""

    def __init__(
        self,
        table: SoundTable,
        labels: Sequence[str],
        settings: SoundSettings | None = None,
        *,
        model: str = "yamnet",
        onset_in_window: int = ONSET_IN_WINDOW,
    ) -> None:
        """`labels` are the tagger's, in the order of its scores; `model` is its name.

        A sound begins at most `onset_in_window` samples before the end of the first window that shows it. Raises
        `ConfigurationError` for labels of the table that the tagger does not have.
        """
        self._settings = settings or SoundSettings()
        self._model, self._onset_in_window = model, onset_in_window
        self._labels = tuple(labels)
        self._families = _families(table, labels)
        self._members = np.concatenate([family.indices for family in self._families])
        self._offsets = np.cumsum([0] + [len(family.indices) for family in self._families[:-1]])
        agreements = [family.group.agreement for family in self._families]
        self._agreements = np.minimum(agreements, self._settings.memory)  # windows that each needs
        self._sensitivity, self._factors = self._settings.sensitivity, dict[str, float]()
        self._set_thresholds()
        self._general = np.array([family.general for family in self._families])
        self._speech = np.array([i for i, label in enumerate(labels) if label in table.speech], np.intp)
        self._exact, self._generals = np.flatnonzero(~self._general), np.flatnonzero(self._general)
        self._counts = np.arange(1, self._settings.memory + 1)[:, None]
        self._learns = np.ones(len(labels), np.float32)  # 0 for what is never learnt
        for family in self._families:
            if family.group.alert:
                self._learns[list(family.indices)] = 0.0
        self._quiet = np.zeros(len(labels), np.float32)  # mean scores of the room when nothing happens
        self._usual = np.zeros(len(labels), np.float32)  # mean scores of the room when something does
        self._recent: deque[_Heard] = deque(maxlen=self._settings.memory)  # of the running activity
        self._activity: int | None = None  # onset of the running activity
        self._last_end = 0
        self._running: dict[int, _Sound] = {}  # by family
        self._ready_at: dict[int, int] = {}  # by family: samples, where its cool-down is over
        self._keys = 0
        self.watched = False  # whether each window is to leave `candidates`
        self.candidates: tuple[Candidate, ...] = ()  # of the last window, nearest to a start first

    @property
    def sensitivity(self) -> Sensitivity:
        """How easily a sound is believed. It may be changed at any time and counts from the next window on.

        Every threshold moves by the same factor, and with it what is derived from thresholds: what one, two or three
        windows must bring, what keeps a running sound alive, what marks its onset. Holds and cool-downs stay.
        """
        return self._sensitivity

    @sensitivity.setter
    def sensitivity(self, sensitivity: Sensitivity) -> None:
        self._sensitivity = sensitivity
        self._set_thresholds()

    @property
    def running(self) -> bool:
        """Whether a sound is running."""
        return bool(self._running)

    def weigh(self, factors: Mapping[str, float]) -> None:
        """From the next window on multiply the thresholds of these kinds of sound (`kind_of`); of all others by 1."""
        self._factors = dict(factors)
        self._set_thresholds()

    def _set_thresholds(self) -> None:
        self._thresholds = np.array(
            [
                in_force(_plain(family, self._settings), self._sensitivity, self._factors.get(family.kind, 1.0))
                for family in self._families
            ]
        )
        self._bars = self._bars_by_windows()

    def feed(self, tags: Tags) -> list[Detection]:
        """What a window starts, at most one sound. Windows come in the order of their ends."""
        window = tags.window
        if window.onset >= window.end:  # nothing was active: the background alone
            self._quiet += np.float32(QUIET_RATE) * (tags.scores - self._quiet)
            self.candidates = ()
            return []
        if window.onset != self._activity:
            self._recent.clear()
            self._activity = window.onset
        heard = self._subtract(tags)
        self._learn(tags)
        self._recent.append(heard)
        self._follow(heard)
        weighed = self._weigh()
        if self.watched:
            self.candidates = tuple(self._candidates(weighed, tags))
        strengths = weighed.strengths
        best = int(strengths.argmax())
        return [self._start(best, tags)] if strengths[best] >= 1.0 else []

    def advance(self, position: int) -> list[Detection]:
        """What has ended because nothing was heard of it for its hold, up to `position` (samples)."""
        return [self._end(s, position) for s in list(self._running.values()) if position - s.last >= self._hold(s)]

    def end(self, position: int) -> list[Detection]:
        """The source has ended at `position` (samples), and so have its sounds."""
        return [self._end(sound, position) for sound in list(self._running.values())]

    def _bars_by_windows(self) -> NDArray[np.float64]:
        """Shape (memory, families): mean score that so many agreeing windows need."""
        share = np.zeros(max(self._settings.memory, len(AGREEMENT)))
        share[: len(AGREEMENT)] = AGREEMENT
        factors = 1.0 + (self._settings.single - 1.0) * share[: self._settings.memory]
        bars: NDArray[np.float64] = np.minimum(factors[:, None] * self._thresholds, np.maximum(self._thresholds, SURE))
        for i, family in enumerate(self._families):
            bars[: min(family.group.agreement, len(bars)) - 1, i] = np.inf
        return bars

    def _subtract(self, tags: Tags) -> _Heard:
        background = np.maximum(QUIET_WEIGHT * self._quiet, self._usual)
        labels = np.maximum(tags.scores - background, 0.0)
        families = np.maximum.reduceat(labels[self._members], self._offsets)
        return _Heard(tags.window.end, labels, families, float(tags.scores[self._speech].max(initial=0.0)))

    def _learn(self, tags: Tags) -> None:
        """What is always there while the gate is open: a machine's rhythm, a fan. Alerts are never learnt."""
        passed = min(max(tags.window.end - self._last_end, 0), SAMPLE_RATE // 2) / SAMPLE_RATE
        self._last_end = tags.window.end
        rate = np.float32(min(1.0, passed / self._settings.background_seconds))
        self._usual += rate * self._learns * (tags.scores - self._usual)

    def _follow(self, heard: _Heard) -> None:
        for sound in self._running.values():
            evidence = float(heard.families[sound.family])
            if evidence >= KEEP * self._thresholds[sound.family]:
                sound.last = heard.end
                sound.score = max(sound.score, evidence)

    def _weigh(self) -> _Weighed:
        """What each family has in the last windows, and what it needs."""
        n, end = len(self._recent), self._recent[-1].end
        newest_first = np.array([heard.families for heard in reversed(self._recent)])
        means = np.add.accumulate(newest_first) / self._counts[:n]
        factor = 1.0
        speech = sum(heard.speech for heard in self._recent) / n
        if speech > SPEAKING:
            factor *= 1.0 + SPEECH_CAUTION * speech
        if self._activity is not None and LATE_AFTER < end - self._activity < LATE_UNTIL:
            factor *= LATE_CAUTION
        held = {
            Standing.SOUNDING: np.array(list(self._running), np.intp),
            Standing.COOLING: np.array([family for family, at in self._ready_at.items() if at > end], np.intp),
        }
        exact = (means / self._bars[:n])[:, self._exact].max(initial=0.0)
        if exact > EXPLAINED * factor:
            held[Standing.EXPLAINED] = self._generals
        rivals = [sound.family for sound in self._running.values() if end - sound.last < SAMPLE_RATE]
        if rivals:
            relative = means[-1] / self._thresholds
            held[Standing.WEAKER] = np.flatnonzero(~(relative > relative[rivals].max()))
            factor *= self._settings.second_voice
        return _Weighed(means, factor * self._bars[:n], factor, held)

    def _candidates(self, weighed: _Weighed, tags: Tags) -> Iterator[Candidate]:
        """What comes nearest to a start, the one that starts first: for a person, at most `NEAREST`.

        What is shown decides: where `standing` is open, the sound starts if `score` reaches `threshold`.
        """
        most = NEAREST
        if len(self._speech) and tags.scores[self._speech].max() >= 10.0 * WORTH_SHOWING:
            best = int(self._speech[tags.scores[self._speech].argmax()])
            yield Candidate(self._labels[best], "speech", float(tags.scores[best]), None, Standing.SPEECH)
            most -= 1
        means, near = weighed.means, weighed.means / weighed.bars
        few = self._agreements > len(means)  # then the line is the one that will have to be reached
        later = weighed.factor * self._bars[self._agreements - 1, np.arange(len(self._families))]
        nearest = np.where(few, means[-1] / later, near.max(axis=0))
        for family in np.argsort(-nearest, kind="stable")[:most].tolist():
            free = Standing.AGREEING if few[family] else Standing.OPEN
            standing = next((reason for reason, held in weighed.held.items() if family in held), free)
            newest = int(near[:, family].argmax())
            if standing is Standing.SOUNDING:
                score, threshold = self._recent[-1].families[family], KEEP * self._thresholds[family]
            elif few[family]:
                score, threshold = means[-1, family], later[family]
            else:
                score, threshold = means[newest, family], weighed.bars[newest, family]
            if score >= WORTH_SHOWING:
                label, event_type = self._labels[self._said(family)], self._families[family].event_type
                yield Candidate(label, event_type, min(1.0, float(score)), float(threshold), standing)

    def _start(self, family: int, tags: Tags) -> Detection:
        window, label = tags.window, self._said(family)
        faint = FAINT * self._thresholds[family]
        first = next((heard for heard in self._recent if heard.families[family] >= faint), self._recent[-1])
        self._keys += 1
        sound = _Sound(
            key=self._keys,
            family=family,
            label=self._labels[label],
            score=min(1.0, float(max(heard.labels[label] for heard in self._recent))),
            start=max(window.onset, first.end - self._onset_in_window),
            last=window.end,
        )
        self._running[family] = sound
        return self._detection(sound, State.STARTED, window.end, window.level_dbfs)

    def _said(self, family: int) -> int:
        """Index of the label that a family is called by now: its best one, or its general name where that is near."""
        members = self._families[family].indices
        means = np.array([heard.labels[list(members)] for heard in self._recent]).mean(axis=0)
        best = int(means.argmax())
        return members[0 if means[0] >= GENERAL_NAME * means[best] else best]

    def _hold(self, sound: _Sound) -> int:
        hold = self._families[sound.family].group.hold
        return round((self._settings.hold if hold is None else hold) * SAMPLE_RATE)

    def _end(self, sound: _Sound, position: int) -> Detection:
        del self._running[sound.family]
        cool_down = self._families[sound.family].group.cool_down
        self._ready_at[sound.family] = sound.last + round(cool_down * SAMPLE_RATE)
        return self._detection(sound, State.ENDED, position, None)

    def _detection(self, sound: _Sound, state: State, heard_at: int, level_dbfs: float | None) -> Detection:
        return Detection(
            key=sound.key,
            state=state,
            event_type=self._families[sound.family].event_type,
            label=sound.label,
            score=round(sound.score, 3),
            start=sound.start,
            end=sound.last if state is State.ENDED else None,
            heard_at=heard_at,
            level_dbfs=level_dbfs,
            model=self._model,
        )
