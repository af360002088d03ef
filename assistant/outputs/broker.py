"""A small MQTT broker inside the daemon, for the demo and for homes that have none.

It is `amqtt`, which speaks MQTT 3.1.1 only and keeps retained messages in memory. The listening socket is ours (an
"external" listener, `amqtt.broker.Broker.external_connected`), because amqtt reads a CONNECT of MQTT 5 as if it were
3.1.1 and then waits for bytes that never come: such a client is told so, and may come back with 3.1.1. It also gives us
a time limit for CONNECT, a clear error for a port in use, and a shutdown that cannot hang on an open connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import logging
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, SecretStr, model_validator

from assistant import secret_files
from assistant.errors import AssistantError
from assistant.settings import Settings

if TYPE_CHECKING:
    from amqtt.broker import Broker
    from amqtt.session import Session

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds for the first packet of a client
CONNECT_LIMIT = 65_536  # bytes: a longer CONNECT is not one
PACKET_LIMIT = 1_048_576  # bytes of any other packet: a longer one ends its connection
CLIENTS = 200  # connections at once
REFUSED_AFTER = 1.0  # seconds before a wrong password is told, so that guessing takes its time
SHUTDOWN_TIMEOUT = 5.0  # seconds for amqtt to say goodbye to its clients
ANSWER_TIMEOUT = 2.0  # seconds in which a broker on this machine answers

MQTT_3_1_1 = 4
MQTT_5 = 5
CONNECT, CONNACK, DISCONNECT = 0x10, 0x20, 0xE0
UNSUPPORTED_VERSION_5 = 0x84
BAD_LOGIN = 4


class BrokerSocketError(AssistantError):
    """The embedded broker cannot listen where it was told to."""


class NotMqttError(Exception):
    """The first bytes of a connection are no CONNECT packet."""


class BrokerSettings(Settings):
    """The embedded broker, which runs where `mqtt` names no other."""

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: the whole network")
    port: int = Field(default=1883, ge=0, le=65535, description="TCP port; 0: any that is free")
    username: str | None = Field(default=None, min_length=1, max_length=128)
    password: SecretStr | None = Field(default=None, min_length=1)
    password_file: Path | None = Field(default=None, description="file that holds the password alone")

    @property
    def private(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _asks_for_a_password(self) -> Self:
        secrets = [self.password, self.password_file]
        if None not in secrets:
            raise ValueError("password and password_file are both given: remove one")
        if (self.username is None) != (secrets == [None, None]):
            raise ValueError("username and password (or password_file) belong together")
        if self.username is None and not self.private:
            raise ValueError(
                f"on {self.host} others can reach the embedded broker, so it asks for a password; remedy: username and "
                "password_file, or host: 127.0.0.1"
            )
        return self

    def login(self) -> tuple[str, str] | None:
        """Name and password that clients must give; None: none. Raises `AssistantError` for a file that holds none."""
        if self.username is None:
            return None
        if self.password is not None:
            return self.username, self.password.get_secret_value()
        assert self.password_file is not None  # noqa: S101 (validated)
        try:
            return self.username, secret_files.read(self.password_file)
        except (OSError, ValueError) as error:
            raise AssistantError(f"broker.password_file: {error}; remedy: a file that holds the password") from error


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.asynccontextmanager
async def embedded_broker(
    host: str = "127.0.0.1", port: int = 1883, login: tuple[str, str] | None = None
) -> AsyncIterator[int]:
    """Serve MQTT 3.1.1 on `host:port` (0: any free port) and yield the port. Raises `BrokerSocketError`.

    With `login` (name and password) nobody else is let in.
    """
    listener = _listen(host, port)
    _quiet_libraries()
    broker = _new_broker()
    await broker.start()
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= CLIENTS:
            writer.close()
            return
        # a task of our own: asyncio logs an error for each of its own that is cancelled
        task = asyncio.create_task(_serve_client(broker, reader, writer, login))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, sock=listener)
    bound: int = listener.getsockname()[1]
    log.info("embedded broker: listening on %s:%d (MQTT 3.1.1)", host, bound)
    try:
        yield bound
    finally:
        server.close()
        await _shut_down(broker, connections)
        log.info("embedded broker: stopped")


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is one clear error."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind((host, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BrokerSocketError(
                f"embedded broker: {host}:{port} is in use by another program: if that is an MQTT broker, use it with"
                f" --mqtt mqtt://{host}:{port}, or choose another port"
            ) from error
        raise BrokerSocketError(f"embedded broker: cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _new_broker() -> Broker:
    """An amqtt broker without listeners, `$SYS` topics or packet logs of its own, and without two of its faults.

    amqtt 0.12.1 hands each client that connects what is retained on the topics of all others
    (`Broker._handle_client_session`), and the connection breaks where one of them subscribes meanwhile.
    """
    from amqtt.broker import Broker  # noqa: PLC0415 - 0.2 s that only homes without a broker pay
    from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType  # noqa: PLC0415

    class Mended(Broker):  # type: ignore[misc]  # amqtt ships no types
        async def _publish_retained_messages_for_subscription(
            self, subscription: tuple[str, int], session: Session
        ) -> None:
            subscribers = self._subscriptions.get(subscription[0], ())
            if any(subscriber.client_id == session.client_id for subscriber, _ in subscribers):
                await super()._publish_retained_messages_for_subscription(subscription, session)

    broker = Mended(
        BrokerConfig(
            listeners={"default": ListenerConfig(type=ListenerType.EXTERNAL)},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
    )
    broker._subscriptions = _Filters()
    return broker


class _Filters(dict[str, "list[tuple[Session, int]]"]):
    """Who subscribed to which filter. They may come and go while amqtt goes through them."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().keys()))

    def items(self) -> list[tuple[str, list[tuple[Session, int]]]]:  # type: ignore[override]
        return list(super().items())


def _quiet_libraries() -> None:
    """What amqtt and `transitions` warn of (a client that left without a goodbye) is no news in a home."""
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.ERROR)


async def _serve_client(
    broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, login: tuple[str, str] | None
) -> None:
    from amqtt.adapters import StreamWriterAdapter  # noqa: PLC0415

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            packet, level = await _read_connect(reader)
        if level >= MQTT_5:
            writer.write(bytes((CONNACK, 3, 0, UNSUPPORTED_VERSION_5, 0)))
            await writer.drain()
            return
        if login is not None and not _lets_in(packet, login):
            log.info("embedded broker: a client without the right password was refused")
            await asyncio.sleep(REFUSED_AFTER)
            writer.write(bytes((CONNACK, 2, 0, BAD_LOGIN)))
            await writer.drain()
            return
        await broker.external_connected(_Replaying(packet, reader), StreamWriterAdapter(writer), "default")
    except (NotMqttError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        log.debug("embedded broker: a client left or spoke no MQTT: %r", error)
    except Exception as error:  # a bug of amqtt's, which costs that one client its connection
        last = traceback.extract_tb(error.__traceback__)[-1]
        log.warning("embedded broker: a connection failed: %r in %s, line %s", error, last.filename, last.lineno)
        log.debug("embedded broker: the whole of it", exc_info=True)
    finally:
        writer.close()


class _Replaying:
    """A reader as amqtt wants one (`amqtt.adapters.ReaderAdapter`), beginning with a packet that was read before."""

    def __init__(self, packet: bytes, reader: asyncio.StreamReader) -> None:
        self._left = packet
        self._reader = reader
        self._ended = False

    async def read(self, n: int = -1) -> bytes:
        # An end, and for good: after an error amqtt would take what follows for the next packet.
        self._ended = self._ended or n > PACKET_LIMIT
        if self._ended:
            return b""
        if not self._left:
            return await (self._reader.read(n) if n == -1 else self._reader.readexactly(n))
        taken, self._left = self._left[:n], self._left[n:]
        return taken

    def feed_eof(self) -> None:
        self._reader.feed_eof()


async def _read_connect(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The first packet and its protocol level. Raises `NotMqttError`.

    MQTT 3.1.1, sections 2.2 (fixed header) and 3.1.2 (CONNECT): type, remaining length in 1 to 4 bytes of 7 bits,
    protocol name with a 2-byte length, level.
    """
    header = await reader.readexactly(1)
    if header[0] != CONNECT:
        raise NotMqttError(f"first byte {header[0]:#x}")
    length = 0
    for shift in range(0, 28, 7):
        digit = await reader.readexactly(1)
        header += digit
        length |= (digit[0] & 0x7F) << shift
        if digit[0] < 0x80:
            break
    if not 10 <= length <= CONNECT_LIMIT:
        raise NotMqttError(f"CONNECT of {length} bytes")
    body = await reader.readexactly(length)
    name_length = int.from_bytes(body[:2])
    if len(body) < name_length + 3:
        raise NotMqttError("CONNECT without a protocol level")
    return header + body, body[2 + name_length]


def _lets_in(packet: bytes, login: tuple[str, str]) -> bool:
    """Whether a CONNECT carries this name and password (MQTT 3.1.1, section 3.1.3). Raises `NotMqttError`."""
    name, password = (text.encode() for text in login)
    given = _login_of(packet)
    if given is None:
        return False
    # both are compared, however the first came out
    return hmac.compare_digest(given[0], name) & hmac.compare_digest(given[1], password)


def _login_of(packet: bytes) -> tuple[bytes, bytes] | None:
    """Name and password of a CONNECT; None: it does not carry both. Raises `NotMqttError`."""
    start = next(index for index in range(1, len(packet)) if packet[index] < 0x80) + 1  # behind the remaining length
    start += 2 + int.from_bytes(packet[start : start + 2])
    flags, left = packet[start + 1], packet[start + 4 :]  # behind level, flags and keep-alive
    named, has_password, will = flags & 0x80, flags & 0x40, flags & 0x04
    if not (named and has_password):
        return None
    fields = []
    for _ in range(5 if will else 3):  # client id, topic and message of the will, name, password
        length = int.from_bytes(left[:2])
        if len(left) < 2 + length:
            raise NotMqttError("CONNECT that ends too early")
        fields.append(left[2 : 2 + length])
        left = left[2 + length :]
    return fields[-2], fields[-1]


async def _shut_down(broker: Broker, connections: set[asyncio.Task[None]]) -> None:
    """Stop within `SHUTDOWN_TIMEOUT` and a moment, whatever clients do."""
    try:
        async with asyncio.timeout(SHUTDOWN_TIMEOUT):
            await broker.shutdown()
    except TimeoutError:
        log.warning("embedded broker: did not stop within %.0f s, ends its connections", SHUTDOWN_TIMEOUT)
    except Exception:
        log.exception("embedded broker: shutdown failed")
    waiting = list(connections)
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting, timeout=1.0)


async def answers_mqtt(host: str, port: int, *, timeout: float = ANSWER_TIMEOUT) -> bool:  # noqa: ASYNC109
    """Whether an MQTT broker answers at `host:port`: a CONNECT was answered by a CONNACK, even a refusing one."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_connect_packet(b"kikimimi-probe"))
                answer = await reader.readexactly(2)
                writer.write(bytes((DISCONNECT, 0)))
                await writer.drain()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return answer[0] == CONNACK


def _connect_packet(client_id: bytes) -> bytes:
    """CONNECT of MQTT 3.1.1 with a clean session and a keep-alive of 10 s."""
    body = struct.pack("!H4sBBHH", 4, b"MQTT", MQTT_3_1_1, 0x02, 10, len(client_id)) + client_id
    return bytes((CONNECT, len(body))) + body
