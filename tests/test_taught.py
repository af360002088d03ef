"""Taught sounds begin once two windows agree and end when nothing more is heard of them."""

import numpy as np
import pytest
from taught import tags, taught, windows

from assistant.events import SAMPLE_RATE, State
from assistant.taught import COOL_DOWN, HOLD, TaughtTracker

HOP = 3_520


@pytest.fixture(scope="module")
def door() -> object:
    return taught(labels=frozenset({"Music"}))


@pytest.fixture(scope="module")
def dryer() -> object:
    return taught("dryer", "Dryer", of=2)


def feed(tracker: TaughtTracker, of: int, start: int, count: int = 6, onset: int | None = None) -> list:
    found = []
    for i, one in enumerate(windows(5, count, of=of)):
        found += tracker.feed(tags(start + i * HOP, start - 7_000 if onset is None else onset), one)
        found += tracker.advance(start + i * HOP)
    return found


def test_one_sound_is_one_event_with_its_title(door: object, dryer: object) -> None:
    tracker = TaughtTracker([door, dryer])  # type: ignore[list-item]
    (started,) = feed(tracker, 1, 50_000)
    assert (started.state, started.event_type, started.label, started.model) == (
        State.STARTED,
        "front_door",
        "玄関のチャイム",
        "taught",
    )
    assert started.heard_at == 50_000 + HOP
    assert started.start == 50_000 - 7_000
    assert 0.5 < started.score <= 1.0
    assert started.also == {"Music"}
    last = 50_000 + 5 * HOP
    assert not tracker.advance(last + HOLD - 1)
    (ended,) = tracker.advance(last + HOLD)
    assert (ended.state, ended.key, ended.end) == (State.ENDED, started.key, last)
    assert not feed(tracker, 1, last + COOL_DOWN - 10_000, 3)
    assert [one.event_type for one in feed(tracker, 1, last + COOL_DOWN + SAMPLE_RATE, 3)] == ["front_door"]


def test_other_sounds_and_the_background_are_not_taken_for_it(door: object) -> None:
    tracker = TaughtTracker([door])  # type: ignore[list-item]
    assert not feed(tracker, 2, 50_000)
    assert not feed(tracker, 30, 200_000)
    assert not [d for one in windows(1, of=1) for d in tracker.feed(tags(400_000, 400_000), one)]


def test_a_single_window_is_not_enough_but_expected(door: object) -> None:
    tracker = TaughtTracker([door])  # type: ignore[list-item]
    assert not feed(tracker, 1, 50_000, 1)
    assert tracker.expecting
    assert not feed(tracker, 2, 50_000 + HOP, 2, onset=43_000)
    assert not tracker.expecting


def test_two_at_once_are_the_plainer_one(door: object, dryer: object) -> None:
    tracker = TaughtTracker([door, dryer])  # type: ignore[list-item]
    mostly = (0.7 * windows(5, of=2) + 0.3 * windows(5, of=1)).astype(np.uint8)
    found = [d for i, one in enumerate(mostly) for d in tracker.feed(tags(50_000 + i * HOP, 43_000), one)]
    assert [one.event_type for one in found] == ["dryer"]


def test_a_lower_sensitivity_asks_for_more(door: object) -> None:
    tracker = TaughtTracker([door])  # type: ignore[list-item]
    tracker.factor = 100.0
    assert not feed(tracker, 2, 50_000)
    tracker.factor = 0.01
    faint = (0.35 * windows(5, of=1) + 0.65 * windows(5, of=2)).astype(np.uint8)
    found = [d for i, one in enumerate(faint) for d in tracker.feed(tags(90_000 + i * HOP, 83_000), one)]
    tracker = TaughtTracker([door])  # type: ignore[list-item]
    usual = [d for i, one in enumerate(faint) for d in tracker.feed(tags(90_000 + i * HOP, 83_000), one)]
    assert len(found) >= len(usual)


def test_what_is_taught_while_it_runs_is_heard_and_what_is_forgotten_ends(door: object, dryer: object) -> None:
    tracker = TaughtTracker()
    assert not feed(tracker, 1, 50_000)
    tracker.learn([door])  # type: ignore[list-item]
    (started,) = feed(tracker, 1, 100_000)
    tracker.learn([])
    (ended,) = tracker.end(200_000)
    assert ended.key == started.key
