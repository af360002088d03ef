"""Ask in a real browser: its (fake) microphone, the real Whisper, answers that stop, and what is said without https."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from houses import House
from playwright.async_api import Browser, Page, expect
from test_app import until
from test_app_commands import spoken
from test_page_shell import serious

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3

Make = Callable[..., House]
# What the fake microphone hears. The browser begins it anew whenever the microphone is opened, and repeats it.
HEARD = Path(tempfile.gettempdir()) / f"kikimimi-fake-microphone-{os.getpid()}.wav"
MICROPHONE = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    f"--use-file-for-fake-audio-capture={HEARD}",
]
with_microphone = pytest.mark.parametrize("browser", [MICROPHONE], indirect=True)
SPEAK = "say: {enabled: true}\n"
pytestmark = pytest.mark.timeout(300)  # each starts a daemon, some load two models


@pytest.fixture(scope="module", autouse=True)
def _microphone() -> Any:
    said = asyncio.run(spoken("Please turn on the kitchen light."))
    soundfile.write(HEARD, placed(noise(8.0, -65.0), said, 0.7), SAMPLE_RATE, subtype="PCM_16")
    yield
    HEARD.unlink()


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, noise(300.0, -60.0), SAMPLE_RATE, subtype="PCM_16")
    return path


@with_microphone
async def test_a_question_about_a_recording_of_the_microphone(
    house: Make, page: Page, quiet: Path, whisper_base_path: Path
) -> None:
    here = house(speech=True).start("--source", f"kitchen={quiet}")
    await page.goto(f"{here.url}#/ask")
    await expect(page.get_by_role("heading", name="Ask about what is heard")).to_be_visible(timeout=30_000)
    await expect(page.get_by_text("kikimimi doctor")).to_be_visible()  # what the rest needs
    assert not await serious(page)
    await page.get_by_role("button", name="Record").click()
    await expect(page.get_by_role("timer")).to_contain_text("0:05", timeout=15_000)
    await expect(page.get_by_role("button", name="Stop")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Play Recording")).to_be_visible()
    await page.get_by_role("button", name="Write down").click()
    answer = page.locator(".answer").first
    await expect(answer).to_contain_text("kitchen light", timeout=20_000)
    await expect(answer).to_contain_text("by whisper-base")
    await page.get_by_role("button", name="kitchen", exact=True).click()
    await expect(page.locator(".word.lit")).to_have_text("kitchen")
    await expect(page.locator(".word.lit")).to_have_count(0)  # it ends with the word
    await page.get_by_role("button", name="Find a word…").click()
    await page.get_by_label("Words to find").fill("light")
    await page.keyboard.press("Enter")
    found = page.locator(".answer").nth(1)
    await expect(found.get_by_role("button")).to_have_text(re.compile(r"^0:0[123]\.\d–0:0[123]\.\d$"))
    await page.get_by_role("button", name="Emotion").click()
    await expect(page.get_by_text("This needs an audio language model")).to_be_visible()
    assert not await serious(page)
    address = page.url
    assert re.search(r"#/ask/chat/[0-9A-Z]{26}$", address)
    await page.reload()
    await expect(page.locator(".answer").first).to_contain_text("kitchen light")
    await page.get_by_role("button", name=re.compile("Delete the chat")).click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No chats yet")).to_be_visible()
    assert here.call("GET", "ask/chats")[1] == []


@with_microphone
async def test_practice_shows_what_was_understood_and_what_it_means(
    house: Make, page: Page, quiet: Path, whisper_base_path: Path
) -> None:
    here = house(speech=True, settings=SPEAK).start("--source", f"kitchen={quiet}")
    await page.goto(f"{here.url}#/ask/practice")
    await page.get_by_label("I am learning").select_option("en")
    await page.get_by_label("I speak").select_option("ja")
    await expect(page.get_by_text("Translation into Japanese needs an audio language model")).to_be_visible()
    await page.get_by_role("button", name="Press and speak").click()
    await asyncio.sleep(4.5)
    await page.get_by_role("button", name="Press when you are done").click()
    tries = page.locator(".try")
    await expect(tries.first).to_contain_text("kitchen light", timeout=20_000)
    async with page.expect_response(re.compile("/api/ask/say")) as said:
        await tries.first.get_by_role("button", name="Hear the voice").click()
    assert (await said.value).ok
    await tries.first.get_by_role("button", name="Hear yourself", exact=True).click()
    await expect(tries.first.get_by_role("button", name="Pause Hear yourself")).to_be_visible()
    await tries.first.get_by_role("button", name="turn", exact=True).click()
    await expect(page.locator(".word.lit")).to_have_text("turn")
    assert not await serious(page)
    # Whisper translates into English by itself, so a language is learned from English.
    await page.get_by_label("I am learning").select_option("de")
    await page.get_by_label("I speak").select_option("en")
    await page.get_by_role("button", name="Press and speak").click()
    await asyncio.sleep(4.5)
    await page.get_by_role("button", name="Press when you are done").click()
    await expect(tries).to_have_count(2, timeout=20_000)
    await expect(tries.first).to_contain_text("What it means · English", timeout=30_000)
    await expect(page.get_by_role("heading", name="Earlier tries")).to_be_visible()
    await page.reload()
    await expect(tries).to_have_count(2)
    await tries.first.get_by_role("button", name="Delete this try").click()
    await expect(tries).to_have_count(1)


@pytest.mark.slow
async def test_an_answer_of_a_language_model_can_be_stopped(
    house: Make, page: Page, quiet: Path, qwen_audio_checkpoint: Path, tmp_path: Path
) -> None:
    llm = f"{{checkpoint: {qwen_audio_checkpoint}, device: cpu, dtype: float32}}"
    here = house(settings=f"profile: hybrid\nmodels: {{audio_llm: {llm}}}\n").start("--source", f"kitchen={quiet}")
    await until(lambda: here.call("GET", "ask")[1]["status"] == "ready", 60.0)
    clip = tmp_path / "noise.wav"
    soundfile.write(clip, noise(2.0, -30.0), SAMPLE_RATE)
    await page.goto(f"{here.url}#/ask")
    await page.get_by_label("Upload a file").set_input_files(clip)
    await expect(page.get_by_role("checkbox", name="Ask about noise.wav")).to_be_checked()
    question = page.get_by_role("textbox", name="Your question")
    await question.fill("What do you hear?")
    await question.press("Enter")
    await expect(page.locator(".answer .prose")).not_to_be_empty(timeout=20_000)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".answer").first).to_contain_text("Stopped.")
    await question.fill("And now?")
    await question.press("Enter")
    await expect(page.locator(".answer").nth(1).locator(".prose")).not_to_be_empty(timeout=20_000)
    await page.keyboard.press("Escape")
    await expect(page.locator(".answer").nth(1)).to_contain_text("Stopped.")
    await expect(page.get_by_role("textbox", name="Your question")).to_be_enabled()
    assert not await serious(page)
    (chat,) = here.call("GET", "ask/chats")[1]
    turns = here.call("GET", f"ask/chats/{chat['id']}")[1]["turns"]
    assert [turn["ended"] for turn in turns] == ["stopped", "stopped"]
    assert len(turns[0]["clips"]) == 1
    assert turns[1]["clips"] == []  # the model remembers them
    await question.fill("Go on.")
    await question.press("Enter")
    await expect(page.locator(".answer").nth(2).locator(".prose")).not_to_be_empty(timeout=20_000)
    await page.goto("about:blank")  # whoever leaves wants no answer
    await until(lambda: here.call("GET", f"ask/chats/{chat['id']}")[1]["turns"][2]["ended"] == "stopped")


def other_address() -> str:
    """An address of this machine that is not loopback."""
    told = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    addresses = [one for one in told if "." in one]
    if not addresses:
        pytest.skip("this machine has no address but loopback; remedy: a network")
    return addresses[0]


@with_microphone
async def test_without_https_it_says_so_and_offers_files_and_rooms(
    house: Make, browser: Browser, quiet: Path, tmp_path: Path, whisper_base_path: Path
) -> None:
    address = other_address()
    settings = "web: {port: {web_port}, host: 0.0.0.0, password: '${PAGE_PASSWORD}'}\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGE_PASSWORD", "correct horse")
        here = house(speech=True, settings=settings).start("--source", f"kitchen={quiet}")
    context = await browser.new_context(locale="en-GB")
    context.set_default_timeout(15_000)
    page = await context.new_page()
    await page.goto(f"http://{address}:{here.port}/#/ask")
    assert await page.evaluate("isSecureContext") is False
    await page.get_by_label("Password").fill("correct horse")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_text("only over https or on the machine itself")).to_be_visible(timeout=30_000)
    await expect(page.get_by_role("button", name="Record", exact=True)).to_have_count(0)
    await page.get_by_label("Upload a file").set_input_files(HEARD)
    await page.get_by_role("button", name="Write down").click()
    await expect(page.locator(".answer").first).to_contain_text("kitchen light", timeout=20_000)
    await page.get_by_role("button", name="From a room").click()
    await page.get_by_label("Length").select_option("30")
    await page.get_by_role("button", name="Record now").click()
    await expect(page.get_by_text("kitchen is being recorded…")).to_be_visible()
    await asyncio.sleep(1.5)
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("button", name="Play kitchen")).to_be_visible()
    await page.goto(f"http://{address}:{here.port}/#/ask/practice")
    await expect(page.get_by_text("only over https or on the machine itself")).to_be_visible()
    await expect(page.get_by_label("Microphone")).to_have_value("room kitchen")
    await expect(page.get_by_role("button", name="Press and speak")).to_be_enabled()
    assert not await serious(page)
    await context.close()


async def test_the_clip_of_a_past_event_is_asked_about(house: Make, page: Page, tmp_path: Path) -> None:
    recording = tmp_path / "kitchen.wav"
    soundfile.write(recording, placed(noise(120.0, -60.0), 0.2 * t3(cycles=2), 4.0), SAMPLE_RATE, subtype="PCM_16")
    settings = "clips: {enabled: true, keep: [any]}\n"
    here = house(settings=settings).start("--source", f"kitchen={recording}")
    folder = here.folder / "state" / "kikimimi" / "clips"
    await until(lambda: list(folder.rglob("*.flac")), 60.0)
    event = next(folder.rglob("*.flac")).stem
    await page.goto(f"{here.url}#/events/{event}")
    await page.get_by_role("link", name="Ask about the recording").click()
    await expect(page.get_by_role("button", name=re.compile("^Play .* in kitchen"))).to_be_visible(timeout=20_000)
    await page.get_by_role("button", name="Name sounds").click()
    await expect(page.locator(".answer .time").first).to_be_visible(timeout=20_000)
    assert re.search(r"#/ask/chat/[0-9A-Z]{26}$", page.url)
    await page.get_by_role("button", name="A past event").click()
    await expect(page.get_by_role("dialog").get_by_text("Smoke alarm").first).to_be_visible()
    assert not await serious(page)
    await page.get_by_role("dialog").get_by_role("button", name="Take").first.click()
    await expect(page.get_by_role("checkbox", name=re.compile("Ask about .* in kitchen"))).to_have_count(2)


async def test_what_is_no_audio_is_told_once_and_the_page_goes_on(
    house: Make, page: Page, quiet: Path, tmp_path: Path
) -> None:
    page.excused += ["409"]  # type: ignore[attr-defined]
    here = house().start("--source", f"kitchen={quiet}")
    letter = tmp_path / "letter.wav"
    letter.write_text("dear sir or madam")
    beep = tmp_path / "beep.flac"
    soundfile.write(beep, 0.3 * np.sin(np.arange(SAMPLE_RATE) / 3), SAMPLE_RATE)
    await page.goto(f"{here.url}#/ask")
    await page.get_by_label("Language").select_option("ja")
    await page.get_by_label("外観").select_option("dark")
    await page.get_by_label("ファイルを選ぶ").set_input_files(letter)
    await expect(page.get_by_text("letter.wav: neither libsndfile nor FFmpeg")).to_be_visible()
    await page.get_by_label("ファイルを選ぶ").set_input_files(beep)
    await page.get_by_role("button", name="音の名前").click()
    await expect(page.locator(".answer").first).to_contain_text("yamnet", timeout=20_000)
    await page.get_by_role("button", name="文字起こし").click()
    await expect(page.get_by_text("音声認識が必要です")).to_be_visible()
    assert not await serious(page)
