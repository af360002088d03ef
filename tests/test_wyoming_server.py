"""The Wyoming server with the client of the `wyoming` package, real models, and peers that mean no good."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.handle import Handled, NotHandled
from wyoming.info import Describe, Info
from wyoming.intent import Recognize
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from assistant import events
from assistant.config import Config
from assistant.errors import AssistantError
from assistant.events import Samples
from assistant.fittings import wyoming_server
from assistant.pipeline import Models
from assistant.startup import ModelFiles, hearing_settings, load_models
from assistant.transcribing import transcribe
from assistant.voices.voice import Spoken
from assistant.wyoming_connection import Turn, sentences
from assistant.wyoming_server import WyomingServer, WyomingSettings, announce, reachable
from assistant.wyoming_services import Conversation, Limits, Speaker

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is missing; remedy: apt-get install espeak-ng"
)
TONE = (0.5 * np.sin(np.arange(16_000) / 8)).astype(np.float32)


class Told:
    """Services that remember what they were asked; `wait` holds each answer up."""

    def __init__(self) -> None:
        self.heard: list[tuple[Samples, str | None]] = []
        self.sentences: list[tuple[str, str | None, str | None, str | None]] = []
        self.said: list[tuple[str, str | None]] = []
        self.wait = asyncio.Event()
        self.wait.set()
        self.error: Exception | None = None

    async def transcribe(self, samples: Samples, language: str | None) -> events.Transcript:
        self.heard.append((samples, language))
        await self._ready()
        return events.Transcript(f"heard {len(samples)}", language or "en", 0.9)

    async def converse(self, text: str, language: str | None, *, device: str | None, area: str | None) -> Conversation:
        self.sentences.append((text, language, device, area))
        await self._ready()
        return Conversation("light" in text, "done" if "light" in text else "what?")

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        self.said.append((text, language))
        await self._ready()
        return Spoken(TONE, 16_000 if len(self.said) == 1 else 22_050)

    async def _ready(self) -> None:
        await self.wait.wait()
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def serving(services: object, **limits: float) -> AsyncIterator[WyomingServer]:
    server = WyomingServer(
        WyomingSettings(port=0),
        services,  # type: ignore[arg-type]
        version="1.2.3",
        languages=("en", "ja"),
        conversing=("en",),
        speakers=(Speaker("espeak-en", ("en",)), Speaker("espeak-ja", ("ja",))),
        limits=Limits(**limits),  # type: ignore[arg-type]
    )
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert server.health()["open"] == 0
        assert not {one for one in asyncio.all_tasks() if one.get_name() == "wyoming connection"}


def client_of(server: WyomingServer) -> AsyncTcpClient:
    assert server.port is not None
    return AsyncTcpClient("127.0.0.1", server.port)


async def reply(client: AsyncTcpClient, kind: str) -> Event:
    async with asyncio.timeout(20):
        while (event := await client.read_event()) is not None:
            if event.type == kind:
                return event
    raise AssertionError(f"the server went without {kind}")


async def speak(
    client: AsyncTcpClient, pcm: bytes, form: tuple[int, int, int] = (16_000, 2, 1), language: str | None = None
) -> None:
    rate, width, channels = form
    await client.write_event(Transcribe(language=language).event())
    await client.write_event(AudioStart(rate, width, channels).event())
    for first in range(0, len(pcm), 2047):  # odd: frames are cut anywhere
        await client.write_event(AudioChunk(rate, width, channels, pcm[first : first + 2047]).event())
    await client.write_event(AudioStop().event())


def pcm16(samples: Samples) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


async def test_describe_offers_each_service_once_and_no_satellite() -> None:
    async with serving(Told()) as server, client_of(server) as client:
        await client.write_event(Describe().event())
        info = Info.from_event(await reply(client, "info"))
    assert info.asr[0].models[0].languages == ["en", "ja"]
    assert info.asr[0].supports_transcript_streaming
    assert info.handle[0].supports_home_control
    assert info.handle[0].models[0].languages == ["en"]
    assert [voice.languages for voice in info.tts[0].voices] == [["en"], ["ja"]]
    assert info.tts[0].supports_synthesize_streaming
    assert (len(info.asr), len(info.handle), len(info.tts)) == (1, 1, 1)
    assert not info.intent
    assert info.satellite is None


@pytest.mark.parametrize("off", ["speech", "say"])
def test_what_is_switched_off_is_not_offered(off: str) -> None:
    config = Config.model_validate({off: {"enabled": False}})
    offered = wyoming_server(config, Told())._info
    assert bool(offered["asr"]) is (off != "speech")
    assert bool(offered["tts"]) is (off != "say")
    assert offered["handle"]


async def test_describe_and_ping_do_not_wait_for_a_model() -> None:
    told = Told()
    told.wait.clear()
    async with serving(told) as server, client_of(server) as client:
        await speak(client, pcm16(TONE))
        async with asyncio.timeout(1):
            await client.write_event(Describe().event())
            await reply(client, "info")
            await client.write_event(Ping(text="x").event())
            assert Pong.from_event(await reply(client, "pong")).text == "x"
        told.wait.set()
        assert (await reply(client, "transcript")).data["text"] == "heard 16000"


async def test_transcript_events_come_in_order_and_again_for_the_next_utterance() -> None:
    async with serving(Told()) as server, client_of(server) as client:
        for _ in range(2):
            await speak(client, pcm16(TONE), language="en-US")
            got = []
            while not got or got[-1].type != "transcript-stop":
                event = await client.read_event()
                assert event is not None
                got.append(event)
            assert [event.type for event in got] == [
                "transcript-start",
                "transcript-chunk",
                "transcript",
                "transcript-stop",
            ]
            assert Transcript.from_event(got[2]) == Transcript("heard 16000", language="en")
        assert server.health()["utterances"] == 2


@pytest.mark.parametrize("form", [(16_000, 2, 1), (48_000, 2, 2), (44_100, 3, 1), (8_000, 1, 1), (22_050, 4, 3)])
async def test_any_format_is_heard_as_16_khz_mono(form: tuple[int, int, int]) -> None:
    rate, width, channels = form
    told = Told()
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    frames = np.repeat(wave[:, None], channels, axis=1)
    if width == 1:
        pcm = np.rint(frames * 127 + 128).astype(np.uint8).tobytes()
    elif width == 3:
        wide = np.rint(frames * 8_388_607).astype("<i4").view(np.uint8).reshape(-1, 4)
        pcm = wide[:, :3].tobytes()
    else:
        pcm = np.rint(frames * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes()
    async with serving(told) as server, client_of(server) as client:
        await speak(client, pcm, form)
        await reply(client, "transcript")
    heard = told.heard[0][0]
    assert len(heard) == pytest.approx(16_000, abs=2)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16_000)
    assert np.abs(heard - expected)[200:-200].max() < 0.01


async def test_silence_is_an_empty_text_and_no_audio_too() -> None:
    told = Told()
    async with serving(told) as server, client_of(server) as client:
        for pcm in (bytes(32_000), b""):
            await speak(client, pcm)
            assert (await reply(client, "transcript")).data["text"] == ""
        await client.write_event(AudioStop().event())
        assert (await reply(client, "transcript")).data["text"] == ""
        assert server.health()["unexpected"] == 1
    assert not told.heard


async def test_audio_without_a_start_is_heard() -> None:
    async with serving(Told()) as server, client_of(server) as client:
        await client.write_event(AudioChunk(16_000, 2, 1, pcm16(TONE)).event())
        await client.write_event(AudioStop().event())
        assert (await reply(client, "transcript")).data["text"] == "heard 16000"
        assert server.health()["unexpected"] == 1


async def test_an_unknown_language_is_refused_and_auto_is_none(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    async with serving(told) as server:
        async with client_of(server) as client:
            await speak(client, pcm16(TONE), language="auto")
            await reply(client, "transcript")
        async with client_of(server) as client:
            await client.write_event(Transcribe(language="xx-YY").event())
            error = await reply(client, "error")
            assert "en, ja" in error.data["text"]
            assert await client.read_event() is None
    assert told.heard[0][1] is None
    assert "'xx-YY' is not recognised here" in caplog.text


async def test_a_service_that_fails_is_told_and_the_connection_ends() -> None:
    told = Told()
    told.error = AssistantError("the model is not there; remedy: pull it")
    async with serving(told) as server:
        async with client_of(server) as client:
            await speak(client, pcm16(TONE))
            assert "remedy: pull it" in (await reply(client, "error")).data["text"]
            assert await client.read_event() is None
        async with client_of(server) as client:
            await client.write_event(Transcript("light on").event())
            assert "remedy: pull it" in (NotHandled.from_event(await reply(client, "not-handled")).text or "")
        assert server.health()["failed"] == 2


async def test_a_model_that_never_answers_is_given_up() -> None:
    told = Told()
    told.wait.clear()
    async with serving(told, answer=0.2) as server, client_of(server) as client:
        await speak(client, pcm16(TONE))
        assert (await reply(client, "error")).data["code"] == "timeouts"


async def test_sentences_are_handled_or_not_with_their_context() -> None:
    told = Told()
    context = {"conversation_id": "1", "device_id": "d", "area": "kitchen"}
    async with serving(told) as server, client_of(server) as client:
        await client.write_event(Transcript("light on", context=context, language="en-GB").event())
        assert Handled.from_event(await reply(client, "handled")) == Handled("done", context)
        await client.write_event(Recognize("sing").event())
        assert NotHandled.from_event(await reply(client, "not-handled")).text == "what?"
        for text in ("", "x" * 2_000):
            await client.write_event(Transcript(text).event())
            await reply(client, "not-handled")
    assert told.sentences == [("light on", "en", "d", "kitchen"), ("sing", None, None, None)]


async def test_a_text_is_spoken_in_bounded_pieces() -> None:
    told = Told()
    async with serving(told) as server, client_of(server) as client:
        await client.write_event(Synthesize("Hello. There!", voice=SynthesizeVoice(name="espeak-ja")).event())
        start = AudioStart.from_event(await reply(client, "audio-start"))
        pcm, chunks = await audio_until(client, "audio-stop")
    assert (start.rate, start.width, start.channels) == (16_000, 2, 1)
    assert np.abs(np.frombuffer(pcm, "<i2") / 32_767 - TONE).max() < 0.001
    assert max(chunks) <= 4_096
    assert told.said == [("Hello. There!", "ja")]


async def test_a_streamed_text_is_spoken_sentence_by_sentence() -> None:
    """As Home Assistant sends it: the whole text follows its pieces, and must not be spoken twice."""
    told = Told()
    async with serving(told) as server, client_of(server) as client:
        await client.write_event(SynthesizeStart(voice=SynthesizeVoice(language="en-US")).event())
        await client.write_event(SynthesizeChunk("It is warm. It wi").event())
        await reply(client, "audio-start")  # before the text is complete
        await client.write_event(SynthesizeChunk("ll rain").event())
        await client.write_event(Synthesize("It is warm. It will rain").event())
        await client.write_event(SynthesizeStop().event())
        pcm, _ = await audio_until(client, "synthesize-stopped")
    assert told.said == [("It is warm.", "en"), ("It will rain", "en")]
    assert len(pcm) / 2 == pytest.approx(16_000 + 16_000 * 16_000 / 22_050, abs=20)  # at the rate of the first


async def audio_until(client: AsyncTcpClient, kind: str) -> tuple[bytes, list[int]]:
    pcm, lengths = b"", [0]
    while (event := await client.read_event()) is not None and event.type != kind:
        pcm += event.payload or b""
        lengths.append(len(event.payload or b""))
    assert event is not None
    return pcm, lengths


async def test_a_text_without_words_cannot_be_said() -> None:
    async with serving(Told()) as server, client_of(server) as client:
        await client.write_event(Synthesize("...").event())
        assert "letters" in (await reply(client, "error")).data["text"]


def test_long_texts_are_cut_between_words() -> None:
    text = "word " * 500
    pieces, rest = sentences(text, 1_000)
    assert "".join(pieces) + rest == text
    assert all(len(piece) <= 1_000 and piece.endswith(" ") for piece in pieces)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
    "JSON, no object": (b"[1]\n", "malformed"),
    "deep JSON": (b"[" * 60_000 + b"\n", "malformed"),
    "binary": (b"\x00\xff\xfe\n", "malformed"),
    "half a character, escaped": (b'{"type":"ping","data":{"text":"\\ud800"}}\n', "malformed"),
    "half a character, raw": (b'{"type":"ping","data":{"text":"\xed\xa0\x80"}}\n', "malformed"),
    "half a character to repeat": (
        b'{"type":"transcript","data":{"text":"light","context":{"a":"\\uDC00"}}}\n',
        "malformed",
    ),
    "no type": (b'{"data":{}}\n', "malformed"),
    "data is a list": (b'{"type":"describe","data":[1]}\n', "malformed"),
    "broken data": (b'{"type":"transcribe","data_length":3}\n{{{', "malformed"),
    "negative length": (b'{"type":"describe","data_length":-1}\n', "malformed"),
    "length is a text": (b'{"type":"describe","payload_length":"9"}\n', "malformed"),
    "2 GB of audio": (b'{"type":"audio-chunk","payload_length":2147483647}\n', "oversized"),
    "much data": (b'{"type":"transcribe","data_length":999999999999999}\n', "oversized"),
    "endless line": (b"x" * 200_000, "oversized"),
    "language is a number": (b'{"type":"transcribe","data":{"language":1}}\n', "malformed"),
    "no rate": (b'{"type":"audio-start","data":{}}\n', "bad_format"),
    "rate 0": (b'{"type":"audio-start","data":{"rate":0,"width":2,"channels":1}}\n', "bad_format"),
    "width 9": (b'{"type":"audio-start","data":{"rate":16000,"width":9,"channels":1}}\n', "bad_format"),
    "text is missing": (b'{"type":"synthesize","data":{}}\n', "malformed"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_cannot_be_read_is_told_counted_and_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    raw, kind = HOSTILE[name]
    async with serving(Told()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(raw)
        async with asyncio.timeout(5):
            answer = await reader.readline()
            length = json.loads(answer)["data_length"]
            assert json.loads(await reader.readexactly(length))["code"] == kind
            assert await reader.read() == b""
        writer.close()
        assert server.health()[kind] == 1
        assert sum("wyoming: 127.0.0.1" in record.message for record in caplog.records) == 1
        await usable(server)


async def usable(server: WyomingServer) -> None:
    async with client_of(server) as client:
        await client.write_event(Describe().event())
        await reply(client, "info")


async def test_unknown_events_are_ignored() -> None:
    async with serving(Told()) as server, client_of(server) as client:
        await client.write_event(Event("select-program", {"name": "x"}))
        await client.write_event(Event("no-such-thing", {"a": 1}, b"payload"))
        await client.write_event(Describe().event())
        await reply(client, "info")


async def test_silent_peers_are_dropped_and_half_events_too() -> None:
    async with serving(Told(), idle=0.2, body=0.2) as server:
        for raw in (b"", b'{"type":', b'{"type":"describe","data_length":50}\n{'):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(raw)
            async with asyncio.timeout(3):
                assert b"error" in await reader.read()
            writer.close()
        assert server.health()["timeouts"] == 3
        await usable(server)


async def test_a_peer_that_goes_in_the_middle_leaves_nothing_behind() -> None:
    told = Told()
    async with serving(told) as server:
        for raw in (
            b'{"type":"audio-start","data":{"rate":16000,"width":2,"channels":1}}\n',
            b'{"type":"audio-chunk","data":{"rate":16000,"width":2,"channels":1},"payload_length":4}\nab',
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(raw)
            await writer.drain()
            writer.close()
        await until(lambda: server.health()["open"] == 0 and server.health().get("broken_off") == 2)
        told.wait.clear()
        client = client_of(server)
        await client.connect()
        await speak(client, pcm16(TONE))
        await until(lambda: bool(told.heard))
        await client.disconnect()
        told.wait.set()
        await until(lambda: server.health()["open"] == 0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (nothing tells when a count has changed)
            await asyncio.sleep(0.01)


async def test_a_peer_that_does_not_read_is_given_up() -> None:
    async with serving(Told(), write=0.3) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.connect(("127.0.0.1", server.port))
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(1_000_000):
                sock.send(b'{"type":"describe"}\n' * 100)
                await asyncio.sleep(0)
        await until(lambda: server.health()["open"] == 0)
        assert server.health()["lost"] == 1
        sock.close()


async def test_connections_are_bounded() -> None:
    async with serving(Told(), connections=2) as server:
        async with client_of(server), client_of(server) as second:
            await second.write_event(Describe().event())
            await reply(second, "info")
            async with client_of(server) as third:
                assert (await reply(third, "error")).data["code"] == "busy"
        assert server.health()["refused"] == 1
        await until(lambda: server.health()["open"] == 0)
        await usable(server)


async def test_too_long_an_utterance_is_refused() -> None:
    async with serving(Told(), turn=1.5) as server, client_of(server) as client:
        await speak(client, pcm16(np.tile(TONE, 2)))
        assert (await reply(client, "error")).data["code"] == "oversized"


def test_an_utterance_takes_no_more_memory_than_its_samples() -> None:
    turn = Turn("a peer", (192_000, 1, 1))
    tracemalloc.start()
    try:
        for number in range(5_000):  # too little each to make a sample of 16 kHz
            turn.feed(b"a", (192_000 - number % 2, 1, 1))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
    assert turn.length == len(turn.samples()) < 100


async def test_peers_that_stay_do_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_closed(server: asyncio.Server) -> None:
        """As in Python 3.12.1 to 3.12.7."""
        while server._active_count:  # type: ignore[attr-defined]  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(asyncio.Server, "wait_closed", wait_closed)
    async with asyncio.timeout(5), serving(Told()) as server:
        client = client_of(server)
        await client.connect()
        await client.write_event(Describe().event())
        await reply(client, "info")
    assert await client.read_event() is None
    await client.disconnect()


async def test_a_port_that_is_taken_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant.wyoming_server.BACKOFF", (0.05, 0.1))
    async with serving(Told()) as first:
        settings = WyomingSettings(port=first.port or 0)
        second = WyomingServer(settings, Told(), version="1", languages=("en",))
        task = asyncio.create_task(second.run())
        await asyncio.sleep(0.3)
        assert caplog.text.count("cannot be opened") == 1
        assert "remedy: another wyoming.port" in caplog.text
        assert second.port is None
    async with asyncio.timeout(5):
        await second.listening.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_loopback_is_not_announced(caplog: pytest.LogCaptureFixture) -> None:
    assert await announce("127.0.0.1", 10310) is None
    assert "for this machine only" in caplog.text
    assert await reachable("192.0.2.7") == ["192.0.2.7"]


# Real speech


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    texts = {"rain": "The weather will be nice tomorrow in the afternoon.", "shop": "Please buy some milk and bread."}
    for name, text in texts.items():
        subprocess.run(["espeak-ng", "-s", "140", "-w", str(folder / name), text], check=True, timeout=20)
    return {name: folder / name for name in texts}


class Real(Told):
    """Real speech recognition."""

    def __init__(self, models: Models) -> None:
        super().__init__()
        self._models = models

    async def transcribe(self, samples: Samples, language: str | None) -> events.Transcript:
        return await transcribe(samples, language, self._models, hearing_settings(Config()))


@needs_espeak
async def test_clients_at_once_get_their_own_words_and_describe_stays_fast(
    clips: dict[str, Path], yamnet_path: Path, whisper_base_path: Path
) -> None:
    models = await load_models(Config(), ModelFiles(yamnet_path, whisper_base_path))
    delays: list[float] = []

    async def ask(server: WyomingServer, path: Path) -> str:
        samples, rate = soundfile.read(path, dtype="float32")
        async with client_of(server) as client:
            await speak(client, pcm16(np.pad(samples, (rate // 4, rate // 2))), (rate, 2, 1), "en")
            return str((await reply(client, "transcript")).data["text"]).lower()

    async def describe(server: WyomingServer) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await usable(server)
            delays.append(loop.time() - began)
            await asyncio.sleep(0.02)

    async with serving(Real(models)) as server:  # while the recogniser loads
        describing = asyncio.create_task(describe(server))
        rain, shop = await asyncio.gather(ask(server, clips["rain"]), ask(server, clips["shop"]))
        describing.cancel()
        await asyncio.gather(describing, return_exceptions=True)
    models.shutdown()
    assert "weather" in rain
    assert "tomorrow" in rain
    assert "milk" in shop
    assert len(delays) > 10
    assert sorted(delays)[int(0.9 * len(delays))] < 0.1


@needs_espeak
async def test_longer_than_a_window_is_heard_whole_and_noise_is_not_words(
    clips: dict[str, Path], yamnet_path: Path, whisper_base_path: Path
) -> None:
    models = await load_models(Config(), ModelFiles(yamnet_path, whisper_base_path))
    hearing = hearing_settings(Config())
    samples, rate = soundfile.read(clips["shop"], dtype="float32")
    once = soxr.resample(samples, rate, 16_000)
    pause = np.zeros(18_000 + 16_000 * 13, np.float32)
    try:
        long = await transcribe(np.concatenate((once, pause, once, pause, once)), "en", models, hearing)
        noise = 0.01 * np.random.default_rng(1).standard_normal(48_000).astype(np.float32)
        nothing = await transcribe(noise, None, models, hearing)
    finally:
        models.shutdown()
    assert long.text.lower().count("milk") == 3
    assert long.language == "en"
    assert not nothing.text
