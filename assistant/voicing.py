"""Who speaks which language: the engine of the configuration, Kokoro for Japanese, and espeak-ng for all the rest."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from assistant.errors import ConfigurationError, VoiceError
from assistant.models.piper_voices import located
from assistant.outputs.speaking import SaySettings
from assistant.registry import VOICES, load
from assistant.voices.voice import Spoken, Voice, base_language

log = logging.getLogger(__name__)

_KANA = re.compile(r"[\u3041-\u30ff]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_HAN = re.compile(r"[\u3400-\u9fff]")


def voice_of(settings: SaySettings, *, language: str = "en", models: Path | None = None) -> Voices:
    """The voices of this configuration; nothing is started or fetched. Raises `ConfigurationError`.

    `language`: of texts that name none and whose script does not tell, the first of the household. `models`: the folder
    of all models.
    """
    engines: list[Voice] = []
    if settings.engine == "piper":
        if settings.piper.voice is None:
            raise ConfigurationError(
                "say.piper.voice: say.engine is piper, which needs a voice; remedy: the .onnx file of one, or a name "
                "such as en_US-joe-medium"
            )
        find = partial(located, settings.piper.voice, models)
        engines.append(load(VOICES, "piper")(find, settings.piper.program))
    if settings.engine in {"kokoro", "piper"}:
        engines.append(load(VOICES, "kokoro")())
    engines.append(load(VOICES, "espeak")())
    return Voices(engines, language)


class Voices:
    """Several engines as one: for each text the first that speaks its language; the next ones when that fails."""

    def __init__(self, engines: Sequence[Voice], language: str = "en") -> None:
        """`engines`, the preferred first; `language` of texts that do not tell theirs."""
        self.name = engines[0].name
        self.failures: Counter[str] = Counter()  # texts by engine that failed
        self._engines = tuple(engines)
        self._language = base_language(language)
        self._told: set[tuple[str, str]] = set()

    async def speaks(self, language: str | None) -> bool:
        """Whether any engine does. Called early, it fetches what is still to be fetched."""
        return any([await engine.speaks(language) for engine in self._engines])

    async def synthesise(self, text: str, language: str | None) -> Spoken:
        """`text` in `language`, else in that of its script, else in that of the household. Raises `VoiceError`."""
        chosen = base_language(language) if language else self.language_of(text)
        last = len(self._engines) - 1
        for number, engine in enumerate(self._engines):
            if number < last and not await engine.speaks(chosen):
                if engine.name == self.name:
                    self._tell(engine.name, chosen, f"{engine.name} does not speak {chosen} here, another voice does")
                continue
            try:
                return await engine.synthesise(text, chosen)
            except VoiceError as error:
                self.failures[engine.name] += 1
                if number == last:
                    raise
                self._tell(engine.name, "failed", f"{error}; the next voice speaks instead")
        raise VoiceError(f"no voice speaks {chosen}")

    def language_of(self, text: str) -> str:
        """The language of a text that does not tell it: by its script, else the household's."""
        if _KANA.search(text):
            return "ja"
        if _HANGUL.search(text):
            return "ko"
        if _HAN.search(text) and self._language not in {"ja", "zh"}:
            return "zh"
        return self._language

    async def close(self) -> None:
        """End all processes."""
        for engine in self._engines:
            await engine.close()

    def _tell(self, engine: str, what: str, message: str) -> None:
        if (engine, what) not in self._told:
            self._told.add((engine, what))
            log.warning("%s (told once)", message)
