"""A private PulseAudio, whose null sink is the microphone."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ALSA = Path("/usr/share/alsa/alsa.conf")
VARIABLES = ("XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH", "PULSE_SERVER", "ALSA_CONFIG_PATH")  # lead a process to it


@pytest.fixture(scope="session")
def portaudio() -> None:
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("no PortAudio library; remedy: apt-get install libportaudio2")


@pytest.fixture
def pulse(tmp_path: Path, portaudio: None) -> Iterator[tuple[dict[str, str], int]]:
    """The environment of a private PulseAudio with the null sink `room`, and its process id."""
    for program, package in (("pulseaudio", "pulseaudio"), ("paplay", "pulseaudio-utils")):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}; remedy: apt-get install {package}")
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        pytest.skip("ALSA cannot reach PulseAudio; remedy: apt-get install libasound2-plugins")
    (tmp_path / "runtime").mkdir(mode=0o700)
    (tmp_path / "asound.conf").write_text("pcm.pulse { type pulse }\npcm.!default { type pulse }\n")
    socket = tmp_path / "s"
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PULSE_RUNTIME_PATH": str(tmp_path / "runtime"),
        "PULSE_SERVER": f"unix:{socket}",
        "ALSA_CONFIG_PATH": f"{ALSA}:{tmp_path / 'asound.conf'}",
    }
    modules = [
        "module-null-sink sink_name=room rate=48000 channels=2",
        f"module-native-protocol-unix socket={socket} auth-anonymous=1",
    ]
    options = ["--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--log-target=stderr", "-n"]
    daemon = subprocess.Popen(
        ["pulseaudio", *options, *(part for module in modules for part in ("-L", module))],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert daemon.poll() is None, "pulseaudio ended"
            assert time.monotonic() < deadline, "pulseaudio does not answer"
            time.sleep(0.05)
        yield environment, daemon.pid
    finally:
        daemon.send_signal(signal.SIGCONT)
        daemon.kill()
        daemon.wait(timeout=10)
