"""What each installed voice needs until the first sample can be played, and for a second of speech.

python benchmarks/voices.py [--piper PROGRAM --voice FILE.onnx] [--rounds 10]

A text becomes speech as a whole, so the first sample is there when the last one is. `first` is the first text of a
process, the load of the model included.
"""

# ruff: noqa: ANN001, D103 (a bench)
from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from pathlib import Path

import numpy as np

from assistant.voices.espeak import Espeak
from assistant.voices.kokoro import Kokoro
from assistant.voices.piper import Piper

TEXTS = {
    "en": (
        "Turned on the light",
        "The washing machine has finished, and the front door has been open for some time.",
    ),
    "ja": ("電気をつけました", "洗濯機が終わりました。玄関のドアが十分前から開いています。"),
}


def used() -> float:
    of = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of.ru_utime + of.ru_stime


async def measured(voice, language: str, rounds: int) -> dict[str, object]:
    before, began = used(), time.perf_counter()
    await voice.synthesise(TEXTS[language][0], language)
    result: dict[str, object] = {"language": language, "first_s": round(time.perf_counter() - began, 2)}
    spoken = 0.0
    for name, text in zip(("short", "long"), TEXTS[language], strict=True):
        took, seconds = [], 0.0
        for _ in range(rounds):
            began = time.perf_counter()
            speech = await voice.synthesise(text, language)
            took.append(time.perf_counter() - began)
            seconds = speech.seconds
            spoken += seconds
        result[f"{name}_p50_ms"] = round(1000 * float(np.median(took)))
        result[f"{name}_worst_ms"] = round(1000 * max(took))
        result[f"{name}_real_time_factor"] = round(float(np.median(took)) / seconds, 3)
    await voice.close()
    result["cpu_s_per_s_of_speech"] = round((used() - before) / spoken, 3)
    return result


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--piper", default="piper")
    parser.add_argument("--voice", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    voices = [(Espeak(), "en"), (Kokoro(), "ja")]
    if options.voice is not None:
        voices.insert(1, (Piper(lambda: options.voice, options.piper), "en"))
    results = {}
    for voice, language in voices:
        if await voice.speaks(language):
            results[voice.name] = await measured(voice, language, options.rounds)
        else:
            results[voice.name] = "not installed"
        print(voice.name, results[voice.name])
    print(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(main())
