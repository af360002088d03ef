from __future__ import annotations

import numpy as np

from assistant.small_tasks import HEARD, HOP, MOST, WINDOW, Heard, sounds_in

LABELS = ("Speech", "Dog", "Rain", *(f"label {n}" for n in range(10)))


def scores(**rows: list[float]) -> np.ndarray:
    table = np.zeros((len(next(iter(rows.values()))), len(LABELS)), np.float32)
    for name, values in rows.items():
        table[:, LABELS.index(name)] = values
    return table


def test_sounds_have_their_best_score_and_their_times() -> None:
    heard = sounds_in(scores(Dog=[0.0, 0.9, 0.8, 0.0, 0.0, 0.3], Rain=[0.5] * 6, Speech=[0.1] * 6), LABELS, 3.4)
    assert [(one.label, one.score) for one in heard] == [("Dog", 0.9), ("Rain", 0.5)]
    middle = (WINDOW - HOP) / 2 / 16_000
    assert heard[0].spans[0] == (round(0.5 + middle, 2), round(1.0 + middle + 0.5, 2))
    assert heard[0].spans[1][1] == 3.4
    assert heard[1].spans == ((0.0, 3.4),)


def test_few_are_told_and_none_that_is_hardly_heard() -> None:
    table = np.full((2, len(LABELS)), HEARD - 0.01, np.float32)
    assert sounds_in(table, LABELS, 1.5) == []
    table[:] = 0.9
    assert len(sounds_in(table, LABELS, 1.5)) == MOST
    assert sounds_in(scores(Dog=[1.0]), LABELS, 0.3) == [Heard("Dog", 1.0, ((0.0, 0.3),))]
