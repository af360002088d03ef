"""MQTT brokers that a house has already: by mDNS, and what Home Assistant's Supervisor tells its add-ons."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr

from assistant.errors import AssistantError

log = logging.getLogger(__name__)

SERVICE = "_mqtt._tcp.local."
LISTENS = 2.0  # seconds for answers from the network
ASKED = 1.0  # seconds for the address of one that answered
MOST = 20
SUPERVISOR = "http://supervisor"
SUPERVISOR_WITHIN = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Found:
    """A broker."""

    name: str
    host: str
    port: int
    how: Literal["supervisor", "network"]


@dataclass(frozen=True, slots=True)
class Login:
    """How the Supervisor says that its broker is reached."""

    host: str
    port: int
    username: str
    password: SecretStr
    tls: bool


async def search() -> list[Found]:
    """All that answer within seconds; none where there is no network."""
    network = asyncio.create_task(_network())
    found: list[Found] = []
    if "SUPERVISOR_TOKEN" in os.environ:
        try:
            login = await supervisor()
        except AssistantError as error:
            log.info("set-up: %s", error)
            login = None
        if login is not None:
            found.append(Found("Home Assistant", login.host, login.port, "supervisor"))
    return [*found, *await network]


async def supervisor(address: str = SUPERVISOR) -> Login:
    """The broker of Home Assistant's Supervisor. Raises `AssistantError` where there is none."""
    import httpx2  # noqa: PLC0415 (only where it is asked)

    token = os.environ.get("SUPERVISOR_TOKEN", "")
    if not token:
        raise AssistantError("there is no Supervisor here; remedy: type host, user and password")
    try:
        async with httpx2.AsyncClient(timeout=SUPERVISOR_WITHIN, trust_env=False) as client:
            answer = await client.get(f"{address}/services/mqtt", headers={"Authorization": f"Bearer {token}"})
            told = answer.json()["data"]
            return Login(
                str(told["host"]),
                int(told["port"]),
                str(told.get("username") or ""),
                SecretStr(str(told.get("password") or "")),
                bool(told.get("ssl")),
            )
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):  # its text may hold the password
        raise AssistantError(
            "the Supervisor tells of no MQTT broker; remedy: install the Mosquitto add-on, or type host and user"
        ) from None


async def _network() -> list[Found]:
    from zeroconf import IPVersion, ServiceStateChange, Zeroconf  # noqa: PLC0415 (only where it is asked)
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415

    names: list[str] = []

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Added and len(names) < MOST:
            names.append(name)

    try:
        network = AsyncZeroconf(ip_version=IPVersion.All)
    except OSError:
        try:
            network = AsyncZeroconf(ip_version=IPVersion.V4Only)
        except OSError:
            return []
    try:
        browser = AsyncServiceBrowser(network.zeroconf, SERVICE, handlers=[changed])
        await asyncio.sleep(LISTENS)
        await browser.async_cancel()
        infos = [AsyncServiceInfo(SERVICE, name) for name in names]
        known = await asyncio.gather(*(info.async_request(network.zeroconf, ASKED * 1000) for info in infos))
        return [
            await _reached(info.name.removesuffix(f".{SERVICE}"), info.server or "", info.parsed_addresses(), info.port)
            for info, answered in zip(infos, known, strict=True)
            if answered and info.port and info.parsed_addresses()
        ]
    finally:
        await network.async_close()


async def _reached(name: str, server: str, addresses: list[str], port: int) -> Found:
    """By its name, which outlives an address, where this machine can look that up."""
    host = server.rstrip(".")
    try:
        async with asyncio.timeout(ASKED):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        host = addresses[0]
    return Found(name, host or addresses[0], port, "network")
