"""What becomes of wake words, utterances and replies in one room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from assistant.arbitration import Arbiter
from assistant.attention import Address, Attention, Wake
from assistant.commanding import SETTLED, UNFINISHED, RoomCommands
from assistant.events import SAMPLE_RATE, Chunk, Cut, Event, Intent, State, Utterance, frozen
from assistant.intents import NotUnderstood

S = SAMPLE_RATE
TURN_ON = Intent("HassTurnOn", {"name": "lamp"}, "hassil", "en")


@dataclass
class Satellite:
    """A source that is told whose turn it is."""

    told: list[str] = field(default_factory=list)
    on_wake: object = None
    clock: int = 0

    def position(self) -> int:
        return self.clock

    async def play(self, speech: object) -> None: ...

    def detected(self, name: str, position: int) -> None:
        self.told.append(f"detected {name}")

    def voice_started(self, position: int) -> None:
        self.told.append("started")

    def voice_stopped(self, position: int) -> None:
        self.told.append("stopped")

    def turn_ended(self, text: str) -> None:
        self.told.append(f"ended {text}")


@dataclass
class Commands:
    """`RoomCommands` of one room, and what they did."""

    mode: Wake = Wake.WAKE
    meaning: Intent | NotUnderstood = TURN_ON
    asked: list[str] = field(default_factory=list)
    handled: list[object] = field(default_factory=list)
    hushed: int = 0
    alone: bool = False  # no other room may hear the same
    turns: Satellite | None = None

    def __post_init__(self) -> None:
        self.room = RoomCommands(
            "attic",
            Attention(self.mode),
            None,
            Arbiter(alone=lambda: self.alone),
            understand=self.understand,
            settled=self.settled,
            handle=self.handle,
            hush=self.hush,
            turns=self.turns,
        )

    async def understand(self, text: str, language: str | None, room: str) -> Intent | NotUnderstood:
        self.asked.append(text)
        return self.meaning

    async def settled(self, text: str, language: str | None, room: str) -> bool:
        return text == f"{language} in the {room}"

    def handle(self, event: Event, meaning: Intent | NotUnderstood, address: Address) -> None:
        self.handled.append(meaning)

    def hush(self) -> bool:
        self.hushed += 1
        return True

    def hear(self, start: int, *, speaking: bool, level: float = 0.1) -> None:
        samples = frozen(np.full(1280, level, np.float32))
        self.room.hear(Chunk("attic", "test", start, samples, 0.0), [], speaking=speaking)

    async def say(self, text: str, start: float, end: float, cut: Cut = Cut.ENDPOINT) -> Event | None:
        """The whole way of an utterance; None: it is no command."""
        spoken = utterance(start, end, cut)
        addressed = self.room.uttered(spoken, start)
        if addressed is None:
            return None
        event = await self.room.understand(addressed, heard(text))
        self.room.answer(addressed, event)
        return event


def utterance(start: float, end: float, cut: Cut = Cut.ENDPOINT, level_dbfs: float = -20.0) -> Utterance:
    samples = frozen(np.full(round((end - start) * S), 0.1, np.float32))
    return Utterance(round(start * S), round(end * S), samples, cut, 0.9, level_dbfs, -60.0)


def heard(text: str) -> Event:
    return Event("01", "attic", "test", "speech", State.ENDED, "speech", "Speech", 0.9, text=text, language="en")


async def test_only_what_follows_a_wake_word_is_a_command() -> None:
    commands = Commands()
    assert await commands.say("turn on the lamp", 1, 2) is None
    commands.room.wake(5 * S, "alexa")
    event = await commands.say("turn on the lamp", 5.5, 7)
    assert event is not None
    assert event.intent == TURN_ON
    assert commands.handled == [TURN_ON]
    assert await commands.say("turn on the lamp", 8, 9) is None
    assert commands.room.woken == 1


async def test_what_no_sentence_matches_is_handed_on_without_an_intent() -> None:
    meaning = NotUnderstood("no sentence matches")
    commands = Commands(mode=Wake.NONE, meaning=meaning)
    event = await commands.say("sing me a song", 1, 2)
    assert event is not None
    assert event.intent is None
    assert commands.handled == [meaning]


async def test_the_own_voice_is_no_command() -> None:
    commands = Commands(mode=Wake.NONE)
    commands.hear(1 * S, speaking=False)
    commands.room.reply_began("The lamp in the attic is on", None)
    commands.hear(3 * S, speaking=False)
    commands.room.reply_ended(follow_up=False)
    assert await commands.say("the lamp in the attic is on", 1.5, 3) is None  # it was being played
    event = await commands.say("the lamp in the attic", 4, 5)  # a wireless speaker plays it late
    assert event is not None
    assert event.intent is None
    assert commands.asked == commands.handled == []
    assert (await commands.say("turn on the lamp", 8, 9)) is not None
    assert commands.asked == ["turn on the lamp"]


async def test_a_wake_word_silences_a_reply_but_not_one_that_says_it() -> None:
    commands = Commands()
    commands.room.reply_began("It is a quarter past seven", None)
    commands.room.wake(1 * S, "alexa")
    assert commands.hushed == 1
    commands.room.reply_ended(follow_up=True)
    commands.room.reply_began("Say alexa before a command", None)
    commands.room.wake(2 * S, "alexa")
    assert commands.hushed == 1


async def test_one_reply_is_followed_by_one_command() -> None:
    commands = Commands(mode=Wake.FOLLOW_UP)
    commands.hear(1 * S, speaking=False)
    commands.room.reply_began("Which lamp?", None)
    commands.hear(2 * S, speaking=False)
    commands.room.reply_ended(follow_up=True)
    assert await commands.say("the one in the attic, please turn it on", 3.5, 5) is not None
    assert await commands.say("and I told her so", 6, 7) is None


async def test_a_satellite_is_told_of_its_turn() -> None:
    satellite = Satellite()
    commands = Commands(turns=satellite)
    commands.hear(0, speaking=False)
    commands.room.wake(1 * S, "okay_nabu")  # heard in the satellite
    commands.hear(2 * S, speaking=True)
    commands.hear(3 * S, speaking=True)
    commands.hear(4 * S, speaking=False)
    await commands.say("turn on the lamp", 2, 4)
    assert satellite.told == ["started", "stopped", "ended turn on the lamp"]


async def test_a_reply_lasts_also_where_nothing_is_streamed_meanwhile() -> None:
    satellite = Satellite()
    commands = Commands(mode=Wake.FOLLOW_UP, turns=satellite)
    commands.hear(1 * S, speaking=False)  # and then it waits for a voice
    satellite.clock = 2 * S
    commands.room.reply_began("It will be sunny in the morning and rain in the evening", None)
    satellite.clock = 14 * S
    commands.room.reply_ended(follow_up=True)
    assert await commands.say("thanks, and", 14.2, 15) is None  # the reply is still heard
    assert await commands.say("turn on the lamp", 16, 18) is not None


class Listened:
    """Stands for an `Echo`: what it was given of the microphone."""

    def __init__(self) -> None:
        self.samples = 0

    def feed(self, samples: np.ndarray) -> bool:
        self.samples += len(samples)
        return False


@pytest.mark.parametrize("missing", [True, False])
async def test_an_echo_is_looked_for_from_where_the_reply_began(missing: bool) -> None:
    satellite = Satellite(clock=20_000)
    commands = Commands(turns=satellite)
    commands.hear(0, speaking=False)
    echo = Listened()
    commands.room.reply_began("The lamp is on", echo)  # type: ignore[arg-type]
    for number in range(10):  # a satellite begins with what it kept from before the voice: 16,000 to 28,800
        commands.hear(16_000 + 1_280 * number, speaking=False)
    assert echo.samples == 8_800
    if not missing:
        commands.hear(28_800, speaking=False, level=0.0)  # it has stopped, and silence is given in its place
    commands.hear(28_800 + 1_280, speaking=False)
    commands.hear(28_800 + 2_560, speaking=False)
    assert echo.samples == 8_800


@pytest.mark.parametrize("better", ["attic", "cellar"])
async def test_of_two_rooms_the_one_that_hears_better_acts(better: str) -> None:
    arbiter = Arbiter()
    acted: list[str] = []

    async def understand(text: str, language: str | None, room: str) -> Intent:
        acted.append(room)
        return TURN_ON

    async def settled(text: str, language: str | None, room: str) -> bool:
        raise AssertionError("nobody asks at the end")

    async def say(name: str) -> None:
        room = RoomCommands(
            name,
            Attention(Wake.NONE),
            None,
            arbiter,
            understand=understand,
            settled=settled,
            handle=lambda *_: None,
            hush=lambda: False,
        )
        addressed = room.uttered(utterance(1, 2, level_dbfs=-20.0 if name == better else -30.0), 100.0)
        assert addressed is not None
        event = await room.understand(addressed, heard("lamp on"))
        assert (event.intent is not None) is (name == better)

    await asyncio.gather(say("attic"), say("cellar"))
    assert acted == [better]


@pytest.mark.parametrize(
    ("text", "meaning", "patience"),
    [
        ("en in the attic", TURN_ON, SETTLED),
        ("lights on", TURN_ON, 1.0),
        ("99 degrees", NotUnderstood("out of range", matched=True), 1.0),
        ("set the", NotUnderstood("no sentence"), UNFINISHED),
    ],
)
async def test_how_long_a_speaker_is_waited_for_where_no_other_room_hears_him(
    text: str, meaning: Intent | NotUnderstood, patience: float
) -> None:
    assert await Commands(meaning=meaning, alone=True).room.patience(text, "en") == patience
    assert await Commands(meaning=meaning, alone=False).room.patience(text, "en") == 1.0
    television = Commands(Wake.NONE, meaning=meaning, alone=True).room
    assert await television.patience(text, "en") == min(1.0, patience)
    assert not television.patient
