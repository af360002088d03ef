"""How well and how dearly sounds are found: gate, windows, YAMNet and tracker over labelled recordings, without speech.

    python benchmarks/sounds.py RECORDINGS YAMNET.tflite [--table FILE] [--sensitivity WORDS]

RECORDINGS holds `manifest.csv` (file, kind, label), `clips/` and `long/NAME.flac` with `long/NAME.csv` (onset, offset,
kind, label), all 16 kHz mono. A sound is found when an event with one of its labels starts between 0.5 s before
its onset and 1 s after its end; other events are stray (nothing was playing) or confused (something else was, speech
excepted). Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from assistant.events import SAMPLE_RATE, Chunk, Detection, Samples, State, Tags
from assistant.models.yamnet import Yamnet
from assistant.segment.activity import Activity
from assistant.segment.windows import Windows
from assistant.tracking import SoundSettings, SoundTable, Tracker, load_table

EARLY, LATE = 0.5, 1.0  # seconds
CHUNK = 800  # samples: 50 ms
SHIPPED = Path(__file__).parent.parent / "config" / "sounds.yaml"


class Bench:
    """Runs the stages over recordings and counts audio, windows and CPU."""

    def __init__(self, yamnet: Yamnet, table: SoundTable, settings: SoundSettings) -> None:
        self.yamnet, self.table, self.settings = yamnet, table, settings
        self.samples = self.windows = 0
        self.gate = self.tagging = self.tracking = 0.0  # CPU seconds

    def started(self, path: Path) -> list[Detection]:
        """The sounds that started in a recording."""
        samples, rate = soundfile.read(path, dtype="float32")
        if rate != SAMPLE_RATE or samples.ndim != 1:
            raise SystemExit(f"{path}: {rate} Hz with shape {samples.shape}; needed: {SAMPLE_RATE} Hz mono")
        self.samples += len(samples)
        return [d for d in self._hear(samples) if d.state is State.STARTED]

    def _hear(self, samples: Samples) -> list[Detection]:
        activity, windows = Activity(), Windows()
        tracker = Tracker(self.table, self.yamnet.labels, self.settings)
        found: list[Detection] = []
        for at in range(0, len(samples) + CHUNK, CHUNK):
            t0 = time.process_time()
            if at < len(samples):
                chunk = Chunk("bench", "file", at, samples[at : at + CHUNK], 0.0)
                cut = windows.feed(chunk, activity.feed(chunk))
            else:
                cut = windows.end()
            t1 = time.process_time()
            tagged = [Tags(window, self.yamnet.tag(window.samples)) for window in cut]
            t2 = time.process_time()
            for tags in tagged:
                found += tracker.feed(tags)
            found += tracker.advance(min(at + CHUNK, len(samples)))
            self.gate, self.tagging = self.gate + t1 - t0, self.tagging + t2 - t1
            self.tracking += time.process_time() - t2
            self.windows += len(cut)
        return found

    def cost(self) -> dict[str, float]:
        """CPU seconds per hour of audio, per stage."""
        hours = self.samples / SAMPLE_RATE / 3600
        parts = {"gate_and_windows": self.gate, "tagger": self.tagging, "tracker": self.tracking}
        return {name: round(value / hours, 2) for name, value in parts.items()} | {
            "windows_per_hour": round(self.windows / hours)
        }


def rows(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def score_long(truth: list[dict[str, str]], events: list[Detection]) -> dict[str, Any]:
    """Recall, precision, F1 and delays of one long recording."""

    def inside(event: Detection, row: dict[str, str]) -> bool:
        return float(row["onset"]) - EARLY <= event.start / SAMPLE_RATE <= float(row["offset"]) + LATE

    def right(event: Detection, row: dict[str, str]) -> bool:
        return inside(event, row) and event.label in row["label"].split(";")

    sounds = [row for row in truth if row["kind"] in {"sound", "music"}]
    hits = [[event for event in events if right(event, row)] for row in sounds]
    delays = sorted(
        min(event.heard_at for event in hit) / SAMPLE_RATE - float(row["onset"])
        for row, hit in zip(sounds, hits, strict=True)
        if hit
    )
    explained, stray, confused, correct_events = set(), 0, 0, 0
    for event in events:
        playing = [row for row in truth if inside(event, row)]
        matches = [i for i, row in enumerate(truth) if right(event, row)]
        if matches:
            explained.add(matches[0])
            correct_events += 1
        elif not playing:
            stray += 1
        elif not any(row["kind"] == "speech" for row in playing):
            confused += 1
    recall = len(delays) / len(sounds) if sounds else 1.0
    precision = len(explained) / max(1, len(explained) + stray + confused)
    return {
        "recall": round(recall, 3),
        "precision": round(precision, 3),
        "f1": round(2 * recall * precision / (recall + precision), 3) if recall + precision else 0.0,
        "stray": stray,
        "confused": confused,
        "repeated": correct_events - len(explained),
        "delay_median": round(statistics.median(delays), 3) if delays else None,
        "delay_p95": round(delays[int(0.95 * (len(delays) - 1))], 3) if delays else None,
    }


def score_clips(manifest: list[dict[str, str]], labels: list[set[str]]) -> dict[str, Any]:
    """Shares of clips with an accepted label, and with another one, per kind."""
    figures: dict[str, Any] = {}
    for kind in ("sound", "music", "silence"):
        pairs = [
            (set(row["label"].split(";")), heard)
            for row, heard in zip(manifest, labels, strict=True)
            if row["kind"] == kind
        ]
        if pairs:
            right = [not heard if kind == "silence" else bool(heard & wanted) for wanted, heard in pairs]
            figures[f"{kind}_right"] = round(float(np.mean(right)), 3)
            figures[f"{kind}_with_other_labels"] = round(float(np.mean([bool(h - w) for w, h in pairs])), 3)
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("yamnet", type=Path)
    parser.add_argument("--table", type=Path, default=SHIPPED)
    parser.add_argument("--sensitivity", default="balanced")
    args = parser.parse_args()
    settings = SoundSettings(sensitivity=args.sensitivity)
    bench = Bench(Yamnet(args.yamnet), load_table(args.table), settings)
    result: dict[str, Any] = {"sensitivity": args.sensitivity}
    for truth in sorted((args.recordings / "long").glob("*.csv")):
        result[truth.stem] = score_long(rows(truth), bench.started(truth.with_suffix(".flac")))
        print(truth.stem, result[truth.stem])
    result["cpu_seconds_per_hour"] = bench.cost()
    manifest = [row for row in rows(args.recordings / "manifest.csv") if row["kind"] != "speech"]
    heard = [{event.label for event in bench.started(args.recordings / row["file"])} for row in manifest]
    result["clips"] = score_clips(manifest, heard)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
