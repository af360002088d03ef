"""Scores of a label set by an audio language model's own likelihood, calibrated by what it says of silence.

A label's evidence is its mean log-probability per token as the answer to a question about the clip, less the same
for a clip of silence: what a label is worth before anything was heard (its frequency, its wording) cancels out. This is
contextual calibration (Zhao et al., "Calibrate Before Use", 2021, arXiv 2102.09690) with silence as the input without
content. A softmax over the labels makes scores of the evidence.

No weights were at hand when this was written: `SHARPNESS` is reasoned, not fitted, and no accuracy is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ConfigurationError, ModelError
from assistant.events import SAMPLE_RATE, Samples
from assistant.models.audio_llm import AudioLLM, Message, Prompt
from assistant.models.overlap import windows
from assistant.models.tasks import harmless

SHARPNESS: Final = 4.0  # tokens of a usual label: the mean per token times it is about the label's likelihood ratio
FLOOR: Final = -50.0  # mean log-probability below which a label is equally impossible
LENGTHS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds of the clips of silence; each is scored once, when needed
QUESTION: Final = "What is the main sound in this audio? Answer in a few words."
NOTHING_NAMED: Final = "something else"

# How a model would say AudioSet's display names. Of a group of `config/sounds.yaml` one is enough, or a few that cannot
# be mistaken for each other, since they share the belief; those of no group take what would else go to a wrong one.
PHRASES: Final[Mapping[str, str]] = {
    "Silence": "silence",
    "Speech": "a person speaking",
    "Music": "music",
    "Singing": "singing",
    "Smoke detector, smoke alarm": "a smoke alarm",
    "Shatter": "glass breaking",
    "Baby cry, infant cry": "a baby crying",
    "Crying, sobbing": "a person crying",
    "Dog": "a dog barking",
    "Cat": "a cat meowing",
    "Doorbell": "a doorbell ringing",
    "Knock": "knocking on a door",
    "Siren": "a siren",
    "Alarm clock": "an alarm clock ringing",
    "Beep, bleep": "an appliance beeping",
    "Telephone": "a telephone ringing",
    "Water tap, faucet": "water running from a tap",
    "Toilet flush": "a toilet flushing",
    "Cough": "a person coughing",
    "Sneeze": "a person sneezing",
    "Snoring": "a person snoring",
    "Shout": "a person shouting",
    "Screaming": "a person screaming",
    "Laughter": "people laughing",
    "Clapping": "hands clapping",
    "Walk, footsteps": "footsteps",
    "Thunder": "thunder",
    "Gunshot, gunfire": "a gunshot",
    "Power tool": "a power tool",
    "Hammer": "hammering",
    "Motor vehicle (road)": "a car passing by",
    "Vehicle horn, car horn, honking": "a car horn",
    "Bird": "a bird singing",
    "Fireworks": "fireworks",
    "Door": "a door closing",
    "Dishes, pots, and pans": "dishes clattering",
    "Frying (food)": "food frying",
    "Vacuum cleaner": "a vacuum cleaner",
    "Typing": "typing on a keyboard",
    "Clock": "a clock ticking",
    "Rain": "rain",
    "Wind": "wind",
    "Bell": "a bell",
    "Whistling": "a person whistling",
    "Breathing": "a person breathing",
    "Crowd": "a crowd of people",
    "Train": "a train",
    "Aircraft": "an aircraft",
    "Mechanical fan": "a fan humming",
    "White noise": "noise",
}


class Classifier:
    """Scores of `labels` as answers to one question. Call it in the model's thread."""

    def __init__(self, llm: AudioLLM, question: str, labels: Sequence[str], *, sharpness: float = SHARPNESS) -> None:
        """`labels` are answers in the words the model would use.

        Raises `ConfigurationError` for fewer than two, for an empty one, and for twins.
        """
        self.labels = tuple(labels)
        twins = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if len(self.labels) < 2 or twins or not all(label.strip() for label in self.labels):
            what = f"{twins[0]!r} is there twice" if twins else "two or more are needed, and none may be empty"
            raise ConfigurationError(f"labels: {what}; remedy: a list of different answers")
        self._llm = llm
        self._question = question
        self._sharpness = sharpness
        self._priors: dict[float, NDArray[np.float32]] = {}  # by seconds of silence; at most one for each of LENGTHS

    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """Shape (labels,), 0 to 1, together 1: each label's share of the belief; 1 / labels each for silence.

        Audio of more than 30 s gives the mean over its windows. Costs one prompt, and one more of silence the first
        time that a clip of about this length comes. Raises `ModelError` when the model gives no numbers.
        """
        parts = [self._softmax(self._evidence(audio)) for _, audio in windows(samples)]
        mean: NDArray[np.float32] = np.mean(parts, axis=0, dtype=np.float32)
        return mean

    def prepare(self, duration: float) -> None:
        """Score silence now, for clips of about `duration` seconds, rather than with the first of them."""
        self._prior(round(duration * SAMPLE_RATE))

    def _evidence(self, samples: Samples) -> NDArray[np.float32]:
        return self._score(samples) - self._prior(len(samples))

    def _prior(self, length: int) -> NDArray[np.float32]:
        """Digital silence of about this length, since the number of audio positions before an answer weighs on it.

        Zeros rather than a room's own noise: the same in every home, and the tracker subtracts what a room always
        sounds like.
        """
        duration = next((s for s in LENGTHS if length <= s * SAMPLE_RATE), LENGTHS[-1])
        if duration not in self._priors:
            self._priors[duration] = self._score(np.zeros(round(duration * SAMPLE_RATE), np.float32))
        return self._priors[duration]

    def _score(self, samples: Samples) -> NDArray[np.float32]:
        if self._llm.tagged:
            tags = f"<|startofanalysis|><|en|><|question|>{harmless(self._question)}<|answer|>"
            prompt = Prompt(clips=(samples,), tags=tags)
        else:
            prompt = Prompt(messages=(Message("user", (samples, self._question)),))
        scores = self._llm.score(prompt, self.labels)
        if scores.shape != (len(self.labels),) or np.isnan(scores).any():
            raise ModelError(f"{self._llm.name}: its scores are not numbers; remedy: dtype bfloat16 or float32")
        return np.maximum(scores, np.float32(FLOOR))

    def _softmax(self, evidence: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled = np.exp(self._sharpness * (evidence - evidence.max()))
        shares: NDArray[np.float32] = (scaled / scaled.sum()).astype(np.float32)
        return shares


class LLMTagger:
    """A tagger for the pipeline: AudioSet display names, scored by an audio language model.

    A score is the label's share of the belief among some 50 answers, "something else" among them: about 0.02 each when
    nothing can be heard, near 1 when the model has no doubt. So the tracker's thresholds keep their meaning in kind
    (0.07: several times what chance gives; 0.3: one of the two or three likeliest; 0.45: about as likely as all others
    together) and what a room always scores is subtracted as ever. They were found with YAMNet, whose labels do not
    compete: two sounds at once share the belief here. None was measured with a language model;
    `sounds.sensitivity` shifts them all.
    """

    def __init__(self, llm: AudioLLM, labels: Sequence[str], groups: Iterable[Sequence[str]] = ()) -> None:
        """`labels` are all that the sound table names, `groups` its groups, some of `labels` each.

        The model is asked about those labels that are in `PHRASES` and about the first of a group that has none there,
        so that every group can be heard. The others score 0.
        """
        self.labels = tuple(labels)
        asked = [label for label in self.labels if label in PHRASES]
        asked += [group[0] for group in groups if group and not any(label in PHRASES for label in group)]
        index = {label: i for i, label in enumerate(self.labels)}
        by_phrase = {phrase_of(label): index[label] for label in asked if label in index}  # of twins the last
        self._indices = np.array(list(by_phrase.values()), np.intp)
        self._classifier = Classifier(llm, QUESTION, (*by_phrase, NOTHING_NAMED))

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        """Scores of shape (labels,), 0 to 1. The array is the caller's. Raises `ModelError`."""
        scores = np.zeros(len(self.labels), np.float32)
        scores[self._indices] = self._classifier.scores(samples)[:-1]
        return scores

    def prepare(self, duration: float) -> None:
        """Score silence for clips of about `duration` seconds: part of the warm-up."""
        self._classifier.prepare(duration)


def phrase_of(label: str) -> str:
    """How a model would say a display name: as in `PHRASES`, or its first part in lower case."""
    return PHRASES.get(label) or re.sub(r"\s*\(.*?\)", "", label.partition(",")[0]).strip().lower() or label
