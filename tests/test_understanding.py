"""One room with an audio language model: what it hears alone, what is witnessed, what comes too late, captions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_pipeline import Played, room
from test_resident import Scripted

from assistant import understanding
from assistant.config import Config
from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Event, Samples, State
from assistant.models.audio_llm import AudioLLM
from assistant.models.yamnet import Yamnet
from assistant.pipeline import Models, ModelThread, Pipeline
from assistant.resident import Lane, Priority, Resident
from assistant.startup import hearing_settings
from assistant.synthesis import t3, tone
from assistant.understanding import LLMTagger, SharedTagger

SMOKE = "Smoke detector, smoke alarm"
LOUD = 0.05  # RMS


class Claims:
    """A tagger that calls everything loud what it was told to, and everything else silence."""

    def __init__(
        self, labels: Sequence[str], label: str, *, takes: float = 0.0, error: Exception | None = None
    ) -> None:
        self.labels = tuple(labels)
        self.windows = 0
        self._label, self._takes, self._error = label, takes, error

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        self.windows += 1
        assert len(samples) == 3 * SAMPLE_RATE
        time.sleep(self._takes)
        if self._error is not None:
            raise self._error
        scores = np.full(len(self.labels), 0.005, np.float32)
        loud = float(np.sqrt(np.mean(np.square(samples)))) > LOUD
        scores[self.labels.index(self._label if loud else "Silence")] = 0.95
        return scores


Make = Callable[[AudioLLM, Sequence[str], Sequence[Sequence[str]]], LLMTagger]


class House:
    """Models of a profile, with scripts in the place of the language model."""

    def __init__(self, yamnet: Path) -> None:
        self.llm: Resident | None = None
        self._yamnet = yamnet

    async def hear(
        self,
        source: Played,
        *,
        make: Make | None = None,
        describe: Callable[[AudioLLM, Samples], str | None] | None = None,
        inline: bool = True,
        load: Callable[[], AudioLLM] = Scripted,
    ) -> tuple[list[Event], Pipeline]:
        self.llm = llm = Resident(load)
        await llm.ready()
        hearing = hearing_settings(Config())

        async def nobody() -> None:
            return None

        models = Models(
            Yamnet(self._yamnet),
            ModelThread("tagger"),
            nobody,
            Lane(llm, Priority.SPEECH, 5.0),
            llm=llm,
            describe=describe,
            llm_tagger=None if make is None else SharedTagger(hearing.table, make),
        )
        events: list[Event] = []
        pipeline = Pipeline(source, models, hearing, events.append, inline=inline)
        try:
            await pipeline.run()
        finally:
            models.shutdown()
        return events, pipeline


@pytest.fixture
def house(yamnet_path: Path) -> House:
    return House(yamnet_path)


def said(events: Sequence[Event], event_type: str) -> list[tuple[State, str, bool]]:
    return [(event.state, event.model, event.witnessed) for event in events if event.event_type == event_type]


async def test_what_only_the_model_hears_is_told_as_such(house: House) -> None:
    heard = room((3.0, 0.3 * tone(440.0, 3.0)), length=20.0)
    events, _ = await house.hear(Played(heard), make=lambda _llm, labels, _groups: Claims(labels, "Sneeze"))
    assert said(events, "sneeze") == [(State.STARTED, "scripted", False), (State.ENDED, "scripted", False)]
    started = events[0]
    assert (started.label, started.id) == ("Sneeze", events[1].id)
    assert 2.5 <= started.offset <= 3.5
    assert started.heard_at <= 5.0


async def test_what_the_tagger_hears_a_little_too_is_witnessed(house: House) -> None:
    heard = room((3.0, 0.3 * t3(cycles=2)), length=24.0)
    events, _ = await house.hear(Played(heard), make=lambda _llm, labels, _groups: Claims(labels, SMOKE))
    smoke = said(events, "smoke_alarm")
    assert [state for state, _, _ in smoke] == [State.STARTED, State.ENDED]  # told once, whoever was first
    assert all(witnessed for _, _, witnessed in smoke)
    assert "scripted+yamnet" in smoke[-1][1] or smoke[-1][1] == "yamnet+scripted"


async def test_alerts_do_not_wait_for_the_model_and_other_sounds_are_its_own(house: House) -> None:
    heard = room((3.0, 0.3 * t3(cycles=2)), length=20.0)
    events, _ = await house.hear(Played(heard), make=lambda _llm, labels, _groups: Claims(labels, "Silence"))
    assert [(event.event_type, event.model) for event in events] == [("smoke_alarm", "yamnet")] * 2
    assert events[0].heard_at < 4.5


async def test_a_sound_that_is_witnessed_late_is_told_again_so_that_rules_see_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YAMNet comes to agree in the middle: the doubtful sound ends and a certain one begins."""
    agrees = understanding.Witness.agrees
    monkeypatch.setattr(
        understanding.Witness,
        "agrees",
        lambda self, label, start, end: end > 9 * SAMPLE_RATE and agrees(self, label, start, end),
    )
    heard = room((3.0, 0.3 * t3(cycles=5)), length=35.0)

    events, _ = await house.hear(Played(heard), make=lambda _llm, labels, _groups: Claims(labels, "Telephone"))
    phone = said(events, "phone")
    assert phone[:3] == [
        (State.STARTED, "scripted", False),
        (State.ENDED, "scripted", False),
        (State.STARTED, "scripted+yamnet", True),
    ]
    ids = [event.id for event in events if event.event_type == "phone"]
    assert ids[0] == ids[1] != ids[2]


async def test_two_runs_over_a_file_give_the_same_lines(house: House) -> None:
    heard = room((2.0, 0.3 * tone(440.0, 2.0)), (9.0, 0.2 * tone(900.0, 1.0)), length=20.0)
    runs = []
    for _ in range(2):
        events, _ = await house.hear(
            Played(heard),
            make=lambda _llm, labels, _groups: Claims(labels, "Cough"),
            describe=lambda _llm, clip: f"a clip of {len(clip)}",
        )
        runs.append([(e.state, e.label, e.score, e.offset, e.heard_at, e.model, e.caption) for e in events])
    assert runs[0] == runs[1]
    assert runs[0]
    assert any(line[-1] for line in runs[0])


async def test_windows_that_come_too_late_are_lost_and_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(understanding, "WINDOW_DEADLINE", 0.05)
    heard = room((2.0, 0.3 * t3(cycles=3)), length=20.0)
    events, pipeline = await house.hear(
        Played(heard), make=lambda _llm, labels, _groups: Claims(labels, "Cough", takes=0.2), inline=False
    )
    assert house.llm is not None
    assert house.llm.figures()["late"] + house.llm.figures()["shed"] > 0
    assert pipeline.model_errors == 0  # lateness is no error
    assert any(event.event_type == "smoke_alarm" for event in events)


async def test_a_model_that_breaks_costs_windows_not_alarms(house: House, caplog: pytest.LogCaptureFixture) -> None:
    heard = room((2.0, 0.3 * t3(cycles=4)), length=24.0)
    events, pipeline = await house.hear(
        Played(heard),
        make=lambda _llm, labels, _groups: Claims(labels, "Cough", error=RuntimeError("out of memory")),
        describe=lambda _llm, _clip: str(1 / 0),
    )
    assert [state for state, _, _ in said(events, "smoke_alarm")] == [State.STARTED, State.ENDED]
    assert pipeline.model_errors > 5
    assert events[-1].caption is None
    assert "the audio language model failed" in caplog.text


def no_model() -> AudioLLM:
    raise ModelError("no such checkpoint")


async def test_without_its_model_a_room_is_heard_by_the_tagger(house: House) -> None:
    heard = room((2.0, 0.3 * tone(1000.0, 2.5)), (9.0, 0.4 * t3(cycles=2)), length=24.0)
    events, pipeline = await house.hear(
        Played(heard), make=lambda _llm, labels, _groups: Claims(labels, "Cough"), load=no_model
    )
    assert {event.model for event in events} == {"yamnet"}
    assert {"smoke_alarm"} < {event.event_type for event in events}  # not alerts alone
    assert pipeline.model_errors <= len(events)


async def test_the_caption_comes_with_the_end_of_its_sound(house: House) -> None:
    clips: list[Samples] = []

    def describe(_llm: AudioLLM, clip: Samples) -> str:
        clips.append(clip)
        return "An alarm beeps."

    events, _ = await house.hear(Played(room((3.0, 0.3 * t3(cycles=2)), length=20.0)), describe=describe)
    smoke = [event for event in events if event.event_type == "smoke_alarm"]
    assert [event.caption for event in smoke] == [None, "An alarm beeps."]
    assert smoke[0].id == smoke[1].id
    assert 1.0 <= len(clips[0]) / SAMPLE_RATE <= 4.0  # a second before it, and what was heard of it


async def test_nobody_waits_for_a_caption(house: House) -> None:
    def describe(llm: AudioLLM, _clip: Samples) -> str:
        time.sleep(3.0)
        return "too late"

    source = Played(room((1.0, 0.3 * t3(cycles=2)), length=16.0))
    began = time.monotonic()
    events, _ = await house.hear(source, describe=describe, inline=False)
    smoke = [event for event in events if event.event_type == "smoke_alarm"]
    assert [(event.state, event.caption) for event in smoke] == [(State.STARTED, None), (State.ENDED, None)]
    assert max(event.latency for event in smoke) < 1.0
    assert time.monotonic() - began < 3.0
    await asyncio.sleep(0)
