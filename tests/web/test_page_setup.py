"""The page Set up in a real browser: from nothing to the first event, and the settings afterwards."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import re
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from houses import FreshHouse, House
from outputs.brokers import Mosquitto, Subscriber, free_port
from playwright.async_api import Browser, Page, expect
from sound_server import VARIABLES
from test_page_shell import serious
from test_setup_api import mosquitto, with_passwords  # noqa: F401 (a fixture)

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3

Make = Callable[..., House]


def played(folder: Path, samples: np.ndarray, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start to play it before the microphone."""
    path = folder / f"play{time.monotonic_ns()}.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return subprocess.Popen(["paplay", str(path)], env={**os.environ, **environment})


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)


@pytest.fixture
def camera() -> Iterator[str]:
    """The URL of a stream that says a little and stays."""
    content = io.BytesIO()
    soundfile.write(content, noise(60.0, -50.0), SAMPLE_RATE, format="WAV")
    ended = threading.Event()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "audio/wav")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content.getvalue())
                ended.wait(120)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}/live"
        ended.set()
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(Path("/proc/asound/card0").exists(), reason="this machine has a sound card; remedy: a container")
async def test_without_a_microphone_a_camera_is_set_up(
    tmp_path: Path, camera: str, page: Page, yamnet_path: Path, whisper_base_path: Path
) -> None:
    page.excused += ["WebSocket connection to", "Failed to load resource"]  # type: ignore[attr-defined]
    here = FreshHouse(tmp_path)
    here.environment = {"PULSE_SERVER": "unix:/nowhere"}
    here.start()
    try:
        await page.goto(here.url)
        await expect(page.get_by_text("No microphone was found.")).to_be_visible(timeout=30_000)
        await page.get_by_label("Name of the room").fill("Nursery")
        await page.get_by_label("Camera or satellite").check()
        await page.get_by_label("Its address").fill("/etc/passwd")
        assert not await serious(page)
        for _ in range(3):
            await page.get_by_role("button", name="Next").click()
        await page.get_by_role("button", name="Save and go on").click()
        await expect(page.get_by_text("neither a microphone nor the address of a camera")).to_be_visible()
        assert not here.config.exists()
        for _ in range(3):
            await page.get_by_role("button", name="Back").click()
        await page.get_by_label("Its address").fill(camera)
        for _ in range(3):
            await page.get_by_role("button", name="Next").click()
        await page.get_by_role("button", name="Save and go on").click()
        await expect(page.get_by_role("heading", name="Test alert")).to_be_visible(timeout=90_000)
        await page.get_by_role("link", name="See what is heard now").click()
        await expect(page.get_by_role("heading", name="Nursery")).to_be_visible()
        await expect(page.get_by_text("Listening", exact=True)).to_be_visible(timeout=30_000)
        assert camera in here.config.read_text()
        assert stat.S_IMODE(here.config.stat().st_mode) == 0o600
        assert "secret" not in await page.content()
        assert "secret" not in here.log.read_text()
    finally:
        here.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_from_nothing_to_the_first_event(  # noqa: PLR0917 (fixtures)
    tmp_path: Path,
    pulse: tuple[dict[str, str], int],
    mosquitto: Mosquitto,  # noqa: F811
    browser: Browser,
    page: Page,
    yamnet_path: Path,
    whisper_base_path: Path,
) -> None:
    page.excused += ["WebSocket connection to", "Failed to load resource"]  # type: ignore[attr-defined]
    with_passwords(mosquitto, tmp_path).start()
    (tmp_path / "fresh").mkdir()
    here = FreshHouse(tmp_path / "fresh")
    sound = {name: pulse[0][name] for name in VARIABLES}
    here.environment = sound
    here.start()
    client = Subscriber(mosquitto.port)
    background = played(tmp_path, noise(280.0, -60.0), sound)
    try:
        await page.goto(here.url)
        await expect(page.get_by_role("heading", name="Let’s set up your house")).to_be_visible()
        assert not here.config.exists()

        # microphone
        await expect(page.get_by_text("Clap now")).to_be_visible()
        await expect(page.get_by_text("no certified alarm")).to_be_visible()
        await page.get_by_label("Name of the room").fill("Living room")
        await expect(page.get_by_role("meter")).to_have_attribute(
            "aria-valuetext", re.compile("dB, noise"), timeout=30_000
        )
        await page.wait_for_timeout(2_000)
        assert not await serious(page)
        clap = np.zeros(SAMPLE_RATE, np.float32)
        burst = np.random.default_rng(1).normal(0, 0.3, 1600) * np.exp(-np.arange(1600) / 300)
        clap[8000:9600] = burst.astype(np.float32)
        played(tmp_path, np.clip(clap, -1, 1), sound).wait(10)
        await expect(page.get_by_text("Heard you clap!")).to_be_visible(timeout=10_000)
        await page.get_by_role("button", name="Next").click()

        # what to hear
        await expect(page.get_by_role("heading", name="What to hear")).to_be_focused()
        await page.get_by_role("button", name="Bird").click()
        await expect(page.get_by_text("25 of 26 kinds of sound are told")).to_be_visible()
        assert not await serious(page)
        await page.get_by_role("button", name="Next").click()

        # where to send: a wrong password first
        await page.get_by_text("My MQTT broker").click()
        await page.get_by_label("Host").fill("127.0.0.1")
        await page.get_by_label("Port").fill(str(mosquitto.port))
        await page.get_by_label("User name").fill("home")
        await page.get_by_role("textbox", name="Password").fill("wrong horse")
        await page.get_by_role("button", name="Test the connection").click()
        await expect(page.get_by_text("It fails at: Login")).to_be_visible(timeout=20_000)
        await page.get_by_role("textbox", name="Password").fill("correct horse")
        await page.get_by_role("button", name="Test the connection").click()
        await expect(page.get_by_text("The broker works.")).to_be_visible(timeout=20_000)
        assert not await serious(page)
        await page.get_by_role("button", name="Next").click()

        # privacy, then all of it is written and used
        assert not await serious(page)
        assert not here.config.exists()
        await page.get_by_role("button", name="Save and go on").click()
        await expect(page.get_by_role("heading", name="Test alert")).to_be_visible(timeout=90_000)
        written = here.config.read_text()
        assert stat.S_IMODE(here.config.stat().st_mode) == 0o600
        assert '  home:\n    source: default\n    name: "Living room"\n' in written or "name: Living" in written
        assert "ignore: [bird]" in written
        assert "correct horse" not in written

        # a test alert
        await page.get_by_role("button", name="Send a test alert").click()
        await expect(page.get_by_text(re.compile(r"It arrived, [\d.]+ s later"))).to_be_visible(timeout=30_000)
        assert not await serious(page)
        await page.get_by_role("link", name="See what is heard now").click()
        await expect(page.get_by_role("heading", name="Living room")).to_be_visible()

        # the first event
        client = subscriber_with_password(mosquitto.port)
        await expect(page.get_by_text("Listening", exact=True)).to_be_visible(timeout=30_000)
        alarm = played(tmp_path, placed(noise(20.0, -60.0), 0.2 * t3(cycles=4), 1.0), sound)
        deadline = time.monotonic() + 40
        while not any("smoke_alarm" in one for one in client.payloads("kikimimi/home/event")):
            assert time.monotonic() < deadline, here.log.read_text()[-3000:]
            await page.wait_for_timeout(200)
        ended(alarm)

        # it never opens by itself again, in no browser
        await page.goto(here.url)
        await expect(page).to_have_title("Now · Kikimimi")
        context = await browser.new_context()
        other = await context.new_page()
        await other.goto(here.url)
        await expect(other).to_have_title("Now · Kikimimi")
        await context.close()
    finally:
        client.stop()
        ended(background)
        here.stop()


def subscriber_with_password(port: int) -> Subscriber:
    """A client that logs in."""
    import paho.mqtt.client as paho  # noqa: PLC0415
    from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

    client = Subscriber(port)
    client._client = paho.Client(CallbackAPIVersion.VERSION2)
    client._client.username_pw_set("home", "correct horse")
    client._client.on_connect = lambda one, *_: one.subscribe("#", 1)
    client._client.on_subscribe = lambda *_: client.subscribed.set()
    client._client.on_message = client._record
    client._client.connect("127.0.0.1", port)
    client._client.loop_start()
    assert client.subscribed.wait(10)
    return client


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, noise(300.0, -60.0), SAMPLE_RATE, subtype="PCM_16")
    return path


async def test_settings_are_changed_tried_and_undone(house: Make, page: Page, quiet: Path) -> None:
    here = house(settings=f"rooms: {{kitchen: {{source: '{quiet}', name: Kitchen}}}}\n").start()
    before = here.config.read_bytes()
    await page.goto(here.url)
    await expect(page).to_have_title("Now · Kikimimi")  # there is a configuration: no guide
    await page.goto(f"{here.url}#/setup")
    await expect(page.get_by_text("no certified alarm")).to_be_visible()
    await page.get_by_label("Name of the room").fill("台所")
    await page.get_by_role("button", name="Save: Microphone").click()
    await expect(page.get_by_text("Kikimimi follows it already")).to_be_visible()
    assert here.config.read_text() == before.decode().replace("name: Kitchen", 'name: "台所"')
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_text("The former version is back.")).to_be_visible()
    assert here.config.read_bytes() == before
    # a broker that is not there, one that does not listen
    await page.get_by_text("My MQTT broker").click()
    await page.get_by_label("Host").fill("no-such-host.invalid")
    await page.get_by_role("button", name="Test the connection").click()
    await expect(page.get_by_text("It fails at: Name is known (DNS)")).to_be_visible(timeout=20_000)
    await page.get_by_label("Host").fill("127.0.0.1")
    await page.get_by_label("Port").fill(str(free_port()))
    await page.get_by_role("button", name="Test the connection").click()
    await expect(page.get_by_text("It fails at: Can be reached (TCP)")).to_be_visible(timeout=20_000)
    assert not await serious(page)
    # what needs a restart says so, and can have it
    await page.get_by_role("button", name="Smoke alarm").click()
    await expect(page.get_by_text("Nobody will be told of Smoke alarm.")).to_be_visible()
    await page.get_by_role("button", name="Save: What to hear").click()
    await expect(page.get_by_text("used only after a restart: sounds.")).to_be_visible()
    page.excused += ["WebSocket connection to", "Failed to load resource"]  # type: ignore[attr-defined]
    await page.get_by_role("button", name="Restart now").click()
    await expect(page.get_by_text("Kikimimi starts anew")).to_be_visible()
    await expect(page.get_by_text("Kikimimi starts anew")).to_be_hidden(timeout=60_000)
    await expect(page.get_by_text("used only after a restart: sounds.")).to_be_hidden()
    assert here.call("GET", "setup")[1]["file"]["restart"] == []
    await page.get_by_role("button", name="Send a test alert").click()
    await expect(page.get_by_text(re.compile(r"It arrived, [\d.]+ s later"))).to_be_visible(timeout=30_000)


async def test_a_file_that_cannot_be_changed_is_told(house: Make, page: Page, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}")
    here.config.write_text("rules: [\n")
    await page.goto(f"{here.url}#/setup")
    await expect(page.get_by_text("The configuration file has a mistake")).to_be_visible()
    await expect(page.get_by_text("The rooms were given on the command line")).to_be_visible()
    await expect(page.get_by_role("button", name="Save: Privacy")).to_be_disabled()
    await page.goto(f"{here.url}#/rules")
    await expect(page.get_by_text("The rules below are those that still run")).to_be_visible()
    await expect(page.get_by_role("link", name="New rule")).to_be_hidden()
    assert not await serious(page)
