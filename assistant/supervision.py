"""What a supervisor is told: systemd's notification protocol (sd_notify), without a library.

The protocol is one datagram of `NAME=value` lines to the socket that $NOTIFY_SOCKET names. The packages that speak it
are either no longer kept or compile against libsystemd: more to carry than the ten lines of `notify`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from assistant.errors import AssistantError

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds between two looks at the daemon, fewer where the watchdog is shorter
ALIVE = "KIKIMIMI_ALIVE"  # names a file for where nobody listens to notifications: in a container
ALIVE_SECONDS = 60.0  # without progress for so long it is not alive
SEND_SECONDS = 1.0  # for the supervisor to take a datagram
STATUS_LIMIT = 300  # characters


def notify(*lines: str) -> bool:
    """Tell the supervisor, if there is one. Whether it took it; never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # a name in Linux's abstract space
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as supervisor:
            supervisor.settimeout(SEND_SECONDS)
            supervisor.connect(address)
            supervisor.sendall("\n".join(lines).encode())
    except OSError as error:
        log.debug("the supervisor was not told %s: %s", lines[0], error)
        return False
    return True


def beat() -> None:
    """There is progress: tell the supervisor, and leave the time in the file of $KIKIMIMI_ALIVE; never raises."""
    notify("WATCHDOG=1")
    if ALIVE not in os.environ:
        return
    path = Path(os.environ[ALIVE])
    try:
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(f"{time.monotonic():.3f}", "ascii")
        temporary.replace(path)
    except OSError as error:
        log.debug("%s cannot be written: %s", path, error)


def check_alive() -> None:
    """Raise `AssistantError` when the daemon of this container made no progress for a minute."""
    path = Path(os.environ.get(ALIVE, ""))
    if ALIVE not in os.environ:
        raise AssistantError(f"{ALIVE} is not set; remedy: set it to a file for the daemon and for this command")
    try:
        age = time.monotonic() - float(path.read_text("ascii"))
    except (OSError, ValueError):
        raise AssistantError(f"{path}: no daemon has left its time there") from None
    if not 0.0 <= age <= ALIVE_SECONDS:  # below zero: it is of before the machine was started
        raise AssistantError(f"no progress for {abs(age):.0f} s; its log says what hangs")


def reloading() -> None:
    """The configuration is read again; `notify("READY=1")` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """Within how many seconds the supervisor wants to hear that there is progress; None: it does not."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
        meant = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return microseconds / 1e6 if microseconds > 0 and meant == os.getpid() else None


@asynccontextmanager
async def supervised(
    ready: Callable[[], Awaitable[None]], status: Callable[[], str], hanging: Callable[[], str | None]
) -> AsyncIterator[None]:
    """Keep the supervisor informed meanwhile; without one nothing happens.

    `READY=1` follows `ready`, `STATUS=` is `status` whenever that has changed, and `WATCHDOG=1` is sent only while
    `hanging` knows of nothing that makes no progress.
    """
    if "NOTIFY_SOCKET" not in os.environ and ALIVE not in os.environ:
        yield
        return
    telling = asyncio.create_task(_tell(ready, status, hanging), name="supervision")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait((telling,))
        if not telling.cancelled() and (error := telling.exception()) is not None:
            log.error("the supervisor was told nothing any more", exc_info=error)


async def _tell(
    ready: Callable[[], Awaitable[None]], status: Callable[[], str], hanging: Callable[[], str | None]
) -> None:
    await ready()
    notify("READY=1", f"STATUS={_line(status())}")
    watchdog = watchdog_seconds()
    told, stuck = "", False
    while True:
        what = hanging()
        now = _line(status() if what is None else f"no progress: {what}")
        if what is None:
            beat()
        elif not stuck:
            end = "" if watchdog is None else f"; the supervisor ends this within {watchdog:.0f} s"
            log.error("%s%s", now, end)
        stuck = what is not None
        if now != told and notify(f"STATUS={now}"):
            told = now
        await asyncio.sleep(LOOK_EVERY if watchdog is None else min(LOOK_EVERY, watchdog / 4))


def _line(text: str) -> str:
    return " ".join(text.split())[:STATUS_LIMIT]
