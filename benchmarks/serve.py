"""`kikimimi serve` on Ray with two replicas: what clients see when one is killed, and when all are replaced.

    benchmarks/serve.py CHECKPOINT CLIP [--seconds 60] [--clients 4] [--parts quiet,killed,killed_idle,replaced]

CHECKPOINT is a chat checkpoint's folder (the tests build a tiny one: tests/tiny_qwen_audio.py), CLIP a recording with
speech. Half of the clients transcribe with Whisper (tiny.en), half chat with the clip; each is the official `openai`
client, which repeats what failed. Where nobody asks (killed_idle), what a replica takes to come back is its own time.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import ray
from ray import serve

RETRIES = 8
PARTS = ("quiet", "killed", "killed_idle", "replaced")
KIKIMIMI = [sys.executable, "-m", "assistant.cli"]


def main() -> None:
    """Start the server, and run the parts."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--port", type=int, default=18770)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        model = f"{{checkpoint: '{arguments.checkpoint.absolute()}', device: cpu, dtype: float32}}"
        config.write_text(
            f"profile: hybrid\nmodels: {{audio_llm: {model}}}\nspeech: {{model: tiny.en}}\n"
            f"serve: {{port: {arguments.port}, replicas: 2}}\n"
        )
        log = Path(folder) / "log"
        began = time.monotonic()
        with log.open("w") as out:
            server = subprocess.Popen([*KIKIMIMI, "serve", "-c", str(config)], stdout=out, stderr=out)
        try:
            until(lambda: "served by replicas" in log.read_text(), 300, server)
            print(f"ready after {time.monotonic() - began:.1f} s")
            result = measure(arguments, server)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
            print(log.read_text()[-3_000:], file=sys.stderr)
    print(json.dumps({"benchmark": "serve", "cores": os.cpu_count(), **result}))


class Load:
    """Clients that ask without a pause."""

    def __init__(self, port: int, clip: Path, clients: int) -> None:
        self.base, self.clip = f"http://127.0.0.1:{port}/v1", clip
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.times: list[tuple[float, float]] = []  # when each answer came, and how long it took
        self.errors: list[str] = []
        self.threads = [threading.Thread(target=self.ask, args=(n % 2 == 0,)) for n in range(clients)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def ask(self, transcribe: bool) -> None:
        """Ask until the end."""

        def seen(response: httpx2.Response) -> None:
            self.counts[f"http_{response.status_code}"] += 1

        http = httpx2.Client(event_hooks={"response": [seen]})
        client = openai.OpenAI(base_url=self.base, api_key="none", max_retries=RETRIES, timeout=30, http_client=http)
        content = self.clip.read_bytes()
        audio = {"data": base64.b64encode(content).decode(), "format": self.clip.suffix[1:]}
        parts: Any = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": "What is said?"}]
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                if transcribe:
                    text = client.audio.transcriptions.create(
                        model="whisper-tiny.en", file=(self.clip.name, content)
                    ).text
                    assert text, "nothing was heard"
                else:
                    client.chat.completions.create(
                        model="qwen-audio-chat", messages=[{"role": "user", "content": parts}], max_tokens=8
                    )
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}"[:200])
                self.counts["failed"] += 1
            else:
                self.counts["answered"] += 1
                self.times.append((time.monotonic(), time.monotonic() - began))


def measure(arguments: argparse.Namespace, server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Each part, one after the other."""
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    parts: dict[str, Any] = {}
    for name in arguments.parts.split(","):
        clients = 0 if name == "killed_idle" else arguments.clients
        with Load(arguments.port, arguments.clip, clients) as load:
            time.sleep(arguments.seconds / 4)
            comeback = {} if name == "quiet" else disturb(name, server)
            time.sleep(arguments.seconds * 3 / 4)
        took = [seconds for _, seconds in load.times]
        ends = sorted(end for end, _ in load.times)
        parts[name] = {
            "answered": load.counts["answered"],
            "failed_after_retry": load.counts["failed"],
            "statuses": {key: value for key, value in load.counts.items() if key.startswith("http_")},
            "median_s": round(statistics.median(took), 3) if took else None,
            "longest_s": round(max(took, default=0.0), 3),
            "longest_silence_s": round(max((b - a for a, b in pairwise(ends)), default=0.0), 3),
            **comeback,
            "load_average": round(os.getloadavg()[0], 1),
            "errors": load.errors[:3],
        }
        print(name, parts[name], flush=True)
    assert httpx2.get(f"http://127.0.0.1:{arguments.port}/health").status_code == 200
    ray.shutdown()
    return parts


def disturb(name: str, server: subprocess.Popen[bytes]) -> dict[str, float]:
    """Kill a replica or have all replaced: seconds until Ray saw it, a new process ran, and two served again."""
    before, at = set(replicas()), time.monotonic()
    if name == "replaced":
        server.send_signal(signal.SIGHUP)
        gone = before
    else:
        gone = {min(before)}
        os.kill(min(before), signal.SIGKILL)
    seen: dict[str, float] = {}
    while "recovery_s" not in seen:
        now = set(replicas())
        states = serve.status().applications["kikimimi"].deployments["models"].replica_states
        for key, holds in {
            "noticed_s": set(states) != {"RUNNING"},
            "process_s": now - before,
            "recovery_s": "process_s" in seen and not gone & now and len(now) == 2 and states == {"RUNNING": 2},
        }.items():
            if holds:
                seen.setdefault(key, round(time.monotonic() - at, 1))
        assert time.monotonic() - at < 300, "it takes too long"
        assert server.poll() is None, "the server has ended"
        time.sleep(0.2)
    return seen


def replicas() -> list[int]:
    """The processes of the replicas."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if "ServeReplica:kikimimi" in (folder / "cmdline").read_text("utf-8", "replace"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return sorted(found)


def until(condition: Callable[[], bool], seconds: float, server: subprocess.Popen[bytes]) -> None:
    """Wait, at most so long, while the server runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        assert server.poll() is None, "the server has ended"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
