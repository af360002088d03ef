"""Parts of the daemon as its configuration asks for them, none of them started."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from assistant import __version__, secret_files
from assistant.audio.address import kind_of
from assistant.clip_folder import ClipFolder
from assistant.config import shipped
from assistant.grammar import language_of
from assistant.intents import Intents
from assistant.outputs.broker import BrokerSettings, answers_mqtt, embedded_broker
from assistant.wyoming_server import WyomingServer
from assistant.wyoming_services import Speaker as WyomingSpeaker

if TYPE_CHECKING:
    from pathlib import Path

    from assistant.config import Config
    from assistant.outputs.speaking import Speaker
    from assistant.startup import Room
    from assistant.wyoming_services import Services

log = logging.getLogger(__name__)


def intents_of(config: Config, rooms: Sequence[Room]) -> Intents:
    """The commands that this house understands. Nothing is compiled yet."""
    return Intents(config.devices, said_names(rooms), conversing(config), shipped("intents/ja.yaml").parent)


def said_names(rooms: Sequence[Room]) -> dict[str, tuple[str, ...]]:
    """What people may call each room, by its id."""
    return {room.id: tuple(name for name in (room.name, room.area) if name) for room in rooms}


def names_of(rooms: Sequence[Room]) -> dict[str, str]:
    """What each room is called, by its id."""
    return {room.id: room.name or room.id for room in rooms}


def known_languages(config: Config) -> bool:
    """Whether commands are worth compiling before the first one: there are devices, and few languages."""
    return bool(config.devices) and "languages" in config.speech.model_fields_set


def conversing(config: Config) -> tuple[str, ...]:
    """The household's languages that sentences are known for."""
    return tuple(code for code in config.speech.languages if language_of(code)) or ("en",)


def speaker_of(room: Room) -> Speaker | None:
    """Where replies to a room are heard on this machine. A satellite is its own speaker, once it is connected."""
    from assistant.outputs.loudspeaker import Loudspeaker  # noqa: PLC0415 (PortAudio only where it is used)

    if room.speaker == "none" or (room.speaker is None and kind_of(room.address) != "microphone"):
        return None
    return Loudspeaker(room.speaker or "default")


def wyoming_server(config: Config, services: Services) -> WyomingServer:
    """The Wyoming server of this configuration, not yet listening."""
    languages = config.speech.languages
    return WyomingServer(
        config.wyoming,
        services,
        version=__version__,
        languages=languages if config.speech.enabled else (),
        conversing=conversing(config),
        speakers=[WyomingSpeaker(f"kikimimi-{code}", (code,)) for code in languages] if config.say.enabled else (),
    )


def clips_of(config: Config, state: Path) -> ClipFolder | None:
    """Where clips are kept; None while they are switched off. Nothing is made or read yet."""
    clips = config.clips
    if not clips.enabled:
        return None
    folder = clips.dir or state / "clips"
    return ClipFolder(folder, days=clips.days, megabytes=clips.megabytes, at_least=clips.at_least, free=clips.free)


def first_language(config: Config) -> str:
    """That of the household which comes first (ISO 639-1)."""
    return config.speech.languages[0] if config.speech.languages else "en"


@asynccontextmanager
async def own_broker(settings: BrokerSettings) -> AsyncIterator[dict[str, Any]]:
    """The embedded broker, and how we reach it. Where only we use it a free port will do when its own is taken.

    Raises `AssistantError`.
    """
    port, login = settings.port, settings.login()
    for problem in filter(None, (settings.password_file and secret_files.exposed(settings.password_file),)):
        log.warning("broker: %s", problem)
    if settings.private and port and await answers_mqtt(settings.host, port):
        log.warning(
            "another MQTT broker answers on port %d; to use it: kikimimi run --mqtt mqtt://127.0.0.1:%d", port, port
        )
        port = 0
    async with embedded_broker(settings.host, port, login) as bound:
        name, password = login or (None, None)
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 (read, not bound)
        yield {
            "host": own,
            "port": bound,
            "username": name,
            "password": None if password is None else SecretStr(password),
            "password_file": None,
        }
