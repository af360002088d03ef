"""Around the whole API (ASGI): the token, pages of browsers, and limits on what comes in."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from typing import Any, Final
from urllib.parse import urlsplit

from assistant.request_body import App, Message, Receive, RequestBody, RequestBodyError, Scope, Send

log = logging.getLogger(__name__)

BODY_LIMIT: Final = 32_000_000  # bytes
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
        body = RequestBody(scope, receive, BODY_LIMIT, "FLAC or less audio at once")
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            self.refused += 1
            await body.drain()
            await _refuse(send, *refusal)
            return
        started = False

        async def noticed(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                return  # the application makes something else of it
            if not started:
                started = True
                await body.drain()  # of what is refused unread: no such path
            await send(message)

        self.running += 1
        try:
            await self._app(scope, body.receive, noticed)
        except RequestBodyError:
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


def error_body(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def _refuse(send: Send, status: int, reason: str, code: str) -> None:
    content = json.dumps(error_body(reason, status, code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    headers += [(b"connection", b"close")]
    headers += [(b"retry-after", b"1")] if status == 503 else []
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
