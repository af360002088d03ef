"""An audio language model as a recogniser: asked only where somebody speaks, and honest about how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from assistant.events import SAMPLE_RATE, SpeechEvidence
from assistant.models.audio_llm import Answer, Prompt, Stop
from assistant.models.llm_recogniser import LLMRecogniser

SPOKEN = SpeechEvidence(speech_share=0.8, tagger_score=0.9, other_score=0.1, snr_db=20.0)
CLIP = np.zeros(2 * SAMPLE_RATE, np.float32)


class Says:
    """A chat model that says `text` of speech and `feeling` of emotions."""

    name, tagged = "qwen-audio-chat", False

    def __init__(self, text: str, feeling: str = "", *, stop: Stop = Stop.END, mean: float = -0.5) -> None:
        self.asked: list[str] = []
        self.scored: list[tuple[str, ...]] = []
        self._text, self._feeling, self._stop, self._mean = text, feeling, stop, mean

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        [question] = [str(prompt.messages[-1].content[-1]) for prompt in prompts]
        self.asked.append(question)
        about_speech = "ecognize" in question
        return [Answer(self._text if about_speech else self._feeling, 9, self._stop if about_speech else Stop.END)]

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        self.scored.append(tuple(labels))
        return np.array([self._mean], np.float32)


def test_text_language_emotion_and_score() -> None:
    reply = 'The person says in English: "Turn on the light."'
    llm = Says(reply, "The speaker sounds angry.")
    said = LLMRecogniser(llm).transcribe(CLIP, SPOKEN)
    assert (said.text, said.language, said.emotion) == ("Turn on the light.", "en", "angry")
    assert said.score == pytest.approx(math.exp(-0.5))
    assert llm.scored == [(reply,)]  # of what it really said, wrapping prose included
    assert (said.agreed, said.witnessed) == ("yamnet", True)


def test_unknown_is_none() -> None:
    said = LLMRecogniser(Says("Turn on the light.", "I cannot tell.", mean=math.nan)).transcribe(CLIP, SPOKEN)
    assert (said.text, said.language, said.emotion, said.score) == ("Turn on the light.", None, None, None)


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (SpeechEvidence(0.9, 0.05, 0.8, 20.0), "the tagger hears no speech"),
        (SpeechEvidence(0.3, None, None, 20.0), "no tagger heard it"),
    ],
)
def test_what_is_no_speech_is_never_asked_about(evidence: SpeechEvidence, why: str) -> None:
    llm = Says("Thank you for watching.")
    said = LLMRecogniser(llm).transcribe(CLIP, evidence)
    assert said.text == ""
    assert why in str(said.rejected)
    assert llm.asked == []


def test_speech_that_no_window_of_the_tagger_saw_has_no_witness() -> None:
    said = LLMRecogniser(Says("Stop.")).transcribe(CLIP, SpeechEvidence(0.9, None, None, 20.0))
    assert (said.text, said.agreed, said.witnessed) == ("Stop.", "", False)


@pytest.mark.parametrize(
    ("text", "stop"),
    [("There is no speech in this audio.", Stop.END), ("Turn on the", Stop.LENGTH), ("ha ha ha ha ha ha ha", Stop.END)],
)
def test_no_speech_loops_and_broken_off_texts_are_no_transcripts(text: str, stop: Stop) -> None:
    said = LLMRecogniser(Says(text, stop=stop)).transcribe(CLIP, SPOKEN)
    assert said.text == ""
    assert said.rejected
    assert text not in said.rejected


def test_the_only_language_of_a_room_is_named() -> None:
    llm = Says("Hallo.")
    recogniser = LLMRecogniser(llm, ["en", "de"])
    recogniser.transcribe(CLIP, SPOKEN)
    assert recogniser.transcribe(CLIP, SPOKEN, languages=["de"]).language == "de"
    recogniser.transcribe(CLIP, SPOKEN, languages=["sv"])  # a language that the model has no word for
    questions = [question for question in llm.asked if "ecognize" in question]
    assert ["German" in question for question in questions] == [False, True, False]
