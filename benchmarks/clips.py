"""What clips cost: processor time and memory of a busy room with clips and without, a clip on disk, and many clips.

    python benchmarks/clips.py [RECORDING] [--seconds 60] [--clips 10000]

Two daemons, one with clips of every sound and one without, hear the same file in real time at the same moment, so that
whatever else the machine does is the same for both. Needs Mosquitto. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import soundfile
from daemon import KIKIMIMI, SETTLE, cpu_seconds, house, memory_mb
from ulid import ULID

from assistant.clip_folder import ClipFolder, name_of
from assistant.clips import flac
from assistant.events import SAMPLE_RATE, Event, State
from assistant.spectrogram import spectrogram

OFF = "{enabled: false}"
ON = "{enabled: true, keep: [any, speech], dir: %s}"


def side_by_side(recording: Path, seconds: float, folder: Path) -> dict[str, object]:
    """Watch a daemon without clips and one with them for `seconds`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = folder / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n", "utf-8")
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    assert program is not None, "mosquitto is missing; remedy: apt-get install mosquitto"
    broker = subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    daemons = []
    for name, clips in (("off", OFF), ("on", ON % (folder / "clips"))):
        config = folder / f"{name}.yaml"
        mqtt = f"{{host: 127.0.0.1, port: {port}, base_topic: {name}}}"
        config.write_text(f"mqtt: {mqtt}\nwyoming: {{enabled: false}}\nclips: {clips}\n", "utf-8")
        command = [*KIKIMIMI, "run", "-c", str(config), "--source", f"room={recording}"]
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / name)}
        daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment))
    try:
        time.sleep(2 * SETTLE)
        before, began = [cpu_seconds(daemon.pid) for daemon in daemons], time.monotonic()
        time.sleep(seconds)
        lasted = time.monotonic() - began
        shares = [100 * (cpu_seconds(daemon.pid) - used) / lasted for daemon, used in zip(daemons, before, strict=True)]
        memory = [memory_mb(daemon.pid, "VmRSS") for daemon in daemons]
    finally:
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            daemon.wait(30)
        broker.terminate()
        broker.wait(10)
    written = list((folder / "clips").rglob("*.flac"))
    return {
        "cpu_percent": [round(share, 2) for share in shares],
        "cpu_ratio": round(shares[1] / shares[0], 2),
        "rss_mb": [round(each, 1) for each in memory],
        "clips": len(written),
        "clip_kb": round(statistics.mean(file.stat().st_size for file in written) / 1000) if written else None,
    }


def one_clip(recording: Path, folder: Path) -> dict[str, float]:
    """Milliseconds for each part of a clip of 10 s: the median of 20."""
    samples, _ = soundfile.read(recording, frames=10 * SAMPLE_RATE, dtype="float32")
    event = Event("1", "room", "file", "sound", State.STARTED, "dog_bark", "Bark", 1.0, start="2026-11-28T00:00:00")
    clips = ClipFolder(folder / "one", days=30, megabytes=1_000, at_least=0, free=0)
    clips.open()
    times: dict[str, list[float]] = {"flac_ms": [], "png_ms": [], "disk_ms": []}
    for _ in range(20):
        began = time.perf_counter()
        sound = flac(event, samples, 0)
        packed = time.perf_counter()
        picture = spectrogram(samples)
        drawn = time.perf_counter()
        clips.write(name_of("2026-11-28", str(ULID())), sound, picture)
        written = time.perf_counter()
        for key, spent in zip(times, (packed - began, drawn - packed, written - drawn), strict=True):
            times[key].append(1000 * spent)
    kb = {"flac_kb": len(sound) / 1000, "png_kb": len(picture) / 1000}
    return {
        key: round(value, 1) for key, value in {**{k: statistics.median(v) for k, v in times.items()}, **kb}.items()
    }


def many_clips(count: int, folder: Path) -> dict[str, float]:
    """Milliseconds to learn `count` clips (two files each), for a look that finds nothing to do, and to delete half."""
    now, path = time.time(), folder / "many"
    for number in range(count):
        raised = now - 30 * number  # one each half minute
        day = path / time.strftime("%Y-%m-%d", time.gmtime(raised))
        day.mkdir(parents=True, exist_ok=True)
        identity = ULID.from_timestamp(raised)
        (day / f"{identity}.flac").write_bytes(b"x" * 100)
        (day / f"{identity}.png").write_bytes(b"x" * 20)
    began = time.perf_counter()
    clips = ClipFolder(path, days=30, megabytes=1_000, at_least=10, free=0)
    clips.open()
    opened = time.perf_counter()
    for _ in range(1_000):
        clips.tidy()
    looked = time.perf_counter()
    halved = ClipFolder(path, days=30 * count / 2 / 86_400, megabytes=1_000, at_least=10, free=0)
    halved.open()
    deleted = time.perf_counter() - looked
    return {
        "learn_ms": round(1000 * (opened - began), 1),
        "look_us": round(1000 * (looked - opened), 1),
        "learn_and_delete_half_ms": round(1000 * deleted, 1),
        "left": len(halved),
    }


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clips", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = arguments.recording or house(folder, arguments.seconds + 3 * SETTLE)
        figures: dict[str, object] = {"clip of 10 s": one_clip(recording, folder)}
        figures[f"{arguments.clips} clips"] = many_clips(arguments.clips, folder)
        figures["one busy room, off and on"] = side_by_side(recording, arguments.seconds, folder)
    for case, measured in figures.items():
        print(f"{case}: {measured}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
