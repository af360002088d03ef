"""What is said aloud, in which order, and what happens to what is not: with espeak-ng and speakers of this test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from brokers import until

from assistant.errors import AssistantError, VoiceError
from assistant.events import Say
from assistant.outputs import speaking
from assistant.outputs.speaking import QUEUE, SaySettings, Speaking
from assistant.voices.espeak import Espeak
from assistant.voices.voice import Spoken


class Room:
    """A speaker that plays for as long as it is told to."""

    def __init__(self, seconds: float = 0.0, failure: Exception | None = None) -> None:
        self.begun: list[float] = []
        self.heard: list[float] = []
        self.silenced = 0
        self.go_on = asyncio.Event()
        self._seconds = seconds
        self._failure = failure

    async def play(self, speech: Spoken) -> None:
        self.begun.append(speech.seconds)
        if self._failure is not None:
            raise self._failure
        try:
            if self._seconds < 0:
                await self.go_on.wait()
            else:
                await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.silenced += 1
            raise
        self.heard.append(speech.seconds)


class Numbered:
    """A voice whose speech is as many tenths of a second long as the number in the text says."""

    name = "numbered"

    def __init__(self, failure: Exception | None = None) -> None:
        self.made: list[str] = []
        self.closed = False
        self.failure = failure

    async def speaks(self, _language: str | None) -> bool:
        return True

    async def synthesise(self, text: str, _language: str | None) -> Spoken:
        self.made.append(text)
        await asyncio.sleep(0)
        if self.failure is not None and "broken" in text:
            raise self.failure
        return Spoken(np.full(800 * int(text.rsplit(maxsplit=1)[-1]), 0.1, np.float32), 8_000)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def running(mouth: Speaking) -> AsyncIterator[None]:
    task = asyncio.create_task(mouth.run())
    try:
        yield
    finally:
        await mouth.stop(2.0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 5.0)


async def test_a_real_voice_is_played_in_every_room() -> None:
    kitchen, hall = Room(), Room()
    mouth = Speaking(SaySettings(), Espeak(), {"kitchen": kitchen, "hall": hall})
    async with running(mouth):
        mouth.offer(Say("Dinner is ready"))
        mouth.offer(Say("Only here", room="hall"))
        await until(lambda: mouth.said == 3)
    assert kitchen.heard == hall.heard[:1]
    assert 0.5 < kitchen.heard[0] < 3.0
    assert len(hall.heard) == 2


async def test_one_text_at_a_time_and_in_order() -> None:
    kitchen, order = Room(0.02), []
    mouth = Speaking(
        SaySettings(),
        Numbered(),
        {"kitchen": kitchen},
        began=lambda room, text, speech: order.append((room, text, round(speech.seconds, 1))),
        ended=lambda room, say: order.append((room, say.text)),
    )
    async with running(mouth):
        for number in range(1, 6):
            mouth.offer(Say(f"text {number}", room="kitchen"))
        await until(lambda: mouth.said == 5)
    expected: list[tuple[object, ...]] = []
    for number in range(1, 6):
        expected += [("kitchen", f"text {number}", number / 10), ("kitchen", f"text {number}")]
    assert order == expected


async def test_too_many_texts_shed_the_oldest_and_count_them(caplog: pytest.LogCaptureFixture) -> None:
    kitchen = Room(-1.0)
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": kitchen})
    async with running(mouth):
        mouth.offer(Say("first 1", room="kitchen"))
        await until(lambda: kitchen.begun)
        for number in range(2, 2 + QUEUE + 3):
            mouth.offer(Say(f"text {number}", room="kitchen"))
        assert mouth.health() == {"said": 0, "failed": 0, "dropped": 3, "waiting": QUEUE}
        kitchen.go_on.set()
        await until(lambda: mouth.said == 1 + QUEUE)
    assert [round(10 * seconds) for seconds in kitchen.heard] == [1, *range(5, 5 + QUEUE)]
    assert [record.message for record in caplog.records if "dropped" in record.message] == [
        f"kitchen: {QUEUE} texts wait to be said, the oldest is dropped (later ones are only counted)"
    ]


async def test_what_waited_too_long_is_not_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kitchen = Room(-1.0)
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": kitchen})
    monkeypatch.setattr(speaking, "STALE_SECONDS", 0.05)
    async with running(mouth):
        mouth.offer(Say("first 1", room="kitchen"))
        await until(lambda: kitchen.begun)
        mouth.offer(Say("old 2", room="kitchen"))
        await asyncio.sleep(0.1)
        kitchen.go_on.set()
        await until(lambda: mouth.stale == 1)
        mouth.offer(Say("new 3", room="kitchen"))
        await until(lambda: mouth.said == 2)
    assert [round(10 * seconds) for seconds in kitchen.heard] == [1, 3]
    assert "a text waited longer than" in caplog.text
    assert mouth.health()["dropped"] == 1


async def test_hush_silences_at_once_and_forgets_replies_but_no_alarm() -> None:
    kitchen, hall = Room(-1.0), Room(-1.0)
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": kitchen, "hall": hall})
    async with running(mouth):
        mouth.offer(Say("long story 1"))
        await until(lambda: kitchen.begun and hall.begun)
        mouth.offer(Say("reply 2", room="kitchen", reply=True))
        mouth.offer(Say("the smoke alarm 3", room="kitchen"))
        assert mouth.playing("kitchen")
        assert mouth.hush("kitchen")
        await until(lambda: len(kitchen.begun) == 2)
        assert kitchen.silenced == 1
        assert round(10 * kitchen.begun[1]) == 3
        assert hall.silenced == 0
        kitchen.go_on.set()
        hall.go_on.set()
        await until(lambda: mouth.said == 2)
        assert not mouth.hush("kitchen")  # nothing was said
        assert not mouth.hush("no such room")


async def test_a_broken_speaker_is_told_once_and_the_next_text_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    broken, whole, ended = Room(failure=AssistantError("HDMI: gone; remedy: plug it in")), Room(), []
    mouth = Speaking(
        SaySettings(), Numbered(), {"kitchen": broken, "hall": whole}, ended=lambda room, _say: ended.append(room)
    )
    async with running(mouth):
        for number in range(1, 4):
            mouth.offer(Say(f"text {number}"))
            await until(lambda number=number: len(ended) == 2 * number)
    assert len(broken.begun) == 3
    assert mouth.health() == {"said": 3, "failed": 3, "dropped": 0, "waiting": 0}
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["kitchen: HDMI: gone; remedy: plug it in (later ones are only counted)"]


async def test_a_bug_in_a_speaker_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(failure=RuntimeError("a bug"))
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": room})
    async with running(mouth):
        mouth.offer(Say("text 1"))
        mouth.offer(Say("text 2"))
        await until(lambda: mouth.failed == 2)
    assert "kitchen: the speaker failed" in caplog.text


async def test_a_speaker_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(speaking, "PLAY_SECONDS", 0.05)
    room = Room(-1.0)
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": room})
    async with running(mouth):
        mouth.offer(Say("text 1"))
        await until(lambda: mouth.failed == 1)
    assert room.silenced == 1
    assert "did not end within" in caplog.text


@pytest.mark.parametrize("failure", [VoiceError("numbered: is not installed; remedy: install it"), RuntimeError("bug")])
async def test_a_text_that_cannot_be_made_speech_holds_up_nothing(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    kitchen = Room()
    mouth = Speaking(SaySettings(), Numbered(failure), {"kitchen": kitchen})
    async with running(mouth):
        mouth.offer(Say("broken 1"))
        mouth.offer(Say("whole 2"))
        await until(lambda: mouth.said == 1)
    assert mouth.failed == 1
    assert [round(10 * seconds) for seconds in kitchen.heard] == [2]
    assert str(failure) in caplog.text


async def test_a_room_without_a_speaker_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": Room()})
    async with running(mouth):
        mouth.offer(Say("text 1", room="attic"))
        mouth.offer(Say("text 2", room="attic"))
    assert mouth.health()["dropped"] == 2
    assert caplog.text.count("rooms.attic.speaker") == 1


async def test_a_repeated_text_is_made_once() -> None:
    voice, kitchen = Numbered(), Room()
    mouth = Speaking(SaySettings(), voice, {"kitchen": kitchen})
    async with running(mouth):
        for count in range(1, 4):
            mouth.offer(Say("text 1"))
            await until(lambda count=count: mouth.said == count)
    assert voice.made == ["text 1"]


async def test_a_stop_says_what_is_left_then_ends_the_voice() -> None:
    voice, kitchen = Numbered(), Room(0.02)
    mouth = Speaking(SaySettings(), voice, {"kitchen": kitchen})
    task = asyncio.create_task(mouth.run())
    mouth.offer(Say("text 1"))
    mouth.offer(Say("text 2"))
    await asyncio.sleep(0)
    await mouth.stop(5.0)
    assert len(kitchen.heard) == 2
    assert voice.closed
    mouth.offer(Say("text 3"))
    assert mouth.health()["waiting"] == 0
    await asyncio.wait_for(task, 5.0)


async def test_a_stop_cuts_off_what_lasts_longer() -> None:
    kitchen = Room(-1.0)
    mouth = Speaking(SaySettings(), Numbered(), {"kitchen": kitchen})
    task = asyncio.create_task(mouth.run())
    mouth.offer(Say("text 1"))
    await until(lambda: kitchen.begun)
    await mouth.stop(0.05)
    await asyncio.wait_for(task, 5.0)
    assert kitchen.silenced == 1


async def test_nothing_is_said_where_it_is_off() -> None:
    voice = Numbered()
    mouth = Speaking(SaySettings(enabled=False), voice, {"kitchen": Room()})
    async with running(mouth):
        mouth.offer(Say("text 1"))
        await asyncio.sleep(0.02)
    assert voice.made == []
