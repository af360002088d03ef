"""What the page Set up asks: microphones, sounds, brokers, privacy, a test alert; and the file that follows from it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from assistant import broker_search, secret_files
from assistant.audio import microphone
from assistant.audio.address import kind_of, without_secrets
from assistant.changing import Changes, in_time
from assistant.config import Config
from assistant.configuration_file import write_secret
from assistant.ears import Ear
from assistant.errors import AssistantError, ConfigurationError, SourceError
from assistant.events import SAMPLE_RATE, Command, Samples, SendTest
from assistant.outputs.mqtt_client import MqttSettings, TlsSettings
from assistant.outputs.probe import handed_out, probe
from assistant.rewriting import GONE, Gone, Value, with_values
from assistant.ruling import table_of
from assistant.sound_check import Loudness, SoundCheck
from assistant.startup import rooms_of
from assistant.waiting import in_thread
from assistant.web.configuration import Done, FileState
from assistant.web.setup import (
    BrokerFound,
    BrokerState,
    BrokerWanted,
    Listen,
    MicrophoneFound,
    Microphones,
    Privacy,
    SetUp,
    SetUpRoom,
    SoundChoice,
    Tested,
    Wanted,
)

log = logging.getLogger(__name__)

SEEN = "setup-seen"  # a file: the page was opened once
HEADER = "# Written by the page Set up. Every key is explained in config.example.yaml of Kikimimi.\n"
LISTED_WITHIN = 15.0  # seconds for the list of microphones
ARRIVES_WITHIN = 10.0  # seconds for a test alert
TRIED_WITHIN = 30.0  # seconds for a broker
LAST = SAMPLE_RATE  # samples of a room that its level is made of, at most
HOST_MISSING = "the host of the broker is missing; remedy: its name or address"
ROOM = "room:"  # in an address: what a room hears
Keys = dict[tuple[str | int, ...], Value | Gone]


@dataclass(frozen=True, slots=True)
class Now:
    """What the daemon knows at this moment."""

    ears: Sequence[Ear]
    mqtt: MqttSettings | None  # of the connection
    connected: bool
    given_broker: bool  # on the command line
    restart: Callable[[], None] | None  # has the daemon start anew
    taught: Mapping[str, str]  # titles of taught sounds by event type


@dataclass(slots=True)
class SettingUp:
    """Answers `web.setup`. `folder` is that of the state."""

    changes: Changes
    now: Callable[[], Now]
    command: Callable[[Command], None]
    file_state: Callable[[], Any]  # of `ruling`
    folder: Path
    sound_check: SoundCheck = field(default_factory=SoundCheck)
    opened: bool = False  # the page was opened, where no file can tell

    async def set_up(self) -> SetUp:
        """As it is in the file, and what became of it."""
        state: FileState = await self.file_state()
        config, problem = self.changes.household.config, None
        try:
            config = await self.changes.parsed((await self.changes.read()).text)
        except ConfigurationError as error:
            problem = str(error)
        now = self.now()
        table = await in_time(lambda: table_of(config))
        followed = self.changes.household.config
        return SetUp(
            file=state,
            first=not state.exists and not self.opened and not await in_time((self.folder / SEEN).exists),
            problem=problem,
            rooms=[
                SetUpRoom(
                    id=ear.room.id,
                    name=ear.room.name,
                    source=_shown(ear.room.address),
                    online=ear.online,
                    reason=ear.told,
                )
                for ear in now.ears
            ],
            fixed_rooms={(ear.room.id, ear.room.address) for ear in now.ears}
            != {(room.id, room.address) for room in rooms_of(followed, [])},
            sounds=[
                SoundChoice(event_type=name, title=title, alert=alert, told=name not in config.sounds.ignore)
                for name, (title, alert) in {
                    **{name: (title, False) for name, title in now.taught.items()},
                    **{name: (None, group.alert) for name, group in table.groups.items()},
                }.items()
            ],
            broker=_broker_state(config, now),
            discovery=config.homeassistant.discovery,
            privacy=Privacy(
                transcripts=config.privacy.transcripts,
                clips=config.clips.enabled,
                drop_speech=config.clips.drop_speech,
            ),
            can_restart=now.restart is not None,
        )

    async def seen(self) -> None:
        """The page was opened: never again by itself."""
        self.opened = True

        def remember() -> None:
            with contextlib.suppress(OSError):  # then it is remembered until the daemon ends
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / SEEN).touch(mode=0o600)

        await in_time(remember)

    # microphones

    async def microphones(self) -> Microphones:
        """What can record, and who listens to it."""
        try:
            devices = await self._devices()
        except SourceError as error:
            return Microphones(microphones=[], problem=str(error))
        found = [
            MicrophoneFound(
                address=_address(device, devices),
                name=device.name,
                default=device.default,
                room=self._listener(device, devices),
            )
            for device in devices
        ]
        return Microphones(microphones=sorted(found, key=lambda one: not one.default), problem=None)

    async def _devices(self) -> list[microphone.Device]:
        try:
            async with asyncio.timeout(LISTED_WITHIN):
                return await in_thread(microphone.devices, "portaudio")
        except TimeoutError:
            raise SourceError("the sound system does not answer; remedy: restart the sound server") from None

    def _listener(self, device: microphone.Device, devices: list[microphone.Device]) -> str | None:
        """The room that hears a device now."""
        for ear in self.now().ears:
            if ear.online and kind_of(ear.room.address) == "microphone":
                with contextlib.suppress(SourceError):
                    if microphone.find(ear.room.address, devices).index == device.index:
                        return ear.room.id
        return None

    async def listen(self, wanted: Listen) -> AsyncGenerator[Mapping[str, Any]]:
        """How loud it is there, once it is open. Only microphones: nothing else is opened from here."""
        room = wanted.address.removeprefix(ROOM) if wanted.address.startswith(ROOM) else None
        if room is None:
            if kind_of(wanted.address) != "microphone":
                raise SourceError(f"{wanted.address!r} is no microphone; remedy: choose one of the list")
            devices = await self._devices()
            room = self._listener(microphone.find(wanted.address, devices), devices)
        if room is None:
            levels = await self.sound_check.microphone(wanted.address, wanted.seconds)
        else:
            identity = room
            levels = await self.sound_check.room(lambda: self._heard(identity), wanted.seconds)
        return _rounded(levels)

    def _heard(self, room: str) -> tuple[int, Samples] | None:
        ear = next((ear for ear in self.now().ears if ear.room.id == room), None)
        if ear is None or ear.pipeline is None or not ear.online:
            return None
        position = ear.pipeline.position
        return position, ear.pipeline.audio(position - LAST, position)

    # brokers

    async def brokers(self) -> list[BrokerFound]:
        """Those that can be found."""
        return [BrokerFound.model_validate(asdict(one)) for one in await broker_search.search()]

    async def try_broker(self, wanted: BrokerWanted) -> AsyncGenerator[Mapping[str, Any]]:
        """Each step towards a broker, as it is done."""
        try:
            settings = await self._tried(wanted)
        except AssistantError as error:
            yield {"step": "name", "works": False, "detail": str(error)}
            return
        last = ""
        try:
            async with asyncio.timeout(TRIED_WITHIN), contextlib.aclosing(probe(settings)) as steps:
                async for step in steps:
                    last = step.name
                    yield {"step": step.name, "works": step.works, "detail": step.detail}
        except TimeoutError:
            detail = f"no answer in {TRIED_WITHIN:.0f} s; remedy: look at the broker's log"
            yield {"step": last or "name", "works": False, "detail": detail}

    async def _tried(self, wanted: BrokerWanted) -> MqttSettings:
        config = await self._config()
        if wanted.kind != "own":
            now = self.now()
            if now.mqtt is None or config.mqtt.host is not None:
                raise AssistantError("our own broker does not run yet; remedy: save, and start anew")
            return now.mqtt
        if wanted.supervisor:
            login = await broker_search.supervisor()
            wanted = _as_told(wanted, login)
        if not wanted.host:
            raise ConfigurationError(HOST_MISSING)
        password = None if wanted.password is None else wanted.password or None
        same = _is_same(wanted, config.mqtt)
        if wanted.password is None and same:
            password = await in_time(lambda: _password_of(config.mqtt))
        tls = (config.mqtt.tls if same else None) or TlsSettings() if wanted.tls else None
        return MqttSettings(
            host=wanted.host,
            port=wanted.port,
            username=wanted.username or None,
            password=None if password is None else SecretStr(password),
            tls=tls,
            base_topic=config.mqtt.base_topic,
        )

    async def _config(self) -> Config:
        """That of the file, which may wait for a restart."""
        return await self.changes.parsed((await self.changes.read()).text)

    async def test(self, room: str) -> Tested:
        """Send a test alert; another client of the broker waits for it."""
        now = self.now()
        if all(ear.room.id != room for ear in now.ears):
            raise AssistantError(f"there is no room {room}; remedy: load the page again")
        if now.mqtt is None or not now.connected:
            return Tested(
                arrived=False, seconds=None, detail="the broker is not connected; remedy: try it under Where to send"
            )
        sent: list[float] = []

        def send() -> None:
            sent.append(time.monotonic())
            self.command(SendTest(room))

        topic = f"{now.mqtt.base_topic}/{room}/event"
        step = await handed_out(now.mqtt, topic, send, lambda payload: b'"test"' in payload, ARRIVES_WITHIN)
        took = round(time.monotonic() - sent[0], 2) if sent and step.works else None
        return Tested(arrived=step.works, seconds=took, detail=step.detail)

    # the file

    async def save(self, wanted: Wanted) -> Done:
        """Change the file: only what is another value than before is touched."""
        made: list[Path] = []
        try:
            keys = await self._keys(wanted, made)
            changed = await self.changes.change(wanted.digest, "setup", lambda text: with_values(text or HEADER, keys))
        except AssistantError:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        return Done(digest=changed.digest, restart=list(changed.restart))

    async def _keys(self, wanted: Wanted, made: list[Path]) -> Keys:
        config = await self._config()
        keys: Keys = {}
        if (chosen := wanted.microphone) is not None:
            known, source = config.rooms.get(chosen.room), chosen.source
            if source is None and known is None:
                source = "default"
            if source is not None and kind_of(source) not in FROM_THE_PAGE:
                raise ConfigurationError(
                    f"{_shown(source)!r} is neither a microphone nor the address of a camera or satellite; "
                    "remedy: choose one of the list, or write other sources into the configuration file"
                )
            if source is not None and (known is None or known.source != source):
                keys["rooms", chosen.room, "source"] = source
            if chosen.name is not None and (known is None or known.name != chosen.name):
                keys["rooms", chosen.room, "name"] = chosen.name
        if wanted.ignore is not None and set(wanted.ignore) != set(config.sounds.ignore):
            keys["sounds", "ignore"] = list(dict.fromkeys(wanted.ignore))
        if (privacy := wanted.privacy) is not None:
            for place, value, before in (
                (("privacy", "transcripts"), privacy.transcripts, config.privacy.transcripts),
                (("clips", "enabled"), privacy.clips, config.clips.enabled),
                (("clips", "drop_speech"), privacy.drop_speech, config.clips.drop_speech),
            ):
                if value != before:
                    keys[place] = value
        if wanted.broker is not None:
            keys |= await self._broker_keys(wanted.broker, config, made)
        return keys

    async def _broker_keys(self, wanted: BrokerWanted, config: Config, made: list[Path]) -> Keys:
        if wanted.kind == "own" and wanted.supervisor:
            wanted = _as_told(wanted, await broker_search.supervisor())
        if wanted.kind == "own":
            return await self._own_broker_keys(wanted, config, made)
        keys: Keys = {("mqtt", key): GONE for key in MQTT_KEYS} if config.mqtt.host is not None else {}
        if wanted.kind == "page":
            if not config.broker.private:
                keys |= {("broker", key): GONE for key in ("host", "username", "password", "password_file")}
            return keys
        if config.broker.private:
            keys["broker", "host"] = "0.0.0.0"  # noqa: S104 (what was asked for)
        if wanted.port != config.broker.port:
            keys["broker", "port"] = wanted.port
        if wanted.username and wanted.username != config.broker.username:
            keys["broker", "username"] = wanted.username
        if wanted.password:
            keys["broker", "password"] = GONE
            keys["broker", "password_file"] = await self._secret("broker", wanted.password, made)
        return keys

    async def _own_broker_keys(self, wanted: BrokerWanted, config: Config, made: list[Path]) -> Keys:
        mqtt = config.mqtt
        if not wanted.host:
            raise ConfigurationError(HOST_MISSING)
        if _is_same(wanted, mqtt) and wanted.password is None:
            return {}
        has_password = mqtt.password is not None or mqtt.password_file is not None
        moved = (wanted.host, wanted.username) != (mqtt.host, mqtt.username or "")
        if wanted.password is None and has_password and (moved or mqtt.url is not None):
            raise ConfigurationError("mqtt.password: the one that is set is for another broker; remedy: type it again")
        keys: Keys = {
            ("mqtt", "url"): GONE,
            ("mqtt", "host"): wanted.host,
            ("mqtt", "port"): wanted.port,
            ("mqtt", "username"): wanted.username or GONE,
        }
        if wanted.tls != (mqtt.tls is not None) or mqtt.url is not None:
            keys["mqtt", "tls"] = True if wanted.tls else GONE
        if wanted.password is not None:
            keys["mqtt", "password"] = keys["mqtt", "password_file"] = GONE
        if wanted.password:
            keys["mqtt", "password_file"] = await self._secret("mqtt", wanted.password, made)
        return keys

    async def _secret(self, what: str, secret: str, made: list[Path]) -> str:
        """Write a password into a file of its own beside the configuration. Its path; those before it stay for undo."""
        path = self.changes.path.absolute().parent / f"{what}-password-{secrets.token_hex(3)}"
        await in_time(lambda: write_secret(path, secret))
        made.append(path)
        return str(path)

    async def restart(self, digest: str) -> None:
        """Start anew, if the file is one that can be started with."""
        restart = self.now().restart
        if (await self.changes.read()).digest != digest:
            raise AssistantError("the file was changed meanwhile; remedy: load the page again")
        await self._config()
        if restart is None:
            raise AssistantError("the daemon cannot start anew by itself here; remedy: restart it")
        log.info("starting anew, as somebody asked on the page")
        restart()


MQTT_KEYS = ("url", "host", "port", "username", "password", "password_file", "tls")


def _broker_state(config: Config, now: Now) -> BrokerState:
    own = config.mqtt.host is not None
    settings = config.mqtt if own else config.broker
    return BrokerState(
        kind="own" if own else "page" if config.broker.private else "embedded",
        host=settings.host,
        port=settings.port,
        username=settings.username,
        password=settings.password is not None or settings.password_file is not None,
        tls=config.mqtt.tls is not None,
        connected=now.connected,
        fixed=now.given_broker,
    )


def _is_same(wanted: BrokerWanted, mqtt: MqttSettings) -> bool:
    """Whether this is the broker that the password was set for."""
    return (wanted.host, wanted.port, wanted.username, wanted.tls) == (
        mqtt.host,
        mqtt.port,
        mqtt.username or "",
        mqtt.tls is not None,
    )


def _password_of(mqtt: MqttSettings) -> str | None:
    if mqtt.password is not None:
        return mqtt.password.get_secret_value()
    if mqtt.password_file is None:
        return None
    try:
        return secret_files.read(mqtt.password_file)
    except (OSError, ValueError) as error:
        raise AssistantError(f"mqtt.password_file: {error}") from error


def _as_told(wanted: BrokerWanted, login: broker_search.Login) -> BrokerWanted:
    """With what the Supervisor says."""
    return wanted.model_copy(
        update={
            "host": login.host,
            "port": login.port,
            "username": login.username,
            "password": login.password.get_secret_value(),
            "tls": login.tls,
        }
    )


# Files are not among them: whoever has the page's password shall not read every file that the daemon may.
FROM_THE_PAGE = frozenset({"microphone", "stream", "satellite"})


def _shown(address: str) -> str:
    return without_secrets(address) if "://" in address else address


def _address(device: microphone.Device, devices: list[microphone.Device]) -> str:
    """The device as a room's source: what survives replugging, else its name, else its number."""
    for address in (*device.identities, device.name):
        with contextlib.suppress(SourceError):
            if kind_of(address) == "microphone" and microphone.find(address, devices).index == device.index:
                return address
    return str(device.index)


async def _rounded(levels: AsyncGenerator[Loudness]) -> AsyncGenerator[Mapping[str, Any]]:
    async with contextlib.aclosing(levels):
        async for one in levels:
            yield {
                "dbfs": round(one.dbfs, 1),
                "floor": round(one.floor, 1),
                "peak": round(one.peak, 1),
                "clap": one.clap,
            }
