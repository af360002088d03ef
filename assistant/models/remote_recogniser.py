"""A server's `/v1/audio/transcriptions` as recogniser of utterances, believed as little as our own Whisper."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from assistant.events import Samples, SpeechEvidence, Transcript
from assistant.models.llm_recogniser import LONGEST, doubt_before_asking
from assistant.models.remote import Remote
from assistant.models.replies import language_named
from assistant.models.whisper import SHORTEST, Decoding, doubt_after, loops

UNTOLD = -0.6  # average log-probability of a text whose server does not tell: what seems hollow is not believed


class RemoteRecogniser:
    """Implements the pipeline's `Recogniser`. Call it in the threads that the remote model is called in."""

    def __init__(self, remote: Remote, languages: Sequence[str], given_up: Callable[[], bool]) -> None:
        """`languages` of the household: ISO 639-1. `given_up` says whether nobody waits any more."""
        self.name = remote.transcriber or remote.name
        self._remote, self._languages, self._given_up = remote, languages, given_up

    def transcribe(
        self,
        samples: Samples,
        evidence: SpeechEvidence,
        *,
        languages: Sequence[str] | None = None,
        words: Sequence[str] = (),
    ) -> Transcript:
        """What was said in `samples` (at most 30 s at 16 kHz), or an empty text and the reason."""
        doubt = doubt_before_asking(evidence)
        if doubt is not None or len(samples) < SHORTEST:
            return Transcript("", None, None, rejected=doubt or "it is shorter than 0.1 s")
        spoken = languages or self._languages
        language = spoken[0] if len(spoken) == 1 else None
        clean = np.nan_to_num(samples[:LONGEST], nan=0.0, posinf=0.0, neginf=0.0)
        said = self._remote.transcribe(clean, language=language, words=words, cancelled=self._given_up)
        heard = language or code_of(said.language)
        likely = UNTOLD if said.log_probability is None else said.log_probability
        score = None if said.log_probability is None else min(1.0, math.exp(min(0.0, likely)))
        if not said.text:
            return Transcript("", heard, score, rejected="nothing was said")
        fault = "the text loops" if loops(said.text) else None
        doubt = fault or doubt_after(Decoding(said.text, (), likely, said.no_speech or 0.0, fault), evidence)
        return Transcript("" if doubt else said.text, heard, score, rejected=doubt)


def code_of(language: str | None) -> str | None:
    """ISO 639-1 of what servers call a language: a code, or its English name."""
    if language is None:
        return None
    return language.lower() if re.fullmatch(r"[A-Za-z]{2}", language) else language_named(f"in {language.title()}")
