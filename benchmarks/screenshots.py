"""Pictures of every page in both languages, for docs/images: a real daemon hears the house of `kikimimi demo`.

    python benchmarks/screenshots.py [--only now,events] [--dark] [--phone] [--to FOLDER]

Needs Chromium (`apt-get install chromium`) and the extra dev. The pictures are reduced to 256 colours.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import platformdirs
import soundfile
from PIL import Image
from playwright.async_api import Browser, Page, async_playwright

from assistant.demo_recording import house_recording
from assistant.events import SAMPLE_RATE

PAGES = ("now", "events", "ask", "practice", "teach", "rules", "setup", "health")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CONFIG = """
rooms:
  kitchen: {{source: "{kitchen}", name: {names[0]}}}
  garden: {{source: "{garden}", name: {names[1]}}}
  nursery: {{source: "/not/there.wav", name: {names[2]}}}
broker: {{port: {mqtt}}}
web: {{port: {web}}}
wyoming: {{enabled: false}}
say: {{enabled: false}}
clips: {{enabled: true, keep: [any, speech]}}
privacy: {{transcripts: true}}
rules:
  - name: {rules[0]}
    when: {{sound: [smoke_alarm, co_alarm]}}
    do: {{publish: {{topic: house/alarm, payload: "{{{{ label }}}} in {{{{ room_name }}}}"}}}}
  - name: {rules[1]}
    when: {{sound: doorbell, between: "08:00-21:00"}}
    do: {{publish: {{topic: house/door, payload: ring}}}}
    cooldown: 30 s
  - name: {rules[2]}
    when: {{sound: dog_bark, room: garden, times: 5, within: 10 min}}
    do: {{log: "The dog has barked {{{{ times }}}} times"}}
"""
NAMES = {"en": ("Kitchen", "Garden", "Nursery"), "ja": ("台所", "庭", "子ども部屋")}
RULES = {
    "en": ("smoke alarm to the phone", "doorbell by day", "the dog barks"),
    "ja": ("火災警報をスマホへ", "昼の玄関チャイム", "犬がほえ続ける"),
}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def call(method: str, url: str, body: object = None) -> object:
    """What the API answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)  # noqa: S310

    def asked() -> object:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            content = answer.read()
        return json.loads(content) if content else None

    return await asyncio.to_thread(asked)


async def shown(page: Page, file: Path) -> None:
    """Save what is seen."""
    picture = Image.open(io.BytesIO(await page.screenshot()))
    out = io.BytesIO()
    picture.convert("RGB").quantize(256).save(out, "png", optimize=True)
    await asyncio.to_thread(file.write_bytes, out.getvalue())
    print(file, len(out.getvalue()))


async def pictures(browser: Browser, url: str, language: str, options: argparse.Namespace) -> None:
    """Save every page in one language."""
    size = {"width": 390, "height": 844} if options.phone else {"width": 1280, "height": 800}
    suffix = ("-phone" if options.phone else "") + ("-dark" if options.dark else "")
    context = await browser.new_context(
        viewport=size, locale={"en": "en-GB", "ja": "ja-JP"}[language], color_scheme="dark" if options.dark else "light"
    )
    page = await context.new_page()
    page.on("pageerror", lambda error: print("PAGE ERROR:", error, file=sys.stderr))
    for name in options.only:
        path = "ask/practice" if name == "practice" else name
        await page.goto(f"{url}#/{path}")
        await page.locator("main h1").wait_for()
        await page.locator(".loading").wait_for(state="hidden")
        await page.wait_for_timeout(6000 if name == "now" else 2500)
        await shown(page, options.to / f"{name}-{language}{suffix}.png")
    await context.close()


async def main() -> None:
    """Read the arguments, then one house after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=PAGES)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--to", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    os.makedirs(options.to, exist_ok=True)  # noqa: PTH103 (once, at the start)
    program = shutil.which("chromium")
    assert program, "apt-get install chromium"
    for language in ("en", "ja"):
        with tempfile.TemporaryDirectory(prefix="kikimimi-pictures-") as name:
            await one(Path(name), program, language, options)


async def one(folder: Path, program: str, language: str, options: argparse.Namespace) -> None:
    """Start a house whose names are in one language, wait until it has heard everything once, look at it."""
    samples, _ = house_recording(platformdirs.user_cache_path("kikimimi") / "demo")
    for room, shift in (("kitchen", 0), ("garden", len(samples) // 2)):
        soundfile.write(folder / f"{room}.flac", np.tile(np.roll(samples, -shift), 12), SAMPLE_RATE)
    web, mqtt = free_port(), free_port()
    settings = CONFIG.format(
        kitchen=folder / "kitchen.flac", garden=folder / "garden.flac", web=web, mqtt=mqtt, names=NAMES[language],
        rules=RULES[language],
    )  # fmt: skip
    (folder / "config.yaml").write_text(settings, encoding="utf-8")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "assistant.cli", "run", "-c", str(folder / "config.yaml")]
    with (folder / "log").open("wb") as out:
        daemon = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, env=environment)
    url = f"http://127.0.0.1:{web}/"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                await call("GET", f"{url}api/session")
                break
            except OSError:
                await asyncio.sleep(0.2)
        await asyncio.sleep(75)  # the whole recording, once
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
            await pictures(browser, url, language, options)
            await browser.close()
    finally:
        daemon.send_signal(signal.SIGTERM)
        await asyncio.wait_for(daemon.wait(), 20)
        if daemon.returncode:
            sys.stderr.write((folder / "log").read_text()[-3000:])


if __name__ == "__main__":
    asyncio.run(main())
