"""The page Health in a real browser: what is wrong in words, what leaves the house, and all of it as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from houses import House
from playwright.async_api import Page, expect
from test_page_shell import serious

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3

Make = Callable[..., House]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A quiet minute that begins with an alarm."""
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, placed(noise(60.0, -60.0), 0.2 * t3(cycles=4), 1.0), SAMPLE_RATE, subtype="PCM_16")
    return path


async def test_a_house_that_is_well(house: Make, page: Page, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    await page.goto(f"{here.url}#/health")
    await expect(page.get_by_text("Broker: writing")).to_be_visible(timeout=30_000)
    await expect(page.get_by_text("Nothing leaves this machine.")).to_be_visible()
    await expect(page.get_by_text(f"127.0.0.1:{here.mqtt_port}", exact=True)).to_be_visible()
    await expect(page.get_by_text("Sounds: yamnet")).to_be_visible()
    row = page.get_by_role("row", name=re.compile("Sound, from its last sample"))
    await expect(row).to_contain_text(re.compile(r"\d+(\.\d+)? m?s"), timeout=20_000)
    for name in ("Tagger, one window", "MQTT, until the broker has it", "Event written to disk"):
        await expect(page.get_by_role("row", name=re.compile(name))).to_be_visible(timeout=20_000)
    await expect(page.get_by_text("Running for")).to_be_visible()
    running = page.locator(".facts dd").filter(has_text=re.compile(r"\d+ sec"))
    before = await running.inner_text()
    await expect(running).not_to_have_text(before, timeout=10_000)  # by itself
    assert not await serious(page)


async def test_what_is_wrong_is_said_with_what_to_do(house: Make, page: Page, recording: Path) -> None:
    settings = (
        f"rooms: {{kitchen: {{source: '{recording}'}}, garden: {{name: Garden, source: 'http://127.0.0.1:9/a.mp3'}}}}\n"
        "webhooks: {hosts: [hooks.example.org]}\n"
    )
    here = house(settings=settings).start()
    await page.goto(f"{here.url}#/health")
    trouble = page.locator(".troubles")
    await expect(trouble).to_contain_text("Garden: http://127.0.0.1:9/a.mp3", timeout=20_000)
    await expect(trouble).to_contain_text("What to do")
    await expect(page.get_by_text("Nothing leaves this machine.")).to_be_hidden()
    row = page.get_by_role("row", name=re.compile("hooks.example.org"))
    await expect(row).to_contain_text("the internet")
    await expect(row).to_contain_text("0 messages")
    assert not await serious(page)


async def test_it_can_be_copied_and_checked_again(house: Make, page: Page, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(f"{here.url}#/health")
    await expect(page.get_by_text(re.compile("Checked at"))).to_be_visible(timeout=30_000)
    await page.get_by_role("button", name="Check again").click()
    await expect(page.get_by_text(re.compile("Checked at"))).to_be_visible(timeout=30_000)
    await page.get_by_role("button", name="Copy as JSON").click()
    await expect(page.get_by_text("Copied", exact=True)).to_be_visible()
    copied = json.loads(await page.evaluate("navigator.clipboard.readText()"))
    assert copied["health"]["stays"] is True
    assert any(check["name"] == "broker: publish" for check in copied["checks"]["checks"])
    assert copied["health"]["figures"]["rooms"] == 1


def test_the_api_has_it_too(house: Make, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    status, health = here.call("GET", "health")
    assert (status, health["stays"], health["words"]) == (200, True, False)
    status, checks = here.call("GET", "health/checks")
    assert status == 200
    assert here.call("POST", "health/checks")[1]["at"] == checks["at"]  # not five seconds old
    assert here.call("GET", "health/nothing")[0] == 404
