"""The client of remote models against servers that hang, drip, refuse, lie, break off or lead elsewhere."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import ssl
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from pydantic import SecretStr, ValidationError
from test_app import until

from assistant.errors import ConfigurationError, ModelError
from assistant.events import SAMPLE_RATE, SpeechEvidence
from assistant.models import openai_api
from assistant.models import remote as module
from assistant.models.audio_llm import Answer, AwayError, Message, Prompt, Stop
from assistant.models.remote import Remote, RemoteSettings
from assistant.models.remote_recogniser import RemoteRecogniser, code_of
from assistant.models.whisper import loops

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]
SECRET = "geheim-4711-geheim"
CLIP = (0.1 * np.sin(np.arange(SAMPLE_RATE) / 10)).astype(np.float32)
ASKED = Prompt(messages=(Message("system", ("be brief",)), Message("user", (CLIP, "What?", CLIP[:1600]))))


def reply(body: bytes | dict[str, Any], code: int = 200, kind: str = "application/json", *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = f"Content-Length: {len(content)}"
    # The server closes after an answer: who does not know may ask again on that connection, and one answer is lost.
    lines = [f"HTTP/1.1 {code} X", f"Content-Type: {kind}", length, "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def said(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return reply({"choices": [choice], "usage": {"completion_tokens": 3}})


def streamed(*pieces: str, finish: str | None = "stop", done: bool = True) -> bytes:
    told: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    told += [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    if finish:
        told += [
            {"choices": [{"delta": {}, "finish_reason": finish}]},
            {"choices": [], "usage": {"completion_tokens": 2}},
        ]
    text = ": hello\n\n" + "".join(f"data: {json.dumps(event)}\n\n" for event in told)
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{text}{'data: [DONE]' * done}\n\n".encode()


def models(*names: str, **tasks: list[str]) -> bytes:
    listed = [{"id": name} for name in names] + [{"id": name, "tasks": able} for name, able in tasks.items()]
    return reply({"object": "list", "data": listed})


class Server:
    """An HTTP server on loopback. Each path has its answers, given in turn, the last one for ever."""

    def __init__(self, **answers: list[bytes | Handler] | bytes | Handler) -> None:
        self.answers = {path: each if isinstance(each, list) else [each] for path, each in answers.items()}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.times: list[float] = []
        self.asked = asyncio.Event()
        self.gone = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.times.append(time.monotonic())
            self.requests.append((first, headers, body))
            self.asked.set()
            answers = self.answers[first.split()[1].rpartition("/")[2]]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                working = asyncio.ensure_future(answer(writer))
                leaving = asyncio.ensure_future(reader.read())
                await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
                self.gone += leaving.done() and not working.done()
                for task in (working, leaving):
                    task.cancel()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: Server, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context, limit=1 << 22) as started:
        server.port = started.sockets[0].getsockname()[1]
        yield server


@contextmanager
def client(port: int, *, scheme: str = "http", host: str = "127.0.0.1", **settings: Any) -> Iterator[Remote]:
    settings = {"model": "m", **settings}
    made = Remote(RemoteSettings(url=f"{scheme}://{host}:{port}", **settings))
    try:
        yield made
    finally:
        made.close()


async def asked(made: Remote, prompt: Prompt = ASKED, **options: Any) -> Answer:
    (answer,) = await asyncio.to_thread(lambda: made.answer([prompt], **options))
    return answer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", (0.02, 0.05))


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(said("hello")[:-20])
    await writer.drain()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


# ------------------------------------------------------------------------------------------------------ what is sent


async def test_a_conversation_with_clips_goes_out_as_openai_has_it(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with serving(Server(completions=said("a dog", "length"))) as server:
        with client(server.port, token=SecretStr(SECRET)) as made:
            assert await asked(made, max_new_tokens=7) == Answer("a dog", 3, Stop.LENGTH)
            figures = made.figures()
    ((first, headers, body),) = server.requests
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {SECRET}"
    told = json.loads(body)
    assert (told["model"], told["max_tokens"], told["temperature"]) == ("m", 7, 0)
    assert told["messages"][0] == {"role": "system", "content": "be brief"}
    clip, text, short = told["messages"][1]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert short["type"] == "input_audio"
    assert clip["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(clip["input_audio"]["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        pcm = np.frombuffer(file.readframes(1 << 20), "<i2") / 32_767
    assert np.abs(pcm - CLIP).max() < 1e-4
    assert figures == {"requests": 1, "retries": 0, "failed": 0, "sent_mb": round(len(body) / 1e6, 2)}
    assert SECRET not in caplog.text
    assert SECRET not in repr(made._settings)


async def test_a_token_file_is_read_for_each_request(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("first-token\n")
    async with serving(Server(completions=said("x"))) as server:
        with client(server.port, token_file=token) as made:
            await asked(made)
            token.write_text("second-token\n")
            await asked(made)
            token.write_text("two\nlines\n")
            with pytest.raises(AwayError, match=r"models\.remote\.token_file: .*the secret alone"):
                await asked(made)
    assert [headers["authorization"] for _, headers, _ in server.requests] == [
        "Bearer first-token",
        "Bearer second-token",
    ]


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(Server(completions=said("x"))) as server:
        with client(server.port) as made:
            assert (await asked(made)).text == "x"


async def test_choices_bind_the_answer():
    replies = [said('{"answer": "Distress"}'), said("playing"), said("a cat")]
    async with serving(Server(completions=[*replies])) as server:
        with client(server.port) as made:
            choices = ["playing", "distress"]
            assert (await asked(made, choices=choices)).text == "distress"
            assert (await asked(made, choices=choices)).text == "playing"
            with pytest.raises(ModelError, match="none of the choices"):
                await asked(made, choices=choices)
    schema = json.loads(server.requests[0][2])["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == choices


async def test_several_prompts_are_asked_at_once_and_answered_in_order():
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(said("slow"))
        await writer.drain()

    async with serving(Server(completions=[slow, said("fast")])) as server:
        with client(server.port) as made:
            began = time.monotonic()
            answers = await asyncio.to_thread(lambda: made.answer([ASKED, ASKED, ASKED]))
    assert sorted(answer.text for answer in answers) == ["fast", "fast", "slow"]
    assert time.monotonic() - began < 1.0


# ----------------------------------------------------------------------------------------------- streams and cancel


async def test_a_stream_comes_in_pieces():
    async with serving(Server(completions=streamed("a ", "dög", " 犬"))) as server:
        with client(server.port) as made:
            pieces: list[tuple[int, str]] = []
            answer = await asked(made, stream=lambda i, piece: pieces.append((i, piece)))
    assert answer == Answer("a dög 犬", 2, Stop.END)
    assert pieces == [(0, "a "), (0, "dög"), (0, " 犬")]
    assert json.loads(server.requests[0][2])["stream"] is True


@pytest.mark.parametrize(
    "odd", [{"choices": 5}, {"choices": [5, {"delta": "x"}]}, {"choices": [{"delta": {"content": 1}}]}]
)
async def test_what_is_no_piece_of_a_stream_is_left_out(odd: dict[str, Any]):
    whole = streamed("Hello", " there")
    head, gap, rest = whole.partition(b"\r\n\r\n")
    async with serving(
        Server(completions=head + gap + b"data: " + json.dumps(odd).encode() + b"\n\n" + rest)
    ) as server:
        with client(server.port) as made:
            pieces: list[str] = []
            answer = await asked(made, stream=lambda _i, piece: pieces.append(piece))
    assert (answer.text, pieces) == ("Hello there", ["Hello", " there"])


async def test_a_server_that_only_transcribes_is_asked_no_questions():
    async with serving(Server(models=models(w=["transcription"]), transcriptions=reply({"text": ""}))) as server:
        with client(server.port, model=None) as made:
            assert not made.only_transcribes  # nobody knows yet
            await asyncio.to_thread(made.probe)
            assert made.only_transcribes
            with pytest.raises(ConfigurationError, match=r"only transcribes; remedy: models\.remote\.model"):
                await asked(made)
    assert len(server.requests) == 2


async def test_a_server_that_does_not_stream_is_understood():
    async with serving(Server(completions=said("whole"))) as server:
        with client(server.port) as made:
            pieces: list[str] = []
            assert (await asked(made, stream=lambda _i, piece: pieces.append(piece))).text == "whole"
    assert pieces == ["whole"]


async def test_nobody_waits_so_the_connection_is_closed():
    async with serving(Server(completions=hang)) as server:
        with client(server.port) as made:
            began = time.monotonic()
            answer = await asked(made, cancelled=lambda _i: time.monotonic() - began > 0.3)
            assert answer.stop is Stop.CANCELLED
            assert time.monotonic() - began < 1.5
            await until(lambda: server.gone == 1)


async def test_closing_ends_what_is_asked():
    async with serving(Server(completions=hang)) as server:
        with client(server.port) as made:
            asking = asyncio.create_task(asked(made))
            await server.asked.wait()
            began = time.monotonic()
            await asyncio.to_thread(made.close)
            assert (await asking).stop is Stop.CANCELLED
            assert time.monotonic() - began < 1.5
            with pytest.raises(ModelError, match="stopping"):
                await asked(made)


async def test_a_stream_that_breaks_off_is_not_asked_again_once_it_was_heard():
    async with serving(Server(completions=streamed("a ", finish=None, done=False))) as server:
        with client(server.port) as made:
            pieces: list[str] = []
            with pytest.raises(AwayError, match="broke off in the middle of an answer"):
                await asked(made, stream=lambda _i, piece: pieces.append(piece))
    assert pieces == ["a "]
    assert len(server.requests) == 1


# -------------------------------------------------------------------------------------------------- bad servers


@pytest.mark.parametrize("handler", [hang, drip])
async def test_an_answer_has_its_time(handler: Handler):
    async with serving(Server(completions=handler)) as server:
        with client(server.port, timeout=1.0) as made:
            began = time.monotonic()
            with pytest.raises(AwayError, match="no answer within 1 s"):
                await asked(made)
            assert 0.9 < time.monotonic() - began < 2.0
            assert made.figures()["failed"] == 1


async def test_a_stream_that_falls_silent_has_its_time():
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(streamed("a ", finish=None, done=False))
        await writer.drain()
        await asyncio.sleep(60)

    async with serving(Server(completions=silent)) as server:
        with client(server.port, timeout=1.0) as made, pytest.raises(AwayError, match="no answer within 1 s"):
            await asked(made, stream=lambda _i, _piece: None)


async def test_a_stream_without_end_has_its_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STREAM_TIMES", 2)

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(streamed(finish=None, done=False))
        while True:
            writer.write(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(Server(completions=endless)) as server:
        with client(server.port, timeout=1.0) as made:
            began = time.monotonic()
            with pytest.raises(AwayError):
                await asked(made, stream=lambda _i, _piece: None)
            assert 1.8 < time.monotonic() - began < 3.5


@pytest.mark.parametrize("first", [reply({}, 500), reply({}, 503), reply({}, 429), half, reset])
async def test_what_may_pass_is_asked_again(first: bytes | Handler):
    async with serving(Server(completions=[first, first, said("there")])) as server:
        with client(server.port) as made:
            assert (await asked(made)).text == "there"
            assert (made.figures()["retries"], made.figures()["failed"]) == (2, 0)
    assert server.times[2] - server.times[1] > 0.02


async def test_three_times_is_enough():
    async with serving(Server(completions=reply({}, 500))) as server:
        with client(server.port) as made, pytest.raises(AwayError, match=r"http://127\.0\.0\.1:\d+ answers HTTP 500$"):
            await asked(made)
    assert len(server.requests) == 3


async def test_a_server_may_say_when_to_come_again():
    busy = reply({}, 429, "application/json", "Retry-After: 0.4")
    async with serving(Server(completions=[busy, said("x")])) as server:
        with client(server.port) as made:
            await asked(made)
    assert server.times[1] - server.times[0] >= 0.4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply({"error": {"message": f"wrong key {SECRET}"}}, 401), r"refuses us \(HTTP 401\)"),
        (reply({}, 404), r"no such model or path \(HTTP 404\)"),
        (reply(b"<html>Log in</html>", 200, "text/html"), "no OpenAI-compatible API"),
        (reply(b"[" * 10_000), "no OpenAI-compatible API"),
        (reply({"choices": []}), "no OpenAI-compatible API"),
        (reply({"choices": [{"message": {"content": 5}}]}), "no OpenAI-compatible API"),
        (reply(b"{}", 200, "application/json", "Content-Encoding: gzip"), "packs its answers"),
        (reply(b"", 302, "text/html", "Location: http://127.0.0.1:9/evil"), r"redirects \(HTTP 302\), .* not followed"),
        (reply(b" " * 5_000_000), "answers more than 4 MB"),
    ],
)
async def test_what_will_not_pass_is_told_once(answer: bytes, message: str):
    async with serving(Server(completions=answer)) as server:
        with client(server.port) as made, pytest.raises(AwayError, match=message) as told:
            await asked(made)
    assert SECRET not in str(told.value)
    assert len(server.requests) == 1


async def test_a_refusal_of_one_request_is_that_requests_own():
    refused = reply({"error": {"message": "you said: my PIN is 1234", "code": "context_length_exceeded"}}, 400)
    async with serving(Server(completions=refused)) as server:
        with client(server.port) as made, pytest.raises(ModelError, match=r"HTTP 400, context_length_exceeded") as told:
            await asked(made)
    assert not isinstance(told.value, AwayError)
    assert "PIN" not in str(told.value)


async def test_lines_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openai_api, "LINE_LIMIT", 1_000)
    long = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " + b"x" * 5_000
    async with serving(Server(completions=long)) as server:
        with client(server.port) as made, pytest.raises(AwayError, match="streams too much"):
            await asked(made, stream=lambda _i, _piece: None)


async def test_nobody_there():
    async with serving(Server()) as server:
        port = server.port
    with client(port) as made, pytest.raises(AwayError, match=r"cannot be reached \(connection refused\)"):
        await asked(made)


@pytest.mark.parametrize(
    ("host", "ca", "message"),
    [
        ("localhost", None, "certificate is not trusted"),
        ("127.0.0.1", "ca.pem", "certificate is not trusted"),  # that is not its name
        ("localhost", "none.pem", r"models\.remote\.ca"),
    ],
)
async def test_a_server_must_prove_who_it_is(host: str, ca: str | None, message: str, tmp_path: Path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with serving(Server(completions=said("x")), context) as server:
        with client(server.port, scheme="https", host="localhost", ca=tmp_path / "ca.pem") as made:
            assert (await asked(made)).text == "x"
        ours = None if ca is None else tmp_path / ca
        with client(server.port, scheme="https", host=host, ca=ours) as made, pytest.raises(AwayError, match=message):
            await asked(made)


# ------------------------------------------------------------------------------------------------------- the probe


@pytest.mark.parametrize(
    ("listed", "settings", "model", "transcriber"),
    [
        (models("only"), {}, "only", None),
        (models("/models/Qwen 2.5 Omni.gguf"), {}, "/models/Qwen 2.5 Omni.gguf", None),  # llama.cpp's are paths
        (models(w=["transcription"], q=["chat", "transcription"], y=["tags"]), {}, "q", "w"),
        (models("a", "b"), {"model": "b"}, "b", None),
        (models("a", "b"), {"transcription_model": "a"}, None, "a"),
        (models(w=["transcription"]), {}, None, "w"),
        (models(w=["transcription"], q=["chat"]), {"transcription_model": "w"}, None, "w"),
    ],
)
async def test_the_probe_finds_the_models(listed: bytes, settings: dict[str, str], model: str, transcriber: str):
    server = Server(models=listed, completions=said("x"), transcriptions=reply({"text": ""}))
    async with serving(server):
        with client(server.port, **{"model": None, **settings}) as made:
            await asyncio.to_thread(made.probe)
            assert (made.model, made.transcriber, made.name) == (model, transcriber, model or transcriber)
    paths = [first.split()[1].rpartition("/")[2] for first, _, _ in server.requests]
    assert paths == ["models"] + ["completions"] * bool(model) + ["transcriptions"] * bool(transcriber)


@pytest.mark.parametrize(
    ("listed", "settings", "message"),
    [
        (models("a", "b"), {}, r"which model\? it has a, b; remedy: models\.remote\.model"),
        (models(), {}, r"which model\? it has none"),
        (models("a"), {"model": "b"}, r"has no model 'b', it has a; remedy: models\.remote\.model"),
        (models("a"), {"transcription_model": "w"}, r"no model 'w'.*models\.remote\.transcription_model"),
        (reply({"data": 5}), {}, "no OpenAI-compatible API"),
        (models("bad name\r\nX: y"), {}, "it has none"),
    ],
)
async def test_the_probe_says_what_is_wrong(listed: bytes, settings: dict[str, str], message: str):
    async with serving(Server(models=listed)) as server:
        with client(server.port, **{"model": None, **settings}) as made, pytest.raises(AwayError, match=message):
            await asyncio.to_thread(made.probe)


# --------------------------------------------------------------------------------------------------------- speech


def evidence(tagger: float = 0.9) -> SpeechEvidence:
    return SpeechEvidence(1.0, tagger, 0.1, 20.0)


async def recognised(server: Server, *, tagger: float = 0.9, **options: Any) -> Any:
    async with serving(server):
        with client(server.port, transcription_model="w") as made:
            recogniser = RemoteRecogniser(made, options.pop("languages", ("en", "ja")), lambda: False)
            return await asyncio.to_thread(lambda: recogniser.transcribe(CLIP, evidence(tagger), **options))


async def test_speech_is_written_down():
    segments = [{"text": "Turn on", "avg_logprob": -0.2, "no_speech_prob": 0.1}, {"avg_logprob": -0.4}]
    server = Server(transcriptions=reply({"text": " Turn on the light. ", "language": "english", "segments": segments}))
    transcript = await recognised(server, words=("Küche", "lamp"))
    assert (transcript.text, transcript.language, transcript.rejected) == ("Turn on the light.", "en", None)
    assert transcript.score == pytest.approx(np.exp(-0.3))
    ((_, headers, body),) = server.requests
    assert headers["content-type"].startswith("multipart/form-data")
    for part in (b'name="model"\r\n\r\nw', b"verbose_json", "Küche, lamp".encode(), b"RIFF"):
        assert part in body
    assert b'name="language"' not in body


async def test_a_server_without_verbose_json_is_asked_plainly():
    refused = reply({"error": {"code": "x"}}, 400)
    server = Server(transcriptions=[refused, reply({"text": "Hello there."})])
    transcript = await recognised(server, languages=("ja",))
    assert (transcript.text, transcript.language, transcript.score) == ("Hello there.", "ja", None)
    assert b'name="language"\r\n\r\nja' in server.requests[0][2]


async def test_one_refusal_says_nothing_about_verbose_json():
    refused = reply({"error": {"code": "x"}}, 400)
    told = reply({"text": "Hello there.", "segments": [{"avg_logprob": -0.2}]})
    server = Server(transcriptions=[refused, refused, told])
    async with serving(server):
        with client(server.port, transcription_model="w") as made:
            with pytest.raises(ModelError, match="HTTP 400"):
                await asyncio.to_thread(made.transcribe, CLIP)
            said = await asyncio.to_thread(made.transcribe, CLIP)
    assert said.log_probability == -0.2
    assert b"verbose_json" in server.requests[2][2]


def test_texts_without_end_are_not_looked_through():
    """The search for loops takes minutes for them, and holds all other threads."""
    long = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(4_000_000))
    spoken = openai_api.spoken_of({"text": f"a\n b \ud800{long}", "language": long})
    assert spoken.text.startswith("a b \ufffd")
    assert len(spoken.text) <= 10_000
    assert len(spoken.language or "") <= 40
    assert loops(spoken.text)


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_that_goes_on_beyond_what_was_asked_for_is_cut(streams: bool):
    server = Server(completions=[streamed(*["x" * 5_000] * 8) if streams else said("x" * 40_000)])
    async with serving(server):
        with client(server.port) as made:
            answer = await asked(made, max_new_tokens=20, stream=(lambda _i, _piece: None) if streams else None)
    assert answer.stop is Stop.LENGTH
    assert len(answer.text) < 10_000


@pytest.mark.parametrize("streams", [False, True])
async def test_halves_of_characters_do_not_get_in(streams: bool):
    text = json.loads('"a\\u001b\\u0000 \\ud83d\\ude00 \\ud800"')
    server = Server(completions=[streamed(text) if streams else said(text)])
    async with serving(server):
        with client(server.port) as made:
            answer = await asked(made, stream=(lambda _i, _piece: None) if streams else None)
    assert answer.text == "a \U0001f600 \ufffd"


async def test_a_server_that_knows_no_input_audio_gets_an_address():
    """SGLang before August 2026."""
    refused = reply({"error": {"code": 400}}, 400)
    server = Server(completions=[refused, said("hello"), said("again"), refused])
    async with serving(server):
        with client(server.port) as made:
            assert (await asked(made)).text == "hello"
            assert (await asked(made)).text == "again"
            with pytest.raises(ModelError, match="HTTP 400"):
                await asked(made)
    kinds = [[part["type"] for part in json.loads(body)["messages"][1]["content"]] for _, _, body in server.requests]
    assert kinds == [["input_audio", "text", "input_audio"], *[["audio_url", "text", "audio_url"]] * 3]
    url = json.loads(server.requests[1][2])["messages"][1]["content"][0]["audio_url"]["url"]
    assert url.startswith("data:audio/wav;base64,UklGR")


async def test_a_refusal_of_both_forms_is_the_request_s_own():
    refused = reply({"error": {"code": "first"}}, 400)
    other = reply({"error": {"code": "second"}}, 400)
    server = Server(completions=[refused, other, said("hello")])
    async with serving(server):
        with client(server.port) as made:
            with pytest.raises(ModelError, match="first"):
                await asked(made)
            assert (await asked(made)).text == "hello"
    assert json.loads(server.requests[2][2])["messages"][1]["content"][0]["type"] == "input_audio"


@pytest.mark.parametrize(
    ("text", "likely", "why"),
    [
        ("Thank you.", None, "log-probability"),
        ("the the the the the the the", -0.1, "loops"),
        ("Something else", -2.0, "log-probability"),
        ("", None, "nothing was said"),
    ],
)
async def test_a_server_is_believed_as_little_as_whisper(text: str, likely: float | None, why: str):
    segments = [] if likely is None else [{"avg_logprob": likely}]
    transcript = await recognised(Server(transcriptions=reply({"text": text, "segments": segments})))
    assert transcript.text == ""
    assert why in transcript.rejected


@pytest.mark.parametrize(
    ("segments", "score"),
    [
        (5, None),
        ([7, {"avg_logprob": "x"}], None),
        ([{"avg_logprob": float("nan")}, {"avg_logprob": -0.1}], 0.905),
        ([{"avg_logprob": 10**400}], None),
    ],
)
async def test_likelihoods_that_are_none_are_not_told(segments: Any, score: float | None):
    transcript = await recognised(Server(transcriptions=reply({"text": "Open the door please.", "segments": segments})))
    assert transcript.text == "Open the door please."
    assert transcript.score == (None if score is None else pytest.approx(score, abs=0.001))


async def test_nothing_is_sent_when_the_tagger_hears_no_speech():
    server = Server(transcriptions=reply({"text": "x"}))
    assert "hears no speech" in (await recognised(server, tagger=0.01)).rejected
    assert not server.requests


def test_languages_have_codes():
    assert [code_of(name) for name in ("EN", "japanese", "klingon", None)] == ["en", "ja", None, None]


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://gpu.local:8766", "http://gpu.local:8766/v1"),
        ("https://host/some/v1/", "https://host/some/v1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
    ],
)
def test_an_address(url: str, base: str):
    assert RemoteSettings(url=url).url == base


@pytest.mark.parametrize(
    "url", ["gpu.local", "ftp://h", "http://u:p@h/v1", "http://h/v1?k=v", "http://h:0", "http://h:x"]
)
def test_what_is_no_address(url: str):
    with pytest.raises(ValidationError, match="must read http"):
        RemoteSettings(url=url)


def test_a_token_is_one_word():
    for token in ("two words", "a\r\nb", "schlüssel"):
        with pytest.raises(ValidationError, match="plain ASCII"):
            RemoteSettings(token=SecretStr(token))
    with pytest.raises(ValidationError, match="both given"):
        RemoteSettings(token=SecretStr("a"), token_file=Path("b"))


def test_without_an_address_there_is_no_client():
    with pytest.raises(ConfigurationError, match=r"models\.remote\.url"):
        Remote(RemoteSettings())


def test_only_this_machine_is_reached_in_the_clear_without_a_word():
    clear = {url: RemoteSettings(url=url).in_the_clear for url in ("http://127.0.0.1:1", "http://gpu:1", "https://gpu")}
    assert list(clear.values()) == [False, True, False]
