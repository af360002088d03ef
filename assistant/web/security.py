"""Who may see the page and what a browser may be made to do with it: login, origins, policies, limits of a body.

The page has no password on loopback, so that names which only lead here (DNS rebinding) are refused; elsewhere it has
one. What changes something comes from the page itself or from a program, never from another page.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from itsdangerous import BadSignature, TimestampSigner

from assistant.errors import AssistantError
from assistant.request_body import App, Message, Receive, RequestBody, RequestBodyError, Scope, Send

log = logging.getLogger(__name__)

COOKIE = "kikimimi"
SESSION = 30 * 86_400  # seconds until somebody has to log in again
REFUSED_AFTER = 1.0  # seconds before a wrong password is told, so that guessing takes its time
GUESSES = 4  # passwords that are tried at once; more are refused
JSON_LIMIT = 1_000_000  # bytes of a request
UPLOAD_LIMIT = 32_000_000  # bytes of a recording
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/api/session", "/api/openapi.json"})  # of the API: no password is asked for these
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer, with which browsers send the origin "null".
    (b"referrer-policy", b"same-origin"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def policy(nonce: str) -> str:
    """The Content-Security-Policy of the page: its own files, and styles that carry `nonce`."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-" + nonce + "'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; worker-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    )


class Door:
    """Whether a password is asked for, and who has given it."""

    def __init__(self, secret: str | None, key: bytes) -> None:
        """`key` signs cookies; another password makes all of them void."""
        self._secret = secret
        digest = hashlib.sha256(key + (secret or "").encode()).digest()
        self._signer = TimestampSigner(digest, salt="kikimimi.session", digest_method=hashlib.sha256)
        self._guesses = 0

    @property
    def locked(self) -> bool:
        """Whether a password is asked for at all."""
        return self._secret is not None

    async def opens(self, password: str) -> bool:
        """Whether this is the password; a wrong one takes a second. Raises `AssistantError` when many are tried."""
        if self._guesses >= GUESSES:
            raise AssistantError("too many passwords are being tried; remedy: try again in a few seconds")
        if self._is_secret(password):
            return True
        self._guesses += 1
        try:
            await asyncio.sleep(REFUSED_AFTER)
        finally:
            self._guesses -= 1
        return False

    def cookie(self) -> str:
        """What proves later that the password was given."""
        return self._signer.sign("in").decode()

    def knows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request carries the cookie, or the password as a Bearer token."""
        if self._secret is None:
            return True
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return self._is_secret(token.strip().decode("utf-8", "replace"))
        for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE:
                with suppress(BadSignature):
                    self._signer.unsign(value, max_age=SESSION)
                    return True
        return False

    def _is_secret(self, password: str) -> bool:
        return self._secret is not None and hmac.compare_digest(
            password.encode("utf-8", "replace"), self._secret.encode()
        )


def key_in(folder: Path) -> bytes:
    """The key that signs cookies, made once. Where it cannot be kept everybody logs in again after a restart."""
    path = folder / "web.key"
    try:
        if len(key := path.read_bytes()) == 32:
            return key
    except OSError:
        pass
    key = secrets.token_bytes(32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 (mode)
            file.write(key)
        temporary.replace(path)
    except OSError as error:
        log.warning("web: %s cannot be written (%s): a restart logs everybody out", path, error.strerror)
    return key


class Guard:
    """Around the whole application (ASGI)."""

    def __init__(self, app: App, door: Door, public_url: str | None) -> None:
        self._app, self._door = app, door
        self._public = urlsplit(public_url).netloc.lower() if public_url else None
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or close what is refused; pass on the rest with its body limited and its answer marked."""
        if scope["type"] not in {"http", "websocket"}:
            return
        headers = dict(scope["headers"])
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            self.refused += 1
            if scope["type"] == "http":
                await RequestBody(scope, receive, UPLOAD_LIMIT, "").drain()
            await _refuse(scope, receive, send, *refusal)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        plain = headers.get(b"content-type", b"").split(b";")[0].strip() in {b"", b"application/json"}
        body = RequestBody(scope, receive, JSON_LIMIT if plain else UPLOAD_LIMIT, "send less at once")
        started = False

        async def marked(message: Message) -> None:
            nonlocal started
            if body.problem is not None and not started:
                return  # the application makes something else of it
            if message["type"] == "http.response.start":
                started = True
                await body.drain()  # of what is refused unread: no such path
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in own)]
                if scope["path"].startswith("/api/") and b"cache-control" not in own:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        try:
            await self._app(scope, body.receive, marked)
        except RequestBodyError:
            log.debug("web: %s was given up: %s", ascii(scope["path"]), body.problem)
        problem, body.problem = body.problem, None
        if problem is not None and not started:
            await _refuse(scope, receive, marked, problem.status, str(problem))

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and reason, if this must not go on."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._door.locked and not self._leads_here(host):
            return 421, (
                f"this page is not served under the name {host!a}; remedy: web.public_url, or web.password_file"
            )
        path = scope["path"]
        api = path.startswith("/api/") or path == "/metrics"
        if not api:
            return None
        changes = scope["type"] == "websocket" or scope["method"] not in SAFE
        site = headers.get(b"sec-fetch-site", b"none")
        origin = headers.get(b"origin")
        foreign = site not in {b"none", b"same-origin"}
        if foreign or (changes and origin is not None and not self._is_ours(origin.decode("latin-1"), headers)):
            return 403, "this request comes from another page; remedy: open Kikimimi's own page, or set web.public_url"
        if path not in OPEN and not self._door.knows(headers):
            return 401, "the password is missing or wrong; remedy: log in, or send Authorization: Bearer PASSWORD"
        return None

    def _leads_here(self, host: str) -> bool:
        """Whether a Host is no name that somebody else may have led here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or host == self._public:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_ours(self, origin: str, headers: dict[bytes, bytes]) -> bool:
        """Whether an Origin is that of our page. No page can make a browser forge the forwarded host."""
        try:
            netloc = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        known = {headers.get(name, b"").decode("latin-1").lower() for name in (b"host", b"x-forwarded-host")}
        return bool(netloc) and (netloc in known or netloc == self._public)


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    from starlette.responses import JSONResponse  # noqa: PLC0415 (only while the page is served)
    from starlette.websockets import WebSocket, WebSocketClose  # noqa: PLC0415

    log.debug("web: %s %s was refused: %s", scope.get("method", "WebSocket"), ascii(scope["path"]), reason)
    if scope["type"] == "websocket":
        websocket = WebSocket(scope, receive, send)
        with suppress(RuntimeError):
            await websocket.receive()  # the handshake, which must be read before it is refused
        await WebSocketClose(code=1008, reason=reason[:120])(scope, receive, send)
        return
    await JSONResponse({"detail": reason}, status, headers={"connection": "close"})(scope, receive, send)
