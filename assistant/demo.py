"""`kikimimi demo`: a recorded house, heard in real time, every MQTT message printed as it arrives."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import platformdirs
import soundfile

from assistant import app
from assistant.config import Config
from assistant.demo_recording import house_recording
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.startup import ModelFiles, Room

log = logging.getLogger(__name__)

ROOM = "kitchen"
SUBSCRIBE_WITHIN = 10.0  # seconds
LINGER = 1.0  # seconds for the last messages to arrive


@asynccontextmanager
async def printed_messages(port: int) -> AsyncIterator[None]:
    """Print each message of the broker as `TOPIC PAYLOAD`, the way any other client of the house would see it.

    The client works in a thread of its own: the broker runs on this loop, which must not wait for it.
    """
    from paho.mqtt.client import Client, MQTTMessage  # noqa: PLC0415
    from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

    subscribed = threading.Event()
    client = Client(CallbackAPIVersion.VERSION2, client_id="kikimimi-demo-listener")

    def on_connect(client: Client, *_: object) -> None:
        client.subscribe([("kikimimi/#", 1), ("homeassistant/#", 1)])

    def on_message(_client: Client, _userdata: object, message: MQTTMessage) -> None:
        picture = message.topic.endswith("/spectrogram")
        shown = f"({len(message.payload)} bytes of PNG)" if picture else message.payload.decode("utf-8", "replace")
        print(message.topic, shown, flush=True)  # noqa: T201

    client.on_connect = on_connect
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    client.connect_async("127.0.0.1", port, keepalive=30)
    client.loop_start()
    try:
        if not await asyncio.to_thread(subscribed.wait, SUBSCRIBE_WITHIN):
            raise AssistantError("demo: the embedded broker did not answer; remedy: try again, with -v for the log")
        yield
    finally:
        client.disconnect()
        await asyncio.to_thread(client.loop_stop)


def recording(folder: Path) -> Path:
    """The house recording as a WAV file in `folder`; what it is made of is printed to stderr."""
    samples, parts = house_recording(platformdirs.user_cache_path("kikimimi") / "demo")
    path = folder / "house.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    print(f"a house of {len(samples) / SAMPLE_RATE:.0f} s, made of:", file=sys.stderr)  # noqa: T201
    for part in parts:
        print(f"  {part}", file=sys.stderr)  # noqa: T201
    return path


async def demo(config: Config, files: ModelFiles, *, speed: float = 1.0) -> int:
    """Start an embedded broker on a free port and the daemon, play the house to it, stop. Returns the exit code."""
    privacy = config.privacy.model_copy(update={"transcripts": True})  # the demo shows what was said: it is a recording
    # Whoever tries it may have a daemon that already serves Wyoming.
    wyoming = config.wyoming.model_copy(update={"enabled": False})
    config = config.model_copy(update={"privacy": privacy, "wyoming": wyoming})
    with tempfile.TemporaryDirectory(prefix="kikimimi-demo-") as folder:
        path = await asyncio.to_thread(recording, Path(folder))
        rooms = [Room(ROOM, str(path), required=True)]
        async with embedded_broker(port=0) as port:
            settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}")
            async with printed_messages(port):
                async with app.daemon(config, rooms, files, mqtt=settings, speed=speed, state=Path(folder)) as daemon:
                    code = await daemon.run()
                await asyncio.sleep(LINGER)
    return code
