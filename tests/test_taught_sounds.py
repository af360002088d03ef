"""Names out of titles in any script, and what cannot be a name."""

import numpy as np
import pytest

from assistant.errors import ConfigurationError
from assistant.taught_sounds import NAME, SIZE, check_name, features, score_of, slug_of


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Front door", "front_door"),
        ("Türklingel", "turklingel"),
        ("チャイム", "chaimu"),
        ("キッチン　タイマー", "kichin_taima"),
        ("きゅうきゅうしゃ", "kyuukyuusha"),
        ("초인종", "coinjong"),
        ("  Wash-machine №2! ", "wash_machine_no2"),
    ],
)
def test_a_title_becomes_a_name(title: str, name: str) -> None:
    assert slug_of(title) == name


@pytest.mark.parametrize("title", ["台所のチャイム", "洗濯機", "Стиральная машина", "🔔", "\ud800", "x" * 500, "ñ洗"])
def test_what_cannot_be_spelled_still_has_a_name_of_its_own(title: str) -> None:
    name = slug_of(title)
    assert NAME.fullmatch(name)
    assert slug_of(title) == name
    assert slug_of(title + "二") != name or len(title) > 100


@pytest.mark.parametrize("name", ["", "Bell", "a-b", "ä", "a" * 41, "../x", "bell\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="remedy: a-z, 0-9 and _"):
        check_name(name, frozenset())


def test_a_sound_that_is_known_already_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="my_doorbell"):
        check_name("doorbell", frozenset({"doorbell"}))


def test_features_have_length_one_and_silence_has_none() -> None:
    embeddings = np.random.default_rng(1).integers(0, 200, (3, SIZE)).astype(np.uint8)
    np.testing.assert_allclose(np.linalg.norm(features(embeddings), axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(features(embeddings[0]), features(embeddings)[0])
    assert not features(np.zeros(SIZE, np.uint8)).any()


def test_scores_are_between_0_and_1() -> None:
    assert [score_of(value) for value in (-3.0, -1.0, 0.0, 1.0, 3.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
