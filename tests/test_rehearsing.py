"""A rehearsal gives what the rules gave when the events were new."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rules import NOON, rule

from assistant import rehearsing
from assistant.errors import AssistantError
from assistant.events import Event, Intent, State, Word, iso
from assistant.history import History
from assistant.history_database import HistorySettings
from assistant.history_reading import Wanted, read
from assistant.rehearsing import Deed, event_of, rehearse
from assistant.rules import Rule, Rules

DAY = 86_400.0


def heard(
    event_type: str, at: float, lasts: float | None = 2.0, *, room: str = "kitchen", key: str = "", **more: Any
) -> dict[str, Any]:
    """A sound as the history has it: `at` seconds after noon."""
    ended = lasts is not None
    event = Event(
        key or f"{event_type}{at}", room, "mic", "sound", State.ENDED if ended else State.STARTED, event_type, "Bark",
        0.9, start=iso(NOON + at), end=iso(NOON + at + lasts) if lasts is not None else None, offset=at, duration=lasts,
        heard_at=at + 0.5, model="yamnet",
    )  # fmt: skip
    return replace(event, **more).to_json()


def said(text: str | None, at: float) -> dict[str, Any]:
    event = Event(
        "s", "kitchen", "mic", "speech", State.HEARD, "speech", "Speech", 0.9, text, "en", start=iso(NOON + at)
    )
    return event.to_json()


def tried(rules: list[Rule], history: list[dict[str, Any]], **more: Any) -> rehearsing.Rehearsal:
    return rehearse(rules, history, NOON - 60, NOON + DAY, timezone=UTC, **more)


def test_what_would_have_been_published_and_when() -> None:
    bark = rule(
        {"sound": "dog_bark"}, do={"publish": {"topic": "house/{{ room }}", "payload": "{{ label }} {{ time }}"}}
    )
    result = tried([bark], [heard("dog_bark", 0), heard("cat", 10), heard("dog_bark", 3600, room="garden")])
    assert result.fired == {"rule 1": 2}
    first, second = result.firings
    assert first.time == pytest.approx(NOON + 0.5)
    assert (first.room, first.event_type, first.event_id) == ("kitchen", "dog_bark", "dog_bark0")
    assert first.deeds == (Deed("publish", "Bark 12:00", "house/kitchen"),)
    assert second.deeds == (Deed("publish", "Bark 13:00", "house/garden"),)
    assert result.events == 3


def test_cooldown_counts_lasting_and_absence_follow_the_simulated_clock() -> None:
    history = [heard("dog_bark", minute * 60.0) for minute in range(10)]
    assert tried([rule({"sound": "dog_bark"}, cooldown="150 s")], history).fired["rule 1"] == 4
    assert tried([rule({"sound": "dog_bark", "times": 5, "within": "5 min"})], history).fired["rule 1"] == 2
    long = [heard("water", 0, 400.0), heard("water", 1_000, 200.0)]
    result = tried([rule({"sound": "water", "lasting": "5 min"}, do={"log": "{{ lasted }}"})], long)
    assert result.fired == {"rule 1": 1}
    assert result.firings[0].time == pytest.approx(NOON + 300)
    assert result.firings[0].event_id == "water0"
    absent = tried([rule({"sound": "dog_bark", "absent": "1 h"})], [heard("dog_bark", 0), heard("dog_bark", 3 * 3600)])
    assert [round(one.time - NOON) for one in absent.firings] == [3602, 3 * 3600 + 3602]
    assert absent.firings[0].event_id is None
    night = rule({"sound": "dog_bark", "between": "22:00-07:00"})
    assert tried([night], [heard("dog_bark", 0), heard("dog_bark", 11 * 3600.0)]).fired == {"rule 1": 1}


def test_a_sound_is_told_to_have_ended_after_its_hold() -> None:
    lasting = rule({"sound": "water", "lasting": "60 s"})
    assert tried([lasting], [heard("water", 0, 59.0)], hold=lambda _: 0.0).fired == {}
    assert tried([lasting], [heard("water", 0, 59.0)], hold=lambda _: 1.5).fired == {"rule 1": 1}
    assert tried([lasting], [heard("water", 0, None)]).fired == {}  # nobody knows how long


def test_nothing_is_done_and_questions_have_no_answer() -> None:
    asks = rule(
        {"sound": "dog_bark"},
        do=[
            {"log": "first"},
            {"ask": {"prompt": "how?", "as": "mood"}},
            {"keep_clip": True},
            {"publish": {"topic": "a", "payload": "{{ answers.mood or 'unknown' }} {{ clip }}"}},
            {"webhook": {"url": "https://hooks.example.org/s3cret"}},
            {"say": {"text": "woof", "room": "hall"}},
            {"describe": {}},
        ],
    )
    (firing,) = tried([asks], [heard("dog_bark", 0, clip="a.flac")]).firings
    assert [one.kind for one in firing.deeds] == ["log", "ask", "keep_clip", "publish", "webhook", "say", "describe"]
    assert firing.deeds[3].what == "unknown a.flac"
    assert firing.deeds[4] == Deed("webhook", "POST", "hooks.example.org")
    assert "s3cret" not in repr(firing)
    assert firing.deeds[5] == Deed("say", "woof", "hall")


def test_words_that_were_not_kept_are_counted_and_words_stay_private() -> None:
    listens = rule({"speech": "good night"}, do={"log": "[{{ text }}]"})
    result = tried([listens], [said("Good night!", 0), said(None, 5)])
    assert (result.fired["rule 1"], result.wordless) == (1, 1)
    assert result.firings[0].deeds[0].what == "[]"
    assert tried([listens], [said("Good night!", 0)], transcripts=True).firings[0].deeds[0].what == "[Good night!]"


def test_what_only_a_language_model_heard_is_doubted() -> None:
    history = [
        heard("dog_bark", at, model=model) for at, model in enumerate(("qwen-audio-chat", "qwen-audio-chat+yamnet"))
    ]
    assert tried([rule({"sound": "any"})], history, understood=True).fired == {"rule 1": 1}
    assert tried([rule({"sound": "any"}, unconfirmed=True)], history, understood=True).fired == {"rule 1": 2}


def test_rubbish_is_left_out_and_much_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rubbish: list[Any] = [{}, {"state": "x"}, {**heard("cat", 0), "start": "soon"}, {**heard("cat", 0), "words": 3}]
    assert tried([rule({"sound": "any"})], rubbish).events == 0
    many = [heard("cat", second * 0.01) for second in range(500)]
    result = tried([rule({"sound": "any"})], many)
    assert (result.fired["rule 1"], len(result.firings)) == (500, rehearsing.SHOWN)
    with pytest.raises(AssistantError, match="fewer days"):
        tried([rule({"sound": "any"})], many, within=-1.0)


def test_an_event_comes_back_out_of_its_json() -> None:
    event = Event(
        "1", "kitchen", "mic", "speech", State.HEARD, "speech", "Speech", 0.9, "on", "en", (Word("on", 0.0, 0.2),),
        Intent("HassTurnOn", {"name": "lamp"}, "hassil", ""), start=iso(NOON),
    )  # fmt: skip
    assert event_of(event.to_json()) == event


async def test_it_reads_a_real_history(tmp_path: Path) -> None:
    history = History(HistorySettings(), tmp_path)
    history.start()
    for number in range(3):
        body = heard("dog_bark", number * 600.0, 90.0, key=f"01ARZ3NDEKTSV4RRFFQ69G5FA{number}")
        ended = event_of(body)
        history.record(replace(ended, state=State.STARTED, end=None, duration=None))
        history.record(ended)
    await history.close()
    bodies = read(HistorySettings(), tmp_path, Wanted(limit=100))
    result = tried([rule({"sound": "dog_bark", "lasting": "1 min"}, cooldown="15 min")], bodies)
    assert [round(one.time - NOON) for one in result.firings] == [60, 1260]


moments = st.lists(
    st.tuples(st.sampled_from(["dog_bark", "cat"]), st.floats(0, 7200), st.floats(0.1, 900)), max_size=25
)
whens = st.sampled_from(
    [
        {"sound": "dog_bark"},
        {"sound": "any", "times": 3, "within": "10 min"},
        {"sound": "dog_bark", "lasting": "5 min"},
        {"sound": "cat", "absent": "20 min"},
        {"sound": "any", "state": "ended", "between": "12:30-13:00"},
    ]
)


@settings(max_examples=60, deadline=None)
@given(moments, whens, st.sampled_from([None, "5 min"]))
def test_it_gives_what_the_rules_gave_live(heard_: list[Any], when: dict[str, Any], cooldown: str | None) -> None:
    """The live daemon: each event when it came, and a tick each second."""
    one = rule(when, **({} if cooldown is None else {"cooldown": cooldown}))
    history = [heard(kind, at, lasts, key=str(n)) for n, (kind, at, lasts) in enumerate(heard_)]
    live = Rules([one], timezone=UTC)
    live.tick(NOON - 60)
    moments = sorted(
        (moment for body in history for moment in rehearsing._moments(body, lambda _: 0.0, False)), key=lambda m: m[0]
    )
    now = NOON - 60
    for at, event in moments:
        while now + 1 < at:
            now += 1
            live.tick(now)
        live.feed(event, at)
        now = max(now, at)
    while now < NOON + 3 * 3600:
        now += 1
        live.tick(now)
    result = rehearse([one], history, NOON - 60, NOON + 3 * 3600, timezone=UTC)
    assert abs(result.fired["rule 1"] - live.fired["rule 1"]) <= (cooldown is not None)


def test_a_month_of_a_busy_house_takes_seconds() -> None:
    history = [heard("dog_bark" if n % 3 else "cat", n * 86.4) for n in range(10_000)]
    rules = [rule({"sound": "dog_bark", "room": "garden"}) for _ in range(10)]
    began = time.process_time()
    rehearse(rules, history, NOON - 60, NOON + 30 * DAY, timezone=UTC)
    assert time.process_time() - began < 15
    assert datetime.fromtimestamp(NOON, UTC).hour == 12
