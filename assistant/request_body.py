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
DRAIN = 2.0  # seconds in which the rest of a body that is too long is thrown away


class RequestBodyError(Exception):
    """A body that is too long or does not come."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestBody:
    """The body of a request, within limits of size and time."""

    def __init__(self, receive: Receive, limit: int, remedy: str) -> None:
        """At most `limit` bytes; `remedy` is told with what is longer."""
        self._receive, self._left, self._limit, self._remedy = receive, limit, limit, remedy
        self._complete = False
        self.problem: RequestBodyError | None = None

    async def receive(self) -> Message:
        """The next message. Raises `RequestBodyError`, and notes it."""
        if self._complete:
            return await self._receive()  # waits for the client to go
        try:
            async with asyncio.timeout(BODY_WITHIN):
                message = await self._receive()
        except TimeoutError:
            self.problem = RequestBodyError(408, f"the rest of the request did not come within {BODY_WITHIN:.0f} s")
            raise self.problem from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.problem = RequestBodyError(413, f"longer than {self._limit / 1e6:.0f} MB; remedy: {self._remedy}")
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
