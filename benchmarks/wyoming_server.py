"""Recordings through the real Wyoming server with the real models: errors, delay after `audio-stop`, `describe`.

    python benchmarks/wyoming_server.py AUDIO [--clips 20] [--at-once 1] [--real-time]

AUDIO holds `manifest.csv` (file, kind, label, transcript, language …); its English speech is sent over TCP by the
client of the `wyoming` package as 16-bit mono at 16 kHz, and the same files go through the pipeline of
`kikimimi listen`. Meanwhile `describe` is asked twenty times a second, each time over a new connection. The models are
those of `kikimimi models pull`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe

from assistant.config import Config
from assistant.events import SAMPLE_RATE, Event, Samples, Transcript
from assistant.listening import listen
from assistant.pipeline import Models
from assistant.startup import fetch_models, hearing_settings, load_models
from assistant.transcribing import transcribe
from assistant.voices.voice import Spoken
from assistant.wyoming_server import WyomingServer, WyomingSettings
from assistant.wyoming_services import Conversation

DIGITS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {str(number): word for number, word in enumerate(DIGITS.split())}
BLOCK = 1_024  # samples in a chunk, as Home Assistant's satellites send them


class Recognition:
    """Only speech recognition."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def transcribe(self, samples: Samples, language: str | None) -> Transcript:
        """The words."""
        return await transcribe(samples, language, self._models, hearing_settings(Config()))

    async def converse(self, text: str, language: str | None, *, device: str | None, area: str | None) -> Conversation:
        """Nothing."""
        return Conversation(handled=False)

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """Nothing."""
        raise NotImplementedError


class Texts:
    """Takes the place of a printer: the texts of what was heard."""

    closed = False

    def __init__(self) -> None:
        self.texts: list[str] = []

    def offer(self, item: Event) -> None:
        """Keep the text."""
        if item.text:
            self.texts.append(item.text)


def words(text: str) -> list[str]:
    """What counts as the same word."""
    plain = re.sub(r"[^\w' ]+", " ", text.lower().replace("-", " "))
    return [NUMBERS.get(word, word.strip("'")) for word in plain.split() if word.strip("'")]


def distance(truth: Sequence[str], heard: Sequence[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(heard) + 1))
    for i, said in enumerate(truth, 1):
        corner, row[0] = row[0], i
        for j, word in enumerate(heard, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (said != word))
    return row[-1]


def share(pairs: Sequence[tuple[str, str]]) -> float:
    """Word error rate over (truth, heard)."""
    errors = sum(distance(words(truth), words(heard)) for truth, heard in pairs)
    return round(errors / sum(len(words(truth)) for truth, _ in pairs), 4)


def quantile(values: Sequence[float], q: float) -> float:
    """In milliseconds."""
    return round(1000.0 * float(np.quantile(values, q)), 1)


async def ask(port: int, path: Path, *, real_time: bool) -> tuple[str, float]:
    """What the server says of a file, and how long after `audio-stop`."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    pcm = (soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE) * 32_767).astype("<i2").tobytes()
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(SAMPLE_RATE, 2, 1).event())
        for first in range(0, len(pcm), 2 * BLOCK):
            await client.write_event(AudioChunk(SAMPLE_RATE, 2, 1, pcm[first : first + 2 * BLOCK]).event())
            if real_time:
                await asyncio.sleep(BLOCK / SAMPLE_RATE)
        await client.write_event(AudioStop().event())
        began = time.perf_counter()
        async with asyncio.timeout(120):
            while (event := await client.read_event()) is not None:
                if event.type == "transcript":
                    return event.data["text"], time.perf_counter() - began
    raise RuntimeError(f"no transcript of {path}")


async def describe(port: int, delays: list[float]) -> None:
    """Ask for ever."""
    while True:
        began = time.perf_counter()
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Describe().event())
            await client.read_event()
        delays.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)


async def main() -> int:
    """Serve, ask, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--real-time", action="store_true", help="send as fast as it was spoken")
    given = parser.parse_args()
    with (given.audio / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "speech" and row["language"] == "en"]
    rows = [row for row in rows if row["transcript"]]
    rows = rows[:: max(1, len(rows) // given.clips)][: given.clips]
    models = await load_models(Config(), fetch_models(Config()))
    server = WyomingServer(WyomingSettings(port=0), Recognition(models), version="0", languages=("en",))
    serving = asyncio.create_task(server.run())
    await server.listening.wait()
    port, delays = server.port or 0, []
    describing = asyncio.create_task(describe(port, delays))
    gate = asyncio.Semaphore(given.at_once)

    async def one(row: dict[str, str]) -> tuple[str, float]:
        async with gate:
            return await ask(port, given.audio / row["file"], real_time=given.real_time)

    await ask(port, given.audio / rows[0]["file"], real_time=False)  # the first waits for the recogniser to load
    loading = len(delays)
    answers = await asyncio.gather(*(one(row) for row in rows))
    for task in (describing, serving):
        task.cancel()
    await asyncio.gather(describing, serving, return_exceptions=True)
    listened = []
    for row in rows:
        texts = Texts()
        await listen([str(given.audio / row["file"])], models, hearing_settings(Config()), texts)
        listened.append(" ".join(texts.texts))
    models.shutdown()
    for row, (text, _), other in zip(rows, answers, listened, strict=True):
        if words(text) != words(other):
            print(f"{row['file']}: {text!r} over Wyoming, {other!r} of listen", file=sys.stderr)
    after = [delay for _, delay in answers]
    figures = {
        "clips": len(rows),
        "at_once": given.at_once,
        "wer": share([(row["transcript"], text) for row, (text, _) in zip(rows, answers, strict=True)]),
        "wer_listen": share([(row["transcript"], text) for row, text in zip(rows, listened, strict=True)]),
        "transcript_ms": {"p50": quantile(after, 0.5), "p95": quantile(after, 0.95)},
        "describe_ms": {
            "n": len(delays),
            "p50": quantile(delays, 0.5),
            "p99": quantile(delays, 0.99),
            "worst": quantile(delays, 1.0),
            "worst_while_loading": quantile(delays[:loading], 1.0) if loading else None,
        },
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
