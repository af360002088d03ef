"""An audio language model as the recogniser of utterances: text, language, emotion, and how sure it is of the text.

A language model writes something about anything, silence too, so it is asked only where the tagger heard speech (or,
where no window of the tagger fell into the utterance, where most of its frames are speech). Its own certainty is told
as the score but decides nothing: no weights were at hand to find out what it is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from assistant.events import SAMPLE_RATE, Samples, SpeechEvidence, Transcript
from assistant.models import tasks
from assistant.models.audio_llm import Answer, AudioLLM, Prompt
from assistant.models.whisper import SHORTEST, doubt_before, loops

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE_POSSIBLE = 0.5  # share of speech frames that an utterance needs which the tagger did not hear
LONGEST = 30 * SAMPLE_RATE  # samples


class LLMRecogniser:
    """Implements the pipeline's `Recogniser`. Call it in the model's thread; `llm` may be the guarded one."""

    def __init__(self, llm: AudioLLM, languages: Sequence[str] = ()) -> None:
        """`languages` of the household: ISO 639-1."""
        self.name = llm.name
        self._llm, self._languages = llm, languages

    def transcribe(
        self,
        samples: Samples,
        evidence: SpeechEvidence,
        *,
        languages: Sequence[str] | None = None,
        words: Sequence[str] = (),
    ) -> Transcript:
        """What was said in `samples` (at most 30 s at 16 kHz), or an empty text and the reason.

        The only language of a room or household is named to the model when it has a tag for it; `words` are not used:
        the model has no place for them that it was trained with.
        """
        doubt = doubt_before_asking(evidence)
        if doubt is not None or len(samples) < SHORTEST:
            return Transcript("", None, None, rejected=doubt or "it is shorter than 0.1 s")
        clean = np.nan_to_num(samples[:LONGEST], nan=0.0, posinf=0.0, neginf=0.0)
        spoken = languages or self._languages
        language = spoken[0] if len(spoken) == 1 else None
        heard = _Overheard(self._llm)
        (said,) = tasks.transcribe(heard, [clean], language=language if language in tasks.LANGUAGES else None)
        if not said.text:
            return Transcript("", said.language, None, rejected="the model hears no speech")
        if not said.complete or loops(said.text):
            return Transcript("", said.language, None, rejected="the text loops")
        score = heard.certainty()
        (feeling,) = tasks.emotion(self._llm, [clean])
        witnessed = evidence.tagger_score is not None
        return Transcript(
            said.text,
            said.language,
            score,
            emotion=feeling.label,
            agreed="yamnet" if witnessed else "",
            witnessed=witnessed,
        )


class _Overheard:
    """A model that remembers the last prompt and reply, so that the reply's own likelihood can be asked for."""

    def __init__(self, llm: AudioLLM) -> None:
        self.name, self.tagged = llm.name, llm.tagged
        self._llm = llm
        self._last: tuple[Prompt, Answer] | None = None

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        answers = self._llm.answer(
            prompts, max_new_tokens=max_new_tokens, choices=choices, stream=stream, cancelled=cancelled
        )
        self._last = (prompts[-1], answers[-1])
        return answers

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        return self._llm.score(prompt, labels)

    def certainty(self) -> float | None:
        """Mean probability (geometric) of the tokens of the last reply, wrapping prose included; None: not told."""
        if self._last is None:
            return None
        prompt, answer = self._last
        mean = float(self._llm.score(prompt, [answer.text])[0])
        return min(1.0, math.exp(mean)) if math.isfinite(mean) else None


def doubt_before_asking(evidence: SpeechEvidence) -> str | None:
    """Why an utterance does not go to the model: the tagger hears no speech, or heard nothing and the VAD is unsure."""
    if evidence.tagger_score is None and evidence.speech_share < SHARE_POSSIBLE:
        return f"no tagger heard it, and {evidence.speech_share:.0%} of its frames are speech"
    return doubt_before(evidence)
