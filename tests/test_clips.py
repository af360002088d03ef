"""What is promised is kept or taken back: clips from when to when, refusals, and nothing in which somebody spoke."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pydantic import ValidationError
from ulid import ULID

from assistant.clip_folder import ClipFolder, NearlyFullError
from assistant.clips import BUSY, FAILED, FULL, LATE, MOST, SPOKEN, STOPPED, Clips, ClipSettings, flac, lengths_of
from assistant.events import SAMPLE_RATE, ClipSettled, Event, Samples, State, frozen

ALERTS = frozenset({"smoke_alarm"})


def files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()]


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


class Room:
    """A stream whose samples are their own positions in seconds / 100, with speech where a test wants it."""

    def __init__(self, clips: Clips) -> None:
        self.position = 0
        self.speech: bool | None = False
        self._clips = clips

    def audio(self, start: int, end: int) -> Samples:
        return frozen((np.arange(start, min(end, self.position)) / SAMPLE_RATE / 100).astype(np.float32))

    def speech_in(self, start: int, end: int) -> bool | None:
        return self.speech

    async def hear(self, seconds: float, *, patient: bool = False) -> None:
        for _ in range(round(seconds * 10)):
            self.position += SAMPLE_RATE // 10
            await self._clips.advance("kitchen", self, patient=patient)


class House:
    """Clips of one room in a folder, and what was told."""

    def __init__(self, path: Path, *, draw: Callable[[Samples], bytes] | None = None, **settings: object) -> None:
        self.told: list[ClipSettled] = []
        self.problems: list[str | None] = []
        self.folder = ClipFolder(path, days=30, megabytes=1_000, at_least=10, free=0)
        self.clips = Clips(
            ClipSettings.model_validate({"enabled": True, **settings}),
            self.folder,
            ALERTS,
            self.told.append,
            lambda: self.problems.append(self.clips.problem),
            draw=draw,
        )
        self.room = Room(self.clips)

    def started(self, event_type: str = "smoke_alarm", onset: float = 10.0) -> Event:
        event = Event(
            str(ULID()), "kitchen", "mic", "sound", State.STARTED, event_type, "x", 0.9, offset=onset,
            start="2026-11-28T23:59:59.000+00:00",
        )  # fmt: skip
        return self.clips.raised(event, self.room)

    def ended(self, event: Event, duration: float) -> Event:
        return self.clips.raised(replace(event, state=State.ENDED, duration=duration), self.room)

    def said(self, onset: float = 10.0, duration: float = 2.0) -> Event:
        event = Event(
            str(ULID()), "kitchen", "mic", "speech", State.HEARD, "speech", "Speech", 0.9, offset=onset,
            duration=duration, start="2026-11-28T23:59:59.000+00:00", text="a secret",
        )  # fmt: skip
        return self.clips.raised(event, self.room)

    def span(self, name: str | None) -> tuple[float, float]:
        """First and last second of a clip on disk."""
        assert name is not None
        samples, rate = soundfile.read(self.folder.path / name)
        assert rate == SAMPLE_RATE
        return round(samples[0] * 100, 1), round(samples[-1] * 100, 1)

    async def settled(self) -> None:
        await until(lambda: self.told)


async def test_a_clip_is_promised_then_written_when_its_sound_has_ended(tmp_path: Path) -> None:
    house = House(tmp_path, draw=lambda _samples: b"picture")
    await house.room.hear(11.0)
    started = house.started()
    assert started.clip == f"2026-11-28/{started.id}.flac"
    await house.room.hear(4.0)
    ended = house.ended(started, 3.5)
    assert ended.clip == started.clip
    assert house.told == []
    await house.room.hear(1.0)
    await house.settled()
    assert house.told == [ClipSettled("kitchen", started.id, started.clip)]
    assert house.span(started.clip) == (7.0, 15.5)  # 3 s before, 2 s after
    assert (tmp_path / str(started.clip)).with_suffix(".png").read_bytes() == b"picture"
    assert house.clips.health()["kept"] == 1
    assert house.clips.health()["waiting"] == 0


async def test_what_lasts_is_cut_at_the_longest_and_its_end_still_tells_the_name(tmp_path: Path) -> None:
    house = House(tmp_path, longest=10, spectrogram=False)
    await house.room.hear(11.0)
    started = house.started()
    await house.room.hear(30.0)
    await house.settled()
    assert house.span(started.clip) == (7.0, 17.0)
    assert house.ended(started, 30.0).clip == started.clip
    assert len(house.told) == 1


async def test_a_sound_that_is_told_late_is_kept_as_far_as_it_is_remembered(tmp_path: Path) -> None:
    house = House(tmp_path, longest=10, spectrogram=False)
    await house.room.hear(60.0)
    house.started(onset=10.0)
    await house.room.hear(3.0)
    await house.settled()
    assert house.span(house.told[0].clip) == (52.0, 62.0)  # around the moment at which it was told


async def test_only_what_is_asked_for_is_kept(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.room.hear(12.0)
    assert house.started("dog_bark").clip is None
    assert house.said().clip is None
    house = House(tmp_path, keep=["dog_bark", "speech"], spectrogram=False)
    await house.room.hear(13.0)
    assert house.started("smoke_alarm").clip is None
    assert house.started("dog_bark").clip is not None
    said = house.said()
    assert said.clip is not None
    await house.room.hear(3.0)
    await house.settled()
    assert house.told[0].id == said.id
    assert house.span(said.clip) == (7.0, 14.0)
    assert House(tmp_path, keep=["any"]).started("bird").clip is not None
    assert House(tmp_path, keep=[]).started().clip is None


async def test_a_rule_keeps_what_the_settings_do_not(tmp_path: Path) -> None:
    house = House(tmp_path, keep=[], spectrogram=False)
    await house.room.hear(13.0)
    said = house.said()
    name = house.clips.keep(said, house.room)
    assert name == f"2026-11-28/{said.id}.flac"
    assert house.clips.marked(said).clip == name
    assert house.clips.keep(said, house.room) == name  # a second rule
    await house.room.hear(2.0)
    await house.settled()
    assert house.clips.keep(said, house.room) == name  # and a late one
    assert len(house.told) == 1


async def test_a_rule_that_comes_late_keeps_the_sound_to_its_end(tmp_path: Path) -> None:
    house = House(tmp_path, keep=[], spectrogram=False)
    await house.room.hear(11.0)
    started = house.started()
    await house.room.hear(5.0)
    house.ended(started, 2.0)
    house.clips.keep(started, house.room)  # as after a question: with the event as it was then
    await house.room.hear(0.1)
    await house.settled()
    assert house.span(house.told[0].clip) == (7.0, 14.0)


async def test_audio_that_is_gone_is_not_kept(tmp_path: Path) -> None:
    house = House(tmp_path, keep=[])
    await house.room.hear(13.0)
    said = house.said()
    await house.room.hear(60.0)
    assert house.clips.keep(said, house.room) is None
    house.clips.left("kitchen", house.room)
    await house.room.hear(1.0)  # the source was opened again: other positions, another sound
    assert house.clips.keep(said, house.room) is None
    assert house.clips.keep(said, None) is None
    assert [settled.reason for settled in house.told] == [LATE] * 3


async def test_when_the_source_goes_what_was_heard_is_written(tmp_path: Path) -> None:
    house = House(tmp_path, spectrogram=False)
    await house.room.hear(11.0)
    started = house.started()
    await house.room.hear(1.0)
    house.clips.left("kitchen", house.room)
    await house.settled()
    assert house.span(started.clip) == (7.0, 12.0)


async def test_more_than_can_be_held_are_refused_and_counted(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.room.hear(11.0)
    clips = [house.started().clip for _ in range(MOST + 3)]
    assert clips.count(None) == 3
    assert [settled.reason for settled in house.told] == [BUSY] * 3
    assert house.clips.health()["dropped"] == 3


async def test_a_file_waits_for_the_disk_and_loses_no_clip(tmp_path: Path) -> None:
    house = House(tmp_path, longest=2, before=0, after=0.1, spectrogram=False)
    await house.room.hear(10.0)
    for number in range(3 * MOST):
        house.ended(house.started(onset=10.0 + number), 0.5)
        await house.room.hear(1.0, patient=True)
    await until(lambda: len(house.told) == 3 * MOST)
    assert {settled.reason for settled in house.told} == {None}


# --- privacy ----------------------------------------------------------------------------------------------------------


async def test_a_clip_in_which_somebody_spoke_is_never_written(tmp_path: Path) -> None:
    house = House(tmp_path, drop_speech=True)
    await house.room.hear(11.0)
    started = house.started()
    assert started.clip is not None
    await house.room.hear(1.0)
    house.room.speech = True
    await house.room.hear(0.1)
    assert house.told == [ClipSettled("kitchen", started.id, None, SPOKEN)]
    assert house.ended(started, 3.0).clip is None
    await house.room.hear(5.0)
    assert files(tmp_path) == []
    assert house.clips.health()["spoken"] == 1


async def test_a_clip_waits_until_it_is_known_whether_somebody_spoke(tmp_path: Path) -> None:
    house = House(tmp_path, drop_speech=True, spectrogram=False)
    await house.room.hear(11.0)
    started = house.started()
    house.room.speech = None
    await house.room.hear(3.0)
    assert house.ended(started, 2.0).clip == started.clip
    await house.room.hear(40.0)
    assert house.told == []
    house.room.speech = False
    await house.room.hear(0.1)
    await house.settled()
    assert house.span(started.clip) == (7.0, 14.0)  # as it was heard, though memory has gone on


async def test_what_nobody_knows_when_the_source_goes_counts_as_speech(tmp_path: Path) -> None:
    house = House(tmp_path, drop_speech=True)
    await house.room.hear(11.0)
    house.started()
    house.room.speech = None
    house.clips.left("kitchen", house.room)
    assert [settled.reason for settled in house.told] == [SPOKEN]


async def test_no_rule_keeps_speech_where_it_is_dropped(tmp_path: Path) -> None:
    house = House(tmp_path, drop_speech=True)
    await house.room.hear(13.0)
    assert house.clips.keep(house.said(), house.room) is None
    house.room.speech = True
    assert house.started().clip is None
    assert [settled.reason for settled in house.told] == [SPOKEN] * 2


async def test_without_the_privacy_mode_nobody_asks_for_speech(tmp_path: Path) -> None:
    house = House(tmp_path, spectrogram=False)
    house.room.speech = True
    await house.room.hear(11.0)
    started = house.started()
    await house.room.hear(30.0)
    await house.settled()
    assert house.told[0].clip == started.clip


# --- the disk ---------------------------------------------------------------------------------------------------------


class Full(ClipFolder):
    """A disk that is full while `left` is true."""

    full = True

    def check(self) -> None:
        if self.full:
            raise NearlyFullError("the disk is nearly full")
        super().check()


async def test_a_full_disk_is_told_once_and_refuses_before_anything_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("assistant.clips.LOOK_EVERY", 0.01)
    monkeypatch.setattr("test_clips.ClipFolder", Full)
    house = House(tmp_path, spectrogram=False)
    assert isinstance(house.folder, Full)
    await house.room.hear(11.0)
    first = house.started()
    assert first.clip is not None  # it was not known yet
    await house.room.hear(3.0)
    house.ended(first, 1.0)
    await house.room.hear(3.0)
    await house.settled()
    assert house.told == [ClipSettled("kitchen", first.id, None, FULL)]
    assert house.started(onset=16.0).clip is None
    assert house.clips.health()["refused"] == 2
    looking = asyncio.create_task(house.clips.run())
    await asyncio.sleep(0.1)
    assert house.problems == ["the disk is nearly full"]
    house.folder.full = False
    await until(lambda: len(house.problems) == 2)
    assert house.problems == ["the disk is nearly full", None]
    assert house.started(onset=16.5).clip is not None
    looking.cancel()
    assert caplog.text.count("nearly full") >= 1


async def test_a_folder_that_cannot_be_written_takes_the_promise_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    house = House(tmp_path / "file" / "clips", spectrogram=False)
    await house.room.hear(11.0)
    started = house.started()
    house.clips.left("kitchen", house.room)
    await house.settled()
    assert house.told == [ClipSettled("kitchen", started.id, None, FAILED)]
    assert len(house.problems) == 1
    assert "remedy: check the owner" in str(house.clips.problem)


async def test_a_picture_that_cannot_be_drawn_takes_the_promise_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_samples: Samples) -> bytes:
        raise RuntimeError("a bug in a library")

    house = House(tmp_path, draw=broken)
    await house.room.hear(11.0)
    house.started()
    house.clips.left("kitchen", house.room)
    await house.settled()
    assert [settled.reason for settled in house.told] == [FAILED]
    assert "a bug in a library" in caplog.text


async def test_stopping_waits_for_what_is_written_but_not_for_ever(tmp_path: Path) -> None:
    house = House(tmp_path, draw=lambda _samples: b"picture")
    await house.room.hear(11.0)
    started = house.started()
    house.clips.left("kitchen", house.room)
    await house.clips.stop(5.0)
    assert house.told == [ClipSettled("kitchen", started.id, started.clip)]
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hangs(_samples: Samples) -> bytes:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
        return b""

    house = House(tmp_path, draw=hangs)
    await house.room.hear(11.0)
    house.started()
    house.clips.left("kitchen", house.room)
    began = loop.time()
    await house.clips.stop(0.2)
    assert loop.time() - began < 2.0
    assert [settled.reason for settled in house.told] == [STOPPED]
    gate.set()


def test_a_file_says_what_it_is_of_and_loud_or_broken_samples_are_no_error() -> None:
    event = Event("1", "küche", "mic", "sound", State.STARTED, "smoke_alarm", "x", 1.0, start="2026-11-28T00:00:00")
    packed = flac(event, np.array([2.0, -2.0, 0.5, np.nan, np.inf], np.float32), 0)
    with soundfile.SoundFile(io.BytesIO(packed)) as file:
        assert (file.format, file.samplerate, file.channels) == ("FLAC", SAMPLE_RATE, 1)
        assert (file.title, file.date) == ("smoke_alarm in küche", "2026-11-28T00:00:00")
        assert np.allclose(file.read(), [1.0, -1.0, 0.5, 0.0, 1.0], atol=1e-3)


def test_a_file_says_how_long_before_its_sound_it_begins() -> None:
    event = Event("1", "kitchen", "mic", "speech", State.HEARD, "speech", "x", 1.0, start="2026", offset=7.5)
    packed = flac(event, np.zeros(8 * SAMPLE_RATE, np.float32), round(4.5 * SAMPLE_RATE))
    assert lengths_of(packed) == (8.0, 3.0)
    late = flac(event, np.zeros(SAMPLE_RATE, np.float32), 8 * SAMPLE_RATE)  # of a long sentence, its end
    assert lengths_of(late) == (1.0, -0.5)


def test_what_is_no_file_of_ours_tells_no_more_than_it_can(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "other.flac", np.zeros(8_000), 16_000)
    assert lengths_of((tmp_path / "other.flac").read_bytes()) == (0.5, None)
    with pytest.raises(ValueError, match="no FLAC file"):
        lengths_of(b"nothing")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"before": 5, "after": 5, "longest": 10}, "leave nothing of longest"),
        ({"keep": ["speech"], "drop_speech": True}, "remove one of them"),
        ({"days": 0}, "days"),
        ({"longest": 600}, "longest"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ClipSettings.model_validate(settings)
