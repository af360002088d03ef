"""A Wyoming server: speech-to-text, conversation agent and text-to-speech for Home Assistant.

Protocol: https://github.com/OHF-Voice/wyoming. Home Assistant takes the first `asr`, the first `tts` and one of
`intent` and `handle` of what is offered here. It is `handle`: an `intent` is carried out by Home Assistant on its own
entities, a `handle` is what we did with the devices of our configuration. Never `satellite`: it would use nothing else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import Field

from assistant.errors import AssistantError
from assistant.settings import Settings
from assistant.wyoming_services import Complaints, Desk, Limits, Services, Speaker

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf


log = logging.getLogger(__name__)

BACKOFF = (1.0, 60.0)  # seconds between attempts to open the port
SERVICE = "_wyoming._tcp.local."
SOURCE = {"name": "Kikimimi", "url": "https://github.com/OHF-Voice/wyoming"}  # Wyoming's "attribution"


class WyomingSettings(Settings):
    """The server for Home Assistant's voice pipeline."""

    enabled: bool = Field(default=True, description="false: the port stays closed")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0: the whole network")
    port: int = Field(default=10310, ge=0, le=65535, description="TCP port; 0: any that is free")
    zeroconf: bool = Field(default=False, description="announce the server on the network")


class WyomingServer:
    """The server; `run` it as a lasting part of the daemon."""

    def __init__(
        self,
        settings: WyomingSettings,
        services: Services,
        *,
        version: str,
        languages: Sequence[str],
        model: str = "whisper",
        conversing: Sequence[str] = (),
        speakers: Sequence[Speaker] = (),
        limits: Limits | None = None,
    ) -> None:
        """`languages` that are recognised (ISO 639-1), `conversing` those that commands are understood in.

        Without `languages` no speech-to-text is offered, without `conversing` no conversation agent, without `speakers`
        no text-to-speech.
        """
        self._settings = settings
        self._services = services
        self._limits = limits or Limits()
        self._languages = tuple(languages)
        self._speakers = tuple(speakers)
        self._conversing = tuple(conversing)
        self._info = info(version, model, languages, conversing, speakers)
        self._complaints = Complaints()
        self._tasks: set[asyncio.Task[None]] = set()
        self._desk: Desk | None = None
        self.port: int | None = None  # the one it listens on; None while it does not
        self.listening = asyncio.Event()

    def health(self) -> Mapping[str, int]:
        """Connections open, and counts since the start."""
        return {"open": len(self._tasks), **self._complaints.counts}

    async def run(self) -> None:
        """Listen until cancelled. A port that is taken is tried again for ever."""
        self._desk = Desk(
            self._services, self._info, self._languages, self._speakers, bool(self._conversing), self._limits,
            self._complaints,
        )  # fmt: skip
        server = await self._open()
        announced = None
        try:
            self.port = server.sockets[0].getsockname()[1]
            self.listening.set()
            log.info("wyoming: listening on %s port %d", self._settings.host, self.port)
            if self._settings.zeroconf:
                announced = await announce(self._settings.host, self.port)
            # Not `serve_forever`: in Python 3.12.1 to 3.12.7 its end waits for peers to go by themselves (gh-123720).
            await asyncio.get_running_loop().create_future()
        finally:
            self.listening.clear()
            self.port = None
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if announced is not None:
                await withdraw(*announced)

    async def _open(self) -> asyncio.Server:
        delay, told = BACKOFF[0], False
        host, port = self._settings.host, self._settings.port
        while True:
            try:
                return await asyncio.start_server(self._accept, host, port, limit=self._limits.line)
            except OSError as error:
                if not told:
                    log.error(  # noqa: TRY400 (a person reads this: no traceback)
                        "wyoming: %s port %d cannot be opened (%s), it is tried again; remedy: another wyoming.port or "
                        "wyoming.host, or wyoming.enabled: false",
                        host,
                        port,
                        error.strerror or error,
                    )
                told = True
            await asyncio.sleep(delay)
            delay = min(2.0 * delay, BACKOFF[1])

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from assistant.wyoming_connection import Connection  # noqa: PLC0415 (only where the server is on)

        if self._desk is None or len(self._tasks) >= self._limits.connections:
            self._complaints.add("refused", f"more than {self._limits.connections} connections; one more was refused")
            writer.write(b'{"type":"error","data":{"text":"too many connections","code":"busy"}}\n')
            writer.close()
            return
        self._complaints.counts["connections"] += 1
        sock = writer.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        task = asyncio.create_task(Connection(reader, writer, self._desk).run(), name="wyoming connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def info(
    version: str, model: str, languages: Sequence[str], conversing: Sequence[str], speakers: Sequence[Speaker]
) -> dict[str, Any]:
    """The data of the answer to `describe`."""

    def artifact(name: str, description: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
        known = {"name": name, "attribution": SOURCE, "installed": True, "description": description, "version": version}
        return {**known, **fields}

    recognition = artifact(
        "Kikimimi",
        "Kikimimi's speech recognition",
        models=[artifact(model, "What the rooms are heard with", languages=list(languages))],
        supports_transcript_streaming=True,
    )
    agent = artifact(
        "Kikimimi",
        "Acts on the devices of Kikimimi's configuration",
        models=[artifact("commands", "Offline commands", languages=list(conversing))],
        supports_handled_streaming=False,
        supports_home_control=True,
    )
    voices = [artifact(one.name, one.description or one.name, languages=list(one.languages)) for one in speakers]
    speech = artifact("Kikimimi", "Kikimimi's voices", voices=voices, supports_synthesize_streaming=True)
    nothing: dict[str, Any] = {"intent": [], "wake": [], "mic": [], "snd": []}
    return {
        "asr": [recognition] if languages else [],
        "tts": [speech] if speakers else [],
        "handle": [agent] if conversing else [],
        **nothing,
    }


async def announce(host: str, port: int) -> tuple[AsyncZeroconf, AsyncServiceInfo] | None:
    """Tell the network about the server. None, and a warning, when that fails or nobody could reach it."""
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415

    zeroconf = None
    try:
        addresses = await reachable(host)
        if not addresses:
            log.warning("wyoming: %s is for this machine only, so it is not announced; remedy: wyoming.host", host)
            return None
        name = socket.gethostname().split(".")[0] or "home"
        service = AsyncServiceInfo(
            SERVICE, f"Kikimimi on {name}.{SERVICE}", port=port, parsed_addresses=addresses, server=f"{name}.local."
        )
        zeroconf = AsyncZeroconf()
        await zeroconf.async_register_service(service, allow_name_change=True)
    except Exception as error:  # whatever is wrong with the network, the server itself works
        log.warning("wyoming: the announcement on the network failed (%s: %s)", type(error).__name__, error)
        if zeroconf is not None:
            await zeroconf.async_close()
        return None
    log.info("wyoming: announced as %s", service.name)
    return zeroconf, service


async def withdraw(zeroconf: AsyncZeroconf, service: AsyncServiceInfo) -> None:
    """Take an announcement back."""
    try:
        async with asyncio.timeout(3.0):
            await zeroconf.async_unregister_service(service)
    except Exception as error:  # the network may be gone
        log.debug("wyoming: the announcement was not taken back: %s", error)
    finally:
        await zeroconf.async_close()


async def reachable(host: str) -> list[str]:
    """Addresses under which others reach what listens on `host`; none for a loopback address."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = {str(entry[4][0]) for entry in found}
    if any(ipaddress.ip_address(address.split("%")[0]).is_unspecified for address in addresses):
        addresses = {_outward()}
    return sorted(one for one in addresses if not ipaddress.ip_address(one.split("%")[0]).is_loopback)


def _outward() -> str:
    """The address of the interface that multicast leaves by; nothing is sent. Raises `AssistantError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("224.0.0.251", 5353))
        except OSError as error:
            raise AssistantError(f"no network: {error.strerror}") from error
        return str(sock.getsockname()[0])
