"""Piper: a natural voice of the user's choice. The program is GPL-3, so it is run as a process, never imported.

One process stays alive for the voice, because loading the model takes longer than a sentence (0.5 s against 0.1 s). It
reads a line of text and writes a WAV file into a folder that only this user can read, where it is taken and deleted;
the program tells a file's name only when it is whole, on standard error or (older ones) on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path

from assistant.errors import AssistantError, VoiceError
from assistant.voices.process import kill, start
from assistant.voices.voice import SECONDS_LIMIT, Spoken, base_language, speakable, spoken

REMEDY = "pipx install piper-tts, or name the program: say.piper.program"
SECONDS = 60.0  # for a text of a thousand characters on a small computer, the load included


class Piper:
    """The `piper` program with one voice."""

    name = "piper"

    def __init__(self, find: Callable[[], Path], program: str = "piper") -> None:
        """`find` gives the voice's `.onnx` file, with the `.onnx.json` beside it; it may take long and is called once.

        What it raises, an `AssistantError`, is the reason why nothing is said; it is called again for the next text.
        """
        self._find = find
        self._voice = Path()
        self._program = program
        self._language: str | None = None
        self._process: _Process | None = None
        self._one = asyncio.Lock()

    async def speaks(self, language: str | None) -> bool:
        """Whether the voice is there and of that language. The program is found missing only when it is to speak."""
        try:
            own = await self._of_voice()
        except VoiceError:
            return False
        return language is None or base_language(language) == own

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` in the language of the voice; `language` must be that or None. Raises `VoiceError`."""
        own = await self._of_voice()
        if language is not None and base_language(language) != own:
            raise VoiceError(f"piper: the voice {self._voice.name} speaks {own}, not {language}; remedy: another voice")
        line = speakable(text)
        async with self._one:
            process, self._process = self._process, None
            if process is None or not process.alive:
                if process is not None:
                    await process.end()
                process = await _Process.begin(self._program, self._voice)
            try:
                async with asyncio.timeout(SECONDS):
                    made = await process.say(line)
            except TimeoutError:
                await process.end()
                raise VoiceError(f"piper: gave no speech within {SECONDS:.0f} s; remedy: a smaller voice") from None
            except BaseException:  # a cancel too: what it would still say belongs to nobody
                await asyncio.shield(process.end())
                raise
            self._process = process
            return made

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    async def _of_voice(self) -> str:
        """The language of the voice. Raises `VoiceError` when its files are not there."""
        if self._language is None:
            try:
                self._voice = await asyncio.to_thread(lambda: self._find().resolve())
            except AssistantError as error:
                raise VoiceError(str(error)) from error
            self._language = await asyncio.to_thread(language_of, self._voice)
        return self._language


def language_of(voice: Path) -> str:
    """The language (ISO 639-1) that a voice file speaks, as the `.json` beside it says. Raises `VoiceError`."""
    described = voice.with_name(f"{voice.name}.json")
    remedy = "remedy: say.piper.voice names an .onnx file of Piper with its .onnx.json beside it"
    if not voice.is_file():
        raise VoiceError(f"piper: {voice} is not there; {remedy}")
    try:
        config = json.loads(described.read_bytes())
        return base_language(str(config.get("language", {}).get("family") or config["espeak"]["voice"]))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise VoiceError(f"piper: {described} cannot be read ({type(error).__name__}); {remedy}") from error


class _Process:
    """A running `piper`, and the folder it writes to."""

    def __init__(self, process: asyncio.subprocess.Process, folder: tempfile.TemporaryDirectory[str]) -> None:
        self._process = process
        self._folder = folder
        self._told: asyncio.Queue[str | None] = asyncio.Queue(100)  # lines; None: it ended
        self._last = ""
        streams = (process.stdout, process.stderr)
        self._readers = [asyncio.create_task(self._read(stream)) for stream in streams if stream is not None]

    @classmethod
    async def begin(cls, program: str, voice: Path) -> _Process:
        """Raises `VoiceError` when it cannot be started."""
        folder = tempfile.TemporaryDirectory(prefix="kikimimi-piper-")
        try:
            command = [program, "--model", str(voice), "--output-dir", folder.name]
            return cls(await start(command, "piper", REMEDY), folder)
        except BaseException:
            folder.cleanup()
            raise

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def say(self, line: str) -> Spoken:
        """Raises `VoiceError` when the process ends or writes what is no speech."""
        assert self._process.stdin is not None  # noqa: S101 (start asks for it)
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(f"{line}\n".encode())
            await self._process.stdin.drain()
        named = re.compile(re.escape(self._folder.name) + r"/[\w.-]+\.wav")
        while (told := await self._told.get()) is not None:
            if match := named.search(told):
                return await asyncio.to_thread(_taken, Path(match[0]))
            self._last = told.strip() or self._last
        raise VoiceError(f"piper: ended ({self._last[:200] or 'without a word'}); remedy: {REMEDY}")

    async def _read(self, stream: asyncio.StreamReader) -> None:
        with contextlib.suppress(ValueError):  # a line beyond asyncio's 64 KB
            while line := await stream.readline():
                await self._told.put(line.decode(errors="replace"))
        await self._told.put(None)

    async def end(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await kill(self._process)
        self._folder.cleanup()


def _taken(file: Path) -> Spoken:
    """The speech in `file`, which is deleted."""
    try:
        with wave.open(str(file), "rb") as opened:
            if (opened.getnchannels(), opened.getsampwidth()) != (1, 2):
                raise VoiceError("piper: gave no 16-bit mono speech; remedy: another version of it")
            rate = opened.getframerate()
            return spoken(opened.readframes(int((SECONDS_LIMIT + 1) * rate)), rate, "piper")
    except (OSError, EOFError, wave.Error) as error:
        raise VoiceError(f"piper: its speech cannot be read ({error}); remedy: {REMEDY}") from error
    finally:
        file.unlink(missing_ok=True)
