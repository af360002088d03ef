"""What a tagger's scores say for and against speech."""

import numpy as np
import pytest

from assistant.events import SAMPLE_RATE, Cut, Tags, Utterance, Window
from assistant.evidence import SCENE_LABELS, SPEECH_LABELS, Evidence, Verdicts, Witness
from assistant.models.yamnet import LABELS, Yamnet

NAMES = ("Speech", "Whispering", "Dog", "Inside, small room", "Music")


def tags(start: float, **scores: float) -> Tags:
    first = round(start * SAMPLE_RATE)
    window = Window(first, first + 15_600, np.zeros(15_600, np.float32), first, -30.0, -60.0)
    return Tags(window, np.array([scores.get(name.split(",")[0], 0.0) for name in NAMES], np.float32))


def utterance(start: float, end: float) -> Utterance:
    first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
    return Utterance(first, last, np.zeros(last - first, np.float32), Cut.ENDPOINT, 0.8, -30.0, -55.0)


def test_best_scores_over_the_overlapping_windows() -> None:
    evidence = Evidence(NAMES)
    for at, scores in [
        (0.0, {"Speech": 0.9}),
        (5.0, {"Speech": 0.3, "Dog": 0.2}),
        (5.5, {"Whispering": 0.6}),
        (9.0, {"Dog": 1.0}),
    ]:
        evidence.feed(tags(at, **scores))
    found = evidence.over(utterance(5.2, 7.0))
    assert found.tagger_score == pytest.approx(0.6)
    assert found.other_score == pytest.approx(0.2)
    assert found.snr_db == pytest.approx(25.0)
    assert found.speech_share == 0.8


def test_speech_in_a_stretch() -> None:
    evidence = Evidence(NAMES)
    for at, scores in [(0.0, {"Speech": 0.9}), (5.0, {"Dog": 0.8, "Whispering": 0.2})]:
        evidence.feed(tags(at, **scores))
    assert evidence.speech_in(4 * SAMPLE_RATE, 8 * SAMPLE_RATE) == pytest.approx(0.2)
    assert evidence.speech_in(2 * SAMPLE_RATE, 4 * SAMPLE_RATE) == 0.0


def test_verdicts_over_a_stretch() -> None:
    verdicts = Verdicts()
    assert verdicts.between(0, SAMPLE_RATE) is False
    first, second, third = utterance(1.0, 2.0), utterance(3.0, 4.0), utterance(5.0, 6.0)
    for each in (first, second, third):
        verdicts.cut(each)
    assert verdicts.between(0, SAMPLE_RATE) is False
    assert verdicts.between(0, 2 * SAMPLE_RATE) is None
    verdicts.decided(first, speech=False)
    verdicts.decided(first, speech=True)  # the first word counts
    assert verdicts.between(0, 2 * SAMPLE_RATE) is False
    verdicts.decided(third, speech=False)  # the second was shed: nobody knows, so it counts as speech
    assert verdicts.between(0, 4 * SAMPLE_RATE) is True
    assert verdicts.between(5 * SAMPLE_RATE, 6 * SAMPLE_RATE) is False


def test_scenes_say_nothing_against_speech() -> None:
    evidence = Evidence(NAMES)
    evidence.feed(tags(0.0, Speech=0.4, Inside=0.99))
    assert evidence.over(utterance(0.0, 1.0)).other_score == 0.0


def test_no_window_is_unknown_and_not_zero() -> None:
    evidence = Evidence(NAMES)
    evidence.feed(tags(0.0, Speech=0.9))
    found = evidence.over(utterance(3.0, 4.0))
    assert found.tagger_score is None
    assert found.other_score is None


def test_old_tags_are_forgotten_and_those_of_a_full_utterance_are_not() -> None:
    evidence = Evidence(NAMES)
    for second in range(600):
        evidence.feed(tags(float(second), Speech=0.9))
    assert evidence.over(utterance(500.0, 501.0)).tagger_score is None
    assert evidence.over(utterance(570.0, 570.5)).tagger_score == pytest.approx(0.9)
    assert len(evidence._heard) < 60


def test_the_labels_exist(yamnet_path) -> None:
    labels = Yamnet(yamnet_path).labels
    assert len(labels) == LABELS
    assert set(labels) >= SPEECH_LABELS | SCENE_LABELS


def test_a_witness_agrees_where_a_window_holds_something_of_that_kind() -> None:
    witness = Witness(NAMES, [(("Dog", "Bark"), 0.1), (("Music",), 0.4), (("Dog",), 0.9)])
    witness.feed(tags(0.0, Dog=0.05, Music=0.5))
    witness.feed(tags(2.0, Dog=0.12, Music=0.3))
    at = SAMPLE_RATE
    assert witness.agrees("Dog", 2 * at, 3 * at)
    assert witness.agrees("Bark", 2 * at, 3 * at)  # the tagger has no such label, but another of the kind
    assert not witness.agrees("Dog", 0, 2 * at)
    assert witness.agrees("Music", 0, at)
    assert not witness.agrees("Music", 2 * at, 9 * at)
    assert not witness.agrees("Cat", 0, 9 * at)  # it knows nothing of cats


def test_a_witness_without_labels_agrees_to_nothing() -> None:
    witness = Witness((), [(("Dog",), 0.1)])
    witness.feed(tags(0.0))
    assert not witness.agrees("Dog", 0, SAMPLE_RATE)
