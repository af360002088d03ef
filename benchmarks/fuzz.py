# ruff: noqa: PLC0415, D103 (each target imports what it needs in a process of its own; chance is no secret)
"""Every parser of what comes from outside, fed with what nobody should send: inputs, crashes, hangs.

    python benchmarks/fuzz.py [--seconds 300] [--target NAME]… [--keep FOLDER]

Each target runs in a process of its own, which tells each input before it takes it. A crash is the end of that process,
or an exception that is none of ours for a person (`AssistantError`); a hang is an input without an end in ten seconds.
Both are kept as files. Inputs are made by three engines: mutation of real, valid inputs; Hypothesis; and, where it can
be imported (pip install atheris), Atheris, which looks for inputs that reach new lines. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIMIT = 10.0  # seconds for one input
START = 180.0  # seconds for the imports of a worker
MEMORY = 12 << 30  # bytes of address space of a worker
WORDS = (
    *(
        b"\0",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        b"\xff" * 8,
        b"{{",
        b"}}",
        b"[" * 2000,
        b"&a [*a,*a]",
    ),
    *(
        b"-1",
        b"1e999",
        b"9" * 5000,
        b"null",
        b'{"',
        b"\\ud800",
        b"#",
        b"+",
        b"../",
        b"\r\n",
        b"${X}",
        b"!!python/x",
        b"data",
    ),
)


@dataclass
class Target:
    """A parser: inputs that it takes, and how it is called."""

    seeds: list[bytes]
    run: Callable[[bytes], object]  # raises AssistantError for what it refuses


# --- the parsers ------------------------------------------------------------------------------------------------------


def configuration() -> Target:
    from assistant.config import parse
    from assistant.explain import explain

    example = (ROOT / "config" / "config.example.yaml").read_bytes()
    pieces = [b"\n".join(part) for part in (example.split(b"\n")[n : n + 60] for n in range(0, 240, 30))]
    return Target(
        [example, *pieces, b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"],
        lambda data: explain(parse(data.decode("utf-8", "replace"), Path("fuzz.yaml"))),
    )


def sound_table() -> Target:
    from assistant.tracking import load_table

    file = scratch() / "sounds.yaml"
    return Target([(ROOT / "config" / "sounds.yaml").read_bytes()], lambda data: load_table(_written(file, data)))


def mqtt_payloads() -> Target:
    """Commands, questions, what an earlier run announced; the first byte chooses the topic."""
    from assistant.outputs.announce import recalled
    from assistant.outputs.commands import Commands
    from assistant.outputs.mqtt_client import Arrived
    from assistant.outputs.questions import Questions

    topics = ("say", "kitchen/say", "listening/set", "kitchen/sensitivity/set", "kitchen/test", "x/y/z")

    async def nothing(_question: object) -> dict[str, Any]:
        return {"text": "x"}

    def run(data: bytes) -> None:
        recalled(data)
        moment = iter(range(10**6))
        commands = Commands("kikimimi", ["kitchen"], lambda _: None, lambda: 60.0 * next(moment))
        topic = f"kikimimi/{topics[data[0] % len(topics)] if data else 'say'}"
        commands.received(Arrived(topic, data[1:], retained=False))

        async def ask() -> None:
            questions = Questions("kikimimi", nothing, lambda message: message.encoded(), lambda: 0.0)
            questions.received(data, retained=False, response_topic=None, correlation=None)
            topic = data[:80].decode("utf-8", "replace")
            questions.received(data[80:], retained=False, response_topic=topic, correlation=data)
            await asyncio.gather(*questions._tasks)

        asyncio.run(ask())

    seeds = [b'0{"text": "hello", "room": "kitchen", "language": "en"}', b"2ON", b"3balanced", b"0plain"]
    question = {"text": "what?", "room": "kitchen", "seconds": 5.0, "task": "caption", "reply_to": "kikimimi/reply/a"}
    memory = {"prefix": "homeassistant", "transcripts": True, "rooms": {"kitchen": ["dog_bark"]}}
    return Target([*seeds, json.dumps(question).encode(), json.dumps(memory).encode()], run)


def mqtt_packets() -> Target:
    """The embedded broker, as a client of the network sees it; after each input it must answer another client."""
    from assistant.outputs import broker as module
    from assistant.outputs.broker import answers_mqtt, embedded_broker

    module.REFUSED_AFTER = 0.0
    loop = background()
    brokers = (embedded_broker(port=0), embedded_broker(port=0, login=("home", "sesame")))
    ports = [loop(broker.__aenter__()) for broker in brokers]

    def run(data: bytes) -> None:
        for broker, port in zip(brokers, ports, strict=True):
            converse(port, data)
            assert loop(answers_mqtt("127.0.0.1", port)), f"{broker} does not answer any more"

    connect = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04fuzz"
    named = b"\x10\x1e\x00\x04MQTT\x04\xc2\x00\x3c\x00\x04fuzz\x00\x04home\x00\x06sesame"
    publish = b"\x32\x0b\x00\x03a/b\x00\x01ON!!" + b"\x31\x07\x00\x03a/bON"
    return Target([connect, named, connect + b"\x82\x08\x00\x01\x00\x03a/#\x01" + publish + b"\xc0\x00\xe0\x00"], run)


def wyoming_requests() -> Target:
    import numpy as np

    from assistant.events import Transcript
    from assistant.voices.voice import Spoken
    from assistant.wyoming_server import WyomingServer, WyomingSettings
    from assistant.wyoming_services import Conversation, Limits, Speaker

    class Services:
        async def transcribe(self, _samples: object, _language: str | None) -> Transcript:
            return Transcript("hello", "en", 0.9)

        async def converse(self, _text: str, _language: str | None, **_: object) -> Conversation:
            return Conversation(True, "done")

        async def synthesise(self, _text: str, _language: str | None) -> Spoken:
            return Spoken(np.zeros(1600, np.float32), 16_000)

    limits = Limits(idle=2.0, body=2.0)
    server = WyomingServer(
        WyomingSettings(port=0), Services(), version="0", languages=["en"], conversing=["en"],
        speakers=[Speaker("kikimimi-en", ("en",))], limits=limits,
    )  # fmt: skip
    loop = background()

    async def start() -> int:
        start.task = asyncio.create_task(server.run())  # type: ignore[attr-defined]
        await server.listening.wait()
        return server.port or 0

    port = loop(start())

    def run(data: bytes) -> None:
        converse(port, data)
        assert not server.health().get("failed"), "a connection ended with a bug"
        assert converse(port, b'{"type":"ping"}\n').startswith(b'{"type": "pong"'), "it does not answer any more"

    audio = {"rate": 16000, "width": 2, "channels": 1}
    heard = (
        _event("transcribe", {"language": "en"})
        + _event("audio-start", audio)
        + _event("audio-chunk", audio, bytes(640))
        + _event("audio-stop", {})
    )
    said = _event("synthesize", {"text": "Hello. You.", "voice": {"name": "kikimimi-en"}})
    streamed = (
        _event("synthesize-start", {}) + _event("synthesize-chunk", {"text": "A. B"}) + _event("synthesize-stop", {})
    )
    asked = _event("transcript", {"text": "turn on", "context": {"area": "kitchen", "device_id": "x"}})
    return Target([_event("describe", {}), heard, said, streamed, asked, asked + heard + said], run)


def satellite() -> Target:
    """Whatever listens where a satellite should be."""
    from assistant.audio.satellite import Satellite

    loop = background()
    answer = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(answer)
        writer.write_eof()
        await reader.read(65_536)
        writer.close()

    server = loop(asyncio.start_server(serve, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]

    async def listen() -> None:
        async for _ in Satellite("a", f"wyoming://127.0.0.1:{port}").chunks():
            pass

    def run(data: bytes) -> None:
        nonlocal answer
        answer = data
        loop(listen())

    audio = {"rate": 16000, "width": 2, "channels": 1}
    info = {"satellite": {"name": "s", "attribution": {"name": "", "url": ""}, "installed": True}, "asr": [], "tts": []}
    stream = b"".join(_event("audio-chunk", {**audio, "timestamp": 20 * n}, bytes(640)) for n in range(5))
    return Target(
        [_event("info", info) + stream, _event("info", info) + _event("detection", {"name": "x"}) + stream], run
    )


def http_requests() -> Target:
    """The page and its API, without a password; what is behind its services is not asked here."""
    from assistant.web.server import WebServer
    from assistant.web.services import WebServices
    from assistant.web.settings import WebSettings

    class Rooms:
        def rooms(self) -> list[Any]:
            return []

        def listening(self) -> bool:
            return True

        def command(self, command: object) -> None:
            """Nothing."""

    loop = background()

    async def start() -> int:
        server = WebServer(WebSettings(port=0), Path(tempfile.mkdtemp()), "0")
        nobody: dict[str, Any] = dict.fromkeys(field.name for field in fields(WebServices))
        given = {"rooms": Rooms(), "watch": lambda _: None, "metrics": lambda: b"kikimimi_events_total 1.0"}
        server.ask(lambda: WebServices(**{**nobody, **given}))
        running.append(asyncio.create_task(server.run()))
        await server.listening.wait()
        assert server.port is not None
        return server.port

    running: list[asyncio.Task[None]] = []
    port = loop(start())
    plain = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

    def run(data: bytes) -> None:
        converse(port, data)
        assert not running[0].done()
        assert b"kikimimi_events_total 1.0" in converse(port, plain), "it does not answer any more"

    head = b"Host: 127.0.0.1\r\nConnection: close\r\n"
    put = b"PUT /api/rooms/listening HTTP/1.1\r\n" + head + b"Content-Type: application/json\r\n"
    upgrade = b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    return Target(
        [
            plain,
            put + b"Content-Length: 12\r\n\r\n" + b'{"on": true}',
            put + b"Transfer-Encoding: chunked\r\n\r\nc\r\n" + b'{"on": true}\r\n0\r\n\r\n',
            b"GET /api/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            + upgrade
            + b"\r\n\x81\x85abcd12345",
            b"GET /static/../settings.py HTTP/1.1\r\n" + head + b"\r\n",
            b"GET / HTTP/0.9\r\n",
        ],
        run,
    )


def http_answers() -> Target:
    """What a host answers to a webhook."""
    from assistant.events import Webhook
    from assistant.outputs.webhook import Webhooks, WebhookSettings

    loop = background()
    answer = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    server = loop(asyncio.start_server(serve, "127.0.0.1", 0))
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def made() -> Webhooks:
        return Webhooks(WebhookSettings(hosts=(host,)))

    webhooks = loop(made())

    def run(data: bytes) -> None:
        nonlocal answer
        answer = data
        loop(webhooks._send(Webhook(f"http://{host}/x", body=b"{}")))

    return Target(
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 302 Found\r\nLocation: http://[::1/x\r\nSet-Cookie: a=b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ],
        run,
    )


def http_addresses() -> Target:
    """The addresses, headers and templates of webhooks in rules."""
    from assistant.config import parse
    from assistant.events import Event, State
    from assistant.rules import Rules

    event = Event("1", "kitchen", "m", "sound", State.STARTED, "dog_bark", "Bark", 0.9)

    def run(data: bytes) -> None:
        text = json.dumps(data.decode("utf-8", "replace"))
        rule = f"{{when: {{sound: any}}, do: {{webhook: {{url: {text}, headers: {{X-A: {text}}}, json: [{text}]}}}}}}"
        rules = Rules(parse(f"webhooks: {{hosts: [h.example]}}\nrules: [{rule}]", Path("f")).rules)
        rules.feed(event, 0.0)

    return Target([b"https://h.example/a/{{ room }}?b={{ label | upper }}", b"http://h.example:80/"], run)


def audio_headers() -> Target:
    """WAV, FLAC and whatever else is read, with every bit in doubt."""
    import av
    import numpy as np
    import soundfile

    from assistant.audio.source import Converter, SourceStats
    from assistant.audio.wavfile import decode

    av.logging.set_level(None)
    file = scratch() / "sound"
    tone = (0.3 * np.sin(np.arange(4_000) * 0.2)).astype(np.float32)
    seeds = []
    for kind, subtype in (
        *(
            ("WAV", "PCM_16"),
            ("WAV", "FLOAT"),
            ("WAV", "ULAW"),
            ("WAV", "IMA_ADPCM"),
            ("FLAC", "PCM_16"),
            ("OGG", "VORBIS"),
        ),
        *(("AIFF", "PCM_16"), ("W64", "PCM_16"), ("CAF", "PCM_16"), ("AU", "PCM_16"), ("MP3", "MPEG_LAYER_III")),
    ):
        content = io.BytesIO()
        soundfile.write(content, tone, 16_000, format=kind, subtype=subtype)
        seeds.append(content.getvalue())
    for kind, codec in (("mp4", "aac"), ("matroska", "aac"), ("avi", "pcm_s16le")):
        content = io.BytesIO()
        with av.open(content, "w", format=kind) as container:
            stream = container.add_stream(codec, rate=16_000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray((tone * 3e4).astype(np.int16).reshape(1, -1), "s16", "mono")
            frame.sample_rate = 16_000
            resampler = av.AudioResampler(stream.format, "mono", 16_000)
            for ready in resampler.resample(frame):
                container.mux(stream.encode(ready))
            container.mux(stream.encode(None))
        seeds.append(content.getvalue())

    def run(data: bytes) -> None:
        converter = Converter("fuzz", SourceStats())
        for count, (block, rate) in enumerate(decode(_written(file, data))):
            samples = converter.feed(block, rate)
            assert len(samples) < 4_000_000, "a block became minutes"
            if count == 100:
                break
        converter.flush()

    return Target(seeds, run)


def tflite_file() -> Target:
    """A model file with flipped bytes: the store refuses it, the interpreter never sees it."""
    from assistant.models import store

    original = (store.path("yamnet") / "yamnet.tflite").read_bytes()
    root = scratch()
    folder = root / "yamnet"
    folder.mkdir()

    def run(data: bytes) -> None:
        _written(folder / "yamnet.tflite", data)
        store.path("yamnet", root)
        assert data == original, "bytes that are not the published ones were let through"

    return Target([original], run)


def safetensors_files() -> Target:
    """A checkpoint of the user's own, whose weights no hash vouches for; the first byte chooses the file."""
    from assistant.models.qwen_audio import checkpoint
    from assistant.models.relatives import model_type

    source = ROOT / "tests" / "data" / "qwen_audio" / "checkpoint"
    folder = scratch() / "checkpoint"
    shutil.copytree(source, folder)
    names = sorted(file.name for file in source.iterdir() if file.suffix in {".safetensors", ".json"})
    whole = {name: (source / name).read_bytes() for name in names}
    # what the tests' own file makes of a seed is left out: index and header are checked all the same

    def run(data: bytes) -> None:
        name = names[data[0] % len(names)] if data else names[0]
        _written(folder / name, data[1:])
        try:
            model_type(folder)
            checkpoint.configuration(folder)
            if name.endswith(".safetensors"):
                for tensor in checkpoint.tensors_of(folder / name):
                    checkpoint.LazyTensor(folder / name, tensor)[:]
            else:
                checkpoint.shards_of(folder)
        finally:
            _written(folder / name, whole[name])

    return Target([bytes((number,)) + whole[name] for number, name in enumerate(names)], run)


def said_and_written() -> Target:
    """Texts as recognisers and language models write them: intents, rules, templates, parsers of replies."""
    from assistant.config import parse
    from assistant.devices import DeviceSettings
    from assistant.events import Event, State
    from assistant.intents import Intents
    from assistant.models import replies
    from assistant.rules import Rules

    lamp = DeviceSettings(
        name="lamp", area="kitchen", domain="light", topic="a/b", payloads={"brightness": "{{ value }}"}
    )
    intents = Intents([lamp], {"kitchen": ("台所",)}, ["en"])
    intents.warm()
    text_rule = (
        "{when: {speech: lamp}, do: {publish: {topic: 'a/{{ language }}', payload: '{{ text }} {{ event | tojson }}'}}}"
    )
    rules = Rules(
        parse(f"rules: [{text_rule}, {{when: {{regex: 'a+b?c'}}, do: {{log: '{{{{ text }}}}'}}}}]", Path("f")).rules,
        transcripts=True,
    )
    parsers = (
        *(replies.plain, replies.refused, replies.tagged_speech, replies.speech_of, replies.language_named),
        *(
            replies.prose_of,
            replies.listed,
            replies.stated,
            replies.speaker_of,
            replies.note_of,
            replies.understanding_of,
        ),
        *(lambda text: replies.words_of(text, 10.0), lambda text: replies.spans_of(text, 10.0)),
    )

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        intents.understand(text, language="en", area="kitchen")
        rules.feed(
            Event("1", "kitchen", "m", "speech", State.HEARD, "speech", "Speech", 0.9, text=text, language=text[:9]),
            0.0,
        )
        for parse_reply in parsers:
            parse_reply(text)

    return Target(
        [
            b"turn on the lamp in the kitchen",
            b"set the lamp to 40 percent",
            "台所の電気をつけて".encode(),
            b'The speech is in English, saying: "Hello (there)". <|0.00|> a<|1.20|> b',
            b'{"intent": "x", "entities": [{"type": "a", "value": "b"}]}',
            b"A man, about 30 to 40 years old. Pitch: midi 60, velocity 3; 1:02 - 1:05 a dog barks",
        ],
        run,
    )


TARGETS: dict[str, Callable[[], Target]] = {
    "configuration": configuration,
    "sound table": sound_table,
    "MQTT payloads": mqtt_payloads,
    "MQTT packets": mqtt_packets,
    "Wyoming requests": wyoming_requests,
    "Wyoming satellite": satellite,
    "HTTP requests": http_requests,
    "HTTP answers": http_answers,
    "HTTP addresses": http_addresses,
    "WAV, FLAC and others": audio_headers,
    "TFLite": tflite_file,
    "safetensors": safetensors_files,
    "texts": said_and_written,
}
TRACED = {
    "configuration",
    "MQTT payloads",
    "HTTP addresses",
    "texts",
}  # for Atheris: Python of ours, no network, no files


# --- tools of the targets ---------------------------------------------------------------------------------------------


def scratch() -> Path:
    """A folder in memory."""
    memory = Path("/dev/shm")  # noqa: S108 (a new folder in it)
    return Path(tempfile.mkdtemp(prefix="kikimimi-fuzz-", dir=memory if memory.is_dir() else None))


def _written(file: Path, data: bytes) -> Path:
    file.write_bytes(data)
    return file


def _event(kind: str, data: dict[str, Any], payload: bytes = b"") -> bytes:
    line = {"type": kind, "data": data, **({"payload_length": len(payload)} if payload else {})}
    return json.dumps(line).encode() + b"\n" + payload


def background() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """A loop in a thread; what is returned runs a coroutine there."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def converse(port: int, data: bytes) -> bytes:
    """Send, say that this was all, and read to the end."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while piece := client.recv(65_536):
                answer = (answer + piece)[:65_536]
        except ConnectionError:
            return answer
    return answer


# --- engines ----------------------------------------------------------------------------------------------------------


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with some of it flipped, cut, repeated, moved, or mixed with another."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        # headers decide: half of what is changed lies in the first 64 bytes
        at = min(at, chance.randrange(64)) if chance.random() < 0.5 else at
        match chance.randrange(9):
            case 0 | 1 | 2 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 3 if at < len(data):
                data[at] = chance.randrange(256)
            case 4:
                data[at:at] = chance.choice(WORDS)
            case 5:
                del data[at : at + chance.choice((1, 2, 4, 64, len(data)))]
            case 6:
                data[at:at] = data[at : at + chance.choice((1, 16, 256))] * chance.choice((1, 2, 50))
            case 7:
                data[at : at + 4] = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)).to_bytes(
                    4, chance.choice(("big", "little"))
                )
            case 8:
                other = chance.choice(seeds)
                data[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data[: max(1 << 20, len(seeds[0]))])


def by_mutation(target: Target, until: float, attempt: Callable[[bytes], None], seed: int) -> None:
    chance = random.Random(seed)
    if seed == 0:
        for one in target.seeds:
            attempt(one)
    while time.monotonic() < until:
        attempt(mutated(chance, target.seeds))


def by_hypothesis(target: Target, until: float, attempt: Callable[[bytes], None], seed: int) -> None:
    """Structures: YAML and JSON trees, texts of every script, and bytes."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    chance = random.Random(seed)
    words = sorted({word.strip(b"{}[]:,\"'") for one in target.seeds for word in one[:20_000].split()[:400]} - {b""})
    texts = st.one_of(st.text(max_size=30), st.sampled_from(words).map(lambda word: word.decode("utf-8", "replace")))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
    trees = st.recursive(scalars, lambda below: st.lists(below, max_size=5) | st.dictionaries(texts, below, max_size=5))
    inputs = st.one_of(
        st.binary(max_size=300),
        texts.map(str.encode),
        trees.map(lambda tree: json.dumps(tree).encode()),
        st.lists(st.sampled_from(words), max_size=20).map(b" ".join),
        st.tuples(st.sampled_from(target.seeds), st.binary(max_size=20), st.integers(0, 200)).map(
            lambda three: three[0][: three[2]] + three[1] + three[0][three[2] + len(three[1]) :]
        ),
    )
    while time.monotonic() < until:

        @seeded(chance.randrange(2**32))
        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def some(data: bytes) -> None:
            if time.monotonic() < until:
                attempt(data)

        some()


def by_atheris(target: Target, until: float, attempt: Callable[[bytes], None], seed: int) -> None:
    """It ends the process when the time is over."""
    import atheris

    corpus = scratch()
    for number, one in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(one)
    seconds = max(1, round(until - time.monotonic()))
    options = [f"-max_total_time={seconds}", "-max_len=8192", f"-seed={seed + 1}", "-rss_limit_mb=0", "-timeout=100"]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", "-close_fd_mask=3", str(corpus)], attempt)
    atheris.Fuzz()


ENGINES = {"mutation": by_mutation, "hypothesis": by_hypothesis, "atheris": by_atheris}


# --- worker and watchdog ----------------------------------------------------------------------------------------------


def work(name: str, engine: str, seconds: float, seed: int, out: Connection) -> None:
    """In the process of a target: tell each input, then what became of it."""
    from assistant.errors import AssistantError

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # native libraries complain there of every input
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["assistant"]):
            target = TARGETS[name]()
    else:
        target = TARGETS[name]()

    def attempt(data: bytes) -> None:
        out.send_bytes(b"i" + data)
        try:
            target.run(data)
        except AssistantError:
            out.send_bytes(b"refused")
        except Exception:
            out.send_bytes(b"crash" + traceback.format_exc()[-3000:].encode(errors="replace"))
        else:
            out.send_bytes(b"taken")

    out.send_bytes(b"ready")
    ENGINES[engine](target, time.monotonic() + seconds, attempt, seed)


def watched(name: str, engine: str, seconds: float, keep: Path) -> Counter[str]:
    """Run a target for so long, again after each death and hang; what became of the inputs."""
    counts: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    until = time.monotonic() + seconds
    starts = 0
    while time.monotonic() < until and starts < 20:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=work, args=(name, engine, max(1.0, until - time.monotonic()), starts, sender), daemon=True
        )
        process.start()
        sender.close()
        starts += 1
        outstanding: bytes | None = None
        while (message := _message(receiver, START if outstanding is None else LIMIT)) is not None:
            kind = message[:1]
            if message == b"ready":
                until = max(until, time.monotonic() + seconds) if starts == 1 else until  # imports do not count
            elif kind == b"i":
                outstanding = message[1:]
            else:
                counts["inputs"] += 1
                if message.startswith(b"crash"):
                    counts["crashes"] += 1
                    _keep(keep, name, "crash", outstanding or b"", message[5:].decode(errors="replace"))
                else:
                    counts[message.decode()] += 1
                outstanding = None
        hangs = process.is_alive() and outstanding is not None
        process.join(2.0 if not hangs else 0.0)
        code = process.exitcode
        process.kill()
        process.join()
        if outstanding is not None:
            counts["inputs"] += 1
            counts["hangs" if hangs else "crashes"] += 1
            _keep(keep, name, "hang" if hangs else "death", outstanding, f"exit code {code}")
        elif code:
            print(f"{name} ({engine}): the worker ended with {code}", file=sys.stderr)
            break
    return counts


def _message(receiver: Connection, patience: float) -> bytes | None:
    """What a worker tells next; None at its end, and when it says nothing for too long."""
    try:
        return receiver.recv_bytes() if receiver.poll(patience) else None
    except EOFError:
        return None


def _keep(folder: Path, name: str, what: str, data: bytes, told: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name.replace(' ', '-').replace(',', '')}-{what}-{len(list(folder.iterdir()))}"
    stem.with_suffix(".input").write_bytes(data)
    stem.with_suffix(".txt").write_text(told)
    print(f"{name}: {what}: {stem}.input\n{told}", file=sys.stderr)


def main() -> None:
    """Fuzz every target."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=300.0, help="in all, shared by the targets")
    arguments.add_argument("--target", action="append", choices=list(TARGETS), help="only this one")
    arguments.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "kikimimi-fuzz")
    options = arguments.parse_args()
    names = options.target or list(TARGETS)
    engines = [name for name in ENGINES if name != "atheris" or find_spec("atheris")]
    runs = [(name, engine) for name in names for engine in engines if engine != "atheris" or name in TRACED]
    total: dict[str, dict[str, int]] = {}
    print(f"{'target':22}{'inputs':>10}{'taken':>10}{'refused':>10}{'crashes':>9}{'hangs':>7}  engines")
    for name in names:
        counts: Counter[str] = Counter()
        used = [engine for one, engine in runs if one == name]
        for engine in used:
            counts += watched(name, engine, options.seconds / len(runs), options.keep)
        row = {key: counts[key] for key in ("inputs", "taken", "refused", "crashes", "hangs")}
        total[name] = row
        print(
            f"{name:22}{row['inputs']:10}{row['taken']:10}{row['refused']:10}{row['crashes']:9}{row['hangs']:7}", end=""
        )
        print(f"  {', '.join(used)}", flush=True)
    whole = {key: sum(row[key] for row in total.values()) for key in ("inputs", "crashes", "hangs")}
    print(json.dumps({"benchmark": "fuzz", **whole, "seconds": options.seconds, "targets": total}))
    if whole["crashes"] or whole["hangs"] or not all(row["inputs"] for row in total.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
