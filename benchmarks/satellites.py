"""How fast a satellite that is killed and started again is missed and heard: the whole daemon, in real time.

    python benchmarks/satellites.py [--restarts 20] [--gone 3]

A simulated satellite that streams always, in a room without a wake word, is killed, started again after `--gone`
seconds and, as soon as it streams, hears an English sentence by espeak-ng. At last it freezes: its connection stays
open, but nobody answers. Ends in one JSON line; all times in seconds.
Whisper and YAMNet are fetched if need be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from satellites import satellite
from test_app import until
from test_app_commands import house, spoken

from assistant.config import parse
from assistant.events import SAMPLE_RATE
from assistant.models import store
from assistant.startup import ModelFiles

CONFIG = """\
privacy: {transcripts: true}
wyoming: {enabled: false}
say: {enabled: false}
speech: {languages: [en]}
rooms:
  hall: {source: "wyoming://127.0.0.1:PORT", wake: none}
"""
LASTS = 9.0  # seconds that it is there before it is killed; the daemon takes a shorter life for a failed attempt
SENTENCE = "Turn on the kitchen light."


def names() -> list[str]:
    """What each task is called, or else runs."""
    unnamed = "Task-"
    return [
        str(task.get_coro()).split(" at ")[0] if task.get_name().startswith(unnamed) else task.get_name()
        for task in asyncio.all_tasks()
    ]


async def measured(restarts: int, gone: float) -> dict[str, object]:
    """The figures of so many restarts."""
    files = ModelFiles(store.pull("yamnet") / "yamnet.tflite", store.pull("whisper-base"))
    said = await spoken(SENTENCE)
    loud = np.flatnonzero(np.abs(said) > 0.02)[-1] / SAMPLE_RATE
    offline, online, answered, whole = [], [], [], 0
    with tempfile.TemporaryDirectory() as state:
        async with satellite() as simulated:
            config = parse(CONFIG.replace("PORT", str(simulated.port)), Path("c.yaml"))
            async with house(config, files, Path(state)) as (client, _, _task, _port):
                await until(lambda: simulated.streaming and "online" in client.on("kikimimi/hall/status"))
                tasks: list[str] = []
                for _ in range(restarts):
                    await asyncio.sleep(LASTS)
                    killed = time.monotonic()
                    await simulated.kill()
                    await until(lambda: client.on("kikimimi/hall/status")[-1] == "offline")
                    offline.append(time.monotonic() - killed)
                    await asyncio.sleep(gone)
                    heard, transcripts = len(client.on("kikimimi/hall/event")), len(simulated.events("transcript"))
                    started = time.monotonic()
                    await simulated.start()
                    await until(lambda: simulated.streaming)
                    online.append(time.monotonic() - started)
                    began = time.monotonic()
                    simulated.say(said)
                    await until(lambda n=transcripts: len(simulated.events("transcript")) > n)
                    answered.append(time.monotonic() - began - loud)
                    await until(lambda n=heard: len(client.on("kikimimi/hall/event")) > n)
                    texts = [json.loads(one).get("text") or "" for one in client.on("kikimimi/hall/event")[heard:]]
                    whole += any(SENTENCE.lower().strip(".") in text.lower() for text in texts)
                    await asyncio.sleep(0.5)
                    tasks = tasks or names()
                leaked = Counter(names()) - Counter(tasks)
                frozen = time.monotonic()
                simulated.pongs = False  # the connection stays, nobody is there
                await until(lambda: client.on("kikimimi/hall/status")[-1] == "offline")
                frozen = time.monotonic() - frozen
    return {
        "restarts": restarts,
        "gone_s": gone,
        "utterances_whole": whole,
        "tasks_leaked": dict(leaked),
        "frozen_offline": round(frozen, 3),
        **{
            f"{name}_{which}": round(float(np.percentile(values, share)), 3)
            for name, values in (("offline", offline), ("streaming_again", online), ("transcript", answered))
            for which, share in (("p50", 50), ("max", 100))
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--gone", type=float, default=3.0, help="seconds between kill and start")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measured(options.restarts, options.gone))))
