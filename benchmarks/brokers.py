"""How many messages a second a broker passes on: the embedded one beside Mosquitto, in one run.

    python benchmarks/brokers.py [--messages 20000] [--rooms 100]

Clients as rooms have them publish events of 700 bytes by QoS 1 as fast as they are acknowledged, to one subscriber;
what counts is when the subscriber has the last of them. The brokers take turns. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

EVENT = b"{" + b'"x":1,' * 115 + b'"y":1}'  # about as long as an event
PATIENCE = 120.0  # seconds
# The embedded broker in a process of its own, as it has one core to itself at most.
EMBEDDED = """
import asyncio, sys
from assistant.outputs.broker import embedded_broker
async def main():
    async with embedded_broker("127.0.0.1", 0, None) as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@asynccontextmanager
async def mosquitto() -> AsyncIterator[int]:
    """Debian's Mosquitto on a free port."""
    port = 18_900
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
        process = await asyncio.create_subprocess_exec("mosquitto", "-c", str(config), stderr=subprocess.DEVNULL)
        await asyncio.sleep(1.0)
        try:
            yield port
        finally:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def embedded() -> AsyncIterator[int]:
    """Ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EMBEDDED, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


def passed(port: int, messages: int, rooms: int) -> float:
    """Messages a second from many publishers to one subscriber."""
    there, count = threading.Event(), 0
    subscribed = threading.Event()

    def came(*_: object) -> None:
        nonlocal count
        count += 1
        if count >= messages:
            there.set()

    subscriber = paho.Client(CallbackAPIVersion.VERSION2, client_id="all")
    subscriber.on_message = came
    subscriber.on_connect = lambda client, *_: client.subscribe("kikimimi/+/event", 1)
    subscriber.on_subscribe = lambda *_: subscribed.set()
    subscriber.connect("127.0.0.1", port)
    subscriber.loop_start()
    assert subscribed.wait(10)
    clients = [paho.Client(CallbackAPIVersion.VERSION2, client_id=f"room{n}") for n in range(rooms)]
    for client in clients:
        client.connect("127.0.0.1", port)
        client.loop_start()
    began = time.monotonic()
    for n in range(messages):
        clients[n % rooms].publish(f"kikimimi/{n % rooms}/event", EVENT, qos=1)
    assert there.wait(PATIENCE), f"{count} of {messages} came"
    took = time.monotonic() - began
    for client in (*clients, subscriber):
        client.disconnect()
        client.loop_stop()
    return messages / took


async def main() -> None:
    """Both, three times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rooms", type=int, default=20)
    arguments = parser.parse_args()
    brokers = {"embedded": embedded} | ({"mosquitto": mosquitto} if shutil.which("mosquitto") else {})
    rates: dict[str, list[float]] = {name: [] for name in brokers}
    for _ in range(3):
        for name, start in brokers.items():
            async with start() as port:
                rates[name].append(await asyncio.to_thread(passed, port, arguments.messages, arguments.rooms))
                print(f"{name}: {rates[name][-1]:.0f} messages/s", flush=True)
    found = {name: round(statistics.median(each)) for name, each in rates.items()}
    print(json.dumps({"benchmark": "brokers", "cores": os.cpu_count(), "messages_a_second": found, "runs": rates}))


if __name__ == "__main__":
    asyncio.run(main())
