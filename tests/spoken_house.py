"""The house of `tests/data/intents`, furnished for one language, and what people say in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from assistant.config import shipped
from assistant.devices import DeviceSettings
from assistant.events import Intent
from assistant.intents import Intents, NotUnderstood

DATA = Path(__file__).parent / "data" / "intents"
LANGUAGES = ("en", "ja", "de", "fr", "es", "zh-CN")


@dataclass(frozen=True)
class Sentence:
    """Something said in a room (or nobody knows where), and what shall follow."""

    say: str
    room: str | None
    does: dict[str, str]  # payload by topic; empty: nothing may be published
    intent: str | None = None

    def wrong(self, outcome: Intent | NotUnderstood) -> str | None:
        """What is wrong with `outcome`; None: it is right."""
        if isinstance(outcome, NotUnderstood):
            return f"{self.say}: {outcome.reason}" if self.does or self.intent else None
        done = {message.topic: message.payload for message in outcome.publish}
        if done != self.does or len(done) != len(outcome.publish):
            return f"{self.say}: {outcome.name} {outcome.slots} does {done}"
        if self.intent is not None and outcome.name != self.intent:
            return f"{self.say}: {outcome.name} instead of {self.intent}"
        return None


@cache
def read(name: str) -> Any:
    return yaml.safe_load((DATA / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def sentences(language: str) -> tuple[Sentence, ...]:
    """The sentences of a language, and those that must not act among them."""
    return tuple(
        Sentence(one["say"], one.get("room"), one.get("does", {}), one.get("intent"))
        for one in read(language)["sentences"]
    )


@cache
def negatives(language: str) -> tuple[Sentence, ...]:
    """What must not act, said in a room that has a light."""
    return tuple(Sentence(text, "living_room", {}) for text in read("negatives")[language])


def devices(language: str) -> tuple[DeviceSettings, ...]:
    """What stands in the house, by what `language` calls it."""
    names = read(language)["names"]
    return tuple(
        DeviceSettings.model_validate(
            {**settings, "topic": topic, "name": names[topic][0], "aliases": tuple(names[topic][1:])}
        )
        for topic, settings in read("house")["devices"].items()
    )


def rooms(language: str) -> dict[str, tuple[str, ...]]:
    """What `language` calls the rooms."""
    called = read(language)["rooms"]
    return {room: (called[room],) for room in read("house")["rooms"]}


@cache
def house(language: str) -> Intents:
    """What understands commands there; one for each language, since a grammar takes time to compile."""
    return Intents(devices(language), rooms(language), (language,), shipped("intents/ja.yaml").parent)


def several(language: str) -> Intents:
    """The house as `language` names it, where all six are spoken."""
    return Intents(devices(language), rooms(language), LANGUAGES, shipped("intents/ja.yaml").parent)
