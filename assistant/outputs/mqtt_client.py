"""One connection to an MQTT broker, from CONNECT to DISCONNECT, for one asyncio loop.

paho-mqtt does the protocol in its own network thread; this module adds what it leaves to its user: a time limit for
every step, causes a person can act upon, and the list of messages that the broker has not acknowledged yet. A `Link` is
used once; who wants to reconnect makes a new one and sends what `unacknowledged` holds again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from pydantic import Field, SecretStr, field_validator, model_validator

from assistant import secret_files
from assistant.outputs.topics import Message
from assistant.outputs.traffic import Traffic
from assistant.settings import Settings

log = logging.getLogger(__name__)

TCP_TIMEOUT = 5.0  # seconds for a TCP and a TLS connection
OPEN_TIMEOUT = 15.0  # seconds for name resolution, TCP and TLS together
CONNACK_TIMEOUT = 5.0  # seconds for the answer to CONNECT
ACK_TIMEOUT = 20.0  # seconds: a broker that keeps a message longer is not there any more
LARGEST = 1 << 20  # bytes of a packet that a broker of MQTT 5 may send us
WINDOW = 20  # unacknowledged messages at a time (Mosquitto's own default)
SESSION_EXPIRY = 300  # seconds: must be longer than the will delay, or the session's end sends the will at once
WILL_DELAY = 5  # seconds: a short cut of the network does not turn every entity to unavailable
ROOM_FOR_HEADER = 64  # bytes of a PUBLISH beside topic and payload

REFUSED_VERSION = ("Unsupported protocol version",)
TLS_REMEDIES = {  # by OpenSSL's verify code; in all other cases its authority is not known
    9: "it is not valid yet: is the clock of this machine right?",
    10: "it has expired: renew the broker's certificate, or set this machine's clock",
    62: "write mqtt.host as the certificate names the broker",
    64: "write mqtt.host as the certificate names the broker",
}
REFUSED_LOGIN = ("Not authorized", "Bad user name or password", "Bad authentication method")

PROTOCOLS = {5: MQTTProtocolVersion.MQTTv5, 4: MQTTProtocolVersion.MQTTv311}
PROTOCOL_NAMES = {5: "5.0", 4: "3.1.1"}


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message from the broker."""

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None = None  # MQTT 5: where its answer is to go
    correlation: bytes | None = None  # MQTT 5: what its answer is to carry
    duplicate: bool = False  # the broker says that it may have sent this before, with the same `identifier`
    identifier: int = 0  # of the packet, at QoS 1 and 2


Received = Callable[[Arrived], None]
Acknowledged = Callable[[Message], None]  # the broker has taken it, or has refused it for good


class TlsSettings(Settings):
    """How the broker proves who it is, and how we do."""

    ca: Path | None = Field(default=None, description="PEM file of the authority; the system's own when empty")
    cert: Path | None = Field(default=None, description="PEM file of a client certificate")
    key: Path | None = Field(default=None, description="PEM file of the client certificate's key")
    insecure: bool = Field(default=False, description="accept any certificate: only for a test")

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if self.key is not None and self.cert is None:
            raise ValueError("tls.key needs tls.cert")
        return self


class MqttSettings(Settings):
    """Where the broker is and how to log in. `url` is a short form of host, port, username, password and tls."""

    url: str | None = Field(default=None, description="mqtt://user@host:port, or mqtts:// for TLS")
    host: str | None = None
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = Field(default=None, description="file that holds the password alone")
    tls: TlsSettings | None = None
    client_id: str | None = Field(default=None, max_length=128, description="unique on the broker; default kikimimi-…")
    base_topic: str = Field(default="kikimimi", pattern=r"^[^+#\x00/$][^+#\x00/]*(/[^+#\x00/]+)*$")
    hermes: bool = Field(
        default=False,
        description="also tell what was said and meant on Rhasspy's topics: hermes/asr/textCaptured, hermes/intent/…",
    )
    keepalive: int = Field(default=30, ge=5, le=3600, description="seconds")

    @model_validator(mode="before")
    @classmethod
    def _expand_url(cls, values: object) -> object:
        """Take the parts out of `url`; a part that is also given by itself is an error."""
        if not isinstance(values, Mapping) or values.get("url") is None:
            return values
        parts = _parse_url(str(values["url"]))
        twice = sorted(key for key in parts if key not in ("url", "tls") and values.get(key) is not None)
        if twice:
            raise ValueError(f"{', '.join(twice)} is given both by url and by itself: remove one")
        if "tls" in parts and values.get("tls") is not None:
            del parts["tls"]
        return {**values, **parts}

    @field_validator("tls", mode="before")
    @classmethod
    def _tls_switch(cls, value: object) -> object:
        """`tls: true` is TLS with the system's authorities."""
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file are both given: remove one")
        return self

    @property
    def address(self) -> str:
        """`host:port`, for a person."""
        return f"{self.host}:{self.port}"

    @property
    def exposed(self) -> list[str]:
        """What is wrong with the rights of the files that hold its secrets."""
        files = [self.password_file, None if self.tls is None else self.tls.key]
        return [problem for file in files if file is not None and (problem := secret_files.exposed(file))]


def _parse_url(url: str) -> dict[str, Any]:
    """The fields of `mqtt[s]://[user[:password]@]host[:port]`; `url` without the password."""
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError:  # its text may quote a piece of the password
        raise ValueError(
            "url must read mqtt://user@host:port or mqtts://user@host:port; write / and @ in a name as %2F and %40"
        ) from None
    if parsed.scheme not in ("mqtt", "mqtts") or not parsed.hostname or parsed.path.strip("/") or parsed.query:
        raise ValueError("url must read mqtt://user@host:port or mqtts://user@host:port")
    secure = parsed.scheme == "mqtts"
    port = port or (8883 if secure else 1883)
    parts: dict[str, Any] = {"host": parsed.hostname, "port": port}
    user = ""
    if parsed.username:
        parts["username"] = unquote(parsed.username)
        user = f"{parsed.username}@"
    if parsed.password:
        parts["password"] = SecretStr(unquote(parsed.password))
    if secure:
        parts["tls"] = TlsSettings()
    host = f"[{parsed.hostname}]" if ":" in parsed.hostname else parsed.hostname
    return {**parts, "url": f"{parsed.scheme}://{user}{host}:{port}"}


class LinkError(Exception):
    """The broker cannot be reached or was lost; the text names the cause and the remedy."""


class ProtocolRefusedError(LinkError):
    """The broker does not answer this version of MQTT: another one is worth trying at once."""


class Link:
    """One connection: `open`, then `send` and `room`, then `close`; `broken` raises `LinkError` when it is lost.

    Each of paho's callbacks appears twice: as it comes in paho's thread, and as it is dealt with on the loop.
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        client_id: str,
        protocol: int,
        will: Message | None,
        received: Received,
        acknowledged: Acknowledged = lambda _message: None,
        traffic: Traffic | None = None,
    ) -> None:
        """`protocol` is 5 or 4 (3.1.1); `received` and `acknowledged` are called on the loop.

        What is sent is counted in `traffic`.
        """
        self.settings = settings
        self.protocol = protocol
        self.refused = 0  # messages that the broker acknowledged with an error
        self.unacknowledged: dict[int, tuple[Message, float]] = {}
        self._received = received
        self._acknowledged = acknowledged
        self._traffic = traffic or Traffic()
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[ReasonCode] = self._loop.create_future()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._asked: dict[int, tuple[str, ...]] = {}  # topics that the broker has not granted yet
        self._denied: set[str] = set()  # topics that it did not grant
        self._moved = asyncio.Event()  # an acknowledgement came, or the connection ended
        self._window = WINDOW
        self._largest: int | None = None  # bytes the broker takes
        self._abandoned = threading.Event()
        self._client = self._make_client(client_id, will)

    async def open(self) -> None:
        """Connect and log in. Raises `LinkError`, or `ProtocolRefusedError` when another version may do better."""
        reached = False
        try:
            self._configure()
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._connect_in_thread()
            reached = True
            self._client.loop_start()
            async with asyncio.timeout(CONNACK_TIMEOUT):
                await asyncio.wait((self._answered, self._lost), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.abandon()
            raise self._no_answer(reached=reached) from None
        except (OSError, ValueError) as error:
            self.abandon()
            raise LinkError(explain(error, self.settings)) from error
        except BaseException:
            self.abandon()
            raise
        if not self._answered.done():
            self.abandon()
            raise ProtocolRefusedError(
                f"{self.settings.address} closes the connection without an answer to MQTT"
                f" {PROTOCOL_NAMES[self.protocol]}: is it an MQTT broker"
                f"{self._wanted}?"
            )
        self._check(self._answered.result())

    def send(self, message: Message) -> None:
        """Hand one message over. Raises ValueError or TypeError for one that MQTT or JSON cannot carry."""
        if not message.topic or "\0" in message.topic:
            raise ValueError("the topic is empty or holds a NUL")
        payload = message.encoded()
        size = len(payload) + len(message.topic.encode())
        if self._largest is not None and size + ROOM_FOR_HEADER > self._largest:
            raise ValueError(f"{len(payload)} bytes are more than the broker takes ({self._largest})")
        info = self._client.publish(
            message.topic, payload, message.qos, message.retain, self._publish_properties(message)
        )
        self._traffic.sent(size)
        if message.qos > 0:
            self.unacknowledged[info.mid] = (message, self._loop.time())

    async def room(self) -> None:
        """Wait until another message may be sent. Raises `LinkError` when the connection is lost meanwhile."""
        await self._wait_for(lambda: len(self.unacknowledged) < self._window)

    async def flushed(self) -> None:
        """Wait until everything is acknowledged. Raises `LinkError` when the connection is lost meanwhile."""
        await self._wait_for(lambda: not self.unacknowledged)

    async def broken(self) -> None:
        """Wait until the connection is lost, or an acknowledgement is overdue, and raise `LinkError`."""
        while not self._lost.done():
            await asyncio.wait((self._lost,), timeout=ACK_TIMEOUT / 4)
            oldest = min((sent for _, sent in self.unacknowledged.values()), default=None)
            if oldest is not None and self._loop.time() - oldest > ACK_TIMEOUT:
                raise LinkError(f"{self.settings.address} stopped to acknowledge messages for {ACK_TIMEOUT:.0f} s")
        raise self._loss()

    def subscribe(self, *topics: str, commands: bool = False) -> None:
        """Ask for topics; for those of `commands` not for what is retained there, as far as MQTT 5 can tell."""
        if commands and self.protocol == 5:
            never = SubscribeOptions.RETAIN_DO_NOT_SEND
            options = SubscribeOptions(1, retainAsPublished=True, retainHandling=never)
            _, identifier = self._client.subscribe([(topic, options) for topic in topics])
        else:
            _, identifier = self._client.subscribe([(topic, 1) for topic in topics])
        if identifier is not None:
            self._asked[identifier] = topics

    async def granted(self, seconds: float) -> bool:
        """Whether the broker has granted every `subscribe` so far. Raises `LinkError` when it is lost."""
        await self.subscribed(seconds)
        return not self._asked and not self._denied

    async def subscribed(self, seconds: float) -> None:
        """Wait at most so long until the broker has answered every `subscribe`. Raises `LinkError` when it is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wait_for(lambda: not self._asked)

    def unsubscribe(self, topic: str) -> None:
        """Ask for it no longer."""
        self._client.unsubscribe(topic)

    async def close(self, seconds: float) -> None:
        """DISCONNECT, and wait at most so long until it is sent."""
        if not self._lost.done():
            properties = None
            if self.protocol == 5:
                properties = _properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0)
            self._client.disconnect(properties=properties)
            await asyncio.wait((self._lost,), timeout=seconds)
        self.abandon()

    def abandon(self) -> None:
        """End the connection at once; its thread ends by itself."""
        self._abandoned.set()
        if not self._lost.done():
            # a half-open TCP connection must not keep paho's thread waiting
            sock = self._client.socket()
            if isinstance(sock, socket.socket):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        # paho closes the sockets that wake its thread once nothing refers to the client. Exceptions that refer to each
        # other keep us: a broker that never answers would cost two sockets a try until garbage is collected.
        self._client = paho.Client(CallbackAPIVersion.VERSION2)

    def _make_client(self, client_id: str, will: Message | None) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if self.protocol == 5 else True,
            protocol=PROTOCOLS[self.protocol],
            reconnect_on_failure=False,
        )
        client.connect_timeout = TCP_TIMEOUT
        client.max_inflight_messages_set(WINDOW)
        if will is not None:
            will_properties = None
            if self.protocol == 5:
                will_properties = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=WILL_DELAY)
            client.will_set(will.topic, will.encoded(), will.qos, will.retain, will_properties)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _configure(self) -> None:
        """Login and TLS; both may read files. Raises OSError or ValueError."""
        settings = self.settings
        if settings.username is not None or settings.password is not None or settings.password_file is not None:
            self._client.username_pw_set(settings.username or "", _password(settings))
        if settings.tls is not None:
            self._client.tls_set_context(tls_context(settings.tls))

    async def _connect_in_thread(self) -> None:
        """Run connect in a daemon thread: it blocks in name resolution, TCP and TLS, and cannot be cancelled."""
        connected: asyncio.Future[None] = self._loop.create_future()
        client = self._client

        def settle(error: Exception | None) -> None:
            if connected.done():
                return
            if error is None:
                connected.set_result(None)
            else:
                connected.set_exception(error)

        def connect() -> None:
            try:
                self._paho_connect(client)
            except Exception as error:
                self._on_loop(settle, error)
                return
            if self._abandoned.is_set():
                client.disconnect()
            self._on_loop(settle, None)

        threading.Thread(target=connect, name="mqtt-connect", daemon=True).start()
        await connected

    def _paho_connect(self, client: paho.Client) -> None:
        assert self.settings.host is not None  # noqa: S101 - checked by the output
        if self.protocol == 5:
            properties = _properties(
                PacketTypes.CONNECT, SessionExpiryInterval=SESSION_EXPIRY, MaximumPacketSize=LARGEST
            )
            client.connect(
                self.settings.host,
                self.settings.port,
                self.settings.keepalive,
                clean_start=False,
                properties=properties,
            )
        else:
            client.connect(self.settings.host, self.settings.port, self.settings.keepalive)

    @property
    def _wanted(self) -> str:
        """What a broker that hangs up may have wanted."""
        if self.settings.tls is None:
            return " (or does it want TLS)"
        return " (or does it want a client certificate: mqtt.tls.cert)" if self.settings.tls.cert is None else ""

    def _check(self, reason: ReasonCode) -> None:
        """Raise what a refusing CONNACK means."""
        if not reason.is_failure:
            return
        self.abandon()
        name, address = reason.getName(), self.settings.address
        if name in REFUSED_VERSION:
            raise ProtocolRefusedError(f"{address} does not speak MQTT {PROTOCOL_NAMES[self.protocol]}")
        if name in REFUSED_LOGIN:
            who = f"user {self.settings.username!r}" if self.settings.username else "a client without a user name"
            raise LinkError(
                f"{address} refuses the login of {who} ({name}): check mqtt.username and mqtt.password or password_file"
            )
        raise LinkError(f"{address} refuses the connection: {name}")

    def _no_answer(self, *, reached: bool) -> LinkError:
        if reached:
            return ProtocolRefusedError(
                f"{self.settings.address} accepts connections but does not answer within {CONNACK_TIMEOUT:.0f} s:"
                " is it an MQTT broker?"
            )
        return LinkError(f"{self.settings.address} cannot be reached within {OPEN_TIMEOUT:.0f} s: check mqtt.host")

    def _loss(self) -> LinkError:
        reason = self._lost.result()
        if reason == "Session taken over":
            reason += ": another client uses the same mqtt.client_id"
        return LinkError(f"{self.settings.address} is gone: {reason}")

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        while True:
            if self._lost.done():
                raise self._loss()
            if condition():
                return
            self._moved.clear()
            await self._moved.wait()

    def _publish_properties(self, message: Message) -> Properties | None:
        if self.protocol != 5:
            return None
        utf8 = 0 if isinstance(message.payload, bytes) else 1
        properties = _properties(PacketTypes.PUBLISH, PayloadFormatIndicator=utf8)
        if message.content_type is not None:
            properties.ContentType = message.content_type
        if message.expiry is not None:
            properties.MessageExpiryInterval = message.expiry
        if message.correlation is not None:
            properties.CorrelationData = message.correlation
        return properties

    # paho calls these in its own thread

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: the daemon is stopping
            self._loop.call_soon_threadsafe(function, *arguments)

    def _on_connect(
        self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._on_loop(self._connected, reason, properties)

    def _on_disconnect(
        self, _client: paho.Client, _userdata: object, _flags: object, reason: ReasonCode, _properties: object
    ) -> None:
        self._on_loop(self._disconnected, reason.getName())

    def _on_publish(
        self, _client: paho.Client, _userdata: object, mid: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._on_loop(self._published, mid, reason)

    def _on_subscribe(
        self, _client: paho.Client, _userdata: object, mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        self._on_loop(self._granted, mid, reasons)

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # of a broker that lets anything through; nothing of ours is called so
            return
        properties = message.properties
        arrived = Arrived(
            topic,
            bytes(message.payload),
            message.retain,
            getattr(properties, "ResponseTopic", None),
            getattr(properties, "CorrelationData", None),
            message.dup,
            message.mid,
        )
        self._on_loop(self._received, arrived)

    # and these run on the loop

    def _connected(self, reason: ReasonCode, properties: Properties | None) -> None:
        if properties is not None:
            self._window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
            self._largest = getattr(properties, "MaximumPacketSize", None)
        if not self._answered.done():
            self._answered.set_result(reason)

    def _disconnected(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result("connection lost" if reason == "Unspecified error" else reason)
        self._moved.set()

    def _published(self, mid: int, reason: ReasonCode) -> None:
        message, sent = self.unacknowledged.pop(mid, (None, 0.0))
        self._moved.set()
        if message is None:
            return
        self._traffic.answers.append(self._loop.time() - sent)
        self._acknowledged(message)
        if reason.is_failure:
            self.refused += 1
            if self.refused == 1:
                log.warning("MQTT: the broker does not take %s: %s (said once)", message.topic, reason.getName())

    def _granted(self, mid: int, reasons: list[ReasonCode]) -> None:
        topics = self._asked.pop(mid, ())
        self._moved.set()
        for topic, reason in zip(topics, reasons, strict=False):
            if reason.is_failure:
                self._denied.add(topic)
                log.warning("MQTT: the broker does not let us listen to %s: %s", topic, reason.getName())


class Connector:
    """Makes one link after the other, with the version of MQTT that worked last: 5 at first."""

    def __init__(self, settings: MqttSettings, client_id: str) -> None:
        self.settings = settings
        self.client_id = client_id
        self.protocol = 5
        self.traffic = Traffic()  # over all links

    async def open(
        self, will: Message | None, received: Received, acknowledged: Acknowledged = lambda _message: None
    ) -> Link:
        """Connect and log in, with the other version at once when this one is refused. Raises `LinkError`."""
        other = {5: 4, 4: 5}[self.protocol]
        try:
            return await self._open_with(self.protocol, will, received, acknowledged)
        except ProtocolRefusedError as error:
            log.debug("MQTT: %s; trying MQTT %s", error, PROTOCOL_NAMES[other])
            try:
                link = await self._open_with(other, will, received, acknowledged)
            except ProtocolRefusedError:
                raise error from None
            self.protocol = other
            return link

    async def _open_with(
        self, protocol: int, will: Message | None, received: Received, acknowledged: Acknowledged
    ) -> Link:
        link = Link(
            self.settings,
            client_id=self.client_id,
            protocol=protocol,
            will=will,
            received=received,
            acknowledged=acknowledged,
            traffic=self.traffic,
        )
        await link.open()
        return link


def _properties(packet: int, **values: int) -> Properties:
    """MQTT 5 properties by their names in the specification."""
    properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _password(settings: MqttSettings) -> str | None:
    if settings.password_file is not None:
        return secret_files.read(settings.password_file)
    return None if settings.password is None else settings.password.get_secret_value()


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave it to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """What verifies the broker and shows our certificate. Raises OSError or ValueError."""
    for file in (tls.ca, tls.cert, tls.key):
        if file is not None:
            file.open("rb").close()  # the ssl module does not say which file it misses
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    context.sslsocket_class = _ClosingSocket
    if tls.ca is not None:
        # Python 3.13 refuses authorities without a key usage, which is how most home-made ones are
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context


def explain(error: OSError | ValueError, settings: MqttSettings) -> str:  # noqa: PLR0911 - one line a cause
    """Why there is no connection, and what to do about it."""
    address = settings.address
    match error:
        case ssl.SSLCertVerificationError():
            remedy = TLS_REMEDIES.get(error.verify_code, "give its authority in mqtt.tls.ca")
            return f"{address}: TLS: the broker's certificate is not trusted ({error.verify_message}): {remedy}"
        case ssl.SSLError():
            return f"{address}: TLS failed ({error.reason or error}): is this the TLS port, are mqtt.tls files right?"
        case socket.gaierror():
            return f"host {settings.host!r} is unknown: check mqtt.host or mqtt.url"
        case ConnectionRefusedError():
            return f"nothing listens at {address}: is the broker running, is mqtt.port right?"
        case OSError(filename=str() | Path()):
            return f"{error.filename}: {error.strerror}: check mqtt.password_file and mqtt.tls"
        case TimeoutError():
            return f"{address} cannot be reached: check mqtt.host and the network"
        case ConnectionError() if settings.tls is not None:
            return f"{address}: the connection was closed during the TLS handshake: is this the TLS port?"
        case OSError():
            return f"{address} cannot be reached: {error.strerror or error}"
        case _:
            return f"{address}: {error}"
