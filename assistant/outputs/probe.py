"""Tries a broker step by step: name, TCP, TLS, login, subscribe, publish. What fails first is where to look."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from assistant.outputs.mqtt_client import (
    PROTOCOL_NAMES,
    Arrived,
    Connector,
    Link,
    LinkError,
    MqttSettings,
    explain,
    tls_context,
)
from assistant.outputs.topics import Message

STEP_TIMEOUT = 3.0  # seconds for name, TCP and TLS each
ANSWER_TIMEOUT = 5.0  # seconds for a subscription, and for our own message to come back


@dataclass(frozen=True, slots=True)
class Step:
    """One step towards a broker. After the first that fails no other is tried."""

    name: str  # name, tcp, tls, login, subscribe, publish
    works: bool
    detail: str  # what was found, or why it failed and what to do


async def probe(settings: MqttSettings) -> AsyncGenerator[Step]:
    """Each step as it was done. One message is sent to a topic of its own below the base topic, nothing is retained."""
    async for step in _reached(settings):
        yield step
        if not step.works:
            return
    try:
        link, protocol, arrived = await _linked(settings)
    except LinkError as error:
        yield Step("login", False, str(error))
        return
    try:
        user = f"as {settings.username!r}" if settings.username else "without a user name"
        yield Step("login", True, f"{user}, MQTT {PROTOCOL_NAMES[protocol]}")
        async for step in _spoken(link, settings, arrived):
            yield step
    finally:
        await link.close(1.0)


async def _reached(settings: MqttSettings) -> AsyncGenerator[Step]:
    """Name, TCP and TLS."""
    loop = asyncio.get_running_loop()
    host, port = settings.host or "", settings.port
    try:
        async with asyncio.timeout(STEP_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Step("name", False, explain(error, settings))
        return
    except TimeoutError:
        yield Step("name", False, f"host {host!r} was not found in {STEP_TIMEOUT:.0f} s: check the network's DNS")
        return
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    yield Step("name", True, f"{host} is {', '.join(addresses)}")
    for secure, name in ((None, "tcp"), *(((settings.tls, "tls"),) if settings.tls is not None else ())):
        try:
            context = None if secure is None else tls_context(secure)
            async with asyncio.timeout(STEP_TIMEOUT):
                _, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=None if context is None else host
                )
        except TimeoutError:
            yield Step(name, False, f"{settings.address} gave no answer in {STEP_TIMEOUT:.0f} s: check its firewall")
            return
        except (OSError, ValueError) as error:
            yield Step(name, False, explain(error, settings))
            return
        tls = writer.get_extra_info("ssl_object")
        detail = f"{settings.address} listens" if tls is None else _certified(tls)
        await _closed(writer)
        yield Step(name, True, detail)


def _certified(tls: ssl.SSLObject) -> str:
    certificate = tls.getpeercert() or {}
    until = certificate.get("notAfter", "not verified: tls.insecure")
    return f"{tls.version()}, certificate until {until}"


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


async def _linked(settings: MqttSettings) -> tuple[Link, int, asyncio.Queue[Arrived]]:
    """A connection of a client of its own, its protocol, and what arrives there. Raises `LinkError`."""
    arrived: asyncio.Queue[Arrived] = asyncio.Queue(100)

    def received(message: Arrived) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # a flood: ours is missed, and that is told
            arrived.put_nowait(message)

    connector = Connector(settings, f"kikimimi-probe-{secrets.token_hex(4)}")
    link = await connector.open(None, received)
    return link, connector.protocol, arrived


async def _spoken(link: Link, settings: MqttSettings, arrived: asyncio.Queue[Arrived]) -> AsyncGenerator[Step]:
    """Subscribe to a topic of our own, and hear our own message there."""
    topic, word = f"{settings.base_topic}/probe/{secrets.token_hex(4)}", secrets.token_hex(8)
    link.subscribe(topic)
    try:
        granted = await link.granted(ANSWER_TIMEOUT)
    except LinkError as error:
        yield Step("subscribe", False, str(error))
        return
    if not granted:
        yield Step("subscribe", False, f"the broker does not let this login read {topic}: check its access rules")
        return
    yield Step("subscribe", True, f"{settings.base_topic}/# can be read")
    refused = link.refused
    link.send(Message(topic, word, 0.0))
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await link.flushed()
            if link.refused == refused:
                while (await arrived.get()).payload != word.encode():
                    pass
    except TimeoutError:
        refused = -1
    except LinkError as error:
        yield Step("publish", False, str(error))
        return
    if link.refused != refused:
        yield Step("publish", False, f"what is sent to {topic} does not arrive: check the broker's access rules")
    else:
        yield Step("publish", True, f"{settings.base_topic}/# can be written")


async def handed_out(
    settings: MqttSettings, topic: str, send: Callable[[], None], is_it: Callable[[bytes], bool], seconds: float
) -> Step:
    """Whether a broker hands out, to somebody else, what `send` has us publish on `topic`."""
    try:
        link, _, arrived = await _linked(settings)
    except LinkError as error:
        return Step("login", False, str(error))
    try:
        link.subscribe(topic)
        if not await link.granted(ANSWER_TIMEOUT):
            return Step("subscribe", False, f"the broker does not let this login read {topic}: check its access rules")
        send()
        async with asyncio.timeout(seconds):
            while not is_it((await arrived.get()).payload):
                pass
    except LinkError as error:
        return Step("subscribe", False, str(error))
    except TimeoutError:
        return Step("publish", False, f"nothing came on {topic} in {seconds:.0f} s: check the broker's access rules")
    finally:
        await link.close(1.0)
    return Step("publish", True, f"{topic} at {settings.address}")
