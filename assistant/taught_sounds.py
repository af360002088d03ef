"""What a taught sound is: its examples, its head, how well it is told, and its name in topics."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ConfigurationError

SIZE = 1024  # numbers of an embedding
LONGEST_NAME = 40
NAME = re.compile(rf"[a-z0-9_]{{1,{LONGEST_NAME}}}", re.ASCII)

Embeddings = NDArray[np.uint8]
"""Shape (windows, SIZE): what the tagger made of neighbouring windows, in its own steps from zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """What is kept of one example."""

    title: str  # where it came from, for people
    activities: tuple[Embeddings, ...]  # of the recording and of its copies in made-up rooms
    labels: frozenset[str] = frozenset()  # what the tagger calls it, however softly


@dataclass(frozen=True, slots=True)
class Verdict:
    """How well a taught sound is told from what the house sounds like."""

    kind: Literal["clear", "confusable", "different"]
    recognised: tuple[float, ...]  # score of each example by what the others teach; the threshold is `TaughtSound`'s
    confused_with: tuple[str, ...] = ()  # what it may be taken for, the likeliest first
    false_per_day: float | None = None  # sounds of this house that would be taken for it; None: too little was heard
    heard_per_day: float | None = None  # sounds of this house that are as like it as the examples are


@dataclass(frozen=True, slots=True, eq=False)
class TaughtSound:
    """A sound with a name of its own, and the head that tells it."""

    name: str  # slug: the event type
    title: str  # as people call it
    weights: NDArray[np.float32]  # shape (SIZE,)
    bias: float
    threshold: float  # of the value; 1 is what the examples were taught to give, -1 everything else
    labels: frozenset[str]  # what the tagger calls it: the same sound
    examples: tuple[Example, ...]
    verdict: Verdict
    taught: str = ""  # UTC, ISO 8601


def features(embeddings: Embeddings) -> NDArray[np.float32]:
    """What heads see: square roots, at length 1, so that neither loudness nor one strong number decides."""
    roots = np.sqrt(embeddings, dtype=np.float32)
    length = np.linalg.norm(roots, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = roots / np.maximum(length, np.float32(1e-6))
    return scaled


def score_of(value: float) -> float:
    """A head's value between 0 and 1, as events and people see it."""
    return min(1.0, max(0.0, (value + 1.0) / 2.0))


# --- names ------------------------------------------------------------------------------------------------------------

_KANA = {"si": "shi", "ti": "chi", "tu": "tsu", "hu": "fu", "zi": "ji", "di": "ji", "du": "zu", "wo": "o"}


def slug_of(title: str) -> str:
    """A name for topics out of one in any script: what cannot be spelled is left out, and marked by four letters."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", title).casefold())
    spelled, lost = [], False
    for sign in unicodedata.normalize("NFC", plain):
        bare = unicodedata.normalize("NFKD", sign)[0]
        kind, _, letter = unicodedata.name(sign, "").rpartition(" ")
        if bare.isascii() and bare.isalnum():
            spelled.append(bare)
        elif kind in {"HIRAGANA LETTER", "KATAKANA LETTER", "HIRAGANA LETTER SMALL", "KATAKANA LETTER SMALL"}:
            spelled.append("" if letter == "TU" and kind.endswith("SMALL") else _kana(spelled, letter, kind))
        elif kind == "HANGUL SYLLABLE":
            spelled.append(letter.lower())
        elif sign.isalpha():
            lost = lost or letter != "MARK"  # the one that makes a kana long
        else:
            spelled.append("_")
    name = re.sub(r"_+", "_", "".join(spelled)).strip("_")
    if lost or not name:
        mark = hashlib.sha256(title.encode("utf-8", "surrogatepass")).hexdigest()[:4]
        name = f"{name or 'sound'}_{mark}"
    return name[:LONGEST_NAME].strip("_")


def _kana(before: list[str], letter: str, kind: str) -> str:
    sound = letter.lower()
    if kind.endswith("SMALL") and sound in {"ya", "yu", "yo"} and before and before[-1].endswith("i"):
        stem = before.pop()[:-1]  # ki + small ya: kya; chi + small ya: cha
        return stem + (sound[1:] if stem in {"sh", "ch", "j"} else sound)
    return _KANA.get(sound, sound)


def check_name(name: str, shipped: frozenset[str]) -> None:
    """Raise `ConfigurationError` for what cannot be the name of a taught sound. `shipped` are event types."""
    if NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} cannot be the name of a sound; remedy: a-z, 0-9 and _, at most {LONGEST_NAME} of them; other "
            "writing goes to the title"
        )
    if name in shipped:
        raise ConfigurationError(f"{name} is a sound that Kikimimi knows by itself; remedy: another name, as my_{name}")
