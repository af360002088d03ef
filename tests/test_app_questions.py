"""The daemon with a resident audio language model: rules and people ask it, and stopping waits for nobody."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_app import Subscriber, until, wav
from tiny_qwen_audio import at_rest

from assistant import app
from assistant.config import Config, parse
from assistant.models.audio_llm import AudioLLM, AudioLLMSettings
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.pipeline import Models
from assistant.resident import Resident
from assistant.startup import ModelFiles, Room, load_models
from assistant.synthesis import noise, placed, t3

REPLY = "kikimimi/reply/test"
RULES = """\
rules:
  - name: alarm
    when: {sound: smoke_alarm}
    do:
      - publish: {topic: house/first, payload: "{{ label }}"}
      - ask: {prompt: "Is {{ room_name }} on fire?", as: fire, within: 2 min, choices: [fire, toast]}
      - publish: {topic: house/fire, payload: "{{ answers.fire or 'unknown' }}"}
      - describe: {within: 2 min}
      - publish: {topic: house/all, payload: "{{ answers | tojson }}"}
"""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def alarm(tmp_path: Path) -> Path:
    return wav(tmp_path / "alarm.wav", placed(noise(26.0, -60.0), 0.2 * t3(cycles=5), 2.0))


@pytest.fixture(scope="module")
def tiny(qwen_audio_checkpoint: Path) -> AudioLLM:
    from assistant.models.qwen_audio.llm import QwenAudio  # noqa: PLC0415

    return QwenAudio(qwen_audio_checkpoint, AudioLLMSettings(device="cpu", dtype="float32"))


@asynccontextmanager
async def house(
    yamnet: Path,
    recording: Path,
    load: Callable[[], AudioLLM] | None,
    speed: float,
    *,
    rules: str = RULES,
    checkpoint: Path | None = None,
) -> AsyncIterator[tuple[Subscriber, asyncio.Task[int], app.Daemon]]:
    """A daemon at its broker with YAMNet, no Whisper, and the language model of `load` or of a checkpoint."""

    async def models(config: Config, files: ModelFiles) -> Models:
        small = await load_models(config, files)
        return small if load is None else replace(small, llm=Resident(load))

    patch = pytest.MonkeyPatch()
    patch.setattr(app, "load_models", models)
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}")
        rooms = [Room("kitchen", str(recording))]
        try:
            async with app.daemon(
                parse(rules, Path("c.yaml")), rooms, ModelFiles(yamnet, None, checkpoint), mqtt=settings, speed=speed
            ) as daemon:
                task = asyncio.create_task(daemon.run())
                try:
                    yield client, task, daemon
                finally:
                    daemon.stop()
                    await asyncio.wait_for(task, 20)
        finally:
            patch.undo()
            await asyncio.to_thread(client.close)
            await asyncio.to_thread(at_rest)


async def test_in_profile_hybrid_a_rule_asks_and_acts_on_the_answer(
    yamnet_path: Path, alarm: Path, qwen_audio_checkpoint: Path
) -> None:
    settings = f"{{checkpoint: {qwen_audio_checkpoint}, device: cpu, dtype: float32}}"
    config = f"profile: hybrid\nspeech: {{enabled: false}}\nmodels: {{audio_llm: {settings}}}\n{RULES}"
    async with house(yamnet_path, alarm, None, 20.0, rules=config, checkpoint=qwen_audio_checkpoint) as (
        client,
        task,
        daemon,
    ):
        assert await asyncio.wait_for(task, 100) == 0
        figures = daemon.health()
    assert len(client.on("house/first")) == 1
    (fire,) = client.on("house/fire")
    assert fire in {"fire", "toast"}
    (answers,) = map(json.loads, client.on("house/all"))
    assert answers["fire"] == fire
    assert set(answers) == {"fire", "caption"}
    topics = [topic for topic, _, _ in client.messages]
    assert topics.index("house/first") < topics.index("house/fire") < topics.index("house/all")
    assert figures["rules_unanswered"] == (answers["caption"] is None)
    assert figures["rules_doubted"] == 0


async def test_people_ask_about_a_room(yamnet_path: Path, alarm: Path, tiny: AudioLLM) -> None:
    async with house(yamnet_path, alarm, lambda: tiny, 4.0, rules="") as (client, _, daemon):
        await until(lambda: "online" in client.on("kikimimi/kitchen/status"))
        await asyncio.sleep(1.0)
        for asked in ({"task": "vocal-sound", "seconds": 2}, {"task": "caption", "room": "attic"}, {"text": 3}):
            client.publish("kikimimi/ask", json.dumps({**asked, "reply_to": REPLY}))
        await until(lambda: len(client.on(REPLY)) == 3)
        assert daemon.health()["mqtt_questions"] == 1
    replies = [json.loads(payload) for payload in client.on(REPLY)]
    (answer,) = [reply for reply in replies if "error" not in reply]
    assert (answer["task"], answer["room"], answer["model"]) == ("vocal-sound", "kitchen", "qwen-audio-chat")
    assert answer["seconds"] == pytest.approx(2.0, abs=0.01)
    errors = sorted(reply["error"] for reply in replies if "error" in reply)
    assert errors[0] == "room: there is no room attic; there is kitchen"
    assert errors[1].startswith("text: ")


async def test_without_a_model_people_are_told_what_is_needed(yamnet_path: Path, alarm: Path) -> None:
    async with house(yamnet_path, alarm, None, 4.0, rules="") as (client, _, daemon):
        await until(lambda: "online" in client.on("kikimimi/status"))
        client.publish("kikimimi/ask", json.dumps({"text": "What is it?", "reply_to": REPLY}))
        await until(lambda: client.on(REPLY))
        assert "rules_unanswered" not in daemon.health()
    assert "profile: hybrid, qwen or remote" in json.loads(client.on(REPLY)[0])["error"]


@pytest.mark.parametrize("within", ["0.2 s", "10 min"])
async def test_a_rule_goes_on_without_an_answer(
    yamnet_path: Path, alarm: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    monkeypatch.setattr(app, "DRAIN", 2.0)
    loading = threading.Event()

    def load() -> Any:
        loading.wait(30)
        raise RuntimeError("too late")

    rules = RULES.replace("2 min", within)
    async with house(yamnet_path, alarm, load, 20.0, rules=rules) as (client, task, daemon):
        try:
            await until(lambda: client.on("house/first"))
            if within == "10 min":
                daemon.stop()
            assert await asyncio.wait_for(task, 20) == 0
            await until(lambda: client.on("house/all"))
        finally:
            loading.set()  # before the house waits for its threads
    assert client.on("house/fire") == ["unknown"]
    assert json.loads(client.on("house/all")[0]) == {"fire": None, "caption": None}


async def test_a_recording_read_as_fast_as_possible_waits_for_the_model(
    yamnet_path: Path, alarm: Path, tiny: AudioLLM
) -> None:
    release = threading.Event()

    def load() -> AudioLLM:
        release.wait(20)
        return tiny

    try:
        async with house(yamnet_path, alarm, load, 0.0, rules="rules: []\n") as (_, task, daemon):
            await until(lambda: daemon.health()["mqtt_connected"])
            await asyncio.sleep(1.0)
            assert not daemon._ears[0].heard
            release.set()
            assert await asyncio.wait_for(task, 30) == 0
            assert daemon._ears[0].heard
    finally:
        release.set()
