"""From the end of speech to the MQTT message, in real time: a daemon hears commands, a subscriber waits at a broker.

    python benchmarks/endpointing.py [--audio FOLDER] [--against CHECKOUT] [--most 60] [--group spoken|hesitant]

mosquitto is the broker, espeak-ng speaks English commands of the house of tests/data/intents in several voices;
FOLDER (`manifest.csv`, `clips/`) adds recordings of 1 to 4 s. Samples are written to the daemon's stdin when they are
heard, in blocks of 20 ms, over noise at -65 dBFS. `--against` runs the daemon of another checkout beside it, which
hears each clip in turn with ours. `--group hesitant`: commands with a pause of 0.3 to 0.5 s in their middle.

Speech ends with the clip's last 10 ms that are louder than both 35 dB below its loudest 10 ms and 10 dB above its
quietest tenth. `event`: from there to the event with the text, of all clips; `command`: to the device's message, of
those that made one. `cut_off`: clips whose first event ends before their speech does, or that gave more than one event.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import soundfile
import soxr
import yaml

from assistant.events import SAMPLE_RATE, Samples
from assistant.models import store
from assistant.synthesis import noise

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "tests"))

import spoken_house  # noqa: E402

BLOCK = SAMPLE_RATE // 50
PAUSE = 1.5  # seconds between the end of a clip and the next daemon's
VOICES = ("en-us", "en-gb", "en-us+m3", "en-us+f2", "en-gb+f4")
SHORT, LONG = 1.0, 4.0  # seconds of speech of a command
HESITANT = (
    ("Turn on the", "kitchen light."),
    ("Please turn off", "the floor lamp."),
    ("Set the heating", "to twenty one degrees."),
    ("Open the living room", "curtain."),
    ("Turn off the lights", "in the living room."),
    ("Set the brightness to", "seventy five percent."),
    ("Could you please", "close the curtains in the living room?"),
    ("Turn on", "the ceiling fan, please."),
)


@dataclass
class Clip:
    """Something said."""

    name: str
    samples: Samples
    onset: float = 0.0  # seconds, of its first and last speech
    end: float = 0.0

    def __post_init__(self) -> None:
        self.onset, self.end = speech_of(self.samples)


@dataclass
class Heard:
    """What one daemon made of one clip."""

    clip: Clip
    at: int  # samples of its stream
    events: list[tuple[float, float, float, str]] = field(default_factory=list)  # arrival, start and end in s, text
    messages: list[float] = field(default_factory=list)  # arrival of what devices are told


def speech_of(samples: Samples) -> tuple[float, float]:
    """Where speech begins and ends in a clip, in seconds."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    levels = 20 * np.log10(np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)) + 1e-5)
    loud = np.flatnonzero(levels > max(levels.max() - 35, min(np.quantile(levels, 0.1) + 10, levels.max() - 20)))
    return float(loud[0]) / 100, float(loud[-1] + 1) / 100


def said(text: str, voice: str, speed: int = 150) -> Samples:
    """`text` by espeak-ng, at `speed` words a minute."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", file.name, text], check=True, timeout=20)
        samples, rate = soundfile.read(file.name, dtype="float32")
    return 0.5 * np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)


def clips(group: str, audio: Path | None) -> list[Clip]:
    """What is played, in an order that is always the same."""
    dice = random.Random(7)
    if group == "hesitant":
        found = []
        for i, (first, second) in enumerate(HESITANT):
            for pause in (0.3, 0.4, 0.5):
                voice = VOICES[(i + round(10 * pause)) % len(VOICES)]
                one, two = said(first, voice), said(second, voice)
                (_, end), (onset, _) = speech_of(one), speech_of(two)
                gap = np.zeros(round(pause * SAMPLE_RATE), np.float32)
                parts = (one[: round(end * SAMPLE_RATE)], gap, two[round(onset * SAMPLE_RATE) :])
                found.append(Clip(f"{first} [{pause} s] {second}", np.concatenate(parts)))
        dice.shuffle(found)
        return found
    texts = [sentence.say for sentence in spoken_house.sentences("en") if sentence.does]
    found = [Clip(text, said(text, VOICES[i % len(VOICES)])) for i, text in enumerate(texts)]
    if audio is not None:
        with (audio / "manifest.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["kind"] == "speech" and row["language"] in {"en", "ja"}:
                    found.append(Clip(row["file"], soundfile.read(audio / row["file"], dtype="float32")[0]))
    found = [clip for clip in found if SHORT <= clip.end - clip.onset <= LONG]
    dice.shuffle(found)
    return found


class Daemon:
    """A daemon of one checkout with its own broker, and who listens there."""

    def __init__(self, name: str, checkout: Path, folder: Path, model: str) -> None:
        self.name = name
        self.heard: list[Heard] = []
        self.position = 0  # samples written
        self.ready = threading.Event()
        self.health: dict[str, object] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        folder.mkdir()
        (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        self.broker = subprocess.Popen(
            ["mosquitto", "-c", folder / "mosquitto.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        (folder / "config.yaml").write_text(house(model, f"mqtt://127.0.0.1:{port}"), encoding="utf-8")
        time.sleep(0.5)
        self.topics = set(spoken_house.read("house")["devices"])
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_message = self.came
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()
        env = {**os.environ, "PYTHONPATH": str(checkout), "XDG_STATE_HOME": str(folder), "PYTHONUNBUFFERED": "1"}
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "assistant.cli", "run", "-c", folder / "config.yaml"],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            env=env,
            cwd=checkout,
        )

    def came(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        """Note a message with the time at which it was there."""
        now = time.monotonic()
        if message.topic == "kikimimi/status" and message.payload == b"online":
            self.ready.set()
        elif message.topic == "kikimimi/health":
            self.health = json.loads(message.payload)
        elif message.topic == "kikimimi/kitchen/event":
            event = json.loads(message.payload)
            if event["kind"] == "speech":
                start, end = event["offset"], event["offset"] + (event["duration"] or 0.0)
                middle = (start + end) / 2 * SAMPLE_RATE
                for heard in reversed(self.heard):
                    if heard.at <= middle:
                        heard.events.append((now, start, end, event["text"]))
                        break
        elif message.topic in self.topics and self.heard:
            self.heard[-1].messages.append(now)

    def write(self, samples: Samples) -> None:
        """A block that was just heard."""
        assert self.process.stdin is not None
        pcm = (np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes()
        self.process.stdin.write(pcm)
        self.process.stdin.flush()
        self.position += len(samples)

    def close(self) -> None:
        """Stop it and its broker."""
        assert self.process.stdin is not None
        self.client.disconnect()
        self.client.loop_stop()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.broker.terminate()
        self.broker.wait(10)
        self.log.close()


def house(model: str, url: str) -> str:
    """The house of the sentences, heard in the kitchen."""
    devices = [json.loads(one.model_dump_json(exclude_unset=True)) for one in spoken_house.devices("en")]
    rooms = {name: {"source": "-", "name": called} for name, called in spoken_house.read("en")["rooms"].items()}
    rooms = {"kitchen": rooms["kitchen"] | {"wake": "none"}}
    devices = [device | {"room": "kitchen"} if "room" in device else device for device in devices]
    return yaml.safe_dump(
        {
            "privacy": {"transcripts": True},
            "wyoming": {"enabled": False},
            "web": {"enabled": False},
            "say": {"enabled": False},
            "mqtt": {"url": url},
            "homeassistant": {"discovery": False},
            "speech": {"languages": ["en", "ja"], "model": model},
            "rooms": rooms,
            "devices": devices,
        },
        allow_unicode=True,
    )


def play(daemons: list[Daemon], playlist: list[Clip]) -> tuple[float, float]:
    """Each daemon hears each clip, one after the other. The time of sample 0, and how late the latest block was."""
    hum = noise(10.0, -65.0)
    begun = time.monotonic()
    latest = 0.0
    written = 0

    def write(current: Daemon | None, samples: Samples) -> None:
        nonlocal latest, written
        for first in range(0, len(samples), BLOCK):
            block = samples[first : first + BLOCK]
            due = begun + (written + len(block)) / SAMPLE_RATE
            time.sleep(max(0.0, due - time.monotonic()))
            latest = max(latest, time.monotonic() - due)
            bed = hum[written % (len(hum) - BLOCK) :][: len(block)]
            for daemon in daemons:
                daemon.write(bed + block if daemon is current else bed)
            written += len(block)

    quiet = np.zeros(round(PAUSE * SAMPLE_RATE), np.float32)
    write(None, np.zeros(3 * SAMPLE_RATE, np.float32))
    for turn, clip in enumerate(playlist):
        for daemon in daemons if turn % 2 else daemons[::-1]:
            daemon.heard.append(Heard(clip, written))
            write(daemon, clip.samples)
            write(None, quiet)
    write(None, np.zeros(SAMPLE_RATE, np.float32))
    return begun, latest


def report(daemon: Daemon, begun: float, *, verbose: bool) -> dict[str, object]:
    """Print what was slow or cut, return the figures."""
    events, commands, cut, silent = [], [], [], []
    for heard in daemon.heard:
        end = heard.at / SAMPLE_RATE + heard.clip.end
        if not heard.events:
            silent.append(heard.clip.name)
            continue
        if len(heard.events) > 1 or heard.events[0][2] < end - 0.02:
            cut.append(heard.clip.name)
        events.append(heard.events[-1][0] - begun - end)
        if heard.messages:
            commands.append(heard.messages[0] - begun - end)
        if verbose:
            print(f"  {daemon.name} {events[-1]:.2f} {heard.clip.name!r}: {[event[3] for event in heard.events]}")
    for name in cut:
        print(f"  {daemon.name} cut off: {name}")
    for name in silent:
        print(f"  {daemon.name} no text: {name}")
    kept = ("speculations_kept", "speculations_dropped", "speculations_skipped")
    figures: dict[str, object] = {
        "daemon": daemon.name,
        "clips": len(daemon.heard),
        "event_s_p50": quantile(events, 0.5),
        "event_s_p95": quantile(events, 0.95),
        "commands": len(commands),
        "command_s_p50": quantile(commands, 0.5),
        "command_s_p95": quantile(commands, 0.95),
        "cut_off": len(cut),
        "no_text": len(silent),
        **{key: daemon.health[key] for key in kept if key in daemon.health},
    }
    print("  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


def quantile(values: list[float], share: float) -> float | None:
    """The value below which `share` of them lie."""
    return round(float(np.quantile(values, share)), 3) if values else None


def main() -> int:
    """Play, listen, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout, heard beside this one")
    parser.add_argument("--model", default="base", help="speech.model of both")
    parser.add_argument("--group", choices=("spoken", "hesitant"), default="spoken")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--most", type=int, default=60, help="clips")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if missing := [name for name in ("mosquitto", "espeak-ng") if shutil.which(name) is None]:
        sys.exit(f"{', '.join(missing)}: not installed; remedy: apt-get install {' '.join(missing)}")
    store.pull("yamnet"), store.pull("whisper-base" if options.model == "base" else f"whisper-{options.model}")
    playlist = clips(options.group, options.audio)[options.skip :][: options.most]
    checkouts = {"ours": HERE} | ({"against": options.against.resolve()} if options.against else {})
    with tempfile.TemporaryDirectory() as folder:
        daemons = [Daemon(name, path, Path(folder) / name, options.model) for name, path in checkouts.items()]
        try:
            for daemon in daemons:
                if not daemon.ready.wait(60):
                    sys.exit(f"{daemon.name} did not start: {(Path(folder) / daemon.name / 'log').read_text()}")
            time.sleep(6)  # the recogniser loads in the background, sentences are compiled
            begun, latest = play(daemons, playlist)
            time.sleep(2)
            results = [report(daemon, begun, verbose=options.verbose) for daemon in daemons]
        finally:
            for daemon in daemons:
                daemon.close()
    print(json.dumps({"group": options.group, "latest_block_ms": round(1e3 * latest, 1), "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
