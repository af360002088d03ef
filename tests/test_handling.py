"""What follows from a command: messages, replies, the model's choice; nothing of it ever twice or in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from assistant import handling
from assistant.attention import Address, Wake
from assistant.devices import DeviceSettings
from assistant.events import Event, Intent, IntentRecognised, Publish, Say, State
from assistant.handling import Handler
from assistant.intents import Intents, NotUnderstood

WOKEN = Address(0, Wake.WAKE, "alexa")
OVERHEARD = Address(0, Wake.NONE)


@pytest.fixture(scope="module")
def intents() -> Intents:
    lamp = DeviceSettings(name="lamp", area="attic", domain="light", topic="zigbee/lamp/set")
    return Intents([lamp], {"attic": ("Attic",)}, ["en"])


@dataclass
class House:
    """A handler, what it told and what it said."""

    intents: Intents
    transcripts: bool = True
    choose: handling.Choose | None = None
    told: list[IntentRecognised | Publish] = field(default_factory=list)
    said: list[Say] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handler = Handler(
            self.intents,
            tell=self.told.append,
            say=self.said.append,
            transcripts=self.transcripts,
            choose=self.choose,
        )

    async def hear(self, text: str, address: Address = WOKEN) -> Sequence[str]:
        """Say it in the attic; the topics that were told."""
        event = Event("01", "attic", "test", "speech", State.ENDED, "speech", "Speech", 0.9, text=text, language="en")
        meaning = await self.handler.understand(text, "en", "attic")
        if isinstance(meaning, Intent):
            event = replace(event, intent=meaning)
        self.handler.handle(event, meaning, address)
        for _ in range(20):
            await asyncio.sleep(0)
        return [one.topic for one in self.told if isinstance(one, Publish)]


async def test_a_command_is_told_to_the_device_and_answered(intents: Intents) -> None:
    house = House(intents)
    assert await house.hear("Turn on the lamp.") == ["zigbee/lamp/set"]
    (recognised,) = [one for one in house.told if isinstance(one, IntentRecognised)]
    assert recognised.handled
    assert [(say.room, say.reply, bool(say.text)) for say in house.said] == [("attic", True, True)]
    assert house.handler.health() == {"understood": 1, "not_understood": 0, "chosen_by_model": 0}


async def test_words_are_not_told_where_transcripts_are_private(intents: Intents) -> None:
    house = House(intents, transcripts=False)
    await house.hear("Turn on the lamp.")
    (recognised,) = [one for one in house.told if isinstance(one, IntentRecognised)]
    assert recognised.event.text is None


async def test_who_asked_is_told_that_nothing_was_understood_and_who_did_not_ask_is_not(intents: Intents) -> None:
    house = House(intents)
    assert await house.hear("Colourless green ideas sleep furiously.") == []
    assert len(house.said) == 1
    assert await house.hear("Colourless green ideas sleep furiously.", OVERHEARD) == []
    assert len(house.said) == 1
    assert house.handler.health()["not_understood"] == 2


async def test_what_cannot_be_done_here_is_refused_aloud_to_who_asked_and_told_all_the_same(intents: Intents) -> None:
    house = House(intents)
    assert await house.hear("Set a timer for five minutes.") == []
    (recognised,) = [one for one in house.told if isinstance(one, IntentRecognised)]
    assert not recognised.handled
    assert ["timers are not supported" in say.text for say in house.said] == [True]
    await house.hear("Set a timer for five minutes.", OVERHEARD)
    assert len(house.said) == 1
    answer = await house.handler.converse("set a timer for five minutes", "en", "attic")
    assert (answer.handled, "not supported" in answer.text) == (False, True)


async def test_the_model_chooses_only_what_no_sentence_matches(intents: Intents) -> None:
    asked: list[str] = []
    chosen = Intent("HassTurnOn", {"name": "lamp"}, "model", "en", (Publish("zigbee/lamp/set", "ON"),))

    async def choose(text: str, language: str | None, room: str | None) -> Intent | None:
        asked.append(text)
        return chosen if "dark" in text else None

    house = House(intents, choose=choose)
    assert await house.hear("It is rather dark up here.") == ["zigbee/lamp/set"]
    assert await house.hear("Colourless green ideas sleep furiously.") == ["zigbee/lamp/set"]
    await house.hear("Turn on the lamp.")
    assert len(asked) == 2
    assert house.handler.health() == {"understood": 2, "not_understood": 1, "chosen_by_model": 1}


async def test_a_refused_sentence_is_not_given_to_the_model(intents: Intents) -> None:
    async def choose(text: str, language: str | None, room: str | None) -> Intent | None:
        raise AssertionError(text)

    house = House(intents, choose=choose)
    event = Event("01", "attic", "test", "speech", State.ENDED, "speech", "Speech", 0.9, text="x", language="en")
    house.handler.handle(event, NotUnderstood("no lamp there", matched=True), WOKEN)
    await asyncio.sleep(0)
    assert len(house.said) == 1


async def test_a_model_that_takes_too_long_or_breaks_is_given_up(
    intents: Intents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handling, "CHOICE_WITHIN", 0.05)

    async def choose(text: str, language: str | None, room: str | None) -> Intent | None:
        if "slow" in text:
            await asyncio.sleep(60)
        raise RuntimeError("broken")

    house = House(intents, choose=choose)
    slow = await house.handler.converse("Something slow and dark.", "en", "attic")
    broken = await house.handler.converse("Something dark.", "en", "attic")
    assert (slow.handled, broken.handled) == (False, False)
    assert slow.text == broken.text != ""


async def test_a_written_sentence_acts_too(intents: Intents) -> None:
    house = House(intents)
    answer = await house.handler.converse("turn off the lamp", "en", None)
    assert answer.handled
    assert [one.payload for one in house.told if isinstance(one, Publish)] == ["OFF"]
