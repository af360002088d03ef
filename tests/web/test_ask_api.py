"""Chats over HTTP, as programs use them: a whole daemon with the real Whisper and YAMNet, or with a tiny Qwen-Audio."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import soundfile
from houses import House
from test_app_commands import spoken
from ulid import ULID

from assistant.events import SAMPLE_RATE, Samples
from assistant.synthesis import noise, placed

Make = Callable[..., House]
SENTENCE = "Please turn on the kitchen light."
pytestmark = pytest.mark.timeout(300)  # each starts a daemon, some load two models


def wav(samples: Samples) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format="WAV")
    return content.getvalue()


def sentence() -> Samples:
    return placed(noise(5.0, -65.0), asyncio.run(spoken(SENTENCE)), 1.0)


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    """Two minutes of a room where nothing happens but one sentence."""
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, placed(noise(120.0, -60.0), sentence(), 0.5), SAMPLE_RATE, subtype="PCM_16")
    return path


def send(here: House, chat: str, content: bytes, **query: str) -> tuple[int, Any]:
    answer = httpx.post(
        f"{here.url}api/ask/chats/{chat}/clips",
        params=query,
        content=content,
        headers={"content-type": "application/octet-stream"},
        timeout=30,
    )
    return answer.status_code, answer.json()


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def asked(here: House, chat: str, **question: Any) -> list[tuple[str, Any]]:
    """All events of an answer."""
    with httpx.stream("POST", f"{here.url}api/ask/chats/{chat}/ask", json=question, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer.iter_lines()))


def test_a_recording_is_written_down_searched_and_tagged(house: Make, quiet: Path, whisper_base_path: Path) -> None:
    here = house(speech=True, settings="say: {enabled: true}\n").start("--source", f"kitchen={quiet}")
    status, chat = here.call("POST", "ask/chats", {})
    assert (status, chat["kind"], chat["turns"]) == (201, "chat", [])
    status, clip = send(here, chat["id"], wav(sentence()), name="note to self.wav")
    assert status == 201
    assert (clip["name"], clip["seconds"], clip["origin"]) == ("note to self.wav", 5.0, "upload")
    first, *pieces, last = asked(here, chat["id"], task="transcribe", language="en", clips=[clip["id"]])
    assert first[0] == "turn"
    assert {name for name, _ in pieces} == {"piece"}
    assert last[0] == "done"
    assert "kitchen light" in last[1]["text"]
    *_, (_, found) = asked(here, chat["id"], task="find", text="kitchen", clips=[clip["id"]])
    (span,) = found["data"]["clips"][0]["spans"]
    assert 1.5 < span["start"] < span["end"] < 4.0
    *_, (_, tagged) = asked(here, chat["id"], task="tag", clips=[clip["id"]])
    assert "Speech" in [one["label"] for one in tagged["data"]["clips"][0]["sounds"]]
    status, kept = here.call("GET", f"ask/chats/{chat['id']}")
    assert [turn["task"] for turn in kept["turns"]] == ["transcribe", "find", "tag"]
    assert kept["title"] == "note to self.wav"
    (listed,) = here.call("GET", "ask/chats")[1]
    assert (listed["turns"], listed["clips"]) == (3, 1)
    with urllib.request.urlopen(f"{here.url}api/ask/chats/{chat['id']}/clips/{clip['id']}/audio") as answer:
        assert answer.headers["content-type"] == "audio/wav"
        samples, rate = soundfile.read(io.BytesIO(answer.read()))
        assert (len(samples), rate) == (5 * SAMPLE_RATE, SAMPLE_RATE)
    said = httpx.post(f"{here.url}api/ask/say", json={"text": "Hello", "language": "en"}, timeout=20)
    assert (said.status_code, said.content[:4]) == (200, b"RIFF")
    figures = httpx.get(f"{here.url}metrics", timeout=20).text
    assert "ask_chats 1" in figures
    assert here.call("DELETE", f"ask/chats/{chat['id']}/clips/{clip['id']}")[0] == 204
    assert here.call("DELETE", f"ask/chats/{chat['id']}")[0] == 204
    assert here.call("GET", f"ask/chats/{chat['id']}")[0] == 404
    words = here.log.read_text()
    assert "kitchen light" not in words
    assert not list((here.folder / "state").rglob("*.wav"))


def test_what_is_wrong_is_told_and_the_daemon_stays_up(house: Make, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}")
    chat = here.call("POST", "ask/chats", {"kind": "practice"})[1]["id"]
    status, told = send(here, chat, b"dear sir or madam", name="letter.doc")
    assert status == 409
    assert told["detail"].startswith("letter.doc: neither libsndfile nor FFmpeg reads it")
    assert send(here, chat, b"")[0] == 409
    assert send(here, chat, b"x" * 33_000_000)[0] == 413
    assert send(here, "nowhere", wav(noise(1.0, -30.0)))[0] == 404
    status, told = here.call("POST", f"ask/chats/{chat}/ask", {"text": "What is it?"})
    assert status == 409
    assert "profile: hybrid, qwen or remote (kikimimi doctor" in told["detail"]
    assert here.call("POST", f"ask/chats/{chat}/ask", {"task": "tag"})[0] == 409
    assert here.call("POST", f"ask/chats/{chat}/ask", {"task": "tag", "clips": ["x"] * 9})[0] == 422
    status, told = here.call("POST", f"ask/chats/{chat}/clips/event", {"event": str(ULID())})
    assert status == 409
    assert "no clip of this event" in told["detail"]
    assert here.call("POST", f"ask/chats/{chat}/clips/event", {"event": "../../etc/passwd"})[0] == 422
    status, told = here.call("POST", f"ask/chats/{chat}/clips/room", {"room": "attic", "seconds": 5})
    assert (status, told["detail"]) == (409, "room: there is no room attic; there is kitchen")
    assert here.call("POST", f"ask/chats/{chat}/clips/room", {"room": "kitchen", "seconds": 31})[0] == 422
    assert here.call("POST", "ask/say", {"text": "hello"})[0] == 409
    assert here.call("DELETE", f"ask/chats/{chat}/clips/nothing")[0] == 404
    assert here.call("POST", f"ask/chats/{chat}/stop")[0] == 204
    abilities = here.call("GET", "ask")[1]
    assert {one["name"]: one["lacks"] for one in abilities["tasks"]}["transcribe"] == "speech"
    for _ in range(19):
        assert here.call("POST", "ask/chats", {})[0] == 201
    status, told = here.call("POST", "ask/chats", {})
    assert status == 409
    assert "remedy: delete one" in told["detail"]


def test_a_room_is_recorded_until_somebody_stops_it(house: Make, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}")
    chat = here.call("POST", "ask/chats", {})[1]["id"]
    path = f"ask/chats/{chat}/clips/room"
    deadline = time.monotonic() + 20
    while (answer := here.call("POST", path, {"room": "kitchen", "seconds": 2}))[0] != 201:
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    status, clip = here.call("POST", path, {"room": "kitchen", "seconds": 2, "upcoming": True})
    assert (status, clip["name"], clip["origin"]) == (201, "kitchen", "room")
    assert clip["seconds"] == pytest.approx(2.0, abs=0.1)
    found: list[Any] = []
    waiting = threading.Thread(
        target=lambda: found.append(here.call("POST", path, {"room": "kitchen", "seconds": 30, "upcoming": True}))
    )
    waiting.start()
    time.sleep(1.0)
    assert here.call("POST", f"ask/chats/{chat}/stop")[0] == 204
    waiting.join(5)
    ((status, clip),) = found
    assert status == 201
    assert 0.3 < clip["seconds"] < 5.0


@pytest.mark.slow
def test_an_answer_of_a_language_model_streams_and_stops(house: Make, quiet: Path, qwen_audio_checkpoint: Path) -> None:
    llm = f"{{checkpoint: {qwen_audio_checkpoint}, device: cpu, dtype: float32}}"
    settings = f"profile: hybrid\nmodels: {{audio_llm: {llm}}}\n"
    here = house(settings=settings).start("--source", f"kitchen={quiet}")
    deadline = time.monotonic() + 60
    while here.call("GET", "ask")[1]["status"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    able = here.call("GET", "ask")[1]
    assert all(task["able"] for task in able["tasks"])
    chat = here.call("POST", "ask/chats", {})[1]["id"]
    clips = [send(here, chat, wav(noise(2.0, -30.0)), name=f"{n}.wav")[1]["id"] for n in range(2)]

    def turns() -> list[Any]:
        return here.call("GET", f"ask/chats/{chat}")[1]["turns"]

    question = {"text": "What do you hear?", "clips": clips}
    with httpx.stream("POST", f"{here.url}api/ask/chats/{chat}/ask", json=question, timeout=60) as answer:
        told = events(answer.iter_lines())
        name, turn = next(told)
        assert (name, turn["ended"], turn["clips"]) == ("turn", None, clips)
        pieces = [next(told)[1]["text"] for _ in range(3)]
        assert here.call("POST", f"ask/chats/{chat}/ask", {"text": "And?"})[0] == 409
        assert here.call("POST", f"ask/chats/{chat}/stop")[0] == 204
        *more, (name, last) = told
    assert (name, last["ended"]) == ("done", "stopped")
    assert "".join([*pieces, *(piece["text"] for _, piece in more)]) == last["text"]
    connection = HTTPConnection("127.0.0.1", here.port, timeout=20)
    body = json.dumps({"text": "Go on."})
    connection.request("POST", f"/api/ask/chats/{chat}/ask", body, {"content-type": "application/json"})
    connection.getresponse().read(10)
    connection.close()  # whoever closes the page wants no answer
    deadline = time.monotonic() + 10
    while turns()[-1]["ended"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [turn["ended"] for turn in turns()] == ["stopped", "stopped"]
