"""Around the whole API (ASGI): the token, pages of browsers, and limits on what comes in."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT: Final = 32_000_000  # bytes
BODY_WITHIN: Final = 20.0  # seconds between two pieces of a body
DRAIN: Final = 2.0  # seconds in which the rest of a body that is too long is thrown away
OPEN: Final = frozenset({"/health"})  # no token is asked for these


class Guard:
    """Answers what is refused, passes on the rest with its body limited. It takes HTTP alone."""

    def __init__(self, app: App, token: str | None, requests: int) -> None:
        """`requests` are served at once."""
        self._app, self._token, self._most = app, token, requests
        self.running = self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            self.refused += 1
            await _refuse(send, *refusal)
            return
        body = _Body(receive)
        started = False

        async def noticed(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                return  # the application makes something else of it
            started = started or message["type"] == "http.response.start"
            await send(message)

        self.running += 1
        try:
            await self._app(scope, body.receive, noticed)
        except _BodyError:
            log.debug("serve: %s was given up: %s", ascii(scope["path"]), body.problem)
        finally:
            self.running -= 1
        if body.problem is not None and not started:
            await body.drain()
            await _refuse(send, body.problem.status, str(body.problem), "invalid_request")

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        """Status, reason and code, if this must not go on."""
        if headers.get(b"sec-fetch-site", b"none") not in {b"none", b"same-origin"} or b"origin" in headers:
            return 403, "pages of browsers may not ask; remedy: a program", "forbidden_origin"
        if scope["path"] in OPEN:
            return None
        if self._token is not None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token.encode()):
                return 401, "the token is missing or wrong; remedy: Authorization: Bearer TOKEN", "invalid_api_key"
        elif not _leads_here(headers.get(b"host", b"").decode("latin-1").lower()):
            return 421, "not served under this name; remedy: its address, or serve.token_file", "wrong_host"
        if self.running >= self._most:
            return 503, f"{self._most} requests are served already; remedy: try again", "overloaded"
        return None


def _leads_here(host: str) -> bool:
    """Whether a Host is no name that somebody else may have led here."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


class _BodyError(Exception):
    """A body that is too long or does not come."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Body:
    """The body of a request, within limits of size and time."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._left, self._complete = receive, BODY_LIMIT, False
        self.problem: _BodyError | None = None

    async def receive(self) -> Message:
        """The next message. Raises `_BodyError`, and notes it."""
        if self._complete:
            return await self._receive()  # waits for the client to go
        try:
            async with asyncio.timeout(BODY_WITHIN):
                message = await self._receive()
        except TimeoutError:
            self.problem = _BodyError(408, f"the rest of the request did not come within {BODY_WITHIN:.0f} s")
            raise self.problem from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.problem = _BodyError(413, f"longer than {BODY_LIMIT / 1e6:.0f} MB; remedy: FLAC or less audio at once")
            raise self.problem
        self._complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Take what is left and forget it: a connection that is closed over unread bytes loses the answer too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while not self._complete:
                    message = await self._receive()
                    self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)


def error_body(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def _refuse(send: Send, status: int, reason: str, code: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(b"retry-after", b"1")] if status == 503 else []
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error_body(reason, status, code)).encode()})
