"""One physical sound is told once, whatever number of detectors hear it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assistant.events import SAMPLE_RATE, Detection, State
from assistant.merging import Merger

YAMNET = Detection(1, State.STARTED, "smoke_alarm", "Smoke detector, smoke alarm", 0.5, 100, None, 200, -20.0, "yamnet")
T3 = replace(YAMNET, key=-1, model="t3", score=0.9, start=50, heard_at=300)
PHONE = replace(YAMNET, key=7, event_type="phone", label="Telephone", start=40)


def ended(detection: Detection, at: int) -> Detection:
    return replace(detection, state=State.ENDED, end=at, heard_at=at)


def test_a_second_model_joins_the_event_that_is_out() -> None:
    merger = Merger()
    assert merger.feed(YAMNET) == [YAMNET]
    assert merger.feed(T3) == []
    assert merger.feed(ended(YAMNET, 400)) == []
    [last] = merger.feed(ended(T3, 500))
    assert (last.key, last.start, last.end, last.model, last.score) == (1, 100, 500, "yamnet+t3", 0.9)


def test_the_first_model_may_come_back_while_the_second_still_hears_it() -> None:
    merger = Merger()
    merger.feed(YAMNET)
    merger.feed(T3)
    merger.feed(ended(YAMNET, 400))
    again = replace(YAMNET, key=2)
    assert merger.feed(again) == []
    assert merger.feed(ended(T3, 500)) == []
    [last] = merger.feed(ended(again, 600))
    assert (last.key, last.model) == (1, "yamnet+t3")


def test_two_sounds_of_one_model_stay_two() -> None:
    merger = Merger()
    other = replace(YAMNET, key=2)
    assert merger.feed(YAMNET) == [YAMNET]
    assert merger.feed(other) == [other]


def test_other_types_are_not_joined() -> None:
    merger = Merger()
    merger.feed(YAMNET)
    co = replace(T3, event_type="co_alarm", model="t4")
    assert merger.feed(co) == [co]


def test_after_the_end_a_new_sound_is_a_new_event() -> None:
    merger = Merger()
    merger.feed(YAMNET)
    merger.feed(ended(YAMNET, 400))
    assert merger.feed(T3) == [T3]


def test_the_telephone_that_was_the_alarm_ends_when_the_alarm_is_known() -> None:
    merger = Merger()
    merger.feed(PHONE)
    alarm, phone = merger.feed(T3)
    assert alarm == T3
    assert (phone.key, phone.state, phone.end, phone.heard_at) == (PHONE.key, State.ENDED, 300, 300)
    assert merger.feed(ended(PHONE, 600)) == []  # it has ended already


def test_a_telephone_that_rang_before_the_alarm_goes_on() -> None:
    merger = Merger()
    merger.feed(PHONE)
    alarm = replace(T3, start=PHONE.start + 2 * SAMPLE_RATE, heard_at=9 * SAMPLE_RATE)
    assert merger.feed(alarm) == [alarm]
    assert merger.feed(ended(PHONE, 600)) == [ended(PHONE, 600)]


@pytest.mark.parametrize("event_type", ["phone", "appliance_beep", "alarm_clock"])
def test_beeps_of_an_alarm_that_sounds_are_not_told(event_type: str) -> None:
    merger = Merger()
    merger.feed(T3)
    beep = replace(PHONE, event_type=event_type, start=400)
    assert merger.feed(beep) == []
    assert merger.feed(ended(T3, 900)) == [ended(T3, 900)]
    assert merger.feed(ended(beep, 950)) == []
    again = replace(beep, key=8, start=1000)
    assert merger.feed(again) == [again]  # the alarm is over


@pytest.mark.parametrize("event_type", ["doorbell", "shout", "smoke_alarm", "baby_cry"])
def test_what_else_happens_during_an_alarm_is_told(event_type: str) -> None:
    merger = Merger()
    merger.feed(replace(T3, event_type="co_alarm", model="t4"))
    other = replace(PHONE, event_type=event_type, start=400)
    assert merger.feed(other) == [other]


def test_what_only_a_language_model_heard_ends_when_another_hears_it_too() -> None:
    """Else a rule that waits for more than its word would never see the sound."""
    merger = Merger()
    doubtful = replace(YAMNET, key=1_000_002, model="qwen-audio-chat", witnessed=False)
    assert merger.feed(doubtful) == [doubtful]
    [withdrawn, certain] = merger.feed(T3)
    assert (withdrawn.key, withdrawn.state, withdrawn.witnessed) == (doubtful.key, State.ENDED, False)
    assert certain == T3
    assert merger.feed(ended(doubtful, 400)) == []
    [last] = merger.feed(ended(T3, 500))
    assert (last.model, last.witnessed) == ("t3", True)


def test_a_language_model_that_comes_later_joins_and_is_believed() -> None:
    merger = Merger()
    doubtful = replace(YAMNET, key=1_000_002, model="qwen-audio-chat", witnessed=False)
    merger.feed(YAMNET)
    assert merger.feed(doubtful) == []
    merger.feed(ended(YAMNET, 400))
    [last] = merger.feed(ended(doubtful, 500))
    assert (last.key, last.model, last.witnessed) == (YAMNET.key, "yamnet+qwen-audio-chat", True)


TAUGHT = Detection(
    1 << 40,
    State.STARTED,
    "front_door",
    "Front door",
    0.8,
    16_000,
    None,
    24_000,
    -20.0,
    "taught",
    also=frozenset({"Music", "Ding"}),
)
MUSIC = replace(YAMNET, key=5, event_type="music", label="Music", start=17_000, heard_at=30_000)


def test_a_taught_sound_stands_for_what_the_tagger_calls_it() -> None:
    merger = Merger({"doorbell"})
    assert merger.feed(TAUGHT) == [TAUGHT]
    assert merger.feed(MUSIC) == []  # began together
    assert merger.feed(ended(MUSIC, 60_000)) == []
    assert merger.feed(replace(MUSIC, key=6, start=90_000)) == []  # later, but known by that name
    dog = replace(MUSIC, key=7, event_type="dog_bark", label="Bark", start=90_000)
    assert merger.feed(dog) == [dog]  # something else
    [last] = merger.feed(ended(TAUGHT, 100_000))
    assert (last.event_type, last.model, last.end) == ("front_door", "taught", 100_000)
    assert merger.feed(replace(MUSIC, key=8, start=110_000)) == []  # its last ringing
    later = replace(MUSIC, key=9, start=200_000)
    assert merger.feed(later) == [later]


def test_what_the_tagger_said_first_ends_and_what_sounded_before_goes_on() -> None:
    merger = Merger()
    radio = replace(MUSIC, key=3, start=-400_000)
    assert merger.feed(radio) == [radio]
    clap = replace(MUSIC, key=4, event_type="clapping", label="Clapping", start=15_000)
    assert merger.feed(clap) == [clap]
    started, withdrawn = merger.feed(TAUGHT)
    assert started == TAUGHT
    assert (withdrawn.key, withdrawn.state, withdrawn.end) == (4, State.ENDED, TAUGHT.heard_at)
    assert merger.feed(ended(clap, 50_000)) == []
    assert [one.key for one in merger.feed(ended(radio, 60_000))] == [3]


def test_alerts_and_cadences_are_told_whatever_was_taught() -> None:
    merger = Merger({"smoke_alarm", "co_alarm", "doorbell"})
    smoke = replace(YAMNET, start=16_000)
    ding = replace(YAMNET, key=8, event_type="doorbell", label="Ding", start=16_500)
    t4 = replace(T3, key=-4, event_type="co_alarm", model="t4", start=16_000)
    merger.feed(TAUGHT)
    assert merger.feed(smoke) == [smoke]
    assert merger.feed(ding) == [ding]
    assert merger.feed(t4) == [t4]
    merger = Merger({"smoke_alarm", "co_alarm", "doorbell"})
    for one in (smoke, ding, t4):
        merger.feed(one)
    assert merger.feed(TAUGHT) == [TAUGHT]
