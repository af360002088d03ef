"""A head out of examples, and an honest word about it."""

import numpy as np
import pytest
from taught import COMMON, NO_HOUSE, example, windows

from assistant.errors import ConfigurationError
from assistant.taught import Heads
from assistant.teaching import Sounds, evidence, learn


def values(sound: object, embeddings: np.ndarray) -> np.ndarray:
    heads = Heads([sound])  # type: ignore[list-item]
    return np.array([heads.values(one)[0] for one in embeddings])


def test_four_examples_are_enough_to_tell_it_from_everything_else() -> None:
    sound = learn("bell", "Bell", [example(seed) for seed in range(4)], COMMON, NO_HOUSE)
    assert sound.verdict.kind == "clear"
    assert sound.verdict.false_per_day is None
    assert min(sound.verdict.recognised) > sound.threshold
    assert evidence(values(sound, windows(99, of=1))) > sound.threshold
    assert evidence(values(sound, windows(99, of=2))) < sound.threshold
    assert evidence(values(sound, windows(99, of=20))) < sound.threshold


def test_examples_of_different_sounds_are_told() -> None:
    sound = learn("bell", "Bell", [example(seed, of=seed + 100) for seed in range(4)], COMMON, NO_HOUSE)
    assert sound.verdict.kind == "different"


def test_one_example_that_does_not_fit_is_found() -> None:
    examples = [*(example(seed) for seed in range(4)), example(9, of=77)]
    sound = learn("bell", "Bell", examples, COMMON, NO_HOUSE)
    assert sound.verdict.kind != "different"
    assert [value >= sound.threshold for value in sound.verdict.recognised] == [True] * 4 + [False]


def mixed(seed: int) -> np.ndarray:
    """Windows between the taught kind and another, nearer to the taught one."""
    return (0.75 * windows(seed + 400, of=1) + 0.25 * windows(seed, of=55)).astype(np.uint8)


def test_a_house_that_sounds_alike_all_day_makes_it_confusable() -> None:
    # One after the other, so that the half that judges the clapping has heard none of it.
    heard = [one for s in range(20) for one in (("Clapping", mixed(s)), ("Speech", windows(s, of=60)))]
    sound = learn("bell", "Bell", [example(seed) for seed in range(4)], COMMON, Sounds(heard, days=1.0))
    assert sound.verdict.kind == "confusable"
    assert sound.verdict.confused_with == ("Clapping",)
    assert sound.verdict.false_per_day is not None
    assert sound.verdict.false_per_day > 3


def test_what_was_heard_before_it_was_taught_is_no_false_alarm() -> None:
    house = Sounds(
        [
            *(("Music", windows(300 + seed, of=1)) for seed in range(6)),
            *(("Speech", windows(s, of=60)) for s in range(60)),
        ],
        days=2.0,
    )
    sound = learn("bell", "Bell", [example(seed) for seed in range(4)], COMMON, house)
    assert sound.verdict.heard_per_day == pytest.approx(3.0)
    assert sound.verdict.false_per_day == 0.0
    assert sound.verdict.kind == "clear"
    assert evidence(values(sound, windows(99, of=1))) > sound.threshold


def test_after_an_hour_nothing_is_said_of_a_day() -> None:
    house = Sounds([("Speech", windows(seed, of=60)) for seed in range(5)], days=1 / 24)
    assert learn("bell", "Bell", [example(s) for s in range(3)], COMMON, house).verdict.false_per_day is None


def test_it_can_be_learnt_from_the_house_alone_and_from_nothing() -> None:
    house = Sounds([("Speech", windows(seed, of=60)) for seed in range(20)], days=1.0)
    for common in (Sounds(()), COMMON):
        for home in (house, NO_HOUSE):
            sound = learn("bell", "Bell", [example(seed) for seed in range(3)], common, home)
            assert np.isfinite(sound.weights).all()
            assert np.isfinite([sound.bias, sound.threshold]).all()


@pytest.mark.parametrize("count", [0, 1, 11])
def test_too_few_and_too_many_examples_are_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match="3 to 5"):
        learn("bell", "Bell", [example(seed) for seed in range(count)], COMMON, NO_HOUSE)


def test_evidence_is_the_best_of_two_neighbours() -> None:
    assert evidence(np.array([0.0, 1.0, 0.8, -1.0])) == pytest.approx(0.9)
    assert evidence(np.array([0.4])) == pytest.approx(0.4)
