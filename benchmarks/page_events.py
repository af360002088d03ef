"""How long the page Events takes with a long history, and how long after its MQTT message a live event is shown.

    python benchmarks/page_events.py [--events 10000] [--rounds 10] [--live 40] [--sql]

A real daemon, Chromium without a window. Times of a page count from its navigation. `--sql`: only what the history's
own questions take, without a page; 1,000,000 events are worth it there. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import soundfile
from paho.mqtt.enums import CallbackAPIVersion
from playwright.async_api import Page, async_playwright
from ulid import ULID

from assistant.events import SAMPLE_RATE, Event, State, Word
from assistant.history_database import HistorySettings, engine_of, tables, upgrade
from assistant.history_reading import HistoryReader, Wanted
from assistant.synthesis import noise

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
OFTEN = {
    "dog_bark": 9, "music": 9, "water": 5, "cough": 3, "doorbell": 1, "vehicle": 7, "bird": 7, "other": 9,
    "footsteps": 7, "smoke_alarm": 0.05, "speech": 15,
}  # fmt: skip
ROOMS = ("kitchen", "hall", "bedroom", "garden")
SAID = (
    "turn",
    "on",
    "the",
    "light",
    "please",
    "what",
    "is",
    "the",
    "weather",
    "good",
    "night",
    "電気をつけて",
    "おやすみ",
)
YEAR = 365 * 86_400.0
BATCH = 20_000
FIRST_CARD = """() => new Promise((found) => {
    const look = () => document.querySelector("article") ? found(performance.now()) : requestAnimationFrame(look);
    look();
})"""
PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
SEEN = """() => { window.seen = {}; new MutationObserver(() => {
    for (const card of document.querySelectorAll("article"))
        seen[card.dataset.id] ??= (performance.timeOrigin + performance.now()) / 1000;
}).observe(document.body, { childList: true, subtree: true }); }"""


def made(count: int) -> Iterator[Event]:
    """Events of a year, the earliest first, the same on each run but for the time."""
    chance, now = random.Random(1), time.time()
    for i in range(count):
        start = now - YEAR * (count - i) / count
        event_type = chance.choices(list(OFTEN), list(OFTEN.values()))[0]
        words = tuple(Word(word, 0.3 * j, 0.3 * j + 0.3) for j, word in enumerate(chance.choices(SAID, k=8)))
        speech = event_type == "speech"
        yield Event(
            id=str(ULID.from_timestamp(start)),
            room=chance.choice(ROOMS),
            source="usb-mic",
            kind="speech" if speech else "sound",
            state=State.HEARD if speech else State.ENDED,
            event_type=event_type,
            label=event_type,
            score=round(chance.uniform(0.2, 1.0), 3),
            text=" ".join(word.word for word in words) if speech else None,
            words=words if speech else None,
            language="en" if speech else None,
            start=datetime.fromtimestamp(start, UTC).isoformat(timespec="milliseconds"),
            duration=2.0,
            model="whisper-base" if speech else "yamnet",
        )


def fill(path: Path, count: int) -> None:
    """A history file with so many events."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with engine_of(HistorySettings(), path).connect() as connection:
        upgrade(connection)
        rows: list[dict[str, Any]] = []
        for event in made(count):
            start = datetime.fromisoformat(event.start or "").timestamp()
            columns = {name: getattr(event, name) for name in ("id", "room", "kind", "event_type", "text")}
            rows.append({**columns, "start": start, "body": json.dumps(event.to_json(), ensure_ascii=False)})
            if len(rows) == BATCH:
                with connection.begin():
                    connection.execute(tables().events.insert(), rows)
                rows.clear()
        if rows:
            with connection.begin():
                connection.execute(tables().events.insert(), rows)


async def questions(folder: Path, rounds: int) -> dict[str, float]:
    """Median milliseconds of what the page asks."""
    reader, now = HistoryReader(HistorySettings(), folder, within=60.0), time.time()
    old, day = now - YEAR / 2, 86_400.0
    pages = {
        "first page": Wanted(limit=50),
        "a page half a year ago": Wanted(limit=50, before=(old, "0")),
        "one room": Wanted(limit=50, rooms=("kitchen",)),
        "two rooms, two types": Wanted(limit=50, rooms=("hall", "garden"), event_types=("doorbell", "smoke_alarm")),
        "a text that is found": Wanted(limit=50, text="おやすみ"),
        "a text that is not": Wanted(limit=50, text="elephant"),
    }
    counts = {
        "a day by hours": (Wanted(since=old, until=old + day), True),
        "a month by days": (Wanted(since=now - 31 * day), False),
        "a year by days": (Wanted(since=now - YEAR), False),
    }
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        **{name: (lambda wanted=wanted: reader.page(wanted)) for name, wanted in pages.items()},  # type: ignore[misc]
        **{
            name: (lambda wanted=wanted, by_type=by_type: reader.counts(wanted, by_type=by_type))  # type: ignore[misc]
            for name, (wanted, by_type) in counts.items()
        },
    }
    found = {}
    for name, ask in asked.items():
        took = []
        for _ in range(rounds):
            before = time.perf_counter()
            await ask()
            took.append(1000 * (time.perf_counter() - before))
        found[name] = round(statistics.median(took), 1)
        print(f"{name:26} {found[name]:8.1f} ms")
    reader.close()
    return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def daemon(folder: Path, web: int, mqtt: int) -> Any:  # noqa: ANN401 (an async generator)
    """A daemon that hears a quiet room, with the history that lies in its folder."""
    soundfile.write(folder / "quiet.wav", noise(1800.0, -62.0), SAMPLE_RATE, subtype="PCM_16")
    (folder / "config.yaml").write_text(
        f"rooms: {{kitchen: {{source: {folder}/quiet.wav, name: Kitchen}}}}\nbroker: {{port: {mqtt}}}\n"
        f"web: {{port: {web}}}\nwyoming: {{enabled: false}}\nsay: {{enabled: false}}\nspeech: {{enabled: false}}\n"
        "privacy: {transcripts: true}\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "assistant.cli", "run", "-c", str(folder / "config.yaml")]
    with (folder / "log").open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", web)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.2)
        await asyncio.sleep(3.0)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 20)
        if process.returncode:
            sys.stderr.write((folder / "log").read_text()[-3000:])


async def opened(page: Page, url: str) -> tuple[float, float]:
    """Milliseconds until anything is painted, and until the first event is there."""
    await page.goto("about:blank")
    await page.goto(f"{url}#/events")
    first = float(await page.evaluate(FIRST_CARD))
    return float(await page.evaluate(PAINTED)), first


async def filtered(page: Page, type_: str) -> float:
    """Milliseconds from choosing a type until the list shows nothing else."""
    return float(
        await page.evaluate(
            """async (type) => {
                const select = [...document.querySelectorAll(".filters select")][1];
                const name = [...select.options].find((option) => option.value === type).text;
                const before = performance.now();
                select.value = type;
                select.dispatchEvent(new Event("change", { bubbles: true }));
                const done = () => {
                    const titles = [...document.querySelectorAll("article h3")];
                    return titles.length > 0 && titles.every((title) => title.textContent.startsWith(name));
                };
                while (!done()) await new Promise(requestAnimationFrame);
                return performance.now() - before;
            }""",
            type_,
        )
    )


async def live(page: Page, mqtt: int, count: int) -> list[float]:
    """Seconds between the MQTT message of an event and its card, for so many test events."""
    arrived: dict[str, float] = {}
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="benchmark-page-events")

    def heard(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/event"):
            arrived.setdefault(json.loads(message.payload)["id"], time.time())

    client.on_connect = lambda client, *_: client.subscribe("kikimimi/kitchen/event", 1)
    client.on_message = heard
    client.connect("127.0.0.1", mqtt)
    client.loop_start()
    await asyncio.sleep(1.0)
    await page.evaluate(SEEN)
    for _ in range(count):
        client.publish("kikimimi/kitchen/test", "ON", 1)
        await asyncio.sleep(0.5)
    await asyncio.sleep(2.0)
    client.disconnect()
    client.loop_stop()
    seen = await page.evaluate("seen")
    missing = [identity for identity in arrived if identity not in seen]
    assert not missing, f"{len(missing)} of {len(arrived)} events were not shown"
    return [seen[identity] - at for identity, at in arrived.items()]


def summed(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and largest, in milliseconds."""
    ordered = sorted(values)
    at = min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))
    return {"p50": round(statistics.median(ordered), 1), "p95": round(ordered[at], 1), "max": round(ordered[-1], 1)}


async def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--live", type=int, default=40, help="events of the last measurement")
    parser.add_argument("--sql", action="store_true", help="without a daemon and a browser")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kikimimi-events-") as name:
        folder = Path(name)
        state = folder / "state" / "kikimimi"
        fill(state / "history.db", options.events)
        result: dict[str, Any] = {"events": options.events, "questions_ms": await questions(state, options.rounds)}
        if not options.sql:
            result |= await measured(folder, options.rounds, options.live)
        print(json.dumps(result, ensure_ascii=False))


async def measured(folder: Path, rounds: int, count: int) -> dict[str, Any]:
    """What a browser sees."""
    program = shutil.which("chromium")
    assert program, "apt-get install chromium"
    web, mqtt = free_port(), free_port()
    url = f"http://127.0.0.1:{web}/"
    async with daemon(folder, web, mqtt), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-GB")
        opens = [await opened(page, url) for _ in range(rounds)]
        filters = [await filtered(page, one) for _ in range(rounds) for one in ("doorbell", "bird", "smoke_alarm")]
        await page.goto("about:blank")
        await opened(page, url)
        delays = await live(page, mqtt, count)
        await browser.close()
    found = {
        "paint_ms": summed([paint for paint, _ in opens]),
        "first_event_ms": summed([first for _, first in opens]),
        "filtered_ms": summed(filters),
        "live_ms": summed([1000 * delay for delay in delays]),
        "live_events": len(delays),
    }
    for key, value in found.items():
        print(key, value)
    return found


if __name__ == "__main__":
    asyncio.run(main())
