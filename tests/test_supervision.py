"""What a supervisor hears: of the functions, of the real daemon in a process of its own, and when something hangs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from outputs.brokers import Mosquitto, Subscriber, free_port, until
from supervisor import Supervisor

from assistant import ears, pipeline, supervision
from assistant.app import Daemon
from assistant.config import Config
from assistant.ears import CHUNK_HANGS, RETRY_HANGS, SWITCHED_OFF, Ear
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Samples
from assistant.startup import ModelFiles, Room, hearing_settings, load_models
from assistant.synthesis import noise

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]


@pytest.fixture(params=[False, True], ids=["a path", "an abstract name"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    supervisor = Supervisor(abstract=request.param)
    monkeypatch.setenv("NOTIFY_SOCKET", supervisor.address)
    yield supervisor
    supervisor.close()


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    supervisor = Supervisor(watchdog=0.4)
    for name, value in supervisor.environment.items():
        monkeypatch.setenv(name, value)
    yield supervisor
    supervisor.close()


async def test_a_line_reaches_the_supervisor(anywhere: Supervisor) -> None:
    assert supervision.notify("READY=1", "STATUS=台所 is heard")
    await until(lambda: len(anywhere.heard) == 2)
    assert [line for _, line in anywhere.heard] == ["READY=1", "STATUS=台所 is heard"]


async def test_reloading_carries_the_time(anywhere: Supervisor) -> None:
    before = time.monotonic_ns() // 1000
    supervision.reloading()
    await until(lambda: len(anywhere.heard) == 2)
    assert anywhere.lines("RELOADING=1")
    assert before <= int(anywhere.lines("MONOTONIC_USEC=")[0].partition("=")[2]) <= time.monotonic_ns() // 1000


def test_without_a_supervisor_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not supervision.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not supervision.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", None, 60.0),
        ("60000000", "own", 60.0),
        ("60000000", "1", None),
        ("soon", None, None),
        ("0", None, None),
    ],
)
def test_the_watchdog_is_ours_or_nobodys(
    usec: str, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert supervision.watchdog_seconds() == seconds


async def test_pings_stop_while_something_hangs_and_say_what(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    models_there, stuck = asyncio.Event(), [""]

    async def ready() -> None:
        await models_there.wait()

    async with supervision.supervised(ready, lambda: "1 of 1\nrooms online", lambda: stuck[0] or None):
        await asyncio.sleep(0.3)
        assert supervisor.heard == []  # nothing before the models are there
        models_there.set()
        await until(lambda: len(supervisor.lines("WATCHDOG=1")) >= 3)
        assert supervisor.lines("READY=1") == ["READY=1"]
        assert supervisor.lines("STATUS=")[0] == "STATUS=1 of 1 rooms online"
        stuck[0] = "kitchen: no chunk came for 31 s"
        await asyncio.sleep(0.2)
        hung = time.monotonic()
        await asyncio.sleep(0.5)
        assert not supervisor.lines("WATCHDOG=1", since=hung)
        assert supervisor.lines("STATUS=")[-1] == "STATUS=no progress: kitchen: no chunk came for 31 s"
        assert caplog.text.count("no progress: kitchen") == 1
        stuck[0] = ""
        await until(lambda: supervisor.lines("WATCHDOG=1", since=hung))


async def test_a_container_sees_that_there_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv(supervision.ALIVE, raising=False)
    with pytest.raises(AssistantError, match="KIKIMIMI_ALIVE is not set; remedy"):
        supervision.check_alive()
    monkeypatch.setenv(supervision.ALIVE, str(tmp_path / "alive"))
    with pytest.raises(AssistantError, match="no daemon has left its time"):
        supervision.check_alive()

    async def ready() -> None:
        return

    async with supervision.supervised(ready, lambda: "", lambda: None):
        await until((tmp_path / "alive").exists)
        supervision.check_alive()
    (tmp_path / "alive").write_text(f"{time.monotonic() - 61.0}", "ascii")
    with pytest.raises(AssistantError, match="no progress for 61 s"):
        supervision.check_alive()
    (tmp_path / "alive").write_text("9e99", "ascii")  # of before the machine was started
    with pytest.raises(AssistantError, match="no progress"):
        supervision.check_alive()


# --- what hangs, and what only waits ----------------------------------------------------------------------------------


def _heard(ear: Ear, now: float, *, chunk: float | None, since: float | None = None) -> Ear:
    """An ear that is online; its last chunk was through `chunk` seconds ago, one is on its way for `since` seconds."""
    ear.online = True
    ear.pipeline = object.__new__(pipeline.Pipeline)
    ear.pipeline.heard_at = now - (chunk or 0.0)
    ear.pipeline.hearing_since = None if since is None else now - since
    return ear


def test_an_online_room_must_bring_chunks_and_pass_them_on() -> None:
    now, room = time.monotonic(), Room("kitchen", "default")
    assert _heard(Ear(room), now, chunk=1.0).hanging(now) is None
    assert "no chunk came for 31 s" in str(_heard(Ear(room), now, chunk=CHUNK_HANGS + 1).hanging(now))
    assert _heard(Ear(room), now, chunk=0.1, since=1.0).hanging(now) is None
    stuck = _heard(Ear(room), now, chunk=0.1, since=CHUNK_HANGS + 1).hanging(now)
    assert "kitchen: a chunk is not through for 31 s" in str(stuck)


def test_a_satellite_may_be_silent_but_what_it_sends_must_pass() -> None:
    from assistant.audio.satellite import Satellite  # noqa: PLC0415

    now = time.monotonic()
    ear = _heard(Ear(Room("hall", "wyoming://hall")), now, chunk=3600.0)
    ear.source = Satellite("hall", "wyoming://hall")
    assert ear.hanging(now) is None
    assert ear.pipeline is not None
    ear.pipeline.hearing_since = now - CHUNK_HANGS - 1
    assert ear.hanging(now) is not None


def test_without_a_microphone_the_retries_are_the_progress() -> None:
    now, ear = time.monotonic(), Ear(Room("kitchen", "default"))
    ear.told, ear.tried = "there is no microphone", now - 60.0
    assert ear.hanging(now) is None
    ear.tried = now - RETRY_HANGS - 1
    assert "not tried again" in str(ear.hanging(now))
    ear.told = SWITCHED_OFF
    assert ear.hanging(now) is None


class Stuck:
    """A tagger that answers until it is told to hang, as a native call that never returns does."""

    labels = ("Silence",) * 521

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.called = threading.Event()

    def tag(self, _samples: Samples) -> NDArray[np.float32]:
        self.called.set()
        self.free.wait(30)
        return np.zeros(521, np.float32)


async def test_a_hung_tagger_stops_the_pings_of_a_real_daemon(
    supervisor: Supervisor, yamnet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ears, "CHUNK_HANGS", 1.0)
    sound = tmp_path / "noise.wav"
    soundfile.write(sound, np.concatenate([noise(1.0, -60.0), noise(60.0, -20.0)]), SAMPLE_RATE)
    models = await load_models(Config(), ModelFiles(yamnet_path, None))
    tagger = Stuck()
    tagger.labels = models.tagger.labels  # type: ignore[assignment]
    models = replace(models, tagger=tagger)
    daemon = Daemon(Config(), hearing_settings(Config()), models, [Room("kitchen", str(sound))], {})
    daemon._ears[0].live = True  # it may not just end
    running = asyncio.create_task(daemon.run())
    try:
        async with supervision.supervised(daemon.ready, daemon.status, daemon.hanging):
            await until(lambda: tagger.called.is_set() and len(supervisor.lines("WATCHDOG=1")) > 5)
            assert daemon.hanging() is None
            tagger.free.clear()
            await until(lambda: daemon.hanging() is not None)
            hung = time.monotonic() + 0.2
            await asyncio.sleep(1.0)
            assert not supervisor.lines("WATCHDOG=1", since=hung)
            assert "a chunk is not through" in supervisor.lines("STATUS=")[-1]
            tagger.free.set()
            await until(lambda: supervisor.lines("WATCHDOG=1", since=hung))
    finally:
        tagger.free.set()
        daemon.stop()
        await running
        models.shutdown()


async def test_a_call_of_a_model_that_never_returns_hangs(yamnet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MODEL_HANGS", 0.2)
    models = await load_models(Config(), ModelFiles(yamnet_path, None))
    release = threading.Event()
    call = asyncio.create_task(models.tagging.call(lambda: release.wait(20)))
    await until(lambda: models.hanging(time.monotonic()) is not None)
    assert "the tagger has not answered" in str(models.hanging(time.monotonic()))
    release.set()
    await call
    assert models.hanging(time.monotonic()) is None
    models.shutdown()


# --- the command, in a process of its own -----------------------------------------------------------------------------


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is missing; remedy: apt-get install mosquitto")
    broker = Mosquitto(program, tmp_path)
    broker.start()
    yield broker
    broker.kill()


class Service:
    """`kikimimi run` under a supervisor, hearing a pipe that is fed in real time."""

    def __init__(self, folder: Path, config: str, *arguments: str, watchdog: float = 2.0) -> None:
        self.supervisor = Supervisor(watchdog=watchdog)
        self.file = folder / "config.yaml"
        self.file.write_text(config, "utf-8")
        self.log = folder / "service.log"
        environment = {**os.environ, **self.supervisor.environment, "XDG_STATE_HOME": str(folder / "state")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*KIKIMIMI, "run", "-c", str(self.file), *arguments], stderr=log, env=environment
            )

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.supervisor.close()


QUIET = "speech: {{enabled: false}}\nwyoming: {{enabled: false}}\nsay: {{enabled: false}}\nmqtt: {{url: 'mqtt://127.0.0.1:{port}'}}\n"


@pytest.fixture
def long_file(tmp_path: Path, yamnet_path: Path) -> Path:
    path = tmp_path / "quiet.wav"
    soundfile.write(path, noise(100.0, -60.0), SAMPLE_RATE)
    return path


async def test_the_command_tells_its_life(tmp_path: Path, long_file: Path, mosquitto: Mosquitto) -> None:
    client = Subscriber(mosquitto.port).start()
    service = Service(tmp_path, QUIET.format(port=mosquitto.port) + f"rooms: {{kitchen: {{source: '{long_file}'}}}}\n")
    heard = service.supervisor
    try:
        await until(lambda: len(heard.lines("WATCHDOG=1")) >= 2, 40)
        assert heard.heard[0][1] == "READY=1"
        await until(lambda: "STATUS=1 of 1 rooms online, mqtt connected" in heard.lines("STATUS="))
        # a process that does not run says nothing
        service.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic() + 0.1
        await asyncio.sleep(1.5)
        assert not heard.lines("WATCHDOG=1", since=stopped)
        service.process.send_signal(signal.SIGCONT)
        await until(lambda: heard.lines("WATCHDOG=1", since=stopped))
        asked = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        await until(lambda: client.payloads("kikimimi/status")[-1] == "offline", 3)
        assert time.monotonic() - asked < 1.0
        assert await asyncio.to_thread(service.process.wait, 20) == 0
        assert heard.lines("STOPPING=1") == ["STOPPING=1"]
        assert client.payloads("kikimimi/kitchen/status")[-1] == "offline"
    finally:
        service.end()
        client.stop()


async def test_it_is_ready_without_broker_and_microphone(tmp_path: Path, yamnet_path: Path) -> None:
    config = QUIET.format(port=free_port()) + "rooms: {kitchen: {source: 'no such device'}}\n"
    service = Service(tmp_path, config)
    try:
        await until(lambda: len(service.supervisor.lines("WATCHDOG=1")) >= 4, 40)
        assert service.supervisor.lines("READY=1")
        assert "STATUS=0 of 1 rooms online, mqtt not connected" in service.supervisor.lines("STATUS=")
        assert service.process.poll() is None
    finally:
        service.end()
