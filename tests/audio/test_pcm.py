from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from assistant.audio import pcm
from assistant.audio.pcm import Pcm
from assistant.errors import SourceError

AUDIO = (np.random.default_rng(0).uniform(-0.5, 0.5, 16000 * 10 + 321) * 32768).astype("<i2")


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def write_all(descriptor: int, data: bytes, step: int = 1_777, pause: float = 0.0) -> threading.Thread:
    def write() -> None:
        for at in range(0, len(data), step):
            os.write(descriptor, data[at : at + step])
            time.sleep(pause)
        os.close(descriptor)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


async def test_every_sample_arrives_at_a_slow_reader(pipe):
    reading, writing = pipe
    thread = write_all(writing, AUDIO.tobytes())
    samples = []
    async for chunk in Pcm("room", descriptor=reading).chunks():
        samples.append(chunk.samples)
        await asyncio.sleep(0.001)
    thread.join()
    assert np.array_equal(np.concatenate(samples), AUDIO.astype(np.float32) / 32768)


async def test_an_odd_byte_at_the_end_is_told(pipe, caplog):
    reading, writing = pipe
    write_all(writing, AUDIO[:1000].tobytes() + b"x", step=333)
    chunks = [chunk async for chunk in Pcm("room", descriptor=reading).chunks()]
    assert sum(len(chunk.samples) for chunk in chunks) == 1000
    assert "odd byte" in caplog.text


async def test_an_empty_pipe_ends(pipe):
    reading, writing = pipe
    os.close(writing)
    assert [chunk async for chunk in Pcm("room", descriptor=reading).chunks()] == []


async def test_a_silent_pipe_leaves_the_loop_alone_and_is_cancelled_at_once(pipe, monkeypatch):
    monkeypatch.setattr(pcm, "POLL_SECONDS", 0.05)
    reading, _ = pipe

    async def read() -> None:
        async for _ in Pcm("room", descriptor=reading).chunks():
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.3)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 0.1


async def test_a_closed_descriptor_is_an_error(pipe):
    reading, writing = pipe
    os.close(reading)
    os.close(writing)
    with pytest.raises(SourceError, match=r"stdin cannot be read.*remedy: arecord"):
        [chunk async for chunk in Pcm("room", descriptor=reading).chunks()]


async def test_a_terminal_is_an_error():
    controller, terminal = pty.openpty()
    try:
        with pytest.raises(SourceError, match="is a terminal; remedy"):
            [chunk async for chunk in Pcm("room", descriptor=terminal).chunks()]
    finally:
        os.close(controller)
        os.close(terminal)


async def test_a_wav_file_is_told_from_raw_audio(pipe):
    reading, writing = pipe
    write_all(writing, b"RIFF" + bytes(1000))
    with pytest.raises(SourceError, match=r"carries a WAV file.*remedy"):
        [chunk async for chunk in Pcm("room", descriptor=reading).chunks()]


SCRIPT = """
import asyncio
from assistant.audio.pcm import Pcm
async def main():
    print(sum([len(chunk.samples) async for chunk in Pcm("room", "-").chunks()]))
asyncio.run(main())
"""


def test_stdin_as_pipe_and_as_file(tmp_path):
    root = Path(pcm.__file__).parents[2]
    run = [sys.executable, "-c", SCRIPT]
    piped = subprocess.run(run, input=AUDIO.tobytes(), capture_output=True, cwd=root, timeout=30, check=True)
    (tmp_path / "a.raw").write_bytes(AUDIO.tobytes())
    with (tmp_path / "a.raw").open("rb") as file:
        redirected = subprocess.run(run, stdin=file, capture_output=True, cwd=root, timeout=30, check=True)
    assert int(piped.stdout) == int(redirected.stdout) == len(AUDIO)
