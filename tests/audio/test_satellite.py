"""Satellites as sources: simulated ones over real TCP, and peers that mean no good."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import numpy as np
import pytest
from satellites import satellite
from test_app import until
from test_app_commands import spoken

from assistant.audio import satellite as module
from assistant.audio.satellite import Piece, Satellite, Stretches
from assistant.audio.source import SourceStats
from assistant.commanding import Turns
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Chunk, Cut, Samples, Utterance
from assistant.segment.activity import Activity
from assistant.segment.speech import Phase, Speech
from assistant.synthesis import tone
from assistant.voices.voice import Spoken

OKAY = b'{"type": "info", "data": {"satellite": {"name": "s"}}}\n'


class Hearer:
    """What the pipeline does with a source, as far as a satellite notices: it cuts utterances and tells of voices."""

    def __init__(self, port: int) -> None:
        self.source = Satellite("kitchen", f"wyoming://127.0.0.1:{port}")
        self.source.on_wake = lambda position, word: self.woken.append((position, word))
        self.source.on_ready = lambda: self.ready.append(time.monotonic())
        self.ready: list[float] = []
        self.woken: list[tuple[int, str]] = []
        self.chunks: list[Chunk] = []
        self.utterances: list[Utterance] = []
        self.error: SourceError | None = None

    @property
    def samples(self) -> Samples:
        return np.concatenate([chunk.samples for chunk in self.chunks] or [np.zeros(0, np.float32)])

    async def run(self) -> None:
        activity, speech, speaking = Activity(), Speech(), False
        try:
            async with aclosing(self.source.chunks()) as chunks:
                async for chunk in chunks:
                    self.chunks.append(chunk)
                    self.utterances += speech.feed(chunk, activity.feed(chunk))
                    if speaking is not (speech.phase is not Phase.QUIET):
                        speaking = not speaking
                        (self.source.voice_started if speaking else self.source.voice_stopped)(chunk.end)
        except SourceError as error:
            self.error = error


@asynccontextmanager
async def hearing(port: int) -> AsyncIterator[Hearer]:
    hearer = Hearer(port)
    task = asyncio.create_task(hearer.run())
    try:
        yield hearer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(100):  # the generator is closed by the loop, soon
            left = {one for one in asyncio.all_tasks() if one.get_name().startswith("satellite")}
            if not left:
                break
            await asyncio.sleep(0.02)
        assert not left


@asynccontextmanager
async def peer(*lines: bytes, after: bytes = b"", hold: bool = True) -> AsyncIterator[int]:
    """Somebody who says `lines` once asked, then `after` once told to run, then stays if `hold`. Gives the port."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await reader.readline()
            writer.writelines(lines)
            while after and b"run-satellite" not in await reader.readline():
                pass
            writer.write(after)
            await writer.drain()
            await asyncio.sleep(10.0 if hold else 0.0)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def ended(port: int, within: float = 5.0) -> str:
    """Why hearing a peer ends."""
    hearer = Hearer(port)
    await asyncio.wait_for(hearer.run(), within)
    assert hearer.error is not None
    assert f"127.0.0.1:{port}" in str(hearer.error)
    assert "remedy:" in str(hearer.error)
    return str(hearer.error)


def chunk_event(payload: bytes, rate: object = 16_000, width: object = 2, channels: object = 1) -> bytes:
    data = {"rate": rate, "width": width, "channels": channels}
    return json.dumps({"type": "audio-chunk", "data": data, "payload_length": len(payload)}).encode() + b"\n" + payload


def correlation(heard: Samples, said: Samples) -> float:
    """The best correlation of `said` with any stretch of `heard`."""
    if len(heard) < len(said):
        return 0.0
    size = 1 << (len(heard) + len(said)).bit_length()
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)
    at = int(product[: len(heard) - len(said) + 1].argmax())
    part = heard[at : at + len(said)]
    return float(part @ said / (np.linalg.norm(part) * np.linalg.norm(said) + 1e-9))


async def test_one_that_always_streams_is_heard_whole() -> None:
    said = await spoken("The kettle is on")
    async with satellite("always", speed=8.0) as simulated, hearing(simulated.port) as hearer:
        assert isinstance(hearer.source, Turns)
        await until(lambda: simulated.streaming)
        simulated.say(said)
        await until(lambda: hearer.utterances)
        (utterance,) = hearer.utterances
        assert utterance.cut is Cut.ENDPOINT
        assert correlation(utterance.samples, said[2_000:-4_000]) > 0.98
        ends = [chunk.end for chunk in hearer.chunks]
        assert [chunk.start for chunk in hearer.chunks[1:]] == ends[:-1]
        assert hearer.source.stats.lost_seconds == 0
    assert simulated.events("pause-satellite")  # nobody listens any more


async def test_one_that_streams_after_a_voice_is_heard_from_before_the_voice() -> None:
    said = await spoken("Turn on the kitchen light")
    async with satellite("vad") as simulated, hearing(simulated.port) as hearer:
        await until(lambda: simulated.served)
        assert hearer.ready and not hearer.chunks
        await asyncio.sleep(0.5)
        spoken_at = time.time()
        simulated.say(said)
        await until(lambda: hearer.utterances)
        assert correlation(hearer.samples, said) > 0.98
        # Where and when: the pause before counts, and what was kept from before the voice is not told as later.
        heard_at = hearer.utterances[0].start
        first = next(chunk for chunk in hearer.chunks if chunk.end > heard_at)
        assert abs(first.time - spoken_at) < 0.7
        assert first.start > 0
        assert simulated.streaming
        hearer.source.turn_ended("turn on the kitchen light")
        await until(lambda: not simulated.streaming)
        assert simulated.events("transcript")[0].data["text"] == "turn on the kitchen light"
        assert not simulated.events("voice-started")  # nobody had asked for it
        assert hearer.source.stats.lost_seconds == 0


async def test_one_that_hears_wake_words_itself_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.4)
    said = await spoken("Turn on the light")
    async with satellite("wake") as simulated, hearing(simulated.port) as hearer:
        await until(lambda: simulated.served)
        await asyncio.sleep(0.3)
        await simulated.wake("okay_nabu")
        simulated.say(said)
        await until(lambda: hearer.utterances)
        ((position, word),) = hearer.woken
        assert word == "okay_nabu"
        assert abs(hearer.chunks[0].start - position) < 0.3 * SAMPLE_RATE
        assert position <= hearer.utterances[0].start + 0.4 * SAMPLE_RATE
        hearer.source.turn_ended("turn on the light")
        await until(lambda: not simulated.streaming)
        kinds = [event.type for _, event in simulated.told]
        turn = ["transcribe", "voice-started", "voice-stopped", "transcript"]
        assert [kind for kind in kinds if kind not in {"ping", "describe", "run-satellite"}] == turn
        await asyncio.sleep(0.5)
        await simulated.wake("hey_jarvis")
        await until(lambda: len(hearer.woken) == 2)
        assert hearer.woken[1][0] > position + 1.5 * SAMPLE_RATE


async def test_an_utterance_ends_when_its_satellite_stops_streaming() -> None:
    said = await spoken("What is the weather like in the town today")
    async with satellite("wake") as simulated, hearing(simulated.port) as hearer:
        await until(lambda: simulated.served)
        await simulated.wake("okay_nabu")
        simulated.say(np.tile(said, 4))
        await until(lambda: hearer.source._speaking)
        await asyncio.sleep(0.6)
        stopped = time.monotonic()
        simulated.streaming = False  # and it says nothing: some do not
        await until(lambda: hearer.utterances, 3.0)
        assert time.monotonic() - stopped < 2.0
        assert hearer.utterances[0].cut is Cut.ENDPOINT


async def test_its_position_goes_on_while_it_streams_nothing() -> None:
    async with satellite("vad") as simulated, hearing(simulated.port) as hearer:
        assert hearer.source.position() == 0
        await until(lambda: simulated.served)
        before = hearer.source.position()
        await asyncio.sleep(0.5)
        assert 0.4 * SAMPLE_RATE < hearer.source.position() - before < 0.8 * SAMPLE_RATE


async def test_what_it_repeats_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    stops = b'{"type": "audio-stop"}\n' * 1_000
    wakes = b"".join(
        b'{"type": "detection", "data": {"name": "w%d\\nroot: alarm"}}\n' % number for number in range(100)
    )
    async with peer(OKAY, after=stops + wakes) as port, hearing(port) as hearer:
        await until(lambda: len(hearer.woken) == 100)
        assert hearer.source.stats.overruns == 0
        assert hearer.woken[0][1] == "w0root: alarm"
    (line,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert line.startswith(f"wyoming://127.0.0.1:{port}: takes nothing")


async def test_a_turn_in_which_nobody_speaks_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0.3)
    async with satellite("wake") as simulated, hearing(simulated.port):
        await until(lambda: simulated.served)
        await simulated.wake("okay_nabu")
        await until(lambda: not simulated.streaming, 2.0)
        assert [event.data["text"] for event in simulated.events("transcript")] == [""]


async def test_a_reply_is_played_in_pieces_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAYED_SECONDS", 0.5)
    speech = Spoken(0.3 * tone(1_000.0, 0.7), SAMPLE_RATE)
    async with satellite("wake") as simulated, hearing(simulated.port) as hearer:
        await until(lambda: simulated.served)
        began = time.monotonic()
        await hearer.source.play(speech)
        took = time.monotonic() - began
        assert 0.2 < took < 0.6  # sent a little ahead, and the simulated one plays as fast as it gets it
        pieces = simulated.events("audio-chunk")
        assert len(pieces) == 7
        played = np.frombuffer(b"".join(piece.payload or b"" for piece in pieces), "<i2") / 32_767
        assert np.abs(played - speech.samples).max() < 1e-3
        simulated.plays = False
        began = time.monotonic()
        await hearer.source.play(speech)
        assert 1.1 < time.monotonic() - began < 1.5
        playing = asyncio.create_task(hearer.source.play(speech))
        await asyncio.sleep(0.2)
        playing.cancel()  # barge-in
        await asyncio.gather(playing, return_exceptions=True)
        await until(lambda: len(simulated.events("audio-stop")) == 3)
        assert len(simulated.events("audio-chunk")) < 21
        playing = asyncio.create_task(hearer.source.play(speech))
        await asyncio.sleep(0.2)
        await simulated.kill()
        with pytest.raises(SourceError, match="remedy"):
            await playing
        await simulated.start()
    with pytest.raises(SourceError, match="not connected"):
        await hearer.source.play(speech)


async def test_one_that_is_killed_twenty_times_is_heard_whole_after_each() -> None:
    said = (0.3 * np.random.default_rng(5).standard_normal(SAMPLE_RATE // 2)).clip(-1, 1).astype(np.float32)
    before = len(asyncio.all_tasks())
    async with satellite("always", speed=20.0) as simulated:
        for _ in range(20):
            async with hearing(simulated.port) as hearer:
                await until(lambda: simulated.streaming)
                simulated.say(said)
                await until(lambda: simulated.quiet)
                await until(lambda h=hearer: correlation(h.samples, said) > 0.99)
                await simulated.kill()
                await until(lambda h=hearer: h.error is not None)
                assert "closed" in str(hearer.error) or "broke" in str(hearer.error)
            await simulated.start()
        assert simulated.served == 20
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == before


async def test_one_that_does_not_pong_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.PING_SECONDS + module.PONG_SECONDS < 8.0
    monkeypatch.setattr(module, "PING_SECONDS", 0.1)
    monkeypatch.setattr(module, "PONG_SECONDS", 0.3)
    async with satellite("wake") as simulated, hearing(simulated.port) as hearer:
        await until(lambda: len(simulated.events("ping")) > 2)
        assert hearer.error is None
        simulated.pongs = False
        await until(lambda: hearer.error is not None, 2.0)
        assert "no pong" in str(hearer.error)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (b"\x00\xff\xfe garbage \n", "not JSON"),
        (b"[1, 2]\n", "no object"),
        (b'{"data": {}}\n', "without type"),
        (b'{"type": "x", "payload_length": "many"}\n', "no numbers"),
        (b'{"type": "audio-chunk", "payload_length": 900000000}\n', "claims 0 bytes of data and 900000000"),
        (b'{"type": "x", "data_length": 4}\nnope', "not JSON"),
        (b"{" * 100_000, "over 65536 bytes"),
        (chunk_event(b"12", rate=99), "99 Hz"),
        (chunk_event(b"12", width=7), "7 bytes"),
        (chunk_event(b"12", channels="two"), "whole numbers"),
        (b'{"type": "audio-start", "data": {"rate": 16000}}\n', "audio-start: rate, width and channels"),
        (b'{"type": "detection", "data": {"name": 5}}\n', "name is no text"),
    ],
)
async def test_what_cannot_be_read_ends_it_with_the_reason(after: bytes, reason: str) -> None:
    async with peer(OKAY, after=after) as port:
        assert reason in await ended(port)


async def test_peers_that_are_no_satellites_are_told_from_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INFO_SECONDS", 0.3)
    monkeypatch.setattr(module, "BODY_SECONDS", 0.3)
    async with peer(b'{"type": "info", "data": {"asr": [{"name": "w"}], "satellite": null}}\n') as port:
        assert "it offers asr" in await ended(port)
    async with peer(b'{"type": "pong"}\n') as port:
        assert "does not say what it is" in await ended(port)
    async with peer(hold=False) as port:
        assert "closed the connection" in await ended(port)
    async with peer(b'{"type": "in', hold=False) as port:
        assert "middle of an event" in await ended(port)
    async with peer(OKAY, after=b'{"type": "audio-chunk", "payload_length": 100}\nabc', hold=False) as port:
        reason = await ended(port)
        assert "middle of an event" in reason or "broke" in reason  # a reset, when it had not read our ping
    async with peer(OKAY, after=b'{"type": "audio-chunk", "payload_length": 100}\nabc') as port:
        assert "did not come within" in await ended(port)
    assert "cannot be reached" in await ended(port)
    for address, reason in (("wyoming://h:no", "is no address"), ("wyoming://", "names no host")):
        with pytest.raises(SourceError, match=reason):
            await anext(Satellite("r", address).chunks())


async def test_audio_of_any_format_is_converted() -> None:
    times = np.arange(44_100) / 44_100
    sound = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    stereo = np.repeat((sound * (2**31 - 1)).astype("<i4"), 2).tobytes()
    cut = [stereo[first : first + 10_007] for first in range(0, len(stereo), 10_007)]  # within frames
    start = b'{"type": "audio-start", "data": {"rate": 44100, "width": 4, "channels": 2}}\n'
    unknown = b'{"type": "something-new", "data": {"x": [1]}}\n'
    after = start + unknown + b"".join(chunk_event(one, 44_100, 4, 2) for one in cut)
    async with peer(OKAY, after=after) as port, hearing(port) as hearer:
        await until(lambda: len(hearer.samples) > 0.95 * SAMPLE_RATE)
        assert correlation(hearer.samples, 0.5 * tone(440.0, 0.9)) > 0.99


async def test_errors_of_a_satellite_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    error = b'{"type": "error", "data": {"text": "no\\nmicrophone"}}\n'
    async with peer(OKAY, after=1_000 * error + chunk_event(b"\x01\x00" * 2_000)) as port, hearing(port) as hearer:
        await until(lambda: hearer.chunks)
    assert [record.getMessage() for record in caplog.records] == [
        f"wyoming://127.0.0.1:{port}: the satellite tells an error: 'no\\nmicrophone'"
    ]


async def test_a_flood_is_shed_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    piece = chunk_event(b"\x01\x00" * 32_000)
    async with peer(OKAY, after=450 * piece) as port:  # of which at most 200 are taken at once, and 200 wait
        source = Satellite("r", f"wyoming://127.0.0.1:{port}")
        with caplog.at_level(logging.WARNING):
            async with aclosing(source.chunks()) as chunks:
                taken = len((await anext(chunks)).samples)
                await until(lambda: caplog.records, 60)  # whoever takes the chunks is slow; so may be the flood
                while taken / SAMPLE_RATE + source.stats.lost_seconds < 899:
                    taken += len((await anext(chunks)).samples)
    assert source.stats.overruns > 0
    assert source.stats.lost_seconds == 2 * source.stats.overruns
    assert 1 <= len(caplog.records) < 5


def test_stretches_keep_one_clock() -> None:
    stretches = Stretches("r", "s", SourceStats())
    second = Piece(b"\x01\x00" * SAMPLE_RATE, (SAMPLE_RATE, 2, 1))
    assert stretches.patience(0.0) is None
    chunks = [*stretches.begin([second], 10.0)]
    assert chunks[0].start == 9 * SAMPLE_RATE  # what was kept before the voice is as old as it is
    assert stretches.patience(10.2) == pytest.approx(0.8)
    assert stretches.position(10.5) == 10 * SAMPLE_RATE
    now = 11.0
    while stretches.patience(now) is not None:
        chunks += stretches.pad(now)
        now += 0.08
    assert chunks[-1].end == pytest.approx(15 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    assert all(one.end == other.start for one, other in pairwise(chunks))
    assert stretches.position(60.0) == 60 * SAMPLE_RATE
    more = [*stretches.begin([second], 60.0)]
    assert more[0].start == 59 * SAMPLE_RATE
    assert more[0].time - chunks[0].time == pytest.approx(50.0)
    silent = [*stretches.stop(60.1, lambda: True)]
    assert sum(len(chunk.samples) for chunk in silent) == pytest.approx(4.1 * SAMPLE_RATE, abs=2_000)
    late = [*stretches.begin([second], 61.5)]
    assert late[0].start == silent[-1].end  # never back
