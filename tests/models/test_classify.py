"""Scores of label sets: calibrated on silence, a tagger for the tracker, and the same on a real model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assistant.errors import ConfigurationError, ModelError
from assistant.events import SAMPLE_RATE, Samples, Tags, Window
from assistant.models.audio_llm import AudioLLM, Prompt
from assistant.models.classify import LENGTHS, NOTHING_NAMED, PHRASES, QUESTION, Classifier, LLMTagger, phrase_of
from assistant.models.yamnet import Yamnet
from assistant.tracking import SoundTable, Tracker, load_table

SHIPPED = Path(__file__).parents[2] / "config" / "sounds.yaml"
SECOND = np.ones(SAMPLE_RATE, np.float32)
WINDOW = 15_600


class Scores:
    """A model that likes some labels for their wording, and hears `heard` in every clip that is not silent."""

    name = "scores"

    def __init__(self, heard: str, gain: float = 2.0, *, tagged: bool = False) -> None:
        self.heard = heard
        self.gain = gain
        self.tagged = tagged
        self.prompts: list[Prompt] = []

    def answer(self, prompts: Sequence[Prompt], **_: Any) -> list[Any]:
        raise NotImplementedError

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        self.prompts.append(prompt)
        clip = self.clip(prompt)
        bias = np.array([-1.0 - (sum(label.encode()) % 7) for label in labels])
        return (bias + self.gain * float(clip.any()) * np.array([label == self.heard for label in labels])).astype(
            np.float32
        )

    @staticmethod
    def clip(prompt: Prompt) -> Samples:
        clip = prompt.clips[0] if prompt.tags else prompt.messages[0].content[0]
        assert not isinstance(clip, str)
        return clip


def test_wording_cancels_out_and_what_is_heard_wins() -> None:
    labels = ["a dog", "rain", "glass breaking", "a cat"]
    scores = Classifier(Scores("rain"), "What?", labels).scores(SECOND)
    assert scores.dtype == np.float32
    assert scores.sum() == pytest.approx(1.0)
    assert labels[int(scores.argmax())] == "rain"
    np.testing.assert_allclose(scores[[0, 2, 3]], scores[0], rtol=1e-4)


def test_silence_tells_nothing() -> None:
    scores = Classifier(Scores("rain"), "What?", ["a dog", "rain", "a cat", "x"]).scores(
        np.zeros(SAMPLE_RATE, np.float32)
    )
    np.testing.assert_allclose(scores, 0.25, rtol=1e-4)


def test_silence_is_scored_once_for_each_class_of_lengths() -> None:
    llm = Scores("rain")
    classifier = Classifier(llm, "What?", ["a dog", "rain"])
    classifier.prepare(0.975)
    assert len(llm.prompts) == 1
    classifier.scores(SECOND)
    classifier.scores(SECOND[:9000])
    assert len(llm.prompts) == 3
    for tenths in range(3, 301):
        classifier.scores(np.ones(tenths * SAMPLE_RATE // 10, np.float32))
    silent = [len(llm.clip(prompt)) / SAMPLE_RATE for prompt in llm.prompts if not llm.clip(prompt).any()]
    assert silent == list(LENGTHS)


def test_a_base_model_is_asked_by_tags() -> None:
    llm = Scores("rain", tagged=True)
    Classifier(llm, "What <|endoftext|>?", ["a dog", "rain"]).scores(SECOND)
    assert llm.prompts[0].tags == "<|startofanalysis|><|en|><|question|>What < |endoftext|>?<|answer|>"
    assert llm.prompts[0].clips == (SECOND,)


def test_long_audio_is_scored_in_windows() -> None:
    llm = Scores("rain", gain=100.0)
    clip = np.concatenate((np.ones(30 * SAMPLE_RATE, np.float32), np.zeros(28 * SAMPLE_RATE, np.float32)))
    clip[28 * SAMPLE_RATE : 30 * SAMPLE_RATE] = 0
    scores = Classifier(llm, "What?", ["a dog", "rain"]).scores(clip)
    np.testing.assert_allclose(scores, [0.25, 0.75], atol=1e-5)


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b", "a"], ["a", " "]])
def test_labels_must_be_two_different_ones(labels: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"labels: .*remedy"):
        Classifier(Scores("a"), "What?", labels)


def test_numbers_that_are_none_are_an_error_and_impossible_labels_are_not() -> None:
    class Broken(Scores):
        def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
            return np.full(len(labels), np.nan, np.float32)

    class Impossible(Scores):
        def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
            return np.array([-np.inf, -np.inf, -1.0], np.float32)

    with pytest.raises(ModelError, match="not numbers; remedy: dtype"):
        Classifier(Broken("a"), "What?", ["a", "b"]).scores(SECOND)
    np.testing.assert_allclose(Classifier(Impossible("a"), "What?", ["a", "b", "c"]).scores(SECOND), 1 / 3, rtol=1e-5)


@pytest.fixture(scope="module")
def table() -> SoundTable:
    return load_table(SHIPPED)


@pytest.fixture(scope="module")
def labels(table: SoundTable) -> list[str]:
    groups = [*table.groups.values(), *table.families.values()]
    return [*(label for group in groups for label in group.labels), *table.general, *table.speech, *table.scenes]


def test_phrases_are_of_labels_that_audioset_has(yamnet_path: Path, labels: list[str]) -> None:
    assert set(PHRASES) <= set(Yamnet(yamnet_path).labels)
    assert set(PHRASES) <= set(labels)
    assert len(set(PHRASES.values())) == len(PHRASES) >= 45
    assert NOTHING_NAMED not in PHRASES.values()


def test_every_group_of_the_shipped_table_can_be_heard(table: SoundTable) -> None:
    for name, group in table.groups.items():
        assert not group.labels or set(group.labels) & set(PHRASES), name


def test_a_group_of_ones_own_is_asked_about_by_its_first_label() -> None:
    llm = Scores("gargling")
    tagger = LLMTagger(llm, ["Dog", "Burping, eructation", "Gargling"], [["Dog"], ["Gargling", "Burping, eructation"]])
    scores = tagger.tag(SECOND)
    assert tagger.labels == ("Dog", "Burping, eructation", "Gargling")
    assert int(scores.argmax()) == 2
    assert scores[1] == 0.0
    assert phrase_of("Bird flight, flapping wings") == "bird flight"
    assert phrase_of("Rattle (instrument)") == "rattle"


def test_the_tracker_hears_the_taggers_dog_and_nothing_in_silence(table: SoundTable, labels: list[str]) -> None:
    tagger = LLMTagger(Scores(PHRASES["Dog"]), labels, [group.labels for group in table.groups.values()])
    assert tagger.labels == tuple(labels)
    tracker = Tracker(table, tagger.labels)
    silence, barks = [], []
    for i in range(1, 6):
        window = Window(i * 3520, i * 3520 + WINDOW, np.zeros(WINDOW, np.float32), 0, -30.0, -60.0)
        silence += tracker.feed(Tags(window, tagger.tag(window.samples)))
    for i in range(6, 12):
        window = Window(i * 3520, i * 3520 + WINDOW, np.ones(WINDOW, np.float32), 6 * 3520, -30.0, -60.0)
        barks += tracker.feed(Tags(window, tagger.tag(window.samples)))
    assert silence == []
    assert [(found.event_type, found.label) for found in barks] == [("dog_bark", "Dog")]


def test_a_real_model_scores_fifty_labels(qwen_audio_checkpoint: Path, labels: list[str]) -> None:
    from assistant.models.qwen_audio.llm import QwenAudio  # noqa: PLC0415 (torch)

    llm: AudioLLM = QwenAudio(qwen_audio_checkpoint)
    tagger = LLMTagger(llm, labels)
    tagger.prepare(WINDOW / SAMPLE_RATE)
    noise = 0.1 * np.random.default_rng(1).normal(size=WINDOW).astype(np.float32)
    scores = tagger.tag(noise)
    assert scores.shape == (len(labels),)
    assert np.isfinite(scores).all()
    assert 0.0 < scores.sum() <= 1.0 + 1e-5
    assert (scores > 0).sum() == len(PHRASES)
    # It goes on from the clip's keys and values then: the same but for rounding.
    np.testing.assert_allclose(scores, tagger.tag(noise), rtol=1e-3)
    few = Classifier(llm, QUESTION, ["a dog", "rain"]).scores(np.zeros(SAMPLE_RATE, np.float32))
    np.testing.assert_allclose(few, 0.5, atol=1e-5)
