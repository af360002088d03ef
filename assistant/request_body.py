"""The body of an HTTP request (ASGI), within limits of size and time, whichever port it comes in by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_WITHIN = 20.0  # seconds between two pieces of a body
SLOWEST = 4_000  # bytes a second that a body must bring on the whole, or drops would keep its place for ever
DRAIN = 2.0  # seconds in which the rest of a body that is too long is thrown away


class RequestBodyError(Exception):
    """A body that is too long or does not come."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestBody:
    """The body of a request, within limits of size and time."""

    def __init__(self, scope: Scope, receive: Receive, limit: int, remedy: str) -> None:
        """At most `limit` bytes; `remedy` is told with what is longer."""
        self._waits = any(name == b"expect" for name, _ in scope["headers"])  # until something is asked for
        self._receive, self._left, self._limit, self._remedy = receive, limit, limit, remedy
        self._began: float | None = None
        self._complete = False
        self.problem: RequestBodyError | None = None

    async def receive(self) -> Message:
        """The next message. Raises `RequestBodyError`, and notes it."""
        if self._complete:
            return await self._receive()  # waits for the client to go
        self._waits = False
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        latest = self._began + BODY_WITHIN + (self._limit - self._left) / SLOWEST
        try:
            async with asyncio.timeout_at(min(now + BODY_WITHIN, latest)):
                message = await self._receive()
        except TimeoutError:
            late = f"the rest of the request did not come within {BODY_WITHIN:.0f} s, or comes too slowly"
            self.problem = RequestBodyError(408, late)
            raise self.problem from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.problem = RequestBodyError(413, f"longer than {self._limit / 1e6:.0f} MB; remedy: {self._remedy}")
            raise self.problem
        self._complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Take what is left and forget it: a connection that is closed over unread bytes loses the answer too.

        To be called before a refusal is sent. Who waits to be told whether to send the rest is not asked for it.
        """
        if self._waits:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while not self._complete:
                    message = await self._receive()
                    self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
