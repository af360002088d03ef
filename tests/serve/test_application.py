"""The API over HTTP with an engine that does as it is told: who may ask, how much, and what becomes of who goes."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import numpy as np
import pytest
from openai.types.audio import TranscriptionSegment
from pydantic import SecretStr

from assistant import request_body
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Samples, Word
from assistant.models.audio_llm import Answer, Prompt, Stop
from assistant.models.openai_api import wav
from assistant.serve import guard
from assistant.serve.application import build
from assistant.serve.engine import ApiError, Heard, Segment, Served, Tagged
from assistant.serve.settings import ServeSettings
from assistant.web.application import Server

TOKEN = "geheim-geheim-4711"
SECOND = wav(np.zeros(SAMPLE_RATE, np.float32))
CHAT = "/v1/chat/completions"
TRANSCRIBE = "/v1/audio/transcriptions"


class Scripted:
    """An engine whose answers are the last text it is asked, letter by letter if it is streamed."""

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, int, Sequence[str] | None]] = []
        self.heard: list[tuple[Samples, dict[str, Any]]] = []
        self.error: ApiError | None = None
        self.hold: asyncio.Event | None = None
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.ill: str | None = None

    def served(self) -> Sequence[Served]:
        return Served("w", ("transcription",)), Served("q", ("chat", "transcription")), Served("y", ("tags",))

    def trouble(self) -> str | None:
        return self.ill

    async def _wait(self) -> None:
        self.began.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error

    async def chat(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        choices: Sequence[str] | None,
        stream: Callable[[str], None] | None,
    ) -> Answer:
        self.asked.append((prompt, max_new_tokens, choices))
        text = choices[-1] if choices else str(prompt.messages[-1].content[-1])
        if stream is not None and self.error is None:
            for letter in text:
                stream(letter)
        await self._wait()
        return Answer(text, len(text), Stop.LENGTH if len(text) > max_new_tokens else Stop.END)

    async def transcribe(self, samples: Samples, **options: Any) -> Heard:
        self.heard.append((samples, options))
        await self._wait()
        words = (Word("hello", 0.1, 0.4),) if options["timed"] else None
        return Heard("hello", "en", (Segment(0.0, 1.0, "hello", -0.1),), words)

    async def tag(self, samples: Samples, *, top: int, threshold: float) -> Sequence[Tagged]:
        self.heard.append((samples, {"top": top, "threshold": threshold}))
        await self._wait()
        return [Tagged(0.0, 0.975, (("Speech", 0.5),)), Tagged(0.4875, 1.0, (("Speech", 0.9), ("Dog", 0.2)))]


@pytest.fixture
async def engine() -> Scripted:
    return Scripted()


@asynccontextmanager
async def api(engine: Scripted, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    served = build(engine, ServeSettings(**settings), "0.0")
    server = Server(served, connections=64, head_within=5.0, stop=1)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        listens = asyncio.Event()
        task = asyncio.create_task(server.serve_on(sock, listens.set))
        await listens.wait()
        base = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False, timeout=10.0) as client:
            yield client
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def said(*parts: str | bytes, **options: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            data = base64.b64encode(part).decode()
            content.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    return {"model": "q", "messages": [{"role": "user", "content": content}], **options}


def problem(answer: httpx2.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return answer.status_code, error["code"]


async def test_a_conversation(engine: Scripted):
    body = said(SECOND, "What?", SECOND, "And?", max_tokens=3)
    body["messages"] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        *body["messages"],
    ]
    async with api(engine) as client:
        answer = (await client.post(CHAT, json=body)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "And?", "refusal": None}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4
    ((prompt, most, choices),) = engine.asked
    assert (most, choices) == (3, None)
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
    clip, question, second, _ = prompt.messages[-1].content
    assert question == "What?"
    assert isinstance(clip, np.ndarray)
    assert len(clip) == SAMPLE_RATE
    assert isinstance(second, np.ndarray)


async def test_a_streamed_answer(engine: Scripted):
    body = said("Hëy", stream=True, stream_options={"include_usage": True})
    async with api(engine) as client:
        answer = await client.post(CHAT, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    told = [json.loads(event) for event in events]
    assert [c["delta"].get("content") for e in told for c in e["choices"]] == ["", "H", "ë", "y", None]
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert told[-1]["usage"]["completion_tokens"] == 3
    assert all(event["usage"] is None for event in told[:-1])


async def test_choices_of_a_schema(engine: Scripted):
    schema = {"type": "object", "properties": {"mood": {"type": "string", "enum": ["calm", "wild"]}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with api(engine) as client:
        for streamed in (False, True):
            answer = await client.post(CHAT, json=said("?", response_format=form, stream=streamed))
            assert '"{\\"mood\\": \\"wild\\"}"' in answer.text
        refused = await client.post(CHAT, json=said("?", response_format={"type": "json_object"}))
        assert problem(refused) == (400, "unsupported_parameter")
    assert engine.asked[0][2] == ["calm", "wild"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"model": "w"}, "model_not_able"),
        ({"model": "nope"}, "model_not_found"),
        ({"n": 2}, "unsupported_parameter"),
        ({"tools": [{}]}, "unsupported_parameter"),
        ({"messages": []}, "invalid_request"),
        ({"messages": "x"}, "invalid_request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "invalid_request"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "invalid_request"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, "invalid_request"),
        ({"max_tokens": 0}, "invalid_request"),
        (said(b"no audio"), "invalid_audio"),
        (said(b""), "invalid_audio"),
        (said(wav(np.zeros(6 * SAMPLE_RATE, np.float32)), SECOND), "invalid_audio"),
    ],
)
async def test_what_cannot_be_done_is_told(engine: Scripted, changed: dict[str, Any], code: str):
    async with api(engine, longest=6.0) as client:
        answer = await client.post(CHAT, json={**said("geheim"), **changed})
    assert problem(answer) == (404 if code == "model_not_found" else 400, code)
    assert "xxxx" not in answer.text
    assert not engine.asked


@pytest.mark.parametrize("body", [b'{"model": "q", "messages": [', b"[]", b"", b"null", b"\xff\xfe"])
async def test_a_body_that_is_no_conversation_is_told(engine: Scripted, body: bytes):
    async with api(engine) as client:
        answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert problem(answer) == (400, "invalid_request")
    assert answer.json()["error"]["param"] is None
    assert answer.json()["error"]["message"].startswith("body: ")


async def test_texts_that_cannot_be_said_are_told(engine: Scripted):
    """JSON can hold half a surrogate pair, which nothing else can."""
    half = json.loads('"\\ud800"')

    def choosing(name: object, *values: object) -> bytes:
        schema = {"type": "object", "properties": {name: {"enum": values}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        return json.dumps(said("x", response_format=wanted)).encode()

    headers = {"content-type": "application/json"}
    async with api(engine) as client:
        for content in (choosing("a", half), choosing(half, "yes"), choosing("a", "y" * 40_000)):
            answer = await client.post(CHAT, content=content, headers=headers)
            assert problem(answer) == (400, "unsupported_parameter")
        content = json.dumps(said(half)).encode()
        assert problem(await client.post(CHAT, content=content, headers=headers)) == (400, "invalid_request")
    assert not engine.asked


async def test_a_bug_is_told_as_any_error(engine: Scripted, caplog: pytest.LogCaptureFixture):
    engine.error = ZeroDivisionError("a bug")  # type: ignore[assignment]
    async with api(engine) as client:
        assert problem(await client.post(CHAT, json=said("x"))) == (500, "internal_error")
        engine.error = None
        assert (await client.post(CHAT, json=said("x"))).status_code == 200
    assert "ZeroDivisionError" in caplog.text


async def test_transcriptions_in_three_forms(engine: Scripted):
    async with api(engine) as client:

        async def asked(**fields: str) -> httpx2.Response:
            files = {"file": ("a.wav", SECOND, "audio/wav")}
            return await client.post(TRANSCRIBE, data={"model": "w", **fields}, files=files)

        assert (await asked()).json() == {"text": "hello"}
        assert (await asked(response_format="text")).text == "hello\n"
        fields = {"language": "en", "prompt": "Kikimimi, 台所、 lamp", "timestamp_granularities[]": "word"}
        verbose = (await asked(response_format="verbose_json", **fields)).json()
        assert problem(await asked(response_format="srt")) == (400, "unsupported_parameter")
        assert problem(await asked(stream="true")) == (400, "unsupported_parameter")
        assert problem(await asked(language="english!")) == (400, "invalid_parameter")
        assert problem(await client.post(TRANSCRIBE, data={"model": "w"}, files={"x": b"y"})) == (
            400,
            "missing_parameter",
        )
        assert problem(await client.post(TRANSCRIBE, json={"model": "w"})) == (400, "invalid_request")
        broken = await client.post(
            TRANSCRIBE, content=b"nonsense", headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert problem(broken)[0] == 400
    assert (verbose["language"], verbose["duration"], verbose["text"]) == ("en", 1.0, "hello")
    segment = verbose["segments"][0]
    assert segment["avg_logprob"] == -0.1
    assert set(segment) == set(TranscriptionSegment.model_fields)  # all that typed clients insist on
    TranscriptionSegment.model_validate(segment, strict=True)
    assert verbose["words"] == [{"word": "hello", "start": 0.1, "end": 0.4}]
    samples, options = engine.heard[-1]
    assert len(samples) == SAMPLE_RATE
    assert options == {"model": "w", "language": "en", "words": ["Kikimimi", "台所", "lamp"], "timed": True}


async def test_tags_over_time(engine: Scripted):
    async with api(engine) as client:
        files = {"file": ("a.wav", SECOND)}
        answer = (await client.post("/v1/audio/tags", data={"top": "2"}, files=files)).json()
        refused = await client.post("/v1/audio/tags", data={"top": "many"}, files=files)
        assert problem(refused) == (400, "invalid_request")
        assert refused.json()["error"]["param"] == "top"
    assert answer["labels"] == [{"label": "Speech", "score": 0.9}, {"label": "Dog", "score": 0.2}]
    assert [window["start"] for window in answer["windows"]] == [0.0, 0.4875]
    assert engine.heard[0][1] == {"top": 2, "threshold": 0.1}


async def test_the_models_and_health(engine: Scripted):
    async with api(engine, token=SecretStr(TOKEN)) as client:
        assert (await client.get("/health")).status_code == 200  # for a balancer, which has no token
        engine.ill = "the model is unwell"
        assert (await client.get("/health")).status_code == 503
        client.headers["authorization"] = f"Bearer {TOKEN}"
        listed = (await client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["tasks"]) for model in listed][2] == ("y", ["tags"])
        assert (await client.get("/v1/models/w")).json()["owned_by"] == "kikimimi"
        assert problem(await client.get("/v1/models/x")) == (404, "model_not_found")
        assert problem(await client.get("/v1/nothing"))[0] == 404
        assert problem(await client.get(CHAT))[0] == 405
        assert (await client.get("/v1/openapi.json")).json()["paths"].keys() >= {CHAT, TRANSCRIBE, "/v1/audio/tags"}


# ----------------------------------------------------------------------------------------------------- who may ask


async def test_a_token_is_asked_for(engine: Scripted):
    async with api(engine, token=SecretStr(TOKEN)) as client:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
            answer = await client.post(CHAT, json=said("x"), headers=header)
            assert problem(answer) == (401, "invalid_api_key")
            assert TOKEN not in answer.text
        right = await client.post(CHAT, json=said("x"), headers={"authorization": f"bearer {TOKEN}"})
        assert right.status_code == 200
    assert len(engine.asked) == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/nowhere"])
async def test_who_is_refused_with_much_to_send_is_told(engine: Scripted, path: str):
    """A connection that is closed over what was not read loses the answer."""
    token = TOKEN if path != CHAT else "wrong"
    async with api(engine, token=SecretStr(TOKEN)) as client:
        port = client.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        size = 20_000_000
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {size}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + b"x" * size)
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 401 " if path == CHAT else b"HTTP/1.1 404 ")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head.lower()
    assert json.loads(body)["error"]["message"]


async def test_pages_of_browsers_may_not_ask(engine: Scripted):
    async with api(engine) as client:
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
            assert problem(await client.post(CHAT, json=said("x"), headers=headers)) == (403, "forbidden_origin")
        led = await client.post(CHAT, json=said("x"), headers={"host": "evil.example"})
        assert problem(led) == (421, "wrong_host")
    assert not engine.asked


def test_a_token_file_must_hold_one(engine: Scripted, tmp_path: Any):
    file = tmp_path / "token"
    file.write_text("short")
    with pytest.raises(AssistantError, match=r"serve\.token_file: .*shorter than 16"):
        build(engine, ServeSettings(token_file=file), "0.0")
    with pytest.raises(AssistantError, match=r"serve\.token_file"):
        build(engine, ServeSettings(token_file=tmp_path / "none"), "0.0")


# -------------------------------------------------------------------------------------------------------- how much


async def test_too_much_is_refused(engine: Scripted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "BODY_LIMIT", 50_000)
    async with api(engine) as client:
        long = wav(np.zeros(8 * SAMPLE_RATE, np.float32))
        assert problem(await client.post(CHAT, json=said(long))) == (413, "invalid_request")
        form = await client.post(TRANSCRIBE, data={"model": "w"}, files={"file": long})
        assert problem(form) == (413, "invalid_request")
        assert (await client.post(CHAT, json=said("x"))).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(engine: Scripted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_body, "BODY_WITHIN", 0.3)
    async with api(engine) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        )
        writer.write(head.encode() + b"{")
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert b" 408 " in status


async def test_more_at_once_is_refused_and_may_come_again(engine: Scripted):
    engine.hold = asyncio.Event()
    async with api(engine, requests=1) as client:
        first = asyncio.create_task(client.post(CHAT, json=said("x")))
        await engine.began.wait()
        refused = await client.post(CHAT, json=said("y"))
        assert problem(refused) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert (await client.get("/health")).status_code == 200
        engine.hold.set()
        assert (await first).status_code == 200
        assert (await client.post(CHAT, json=said("y"))).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_engine_refuses_is_told(engine: Scripted, streamed: bool):
    engine.error = ApiError(504, "no answer within 1 s", "timeout")
    async with api(engine) as client:
        assert problem(await client.post(CHAT, json=said("x", stream=streamed))) == (504, "timeout")


async def test_what_goes_wrong_in_the_middle_ends_the_stream_with_an_error(engine: Scripted):
    engine.hold = asyncio.Event()
    async with api(engine) as client, client.stream("POST", CHAT, json=said("xyz", stream=True)) as answer:
        lines = answer.aiter_lines()
        while '"z"' not in await anext(lines):
            pass
        engine.error = ApiError(500, "the model failed", "model_failed")
        engine.hold.set()
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "model_failed"


# ----------------------------------------------------------------------------------------------------- who goes away


@pytest.mark.parametrize("path", [CHAT, f"{CHAT}?streamed", TRANSCRIBE, "/v1/audio/tags"])
async def test_nobody_works_for_a_client_that_has_gone(engine: Scripted, path: str):
    engine.hold = asyncio.Event()
    async with api(engine) as client:

        async def ask() -> None:
            if path.startswith(CHAT):
                await client.post(path, json=said("x", stream="streamed" in path))
            else:
                model = "y" if "tags" in path else "w"
                await client.post(path, data={"model": model}, files={"file": ("a.wav", SECOND)})

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(engine.began.wait(), 5)
        assert not engine.cancelled.is_set()
        asking.cancel()
        await asyncio.wait_for(engine.cancelled.wait(), 5)


async def test_nobody_works_for_a_client_that_goes_as_the_stream_begins(engine: Scripted):
    engine.hold = asyncio.Event()
    served = build(engine, ServeSettings(), "0.0")
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return {"type": "http.request", "body": json.dumps(said("x", stream=True)).encode(), "more_body": False}
        if asked <= 3:  # while the question is read and the first piece is waited for
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        await asyncio.sleep(0.01)  # its peer is slow

    scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b""}
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    await asyncio.wait_for(served({**scope, "headers": headers, "asgi": {"version": "3.0"}}, receive, send), 10)
    await asyncio.wait_for(engine.cancelled.wait(), 5)
