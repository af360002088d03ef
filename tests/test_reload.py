"""SIGHUP: the real daemon at a real broker follows another configuration, or refuses it and stays as it was."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import soundfile
from forked import Forked
from outputs.brokers import Mosquitto, Subscriber, until
from supervisor import Supervisor

from assistant.events import SAMPLE_RATE, Samples
from assistant.synthesis import noise, placed, t3

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
BASE = """\
speech: {{enabled: false}}
wyoming: {{enabled: false}}
say: {{enabled: false}}
mqtt: {{url: 'mqtt://127.0.0.1:{port}'}}
"""
ALARM_RULE = """\
rules:
  - name: tell
    when: {sound: smoke_alarm, state: ended}
    do: {publish: {topic: house/%s, payload: "{{ room_name }}"}}
"""


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is missing; remedy: apt-get install mosquitto")
    broker = Mosquitto(program, tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def client(mosquitto: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(mosquitto.port).start()
    assert subscriber.subscribed.wait(10)
    yield subscriber
    subscriber.stop()


def wav(path: Path, samples: Samples) -> str:
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return str(path)


class Running:
    """`kikimimi run` in a process of its own, under a supervisor."""

    def __init__(self, folder: Path, config: str) -> None:
        self.supervisor = Supervisor()
        self.file = folder / "config.yaml"
        self.file.write_text(config, "utf-8")
        self._log = folder / "run.log"
        environment = {**os.environ, **self.supervisor.environment, "XDG_STATE_HOME": str(folder / "state")}
        self.process = Forked(["run", "-c", str(self.file)], environment, self._log)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    async def reload(self, config: str) -> None:
        """Write the file, send SIGHUP, wait until the daemon says that it has read it."""
        self.file.write_text(config, "utf-8")
        began = time.monotonic()
        self.process.send_signal(signal.SIGHUP)
        await until(lambda: self.supervisor.lines("READY=1", since=began), 20)
        assert self.supervisor.lines("RELOADING=1", since=began)
        assert self.process.poll() is None, self.log


@asynccontextmanager
async def running(folder: Path, config: str) -> AsyncIterator[Running]:
    daemon = Running(folder, config)
    try:
        await until(lambda: daemon.supervisor.lines("READY=1"), 40)
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()
        daemon.supervisor.close()


async def test_a_bad_configuration_is_refused_in_one_line_and_the_old_one_stays(
    tmp_path: Path, mosquitto: Mosquitto, client: Subscriber, yamnet_path: Path
) -> None:
    quiet = wav(tmp_path / "quiet.wav", noise(90.0, -60.0))
    good = BASE.format(port=mosquitto.port) + f"rooms: {{kitchen: {{source: '{quiet}'}}}}\n"
    async with running(tmp_path, good) as daemon:
        await until(lambda: client.payloads("kikimimi/kitchen/status")[-1:] == ["online"])
        await daemon.reload(good + "rules: [{when: {sound: smoke_alarm}, do: {shout: loud}}]\n")
        said = [line for line in daemon.log.splitlines() if "stays as it was" in line]
        assert len(said) == 1
        assert f"{daemon.file}:6: rules[1].do" in said[0]
        assert 'no action "shout"' in said[0]
        await daemon.reload("rooms: [\n")
        await daemon.reload(good + "rules: [{when: {sound: music}, do: {describe: {}}}]\n")  # a GPU's
        assert "needs an audio language model" in daemon.log
        hook = "rules: [{when: {sound: music}, do: {webhook: {url: 'http://hub.local/x'}}}]\n"
        await daemon.reload(good + "webhooks: {hosts: [hub.local]}\n" + hook)  # its hosts need a restart
        assert "config.yaml:7: the host hub.local is not listed; remedy: webhooks: {hosts:" in daemon.log
        assert "Traceback" not in daemon.log
        assert client.payloads("kikimimi/kitchen/status")[-1] == "online"
        assert "offline" not in client.payloads("kikimimi/status")[1:]
        # and it is the old one that still acts
        client.publish("kikimimi/kitchen/test", "")
        client.publish("kikimimi/kitchen/test", "PRESS")
        await until(lambda: any("test" in payload for payload in client.payloads("kikimimi/kitchen/event")))


async def test_rooms_come_go_and_stay_and_a_sound_that_lasts_is_one_event(
    tmp_path: Path, mosquitto: Mosquitto, client: Subscriber, yamnet_path: Path
) -> None:
    alarm = wav(tmp_path / "alarm.wav", placed(noise(45.0, -60.0), 0.2 * t3(cycles=8), 1.0))
    quiet = wav(tmp_path / "quiet.wav", noise(120.0, -60.0))
    base = BASE.format(port=mosquitto.port)
    kitchen = f"rooms:\n  kitchen: {{source: '{alarm}', name: %s}}\n"
    attic, hall = f"  attic: {{source: '{quiet}'}}\n", f"  hall: {{source: '{quiet}', area: Entrance}}\n"
    async with running(tmp_path, base + kitchen % "Kitchen" + attic + ALARM_RULE % "old") as daemon:
        await until(lambda: client.payloads("kikimimi/kitchen/sound/smoke_alarm/state")[-1:] == ["ON"], 40)
        client.publish("kikimimi/kitchen/sensitivity/set", "miss nothing")
        await until(lambda: "miss nothing" in client.payloads("kikimimi/kitchen/sensitivity/state"))
        await daemon.reload(base + kitchen % "台所" + hall + ALARM_RULE % "new")
        # the hall came, with everything that Home Assistant needs
        await until(lambda: client.payloads("kikimimi/hall/status")[-1:] == ["online"])
        await until(lambda: [t for t in client.topics() if t.endswith("_hall/config")])
        assert client.payloads("kikimimi/hall/listening/state")[-1] == "ON"
        # the attic went, and left nothing on the broker
        await until(lambda: client.payloads("kikimimi/attic/status")[-1:] == [""])
        await until(lambda: [m.payload for m in client.seen if m.topic.endswith("_attic/config")][-1:] == [""])
        last = "kikimimi/attic/sound/bird/attributes"
        await until(lambda: client.payloads(last)[-1:] == [""])
        fresh = Subscriber(mosquitto.port).start()
        await until(lambda: "kikimimi/hall/status" in fresh.topics())
        await asyncio.sleep(0.5)
        assert [message.topic for message in fresh.seen if message.retained and "attic" in message.topic] == []
        fresh.stop()
        # a command for it is refused now, one for the hall is obeyed
        client.publish("kikimimi/hall/listening/set", "OFF")
        await until(lambda: client.payloads("kikimimi/hall/status")[-1] == "disabled")
        client.publish("kikimimi/attic/listening/set", "OFF")
        await until(lambda: "there is no room 'attic'" in daemon.log)
        # the kitchen stayed: the alarm that lasted goes on to its end, as one event, and the new rule tells of it
        await until(lambda: client.payloads("house/new") == ["台所"], 60)
        await until(lambda: any('"ended"' in payload for payload in client.payloads("kikimimi/kitchen/event")))
    assert client.payloads("house/old") == []
    events = [json.loads(payload) for payload in client.payloads("kikimimi/kitchen/event")]
    smoke = [event for event in events if event["event_type"] == "smoke_alarm"]
    assert [event["state"] for event in smoke] == ["started", "ended"]
    assert smoke[0]["id"] == smoke[1]["id"]
    assert smoke[1]["duration"] > 25.0
    assert client.payloads("kikimimi/kitchen/sensitivity/state")[-1] == "miss nothing"
    statuses = client.payloads("kikimimi/kitchen/status")
    assert "offline" not in statuses[statuses.index("online") :]


async def test_another_source_of_a_room_is_opened_and_what_needs_a_restart_is_told(
    tmp_path: Path, mosquitto: Mosquitto, client: Subscriber, yamnet_path: Path
) -> None:
    quiet = wav(tmp_path / "quiet.wav", noise(90.0, -60.0))
    alarm = wav(tmp_path / "alarm.wav", placed(noise(40.0, -60.0), 0.2 * t3(cycles=5), 1.0))
    base = BASE.format(port=mosquitto.port)
    async with running(tmp_path, base + f"rooms: {{kitchen: {{source: '{quiet}'}}}}\n") as daemon:
        await until(lambda: client.payloads("kikimimi/kitchen/status")[-1:] == ["online"])
        changed = base.replace("url:", "keepalive: 45, url:") + f"rooms: {{kitchen: {{source: '{alarm}'}}}}\n"
        await daemon.reload(changed)
        assert "mqtt: changed, which takes effect after a restart" in daemon.log
        await until(lambda: "smoke_alarm" in client.payloads("kikimimi/kitchen/trigger"), 40)
        assert client.payloads("kikimimi/status").count("offline") == 0


async def test_what_waits_for_the_broker_survives_a_reload(
    tmp_path: Path, mosquitto: Mosquitto, yamnet_path: Path
) -> None:
    alarm = wav(tmp_path / "alarm.wav", placed(noise(60.0, -60.0), 0.2 * t3(cycles=4), 8.0))
    config = BASE.format(port=mosquitto.port) + f"rooms: {{kitchen: {{source: '{alarm}'}}}}\n"
    async with running(tmp_path, config) as daemon:
        mosquitto.kill()
        await until(lambda: "smoke_alarm started" in daemon.log or "smoke_alarm" in daemon.log, 50)
        await daemon.reload(config.replace("source:", "name: 台所, source:"))
        client = Subscriber(mosquitto.port)
        mosquitto.start()
        client.start()
        await until(lambda: any("smoke_alarm" in payload for payload in client.payloads("kikimimi/kitchen/event")), 40)
        client.stop()


async def test_privacy_takes_effect_at_once(
    tmp_path: Path, mosquitto: Mosquitto, client: Subscriber, yamnet_path: Path
) -> None:
    """The room's last words, which an earlier run left on the broker, go with it."""
    quiet = wav(tmp_path / "quiet.wav", noise(90.0, -60.0))
    open_ = BASE.format(port=mosquitto.port) + f"rooms: {{kitchen: {{source: '{quiet}'}}}}\n"
    async with running(tmp_path, open_ + "privacy: {transcripts: true}\n") as daemon:
        await until(lambda: client.payloads("kikimimi/kitchen/status")[-1:] == ["online"])
        client.publish("kikimimi/kitchen/last/speech", "what was said", retain=True)
        await until(lambda: client.payloads("kikimimi/kitchen/last/speech"))
        await daemon.reload(open_)
        await until(lambda: client.payloads("kikimimi/kitchen/last/speech")[-1] == "")


async def test_a_terminal_that_is_closed_ends_it_in_order(
    tmp_path: Path, mosquitto: Mosquitto, client: Subscriber, yamnet_path: Path
) -> None:
    quiet = wav(tmp_path / "quiet.wav", noise(90.0, -60.0))
    file = tmp_path / "config.yaml"
    file.write_text(BASE.format(port=mosquitto.port) + f"rooms: {{kitchen: {{source: '{quiet}'}}}}\n", "utf-8")
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    main, side = pty.openpty()
    log = (tmp_path / "run.log").open("wb")
    # the terminal becomes that of a new session, as in a terminal window
    start = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(  # noqa: ASYNC220 (it returns at once)
        [sys.executable, "-c", start, *KIKIMIMI, "run", "-c", str(file)],
        stdin=side,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    os.close(side)
    log.close()
    try:
        await until(lambda: client.payloads("kikimimi/kitchen/status")[-1:] == ["online"], 40)
        process.send_signal(signal.SIGHUP)  # the terminal is still there: that is a reload
        await until(lambda: "was read again" in (tmp_path / "run.log").read_text("utf-8"))
        os.close(main)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert client.payloads("kikimimi/status")[-1] == "offline"
    finally:
        process.kill()
        process.wait()
