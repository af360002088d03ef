"""How many rooms one machine hears in real time, what a room costs, and what gives first when there is one too many.

    python benchmarks/rooms.py [AUDIO] [--case always|tenth|quiet|none] [--rooms 1 8 32] [--search 20 400]
                               [--seconds 15] [--speech]

Each measurement is the whole daemon in a process of its own (pipelines, rules, history, embedded broker; no page). Its
rooms hear live sources that are decoded already: AUDIO/long/*.flac (or, without AUDIO, computed sounds), each room from
another place. `always`: seconds in which something sounds, glued with breaths of the room's noise so that the gate is
open; `tenth`: four such seconds a minute, which with the hangover is a tenth; `quiet`: the room's noise alone, hardly
anything opens the gate; `none`: rooms whose source gives nothing, for what the daemon costs by itself. A source holds
two seconds that nobody has taken, what is older is shed. A number of rooms is carried when, after a settling time, no
second of audio or speech is shed and no room is more than a second late. A quiet room costs less once its background is
learnt, which `--settle 45` waits for.

`--search LOW HIGH` finds the largest such number to within 5 %, and tells what was busiest at the first number that was
not carried. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from assistant import app, registry, startup
from assistant.audio.source import CHUNK, LATE_CHUNK, Block, Pace, SourceStats, Splicer
from assistant.config import parse
from assistant.events import SAMPLE_RATE, Chunk, Samples
from assistant.models.yamnet import Yamnet
from assistant.segment.activity import FRAME, Activity
from assistant.synthesis import noise, scaled, telephone

BLOCK = 1280  # samples that a source gives at once
HELD = 2.0  # seconds that a source keeps for whoever is late
LATE = 1.0  # seconds: a room that is later is not heard in real time
BREATH = 0.35  # seconds of the room's noise after each second of sound: the floor stays where it is, the gate open
SPELL = 4.0  # seconds a minute in which something sounds, of the case `tenth`
FADE = 1600  # samples
LOOP = 240  # seconds of a recording, at most
LOOK = 0.02  # seconds between two looks at the lag of the loop
TICKS = os.sysconf("SC_CLK_TCK")
CASES = ("always", "tenth", "quiet", "none")


def heard(audio: Path | None) -> tuple[list[Samples], Samples]:
    """Seconds in which something sounds, and the noise of a quiet room: recorded, or else computed."""
    if audio is None:
        # White: the level of pink noise moves so much from frame to frame that it opens the gate.
        quiet = np.random.default_rng(0).normal(0.0, 10 ** (-60.0 / 20), 120 * SAMPLE_RATE).astype(np.float32)
        return [scaled(telephone(), -35.0), *(scaled(noise(1.0, -30.0, n), -35.0) for n in range(20))], quiet
    recordings = [soundfile.read(path, dtype="float32")[0] for path in sorted((audio / "long").glob("*.flac"))]
    levels = [float(np.quantile(_levels(samples), 0.1)) for samples in recordings]
    quiet = recordings[int(np.argmin(levels))]
    for _ in range(6):  # what is faint beside a sound is one in a quiet room
        quiet = still(quiet)
    floor = float(np.quantile(_levels(quiet), 0.9))
    loud = []
    for samples in recordings:
        for at in range(0, len(samples) - SAMPLE_RATE, SAMPLE_RATE):
            second = samples[at : at + SAMPLE_RATE]
            if np.mean(_levels(second) > floor + 8.0) > 0.8:
                loud.append(second)
    return loud, quiet


def _levels(samples: Samples) -> NDArray[np.float32]:
    """RMS of each 20 ms in dBFS."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.square(frames).mean(axis=1) + 1e-10)


def still(samples: Samples) -> Samples:
    """What is left of a recording without that which opens the gate, and half a second around it."""
    frames = Activity().feed(Chunk("", "", 0, np.concatenate((samples, samples)), 0.0))[len(samples) // FRAME :]
    near = np.convolve([frame.active for frame in frames], np.ones(51), "same") > 0
    return faded([samples[a * FRAME : b * FRAME] for a, b in runs(~near) if b - a > 50])


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last (exclusive) of each stretch of what is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def faded(pieces: list[Samples]) -> Samples:
    """One after the other without a click, the last into the first."""
    rise = np.sqrt(np.linspace(0.0, 1.0, FADE, dtype=np.float32))
    parts = []
    for piece, following in zip(pieces, [*pieces[1:], pieces[0]], strict=True):
        parts += [piece[FADE:-FADE], piece[-FADE:] * rise[::-1] + following[:FADE] * rise]
    return np.concatenate(parts)


def streams(audio: Path | None) -> dict[str, Samples]:
    """A minute or more of each case, to be looped."""
    loud, quiet = heard(audio)
    breath, pieces = round(BREATH * SAMPLE_RATE), []
    for n, sound in enumerate(loud):
        at = n * breath % (len(quiet) - breath)
        pieces += [sound, quiet[at : at + breath]]
    always = np.concatenate(pieces)
    spell, minute, tenth = round(SPELL * SAMPLE_RATE), 60 * SAMPLE_RATE, []
    for at in range(0, len(always) - spell, len(always) // 4):
        rest = np.resize(np.roll(quiet, -at), minute - spell)
        tenth += [always[at : at + spell], rest]
    return {"always": always[: LOOP * SAMPLE_RATE], "tenth": np.concatenate(tenth[:8]), "quiet": quiet}


class Memory:
    """A live source that is decoded already."""

    live = True
    backoff = (1.0, 15.0)
    loops: ClassVar[dict[str, Samples]] = {}  # by case
    opened: ClassVar[list[Memory]] = []

    def __init__(self, room: str, url: str) -> None:
        self.room, self.name, self.stats = room, url, SourceStats()
        case, number = url.removeprefix("rtsp://").split("/")
        self._loop = self.loops.get(case, np.zeros(1, np.float32))
        self._mute = case not in self.loops
        # The golden ratio spreads any number of rooms evenly over the recording.
        self._at = round(int(number) * 0.618034 % 1.0 * len(self._loop)) // BLOCK * BLOCK
        self._shift = int(number) * 0.618034 % 1.0 * BLOCK / SAMPLE_RATE
        self.behind = 0.0  # seconds that the last block waited
        self.pace = Pace()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """For ever."""
        self.opened.append(self)
        if self._mute:
            await asyncio.Event().wait()
        splicer = Splicer(self.room, self.name, self.stats, self.pace)
        given, began = 0, time.monotonic() + self._shift
        while True:
            samples = self._next(given, time.monotonic() - began)
            given += len(samples)
            wait = began + given / SAMPLE_RATE - time.monotonic()
            await asyncio.sleep(max(0.0, wait))
            self.behind = max(0.0, -wait)
            taken = time.time() + min(0.0, wait)
            block = Block((given - len(samples)) / SAMPLE_RATE, samples.reshape(-1, 1), SAMPLE_RATE, taken)
            if self.behind > HELD:
                given += round(self.behind * SAMPLE_RATE) // BLOCK * BLOCK  # seen as lost by the splicer
            for chunk in splicer.feed(block):
                yield chunk

    def _next(self, given: int, now: float) -> Samples:
        """What is handed over together: up to what is loud, at which other sources look block by block as it comes.

        To who is late: all that waits.
        """
        waiting = (round(now * SAMPLE_RATE) - given) // BLOCK * BLOCK
        count = max(self.pace.samples, min(waiting, LATE_CHUNK))
        at = (self._at + given) % len(self._loop)
        samples = self._loop[at : at + count]
        if len(samples) < count:
            samples = np.concatenate((samples, self._loop[: count - len(samples)]))
        loud = self.pace.loud_at(samples.reshape(-1, 1), SAMPLE_RATE) if waiting < count > BLOCK else None
        if loud is not None:
            self.pace.samples = CHUNK
            samples = samples[: -(-loud // BLOCK) * BLOCK]
        return samples


class Counted(Yamnet):
    """The tagger, whose windows are counted."""

    windows = 0

    def score(self, patch: Any) -> Any:  # noqa: ANN401
        """As ever."""
        Counted.windows += 1
        return super().score(patch)


def threads() -> dict[str, float]:
    """Processor seconds by the name of a thread (proc(5), `task/*/stat`)."""
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()} | {str(os.getpid()): "loop"}
    taken: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        name = names.get(task.name, "native")
        taken[name] = taken.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
    return taken


def machine_busy() -> float:
    """Processor seconds that the whole machine has spent (proc(5), `/proc/stat`)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / TICKS


async def lags(into: list[float]) -> None:
    """How late the loop wakes who sleeps, in seconds; for ever."""
    while True:
        due = time.monotonic() + LOOK
        await asyncio.sleep(LOOK)
        into.append(time.monotonic() - due)


async def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One daemon, in this process."""
    rooms = [startup.Room(f"room{n}", f"rtsp://{options.case}/{n}") for n in range(options.rooms[0])]
    config = parse(
        f"speech: {{enabled: {str(options.speech).lower()}}}\nwyoming: {{enabled: false}}\nweb: {{enabled: false}}\n"
        f"say: {{enabled: false}}\n{f'mqtt: {{url: {options.mqtt}}}' if options.mqtt else 'broker: {port: 0}'}\n",
        folder / "config.yaml",
    )
    files = startup.fetch_models(config, lambda *_: None)
    lag: list[float] = []
    async with app.daemon(config, rooms, files, state=folder) as daemon:
        running = asyncio.create_task(daemon.run())
        await daemon.ready()
        await asyncio.sleep(options.settle + len(rooms) / 50)
        before, busy, windows = threads(), machine_busy(), Counted.windows
        shed = sum(ear.sounds_shed() for ear in daemon._ears), sum(ear.speech_shed() for ear in daemon._ears)
        events, cpu, began = daemon.health()["events"], time.process_time(), time.monotonic()
        behind = 0.0
        profile = cProfile.Profile(time.thread_time)  # not what other threads take
        if options.profile:
            profile.enable()
        while time.monotonic() - began < options.seconds:
            await asyncio.sleep(0.5)
            behind = max(behind, *(source.behind for source in Memory.opened), 0.0)
        if options.profile:
            profile.disable()
            profile.dump_stats(options.profile)
        cpu, elapsed = time.process_time() - cpu, time.monotonic() - began
        after, windows, busy = threads(), Counted.windows - windows, machine_busy() - busy
        # Whoever looks costs more than a quiet room does, so that comes after.
        looking = asyncio.create_task(lags(lag))
        await asyncio.sleep(max(3.0, options.seconds / 2))
        looking.cancel()
        late = sum(source.behind > LATE for source in Memory.opened)
        sounds, speech = (
            sum(ear.sounds_shed() for ear in daemon._ears) - shed[0],
            sum(ear.speech_shed() for ear in daemon._ears) - shed[1],
        )
        health = daemon.health()
        daemon.stop()
        await running
    lag.sort()
    shares = {name: 100 * (taken - before.get(name, 0.0)) / elapsed for name, taken in after.items()}
    count = max(1, len(rooms))
    return {
        "case": options.case,
        "rooms": len(rooms),
        "broker": "embedded" if options.mqtt is None else "its own process",
        "speech": options.speech,
        "carried": sounds + speech == 0 and late == 0,
        "shed_sounds_s": round(sounds, 1),
        "shed_speech_s": round(speech, 1),
        "rooms_late": late,
        "behind_s": round(behind, 3),
        "cpu_percent": round(100 * cpu / elapsed, 2),
        "cpu_percent_a_room": round(100 * cpu / elapsed / count, 3),
        "rss_mb": round(health["rss_mb"] - sum(loop.nbytes for loop in Memory.loops.values()) / 1e6, 1),
        "lag_ms_p50": round(1000 * lag[len(lag) // 2], 2),
        "lag_ms_p99": round(1000 * lag[int(0.99 * (len(lag) - 1))], 2),
        "windows_s": round(windows / elapsed, 1),
        "windows_s_a_room": round(windows / elapsed / count, 3),
        "sound_lag_ms_p95": health["lag_ms_p95"],
        "events": health["events"] - events,
        "threads_percent": {k: round(v, 1) for k, v in sorted(shares.items(), key=lambda one: -one[1])[:4] if v >= 0.1},
        "others_percent": round(100 * busy / elapsed - 100 * cpu / elapsed),
    }


def one(options: argparse.Namespace, rooms: int) -> dict[str, Any]:
    """A measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", str(options.one), "--case", options.case, "--rooms", str(rooms)]
    command += ["--seconds", str(options.seconds), "--settle", str(options.settle)]
    command += ["--speech"] if options.speech else []
    command += ["--mqtt", options.mqtt] if options.mqtt else []
    command += ["--profile", str(options.profile)] if options.profile else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result), flush=True)
    return result


def search(options: argparse.Namespace) -> dict[str, Any]:
    """The largest number of rooms that is carried, and the smallest that was not."""
    low, high = options.search
    carried: dict[str, Any] | None = None
    failed: dict[str, Any] | None = None
    rooms = low
    while True:
        result = one(options, rooms)
        if result["carried"]:
            low, carried = rooms, result
        else:
            high, failed = rooms, result
        if failed is None:
            rooms = min(high, rooms * 3 // 2)
            if low >= high:
                break
        elif carried is None or high - low <= max(1, low // 20):
            break
        else:
            rooms = (low + high) // 2
    return {"largest": None if carried is None else carried["rooms"], "carried": carried, "not_carried": failed}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="?", type=Path)
    parser.add_argument("--case", choices=CASES, default="always")
    parser.add_argument("--rooms", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--search", type=int, nargs=2, metavar=("LOW", "HIGH"))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--settle", type=float, default=16.0)
    parser.add_argument("--speech", action="store_true")
    parser.add_argument("--mqtt", metavar="URL", help="a broker of its own instead of the embedded one")
    parser.add_argument("--profile", type=Path, help="a file for what cProfile sees of the loop meanwhile")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)  # a folder: measure here, with the audio in it
    options = parser.parse_args()
    if options.one is None:
        with tempfile.TemporaryDirectory() as name:
            options.one = Path(name)
            for case, loop in streams(options.audio).items():
                np.save(options.one / case, loop)
            if options.search:
                print(json.dumps(search(options)))
            else:
                print(json.dumps({"runs": [one(options, rooms) for rooms in options.rooms]}))
    else:
        logging.basicConfig(level=logging.ERROR)
        if options.case != "none":
            Memory.loops = {options.case: np.load(options.one / f"{options.case}.npy")}
        registry.SOURCES["stream"] = f"{__name__}:Memory"
        registry.TAGGERS["yamnet"] = f"{__name__}:Counted"
        with tempfile.TemporaryDirectory() as folder:
            result = asyncio.run(measured(options, Path(folder)))
        print(json.dumps(result))


if __name__ == "__main__":
    main()
