"""A recording that somebody sends, decoded in memory: what libsndfile reads, and what browsers and phones record."""

from __future__ import annotations

import io
import time
from collections.abc import Generator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assistant.audio.frames import planes
from assistant.audio.source import Converter, SourceStats
from assistant.audio.wavfile import CHANNELS, RATES
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Samples, frozen, seconds

BLOCK: Final = 1_000_000  # samples of all channels read at once
PATIENCE: Final = 20.0  # seconds of decoding: a few kilobytes can claim to be hours at 655 kHz
NAME_LIMIT: Final = 60  # characters of a name in messages
# FFmpeg's names. Playlists and lists of files, which would open others, are none of them.
FORMATS: Final = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,opus,w64,wav,wv"
)

Blocks = Generator[tuple[NDArray[np.float32], float], None, None]


def decoded(content: bytes, name: str, *, longest: float) -> Samples:
    """`content` as mono 16 kHz samples, read-only. Blocking: call it in a thread.

    Raises `SourceError`, which names `name`, for what is no audio, is broken or lasts longer than `longest` seconds.
    """
    shown = shown_name(name)
    if not content:
        raise SourceError(f"{shown}: is empty; remedy: record or copy it again")
    converter = Converter(shown, SourceStats())
    pieces: list[Samples] = []
    left, until = round(longest * SAMPLE_RATE), time.monotonic() + PATIENCE
    for block, rate in _blocks(content, shown):
        if not (RATES[0] <= rate <= RATES[1] and 1 <= block.shape[1] <= CHANNELS):
            raise SourceError(f"{shown}: {rate:.0f} Hz and {block.shape[1]} channels are no sound")
        pieces.append(converter.feed(block, rate))
        left -= len(pieces[-1])
        if left < 0:
            most = f"{longest:.0f} s" if longest < 120 else f"{longest / 60:.0f} minutes"
            raise SourceError(f"{shown}: is longer than {most}; remedy: cut it")
        if time.monotonic() > until:
            raise SourceError(f"{shown}: cannot be decoded within {PATIENCE:.0f} s; remedy: convert it to WAV")
    pieces.append(converter.flush())
    samples = np.clip(np.concatenate(pieces), -1.0, 1.0)  # a resampler swings over a little
    if seconds(len(samples)) < 0.1:
        raise SourceError(f"{shown}: holds no audio, or less than 0.1 s; remedy: record or copy it again")
    return frozen(samples)


def shown_name(name: str) -> str:
    """What a recording is called in messages and lists: what people send may be any text."""
    line = "".join(sign for sign in " ".join(name[: 4 * NAME_LIMIT].split()) if sign.isprintable())
    return line[:NAME_LIMIT].strip() or "recording"


def _blocks(content: bytes, shown: str) -> Blocks:
    import soundfile  # noqa: PLC0415 (50 ms: only where it is needed)

    try:
        sound = soundfile.SoundFile(io.BytesIO(content))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: headerless
        yield from _by_ffmpeg(content, shown)
        return
    with sound:
        empty = True
        for block in _by_libsndfile(sound):
            empty = False
            yield block, float(sound.samplerate)
    if empty:  # a recorder that was killed leaves a header of length 0: FFmpeg reads what follows it
        yield from _by_ffmpeg(content, shown)


def _by_libsndfile(sound: Any) -> Generator[NDArray[np.float32], None, None]:  # noqa: ANN401 (soundfile has no types)
    """A file that breaks off is heard as far as it goes."""
    import soundfile  # noqa: PLC0415

    frames = max(1, min(sound.samplerate, BLOCK // max(1, sound.channels)))
    while True:
        try:
            block = sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            return
        if not len(block):
            return
        yield block


def _by_ffmpeg(content: bytes, shown: str) -> Blocks:
    import av  # noqa: PLC0415 (0.1 s: only where libsndfile does not read it)

    options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
    try:
        container = av.open(io.BytesIO(content), "r", metadata_errors="replace", options=options)
    except (av.FFmpegError, ValueError) as error:
        raise SourceError(
            f"{shown}: neither libsndfile nor FFmpeg reads it as audio; remedy: a WAV, FLAC, MP3, Ogg, M4A or WebM file"
        ) from error
    with container:
        if not container.streams.audio:
            raise SourceError(f"{shown}: holds no audio; remedy: a file with a sound track")
        packets = container.demux(container.streams.audio[0])
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                yield planes(frame), float(frame.sample_rate)
