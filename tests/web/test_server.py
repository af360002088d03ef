"""The server by itself: limits of heads, bodies and pages, cookies, the feed; over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from outputs.brokers import until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from assistant import request_body
from assistant.errors import AssistantError
from assistant.events import (
    Command,
    HealthMeasured,
    LevelMeasured,
    Presence,
    Problem,
    RoomChanged,
    Sensitivity,
    SetListening,
)
from assistant.web import live, security, server
from assistant.web.rooms import RoomState
from assistant.web.security import Door, key_in
from assistant.web.server import WebServer
from assistant.web.services import WebServices
from assistant.web.settings import WebSettings


class Rooms:
    """Two rooms that do what they are told."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def rooms(self) -> list[RoomState]:
        return [
            RoomState(
                id=name, name=name, presence=Presence.ONLINE, reason=None, problem=Problem.NONE, listening=True,
                sensitivity=Sensitivity.BALANCED, source="",
            )
            for name in ("kitchen", "garden")
        ]  # fmt: skip

    def listening(self) -> bool:
        return True

    def command(self, command: Command) -> None:
        self.commands.append(command)


def services(rooms: Rooms) -> WebServices:
    """Rooms and figures alone."""
    nobody: dict[str, Any] = dict.fromkeys(field.name for field in fields(WebServices))
    return WebServices(**{**nobody, "rooms": rooms, "watch": lambda _: None, "metrics": lambda: b"up 1\n"})


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[tuple[WebServer, Rooms]]:
    rooms = Rooms()
    one = WebServer(WebSettings(port=0, **settings), folder, "1.2.3")
    one.ask(lambda: services(rooms))
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(20):
        await one.listening.wait()
    try:
        yield one, rooms
    finally:
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([task])
        assert task.cancelled()


async def told(port: int | None, request: bytes, seconds: float = 10.0) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(seconds):
        answer = await reader.read()
    writer.close()
    return answer


def put(body: bytes, *headers: str, length: int | None = None) -> bytes:
    head = [
        "PUT /api/rooms/kitchen/listening HTTP/1.1", "Host: localhost", "Connection: close",
        "Content-Type: application/json", f"Content-Length: {len(body) if length is None else length}", *headers,
    ]  # fmt: skip
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def test_a_switch_is_turned(tmp_path: Path) -> None:
    async with serving(tmp_path) as (one, rooms):
        assert (await told(one.port, put(b'{"on": false}'))).startswith(b"HTTP/1.1 204")
    assert rooms.commands == [SetListening("kitchen", on=False)]


async def test_a_head_that_does_not_come_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN", 0.3)
    async with serving(tmp_path) as (one, _):
        assert await told(one.port, b"GET / HTT") == b""
        assert await told(one.port, b"") == b""


async def test_a_body_that_does_not_come_or_is_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "BODY_WITHIN", 0.3)
    async with serving(tmp_path) as (one, rooms):
        answer = await told(one.port, put(b'{"on": ', length=100))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"did not come within" in answer
        long = b'{"on": "' + b"x" * 1_100_000 + b'"}'
        answer = await told(one.port, put(long))
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"longer than 1 MB" in answer
    assert rooms.commands == []


async def test_no_file_outside_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as (one, _):
        for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/", "/x"):
            request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            assert (await told(one.port, request)).startswith(b"HTTP/1.1 404"), path


async def test_answers_forbid_what_they_should(tmp_path: Path) -> None:
    async with serving(tmp_path) as (one, _):
        answer = (await told(one.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert "default-src 'none'; script-src 'self';" in head
    assert "x-content-type-options: nosniff" in head
    assert "<title>Kikimimi</title>" in body
    nonce = head.partition("'nonce-")[2].partition("'")[0]
    assert f'content="{nonce}"' in body
    assert len(nonce) > 16


async def heard(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] == kind:
                return dict(message)


async def test_the_feed_tells_everything_and_who_watches(tmp_path: Path) -> None:
    async with serving(tmp_path) as (one, _):
        watched: list[frozenset[str]] = []
        assert one.feed is not None
        one.feed.watching = watched.append
        async with connect(f"ws://127.0.0.1:{one.port}/api/live") as socket:
            assert [room["id"] for room in (await heard(socket, "rooms"))["rooms"]] == ["kitchen", "garden"]
            one.offer(LevelMeasured("kitchen", -40.0, -60.0, -30.0))
            assert (await heard(socket, "level"))["dbfs"] == -40.0
            one.offer(RoomChanged("garden", Presence.OFFLINE, "unplugged"))
            assert (await heard(socket, "room"))["room"]["id"] == "garden"
            one.offer(HealthMeasured({"events": 3}))
            assert (await heard(socket, "health"))["figures"] == {"events": 3}
            await socket.send('{"watch": ["kitchen"]}')
            one.feed.tell({"type": "fast"}, watchers_of="kitchen")
            await until(lambda: watched)
            one.feed.tell({"type": "fast", "n": 2}, watchers_of="kitchen")
            one.feed.tell({"type": "fast", "n": 3}, watchers_of="garden")
            assert (await heard(socket, "fast"))["n"] == 2
        await until(lambda: len(watched) == 2)
        assert watched == [frozenset({"kitchen"}), frozenset()]
        assert one.health() == {"pages": 0, "drops": 0, "refused": 0}


@pytest.mark.parametrize("said", ["", "[]", '{"watch": 3}', "x" * 5000, "[" * 3000, '{"watch"'])
async def test_a_page_that_says_something_else_is_left(tmp_path: Path, said: str) -> None:
    async with serving(tmp_path) as (one, _):
        with pytest.raises(ConnectionClosed) as closed:
            async with connect(f"ws://127.0.0.1:{one.port}/api/live") as socket:
                await socket.send(said)
                async with asyncio.timeout(5):
                    while True:
                        await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == live.NOT_UNDERSTOOD
        async with connect(f"ws://127.0.0.1:{one.port}/api/live") as socket:
            await heard(socket, "rooms")


async def test_a_page_may_stay_open_for_longer_than_a_head_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_WITHIN", 0.3)
    async with serving(tmp_path) as (one, _), connect(f"ws://127.0.0.1:{one.port}/api/live") as socket:
        await heard(socket, "rooms")
        await asyncio.sleep(0.8)
        one.offer(LevelMeasured("kitchen", -30.0, -60.0, -25.0))
        await heard(socket, "level")


async def test_a_page_of_another_site_gets_no_feed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (one, _):
        with pytest.raises(InvalidStatus):
            await connect(f"ws://127.0.0.1:{one.port}/api/live", origin="http://evil.example")  # type: ignore[arg-type]
        assert one.health()["refused"] == 1


async def test_pages_are_bounded_and_slow_ones_lose_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAGES", 1)
    monkeypatch.setattr(live, "WAITING", 10)
    async with serving(tmp_path) as (one, _), connect(f"ws://127.0.0.1:{one.port}/api/live") as socket:
        await heard(socket, "rooms")
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            async with connect(f"ws://127.0.0.1:{one.port}/api/live") as second:
                await second.recv()
        for n in range(100):
            one.offer(HealthMeasured({"n": n}))
        assert one.health()["drops"] == 90
        assert (await heard(socket, "health"))["figures"]["n"] == 90


async def test_a_port_that_is_taken_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BACKOFF", (0.05, 0.05))
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    one = WebServer(WebSettings(port=port), tmp_path, "1")
    one.ask(lambda: services(Rooms()))
    task = asyncio.create_task(one.run())
    await until(lambda: "cannot be opened" in caplog.text)
    taken.close()
    await taken.wait_closed()
    async with asyncio.timeout(5):
        await one.listening.wait()
    task.cancel()
    await asyncio.wait([task])
    assert [record.levelno for record in caplog.records if "cannot be opened" in record.getMessage()] == [logging.ERROR]


async def test_a_password_opens_once_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "REFUSED_AFTER", 0.2)
    door = Door("correct horse", b"key")
    assert await door.opens("correct horse")
    guesses = [asyncio.create_task(door.opens("wrong")) for _ in range(security.GUESSES)]
    await asyncio.sleep(0.05)
    with pytest.raises(AssistantError, match="too many"):
        await door.opens("correct horse")
    assert not any(await asyncio.gather(*guesses))


def test_a_cookie_is_void_when_forged_old_or_of_another_password(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door("correct horse", b"key")

    def knows(one: Door, cookie: str) -> bool:
        return one.knows({b"cookie": f"other=1; kikimimi={cookie}".encode()})

    cookie = door.cookie()
    assert knows(door, cookie)
    assert knows(Door("correct horse", b"key"), cookie)
    assert not knows(Door("another horse", b"key"), cookie)
    assert not knows(Door("correct horse", b"yek"), cookie)
    assert not knows(door, cookie[:-1])
    assert not knows(door, "in")
    monkeypatch.setattr(security, "SESSION", -1)
    assert not knows(door, cookie)


def test_the_key_is_kept_for_the_owner_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    key = key_in(folder)
    assert key_in(folder) == key
    assert (folder / "web.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").write_text("")
    assert len(key_in(tmp_path / "file")) == 32
    assert "a restart logs everybody out" in caplog.text
