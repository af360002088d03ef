"""Real PortAudio on a private PulseAudio whose null sink is recorded by its monitor."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from assistant.errors import AssistantError
from assistant.outputs import loudspeaker
from assistant.outputs.loudspeaker import Output, find

ROOT = Path(loudspeaker.__file__).parents[2]
KNOWN = [
    Output(0, "HDMI 0", 2, 48000.0, False),
    Output(3, "USB Audio", 2, 44100.0, True),
    Output(4, "HDMI 1", 8, 48000.0, False),
]

PLAY = """
import asyncio, json, sys, time
import numpy as np
from assistant.errors import AssistantError
from assistant.outputs.loudspeaker import Loudspeaker
from assistant.voices.voice import Spoken

async def main(device, seconds, cancel):
    at = np.arange(round(22050 * seconds)) / 22050
    speech = Spoken((0.5 * np.sin(2 * np.pi * 1000 * at)).astype(np.float32), 22050)
    task = asyncio.create_task(Loudspeaker(device).play(speech))
    began, failure, worst, last = time.time(), None, 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.01)
        worst, last = max(worst, time.monotonic() - last), time.monotonic()
        if cancel and time.time() - began > cancel:
            task.cancel(); cancel = None
            cancelled_at = time.time()
    try:
        await task
    except AssistantError as error:
        failure = str(error)
    except asyncio.CancelledError:
        failure = "cancelled"
        print(json.dumps({"failure": failure, "at": cancelled_at, "worst": worst})); return
    print(json.dumps({"failure": failure, "took": time.time() - began, "worst": worst}))

asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
"""


def play(device: str, seconds: float, environment: dict[str, str], cancel: float = 0.0) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PLAY, device, str(seconds), str(cancel)],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


class TestFinding:
    def test_default_number_name_and_part_of_a_name(self):
        assert find("default", KNOWN).index == 3
        assert find("4", KNOWN).index == 4
        assert find("hdmi 0", KNOWN).index == 0
        assert find("usb", KNOWN).index == 3

    def test_none_and_several_name_the_remedy(self):
        with pytest.raises(AssistantError, match=r"no such output .*3 USB Audio.*remedy.*kikimimi devices"):
            find("bluetooth", KNOWN)
        with pytest.raises(AssistantError, match=r"several outputs match \(0 HDMI 0, 4 HDMI 1\)"):
            find("hdmi", KNOWN)


@pytest.fixture
def sink(pulse: tuple[dict[str, str], int]) -> dict[str, str]:
    """The environment of a private PulseAudio with the null sink `room`."""
    return pulse[0]


class Monitor:
    """What the sink plays, with the wall time at which it was there."""

    def __init__(self, environment: dict[str, str], file: Path) -> None:
        self._file = file.open("wb")
        self._process = subprocess.Popen(
            [
                "parec",
                "--device=room.monitor",
                "--rate=16000",
                "--channels=1",
                "--format=s16le",
                "--raw",
                "--latency-msec=10",
            ],
            env=environment,
            stdout=self._file,
        )
        time.sleep(1.0)

    def heard(self) -> tuple[np.ndarray, float]:
        """Samples at 16 kHz, and the Unix time of the last one."""
        time.sleep(0.3)
        ended = time.time()
        self._process.terminate()
        self._process.wait(timeout=10)
        self._file.close()
        return np.fromfile(self._file.name, "<i2").astype(np.float32) / 32768, ended


@pytest.mark.slow
def test_speech_is_heard_to_its_end(sink, tmp_path):
    monitor = Monitor(sink, tmp_path / "heard.raw")
    told = play("default", 1.5, sink)
    heard, _ = monitor.heard()
    assert told["failure"] is None
    assert told["worst"] < 0.3  # type: ignore[operator] (the event loop went on)
    loud = np.flatnonzero(np.abs(heard) > 0.02)
    assert (loud[-1] - loud[0]) / 16000 == pytest.approx(1.5, abs=0.06)
    middle = heard[loud[0] + 4000 : loud[0] + 20000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 1000
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.354, abs=0.02)


@pytest.mark.slow
def test_a_cancel_silences_at_once(sink, tmp_path):
    monitor = Monitor(sink, tmp_path / "heard.raw")
    told = play("default", 20.0, sink, cancel=1.5)
    heard, ended = monitor.heard()
    assert told["failure"] == "cancelled"
    last = np.flatnonzero(np.abs(heard) > 0.02)[-1]
    silent_at = ended - (len(heard) - last) / 16000
    assert silent_at - float(str(told["at"])) < 0.15  # 0.05 and what the recording itself is late


def test_no_such_output_is_one_line_with_the_remedy():
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("no PortAudio library; remedy: apt-get install libportaudio2")
    failure = str(play("no-such-loudspeaker", 1.0, dict(os.environ))["failure"])
    assert "kikimimi devices" in failure
    assert "\n" not in failure
