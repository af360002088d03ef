"""Clips from the real daemon: real models, a real broker, real files."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from PIL import Image
from test_app import Subscriber, running, until, wav

from assistant import app, fittings
from assistant.clips import FULL, SPOKEN
from assistant.config import Config, parse
from assistant.events import SAMPLE_RATE, Samples
from assistant.history_database import HistorySettings
from assistant.history_reading import Wanted, read
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.startup import ModelFiles, Room
from assistant.synthesis import noise, placed, scaled, t3

ROOMS = "rooms: {kitchen: {name: '../../台所'}}\n"


@pytest.fixture
def files(yamnet_path: Path) -> ModelFiles:
    return ModelFiles(yamnet_path, None)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def house(seconds: float = 26.0) -> Samples:
    """Five cycles of a smoke alarm over a quiet room."""
    return placed(noise(seconds, -60.0), 0.2 * t3(cycles=5), 2.0)


def voice(sentence: str, folder: Path) -> Samples:
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("espeak-ng is missing; remedy: apt-get install espeak-ng")
    path = folder / "voice.wav"
    subprocess.run([program, "-v", "en-us", "-s", "140", "-w", str(path), sentence], check=True)
    samples, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)


async def heard(
    text: str, path: Path, files: ModelFiles, speed: float, watched: tuple[str, ...] = ()
) -> dict[str, list[Any]]:
    """What the house said while it heard a file: events, clips and the topics `watched`."""
    config = parse(ROOMS + text, path.parent / "config.yaml")
    async with running(config, [Room("kitchen", str(path))], files, speed) as (client, task):
        assert await asyncio.wait_for(task, 60) == 0
        await until(lambda: "offline" in client.on("kikimimi/status"))
        return {
            "events": [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")],
            "clips": [json.loads(payload) for payload in client.on("kikimimi/kitchen/clip")],
            **{topic: client.on(topic) for topic in watched},
        }


def on_disk(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.flac"))


@pytest.mark.parametrize("speed", [0.0, 20.0])
async def test_the_clip_of_an_alarm_is_what_was_heard(files: ModelFiles, tmp_path: Path, speed: float) -> None:
    samples = house()
    told = await heard("clips: {enabled: true}", wav(tmp_path / "alarm.wav", samples), files, speed)
    smoke = [event for event in told["events"] if event["event_type"] == "smoke_alarm"]
    assert [event["state"] for event in smoke] == ["started", "ended"]
    name = f"{smoke[0]['start'][:10]}/{smoke[0]['id']}.flac"
    assert [event["clip"] for event in smoke] == [name, name]
    assert told["clips"] == [{"schema": 1, "id": smoke[0]["id"], "clip": name, "reason": None}]
    (path,) = on_disk(tmp_path)
    assert path == tmp_path / "state" / "kikimimi" / "clips" / name
    kept, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE
    first = max(0, round((smoke[0]["offset"] - 3.0) * SAMPLE_RATE))
    assert np.abs(kept - samples[first : first + len(kept)]).max() < 1e-3
    assert len(kept) / SAMPLE_RATE == pytest.approx(smoke[1]["offset"] + smoke[1]["duration"] + 2.0, abs=0.1)
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.size == (640, 320)
    for event in told["events"]:
        assert (event["clip"] is None) == (event["event_type"] != "smoke_alarm")


async def test_nothing_is_kept_unless_it_is_asked_for(files: ModelFiles, tmp_path: Path) -> None:
    told = await heard("", wav(tmp_path / "alarm.wav", house()), files, 0.0)
    assert any(event["event_type"] == "smoke_alarm" for event in told["events"])
    assert all(event["clip"] is None for event in told["events"])
    assert told["clips"] == []
    assert not (tmp_path / "state" / "kikimimi" / "clips").exists()


RULE = """\
clips: {enabled: true, keep: [], spectrogram: false}
rules:
  - when: {sound: smoke_alarm}
    do:
      - publish: {topic: house/first, payload: "{{ clip or 'none' }}"}
      - keep_clip: true
      - publish: {topic: house/second, payload: "{{ clip or 'none' }} {{ event.clip or 'none' }}"}
"""


async def test_a_rule_keeps_a_clip_and_its_next_actions_know_the_name(files: ModelFiles, tmp_path: Path) -> None:
    watched = ("house/first", "house/second")
    told = await heard(RULE, wav(tmp_path / "alarm.wav", house()), files, 20.0, watched)
    smoke = [event for event in told["events"] if event["event_type"] == "smoke_alarm"]
    (path,) = on_disk(tmp_path)
    name = f"{path.parent.name}/{path.name}"
    assert [event["clip"] for event in smoke] == [name, name]
    assert told["house/first"] == ["none"]
    assert told["house/second"] == [f"{name} {name}"]
    assert not path.with_suffix(".png").exists()


async def test_a_rule_without_a_place_for_clips_goes_on(files: ModelFiles, tmp_path: Path) -> None:
    told = await heard(RULE.split("\n", 1)[1], wav(tmp_path / "a.wav", house()), files, 0.0, ("house/second",))
    assert told["house/second"] == ["none none"]
    assert on_disk(tmp_path) == []


@pytest.fixture
def hearing_files(yamnet_path: Path, whisper_base_path: Path) -> ModelFiles:
    return ModelFiles(yamnet_path, whisper_base_path)


@pytest.mark.parametrize("onset", [0.3, 6.0, 19.0])
async def test_no_clip_holds_a_voice_where_speech_is_dropped(
    hearing_files: ModelFiles, tmp_path: Path, onset: float
) -> None:
    """Somebody speaks before the alarm, between its beeps, or right after it."""
    spoken = scaled(await asyncio.to_thread(voice, "Where is the key to the garden?", tmp_path), -25.0)
    path = wav(tmp_path / "alarm.wav", placed(house(28.0), spoken, onset))
    watched = ("kikimimi/kitchen/last/sound", "kikimimi/kitchen/sound/smoke_alarm/attributes")
    told = await heard("clips: {enabled: true, drop_speech: true}", path, hearing_files, 0.0, watched)
    smoke = [event for event in told["events"] if event["event_type"] == "smoke_alarm"]
    ids = {event["id"] for event in smoke}  # the voice may part the alarm in two
    assert {clip["id"]: clip["reason"] for clip in told["clips"] if clip["id"] in ids} == dict.fromkeys(ids, SPOKEN)
    assert [event["clip"] for event in smoke if event["state"] == "ended"] == [None] * len(ids)
    assert on_disk(tmp_path) == []
    for topic in watched:
        assert json.loads(told[topic][-1])["clip"] is None
    remembered = read(HistorySettings(), tmp_path / "state" / "kikimimi", Wanted())
    assert ids <= {event["id"] for event in remembered}
    assert {event["clip"] for event in remembered} == {None}


async def test_an_alarm_without_a_voice_is_kept_where_speech_is_dropped(
    hearing_files: ModelFiles, tmp_path: Path
) -> None:
    path = wav(tmp_path / "alarm.wav", house())
    told = await heard("clips: {enabled: true, drop_speech: true}", path, hearing_files, 0.0)
    assert [clip["reason"] for clip in told["clips"]] == [None]
    assert len(on_disk(tmp_path)) == 1


async def test_speech_is_kept_where_it_is_listed(hearing_files: ModelFiles, tmp_path: Path) -> None:
    spoken = scaled(await asyncio.to_thread(voice, "Where is the key to the garden?", tmp_path), -25.0)
    path = wav(tmp_path / "voice.wav", placed(noise(9.0, -60.0), spoken, 4.0))
    told = await heard("clips: {enabled: true}", path, hearing_files, 0.0)
    assert [event["clip"] for event in told["events"]] == [None]
    told = await heard("clips: {enabled: true, keep: [speech]}", path, hearing_files, 0.0)
    (event,) = told["events"]
    (kept,) = on_disk(tmp_path)
    assert event["clip"] == f"{kept.parent.name}/{kept.name}"
    assert event["text"] is None
    assert "garden" not in str(kept)


async def test_a_nearly_full_disk_is_told_once_and_when_it_is_over(
    files: ModelFiles, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant.clips.LOOK_EVERY", 0.05)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 3_000_000)
    text = f"clips: {{enabled: true, free: 2, dir: {small_disk}/clips}}\n"
    config = parse(text, tmp_path / "config.yaml")
    path = wav(tmp_path / "alarm.wav", house(60.0))
    async with running(config, [Room("kitchen", str(path))], files, 4.0) as (client, task):

        def problems() -> list[object]:
            return [json.loads(payload)["clips_problem"] for payload in client.on("kikimimi/health")]

        await until(lambda: client.on("kikimimi/kitchen/clip"))
        assert [json.loads(payload)["reason"] for payload in client.on("kikimimi/kitchen/clip")] == [FULL]
        (started,) = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")][:1]
        assert started["clip"] is None
        assert "the disk is nearly full" in str(problems()[0])
        assert len([problem for problem in problems() if problem]) <= 2  # when it came, and the first figures
        filler.unlink()
        await until(lambda: problems()[-1] is None)
        client.publish("kikimimi/kitchen/test", "now")
        await until(lambda: len(client.on("kikimimi/kitchen/clip")) == 2)
        assert not task.done()
    assert len(on_disk(small_disk)) == 1


async def test_a_test_alert_keeps_a_clip_of_the_room(files: ModelFiles, tmp_path: Path) -> None:
    path = wav(tmp_path / "quiet.wav", noise(60.0, -60.0))
    config = parse("clips: {enabled: true}", tmp_path / "config.yaml")
    async with running(config, [Room("kitchen", str(path))], files, 4.0) as (client, task):
        await until(lambda: "online" in client.on("kikimimi/kitchen/status"))
        await asyncio.sleep(1.5)
        client.publish("kikimimi/kitchen/test", "now")
        await until(lambda: client.on("kikimimi/kitchen/clip"))
        assert not task.done()
    (kept,) = on_disk(tmp_path)
    assert soundfile.info(kept).duration == pytest.approx(5.0, abs=0.01)


async def test_stopping_in_the_middle_of_an_alarm_keeps_what_was_heard(files: ModelFiles, tmp_path: Path) -> None:
    config = parse("clips: {enabled: true}", tmp_path / "config.yaml")
    path = wav(tmp_path / "alarm.wav", placed(noise(120.0, -60.0), 0.2 * t3(cycles=28), 2.0))
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        try:
            async with app.daemon(
                config,
                [Room("kitchen", str(path))],
                files,
                mqtt=MqttSettings(url=f"mqtt://127.0.0.1:{port}"),
                speed=4.0,
            ) as daemon:
                task = asyncio.create_task(daemon.run())
                await until(lambda: any("smoke_alarm" in one for one in client.on("kikimimi/kitchen/event")))
                await asyncio.sleep(1.5)
                daemon.stop()
                assert await asyncio.wait_for(task, 20) == 0
            await until(lambda: "offline" in client.on("kikimimi/status"))
            smoke = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
            told = [json.loads(payload) for payload in client.on("kikimimi/kitchen/clip")]
        finally:
            await asyncio.to_thread(client.close)
    (kept,) = on_disk(tmp_path)
    assert (
        [one["clip"] for one in smoke if one["event_type"] == "smoke_alarm"][-1]
        == told[0]["clip"]
        == f"{kept.parent.name}/{kept.name}"
    )
    assert soundfile.info(kept).duration > 5.0


async def test_a_folder_that_cannot_be_used_does_not_stop_the_house(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    told = await heard(
        f"clips: {{enabled: true, dir: {tmp_path}/file/clips}}", wav(tmp_path / "a.wav", house()), files, 20.0,
        ("kikimimi/health",),
    )  # fmt: skip
    smoke = [event for event in told["events"] if event["event_type"] == "smoke_alarm"]
    assert [event["state"] for event in smoke] == ["started", "ended"]
    assert [clip["reason"] for clip in told["clips"]] == ["cannot be written"]
    assert "remedy" in json.loads(told["kikimimi/health"][0])["clips_problem"]


def test_the_default_keeps_nothing() -> None:
    assert fittings.clips_of(Config(), Path("/nowhere")) is None
