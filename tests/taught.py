"""Taught sounds made of random embeddings, for tests that need no model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from assistant.events import Tags, Window
from assistant.taught_sounds import SIZE, Example, TaughtSound
from assistant.teaching import Sounds, learn


def kind(seed: int) -> NDArray[np.float64]:
    """What the windows of one kind of sound have in common."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(SIZE) < 0.06, rng.uniform(20, 160, SIZE), 0.0)


def windows(seed: int, count: int = 6, *, of: int, noise: float = 0.4) -> NDArray[np.uint8]:
    """`count` windows of the kind `of`, each a little different."""
    rng = np.random.default_rng(1_000 + seed)
    varied = kind(of) * rng.uniform(1 - noise, 1 + noise, (count, SIZE)) + 15.0 * (rng.random((count, SIZE)) < 0.03)
    return np.clip(varied, 0, 255).astype(np.uint8)


def example(seed: int, *, of: int = 1, labels: frozenset[str] = frozenset()) -> Example:
    """One example."""
    return Example(f"ring {seed}.wav", (windows(seed, of=of), windows(seed + 50, of=of)), labels)


COMMON = Sounds([(f"kind {of}", windows(seed, of=of)) for of in range(10, 40) for seed in range(4)])
NO_HOUSE = Sounds((), days=0.0)


def taught(
    name: str = "front_door", title: str = "玄関のチャイム", *, of: int = 1, labels: frozenset[str] = frozenset()
) -> TaughtSound:
    """A sound that is clear."""
    return learn(name, title, [example(seed, of=of, labels=labels) for seed in range(4)], COMMON, NO_HOUSE)


def tags(end: int, onset: int = 0, level: float = -30.0) -> Tags:
    """A window that ends at `end`, its scores not used."""
    return Tags(Window(end - 15_600, end, np.zeros(15_600, np.float32), onset, level, -60.0), np.zeros(521, np.float32))
