"""What an audio language model adds to one stream: sounds that it hears itself, captions of sounds that are told.

The model is slower than the room and may be busy with another one: nothing here makes the stream wait, except where
that is wanted because a file is read as fast as possible (`patient`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Chunk, Detection, Samples, State, Tags, Window
from assistant.evidence import Witness
from assistant.resident import BusyError, Priority, Resident, Status
from assistant.segment.activity import Frame
from assistant.segment.recent import Recent
from assistant.segment.windows import LongWindowSettings, Windows
from assistant.tracking import SoundSettings, SoundTable, Tracker, labels_of, slow_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from assistant.models.audio_llm import AudioLLM

log = logging.getLogger(__name__)

WINDOW = 3 * SAMPLE_RATE  # samples that the model hears at once
ONSET_IN_WINDOW = round(1.5 * SAMPLE_RATE)  # samples: one hop, since the window before did not show the sound
WINDOW_DEADLINE = 3.0  # seconds: a window that is scored later says nothing about now
HOLD = 6.0  # seconds without evidence until a sound has ended: one window later than its deadline, and some
MEMORY = 2  # windows that are averaged: four would be the last seven seconds
WITNESS = 0.5  # times its threshold that the tagger must score for a kind of sound to agree with the model
FIRST_KEY = 1_000_000  # of detections: those of taggers count from 1, those of cadences down from -1
CAPTION_AFTER = 0.75  # seconds of a sound that a caption waits for: it needs more to hear than a start does
CAPTION_BEFORE = 1.0  # seconds before the sound that belong to its clip
CAPTION_DEADLINE = 20.0  # seconds; most captions are given up sooner, when their sound ends
LATEST_CAPTIONS = 4  # a stream; older ones are given up


class LLMTagger(Protocol):
    """Scores its labels over a window by a language model's own likelihood."""

    labels: tuple[str, ...]

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        """Scores of shape (labels,), 0 to 1."""


class SharedTagger:
    """The model's tagger for all streams, made in its thread when the first window needs it."""

    def __init__(
        self, table: SoundTable, make: Callable[[AudioLLM, Sequence[str], Sequence[Sequence[str]]], LLMTagger]
    ) -> None:
        """`make` gets the model, all labels of `table`, and those of each of its groups."""
        self.labels = labels_of(table)
        self._groups = [group.labels for group in table.groups.values()]
        self._make = make
        self._tagger: LLMTagger | None = None
        self._making = threading.Lock()

    def tag(self, samples: Samples, llm: AudioLLM) -> NDArray[np.float32]:
        """Scores of shape (labels,), 0 to 1. To be called where `llm` may be."""
        with self._making:
            if self._tagger is None:
                self._tagger = self._make(llm, self.labels, self._groups)
        return self._tagger.tag(samples)


def witness_of(table: SoundTable, labels: Sequence[str], settings: SoundSettings) -> Witness:
    """What the tagger with these `labels` must say of each kind of sound, so that the language model is believed."""
    kinds = [
        (kind.labels, WITNESS * (kind.threshold or settings.threshold))
        for kind in (*table.groups.values(), *table.families.values())
    ]
    return Witness(labels, [*kinds, *(((label,), WITNESS * settings.threshold) for label in labels)])


class Sounds:
    """The sounds of one stream as the language model hears them, with the small tagger as a witness.

    `feed` and `end` return detections whose `witnessed` is False where only the model says so; when the witness comes
    to agree while the sound lasts, a second detection of it starts (`Merger` ends the first).
    """

    def __init__(
        self,
        llm: Resident,
        tagger: SharedTagger,
        table: SoundTable,
        witness_labels: Sequence[str],
        settings: SoundSettings,
        *,
        patient: bool,
    ) -> None:
        """`table` and `witness_labels` are those of the witness."""
        self._llm, self._shared, self._patient = llm, tagger, patient
        self._windows = Windows(LongWindowSettings(), length=WINDOW)
        self._tracker = Tracker(
            slow_table(table, HOLD),
            tagger.labels,
            settings.model_copy(update={"hold": max(HOLD, settings.hold), "memory": MEMORY}),
            model="",
            onset_in_window=ONSET_IN_WINDOW,
        )
        self._witness = witness_of(table, witness_labels, settings)
        self._pending: deque[tuple[Window, asyncio.Task[NDArray[np.float32]]]] = deque()
        self._doubtful: dict[int, Detection] = {}  # by the tracker's key: sounds that nobody witnessed
        self._seconded: dict[int, int] = {}  # the tracker's key → that of the second, witnessed detection
        self._keys = FIRST_KEY
        self.errors: list[Exception] = []  # of the model, for the stream to take; `BusyError` is none

    @property
    def hearing(self) -> bool:
        """Whether the model is there; while it is not, the small tagger decides."""
        return self._llm.status is Status.READY

    def testify(self, tags: Tags) -> list[Detection]:
        """What the witness said of its own, shorter window; a doubtful sound may become certain by it."""
        self._witness.feed(tags)
        return [
            self._second(key, detection, tags.window.end)
            for key, detection in list(self._doubtful.items())
            if self._witness.agrees(detection.label, detection.start, tags.window.end)
        ]

    async def feed(self, chunk: Chunk, frames: list[Frame]) -> list[Detection]:
        """What has been found out since the last chunk; with `patient`, all about this one."""
        windows = self._windows.feed(chunk, frames)
        if self.hearing:
            for window in windows:
                self._submit(window)
        return await self._collect(wait=self._patient)

    def advance(self, position: int) -> list[Detection]:
        """What has ended for want of evidence up to `position` (samples)."""
        return self._told(self._tracker.advance(position))

    async def end(self, position: int) -> list[Detection]:
        """The source has ended: the last windows, then everything that still sounds."""
        if self.hearing:
            for window in self._windows.end():
                self._submit(window)
        return [*await self._collect(wait=True), *self._told(self._tracker.end(position))]

    def close(self) -> None:
        """Nobody listens any more."""
        for _, task in self._pending:
            task.cancel()
        self._pending.clear()

    def _submit(self, window: Window) -> None:
        scoring = self._llm.call(
            partial(self._shared.tag, window.samples),
            priority=Priority.SOUND,
            deadline=None if self._patient else WINDOW_DEADLINE,
        )
        self._pending.append((window, asyncio.create_task(scoring)))

    async def _collect(self, *, wait: bool) -> list[Detection]:
        """Track the windows that are scored, in their order; one that was lost costs itself alone."""
        found: list[Detection] = []
        while self._pending and (wait or self._pending[0][1].done()):
            window, task = self._pending[0]
            try:
                scores = await task
            except ModelError as error:
                if not isinstance(error, BusyError):
                    self.errors.append(error)
            else:
                found += self._told(self._tracker.feed(Tags(window, scores)))
            self._pending.popleft()
        return found

    def _told(self, detections: Sequence[Detection]) -> list[Detection]:
        """The tracker's detections with the model's name, and with whether anybody else heard them."""
        told: list[Detection] = []
        for detection in detections:
            plain = replace(detection, key=FIRST_KEY + 2 * detection.key, model=self._name, witnessed=False)
            if detection.state is State.STARTED:
                if self._witness.agrees(detection.label, detection.start, detection.heard_at):
                    plain = replace(plain, model=f"{self._name}+yamnet", witnessed=True)
                else:
                    self._doubtful[detection.key] = plain
                told.append(plain)
                continue
            told.append(plain)
            self._doubtful.pop(detection.key, None)
            second = self._seconded.pop(detection.key, None)
            if second is not None:
                told.append(replace(plain, key=second, model=f"{self._name}+yamnet", witnessed=True))
        return told

    def _second(self, key: int, detection: Detection, heard_at: int) -> Detection:
        del self._doubtful[key]
        self._seconded[key] = detection.key + 1
        return replace(
            detection, key=detection.key + 1, heard_at=heard_at, model=f"{self._name}+yamnet", witnessed=True
        )

    @property
    def _name(self) -> str:
        return self._llm.name or "audio-llm"


@dataclass(slots=True, eq=False)
class _Caption:
    """A caption that is to be asked for, or was."""

    start: int  # samples: where its clip begins
    due: int  # samples: when to ask
    task: asyncio.Task[str | None] | None = None


class Captions:
    """A sentence about each sound of a stream, made while it lasts: `take` has it when the sound ends, or never."""

    def __init__(
        self, llm: Resident, describe: Callable[[AudioLLM, Samples], str | None], recent: Recent, *, patient: bool
    ) -> None:
        """`describe` runs in the model's thread; the clips come from `recent`."""
        self._llm, self._describe, self._recent, self._patient = llm, describe, recent, patient
        self._captions: dict[str, _Caption] = {}  # by event id
        self.errors: list[Exception] = []

    def started(self, identity: str, start: int, heard_at: int) -> None:
        """A sound was told as `identity`; it began at `start` (samples)."""
        due = heard_at + round(CAPTION_AFTER * SAMPLE_RATE)
        self._captions[identity] = _Caption(max(0, start - round(CAPTION_BEFORE * SAMPLE_RATE)), due)
        while len(self._captions) > LATEST_CAPTIONS:
            self._give_up(self._captions.pop(next(iter(self._captions))))

    async def feed(self, position: int, *, last: bool = False) -> None:
        """Ask for what is due at `position` (samples); all that is left, with `last`. `patient` waits for it."""
        for caption in self._captions.values():
            if caption.task is None and (last or position >= caption.due):
                clip = self._recent.cut(caption.start, position)
                if len(clip):
                    caption.task = asyncio.create_task(self._ask(clip))
                    if self._patient:
                        await asyncio.wait((caption.task,))

    def take(self, identity: str) -> str | None:
        """The caption of a sound that has ended, if it is there by now; nobody waits for it after that."""
        caption = self._captions.pop(identity, None)
        if caption is None or caption.task is None:
            return None
        if caption.task.done() and not caption.task.cancelled():
            return caption.task.result()
        self._give_up(caption)
        return None

    def close(self) -> None:
        """Nobody listens any more."""
        for caption in self._captions.values():
            self._give_up(caption)
        self._captions.clear()

    async def _ask(self, clip: Samples) -> str | None:
        try:
            return await self._llm.call(
                lambda llm: self._describe(llm, clip),
                priority=Priority.QUESTION,
                deadline=None if self._patient else CAPTION_DEADLINE,
            )
        except BusyError:
            return None
        except ModelError as error:
            self.errors.append(error)
            return None

    def _give_up(self, caption: _Caption) -> None:
        if caption.task is not None:
            caption.task.cancel()
