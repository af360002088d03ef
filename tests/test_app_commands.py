"""The daemon obeys: spoken commands, switches, tests and texts to say, from audio to MQTT messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from test_app import Subscriber, until, wav

from assistant import app
from assistant.config import Config, parse
from assistant.events import SAMPLE_RATE, Samples
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.startup import ModelFiles, rooms_of
from assistant.synthesis import noise, placed
from assistant.voices.espeak import Espeak
from assistant.voices.voice import Spoken

CONFIG = """\
privacy: {transcripts: true}
wyoming: {enabled: false}
speech: {languages: [en], wake: {words: [okay_nabu, alexa]}}
rooms:
  kitchen: {source: "FILE", wake: WAKE, area: Kitchen}
devices:
  - {name: kitchen light, area: kitchen, domain: light, topic: zigbee/kitchen/set}
  - {name: fan, area: kitchen, domain: fan, topic: zigbee/fan/set}
"""


async def spoken(text: str) -> Samples:
    """English speech by espeak-ng as a microphone would hear it."""
    import soxr  # noqa: PLC0415

    speech: Spoken = await Espeak().synthesise(text, "en")
    heard = soxr.resample(speech.samples, speech.rate, SAMPLE_RATE).astype(np.float32)
    return np.asarray(0.5 * heard, np.float32)


@asynccontextmanager
async def house(
    config: Config, files: ModelFiles, state: Path, speed: float = 1.0
) -> AsyncIterator[tuple[Subscriber, app.Daemon, asyncio.Task[int], int]]:
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        try:
            async with app.daemon(
                config,
                rooms_of(config, []),
                files,
                mqtt=MqttSettings(url=f"mqtt://127.0.0.1:{port}"),
                speed=speed,
                state=state,
            ) as daemon:
                task = asyncio.create_task(daemon.run())
                try:
                    yield client, daemon, task, port
                finally:
                    daemon.stop()
                    await asyncio.wait_for(task, 20)
        finally:
            await asyncio.to_thread(client.close)


def configured(source: Path, wake: str) -> Config:
    return parse(CONFIG.replace("FILE", str(source)).replace("WAKE", wake), Path("c.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(("wake", "before"), [("none", ""), ("wake", ""), ("wake", "Alexa, ")])
async def test_a_spoken_command_acts_only_where_it_is_one(
    wake: str, before: str, yamnet_path: Path, whisper_base_path: Path, tmp_path: Path
) -> None:
    said = await spoken(f"{before}turn on the kitchen light.")
    source = wav(tmp_path / "said.wav", placed(noise(6.0, -60.0), said, 1.5))
    async with house(configured(source, wake), ModelFiles(yamnet_path, whisper_base_path), tmp_path, 4.0) as parts:
        client, daemon, task, _ = parts
        assert await asyncio.wait_for(task, 60) == 0
        await until(lambda: "offline" in client.on("kikimimi/status"))
    (event,) = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
    assert "kitchen" in event["text"].lower()
    if wake == "none" or before:
        assert client.on("zigbee/kitchen/set") == ["ON"]
        assert event["intent"]["name"] == "HassTurnOn"
        (intent,) = [json.loads(payload) for payload in client.on("kikimimi/kitchen/intent")]
        assert (intent["id"], intent["handled"]) == (event["id"], True)
        assert daemon.health()["commands_understood"] == 1
    else:
        assert client.on("zigbee/kitchen/set") == []
        assert event["intent"] is None


async def test_a_room_that_is_switched_off_is_not_heard_and_stays_off(yamnet_path: Path, tmp_path: Path) -> None:
    source = wav(tmp_path / "quiet.wav", noise(60.0, -60.0))
    config, files = configured(source, "none"), ModelFiles(yamnet_path, None)
    async with house(config, files, tmp_path) as (client, daemon, _, _port):
        await until(lambda: "online" in client.on("kikimimi/kitchen/status"))
        client.publish("kikimimi/kitchen/listening/set", "OFF")
        await until(lambda: client.on("kikimimi/kitchen/status")[-1] == "disabled")
        await until(lambda: client.on("kikimimi/kitchen/listening/state")[-1] == "OFF")
        await until(lambda: daemon.health()["rooms_online"] == 0)
    async with house(config, files, tmp_path) as (client, daemon, _, _port):
        await until(lambda: "online" in client.on("kikimimi/status"))
        await until(lambda: client.on("kikimimi/kitchen/listening/state") == ["OFF"])
        await asyncio.sleep(0.5)
        assert client.on("kikimimi/kitchen/status")[-1] == "disabled"
        client.publish("kikimimi/kitchen/listening/set", "ON")
        await until(lambda: client.on("kikimimi/kitchen/status")[-1] == "online")
        client.publish("kikimimi/listening/set", "OFF")
        await until(lambda: client.on("kikimimi/kitchen/status")[-1] == "disabled")
        client.publish("kikimimi/listening/set", "ON")
        await until(lambda: client.on("kikimimi/kitchen/status")[-1] == "online")


async def test_a_test_alert_is_told_and_drawn(yamnet_path: Path, tmp_path: Path) -> None:
    source = wav(tmp_path / "quiet.wav", noise(60.0, -60.0))
    async with house(configured(source, "none"), ModelFiles(yamnet_path, None), tmp_path) as (client, daemon, _, _port):
        await until(lambda: "online" in client.on("kikimimi/kitchen/status"))
        await asyncio.sleep(1.0)  # something to draw
        client.publish("kikimimi/kitchen/test", "PRESS")
        await until(lambda: client.on("kikimimi/kitchen/spectrogram"))
        await until(lambda: len(client.on("kikimimi/kitchen/event")) == 2)
        events = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
        assert [(event["event_type"], event["state"]) for event in events] == [("test", "started"), ("test", "ended")]
        client.publish("kikimimi/kitchen/sensitivity/set", "miss nothing")
        await until(lambda: "miss nothing" in client.on("kikimimi/kitchen/sensitivity/state"))
        client.publish("kikimimi/kitchen/say", "Dinner is ready")
        await until(lambda: daemon.health()["say_dropped"] == 1)  # a recording has no loudspeaker
