"""espeak-ng: small, at once, in a hundred languages, and heard to be a machine. The program, GPL-3, is run, not linked.

Its kanji are poor: Japanese is only intelligible as kana, so for Japanese the extra `kokoro` is better.
"""

from __future__ import annotations

import struct

from assistant.errors import VoiceError
from assistant.voices.process import run
from assistant.voices.voice import Spoken, base_language, speakable, spoken

REMEDY = "apt-get install espeak-ng"
SECONDS = 20.0  # a thousand characters take 0.3 s
_VOICES = {"zh": "cmn", "no": "nb", "iw": "he", "in": "id"}


class Espeak:
    """The `espeak-ng` program, one process for a text."""

    name = "espeak-ng"

    def __init__(self, program: str = "espeak-ng") -> None:
        self._program = program
        self._languages: frozenset[str] | None = None

    async def speaks(self, language: str | None) -> bool:
        """Whether it is installed and has a voice of that language."""
        try:
            known = await self._known()
        except VoiceError:
            return False
        return language is None or _voice(language) in known

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` in `language`; None: English. Raises `VoiceError`."""
        voice = _voice(language or "en")
        if voice not in await self._known():
            raise VoiceError(
                f"{self.name}: speaks no {language!r}; remedy: a language that {self._program} --voices lists"
            )
        command = [self._program, "--stdin", "--stdout", "-b", "1", "-v", voice]
        wav = await run(command, speakable(text) + "\n", engine=self.name, remedy=REMEDY, seconds=SECONDS)
        rate, pcm = _unpacked(wav)
        return spoken(pcm, rate, self.name)

    async def close(self) -> None:
        """Nothing stays running."""

    async def _known(self) -> frozenset[str]:
        """The languages of the program that is installed. Raises `VoiceError` when none is."""
        if self._languages is None:
            listed = await run([self._program, "--voices"], "", engine=self.name, remedy=REMEDY, seconds=SECONDS)
            rows = (line.split() for line in listed.decode(errors="replace").splitlines()[1:])
            self._languages = frozenset(row[1].split("-")[0] for row in rows if len(row) > 1)
        return self._languages


def _voice(language: str) -> str:
    base = base_language(language)
    return _VOICES.get(base, base)


def _unpacked(wav: bytes) -> tuple[int, bytes]:
    """Rate and samples of a WAV file whose lengths are unknown, as programs write it to a pipe. Raises `VoiceError`."""
    if len(wav) < 44 or wav[:4] != b"RIFF" or wav[8:16] != b"WAVEfmt " or wav[36:40] != b"data":
        raise VoiceError(f"espeak-ng: gave no WAV file; remedy: {REMEDY}")
    _, encoding, channels, rate, _, _, bits = struct.unpack("<IHHIIHH", wav[16:36])
    if (encoding, channels, bits) != (1, 1, 16):
        raise VoiceError(f"espeak-ng: gave {channels} channels of {bits} bits; remedy: {REMEDY}")
    return int(rate), wav[44:]
