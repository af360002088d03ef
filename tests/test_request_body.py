"""Bodies of requests that come slowly, for ever, or to be refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from assistant import request_body
from assistant.request_body import Message, RequestBody, RequestBodyError


def coming(pause: float, *, ends: bool = False) -> tuple[Callable[[], Awaitable[Message]], list[int]]:
    """A body of single bytes, and how many have been taken."""
    taken = [0]

    async def receive() -> Message:
        await asyncio.sleep(pause)
        taken[0] += 1
        return {"type": "http.request", "body": b"x", "more_body": not ends}

    return receive, taken


async def test_a_body_that_drips_is_not_taken_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "BODY_WITHIN", 0.3)
    receive, taken = coming(0.01)
    body = RequestBody({"headers": []}, receive, 10_000, "send less")

    async def read() -> None:
        while True:
            await body.receive()

    with pytest.raises(RequestBodyError) as told:
        await asyncio.wait_for(read(), 20.0)
    assert told.value.status == 408
    assert taken[0] > 1  # each of them came in time


async def test_what_is_refused_is_taken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "DRAIN", 0.3)
    receive, taken = coming(0.0, ends=True)
    await RequestBody({"headers": []}, receive, 10, "send less").drain()
    assert taken == [1]
    receive, taken = coming(0.001)
    await asyncio.wait_for(RequestBody({"headers": []}, receive, 10, "send less").drain(), 20.0)
    assert taken[0] > 1


async def test_who_waits_to_be_told_is_not_asked_for_the_rest() -> None:
    receive, taken = coming(0.0, ends=True)
    await RequestBody({"headers": [(b"expect", b"100-continue")]}, receive, 10, "send less").drain()
    assert taken == [0]
