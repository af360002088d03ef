from __future__ import annotations

import io
import os
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.audio import recording
from assistant.audio.recording import decoded, shown_name
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE

RATE = 48_000


def tone(seconds: float = 2.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def written(container: str, codec: str, *, seconds: float = 2.0) -> bytes:
    """As a browser or phone records it, into memory that cannot be sought back in for webm."""
    content = io.BytesIO()
    with av.open(content, "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, layout="mono")
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(tone(seconds)[None, :], format="fltp", layout="mono")
        frame.sample_rate = RATE
        frame.pts = 0
        resampler = av.AudioResampler(stream.format, stream.layout, RATE, stream.codec_context.frame_size or 1024)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return content.getvalue()


def pcm(container: str, subtype: str | None = None, seconds: float = 2.0, channels: int = 1) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, np.stack([tone(seconds)] * channels, 1), RATE, format=container, subtype=subtype)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (pcm("WAV", "PCM_16"), 0.001),
        (pcm("WAV", "FLOAT", channels=2), 0.001),
        (pcm("FLAC"), 0.001),
        (pcm("OGG", "VORBIS"), 0.05),
        (pcm("MP3"), 0.1),
        (written("webm", "libopus"), 0.05),  # Chromium and Firefox
        (written("mp4", "aac"), 0.1),  # Safari
        (written("adts", "aac"), 0.1),
    ],
)
def test_what_people_send_is_heard(content: bytes, tolerance: float) -> None:
    samples = decoded(content, "a recording", longest=60.0)
    assert samples.dtype == np.float32
    assert not samples.flags.writeable
    assert len(samples) / SAMPLE_RATE == pytest.approx(2.0, abs=tolerance)
    middle = samples[SAMPLE_RATE // 2 : 3 * SAMPLE_RATE // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * SAMPLE_RATE / len(middle) == pytest.approx(440.0, abs=2.0)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.1)


def test_a_recording_that_breaks_off_is_heard_as_far_as_it_goes() -> None:
    for whole in (written("webm", "libopus"), pcm("WAV", "PCM_16"), pcm("FLAC")):
        assert 0.5 < len(decoded(whole[: len(whole) * 2 // 3], "x", longest=60.0)) / SAMPLE_RATE < 1.9


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"RIFF", "neither libsndfile nor FFmpeg"),
        (os.urandom(2_000), "neither libsndfile nor FFmpeg|holds no audio"),
        (pcm("WAV", "PCM_16", 0.05), "less than 0.1 s"),
        (pcm("WAV", "PCM_16", 31.0), "longer than 30 s"),
        (written("webm", "libopus", seconds=31.0), "longer than 30 s"),
    ],
)
def test_what_is_no_audio_is_told_with_its_name(content: bytes, problem: str) -> None:
    with pytest.raises(SourceError, match=f"^my song: .*({problem})"):
        decoded(content, "my\n song", longest=30.0)


def test_a_list_of_files_opens_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(pcm("WAV", "PCM_16"))
    for content in (
        f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
        f"#EXTM3U\n#EXTINF:2,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
    ):
        with pytest.raises(SourceError, match="neither"):
            decoded(content.encode(), "list.m3u8", longest=30.0)


def test_a_small_file_that_claims_to_be_hours_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.zeros((655_350 * 20, 2), np.int16), 655_350, format="FLAC")
    assert len(content.getvalue()) < 2_000_000
    monkeypatch.setattr(recording, "PATIENCE", 0.05)
    began = time.monotonic()
    with pytest.raises(SourceError, match="cannot be decoded within"):
        decoded(content.getvalue(), "bomb.flac", longest=600.0)
    assert time.monotonic() - began < 5.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_either_heard_or_told(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([pcm("WAV", "PCM_16", 0.5), WEBM, MP4])))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        samples = decoded(bytes(whole), "x", longest=30.0)
    except SourceError:
        return
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1.0


WEBM, MP4 = written("webm", "libopus", seconds=0.5), written("mp4", "aac", seconds=0.5)


def test_a_name_is_one_short_line() -> None:
    assert shown_name("  a\tb\u202e\n c ") == "a b c"
    assert shown_name("\x00") == "recording"
    assert len(shown_name("ä" * 1_000_000)) == 60
