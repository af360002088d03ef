"""`kikimimi intent`: what a text would do in this house, and why not when it would do nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from assistant.config import shipped
from assistant.errors import ConfigurationError
from assistant.events import Intent
from assistant.intents import Intents, NotUnderstood

if TYPE_CHECKING:
    from assistant.config import Config

SHIPPED = "intents/ja.yaml"  # any file of the folder


def intents_of(config: Config, languages: Sequence[str] | None = None) -> Intents:
    """What understands the commands of this house."""
    rooms = {
        room: tuple(name for name in (settings.name, settings.area) if name) for room, settings in config.rooms.items()
    }
    spoken = languages or config.speech.languages or ("en",)
    return Intents(config.devices, rooms, spoken, shipped(SHIPPED).parent)


def understand(
    config: Config, text: str, language: str | None = None, room: str | None = None
) -> Intent | NotUnderstood:
    """What `text`, heard in `room`, means. Raises `ConfigurationError` for an unknown room or language."""
    if room is not None and room not in config.rooms:
        there = ", ".join(config.rooms) or "none: rooms: is empty"
        raise ConfigurationError(f"--room {room}: there is no such room; there is {there}")
    languages = None if room is None else config.rooms[room].languages
    intents = intents_of(config, (language,) if language else languages)
    return intents.understand(text, language=language, area=room, now=datetime.now().astimezone())


def show(outcome: Intent | NotUnderstood, out: TextIO, *, as_json: bool = False) -> int:
    """Write what would happen; the exit code."""
    if as_json:
        out.write(json.dumps(_json(outcome), ensure_ascii=False) + "\n")
        return 0 if isinstance(outcome, Intent) else 1
    if isinstance(outcome, NotUnderstood):
        out.write(f"nothing would happen: {outcome.reason}\n")
        return 1
    out.write(f"intent  {outcome.name} ({outcome.language})\n")
    for slot, value in outcome.slots.items():
        out.write(f"slot    {slot} = {value}\n")
    for message in outcome.publish:
        out.write(f"publish {message.topic} {message.payload}\n")
    if not outcome.publish:
        out.write("publish nothing to devices: left to whoever reads kikimimi/<room>/intent, such as Home Assistant\n")
    if outcome.undone:
        out.write(f"because {outcome.undone}\n")
    out.write(f"reply   {outcome.reply or '(none)'}\n")
    return 0


def _json(outcome: Intent | NotUnderstood) -> Mapping[str, Any]:
    if isinstance(outcome, NotUnderstood):
        return {"intent": None, "reason": outcome.reason}
    publish = [{"topic": message.topic, "payload": message.payload} for message in outcome.publish]
    told = {"intent": outcome.to_json(), "language": outcome.language, "publish": publish, "reply": outcome.reply}
    return {**told, "reason": outcome.undone} if outcome.undone else told
