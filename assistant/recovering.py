"""When a call into the sound system never returns: find out whether this process is to blame, and start it anew.

A sound server that is restarted on an overloaded machine can leave a call of ALSA's pulse plugin waiting for ever. All
of PortAudio waits for it, so no microphone of this process is heard again, while any other process opens the same
one at once. That is what is tried before anything is done: where another process cannot open it either, the reason
lies outside, and starting anew would only make the other rooms deaf for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from assistant import portaudio
from assistant.audio.microphone import Microphone
from assistant.errors import SourceError
from assistant.waiting import at_most

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from assistant.events import Chunk

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds
STUCK_SECONDS = 45.0  # an ordinary call gives up after 10, one that a frozen server answers late comes back before
TRY_SECONDS = 20.0  # for another process to start and open a microphone
TRY_AGAIN = 60.0  # seconds after no microphone could be opened elsewhere either
OPENS = "from assistant.recovering import opens; raise SystemExit(opens())"


async def watch(silent: Callable[[], Sequence[str]], restart: Callable[[], None] | None) -> None:
    """Call `restart` when PortAudio hangs here though another process can open one of the `silent` microphones.

    `silent` names the microphones that are not heard now. Without a `restart` only the log tells it.
    """
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if portaudio.stuck(time.monotonic()) < STUCK_SECONDS:
            continue
        tried = False
        for name in silent():
            tried = True
            if not await opens_elsewhere(name):
                log.debug("%s does not open in another process either: the reason lies outside", name)
                continue
            if portaudio.stuck(time.monotonic()) < STUCK_SECONDS:
                break
            log.error(
                "a call into the sound system has not returned for %.0f s, and %s opens in another process: %s",
                portaudio.stuck(time.monotonic()),
                name,
                "remedy: restart the daemon" if restart is None else "starting anew",
            )
            if restart is not None:
                restart()
            return
        if tried:
            await asyncio.sleep(TRY_AGAIN)


async def opens_elsewhere(name: str) -> bool:
    """Whether another process gets a first chunk of this microphone within `TRY_SECONDS`."""
    nothing = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPENS, name, stdin=nothing, stdout=nothing, stderr=nothing
    )
    try:
        async with asyncio.timeout(TRY_SECONDS):
            return await process.wait() == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await at_most(1.0, process.wait())  # a driver may hold it


def opens() -> int:
    """In the other process: 0 when the microphone that the command line names gives a chunk."""

    async def first() -> bool:
        async with aclosing(cast("AsyncGenerator[Chunk]", Microphone("", sys.argv[1]).chunks())) as chunks:
            async for _ in chunks:
                return True
        return False

    try:
        return 0 if asyncio.run(first()) else 1
    except SourceError:
        return 1
