"""The demo's recording is made on this machine, with or without a network and a speech synthesiser."""

import hashlib
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from assistant import demo_recording
from assistant.demo_recording import CLIPS, SENTENCES, Clip, Part, house_recording, spoken
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Chunk, State, frozen
from assistant.models import store
from assistant.models.cadence import Cadence
from assistant.models.catalogue import File, Member
from assistant.models.yamnet import WINDOW, Yamnet


def clip_in(cache: Path, content: bytes) -> Clip:
    """A clip that is in the cache already."""
    cache.mkdir(exist_ok=True)
    (cache / "voice.wav").write_bytes(content)
    return Clip("a voice", "MIT", File("voice.wav", len(content), hashlib.sha256(content).hexdigest()))


def wav(path: Path, seconds: float) -> bytes:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes((np.arange(round(seconds * 24_000)) % 100 * 100).astype("<i2").tobytes())
    return path.read_bytes()


def test_shape_length_and_parts(tmp_path: Path) -> None:
    samples, parts = house_recording(tmp_path, clips=())
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert 30 < len(samples) / SAMPLE_RATE < 90
    assert 0.1 < np.abs(samples).max() < 1.0
    starts = [part.start for part in parts if part.start is not None]
    assert starts == sorted(starts)
    assert {"a door chime", "a telephone", "a siren"} <= {part.what for part in parts}
    assert all(part.origin for part in parts)


def test_is_reproducible(tmp_path: Path) -> None:
    first, parts = house_recording(tmp_path, clips=())
    second, again = house_recording(tmp_path, clips=())
    assert parts == again
    assert np.array_equal(first, second)


def test_nothing_but_arithmetic_is_still_a_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_recording, "_program", lambda: None)
    monkeypatch.setattr(demo_recording, "_loader_installed", lambda: False)
    samples, parts = house_recording(tmp_path, clips=())
    present = [part for part in parts if part.start is not None]
    missing = [part for part in parts if part.start is None]
    assert len(present) == 4
    assert len(missing) == len(SENTENCES)
    assert all("apt-get install espeak-ng" in str(part) for part in missing)
    assert len(samples) / SAMPLE_RATE > 30


def test_a_verified_clip_is_used_with_its_licence(tmp_path: Path) -> None:
    clip = clip_in(tmp_path / "cache", wav(tmp_path / "x.wav", 2.0))
    _, parts = house_recording(tmp_path / "cache", clips=[clip])
    (part,) = [part for part in parts if part.what == "a voice"]
    assert part.start is not None
    assert part.origin.endswith("MIT")


def test_a_changed_clip_is_refused_and_named(tmp_path: Path) -> None:
    clip = clip_in(tmp_path / "cache", wav(tmp_path / "x.wav", 2.0))
    content = bytearray((tmp_path / "cache" / "voice.wav").read_bytes())
    content[-1] ^= 1
    (tmp_path / "cache" / "voice.wav").write_bytes(content)
    samples, parts = house_recording(tmp_path / "cache", clips=[clip])
    (part,) = [part for part in parts if part.what == "a voice"]
    assert part.start is None
    assert "voice.wav" in part.origin
    assert len(samples) > 0


def test_a_clip_that_is_no_audio_is_named(tmp_path: Path) -> None:
    clip = clip_in(tmp_path / "cache", b"not a sound file")
    _, parts = house_recording(tmp_path / "cache", clips=[clip])
    assert [part.start for part in parts if part.what == "a voice"] == [None]


def test_clips_are_pinned_by_hash_and_licence() -> None:
    for clip in CLIPS:
        assert isinstance(clip.file.members[0], Member)
        assert "==" in clip.file.members[0].requirement
        assert len(clip.file.sha256) == 64
        assert clip.licence == "MIT"


@pytest.mark.slow
def test_clips_of_the_package_are_what_was_pinned(tmp_path: Path) -> None:
    try:
        store.fetch([CLIPS[0].file], tmp_path)
    except store.UnreachableError as error:
        pytest.skip(f"no package index: {error}")
    assert (tmp_path / CLIPS[0].file.name).stat().st_size == CLIPS[0].file.size


@pytest.mark.parametrize("language", ["en-us", "ja"])
def test_espeak_program_speaks(language: str) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng; remedy: apt-get install espeak-ng")
    samples, origin = spoken({code: text for code, text, _ in SENTENCES}[language], language)
    assert 0.8 < len(samples) / SAMPLE_RATE < 5.0
    assert "GPL" in origin


def test_espeak_of_the_package_speaks_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader", reason="needs espeakng-loader; remedy: pip install espeakng-loader")
    monkeypatch.setattr(demo_recording, "_program", lambda: None)
    samples, origin = spoken("turn on the kitchen light", "en-us")
    assert 0.8 < len(samples) / SAMPLE_RATE < 3.0
    assert np.abs(samples).max() > 0.1
    assert "espeakng-loader" in origin


def test_a_failing_synthesiser_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_recording, "_program", lambda: "/bin/false")
    with pytest.raises(AssistantError, match="espeak-ng failed"):
        spoken("hello", "en")


def test_part_in_one_line() -> None:
    assert str(Part(2.0, "a door chime", "computed here")) == "  2.0 s  a door chime (computed here)"
    assert str(Part(None, "a voice", "no network")) == "missing  a voice (no network)"


def test_the_smoke_alarm_is_heard_in_it(tmp_path: Path) -> None:
    samples, _ = house_recording(tmp_path, clips=())
    cadence = Cadence()
    found = cadence.feed(Chunk("kitchen", "demo", 0, frozen(samples), 0.0)) + cadence.end()
    assert [(one.state, one.event_type) for one in found] == [
        (State.STARTED, "smoke_alarm"),
        (State.ENDED, "smoke_alarm"),
    ]


@pytest.mark.parametrize(
    ("what", "label", "least"),
    [
        ("a door chime", "Doorbell", 0.5),
        ("a telephone", "Telephone", 0.8),
        ("a siren", "Siren", 0.5),
        ("a smoke alarm (T3 at 3.1 kHz, four cycles)", "Smoke detector, smoke alarm", 0.8),
    ],
)
def test_the_tagger_hears_it(tmp_path: Path, yamnet_path: Path, what: str, label: str, least: float) -> None:
    tagger = Yamnet(yamnet_path)
    samples, parts = house_recording(tmp_path, clips=())
    (part,) = [part for part in parts if part.what == what]
    assert part.start is not None
    first = round(part.start * SAMPLE_RATE)
    index = tagger.labels.index(label)
    scores = [float(tagger.tag(samples[at : at + WINDOW])[index]) for at in range(first, first + 64_000, WINDOW // 2)]
    assert max(scores) >= least
