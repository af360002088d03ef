"""A call into the sound system that never returns, in the whole daemon on a real PulseAudio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import platformdirs
import pytest
from outputs.brokers import free_port, until

from assistant import portaudio, recovering
from assistant.errors import SourceError

pytestmark = pytest.mark.alone

ROOT = Path(recovering.__file__).parents[1]

# The first stream that the daemon starts never starts, as when the sound server went at the wrong moment.
DAEMON = """
import sys, threading
from pathlib import Path
import sounddevice
from assistant import recovering
from assistant.cli import main

hang, start = Path(sys.argv.pop()), sounddevice.InputStream.start
recovering.LOOK_EVERY = recovering.STUCK_SECONDS = 1.0

def never(stream):
    if hang.exists():
        hang.unlink()
        threading.Event().wait()
    start(stream)

sounddevice.InputStream.start = never
raise SystemExit(main(sys.argv[1:]))
"""
CONFIG = """\
broker: {port: PORT}
speech: {enabled: false}
wyoming: {enabled: false}
web: {enabled: false}
say: {enabled: false}
rooms:
  desk: {source: pulse}
"""


def test_a_daemon_whose_sound_system_hangs_starts_anew(
    pulse: tuple[dict[str, str], int], yamnet_path: Path, tmp_path: Path
) -> None:
    environment, _ = pulse
    environment |= {"XDG_STATE_HOME": str(tmp_path), "XDG_CACHE_HOME": str(platformdirs.user_cache_path())}
    (tmp_path / "config.yaml").write_text(CONFIG.replace("PORT", str(free_port())))
    (tmp_path / "hang").touch()
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, "run", "-c", str(tmp_path / "config.yaml"), str(tmp_path / "hang")],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(90.0, daemon.kill)
    watchdog.start()
    lines: list[str] = []
    try:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            lines.append(line)
            if "desk: listening to pulse" in line:
                daemon.terminate()
                break
        rest = daemon.stderr.read()
        assert daemon.wait(timeout=30) == 0, "".join(lines) + rest
    finally:
        watchdog.cancel()
        daemon.kill()
        daemon.communicate()
    assert sum("pulse opens in another process: starting anew" in line for line in lines) == 1, "".join(lines)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(recovering, "STUCK_SECONDS", 0.1)
    monkeypatch.setattr(recovering, "TRY_AGAIN", 0.01)
    monkeypatch.setattr(portaudio, "_since", time.monotonic())


async def test_where_no_other_process_hears_it_either_nothing_is_done(
    hanging: None, pulse: tuple[dict[str, str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in pulse[0].items():
        monkeypatch.setenv(key, value)
    restarts: list[str] = []
    tried: list[str] = []

    def silent() -> list[str]:
        tried.append("no such microphone")
        return tried[-1:]

    watching = asyncio.create_task(recovering.watch(silent, lambda: restarts.append("now")))
    await until(lambda: len(tried) >= 3, 60.0)
    watching.cancel()
    await asyncio.wait((watching,))
    assert restarts == []


async def test_a_process_that_opens_nothing_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "TRY_SECONDS", 0.2)
    monkeypatch.setattr(recovering, "OPENS", "import time; time.sleep(60)")
    assert not await recovering.opens_elsewhere("pulse")


def test_a_call_is_stuck_only_while_it_lasts() -> None:
    assert portaudio.stuck(time.monotonic() + 99.0) == 0.0
    with portaudio.exclusive(SourceError):
        with portaudio.exclusive(SourceError):
            assert portaudio.stuck(time.monotonic() + 99.0) >= 99.0
        assert portaudio.stuck(time.monotonic() + 99.0) >= 99.0
    assert portaudio.stuck(time.monotonic() + 99.0) == 0.0
