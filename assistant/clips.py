"""Which sounds are kept as clips, from when to when, and that none is kept in which somebody spoke, if so asked.

A clip is promised when its event is raised and written when its sound has ended, in a thread of its own; in any case it
is told what became of it. How the files are written and forgotten: `clip_folder`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import Field, model_validator

from assistant.clip_folder import MEGABYTE, ClipFolder, NearlyFullError, name_of
from assistant.events import SAMPLE_RATE, ClipSettled, Event, Samples, State, seconds, without_words
from assistant.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

ALERTS, ANY, SPEECH = KEPT_WORDS = "alerts", "any", "speech"  # of `keep`, beside event types
MOST = 16  # clips on their way at once, in all rooms: 31 MB of audio at 30 s each
REMEMBERED = 500  # events, and names of clips: a rule may keep the clip of an event long after it was raised
LOOK_EVERY = 60.0  # seconds between two looks at the free space and at what has become too old
WARN_EVERY = 100  # the first and each hundredth clip that is not kept is logged

_BEFORE = " s before the sound"  # after a number, in a clip's comment

SPOKEN = "speech"  # why a clip is not there
FULL = "disk nearly full"
BUSY = "too many clips at once"
LATE = "the audio is no longer in memory"
FAILED = "cannot be written"
STOPPED = "the daemon stopped"
COUNTED = {SPOKEN: "spoken", FULL: "refused", BUSY: "dropped", LATE: "dropped", FAILED: "failed", STOPPED: "dropped"}


class ClipSettings(Settings):
    """Sounds that are kept on disk. Lengths are seconds, sizes MB."""

    enabled: bool = Field(default=False, description="true: write clips; audio stays in memory otherwise")
    dir: Path | None = None
    keep: tuple[str, ...] = Field(
        default=(ALERTS,),
        description="what is kept without a rule: alerts, event types of config/sounds.yaml, speech, any (all sounds)",
    )
    before: float = Field(default=3.0, ge=0.0, le=10.0, description="seconds before the sound")
    after: float = Field(default=2.0, ge=0.0, le=10.0, description="seconds after it")
    longest: float = Field(
        default=30.0, ge=2.0, le=60.0, description="longest clip in seconds, before and after included"
    )
    spectrogram: bool = Field(default=True, description="a PNG beside each clip")
    drop_speech: bool = Field(default=False, description="keep no clip in which speech was heard")
    days: float = Field(default=30.0, gt=0.0, le=36_500.0, description="days after which a clip is deleted")
    megabytes: float = Field(default=1_000.0, gt=0.0, description="of all clips; the oldest are deleted")
    at_least: int = Field(default=10, ge=0, description="the last clips, which are never deleted")
    free: float = Field(
        default=500.0, ge=0.0, description="MB of the disk that must stay free; no clip is written below"
    )

    @model_validator(mode="after")
    def _fits(self) -> ClipSettings:
        if self.before + self.after >= self.longest:
            raise ValueError("before and after leave nothing of longest for the sound; raise longest or lower them")
        if self.drop_speech and SPEECH in self.keep:
            raise ValueError("keep has speech, of which drop_speech keeps nothing; remove one of them")
        return self


class Stream(Protocol):
    """What was heard of a room since its source was opened."""

    @property
    def position(self) -> int:
        """Samples heard so far."""

    def audio(self, start: int, end: int) -> Samples:
        """What is still in memory of `start` to `end` (samples)."""

    def speech_in(self, start: int, end: int) -> bool | None:
        """Whether somebody spoke between `start` and `end` (samples); None: that is not known yet."""


@dataclass(slots=True, eq=False)
class _Take:
    """A clip on its way."""

    event: Event
    name: str
    start: int  # samples
    end: int  # samples; while the sound lasts, where it ends at the latest
    samples: Samples | None = None  # once all of it was heard
    writing: bool = False


class Clips:
    """The clips of all rooms: `raised` and `keep` promise one, `advance` and `left` bring it to its end.

    It belongs to the loop; files are touched in its thread alone. `run` looks after the folder.
    """

    def __init__(
        self,
        settings: ClipSettings,
        folder: ClipFolder,
        alerts: frozenset[str],
        settled: Callable[[ClipSettled], None],
        trouble: Callable[[], None],
        *,
        draw: Callable[[Samples], bytes] | None = None,
    ) -> None:
        """`alerts` are event types; `draw` makes the picture; `trouble` is called when `problem` comes or goes."""
        self.problem: str | None = None  # why no clip can be kept now
        self._settings, self._folder, self._alerts = settings, folder, alerts
        self._settled, self._trouble = settled, trouble
        self._draw = draw if settings.spectrogram else None
        self._before, self._after, self.longest = (
            round(length * SAMPLE_RATE) for length in (settings.before, settings.after, settings.longest)
        )
        self.memory = self.longest + SAMPLE_RATE  # samples of a stream that must be at hand: a chunk more than a clip
        self._full = self._stopped = False
        self._current: dict[str, Event] = {}  # the last events of the sources that are open, by id
        self._takes: dict[str, _Take] = {}  # by event id
        self._kept: dict[str, str] = {}  # the last names, by event id
        self._writing: set[asyncio.Task[None]] = set()
        self._counts = {"kept": 0, **dict.fromkeys(COUNTED.values(), 0)}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clips")

    async def run(self) -> None:
        """Look after the folder until stopped: room on the disk, and clips that have become too old."""
        look = self._folder.open
        while not self._stopped:
            try:
                await self._in_thread(look)
                await self._in_thread(self._folder.check)
            except OSError as error:
                self._note(error)
            else:
                self._note(None)
                look = self._folder.tidy
            await asyncio.sleep(LOOK_EVERY)

    def raised(self, event: Event, stream: Stream | None) -> Event:
        """The event with the name of its clip, if it has one: by the settings, or since a rule keeps it."""
        _remember(self._current, event.id, without_words(event))
        take = self._takes.get(event.id)
        if event.state is not State.ENDED and self._wanted(event):
            self.keep(event, stream)
        elif event.state is State.ENDED and take is not None:
            take.end = min(take.end, _end_of(event) + self._after)
            if not take.writing and stream is not None and self._spoken(take, stream):
                self._give_up(event, SPOKEN)
        return self.marked(event)

    def marked(self, event: Event) -> Event:
        """The event with the name of its clip, if it has one."""
        return replace(event, clip=self._name(event.id))

    def keep(self, event: Event, stream: Stream | None) -> str | None:
        """Keep the clip of `event`. Its name; None when there will be none, and that is settled."""
        if (name := self._name(event.id)) is not None:
            return name
        latest = self._current.get(event.id)  # it may have ended since a rule was told of it
        if stream is None or latest is None:
            self._give_up(event, LATE)
            return None
        take = self._take(latest, stream.position)
        if (reason := self._refusal(take, stream)) is not None:
            self._give_up(event, reason)
            return None
        self._takes[event.id] = take
        return take.name

    async def advance(self, room: str, stream: Stream, *, patient: bool = False) -> None:
        """A chunk was heard in `room`: what is complete is written; `patient` waits while too much is."""
        if not self._takes:
            return
        for take in self._takes_of(room):
            self._proceed(take, stream)
        while patient and len(self._writing) >= MOST // 2:
            await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)

    def left(self, room: str, stream: Stream) -> None:
        """The source of `room` has ended or broken: what was promised is written as far as it was heard."""
        for take in self._takes_of(room):
            take.end = min(take.end, stream.position)
            self._proceed(take, stream)
            if not take.writing and take.event.id in self._takes:
                self._give_up(take.event, SPOKEN)  # nobody will ever know whether somebody spoke
        self._current = {key: event for key, event in self._current.items() if event.room != room}

    async def stop(self, seconds: float) -> None:
        """Write what is on its way for at most `seconds`; then nothing is kept any more."""
        self._stopped = True
        if self._writing:
            await asyncio.wait(self._writing, timeout=seconds)
        for task in self._writing:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        for take in list(self._takes.values()):
            self._give_up(take.event, STOPPED)

    def health(self) -> dict[str, Any]:
        """Figures for the health topic."""
        return {
            **self._counts,
            "deleted": self._folder.deleted,
            "waiting": len(self._takes),
            "files": len(self._folder),
            "mb": round(self._folder.bytes / MEGABYTE, 1),
            "problem": self.problem,
        }

    def _wanted(self, event: Event) -> bool:
        """Whether the settings keep it."""
        keep = self._settings.keep
        if event.kind == "speech":
            return SPEECH in keep
        return ANY in keep or event.event_type in keep or (ALERTS in keep and event.event_type in self._alerts)

    def _name(self, identity: str) -> str | None:
        take = self._takes.get(identity)
        return self._kept.get(identity) if take is None else take.name

    def _takes_of(self, room: str) -> list[_Take]:
        return [take for take in self._takes.values() if take.event.room == room and not take.writing]

    def _take(self, event: Event, now: int) -> _Take:
        """The clip of `event` as it is planned at position `now`: of what is longer, the last is kept."""
        onset = round(event.offset * SAMPLE_RATE)
        start = max(0, onset - self._before, now + self._after - self.longest)
        end = start + self.longest
        if event.state is not State.STARTED:
            end = min(end, _end_of(event) + self._after)
        return _Take(event, name_of((event.start or "")[:10], event.id), start, end)

    def _refusal(self, take: _Take, stream: Stream) -> str | None:
        """Why a clip is not even begun."""
        if self._full:
            return FULL
        if len(self._takes) >= MOST:
            return BUSY
        if take.start >= take.end:
            return LATE
        unwanted = self._settings.drop_speech and take.event.kind == "speech"
        return SPOKEN if unwanted or self._spoken(take, stream) else None

    def _spoken(self, take: _Take, stream: Stream) -> bool | None:
        """Whether somebody spoke in the clip so far, where that matters; None: that is not known yet."""
        if not self._settings.drop_speech:
            return False
        return stream.speech_in(take.start, min(take.end, stream.position))

    def _proceed(self, take: _Take, stream: Stream) -> None:
        """Write the clip when all of it was heard and nothing speaks against it any more."""
        try:
            if take.samples is None and stream.position >= take.end:
                take.samples = stream.audio(take.start, take.end)
            spoken = self._spoken(take, stream)
        except Exception:  # a bug must not make the room deaf
            log.exception("clips: that of %s in %s is lost", take.event.event_type, take.event.room)
            self._give_up(take.event, FAILED)
            return
        if spoken:
            self._give_up(take.event, SPOKEN)
        elif take.samples is not None and not len(take.samples):
            self._give_up(take.event, LATE)
        elif take.samples is not None and spoken is False:
            take.writing = True
            task = asyncio.create_task(self._written(take, take.samples), name=f"clip of {take.event.id}")
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _written(self, take: _Take, samples: Samples) -> None:
        try:
            await self._in_thread(lambda: self._encode(take, samples))
        except OSError as error:
            self._note(error)
            self._give_up(take.event, FULL if isinstance(error, NearlyFullError) else FAILED)
        except Exception:  # a bug in a library must not leave a promise open
            log.exception("clips: %s cannot be made", take.name)
            self._give_up(take.event, FAILED)
        else:
            self._note(None)
            self._counts["kept"] += 1
            self._takes.pop(take.event.id, None)
            _remember(self._kept, take.event.id, take.name)
            self._settled(ClipSettled(take.event.room, take.event.id, take.name))

    def _encode(self, take: _Take, samples: Samples) -> None:
        """In the thread: make the files of a clip and write them."""
        picture = None if self._draw is None else self._draw(samples)
        self._folder.write(take.name, flac(take.event, samples, take.end - len(samples)), picture)

    def _give_up(self, event: Event, reason: str) -> None:
        """There is no clip: that is told and counted."""
        self._takes.pop(event.id, None)
        kind = COUNTED[reason]
        self._counts[kind] += 1
        if self._counts[kind] % WARN_EVERY == 1:
            log.log(
                logging.INFO if reason == SPOKEN else logging.WARNING,
                "clips: that of %s in %s is not kept: %s (%d so far)",
                event.event_type,
                event.room,
                reason,
                self._counts[kind],
            )
        self._settled(ClipSettled(event.room, event.id, None, reason))

    def _note(self, error: OSError | None) -> None:
        """Whether clips can be kept: told when it changes."""
        was = self.problem
        self._full = isinstance(error, NearlyFullError)
        self.problem = None if error is None else _text_of(error)
        if (was is None) == (self.problem is None):
            return
        if self.problem is None:
            log.info("clips: they are kept again")
        else:
            log.warning("clips: none is kept: %s", self.problem)
        self._trouble()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


def _remember(book: dict[str, T], key: str, value: T) -> None:
    """Write it down as the latest; the oldest is forgotten."""
    book.pop(key, None)
    book[key] = value
    while len(book) > REMEMBERED:
        del book[next(iter(book))]


def _end_of(event: Event) -> int:
    """Where the sound or the utterance ended (samples)."""
    return round((event.offset + (event.duration or 0.0)) * SAMPLE_RATE)


def _text_of(error: OSError) -> str:
    if isinstance(error, NearlyFullError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; remedy: check the owner, the rights and the disk of clips.dir"


def flac(event: Event, samples: Samples, start: int) -> bytes:
    """A FLAC file of 16 kHz mono that says what it is of and when it was, for who has only the file.

    `start`: where its first sample lies in the stream.
    """
    import soundfile  # noqa: PLC0415 (only when something is kept)

    packed = io.BytesIO()
    scaled = np.clip(np.nan_to_num(samples), -1.0, 1.0) * np.float32(32_767)
    with soundfile.SoundFile(packed, "w", SAMPLE_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        file.title = f"{event.event_type} in {event.room}"
        file.date = event.start or ""
        file.comment = f"{event.offset - seconds(start):.3f}{_BEFORE}"
        file.write(scaled.astype(np.int16))
    return packed.getvalue()


def lengths_of(packed: bytes) -> tuple[float, float | None]:
    """The length of a FLAC file of ours, and how long after its beginning the sound begins. Raises `ValueError`."""
    import soundfile  # noqa: PLC0415

    try:
        with soundfile.SoundFile(io.BytesIO(packed)) as file:
            length, comment = file.frames / file.samplerate, file.comment
    except soundfile.SoundFileError as error:
        raise ValueError(f"it is no FLAC file ({error})") from error
    before, ours, _ = comment.partition(_BEFORE)
    with contextlib.suppress(ValueError):
        return length, float(before) if ours else None
    return length, None
