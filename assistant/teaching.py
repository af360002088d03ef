"""From a few examples of a sound to a head that tells it: ridge regression on the tagger's embedding.

The head is taught to give 1 for the examples and -1 for common sounds and for what this house sounds like. How well
it will do is asked at once: of each example by what the others teach, and of the other sounds by halves that were not
taught. How the numbers were found, and what else was tried: docs/adr/0014-teaching.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ConfigurationError
from assistant.taught_sounds import SIZE, Embeddings, Example, TaughtSound, Verdict, features

FEWEST, MOST = 2, 10  # examples
RIDGE = 0.02  # times the trace of the covariance
POSITIVE = 0.3  # weight of the examples; the rest is shared by what they are told from
HIGHEST_SHARE = 0.98  # of other sounds that the threshold is to lie above
BETWEEN = 0.42  # of the way from there to the median example
LOWEST = 0.2  # threshold
AT_MOST = 0.7  # times the median example
SAME = 0.8  # times the median example: another sound of the house so like it is taken for it
MANY = 3.0  # false alarms a day from which it may be confused
COMMON_SHARE = 0.02  # the same for common sounds
LEAST_DAYS = 0.25  # heard of a house before anything is said of its day

Matrix = NDArray[np.float32]


class Sounds:
    """Activities that are not to be taken for what is taught, each with a word for it."""

    def __init__(self, activities: Sequence[tuple[str, Embeddings]], *, days: float | None = None) -> None:
        """`days`: how long a house was listened to for these; None: they tell nothing of a day."""
        self.words = tuple(word for word, _ in activities)
        self.days = days if days is not None and days >= LEAST_DAYS else None
        self._windows = [features(embeddings) for _, embeddings in activities]
        kinds = {word: i for i, word in enumerate(sorted(set(self.words)))}
        # Common sounds are halved by kind, so that each is judged by what taught nothing like it.
        self._half = np.array([(i if days is not None else kinds[w]) % 2 for i, w in enumerate(self.words)], np.intp)

    def __len__(self) -> int:
        return len(self._windows)

    @cached_property
    def moments(self) -> tuple[_Moments, _Moments]:
        """Of either half."""
        first, second = (
            _moments_of(np.concatenate([w for w, h in zip(self._windows, self._half, strict=True) if h == half]))
            if (self._half == half).any()
            else _NOTHING
            for half in (0, 1)
        )
        return first, second

    def evidence(self, heads: Sequence[tuple[Matrix, float]]) -> NDArray[np.float64]:
        """Shape (activities,): each by the head that its half has not taught."""
        return np.array(
            [
                evidence(w @ heads[1 - half][0] + heads[1 - half][1])
                for w, half in zip(self._windows, self._half, strict=True)
            ]
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """Of windows of equal weight, 1 in all."""

    mean: Matrix  # shape (SIZE,)
    square: Matrix  # shape (SIZE, SIZE)
    count: int


_NOTHING = _Moments(np.zeros(SIZE, np.float32), np.zeros((SIZE, SIZE), np.float32), 0)


def _moments_of(rows: Matrix) -> _Moments:
    return _Moments(rows.mean(axis=0), rows.T @ rows / np.float32(len(rows)), len(rows))


def _joined(parts: Sequence[tuple[float, _Moments]]) -> _Moments:
    """Of parts with these weights; the empty ones leave theirs to the others."""
    there = [(weight, part) for weight, part in parts if part.count]
    total = sum(weight for weight, _ in there) or 1.0
    mean = sum((np.float32(w / total) * part.mean for w, part in there), start=np.zeros(SIZE, np.float32))
    square = sum((np.float32(w / total) * part.square for w, part in there), start=np.zeros((SIZE, SIZE), np.float32))
    return _Moments(mean, square, sum(part.count for _, part in there))


def evidence(values: NDArray[np.floating]) -> float:
    """The best mean of two neighbouring windows, as the tracker asks for it."""
    return float(values.mean() if len(values) < 2 else ((values[1:] + values[:-1]) / 2.0).max())


def _head(positives: Sequence[_Moments], negatives: _Moments) -> tuple[Matrix, float]:
    """Weights and bias by weighted least squares to 1 and -1, every example as heavy as the next."""
    positive = _joined([(1.0, part) for part in positives])
    weights = (POSITIVE, 1.0 - POSITIVE) if negatives.count else (1.0, 0.0)
    both = _joined(list(zip(weights, (positive, negatives), strict=True)))
    mean_target = weights[0] - weights[1]
    covariance = both.square - np.outer(both.mean, both.mean)
    cross = weights[0] * (1.0 - mean_target) * (positive.mean - both.mean)
    cross = cross + weights[1] * (-1.0 - mean_target) * (negatives.mean - both.mean)
    covariance[np.diag_indices(SIZE)] += np.float32(RIDGE * max(np.trace(covariance), 1e-6))
    solved = np.linalg.solve(covariance, cross.astype(np.float32))
    return solved, float(mean_target - both.mean @ solved)


def learn(name: str, title: str, examples: Sequence[Example], common: Sounds, house: Sounds) -> TaughtSound:
    """The sound of these examples, told from all others. Half a second of one core. Raises `ConfigurationError`."""
    if not FEWEST <= len(examples) <= MOST:
        raise ConfigurationError(
            f"{title}: {len(examples)} examples; remedy: {FEWEST} to {MOST}, best are 3 to 5, each recorded by itself"
        )
    positives = [_moments_of(features(np.concatenate(example.activities))) for example in examples]
    halves = [_joined([(1.0, common.moments[half]), (1.0, house.moments[half])]) for half in (0, 1)]
    every = _joined([(1.0, _joined([(m.count, m) for m in part.moments])) for part in (common, house)])
    weights, bias = _head(positives, every)
    alone = np.array(
        [
            max(evidence(features(activity) @ head[0] + head[1]) for activity in examples[i].activities)
            for i, head in enumerate(
                _head([one for j, one in enumerate(positives) if j != i], every) for i in range(len(examples))
            )
        ]
    )
    heads = [_head(positives, half) for half in halves]
    typical = float(np.median(alone))
    strange, at_home = common.evidence(heads), house.evidence(heads)
    like = max(LOWEST, SAME * typical)  # what is so like the examples is taken for the sound itself, heard before
    same = at_home >= like
    others = np.concatenate((strange[strange < like], at_home[~same]))
    below = float(np.quantile(others, HIGHEST_SHARE)) if len(others) else -1.0
    between = below + BETWEEN * max(0.0, typical - below)
    threshold = max(LOWEST, min(between, AT_MOST * typical))
    sound = TaughtSound(
        name,
        title,
        weights.astype(np.float32),
        bias,
        threshold,
        frozenset().union(*(example.labels for example in examples)),
        tuple(examples),
        Verdict("clear", tuple(round(float(value), 4) for value in alone)),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return replace(
        sound,
        verdict=_verdict(sound.verdict, threshold, like, common=common, strange=strange, house=house, at_home=at_home),
    )


def _verdict(
    verdict: Verdict,
    threshold: float,
    like: float,
    *,
    common: Sounds,
    strange: NDArray[np.float64],
    house: Sounds,
    at_home: NDArray[np.float64],
) -> Verdict:
    """In a word, and what it may be confused with."""
    same = at_home >= like
    wrong = (at_home >= threshold) & ~same
    taken = Counter(word for word, hit in zip(house.words, wrong, strict=True) if hit)
    taken += Counter(word for word, value in zip(common.words, strange, strict=True) if value >= threshold)
    false_per_day = None if house.days is None else float(wrong.sum()) / house.days
    heard_per_day = None if house.days is None else float(same.sum()) / house.days
    missed = sum(value < threshold for value in verdict.recognised)
    kind = verdict.kind
    if 2 * missed >= len(verdict.recognised):
        kind = "different"
    elif (false_per_day or 0.0) > MANY or ((threshold <= strange) & (strange < like)).sum() > COMMON_SHARE * len(
        strange
    ):
        kind = "confusable"
    return replace(
        verdict,
        kind=kind,
        confused_with=tuple(word for word, _ in taken.most_common(2)),
        false_per_day=false_per_day if false_per_day is None else round(false_per_day, 2),
        heard_per_day=heard_per_day if heard_per_day is None else round(heard_per_day, 2),
    )
