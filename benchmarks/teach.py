"""How well sounds are taught: four examples each, held-out clips, false alarms over the long recordings.

    python benchmarks/teach.py RECORDINGS YAMNET.tflite [--classes worst|other|own] [--house half|other|none]

RECORDINGS as for sounds.py. Classes are the first labels of the clips. `worst` (reported): of those with five clips or
more the eight that the daemon finds least by itself. `other`: the rest of these, and those with four clips; everything
in teaching.py was chosen with them. `own`: one's own thing, eight sounds of which there is one clip; examples and
tests are that clip in rooms of their own. Examples are drawn at random with the number of the draw (`--draws`) as
seed: four, or all but one. What the house has heard before is the first half of each long recording, and false alarms
are counted in its second half; with `--house other` it is the other recording, another house, and with `none` nothing.
A false alarm is a sound that began where nothing of that class was playing, there or in clips of other classes. Ends
in one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from assistant.config import shipped
from assistant.events import SAMPLE_RATE, Samples, State, Tags
from assistant.house_sounds import Collector, HouseSounds
from assistant.lessons import HEARD, Lesson, activities_of, common_sounds, in_a_room
from assistant.models.yamnet import Yamnet
from assistant.segment.windows import Window
from assistant.synthesis import scaled
from assistant.taught import TaughtTracker
from assistant.taught_sounds import Example, TaughtSound
from assistant.teaching import Sounds, learn
from assistant.tracking import Tracker, load_table

EARLY, LATE = 0.5, 1.0  # seconds
LONG = ("house_quiet", "house_noisy")
SHOTS, WORST, ENOUGH = 4, 8, 5
OWN = (
    "SSL_chime", "F_alarm-clock-elapsed", "E_beepbeep", "F_bell", "W_phone_ring", "V2J_alarm", "E_Whistle", "T_cuckoo",
)  # fmt: skip


@dataclass
class Heard:
    """A recording as the tagger heard it."""

    tags: list[Tags]
    embeddings: list[np.ndarray]
    end: int  # samples


class Bench:
    """Recordings, each heard once."""

    def __init__(self, recordings: Path, yamnet: Yamnet) -> None:
        self.yamnet, self.table = yamnet, load_table(shipped("sounds.yaml"))
        self.lesson = Lesson(yamnet, self.table)
        self.common = common_sounds()
        self.folder = recordings
        self.clips = {row["file"]: row for row in rows(recordings / "manifest.csv")}
        self.truth = {name: rows(recordings / "long" / f"{name}.csv") for name in LONG}
        self.heard = {
            name: self.hear(self.read(f"{name}")) for name in (*(f"long/{n}.flac" for n in LONG), *self.clips)
        }
        self.examples: dict[str, Example] = {}
        self.cost: list[float] = []

    def read(self, name: str) -> Samples:
        """A recording."""
        samples, rate = soundfile.read(self.folder / name, dtype="float32")
        if rate != SAMPLE_RATE or samples.ndim != 1:
            raise SystemExit(f"{name}: {rate} Hz with shape {samples.shape}; needed: {SAMPLE_RATE} Hz mono")
        return samples

    def hear(self, samples: Samples) -> Heard:
        """What the tagger makes of it."""
        windows: list[Window] = [w for take in activities_of(samples, HEARD) for w in take]
        tags, embeddings = [], []
        for window in sorted(windows, key=lambda w: w.end):
            tags.append(Tags(window, self.yamnet.tag(window.samples)))
            embeddings.append(self.yamnet.embedding())
        return Heard(tags, embeddings, len(samples))

    def example(self, file: str) -> Example:
        """What is kept of a clip as an example."""
        if file not in self.examples:
            self.examples[file] = self.lesson.heard(self.read(file), file)
        return self.examples[file]

    def house(self, name: str, what: str) -> Sounds:
        """What the house of a long recording sounds like, before it is listened to."""
        if what == "none":
            return Sounds((), days=0.0)
        if what == "other":
            name = next(other for other in LONG if other != name)
        house = HouseSounds(None, seed=1)
        collector = Collector(house, self.yamnet.labels)
        heard = self.heard[f"long/{name}.flac"]
        for tags, embedding in zip(heard.tags, heard.embeddings, strict=True):
            if what == "other" or tags.window.end < heard.end // 2:
                collector.feed(tags, embedding)
        collector.end()
        return Sounds(house.sounds()[0], days=1.0)

    def half(self, name: str) -> float:
        """The middle of a long recording, in seconds."""
        return self.heard[f"long/{name}.flac"].end / 2 / SAMPLE_RATE

    def learn(self, files: list[str], house: Sounds) -> TaughtSound:
        """Teach these."""
        return self.learn_examples([self.example(file) for file in files], house)

    def learn_examples(self, examples: list[Example], house: Sounds) -> TaughtSound:
        """Teach these."""
        began = time.process_time()
        sound = learn("taught", "taught", examples, self.common, house)
        self.cost.append(time.process_time() - began)
        return sound

    def started(self, sound: TaughtSound, heard: Heard) -> list[float]:
        """When it began, in seconds."""
        tracker = TaughtTracker([sound])
        starts = []
        for tags, embedding in zip(heard.tags, heard.embeddings, strict=True):
            tracker.advance(tags.window.end)
            starts += [d.start / SAMPLE_RATE for d in tracker.feed(tags, embedding) if d.state is State.STARTED]
        return starts

    def by_itself(self, heard: Heard) -> list[tuple[float, str]]:
        """What the daemon hears without being taught: when, and which label."""
        tracker = Tracker(self.table, self.yamnet.labels)
        found = []
        for tags in heard.tags:
            tracker.advance(tags.window.end)
            found += [(d.start / SAMPLE_RATE, d.label) for d in tracker.feed(tags) if d.state is State.STARTED]
        return found


def rows(path: Path) -> list[dict[str, str]]:
    """Lines of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stray(starts: list[float], truth: list[dict[str, str]], labels: set[str], since: float) -> int:
    """How many began after `since` (seconds) where nothing of the class was playing."""
    spans = [
        (float(row["onset"]) - EARLY, float(row["offset"]) + LATE)
        for row in truth
        if labels & set(row["label"].split(";"))
    ]
    return sum(start >= since and not any(a <= start <= b for a, b in spans) for start in starts)


def classes_of(bench: Bench) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The reported classes and the others, each with its clips."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for file, row in bench.clips.items():
        if row["kind"] == "sound":
            by_label[row["label"].split(";")[0]].append(file)
    found = {
        label: statistics.mean(_named(bench, file) for file in files)
        for label, files in by_label.items()
        if len(files) >= ENOUGH
    }
    worst = sorted(found, key=lambda label: (found[label], label))[:WORST]
    others = [label for label, files in by_label.items() if len(files) >= SHOTS and label not in worst]
    return {label: by_label[label] for label in worst}, {label: by_label[label] for label in others}


def _named(bench: Bench, file: str) -> bool:
    accepted = set(bench.clips[file]["label"].split(";"))
    return any(label in accepted for _, label in bench.by_itself(bench.heard[file]))


def main() -> None:
    """Teach every class several times and print what came of it."""
    parser = argparse.ArgumentParser(description="How well sounds are taught.")
    parser.add_argument("recordings", type=Path)
    parser.add_argument("yamnet", type=Path)
    parser.add_argument("--classes", choices=("worst", "other", "own"), default="worst")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--house", choices=("half", "other", "none"), default="half")
    arguments = parser.parse_args()
    bench = Bench(arguments.recordings, Yamnet(arguments.yamnet))
    houses = {name: bench.house(name, arguments.house) for name in LONG}
    if arguments.classes == "own":
        table = [own(bench, stem, houses, arguments.draws) for stem in OWN]
    else:
        classes = classes_of(bench)[arguments.classes == "other"]
        table = [kind(bench, label, files, houses, arguments.draws) for label, files in classes.items()]
    hours = sum(bench.heard[f"long/{name}.flac"].end for name in LONG) / 2 / SAMPLE_RATE / 3600
    print(f"{'class':28} clips  before    after   false/h before  after   other clips   verdicts")
    for row in table:
        print(
            f"{row['class'][:28]:28} {row['clips']:5}  {row['before']:6.2f}  {row['after']:7.2f}  "
            f"{row['false_before'] / hours:14.1f}  {row['false'] / hours:5.1f}  {row['other_clips']:12.3f}   "
            f"{row['verdicts']}"
        )
    keys = ("before", "after", "false_before", "false", "other_clips")
    total = {key: round(statistics.mean(row[key] for row in table), 3) for key in keys}
    total |= {f"{key}_per_hour": round(total[key] / hours, 2) for key in ("false_before", "false")}
    print(json.dumps({"classes": table, "mean": total, "learn_cpu_s": round(statistics.median(bench.cost), 3)}))


def kind(bench: Bench, label: str, files: list[str], houses: dict[str, Sounds], draws: int) -> dict[str, Any]:
    """Teach one class by clips of it."""
    labels = {name for file in files for name in bench.clips[file]["label"].split(";")}
    others = [f for f, row in bench.clips.items() if not labels & set(row["label"].split(";"))]
    hits, before, false, wrong, verdicts = [], [], [], [], defaultdict(int)
    for draw in range(draws):
        order = [str(file) for file in np.random.default_rng(draw).permutation(sorted(files))]
        shots = min(SHOTS, len(files) - 1)
        taught, held = order[:shots], order[shots:]
        count = 0
        for name, house in houses.items():
            sound = bench.learn(taught, house)
            verdicts[sound.verdict.kind] += 1
            hits += [bool(bench.started(sound, bench.heard[file])) for file in held]
            count += stray(
                bench.started(sound, bench.heard[f"long/{name}.flac"]), bench.truth[name], labels, bench.half(name)
            )
            wrong += [bool(bench.started(sound, bench.heard[file])) for file in others]
        before += [_named(bench, file) for file in held]
        false.append(count)
    said = [
        stray(
            [at for at, name in bench.by_itself(bench.heard[f"long/{long}.flac"]) if name == label],
            rows_,
            labels,
            bench.half(long),
        )
        for long, rows_ in bench.truth.items()
    ]
    return {
        "class": label,
        "clips": len(files),
        "before": round(statistics.mean(before), 3),
        "after": round(statistics.mean(hits), 3),
        "false_before": sum(said),
        "false": round(statistics.mean(false), 2),
        "other_clips": round(statistics.mean(wrong), 4),
        "verdicts": dict(verdicts),
    }


def own(bench: Bench, stem: str, houses: dict[str, Sounds], draws: int) -> dict[str, Any]:
    """Teach one thing by recordings of it in four rooms, and hear it in others."""
    (file,) = [file for file in bench.clips if Path(file).stem == stem]
    labels = set(bench.clips[file]["label"].split(";"))
    others = [f for f, row in bench.clips.items() if not labels & set(row["label"].split(";"))]
    samples = scaled(bench.read(file), -20.0)
    hits, before, false, wrong, verdicts = [], [], [], [], defaultdict(int)
    for draw in range(draws):
        rng = np.random.default_rng(100 + draw)
        examples = [bench.lesson.heard(in_a_room(samples, rng), stem) for _ in range(SHOTS)]
        held = [bench.hear(in_a_room(samples, rng)) for _ in range(6)]
        count = 0
        for name, house in houses.items():
            sound = bench.learn_examples(examples, house)
            verdicts[sound.verdict.kind] += 1
            hits += [bool(bench.started(sound, one)) for one in held]
            count += stray(
                bench.started(sound, bench.heard[f"long/{name}.flac"]), bench.truth[name], labels, bench.half(name)
            )
            wrong += [bool(bench.started(sound, bench.heard[one])) for one in others]
        before += [any(label in labels for _, label in bench.by_itself(one)) for one in held]
        false.append(count)
    said = [
        stray(
            [at for at, name in bench.by_itself(bench.heard[f"long/{long}.flac"]) if name in labels],
            rows_,
            labels,
            bench.half(long),
        )
        for long, rows_ in bench.truth.items()
    ]
    return {
        "class": stem,
        "clips": 1,
        "before": round(statistics.mean(before), 3),
        "after": round(statistics.mean(hits), 3),
        "false_before": sum(said),
        "false": round(statistics.mean(false), 2),
        "other_clips": round(statistics.mean(wrong), 4),
        "verdicts": dict(verdicts),
    }


if __name__ == "__main__":
    main()
