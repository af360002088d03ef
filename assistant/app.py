"""The daemon: rooms, models, rules and outputs held together in one TaskGroup."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from assistant import registry
from assistant.answering import answer_question, answer_rule, span_of_clip
from assistant.errors import AssistantError
from assistant.events import (
    SAMPLE_RATE,
    Action,
    Ask,
    Event,
    Fact,
    HealthMeasured,
    LevelMeasured,
    Log,
    Presence,
    Publish,
    RoomChanged,
    Samples,
    frozen,
    without_words,
)
from assistant.health import Meter
from assistant.outputs.broker import answers_mqtt, embedded_broker
from assistant.outputs.jsonl import readable
from assistant.outputs.mqtt import MqttSettings
from assistant.pipeline import HearingSettings, Models, Pipeline
from assistant.rules import Rules
from assistant.startup import ModelFiles, Room, hearing_settings, home_of, load_models, open_source

if TYPE_CHECKING:
    from assistant.audio.source import Source
    from assistant.config import Config
    from assistant.outputs.questions import Question

log = logging.getLogger(__name__)

BROKER_PORT = 1883
FIRST_HEALTH, HEALTH_EVERY = 5.0, 60.0  # seconds
TICK = 1.0  # seconds between two looks of the rules at the clock
BACKOFF = (1.0, 60.0)  # seconds: first and longest wait before a broken part is tried again
CONNECT_WITHIN = 5.0  # seconds that a recording waits for the outputs
DRAIN = 10.0  # seconds for what was heard before the signal
LEAST_DRAIN = 1.0  # of which so many for the outputs, however long the recogniser took
QUESTIONS = 16  # of rules that wait for the audio language model at once; more go without an answer


class Output(Protocol):
    """Who is told. An output has its own bounded inbox, so that a dead broker cannot stall the rest."""

    connected: asyncio.Event  # set while what is offered goes out at once

    def offer(self, item: Fact | Publish) -> None:
        """Take an item; never blocks."""

    async def run(self) -> None:
        """Deliver until stopped or cancelled."""

    def go_offline(self) -> None:
        """Say at once that the house is not heard any more; deliveries go on."""

    async def stop(self, seconds: float) -> None:
        """Deliver what is left for at most `seconds`, then disconnect; `run` returns."""

    def health(self) -> Mapping[str, Any]:
        """Connection, drops, queue depth."""


@dataclass(slots=True)
class _Ear:
    """What is known of a room while the daemon runs."""

    room: Room
    source: Source | None = None
    pipeline: Pipeline | None = None
    online: bool = False
    live: bool = True  # it does not end by itself: opened again when it breaks
    lost_before: float = 0.0  # seconds lost by earlier openings of the source
    utterances_before: int = 0  # utterances shed by earlier openings
    errors_before: int = 0  # errors of the models in earlier openings
    heard: bool = False  # it was online at least once
    silent: bool = False  # its microphone gives nothing but digital silence
    failure: AssistantError | None = None  # why it is not heard
    told: str | None = None  # the reason that was told last

    def lost(self) -> float:
        """Seconds of audio lost so far: by the source, and shed on the way to the recogniser."""
        source = self.source.stats.lost_seconds if self.source is not None else 0.0
        shed = self.pipeline.utterances.shed if self.pipeline is not None else 0.0
        return self.lost_before + source + shed

    def utterances_shed(self) -> int:
        """Utterances that the recogniser had no time for."""
        return self.utterances_before + (self.pipeline.utterances.drops if self.pipeline is not None else 0)

    def model_errors(self) -> int:
        """Windows and utterances lost to an exception of a model."""
        return self.errors_before + (self.pipeline.model_errors if self.pipeline is not None else 0)

    def opened(self, source: Source) -> None:
        """A new source: what the one before it lost stays counted."""
        self.lost_before, self.utterances_before, self.errors_before = (
            self.lost(),
            self.utterances_shed(),
            self.model_errors(),
        )
        self.source, self.pipeline = source, None
        self.silent = False


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
    ) -> None:
        """`speed` is that of files: 1 in real time, 0 as fast as possible. Nothing is opened before `run`."""
        self._hearing = hearing
        self._models = models
        self._ears = [_Ear(room, live=room.live) for room in rooms]
        self._outputs = outputs
        self._speed = speed
        self._transcripts = config.privacy.transcripts
        self._rules = Rules(
            config.rules,
            transcripts=config.privacy.transcripts,
            rooms={room.id: room.name or room.id for room in rooms},
        )
        self._asking: set[asyncio.Task[None]] = set()
        self._hurried = False  # nothing is asked any more
        self._meter = Meter()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to return: offline is told within a second, then what was heard is delivered for at most 10 s."""
        self._stopping.set()

    async def run(self) -> int:
        """Listen until stopped or every source has ended. Returns the exit code: 0, or that of a failed source."""
        async with asyncio.TaskGroup() as group:
            lasting = [
                group.create_task(self._keep(name, run), name=name)
                for name, run in (
                    *((name, output.run) for name, output in self._outputs.items()),
                    ("rules", self._tick),
                    ("health", self._report),
                )
            ]
            listening = [group.create_task(self._listen(ear), name=ear.room.id) for ear in self._ears]
            await self._until_stopped(listening)
            await self._until_answered()
            for output in self._outputs.values():
                output.go_offline()
            for task in listening:
                task.cancel()
            until = time.monotonic() + DRAIN
            await self._ended(listening)
            await self._last_answers(until - LEAST_DRAIN - time.monotonic())
            left = max(LEAST_DRAIN, until - time.monotonic())
            await asyncio.gather(*(self._close(name, output, left) for name, output in self._outputs.items()))
            for task in lasting:
                task.cancel()
        if self._stopping.is_set():
            return 0
        return next((ear.failure.exit_code for ear in self._ears if ear.failure), 0)

    async def _until_stopped(self, listening: Sequence[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        ended = asyncio.ensure_future(asyncio.gather(*listening, return_exceptions=True))
        try:
            await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _until_answered(self) -> None:
        """Wait for the questions of rules, which have deadlines of their own, unless asked to stop."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while self._asking and not stopping.done():
                await asyncio.wait({stopping, *self._asking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _last_answers(self, left: float) -> None:
        """What rules still ask has `left` seconds; then they go on without an answer."""
        if self._asking:
            await asyncio.wait(self._asking, timeout=max(0.0, left))
        self._hurried = True
        for task in self._asking:
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking)

    async def _ended(self, listening: Sequence[asyncio.Task[None]]) -> None:
        """Wait for cancelled rooms. One that hangs, in a driver or a model, is cancelled again."""
        _, hanging = await asyncio.wait(listening, timeout=DRAIN)
        for task in hanging:
            log.warning("%s: did not stop within %.0f s", task.get_name(), DRAIN)
            task.cancel()
        if hanging:
            await asyncio.wait(hanging, timeout=LEAST_DRAIN)

    async def _close(self, name: str, output: Output, left: float) -> None:
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

    async def _listen(self, ear: _Ear) -> None:
        """Hear one room; a source that breaks is opened again with back-off, a file that ended is not."""
        if not ear.live:
            await self._outputs_connected()
            if self._speed == 0 and self._models.llm is not None:
                await self._models.llm.ready()  # else how much it hears depends on how fast it loads
        delay = BACKOFF[0]
        while True:
            opened = time.monotonic()
            try:
                await self._hear(ear)
            except AssistantError as error:
                ear.failure = error
                self._lost(ear, str(error))
            except Exception as error:
                ear.failure = AssistantError(f"{ear.room.id}: {error}")
                log.exception("%s: listening broke", ear.room.id)
                self._lost(ear, "internal error")
            else:
                ear.failure = None
                self._lost(ear, "the source has ended")
            if not ear.live or (ear.room.required and ear.failure and not ear.heard):
                return
            if time.monotonic() - opened > BACKOFF[1]:
                delay = BACKOFF[0]
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 (jitter, not a secret)
            delay = min(2.0 * delay, BACKOFF[1])

    async def _outputs_connected(self) -> None:
        """A recording can wait: let whoever subscribed see it from its beginning."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_WITHIN):
                for output in self._outputs.values():
                    await output.connected.wait()

    async def _hear(self, ear: _Ear) -> None:
        """Open the room's source afresh and hear it to its end."""
        source = open_source(ear.room, self._speed)
        ear.opened(source)
        hearing = replace(self._hearing, languages=ear.room.languages or self._hearing.languages)
        ear.pipeline = Pipeline(
            source,
            self._models,
            hearing,
            self._emit,
            lambda level: self._measured(ear, level),
            inline=not ear.live and self._speed == 0,
            clocked=ear.live or (ear.room.recorded and self._speed == 1.0),
        )
        await ear.pipeline.run(lambda: self._came(ear))

    def _came(self, ear: _Ear) -> None:
        ear.online = ear.heard = True
        ear.failure = ear.told = None
        log.info("%s: listening to %s", ear.room.id, ear.source.name if ear.source else ear.room.address)
        self._tell(RoomChanged(ear.room.id, Presence.ONLINE))

    def _lost(self, ear: _Ear, reason: str) -> None:
        """Say why a room is not heard: once, however often its source is tried again."""
        if reason == ear.told:
            log.debug("%s: still: %s", ear.room.id, reason)
            return
        log.log(logging.INFO if ear.online and not ear.live else logging.WARNING, "%s: %s", ear.room.id, reason)
        ear.online, ear.told = False, reason
        self._tell(RoomChanged(ear.room.id, Presence.OFFLINE, reason))

    def _measured(self, ear: _Ear, level: LevelMeasured) -> None:
        """Pass a level on. A live source that gives digital silence is told of: no microphone is that quiet."""
        silent = ear.live and ear.pipeline is not None and ear.pipeline.silent
        if silent != ear.silent:
            ear.silent = silent
            if silent:
                log.warning(
                    "%s: nothing but digital silence: the microphone is muted, unplugged or broken; remedy: unmute it, "
                    "or choose another one of kikimimi devices",
                    ear.room.id,
                )
            else:
                log.info("%s: the microphone is no longer silent", ear.room.id)
        self._tell(level)

    def _emit(self, event: Event) -> None:
        """Tell an event: first what the rules make of it, then the outputs, each through its own inbox.

        A bug in the rules or in an output is logged; it neither stops the room nor keeps the others from being told.
        """
        self._meter.event(event.latency, speech=event.kind == "speech")
        log.info("%s", readable(without_words(event)).strip())
        try:
            self._act(self._rules.feed(event, time.time()))
        except Exception:
            log.exception("the rules failed on %s %s in %s", event.event_type, event.state, event.room)
        self._tell(event if self._transcripts else without_words(event))

    def _tell(self, item: Fact | Publish) -> None:
        if isinstance(item, RoomChanged):
            try:
                self._rules.presence(item, time.time())
            except Exception:
                log.exception("the rules failed on %s %s", item.room, item.presence)
        for name, output in self._outputs.items():
            try:
                output.offer(item)
            except Exception:
                log.exception("%s: did not take a %s", name, type(item).__name__)

    def _act(self, actions: Sequence[Action], clip: Samples | None = None) -> None:
        """Do what rules ask for. `clip` is what earlier questions of the same rule were about."""
        for action in actions:
            match action:
                case Publish():
                    self._tell(action)
                case Log():
                    log.info("rule %s: %s", action.rule, action.message)
                case Ask():
                    self._ask(action, clip)

    def _ask(self, ask: Ask, clip: Samples | None) -> None:
        """Have a rule's question answered in the background; its other actions follow."""
        if self._hurried or len(self._asking) >= QUESTIONS:
            self._act(self._rules.answered(ask, None), clip)
            return
        if clip is None:
            clip = self._heard_in(ask.event.room, lambda now: span_of_clip(ask.event, now))
        task = asyncio.create_task(self._answer_rule(ask, clip), name=f"question of {ask.rule}")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _answer_rule(self, ask: Ask, clip: Samples) -> None:
        answer = None
        with suppress(asyncio.CancelledError):  # the daemon stops: the rule goes on without
            answer = await answer_rule(self._models.llm, ask, clip)
        try:
            self._act(self._rules.answered(ask, answer), clip)
        except Exception:
            log.exception("rule %s failed after its question", ask.rule)

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
        pipeline = next((ear.pipeline for ear in self._ears if ear.room.id == room), None)
        if pipeline is None:
            return frozen(np.zeros(0, np.float32))
        return pipeline.recent.cut(*span(pipeline.position))

    async def _tick(self) -> None:
        """Give the rules the time: sounds that last, sounds that stay away."""
        while True:
            await asyncio.sleep(TICK)
            self._act(self._rules.tick(time.time()))

    async def _report(self) -> None:
        """One health line and message soon after the start, so that nobody waits for figures, then one a minute."""
        wait = FIRST_HEALTH
        while True:
            await asyncio.sleep(wait)
            wait = HEALTH_EVERY
            figures = self.health()
            log.info("health: %s", ", ".join(f"{key} {value}" for key, value in figures.items() if value is not None))
            self._tell(HealthMeasured(figures))

    def health(self) -> dict[str, Any]:
        """Figures of the daemon, its rooms and its outputs."""
        figures: dict[str, Any] = self._meter.figures()
        figures["model_errors"] = sum(ear.model_errors() for ear in self._ears)
        figures["dropped_s_total"] = round(sum(ear.lost() for ear in self._ears), 1)
        figures["utterances_dropped"] = sum(ear.utterances_shed() for ear in self._ears)
        figures["utterances_waiting"] = sum(len(ear.pipeline.utterances) for ear in self._ears if ear.pipeline)
        figures["rooms_online"] = sum(ear.online for ear in self._ears)
        figures["rooms_silent"] = sum(ear.silent for ear in self._ears)
        figures["rooms"] = len(self._ears)
        if self._models.llm is not None:
            figures |= {f"llm_{key}": value for key, value in self._models.llm.figures().items()}
            figures["rules_unanswered"] = self._rules.unanswered.total()
            figures["rules_doubted"] = self._rules.doubted.total()
        for name, output in self._outputs.items():
            figures |= {f"{name}_{key}": value for key, value in output.health().items()}
        return figures


@asynccontextmanager
async def daemon(
    config: Config,
    rooms: Sequence[Room],
    files: ModelFiles,
    *,
    mqtt: MqttSettings | None = None,
    speed: float = 1.0,
) -> AsyncIterator[Daemon]:
    """A daemon ready to run: models loaded, its broker embedded when no other is named.

    `mqtt` overrides the broker of the configuration. Raises `ModelError` and `AssistantError`.
    """
    async with AsyncExitStack() as stack:
        if mqtt is None and config.mqtt.host is None:
            port = await stack.enter_async_context(own_broker())
            mqtt = config.mqtt.model_copy(update={"host": "127.0.0.1", "port": port})
        models = await load_models(config, files)
        stack.callback(models.shutdown)
        hearing = hearing_settings(config)

        async def answer(question: Question) -> Mapping[str, Any]:
            return await built.answer(question)

        output: Output = registry.load(registry.OUTPUTS, "mqtt")(
            mqtt or config.mqtt, home_of(config, rooms, hearing.table), config.homeassistant, answer=answer
        )
        built = Daemon(config, hearing, models, rooms, {"mqtt": output}, speed=speed)
        yield built


@asynccontextmanager
async def own_broker() -> AsyncIterator[int]:
    """The embedded broker on the usual port, or on a free one when something else answers MQTT there."""
    port = BROKER_PORT
    if await answers_mqtt("127.0.0.1", port):
        log.warning(
            "another MQTT broker answers on port %d; to use it: kikimimi run --mqtt mqtt://127.0.0.1:%d", port, port
        )
        port = 0
    async with embedded_broker(port=port) as bound:
        yield bound
