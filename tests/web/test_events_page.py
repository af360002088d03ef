"""The page Events in a real browser: a whole daemon hears sounds, people look at them, play, judge and snooze them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
import soundfile
import yaml
from axe_playwright_python.async_playwright import Axe
from conftest import watched
from histories import remembered, sound, speech
from houses import House
from paho.mqtt.enums import CallbackAPIVersion
from playwright.async_api import Browser, Page, expect
from sounds import alarm, doorbells
from ulid import ULID

from assistant.clip_folder import PICTURE, SOUND, name_of
from assistant.clips import flac
from assistant.events import SAMPLE_RATE, Event, Word
from assistant.spectrogram import spectrogram
from assistant.synthesis import noise, placed, siren
from assistant.web.server import STATIC

Make = Callable[..., House]
SHIPPED = Path(__file__).parents[2] / "config" / "sounds.yaml"
PHONE = {"viewport": {"width": 390, "height": 844}, "locale": "ja", "color_scheme": "dark"}
WORDS = (Word(" Turn", 0.0, 0.3), Word(" on", 0.3, 0.6), Word(" the", 0.6, 0.9), Word(" light", 0.9, 1.6))


def quiet(folder: Path) -> str:
    path = folder / "quiet.wav"
    soundfile.write(path, noise(600.0, -62.0), SAMPLE_RATE, subtype="PCM_16")
    return f"kitchen={path}"


def state_of(here: House) -> Path:
    return here.folder / "state" / "kikimimi"


def raised(event: Event, ago: timedelta) -> Event:
    """The event as it was raised so long ago, with an id that says so."""
    start = datetime.now(UTC) - ago
    identity = str(ULID.from_timestamp(start.timestamp()))
    return replace(event, id=identity, start=start.isoformat(timespec="milliseconds"), model="yamnet")


def keep(here: House, event: Event, seconds: float, *, before: float) -> Event:
    """The event with a clip on disk that begins `before` seconds earlier."""
    samples = placed(noise(seconds, -62.0), 0.3 * siren(2.0), before)
    name = name_of((event.start or "")[:10], event.id)
    path = state_of(here) / "clips" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(flac(replace(event, offset=before), samples.astype(np.float32), 0))
    path.with_suffix(PICTURE).write_bytes(spectrogram(samples.astype(np.float32)))
    assert path.suffix == SOUND
    return replace(event, clip=name)


async def serious(page: Page) -> list[str]:
    found = await Axe().run(page)
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:300]}"
        for one in found.response["violations"]
        if one["impact"] in {"serious", "critical"}
    ]


@contextmanager
def told(here: House) -> Iterator[list[tuple[dict[str, object], float]]]:
    """Events as another client of the broker gets them, and when (Unix seconds)."""
    messages: list[tuple[dict[str, object], float]] = []
    subscribed = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="test-events-page")
    client.on_connect = lambda client, *_: client.subscribe("kikimimi/kitchen/event", 1)
    client.on_subscribe = lambda *_: subscribed.set()

    def heard(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/event"):  # the embedded broker sends retained messages of other topics too
            messages.append((json.loads(message.payload), time.time()))

    client.on_message = heard
    client.connect("127.0.0.1", here.mqtt_port)
    client.loop_start()
    assert subscribed.wait(10)
    try:
        yield messages
    finally:
        client.disconnect()
        client.loop_stop()


async def test_a_live_event_is_on_the_page_half_a_second_after_its_message(
    house: Make, page: Page, tmp_path: Path
) -> None:
    here = house(settings="clips: {enabled: true, free: 0}\n")
    here.start("--source", f"kitchen={doorbells(tmp_path / 'bells.wav', first=8.0)}")
    await page.goto(f"{here.url}#/events")
    await expect(page.get_by_text("Nothing was heard yet")).to_be_visible()
    await page.evaluate(
        """() => { window.seen = {}; new MutationObserver(() => {
            for (const card of document.querySelectorAll("article")) seen[card.dataset.id] ??= Date.now() / 1000;
        }).observe(document.body, { childList: true, subtree: true }); }"""
    )
    with told(here) as messages:
        card = page.get_by_role("article", name="Doorbell heard in kitchen").first
        await expect(card).to_be_visible(timeout=30_000)
        await expect(card).to_contain_text("heard by YAMNet · needs 0.12")
        await expect(card).to_contain_text("ended after", timeout=20_000)
        await expect(card.get_by_role("button", name="Play")).to_be_visible()  # its clip has come
        seen = await page.evaluate("seen")
        arrived = {event["id"]: at for event, at in reversed(messages)}
    delays = [seen[identity] - at for identity, at in arrived.items() if identity in seen]
    assert delays
    assert max(delays) < 0.5
    # the heat-map has counted it
    await expect(page.get_by_role("button", name=re.compile(r"^Doorbell, .*: 1$"))).to_be_visible()


async def test_events_are_filtered_by_room_sound_words_hour_and_day(house: Make, page: Page, tmp_path: Path) -> None:
    kitchen = quiet(tmp_path).partition("=")[2]
    rooms = f"rooms: {{kitchen: {{source: {kitchen}}}, hall: {{source: {kitchen}, name: Hall}}}}\n"
    here = house(settings=f"privacy: {{transcripts: true}}\n{rooms}")
    noon = datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
    ago = datetime.now().astimezone() - noon
    minute = timedelta(minutes=1)
    remembered(
        state_of(here) / "history.db",
        [
            raised(sound(event_type="dog_bark", room="hall"), ago),
            raised(sound(event_type="cat", label="Meow"), ago - 2 * minute),
            raised(speech("", "Good night, house"), ago - 3 * minute),
            raised(sound(event_type="dog_bark"), ago - 4 * minute),
            raised(sound(event_type="other", label="Door"), ago + timedelta(days=2)),
        ],
    )  # fmt: skip
    here.start()
    await page.goto(f"{here.url}#/events")
    cards = page.get_by_role("article")
    await expect(cards).to_have_count(5)
    assert "Barking dog heard in kitchen" in (await cards.first.inner_text())
    assert "Door heard in kitchen" in (await cards.last.inner_text())
    await page.get_by_label("Room").select_option("hall")
    await expect(cards).to_have_count(1)
    await expect(page.get_by_role("article", name="Barking dog heard in Hall")).to_be_visible()
    await page.get_by_label("Room").select_option("")
    await page.get_by_label("Sound", exact=True).select_option("cat")
    await expect(page.get_by_text("Only Cat")).to_be_visible()
    await expect(cards).to_have_count(1)
    await page.get_by_role("button", name="Show everything").click()
    await page.get_by_label("What was said").fill("NIGHT")
    await expect(cards).to_have_count(1)
    await expect(cards.first).to_contain_text("Good night, house")
    await page.get_by_label("What was said").fill("elephant")
    await expect(page.get_by_text("Nothing fits these filters")).to_be_visible()
    await page.get_by_role("button", name="Show everything").first.click()
    await expect(cards).to_have_count(5)
    # the day of these, by its heat-map
    await page.get_by_label("Day", exact=True).fill(str(noon.date()))
    cell = page.get_by_role("button", name=re.compile(r"^Cat, 12 PM: 1$"))
    await cell.click()
    await expect(cards).to_have_count(1)
    assert await cell.get_attribute("aria-pressed") == "true"
    await cell.click()
    await page.get_by_role("button", name="The day before").click()
    await expect(page.get_by_text("Nothing was heard on this day.")).to_be_visible()
    await expect(cards).to_have_count(1)  # what is older
    assert not await serious(page)


async def test_a_clip_is_played_with_its_words_and_has_an_address(house: Make, page: Page, tmp_path: Path) -> None:
    here = house(settings="clips: {enabled: true, free: 0}\nprivacy: {transcripts: true}\n")
    said = raised(speech("", "Turn on the light", words=WORDS, duration=1.6), timedelta(minutes=5))
    said = keep(here, said, 4.0, before=1.0)
    gone = raised(sound(clip="2026-01-01/x.flac"), timedelta(minutes=9))
    remembered(state_of(here) / "history.db", [said, gone])
    here.start("--source", quiet(tmp_path))
    await page.goto(f"{here.url}#/events")
    card = page.get_by_role("article", name="Somebody spoke in kitchen")
    await expect(page.get_by_text("The recording has been deleted.")).to_be_visible()
    await card.get_by_role("button", name="Play").click()
    await expect(card.get_by_role("button", name="Pause")).to_be_visible()
    at = await card.evaluate(
        """card => new Promise((found) => {
            const look = () => card.querySelector(".word.lit")?.textContent === "light"
                ? found(card.querySelector("audio").currentTime) : requestAnimationFrame(look);
            look();
        })"""
    )
    assert 1.9 < at < 2.8  # a second before it, and 0.9 s into it
    await card.get_by_role("button", name="Pause").click()
    await card.get_by_role("button", name="on", exact=True).click()  # a word: from there
    await expect(card.get_by_role("button", name="Pause")).to_be_visible()
    at = await card.locator("audio").evaluate("audio => audio.currentTime")
    assert 1.25 < at < 1.9
    await expect(card.get_by_role("button", name="Play")).to_be_visible(timeout=8_000)  # to its end
    await card.get_by_role("slider").press("ArrowRight")
    assert await card.locator("audio").evaluate("audio => audio.currentTime") == pytest.approx(0.5, abs=0.05)

    await card.get_by_role("link").click()
    await expect(page.get_by_role("heading", name="Details")).to_be_visible()
    assert page.url.endswith(f"#/events/{said.id}")
    await expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert not await serious(page)
    await page.reload()
    await expect(page.get_by_role("heading", name="Somebody spoke in kitchen")).to_be_visible()
    await page.get_by_role("link", name="All events").click()
    await expect(page.get_by_role("article")).to_have_count(2)
    page.excused.append("404")  # type: ignore[attr-defined]
    await page.goto(f"{here.url}#/events/01M8HNK843GQZE9344RVMPN7YF")
    await expect(page.get_by_role("alert")).to_contain_text("there is no event")


async def test_a_verdict_moves_a_threshold_visibly_and_can_be_taken_back(
    house: Make, page: Page, tmp_path: Path
) -> None:
    here = house()
    remembered(state_of(here) / "history.db", [raised(sound(event_type="doorbell", score=0.5), timedelta(minutes=5))])
    here.start("--source", quiet(tmp_path))
    await page.goto(f"{here.url}#/events")
    card = page.get_by_role("article", name="Doorbell heard in kitchen")
    await expect(card).to_contain_text("needs 0.12")
    await card.get_by_role("button", name="Not this").click()
    await expect(card.get_by_role("status")).to_have_text("Threshold in kitchen: 0.12 → 0.14, because of 1 verdict.")
    await expect(card).to_contain_text("needs 0.14, was 0.12")
    assert await card.get_by_role("button", name="Not this").get_attribute("aria-pressed") == "true"
    assert here.call("GET", "thresholds")[1][0]["in_force"] == 0.144
    await page.get_by_text("Thresholds that verdicts have moved (1)").click()
    await expect(page.get_by_text("Doorbell in kitchen: 0.12 → 0.14, because of 1 verdict")).to_be_visible()
    assert not await serious(page)
    await card.get_by_role("button", name="Undo").click()
    await expect(card.get_by_role("status")).to_have_text("Threshold in kitchen: 0.14 → 0.12.")
    await expect(page.get_by_text("Thresholds that verdicts have moved")).to_be_hidden()
    assert here.call("GET", "thresholds")[1] == []

    await card.get_by_role("button", name="Correct").click()
    await expect(card.get_by_role("status")).to_contain_text("It was sure, so the threshold stays at 0.12.")
    await card.get_by_role("button", name="Not this").click()
    await page.get_by_text("Thresholds that verdicts have moved (1)").click()
    await page.get_by_role("button", name="Reset").click()
    await expect(card).to_contain_text("needs 0.12")
    await expect(card.get_by_role("button", name="Undo")).to_be_hidden()


async def test_a_snooze_silences_and_ends(house: Make, page: Page, tmp_path: Path) -> None:
    here = house().start("--source", f"kitchen={doorbells(tmp_path / 'bells.wav', count=30)}")
    await page.goto(f"{here.url}#/events")
    cards = page.get_by_role("article", name="Doorbell heard in kitchen")
    await expect(cards.first).to_contain_text("ended after", timeout=30_000)
    await cards.first.get_by_role("button", name="Snooze 1 h").click()
    notice = page.locator(".notice").filter(has_text="Doorbell in kitchen is told to nobody until")
    await expect(notice).to_be_visible()
    before = await cards.count()
    await expect(notice).to_contain_text("1 heard so far.", timeout=20_000)
    await expect(notice).to_contain_text("2 heard so far.", timeout=20_000)
    assert await cards.count() == before
    assert not await serious(page)
    await notice.get_by_role("button", name="End snooze").click()
    await expect(notice).to_be_hidden()
    await expect(cards).to_have_count(before + 1, timeout=20_000)


async def test_an_alarm_is_only_snoozed_by_somebody_who_knows(house: Make, page: Page, tmp_path: Path) -> None:
    here = house().start("--source", f"kitchen={alarm(tmp_path / 'alarm.wav')}")
    await page.goto(f"{here.url}#/events")
    card = page.get_by_role("article", name="Smoke alarm heard in kitchen")
    await expect(card).to_contain_text("Sounds now", timeout=40_000)
    await card.get_by_role("button", name="Snooze 1 h").click()
    dialog = page.get_by_role("dialog", name="Tell nobody of this alarm?")
    await expect(dialog).to_contain_text("nobody is told when Smoke alarm is heard in kitchen")
    assert not await serious(page)
    await dialog.get_by_role("button", name="Cancel").click()
    assert here.call("GET", "snoozes")[1] == []
    await card.get_by_role("button", name="Snooze 1 h").click()
    await dialog.get_by_role("button", name="Snooze 1 h").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nobody is told of this alarm in kitchen.")
    assert here.call("GET", "snoozes")[1][0]["life_safety"] is True


async def test_ten_thousand_events_scroll_without_filling_the_page(house: Make, page: Page, tmp_path: Path) -> None:
    here = house()
    remembered(
        state_of(here) / "history.db",
        [raised(sound(event_type="cat" if i % 7 else "doorbell"), timedelta(minutes=i)) for i in range(10_000)],
    )
    here.start("--source", quiet(tmp_path))
    await page.goto(f"{here.url}#/events")
    await expect(page.get_by_role("article").first).to_be_visible()
    for _ in range(30):
        await page.evaluate("scrollTo(0, document.body.scrollHeight)")
        await page.wait_for_timeout(100)
    height = await page.evaluate("document.body.scrollHeight")
    assert height > 100_000
    assert await page.evaluate("document.querySelectorAll('article').length") < 400
    await page.evaluate("scrollTo(0, 0)")
    await expect(page.get_by_role("article").first).to_be_visible()
    before = time.monotonic()
    await page.get_by_label("Sound", exact=True).select_option("doorbell")
    await expect(page.get_by_text("Only Doorbell")).to_be_visible()
    await expect(page.get_by_role("article", name="Cat")).to_have_count(0)
    assert time.monotonic() - before < 2.0


async def test_what_was_missed_while_the_daemon_was_away_is_there_afterwards(
    house: Make, page: Page, tmp_path: Path
) -> None:
    page.excused += ["WebSocket connection to", "Failed to load resource"]  # type: ignore[attr-defined]
    here, source = house(), quiet(tmp_path)
    remembered(state_of(here) / "history.db", [raised(sound(event_type="cat"), timedelta(minutes=5))])
    here.start("--source", source)
    await page.goto(f"{here.url}#/events")
    await expect(page.get_by_role("article")).to_have_count(1)
    here.stop()
    await expect(page.get_by_text("The connection to Kikimimi is lost")).to_be_visible()
    remembered(state_of(here) / "history.db", [raised(sound(event_type="siren"), timedelta(minutes=1))])
    here.start("--source", source)
    await expect(page.get_by_role("article", name="Siren heard in kitchen")).to_be_visible(timeout=30_000)


async def test_japanese_on_a_dark_phone(house: Make, browser: Browser, tmp_path: Path) -> None:
    here = house(settings=f"rooms: {{kitchen: {{source: {quiet(tmp_path).partition('=')[2]}, name: 台所}}}}\n")
    remembered(
        state_of(here) / "history.db",
        [
            raised(sound(event_type="smoke_alarm", score=0.9, duration=12.0), timedelta(minutes=5)),
            raised(sound(event_type="kettle", label="やかん"), timedelta(minutes=6)),
        ],
    )
    here.start()
    async for page in watched(browser, **PHONE):
        await page.goto(f"{here.url}#/events")
        await expect(page.get_by_role("article", name="台所で火災警報器の音が聞こえました")).to_contain_text("12秒")
        await expect(page.get_by_role("article", name="台所でやかんが聞こえました")).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not await serious(page)


def test_every_type_of_the_sound_table_has_words() -> None:
    table = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    words = (STATIC / "words.js").read_text(encoding="utf-8").split("const t =")[0]
    en, ja = words.split("\n  ja: {")
    for event_type in (*table["groups"], "other", "test", "speech"):
        assert re.search(rf"\b{event_type}: \"", en), event_type
        assert re.search(rf"\b{event_type}: \"", ja), event_type
