"""One physical sound is told once, whatever number of detectors hear it."""

from __future__ import annotations

from dataclasses import replace

from assistant.events import Detection, State
from assistant.merging import Merger

YAMNET = Detection(1, State.STARTED, "smoke_alarm", "Smoke detector, smoke alarm", 0.5, 100, None, 200, -20.0, "yamnet")
T3 = replace(YAMNET, key=-1, model="t3", score=0.9, start=50, heard_at=300)


def ended(detection: Detection, at: int) -> Detection:
    return replace(detection, state=State.ENDED, end=at, heard_at=at)


def test_a_second_model_joins_the_event_that_is_out() -> None:
    merger = Merger()
    assert merger.feed(YAMNET) is YAMNET
    assert merger.feed(T3) is None
    assert merger.feed(ended(YAMNET, 400)) is None
    last = merger.feed(ended(T3, 500))
    assert last is not None
    assert (last.key, last.start, last.end, last.model, last.score) == (1, 100, 500, "yamnet+t3", 0.9)


def test_the_first_model_may_come_back_while_the_second_still_hears_it() -> None:
    merger = Merger()
    merger.feed(YAMNET)
    merger.feed(T3)
    merger.feed(ended(YAMNET, 400))
    again = replace(YAMNET, key=2)
    assert merger.feed(again) is None
    assert merger.feed(ended(T3, 500)) is None
    last = merger.feed(ended(again, 600))
    assert last is not None
    assert (last.key, last.model) == (1, "yamnet+t3")


def test_two_sounds_of_one_model_stay_two() -> None:
    merger = Merger()
    other = replace(YAMNET, key=2)
    assert merger.feed(YAMNET) is YAMNET
    assert merger.feed(other) is other


def test_other_types_are_not_joined() -> None:
    merger = Merger()
    merger.feed(YAMNET)
    co = replace(T3, event_type="co_alarm", model="t4")
    assert merger.feed(co) is co


def test_after_the_end_a_new_sound_is_a_new_event() -> None:
    merger = Merger()
    merger.feed(YAMNET)
    merger.feed(ended(YAMNET, 400))
    assert merger.feed(T3) is T3
