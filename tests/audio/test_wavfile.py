from __future__ import annotations

import asyncio
import io
import socket
import struct
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from assistant.audio.source import CHUNK
from assistant.audio.wavfile import File, decode, expand
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Chunk


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


async def read(path: Path, speed: float = 0.0) -> tuple[list[Chunk], File]:
    source = File("room", path, speed=speed)
    return [chunk async for chunk in source.chunks()], source


def joined(chunks: list[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in chunks])


def pitch(samples: np.ndarray) -> float:
    middle = samples[len(samples) // 4 : len(samples) // 4 * 3]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return float(spectrum.argmax() * SAMPLE_RATE / len(middle))


def encode(
    path: Path, codec: str, rate: int, layout: str = "mono", *, seconds: float = 3.0, video: bool = False
) -> Path:
    """A file written by FFmpeg's own encoder."""
    seconds = 3.0
    with av.open(str(path), "w") as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 64
        sound = container.add_stream(codec, rate=rate, layout=layout) if codec else None
        if video:
            for n in range(round(seconds * 10)):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), n % 255, np.uint8), format="rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode())
        if sound is not None:
            sound.bit_rate = 128_000
            frame = av.AudioFrame.from_ndarray(tone(rate, seconds)[None, :], format="fltp", layout="mono")
            frame.sample_rate = rate
            frame.pts = 0
            resampler = av.AudioResampler(
                format=sound.format, layout=layout, rate=rate, frame_size=sound.frame_size or 0
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(sound.encode(piece))
            container.mux(sound.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels"),
    [
        ("wav", "PCM_16", 16000, 1),
        ("wav", "PCM_U8", 8000, 1),
        ("wav", "PCM_16", 44100, 2),
        ("wav", "PCM_24", 96000, 2),
        ("wav", "FLOAT", 48000, 6),
        ("wav", "ULAW", 8000, 1),
        ("flac", "PCM_24", 48000, 1),
        ("ogg", "VORBIS", 44100, 2),
        ("ogg", "OPUS", 48000, 1),
        ("mp3", "MPEG_LAYER_III", 44100, 1),
        ("aiff", "PCM_16", 22050, 1),
    ],
)
async def test_what_libsndfile_reads(tmp_path, suffix, subtype, rate, channels):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(rate, 5.0)[:, None].repeat(channels, 1), rate, subtype=subtype)
    chunks, source = await read(path)
    samples = joined(chunks)
    assert abs(len(samples) - 5 * SAMPLE_RATE) <= 2
    assert {len(chunk.samples) for chunk in chunks[:-1]} == {CHUNK}
    assert [chunk.start for chunk in chunks] == list(range(0, len(samples), CHUNK))
    assert pitch(samples) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.354, abs=0.01)
    assert (chunks[0].room, chunks[0].source) == ("room", str(path))
    assert source.stats.bad_samples == source.stats.clipped_samples == 0


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.m4a", "aac", 44100, "stereo"),
        ("a.mka", "libopus", 48000, "mono"),
        ("a.wma", "wmav2", 44100, "mono"),
        ("a.ac3", "ac3", 48000, "stereo"),
    ],
)
async def test_what_ffmpeg_reads(tmp_path, name, codec, rate, layout):
    samples = joined((await read(encode(tmp_path / name, codec, rate, layout)))[0])
    level = 0.354 if layout == "mono" else 0.25  # FFmpeg spreads one channel over two at -3 dB
    assert len(samples) == pytest.approx(3 * SAMPLE_RATE, rel=0.05)
    assert pitch(samples) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(samples[8000:-8000] ** 2)) == pytest.approx(level, abs=0.03)


async def test_the_sound_of_a_video(tmp_path):
    samples = joined((await read(encode(tmp_path / "a.mp4", "aac", 48000, video=True)))[0])
    assert len(samples) == pytest.approx(3 * SAMPLE_RATE, rel=0.05)
    assert pitch(samples) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("kind", ["float", "int16"])
async def test_16_khz_is_sample_exact(tmp_path, kind):
    audio = np.random.default_rng(3).uniform(-0.9, 0.9, 16000 * 5 + 123).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT" if kind == "float" else "PCM_16")
    samples = joined((await read(tmp_path / "a.wav"))[0])
    assert len(samples) == len(audio)
    assert np.abs(samples - audio).max() <= (0 if kind == "float" else 1 / 32768)


@pytest.mark.parametrize("samples", [1, 800, 2240])
async def test_very_short_files(tmp_path, samples):
    soundfile.write(tmp_path / "a.wav", tone(16000)[:samples], 16000)
    assert len(joined((await read(tmp_path / "a.wav"))[0])) == samples


async def test_nan_is_heard_as_silence(tmp_path, caplog):
    audio = tone(16000)
    audio[100:200] = np.nan
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    chunks, source = await read(tmp_path / "a.wav")
    assert source.stats.bad_samples == 100
    assert not joined(chunks)[100:200].any()
    assert "a.wav: NaN" in caplog.text


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff"])
async def test_a_truncated_file_is_heard_as_far_as_it_goes(tmp_path, suffix, caplog):
    path = tmp_path / f"a.{suffix}"
    audio = np.random.default_rng(1).uniform(-0.5, 0.5, 16000 * 10)
    soundfile.write(path, audio, 16000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 1])
    samples = joined((await read(path))[0])
    assert 4.7 * SAMPLE_RATE < len(samples) <= 5.1 * SAMPLE_RATE
    assert np.abs(samples[: 4 * SAMPLE_RATE] - audio[: 4 * SAMPLE_RATE]).max() < 1e-4
    assert "truncated" in caplog.text


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seconds", [0.3, 5.0])
async def test_a_flac_cut_anywhere_is_never_a_crash(tmp_path, seconds, share):
    """libsndfile cannot even seek in some of them."""
    noise = np.random.default_rng(1).normal(0, 0.1, round(seconds * SAMPLE_RATE))
    path = tmp_path / "cut.flac"
    soundfile.write(path, noise, SAMPLE_RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(share * len(whole))])
    try:
        chunks, _ = await read(path)
    except SourceError as error:
        assert str(path) in str(error)
        assert seconds * share < 0.5
    else:
        assert len(joined(chunks)) / SAMPLE_RATE > seconds * share - 0.5


async def test_a_killed_recorder_leaves_length_zero(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    assert len(joined((await read(tmp_path / "a.wav"))[0])) == pytest.approx(16000, abs=2)


async def test_a_header_without_length_is_no_damage(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert len(joined((await read(tmp_path / "a.wav"))[0])) == 16000
    assert "truncated" not in caplog.text


class TestBadFiles:
    async def test_missing(self, tmp_path):
        with pytest.raises(SourceError, match=r"none\.wav: cannot be read \(No such file"):
            await read(tmp_path / "none.wav")

    async def test_empty(self, tmp_path):
        (tmp_path / "a.wav").touch()
        with pytest.raises(SourceError, match=r"a\.wav: the file is empty; remedy"):
            await read(tmp_path / "a.wav")

    @pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.raw", "a.mp4"])
    async def test_text(self, tmp_path, name):
        (tmp_path / name).write_text("this is not audio at all\n" * 50)
        with pytest.raises(SourceError, match=rf"{name}: .*remedy: "):
            await read(tmp_path / name)

    async def test_header_only(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
        with pytest.raises(SourceError, match=r"a\.wav: .*remedy: "):
            await read(tmp_path / "a.wav")

    async def test_a_video_without_sound(self, tmp_path):
        encode(tmp_path / "a.mp4", "", 0, video=True)
        with pytest.raises(SourceError, match="holds no audio; remedy"):
            await read(tmp_path / "a.mp4")

    async def test_a_folder(self, tmp_path):
        with pytest.raises(SourceError, match="a folder"):
            await read(tmp_path)


def is_open(path: Path) -> bool:
    return any(link.resolve() == path for link in Path("/proc/self/fd").iterdir())


class TestPace:
    async def test_real_time_does_not_drift(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", tone(16000, 1.0), 16000)
        began = time.monotonic()
        late = []
        async for chunk in File("room", tmp_path / "a.wav", speed=1).chunks():
            late.append(time.monotonic() - began - chunk.end / SAMPLE_RATE)
            await asyncio.sleep(0.01)  # a consumer that takes its time
        assert min(late) > -0.001
        assert late[-1] < 0.2

    async def test_times_faster(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", tone(16000, 4.0), 16000)
        began = time.monotonic()
        await read(tmp_path / "a.wav", speed=8)
        assert 0.5 <= time.monotonic() - began < 0.9

    async def test_as_fast_as_taken_and_the_loop_lives(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", tone(44100, 120.0), 44100)
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)

        watching = asyncio.create_task(watch())
        began = time.monotonic()
        chunks, _ = await read(tmp_path / "a.wav")
        watching.cancel()
        assert chunks[-1].end == pytest.approx(120 * SAMPLE_RATE, abs=2)
        assert time.monotonic() - began < 12
        assert longest < 0.25

    async def test_an_abandoned_source_closes_its_file(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", tone(16000, 30.0), 16000)
        chunks = File("room", tmp_path / "a.wav").chunks()
        await anext(chunks)
        await chunks.aclose()
        deadline = time.monotonic() + 2
        while is_open(tmp_path / "a.wav"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


class TestExpand:
    def test_natural_order_below_and_only_audio(self, tmp_path):
        for name in ["take 10.wav", "take 2.WAV", "b/1.mp3", "b/notes.txt", ".hidden.wav", ".git/a.wav", "a/x.mp4"]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = [str(path.relative_to(tmp_path)) for path in expand(tmp_path)]
        assert found == ["a/x.mp4", "b/1.mp3", "take 2.WAV", "take 10.wav"]

    def test_a_file_is_itself(self, tmp_path):
        (tmp_path / "any.name").touch()
        assert expand(tmp_path / "any.name") == [tmp_path / "any.name"]

    def test_a_folder_with_none_says_what_was_looked_for(self, tmp_path):
        (tmp_path / "readme.txt").touch()
        with pytest.raises(SourceError, match=r"no audio file in this folder; remedy: .*\.flac.*\.wav"):
            expand(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(SourceError, match="no such file or folder"):
            expand(tmp_path / "none")


def header(rate: int = 16_000, channels: int = 1, frames: int = 100, data: bytes = bytes(200)) -> bytes:
    """A WAV file whose header says whatever it likes."""
    width = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, min(rate * width, 2**32 - 1), width & 0xFFFF, 16)
    size = min(frames * width, 2**32 - 1)
    riff = b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVEfmt " + struct.pack("<I", 16) + form
    return riff + b"data" + struct.pack("<I", size) + data


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(header(rate=1), id="1 Hz"),
        pytest.param(header(rate=2**31 - 1), id="two thousand million Hz"),
        pytest.param(header(channels=1_000, data=bytes(20_000)), id="a thousand channels"),
    ],
)
def test_a_header_that_no_sound_has_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"are no sound|neither libsndfile nor FFmpeg|can decode"):
        list(decode(tmp_path / "a.wav"))
    assert time.monotonic() - began < 2.0


def test_a_header_that_claims_more_than_there_is_gives_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(header(frames=10**12))
    assert sum(len(block) for block, _rate in decode(tmp_path / "a.wav")) == 100


def test_a_title_in_an_old_script_is_no_reason_not_to_hear(tmp_path: Path) -> None:
    avi = io.BytesIO()
    with av.open(avi, "w", format="avi") as container:
        container.metadata["title"] = "Cafe noir"
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.ones((1, 1_600), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = avi.getvalue()
    assert b"Cafe noir" in content
    (tmp_path / "a.avi").write_bytes(content.replace(b"Cafe noir", b"Caf\xe9 noir"))
    assert sum(len(block) for block, _rate in decode(tmp_path / "a.avi")) == 1_600


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.sdp", "a.wav"])
def test_a_playlist_opens_no_other_file_and_no_network(name: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "secret.wav", np.ones(1_600, np.float32) * 0.5, 16_000)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.3)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.wav"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n"
        if name.endswith("ffconcat"):
            playlist = f"ffconcat version 1.0\nfile '{url}'\n"
        if name.endswith("sdp"):
            playlist = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
        (tmp_path / name).write_text(playlist)
        with pytest.raises(SourceError):
            list(decode(tmp_path / name))
        with pytest.raises(TimeoutError):
            listening.accept()
