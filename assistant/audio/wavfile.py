"""Files of anything libsndfile or FFmpeg reads, as fast as they are taken or in real time."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.audio.address import SUFFIXES
from assistant.audio.frames import planes
from assistant.audio.source import Chunker, Converter, Pace, SourceStats
from assistant.errors import SourceError
from assistant.events import Chunk, seconds

log = logging.getLogger(__name__)

DAMAGED_STEP = 256  # frames
BLOCK_SECONDS = 2.0  # read at once, in a thread
RATES = (1_000, 768_000)  # Hz: what lies outside is a broken header, and would become hours or nothing
CHANNELS = 64
UNKNOWN_LENGTH = 0x7FFFFFFF  # a WAV header written to a pipe says this or more

Blocks = Generator[tuple[NDArray[np.float32], float], None, None]
"""Blocks of shape (frames, channels), nominally -1 to 1, with their rate in Hz."""


class File:
    """One audio file. It waits for whoever takes its chunks, so nothing is ever lost."""

    live = False

    def __init__(self, room: str, path: str | Path, *, speed: float = 0.0) -> None:
        """`speed`: 0 as fast as the chunks are taken, 1 in real time, n times as fast."""
        self.room = room
        self.name = str(path)
        self.stats = SourceStats()
        self.pace = Pace()
        self._path = Path(path).expanduser()
        self._speed = speed

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks to the end of the file. Raises `SourceError` for what is no audio."""
        loop = asyncio.get_running_loop()
        blocks = decode(self._path)
        # One thread does all that touches the decoder, so closing waits for a read in progress without blocking us.
        reader = ThreadPoolExecutor(1, thread_name_prefix=f"read {self._path.name}")
        converter = Converter(self.name, self.stats)
        chunker = Chunker(self.room, self.name, pace=self.pace)
        began = time.monotonic()
        try:
            while (item := await loop.run_in_executor(reader, next, blocks, None)) is not None:
                for chunk in chunker.feed(converter.feed(*item)):
                    await self._wait(began, chunk.end)
                    yield chunk
            for last in (chunker.feed(converter.flush()), chunker.flush()):
                for chunk in last:
                    await self._wait(began, chunk.end)
                    yield chunk
        finally:
            reader.submit(blocks.close)
            reader.shutdown(wait=False)

    async def _wait(self, began: float, end: int) -> None:
        """Until the sample before `end` has happened; counted from the start, so that nothing adds up."""
        delay = began + seconds(end) / self._speed - time.monotonic() if self._speed > 0 else 0.0
        await asyncio.sleep(max(0.0, delay))


def decode(path: Path) -> Blocks:
    """Blocks of a file, by libsndfile or else FFmpeg. Raises `SourceError` naming the file and the remedy."""
    try:
        if path.is_dir():
            raise SourceError(f"{path}: a folder, not a file; remedy: kikimimi listen reads folders")
        if path.is_fifo():
            raise SourceError(f"{path}: a pipe, not a file; remedy: raw 16 kHz s16le goes to - on stdin")
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty; remedy: record or copy it again")
        with path.open("rb"):
            pass
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); remedy: check the path and its owner") from error
    import soundfile  # noqa: PLC0415 (50 ms: only where a file is read)

    try:
        sound = soundfile.SoundFile(os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError):  # TypeError: headerless .raw
        yield from _by_ffmpeg(path)
        return
    with sound:
        yield from _by_libsndfile(path, sound)


def _by_libsndfile(path: Path, sound: Any) -> Blocks:  # noqa: ANN401 (soundfile has no types)
    import soundfile  # noqa: PLC0415

    rate = float(sound.samplerate)
    _check(path, rate, sound.channels)
    frames = 0
    broken = False
    try:
        while len(block := sound.read(max(1, round(rate * BLOCK_SECONDS)), dtype="float32", always_2d=True)):
            frames += len(block)
            yield block, rate
    except soundfile.LibsndfileError:
        broken = True
        for block in _as_far_as_it_goes(path, frames):
            frames += len(block)
            yield block, rate
    if frames == 0:  # a recorder that was killed leaves a header of length 0: FFmpeg reads what follows it
        yield from _by_ffmpeg(path)
        return
    promised = re.search(r"^ ?(?:data|SSND) *: (\d+) \(should be \d+\)", sound.extra_info, re.MULTILINE)
    cut = promised is not None and int(promised[1]) < UNKNOWN_LENGTH
    if broken or cut or frames < sound.frames:
        log.warning("%s: truncated or damaged; heard as far as %.2f s", path, frames / rate)


def _check(path: Path, rate: float, channels: int) -> None:
    """Raise `SourceError` for what no sound has."""
    if not (RATES[0] <= rate <= RATES[1] and 1 <= channels <= CHANNELS):
        raise SourceError(
            f"{path}: {rate:.0f} Hz and {channels} channels are no sound; remedy: record or copy it again"
        )


def _as_far_as_it_goes(path: Path, frames: int) -> Iterator[NDArray[np.float32]]:
    """What can be read of a damaged file after the first `frames`, in small steps so that little is left out.

    It is opened again and read from its beginning: libsndfile cannot seek in every broken file.
    """
    import soundfile  # noqa: PLC0415

    with soundfile.SoundFile(os.fsencode(path)) as sound:
        read = 0
        while True:
            try:
                block = sound.read(DAMAGED_STEP, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                return
            if len(block) == 0:
                return
            read += len(block)
            if read > frames:
                yield block[-(read - frames) :]


def _by_ffmpeg(path: Path) -> Blocks:
    import av  # noqa: PLC0415 (0.1 s: only where libsndfile does not read the file)

    try:
        str(path).encode()
    except UnicodeEncodeError:  # FFmpeg's binding takes UTF-8 names alone
        raise SourceError(f"{str(path)!a}: the name is not UTF-8; remedy: rename the file") from None
    options = {"protocol_whitelist": "file"}  # a playlist opens nothing else
    try:
        container = av.open(str(path), metadata_errors="replace", options=options)
    except av.FFmpegError as error:
        raise SourceError(
            f"{path}: neither libsndfile nor FFmpeg reads it as audio ({error.strerror}); "
            "remedy: convert it, for example ffmpeg -i FILE out.wav"
        ) from error
    with container:
        if not container.streams.audio:
            raise SourceError(f"{path}: holds no audio; remedy: give a file with a sound track")
        frames = errors = 0
        rate = 0.0
        packets = container.demux(container.streams.audio[0])
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                errors += 1
                break
            if packet is None:
                break
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                errors += 1
                continue
            for frame in decoded:
                _check(path, float(frame.sample_rate), frame.layout.nb_channels)
                block = planes(frame)
                frames, rate = frames + len(block), float(frame.sample_rate)
                yield block, rate
        if errors:
            log.warning("%s: truncated or damaged: %d packets left out", path, errors)
        if frames == 0:
            raise SourceError(f"{path}: holds no audio that FFmpeg can decode; remedy: record or copy it again")


def expand(path: str | Path) -> list[Path]:
    """The file itself, or the audio files of a folder and those below it in natural order, hidden ones left out.

    Raises `SourceError` for a path that is not there and a folder without audio.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if not folder.exists():
            raise SourceError(f"{folder}: no such file or folder; remedy: check the path")
        return [folder]
    found = [
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    if not found:
        looked = " ".join(sorted(SUFFIXES))
        raise SourceError(f"{folder}: no audio file in this folder; remedy: files named {looked}")
    return sorted(found, key=lambda file: [_natural(part) for part in file.relative_to(folder).parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """`take 2` before `take 10`."""
    pieces = re.split(r"([0-9]+)", name.casefold())
    return [(0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece]
