"""One room from chunks to events, with models that are slow, broken or stuck."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_app import until

from assistant import pipeline as pipeline_module
from assistant.arbitration import Arbiter
from assistant.attention import Attention, Wake
from assistant.audio.source import CHUNK as SHORT_CHUNK
from assistant.audio.source import LONGEST_CHUNK, Chunker, Pace, SourceStats
from assistant.commanding import RoomCommands
from assistant.config import Config
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Chunk, Event, Intent, Samples, SpeechEvidence, State, Transcript, frozen
from assistant.health import Stages
from assistant.intents import NotUnderstood
from assistant.models.yamnet import Yamnet
from assistant.pipeline import Models, ModelThread, Pipeline, Recogniser, Tagger
from assistant.resident import BusyError
from assistant.startup import hearing_settings
from assistant.synthesis import noise, placed, t3, tone
from assistant.watching import Watching

CHUNK = 640


class Played:
    """A source that plays samples as fast as they are taken; then it ends, raises, or lasts."""

    live = True

    def __init__(self, samples: Samples, end: Exception | str = "end", *, age: float = 0.0) -> None:
        self.room, self.name = "kitchen", "played"
        self.stats = SourceStats()
        self.closed = False
        self._samples, self._end, self._age = samples.astype(np.float32), end, age

    async def chunks(self) -> AsyncIterator[Chunk]:
        try:
            for start in range(0, len(self._samples) - CHUNK + 1, CHUNK):
                now = time.time() - self._age - CHUNK / SAMPLE_RATE
                yield Chunk(self.room, self.name, start, frozen(self._samples[start : start + CHUNK].copy()), now)
                await asyncio.sleep(0)
            if isinstance(self._end, Exception):
                raise self._end
            if self._end == "lasts":
                await asyncio.Event().wait()
        finally:
            self.closed = True
            if self._end == "hangs":
                await asyncio.Event().wait()


class Slow:
    """A recogniser that takes its time."""

    name = "slow"

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.calls = 0
        self.begun = threading.Event()
        self._seconds, self._error = seconds, error

    def transcribe(
        self,
        samples: Samples,
        evidence: SpeechEvidence,
        *,
        languages: Sequence[str] | None = None,
        words: Sequence[str] = (),
    ) -> Transcript:
        self.calls += 1
        self.begun.set()
        time.sleep(self._seconds)
        if self._error is not None:
            raise self._error
        return Transcript("a secret sentence", "en", 0.9)


class Broken:
    """A tagger that raises."""

    labels: tuple[str, ...] = ()

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        raise RuntimeError("no inference today")


Build = Callable[..., Models]


@pytest.fixture
def models(yamnet_path: Path) -> Iterator[Build]:
    built: list[Models] = []

    def build(recogniser: Recogniser | None = None, tagger: Tagger | None = None) -> Models:
        async def ready() -> Recogniser | None:
            return recogniser

        get: Callable[[], Awaitable[Recogniser | None]] = ready
        built.append(Models(tagger or Yamnet(yamnet_path), ModelThread("tagger"), get, ModelThread("recogniser")))
        return built[-1]

    yield build
    for made in built:
        made.shutdown()


def spoken(length: float) -> Samples:
    """What webrtcvad takes for speech: a buzz with formants that comes and goes like syllables."""
    t = np.arange(round(length * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = sum(np.sin(2 * np.pi * 140 * n * t) / n for n in range(1, 25))
    return np.asarray(0.15 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)), np.float32)


def room(*sounds: tuple[float, Samples], length: float = 30.0) -> Samples:
    heard = noise(length, -65.0)
    for start, sound in sounds:
        heard = placed(heard, sound, start)
    return heard


def pipe(
    source: Played, models: Models, events: list[Event], *, inline: bool = False, clocked: bool = False
) -> Pipeline:
    return Pipeline(source, models, hearing_settings(Config()), events.append, inline=inline, clocked=clocked)


class Paced:
    """A source whose chunks are as long as whoever hears it says."""

    live = True

    def __init__(self, samples: Samples) -> None:
        self.room, self.name, self.stats, self.pace = "kitchen", "paced", SourceStats(), Pace()
        self.lengths: list[tuple[int, int]] = []
        self._samples = samples

    async def chunks(self) -> AsyncIterator[Chunk]:
        chunker = Chunker(self.room, self.name, 0.0, self.pace)
        for chunk in chunker.feed(self._samples):
            self.lengths.append((chunk.start, len(chunk.samples)))
            yield chunk
        for chunk in chunker.flush():
            yield chunk


class Unpaced(Paced):
    """The same, which listens to nobody."""

    async def chunks(self) -> AsyncIterator[Chunk]:
        for chunk in Chunker(self.room, self.name, 0.0).feed(self._samples):
            yield chunk


async def test_chunks_are_long_while_nothing_is_heard_and_what_is_told_stays_the_same(models: Build) -> None:
    """As soon as the gate opens they are short: nothing is heard later for it."""
    bed = np.random.default_rng(1).normal(0.0, 0.001, 48 * SAMPLE_RATE).astype(np.float32)
    heard = placed(placed(bed, spoken(2.0), 12.03), t3(cycles=3), 22.01)
    paced, unpaced = Paced(heard), Unpaced(heard)
    told: dict[Paced, list[Event]] = {paced: [], unpaced: []}
    for source, events in told.items():
        await Pipeline(source, models(Slow()), hearing_settings(Config()), events.append, inline=True).run()
    assert [replace(event, id="", latency=0.0) for event in told[paced]] == [
        replace(event, id="", latency=0.0) for event in told[unpaced]
    ]
    assert {event.kind for event in told[paced]} == {"sound", "speech"}
    quiet = [length for start, length in paced.lengths if 8 * SAMPLE_RATE < start < 11 * SAMPLE_RATE]
    busy = [length for start, length in paced.lengths if 12.5 * SAMPLE_RATE < start < 14 * SAMPLE_RATE]
    assert set(quiet) == {LONGEST_CHUNK}
    assert set(busy) == {SHORT_CHUNK}


async def test_a_slow_recogniser_does_not_delay_an_alarm(models: Build) -> None:
    recogniser = Slow(3.0)
    told: list[Event] = []
    source = Played(room((1.0, spoken(1.5)), (6.0, 0.4 * t3(cycles=4))), "lasts")
    began = time.monotonic()
    task = asyncio.create_task(pipe(source, models(recogniser), told).run())
    while not any(event.event_type == "smoke_alarm" for event in told):
        assert time.monotonic() - began < 20
        await asyncio.sleep(0.01)
    alarm = next(event for event in told if event.event_type == "smoke_alarm")
    assert recogniser.begun.is_set(), "the recogniser was not even asked"
    assert not any(event.kind == "speech" for event in told), "it was too quick to prove anything"
    assert alarm.latency < 0.5
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert any(event.text == "a secret sentence" for event in told)  # and nothing that was said is lost
    assert any(event.state is State.ENDED and event.event_type == "smoke_alarm" for event in told)


async def test_a_cancel_that_comes_together_with_a_result_is_not_swallowed() -> None:
    thread = ModelThread("busy")

    async def for_ever() -> None:
        while True:
            await thread.call(lambda: None)

    try:
        for n in range(300):
            task = asyncio.create_task(for_ever())
            await asyncio.sleep(0.0001 * (n % 10))
            task.cancel()
            done, _ = await asyncio.wait((task,), timeout=1.0)
            if not done:
                task.cancel()
            assert done, n
    finally:
        thread.shutdown()


async def test_several_threads_answer_calls_at_once_and_only_so_many() -> None:
    thread, held, running = ModelThread("several", 2), threading.Event(), list[int]()

    def work(number: int) -> int:
        running.append(number)
        assert held.wait(10)
        return number

    calls = [asyncio.create_task(thread.call(partial(work, number))) for number in range(3)]
    await until(lambda: len(running) == 2)
    assert not thread.idle
    assert thread.busy_since is not None
    await asyncio.sleep(0.05)
    assert running == [0, 1]
    held.set()
    assert await asyncio.gather(*calls) == [0, 1, 2]
    await until(lambda: thread.idle and thread.busy_since is None)
    assert await thread.call(lambda: 7) == 7
    thread.shutdown()


async def test_calls_that_wait_are_answered_each_with_its_own_result() -> None:
    thread, held, order = ModelThread("shared"), threading.Event(), list[int]()

    def work(n: int) -> int:
        held.wait(10.0)
        order.append(n)
        if n % 5 == 0:
            raise RuntimeError(f"not {n}")
        return n

    calls = [asyncio.create_task(thread.call(partial(work, n))) for n in range(1, 24)]
    await until(lambda: thread.busy_since is not None)
    calls[6].cancel()
    await asyncio.sleep(0)
    held.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one).__name__ if isinstance(one, BaseException) else one for one in results] == [
        "CancelledError" if n == 7 else "RuntimeError" if n % 5 == 0 else n for n in range(1, 24)
    ]
    assert order == [n for n in range(1, 24) if n != 7]
    assert await thread.call(lambda: "again") == "again"
    thread.shutdown()
    with pytest.raises(RuntimeError):
        await thread.call(lambda: None)


async def test_who_waits_for_a_thread_that_shuts_down_is_cancelled() -> None:
    thread, held = ModelThread("shared"), threading.Event()
    running, waiting = (asyncio.create_task(thread.call(lambda: held.wait(10.0))) for _ in range(2))
    await until(lambda: thread.busy_since is not None)
    thread.shutdown()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 5.0)
    held.set()
    assert await running is True


async def test_a_cancel_while_the_last_utterance_is_recognised_loses_nothing(models: Build) -> None:
    recogniser = Slow(1.0)
    events: list[Event] = []
    task = asyncio.create_task(pipe(Played(room((1.0, spoken(1.5)), length=5.0)), models(recogniser), events).run())
    assert await asyncio.to_thread(recogniser.begun.wait, 20)
    await asyncio.sleep(0.2)  # the source has ended: the end is being worked on
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event.text for event in events if event.kind == "speech"] == ["a secret sentence"]


async def test_a_second_cancel_ends_at_once(models: Build) -> None:
    recogniser = Slow(4.0)
    task = asyncio.create_task(pipe(Played(room((1.0, spoken(1.5)), length=5.0)), models(recogniser), []).run())
    assert await asyncio.to_thread(recogniser.begun.wait, 20)
    task.cancel()
    await asyncio.sleep(0.1)
    asked = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - asked < 0.5


async def test_a_stuck_recogniser_holds_a_stop_only_so_long(
    models: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline_module, "DRAIN", 0.3)
    recogniser = Slow(3.0)
    source = Played(room((1.0, spoken(1.5)), length=5.0), "lasts")
    task = asyncio.create_task(pipe(source, models(recogniser), []).run())
    assert await asyncio.to_thread(recogniser.begun.wait, 20)
    asked = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - asked < 1.5
    assert "what was said last is lost" in caplog.text


async def test_a_broken_source_ends_what_sounds(models: Build) -> None:
    events: list[Event] = []
    heard = room((2.0, 0.4 * t3(cycles=4)), length=15.0)
    with pytest.raises(SourceError, match="unplugged"):
        await pipe(Played(heard, SourceError("unplugged")), models(), events).run()
    assert [event.state for event in events if event.event_type == "smoke_alarm"] == [State.STARTED, State.ENDED]


async def test_the_source_is_closed_when_a_stage_breaks(models: Build) -> None:
    source = Played(room((1.0, 0.4 * t3(cycles=4))), "lasts")

    def emit(_event: Event) -> None:
        raise ValueError("an output that nobody guarded")

    with pytest.raises(ValueError, match="nobody guarded"):
        await Pipeline(source, models(), hearing_settings(Config()), emit, inline=True).run()
    assert source.closed  # now, not when the garbage collector comes by


async def test_a_broken_tagger_is_counted_logged_now_and_then_and_cadences_are_heard(
    models: Build, yamnet_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    hearing = pipe(Played(room((2.0, 0.4 * t3(cycles=5)))), models(tagger=Broken(Yamnet(yamnet_path).labels)), events)
    await hearing.run()
    assert [event.model for event in events] == ["t3", "t3"]
    assert hearing.model_errors > 20
    assert sum("the tagger failed" in record.message for record in caplog.records) == 1 + hearing.model_errors // 101


async def test_a_broken_recogniser_is_counted_and_asked_again(models: Build) -> None:
    recogniser = Slow(error=RuntimeError("no words today"))
    events: list[Event] = []
    hearing = pipe(Played(room((1.0, spoken(1.5)), (8.0, spoken(1.5)), length=14.0)), models(recogniser), events)
    await hearing.run()
    assert recogniser.calls == hearing.model_errors == 2
    assert not [event for event in events if event.kind == "speech"]


async def test_a_recogniser_that_cannot_be_had_is_an_error_of_the_utterance(models: Build) -> None:
    async def never() -> Recogniser | None:
        raise RuntimeError("its loader has a bug")

    built = models()
    broken = Models(built.tagger, built.tagging, never, built.recognising)
    hearing = pipe(Played(room((1.0, spoken(1.5)), length=8.0)), broken, [])
    await hearing.run()
    assert hearing.model_errors == 1


async def test_utterances_that_the_recogniser_has_no_time_for_are_shed_and_counted(models: Build) -> None:
    sentences = [(1.0 + 4.0 * n, spoken(1.5)) for n in range(8)]
    hearing = pipe(Played(room(*sentences, length=36.0)), models(Slow(1.0)), [])
    await hearing.run()
    assert hearing.utterances.drops > 0
    assert hearing.utterances.shed > 1.5 * hearing.utterances.drops


class Mute(Slow):
    """A recogniser that finds no words."""

    def transcribe(self, samples: Samples, evidence: SpeechEvidence, **_: object) -> Transcript:
        return Transcript("", None, None, rejected="nothing believable")


async def speech_of(hearing: Pipeline, at: float) -> list[bool | None]:
    """What is known after each second of whether somebody spoke around `at`; the last after the end."""
    known: list[bool | None] = []
    span = round((at - 0.5) * SAMPLE_RATE), round((at + 1.0) * SAMPLE_RATE)

    async def look(pipeline: Pipeline) -> None:
        if pipeline.position >= SAMPLE_RATE * (1 + len(known)):
            known.append(pipeline.speech_in(*span))

    hearing._after_chunk = look
    await hearing.run()
    return [*known, hearing.speech_in(*span)]


async def test_whether_somebody_spoke_is_unknown_until_it_is_sure(models: Build) -> None:
    buzz = room((4.0, spoken(1.5)), length=12.0)
    tagger = models().tagger

    class Deaf:
        labels = tagger.labels

        def tag(self, samples: Samples) -> NDArray[np.float32]:
            return np.zeros(len(self.labels), np.float32)

    text = await speech_of(pipe(Played(buzz), models(Slow(), Deaf()), [], inline=True), 4.0)
    assert text[:4] == [None] * 4  # it is still to come, or being said
    assert set(text[8:]) == {True}
    none = await speech_of(pipe(Played(buzz), models(Mute(), Deaf()), [], inline=True), 4.0)
    assert none[:4] == [None] * 4
    assert set(none[8:]) == {False}
    for lost in (Slow(error=RuntimeError("no words today")), None):
        unsure = await speech_of(pipe(Played(buzz), models(lost, Deaf()), [], inline=True), 4.0)
        assert set(unsure[8:]) == {True}  # nobody knows: that counts as speech


async def test_the_tagger_alone_is_enough_to_say_that_somebody_spoke(models: Build) -> None:
    labels = models().tagger.labels

    class Faint:
        def __init__(self) -> None:
            self.labels = labels

        def tag(self, samples: Samples) -> NDArray[np.float32]:
            scores = np.zeros(len(labels), np.float32)
            scores[labels.index("Conversation")] = 0.06
            return scores

    known = await speech_of(pipe(Played(room((4.0, spoken(1.5)), length=12.0)), models(Mute(), Faint()), []), 4.0)
    assert known[-1] is True


async def test_somebody_who_watches_sees_what_is_heard_and_it_decides_the_same(models: Build) -> None:
    samples = room((2.0, 0.4 * t3(cycles=4)), (12.0, 0.3 * tone(1000.0, 1.0)))
    told: list[dict[str, object]] = []
    heard: list[list[Event]] = []
    stages = Stages()
    for watching in (None, Watching("kitchen", lambda message: told.append(dict(message)))):
        events: list[Event] = []
        settings = hearing_settings(Config())
        hearing = Pipeline(Played(samples), models(), settings, events.append, inline=True, stages=stages)
        hearing.watch(watching)
        await hearing.run()
        heard.append(events)
        if watching is None:
            assert not told
    first, second = ([(e.event_type, e.state, e.offset, e.score) for e in events] for events in heard)
    assert first == second
    assert {message["type"] for message in told} == {"sound", "scores"}
    assert len(stages.taken["tagger"]) > 20
    assert 50 < len(stages.taken["gate"]) <= 60
    assert 0.0 < max(stages.taken["gate"]) < 1.0


async def test_what_a_chunk_waited_on_its_way_is_latency(models: Build) -> None:
    for clocked, least, most in ((True, 2.0, 2.5), (False, 0.0, 0.5)):
        events: list[Event] = []
        source = Played(room((2.0, 0.4 * t3(cycles=4))), age=2.0)
        await pipe(source, models(), events, inline=True, clocked=clocked).run()
        [alarm] = [event for event in events if event.event_type == "smoke_alarm" and event.state is State.STARTED]
        assert least <= alarm.latency < most


async def test_the_beeps_of_an_alarm_are_not_called_a_telephone(models: Build) -> None:
    low = tone(520.0, 0.5)
    gap, pause = np.zeros(SAMPLE_RATE // 2, np.float32), np.zeros(SAMPLE_RATE, np.float32)
    alarm = np.concatenate([low, gap, low, gap, low, gap, pause] * 6)
    events: list[Event] = []
    await pipe(Played(room((2.0, 0.4 * alarm), length=40.0)), models(), events, inline=True).run()
    smoke = [event for event in events if event.event_type == "smoke_alarm"]
    assert [event.state for event in smoke] == [State.STARTED, State.ENDED]
    for event in events:
        if event.event_type in {"phone", "appliance_beep", "alarm_clock"}:
            assert event.heard_at <= smoke[0].heard_at, event
    assert {e.state for e in events if e.event_type == "phone"} == {State.STARTED, State.ENDED}  # YAMNet did say so


class Busy:
    """An audio language model that has no time for speech."""

    async def call(self, function: Callable[[], object], *, patient: bool = False) -> object:
        raise BusyError("too much waits")

    def shutdown(self) -> None:
        return


async def test_speech_that_the_language_model_has_no_time_for_is_counted_in_seconds(models: Build) -> None:
    events: list[Event] = []
    busy = replace(models(Slow()), recognising=Busy())
    hearing = pipe(Played(room((2.0, spoken(2.0)), length=8.0)), busy, events)
    await hearing.run()
    assert 1.5 < hearing.speech_shed < 5.0
    assert hearing.model_errors == 0
    assert not [event for event in events if event.kind == "speech"]


async def test_no_word_is_logged(models: Build, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    await pipe(Played(room((1.0, spoken(1.5)), length=6.0)), models(Slow()), events).run()
    assert [event.text for event in events if event.kind == "speech"] == ["a secret sentence"]
    assert "secret" not in caplog.text


async def test_a_source_whose_name_is_no_text_can_be_told(models: Build) -> None:
    source = Played(room((2.0, 0.4 * t3(cycles=4)), length=20.0))
    source.name = "caf\udce9.wav"  # a file name in Latin-1, as Python hands it over
    events: list[Event] = []
    await pipe(source, models(), events).run()
    assert events
    assert {event.source for event in events} == {"caf�.wav"}


async def test_nobody_is_told_of_what_is_ignored(models: Build) -> None:
    alarm = placed(noise(25.0, -60.0), 0.2 * t3(cycles=4), 1.0)
    settings = hearing_settings(Config.model_validate({"sounds": {"ignore": ["smoke_alarm"]}}))
    for used, expected in ((hearing_settings(Config()), {"smoke_alarm"}), (settings, set())):
        events: list[Event] = []
        await Pipeline(Played(alarm), models(), used, events.append, inline=True).run()
        assert {event.event_type for event in events} & {"smoke_alarm"} == expected


def commands(complete: bool = True) -> RoomCommands:
    """Every utterance of the only room is a command."""

    async def understand(_text: str, _language: str | None, _room: str) -> Intent | NotUnderstood:
        return Intent("HassTurnOn", {"domain": "light"}, "hassil", "en") if complete else NotUnderstood("half")

    async def settled(_text: str, _language: str | None, _room: str) -> bool:
        return complete

    return RoomCommands(
        "kitchen",
        Attention(Wake.NONE),
        None,
        Arbiter(alone=lambda: True),
        understand=understand,
        settled=settled,
        handle=lambda *_: None,
        hush=lambda: False,
    )


class Patient(Played):
    """Gives recognition ahead of time the time it needs: the next chunk comes when that is done."""

    async def chunks(self) -> AsyncIterator[Chunk]:
        async for chunk in super().chunks():
            yield chunk
            if guesses := [task for task in asyncio.all_tasks() if task.get_name() == "speculation"]:
                await asyncio.wait(guesses)


def told_early(source: Played, models: Models, events: list[Event], *, complete: bool = True) -> Pipeline:
    return Pipeline(
        source, models, hearing_settings(Config()), events.append, inline=False, commands=commands(complete)
    )


@pytest.mark.parametrize("complete", [True, False])
async def test_a_command_is_recognised_once_before_its_end_is_declared(models: Build, complete: bool) -> None:
    recogniser = Slow()
    built = models(recogniser)
    events: list[Event] = []
    await told_early(Patient(room((12.0, spoken(1.5)), length=16.0)), built, events, complete=complete).run()
    (event,) = [event for event in events if event.kind == "speech"]
    assert event.text == "a secret sentence"
    assert recogniser.calls == 1
    assert built.speculations == {"kept": 1, "dropped": 0, "skipped": 0}
    assert event.heard_at is not None
    waited = event.heard_at - 13.5
    assert 0.35 < waited < 0.56 if complete else 0.55 < waited < 0.8


async def test_a_command_with_a_pause_is_recognised_whole(models: Build) -> None:
    recogniser = Slow()
    built = models(recogniser)
    events: list[Event] = []
    heard = room((12.0, spoken(1.0)), (13.3, spoken(1.0)), length=17.0)
    await told_early(Patient(heard), built, events).run()
    (event,) = [event for event in events if event.kind == "speech"]
    assert event.offset < 12.0
    assert event.duration is not None
    assert event.offset + event.duration > 14.3
    assert built.speculations == {"kept": 1, "dropped": 1, "skipped": 0}


async def test_a_recogniser_that_another_room_uses_is_left_to_it(models: Build) -> None:
    recogniser = Slow()
    built = models(recogniser)
    assert isinstance(built.recognising, ModelThread)
    free = threading.Event()
    other = asyncio.create_task(built.recognising.call(lambda: free.wait(60)))
    events: list[Event] = []
    hearing = told_early(Played(room((12.0, spoken(1.5)), length=16.0)), built, events)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(hearing.run())
        while not len(hearing.utterances) and not built.speculations["skipped"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        free.set()
    assert await other
    assert [event.text for event in events if event.kind == "speech"] == ["a secret sentence"]
    assert recogniser.calls == 1
    assert built.speculations == {"kept": 0, "dropped": 0, "skipped": 1}


async def test_recognition_ahead_of_time_that_fails_is_tried_again_at_the_end(models: Build) -> None:
    class Shaky(Slow):
        def transcribe(self, samples: Samples, evidence: SpeechEvidence, **more: object) -> Transcript:
            heard = super().transcribe(samples, evidence)
            if self.calls == 1:
                raise RuntimeError("no inference just now")
            return heard

    recogniser = Shaky()
    built = models(recogniser)
    events: list[Event] = []
    hearing = told_early(Patient(room((12.0, spoken(1.5)), length=16.0)), built, events)
    await hearing.run()
    assert [event.text for event in events if event.kind == "speech"] == ["a secret sentence"]
    assert recogniser.calls == 2
    assert hearing.model_errors == 0
    assert built.speculations == {"kept": 0, "dropped": 1, "skipped": 0}


async def test_a_stream_that_ends_in_a_pause_leaves_no_recognition_behind(models: Build) -> None:
    built = models(Slow(0.3))
    events: list[Event] = []
    await told_early(Played(room((12.0, spoken(1.5)), length=13.95)), built, events).run()
    assert [event.text for event in events if event.kind == "speech"] == ["a secret sentence"]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "speculation"]
