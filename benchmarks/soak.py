"""Whether the daemon grows: hours of the long recordings, looped, faster than real time, into the whole daemon.

    python benchmarks/soak.py AUDIO [--hours 8] [--speed 20] [--config FILE]

`AUDIO/long/*.flac` go in turn, as raw PCM, into `kikimimi run --source hall=-` at `--speed`, with speech, history and a
broker of its own. Memory, open files, threads and tasks are read from its health figures, the disk from its state
folder. Ends in one JSON line: figures at the start, after ten minutes of audio, every hour of it, and at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
PIECE = RATE  # samples written at once: a second
FIGURES = ("rss_mb", "open_files", "threads", "tasks", "events", "dropped_s_total", "model_errors", "history_mb")


def health(log: bytes) -> list[dict[str, float]]:
    """The figures of every health line."""
    lines = re.findall(rb"health: (.*)", log)
    pairs = (dict(re.findall(r"(\w+) ([0-9.]+)", line.decode())) for line in lines)
    return [{name: float(found[name]) for name in FIGURES if name in found} for found in pairs]


def size(folder: Path) -> float:
    """Megabytes on disk."""
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 2)


def feed(pipe: int, recordings: list[np.ndarray], hours: float, speed: float) -> float:
    """Write so many hours of audio at `speed`. Returns the hours written."""
    began, written, turn = time.monotonic(), 0, 0
    while written < hours * 3600 * RATE:
        samples = recordings[turn % len(recordings)]
        turn += 1
        for at in range(0, len(samples), PIECE):
            ahead = written / RATE / speed - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)
            piece = samples[at : at + PIECE].tobytes()
            while piece:
                piece = piece[os.write(pipe, piece) :]
            written += PIECE
    return written / RATE / 3600


def measured(options: argparse.Namespace) -> dict[str, object]:
    """The figures of one run."""
    recordings = []
    for file in sorted((options.audio / "long").glob("*.flac")):
        samples, rate = soundfile.read(file, dtype="int16")
        assert rate == RATE, f"{file}: {rate} Hz"
        recordings.append(samples)
    folder = Path(tempfile.mkdtemp(prefix="kikimimi-soak-"))
    config = folder / "config.yaml"
    config.write_text(
        options.config.read_text() if options.config else "wyoming: {enabled: false}\nsay: {enabled: false}\n"
    )
    command = [sys.executable, "-m", "assistant.cli", "run", "-c", str(config), "--source", "hall=-"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=log, env={**os.environ, "XDG_STATE_HOME": str(folder / "state")}
        )
    assert daemon.stdin is not None
    disk: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(60.0):
            disk.append(size(folder / "state"))

    threading.Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    hours = feed(daemon.stdin.fileno(), recordings, options.hours, options.speed)
    took = time.monotonic() - began
    time.sleep(65.0)  # one more look
    daemon.stdin.close()
    code = daemon.wait(60)
    done.set()
    figures = health((folder / "log").read_bytes())
    each_hour = max(1, round(3600 / options.speed / 60))  # health lines are a minute apart
    print(f"logs in {folder}", file=sys.stderr)
    return {
        "hours_of_audio": round(hours, 2),
        "minutes": round(took / 60, 1),
        "speed_reached": round(hours * 3600 / took, 1),
        "exit_code": code,
        "start": figures[0],
        "after_10_min_of_audio": figures[max(1, round(600 / options.speed / 60))],
        "each_hour": figures[1::each_hour],
        "end": figures[-1],
        "state_mb": disk,
        "tracebacks": (folder / "log").read_bytes().count(b"Traceback"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, help="folder with long/*.flac of 16 kHz")
    parser.add_argument("--hours", type=float, default=8.0, help="of audio")
    parser.add_argument("--speed", type=float, default=20.0)
    parser.add_argument("--config", type=Path, help="in place of the default configuration")
    print(json.dumps(measured(parser.parse_args())))
