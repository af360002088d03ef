"""`kikimimi bench`: what this machine carries, measured on it in about a minute and a half.

Sounds are computed and sentences are read by espeak-ng, so the figures of two machines can be compared; a real room is
somewhere between the quiet one and the one that is never quiet. Nothing is sent anywhere and nothing is kept.
"""

from __future__ import annotations

import asyncio
import json
import math
import platform
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from assistant import __version__, doctor, synthesis
from assistant.audio.source import CHUNK, LONGEST_CHUNK, Pace, SourceStats
from assistant.demo_recording import ROOM_DBFS, spoken
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Chunk, Event, Samples, frozen, seconds
from assistant.health import rss_mb
from assistant.pipeline import Pipeline
from assistant.resident import Priority

if TYPE_CHECKING:
    from assistant.pipeline import HearingSettings, Models

QUIET, BUSY = 600.0, 60.0  # seconds of audio that are heard as fast as possible
TRIAL = 8.0  # seconds that a number of rooms is heard in real time
SETTLE = 2.0  # of which so many are not counted
LATE = 0.5  # seconds: a room that is later at any time is not heard in real time
HOPELESS = 2.0  # seconds: whoever is so late will not be in time again
STEP = 1.25  # from one number of rooms to the next
TRIALS = 8
SENTENCES = ("turn on the kitchen light", "what time is it", "set the heating to twenty one degrees")
SPOKEN = 40.0  # seconds within which the sentences and sounds are heard


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds from the end of a sentence, or the start of a sound, to its event."""

    median: float
    longest: float
    heard: int
    of: int


@dataclass(frozen=True, slots=True)
class Report:
    """All of it; None: not measured, for the reason in `remarks`."""

    version: str
    system: str
    processor: str
    cores: int
    profile: str
    memory_mb: float  # of the process with all models
    memory_a_room_mb: float
    peak_mb: float
    quiet_cpu_s_an_hour: float  # processor seconds for an hour of a quiet room
    busy_cpu_s_an_hour: float  # the same for one that is never quiet
    window_ms: float  # the tagger alone
    rooms_busy: int  # that were heard in real time
    rooms_busy_late: int | None  # the least that were not
    rooms_quiet: int  # by arithmetic
    sounds: Delays | None
    speech: Delays | None
    recognition_s: float | None  # processor time of one sentence
    caption_s: float | None  # of the audio language model
    remarks: tuple[str, ...]

    def json(self) -> str:
        """One line for programs."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Memory:
    """A source out of memory, over and over: as fast as it is taken or, `paced`, as a microphone would give it."""

    live = True

    def __init__(self, samples: Samples, length: float, *, paced: bool, start: int = 0) -> None:
        self.room = self.name = "bench"
        self.stats = SourceStats()
        self.latest = 0.0  # seconds: how late a chunk was at most, after the first moments
        self.began = 0.0  # Unix seconds of sample 0
        self.pace = Pace()
        self._samples, self._paced, self._start = samples, paced, start
        self._end = int(length * SAMPLE_RATE) // CHUNK * CHUNK

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks as long as a microphone would give them."""
        self.began = time.time()
        first, position = time.monotonic(), 0
        while position < self._end:
            samples = self._next(position)
            if self._paced:
                due = first + seconds(position + len(samples))
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                elif seconds(position) > SETTLE:
                    self.latest = max(self.latest, -wait)
                    if self.latest > HOPELESS:
                        return
            yield Chunk(self.room, self.name, position, frozen(samples), self.began + seconds(position))
            position += len(samples)

    def _next(self, position: int) -> Samples:
        """What is handed over together: up to what is loud."""
        at = (self._start + position) % (len(self._samples) - LONGEST_CHUNK)
        samples = self._samples[at : at + min(self.pace.samples, self._end - position)]
        loud = self.pace.loud_at(samples[:, np.newaxis], SAMPLE_RATE) if len(samples) > CHUNK else None
        return samples if loud is None else samples[: -(-loud // CHUNK) * CHUNK]


async def bench(
    models: Models, hearing: HearingSettings, *, profile: str, tell: Callable[[str], None] = lambda _line: None
) -> Report:
    """Measure. `tell` gets what is being done. Raises `AssistantError`."""
    remarks = []
    tell("loading the models")
    recogniser, _ = await models.recognition()
    sounds_only = replace(hearing, recognise=False)
    quiet, busy = still(), never_quiet()
    tell("a quiet room")
    await heard(models, sounds_only, quiet, 5.0)
    quiet_share = await heard(models, sounds_only, quiet, QUIET)
    tell("a room that is never quiet")
    busy_share = await heard(models, sounds_only, busy, BUSY)
    window = await models.tagging.call(lambda: tagged(models))
    loaded = rss_mb()
    tell("delays, in real time")
    scene, sentences, alarms = await asyncio.to_thread(said)
    if recogniser is None or not sentences:
        reason = "espeak-ng is not installed; remedy: apt-get install espeak-ng"
        remarks.append(f"delays of speech were not measured: {'speech is off' if recogniser is None else reason}")
    events = await lived(models, hearing if recogniser is not None else sounds_only, scene)
    speech = delays(events, "speech", sentences) if recogniser is not None and sentences else None
    recognition = None
    if speech is not None and speech.heard:
        tell("recognition")
        with_speech = await heard(models, hearing, scene, SPOKEN)
        without = await heard(models, sounds_only, scene, SPOKEN)
        recognition = max(0.0, (with_speech - without) * SPOKEN / len(sentences))
    good, late = await carried(models, sounds_only, busy, 1.0 / busy_share, tell)
    a_room = (rss_mb() - loaded) / (late or good)
    caption = await captioned(models, tell)
    return Report(
        version=__version__,
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        processor=doctor.processor(),
        cores=doctor.cores(),
        profile=profile,
        memory_mb=round(loaded, 1),
        memory_a_room_mb=round(max(0.0, a_room), 2),
        peak_mb=round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1024), 1
        ),
        quiet_cpu_s_an_hour=round(quiet_share * 3600, 2),
        busy_cpu_s_an_hour=round(busy_share * 3600, 1),
        window_ms=round(1000 * window, 2),
        rooms_busy=good,
        rooms_busy_late=late,
        rooms_quiet=int(good * busy_share / quiet_share),
        sounds=delays(events, "sound", alarms),
        speech=speech,
        recognition_s=None if recognition is None else round(recognition, 3),
        caption_s=caption,
        remarks=tuple(remarks),
    )


def still() -> Samples:
    """A room in which nothing happens. White: the level of pink noise moves so much that it opens the gate."""
    white = np.random.default_rng(1).standard_normal(60 * SAMPLE_RATE).astype(np.float32)
    return synthesis.scaled(white, ROOM_DBFS)


def never_quiet() -> Samples:
    """Sounds one after the other with the shortest of pauses, over the noise of a room."""
    sounds = (
        synthesis.telephone(),
        synthesis.siren(),
        synthesis.door_chime(),
        synthesis.t3(cycles=2),
        synthesis.scaled(synthesis.noise(2.0, -30.0, seed=5), -30.0),
    )
    bed = synthesis.noise(sum(len(sound) for sound in sounds) / SAMPLE_RATE + 2.0, ROOM_DBFS, seed=2)
    at = 0.5
    for sound in sounds:
        bed = synthesis.placed(bed, synthesis.scaled(sound, -27.0), at)
        at += len(sound) / SAMPLE_RATE + 0.2
    return np.clip(bed, -1.0, 1.0)


def said() -> tuple[Samples, list[float], list[float]]:
    """What is heard for the delays, where its sentences end and where its alarms begin (seconds)."""
    bed = synthesis.noise(SPOKEN, ROOM_DBFS, seed=3)
    ends, starts = [], []
    at = 4.0
    for number, sound in enumerate((synthesis.siren(), synthesis.telephone(), synthesis.door_chime())):
        with suppress(AssistantError):
            sentence, _ = spoken(SENTENCES[number], "en-us")
            bed = synthesis.placed(bed, synthesis.scaled(sentence, -30.0), at)
            ends.append(at + len(sentence) / SAMPLE_RATE)
        at += 6.0
        bed = synthesis.placed(bed, synthesis.scaled(sound[: 3 * SAMPLE_RATE], -26.0), at)
        starts.append(at)
        at += 6.0
    return np.clip(bed, -1.0, 1.0), ends, starts


async def heard(models: Models, hearing: HearingSettings, samples: Samples, length: float) -> float:
    """Hear so many seconds as fast as possible; processor seconds of each."""
    began = time.process_time()
    await Pipeline(Memory(samples, length, paced=False), models, hearing, lambda _event: None, inline=True).run()
    return (time.process_time() - began) / length


def tagged(models: Models) -> float:
    """Processor seconds of one window."""
    window = synthesis.scaled(synthesis.noise(0.975, -30.0), -30.0)[:15_600]
    began = time.process_time()
    for _ in range(200):
        models.tagger.tag(window)
    return (time.process_time() - began) / 200


async def lived(models: Models, hearing: HearingSettings, scene: Samples) -> list[tuple[Event, float]]:
    """Hear a scene in real time; its events, and how many seconds after its beginning they came."""
    source = Memory(scene, seconds(len(scene)), paced=True)
    events: list[tuple[Event, float]] = []
    pipeline = Pipeline(
        source,
        models,
        hearing,
        lambda event: events.append((event, time.time() - source.began)),
        inline=False,
        clocked=True,
    )
    await pipeline.run()
    return events


def delays(events: list[tuple[Event, float]], kind: str, moments: list[float]) -> Delays | None:
    """How long after each moment the first event of this kind came, of those within six seconds; None: nothing came."""
    came = [at for event, at in events if event.kind == kind and event.state != "ended"]
    found = [min(later) for m in moments if (later := [at - m for at in came if 0.0 <= at - m < 6.0])]
    if not found:
        return None
    return Delays(round(statistics.median(found), 2), round(max(found), 2), len(found), len(moments))


async def carried(
    models: Models, hearing: HearingSettings, samples: Samples, expected: float, tell: Callable[[str], None]
) -> tuple[int, int | None]:
    """The largest number of never quiet rooms that was heard in real time, and the least that was not."""
    good, late = 0, None
    count = max(1, int(0.8 * expected * min(doctor.cores(), 2)))  # beside the tagger Python keeps one core busy
    for _ in range(TRIALS):
        tell(f"{count} rooms that are never quiet, in real time")
        if await in_time(models, hearing, samples, count):
            good = max(good, count)
        else:
            late = count if late is None else min(late, count)
        if late is None:
            count = math.ceil(count * STEP)
        elif not good:
            count = max(1, count // 2)
        else:
            count = (good + late) // 2
        if (late is not None and good and late <= 1.1 * good) or count in {good, late}:
            break
    return good, late


async def in_time(models: Models, hearing: HearingSettings, samples: Samples, count: int) -> bool:
    """Whether so many rooms are heard without any of them being late."""
    sources = [Memory(samples, TRIAL, paced=True, start=n * 7_919 * CHUNK % len(samples)) for n in range(count)]
    async with asyncio.TaskGroup() as group:
        for source in sources:
            group.create_task(Pipeline(source, models, hearing, lambda _event: None, inline=False, clocked=True).run())
    return max(source.latest for source in sources) <= LATE


async def captioned(models: Models, tell: Callable[[str], None]) -> float | None:
    """Seconds of one caption of the audio language model; None without one."""
    llm, describe = models.llm, models.describe
    if llm is None or describe is None:
        return None
    tell("the audio language model")
    if not await llm.ready():
        return None
    clip = synthesis.siren()
    await llm.call(lambda model: describe(model, clip), priority=Priority.QUESTION, deadline=None)
    began = time.monotonic()
    await llm.call(lambda model: describe(model, clip), priority=Priority.QUESTION, deadline=None)
    return round(time.monotonic() - began, 2)


def readable(report: Report) -> str:
    """For people."""
    at_least = "at least " if report.rooms_busy_late is None else ""
    lines = [
        f"Kikimimi {report.version}, profile {report.profile}",
        f"{report.processor}, {report.cores} cores, {report.system}",
        "",
        f"rooms      {at_least}{report.rooms_busy} that are never quiet were heard in real time"
        + ("" if report.rooms_busy_late is None else f", {report.rooms_busy_late} were not"),
        f"           about {report.rooms_quiet} quiet ones, by arithmetic",
        f"a room     quiet {report.quiet_cpu_s_an_hour:.1f} processor seconds an hour "
        f"({report.quiet_cpu_s_an_hour / 36:.2f} % of a core), never quiet {report.busy_cpu_s_an_hour:.0f} s "
        f"({report.busy_cpu_s_an_hour / 36:.1f} %); the tagger {report.window_ms:.2f} ms a window",
        f"memory     {report.memory_mb:.0f} MB with the models (peak {report.peak_mb:.0f}), "
        f"{report.memory_a_room_mb:.1f} MB more a room",
        "sounds     " + ("none was heard" if report.sounds is None else f"{told(report.sounds)} after they begin"),
    ]
    if report.speech is not None:
        lines.append(f"speech     {told(report.speech)} after the last word")
    if report.recognition_s is not None:
        lines.append(f"           {report.recognition_s:.2f} s of processor time a sentence")
    if report.caption_s is not None:
        lines.append(f"captions   {report.caption_s:.1f} s each")
    return "\n".join([*lines, *(f"           {remark}" for remark in report.remarks)])


def told(delays: Delays) -> str:
    """Delays in words."""
    return f"{delays.heard} of {delays.of} heard, {delays.median:.2f} s (at most {delays.longest:.2f} s)"
