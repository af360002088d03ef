"""How well the alarm cadence detector hears: recall mixed into recordings, false alarms, CPU time.

    python benchmarks/cadence.py BED.flac [BED.flac …] [--clips FOLDER] [--places 3] [--cycles 4]

Alarms of `assistant.synthesis` are added to the beds at reproducible places. SNR: RMS of the alarm over its pulses
against the RMS of the bed over the whole alarm, both broadband. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from assistant import synthesis
from assistant.events import SAMPLE_RATE, Chunk, Detection, Samples, State, frozen
from assistant.models.cadence import Cadence

SNRS = (0.0, 6.0, 12.0)  # dB
FREQUENCIES = (520.0, 3_100.0)  # Hz
PITCHES = (0.95, 1.0, 1.05)
STRETCHES = (0.9, 1.0, 1.1)
ECHOES = (0.0, 0.4, 0.8)  # seconds: RT60
LEAD, TRAIL = 5.0, 16.0  # seconds of bed before and after an alarm
MAKERS = {"t3": synthesis.t3, "t4": synthesis.t4}


def chunks(samples: Samples, size: int = 1_600) -> Iterator[Chunk]:
    """The samples as chunks of `size`."""
    for start in range(0, len(samples), size):
        yield Chunk("bench", "bench", start, frozen(samples[start : start + size].copy()), 0.0)


def detections(samples: Samples) -> list[Detection]:
    """All that the detector says of one recording."""
    cadence = Cadence()
    return [found for chunk in chunks(samples) for found in cadence.feed(chunk)] + cadence.end()


def read(path: Path) -> Samples:
    """A sound file as 16 kHz mono."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    return mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE).astype(np.float32)


def alarm(pattern: str, frequency: float, stretch: float, rt60: float, cycles: int) -> tuple[Samples, float]:
    """An alarm and its RMS over the pulses."""
    dry = MAKERS[pattern](frequency, cycles=cycles, stretch=stretch)
    sound = synthesis.echoed(dry, rt60) if rt60 else dry
    return sound, float(np.sqrt(np.mean(np.square(sound[: len(dry)][dry != 0]))))


def trials(beds: list[Samples], places: int, cycles: int) -> list[dict[str, object]]:
    """Every combination at `places` places of every bed."""
    random = np.random.default_rng(1)
    results: list[dict[str, object]] = []
    combinations = itertools.product(MAKERS, FREQUENCIES, SNRS, STRETCHES, ECHOES, range(len(beds)), range(places))
    for pattern, frequency, snr, stretch, rt60, bed, _ in combinations:
        pitch = float(random.choice(PITCHES))
        sound, rms = alarm(pattern, frequency * pitch, stretch, rt60, cycles)
        length = len(sound) + round((LEAD + TRAIL) * SAMPLE_RATE)
        first = int(random.integers(0, len(beds[bed]) - length))
        stretch_of_bed = beds[bed][first : first + length]
        onset = round(LEAD * SAMPLE_RATE)
        level = float(np.sqrt(np.mean(np.square(stretch_of_bed[onset : onset + len(sound)]))))
        mixed = synthesis.placed(stretch_of_bed, sound * np.float32(level / rms * 10 ** (snr / 20)), LEAD)
        found = detections(mixed)
        started = [d for d in found if d.state is State.STARTED]
        right = [d for d in started if d.model == pattern]
        results.append(
            {
                "pattern": pattern, "frequency": frequency, "snr": snr, "stretch": stretch, "rt60": rt60,
                "bed": bed, "pitch": pitch, "first": first / SAMPLE_RATE,
                "found": len(right) == 1, "several": len(right) > 1, "wrong": len(started) - len(right),
                "ended": len(found) == 2 * len(started),
                "onset_error": abs(right[0].start - onset) / SAMPLE_RATE if right else None,
                "delay": (right[0].heard_at - onset) / SAMPLE_RATE if right else None,
                "score": right[0].score if right else None,
            }
        )  # fmt: skip
    return results


def recall(results: list[dict[str, object]], *keys: str) -> dict[str, float]:
    """Share of alarms found, by the values of `keys`."""
    groups: dict[str, list[bool]] = {}
    for result in results:
        groups.setdefault(" ".join(str(result[key]) for key in keys), []).append(bool(result["found"]))
    return {name: round(float(np.mean(found)), 3) for name, found in sorted(groups.items())}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Benchmark of the alarm cadence detector")
    parser.add_argument("beds", nargs="+", type=Path, help="recordings without alarms, a minute or longer")
    parser.add_argument("--clips", type=Path, help="folder of recordings in which nothing may be found")
    parser.add_argument("--places", type=int, default=2, help="places in each bed for each combination")
    parser.add_argument("--cycles", type=int, default=4, help="cycles of each alarm")
    options = parser.parse_args()
    beds = [read(path) for path in options.beds]

    began = time.process_time()
    false = {str(path): len(detections(bed)) for path, bed in zip(options.beds, beds, strict=True)}
    seconds = sum(map(len, beds)) / SAMPLE_RATE
    cpu = (time.process_time() - began) / seconds * 3_600
    clips = sorted(path for path in options.clips.iterdir() if path.is_file()) if options.clips else []
    for path in clips:
        false[str(path)] = len(detections(read(path)))
    print(f"false alarms: {sum(false.values())} in {len(beds)} beds ({seconds / 60:.1f} min) and {len(clips)} clips")
    for name in (name for name, count in false.items() if count):
        print(f"  {name}: {false[name]}")
    print(f"CPU: {cpu:.2f} s per hour of the beds")

    results = trials(beds, options.places, options.cycles)
    for keys in (("pattern", "frequency", "snr"), ("snr",), ("stretch",), ("rt60",), ("pitch",), ("bed",)):
        print("recall by", ", ".join(keys))
        for name, share in recall(results, *keys).items():
            print(f"  {name}: {share:.3f}")
    for result in results:
        if not result["found"] or result["wrong"] or not result["ended"]:
            print("  ", json.dumps(result))
    delays = [float(str(r["delay"])) for r in results if r["delay"] is not None]
    errors = [float(str(r["onset_error"])) for r in results if r["onset_error"] is not None]
    figures = {
        "trials": len(results),
        "recall": recall(results, "snr"),
        "by": recall(results, "pattern", "frequency", "snr"),
        "several": sum(bool(r["several"]) for r in results),
        "wrong": sum(int(str(r["wrong"])) for r in results),
        "false_alarms": sum(false.values()),
        "delay_median": round(float(np.median(delays)), 2) if delays else None,
        "delay_p95": round(float(np.percentile(delays, 95)), 2) if delays else None,
        "onset_error_p95": round(float(np.percentile(errors, 95)), 3) if errors else None,
        "cpu_seconds_per_hour": round(cpu, 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
