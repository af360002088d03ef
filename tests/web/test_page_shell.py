"""The page in a real browser: it opens, is safe, speaks two languages, asks for a password, finds the way back."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from axe_playwright_python.async_playwright import Axe
from houses import House
from playwright.async_api import Browser, Page, expect

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3
from assistant.web.server import STATIC

Make = Callable[..., House]
PAGES = [path.stem for path in (STATIC / "pages").glob("*.js")]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A quiet minute with an alarm in it."""
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, placed(noise(60.0, -60.0), 0.2 * t3(cycles=5), 20.0), SAMPLE_RATE, subtype="PCM_16")
    return path


async def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps people out."""
    found = await Axe().run(page, options={"preload": False})  # it would make styles, which the policy forbids
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found.response["violations"]
        if one["impact"] in {"serious", "critical"}
    ]


async def test_it_shows_the_rooms_and_a_switch_turns_one_off(house: Make, page: Page, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    await page.goto(here.url)
    await expect(page).to_have_title("Now · Kikimimi")
    await expect(page.get_by_role("heading", name="kitchen")).to_be_visible()
    await expect(page.get_by_text("Listening", exact=True)).to_be_visible()
    await page.get_by_role("switch", name="Listen here").click()
    await expect(page.get_by_text("Switched off", exact=True)).to_be_visible()
    assert here.call("GET", "rooms")[1]["rooms"][0]["presence"] == "disabled"
    assert not await serious(page)


async def test_it_says_that_the_daemon_is_gone_and_finds_it_again(house: Make, page: Page, recording: Path) -> None:
    page.excused += ["WebSocket connection to", "Failed to load resource"]  # type: ignore[attr-defined]
    here = house().start("--source", f"kitchen={recording}")
    await page.goto(here.url)
    await expect(page.get_by_text("Listening", exact=True)).to_be_visible()
    here.stop()
    await expect(page.get_by_text("The connection to Kikimimi is lost")).to_be_visible()
    here.start("--source", f"kitchen={recording}")
    await expect(page.get_by_text("The connection to Kikimimi is lost")).to_be_hidden(timeout=20_000)


async def test_a_password_is_asked_for_and_kept(house: Make, browser: Browser, page: Page, recording: Path) -> None:
    page.excused += ["401", "Failed to load resource"]  # type: ignore[attr-defined]
    settings = "web: {port: {web_port}, password: '${PAGE_PASSWORD}'}\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGE_PASSWORD", "correct horse")
        here = house(settings=settings).start("--source", f"kitchen={recording}")
    assert here.call("GET", "rooms")[0] == 401
    assert here.call("GET", "rooms", headers={"authorization": "Bearer wrong"})[0] == 401
    assert here.call("GET", "rooms", headers={"authorization": "Bearer correct horse"})[0] == 200
    await page.goto(here.url)
    await page.get_by_label("Password").fill("wrong")
    before = time.monotonic()
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert")).to_contain_text("not the password")
    assert time.monotonic() - before >= 1.0
    assert not await serious(page)
    await page.get_by_label("Password").fill("correct horse")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="kitchen")).to_be_visible()
    (cookie,) = await page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["path"] == "/api"
    await page.reload()
    await expect(page.get_by_role("heading", name="kitchen")).to_be_visible()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_label("Password")).to_be_visible()
    assert "correct horse" not in here.log.read_text()


async def test_japanese_and_dark_are_remembered(house: Make, page: Page, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    await page.goto(here.url)
    await page.get_by_label("Appearance").select_option("dark")
    await page.get_by_label("Language").select_option("ja")
    await expect(page.get_by_role("heading", name="いま")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="いま")).to_be_visible()
    assert await page.evaluate("document.documentElement.dataset.theme + document.documentElement.lang") == "darkja"
    assert not await serious(page)


def test_other_names_and_other_pages_are_refused(house: Make, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    off = {"on": False}
    assert here.call("GET", "rooms", headers={"host": "evil.example"})[0] == 421
    assert here.call("PUT", "rooms/listening", off, {"origin": "http://evil.example"})[0] == 403
    assert here.call("PUT", "rooms/listening", off, {"origin": "null"})[0] == 403
    assert here.call("GET", "rooms", headers={"sec-fetch-site": "cross-site"})[0] == 403
    assert here.call("GET", "rooms", headers={"sec-fetch-site": "same-site"})[0] == 403
    assert here.call("GET", "rooms")[1]["listening"] is True
    assert here.call("PUT", "rooms/listening", off, {"origin": here.url.rstrip("/")})[0] == 204
    assert here.call("PUT", "rooms/nowhere/listening", off)[0] == 404
    assert here.call("PUT", "rooms/kitchen/listening", {"on": "x" * 2_000_000})[0] == 413
    status, answer = here.call("PUT", "rooms/kitchen/listening", {"on": "maybe"})
    assert (status, answer["detail"][0]["loc"]) == (422, ["body", "on"])


async def test_a_reverse_proxy_may_put_a_prefix_before_it(house: Make, page: Page, recording: Path) -> None:
    """As Home Assistant's ingress does: another host and port, and a path that changes with each session."""
    import asyncio  # noqa: PLC0415

    here = house().start("--source", f"kitchen={recording}")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        head = head.replace(b" /ingress/abc/", b" /", 1)
        if b"Upgrade:" not in head:
            head = head.replace(b"Connection: keep-alive", b"Connection: close")
        up, down = await asyncio.open_connection("127.0.0.1", here.port)
        down.write(head)
        await asyncio.gather(pump(reader, down), pump(up, writer), return_exceptions=True)

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await page.goto(f"http://127.0.0.1:{port}/ingress/abc/")
    await expect(page.get_by_role("heading", name="kitchen")).to_be_visible()
    await page.get_by_role("switch", name="Listen here").click()
    await expect(page.get_by_text("Switched off", exact=True)).to_be_visible()
    server.close()


def test_the_openapi_description_is_there_and_metrics_are(house: Make, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    status, description = here.call("GET", "openapi.json")
    assert status == 200
    assert "/api/rooms" in description["paths"]
    with urllib.request.urlopen(f"{here.url}metrics", timeout=10) as answer:
        assert 'kikimimi_room_online{room="kitchen"}' in answer.read().decode()


async def test_every_page_has_the_same_texts_in_both_languages(house: Make, page: Page, recording: Path) -> None:
    here = house().start("--source", f"kitchen={recording}")
    await page.goto(here.url)
    missing = await page.evaluate(
        """async (names) => {
            for (const name of names) await import(new URL(`static/pages/${name}.js`, document.baseURI));
            const { known } = await import(new URL("static/i18n.js", document.baseURI));
            const keys = (words) => Object.keys(words).sort().join();
            return known.filter(({ en, ja }) => keys(en) !== keys(ja)).map(({ en, ja }) =>
                [...Object.keys(en).filter((key) => !(key in ja)), ...Object.keys(ja).filter((key) => !(key in en))]);
        }""",
        PAGES,
    )
    assert not missing
