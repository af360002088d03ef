"""What open pages cost: a daemon that hears four rooms, without a page and with five that show Now, in turns.

    python benchmarks/page.py [--rounds 3] [--rooms 4] [--clients 4] [--browsers 1] [--profile sounds|all]

Each phase lasts as long as the recording that the rooms hear over and over, so that all phases hear the same. Processor
time and memory are those of the daemon's process alone, read from /proc. A client is a WebSocket that watches all
rooms; a browser is a Chromium that shows the page. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import platformdirs
import soundfile
from playwright.async_api import async_playwright
from websockets.asyncio.client import connect

from assistant.demo_recording import house_recording
from assistant.events import SAMPLE_RATE

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SETTLE = 10.0  # seconds until models are loaded and floors learnt


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def used(pid: int) -> tuple[float, float]:
    """Processor seconds so far, and resident MB now."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    resident = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return (int(fields[11]) + int(fields[12])) / TICKS, resident * PAGE / 1e6


async def client(port: int, rooms: list[str], counts: dict[str, int]) -> None:
    """Watch all rooms until cancelled."""
    async with connect(f"ws://127.0.0.1:{port}/api/live", max_size=None) as live:
        await live.send(json.dumps({"watch": rooms}))
        async for text in live:
            counts["messages"] += 1
            counts["bytes"] += len(text)


async def phase(pid: int, seconds: float) -> tuple[float, float]:
    """Share of a core in percent, and MB at the end."""
    before, began = used(pid)[0], time.monotonic()
    await asyncio.sleep(seconds)
    after, resident = used(pid)
    return 100.0 * (after - before) / (time.monotonic() - began), resident


async def measure(
    options: argparse.Namespace, pid: int, port: int, rooms: list[str], seconds: float
) -> dict[str, object]:
    """Phases in turns."""
    without: list[tuple[float, float]] = []
    with_pages: list[tuple[float, float]] = []
    counts = {"messages": 0, "bytes": 0}
    async with async_playwright() as playwright:
        for number in range(options.rounds):
            without.append(await phase(pid, seconds))
            print(
                f"round {number + 1}: no page      {without[-1][0]:5.2f} % of a core, {without[-1][1]:.1f} MB",
                flush=True,
            )
            async with AsyncExitStack() as stack:
                tasks = [asyncio.create_task(client(port, rooms, counts)) for _ in range(options.clients)]
                if options.browsers:
                    browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                    stack.push_async_callback(browser.close)
                    for _ in range(options.browsers):
                        page = await browser.new_page()
                        await page.goto(f"http://127.0.0.1:{port}/#/now")
                        await page.get_by_role("meter").first.wait_for()
                await asyncio.sleep(2.0)
                with_pages.append(await phase(pid, seconds))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            pages = options.clients + options.browsers
            print(
                f"         {pages} pages      {with_pages[-1][0]:5.2f} % of a core, {with_pages[-1][1]:.1f} MB",
                flush=True,
            )
            await asyncio.sleep(2.0)
    added = [b[0] - a[0] for a, b in zip(without, with_pages, strict=True)]
    spent = options.rounds * (seconds + 2.0) * max(1, options.clients)
    return {
        "rooms": len(rooms),
        "pages": options.clients + options.browsers,
        "profile": options.profile,
        "phase_s": round(seconds, 1),
        "rounds": options.rounds,
        "cpu_percent_without": round(statistics.median(one[0] for one in without), 2),
        "cpu_percent_with": round(statistics.median(one[0] for one in with_pages), 2),
        "added_cpu_percent": round(statistics.median(added), 2),
        "rss_mb_without": round(without[0][1], 1),
        "rss_mb_with": round(with_pages[0][1], 1),
        "rss_mb_last_with": round(with_pages[-1][1], 1),
        "messages_per_s_and_page": round(counts["messages"] / spent, 1),
        "kb_per_s_and_page": round(counts["bytes"] / spent / 1000, 2),
    }


async def main() -> None:
    """Make the house, start the daemon, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--browsers", type=int, default=1)
    parser.add_argument("--profile", choices=("sounds", "all"), default="all")
    options = parser.parse_args()
    recording, _ = house_recording(platformdirs.user_cache_path("kikimimi") / "demo")
    seconds = len(recording) / SAMPLE_RATE
    rooms = [f"room{number}" for number in range(options.rooms)]
    with tempfile.TemporaryDirectory(prefix="kikimimi-page-") as name:
        folder = Path(name)
        repeats = int(2 * options.rounds * (1.0 + 15.0 / seconds)) + 3
        for number, room in enumerate(rooms):
            rolled = np.roll(recording, number * len(recording) // options.rooms)
            soundfile.write(folder / f"{room}.flac", np.tile(rolled, repeats), SAMPLE_RATE)
        web = free_port()
        sources = "".join(f"  {room}: {{source: {folder / room}.flac}}\n" for room in rooms)
        speech = "speech: {enabled: false}\n" if options.profile == "sounds" else ""
        settings = f"rooms:\n{sources}broker: {{port: {free_port()}}}\nweb: {{port: {web}}}\n{speech}"
        settings += "wyoming: {enabled: false}\nsay: {enabled: false}\n"
        (folder / "config.yaml").write_text(settings, encoding="utf-8")
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": name}
        command = [sys.executable, "-m", "assistant.cli", "run", "-c", str(folder / "config.yaml")]
        with (folder / "log").open("wb") as out:
            daemon = subprocess.Popen(command, stdout=out, stderr=out, env=environment)  # noqa: ASYNC220 (ours)
        try:
            await served(web, daemon)
            await asyncio.sleep(SETTLE)
            print(json.dumps(await measure(options, daemon.pid, web, rooms, seconds)))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


async def served(port: int, daemon: subprocess.Popen[bytes]) -> None:
    """Wait until the page is there."""
    while True:
        assert daemon.poll() is None, "the daemon has ended"
        try:
            await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/api/session", timeout=2)
        except OSError:
            await asyncio.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    asyncio.run(main())
