"""Brokers to test against: a real Mosquitto where it is installed, and always the embedded one."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from brokers import HOME, Mosquitto, Subscriber
from paho.mqtt.enums import MQTTProtocolVersion

from assistant.outputs import mqtt
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import Mqtt, MqttSettings
from assistant.outputs.topics import Home


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running Mosquitto."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Mosquitto(program, tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def subscribe() -> Iterator[Callable[..., Subscriber]]:
    """A maker of subscribers on a port."""
    made: list[Subscriber] = []

    def make(port: int, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311) -> Subscriber:
        made.append(Subscriber(port).start(protocol))
        return made[-1]

    yield make
    for subscriber in made:
        subscriber.stop()


@pytest.fixture(params=["mosquitto", "embedded"])
async def any_port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """The port of a real Mosquitto (MQTT 5), then of the embedded broker (3.1.1)."""
    if request.param == "mosquitto":
        yield request.getfixturevalue("mosquitto").port
    else:
        async with embedded_broker(port=0) as port:
            yield port


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect and look for what earlier runs announced without waiting long."""
    monkeypatch.setattr(mqtt, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(mqtt, "LONGEST_WAIT", 0.4)
    monkeypatch.setattr(mqtt, "RECALL_TIMEOUT", 0.3)


@pytest.fixture
async def started(quick: None) -> AsyncIterator[Callable[..., Mqtt]]:
    """A maker of running outputs, which are stopped at the end."""
    running: list[tuple[Mqtt, asyncio.Task[None]]] = []

    def start(port: int, home: Home = HOME, *, settings: MqttSettings | None = None, **options: object) -> Mqtt:
        settings = settings or MqttSettings(url=f"mqtt://127.0.0.1:{port}")
        output = Mqtt(settings, home, **options)  # type: ignore[arg-type]
        running.append((output, asyncio.create_task(output.run())))
        return output

    yield start
    for output, task in running:
        await output.stop(1.0)
        await asyncio.wait_for(task, 5.0)
