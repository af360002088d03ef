"""The real models on real synthetic voices."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
import soundfile
import soxr

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Chunk, Samples, frozen
from assistant.models.wakeword import LAG, PRE_ROLL, REFRACTORY, WakeWords, Woken
from assistant.synthesis import noise

AT = 2 * SAMPLE_RATE  # where the voice begins
CHUNK = 1280


def voice(text: str) -> Samples:
    wav = subprocess.run(["espeak-ng", "-v", "en-us", "--stdout", text], capture_output=True, check=True, timeout=20)
    samples, rate = soundfile.read(io.BytesIO(wav.stdout), dtype="float32")
    heard = soxr.resample(samples, rate, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(heard) > 0.02)
    return np.asarray(0.4 * heard[loud[0] : loud[-1] + 1], np.float32)


@pytest.fixture(scope="module")
def alexa() -> Samples:
    return voice("Alexa")


def around(said: Samples, seconds: float = 2.0) -> Samples:
    """`said` at `AT`, in a room that is not digitally silent."""
    made = noise(AT / SAMPLE_RATE + len(said) / SAMPLE_RATE + seconds, -65.0).copy()
    made[AT : AT + len(said)] += said
    return made


def fed(ears: WakeWords, samples: Samples, *, start: int = 0, size: int = CHUNK, opens: int = 0) -> list[Woken]:
    """What is heard; the gate is open from sample `opens`."""
    return [
        woken
        for at in range(0, len(samples), size)
        for woken in ears.feed(
            Chunk("attic", "test", start + at, frozen(samples[at : at + size].copy()), 0.0), active=at + size > opens
        )
    ]


def test_a_wake_word_is_told_once_where_it_ended(alexa: Samples) -> None:
    ears = WakeWords(["okay_nabu", "alexa"])
    (woken,) = fed(ears, around(alexa))
    assert woken.word == "alexa"
    assert woken.score > 0.9
    assert abs(woken.position - (AT + len(alexa))) < 0.3 * SAMPLE_RATE
    ears.close()


def test_the_size_of_chunks_makes_no_difference(alexa: Samples) -> None:
    heard = [fed(WakeWords(["alexa"]), around(alexa), size=size)[0].position for size in (320, 1280, 1600)]
    assert max(heard) - min(heard) <= 160


def test_speech_without_a_wake_word_wakes_nobody() -> None:
    said = voice("I will ask Alex about it, and a lecture on Java is something that Michael crafts in November.")
    assert fed(WakeWords(LAG), around(said)) == []


def test_two_that_follow_are_two(alexa: Samples) -> None:
    pause = noise(1.5, -65.0)
    assert len(fed(WakeWords(["alexa"]), around(np.concatenate((alexa, pause, alexa))))) == 2
    assert len(pause) > REFRACTORY


def test_a_word_that_opens_the_gate_is_heard_whole(alexa: Samples) -> None:
    (woken,) = fed(WakeWords(["alexa"]), around(alexa), opens=AT + len(alexa) // 2)
    assert abs(woken.position - (AT + len(alexa))) < 0.3 * SAMPLE_RATE
    assert len(alexa) // 2 < PRE_ROLL


def test_nothing_is_listened_to_while_the_gate_is_shut(alexa: Samples) -> None:
    assert fed(WakeWords(["alexa"]), around(alexa), opens=10**9) == []


def test_halves_with_a_gap_between_them_are_no_word(alexa: Samples) -> None:
    samples, middle = around(alexa), (AT + len(alexa) // 3) // CHUNK * CHUNK
    ears = WakeWords(["alexa"])
    assert fed(ears, samples[:middle]) == []
    assert fed(ears, samples[middle + 3 * CHUNK :], start=middle + 3 * CHUNK) == []


def test_a_word_that_no_model_knows_is_refused() -> None:
    with pytest.raises(ModelError, match=r"wake words: .*remedy"):
        WakeWords(["open_sesame"])
