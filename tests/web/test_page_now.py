"""The page Now in a real browser: it moves while a house is heard, switches rooms, says who is not heard and why."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
import soundfile
from houses import House
from paho.mqtt.enums import CallbackAPIVersion
from playwright.async_api import Browser, Page, WebSocket, expect
from test_page_shell import serious

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3, tone

Make = Callable[..., House]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two quiet minutes in which something beeps every few seconds, and an alarm is heard."""
    samples = noise(120.0, -70.0)
    for start in range(2, 118, 4):
        samples = placed(samples, 0.1 * tone(1000.0, 0.6), float(start))
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, placed(samples, 0.4 * t3(cycles=4), 8.0), SAMPLE_RATE, subtype="PCM_16")
    return path


def rooms(**sources: object) -> str:
    lines = "".join(f"  {room}: {{name: {room.title()}, source: '{source}'}}\n" for room, source in sources.items())
    return f"rooms:\n{lines}"


def card(page: Page, room: str) -> Any:
    return page.locator(f'.room[data-room="{room}"]')


async def retained(port: int, topic: str, payload: str, seconds: float = 10.0) -> None:
    """Wait until the broker says so."""
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.payload.decode() == payload:
            loop.call_soon_threadsafe(arrived.set)

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.subscribe(topic)
    client.loop_start()
    try:
        async with asyncio.timeout(seconds):
            await arrived.wait()
    finally:
        client.disconnect()
        client.loop_stop()


async def levels(page: Page, room: str, seconds: float) -> list[float]:
    """Where the bar of the meter ends, as it is drawn, several times."""
    found = []
    for _ in range(round(seconds / 0.1)):
        bar = card(page, room).locator(".meter .bar")
        found.append(float(await bar.evaluate("bar => bar.getBoundingClientRect().width")))
        await asyncio.sleep(0.1)
    return found


async def test_a_room_is_seen_as_it_sounds(house: Make, page: Page, recording: Path) -> None:
    here = house(settings=rooms(kitchen=recording)).start()
    sent: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(str(text))))
    await page.goto(here.url)
    kitchen = card(page, "kitchen")
    await expect(kitchen.get_by_text("Listening", exact=True)).to_be_visible()
    await expect(kitchen.get_by_role("meter")).to_have_attribute(
        "aria-valuetext", re.compile(r"−\d+ dB, noise floor −")
    )

    moves = await levels(page, "kitchen", 9.0)
    assert max(moves) - min(moves) > 60, moves  # pixels: the beep stands far out
    scores = kitchen.locator(".score")
    await expect(scores.first).to_be_visible(timeout=8_000)
    assert 1 <= await scores.count() <= 5
    assert re.search(r"\d+ %, ", await scores.first.get_attribute("aria-label") or "")
    assert await scores.locator(".line").count() >= 1
    columns = int(await kitchen.locator("canvas").first.get_attribute("data-columns") or 0)
    assert columns > 200
    shades = await kitchen.locator(".spectrogram canvas").evaluate(
        "c => new Set(c.getContext('2d').getImageData(200, 0, 200, 64).data).size"
    )
    assert shades > 30
    chart = kitchen.locator(".minute canvas")
    await expect(chart).to_be_visible()
    await expect(kitchen.locator(".minute")).to_have_attribute("aria-label", re.compile("Level of the last minute: −"))

    await expect(kitchen.locator(".last a")).to_be_visible(timeout=15_000)
    await expect(kitchen.locator(".last")).to_contain_text("Smoke alarm", timeout=20_000)
    assert any('"watch":["kitchen"]' in text for text in sent)
    assert not await serious(page)


async def test_a_switch_turns_a_room_off_and_on_and_the_broker_says_so(
    house: Make, page: Page, recording: Path
) -> None:
    here = house(settings=rooms(kitchen=recording, study=recording)).start()
    await page.goto(here.url)
    kitchen, study = card(page, "kitchen"), card(page, "study")
    await expect(kitchen.get_by_text("Listening", exact=True)).to_be_visible()
    await kitchen.get_by_role("switch", name="Listen here").click()
    await expect(kitchen.get_by_text("Switched off", exact=True)).to_be_visible()
    await expect(kitchen.get_by_role("meter")).to_have_count(0)
    await expect(study.get_by_text("Listening", exact=True)).to_be_visible()
    await retained(here.mqtt_port, "kikimimi/kitchen/status", "disabled")
    await retained(here.mqtt_port, "kikimimi/kitchen/listening/state", "OFF")
    await kitchen.get_by_role("switch", name="Listen here").click()
    await expect(kitchen.get_by_text("Listening", exact=True)).to_be_visible()
    await retained(here.mqtt_port, "kikimimi/kitchen/status", "online")

    await kitchen.get_by_label("Sensitivity").select_option("miss nothing")
    await retained(here.mqtt_port, "kikimimi/kitchen/sensitivity/state", "miss nothing")
    assert here.call("GET", "rooms")[1]["rooms"][0]["sensitivity"] == "miss nothing"

    await page.get_by_role("switch", name="Listen in the whole house").click()
    for room in (kitchen, study):
        await expect(room.get_by_text("Switched off", exact=True)).to_be_visible()
        await expect(room.get_by_text("Listening is switched off in the whole house.")).to_be_visible()
    await retained(here.mqtt_port, "kikimimi/study/status", "disabled")


async def test_a_room_that_is_not_heard_says_why(house: Make, page: Page, recording: Path) -> None:
    here = house(settings=rooms(kitchen=recording, garden="http://127.0.0.1:9/garden.mp3")).start()
    await page.goto(here.url)
    garden = card(page, "garden")
    await expect(garden.get_by_text("Not heard", exact=True)).to_be_visible()
    await expect(garden).to_contain_text("refused")
    await expect(garden).to_contain_text("remedy")
    assert not await serious(page)


async def test_who_does_not_look_is_told_nothing_and_costs_nothing(house: Make, page: Page, recording: Path) -> None:
    here = house(settings=rooms(kitchen=recording)).start()
    sockets: list[WebSocket] = []
    received: list[str] = []

    def opened(socket: WebSocket) -> None:
        sockets.append(socket)
        socket.on("framereceived", lambda text: received.append(str(text)))

    page.on("websocket", opened)
    await page.goto(here.url)
    await expect(card(page, "kitchen").get_by_role("meter")).to_be_visible()
    await asyncio.sleep(2.0)
    assert any('"type":"sound"' in text for text in received)
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await page.evaluate(hide, True)
    await asyncio.sleep(0.5)
    received.clear()
    await asyncio.sleep(2.5)
    assert not any('"type":"sound"' in text or '"type":"scores"' in text for text in received)
    assert any('"type":"level"' in text for text in received)
    await page.evaluate(hide, False)
    await asyncio.sleep(2.0)
    assert sum('"type":"sound"' in text for text in received) > 10
    assert len(sockets) == 1


async def test_it_says_that_it_is_cut_off_and_moves_again_afterwards(house: Make, page: Page, recording: Path) -> None:
    page.excused += ["WebSocket connection to", "Failed to load resource"]  # type: ignore[attr-defined]
    here = house(settings=rooms(kitchen=recording)).start()
    await page.goto(here.url)
    await expect(card(page, "kitchen").get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile("dB"))
    here.stop()
    await expect(page.get_by_text("The connection to Kikimimi is lost")).to_be_visible()
    await expect(page.locator(".rooms.stale")).to_be_visible()
    here.start()
    await expect(page.get_by_text("The connection to Kikimimi is lost")).to_be_hidden(timeout=20_000)
    await expect(card(page, "kitchen").get_by_text("Listening", exact=True)).to_be_visible()
    moves = await levels(page, "kitchen", 6.0)
    assert max(moves) - min(moves) > 60, moves


@pytest.mark.parametrize(("width", "beside"), [(1600, 3), (390, 1)])
async def test_several_rooms_stand_side_by_side(
    house: Make, browser: Browser, recording: Path, width: int, beside: int
) -> None:
    from conftest import watched  # noqa: PLC0415

    here = house(settings=rooms(kitchen=recording, hall=recording, study=recording)).start()
    async for page in watched(browser, locale="ja-JP", viewport={"width": width, "height": 844}, color_scheme="dark"):
        await page.goto(here.url)
        await expect(page.locator(".room")).to_have_count(3)
        await expect(page.get_by_text("聞いています").first).to_be_visible()
        boxes = [await page.locator(".room").nth(n).bounding_box() for n in range(3)]
        tops = [round(box["y"]) for box in boxes if box is not None]
        assert np.unique(tops, return_counts=True)[1].max() == beside
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not await serious(page)
