"""Microphones that go and come back: the whole daemon on a real PulseAudio, told over a real broker."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("how", ["removed", "restarted"])
def test_a_microphone_that_goes_is_offline_soon_comes_back_and_leaves_nothing_behind(
    how: str, yamnet_path: Path
) -> None:
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("no PortAudio library; remedy: apt-get install libportaudio2")
    for program, package in (
        ("pulseaudio", "pulseaudio"),
        ("paplay", "pulseaudio-utils"),
        ("mosquitto", "mosquitto"),
        ("mosquitto_sub", "mosquitto-clients"),
    ):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}; remedy: apt-get install {package}")
    if not list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        pytest.skip("ALSA cannot reach PulseAudio; remedy: apt-get install libasound2-plugins")
    command = [sys.executable, "benchmarks/sources.py", "--rounds", "3", "--gone", "0.5", "--lasts", "1", "--only", how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["exit_code"] == {"daemon": 0}
    assert told[how]["offline_max"] < 10
    assert told[how]["hearing_again_max"] < 20
    assert told[how]["threads_leaked"] <= 0
    assert told[how]["files_leaked"] <= 0
