"""The server of the page: uvicorn in the daemon's own loop.

FastAPI makes the OpenAPI description of the routes; everything heavy is imported when the server starts, in a thread,
so that an alarm does not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.web.settings import WebSettings

if TYPE_CHECKING:
    from assistant.events import Fact, Publish
    from assistant.web.live import Feed
    from assistant.web.security import Guard
    from assistant.web.services import WebServices

log = logging.getLogger(__name__)

BACKOFF = (1.0, 60.0)  # seconds between attempts to open the port
STATIC = Path(__file__).parent / "static"
CONNECTIONS = 128  # at once; more are answered 503
HEAD_WITHIN = 10.0  # seconds for the head of a request
STOP = 1  # seconds for answers on their way when the daemon ends


class WebServer:
    """The page; `run` it as a lasting part of the daemon, once it knows whom to `ask`."""

    def __init__(self, settings: WebSettings, folder: Path, version: str) -> None:
        """`folder` is that of the state. Nothing is opened before `run`."""
        self._settings, self._folder, self._version = settings, folder, version
        self._services: Callable[[], WebServices] | None = None
        self.feed: Feed | None = None  # while it runs
        self._guard: Guard | None = None
        self.port: int | None = None  # the one it listens on; None while it does not
        self.listening = asyncio.Event()

    def ask(self, services: Callable[[], WebServices]) -> None:
        """Say who answers what pages ask; called when the server starts."""
        self._services = services

    @property
    def url(self) -> str | None:
        """Where people reach it; None: only that it is on this machine is known."""
        return self._settings.public_url

    def offer(self, fact: Fact | Publish) -> None:
        """Tell open pages; never blocks."""
        if self.feed is not None:
            self.feed.offer(fact)

    def tell(self, message: Mapping[str, Any], *, watchers_of: str | None = None) -> None:
        """Tell open pages, or those that watch something, what is no fact for the house; never blocks."""
        if self.feed is not None:
            self.feed.tell(message, watchers_of=watchers_of)

    def change(self) -> None:
        """Rooms came or went."""
        if self.feed is not None:
            self.feed.refresh()

    def health(self) -> Mapping[str, int]:
        """Open pages, what they did not take, and refused requests since the start."""
        return {
            "pages": 0 if self.feed is None else len(self.feed),
            "drops": 0 if self.feed is None else self.feed.drops,
            "refused": 0 if self._guard is None else self._guard.refused,
        }

    async def run(self) -> None:
        """Serve until cancelled. A port that is taken is tried again for ever. Raises `AssistantError`."""
        assert self._services is not None  # noqa: S101 (set by whoever made us)
        secret = self._settings.secret()
        security, application = await asyncio.to_thread(_modules)
        door = security.Door(secret, await asyncio.to_thread(security.key_in, self._folder))
        app, self.feed = application.build(self._services(), door, self._version)
        self._guard = security.Guard(app, door, self._settings.public_url)
        server = application.Server(self._guard, connections=CONNECTIONS, head_within=HEAD_WITHIN, stop=STOP)
        try:
            with await self._open() as sock:
                await server.serve_on(sock, lambda: self._listens(sock))
        finally:
            self.listening.clear()
            self.port = self.feed = None

    def _listens(self, sock: socket.socket) -> None:
        self.port = sock.getsockname()[1]
        self.listening.set()
        log.info("web: http://%s:%d/", _shown(self._settings.host), self.port)

    async def _open(self) -> socket.socket:
        delay, told = BACKOFF[0], False
        host, port = self._settings.host, self._settings.port
        while True:
            try:
                return await asyncio.to_thread(_bound, host, port)
            except OSError as error:
                if not told:
                    log.error(  # noqa: TRY400 (a person reads this: no traceback)
                        "web: %s port %d cannot be opened (%s), it is tried again; remedy: another web.port or "
                        "web.host, or web.enabled: false",
                        host,
                        port,
                        error.strerror or error,
                    )
                told = True
            await asyncio.sleep(delay)
            delay = min(2.0 * delay, BACKOFF[1])


def _modules() -> tuple[Any, Any]:
    from assistant.web import application, security  # noqa: PLC0415 (half a second, in a thread)

    return security, application


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to `host`. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
