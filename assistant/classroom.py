"""Sounds are taught while the daemon runs: drafts with their examples, the folder, and what the house sounds like.

What the command line taught or deleted is noticed by looking at the folder every two seconds: it needs no permission to
signal the daemon, and works between users and containers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from assistant.errors import AssistantError, ConfigurationError
from assistant.events import SAMPLE_RATE, Samples, Tags
from assistant.history_reading import HistoryReader, Wanted
from assistant.lessons import Lesson, common_sounds, in_memory, recording, takes_of
from assistant.startup import house_sounds, reserved_sounds, taught_sounds
from assistant.taught import Heads
from assistant.taught_folder import TaughtFolder
from assistant.taught_sounds import Example, TaughtSound, check_name, score_of, slug_of
from assistant.teaching import FEWEST, MOST, Sounds, learn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from assistant.pipeline import ModelThread, Pipeline
    from assistant.tracking import SoundTable
    from assistant.web.teach import ClipState, DraftState, ExampleState, HouseState, TaughtState, VerdictState

log = logging.getLogger(__name__)

LOOK_EVERY = 2.0  # seconds between two looks at the folder
KEEP_EVERY = 1_800.0  # seconds between two writings of what the house sounds like
DRAFTS = 8  # at once; the oldest is forgotten
FORGOTTEN_AFTER = 3_600.0  # seconds after its last change
BATCH = 8  # windows of an example in the tagger's thread at once: a room waits for 16 ms
LOOKED_THROUGH = 1_000  # events of the history
CLIP_LIMIT = 30_000_000  # bytes
LEARN_WITHIN = 30.0  # seconds
PATIENCE = 3.0  # seconds that a recording may be late


class Rooms(Protocol):
    """What the daemon knows of its rooms."""

    def pipeline_of(self, room: str) -> Pipeline | None:
        """Who hears there; None: nobody now."""

    def know(self, sounds: Sequence[TaughtSound]) -> None:
        """From now on these sounds are heard, and told of."""

    def any_online(self) -> bool:
        """Whether any room is heard."""


@dataclass(slots=True, eq=False)
class _Draft:
    id: str
    name: str
    title: str
    examples: dict[int, Example] = field(default_factory=dict)
    sound: TaughtSound | None = None  # as far as it was learnt
    changed: float = field(default_factory=time.monotonic)
    numbers: int = 0
    before: dict[str, float] = field(default_factory=dict)  # by room: value of the window before


class Classroom:
    """All of that for one daemon. It belongs to the loop; disk and arithmetic go to threads."""

    def __init__(
        self,
        rooms: Rooms,
        lesson: Lesson,
        thread: ModelThread,
        table: SoundTable,
        *,
        state: Path,
        reader: HistoryReader | None,
        clips: Path | None,
        tell: Callable[[Mapping[str, Any], str], None],
    ) -> None:
        """`tell` takes a message for the pages that watch a room; `clips` is the folder of the clips, if any are kept.

        `lesson` is only called in `thread`; `state` is the folder where all of it is kept.
        """
        self.house = house_sounds(state)
        self._rooms, self._folder, self._table, self._lesson = rooms, TaughtFolder(state), table, lesson
        self._thread, self._reader, self._clips, self._tell = thread, reader, clips, tell
        self._drafts: dict[str, _Draft] = {}
        self._learning = asyncio.Lock()
        self._common: Sounds | None = None
        self._stamp: object = None
        self._problems: list[str] = []
        self._sounds: tuple[TaughtSound, ...] = ()

    async def run(self) -> None:
        """Notice what others teach, and remember what the house sounds like, until cancelled."""
        await asyncio.to_thread(self.house.read)
        looked = kept = time.monotonic()
        try:
            while True:
                await self._look()
                now = time.monotonic()
                if self._rooms.any_online():
                    self.house.passed(now - looked)
                looked = now
                if self.house.changed and now - kept >= KEEP_EVERY:
                    kept = now
                    await asyncio.to_thread(self._write, self.house.snapshot())
                for draft in [one for one in self._drafts.values() if now - one.changed > FORGOTTEN_AFTER]:
                    del self._drafts[draft.id]
                await asyncio.sleep(LOOK_EVERY)
        finally:
            if self.house.changed:  # everything has ended: there is nothing left to keep waiting
                self._write(self.house.snapshot())

    def _write(self, packed: Callable[[], bytes]) -> None:
        self.house.write(packed())

    async def _look(self) -> None:
        stamp = await asyncio.to_thread(self._folder.stamp)
        if stamp != self._stamp:
            first, self._stamp = self._stamp is None, stamp
            self._sounds = await asyncio.to_thread(taught_sounds, self._folder, self._table)
            self._problems = (await asyncio.to_thread(self._folder.read))[1]
            self._rooms.know(self._sounds)
            if not first:
                log.info("taught sounds: %s", ", ".join(sound.name for sound in self._sounds) or "none")

    def heard(self, room: str, tags: Tags, embedding: NDArray[np.uint8]) -> None:
        """A window was tagged: how well it fits the drafts is told to who watches the room."""
        for draft in self._drafts.values():
            if draft.sound is None or tags.window.onset >= tags.window.end:
                continue
            value = float(Heads((draft.sound,)).values(embedding)[0])
            before = draft.before.get(room, value)
            draft.before[room] = value
            message = {
                "type": "teach",
                "draft": draft.id,
                "room": room,
                "score": round(score_of((value + before) / 2), 3),
                "threshold": round(score_of(draft.sound.threshold), 3),
            }
            self._tell(message, room)

    # what the page asks for

    async def taught(self) -> HouseState:
        """All taught sounds."""
        from assistant.web.teach import HouseState  # noqa: PLC0415 (FastAPI only where the page is served)

        await self._look()
        _, days = self.house.sounds()
        return HouseState(
            sounds=[_taught(sound) for sound in self._sounds],
            problems=self._problems,
            heard=len(self.house),
            days=round(days, 2),
        )

    async def forget(self, name: str) -> None:
        """Delete a sound. Raises `AssistantError`."""
        await asyncio.to_thread(self._folder.delete, name)
        await self._look()

    async def begin(self, title: str, name: str | None) -> DraftState:
        """Begin to teach. Raises `ConfigurationError`."""
        title = " ".join(title.split())
        if not title or not title.isprintable():
            raise ConfigurationError("the title has nothing that can be read; remedy: another one")
        name = name or slug_of(title)
        check_name(name, reserved_sounds(self._table))
        if any(sound.name == name for sound in self._sounds):
            raise ConfigurationError(f"{name} was taught already; remedy: another name, or delete that one first")
        while len(self._drafts) >= DRAFTS:
            del self._drafts[min(self._drafts.values(), key=lambda one: one.changed).id]
        draft = _Draft(secrets.token_hex(8), name, title)
        self._drafts[draft.id] = draft
        return _state(draft)

    def draft(self, draft: str) -> DraftState:
        """As it is now. Raises `AssistantError`."""
        return _state(self._known(draft))

    def discard(self, draft: str) -> None:
        """Forget a draft."""
        self._drafts.pop(draft, None)

    async def add_file(self, draft: str, title: str, content: bytes) -> DraftState:
        """One more example out of a file. Raises `AssistantError`."""
        self._check_room_for(self._known(draft))
        with in_memory(content) as path:
            samples = await recording(path, title)
        return await self._add(draft, title, samples)

    async def add_recording(self, draft: str, room: str, seconds: float) -> DraftState:
        """One more example: what is heard in `room` from now on. Raises `AssistantError`."""
        self._check_room_for(self._known(draft))
        pipeline = self._rooms.pipeline_of(room)
        if pipeline is None:
            raise AssistantError(f"{room}: it is not listened to; remedy: switch it on, or another room")
        start = pipeline.position
        end = start + round(seconds * SAMPLE_RATE)
        until = time.monotonic() + seconds + PATIENCE
        while pipeline.position < end:
            if time.monotonic() > until or self._rooms.pipeline_of(room) is not pipeline:
                raise AssistantError(f"{room}: its source stopped while it was recorded; remedy: try again")
            await asyncio.sleep(0.05)
        return await self._add(draft, f"{room}, {time.strftime('%H:%M:%S')}", pipeline.audio(start, end))

    async def add_clip(self, draft: str, event: str) -> DraftState:
        """One more example: the recording of a past event. Raises `AssistantError`."""
        self._check_room_for(self._known(draft))
        found = None if self._reader is None or self._clips is None else await self._reader.event(event)
        if found is None or not found["clip"]:
            raise AssistantError("there is no recording of that event any more; remedy: another one")
        content = await asyncio.to_thread(_content, self._path(found))
        title = f"{found['label']}, {found['room']}"
        with in_memory(content) as copy:
            samples = await recording(copy, title)
        return await self._add(draft, title, samples)

    async def drop(self, draft: str, number: int) -> DraftState:
        """Without this example. Raises `AssistantError`."""
        known = self._known(draft)
        if known.examples.pop(number, None) is None:
            raise AssistantError("there is no such example")
        await self._learn(known)
        return _state(known)

    async def save(self, draft: str) -> TaughtState:
        """Keep it. Raises `AssistantError`."""
        known = self._known(draft)
        if known.sound is None:
            raise ConfigurationError(f"{known.title}: at least {FEWEST} examples are needed; remedy: add some")
        await asyncio.to_thread(self._folder.write, known.sound)
        self._drafts.pop(known.id, None)
        await self._look()
        return _taught(known.sound)

    async def clips(self, limit: int) -> Sequence[ClipState]:
        """Past events whose recordings are there, the latest first."""
        from assistant.web.teach import ClipState  # noqa: PLC0415

        if self._clips is None or self._reader is None:
            return []
        found = await asyncio.to_thread(self._with_recordings, await self._reader.page(Wanted(limit=LOOKED_THROUGH)))
        return [
            ClipState(
                event=one["id"], room=one["room"], label=one["label"], start=one["start"], duration=one["duration"]
            )
            for one in found[:limit]
        ]

    def _with_recordings(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in events if one["clip"] and self._path(one).is_file()]

    def _path(self, event: Mapping[str, Any]) -> Path:
        """Where its recording is: the name was made by us, out of a day and an id."""
        assert self._clips is not None  # noqa: S101 (events have recordings only where they are kept)
        day, _, file = str(event["clip"]).partition("/")
        return self._clips / Path(day).name / Path(file).name

    def _known(self, draft: str) -> _Draft:
        known = self._drafts.get(draft)
        if known is None:
            raise AssistantError("there is no such draft any more; remedy: begin again")
        known.changed = time.monotonic()
        return known

    def _check_room_for(self, draft: _Draft) -> None:
        if len(draft.examples) >= MOST:
            raise ConfigurationError(f"{draft.title}: {MOST} examples are the most; remedy: drop one first")

    async def _add(self, draft: str, title: str, samples: Samples) -> DraftState:
        """Hear an example as the tagger would and learn anew."""
        takes = await asyncio.to_thread(takes_of, samples, title, self._lesson.hearing)
        tagged = []
        for take in takes:
            parts = [
                await self._thread.call(partial(self._lesson.tagged, take[at : at + BATCH]), patient=True)
                for at in range(0, len(take), BATCH)
            ]
            tagged.append((np.concatenate([one for one, _ in parts]), np.concatenate([one for _, one in parts])))
        known = self._known(draft)
        self._check_room_for(known)  # another one may have come meanwhile
        known.numbers += 1
        known.examples[known.numbers] = self._lesson.example(title, tagged)
        await self._learn(known)
        return _state(known)

    async def _learn(self, draft: _Draft) -> None:
        """From all examples anew; one draft at a time."""
        async with self._learning, asyncio.timeout(LEARN_WITHIN):
            examples = list(draft.examples.values())
            if len(examples) < FEWEST:
                draft.sound = None
                return
            if self._common is None:
                self._common = await asyncio.to_thread(common_sounds)
            heard, days = self.house.sounds()
            common = self._common

            def work() -> TaughtSound:
                return learn(draft.name, draft.title, examples, common, Sounds(heard, days=days))

            draft.sound = await asyncio.to_thread(work)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > CLIP_LIMIT:
            raise AssistantError(f"{path}: larger than a clip ever is")
        return path.read_bytes()
    except OSError as error:
        raise AssistantError(f"{path}: cannot be read ({error.strerror})") from error


def _verdict(sound: TaughtSound) -> VerdictState:
    from assistant.web.teach import VerdictState  # noqa: PLC0415

    verdict = sound.verdict
    return VerdictState(
        kind=verdict.kind,
        confused_with=list(verdict.confused_with),
        false_per_day=verdict.false_per_day,
        heard_per_day=verdict.heard_per_day,
    )


def _examples(examples: Mapping[int, Example], sound: TaughtSound | None) -> list[ExampleState]:
    from assistant.web.teach import ExampleState  # noqa: PLC0415

    values = [None] * len(examples) if sound is None else list(sound.verdict.recognised)
    return [
        ExampleState(
            number=number,
            title=example.title,
            score=None if value is None else round(score_of(value), 3),
            recognised=None if value is None or sound is None else value >= sound.threshold,
        )
        for (number, example), value in zip(examples.items(), values, strict=True)
    ]


def _taught(sound: TaughtSound) -> TaughtState:
    from assistant.web.teach import TaughtState  # noqa: PLC0415

    return TaughtState(
        name=sound.name,
        title=sound.title,
        taught=sound.taught,
        threshold=round(score_of(sound.threshold), 3),
        verdict=_verdict(sound),
        examples=_examples(dict(enumerate(sound.examples, 1)), sound),
    )


def _state(draft: _Draft) -> DraftState:
    from assistant.web.teach import DraftState  # noqa: PLC0415

    sound = draft.sound
    return DraftState(
        id=draft.id,
        name=draft.name,
        title=draft.title,
        examples=_examples(draft.examples, sound),
        threshold=None if sound is None else round(score_of(sound.threshold), 3),
        verdict=None if sound is None else _verdict(sound),
    )
