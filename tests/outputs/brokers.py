"""Brokers and subscribers to test against, and a home to announce."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from assistant.outputs.topics import Home, Room, SoundType

HOME = Home(
    install="7f3a",
    version="0.0.1",
    rooms=(Room("kitchen", "台所", area="Kitchen"), Room("bed-room", "Bedroom")),
    sounds=(
        SoundType("smoke_alarm", "Smoke alarm", alert=True, life_safety=True),
        SoundType("dog_bark", "Dog barking"),
        SoundType("doorbell", "Doorbell"),
    ),
    clips=True,
)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for the condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


class Mosquitto:
    """A real Mosquitto on a free loopback port, which can be stopped, frozen and started again."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.port = free_port()
        self.config = ["allow_anonymous true"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        path = self.folder / "mosquitto.conf"
        # as root Mosquitto would become another user, who may not read the test's folder
        user = ["user root"] if os.geteuid() == 0 else []
        kept = [] if "persistence true" in self.config else ["persistence false"]
        path.write_text("\n".join([*user, f"listener {self.port} 127.0.0.1", *kept, *self.config, ""]))
        with (self.folder / "mosquitto.log").open("ab") as out:
            self._process = subprocess.Popen([self.program, "-c", str(path)], stdout=out, stderr=out)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "mosquitto.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail("Mosquitto does not listen")

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(frozen=True)
class Seen:
    """A message as a subscriber received it."""

    topic: str
    payload: str
    qos: int
    retained: bool
    expiry: int | None
    content_type: str | None
    correlation: bytes | None = None


@dataclass
class Subscriber:
    """Everything that a broker hands out, recorded by a client of its own."""

    port: int
    seen: list[Seen] = field(default_factory=list)
    subscribed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)

    def start(self, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311) -> Subscriber:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = self._record
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        return self

    def _record(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        properties = message.properties
        self.seen.append(
            Seen(
                message.topic,
                message.payload.decode("utf-8", "replace"),
                message.qos,
                message.retain,
                getattr(properties, "MessageExpiryInterval", None),
                getattr(properties, "ContentType", None),
                getattr(properties, "CorrelationData", None),
            )
        )

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False, **properties: object) -> None:
        """`properties` are those of MQTT 5 by their names."""
        carried = Properties(PacketTypes.PUBLISH) if properties else None  # type: ignore[no-untyped-call]
        for name, value in properties.items():
            setattr(carried, name, value)
        self._client.publish(topic, payload, 1, retain, carried)

    def payloads(self, topic: str) -> list[str]:
        return [message.payload for message in list(self.seen) if message.topic == topic]

    def topics(self) -> list[str]:
        return [message.topic for message in list(self.seen)]

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
