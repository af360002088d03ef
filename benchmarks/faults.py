"""What arrives when broker and daemon are killed: the whole daemon on real recordings, a real Mosquitto, real kills.

    python benchmarks/faults.py AUDIO [--broker-kills 50] [--daemon-kills 20] [--minutes 12]
    python benchmarks/faults.py AUDIO --disk full|read-only [--broker-kills 10] [--minutes 3]    (root)

Three rooms hear random pieces of `AUDIO/long/*.flac` at `--speed`; Mosquitto keeps its messages on disk and is ended by
SIGTERM and SIGKILL in turn, the daemon by SIGKILL, both at random times. A subscriber with a persistent session is told
the events. What was heard is read from the history at the end. With `--disk` the history lies on a disk of its own that
is read-only, or full after some seconds: then what was heard is counted in the daemon's log.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import soundfile
from paho.mqtt.enums import CallbackAPIVersion

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "outputs"))

from brokers import Mosquitto

ROOMS = ("kitchen", "garden", "hall")
DAEMON_LIVES = (12.0, 40.0)  # seconds
BROKER_AWAY = (0.0, 4.0)
SETTLE = 60.0  # seconds for what waits at the end
TOLD = re.compile(rb"INFO +[0-9. ]+ s  \w+  (\w+) (started|ended)|INFO +[0-9. ]+ s  \w+  speech  ")


class Subscriber:
    """A client with a persistent session, which forgets nothing."""

    def __init__(self, port: int) -> None:
        self.events: list[tuple[str, str, str, bool]] = []  # room, id, state, late
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="faults-subscriber", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("kikimimi/+/event", 1)
        self._client.on_message = self._received
        self._client.connect("127.0.0.1", port, keepalive=5)
        self._client.loop_start()

    def _received(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        event = json.loads(message.payload)
        self.events.append((event["room"], event["id"], event["state"], event["late"]))

    def close(self) -> None:
        """Leave; the session stays."""
        self._client.disconnect()
        self._client.loop_stop()


class Daemon:
    """`kikimimi run` on random pieces of the recordings, one life after the other."""

    def __init__(self, audio: Path, folder: Path, port: int, history: Path, speed: float) -> None:
        self.folder = folder
        self.log = folder / "daemon.log"
        self.lives = 0
        self._recordings = sorted((audio / "long").glob("*.flac"))
        self._speed = speed
        self._process: subprocess.Popen[bytes] | None = None
        config = f"history: {{path: {json.dumps(str(history))}}}\nspeech: {{enabled: false}}\nsay: {{enabled: false}}\n"
        (folder / "config.yaml").write_text(
            f"{config}wyoming: {{enabled: false}}\nmqtt: {{url: 'mqtt://127.0.0.1:{port}'}}\n"
        )

    def start(self, seconds: float) -> None:
        """Begin a life that has so many seconds of audio."""
        sources = []
        for room in ROOMS:
            samples, rate = soundfile.read(random.choice(self._recordings), dtype="float32")
            turned = np.roll(samples, -random.randrange(len(samples)))[: round(seconds * self._speed * rate)]
            soundfile.write(self.folder / f"{room}.flac", turned, rate)
            sources += ["--source", f"{room}={self.folder / room}.flac"]
        command = [sys.executable, "-m", "assistant.cli", "run", "-c", str(self.folder / "config.yaml")]
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder / "state")}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, "--speed", str(self._speed), *sources], stdout=out, stderr=out, env=environment
            )
        self.lives += 1

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None


@contextmanager
def disk(kind: str | None, folder: Path) -> Iterator[Path]:
    """Where the history lies; a disk of its own for `kind`."""
    if kind is None:
        yield folder / "history.db"
        return
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    try:
        yield place / "history.db"
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    """Leave no space on the disk of the history."""
    with contextlib.suppress(OSError), (place / "ballast").open("wb") as file:
        while True:
            file.write(bytes(4096))


def restarts(broker: Mosquitto, kills: int, until: float, done: Counter[str]) -> None:
    """End the broker again and again, by SIGTERM and SIGKILL in turn, at random times."""
    for number in range(kills):
        rest = (until - time.monotonic()) / max(1, kills - number)
        time.sleep(max(0.2, random.uniform(0.3, 1.7) * rest - sum(BROKER_AWAY) / 2))
        process = broker._process
        assert process is not None
        how = signal.SIGTERM if number % 2 == 0 else signal.SIGKILL
        process.send_signal(how)
        process.wait(10)
        done[how.name] += 1
        time.sleep(random.uniform(*BROKER_AWAY))
        broker.start()


def heard(history: Path) -> tuple[dict[tuple[str, str], str], int]:
    """Room of each event and state in the history, and how many messages still wait."""
    with sqlite3.connect(f"file:{history}?mode=ro", uri=True) as file:
        bodies = [json.loads(body) for (body,) in file.execute("SELECT body FROM events")]
        (waiting,) = file.execute("SELECT count(*) FROM letters").fetchone()
    known = {}
    for event in bodies:
        states = {"started": ("started",), "ended": ("started", "ended"), "heard": ("heard",)}[event["state"]]
        known |= {(event["id"], state): event["room"] for state in states}
    return known, waiting


def out_of_order(events: list[tuple[str, str, str, bool]]) -> int:
    """Events that arrived for the first time after a later one of their room; ids sort by time."""
    wrong, latest, seen = 0, dict.fromkeys(ROOMS, ""), set()
    for room, identity, state, _ in events:
        if (identity, state) in seen:
            continue
        seen.add((identity, state))
        if state == "ended":
            wrong += (identity, "started") not in seen
        else:
            wrong += identity[:10] < latest[room]
            latest[room] = max(latest[room], identity[:10])
    return wrong


def persistent_broker(folder: Path) -> Mosquitto:
    """A Mosquitto that has on disk what it has acknowledged."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "mosquitto is not installed: apt-get install mosquitto"
    broker = Mosquitto(program, folder)
    broker.config += [
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_on_changes true",
        "autosave_interval 1",
        "max_queued_messages 100000",
    ]
    broker.start()
    return broker


def lives(daemon: Daemon, kills: int, until: float, killer: threading.Thread, done: Counter[str]) -> None:
    """One life of the daemon after the other; so many end by SIGKILL."""
    while time.monotonic() < until or killer.is_alive():
        left = max(1.0, until - time.monotonic())
        end = time.monotonic() + min(random.uniform(*DAEMON_LIVES), 1.3 * left / max(1, kills - done["daemon"]), left)
        while time.monotonic() < end and daemon.alive:
            time.sleep(0.1)
        if done["daemon"] < kills and daemon.alive:
            daemon.kill()
            done["daemon"] += 1
        else:
            daemon.stop()
        daemon.start(DAEMON_LIVES[1] + 20)


def measured(options: argparse.Namespace) -> dict[str, object]:
    """The figures of one run."""
    random.seed(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kikimimi-faults-"))
    broker = persistent_broker(folder)
    done: Counter[str] = Counter()
    with disk(options.disk, folder) as history:
        subscriber = Subscriber(broker.port)
        daemon = Daemon(options.audio, folder, broker.port, history, options.speed)
        until = time.monotonic() + 60 * options.minutes
        killer = threading.Thread(target=restarts, args=(broker, options.broker_kills, until, done))
        if options.disk == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", history.parent], check=True)
        daemon.start(60 * options.minutes + 2 * SETTLE if options.disk else DAEMON_LIVES[1] + 20)
        if options.disk == "full":
            time.sleep(8.0)
            fill(history.parent)
        killer.start()
        if not options.disk:
            lives(daemon, options.daemon_kills, until, killer, done)
        killer.join()
        time.sleep(SETTLE / 2)  # so that the daemon has found the broker again
        code = daemon.stop()
        if not options.disk:  # a last life, with next to nothing to hear, brings what still waits
            daemon.start(0.5)
            deadline = time.monotonic() + SETTLE
            while time.monotonic() < deadline and (daemon.alive or heard(history)[1]):
                time.sleep(0.5)
        time.sleep(2.0)
        subscriber.close()
        broker.kill()
        counts = {
            "broker_sigterm": done["SIGTERM"],
            "broker_sigkill": done["SIGKILL"],
            "daemon_sigkill": done["daemon"],
        }
        result = {**counts, "daemon_lives": daemon.lives, "exit_code": code}
        result |= compared(subscriber.events, daemon.log.read_bytes(), None if options.disk else history)
    print(f"logs in {folder}", file=sys.stderr)
    return {"minutes": options.minutes, "disk": options.disk, **result}


def compared(events: list[tuple[str, str, str, bool]], log: bytes, history: Path | None) -> dict[str, object]:
    """What the subscriber was told, against what was heard."""
    received = Counter((identity, state) for _, identity, state, _ in events)
    logged = sum(1 for _ in TOLD.finditer(log))
    told = {
        "logged": logged,  # may be more than heard: what a SIGKILL caught between the log and the disk
        "received": len(received),
        "repeats": sum(received.values()) - len(received),
        "late": sum(late for *_, late in events),
        "out_of_order": out_of_order(events),
        "tracebacks": log.count(b"Traceback"),
    }
    if history is None:
        return {"heard": logged, **told, "lost": logged - len(received)}
    known, waiting = heard(history)
    lost = len([key for key in known if key not in received])  # acknowledged, and then forgotten by the broker
    more = len([key for key in received if key not in known])
    return {"heard": len(known), **told, "waiting": waiting, "lost": lost, "not_in_history": more}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="folder with long/*.flac")
    parser.add_argument("--broker-kills", type=int, default=50)
    parser.add_argument("--daemon-kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--speed", type=float, default=4.0)
    parser.add_argument("--disk", choices=("full", "read-only"))
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(measured(parser.parse_args())))
