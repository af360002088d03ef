"""Audio longer than a model hears at once: windows that overlap a little, and their answers joined."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

from assistant.events import SAMPLE_RATE, Samples, Word, seconds
from assistant.models.audio_llm import LONGEST
from assistant.models.replies import together

OVERLAP: Final = 2 * SAMPLE_RATE  # samples: a word or two at a usual pace, so that none is cut in both windows
LIMIT: Final = round(LONGEST * SAMPLE_RATE)
HEARD_TWICE: Final = 24  # words (or signs of Chinese and Japanese) compared at most on either side of a seam
CUT: Final = 2  # words at a seam that may differ: those that a window cut in half

_TOKEN = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+")


def windows(samples: Samples) -> list[tuple[int, Samples]]:
    """Start (samples) and audio of equally long windows of at most 30 s, each sharing 2 s with the next.

    Audio of up to 30 s is one window, itself.
    """
    if len(samples) <= LIMIT:
        return [(0, samples)]
    count = math.ceil((len(samples) - OVERLAP) / (LIMIT - OVERLAP))
    hop = math.ceil((len(samples) - OVERLAP) / count)
    return [(i * hop, samples[i * hop : i * hop + hop + OVERLAP]) for i in range(count)]


def joined(texts: Sequence[str]) -> str:
    """Transcriptions of successive windows as one text, without what both windows of a seam have heard.

    Where the same two words (or three signs) are not found on both sides, nothing is taken away: a word said twice
    harms less than one lost.
    """
    whole = ""
    for text in texts:
        whole = _seamed(whole, text.strip())
    return whole


def _seamed(left: str, right: str) -> str:
    left_tokens, right_tokens = list(_TOKEN.finditer(left)), list(_TOKEN.finditer(right))
    tail, head = left_tokens[-HEARD_TWICE:], right_tokens[:HEARD_TWICE]
    a, b = [_folded(token[0]) for token in tail], [_folded(token[0]) for token in head]
    match = SequenceMatcher(None, a, b, autojunk=False).find_longest_match()
    at_seam = len(a) - match.a - match.size <= CUT and match.b <= CUT
    exact = match.a + match.size == len(a) and match.b == 0
    signs = sum(len(token) for token in a[match.a : match.a + match.size])
    if not (match.size and (exact or (at_seam and match.size >= 2 and signs >= 3))):
        return together([left, right])
    return left[: tail[match.a + match.size - 1].end()] + right[head[match.b + match.size - 1].end() :]


def _folded(token: str) -> str:
    """Lower case without punctuation; a sign that is nothing else stays."""
    return re.sub(r"[\W_]+", "", token.lower()) or token


def joined_words(windowed: Sequence[tuple[int, int, Sequence[Word]]]) -> tuple[Word, ...]:
    """Words of successive windows in seconds of the whole; each window is (start, end in samples, its words).

    Of a seam the left window says the words whose middle is in its first half, the right window those in the second.
    """
    words: list[Word] = []
    for n, (start, end, heard) in enumerate(windowed):
        shift = seconds(start)
        low = (start + windowed[n - 1][1]) / 2 / SAMPLE_RATE if n else -math.inf
        high = (windowed[n + 1][0] + end) / 2 / SAMPLE_RATE if n + 1 < len(windowed) else math.inf
        for word in heard:
            moved = Word(word.word, round(word.start + shift, 2), round(word.end + shift, 2))
            if low <= (moved.start + moved.end) / 2 < high:
                words.append(moved)
    return tuple(sorted(words, key=lambda word: (word.start, word.end)))
