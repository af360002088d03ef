"""Chats answered by the real models: the tiny Qwen-Audio in its thread, Whisper and YAMNet for what they can do."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_app import until
from test_app_commands import spoken
from tiny_qwen_audio import at_rest
from ulid import ULID

from assistant import chatting, startup
from assistant.chats import Ended
from assistant.chatting import Chatting, Lent, conversation
from assistant.clip_folder import SOUND, ClipFolder, name_of
from assistant.config import Config, parse
from assistant.errors import AssistantError, SourceError
from assistant.events import SAMPLE_RATE, Samples
from assistant.models import tasks
from assistant.models.audio_llm import AudioLLM, AudioLLMSettings
from assistant.pipeline import Models
from assistant.resident import Resident
from assistant.startup import ModelFiles, hearing_settings, load_models
from assistant.synthesis import noise, placed, t3
from assistant.voices.espeak import Espeak
from assistant.web.ask import Question, TurnState


def packed(samples: Samples) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="WAV")
    return content.getvalue()


@dataclass
class Room:
    """A microphone that hears as time goes by."""

    began: float = field(default_factory=time.monotonic)
    dead: bool = False

    @property
    def position(self) -> int:
        return 0 if self.dead else round((time.monotonic() - self.began) * SAMPLE_RATE)

    def audio(self, start: int, end: int) -> Samples:
        return np.zeros(max(0, min(end, self.position) - max(0, start)), np.float32)


def house(models: Models, **options: Any) -> Lent:
    return Lent(
        **{
            "models": models,
            "hearing": lambda: hearing_settings(Config()),
            "rooms": lambda: {"kitchen": "Kitchen", "attic": "Attic"},
            "stream": lambda room: None,
            "say": Espeak().synthesise,
            "voice": True,
            "clip": None,
            **options,
        }
    )


@pytest.fixture(scope="module")
def tiny(qwen_audio_checkpoint: Path) -> AudioLLM:
    from assistant.models.qwen_audio.llm import QwenAudio  # noqa: PLC0415

    return QwenAudio(qwen_audio_checkpoint, AudioLLMSettings(device="cpu", dtype="float32"))


@pytest.fixture
async def small(yamnet_path: Path, whisper_base_path: Path) -> AsyncIterator[Models]:
    models = await load_models(Config(), ModelFiles(yamnet_path, whisper_base_path))
    yield models
    models.shutdown()


@pytest.fixture
async def large(yamnet_path: Path, tiny: AudioLLM) -> AsyncIterator[Models]:
    models = await load_models(Config(), ModelFiles(yamnet_path, None))
    made = replace(models, llm=Resident(lambda: tiny))
    yield made
    made.shutdown()
    await asyncio.to_thread(at_rest)


async def told(chats: Chatting, chat: str, **question: Any) -> tuple[list[str], TurnState]:
    """The pieces of an answer, and the turn at its end."""
    first, *pieces, last = [step async for step in chats.ask(chat, Question(**question))]
    assert isinstance(first, TurnState)
    assert first.ended is None
    assert isinstance(last, TurnState)
    assert all(isinstance(piece, str) for piece in pieces)
    return [str(piece) for piece in pieces], last


async def test_an_answer_streams_and_the_next_question_knows_it(large: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ANSWER_TOKENS", 12)
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    clips = [(await chats.add_recording(chat, packed(noise(1.0, -30.0)), n, "upload")).id for n in ("a.wav", "b.wav")]
    pieces, turn = await told(chats, chat, text="What is it?", clips=clips)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == turn.text
    assert (turn.ended, turn.model, turn.clips) == ("length", "qwen-audio-chat", clips)
    _, described = await told(chats, chat, task="caption", clips=clips[:1])
    assert described.ended == "end"
    _, again = await told(chats, chat, text="And now?")
    assert again.ended == "length"
    kept = chats.chat(chat)
    assert kept is not None
    assert [one.task for one in kept.turns] == ["ask", "caption", "ask"]
    assert kept.title == "What is it?"
    stored = chats._store.get(chat)
    messages = conversation(stored, stored.turns[2], [])
    assert [message.role for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert [sum(not isinstance(part, str) for part in message.content) for message in messages] == [2, 0, 1, 0, 0]
    assert messages[2].content[-1] == "Please describe what can be heard in a sentence."
    assert messages[-1].content == ("And now?",)
    chats.remove(chat, clips[0])
    assert len(conversation(stored, stored.turns[2], [])[0].content) == 2


async def test_stop_frees_the_model_and_what_was_said_stays(large: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ANSWER_TOKENS", 100_000)
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    steps = chats.ask(chat, Question(text="Go on for ever."))
    assert isinstance(await anext(steps), TurnState)
    assert isinstance(await anext(steps), str)
    with pytest.raises(AssistantError, match="the answer before it"):
        chats.ask(chat, Question(text="And?"))
    chats.stop(chat)
    *_, last = [step async for step in steps]
    assert isinstance(last, TurnState)
    assert last.ended == "stopped"
    assert last.text
    assert large.llm is not None
    await until(lambda: large.llm.busy_since is None)
    assert large.llm.figures()["cancelled"] == 1
    assert chats.health()["answering"] == 0


async def test_who_closes_the_connection_stops_the_answer(large: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ANSWER_TOKENS", 100_000)
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    steps = chats.ask(chat, Question(text="Go on for ever."))
    await anext(steps)
    await anext(steps)
    await steps.aclose()
    assert large.llm is not None
    await until(lambda: chats.health()["answering"] == 0 and large.llm.busy_since is None)
    kept = chats.chat(chat)
    assert kept is not None
    assert kept.turns[0].ended == "stopped"
    chats.end(chat)
    assert chats.chat(chat) is None


async def test_a_chat_that_is_deleted_ends_its_answer(large: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ANSWER_TOKENS", 100_000)
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    steps = chats.ask(chat, Question(text="Go on for ever."))
    await anext(steps)
    chats.end(chat)
    *_, last = [step async for step in steps]
    assert isinstance(last, TurnState)
    assert last.ended == "stopped"


async def test_there_is_a_deadline_and_a_failure_is_told(large: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ANSWER_TOKENS", 100_000)
    monkeypatch.setattr(chatting, "ANSWER_WITHIN", 0.3)
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    _, turn = await told(chats, chat, text="Go on for ever.")
    assert turn.ended == "failed"
    assert turn.problem is not None
    assert "within 0 s" in turn.problem or "in time" in turn.problem
    assert large.llm is not None
    large.llm.shutdown()
    _, turn = await told(chats, chat, text="And now?")
    assert turn.problem == "the audio language model is not there: it is shutting down"
    clip = (await chats.add_recording(chat, packed(noise(1.0, -30.0)), "", "microphone")).id
    _, turn = await told(chats, chat, task="translate", to="tlh", clips=[clip])
    assert turn.ended == "failed"


async def test_whisper_writes_down_finds_words_and_translates(small: Models) -> None:
    chats = Chatting(house(small))
    chat = chats.begin("chat").id
    said = placed(noise(9.0, -65.0), await spoken("Please turn on the kitchen light."), 1.0)
    said = placed(said, await spoken("The light is on."), 6.0)
    clip = (await chats.add_recording(chat, packed(said), "", "microphone")).id
    pieces, turn = await told(chats, chat, task="transcribe", language="en", clips=[clip])
    assert (turn.ended, turn.model) == ("end", "whisper-base")
    assert "kitchen light" in turn.text
    assert len(pieces) >= 2  # sentence by sentence
    assert "".join(pieces) == turn.text
    assert turn.data is not None
    (heard,) = turn.data["clips"]
    assert " ".join(word["word"] for word in heard["words"]) == turn.text
    _, turn = await told(chats, chat, task="find", text="Light", clips=[clip])
    assert turn.data is not None
    spans = turn.data["clips"][0]["spans"]
    assert len(spans) == 2
    assert 1.5 < spans[0]["start"] < spans[0]["end"] < 4.5
    assert 6.0 < spans[1]["start"] < spans[1]["end"] < 8.5
    _, turn = await told(chats, chat, task="find", text="elephant", clips=[clip])
    assert turn.text == "not found"
    _, turn = await told(chats, chat, task="translate", to="en", language="en", clips=[clip])
    assert turn.data is not None
    assert turn.data["clips"][0]["language"] == "en"
    assert "light" in turn.text
    _, turn = await told(chats, chat, task="translate", to="ja", clips=[clip])
    assert turn.problem is not None
    assert "into English alone, not into ja" in turn.problem
    silence = (await chats.add_recording(chat, packed(noise(2.0, -65.0)), "", "upload")).id
    _, turn = await told(chats, chat, task="transcribe", clips=[silence])
    assert (turn.ended, turn.text) == ("end", "no speech")


async def test_yamnet_names_sounds_and_when(small: Models) -> None:
    chats = Chatting(house(small))
    chat = chats.begin("chat").id
    alarm = placed(noise(12.0, -60.0), 0.2 * t3(cycles=1), 5.0)
    clip = (await chats.add_recording(chat, packed(alarm), "alarm.wav", "upload")).id
    _, turn = await told(chats, chat, task="tag", clips=[clip])
    assert turn.model == "yamnet"
    assert turn.data is not None
    sounds = {one["label"]: one for one in turn.data["clips"][0]["sounds"]}
    beep = next(one for label, one in sounds.items() if "larm" in label or "eep" in label)
    assert 4.0 <= beep["spans"][0][0] <= 6.0
    assert beep["spans"][-1][1] <= 10.0


async def test_the_profile_embedded_says_what_the_rest_needs(small: Models) -> None:
    chats = Chatting(house(small))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chatting, "LOAD_WITHIN", 0.0)
        with pytest.raises(AssistantError, match="still loading"):
            await chats.abilities()
    assert await small.recogniser() is not None
    able = await chats.abilities()
    assert {task.name for task in able.tasks if task.able} == {"transcribe", "words", "find", "translate", "tag"}
    assert {task.lacks for task in able.tasks} == {None, "audio_llm"}
    assert (able.model, able.status, able.into) == (None, "none", ["en"])
    assert {"en", "ja"} <= set(able.spoken)
    chat = chats.begin("chat").id
    with pytest.raises(AssistantError, match="remedy: profile: hybrid, qwen or remote"):
        chats.ask(chat, Question(text="What is it?"))


async def test_without_speech_recognition_that_is_told(yamnet_path: Path) -> None:
    models = await load_models(Config(), ModelFiles(yamnet_path, None))
    try:
        chats = Chatting(house(models))
        able = {task.name: task.lacks for task in (await chats.abilities()).tasks}
        assert (able["transcribe"], able["tag"]) == ("speech", None)
        chat = chats.begin("chat").id
        clip = (await chats.add_recording(chat, packed(noise(1.0, -30.0)), "", "upload")).id
        _, turn = await told(chats, chat, task="transcribe", clips=[clip])
        assert turn.problem == "speech recognition is off or could not be loaded; remedy: kikimimi doctor"
    finally:
        models.shutdown()


async def test_with_a_server_that_only_transcribes_whisper_here_answers(
    yamnet_path: Path, whisper_base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = head.partition("content-length: ")[2].partition("\r\n")[0]
        await reader.readexactly(int(length or 0))
        listed = {"data": [{"id": "w", "tasks": ["transcription"]}]}
        body = json.dumps(listed if head.startswith("get ") else {"text": ""}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    monkeypatch.setattr(startup, "_recogniser_files", lambda _config: whisper_base_path)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = parse(f"profile: remote\nmodels: {{remote: {{url: 'http://127.0.0.1:{port}'}}}}", Path("c.yaml"))
        models = await load_models(config, ModelFiles(yamnet_path, whisper_base_path))
        try:
            assert models.llm is not None
            assert await models.llm.ready(), models.llm.reason
            chats = Chatting(house(models))
            able = await chats.abilities()
            assert {task.name for task in able.tasks if task.able} == {
                "transcribe",
                "words",
                "find",
                "translate",
                "tag",
            }
            assert able.model is None
            chat = chats.begin("chat").id
            clip = (await chats.add_recording(chat, packed(noise(1.0, -30.0)), "", "upload")).id
            _, turn = await told(chats, chat, task="words", clips=[clip])
            assert (turn.ended, turn.model) == (Ended.END, "whisper-base")
            with pytest.raises(AssistantError, match="needs an audio language model"):
                chats.ask(chat, Question(text="What is it?"))
        finally:
            models.shutdown()


async def test_with_a_language_model_everything_can_be_asked(large: Models) -> None:
    able = await Chatting(house(large)).abilities()
    assert all(task.able for task in able.tasks)
    assert "ja" in able.into


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"task": "dance"}, "task: there is no task dance; there are ask, "),
        ({"task": "translate"}, "to: the task translate needs it"),
        ({"task": "ask", "text": " "}, "text: the task ask needs it"),
        ({"task": "emotion", "to": "en"}, "to: means nothing to the task emotion"),
        ({"task": "tag", "text": "x"}, "text: means nothing to the task tag"),
        ({"task": "caption"}, "clips: the task caption needs a recording"),
        ({"text": "x", "clips": ["nowhere"]}, "clips: one of them is not in this chat"),
    ],
)
async def test_what_cannot_be_asked_is_told_before_anything_is_kept(
    large: Models, asked: dict[str, Any], problem: str
) -> None:
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    with pytest.raises(AssistantError, match=problem):
        chats.ask(chat, Question(**asked))
    kept = chats.chat(chat)
    assert kept is not None
    assert not kept.turns


async def test_recordings_come_from_rooms(large: Models) -> None:
    room = Room(began=time.monotonic() - 60.0)
    chats = Chatting(house(large, stream=lambda name: room if name == "kitchen" else None))
    chat = chats.begin("chat").id
    clip = await chats.add_room(chat, "kitchen", 5.0, upcoming=False)
    assert (clip.seconds, clip.name, clip.origin) == (5.0, "Kitchen", "room")
    began = time.monotonic()
    clip = await chats.add_room(chat, "kitchen", 1.0, upcoming=True)
    assert time.monotonic() - began >= 0.9
    assert clip.seconds == pytest.approx(1.0, abs=0.01)
    recording = asyncio.create_task(chats.add_room(chat, "kitchen", 30.0, upcoming=True))
    await asyncio.sleep(0.6)
    with pytest.raises(AssistantError, match="already; remedy: wait, or stop it"):
        await chats.add_room(chat, "kitchen", 30.0, upcoming=True)
    chats.stop(chat)
    assert (await asyncio.wait_for(recording, 2.0)).seconds < 5.0
    with pytest.raises(AssistantError, match="attic: is not heard just now"):
        await chats.add_room(chat, "attic", 5.0, upcoming=True)
    with pytest.raises(AssistantError, match="there is no room cellar; there is kitchen, attic"):
        await chats.add_room(chat, "cellar", 5.0, upcoming=False)


async def test_a_room_that_falls_silent_does_not_keep_anybody_waiting(
    large: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatting, "GRACE", 0.2)
    dead = Room(dead=True)
    chats = Chatting(house(large, stream=lambda _room: dead))
    chat = chats.begin("chat").id
    with pytest.raises(AssistantError, match="nothing has been heard there yet"):
        await asyncio.wait_for(chats.add_room(chat, "kitchen", 1.0, upcoming=True), 3.0)


async def test_the_clip_of_an_event_is_taken(large: Models, tmp_path: Path) -> None:
    folder = ClipFolder(tmp_path / "clips", days=30, megabytes=100, at_least=0, free=0)
    folder.open()
    identity = str(ULID())
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", SAMPLE_RATE, 1, format="FLAC", subtype="PCM_16") as file:
        file.title = "dog_bark in kitchen"
        file.write(noise(3.0, -30.0))
    folder.write(name_of(f"{datetime.now(UTC):%Y-%m-%d}", identity), content.getvalue())
    chats = Chatting(house(large, clip=partial(folder.read, suffix=SOUND)))
    chat = chats.begin("chat").id
    clip = await chats.add_event(chat, identity)
    assert (clip.seconds, clip.name, clip.origin) == (3.0, "dog bark in kitchen", "event")
    with pytest.raises(AssistantError, match="no clip of this event was kept"):
        await chats.add_event(chat, str(ULID()))


async def test_what_is_no_audio_and_a_chat_that_goes_meanwhile_are_told(large: Models) -> None:
    chats = Chatting(house(large))
    chat = chats.begin("chat").id
    with pytest.raises(SourceError, match=r"^letter\.txt: neither"):
        await chats.add_recording(chat, b"dear sir", "letter.txt", "upload")
    adding = asyncio.create_task(chats.add_recording(chat, packed(noise(1.0, -30.0)), "", "upload"))
    await asyncio.sleep(0)
    chats.end(chat)
    with pytest.raises(AssistantError, match="deleted meanwhile"):
        await adding


async def test_a_recording_and_a_voice_can_be_heard(large: Models) -> None:
    chats = Chatting(house(large))
    chat = chats.begin("practice").id
    clip = await chats.add_recording(chat, packed(0.5 * noise(1.0, -20.0)), "", "microphone")
    samples, rate = soundfile.read(io.BytesIO(chats.audio(chat, clip.id)), dtype="float32")
    assert (len(samples), rate) == (SAMPLE_RATE, SAMPLE_RATE)
    samples, rate = soundfile.read(io.BytesIO(await chats.say("Guten Morgen", "de")), dtype="float32")
    assert rate == SAMPLE_RATE
    assert len(samples) > SAMPLE_RATE / 2
    assert np.abs(samples).max() > 0.05
