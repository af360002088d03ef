"""From recordings to examples, and through the whole pipeline with the real tagger."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import chimes
import numpy as np
import pytest
import soundfile

from assistant.config import Config, shipped
from assistant.errors import AssistantError, ConfigurationError
from assistant.events import SAMPLE_RATE, Event, Samples, State
from assistant.house_sounds import HouseSounds
from assistant.lessons import HEARD, LONGEST, Lesson, activities_of, common_sounds, in_memory, recording, takes_of
from assistant.models.yamnet import EMBEDDING, Yamnet
from assistant.pipeline import Models, ModelThread, Pipeline
from assistant.startup import Room, hearing_settings, open_source
from assistant.synthesis import noise, placed, scaled, t3, tone
from assistant.taught_sounds import TaughtSound
from assistant.teaching import Sounds, learn
from assistant.tracking import load_table


@pytest.fixture(scope="module")
def yamnet(yamnet_path: Path) -> Yamnet:
    return Yamnet(yamnet_path)


@pytest.fixture(scope="module")
def common() -> Sounds:
    return common_sounds()


@pytest.fixture(scope="module")
def taught(yamnet: Yamnet, common: Sounds) -> TaughtSound:
    lesson = Lesson(yamnet, load_table(shipped("sounds.yaml")))
    examples = [lesson.heard(chimes.rings(seed), f"ring {seed}") for seed in range(1, 5)]
    return learn("kitchen_chime", "台所のチャイム", examples, common, Sounds((), days=0.0))


def heard(
    samples: Samples, yamnet: Yamnet, folder: Path, *sounds: TaughtSound, house: HouseSounds | None = None
) -> list[Event]:
    """The events of a recording."""
    soundfile.write(folder / "heard.wav", samples, SAMPLE_RATE, subtype="PCM_16")

    async def run() -> list[Event]:
        async def nobody() -> None:
            return None

        models = Models(yamnet, ModelThread("tagger"), nobody, ModelThread("recogniser"))
        settings = replace(hearing_settings(Config(), folder), recognise=False, taught=sounds)
        events: list[Event] = []
        try:
            source = open_source(Room("kitchen", str(folder / "heard.wav")), 0.0)
            await Pipeline(source, models, settings, events.append, inline=True, house=house).run()
        finally:
            models.shutdown()
        return events

    return asyncio.run(run())


def started(events: list[Event]) -> list[str]:
    return [event.event_type for event in events if event.state is State.STARTED]


def test_a_chime_is_told_apart_by_four_recordings(taught: TaughtSound) -> None:
    assert taught.verdict.kind == "clear"
    assert "Music" in taught.labels
    assert sum(value >= taught.threshold for value in taught.verdict.recognised) >= 3


def test_it_is_one_event_with_its_title_and_no_music(taught: TaughtSound, yamnet: Yamnet, tmp_path: Path) -> None:
    before = started(heard(chimes.house(), yamnet, tmp_path))
    assert "music" in before
    assert "phone" in before
    events = heard(chimes.house(), yamnet, tmp_path, taught)
    assert started(events).count("kitchen_chime") == 1
    assert "music" not in started(events)
    assert "phone" in started(events)
    (begin, end) = [event for event in events if event.event_type == "kitchen_chime"]
    assert (begin.label, begin.model, begin.room) == ("台所のチャイム", "taught", "kitchen")
    assert begin.id == end.id
    assert 8.0 <= begin.offset <= 10.5
    assert "also" not in begin.to_json()


def test_other_sounds_are_not_taken_for_it(taught: TaughtSound, yamnet: Yamnet, tmp_path: Path) -> None:
    assert "kitchen_chime" not in started(heard(chimes.others(), yamnet, tmp_path, taught))


def test_an_alarm_is_told_even_if_it_was_taught(yamnet: Yamnet, common: Sounds, tmp_path: Path) -> None:
    lesson = Lesson(yamnet, load_table(shipped("sounds.yaml")))
    examples = [lesson.heard(0.3 * t3(cycles=2, stretch=stretch), "beeps") for stretch in (0.97, 1.0, 1.03)]
    beeps = learn("my_beeper", "My beeper", examples, common, Sounds((), days=0.0))
    house = placed(noise(30.0, -60.0), 0.3 * t3(cycles=5), 3.0)
    types = started(heard(house, yamnet, tmp_path, beeps))
    assert "my_beeper" in types
    assert "smoke_alarm" in types


def test_the_house_is_remembered_as_it_is_heard(yamnet: Yamnet, tmp_path: Path) -> None:
    house = HouseSounds(None)
    heard(chimes.others(), yamnet, tmp_path, house=house)
    words = {word for word, _ in house.sounds()[0]}
    assert len(house) >= 3
    assert words <= set(yamnet.labels)


def test_the_shipped_sounds_are_what_the_tagger_makes_of_them(common: Sounds) -> None:
    assert len(common) > 200
    assert {"Speech", "Music", "Doorbell", "Knock"} <= set(common.words)
    assert common.days is None


def test_a_broken_installation_is_told(tmp_path: Path) -> None:
    (tmp_path / "common.npz").write_bytes(b"PK")
    with pytest.raises(ConfigurationError, match="install kikimimi again"):
        common_sounds(tmp_path / "common.npz")


def test_silence_and_noise_are_no_example() -> None:
    for nothing in (np.zeros(SAMPLE_RATE, np.float32), np.zeros(0, np.float32), np.full(9_000, np.nan, np.float32)):
        with pytest.raises(ConfigurationError, match=r"ring\.wav: no sound is heard in it"):
            takes_of(nothing, "ring.wav", HEARD)


def test_of_a_long_recording_the_loudest_stretch_is_taken() -> None:
    bed = placed(noise(60.0, -70.0), scaled(tone(1_000.0, 3.0), -20.0), 40.0)
    takes = takes_of(bed, "long.wav", HEARD)
    assert max(window.end for window in takes[0]) <= LONGEST
    assert takes[0][0].level_dbfs > -40.0


def test_the_same_recording_gives_the_same_example(yamnet: Yamnet) -> None:
    lesson = Lesson(yamnet, load_table(shipped("sounds.yaml")))
    first, second = (lesson.heard(chimes.rings(1), "ring") for _ in range(2))
    for one, other in zip(first.activities, second.activities, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape[1] == EMBEDDING


def test_what_is_only_the_room_is_no_part_of_an_example() -> None:
    bed = placed(noise(5.0, -55.0), scaled(tone(500.0, 1.0), -25.0), 2.0)
    heard = [window for take in activities_of(bed, HEARD) for window in take]
    assert heard[0].end < 2 * SAMPLE_RATE  # at first the gate takes the noise for a sound
    (own, *copies) = takes_of(bed, "tone.wav", HEARD)
    assert copies
    assert 3 <= len(own) <= 9
    assert all(window.end > 2 * SAMPLE_RATE for window in own)


@pytest.mark.parametrize("name", ["sound.flac", "sound.wav", "sound.ogg"])
async def test_files_are_read_from_memory(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, 0.1 * tone(500.0, 1.0), 22_050)
    with in_memory((tmp_path / name).read_bytes()) as path:
        samples = await recording(path, name)
    assert len(samples) == pytest.approx(16_000 * SAMPLE_RATE / 22_050, rel=0.01)
    assert not path.exists()


async def test_what_is_no_sound_is_told_by_its_title() -> None:
    with in_memory(b"hello, this is text") as path, pytest.raises(AssistantError, match=r"^my notes\.txt: neither"):
        await recording(path, "my notes.txt")
