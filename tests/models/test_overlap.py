"""Windows of long audio, and texts and words joined at their seams."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.events import SAMPLE_RATE, Word
from assistant.models.overlap import LIMIT, OVERLAP, joined, joined_words, windows


@given(st.integers(0, 40 * LIMIT // 30))
def test_windows_cover_everything_and_share_two_seconds(length: int) -> None:
    samples = np.broadcast_to(np.float32(0), (length,))
    cut = windows(samples)
    assert cut[0][0] == 0
    assert cut[-1][0] + len(cut[-1][1]) == length
    assert all(len(audio) <= LIMIT for _, audio in cut)
    for (start, audio), (following, _) in itertools.pairwise(cut):
        assert start + len(audio) - following == OVERLAP


def test_short_audio_is_itself_and_long_windows_are_about_equal() -> None:
    samples = np.zeros(LIMIT, np.float32)
    assert windows(samples)[0][1] is samples
    lengths = [len(audio) for _, audio in windows(np.zeros(61 * SAMPLE_RATE, np.float32))]
    assert len(lengths) == 3
    assert max(lengths) - min(lengths) <= 3
    hour = windows(np.zeros(3600 * SAMPLE_RATE, np.float32))
    assert len(hour) == 129


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["one two three four", "three four five"], "one two three four five"),
        (["One two, three four.", "Three four five."], "One two, three four. five."),
        (["the kettle is boi", "is boiling over"], "the kettle is boi is boiling over"),  # one common word is too few
        (["now the kettle is boi", "kettle is boiling over"], "now the kettle is boiling over"),
        (["and the kettle is on", "ettle is on the stove"], "and the kettle is on the stove"),
        (["ends with word", "word begins"], "ends with word begins"),
        (["nothing in common", "something else here"], "nothing in common something else here"),
        (["今日はいい天気です", "天気ですね"], "今日はいい天気ですね"),
        (["你好，世界", "再见"], "你好，世界再见"),
        (["", "a", "", "b"], "a b"),
        ([], ""),
    ],
)
def test_what_both_windows_heard_is_said_once(texts: list[str], whole: str) -> None:
    assert joined(texts) == whole


@given(st.lists(st.text(alphabet="abc 好", max_size=30), max_size=4))
def test_joining_takes_only_from_seams(texts: list[str]) -> None:
    assert len(joined(texts).split()) <= sum(len(text.split()) for text in texts)
    if len(texts) == 1:
        assert joined(texts) == texts[0].strip()


def test_words_are_shifted_and_each_seam_has_one_voice() -> None:
    left = [Word("a", 1.0, 2.0), Word("b", 28.2, 28.6), Word("c", 29.2, 29.9)]
    right = [Word("b", 0.21, 0.61), Word("c", 1.21, 1.92), Word("d", 5.0, 6.0)]
    assert joined_words([(0, 30 * SAMPLE_RATE, left), (28 * SAMPLE_RATE, 58 * SAMPLE_RATE, right)]) == (
        Word("a", 1.0, 2.0),
        Word("b", 28.2, 28.6),
        Word("c", 29.21, 29.92),
        Word("d", 33.0, 34.0),
    )
