"""A camera recorder's loop beside ours: what an hour of audio costs, what is found in it, and how late.

    python benchmarks/frigate_loop.py AUDIO YAMNET.tflite [--minutes 10] [--rounds 3]

The baseline is written after Frigate's audio detector: windows of 0.975 s without overlap; those whose RMS (of 16-bit
samples) reaches `min_volume` go to YAMNet as LiteRT runs the file; a label begins when it scores its threshold and ends
when it was not heard for 30 s. It is measured with Frigate's defaults (500, 0.8) and as its manual makes it sensitive
(200, 0.5), and listens for every label but scenes, where Frigate's default is five. Ours is the pipeline of one room
with the shipped settings, without speech. Both hear the same samples from memory, in one process and in turns, the
model on one thread. Not counted, on either side: decoding, MQTT, and waking up in real time (`rooms.py` measures that).

AUDIO is laid out as for `sounds.py`, which scores both. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from ai_edge_litert.interpreter import Interpreter
from rooms import streams
from sounds import rows, score_clips, score_long

from assistant.audio.source import Chunker, Pace, SourceStats
from assistant.config import parse
from assistant.events import SAMPLE_RATE, Chunk, Event, Samples, State
from assistant.evidence import SCENE_LABELS
from assistant.models.yamnet import WINDOW, Yamnet
from assistant.pipeline import Models, ModelThread, Pipeline
from assistant.startup import hearing_settings

LEARNING = 30 * SAMPLE_RATE  # samples in which our noise floor is learnt: heard, not counted
NOT_HEARD = 30.0  # seconds after which a label has ended
BASELINES = {"frigate": (500.0, 0.8), "frigate, sensitive": (200.0, 0.5)}  # min_volume, threshold


@dataclass(frozen=True)
class Started:
    """A sound, as `sounds.py` scores it."""

    label: str
    start: int  # samples
    heard_at: int


class Recorder:
    """The baseline."""

    def __init__(self, model: Path, labels: tuple[str, ...], min_volume: float, threshold: float) -> None:
        self._interpreter = Interpreter(model_path=str(model), num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._labels, self._min_volume, self._threshold = labels, min_volume, threshold

    def hear(self, samples: Samples) -> list[Started]:
        """The sounds that begin in a recording."""
        pcm = (samples * 32767).astype(np.int16)
        active: dict[str, int] = {}
        found = []
        for at in range(0, len(pcm) - WINDOW + 1, WINDOW):
            audio = pcm[at : at + WINDOW].astype(np.float32)
            end = at + WINDOW
            if np.sqrt(np.mean(np.square(audio))) >= self._min_volume:
                self._interpreter.set_tensor(self._input, audio / 32768.0)
                self._interpreter.invoke()
                scores = self._interpreter.get_tensor(self._output)[0]
                for index in np.argsort(-scores)[:20]:
                    label = self._labels[index]
                    if scores[index] < self._threshold:
                        break
                    if label in SCENE_LABELS:
                        continue
                    if label not in active:
                        found.append(Started(label, at, end))
                    active[label] = end
            active = {label: last for label, last in active.items() if end - last < NOT_HEARD * SAMPLE_RATE}
        return found


class Memory:
    """A source as fast as it is taken."""

    live = False

    def __init__(self, samples: Samples) -> None:
        self.room, self.name, self.stats, self.pace = "room", "memory", SourceStats(), Pace()
        self._samples = samples

    async def chunks(self) -> AsyncIterator[Chunk]:
        """To the end."""
        chunker = Chunker(self.room, self.name, 0.0, self.pace)
        for chunk in chunker.feed(self._samples):
            yield chunk
        for chunk in chunker.flush():
            yield chunk


class Ours:
    """The pipeline of one room."""

    def __init__(self, yamnet: Yamnet) -> None:
        config = parse("speech: {enabled: false}", Path("config.yaml"))
        self._settings = replace(hearing_settings(config), recognise=False)

        async def nobody() -> None:
            return None

        self._models = Models(yamnet, ModelThread("tagger"), nobody, ModelThread("recogniser"))

    def hear(self, samples: Samples) -> list[Started]:
        """The sounds that begin in a recording."""
        events: list[Event] = []
        source = Memory(samples)
        asyncio.run(Pipeline(source, self._models, self._settings, events.append, inline=True).run())
        return [
            Started(event.label, round(event.offset * SAMPLE_RATE), round(event.heard_at * SAMPLE_RATE))
            for event in events
            if event.state is State.STARTED
        ]

    def close(self) -> None:
        """Let the process end."""
        self._models.shutdown()


def cost(hear: Callable[[Samples], Any], samples: Samples) -> float:
    """Processor seconds for an hour of it, once the room is known."""
    began = time.process_time()
    hear(samples[:LEARNING])
    between = time.process_time()
    hear(samples)
    ended = time.process_time()
    return (ended - between - (between - began)) * 3600 * SAMPLE_RATE / (len(samples) - LEARNING)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("yamnet", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="of quiet and of busy audio in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    yamnet = Yamnet(options.yamnet)
    ours = Ours(yamnet)
    loops: dict[str, Callable[[Samples], list[Started]]] = {"ours": ours.hear}
    for name, (min_volume, threshold) in BASELINES.items():
        loops[name] = Recorder(options.yamnet, yamnet.labels, min_volume, threshold).hear
    length = round(options.minutes * 60 * SAMPLE_RATE)
    cases = streams(options.audio)
    heard = {"quiet": np.resize(cases["quiet"], length), "busy": np.resize(cases["always"], length)}
    costs: dict[tuple[str, str], list[float]] = {(name, case): [] for name in loops for case in heard}
    for _ in range(options.rounds):
        for case, samples in heard.items():
            for name, hear in loops.items():
                costs[name, case].append(cost(hear, samples))
    result: dict[str, Any] = {name: {} for name in loops}
    manifest = [row for row in rows(options.audio / "manifest.csv") if row["kind"] != "speech"]
    for name, hear in loops.items():
        for case in heard:
            result[name][f"cpu_s_per_hour_{case}"] = round(statistics.median(costs[name, case]), 2)
        for truth in sorted((options.audio / "long").glob("*.csv")):
            samples, _ = soundfile.read(truth.with_suffix(".flac"), dtype="float32")
            result[name][truth.stem] = score_long(rows(truth), hear(samples))  # type: ignore[arg-type]
        labels = [
            {one.label for one in hear(soundfile.read(options.audio / row["file"], dtype="float32")[0])}
            for row in manifest
        ]
        result[name]["clips"] = score_clips(manifest, labels)
        print(name, json.dumps(result[name]), flush=True)
    ours.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
