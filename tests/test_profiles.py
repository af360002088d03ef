"""The profiles qwen and hybrid with a tiny random checkpoint: what it says is noise, how that is told is not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from test_app import Subscriber, _own_state, until, wav  # noqa: F401 (a fixture)

from assistant import app, resident, startup
from assistant.config import Config, parse
from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Event, Samples, State
from assistant.listening import listen
from assistant.models.audio_llm import Answer, AudioLLMSettings, Prompt, Stop
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.resident import Status
from assistant.startup import ModelFiles, Room, audio_llm_folder, hearing_settings, load_audio_llm, load_models
from assistant.synthesis import noise, placed, t3


def configured(profile: str, checkpoint: Path | str, **settings: str) -> Config:
    llm = json.dumps({"checkpoint": str(checkpoint), "dtype": "float32", **settings})
    return parse(f"profile: {profile}\nmodels: {{audio_llm: {llm}}}", Path("config.yaml"))


def speech() -> Samples:
    voice = shutil.which("espeak-ng")
    if voice is None:
        pytest.skip("espeak-ng is missing; remedy: apt-get install espeak-ng")
    sentence = "Please turn on the light."
    spoken = subprocess.run([voice, "-v", "en-us", "--stdout", sentence], check=True, capture_output=True).stdout
    import io  # noqa: PLC0415

    samples, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    return soxr.resample(samples, rate, SAMPLE_RATE)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    heard = placed(noise(13.0, -60.0), 0.3 * t3(cycles=1), 1.5)
    return wav(tmp_path / "house.wav", placed(heard, 0.5 * speech(), 8.0))


class Collector:
    closed = False

    def __init__(self) -> None:
        self.events: list[Event] = []

    def offer(self, item: Event) -> None:
        self.events.append(item)


def told(events: Sequence[Event]) -> list[tuple[object, ...]]:
    return [(e.state, e.event_type, e.label, e.score, e.offset, e.heard_at, e.model, e.caption, e.text) for e in events]


def well_formed(events: Sequence[Event]) -> None:
    open_sounds: dict[str, Event] = {}
    for event in events:
        json.dumps(event.to_json(), allow_nan=False)
        assert event.score is None or 0.0 <= event.score <= 1.0
        assert 0.0 <= event.offset <= event.heard_at <= 13.1
        assert event.witnessed == (event.model != "qwen-audio-chat")
        if event.kind == "sound" and event.state is State.STARTED:
            assert event.caption is None
            open_sounds[event.id] = event
        elif event.kind == "sound":
            assert open_sounds.pop(event.id).event_type == event.event_type
    assert not open_sounds


@pytest.mark.slow
@pytest.mark.timeout(400)  # a language model on a processor
@pytest.mark.parametrize("profile", ["hybrid", "qwen"])
async def test_a_house_is_heard(profile: str, yamnet_path: Path, qwen_audio_checkpoint: Path, house: Path) -> None:
    config = configured(profile, qwen_audio_checkpoint)
    runs = []
    for _ in range(2 if profile == "qwen" else 1):
        models = await load_models(config, ModelFiles(yamnet_path, None, qwen_audio_checkpoint))
        collector = Collector()
        try:
            assert await listen([str(house)], models, hearing_settings(config), collector) == 0
            assert models.llm is not None
            figures = models.llm.figures()
        finally:
            models.shutdown()
        well_formed(collector.events)
        assert any(event.event_type == "smoke_alarm" and event.witnessed for event in collector.events)
        assert (figures["shed"], figures["late"], figures["errors"]) == (0, 0, 0)  # a file can wait
        assert figures["jobs"] >= (2 if profile == "hybrid" else 6)
        runs.append(told(collector.events))
    assert runs[0] == runs[-1]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["hybrid", "qwen"])
async def test_the_daemon_hears_and_stops(
    profile: str, yamnet_path: Path, qwen_audio_checkpoint: Path, house: Path
) -> None:
    config = configured(profile, qwen_audio_checkpoint)
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        try:
            async with app.daemon(
                config,
                [Room("kitchen", str(house))],
                ModelFiles(yamnet_path, None, qwen_audio_checkpoint),
                mqtt=MqttSettings(url=f"mqtt://127.0.0.1:{port}"),
                speed=4.0,
            ) as daemon:
                assert await asyncio.wait_for(daemon.run(), 60) == 0
                figures = daemon.health()
            await until(lambda: "offline" in client.on("kikimimi/status"))
        finally:
            await asyncio.to_thread(client.close)
    assert "smoke_alarm" in client.on("kikimimi/kitchen/trigger")
    for payload in client.on("kikimimi/kitchen/event"):
        event = json.loads(payload)
        assert "witnessed" not in event
        assert event["caption"] is event["text"] is None  # privacy.transcripts is off
    assert figures["llm_status"] in {"ready", "loading"}  # 3 s of recording may be over before it is there
    assert figures["model_errors"] == 0
    assert {"llm_waiting_sound", "llm_shed", "llm_shed_sound", "llm_late", "llm_batch_mean", "llm_tokens_per_s"} <= set(
        figures
    )


class Exhausted:
    """A language model that says nothing, on a GPU that others fill."""

    name, tagged = "qwen-audio-chat", False

    def __init__(self) -> None:
        self.full = False

    def answer(self, prompts: Sequence[Prompt], **_options: Any) -> list[Answer]:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [Answer("", 1, Stop.END) for _ in prompts]

    def score(self, _prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return np.zeros(len(labels), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["hybrid", "qwen"])
async def test_the_small_models_stand_in_while_the_gpu_is_full(
    profile: str, yamnet_path: Path, whisper_base_path: Path, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (whisper_base_path / "model.bin").is_file()
    llm = Exhausted()
    monkeypatch.setattr(startup, "load_audio_llm", lambda _folder, _settings: llm)
    monkeypatch.setattr(resident, "AGAIN", (0.2, 0.2, 0.2))
    config = configured(profile, "nowhere")
    models = await load_models(config, ModelFiles(yamnet_path, None, Path("nowhere")))
    collector = Collector()
    try:
        assert models.llm is not None
        assert await models.llm.ready()
        llm.full = True
        assert await listen([str(house)], models, hearing_settings(config), collector) == 0
        assert not models.llm.figures()["healthy"]
        llm.full = False
        await until(lambda: models.llm is not None and models.llm.status is Status.READY)
        recogniser, thread = await models.recognition()
        assert recogniser is not None
        assert (recogniser.name, thread) == ("qwen-audio-chat", models.recognising)
    finally:
        models.shutdown()
    (speech,) = [event for event in collector.events if event.kind == "speech"]
    assert speech.model.startswith("whisper")
    assert "light" in str(speech.text).lower()
    alarm = [event.model for event in collector.events if event.event_type == "smoke_alarm"]
    assert alarm
    assert not any("qwen" in model for model in alarm)


async def test_without_its_files_the_stand_in_says_so(
    yamnet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_folder: Path, _settings: AudioLLMSettings) -> Exhausted:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(startup, "load_audio_llm", full)
    config = configured("qwen", "nowhere")
    config = config.model_copy(update={"models": config.models.model_copy(update={"dir": tmp_path})})
    models = await load_models(config, ModelFiles(yamnet_path, None, Path("nowhere")))
    try:
        assert models.llm is not None
        assert not await models.llm.ready()
        for _ in range(2):
            assert await models.recognition() == (None, models.standing_in)
    finally:
        models.shutdown()
    assert caplog.text.count("remedy: kikimimi models pull whisper-base") == 1


# ------------------------------------------------------------------------------------------------------ what is missing


def lacking(config: Config) -> str:
    with pytest.raises(ModelError) as missing:
        audio_llm_folder(config)
    assert missing.value.exit_code == 4
    assert "--profile embedded" in str(missing.value)
    return str(missing.value)


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in {"torch", "tiktoken"} else find(name, *a)
    )
    config = configured("qwen", "qwen-audio-chat")
    models = config.models.model_copy(update={"dir": tmp_path})
    said = lacking(config.model_copy(update={"models": models}))
    assert "the package torch and the package tiktoken (remedy: pip install 'kikimimi[qwen]')" in said
    assert "kikimimi models pull qwen-audio-chat" in said
    assert "a GPU: with 16.8 GB" in said


def test_a_large_checkpoint_on_a_cpu_needs_insisting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_has_gpu", lambda: False)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(3_000_000_000)  # sparse
    assert "models.audio_llm.device: cpu" in lacking(configured("hybrid", tmp_path))
    assert audio_llm_folder(configured("hybrid", tmp_path, device="cpu")) == tmp_path
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1_000_000_000)
    assert audio_llm_folder(configured("hybrid", tmp_path)) == tmp_path


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "no-such-folder" in lacking(configured("qwen", tmp_path / "no-such-folder"))


def test_the_family_is_that_of_the_checkpoint(qwen_audio_checkpoint: Path, tmp_path: Path) -> None:
    llm = load_audio_llm(qwen_audio_checkpoint, AudioLLMSettings(device="cpu"))
    assert (llm.name, llm.tagged) == ("qwen-audio-chat", False)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="'llama', none of qwen, qwen2_audio"):
        load_audio_llm(tmp_path, AudioLLMSettings())


async def test_a_broken_checkpoint_leaves_the_daemon_and_stops_a_listener(
    yamnet_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    config = configured("hybrid", tmp_path)
    models = await load_models(config, ModelFiles(yamnet_path, None, tmp_path))
    try:
        assert await models.recogniser() is None
        assert models.llm is not None
        assert models.llm.status is Status.FAILED
        assert "cannot be loaded" in caplog.text
        with pytest.raises(ModelError, match="'llama'"):
            await listen(["a.wav"], models, hearing_settings(config), Collector())
    finally:
        models.shutdown()
