from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from brokers import Mosquitto, Subscriber, free_port, until
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from pydantic import SecretStr, ValidationError

from assistant.errors import AssistantError
from assistant.fittings import own_broker
from assistant.outputs import broker as broker_module
from assistant.outputs.broker import BrokerSettings, BrokerSocketError, answers_mqtt, embedded_broker
from assistant.outputs.mqtt import Mqtt, MqttSettings


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


async def test_clients_that_come_at_once_get_what_they_subscribed_to_and_nothing_else(
    subscribe: Callable[..., Subscriber],
):
    def packet(kind: int, body: bytes) -> bytes:
        return bytes((kind, len(body))) + body

    def text(value: str) -> bytes:
        return len(value).to_bytes(2) + value.encode()

    async def come(port: int, number: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text("")))
        writer.write(packet(0x82, b"\x00\x01" + text(f"t/{number}") + b"\x00"))
        try:
            async with asyncio.timeout(10):
                got = await reader.readexactly(4 + 5 + 8 + len(str(number)))
                writer.write(b"\xc0\x00")  # an answer to PINGREQ is the end of what there is
                return got + await reader.readexactly(2)
        finally:
            writer.close()

    async with embedded_broker(port=0) as port:
        first = subscribe(port)
        await until(first.subscribed.is_set)
        for number in range(30):
            first.publish(f"t/{number}", "ON", retain=True)
        await until(lambda: len(first.seen) == 30)

        answers = await asyncio.gather(*(come(port, number) for number in range(30)))

    accepted, granted, end = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00", b"\xd0\x00"
    assert answers == [accepted + granted + packet(0x31, text(f"t/{number}") + b"ON") + end for number in range(30)]


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


# who is let in


ALL = "0.0.0.0"  # noqa: S104 (what is refused without a password)
LOGIN = ("home", "sesame öffne dich")


def connects(port: int, name: str | None, password: str | None) -> Callable[[], list[str]]:
    """The answers to one client."""
    answers: list[str] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"c-{name}-{password}", reconnect_on_failure=False)
    client.will_set("a/will", "x" * 300)
    client.username_pw_set(name, password)
    client.on_connect = lambda _client, _userdata, _flags, reason, _properties: answers.append(reason.getName())
    client.connect("127.0.0.1", port)
    client.loop_start()

    def answered() -> list[str]:
        if answers:
            client.disconnect()
            client.loop_stop()
        return answers

    return answered


@pytest.mark.parametrize(
    ("name", "password", "answer"),
    [
        (*LOGIN, "Success"),
        ("home", "sesame", "Bad user name or password"),
        ("homer", LOGIN[1], "Bad user name or password"),
        ("home", "", "Bad user name or password"),
        ("home", None, "Bad user name or password"),
        (None, None, "Bad user name or password"),
    ],
)
async def test_only_who_knows_the_password_is_let_in(
    name: str | None, password: str | None, answer: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(broker_module, "REFUSED_AFTER", 0.05)
    async with embedded_broker(port=0, login=LOGIN) as port:
        answered = connects(port, name, password)
        await until(answered)
        assert answered() == [answer]


async def test_mosquitto_pub_needs_the_password_too():
    tool = shutil.which("mosquitto_pub")
    if tool is None:
        pytest.skip("mosquitto_pub is not installed: apt-get install mosquitto-clients")

    async def publish(port: int, *login: str) -> int:
        command = [tool, "-h", "127.0.0.1", "-p", str(port), "-V", "mqttv311", "-t", "a", "-m", "b", *login]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await asyncio.wait_for(process.wait(), 20)

    async with embedded_broker(port=0, login=LOGIN) as port:
        assert await publish(port) != 0
        assert await publish(port, "-u", "home", "-P", "wrong") != 0
        assert await publish(port, "-u", *LOGIN[:1], "-P", LOGIN[1]) == 0


@pytest.mark.parametrize("cut", range(12, 40))
async def test_a_login_that_is_cut_off_lets_nobody_in(cut: int):
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + b"\x00\x01c" + b"\x00\x04home" + b"\x00\x05right"
    packet = bytes((0x10, min(cut, len(body)))) + body[:cut]
    async with embedded_broker(port=0, login=("home", "right and more")) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(packet)
        writer.write_eof()
        assert (await asyncio.wait_for(reader.read(), 5))[3:4] in {b"", b"\x04"}
        writer.close()


async def test_a_packet_that_is_too_large_ends_its_connection(subscribe: Callable[..., Subscriber]):
    async with embedded_broker(port=0) as port:
        subscriber = subscribe(port)
        await until(subscriber.subscribed.is_set)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(broker_module._connect_packet(b"large"))
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        writer.write(b"\x30\xff\xff\xff\x7f\x00\x01a")  # PUBLISH of 256 MB
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                writer.write(bytes(65_536))
                await writer.drain()
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        subscriber.publish("still", "there")
        await until(lambda: subscriber.payloads("still") == ["there"])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"host": ALL}, "others can reach the embedded broker, so it asks for a password; remedy: username"),
        ({"host": "192.168.1.5"}, "asks for a password"),
        ({"host": "::"}, "asks for a password"),
        ({"host": "broker.local"}, "asks for a password"),
        ({"host": ALL, "username": "a"}, "belong together"),
        ({"password": "a"}, "belong together"),
        ({"username": "a", "password": "a", "password_file": "/a"}, "both given"),
        ({"username": "a", "password": ""}, "at least 1"),
    ],
)
def test_nobody_listens_to_the_network_without_a_password(values: dict[str, str], problem: str):
    with pytest.raises(ValidationError, match=problem):
        BrokerSettings.model_validate(values)


def test_what_is_allowed(tmp_path: Path):
    (tmp_path / "secret").write_text("sesame\n")
    assert BrokerSettings().login() is None
    assert BrokerSettings(host="::1").private
    assert BrokerSettings(host="127.0.0.2").private
    shared = BrokerSettings(host=ALL, username="a", password_file=tmp_path / "secret")
    assert shared.login() == ("a", "sesame")
    with pytest.raises(AssistantError, match=r"broker\.password_file: .*remedy"):
        BrokerSettings(username="a", password_file=tmp_path / "none").login()


async def test_the_daemon_logs_in_at_its_own_broker(subscribe: Callable[..., Subscriber], started: Callable[..., Mqtt]):
    settings = BrokerSettings(host=ALL, port=0, username="home", password=SecretStr("sesame"))
    async with own_broker(settings) as reached:
        output = started(0, settings=MqttSettings().model_copy(update=reached))
        await asyncio.wait_for(output.connected.wait(), 10)


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
