"""A house for Home Assistant: a broker, microphones that hear what they are given, and the real daemon."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from assistant.events import SAMPLE_RATE, Samples
from assistant.synthesis import noise

HERE = Path(__file__).parent
PIECE = 1_600  # samples a microphone sends at once
ENDLESS = 0x7FFF_FF00  # bytes of audio that a WAV header announces: a day


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Seconds until the condition held; fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


class Broker:
    """Mosquitto, which forgets everything when it is killed."""

    def __init__(self, folder: Path) -> None:
        self.program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = self.folder / "mosquitto.conf"
        user = ["user root"] if os.geteuid() == 0 else []
        path.write_text("\n".join([*user, f"listener {self.port} 127.0.0.1", "allow_anonymous true", ""]))
        with (self.folder / "mosquitto.log").open("ab") as out:
            self._process = subprocess.Popen([self.program, "-c", str(path)], stdout=out, stderr=out)
        wait(self._listens, 10, "Mosquitto listens")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Listener:
    """All that the broker hands out: (topic, payload, retained), and what is retained now."""

    def __init__(self, port: int) -> None:
        self.seen: list[tuple[str, bytes, bool]] = []
        self.retained: dict[str, bytes] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_message = self._record
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _record(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        self.seen.append((message.topic, message.payload, message.retain))

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.seen) if name == topic]

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain).wait_for_publish(5)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def retained(port: int) -> dict[str, bytes]:
    """What the broker keeps, as a new client is told."""
    listener = Listener(port)
    time.sleep(1.0)
    listener.stop()
    return {topic: payload for topic, payload, kept in listener.seen if kept and payload}


class Microphones:
    """`http://127.0.0.1:port/<room>` streams a quiet room as WAV in real time, and what is played there."""

    def __init__(self) -> None:
        self._playing: dict[str, deque[Samples]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._stream(self.path.strip("/"), self)

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, room: str) -> str:
        return f"http://127.0.0.1:{self.port}/{room}"

    def play(self, room: str, samples: Samples) -> None:
        """Put a sound into the room; it is heard piece by piece from now on."""
        queue = self._playing.setdefault(room, deque())
        queue.extend(samples[at : at + PIECE] for at in range(0, len(samples), PIECE))

    @property
    def quiet(self) -> bool:
        """Whether all that was played has been heard."""
        return not any(self._playing.values())

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _stream(self, room: str, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/wav")
        handler.end_headers()
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
        head = struct.pack("<4sI4s", b"RIFF", ENDLESS + 36, b"WAVE") + form + struct.pack("<4sI", b"data", ENDLESS)
        quiet = noise(10.0, -62.0)
        began, sent = time.monotonic(), 0
        queue = self._playing.setdefault(room, deque())
        try:
            handler.wfile.write(head)
            while True:
                piece = quiet[sent % (len(quiet) - PIECE) :][:PIECE].copy()
                if queue:
                    sound = queue.popleft()
                    piece[: len(sound)] += sound
                handler.wfile.write((np.clip(piece, -1, 1) * 32_767).astype("<i2").tobytes())
                sent += PIECE
                time.sleep(max(0.0, sent / SAMPLE_RATE - (time.monotonic() - began)))
        except OSError:
            return


class Daemon:
    """`kikimimi run` in its own process, with a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"
        self.log = folder / "daemon.log"
        self._environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "assistant.cli", "run", "-c", str(self.config)],
                stdout=out,
                stderr=out,
                env=self._environment,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(20) == 0, self.log.read_text()[-2_000:]
            self._process = None

    def run(self, *arguments: str) -> str:
        """Another command of the same installation."""
        command = [sys.executable, "-m", "assistant.cli", *arguments]
        return subprocess.run(
            command, env=self._environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout


class HomeAssistant:
    """The script `home-assistant`."""

    def __init__(self) -> None:
        self.root = Path(os.environ.get("HA_ROOT", "/var/tmp/kikimimi-ha"))  # noqa: S108 - as in the script

    def do(self, *verb: str, **environment: str) -> str:
        done = subprocess.run(
            [HERE / "home-assistant", *verb],
            env={**os.environ, **environment},
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{verb}: {done.stdout}"
        return done.stdout

    @property
    def token(self) -> str:
        return (self.root / "token").read_text().strip()

    def log(self) -> str:
        return (self.root / "hass.log").read_text()
