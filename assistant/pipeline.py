"""One source, from its chunks to events: the only place where the stages of hearing meet."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from ulid import ULID

from assistant.audio.source import CHUNK, LONGEST_CHUNK, Paced
from assistant.channel import Channel
from assistant.commanding import Addressed, RoomCommands
from assistant.events import (
    SAMPLE_RATE,
    Chunk,
    Detection,
    Event,
    LevelMeasured,
    Samples,
    Sensitivity,
    SpeechEvidence,
    State,
    Tags,
    Transcript,
    Utterance,
    Window,
    iso,
    seconds,
)
from assistant.evidence import Evidence, Verdicts
from assistant.health import Stages
from assistant.house_sounds import Collector, HouseSounds
from assistant.merging import Merger
from assistant.models.cadence import Cadence
from assistant.resident import BusyError, Resident, Status, UnwellError
from assistant.segment.activity import SILENCE_DBFS, Activity, ActivitySettings, Frame, loudest
from assistant.segment.recent import KEEP, Recent
from assistant.segment.speech import Phase, Speech, SpeechSettings
from assistant.segment.windows import Windows, WindowSettings
from assistant.speculating import Foreseen, Speculation
from assistant.taught import TaughtTracker
from assistant.taught_sounds import TaughtSound
from assistant.tracking import SHIFT, Candidate, SoundSettings, SoundTable, Standing, Tracker
from assistant.understanding import Captions, SharedTagger, Sounds
from assistant.waiting import at_most

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import numpy as np
    from numpy.typing import NDArray

    from assistant.audio.source import Source
    from assistant.models.audio_llm import AudioLLM
    from assistant.models.remote import Remote
    from assistant.models.yamnet import YamnetStream
    from assistant.watching import Watching

log = logging.getLogger(__name__)

T = TypeVar("T")
Tagged: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.uint8] | None]"  # scores, and what they are made of

UTTERANCES = 4  # waiting for the recogniser, per room; the oldest is shed
DRAIN = 10.0  # seconds that a stopped stream may still take to recognise what was said
PICTURE = 10 * SAMPLE_RATE  # samples that are kept for a spectrogram
LEVEL_EVERY = 12 * CHUNK  # samples between level measurements: about a second, where nothing is heard two
AWAKE_CHUNK = 4 * CHUNK  # samples of a chunk where something beeps below the gate
MODEL_TIMEOUT = 60.0  # seconds after which a model call is given up
TOGETHER = 8  # calls of a model's thread that are answered at once, at most
SLOW = 0.02  # seconds of a call whose answer waits for no other: recognition
MODEL_HANGS = 2 * MODEL_TIMEOUT  # seconds after which a call that was given up will never return
LLM_HANGS = 600.0  # the same for an audio language model, which stops between two tokens
LONGEST_LAG = 30.0  # seconds: sources hold less; a longer one is a wall clock that was set
SPOKEN = 0.05  # score of the tagger's speech labels at which somebody may have spoken (docs/adr/0012-clips.md)
NEXT_WINDOW = SAMPLE_RATE // 3  # samples within which the next window of an activity comes
SETTLE = SAMPLE_RATE  # samples after a stretch until all of it was tagged and an utterance in it has begun
WARN_EVERY = 100  # the first and each hundredth failure of a model is logged


class Tagger(Protocol):
    """Anything that scores labels over a window."""

    labels: tuple[str, ...]

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        """Scores of shape (labels,), 0 to 1."""


@runtime_checkable
class Embedder(Protocol):
    """A tagger that tells what its scores are made of."""

    def embedding(self) -> NDArray[np.uint8]:
        """What it made of the window that `tag` was called with last."""


@runtime_checkable
class Follower(Protocol):
    """A tagger that hears the windows of one stream with less work than one by one."""

    def follow(self) -> YamnetStream:
        """What makes patches of the windows of one stream, in any thread."""

    def score(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `tag` tells, of a patch."""


class Recogniser(Protocol):
    """Anything that turns an utterance into text."""

    name: str

    def transcribe(
        self,
        samples: Samples,
        evidence: SpeechEvidence,
        *,
        languages: Sequence[str] | None = None,
        words: Sequence[str] = (),
    ) -> Transcript:
        """What was said; empty text when nothing believable was. `words` are names of this home to favour."""


class Caller(Protocol):
    """A thread that a model is called in."""

    async def call(self, function: Callable[[], T], *, patient: bool = False) -> T:
        """Run `function`; `patient`: there is time, as when a file is read as fast as possible."""

    def shutdown(self) -> None:
        """Take no more calls."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """What is to run in a model's thread."""

    function: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


_Done: TypeAlias = "tuple[_Call, Any, BaseException | None]"  # with its result, or what it raised


class ModelThread:
    """One thread in which one model is loaded, warmed up and called; several for a model that can be called by several.

    One thread per device, because interpreters are not thread-safe and because two inferences at once on one core only
    make both late. A call that was given up still runs to its end in the thread; `shutdown` does not wait for it.

    Calls of many rooms that wait are answered together: to wake the loop costs a tenth of what YAMNet does.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self.name = name
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._lock = Lock()  # of the three below
        self._calls: deque[_Call] = deque()
        self._working = 0  # threads that look for calls
        self._closed = False
        self._began: dict[int, float] = {}  # by thread, monotonic: when the call began that runs there now

    @property
    def idle(self) -> bool:
        """Whether a call would begin at once."""
        return self._working < self._threads

    @property
    def busy_since(self) -> float | None:
        """When the call began (monotonic) that has lasted longest; None: none runs."""
        return min(list(self._began.values()), default=None)

    async def call(self, function: Callable[[], T], *, patient: bool = False) -> T:
        """Run `function` in the thread. Raises `TimeoutError` after a minute, and `RuntimeError` after `shutdown`."""
        loop = asyncio.get_running_loop()
        call = _Call(function, loop.create_future(), loop)
        with self._lock:
            if self._closed:  # one that is on its way to its end would still answer
                raise RuntimeError(f"the thread of the {self.name} is shutting down")
            if self.idle:
                self._executor.submit(self._work)
                self._working += 1
            self._calls.append(call)
        # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancel that comes together with the result.
        async with asyncio.timeout(MODEL_TIMEOUT):
            return cast("T", await call.answer)

    def _work(self) -> None:
        """In the thread: all calls that wait, and those that come meanwhile."""
        done: list[_Done] = []
        while True:
            with self._lock:
                call = self._calls.popleft() if self._calls and len(done) < TOGETHER else None
                self._working -= call is None and not done
            if call is not None:
                began = time.monotonic()
                if not call.answer.cancelled():
                    done.append(self._run(call))
                if done and time.monotonic() - began > SLOW:
                    _deliver(done)
                    done = []
            elif done:
                _deliver(done)
                done = []
            else:
                return

    def _run(self, call: _Call) -> _Done:
        thread = get_ident()
        self._began[thread] = time.monotonic()
        try:
            return call, call.function(), None
        except Exception as error:
            return call, None, error
        finally:
            del self._began[thread]

    def shutdown(self) -> None:
        """Take no more calls; waiting ones are cancelled."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
            self._calls.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)
        _deliver([(call, None, asyncio.CancelledError()) for call in calls])


def _deliver(done: Sequence[_Done]) -> None:
    """Answer calls, all of one loop in one go."""
    for loop in {call.loop for call, _, _ in done}:
        _tell(loop, [one for one in done if one[0].loop is loop])


def _tell(loop: asyncio.AbstractEventLoop, done: Sequence[_Done]) -> None:
    with suppress(RuntimeError):  # the loop has been closed: nobody waits
        loop.call_soon_threadsafe(_answer, done)


def _answer(done: Sequence[_Done]) -> None:
    for call, result, error in done:
        if call.answer.done():  # given up
            continue
        if error is None:
            call.answer.set_result(result)
        elif isinstance(error, asyncio.CancelledError):
            call.answer.cancel()
        else:
            call.answer.set_exception(error)


@dataclass(frozen=True, slots=True)
class Models:
    """The resident models and the threads they live in. The recogniser may still be loading, or have failed."""

    tagger: Tagger
    tagging: ModelThread
    recogniser: Callable[[], Awaitable[Recogniser | None]]
    recognising: Caller
    llm: Resident | None = None  # profiles qwen, hybrid and remote
    remote: Remote | None = None  # profile remote: the client that `llm` is
    describe: Callable[[AudioLLM, Samples], str | None] | None = None  # a caption, in the thread of `llm`
    llm_tagger: SharedTagger | None = None  # profile qwen
    # Who recognises while `llm` is unwell, loaded by then, and its thread.
    stand_in: Callable[[], Awaitable[Recogniser | None]] | None = None
    standing_in: Caller | None = None
    # What became of recognition ahead of time, in all rooms.
    speculations: Counter[str] = field(default_factory=lambda: Counter(kept=0, dropped=0, skipped=0))

    async def recognition(self) -> tuple[Recogniser | None, Caller]:
        """Who recognises now, and where it is called. Raises `ModelError`."""
        if self.llm is not None and self.stand_in is not None and self.standing_in is not None:
            recogniser = None
            if self.llm.status is not Status.UNWELL:
                with suppress(UnwellError):
                    recogniser = await self.recogniser()
            if self.llm.status is Status.UNWELL:
                return await self.stand_in(), self.standing_in
            return recogniser, self.recognising
        return await self.recogniser(), self.recognising

    @property
    def conversing(self) -> Resident | None:
        """Who answers questions; None: nobody, or a server that only transcribes."""
        return None if self.remote is not None and self.remote.only_transcribes else self.llm

    def hanging(self, now: float) -> str | None:
        """Which model has not returned from a call for so long (at `now`, monotonic) that it never will."""
        threads = [
            (thread, MODEL_HANGS) for thread in (self.tagging, self.recognising) if isinstance(thread, ModelThread)
        ]
        for part, limit in (*threads, *(((self.llm, LLM_HANGS),) if self.llm is not None else ())):
            since = part.busy_since
            if since is not None and now - since > limit:
                return f"the {part.name or 'audio language model'} has not answered for {now - since:.0f} s"
        return None

    def shutdown(self) -> None:
        """Take no more calls."""
        self.tagging.shutdown()
        self.recognising.shutdown()
        if self.standing_in is not None:
            self.standing_in.shutdown()
        if self.llm is not None:
            self.llm.shutdown()
        if self.remote is not None:
            self.remote.close()


@dataclass(frozen=True, slots=True)
class HearingSettings:
    """What the stages of one stream need."""

    activity: ActivitySettings
    windows: WindowSettings
    speech: SpeechSettings
    sounds: SoundSettings
    table: SoundTable
    languages: tuple[str, ...] | None = None  # of this room; None: those of the recogniser's settings
    words: tuple[str, ...] = ()  # names of rooms and devices, which recognition should favour
    recognise: bool = True
    taught: tuple[TaughtSound, ...] = ()  # sounds that the household taught
    ignored: frozenset[str] = frozenset()  # event types that nobody is told of


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """An utterance on its way to the recogniser."""

    utterance: Utterance
    evidence: SpeechEvidence
    position: int  # samples: the last one used to find its end
    arrived: float  # monotonic seconds when that one was there
    addressed: Addressed | None = None
    foreseen: asyncio.Task[Foreseen | None] | None = None  # what was made of it before it was known to have ended

    @property
    def skipped(self) -> int:
        """Samples at its beginning that hold the wake word."""
        start = self.utterance.start
        return 0 if self.addressed is None else min(max(0, self.addressed.start - start), len(self.utterance.samples))


class Pipeline:
    """Hears one source until it ends. Each opening gets a fresh one: fresh floor, background and cool-down.

    Read it from `run` down: its many small methods are the steps of a chunk on its way to an event.
    """

    def __init__(
        self,
        source: Source,
        models: Models,
        settings: HearingSettings,
        emit: Callable[[Event], None],
        level: Callable[[LevelMeasured], None] | None = None,
        *,
        inline: bool,
        clocked: bool = False,
        commands: RoomCommands | None = None,
        remember: int = 0,
        heard: Callable[[Pipeline], Awaitable[None]] | None = None,
        stages: Stages | None = None,
        house: HouseSounds | None = None,
    ) -> None:
        """`inline` recognises before the next chunk is read, so that two runs over a file give the same lines.

        `clocked`: the chunks tell when they were heard, so that what they waited on their way counts as latency.
        `remember`: so many samples are to be there for `audio` at least; `heard` is awaited after each chunk.
        `stages` is told what the parts of hearing cost; `house` learns what is heard here.
        An exception of `emit` ends the stream.
        """
        self._source = source
        # What a file is called need not be text; what the house is told must be.
        self._name = os.fsencode(source.name).decode("utf-8", "replace")
        self._models = models
        self._settings = settings
        self._emit = emit
        self._level = level
        self._commands = commands
        self._inline = inline
        self._clocked = clocked
        self._after_chunk = heard
        self._stages = stages or Stages()
        self._working = 0.0  # seconds that gate, windows, voice activity and wake words took
        self._worked_at = 0  # position when that was told last
        self._watching: Watching | None = None
        # What questions, pictures and clips are of.
        self.recent = Recent(max(remember, PICTURE if models.llm is None else KEEP))
        self._activity = Activity(settings.activity)
        self._windows = Windows(settings.windows)
        self._speech = Speech(settings.speech)
        self._tracker = Tracker(settings.table, models.tagger.labels, settings.sounds)
        self._taught = TaughtTracker(settings.taught)
        self._taught.factor = SHIFT[settings.sounds.sensitivity]
        self._held: list[Detection] = []
        self._held_until = 0  # samples
        self._collector = None if house is None else Collector(house, models.tagger.labels)
        self.embedded: Callable[[Tags, NDArray[np.uint8]], None] | None = None  # told of each window, while it is set
        self._cadence = Cadence()
        self._patches = models.tagger.follow() if isinstance(models.tagger, Follower) else None
        self._tagged = _tagging_of(models.tagger)
        self._evidence = Evidence(models.tagger.labels)
        self._verdicts = Verdicts()
        self._over = False  # the source has ended, and all of it was heard
        self._pace = source.pace if isinstance(source, Paced) else None
        self._alerts = frozenset(name for name, group in settings.table.groups.items() if group.alert)
        self._merger = Merger(self._alerts)
        self._sounds = self._llm_sounds()
        self._captions = self._llm_captions()
        self._untold: set[int] = set()  # keys of the tagger's sounds that the language model decides about
        self._ids: dict[int, str] = {}  # detection key → event id
        self._speculation = self._foresight()
        self._position = self._level_at = 0
        self._origin = time.time()  # Unix seconds of sample 0, as the last chunk tells
        self._arrived = time.monotonic()
        self.hearing_since: float | None = None  # monotonic: when the chunk came that is on its way through the stages
        self.heard_at = time.monotonic()  # when the last one was through
        self.utterances: Channel[_Pending] = Channel(
            f"{self._name}: utterances", UTTERANCES, weigh=lambda pending: seconds(len(pending.utterance.samples))
        )
        self._peak = SILENCE_DBFS
        self.model_errors = 0
        self._unanswered = 0.0  # seconds of utterances that the audio language model had no time for

    def be_sensitive(self, sensitivity: Sensitivity) -> None:
        """From now on believe sounds as easily as that."""
        self._tracker.sensitivity = sensitivity
        self._taught.factor = SHIFT[sensitivity]

    def teach(self, sounds: Sequence[TaughtSound]) -> None:
        """From now on these taught sounds are known."""
        self._taught.learn(sounds)

    def weigh(self, factors: Mapping[str, float]) -> None:
        """From now on multiply the thresholds of these kinds of sound by that."""
        self._tracker.weigh(factors)

    def favour(self, words: Sequence[str]) -> None:
        """From now on favour these names of the home in what is recognised."""
        self._settings = replace(self._settings, words=tuple(words))

    def watch(self, watching: Watching | None) -> None:
        """From now on somebody sees what is heard, or nobody does."""
        self._watching = watching
        self._tracker.watched = watching is not None
        self._set_pace()

    @property
    def speech_shed(self) -> float:
        """Seconds of speech that nobody had the time to recognise."""
        return self.utterances.shed + self._unanswered

    @property
    def position(self) -> int:
        """Samples of the stream heard so far; the next chunk begins there unless audio is lost."""
        return self._position

    def audio(self, start: int, end: int) -> Samples:
        """What is still in memory of `start` to `end` (samples of the stream)."""
        return self.recent.cut(start, end)

    def speech_in(self, start: int, end: int) -> bool | None:
        """Whether somebody spoke between `start` and `end` (samples) of the last 30 s; None: that is not known yet.

        The tagger's faint word or the recogniser's text is enough. That an utterance was cut is not: the voice activity
        detector takes most sounds for speech.
        """
        if self._evidence.speech_in(start, end) >= SPOKEN:
            return True
        verdict = self._verdicts.between(start, end)
        if verdict or self._over:
            return verdict
        since = self._speech.since
        heard = self._position >= end + SETTLE and (since is None or since >= end)
        return verdict if heard else None

    def _llm_sounds(self) -> Sounds | None:
        models, settings = self._models, self._settings
        if models.llm is None or models.llm_tagger is None:
            return None
        witness = models.tagger.labels
        return Sounds(models.llm, models.llm_tagger, settings.table, witness, settings.sounds, patient=self._inline)

    def _foresight(self) -> Speculation | None:
        """Recognition ahead of time: of commands, heard as they are said, by a recogniser with a thread of its own."""
        thread, commands = self._models.recognising, self._commands
        if self._inline or commands is None or self._models.llm is not None or not isinstance(thread, ModelThread):
            return None
        return Speculation(
            self._settings.speech.hangover,
            self._models.speculations,
            begin=partial(self._foresee, commands),
            foresee=commands.foresee,
            busy=lambda: not thread.idle or len(self.utterances) > 0,
            patient=lambda: commands.patient,
        )

    async def _foresee(self, commands: RoomCommands, utterance: Utterance, start: int) -> Foreseen | None:
        """What `utterance` says from `start` on if it ends here; None: nothing that is believed by now."""
        words = utterance.samples[start - utterance.start :]
        try:
            found = await self._recognised(words, self._evidence.over(utterance))
            if found is None or not found[1].text:
                return None
            model, transcript = found
            return Foreseen(model, transcript, await commands.patience(transcript.text, transcript.language))
        except Exception:  # the utterance is recognised again at its end; what happens then is counted and told
            log.debug("%s: recognition ahead of time failed", self._name, exc_info=True)
            return None

    def _llm_captions(self) -> Captions | None:
        if self._models.llm is None or self._models.describe is None:
            return None
        return Captions(self._models.llm, self._models.describe, self.recent, patient=self._inline)

    async def run(
        self, online: Callable[[], None] = lambda: None, broken: Callable[[Exception], None] = lambda _error: None
    ) -> None:
        """Hear until the source ends, breaks or the task is cancelled; `online` is called at the first chunk.

        `broken` is called as soon as the source breaks, before what was heard is brought to its end.

        In each case open sounds end and what was said so far is recognised; after a cancel within `DRAIN` seconds, and
        not at all after a second one.
        """
        recognising = None if self._inline else asyncio.create_task(self._recognise_queued())
        try:
            await self._listen(online)
        except asyncio.CancelledError:
            await self._at_most(DRAIN, self._finish(recognising))
            raise
        except Exception as error:
            broken(error)
            await self._unless_cancelled(self._finish(recognising))
            raise
        else:
            await self._unless_cancelled(self._finish(recognising))
        finally:
            if recognising is not None:
                recognising.cancel()
            if self._speculation is not None:
                self._speculation.drop()
            for part in (self._sounds, self._captions):
                if part is not None:
                    part.close()

    async def _at_most(self, limit: float, finishing: Coroutine[Any, Any, None] | asyncio.Task[None]) -> None:
        if not await at_most(limit, finishing):
            log.warning("%s: the models had no answer within %.0f s; what was said last is lost", self._name, limit)

    async def _unless_cancelled(self, finishing: Coroutine[Any, Any, None]) -> None:
        """Wait for the end without hurry; a cancel meanwhile leaves it `DRAIN` seconds more."""
        task = asyncio.create_task(finishing)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._at_most(DRAIN, task)
            raise

    async def _listen(self, online: Callable[[], None]) -> None:
        first = True
        # Closed here rather than by the garbage collector: a microphone must be free before it is opened again.
        async with aclosing(cast("AsyncGenerator[Chunk]", self._source.chunks())) as chunks:
            async for chunk in chunks:
                if first:
                    online()
                    first = False
                self.hearing_since = time.monotonic()
                await self._hear(chunk)
                self.hearing_since, self.heard_at = None, time.monotonic()

    async def _hear(self, chunk: Chunk) -> None:
        """Take one chunk through every stage, in the order that lets an alarm out first."""
        self._arrived = time.monotonic() - (_waited(chunk) if self._clocked else 0.0)
        self._origin = chunk.time - seconds(chunk.start)
        self._position = chunk.end
        began = time.perf_counter()
        self.recent.feed(chunk)
        for detection in self._cadence.feed(chunk):
            self._announce(detection)
        frames = self._activity.feed(chunk)
        if self._watching is not None:
            self._watching.hear(chunk, frames, began)
        windows = self._windows.feed(chunk, frames)
        self._working += time.perf_counter() - began
        if windows:
            await self._tag(windows)
        for detection in self._due():
            self._announce(detection)
        if self._models.llm is not None:
            await self._understand(chunk, frames)
        began = time.perf_counter()
        utterances = self._speech.feed(chunk, frames) if self._settings.recognise else []
        if self._speculation is not None and not utterances and self._speculation.follow(self._speech):
            concluded = self._speech.conclude()
            utterances += [] if concluded is None else [concluded]
        if self._commands is not None:
            self._commands.hear(chunk, frames, speaking=self._speech.phase is not Phase.QUIET)
        self._working += time.perf_counter() - began
        if (worked := chunk.end - self._worked_at) >= SAMPLE_RATE:
            self._stages.took("gate", self._working / seconds(worked))
            self._working, self._worked_at = 0.0, chunk.end
        for utterance in utterances:
            await self._heard(utterance)
        self._measure(chunk, frames)
        if self._after_chunk is not None:
            await self._after_chunk(self)
        self._set_pace()

    def _due(self) -> list[Detection]:
        """What is to be told by now whatever was heard: what waited long enough, and the ends of what is over."""
        due = self._release() if self._held and self._position >= self._held_until else []
        if self._tracker.running or self._taught.running:
            due += [*self._tracker.advance(self._position), *self._taught.advance(self._position)]
        return due

    def _set_pace(self) -> None:
        """How long the next chunks may be."""
        if self._pace is None:
            return
        if not self._idle():
            self._pace.loud, self._pace.samples = math.inf, CHUNK
            return
        self._pace.loud = 10.0 ** ((self._activity.floor_dbfs + self._settings.activity.open_db) / 10.0)  # the gate
        self._pace.samples = AWAKE_CHUNK if self._cadence.awake else LONGEST_CHUNK

    def _idle(self) -> bool:
        """Whether nothing goes on that a longer chunk would make later."""
        return (
            self._windows.active_since is None
            and self._speech.phase is Phase.QUIET
            and not (self._tracker.running or self._taught.running or self._held)
            and not (self._commands is not None and self._commands.replying)
            and self._watching is None
            and self._models.llm is None
        )

    async def _tag(self, windows: Sequence[Window]) -> None:
        """Ask the tagger about the windows of a chunk, all in one call: to wake the loop costs a tenth of one."""
        if not windows:
            return
        began = time.perf_counter()
        heard = [window.samples if self._patches is None else self._patches.patch(window) for window in windows]
        answers: Sequence[Tagged | Exception]
        try:
            answers = await self._models.tagging.call(partial(self._tagged, heard))
        except Exception as error:
            answers = [error] * len(windows)
        took = (time.perf_counter() - began) / len(windows)
        for window, answer in zip(windows, answers, strict=True):
            if isinstance(answer, Exception):
                # A broken inference costs one window, not the room.
                self._failed("the tagger failed on a window", answer)
            else:
                self._stages.took("tagger", took)
                self._told(Tags(window, answer[0]), answer[1])

    def _told(self, tags: Tags, embedding: NDArray[np.uint8] | None) -> None:
        """What the tagger says of a window."""
        self._evidence.feed(tags)
        for detection in (*self._recall(tags, embedding), *self._release()):
            self._announce(detection)
        for detection in self._decide(tags):
            if self._taught.expecting and detection.event_type not in self._alerts:
                self._held.append(detection)
                self._held_until = tags.window.end + NEXT_WINDOW
            else:
                self._announce(detection)
        if self._watching is not None:
            self._watching.tagged(tags.window.end, self._candidates(), time.perf_counter())

    def _candidates(self) -> Sequence[Candidate]:
        """What the tagger's last window says. Where a language model hears sounds, it decides about most."""
        candidates = self._tracker.candidates
        if self._sounds is None or not self._sounds.hearing:
            return candidates
        return [
            one
            if one.event_type in self._alerts or one.standing is Standing.SPEECH
            else replace(one, threshold=None, standing=Standing.WITNESS)
            for one in candidates
        ]

    def _release(self) -> list[Detection]:
        """What waited for one more window, because it may be a taught sound."""
        held, self._held = self._held, []
        return held

    def _recall(self, tags: Tags, embedding: NDArray[np.uint8] | None) -> Sequence[Detection]:
        """Which taught sounds begin, before the tagger gives them a name of its own."""
        if embedding is None:
            return ()
        if self._collector is not None:
            self._collector.feed(tags, embedding)
        if self.embedded is not None:
            self.embedded(tags, embedding)
        return self._taught.feed(tags, embedding)

    def _decide(self, tags: Tags) -> Sequence[Detection]:
        """What the tagger's scores begin.

        Where a language model hears sounds itself the tagger is its witness; it goes on to decide about alerts, which
        must not wait for a slow model, and about everything while that is not there.
        """
        detections = self._tracker.feed(tags)
        if self._sounds is None:
            return detections
        told = self._sounds.testify(tags)
        for detection in detections:
            if self._sounds.hearing and detection.event_type not in self._alerts:
                self._untold.add(detection.key)
            else:
                told.append(detection)
        return told

    async def _understand(self, chunk: Chunk, frames: list[Frame]) -> None:
        """Give the language model its share of a chunk, and tell what it has found out about earlier ones."""
        if self._captions is not None:
            await self._captions.feed(self._position)
        if self._sounds is not None:
            for detection in (*await self._sounds.feed(chunk, frames), *self._sounds.advance(self._position)):
                self._announce(detection)
        self._note_errors()

    def _note_errors(self) -> None:
        for part in (self._sounds, self._captions):
            while part is not None and part.errors:
                self._failed("the audio language model failed", part.errors.pop())

    def _failed(self, what: str, error: Exception) -> None:
        """Count an exception of a model; log it now and then, since a broken tagger fails four times a second."""
        self.model_errors += 1
        if self.model_errors % WARN_EVERY == 1:
            log.error("%s: %s (%d errors so far)", self._name, what, self.model_errors, exc_info=error)

    async def _finish(self, recognising: asyncio.Task[None] | None) -> None:
        """The source has ended: last windows, open sounds, the utterance in progress, and those that wait."""
        await self._tag(self._windows.end())
        for detection in self._release():
            self._announce(detection)
        if self._captions is not None:
            await self._captions.feed(self._position, last=True)
        if self._sounds is not None:
            for detection in await self._sounds.end(self._position):
                self._announce(detection)
        self._note_errors()
        for detection in (*self._tracker.end(self._position), *self._taught.end(self._position), *self._cadence.end()):
            self._announce(detection)
        for utterance in self._speech.end():
            await self._heard(utterance)
        self.utterances.close()
        if recognising is not None:
            await recognising
        self._over = True

    async def _heard(self, utterance: Utterance) -> None:
        """An utterance is complete: recognise it now (`inline`) or queue it, shedding the oldest."""
        if not self._settings.recognise:
            return
        addressed = None
        if self._commands is not None:
            addressed = self._commands.uttered(utterance, self._origin + seconds(utterance.start))
        self._verdicts.cut(utterance)
        pending = _Pending(utterance, self._evidence.over(utterance), self._position, self._arrived, addressed)
        if self._speculation is not None:
            pending = replace(pending, foreseen=self._speculation.take(utterance, utterance.start + pending.skipped))
        if self._inline:
            await self._recognise(pending)
        else:
            self.utterances.offer(pending)

    async def _recognise_queued(self) -> None:
        async for pending in self.utterances:
            await self._recognise(pending)

    async def _recognise(self, pending: _Pending) -> None:
        event = await self._speech_event(pending)
        self._verdicts.decided(pending.utterance, speech=True)  # or it was lost, and nobody knows
        if pending.addressed is None or self._commands is None:
            if event is not None:
                self._emit(event)
            return
        if event is not None:
            event = await self._commands.understand(pending.addressed, event)
            self._emit(replace(event, latency=round(time.monotonic() - pending.arrived, 3)))
        self._commands.answer(pending.addressed, event)

    async def _speech_event(self, pending: _Pending) -> Event | None:
        """The event of an utterance; None when it gave no words."""
        utterance = pending.utterance
        try:
            try:
                found = await self._transcribed(pending)
            except UnwellError:  # it ran out of memory, or broke off, on this very one: its stand-in hears it
                found = await self._transcribed(pending)
            if found is None:
                return None
            model, transcript = found
        except BusyError as error:
            self._unanswered += seconds(len(utterance.samples))
            log.debug("%s: an utterance at %.1f s was lost: %s", self._name, seconds(utterance.start), error)
            return None
        except Exception as error:
            self._failed("the recogniser failed", error)
            return None
        if not transcript.text:
            self._verdicts.decided(utterance, speech=pending.skipped > 0)  # the wake word was
            log.debug(
                "%s: an utterance at %.1f s gave no text: %s",
                self._name,
                seconds(utterance.start),
                transcript.rejected,
            )
            return None
        start = utterance.start + pending.skipped
        return Event(
            id=str(ULID()),
            room=self._source.room,
            source=self._name,
            kind="speech",
            state=State.HEARD,
            event_type="speech",
            label="Speech",
            score=None if transcript.score is None else round(transcript.score, 3),
            text=transcript.text,
            language=transcript.language,
            words=transcript.words,
            emotion=transcript.emotion,
            start=iso(self._origin + seconds(start)),
            end=iso(self._origin + seconds(utterance.end)),
            offset=round(seconds(start), 3),
            duration=round(seconds(utterance.end - start), 3),
            heard_at=round(seconds(pending.position), 3),
            level_dbfs=round(utterance.level_dbfs, 1),
            model=f"{model}+{transcript.agreed}" if transcript.agreed else model,
            witnessed=transcript.witnessed,
            latency=round(time.monotonic() - pending.arrived, 3),
        )

    async def _transcribed(self, pending: _Pending) -> tuple[str, Transcript] | None:
        """Who recognised an utterance, and what; None when nobody does. Raises what the model raises."""
        if pending.foreseen is not None:
            foreseen = await pending.foreseen
            self._models.speculations["dropped" if foreseen is None else "kept"] += 1
            if foreseen is not None:
                return foreseen.model, foreseen.transcript
        return await self._recognised(pending.utterance.samples[pending.skipped :], pending.evidence)

    async def _recognised(self, samples: Samples, evidence: SpeechEvidence) -> tuple[str, Transcript] | None:
        recogniser, thread = await self._models.recognition()
        if recogniser is None:
            return None
        transcribe = partial(
            recogniser.transcribe,
            samples,
            evidence,
            languages=self._settings.languages,
            words=self._settings.words,
        )
        began = time.perf_counter()
        transcript = await thread.call(transcribe, patient=self._inline)
        self._stages.took("recogniser", time.perf_counter() - began)
        return recogniser.name, transcript

    def _announce(self, detection: Detection) -> None:
        """Turn a detection into events, unless one that is out already stands for it."""
        if detection.key in self._untold:
            self._untold.remove(detection.key)  # it has ended
            return
        for merged in self._merger.feed(detection):
            if merged.event_type in self._settings.ignored:
                continue
            if merged.state is State.STARTED:
                identity = self._ids[merged.key] = str(ULID())
                self._emit_sound(merged, identity)
                if self._captions is not None:
                    self._captions.started(identity, merged.start, merged.heard_at)
            else:
                identity = self._ids.pop(merged.key, "") or str(ULID())
                self._emit_sound(merged, identity, self._captions.take(identity) if self._captions else None)

    def _emit_sound(self, detection: Detection, identity: str, caption: str | None = None) -> None:
        self._emit(
            Event(
                id=identity,
                room=self._source.room,
                source=self._name,
                kind="sound",
                state=detection.state,
                event_type=detection.event_type,
                label=detection.label,
                score=round(detection.score, 3),
                caption=caption,
                start=iso(self._origin + seconds(detection.start)),
                end=None if detection.end is None else iso(self._origin + seconds(detection.end)),
                offset=round(seconds(detection.start), 3),
                duration=None if detection.end is None else round(seconds(detection.end - detection.start), 3),
                heard_at=round(seconds(detection.heard_at), 3),
                level_dbfs=None if detection.level_dbfs is None else round(detection.level_dbfs, 1),
                model=detection.model,
                witnessed=detection.witnessed,
                latency=round(time.monotonic() - self._arrived + seconds(self._position - detection.heard_at), 3),
            )
        )

    def _measure(self, chunk: Chunk, frames: Sequence[Frame]) -> None:
        """Report the level once a second."""
        if self._level is None or not frames:
            return
        self._peak = max(self._peak, loudest(frames))
        if chunk.end < self._level_at:
            return
        self._level_at = max(self._level_at + LEVEL_EVERY, chunk.end)
        last = frames[-1]
        self._level(
            LevelMeasured(self._source.room, round(last.dbfs, 1), round(last.floor_dbfs, 1), round(self._peak, 1))
        )
        self._peak = SILENCE_DBFS


def _tagging_of(tagger: Tagger) -> Callable[[Sequence[NDArray[np.float32]]], list[Tagged | Exception]]:
    """Scores of windows, or of their patches, and of a tagger that tells them the embeddings.

    Each in one go, since the next one may be another room's.
    """
    score = tagger.score if isinstance(tagger, Follower) else tagger.tag
    embedding = tagger.embedding if isinstance(tagger, Embedder) else lambda: None

    def tagged(windows: Sequence[NDArray[np.float32]]) -> list[Tagged | Exception]:
        answers: list[Tagged | Exception] = []
        for heard in windows:
            try:
                answers.append((score(heard), embedding()))
            except Exception as error:  # that of one window
                answers.append(error)
        return answers

    return tagged


def _waited(chunk: Chunk) -> float:
    """Seconds since the last sample of `chunk` was heard, by the wall clock; none when that was set meanwhile."""
    waited = time.time() - chunk.time - seconds(len(chunk.samples))
    return waited if 0.0 <= waited <= LONGEST_LAG else 0.0
