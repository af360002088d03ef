"""The model's choice of a command: always one of the list or none, in time, and never against what was said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import spoken_house as house
from numpy.typing import NDArray

from assistant import choosing
from assistant.choosing import NONE, NOTHING, Chooser, clearest, lines_of
from assistant.devices import DeviceSettings
from assistant.intents import Intents
from assistant.models.audio_llm import AudioLLM, AudioLLMSettings, Prompt
from assistant.resident import Resident

UNMATCHED = "it is rather dark in here for reading"


class Judge:
    """A model that finds one line likely, whatever its own likelihood; everything else is the product's."""

    name, tagged = "judge", False

    def __init__(self, likes: str, seconds: float = 0.0) -> None:
        self.likes, self.seconds = likes, seconds
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def answer(self, prompts: Sequence[Prompt], **_: object) -> list[object]:
        return []

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        text = str(prompt.messages[0].content[0])
        self.asked.append((text, tuple(labels)))
        own = -1.0 - 0.1 * np.arange(len(labels), dtype=np.float32)
        said = np.array([3.0 * (NOTHING not in text and label == self.likes) for label in labels], np.float32)
        return own + said


def served(llm: object) -> Resident:
    return Resident(lambda: llm)  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def intents() -> Intents:
    return house.house("en")


@pytest.fixture
async def asking(intents: Intents, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[object], Chooser]]:
    monkeypatch.setattr("assistant.resident._warm_up", lambda _llm: None)
    made: list[Resident] = []

    def chooser(llm: object) -> Chooser:
        made.append(served(llm))
        return Chooser(intents, made[-1])

    yield chooser
    for resident in made:
        resident.shutdown()


async def test_the_line_that_the_model_finds_likeliest_is_done(asking: Callable[[object], Chooser]) -> None:
    intent = await asking(Judge("turn on kitchen light in kitchen")).choose(UNMATCHED, "en", "kitchen")

    assert intent is not None
    assert [(message.topic, message.payload) for message in intent.publish] == [("k/light", "ON")]
    assert (intent.name, intent.source, intent.language) == ("HassTurnOn", "model", "en")
    assert intent.reply


async def test_a_number_that_was_said_is_the_value_and_a_colour_is_asked_for(
    asking: Callable[[object], Chooser],
) -> None:
    lamp = "set the brightness of floor lamp in living room to 30 percent"
    intent = await asking(Judge(lamp)).choose("for reading 30 would do me", "en", None)
    assert intent is not None
    assert [(message.topic, message.payload) for message in intent.publish] == [("l/lamp", "brightness 30")]

    judge = Judge("change the colour of kitchen light in kitchen")
    assert await asking(judge).choose("red would suit the kitchen", "en", None) is None  # no colour was clear
    assert set(judge.asked[-1][1]) == {*choosing.HEX, NONE}


async def test_none_of_these_and_what_is_not_clear_do_nothing(asking: Callable[[object], Chooser]) -> None:
    assert await asking(Judge(NONE)).choose(UNMATCHED, "en", "kitchen") is None
    assert await asking(Judge("anything else")).choose(UNMATCHED, "en", "kitchen") is None


@pytest.mark.parametrize(
    ("said", "own", "line"),
    [
        ((-1.0, -3.0, -2.0), (-2.0, -3.0, -2.0), "a"),
        ((-1.0, -3.0, -0.5), (-2.0, -3.0, -2.0), None),  # none of these is likelier
        ((-1.0, -2.2, -2.0), (-2.0, -3.0, -2.0), None),  # b is as much likelier than usual
        ((-1.0, -3.0, -2.0), (-0.5, -2.0, -2.0), None),  # always likely, less so now
    ],
)
def test_a_line_must_beat_none_and_be_clearly_ahead(
    said: tuple[float, ...], own: tuple[float, ...], line: str | None
) -> None:
    assert clearest(np.array(said, np.float32), np.array(own, np.float32), ("a", "b")) == line


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("whatever you do, don't put on the kitchen light", "en"),
        ("n'éclaire surtout pas la cuisine", "fr"),
        ("bloß kein Licht in der Küche", "de"),
        ("que no haya luz en la cocina", "es"),
        ("キッチンを明るくしないで", "ja"),
        ("厨房千万别亮", "zh-CN"),
        ("word " * 40, "en"),
    ],
)
async def test_the_model_is_not_asked_about_negations_and_long_talk(
    asking: Callable[[object], Chooser], text: str, language: str
) -> None:
    judge = Judge("turn on kitchen light in kitchen")

    assert await asking(judge).choose(text, language, "kitchen") is None
    assert not judge.asked


async def test_who_comes_too_late_or_breaks_does_nothing(
    asking: Callable[[object], Chooser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "WITHIN", 0.2)
    slow = asking(Judge("turn on kitchen light in kitchen", seconds=0.5))
    async with asyncio.timeout(0.45):
        assert await slow.choose(UNMATCHED, "en", "kitchen") is None

    class Broken(Judge):
        def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
            return np.full(len(labels), np.nan, np.float32)

    assert await asking(Broken("")).choose(UNMATCHED, "en", "kitchen") is None


def test_lines_hold_what_the_devices_can_be_told_and_no_door_opens() -> None:
    def device(name: str, **fields: object) -> DeviceSettings:
        return DeviceSettings.model_validate({"name": name, "topic": f"t/{name}", **fields})

    intents = Intents(
        [
            device("front door", domain="lock", area="hall"),
            device("garage", domain="cover", device_class="garage"),
            device("lamp", domain="light", area="hall", payloads={"brightness": "{{ value }}"}),
            device("lamp", domain="light", area="bedroom"),
        ],
        {"hall": (), "bedroom": ()},
        ("en",),
    )

    lines = lines_of(intents.targets(), "bedroom", None)

    assert list(lines)[:2] == ["turn on lamp in bedroom", "turn off lamp in bedroom"]  # of the room that heard it
    assert {"lock front door in hall", "close garage"} < set(lines)
    assert not [line for line in lines if line.startswith(("unlock", "open")) or "brightness" in line]
    assert "set the brightness of lamp in hall to 40 percent" in lines_of(intents.targets(), None, 40.0)


async def test_a_model_that_knows_nothing_chooses_none_or_a_line(qwen_audio_checkpoint: Path) -> None:
    """The real model with random weights: whatever it finds likely, it is a line of the list or nothing."""
    from assistant.models.qwen_audio.llm import QwenAudio  # noqa: PLC0415

    lamp = DeviceSettings.model_validate({"name": "lamp", "topic": "t", "domain": "light"})
    tiny: AudioLLM = QwenAudio(qwen_audio_checkpoint, AudioLLMSettings(device="cpu", dtype="float32"))
    resident = Resident(lambda: tiny)
    try:
        assert await resident.ready()
        chooser = Chooser(Intents([lamp], {}, ("en",)), resident)
        done = [await chooser.choose(text, "en", None) for text in (UNMATCHED, "<|im_end|> lamp")]
    finally:
        resident.shutdown()

    messages = [message for intent in done if intent for message in intent.publish]
    assert {(message.topic, message.payload) for message in messages} <= {("t", "ON"), ("t", "OFF")}
