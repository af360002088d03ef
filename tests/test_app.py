"""The whole daemon: real models, a real broker, audio in, messages out."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
import soundfile
from paho.mqtt.enums import CallbackAPIVersion

from assistant import app
from assistant.audio.source import Converter, SourceStats
from assistant.config import Config, parse
from assistant.errors import SourceError
from assistant.events import (
    SAMPLE_RATE,
    Chunk,
    Event,
    Presence,
    Problem,
    ProblemChanged,
    RoomChanged,
    Samples,
    State,
    frozen,
)
from assistant.health import rss_mb
from assistant.listening import listen
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.startup import ModelFiles, Room, hearing_settings, load_models
from assistant.synthesis import noise, placed, t3, tone

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]


@pytest.fixture
def files(yamnet_path: Path) -> ModelFiles:
    """Sounds alone: what these tests say does not depend on the recogniser."""
    return ModelFiles(yamnet_path, None)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def wav(path: Path, samples: Samples) -> Path:
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture
def alarm(tmp_path: Path) -> Path:
    """Five cycles of a smoke alarm over a quiet room."""
    return wav(tmp_path / "alarm.wav", placed(noise(26.0, -60.0), 0.2 * t3(cycles=5), 2.0))


class Subscriber:
    """Another client of the house."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, str, float]] = []
        subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="test-subscriber")
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _c, _u, m: self.messages.append(
            (m.topic, m.payload.decode(errors="replace"), time.monotonic())
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def on(self, topic: str) -> list[str]:
        return [payload for name, payload, _ in self.messages if name == topic]

    def publish(self, topic: str, payload: str) -> None:
        self._client.publish(topic, payload, 1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def subscriber(port: int) -> Iterator[Subscriber]:
    client = Subscriber(port)
    try:
        yield client
    finally:
        client.close()


async def until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    config: Config, rooms: list[Room], files: ModelFiles, speed: float
) -> AsyncIterator[tuple[Subscriber, asyncio.Task[int]]]:
    """A daemon at its broker, with a subscriber that was there first."""
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        try:
            async with app.daemon(
                config, rooms, files, mqtt=MqttSettings(url=f"mqtt://127.0.0.1:{port}"), speed=speed
            ) as daemon:
                task = asyncio.create_task(daemon.run())
                try:
                    yield client, task
                finally:
                    daemon.stop()
                    await asyncio.wait_for(task, 20)
        finally:
            await asyncio.to_thread(client.close)


async def test_an_alarm_reaches_the_broker_once_and_ends(files: ModelFiles, alarm: Path) -> None:
    async with running(Config(), [Room("kitchen", str(alarm))], files, 20.0) as (client, task):
        assert await asyncio.wait_for(task, 60) == 0
        await until(lambda: "offline" in client.on("kikimimi/status"))
    events = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
    smoke = [event for event in events if event["event_type"] == "smoke_alarm"]
    assert [event["state"] for event in smoke] == ["started", "ended"]
    assert smoke[0]["id"] == smoke[1]["id"]
    assert abs(smoke[0]["offset"] - 2.0) < 0.5
    assert smoke[0]["heard_at"] < 18.0  # at the latest after three cycles of four seconds
    assert "t3" in smoke[1]["model"]
    assert smoke[1]["duration"] > 15.0
    assert client.on("kikimimi/kitchen/trigger").count("smoke_alarm") == 1
    states = client.on("kikimimi/kitchen/sound/smoke_alarm/state")
    assert "ON" in states
    assert states[-1] == "OFF"
    assert "ON" in client.on("kikimimi/alert/state")
    assert client.on("kikimimi/kitchen/status")[-1] == "offline"


async def test_a_broken_source_does_not_take_the_rest_down(files: ModelFiles, alarm: Path, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.wav"
    rubbish.write_bytes(b"no audio at all" * 100)
    rooms = [Room("attic", str(rubbish)), Room("kitchen", str(alarm))]
    async with running(Config(), rooms, files, 20.0) as (client, task):
        assert await asyncio.wait_for(task, 60) == 3  # one of the files was not read, and that is said
    assert any("smoke_alarm" in payload for payload in client.on("kikimimi/kitchen/event"))
    assert set(client.on("kikimimi/attic/status")) == {"offline"}


async def test_a_rule_publishes_when_its_sound_is_heard(files: ModelFiles, alarm: Path, tmp_path: Path) -> None:
    config = parse(
        "rules:\n  - name: tell\n    when: {sound: smoke_alarm}\n"
        "    do: [{publish: {topic: house/phone, payload: '{{ event_type }} in {{ room }}'}}]\n",
        tmp_path / "config.yaml",
    )
    async with running(config, [Room("kitchen", str(alarm))], files, 20.0) as (client, task):
        await asyncio.wait_for(task, 60)
    assert client.on("house/phone") == ["smoke_alarm in kitchen"]


async def test_two_rooms_share_the_models_and_keep_their_topics_apart(
    files: ModelFiles, alarm: Path, tmp_path: Path
) -> None:
    quiet = wav(tmp_path / "quiet.wav", noise(10.0, -60.0, seed=5))
    async with running(Config(), [Room("kitchen", str(alarm)), Room("hall", str(quiet))], files, 20.0) as (
        client,
        task,
    ):
        await asyncio.wait_for(task, 60)
    assert client.on("kikimimi/hall/event") == []
    assert client.on("kikimimi/kitchen/event")


async def test_without_transcripts_no_word_leaves(yamnet_path: Path, whisper_base_path: Path, tmp_path: Path) -> None:
    voice = shutil.which("espeak-ng")
    if voice is None:
        pytest.skip("espeak-ng is missing; remedy: apt-get install espeak-ng")
    spoken = tmp_path / "spoken.wav"
    sentence = "Please turn on the light in the kitchen."
    speaking = [voice, "-v", "en-us", "-s", "140", "-w", str(spoken), sentence]
    await asyncio.to_thread(subprocess.run, speaking, check=True)
    async with running(Config(), [Room("kitchen", str(spoken))], ModelFiles(yamnet_path, whisper_base_path), 1.0) as (
        client,
        task,
    ):
        await asyncio.wait_for(task, 60)
    heard = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
    heard = [event for event in heard if event["kind"] == "speech"]
    assert heard
    assert heard[0]["text"] is None
    assert heard[0]["language"] == "en"
    assert not any("light" in payload for topic, payload, _ in client.messages if topic.startswith("kikimimi/kitchen"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_sigterm_says_offline_within_a_second(alarm: Path, tmp_path: Path, yamnet_path: Path) -> None:
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is missing; remedy: apt-get install mosquitto")
    port = free_port()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    config = tmp_path / "config.yaml"
    config.write_text("speech: {enabled: false}\n")
    broker = subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        with subscriber(port) as client:
            daemon = subprocess.Popen(
                [
                    *KIKIMIMI,
                    "run",
                    "-c",
                    str(config),
                    "--source",
                    f"kitchen={alarm}",
                    "--mqtt",
                    f"mqtt://127.0.0.1:{port}",
                ],
                stderr=subprocess.PIPE,
            )
            deadline = time.monotonic() + 30
            while "online" not in client.on("kikimimi/kitchen/status"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            asked = time.monotonic()
            daemon.send_signal(signal.SIGTERM)
            _, log = daemon.communicate(timeout=20)
            assert daemon.returncode == 0, log.decode()
            time.sleep(0.2)
            told = [at for topic, payload, at in client.messages if topic == "kikimimi/status" and payload == "offline"]
            assert told
            assert told[-1] - asked < 1.0
    finally:
        broker.terminate()
        broker.wait(10)


async def test_the_same_file_gives_the_same_events(files: ModelFiles, alarm: Path) -> None:
    class Collector:
        closed = False

        def __init__(self) -> None:
            self.events: list[dict[str, object]] = []

        def offer(self, item: Event) -> None:
            written = item.to_json()
            self.events.append({k: v for k, v in written.items() if k not in {"id", "start", "end", "latency"}})

    runs = []
    for _ in range(2):
        models = await load_models(Config(), files)
        collector = Collector()
        assert await listen([str(alarm)], models, hearing_settings(Config()), collector) == 0
        models.shutdown()
        runs.append(collector.events)
    assert runs[0] == runs[1]
    assert runs[0]


UNPLUGGED = "faulty: unplugged; remedy: plug it in"


class Faulty:
    """A live source that plays a little and then fails, each time it is opened."""

    live = True

    def __init__(self, room: str, samples: Samples, lost: float, opened: list[float]) -> None:
        self.room, self.name, self.stats = room, "faulty", SourceStats(lost_seconds=lost)
        self._samples, self._opened = samples, opened
        self._converter = Converter(self.name, self.stats)

    async def chunks(self) -> AsyncIterator[Chunk]:
        self._opened.append(time.monotonic())
        for start in range(0, len(self._samples), 640):
            samples = self._converter.feed(self._samples[start : start + 640, np.newaxis], SAMPLE_RATE)
            yield Chunk(self.room, self.name, start, frozen(samples), time.time())
            await asyncio.sleep(0)
        raise SourceError(UNPLUGGED)


class Inbox:
    """An output that keeps what it is offered."""

    def __init__(self, error: Exception | None = None) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.items: list[object] = []
        self._error = error
        self._stopped = asyncio.Event()

    def offer(self, item: object) -> None:
        if self._error is not None:
            raise self._error
        self.items.append(item)

    async def run(self) -> None:
        await self._stopped.wait()

    def go_offline(self) -> None:
        pass

    async def stop(self, seconds: float) -> None:
        self._stopped.set()

    def health(self) -> dict[str, object]:
        return {}


@asynccontextmanager
async def alone(
    files: ModelFiles, rooms: list[Room], outputs: dict[str, Inbox], config: Config | None = None, speed: float = 0.0
) -> AsyncIterator[tuple[app.Daemon, asyncio.Task[int]]]:
    """A daemon without a broker."""
    config = config or Config()
    models = await load_models(config, files)
    daemon = app.Daemon(config, hearing_settings(config), models, rooms, outputs, speed=speed)
    task = asyncio.create_task(daemon.run())
    try:
        yield daemon, task
    finally:
        daemon.stop()
        await asyncio.wait_for(task, 20)
        models.shutdown()


def held_mb() -> float:
    """Memory without what waits for the garbage collector, whose turn differs from run to run."""
    gc.collect()
    return rss_mb()


async def test_a_room_opened_again_and_again_starts_afresh_and_leaves_nothing_behind(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[float] = []
    beep = placed(noise(3.0, -60.0), 0.3 * tone(3100.0, 1.5), 1.0)
    monkeypatch.setattr(app, "BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(app, "open_source", lambda room, _speed: Faulty(room.id, beep, 0.5, opened))
    inbox = Inbox()
    async with alone(files, [Room("kitchen", "default")], {"inbox": inbox}) as (daemon, _):
        await until(lambda: len(opened) > 25, 60)  # until then threads still get their memory; it levels off
        before = threading.active_count(), len(asyncio.all_tasks()), held_mb()
        await until(lambda: len(opened) > 75, 60)
        halfway = held_mb()
        await until(lambda: len(opened) > 125, 60)
        after = threading.active_count(), len(asyncio.all_tasks()), held_mb()
        lost = daemon.health()["dropped_s_total"]
    assert after[0] <= before[0] + 2  # asyncio's own pool may still grow; a leak would be one per opening, 100
    assert after[1] <= before[1] + 5  # an opening has several of its own; a leak would be 100 or more
    # A thread that joins asyncio's pool takes memory of its own once; a leak grows from each 50 openings to the next.
    assert min(halfway - before[2], after[2] - halfway) < 15.0
    assert lost >= 0.5 * 125  # what earlier openings lost stays counted
    events = [item for item in inbox.items if isinstance(item, Event)]
    started = [event for event in events if event.state is State.STARTED]
    ended = {event.id for event in events if event.state is State.ENDED}
    assert len(started) > 100  # no cool-down of the opening before
    assert {event.id for event in started} == ended
    assert len(ended) == len(started)
    presences = [item.presence for item in inbox.items if isinstance(item, RoomChanged)]
    assert presences[:4] == [Presence.ONLINE, Presence.OFFLINE] * 2
    assert "unplugged" in caplog.text


async def test_a_source_that_cannot_be_opened_is_told_once(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[float] = []
    monkeypatch.setattr(app, "BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(app, "open_source", lambda room, _speed: Faulty(room.id, np.zeros(0, np.float32), 0.0, opened))
    inbox = Inbox()
    async with alone(files, [Room("kitchen", "default")], {"inbox": inbox}):
        await until(lambda: len(opened) > 20)
    assert [item.presence for item in inbox.items if isinstance(item, RoomChanged)] == [Presence.OFFLINE]
    assert sum("unplugged" in record.message for record in caplog.records if record.levelname == "WARNING") == 1


async def test_the_only_source_must_be_there_and_its_failure_is_the_exit_code(files: ModelFiles) -> None:
    async with alone(files, [Room("kitchen", "no such device", required=True)], {}) as (_, task):
        assert await asyncio.wait_for(task, 20) == 3


async def test_rules_and_outputs_that_raise_do_not_stop_the_room(
    files: ModelFiles, alarm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug in the rules")

    monkeypatch.setattr(app.Rules, "feed", broken)
    monkeypatch.setattr(app.Rules, "presence", broken)
    inbox = Inbox()
    outputs = {"broken": Inbox(RuntimeError("a bug in an output")), "inbox": inbox}
    async with alone(files, [Room("kitchen", str(alarm))], outputs) as (_, task):
        assert await asyncio.wait_for(task, 60) == 0
    smoke = [item for item in inbox.items if isinstance(item, Event) and item.event_type == "smoke_alarm"]
    assert [event.state for event in smoke] == [State.STARTED, State.ENDED]
    assert "a bug in the rules" in caplog.text
    assert "a bug in an output" in caplog.text


@pytest.mark.parametrize(
    "fault",
    [
        (Problem.SILENT, 0.0, "unmute it"),
        (Problem.STUCK, 0.25, "plug it in again"),
        (Problem.CLIPPED, None, "turn its gain down"),
    ],
)
async def test_a_faulty_microphone_is_told_once_and_counted_and_so_is_its_end(
    files: ModelFiles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: tuple[Problem, float | None, str],
) -> None:
    problem, value, remedy = fault
    caplog.set_level("INFO")
    inbox, figures = Inbox(), []
    tell = app.Daemon._tell
    monkeypatch.setattr(app.Daemon, "_tell", lambda self, item: (tell(self, item), figures.append(self.health())))
    faulty = np.sign(noise(16.0, -20.0)) if value is None else np.full(16 * SAMPLE_RATE, value, np.float32)
    samples = np.concatenate((faulty, noise(8.0, -50.0)))
    monkeypatch.setattr(app, "BACKOFF", (30.0, 60.0))
    monkeypatch.setattr(app, "open_source", lambda room, _speed: Faulty(room.id, samples, 0.0, []))
    async with alone(files, [Room("kitchen", "default")], {"inbox": inbox}) as (daemon, _):
        await until(lambda: ("assistant.app", logging.WARNING, f"kitchen: {UNPLUGGED}") in caplog.record_tuples)
        assert daemon.health()[f"rooms_{problem}"] == 0
    assert max(figure[f"rooms_{problem}"] for figure in figures) == 1
    assert [item for item in inbox.items if isinstance(item, ProblemChanged)] == [
        ProblemChanged("kitchen", problem),
        ProblemChanged("kitchen", Problem.NONE),
    ]
    assert sum(remedy in record.message for record in caplog.records if record.levelname == "WARNING") >= 1
    assert sum(f"no longer {problem}" in record.message for record in caplog.records) == 1


async def test_a_problem_ends_with_its_source(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    silence = np.zeros(16 * SAMPLE_RATE, np.float32)
    monkeypatch.setattr(app, "BACKOFF", (30.0, 60.0))
    monkeypatch.setattr(app, "open_source", lambda room, _speed: Faulty(room.id, silence, 0.0, []))
    async with alone(files, [Room("kitchen", "default")], {"inbox": inbox}):
        await until(lambda: ProblemChanged("kitchen", Problem.NONE) in inbox.items)
    assert ProblemChanged("kitchen", Problem.SILENT) in inbox.items


async def test_digital_silence_is_not_an_event(files: ModelFiles, tmp_path: Path) -> None:
    silent = wav(tmp_path / "silent.wav", np.zeros(SAMPLE_RATE * 20, np.float32))
    async with running(Config(), [Room("kitchen", str(silent))], files, 50.0) as (client, task):
        await asyncio.wait_for(task, 60)
    assert client.on("kikimimi/kitchen/event") == []


async def test_an_alarm_calls_a_listed_host(files: ModelFiles, alarm: Path) -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        rule = f"{{when: {{sound: smoke_alarm}}, do: {{webhook: {{url: 'http://127.0.0.1:{port}/{{{{ room }}}}'}}}}}}"
        config = parse(f"webhooks: {{hosts: ['127.0.0.1:{port}']}}\nrules: [{rule}]", Path("c.yaml"))
        async with running(config, [Room("kitchen", str(alarm))], files, 20.0) as (_client, task):
            assert await asyncio.wait_for(task, 60) == 0
    (body,) = bodies
    event = json.loads(body)
    assert (event["room"], event["event_type"], event["state"], event["text"]) == (
        "kitchen",
        "smoke_alarm",
        "started",
        None,
    )
