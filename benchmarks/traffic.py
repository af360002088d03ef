"""What a room costs the broker and the history: messages, bytes and rows an hour, quiet and busy.

    python benchmarks/traffic.py [RECORDING…] [--seconds 120]

Each case is `kikimimi run` in real time with its embedded broker and a subscriber to everything. A quiet room is
computed noise; a busy one hears RECORDING or, without one, the demo's house over and over. Counted from when the room
is online, so that discovery and what is said once at the start is apart. Ends in one JSON line, which docs/scale.md
multiplies.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import soundfile
from paho.mqtt.enums import CallbackAPIVersion

from assistant.demo_recording import house_recording
from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
TOPICS = ("event", "level", "state", "health", "attributes", "last", "trigger")


class Everything:
    """A subscriber that counts messages and their bytes (topic and payload) by the kind of their topic."""

    def __init__(self, port: int) -> None:
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.online = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="traffic")
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_message = self._came
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _came(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        levels = message.topic.split("/")
        if message.topic == "kikimimi/room/status" and message.payload == b"online":
            self.messages.clear()
            self.bytes.clear()
            self.online.set()
        kind = next((part for part in reversed(levels) if part in TOPICS), "other")
        self.messages[kind] += 1
        self.bytes[kind] += len(message.topic) + len(message.payload)

    def close(self) -> None:
        """Hear no more."""
        self._client.disconnect()
        self._client.loop_stop()


def measure(file: Path, seconds: float, folder: Path) -> dict[str, object]:
    """Hear one file in real time for so long."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = folder / file.stem
    config = folder / "config.yaml"
    config.write_text(
        f"broker: {{port: {port}}}\nweb: {{enabled: false}}\nwyoming: {{enabled: false}}\nsay: {{enabled: false}}\n"
    )
    daemon = subprocess.Popen(
        [*KIKIMIMI, "run", "-c", str(config), "--source", f"room={file}"],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "XDG_STATE_HOME": str(state)},
    )
    try:
        subscriber = connected(port, daemon)
        if not subscriber.online.wait(60):
            raise SystemExit("error: the room did not come online within 60 s")
        began = time.monotonic()
        time.sleep(seconds)
        messages, amounts = dict(subscriber.messages), dict(subscriber.bytes)
        hours = (time.monotonic() - began) / 3600
        subscriber.close()
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
    database = next(state.rglob("history.db"))
    with sqlite3.connect(database) as history:
        rows = history.execute("SELECT count(*) FROM events").fetchone()[0]
    return {
        "messages_an_hour": round(sum(messages.values()) / hours),
        "kB_an_hour": round(sum(amounts.values()) / hours / 1000, 1),
        "by_kind_an_hour": {kind: round(count / hours) for kind, count in sorted(messages.items())},
        "events_an_hour": round(rows / hours),
        "history_kB": round(database.stat().st_size / 1000),
    }


def connected(port: int, daemon: subprocess.Popen[bytes]) -> Everything:
    """A subscriber at the daemon's own broker, once that answers."""
    for _ in range(600):
        try:
            return Everything(port)
        except OSError:
            if daemon.poll() is not None:
                break
            time.sleep(0.05)
    raise SystemExit("error: the daemon's broker did not answer within 30 s")


def main() -> None:
    """Measure a quiet room and each recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each case")
    arguments = parser.parse_args()
    figures: dict[str, object] = {"benchmark": "traffic", "seconds": arguments.seconds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet = folder / "quiet.wav"
        soundfile.write(quiet, noise(arguments.seconds + 60.0, -60.0), SAMPLE_RATE)
        busy = [path.absolute() for path in arguments.recordings]
        if not busy:
            house, _ = house_recording(folder / "cache")
            busy = [folder / "house.wav"]
            soundfile.write(
                busy[0], np.tile(house, int((arguments.seconds + 60) * SAMPLE_RATE // len(house)) + 1), SAMPLE_RATE
            )
        for file in (quiet, *busy):
            figures[file.stem] = measure(file, arguments.seconds, folder)
            print(f"{file.stem}: {figures[file.stem]}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
