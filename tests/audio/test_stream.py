"""Streams from a real HTTP server on loopback. RTSP is not tested: no server for it is at hand."""

from __future__ import annotations

import asyncio
import base64
import http.server
import io
import logging
import socket
import threading
import time

import numpy as np
import pytest
import soundfile

from assistant.audio import stream
from assistant.audio.source import CHUNK, LATE_CHUNK
from assistant.audio.stream import Stream
from assistant.errors import SourceError


def tone(seconds: float, rate: int = 44100) -> bytes:
    audio = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    content = io.BytesIO()
    soundfile.write(content, np.stack([audio, audio], axis=1), rate, format="WAV")
    return content.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(b"me:secret").decode()
        if self.path.startswith("/private") and self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()
            return
        content = self.server.content
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        self.send_header("Content-Length", str(len(content) + self.server.missing))
        self.end_headers()
        try:
            self.wfile.write(content)
            self.server.stop.wait(self.server.hang)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        running.content, running.hang, running.missing, running.stop = tone(2.0), 0.0, 0, threading.Event()
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.stop.set()
        running.shutdown()


def url(server, path: str = "/a.wav", login: str = "") -> str:
    return f"http://{login}127.0.0.1:{server.server_port}{path}"


async def test_an_http_file_is_heard_whole_and_ends(server):
    source = Stream("room", url(server))
    chunks = [chunk async for chunk in source.chunks()]
    samples = np.concatenate([chunk.samples for chunk in chunks])
    assert len(samples) == pytest.approx(32000, abs=2)
    spectrum = np.abs(np.fft.rfft(samples[8000:24000]))
    assert spectrum.argmax() == 440
    assert source.stats.lost_seconds == source.stats.overruns == 0
    # The peer sends faster than in real time: what is there goes on together.
    assert all(len(chunk.samples) % CHUNK == 0 and len(chunk.samples) <= LATE_CHUNK for chunk in chunks[:-1])


async def test_a_peer_faster_than_real_time_is_held_back(server, monkeypatch):
    monkeypatch.setattr(stream, "LEAD_SECONDS", 0.5)
    began = time.monotonic()
    chunks = [chunk async for chunk in Stream("room", url(server)).chunks()]
    assert chunks[-1].end == pytest.approx(32000, abs=2)
    assert 1.2 < time.monotonic() - began < 4


async def test_a_consumer_too_slow_loses_audio_that_is_counted(server, monkeypatch):
    monkeypatch.setattr(stream, "HELD_FRAMES", 4)
    server.content = tone(1.0)
    source = Stream("room", url(server))
    chunks = []
    async for chunk in source.chunks():
        chunks.append(chunk)
        await asyncio.sleep(0.05)
    heard = sum(len(chunk.samples) for chunk in chunks) / 16000
    assert source.stats.overruns > 0
    assert heard + source.stats.lost_seconds == pytest.approx(1.0, abs=0.01)
    assert all(one.end <= two.start for one, two in zip(chunks, chunks[1:], strict=False))  # noqa: RUF007


async def test_login_works_and_is_never_told(server, caplog):
    caplog.set_level(logging.DEBUG)
    source = Stream("room", url(server, "/private.wav?token=hidden", "me:secret@"))
    chunks = [chunk async for chunk in source.chunks()]
    assert chunks[0].source == source.name == f"http://127.0.0.1:{server.server_port}/private.wav"
    with pytest.raises(SourceError, match="remedy") as failure:
        [chunk async for chunk in Stream("room", url(server, "/private.wav?token=hidden", "me:wrong@")).chunks()]
    told = str(failure.value) + caplog.text
    assert not any(secret in told for secret in ("secret", "wrong", "hidden", "me:"))


async def test_a_refused_connection_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SourceError, match=rf"http://127\.0\.0\.1:{port}/a: .*remedy"):
        [chunk async for chunk in Stream("room", f"http://me:secret@127.0.0.1:{port}/a").chunks()]


async def test_not_found_and_no_audio(server):
    server.content = None
    with pytest.raises(SourceError, match="remedy"):
        [chunk async for chunk in Stream("room", url(server)).chunks()]
    server.content = b"<html>no audio</html>" * 100
    with pytest.raises(SourceError, match="remedy"):
        [chunk async for chunk in Stream("room", url(server)).chunks()]


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
async def test_a_peer_that_accepts_and_hangs(scheme, monkeypatch):
    assert stream.OPEN_SECONDS < 10
    monkeypatch.setattr(stream, "OPEN_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(SourceError, match="remedy"):
            address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/a"
            [chunk async for chunk in Stream("room", address).chunks()]
    assert 0.9 < time.monotonic() - began < 3


async def test_a_stream_that_stalls(server, monkeypatch):
    assert stream.READ_SECONDS < 10
    monkeypatch.setattr(stream, "READ_SECONDS", 1.0)
    monkeypatch.setattr(stream, "LEAD_SECONDS", 60.0)
    server.content, server.hang, server.missing = tone(7.0)[:-150_000], 30.0, 150_000
    began = time.monotonic()
    heard = 0
    with pytest.raises(SourceError, match="remedy"):
        async for chunk in Stream("room", url(server)).chunks():
            heard = chunk.end
    assert heard > 16000
    assert time.monotonic() - began < 6


async def test_cancelling_does_not_wait_for_the_peer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        chunks = Stream("room", f"http://127.0.0.1:{silent.getsockname()[1]}/a").chunks()
        task = asyncio.create_task(anext(chunks))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - began < 0.2


@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
async def test_a_peer_cannot_have_us_hear_our_own_files(kind: str, server, tmp_path) -> None:
    (tmp_path / "own.wav").write_bytes(tone(2.0))
    own = f"file://{tmp_path}/own.wav"
    server.content = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{own}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{own}'\n",
    }[kind].encode()
    with pytest.raises(SourceError):
        async for _ in Stream("room", url(server, f"/list.{kind}")).chunks():
            pass
