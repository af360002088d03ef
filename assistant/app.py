"""The daemon: rooms, models, rules and outputs held together in one TaskGroup."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import platformdirs
import soxr
from ulid import ULID

from assistant import __version__, recovering, registry
from assistant.actions import Actions, Hands
from assistant.answering import answer_question
from assistant.arbitration import Arbiter
from assistant.attention import Attention, Wake
from assistant.choosing import Chooser
from assistant.classroom import Classroom
from assistant.clip_folder import SOUND, ClipFolder
from assistant.clips import Clips
from assistant.commanding import RoomCommands, Turns
from assistant.config import check_reloaded, places
from assistant.ears import PROBLEMS, SWITCHED_OFF, Ear, figures_of, tell_losses
from assistant.echo import Echo
from assistant.errors import AssistantError, ModelError, VoiceError
from assistant.events import (
    SAMPLE_RATE,
    ClipSettled,
    Command,
    Event,
    Fact,
    HealthMeasured,
    LevelMeasured,
    ListeningChanged,
    Pictured,
    Presence,
    Problem,
    ProblemChanged,
    Publish,
    RoomChanged,
    Samples,
    Say,
    SendTest,
    Sensitivity,
    SensitivityChanged,
    SetListening,
    SetSensitivity,
    State,
    Transcript,
    frozen,
    iso,
    seconds,
    without_words,
)
from assistant.fittings import (
    clips_of,
    first_language,
    intents_of,
    known_languages,
    names_of,
    own_broker,
    said_names,
    speaker_of,
    wyoming_server,
)
from assistant.handling import Choose, Handler
from assistant.health import BOUNDS, Meter, Stages
from assistant.history import History
from assistant.history_reading import HistoryReader
from assistant.intents import Intents
from assistant.judging import LIFE_SAFETY, House, Judging
from assistant.lessons import Hearing, Lesson
from assistant.metrics import Latencies, RoomFigures, Snapshot, exposition
from assistant.outputs.jsonl import readable
from assistant.outputs.mqtt import Mqtt, MqttSettings
from assistant.outputs.speaking import Speaker, Speaking
from assistant.outputs.webhook import Webhooks
from assistant.pipeline import PICTURE, Embedder, HearingSettings, Models, Pipeline
from assistant.rules import Rules
from assistant.snoozes import Snoozes
from assistant.startup import (
    ModelFiles,
    Room,
    hearing_settings,
    home_of,
    house_words,
    load_models,
    open_source,
)
from assistant.switches import Switches
from assistant.tracking import OTHER, plain_thresholds
from assistant.transcribing import transcribe
from assistant.verdicts import Verdicts
from assistant.voicing import Voices, voice_of
from assistant.watching import Watchers
from assistant.web.server import WebServer
from assistant.wyoming_services import Conversation

if TYPE_CHECKING:
    from pathlib import Path

    from assistant.audio.source import Source
    from assistant.chatting import Chatting
    from assistant.config import Config
    from assistant.models.wakeword import WakeWords
    from assistant.outputs.questions import Question
    from assistant.outputs.topics import Home
    from assistant.ruling import Ruling
    from assistant.setting_up import SettingUp
    from assistant.taught_sounds import TaughtSound
    from assistant.vitals import Parts
    from assistant.voices.voice import Spoken
    from assistant.web.rooms import RoomState
    from assistant.web.services import WebServices

log = logging.getLogger(__name__)

FIRST_HEALTH, HEALTH_EVERY = 5.0, 60.0  # seconds
TICK = 1.0  # seconds between two looks of the rules at the clock
BACKOFF = (1.0, 60.0)  # seconds: first and longest wait before a broken part is tried again
CONNECT_WITHIN = 5.0  # seconds that a recording waits for the outputs
DRAIN = 10.0  # seconds for what was heard before the signal
LAST_CLIPS = 2.0  # seconds to write what was heard last
LEAST_DRAIN = 1.0  # of which so many for the outputs, however long the recogniser took
DRAWINGS = 4  # pictures at once; an alert that lasts is drawn again when it ends
RELOADED = ("rooms", "devices", "rules", "privacy")  # of the configuration, while it runs
HEARD_BY = ("address", "languages", "wake", "speaker")  # a room is heard anew when one of these changes
TEST = "test"  # event type of an alert that nobody heard


class Output(Protocol):
    """Who is told. An output has its own bounded inbox, so that a dead broker cannot stall the rest."""

    connected: asyncio.Event  # set while what is offered goes out at once

    def offer(self, item: Fact | Publish) -> None:
        """Take an item; never blocks."""

    def change(self, home: Home) -> None:
        """From now on tell of this home; never blocks."""

    async def run(self) -> None:
        """Deliver until stopped or cancelled."""

    def go_offline(self) -> None:
        """Say at once that the house is not heard any more; deliveries go on."""

    async def stop(self, seconds: float) -> None:
        """Deliver what is left for at most `seconds`, then disconnect; `run` returns."""

    def health(self) -> Mapping[str, Any]:
        """Connection, drops, queue depth."""


class Daemon:
    """Listens to the rooms until it is told to stop or until every source, being a file, has ended.

    Read it from `run` down: `_listen` is the life of a room, `_emit` the way of an event, `_ended` and `_close` stop.
    """

    def __init__(
        self,
        config: Config,
        hearing: HearingSettings,
        models: Models,
        rooms: Sequence[Room],
        outputs: Mapping[str, Output],
        *,
        speed: float = 1.0,
        switches: Switches | None = None,
        voices: Voices | None = None,
        history: History | None = None,
        clips: ClipFolder | None = None,
        page: WebServer | None = None,
        own_broker: bool = False,
        reader: HistoryReader | None = None,
        verdicts: Verdicts | None = None,
        snoozes: Snoozes | None = None,
        state: Path | None = None,
    ) -> None:
        """`speed` is that of files: 1 in real time, 0 as fast as possible. Nothing is opened before `run`.

        Without `switches` everything listens and nothing can be switched; without `voices` nothing is said aloud;
        without `history` nothing is remembered, without `clips` no audio is kept, without `page` nothing is shown;
        without `verdicts` and `snoozes` nobody judges events; without `state`, the folder where taught sounds are,
        nothing can be taught. `own_broker`: the broker is in this process.
        """
        self._config = config
        self._hearing = hearing
        self._models = models
        self._former = Ear(Room("", ""))  # counts for rooms that were removed
        self._ears = [Ear(room, live=room.live) for room in rooms]
        self._outputs = outputs
        self._speed = speed
        self._transcripts = config.privacy.transcripts
        self._rules = Rules(
            config.rules,
            transcripts=config.privacy.transcripts,
            rooms=names_of(rooms),
            page=config.web.public_url,
        )
        self._switches = switches
        self._history = history
        self._own_broker = own_broker
        self._watchers = Watchers(self._show)
        self._stages = Stages()
        self._page, self._reader, self._clip_folder = page, reader, clips
        self._classroom = None if state is None else self._classroom_in(state, config)
        self._judging = None
        if verdicts is not None and snoozes is not None:
            self._judging = Judging(self._house(), verdicts, snoozes)
        self._chatting: Chatting | None = None  # once the page is served
        self._alerts = frozenset(name for name, group in hearing.table.groups.items() if group.alert) | {TEST}
        self._clips = self._clips_in(clips, config) if clips is not None else None
        self._voices = voices
        self._speakers = {room.id: speaker for room in rooms if (speaker := speaker_of(room)) is not None}
        self._speaking = (
            None
            if voices is None
            else Speaking(config.say, voices, self._speakers, began=self._began_saying, ended=self._ended_saying)
        )
        self._webhooks = Webhooks(config.webhooks) if config.webhooks.hosts else None
        self._wake = config.speech.wake
        self._arbiter = Arbiter(alone=lambda: sum(ear.online for ear in self._ears) <= 1)
        self._intents = intents_of(config, rooms)
        self._handler = Handler(
            self._intents,
            tell=self._tell,
            say=self._say,
            transcripts=config.privacy.transcripts,
            choose=self._chooser(self._intents),
        )
        self._actions = Actions(
            Hands(
                rules=lambda: self._rules,
                llm=models.llm,
                webhooks=self._webhooks,
                tell=self._tell,
                say=self._say,
                keep_clip=self._keep_clip,
                heard_in=self._heard_in,
                transcripts=lambda: self._transcripts,
            )
        )
        self._wakeless = False  # wake words cannot be heard on this machine, which was told
        self._wyoming = wyoming_server(config, self) if config.wyoming.enabled else None
        self._drawing: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None  # while it runs
        self._running = asyncio.Event()
        self._listening: dict[Ear, asyncio.Task[None]] = {}
        # Fourteen languages, the default, would cost 77 MB and 3 s: then each is compiled by its first command.
        self._warm = known_languages(config)
        self._meter = Meter()
        self._stopping = asyncio.Event()
        self.state = platformdirs.user_state_path("kikimimi")  # where the history lies
        self.restart_keys: tuple[str, ...] = ()  # of the configuration, that wait for a restart
        self.given_broker = False  # on the command line
        # Set by whoever runs it: reads the configuration again, tells what waits for a restart; has all start anew.
        self.reread: Callable[[], Awaitable[Sequence[str]]] | None = None
        self.restart: Callable[[], None] | None = None

    @property
    def config(self) -> Config:
        """The configuration as it is followed now."""
        return self._config

    def check(self, config: Config) -> None:
        """Raise `ConfigurationError` if this configuration cannot be followed without a restart."""
        check_reloaded(self._followed(config)[0])

    def _followed(self, config: Config) -> tuple[Config, tuple[str, ...]]:
        """What can be followed of a configuration, and the keys that wait for a restart."""
        kept = {key: getattr(self._config, key) for key in type(config).model_fields if key not in RELOADED}
        later = tuple(key for key, value in kept.items() if value != getattr(config, key))
        return config.model_copy(update=kept), later

    async def read_again(self) -> Sequence[str]:
        """Follow the file as it is now. Returns what waits for a restart. Raises `AssistantError`."""
        if self.reread is None:
            raise AssistantError("this daemon cannot read its configuration again; remedy: restart it")
        return await self.reread()

    async def reload(self, config: Config, rooms: Sequence[Room]) -> tuple[str, ...]:
        """Follow another configuration: its rooms, devices, rules and privacy; for the rest a restart is needed.

        All of it or, where it raises `AssistantError`, nothing: what can fail is made before anything is changed, and
        the change is one step. Rooms that stay as they are go on listening, rules that stay as they are keep what they
        remember. Returns the keys that need a restart, when rooms that are configured no longer were heard to their
        end. One call at a time.
        """
        if self._group is None or self._switches is None:
            raise AssistantError("the daemon does not run, or is stopping")
        config, later = self._followed(config)
        check_reloaded(config)
        rules = Rules(
            config.rules, transcripts=config.privacy.transcripts, rooms=names_of(rooms), page=config.web.public_url
        )
        same = config.devices == self._config.devices and said_names(rooms) == said_names(
            [ear.room for ear in self._ears]
        )
        intents = self._intents if same else intents_of(config, rooms)
        hearing = replace(self._hearing, words=house_words(config))
        ids = {room.id for room in rooms}
        leaving = [ear for ear in self._ears if ear.room.id not in ids]
        home = home_of(config, rooms, hearing.table, self._switches, hearing.taught)
        both = [*rooms, *(ear.room for ear in leaving)]
        meanwhile = home_of(config, both, hearing.table, self._switches, hearing.taught)
        speakers = {room.id: speaker_of(room) for room in rooms}

        rules.inherit(self._rules, time.time(), [told for ear in self._ears if (told := ear.presence) is not None])
        self._config, self._rules, self._hearing, self.restart_keys = config, rules, hearing, later
        self._transcripts = config.privacy.transcripts
        self._understand(intents)
        for output in self._outputs.values():
            output.change(meanwhile)
        for room in rooms:
            self._follow(room, speakers[room.id])
        for ear in self._ears:
            if ear.pipeline is not None:
                ear.pipeline.favour(hearing.words)
        log.info("the configuration was read again: %d rooms, %d rules", len(rooms), len(config.rules))
        if later:
            log.warning("%s: changed, which takes effect after a restart", ", ".join(later))
        if leaving:
            await self._leave(leaving)
            for output in self._outputs.values():
                output.change(home)
        if self._page is not None:
            self._page.change()
        return later

    def _understand(self, intents: Intents) -> None:
        """From now on these are the commands of the house."""
        fresh = intents is not self._intents
        self._intents = intents
        self._handler.use(intents, transcripts=self._transcripts, choose=self._chooser(intents))
        if fresh and known_languages(self._config):
            intents.warm_in_background()

    def _chooser(self, intents: Intents) -> Choose | None:
        """Who chooses among commands what no sentence matches. Servers tell no likelihoods, so none does there."""
        llm = self._models.llm
        return None if llm is None or self._models.remote is not None else Chooser(intents, llm).choose

    def _follow(self, room: Room, speaker: Speaker | None) -> None:
        """Listen to a room as it is configured now; one that is heard as before is not interrupted."""
        ear = next((ear for ear in self._ears if ear.room.id == room.id), None)
        before = None if ear is None else ear.room
        if ear is None:
            ear = Ear(room, live=room.live)
            self._ears.append(ear)
        ear.room, ear.live = room, room.live
        if before is not None and all(getattr(before, name) == getattr(room, name) for name in HEARD_BY):
            return
        if speaker is None:
            self._speakers.pop(room.id, None)
        else:
            self._speakers[room.id] = speaker
        log.info("%s: is listened to %s", room.id, "from now on" if before is None else "anew")
        ear.turned.set()
        if ear not in self._listening or self._listening[ear].done():
            self._begin(ear)

    async def _leave(self, ears: Sequence[Ear]) -> None:
        """Hear rooms that are configured no longer to their end, then forget them but for what they counted."""
        tasks = [self._listening[ear] for ear in ears]
        for task in tasks:
            task.cancel()
        await self._ended(tasks)
        for ear in ears:
            log.info("%s: is not listened to any more: it is configured no longer", ear.room.id)
            self._tell(RoomChanged(ear.room.id, Presence.DISABLED, "configured no longer"))
            self._ears.remove(ear)
            self._speakers.pop(ear.room.id, None)
            del self._listening[ear]
            self._former.count_for(ear)

    def stop(self) -> None:
        """Ask `run` to return: offline is told within a second, then what was heard is delivered for at most 10 s."""
        self._stopping.set()

    async def run(self) -> int:
        """Listen until stopped or every source has ended. Returns the exit code: 0, or that of a failed source."""
        if self._warm:
            self._intents.warm_in_background()
        async with asyncio.TaskGroup() as group:
            lasting = [
                group.create_task(self._keep(name, run), name=name)
                for name, run in (
                    *((name, output.run) for name, output in self._outputs.items()),
                    *((("say", self._speaking.run),) if self._speaking is not None else ()),
                    *((("webhook", self._webhooks.run),) if self._webhooks is not None else ()),
                    *((("wyoming", self._wyoming.run),) if self._wyoming is not None else ()),
                    *((("clips", self._clips.run),) if self._clips is not None else ()),
                    *((("web", self._page.run),) if self._page is not None else ()),
                    *((("teaching", self._classroom.run),) if self._classroom is not None else ()),
                    ("rules", self._tick),
                    ("health", self._report),
                    ("recovering", lambda: recovering.watch(self._silent_microphones, self.restart)),
                )
            ]
            self._group = group
            for ear in self._ears:
                self._begin(ear)
            self._running.set()
            await self._until_stopped()
            await self._actions.answered(self._stopping)
            self._group = None
            listening = list(self._listening.values())
            for output in self._outputs.values():
                output.go_offline()
            for task in listening:
                if not task.cancelling():  # a second cancel would cut short a room that a reload removes
                    task.cancel()
            until = time.monotonic() + DRAIN
            await self._ended(listening)
            self._handler.close()
            if self._drawing:
                await asyncio.wait(self._drawing, timeout=LEAST_DRAIN)
            await self._actions.close(until - LEAST_DRAIN - time.monotonic())
            if self._clips is not None:
                await self._clips.stop(LAST_CLIPS)
            left = max(LEAST_DRAIN, until - time.monotonic())
            closing: list[tuple[str, Output | Speaking | Webhooks]] = [*self._outputs.items()]
            if self._speaking is not None:
                closing.append(("say", self._speaking))
            if self._webhooks is not None:
                closing.append(("webhook", self._webhooks))
            await asyncio.gather(*(self._close(name, output, left) for name, output in closing))
            if self._judging is not None:
                await self._judging.close()
            for task in lasting:
                task.cancel()
        if self._stopping.is_set():
            return 0
        return next((ear.failure.exit_code for ear in self._ears if ear.failure), 0)

    def _silent_microphones(self) -> list[str]:
        return [ear.room.address for ear in self._ears if ear.told not in {None, SWITCHED_OFF} and ear.room.microphone]

    async def _until_stopped(self) -> None:
        """Wait until asked to stop, or until no room is listened to any more."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not stopping.done() and (open_ := [task for task in self._listening.values() if not task.done()]):
                await asyncio.wait((stopping, *open_), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    def _begin(self, ear: Ear) -> None:
        if self._group is not None:
            self._listening[ear] = self._group.create_task(self._listen(ear), name=ear.room.id)

    async def _ended(self, listening: Sequence[asyncio.Task[None]]) -> None:
        """Wait for cancelled rooms. One that hangs, in a driver or a model, is cancelled again."""
        _, hanging = await asyncio.wait(listening, timeout=DRAIN)
        for task in hanging:
            log.warning("%s: did not stop within %.0f s", task.get_name(), DRAIN)
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=LEAST_DRAIN)

    async def _close(self, name: str, output: Output | Speaking | Webhooks, left: float) -> None:
        try:
            async with asyncio.timeout(left + 2.0):
                await output.stop(left)
        except TimeoutError:
            log.warning("%s: could not be closed within %.0f s", name, left)
        except Exception:
            log.exception("%s: could not be closed", name)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the daemon again whenever it breaks: a bug in one must not take the rest down."""
        delay = BACKOFF[0]
        while True:
            started = time.monotonic()
            try:
                await run()
            except Exception:
                log.exception("%s broke; it is started again in %.0f s", name, delay)
            else:
                return
            lived = time.monotonic() - started
            await asyncio.sleep(delay)
            delay = BACKOFF[0] if lived > BACKOFF[1] else min(2.0 * delay, BACKOFF[1])

    async def _listen(self, ear: Ear) -> None:
        """Hear one room; a source that breaks is opened again with back-off, a file that ended is not."""
        if not ear.live:
            await self._outputs_connected()
            if self._speed == 0 and self._models.llm is not None:
                await self._models.llm.ready()  # else how much it hears depends on how fast it loads
        delay = 0.0
        while True:
            await self._until_switched_on(ear)
            opened = ear.tried = time.monotonic()
            try:
                if not await self._hear_unless_off(ear):
                    continue
            except AssistantError as error:
                ear.failure = error
                ear.failures += 1
                self._lost(ear, str(error))
            except Exception as error:
                ear.failure = AssistantError(f"{ear.room.id}: {error}")
                ear.failures += 1
                log.exception("%s: listening broke", ear.room.id)
                self._lost(ear, "internal error")
            else:
                ear.failure = None
                self._lost(ear, "the source has ended")
            if not ear.live or (ear.room.required and ear.failure and not ear.heard):
                return
            first, longest = getattr(ear.source, "backoff", BACKOFF)
            ear.tried = time.monotonic()
            lasted = ear.tried - opened > longest
            delay = first if lasted or not delay else min(2.0 * delay, longest)
            with suppress(TimeoutError):  # unless its switch is turned, or it is another source now
                async with asyncio.timeout(delay * random.uniform(0.8, 1.2)):  # noqa: S311 (jitter, not a secret)
                    await ear.turned.wait()

    async def _outputs_connected(self) -> None:
        """A recording can wait: let whoever subscribed see it from its beginning."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_WITHIN):
                for output in self._outputs.values():
                    await output.connected.wait()

    async def _until_switched_on(self, ear: Ear) -> None:
        """Wait while the listening switch of the room or of the house is off; its source stays closed."""
        while self._switches is not None and not self._switches.listening(ear.room.id):
            if ear.told != SWITCHED_OFF:
                log.info("%s: %s; its source is closed until it is switched on again", ear.room.id, SWITCHED_OFF)
                ear.online, ear.told, ear.failure = False, SWITCHED_OFF, None
                self._has_problem(ear, Problem.NONE)
                self._tell(RoomChanged(ear.room.id, Presence.DISABLED, SWITCHED_OFF))
            ear.turned.clear()
            await ear.turned.wait()

    async def _hear_unless_off(self, ear: Ear) -> bool:
        """Hear a room to the end of its source; False when its switch was turned off before."""
        ear.turned.clear()
        hearing = asyncio.create_task(self._hear(ear), name=f"hear {ear.room.id}")
        hearing.add_done_callback(_looked_at)
        turned = asyncio.create_task(ear.turned.wait())
        try:
            await asyncio.wait((hearing, turned), return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                await hearing
                return True
        finally:
            turned.cancel()
            if not hearing.done():
                await _cancelled(hearing)
        return False

    async def _hear(self, ear: Ear) -> None:
        """Open the room's source afresh and hear it to its end."""
        source = open_source(ear.room, self._speed)
        ear.opened(source)
        hearing = replace(self._hearing, languages=ear.room.languages or self._hearing.languages)
        ear.commands = self._commands(ear, source)
        ear.pipeline = Pipeline(
            source,
            self._models,
            hearing,
            self._emit,
            lambda level: self._measured(ear, level),
            inline=not ear.live and self._speed == 0,
            clocked=ear.live or (ear.room.recorded and self._speed == 1.0),
            commands=ear.commands,
            remember=self._clips.memory if self._clips is not None else 0,
            heard=None if self._clips is None else partial(self._clips.advance, ear.room.id, patient=not ear.live),
            stages=self._stages,
            house=None if self._classroom is None else self._classroom.house,
        )
        ear.pipeline.watch(self._watchers.of(ear.room.id))
        if self._classroom is not None:
            ear.pipeline.embedded = partial(self._classroom.heard, ear.room.id)
        if self._switches is not None:
            ear.pipeline.be_sensitive(self._switches.sensitivity(ear.room.id))
        if self._judging is not None:
            ear.pipeline.weigh(self._judging.factors(ear.room.id))
        if isinstance(source, Turns):
            source.on_ready = lambda: self._came(ear)
            if ear.room.speaker is None:
                self._speakers[ear.room.id] = source
        try:
            await ear.pipeline.run(
                lambda: None if isinstance(source, Turns) else self._came(ear), lambda error: self._broke(ear, error)
            )
        finally:
            if ear.commands is not None:
                ear.commands.close()
            if self._clips is not None:
                self._clips.left(ear.room.id, ear.pipeline)
            if self._judging is not None:
                self._judging.left(ear.room.id)

    def _commands(self, ear: Ear, source: Source) -> RoomCommands | None:
        """What makes commands of what is said there; None where nothing is recognised."""
        if not self._hearing.recognise:
            return None
        room = ear.room
        commands = RoomCommands(
            room.id,
            Attention(room.wake, self._wake),
            None if room.wake is Wake.NONE else self._wake_words(),
            self._arbiter,
            understand=self._handler.understand,
            settled=self._handler.settled,
            handle=self._handler.handle,
            hush=lambda: self._speaking is not None and self._speaking.hush(room.id),
            turns=source if isinstance(source, Turns) else None,
        )
        if isinstance(source, Turns):
            source.on_wake = commands.wake
        return commands

    def _wake_words(self) -> WakeWords | None:
        """Fresh detectors for one stream; None, told once, when this machine has none."""
        try:
            from assistant.models.wakeword import WakeWords  # noqa: PLC0415 (native code only where it is used)

            return WakeWords(self._wake.words)
        except (ModelError, ImportError) as error:
            if not self._wakeless:
                log.error("wake words are not heard: %s", error)  # noqa: TRY400 (a person reads this)
            self._wakeless = True
            return None

    def _began_saying(self, room: str, text: str, speech: Spoken) -> None:
        """A text is played in a room: what is heard there meanwhile is its echo."""
        commands = self._commands_of(room)
        if commands is not None:
            heard = soxr.resample(speech.samples, speech.rate, SAMPLE_RATE).astype(np.float32)
            commands.reply_began(text, Echo(heard))

    def _ended_saying(self, room: str, say: Say) -> None:
        commands = self._commands_of(room)
        if commands is not None:
            commands.reply_ended(follow_up=say.reply)

    def _commands_of(self, room: str) -> RoomCommands | None:
        return next((ear.commands for ear in self._ears if ear.room.id == room), None)

    def _came(self, ear: Ear) -> None:
        ear.online = ear.heard = True
        ear.failure = ear.told = None
        log.info("%s: listening to %s", ear.room.id, ear.source.name if ear.source else "its source")
        self._tell(RoomChanged(ear.room.id, Presence.ONLINE))

    def _broke(self, ear: Ear, error: Exception) -> None:
        """A source broke: that is told before a model has had its time with what was said last."""
        if isinstance(error, AssistantError):
            self._lost(ear, str(error))

    def _lost(self, ear: Ear, reason: str) -> None:
        """Say why a room is not heard: once, however often its source is tried again."""
        if reason == ear.told:
            log.debug("%s: still: %s", ear.room.id, reason)
            return
        log.log(logging.INFO if ear.online and not ear.live else logging.WARNING, "%s: %s", ear.room.id, reason)
        ear.online, ear.told = False, reason
        self._has_problem(ear, Problem.NONE)
        self._tell(RoomChanged(ear.room.id, Presence.OFFLINE, reason))

    def _measured(self, ear: Ear, level: LevelMeasured) -> None:
        """Pass a level on, and what is wrong with a live source."""
        if ear.live and ear.source is not None and ear.source.stats.problem is not ear.problem:
            problem = ear.source.stats.problem
            if problem is Problem.NONE:
                log.info("%s: its source is no longer %s", ear.room.id, ear.problem)
            else:
                log.warning("%s: %s", ear.room.id, PROBLEMS[problem])
            self._has_problem(ear, problem)
        self._tell(level)

    def _has_problem(self, ear: Ear, problem: Problem) -> None:
        if problem is not ear.problem:
            ear.problem = problem
            self._tell(ProblemChanged(ear.room.id, problem))

    def _emit(self, event: Event) -> None:
        """Tell an event: first what the rules make of it, then the outputs, each through its own inbox.

        A bug in the rules or in an output is logged; it neither stops the room nor keeps the others from being told.
        What is snoozed is told to nobody.
        """
        if self._judging is not None and self._judging.takes(event):
            return
        self._meter.event(event.latency, speech=event.kind == "speech")
        log.info("%s", readable(without_words(event)).strip())
        event = self._with_clip(event)
        try:
            self._actions.do(self._rules.feed(event, time.time()))
        except Exception:
            log.exception("the rules failed on %s %s in %s", event.event_type, event.state, event.room)
        if self._clips is not None:
            event = self._clips.marked(event)  # a rule may keep it
        event = event if self._transcripts else without_words(event)
        for ear in self._ears:
            if ear.room.id == event.room:
                ear.last = event
        self._tell(event)
        if event.event_type in self._alerts:
            self._draw(event.room)

    def _clips_in(self, folder: ClipFolder, config: Config) -> Clips:
        """Who keeps clips in `folder`, and is heard of when one is there or cannot be."""
        from assistant.spectrogram import spectrogram  # noqa: PLC0415 (only where pictures are made)

        return Clips(
            config.clips,
            folder,
            self._alerts,
            settled=self._tell_soon,
            trouble=lambda: self._tell(HealthMeasured(self.health())),
            draw=partial(spectrogram, longest=config.clips.longest),
        )

    def _classroom_in(self, state: Path, config: Config) -> Classroom | None:
        """Where sounds are taught; None for a tagger that cannot learn."""
        if not isinstance(self._models.tagger, Embedder):
            return None
        kept = clips_of(config, state)
        return Classroom(
            self,
            Lesson(self._models.tagger, self._hearing.table, Hearing(config.sounds.activity, config.sounds.windows)),
            self._models.tagging,
            self._hearing.table,
            state=state,
            reader=self._reader,
            clips=None if kept is None else kept.path,
            tell=lambda message, room: self._show(room, message),
        )

    def know(self, sounds: Sequence[TaughtSound]) -> None:
        """From now on these taught sounds are heard, and told of."""
        told, now = ([(one.name, one.title) for one in each] for each in (self._hearing.taught, sounds))
        self._hearing = replace(self._hearing, taught=tuple(sounds))
        if told != now and self._switches is not None:
            home = home_of(self._config, [e.room for e in self._ears], self._hearing.table, self._switches, sounds)
            for output in self._outputs.values():
                output.change(home)
        for ear in self._ears:
            if ear.pipeline is not None:
                ear.pipeline.teach(sounds)

    def any_online(self) -> bool:
        """Whether any room is heard."""
        return any(ear.online for ear in self._ears)

    def _tell_soon(self, item: Fact) -> None:
        """Tell what follows from an event that is only being told."""
        asyncio.get_running_loop().call_soon(self._tell, item)

    def _with_clip(self, event: Event) -> Event:
        """The event with the name of the clip that is kept of it."""
        if self._clips is None:
            return event
        try:
            return self._clips.raised(event, self.pipeline_of(event.room))
        except Exception:
            log.exception("the clips failed on %s %s in %s", event.event_type, event.state, event.room)
            return event

    def command(self, command: Command) -> None:
        """Do what somebody asks for over MQTT."""
        match command:
            case SetListening():
                self._switch(command)
            case SetSensitivity():
                self._be_sensitive(command)
            case SendTest():
                self._send_test(command.room)
            case Say():
                self._say(command)

    def _switch(self, command: SetListening) -> None:
        if self._switches is not None and self._switches.set_listening(command.room, command.on):
            log.info("%s: listening is switched %s", command.room or "the house", "on" if command.on else "off")
        self._tell(ListeningChanged(command.room, command.on))
        for ear in self._ears:
            if command.room in {None, ear.room.id}:
                ear.turned.set()

    def _be_sensitive(self, command: SetSensitivity) -> None:
        if self._switches is not None and self._switches.set_sensitivity(command.room, command.sensitivity):
            log.info("%s: sensitivity is now: %s", command.room, command.sensitivity)
        for ear in self._ears:
            if ear.room.id == command.room and ear.pipeline is not None:
                ear.pipeline.be_sensitive(command.sensitivity)
        self._tell(SensitivityChanged(command.room, command.sensitivity))

    def _send_test(self, room: str) -> None:
        """An alert that nobody heard, to try what follows from one."""
        ear = next((ear for ear in self._ears if ear.room.id == room), None)
        if ear is None:
            return
        now = iso(time.time())
        started = Event(
            id=str(ULID()),
            room=room,
            source=ear.source.name if ear.source is not None else ear.room.id,
            kind="sound",
            state=State.STARTED,
            event_type=TEST,
            label="Test",
            score=None,
            start=now,
            offset=0.0 if ear.pipeline is None else round(seconds(ear.pipeline.position), 3),
            model=TEST,
        )
        self._emit(started)
        self._emit(replace(started, state=State.ENDED, end=now, duration=0.0))

    def _say(self, say: Say) -> None:
        if self._speaking is None:
            if not say.reply:  # a command is obeyed in silence too
                log.warning("nothing is said aloud: say.enabled is false")
            return
        self._speaking.offer(say)

    def _draw(self, room: str) -> None:
        """Send a picture of what was heard last in a room."""
        clip = self._heard_in(room, lambda now: (now - PICTURE, now))
        if not len(clip) or len(self._drawing) >= DRAWINGS:
            return
        task = asyncio.create_task(self._drawn(room, clip), name=f"picture of {room}")
        self._drawing.add(task)
        task.add_done_callback(self._drawing.discard)

    async def _drawn(self, room: str, clip: Samples) -> None:
        from assistant.spectrogram import spectrogram  # noqa: PLC0415 (Pillow only where an alert was heard)

        try:
            self._tell(Pictured(room, await asyncio.to_thread(spectrogram, clip)))
        except Exception:
            log.exception("%s: no picture could be made", room)

    # what others may ask for over Wyoming

    async def transcribe(self, samples: Samples, language: str | None) -> Transcript:
        """What is said in `samples`: no event and no action come of it. Raises `AssistantError`."""
        return await transcribe(samples, language, self._models, self._hearing)

    async def converse(self, text: str, language: str | None, *, device: str | None, area: str | None) -> Conversation:
        """Do what a sentence says."""
        return await self._handler.converse(text, language, area)

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` as speech. Raises `VoiceError`."""
        if self._voices is None:
            raise VoiceError("nothing is said aloud: say.enabled is false")
        return await self._voices.synthesise(text, language)

    def _tell(self, item: Fact | Publish) -> None:
        if isinstance(item, RoomChanged):
            try:
                self._rules.presence(item, time.time())
            except Exception:
                log.exception("the rules failed on %s %s", item.room, item.presence)
        if isinstance(item, Event) and self._history is not None:
            self._history.record(item)
        if isinstance(item, ClipSettled) and item.clip is None and self._history is not None:
            self._history.without_clip(item.id)
        if self._judging is not None:
            self._judging.note(item)
        for name, output in self._outputs.items():
            try:
                output.offer(item)
            except Exception:
                log.exception("%s: did not take a %s", name, type(item).__name__)
        if self._page is not None:
            self._page.offer(item)

    def _keep_clip(self, event: Event) -> str | None:
        """Keep the clip of an event for a rule. Its name; None when there is none."""
        return None if self._clips is None else self._clips.keep(event, self.pipeline_of(event.room))

    async def answer(self, question: Question) -> Mapping[str, Any]:
        """The body of the answer to somebody's question. Raises `AssistantError` with what is wrong."""
        return await answer_question(
            self._models.llm,
            question,
            [ear.room.id for ear in self._ears],
            lambda room, seconds: self._heard_in(room, lambda now: (now - round(seconds * SAMPLE_RATE), now)),
        )

    def _heard_in(self, room: str, span: Callable[[int], tuple[int, int]]) -> Samples:
        """What was heard in a room: `span` says of the position there which samples."""
        pipeline = self.pipeline_of(room)
        if pipeline is None:
            return frozen(np.zeros(0, np.float32))
        return pipeline.audio(*span(pipeline.position))

    def pipeline_of(self, room: str) -> Pipeline | None:
        """Who hears there; None: nobody now."""
        return next((ear.pipeline for ear in self._ears if ear.room.id == room), None)

    async def _tick(self) -> None:
        """Give the rules the time: sounds that last, sounds that stay away."""
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self._stages.took("loop", max(0.0, time.monotonic() - due))
            self._actions.do(self._rules.tick(time.time()))
            if self._judging is not None:
                await self._judging.tick()

    async def _report(self) -> None:
        """One health line and message soon after the start, so that nobody waits for figures, then one a minute."""
        wait = FIRST_HEALTH
        while True:
            await asyncio.sleep(wait)
            wait = HEALTH_EVERY
            figures = self.health()
            log.info("health: %s", ", ".join(f"{key} {value}" for key, value in figures.items() if value is not None))
            tell_losses(self._ears)
            self._tell(HealthMeasured(figures))

    # what a supervisor is told

    async def ready(self) -> None:
        """Wait until it runs and every model is loaded, or has failed; not for a microphone or a broker."""
        await self._running.wait()
        with suppress(AssistantError):
            await self._models.recogniser()

    def status(self) -> str:
        """The daemon in one line."""
        parts = [f"{sum(ear.online for ear in self._ears)} of {len(self._ears)} rooms online"]
        for name, output in self._outputs.items():
            parts.append(f"{name} {'connected' if output.connected.is_set() else 'not connected'}")
        return ", ".join(parts)

    def hanging(self) -> str | None:
        """What makes no progress though nothing outside keeps it from it; None: all is well."""
        now = time.monotonic()
        stuck = (self._models.hanging(now), *(ear.hanging(now) for ear in self._ears))
        return next((what for what in stuck if what is not None), None)

    def snapshot(self) -> Snapshot:
        """Everything that is counted, for Prometheus."""
        rooms = [RoomFigures(e.room.id, e.online, e.lost(), e.failures, e.model_errors()) for e in self._ears]
        latencies = [
            Latencies(kind, tuple(zip(BOUNDS, each.counts, strict=True)), each.count, each.total)
            for kind, each in self._meter.histograms.items()
        ]
        return Snapshot(self.health(look=False), rooms, latencies)

    def services(self) -> WebServices:
        """What the page may ask for."""
        from assistant.reviewing import Review  # noqa: PLC0415 (FastAPI only where the page is served)
        from assistant.vitals import Vitals  # noqa: PLC0415
        from assistant.web.health import WATCHED  # noqa: PLC0415
        from assistant.web.services import WebServices  # noqa: PLC0415

        vitals = Vitals(self.parts, partial(self._show, WATCHED))

        def watch(watched: frozenset[str]) -> None:
            self._watch(watched)
            vitals.watch(watched)

        rules, setup = self._desks()
        assert self._judging is not None  # noqa: S101 (there is a page)
        assert self._classroom is not None  # noqa: S101 (and a folder for the state)
        events = Review(
            self._judging,
            self._reader,
            self._clip_folder,
            event_types=lambda: (
                *self._hearing.table.groups,
                *(one.name for one in self._hearing.taught),
                *(OTHER, "speech", TEST),
            ),
            transcripts=lambda: self._transcripts,
            clip_days=self._config.clips.days,
            url=self._config.web.public_url,
        )
        return WebServices(
            rooms=self,
            events=events,
            teach=self._classroom,
            rules=rules,
            configuration=rules,
            setup=setup,
            metrics=lambda: exposition(self.snapshot(), __version__),
            health=vitals,
            watch=watch,
            ask=self.chatting(),
        )

    def parts(self) -> Parts:
        """What tells how it fares."""
        from assistant.vitals import Parts  # noqa: PLC0415

        mqtt = self._outputs.get("mqtt")
        mqtt = mqtt if isinstance(mqtt, Mqtt) else None
        return Parts(
            config=self._config if mqtt is None else self._config.model_copy(update={"mqtt": mqtt.settings}),
            embedded=self._own_broker,
            ears=self._ears,
            models=self._models,
            meter=self._meter,
            stages=self._stages,
            mqtt=mqtt,
            history=self._history,
            webhooks=self._webhooks,
            clips=self._clips,
            figures=self.health(look=False),
        )

    def _show(self, watched: str, message: Mapping[str, Any]) -> None:
        """Tell the pages that watch something."""
        if self._page is not None:
            self._page.tell(message, watchers_of=watched)

    def _watch(self, watched: Container[str]) -> None:
        """From now on somebody sees what is heard in these rooms."""
        self._watchers.change(watched)
        for ear in self._ears:
            if ear.pipeline is not None:
                ear.pipeline.watch(self._watchers.of(ear.room.id))

    def _house(self) -> House:
        """What follows from what people say of events."""

        def weigh(room: str) -> None:
            pipeline = self.pipeline_of(room)
            if pipeline is not None and self._judging is not None:
                pipeline.weigh(self._judging.factors(room))

        return House(
            table=self._hearing.table,
            plain=plain_thresholds(self._hearing.table, self._models.tagger.labels, self._hearing.sounds),
            sensitivity=self._sensitivity_of,
            weigh=weigh,
            emit=self._emit,
            tell=lambda message: None if self._page is None else self._page.tell(message),
        )

    def _sensitivity_of(self, room: str) -> Sensitivity:
        return self._hearing.sounds.sensitivity if self._switches is None else self._switches.sensitivity(room)

    def chatting(self) -> Chatting:
        """Who answers chats; the same for as long as it runs."""
        from assistant.chatting import Chatting, Lent  # noqa: PLC0415

        folder = self._clip_folder
        self._chatting = self._chatting or Chatting(
            Lent(
                self._models,
                hearing=lambda: self._hearing,
                rooms=lambda: names_of([ear.room for ear in self._ears]),
                stream=self.pipeline_of,
                say=self.synthesise,
                voice=self._voices is not None,
                clip=None if folder is None else partial(folder.read, suffix=SOUND),
            )
        )
        return self._chatting

    def _desks(self) -> tuple[Ruling, SettingUp]:
        """Who changes rules and set-up for the page."""
        from assistant.changing import Changes  # noqa: PLC0415 (only where the page is served)
        from assistant.configuration_file import ConfigurationFile  # noqa: PLC0415
        from assistant.ruling import RulesNow, Ruling  # noqa: PLC0415
        from assistant.setting_up import Now, SettingUp  # noqa: PLC0415

        file = ConfigurationFile((self._config.file or places()[0]).absolute(), self.state / "configurations")
        changes = Changes(self, file)

        def taught() -> dict[str, str]:
            return {sound.name: sound.title for sound in self._hearing.taught}

        def rules_now() -> RulesNow:
            return RulesNow(self._rules, names_of([ear.room for ear in self._ears]), self.restart_keys, taught())

        rules = Ruling(changes, rules_now, self.state)

        def now() -> Now:
            mqtt = self._outputs.get("mqtt")
            settings = mqtt.settings if isinstance(mqtt, Mqtt) else None
            connected = mqtt is not None and mqtt.connected.is_set()
            return Now(self._ears, settings, connected, self.given_broker, self.restart, taught())

        return rules, SettingUp(changes, now, self.command, rules.file_state, self.state)

    def rooms(self) -> list[RoomState]:
        """Every room as it is now."""
        from assistant.web.rooms import RoomState  # noqa: PLC0415

        return [
            RoomState(
                id=ear.room.id,
                name=ear.room.name or ear.room.id,
                presence=Presence.OFFLINE if ear.presence is None else ear.presence.presence,
                reason=ear.told,
                problem=ear.problem,
                listening=self._switches is None or self._switches.own(ear.room.id),
                sensitivity=self._sensitivity_of(ear.room.id),
                source="" if ear.source is None else ear.source.name,
                last=None if ear.last is None else ear.last.to_json(),
            )
            for ear in self._ears
        ]

    def listening(self) -> bool:
        """The switch of the whole house."""
        return self._switches is None or self._switches.own(None)

    def health(self, *, look: bool = True) -> dict[str, Any]:
        """Figures of the daemon, its rooms and its outputs; shares of time are those since the last `look`."""
        figures: dict[str, Any] = self._meter.figures(look=look)
        figures["tasks"] = len(asyncio.all_tasks())
        figures |= figures_of(self._ears, self._former)
        figures |= {f"speculations_{key}": count for key, count in self._models.speculations.items()}
        figures |= {f"commands_{key}": value for key, value in self._handler.health().items()}
        if self._models.llm is not None:
            figures |= {f"llm_{key}": value for key, value in self._models.llm.figures(look=look).items()}
            if self._models.remote is not None:
                figures |= {f"remote_{key}": value for key, value in self._models.remote.figures().items()}
            figures["rules_unanswered"] = self._rules.unanswered.total()
            figures["rules_doubted"] = self._rules.doubted.total()
        parts = {
            "say": self._speaking,
            "webhook": self._webhooks,
            "wyoming": self._wyoming,
            "history": self._history,
            "clips": self._clips,
            "judging": self._judging,
            "web": self._page,
            "ask": self._chatting,
        }
        for name, part in (*self._outputs.items(), *parts.items()):
            if part is not None:
                figures |= {f"{name}_{key}": value for key, value in part.health().items()}
        return figures


def _looked_at(task: asyncio.Task[None]) -> None:
    """An error that nobody waits for any more, since the daemon stops, is no error of asyncio's."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("%s ended: %s", task.get_name(), error)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel `task` and wait for its end; a cancel meanwhile is passed on to it."""
    task.cancel()
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s: %s", task.get_name(), error)


@asynccontextmanager
async def daemon(
    config: Config,
    rooms: Sequence[Room],
    files: ModelFiles,
    *,
    mqtt: MqttSettings | None = None,
    speed: float = 1.0,
    state: Path | None = None,
) -> AsyncIterator[Daemon]:
    """A daemon ready to run: models loaded, its broker embedded when no other is named.

    `mqtt` overrides the broker of the configuration; `state` is the folder in which switches and history are kept.
    Raises `ModelError` and `AssistantError`.
    """
    given = mqtt is not None
    async with AsyncExitStack() as stack:
        own = mqtt is None and config.mqtt.host is None
        if own:
            mqtt = config.mqtt.model_copy(update=await stack.enter_async_context(own_broker(config.broker)))
        models = await load_models(config, files)
        stack.callback(models.shutdown)
        folder = state or platformdirs.user_state_path("kikimimi")
        hearing = hearing_settings(config, folder)

        built: Daemon

        def obey(command: Command) -> None:
            built.command(command)

        async def answer(question: Question) -> Mapping[str, Any]:
            return await built.answer(question)

        switches = Switches(folder / "switches.json", config.sounds.sensitivity)
        history = reader = None
        if config.history.enabled:
            history, reader = History(config.history, folder), HistoryReader(config.history, folder)
            stack.callback(reader.close)
            history.start()
            stack.push_async_callback(history.close)
        output: Output = registry.load(registry.OUTPUTS, "mqtt")(
            mqtt or config.mqtt,
            home_of(config, rooms, hearing.table, switches, hearing.taught),
            config.homeassistant,
            answer=answer,
            command=obey,
            journal=history,
        )
        voices = None
        if config.say.enabled:
            voices = voice_of(config.say, language=first_language(config), models=config.models.dir)
            stack.push_async_callback(voices.close)
        page = WebServer(config.web, folder, __version__) if config.web.enabled else None
        built = Daemon(
            config,
            hearing,
            models,
            rooms,
            {"mqtt": output},
            speed=speed,
            switches=switches,
            voices=voices,
            history=history,
            clips=clips_of(config, folder),
            page=page,
            own_broker=own,
            reader=reader,
            verdicts=Verdicts(folder / "verdicts.json", LIFE_SAFETY),
            snoozes=Snoozes(folder / "snoozes.json"),
            state=folder,
        )
        built.state, built.given_broker = folder, given
        if page is not None:
            page.ask(built.services)
        yield built
