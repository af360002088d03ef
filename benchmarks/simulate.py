"""How many rooms one model server carries: rooms that speak at random, more and more of them, until answers come late.

    python benchmarks/simulate.py [CLIP…] [--url http://HOST:8766/v1] [--token T] [--utterances 20] [--questions 0]

Each room says `--utterances` commands an hour and asks `--questions` questions about a clip, at random moments
(Poisson), whether the server is done with the others or not: that is what rooms do. CLIPs are short commands (WAV);
without any, espeak-ng reads some. Without `--url` a `kikimimi serve` with the small models is started for the time of
the run. The number of rooms is doubled (or halved) until the 95th percentile of the answers is later than `--deadline`
or one in a hundred fails; the knee is then searched between the last two numbers. Only requests are simulated: what a
room costs its own machine is measured by benchmarks/rooms.py. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import soundfile

from assistant.demo_recording import spoken
from assistant.events import SAMPLE_RATE

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
SAID = (
    "turn on the kitchen light",
    "stop",
    "set the heating to twenty one degrees",
    "what time is it",
    "close the blinds in the bedroom please",
)
FAILURES = 0.01  # share of requests without an answer that still is one in time
LEAST = 40  # requests that a percentile is taken of
PATIENCE = 30.0  # seconds after which a room waits no longer
CLOSE = 1.15  # ratio between too many rooms and enough at which the search ends


@dataclass(slots=True)
class Found:
    """What some number of rooms saw."""

    rooms: int
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    cpu: float = 0.0  # seconds of the server's processor time
    lasted: float = 0.0

    def percentile(self, q: float) -> float:
        """Seconds; one that failed took for ever."""
        times = self.took + [float("inf")] * self.failed.total()
        return float(np.percentile(times, q, method="higher"))

    def carried(self, deadline: float) -> bool:
        """Whether so many rooms are served well."""
        return self.failed.total() <= FAILURES * self.asked and self.percentile(95) <= deadline

    def line(self) -> dict[str, object]:
        """Rounded figures."""
        return {
            "rooms": self.rooms,
            "asked": self.asked,
            "failed": dict(self.failed),
            "p50_s": None if self.percentile(50) == float("inf") else round(self.percentile(50), 3),
            "p95_s": None if self.percentile(95) == float("inf") else round(self.percentile(95), 3),
            "requests_a_second": round(self.asked / self.lasted, 2),
            "server_cores": round(self.cpu / self.lasted, 2),
        }


async def ask(client: httpx2.AsyncClient, clip: bytes, question: bool, found: Found) -> None:
    """One room asks one thing."""
    began = time.monotonic()
    try:
        if question:
            audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(clip).decode(), "format": "wav"}}
            text = {"type": "text", "text": "What is heard?"}
            body = {
                "model": "qwen-audio-chat",
                "max_tokens": 32,
                "messages": [{"role": "user", "content": [audio, text]}],
            }
            response = await client.post("chat/completions", json=body)
        else:
            form = {"model": "whisper-base", "language": "en"}
            response = await client.post("audio/transcriptions", data=form, files={"file": ("a.wav", clip)})
    except httpx2.HTTPError as error:
        found.failed[type(error).__name__] += 1
        return
    if response.status_code == 200:
        found.took.append(time.monotonic() - began)
    else:
        found.failed[f"HTTP {response.status_code}"] += 1


async def rooms(client: httpx2.AsyncClient, clips: list[bytes], count: int, arguments: argparse.Namespace) -> Found:
    """So many rooms for a while."""
    found = Found(count)
    chance = random.Random(count)
    an_hour = count * (arguments.utterances + arguments.questions)
    seconds = max(arguments.seconds, LEAST * 3600 / an_hour)
    cpu, began = processor_time(arguments.pid), time.monotonic()
    at = began
    async with asyncio.TaskGroup() as group:
        while (at := at + chance.expovariate(an_hour / 3600)) < began + seconds:
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            question = chance.random() < arguments.questions / (arguments.utterances + arguments.questions)
            found.asked += 1
            group.create_task(ask(client, chance.choice(clips), question, found))
    found.lasted = time.monotonic() - began
    found.cpu = processor_time(arguments.pid) - cpu
    print(json.dumps(found.line()), flush=True)
    return found


def processor_time(pid: int | None) -> float:
    """Seconds that a process has used (proc(5)); 0 for one that is elsewhere."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def knee(client: httpx2.AsyncClient, clips: list[bytes], arguments: argparse.Namespace) -> dict[str, object]:
    """The largest number of rooms that is served well, and what was seen at the next one."""
    good: Found | None = None
    bad: Found | None = None
    count = arguments.first
    while good is None or bad is None:
        found = await rooms(client, clips, count, arguments)
        if found.carried(arguments.deadline):
            good, count = found, 2 * count
        else:
            bad, count = found, count // 2
            await asyncio.sleep(5.0)  # what still waits in the server is none of the next number's affair
        if not count:
            break
    assert bad is not None
    while good is not None and bad.rooms > CLOSE * good.rooms:
        await asyncio.sleep(5.0)
        found = await rooms(client, clips, round((good.rooms * bad.rooms) ** 0.5), arguments)
        if found.carried(arguments.deadline):
            good = found
        else:
            bad = found
    return {
        "benchmark": "simulate",
        "cores": os.cpu_count(),
        "deadline_s": arguments.deadline,
        "an_hour_and_room": {"utterances": arguments.utterances, "questions": arguments.questions},
        "knee": None if good is None else good.line(),
        "beyond": bad.line(),
    }


@asynccontextmanager
async def server(arguments: argparse.Namespace) -> AsyncIterator[str]:
    """The address of the server that is asked."""
    if arguments.url is not None:
        yield arguments.url
        return
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        config = Path(folder) / "config.yaml"
        config.write_text(f"serve: {{port: {port}}}\n")
        process = started(config)
        arguments.pid = process.pid
        try:
            await until_healthy(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def started(config: Path) -> subprocess.Popen[bytes]:
    """A server as it is configured."""
    return subprocess.Popen([*KIKIMIMI, "serve", "-c", str(config)], stderr=subprocess.DEVNULL)


async def until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server's models."""
    async with httpx2.AsyncClient(timeout=2.0) as client:
        for _ in range(240):
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx2.HTTPError:
                pass
            if process.poll() is not None:
                break
            await asyncio.sleep(0.5)
    raise SystemExit("error: kikimimi serve did not start within two minutes; remedy: run it by hand and read its log")


def commands(paths: list[Path], folder: Path) -> list[bytes]:
    """The clips as WAV of 16 kHz."""
    if paths:
        return [path.read_bytes() for path in paths]
    clips = []
    for number, text in enumerate(SAID):
        path = folder / f"{number}.wav"
        soundfile.write(path, spoken(text, "en-us")[0], SAMPLE_RATE, subtype="PCM_16")
        clips.append(path.read_bytes())
    return clips


async def main() -> None:
    """Search the knee."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--url", help="of a server that runs, with /v1")
    parser.add_argument("--token", default="none")
    parser.add_argument("--utterances", type=float, default=20.0, help="an hour and room")
    parser.add_argument("--questions", type=float, default=0.0, help="an hour and room, for an audio language model")
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds within which 95 %% of the answers come")
    parser.add_argument("--seconds", type=float, default=30.0, help="at least, of each number of rooms")
    parser.add_argument("--first", type=int, default=200, help="number of rooms that is tried first")
    arguments = parser.parse_args()
    arguments.pid = None
    with tempfile.TemporaryDirectory() as folder:
        clips = commands(arguments.clips, Path(folder))
    async with server(arguments) as url:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
        headers = {"Authorization": f"Bearer {arguments.token}"}
        async with httpx2.AsyncClient(base_url=url + "/", headers=headers, timeout=PATIENCE, limits=limits) as client:
            await ask(client, clips[0], False, Found(0))  # the first is slow
            result = await knee(client, clips, arguments)
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
