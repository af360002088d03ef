"""The page Teach in a real browser: from four recordings to an event, tried live, and forgotten again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import chimes
import numpy as np
import pytest
import soundfile
from houses import House
from playwright.async_api import Page, expect
from test_page_shell import serious

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, scaled

Make = Callable[..., House]


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """Five minutes in which the chime rings every ten seconds, each time from elsewhere."""
    bed = noise(300.0, -60.0, seed=3)
    for turn in range(29):
        bed = placed(bed, scaled(chimes.rings(100 + turn % 7), -30.0), 6.0 + 10.0 * turn)
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, np.clip(bed, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    return path


async def begin(page: Page, here: House, title: str) -> None:
    await page.goto(f"{here.url}#/teach/new")
    await page.get_by_label("What is it called?").fill(title)
    await page.get_by_role("button", name="Next").click()
    await expect(page.get_by_text("Record it three to five times")).to_be_visible()


async def test_a_chime_is_taught_tried_heard_and_forgotten(
    house: Make, page: Page, kitchen: Path, tmp_path: Path
) -> None:
    here = house().start("--source", f"kitchen={kitchen}")
    await page.goto(f"{here.url}#/teach")
    await expect(page.get_by_text("Nothing was taught yet")).to_be_visible()
    assert not await serious(page)
    await begin(page, here, "台所のチャイム")
    assert not await serious(page)
    await page.get_by_role("radio", name="Files").check()
    await page.locator("#teach-files").set_input_files(chimes.files(tmp_path / "rings"))
    await expect(page.get_by_text("fits ·")).to_have_count(4, timeout=60_000)
    await expect(page.get_by_text("Clear.", exact=True)).to_be_visible()
    assert not await serious(page)
    await page.get_by_role("button", name="Drop: ring2.wav").click()
    await expect(page.get_by_text("fits ·")).to_have_count(3, timeout=30_000)
    await page.get_by_role("button", name="Next").click()
    await expect(page.get_by_text("Heard!")).to_be_visible(timeout=40_000)
    assert not await serious(page)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("button", name="Forget: 台所のチャイム")).to_be_visible()
    name = here.call("GET", "teach")[1]["sounds"][0]["name"]
    deadline = time.monotonic() + 40
    while f"{name} started" not in here.log.read_text():
        assert time.monotonic() < deadline, here.log.read_text()[-3000:]
        await asyncio.sleep(0.2)
    await page.get_by_role("button", name="Forget: 台所のチャイム").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Home Assistant loses its entities")
    await page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    await expect(page.get_by_text("Nothing was taught yet")).to_be_visible()
    assert here.call("GET", "teach")[1]["sounds"] == []


async def test_a_room_is_recorded_and_what_does_not_fit_is_shown(
    house: Make, page: Page, kitchen: Path, tmp_path: Path
) -> None:
    page.excused += ["409", "Failed to load resource"]  # type: ignore[attr-defined]
    here = house().start("--source", f"kitchen={kitchen}")
    await begin(page, here, "Chime")
    await page.get_by_role("button", name="Record 4 seconds").click()
    await expect(page.get_by_text("Make the sound in")).to_be_visible()
    await expect(page.get_by_text("Recording: make the sound now")).to_be_visible()
    recorded = page.get_by_text("kitchen, ")
    failed = page.get_by_text("no sound is heard in it")  # it was quiet in those four seconds
    await expect(recorded.or_(failed)).to_be_visible(timeout=60_000)
    await page.get_by_role("radio", name="This device").check()
    await expect(page.get_by_role("button", name="Record 4 seconds")).to_be_visible()  # 127.0.0.1 is a secure context
    await page.get_by_role("radio", name="Past events").check()
    await expect(page.get_by_text("No past event has a recording yet.")).to_be_visible()
    await page.get_by_role("radio", name="Files").check()
    wrong = tmp_path / "notes.txt"
    wrong.write_text("not a sound")
    await page.locator("#teach-files").set_input_files([wrong])
    await expect(page.get_by_text("notes.txt: neither libsndfile nor FFmpeg")).to_be_visible(timeout=30_000)


async def test_names_that_are_taken_are_refused_with_the_remedy(house: Make, page: Page, kitchen: Path) -> None:
    page.excused += ["409", "Failed to load resource"]  # type: ignore[attr-defined]
    here = house().start("--source", f"kitchen={kitchen}")
    await page.goto(f"{here.url}#/teach/new")
    await page.get_by_label("What is it called?").fill("Doorbell")
    await page.get_by_role("button", name="Next").click()
    await expect(page.get_by_role("alert")).to_contain_text("my_doorbell")


@pytest.mark.skipif("KIKIMIMI_AUDIO" not in os.environ, reason="KIKIMIMI_AUDIO is not set: a folder with clips/*.flac")
async def test_four_real_recordings_teach_the_fifth(house: Make, page: Page, tmp_path: Path) -> None:
    clips = Path(os.environ["KIKIMIMI_AUDIO"]) / "clips"
    snores = [clips / f"{name}.flac" for name in ("KH_snore_160", "KH_snore_20", "KH_snore_230", "M_sleeping_face")]
    fifth, _ = soundfile.read(clips / "KH_snore_90.flac", dtype="float32")
    bed = noise(240.0, -60.0, seed=3)
    for turn in range(23):
        bed = placed(bed, fifth, 6.0 + 10.0 * turn)
    soundfile.write(tmp_path / "bedroom.wav", np.clip(bed, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    here = house().start("--source", f"bedroom={tmp_path / 'bedroom.wav'}")
    await begin(page, here, "いびき")
    await page.get_by_role("radio", name="Files").check()
    await page.locator("#teach-files").set_input_files(snores)
    await expect(page.get_by_text("fits ·")).to_have_count(4, timeout=60_000)
    await page.get_by_role("button", name="Next").click()
    await expect(page.get_by_text("Heard!")).to_be_visible(timeout=40_000)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("button", name="Forget: いびき")).to_be_visible()
    name = here.call("GET", "teach")[1]["sounds"][0]["name"]
    deadline = time.monotonic() + 40
    while f"{name} started" not in here.log.read_text():
        assert time.monotonic() < deadline, here.log.read_text()[-3000:]
        await asyncio.sleep(0.2)
