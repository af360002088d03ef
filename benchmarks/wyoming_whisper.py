"""Our daemon and wyoming-faster-whisper on the same clips, weights and threads, both asked over the Wyoming protocol.

    python benchmarks/wyoming_whisper.py AUDIO --rival VENV/bin/python [--model tiny.en|base]

VENV is a virtual environment with wyoming-faster-whisper. AUDIO holds `manifest.csv` and `clips/`: its English clips
with a transcript are sent whole, each to one server and then to the other, in turn the first. Both: int8, one thread,
greedy, English. The time is that from `audio-stop` to `transcript`; memory is that of the whole process afterwards and
at its peak: of ours with everything else that a daemon does (sound tagging, MQTT broker, history, page), or
with `--speech-only` without history, page, voices and discovery: the fair pair of a server that only recognises.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import yaml
from speech import edits, quantile, words
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from assistant.models import store

HERE = Path(__file__).resolve().parent.parent
CHUNK = 2048  # bytes, as Home Assistant sends them
FORMAT = {"rate": 16_000, "width": 2, "channels": 1}


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def ours(model: str, folder: Path, port: int, *, speech_only: bool) -> subprocess.Popen[bytes]:
    """A daemon whose only room is a pipe that stays quiet."""
    config = {
        "rooms": {"home": {"source": "-"}},
        "speech": {"model": model, "languages": ["en"], "threads": 1},
        "wyoming": {"port": port, "zeroconf": False},
        "broker": {"port": free_port()},
        "web": {"port": free_port()},
    }
    if speech_only:
        config |= {name: {"enabled": False} for name in ("web", "history", "say")} | {
            "homeassistant": {"discovery": False}
        }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(HERE), "XDG_STATE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [sys.executable, "-m", "assistant.cli", "run", "-c", str(file)]
    log = (folder / "ours.log").open("wb")
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd=HERE)


def theirs(python: str, weights: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The rival with the same weights."""
    options = ["--model", str(weights), "--uri", f"tcp://127.0.0.1:{port}", "--data-dir", str(folder)]
    options += ["--language", "en", "--device", "cpu", "--compute-type", "int8", "--beam-size", "1"]
    options += ["--cpu-threads", "1"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = (folder / "theirs.log").open("wb")
    command = [python, "-m", "wyoming_faster_whisper", *options]
    return subprocess.Popen(command, stdout=log, stderr=log, env=env)


async def ask(port: int, pcm: bytes) -> tuple[str, float]:
    """The text of one clip, and the milliseconds from its end until it was there."""
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(60):
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(**FORMAT).event())
        for first in range(0, len(pcm), CHUNK):
            await client.write_event(AudioChunk(audio=pcm[first : first + CHUNK], **FORMAT).event())
        await client.write_event(AudioStop().event())
        begun = time.perf_counter()
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text, 1e3 * (time.perf_counter() - begun)
    raise ConnectionError("the server closed the connection")


async def until_ready(port: int, pcm: bytes) -> None:
    """Ask until an answer comes: the models are loaded then, and warm."""
    for _ in range(120):
        try:
            if (await ask(port, pcm))[0]:
                return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(0.5)
    sys.exit(f"nothing answers on port {port}")


def memory(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Megabytes now and at the peak."""
    lines = Path(f"/proc/{process.pid}/status").read_text("ascii").splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"rss_mb": round(kilobytes["VmRSS"] / 1e3), "peak_mb": round(kilobytes["VmHWM"] / 1e3)}


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--rival", required=True, help="its Python")
    parser.add_argument("--model", default="tiny.en", choices=("tiny.en", "base"))
    parser.add_argument(
        "--speech-only", action="store_true", help="our daemon without history, page, voices, discovery"
    )
    parser.add_argument("--verbose", action="store_true", help="print what either read wrongly")
    options = parser.parse_args()
    weights = store.pull(f"whisper-{options.model}")
    with (options.audio / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["language"] == "en" and row["transcript"]]
    clips = [
        (row["transcript"], soundfile.read(options.audio / row["file"], dtype="int16")[0].tobytes()) for row in rows
    ]
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    wrong = {"ours": 0, "theirs": 0}
    with tempfile.TemporaryDirectory() as name:
        ports = {"ours": free_port(), "theirs": free_port()}
        servers = {"ours": ours(options.model, Path(name), ports["ours"], speech_only=options.speech_only)}
        servers["theirs"] = theirs(options.rival, weights, Path(name), ports["theirs"])
        try:
            longest = max((pcm for _, pcm in clips), key=len)
            for who in servers:
                await until_ready(ports[who], longest)
            for turn, (truth, pcm) in enumerate(clips):
                for who in list(servers) if turn % 2 else list(servers)[::-1]:
                    text, milliseconds = await ask(ports[who], pcm)
                    taken[who].append(milliseconds)
                    errors = edits(words(truth), words(text))
                    wrong[who] += errors
                    if errors and options.verbose:
                        print(f"  {who} {errors}: {truth!r} read as {text!r}")
            used = {who: memory(server) for who, server in servers.items()}
        finally:
            for server in servers.values():
                server.terminate()
                server.wait(20)
    total = sum(len(words(truth)) for truth, _ in clips)
    results = {
        who: {
            "ms_median": quantile(sorted(taken[who]), 0.5),
            "ms_p95": quantile(sorted(taken[who]), 0.95),
            "word_errors": wrong[who],
            **used[who],
        }
        for who in servers
    }
    for who, figures in results.items():
        print(who, figures)
    print(json.dumps({"model": options.model, "clips": len(clips), "words": total, **results}))


if __name__ == "__main__":
    asyncio.run(main())
