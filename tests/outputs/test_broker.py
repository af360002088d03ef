from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from brokers import Mosquitto, Subscriber, free_port, until
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from assistant.outputs import broker as broker_module
from assistant.outputs.broker import BrokerSocketError, answers_mqtt, embedded_broker


async def test_messages_and_retained_messages_pass(subscribe: Callable[..., Subscriber]):
    async with embedded_broker(port=0) as port:
        first = subscribe(port)
        await until(first.subscribed.is_set)
        first.publish("a/台所", "ON", retain=True)
        await until(lambda: first.payloads("a/台所") == ["ON"])

        second = subscribe(port)
        await until(lambda: second.payloads("a/台所") == ["ON"])
        assert second.seen[0].retained

        second.publish("a/台所", "", retain=True)
        await until(lambda: first.payloads("a/台所") == ["ON", ""])
        third = subscribe(port)
        await until(third.subscribed.is_set)
        await asyncio.sleep(0.2)
        assert third.seen == []


async def test_it_listens_on_loopback_alone():
    async with embedded_broker(port=0) as port:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), 1)


async def test_a_port_in_use_says_what_to_do():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerSocketError, match=rf"{port} is in use.*--mqtt mqtt://127\.0\.0\.1:{port}"):
            async with embedded_broker(port=port):
                pass


async def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(BrokerSocketError, match=r"192\.0\.2\.1"):
        async with embedded_broker("192.0.2.1", 0):
            pass


async def test_a_client_of_mqtt_5_is_told_the_version_at_once():
    reasons: list[str] = []
    async with embedded_broker(port=0) as port:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
        )
        client.on_connect = lambda _client, _userdata, _flags, reason, _properties: reasons.append(reason.getName())
        began = time.monotonic()
        client.connect("127.0.0.1", port)
        client.loop_start()
        await until(lambda: reasons)
        client.loop_stop()

    assert reasons == ["Unsupported protocol version"]
    assert time.monotonic() - began < 2


async def test_it_ends_at_once_though_clients_stay(
    subscribe: Callable[..., Subscriber], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    silent = socket.socket()
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(embedded_broker(port=0))
        silent.connect(("127.0.0.1", port))
        subscriber = subscribe(port)
        await until(subscriber.subscribed.is_set)
        began = time.monotonic()
    silent.close()

    assert time.monotonic() - began < 2
    assert {record.name for record in caplog.records} == {"assistant.outputs.broker"}
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(b"\x10\xff\xff\xff\xff\xff", id="endless length"),
        pytest.param(b"\x10\x0c\x00\x64MQTT\x04\x02\x00\x3c\x00\x00", id="name longer than packet"),
        pytest.param(b"\x10\x0c\x00\x04MQTT", id="cut off"),
    ],
)
async def test_garbage_is_closed_and_does_not_harm(garbage: bytes, caplog: pytest.LogCaptureFixture):
    async with embedded_broker(port=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()
        assert await answers_mqtt("127.0.0.1", port)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(broker_module, "CONNECT_TIMEOUT", 0.2)
    async with embedded_broker(port=0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


async def test_a_will_is_published_when_its_client_is_lost(subscribe: Callable[..., Subscriber]):
    async with embedded_broker(port=0) as port:
        subscriber = subscribe(port)
        await until(subscriber.subscribed.is_set)
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="lost", reconnect_on_failure=False)
        client.will_set("lost/status", "offline", 1, retain=True)
        client.connect("127.0.0.1", port)
        client.loop_start()
        await until(client.is_connected)
        await asyncio.sleep(0.1)
        sock = client.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        await until(lambda: subscriber.payloads("lost/status") == ["offline"])
        client.loop_stop()


async def test_both_brokers_are_recognised(any_port: int):
    assert await answers_mqtt("127.0.0.1", any_port)


async def test_a_broker_that_wants_a_login_answers_too(mosquitto: Mosquitto):
    mosquitto.kill()
    mosquitto.config = ["allow_anonymous false"]
    mosquitto.start()

    assert await answers_mqtt("127.0.0.1", mosquitto.port)


async def test_nothing_and_something_else_are_no_broker():
    assert not await answers_mqtt("127.0.0.1", free_port())
    assert not await answers_mqtt("host.invalid", 1883)

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
        assert not await answers_mqtt("127.0.0.1", server.sockets[0].getsockname()[1])


async def test_a_port_that_never_answers_is_no_broker():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert not await answers_mqtt("127.0.0.1", silent.getsockname()[1], timeout=0.3)
        assert time.monotonic() - began < 1
