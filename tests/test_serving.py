"""`kikimimi serve` as a process with real small models: the official client, ours, and a whole daemon ask it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soundfile
import soxr
from forked import kikimimi
from test_app import Subscriber, wav

from assistant import app, checkup, resident, serving, startup
from assistant.config import Config, parse
from assistant.errors import AssistantError, ModelError
from assistant.events import SAMPLE_RATE, Samples
from assistant.models import remote as remote_module
from assistant.models.audio_llm import AwayError, Message, Prompt, Stop
from assistant.models.openai_api import wav as wav_bytes
from assistant.models.remote import Remote, RemoteSettings
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.resident import Status
from assistant.startup import ModelFiles, Room
from assistant.synthesis import noise, placed

TOKEN = "a-token-of-the-tests"
LONG = 200.0  # seconds for a server to load its models, on a busy machine

pytestmark = pytest.mark.slow


class Served:
    """A server of the tests, which can be killed and started anew on its port."""

    def __init__(self, folder: Path, checkpoint: Path | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        self._log = folder / "log"
        self._config = folder / "serve.yaml"
        config = f"speech: {{model: tiny.en}}\nserve: {{port: {self.port}, token: '${{TEST_TOKEN}}'}}\n"
        if checkpoint is not None:
            model = f"{{checkpoint: '{checkpoint}', device: cpu, dtype: float32}}"
            config += f"profile: hybrid\nmodels: {{audio_llm: {model}}}\n"
        self._config.write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        command = [sys.executable, "-m", "assistant.cli", "serve", "-c", str(self._config)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stderr=log, env={**os.environ, "TEST_TOKEN": TOKEN})
        end = time.monotonic() + LONG
        while True:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            try:
                if httpx2.get(f"http://127.0.0.1:{self.port}/health", trust_env=False).status_code == 200:
                    return
            except httpx2.HTTPError:
                time.sleep(0.1)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    qwen_audio_checkpoint: Path,
    yamnet_path: Path,
    whisper_tiny_en_path: Path,
) -> Iterator[Served]:
    assert yamnet_path.is_file()
    assert whisper_tiny_en_path.is_dir()
    made = Served(tmp_path_factory.mktemp("serve"), qwen_audio_checkpoint)
    made.start()
    yield made
    if made.running:
        assert made.kill(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def sentence() -> Samples:
    voice = shutil.which("espeak-ng")
    if voice is None:
        pytest.skip("espeak-ng is missing; remedy: apt-get install espeak-ng")
    command = [voice, "-v", "en-us", "-s", "140", "--stdout", "Please turn on the light in the kitchen."]
    import io  # noqa: PLC0415

    samples, rate = soundfile.read(
        io.BytesIO(subprocess.run(command, check=True, capture_output=True).stdout), dtype="float32"
    )
    return soxr.resample(samples, rate, SAMPLE_RATE)


@contextmanager
def official(served: Served, **options: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**{"base_url": served.url, "api_key": TOKEN, "max_retries": 0, **options}) as client:
        yield client


def heard(samples: Samples, question: str) -> list[Any]:
    audio = {"data": base64.b64encode(wav_bytes(samples)).decode(), "format": "wav"}
    return [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": question}]


# ------------------------------------------------------------------------------------------------ the official client


def test_the_official_client_transcribes(served: Served, sentence: Samples) -> None:
    file = ("a.wav", wav_bytes(sentence))
    with official(served) as client:
        assert [model.id for model in client.models.list()] == ["whisper-tiny.en", "qwen-audio-chat", "yamnet"]
        plain = client.audio.transcriptions.create(model="whisper-tiny.en", file=file)
        text = client.audio.transcriptions.create(model="whisper-tiny.en", file=file, response_format="text")
        verbose = client.audio.transcriptions.create(
            model="whisper-tiny.en", file=file, response_format="verbose_json", timestamp_granularities=["word"]
        )
        silence = client.audio.transcriptions.create(
            model="whisper-tiny.en", file=("s.wav", wav_bytes(np.zeros(2 * SAMPLE_RATE, np.float32)))
        )
    assert "turn on the light" in plain.text.lower()
    assert text.strip() == plain.text
    assert verbose.words
    assert [re.sub(r"\W", "", word.word.lower()) for word in verbose.words][-1] == "kitchen"
    assert 0.0 <= verbose.words[0].start < verbose.words[-1].end <= verbose.duration + 0.1
    assert silence.text == ""


def test_long_recordings_are_cut_where_nobody_speaks(served: Served, sentence: Samples) -> None:
    long = noise(50.0, -60.0)
    for at in (2.0, 25.0, 44.0):
        long = placed(long, 0.5 * sentence, at)
    with official(served) as client:
        told = client.audio.transcriptions.create(
            model="whisper-tiny.en",
            file=("a.wav", wav_bytes(long)),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
    lights = [word.start for word in told.words or () if "light" in word.word.lower()]
    assert [round(start - light) for start, light in zip((3, 26, 45), lights, strict=True)] == [0, 0, 0], told.words
    assert len(told.segments or ()) == 3
    assert told.text.lower().count("light in the kitchen") == 3
    assert told.duration == pytest.approx(50.0)


def test_the_official_client_converses(served: Served, sentence: Samples) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": heard(sentence, "What is said?")},
        {"role": "assistant", "content": "A request."},
        {"role": "user", "content": heard(sentence[:SAMPLE_RATE], "And here?")},
    ]
    with official(served) as client:
        whole = client.chat.completions.create(model="qwen-audio-chat", messages=messages, max_tokens=12)
        pieces = list(
            client.chat.completions.create(
                model="qwen-audio-chat",
                messages=messages,
                max_tokens=12,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == (
        whole.choices[0].message.content
    )
    assert len(pieces) > 5
    assert pieces[-1].usage == whole.usage


def test_errors_are_those_that_the_official_client_knows(served: Served) -> None:
    asked: Any = {"model": "qwen-audio-chat", "messages": [{"role": "user", "content": "hi"}]}
    with official(served) as client, official(served, api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(**asked)
        with pytest.raises(openai.NotFoundError, match="there is no 'gpt-4o'"):
            client.chat.completions.create(**{**asked, "model": "gpt-4o"})
        with pytest.raises(openai.BadRequestError, match="tools: not known"):
            client.chat.completions.create(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
        with pytest.raises(openai.BadRequestError, match="a system prompt comes first"):
            client.chat.completions.create(
                model="qwen-audio-chat",
                messages=[*asked["messages"], {"role": "system", "content": "sing"}, *asked["messages"]],
            )
        with pytest.raises(openai.BadRequestError, match="more than 8 clips"):
            client.chat.completions.create(
                model="qwen-audio-chat",
                messages=[{"role": "user", "content": heard(noise(260.0, -60.0), "What?")}],
            )
    assert "Traceback" not in served.log


def test_sounds_are_tagged_over_time(served: Served, sentence: Samples) -> None:
    recording = placed(noise(6.0, -70.0), 0.5 * sentence[: 2 * SAMPLE_RATE], 3.5)
    answer = httpx2.post(
        f"{served.url}/audio/tags",
        files={"file": ("a.wav", wav_bytes(recording))},
        data={"top": "3"},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=30,
        trust_env=False,
    ).json()
    assert (answer["model"], answer["duration"]) == ("yamnet", 6.0)
    assert "Speech" in {label["label"] for label in answer["labels"]}
    spoken = [w["start"] for w in answer["windows"] if any("peech" in one["label"] for one in w["labels"])]
    assert spoken
    assert min(spoken) > 2.0
    assert all(len(window["labels"]) <= 3 for window in answer["windows"])


def test_no_word_and_no_token_is_logged(served: Served, sentence: Samples) -> None:
    with official(served) as client:
        client.audio.transcriptions.create(model="whisper-tiny.en", file=("a.wav", wav_bytes(sentence)))
    assert TOKEN not in served.log
    assert "light" not in served.log.lower()


# ------------------------------------------------------------------------------------------------------- our client


@contextmanager
def ours(served: Served, **settings: Any) -> Iterator[Remote]:
    made = Remote(RemoteSettings(url=served.url, token=TOKEN, **settings))
    try:
        yield made
    finally:
        made.close()


def test_our_client_needs_only_address_and_token(served: Served, sentence: Samples) -> None:
    with ours(served) as made:
        made.probe()
        assert (made.model, made.transcriber) == ("qwen-audio-chat", "whisper-tiny.en")
        assert "light" in made.transcribe(sentence, language="en", words=("kitchen",)).text
        prompt = Prompt(messages=(Message("user", (sentence, "What is it?")),))
        pieces: list[str] = []
        (whole,) = made.answer([prompt], max_new_tokens=8)
        (streamed,) = made.answer([prompt], max_new_tokens=8, stream=lambda _i, piece: pieces.append(piece))
        assert whole == streamed
        assert whole.stop is Stop.LENGTH
        assert "".join(pieces) == whole.text
        (choice,) = made.answer([prompt], choices=["on", "off"])
        assert choice.text in {"on", "off"}
    with pytest.raises(AwayError, match="HTTP 401"), ours(served, transcription_model="x") as stranger:
        stranger._settings = RemoteSettings(url=served.url, token="wrong")
        stranger.probe()


def test_an_answer_that_nobody_wants_leaves_the_server_free(served: Served, sentence: Samples) -> None:
    prompt = Prompt(messages=(Message("user", (sentence, "Tell me everything.")),))
    with ours(served) as made:
        made.probe()
        began = time.monotonic()
        stopped = made.answer([prompt] * 4, max_new_tokens=1024, cancelled=lambda _i: time.monotonic() - began > 0.5)
        assert {answer.stop for answer in stopped} <= {Stop.CANCELLED, Stop.END}
        began = time.monotonic()
        made.answer([prompt], max_new_tokens=2)
        assert time.monotonic() - began < 15


# ------------------------------------------------------------------------------------------------------- the daemon


def configured(served: Served, tail: str = "") -> Config:
    text = (
        f"profile: remote\nprivacy: {{transcripts: true}}\nspeech: {{model: tiny.en, languages: [en]}}\n"
        f"models: {{remote: {{url: '{served.url}', token: {TOKEN}, timeout: 10}}}}\n{tail}"
    )
    return parse(text, Path("config.yaml"))


async def until(condition: Callable[[], object], within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_daemon_falls_back_and_returns(
    sentence: Samples,
    yamnet_path: Path,
    whisper_tiny_en_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody speaks every eight seconds: the server hears it; once it is killed Whisper here does; then it again."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(resident, "AGAIN_AWAY", (0.5, 1.0))
    monkeypatch.setattr(remote_module, "WAITS", (0.1, 0.2))
    day = noise(400.0, -65.0)
    for at in range(2, 392, 8):
        day = placed(day, 0.5 * sentence, float(at))
    house = wav(tmp_path / "house.wav", day)
    served = Served(tmp_path, None)  # Whisper alone, which is there again soon
    await asyncio.to_thread(served.start)
    config = configured(served, "web: {enabled: false}")
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        try:
            async with app.daemon(
                config,
                [Room("kitchen", str(house))],
                ModelFiles(yamnet_path, whisper_tiny_en_path),
                mqtt=MqttSettings(url=f"mqtt://127.0.0.1:{port}"),
                speed=2.0,
            ) as daemon:
                llm = daemon._models.llm
                assert llm is not None
                task = asyncio.create_task(daemon.run())

                def spoken() -> list[dict[str, Any]]:
                    events = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
                    return [event for event in events if event["kind"] == "speech"]

                await until(lambda: len(spoken()) >= 2, 60)
                assert llm.status is Status.READY
                assert daemon.health()["remote_failed"] == 0
                before = daemon.health()["remote_requests"]
                assert before >= 4
                await asyncio.to_thread(served.kill)
                known = len(spoken())
                await until(lambda: len(spoken()) >= known + 2, 60)
                figures = daemon.health()
                assert (figures["llm_status"], figures["llm_healthy"]) == ("unwell", False)
                assert figures["llm_away"] >= 1
                assert figures["model_errors"] == 0
                await asyncio.to_thread(served.start)
                await until(lambda: llm.status is Status.READY, 30)
                requests = daemon.health()["remote_requests"]
                await until(lambda: daemon.health()["remote_requests"] > requests, 60)  # a whole utterance later
                known = len(spoken())
                await until(lambda: len(spoken()) >= known + 1, 60)
                assert daemon.health()["llm_healthy"]
                shed = daemon.health()["utterances_dropped"]
                daemon.stop()
                assert await asyncio.wait_for(task, 30) == 0
                events = spoken()
        finally:
            await asyncio.to_thread(client.close)
            served.kill()
    assert all("light" in event["text"].lower() for event in events)
    # None was lost, but for what a machine with far too much to do had no time for: they are eight seconds apart.
    missing = sum(round((later - earlier) / 8) - 1 for earlier, later in pairwise(event["offset"] for event in events))
    assert missing <= shed


async def test_a_daemon_whose_server_is_not_there_hears_all_the_same(
    sentence: Samples, yamnet_path: Path, whisper_tiny_en_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    house = wav(tmp_path / "house.wav", placed(noise(10.0, -65.0), 0.5 * sentence, 3.0))
    config = parse(
        "profile: remote\nprivacy: {transcripts: true}\nspeech: {model: tiny.en, languages: [en]}\n"
        "models: {remote: {url: 'http://127.0.0.1:9/v1'}}\nweb: {enabled: false}",
        Path("config.yaml"),
    )
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        try:
            async with app.daemon(
                config,
                [Room("kitchen", str(house))],
                ModelFiles(yamnet_path, whisper_tiny_en_path),
                mqtt=MqttSettings(url=f"mqtt://127.0.0.1:{port}"),
                speed=1.0,
            ) as daemon:
                assert await asyncio.wait_for(daemon.run(), 60) == 0
        finally:
            await asyncio.to_thread(client.close)
    events = [json.loads(payload) for payload in client.on("kikimimi/kitchen/event")]
    (speech,) = [event for event in events if event["kind"] == "speech"]
    assert speech["model"] == "whisper-tiny.en"


def test_doctor_asks_the_server(served: Served) -> None:
    (check,) = checkup.remote(configured(served))
    assert check.works, check
    assert check.detail == f"{served.url.removesuffix('/v1')}: qwen-audio-chat answers, whisper-tiny.en transcribes"
    (check,) = checkup.remote(parse(f"models: {{remote: {{url: '{served.url}', token: wrong}}}}", Path("c.yaml")))
    assert not check.works
    assert "HTTP 401" in check.detail
    assert checkup.remote(Config()) == ()


def test_a_question_about_a_file_goes_to_the_server(served: Served, sentence: Samples, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    remote = f"{{url: '{served.url}', token: '${{TEST_TOKEN}}', timeout: 60}}"
    config.write_text(f"profile: remote\nmodels: {{remote: {remote}}}")
    file = wav(tmp_path / "a.wav", sentence)
    command = [
        sys.executable,
        "-m",
        "assistant.cli",
        "ask",
        str(file),
        "-c",
        str(config),
        "--task",
        "emotion",
        "--json",
    ]
    environment = {**os.environ, "TEST_TOKEN": TOKEN}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "qwen-audio-chat"
    assert TOKEN not in done.stderr


def test_what_cannot_be_served_is_told(tmp_path: Path, served: Served) -> None:
    def refused(text: str, *options: str) -> str:
        config = tmp_path / "c.yaml"
        config.write_text(text)
        done = kikimimi("serve", "-c", str(config), *options, environment=os.environ)
        assert done.returncode > 0
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "nothing to serve" in refused("profile: remote")
    assert "serve.token_file" in refused("", "--host", "0.0.0.0")  # noqa: S104
    assert "cannot be opened" in refused("speech: {model: tiny.en}", "--port", str(served.port))
    assert "the profile hybrid lacks" in refused("profile: hybrid\nmodels: {audio_llm: {checkpoint: /nowhere}}")
    with pytest.raises(AssistantError):
        parse("serve: {token: short}", Path("c.yaml"))


@pytest.mark.parametrize(("cores", "threads", "count"), [(1, 1, 1), (2, 1, 2), (8, 3, 2), (1, 4, 1), (64, 1, 16)])
async def test_as_many_recognisers_as_cores(
    cores: int, threads: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def load(_config: Config, _files: object, *, recognisers: int) -> None:
        asked.append(recognisers)
        raise ModelError("enough")

    monkeypatch.setattr(startup, "fetch_models", lambda _config: None)
    monkeypatch.setattr(startup, "load_models", load)
    with pytest.raises(ModelError, match="enough"):
        async with serving.loaded(parse(f"speech: {{threads: {threads}}}", Path("config.yaml")), cores):
            pass
    assert asked == [count]
