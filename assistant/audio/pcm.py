"""Raw PCM on stdin: signed 16-bit little-endian, 16 kHz, mono."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from assistant.audio.source import Chunker, Converter, Pace, SourceStats
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Chunk

log = logging.getLogger(__name__)

BLOCK = 65_536  # bytes: what a pipe holds
POLL_SECONDS = 0.5  # how long the reading thread outlives a cancelled source
HINT = "arecord -q -t raw -f S16_LE -r 16000 -c 1 | kikimimi listen -"


class Pcm:
    """Audio from a pipe. It is read no faster than its chunks are taken, so nothing is lost here: the writer waits."""

    live = False

    def __init__(self, room: str, address: str = "-", *, descriptor: int | None = None) -> None:
        """`descriptor` instead of stdin."""
        self.room = room
        self.name = address
        self.stats = SourceStats()
        self.pace = Pace()
        self._descriptor = descriptor

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks until the pipe is closed. Raises `SourceError` when it cannot be read or carries something else."""
        try:
            descriptor = sys.stdin.fileno() if self._descriptor is None else self._descriptor
        except (AttributeError, OSError, ValueError) as error:
            raise SourceError(f"{self.name}: there is no stdin; remedy: {HINT}") from error
        if os.isatty(descriptor):
            raise SourceError(f"{self.name}: stdin is a terminal; remedy: pipe audio into it: {HINT}")
        loop = asyncio.get_running_loop()
        reader = ThreadPoolExecutor(1, thread_name_prefix="read pcm")
        converter = Converter(self.name, self.stats)
        chunker = Chunker(self.room, self.name, pace=self.pace)
        rest = b""
        try:
            while (data := await loop.run_in_executor(reader, self._read, descriptor)) != b"":
                if data is None:
                    continue
                if chunker.end == 0 and (rest + data)[:4] == b"RIFF":
                    raise SourceError(
                        f"{self.name}: stdin carries a WAV file, not raw s16le 16 kHz; remedy: give its path instead"
                    )
                data = rest + data
                whole = len(data) // 2 * 2
                rest = data[whole:]
                samples = np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(32768)
                for chunk in chunker.feed(converter.feed(samples[:, np.newaxis], SAMPLE_RATE)):
                    yield chunk
                    await asyncio.sleep(0)  # a full pipe must not starve the loop
            if rest:
                log.warning("%s: an odd byte at the end was left out", self.name)
            for chunk in chunker.flush():
                yield chunk
        finally:
            reader.shutdown(wait=False)

    def _read(self, descriptor: int) -> bytes | None:
        """What there is; b"" at the end; None when nothing came for a while."""
        try:
            if not select.select([descriptor], [], [], POLL_SECONDS)[0]:
                return None
            return os.read(descriptor, BLOCK)
        except BlockingIOError:
            return None
        except OSError as error:
            raise SourceError(f"{self.name}: stdin cannot be read ({error.strerror}); remedy: {HINT}") from error
