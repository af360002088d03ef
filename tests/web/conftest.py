"""A daemon with a page, and a real Chromium that looks at it."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from houses import FLAGS, House, chromium
from playwright.async_api import Browser, Page, async_playwright


@pytest.fixture
def house(tmp_path: Path, yamnet_path: Path) -> Iterator[Callable[..., House]]:
    """A maker of houses: `house(settings=…).start("--source", "kitchen=FILE")`. All are stopped at the end."""
    made: list[House] = []

    def make(**options: Any) -> House:
        folder = tmp_path / f"house{len(made)}"
        folder.mkdir()
        made.append(House(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(obj: object) -> None:
    """One loop for all tests of the page: the browser lives in it."""
    if inspect.iscoroutinefunction(obj):
        pytest.mark.asyncio(loop_scope="session")(obj)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def launch() -> AsyncIterator[Callable[[Sequence[str]], Awaitable[Browser]]]:
    """Chromium with more flags; each set of them is started once for all tests."""
    program = chromium()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed: apt-get install chromium")
    started: dict[tuple[str, ...], Browser] = {}
    async with async_playwright() as playwright:

        async def with_flags(flags: Sequence[str]) -> Browser:
            one = started.get(tuple(flags))
            if one is None or not one.is_connected():
                one = await playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
                started[tuple(flags)] = one
            return one

        yield with_flags
        for one in started.values():
            await one.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browser(
    request: pytest.FixtureRequest, launch: Callable[[Sequence[str]], Awaitable[Browser]]
) -> AsyncIterator[Browser]:
    """Chromium; `@pytest.mark.parametrize("browser", [["--flag"]], indirect=True)` adds flags."""
    one = await launch(getattr(request, "param", ()))
    yield one
    for context in one.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page in English at 1280 × 800 that may neither fail nor ask another host for anything."""
    async for one in watched(browser, locale="en-GB"):
        yield one


async def watched(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page whose mistakes are found at its end. `page.excused`: texts of console errors that are meant."""
    context = await browser.new_context(
        **{
            "viewport": {"width": 1280, "height": 800},
            "reduced_motion": "reduce",
            **options,
        }  # axe sees colours at rest
    )
    context.set_default_timeout(15_000)
    page = await context.new_page()
    mistakes: list[str] = []
    excused: list[str] = []
    page.excused = excused  # type: ignore[attr-defined]
    hosts: set[str] = set()
    page.on("pageerror", lambda error: mistakes.append(f"{error.name}: {error.message}"))
    page.on(
        "console",
        lambda message: mistakes.append(f"{message.text} {message.location}") if message.type == "error" else None,
    )
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
    yield page
    await context.close()
    assert hosts <= {"", "127.0.0.1", "localhost"}, hosts
    left = [one for one in mistakes if not any(text in one for text in excused)]
    assert not left, left
