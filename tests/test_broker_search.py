"""Brokers that are in the house already: announced by mDNS, or told by the Supervisor."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from assistant import broker_search
from assistant.errors import AssistantError


async def test_a_broker_that_is_announced_is_found() -> None:
    try:
        network = AsyncZeroconf(ip_version=IPVersion.V4Only)
    except OSError:
        pytest.skip("there is no network here that mDNS could use")
    service = AsyncServiceInfo(
        broker_search.SERVICE,
        f"House.{broker_search.SERVICE}",
        addresses=[socket.inet_aton("127.0.0.1")],
        port=18830,
        server="no-such-broker.local.",
    )
    try:
        await network.async_register_service(service)
        found = await broker_search.search()
    finally:
        await network.async_close()
    mine = [one for one in found if one.name == "House"]
    assert mine == [broker_search.Found("House", "127.0.0.1", 18830, "network")]


async def supervisor(answer: bytes) -> tuple[asyncio.Server, str, list[str]]:
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_the_supervisor_tells_its_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_TOKEN", "t0ken")
    data = {"host": "core-mosquitto", "port": 1883, "ssl": False, "username": "addons", "password": "s3cret"}
    server, address, asked = await supervisor(json.dumps({"result": "ok", "data": data}).encode())
    login = await broker_search.supervisor(address)
    assert (login.host, login.port, login.username, login.tls) == ("core-mosquitto", 1883, "addons", False)
    assert login.password.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(login)
    assert "authorization: bearer t0ken" in asked[0].lower()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("answer", [b"", b"no", b'{"data": {}}', b'{"data": {"host": "x", "port": "many"}}', b"[]"])
async def test_a_supervisor_without_a_broker_is_told(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERVISOR_TOKEN", "t0ken")
    server, address, _ = await supervisor(answer)
    with pytest.raises(AssistantError, match="remedy"):
        await broker_search.supervisor(address)
    server.close()
    await server.wait_closed()
    monkeypatch.delenv("SUPERVISOR_TOKEN")
    with pytest.raises(AssistantError, match="no Supervisor here"):
        await broker_search.supervisor(address)
