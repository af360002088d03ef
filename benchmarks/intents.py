"""Commands as text: pass rate through `kikimimi intent`, time to compile and to understand, memory, per language.

    python benchmarks/intents.py [--languages en ja …] [--direct]

The sentences and the house are those of tests/data/intents. Each sentence is one call of the command, as a person would
make it; `--direct` asks the compiled sentences instead, which takes seconds rather than minutes. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import spoken_house as house

from assistant.cli import main as kikimimi
from assistant.events import Intent
from assistant.health import rss_mb


def by_command(language: str, sentence: house.Sentence, file: Path) -> str | None:
    """What was wrong with the answer of `kikimimi intent`; None: nothing."""
    room = ["--room", sentence.room] if sentence.room else []
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        kikimimi(["intent", sentence.say, "--language", language, *room, "--json", "-c", str(file)])
    answer = json.loads(out.getvalue())
    if answer["intent"] is None:
        return f"{sentence.say}: {answer['reason']}" if sentence.does or sentence.intent else None
    done = {message["topic"]: message["payload"] for message in answer["publish"]}
    right = done == sentence.does and (sentence.intent in (None, answer["intent"]["name"]))
    return None if right else f"{sentence.say}: {answer['intent']['name']} does {done}"


def configuration(language: str, folder: Path) -> Path:
    """The house of `language` as a configuration file."""
    rooms = {room: {"source": "null", "name": names[0]} for room, names in house.rooms(language).items()}
    devices = [device.model_dump(mode="json", exclude_defaults=True) for device in house.devices(language)]
    file = folder / f"{language}.yaml"
    file.write_text(yaml.safe_dump({"rooms": rooms, "devices": devices}, allow_unicode=True), encoding="utf-8")
    return file


def measured(language: str, direct: bool, results: Queue[dict[str, Any]]) -> None:
    """One language, in a process of its own, since memory is counted."""
    import hassil.recognize  # noqa: F401, PLC0415 (shared by all languages: not counted as that of one)
    import home_assistant_intents  # noqa: F401, PLC0415

    before = rss_mb()
    began = time.perf_counter()
    intents = house.house(language)
    intents.warm()
    compiled = time.perf_counter() - began
    memory = rss_mb() - before
    said, talk = house.sentences(language), house.negatives(language)
    seconds = []
    for sentence in (*said, *talk):
        began = time.perf_counter()
        outcome = intents.understand(sentence.say, language=language, area=sentence.room)
        seconds.append(time.perf_counter() - began)
        assert isinstance(outcome, Intent) or outcome.reason
    with tempfile.TemporaryDirectory() as folder:
        file = configuration(language, Path(folder))

        def wrong(sentence: house.Sentence) -> str | None:
            if direct:
                return sentence.wrong(intents.understand(sentence.say, language=language, area=sentence.room))
            return by_command(language, sentence, file)

        failed, acted = ([found for one in group if (found := wrong(one))] for group in (said, talk))
    results.put(
        {
            "language": language,
            "right": len(said) - len(failed),
            "sentences": len(said),
            "acted": len(acted),
            "negatives": len(talk),
            "compile_s": round(compiled, 2),
            "memory_mb": round(memory, 1),
            "p50_ms": round(1e3 * statistics.median(seconds), 1),
            "p95_ms": round(1e3 * statistics.quantiles(seconds, n=20)[-1], 1),
            "wrong": [*failed, *acted],
        }
    )


def main() -> None:
    """Measure one language after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=list(house.LANGUAGES), choices=house.LANGUAGES)
    parser.add_argument("--direct", action="store_true", help="not through the command")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for language in arguments.languages:
        results = context.Queue()
        process = context.Process(target=measured, args=(language, arguments.direct, results))
        process.start()
        row = results.get(timeout=600)
        process.join()
        wrong = row.pop("wrong")
        print("  ".join(f"{name} {value}" for name, value in row.items()), *wrong, sep="\n    ", flush=True)
        rows.append(row)
    print(json.dumps({"benchmark": "intents", "languages": rows}))


if __name__ == "__main__":
    main()
