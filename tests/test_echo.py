"""A reply does not stop itself; somebody who talks over it stops it."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
import soundfile
import soxr

from assistant.echo import Echo
from assistant.events import SAMPLE_RATE, Samples
from assistant.synthesis import noise

PIECE = 1280


def voice(text: str, name: str) -> Samples:
    wav = subprocess.run(["espeak-ng", "-v", name, "--stdout", text], capture_output=True, check=True, timeout=20)
    samples, rate = soundfile.read(io.BytesIO(wav.stdout), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32)


@pytest.fixture(scope="module")
def reply() -> Samples:
    return voice(
        "The kitchen light is on now, and the heating in the living room is set to twenty one degrees.", "en-us"
    )


def fires(reply: Samples, mic: Samples) -> float | None:
    """Seconds into the microphone's audio after which the reply is stopped."""
    echo = Echo(reply)
    for start in range(0, len(mic), PIECE):
        if echo.feed(mic[start : start + PIECE]):
            return (start + PIECE) / SAMPLE_RATE
    return None


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
@pytest.mark.parametrize("gain", [0.05, 0.5])
def test_the_reply_alone_goes_on(reply: Samples, delay: float, gain: float) -> None:
    mic = noise(len(reply) / SAMPLE_RATE + 1.0, -60.0).copy()
    start = round(delay * SAMPLE_RATE)
    mic[start : start + len(reply)] += gain * reply
    assert fires(reply, mic) is None


def test_a_talker_stops_it(reply: Samples) -> None:
    talker = voice("Arrête, ça suffit maintenant, tais toi s'il te plaît", "fr")
    mic = noise(len(reply) / SAMPLE_RATE + 1.0, -60.0).copy()
    mic[: len(reply)] += 0.02 * reply  # what an echo canceller, or the distance, leaves of it
    at = 2 * SAMPLE_RATE
    length = min(len(talker), len(mic) - at)
    mic[at : at + length] += 0.5 * talker[:length]
    stopped = fires(reply, mic)
    assert stopped is not None
    assert 2.0 < stopped < 3.5


@pytest.mark.parametrize("delay", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("gain", [0.05, 0.5])
def test_a_late_loudspeaker_does_not_stop_it(reply: Samples, delay: float, gain: float) -> None:
    mic = noise(len(reply) / SAMPLE_RATE + 4.0, -60.0).copy()
    start = round(delay * SAMPLE_RATE)
    mic[start : start + len(reply)] += gain * reply
    assert fires(reply, mic) is None


def test_a_talker_stops_it_where_no_echo_is_heard(reply: Samples) -> None:
    talker = voice("Arrête, ça suffit maintenant, tais toi s'il te plaît", "fr")
    mic = noise(len(reply) / SAMPLE_RATE + 1.0, -60.0).copy()
    at = 2 * SAMPLE_RATE
    mic[at : at + len(talker)] += 0.5 * talker[: len(mic) - at]
    stopped = fires(reply, mic)
    assert stopped is not None
    assert 2.0 < stopped < 3.5
