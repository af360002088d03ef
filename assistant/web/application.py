"""All routes in one FastAPI application, and the uvicorn server that carries it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from uvicorn.protocols.http.h11_impl import H11Protocol

from assistant.errors import AssistantError, ConfigurationError
from assistant.request_body import App
from assistant.web import ask, configuration, events, health, rooms, rules, setup, teach
from assistant.web.live import Feed
from assistant.web.security import COOKIE, SESSION, Door, policy
from assistant.web.server import STATIC
from assistant.web.services import WebServices

DESCRIPTION = """What the page of Kikimimi is made of. Programs send the password as `Authorization: Bearer PASSWORD`.

`/api/live` is a WebSocket: JSON texts with a `type` (`rooms`, `room`, `event`, `clip`, `level`, `health` …); events are
those of MQTT. Send `{"watch": ["kitchen", "health"]}` for the fast figures of a room, and for those of the daemon:
`sound` (ten a second: `dbfs`, `floor`, `peak`, whether the `gate` is open, `columns` of 64 bytes of a log-mel
spectrogram, base64, 40 a second), `scores` (each window of the tagger: `candidates` with what each needs) and `vitals`
(each two seconds: `health` as GET `/api/health` has it). `/metrics` is for Prometheus."""


# What any request may be answered with, before or beside its own.
REFUSED = {
    400: "the body cannot be read",
    401: "the password is missing or wrong",
    403: "another page asks",
    408: "the rest of the request did not come",
    409: "this cannot be done now",
    413: "the request is too long",
    421: "this page is not served under that name",
    503: "too many requests at once",
}


class Session(BaseModel):
    """Whether somebody has to log in."""

    locked: bool = Field(description="a password is asked for")
    logged_in: bool
    version: str


class Login(BaseModel):
    """A password."""

    password: Annotated[str, Field(max_length=1_000)]


def build(services: WebServices, door: Door, version: str) -> tuple[FastAPI, Feed]:
    """The application, and the feed of its open pages."""
    app = FastAPI(
        title="Kikimimi",
        version=version,
        description=DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        responses={status: {"description": reason} for status, reason in REFUSED.items()},
    )
    app.add_exception_handler(AssistantError, _told)
    app.include_router(_login(door, version))
    for router in (
        rooms.routes(services.rooms),
        events.routes(services.events),
        health.routes(services.health),
        ask.routes(services.ask),
        teach.routes(services.teach),
        rules.routes(services.rules),
        configuration.routes(services.configuration),
        setup.routes(services.setup),
    ):
        app.include_router(router)
    feed = Feed(services.rooms, version)
    feed.watching = services.watch

    @app.websocket("/api/live")
    async def live(websocket: WebSocket) -> None:
        await feed.serve(websocket)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(services.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    page = (STATIC / "index.html").read_text("utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        headers = {"content-security-policy": policy(nonce), "cache-control": "no-store"}
        return HTMLResponse(page.replace("NONCE", nonce), headers=headers)

    app.mount("/static", GZipMiddleware(_Static(directory=STATIC), minimum_size=500))
    return app, feed


def _login(door: Door, version: str) -> APIRouter:
    router = APIRouter(prefix="/api/session", tags=["session"])

    @router.get("", summary="Whether somebody has to log in")
    async def session(request: Request) -> Session:
        return Session(locked=door.locked, logged_in=door.knows(dict(request.scope["headers"])), version=version)

    @router.post(
        "",
        summary="Log in",
        status_code=204,
        responses={401: {"description": "a wrong password"}, 429: {"description": "too many are tried at once"}},
    )
    async def log_in(login: Login, request: Request) -> Response:
        try:
            opens = await door.opens(login.password)
        except AssistantError as error:
            raise HTTPException(429, str(error)) from error
        if not opens:
            raise HTTPException(401, "this is not the password")
        response = Response(status_code=204)
        secure = "https" in {request.url.scheme, request.headers.get("x-forwarded-proto")}
        # The folder of this address: `/api` behind any prefix that a proxy puts before it.
        response.set_cookie(
            COOKIE, door.cookie(), max_age=SESSION, path=None, secure=secure, httponly=True, samesite="strict"
        )
        return response

    @router.delete("", summary="Log out", status_code=204)
    async def log_out() -> Response:
        response = Response(status_code=204)
        response.set_cookie(COOKIE, "", max_age=0, path=None, httponly=True, samesite="strict")
        return response

    return router


async def _told(_request: Request, error: Exception) -> JSONResponse:
    """Tell what is wrong: 422 for what the asker wrote, 409 for what the daemon cannot do now."""
    return JSONResponse({"detail": str(error)}, 422 if isinstance(error, ConfigurationError) else 409)


class _Static(StaticFiles):
    """Files that browsers ask for again each time, with their ETag: an update must be seen."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:  # noqa: ANN401 (as the library has it)
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


class _Protocol(H11Protocol):
    """HTTP whose head must come within a time: each connection is one of a few."""

    head_within = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock, once: afterwards keep-alive has its own."""
        super().connection_made(transport)

        def give_up() -> None:
            asked = getattr(self, "cycle", None) is not None or transport.get_protocol() is not self  # a WebSocket
            if not asked and not transport.is_closing():
                transport.close()

        self.loop.call_later(self.head_within, give_up)


class Server(uvicorn.Server):
    """uvicorn without its signal handlers and without its clock, which would wake ten times a second for ever."""

    def __init__(self, app: App, *, connections: int, head_within: float, stop: int, idle: int = 5) -> None:
        """`idle`: seconds that a connection without a request is kept; `stop`: for answers on their way at the end."""
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (_Protocol,), {"head_within": head_within}),
                ws="websockets-sansio",
                ws_max_size=65_536,
                ws_max_queue=8,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                date_header=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=connections,
                timeout_graceful_shutdown=stop,
                timeout_keep_alive=idle,
            )
        )

    async def serve_on(self, sock: socket.socket, listens: Callable[[], None]) -> None:
        """Serve until cancelled; `listens` is called as soon as somebody may come."""
        self._listens = listens
        try:
            await self._serve([sock])
        except asyncio.CancelledError:
            if self.started:
                await self.shutdown([sock])
            raise

    async def main_loop(self) -> None:
        """Nothing to do until the end."""
        self._listens()
        await asyncio.get_running_loop().create_future()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The daemon has its own."""
        yield
