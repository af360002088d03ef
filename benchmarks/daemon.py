"""What the daemon costs: processor time and memory of one quiet room, one busy room and many rooms, in real time.

    python benchmarks/daemon.py [RECORDING…] [--seconds 60] [--rooms 8]

Each case is `kikimimi run` in a process of its own with its embedded broker; files are heard in real time. A quiet
room is computed white noise, which does not open the gate once it is learnt; a busy room, and the many rooms, hear
RECORDING (or, without one, the demo's sounds over and over). Also measured: the time from the command to listening,
and that of `kikimimi --help`. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile

from assistant.demo_recording import house_recording
from assistant.events import SAMPLE_RATE

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE = 30.0  # seconds until the models are loaded and warm, and the noise of a room is learnt


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far (proc(5), `stat` fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int, key: str) -> float:
    """`VmRSS` or `VmHWM` (the peak) of a process in MB (proc(5), `status`)."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measure(files: list[Path], seconds: float, speech: bool) -> dict[str, float]:
    """Run the daemon on one room per file and watch it for `seconds` after it has settled."""
    sources = [part for n, file in enumerate(files) for part in ("--source", f"room{n}={file}")]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(f"speech: {{enabled: {str(speech).lower()}}}\n", "utf-8")
        environment = {**os.environ, "XDG_STATE_HOME": folder}
        began = time.monotonic()
        daemon = subprocess.Popen(
            [*KIKIMIMI, "run", "-c", str(config), *sources], stderr=subprocess.PIPE, text=True, env=environment
        )
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "listening to" in line:
                break
        listening = time.monotonic() - began
        time.sleep(SETTLE)
        before, start = cpu_seconds(daemon.pid), time.monotonic()
        time.sleep(seconds)
        share = (cpu_seconds(daemon.pid) - before) / (time.monotonic() - start)
        result = {
            "cpu_percent": round(100 * share, 2),
            "rss_mb": round(memory_mb(daemon.pid, "VmRSS"), 1),
            "peak_mb": round(memory_mb(daemon.pid, "VmHWM"), 1),
            "to_listening_s": round(listening, 2),
        }
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=30)
    return result


def house(folder: Path, seconds: float) -> Path:
    """The demo's house over and over, as long as a case needs."""
    samples, _ = house_recording(folder / "cache")
    path = folder / "house.wav"
    soundfile.write(path, np.tile(samples, int(seconds // (len(samples) / SAMPLE_RATE)) + 1), SAMPLE_RATE)
    return path


def help_time() -> float:
    """Median seconds of `kikimimi --help` over five runs after one that warms the disk cache."""
    times = []
    for _ in range(6):
        began = time.monotonic()
        subprocess.run([*KIKIMIMI, "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append(time.monotonic() - began)
    return round(statistics.median(times[1:]), 3)


def main() -> None:
    """Measure all cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rooms", type=int, default=8)
    arguments = parser.parse_args()
    needed = arguments.seconds + SETTLE + 30.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quiet = folder / "quiet.wav"
        # White: the level of pink noise moves so much from frame to frame that it opens the gate.
        samples = np.random.default_rng(0).normal(0.0, 10 ** (-60.0 / 20), round(needed * SAMPLE_RATE))
        soundfile.write(quiet, samples, SAMPLE_RATE)
        busy = arguments.recordings or [house(folder, needed)]
        figures: dict[str, object] = {"help_s": help_time()}
        cases = {
            "one quiet room": ([quiet], True),
            "one quiet room, no speech": ([quiet], False),
            "one busy room": (busy[:1], True),
            f"{arguments.rooms} busy rooms": (list(islice(cycle(busy), arguments.rooms)), True),
        }
        for case, (files, speech) in cases.items():
            figures[case] = measure(files, arguments.seconds, speech)
            print(f"{case}: {figures[case]}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
