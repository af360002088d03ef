"""The recogniser: real Whisper on synthesised speech, silence, noise and music."""

import logging
import shutil
import subprocess
import threading
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soxr

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, SpeechEvidence
from assistant.models import whisper as whisper_module
from assistant.models.whisper import (
    AFTER,
    AGAIN_AFTER,
    LANGUAGES,
    Decoding,
    Whisper,
    WhisperSettings,
    doubt_after,
    doubt_before,
    echoes,
    loops,
    prompt_of,
    vocabulary,
    worth_another,
    written_in,
)
from assistant.synthesis import noise, scaled, silence, tone

SPEECH = SpeechEvidence(speech_share=0.95, tagger_score=0.98, other_score=0.02, snr_db=35.0)
SENTENCE = "The quick brown fox jumps over the lazy dog."

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is missing; remedy: apt-get install espeak-ng"
)


def evidence(score: float | None, share: float = 0.9) -> SpeechEvidence:
    return SpeechEvidence(speech_share=share, tagger_score=score, other_score=0.1, snr_db=20.0)


def decoding(text: str, log_probability: float, fault: str | None = None) -> Decoding:
    return Decoding(text, (), log_probability, 0.1, fault)


@pytest.fixture(scope="session")
def whisper(whisper_base_path: Path) -> Whisper:
    return Whisper(whisper_base_path, WhisperSettings(word_times=True))


@pytest.fixture(scope="session")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("espeak") / "sentence.wav"
    subprocess.run(["espeak-ng", "-s", "140", "-w", str(path), SENTENCE], check=True, timeout=20)
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32_768
        return np.asarray(soxr.resample(pcm, file.getframerate(), SAMPLE_RATE), np.float32)


@needs_espeak
def test_a_sentence_becomes_text_with_word_times(whisper: Whisper, sentence: np.ndarray) -> None:
    found = whisper.transcribe(sentence, SPEECH, languages=("en", "ja"))
    assert "over the lazy dog" in found.text.lower()
    assert found.language == "en"
    assert found.rejected is None
    assert 0.3 < found.score <= 1.0
    assert found.words is not None
    assert " ".join(word.word for word in found.words) == found.text
    assert all(word.start <= word.end <= len(sentence) / SAMPLE_RATE + 0.5 for word in found.words)
    assert [word.start for word in found.words] == sorted(word.start for word in found.words)


@needs_espeak
def test_a_quiet_sentence_is_the_same_sentence(whisper: Whisper, sentence: np.ndarray) -> None:
    found = whisper.transcribe(scaled(sentence, -55.0), SPEECH, languages=("en",))
    assert "over the lazy dog" in found.text.lower()


@needs_espeak
def test_two_runs_give_the_same(whisper: Whisper, sentence: np.ndarray) -> None:
    assert whisper.transcribe(sentence, SPEECH) == whisper.transcribe(sentence, SPEECH)


@needs_espeak
def test_it_may_be_called_from_another_thread(whisper: Whisper, sentence: np.ndarray) -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(whisper.transcribe(sentence, SPEECH, languages=("en",))))
    thread.start()
    thread.join(60)
    assert found
    assert "lazy dog" in found[0].text.lower()


@needs_espeak
def test_several_threads_may_call_it_at_once(whisper_tiny_en_path: Path, sentence: np.ndarray) -> None:
    several = Whisper(whisper_tiny_en_path, WhisperSettings(model="tiny.en", word_times=True), callers=2)
    assert several._model.model.num_workers == 2
    clips = [sentence, sentence[:20_000], scaled(sentence, -40.0), sentence[10_000:]] * 2
    alone = [several.transcribe(clip, SPEECH) for clip in clips[:4]] * 2
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda clip: several.transcribe(clip, SPEECH), clips)) == alone


@needs_espeak
def test_the_language_keeps_to_those_of_the_room(whisper: Whisper, sentence: np.ndarray) -> None:
    assert whisper.transcribe(sentence, SPEECH, languages=("de", "ja")).language in {"de", "ja"}
    assert whisper.transcribe(sentence, SPEECH, languages=("ja",)).language == "ja"


@needs_espeak
def test_the_words_of_the_home_are_favoured(whisper: Whisper, sentence: np.ndarray) -> None:
    plain = whisper.transcribe(sentence, SPEECH, languages=("en",)).text
    biased = whisper.transcribe(sentence, SPEECH, languages=("en",), words=("Kwik", "Phox", "Layzee")).text
    assert "Kwik" not in plain
    assert biased != plain


@needs_espeak
def test_speech_that_the_tagger_did_not_hear_costs_nothing_and_gives_nothing(
    whisper: Whisper, sentence: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whisper, "_encode", lambda *_: pytest.fail("the encoder was run"))
    found = whisper.transcribe(sentence, evidence(0.02))
    assert found.text == ""
    assert "the tagger hears no speech" in (found.rejected or "")


@pytest.mark.parametrize(
    "sound",
    [
        silence(2.0),
        silence(0.1),
        noise(3.0, -30.0),
        noise(3.0, -60.0, seed=3),
        tone(440, 2.0),
        np.concatenate([tone(f, 0.4) for f in (262, 330, 392, 523, 392, 330, 262)]),
        np.full(16_000, np.nan, np.float32),
        np.zeros(0, np.float32),
    ],
    ids=["silence", "short silence", "noise", "quiet noise", "tone", "melody", "nan", "nothing"],
)
@pytest.mark.parametrize("score", [0.5, 0.74])
def test_what_is_no_speech_becomes_no_text(whisper: Whisper, sound: np.ndarray, score: float) -> None:
    for language in ("en", "ja"):
        found = whisper.transcribe(sound, evidence(score), languages=(language,))
        assert found.text == ""
        assert found.rejected


@pytest.mark.parametrize("seed", range(3))
def test_the_prompt_is_never_read_back(whisper: Whisper, seed: int) -> None:
    words = ("リビング", "キッチン", "Living room", "Kitchen", "Desk lamp")
    for language in ("en", "ja"):
        found = whisper.transcribe(noise(1.5, -35.0, seed), SPEECH, languages=(language,), words=words)
        for word in (*words, *vocabulary()["ja"]):
            assert word not in found.text


@needs_espeak
def test_more_than_the_window_is_cut_and_does_not_break(whisper: Whisper, sentence: np.ndarray) -> None:
    long = np.tile(sentence, 1 + 31 * SAMPLE_RATE // len(sentence))
    assert whisper.transcribe(long, SPEECH, languages=("en",)).language == "en"


@needs_espeak
def test_no_text_is_logged(whisper: Whisper, sentence: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        whisper.transcribe(sentence, SPEECH, languages=("en",))
    assert "fox" not in caplog.text


@needs_espeak
def test_tiny_en_knows_english_alone(whisper_tiny_en_path: Path, sentence: np.ndarray) -> None:
    found = Whisper(whisper_tiny_en_path, WhisperSettings(model="tiny.en")).transcribe(
        sentence, SPEECH, languages=("ja",)
    )
    assert found.language == "en"
    assert "lazy dog" in found.text.lower()


@needs_espeak
def test_speech_is_translated_into_english_and_word_times_come_when_asked_for(
    whisper_base_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "german.wav"
    subprocess.run(
        ["espeak-ng", "-v", "de", "-s", "130", "-w", str(path), "Ich möchte ein Glas Wasser, bitte."],
        check=True,
        timeout=20,
    )
    with wave.open(str(path)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32_768
        german = np.asarray(soxr.resample(pcm, file.getframerate(), SAMPLE_RATE), np.float32)
    plain = Whisper(whisper_base_path, WhisperSettings())
    assert plain.multilingual
    english = plain.transcribe(german, SPEECH, languages=("de",), timed=True, into_english=True)
    assert "glass of water" in english.text.lower()
    assert english.language == "de"
    assert english.words is None
    said = plain.transcribe(german, SPEECH, languages=("de",), timed=True)
    assert "Glas Wasser" in said.text
    assert said.words is not None
    assert plain.transcribe(german, SPEECH, languages=("de",)).words is None


def test_missing_and_broken_models_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.bin"):
        Whisper(tmp_path)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ModelError, match="remedy"):
        Whisper(tmp_path)


def test_certainty_and_evidence_make_up_for_each_other() -> None:
    assert doubt_after(decoding("off", -1.4), evidence(0.98)) is None
    assert doubt_after(decoding("bye", -1.0), evidence(0.6)) is not None
    assert doubt_after(decoding("go on", -0.3), evidence(0.4)) is None
    assert doubt_after(decoding("you", -0.9), evidence(0.15)) is not None
    assert doubt_after(decoding("you", -0.9), evidence(None)) is not None
    assert doubt_before(evidence(0.05)) is not None
    assert doubt_before(evidence(0.2)) is None
    assert doubt_before(evidence(None)) is None


def test_only_what_is_likely_speech_gets_a_second_chance() -> None:
    assert worth_another(decoding("x", -0.9), evidence(0.95))
    assert not worth_another(decoding("x", -0.9), evidence(0.6))
    assert not worth_another(decoding("x", -0.3), evidence(0.95))
    assert worth_another(decoding("x", -0.3, "the text loops"), evidence(0.6))
    assert not worth_another(decoding("x", -0.3, "the text loops"), evidence(0.3))


@pytest.mark.parametrize(
    "text",
    [
        "rap rap rap rap rap rap",
        "Play the Beatles. Play the Beatles.",
        "HAHAHAHAHAHAHAHA",
        "Ha ha ha ha ha ha ha",
        "リビングの電気をつけて、リビングの電気をつけて、",
        "あ、おうわー!おうわー!あ、おうわー!あ、おうわー!あ、おうわー!",
        "AAAAAAAAHHHHHHHHHHHHHHHHHH",
    ],
)
def test_loops_are_seen(text: str) -> None:
    assert loops(text)


@pytest.mark.parametrize(
    "text",
    [
        "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country.",
        "No, no, no!",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
        "1000000",
        "電気をつけて",
        "どんどん",
        "Bye bye",
        "",
    ],
)
def test_what_people_say_is_no_loop(text: str) -> None:
    assert not loops(text)


def test_a_read_back_prompt_is_seen() -> None:
    prompt = prompt_of(("Living room", "Kitchen", "Lamp"), "en")
    assert prompt == "Living room, Kitchen, Lamp."
    assert echoes("Kitchen, lamp.", prompt)
    assert not echoes("Living room lamp on", prompt)
    assert not echoes("Kitchen", prompt)
    assert echoes("リビング、キッチン。", prompt_of(("リビング", "キッチン"), "ja"))
    assert not echoes("anything", "")
    assert prompt_of((), "en") == ""


def test_words_go_to_the_languages_that_write_them() -> None:
    assert written_in("台所のライト", "ja")
    assert not written_in("Kitchen", "ja")
    assert written_in("Küche", "de")
    assert not written_in("台所", "en")
    assert written_in("кухня", "ru")
    assert not written_in("12", "en")


def test_shipped_words_are_short_lists_of_known_languages() -> None:
    for language, words in vocabulary().items():
        assert language in LANGUAGES
        assert len(words) == len(set(words)) < 60
        assert all(written_in(word, language) and len(word) < 12 for word in words)


def test_settings_refuse_what_is_no_language() -> None:
    with pytest.raises(ValueError, match="English"):
        WhisperSettings(languages=("English",))


@needs_espeak
def test_a_poor_text_is_tried_again_with_more_silence_but_not_over_the_full_window(
    whisper: Whisper, sentence: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[float] = []
    encode = whisper._encode

    def note(samples: np.ndarray, length: float) -> object:
        encoded.append(length - len(samples) / SAMPLE_RATE)
        return encode(samples, length)

    monkeypatch.setattr(whisper, "_encode", note)
    monkeypatch.setattr(whisper_module, "worth_another", lambda *_: True)
    assert "lazy dog" in whisper.transcribe(sentence, SPEECH, languages=("en",)).text.lower()
    assert encoded == pytest.approx([AFTER, AGAIN_AFTER])
