"""`kikimimi serve` as replicas of Ray Serve, with real small models. Skipped where the extra `cluster` is missing."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
import soundfile
from outputs.brokers import free_port

from assistant import clustering
from assistant.config import Config
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE
from assistant.serve.settings import ServeSettings
from assistant.synthesis import t3

TOKEN = "a-token-of-the-tests"
LONG = 240.0  # seconds for replicas to come up, on a busy machine


async def refused(config: Config) -> str:
    with pytest.raises(AssistantError) as raised:
        await clustering.serve_replicas(config, asyncio.Event(), asyncio.Event(), lambda: config, lambda: None)
    return str(raised.value)


async def test_without_the_extra_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "pip install 'kikimimi[cluster]'" in await refused(Config())


async def test_a_profile_that_has_no_models_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert "nothing to serve" in await refused(Config(profile="remote"))


async def test_a_port_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert "serve.port" in await refused(Config(serve=ServeSettings(port=0)))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be opened" in await refused(Config(serve=ServeSettings(port=port)))


def replicas(mark: str) -> set[int]:
    """The processes of the replicas that a test has started."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and b"ServeReplica:kikimimi" in (folder / "cmdline").read_bytes()
                and mark.encode() in (folder / "environ").read_bytes()
            ):
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], object], server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, log.read_text()
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(4 * LONG)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is missing: pip install 'kikimimi[cluster]'")
def test_a_replica_that_is_killed_and_all_that_are_replaced_cost_no_request(tmp_path: Path, yamnet_path: Path) -> None:
    assert yamnet_path.is_file()
    log, config, port = tmp_path / "log", tmp_path / "c.yaml", free_port()
    config.write_text(
        f"speech: {{enabled: false}}\nserve: {{port: {port}, replicas: 2, token: '${{TEST_TOKEN}}', timeout: 60}}\n"
    )
    mark = f"TEST_MARK={tmp_path}"
    environment = {
        **os.environ,
        "TEST_TOKEN": TOKEN,
        "TEST_MARK": str(tmp_path),
        "PYTHONPATH": str(Path(clustering.__file__).parents[1]),
    }
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "assistant.cli", "serve", "-c", str(config)], stdout=out, stderr=out, env=environment
        )
    alarm = io.BytesIO()
    soundfile.write(alarm, t3(cycles=1), SAMPLE_RATE, format="WAV")
    failed: list[str] = []
    answered = 0
    enough = threading.Event()

    def ask() -> None:
        nonlocal answered
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=TOKEN, max_retries=8, timeout=60.0
        ) as client:
            while not enough.wait(0.2):
                try:
                    told = client.post(
                        "/audio/tags",
                        cast_to=object,
                        files={"file": ("alarm.wav", alarm.getvalue())},
                        options={"headers": {"content-type": "multipart/form-data"}},
                    )
                    assert isinstance(told, dict)
                    assert told["windows"]
                    answered += 1
                except Exception as error:
                    failed.append(f"{type(error).__name__}: {error}")

    try:
        until(lambda: "served by replicas" in log.read_text(), server, log)
        first = replicas(mark)
        assert len(first) == 2
        ours = os.getpriority(os.PRIO_PROCESS, 0)  # Ray would have them compute behind every other program
        assert [os.getpriority(os.PRIO_PROCESS, replica) for replica in first] == [ours, ours]
        with (
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        try:
            os.kill(min(first), signal.SIGKILL)
            until(lambda: len(replicas(mark) - first) == 1, server, log)
            second = replicas(mark)
            server.send_signal(signal.SIGHUP)
            until(lambda: "the replicas were replaced" in log.read_text(), server, log)
            until(lambda: len(replicas(mark)) == 2 and not replicas(mark) & second, server, log)
            before = answered
            until(lambda: answered > before + 3, server, log)
        finally:
            enough.set()
            for thread in asking:
                thread.join(90)
        assert failed == []
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert not replicas(mark)
        assert TOKEN not in log.read_text()
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
