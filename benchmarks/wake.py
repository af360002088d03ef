"""Wake words: recall on synthetic voices at three noise levels, where they are placed, false wakes, CPU time.

    python benchmarks/wake.py [AUDIO] [--piper PROGRAM --piper-voice VOICE.onnx] [--json]

AUDIO is a folder with `clips/` and `long/`: recordings without a wake word. espeak-ng speaks in eight voices; a Piper
voice, if one is given, at five speeds and in two rooms. Noise is brown and speech-like (other voices at once), at
20, 10 and 5 dB below the RMS of the voice over its loud parts. Position: against the end of the voice's energy, and by
what is left of a command that follows without a pause. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from assistant.attention import WakeWord
from assistant.events import SAMPLE_RATE, Chunk, Samples, frozen
from assistant.models.wakeword import LAG, WakeWords, Woken
from assistant.segment.activity import Activity
from assistant.voices.piper import Piper

WORDS: tuple[str, ...] = WakeWord.__args__  # type: ignore[attr-defined]
SAID = {"okay_nabu": "okay nahboo", "hey_jarvis": "hey Jarvis", "hey_mycroft": "hey Mycroft", "alexa": "Alexa"}
COMMAND = "turn on the kitchen light"
ESPEAK = ("en-us", "en-us+f2", "en-us+m3", "en-gb", "en-gb+f4", "en-gb-scotland", "en-us+Alex", "en-us+anika")
SNRS = (20, 10, 5)  # dB
SPEEDS = (0.88, 0.94, 1.0, 1.06, 1.12)
ECHOES = (0.0, 0.3)  # seconds: RT60
CHUNK = 1280


def chunks(samples: Samples) -> Iterator[Chunk]:
    """The samples as the daemon gets them."""
    for start in range(0, len(samples), CHUNK):
        yield Chunk("bench", "bench", start, frozen(samples[start : start + CHUNK].astype(np.float32)), 0.0)


def woken(samples: Samples, words: tuple[str, ...]) -> tuple[list[Woken], float, float]:
    """The wake words of a recording, the CPU seconds for finding them, and the share of it with the gate open."""
    found: list[Woken] = []
    spent, active = 0.0, 0
    gate, ears = Activity(), WakeWords(words)
    for chunk in chunks(samples):
        is_open = any(frame.active for frame in gate.feed(chunk))
        active += is_open
        began = time.process_time()
        found += ears.feed(chunk, active=is_open)
        spent += time.process_time() - began
    ears.close()
    return found, spent, active * CHUNK / max(1, len(samples))


def trimmed(samples: Samples) -> Samples:
    """From the first to the last sound."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def espeak(text: str, voice: str) -> Samples:
    """`text` in a voice of espeak-ng."""
    wav = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], capture_output=True, check=True, timeout=20)
    samples, rate = soundfile.read(io.BytesIO(wav.stdout), dtype="float32")
    return trimmed(soxr.resample(samples, rate, SAMPLE_RATE))


async def piper(texts: list[str], program: str, voice: Path) -> dict[str, Samples]:
    """Each text in one Piper voice."""
    engine = Piper(lambda: voice, program)
    said = {}
    for text in texts:
        speech = await engine.synthesise(text, None)
        said[text] = trimmed(soxr.resample(speech.samples, speech.rate, SAMPLE_RATE))
    await engine.close()
    return said


def in_room(samples: Samples, rt60: float, random: np.random.Generator) -> Samples:
    """With the echoes of a room."""
    if not rt60:
        return samples
    length = int(SAMPLE_RATE * rt60)
    tail = random.normal(size=length) * 10 ** (-3 * np.arange(length) / length) * 0.06
    tail[0] = 1.0
    return np.convolve(samples, tail).astype(np.float32)


def noise(length: int, babble: Samples | None, random: np.random.Generator) -> Samples:
    """Brown noise, or voices that run into each other, of RMS 1."""
    if babble is None:
        brown = np.cumsum(random.normal(size=length))
        made = np.convolve(brown, np.r_[1, -np.ones(200) / 200], "same")
    else:
        tiled = np.tile(babble, length // len(babble) + 2)
        made = sum(tiled[at : at + length] for at in random.integers(0, len(babble), 6))
    return (made / np.sqrt(np.mean(made**2))).astype(np.float32)


def scene(voice: Samples, snr: float, babble: Samples | None, random: np.random.Generator) -> tuple[Samples, int]:
    """The voice at -26 dBFS after three seconds of noise, with two after it; and where it ends."""
    loud = voice[np.abs(voice) > 0.02]
    voice = voice * 0.05 / np.sqrt(np.mean(loud**2))
    whole = np.concatenate((np.zeros(3 * SAMPLE_RATE), voice, np.zeros(2 * SAMPLE_RATE))).astype(np.float32)
    return whole + noise(len(whole), babble, random) * 0.05 * 10 ** (-snr / 20), 3 * SAMPLE_RATE + len(voice)


def voices(word: str, options: argparse.Namespace) -> dict[str, list[Samples]]:
    """The wake word in every voice, with the engine's name."""
    said = {"espeak": [espeak(SAID[word], voice) for voice in ESPEAK]}
    if options.piper_voice is not None:
        random = np.random.default_rng(1)
        plain = asyncio.run(piper([SAID[word], f"{SAID[word]}!"], options.piper, options.piper_voice))
        said["piper"] = [
            in_room(soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE), rt60, random)
            for samples in plain.values()
            for speed in SPEEDS
            for rt60 in ECHOES
        ]
    return said


def recall(options: argparse.Namespace) -> dict[str, object]:
    """Heard of said, by word, engine, noise and SNR; how late detections came after the end of the word."""
    random = np.random.default_rng(7)
    babble = np.concatenate(
        [espeak("the weather tomorrow will be rather mild with rain in the west", v) for v in ESPEAK]
    )
    report: dict[str, object] = {}
    for word in WORDS:
        lags: list[float] = []
        for engine, said in voices(word, options).items():
            for kind, bed in (("noise", None), ("voices", babble)):
                for snr in SNRS:
                    hits = 0
                    for voice in said:
                        samples, end = scene(voice, snr, bed, random)
                        found = [one for one in woken(samples, (word,))[0] if one.position > 3 * SAMPLE_RATE]
                        hits += bool(found)
                        lags += [(one.position - end) / SAMPLE_RATE for one in found[:1]]
                    report[f"{word} {engine} {kind} {snr} dB"] = f"{hits}/{len(said)}"
                    print(f"{word:12} {engine:7} {kind:7} {snr:3} dB  {hits}/{len(said)}")
        if lags:
            low, mid, high = np.quantile(lags, (0.05, 0.5, 0.95))
            report[f"{word} placed after its end"] = [round(float(x), 3) for x in (low, mid, high)]
            print(
                f"{word:12} placed {low:+.3f} / {mid:+.3f} / {high:+.3f} s from its end (p5, p50, p95; LAG {LAG[word]})"
            )
    return report


def false_wakes(folder: Path) -> dict[str, object]:
    """Wakes in recordings that have none, all words at once, and what listening costs."""
    files = sorted(folder.glob("long/*.flac")) + sorted(folder.glob("clips/*.flac"))
    length = spent = active = 0.0
    heard: list[str] = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE)
        found, cpu, share = woken(mono, WORDS)
        length += len(mono) / SAMPLE_RATE
        spent, active = spent + cpu, active + share * len(mono) / SAMPLE_RATE
        heard += [f"{file.name} {one.word} {one.position / SAMPLE_RATE:.1f} s {one.score:.2f}" for one in found]
    print(f"{len(heard)} false wakes of {len(WORDS)} words in {len(files)} files, {length / 60:.1f} min: {heard}")
    print(f"{100 * spent / length:.2f} % of one core for {len(WORDS)} words, gate open {100 * active / length:.0f} %")
    return {"false": heard, "minutes": length / 60, "cpu_share": spent / length, "active_share": active / length}


def cost() -> dict[str, object]:
    """CPU share for one word and for all while somebody speaks without a pause, and while nobody does."""
    random = np.random.default_rng(3)
    speech = np.tile(espeak("the weather tomorrow will be rather mild with rain in the west", "en-us"), 10)[
        : 30 * SAMPLE_RATE
    ]
    quiet = (random.normal(size=30 * SAMPLE_RATE) * 1e-4).astype(np.float32)
    report = {}
    for name, samples in (("speech", speech), ("quiet", quiet)):
        for words in (WORDS[:1], WORDS):
            share = woken(samples, words)[1] / (len(samples) / SAMPLE_RATE)
            report[f"{name}, {len(words)} words"] = round(share, 5)
            print(f"{name}: {len(words)} words cost {100 * share:.3f} % of one core")
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, nargs="?")
    parser.add_argument("--piper", default="piper")
    parser.add_argument("--piper-voice", type=Path)
    options = parser.parse_args()
    report: dict[str, object] = {"cost": cost(), "recall": recall(options)}
    if options.audio is not None:
        report["false_wakes"] = false_wakes(options.audio)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
