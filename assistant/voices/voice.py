"""The contract of all voices, and what every text goes through before one speaks it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from assistant.errors import VoiceError
from assistant.events import Samples, frozen

TEXT_LIMIT = 1_000  # characters: a minute of speech
SECONDS_LIMIT = 180.0  # of speech; more of 1,000 characters is an engine gone wrong

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """Synthesised speech."""

    samples: Samples  # mono, shape (n,), nominally -1 to 1, read-only
    rate: int  # Hz

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


class Voice(Protocol):
    """An engine that speaks. Constructors start nothing."""

    name: str

    async def speaks(self, language: str | None) -> bool:
        """Whether it is installed and knows `language` (ISO 639-1; None: any)."""

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` as speech in `language` (ISO 639-1; None: that of the voice).

        Raises `VoiceError` that names the engine and the remedy, also when it takes too long; a cancel ends its
        process.
        """

    async def close(self) -> None:
        """End its processes."""


def speakable(text: str) -> str:
    """`text` as one line without control characters, at most `TEXT_LIMIT` long. Raises `VoiceError` if nothing is left.

    `[[` would begin phonemes of espeak-ng and Piper, so it is not kept.
    """
    line = " ".join(text[: 4 * TEXT_LIMIT].split())
    line = "".join(sign for sign in line if unicodedata.category(sign)[0] != "C")
    line = re.sub(r"(\[|\])\1+", r"\1", line)[:TEXT_LIMIT].strip()
    if not any(sign.isalnum() for sign in line):
        raise VoiceError("a text without letters and digits cannot be said")
    return line


def base_language(language: str) -> str:
    """`en` of `en-GB`. Raises `VoiceError` for what is no language code."""
    if not _LANGUAGE.fullmatch(language.strip()):
        raise VoiceError(f"{language[:20]!r} is no language; remedy: an ISO 639-1 code such as en or ja")
    return re.split(r"[-_]", language.strip())[0].lower()


def spoken(pcm: bytes, rate: int, engine: str) -> Spoken:
    """16-bit little-endian mono samples as speech. Raises `VoiceError` when there is none, or far too much."""
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768.0
    if not 4_000 <= rate <= 192_000:
        raise VoiceError(f"{engine}: gave speech at {rate} Hz, which nothing plays")
    if not samples.any():
        raise VoiceError(f"{engine}: gave only silence for the text")
    if len(samples) > SECONDS_LIMIT * rate:
        raise VoiceError(f"{engine}: gave {len(samples) / rate:.0f} s of speech for one text; that is not played")
    return Spoken(frozen(samples), rate)
