"""Rules fire when they should, once, in time, and never raise on any event."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from assistant.events import Ask, Event, Intent, KeepClip, Log, Presence, Publish, RoomChanged, State, Word
from assistant.rules import ANSWER_LIMIT, Hours, Rule, Rules, Span, clean, duration, fold, says, topic_problem

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()  # a Monday
HOUR = 3600.0


def rule(when: dict[str, Any], *, do: Any = None, **more: Any) -> Rule:
    return Rule.model_validate({"when": when, "do": do or [{"log": "{{ label }} in {{ room }}"}], **more})


def house(*rules: Rule, **more: Any) -> Rules:
    built = Rules(rules, timezone=UTC, **more)
    built.tick(NOON)
    return built


def sound(
    event_type: str = "dog_bark",
    state: State = State.STARTED,
    *,
    key: str = "a",
    room: str = "kitchen",
    label: str = "Bark",
    score: float | None = 0.9,
    duration: float | None = None,
) -> Event:
    return Event(key, room, "mic", "sound", state, event_type, label, score, duration=duration)


def speech(text: str | None, *, room: str = "kitchen", language: str | None = "en") -> Event:
    words = (Word("good", 0.0, 0.4),)
    return Event("s", room, "mic", "speech", State.HEARD, "speech", "Speech", 0.8, text, language, words)


def logged(actions: list[Any]) -> list[str]:
    assert all(isinstance(action, Log) for action in actions)
    return [action.message for action in actions]


needs_zones = pytest.mark.skipif(not available_timezones(), reason="no time zones here; remedy: apt-get install tzdata")


# --- matching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "event", "fires"),
    [
        ({"sound": "dog_bark"}, sound(), True),
        ({"sound": "dog_bark"}, sound("cat"), False),
        ({"sound": "dog_bark"}, sound(state=State.ENDED), False),
        ({"sound": "dog_bark", "state": "ended"}, sound(state=State.ENDED), True),
        ({"sound": ["cat", "dog_bark"]}, sound(), True),
        ({"sound": "any"}, sound("other"), True),
        ({"sound": "any"}, speech("hello"), False),
        ({"label": "bark"}, sound(), True),
        ({"label": "Meow"}, sound(), False),
        ({"sound": "dog_bark", "label": "Howl"}, sound(), False),
        ({"sound": "dog_bark", "room": ["garden", "kitchen"]}, sound(), True),
        ({"sound": "dog_bark", "room": "garden"}, sound(), False),
        ({"sound": "dog_bark", "score": 0.9}, sound(), True),
        ({"sound": "dog_bark", "score": 0.91}, sound(), False),
        ({"sound": "dog_bark", "score": 0.0}, sound(score=None), False),
        ({"speech": "any"}, speech("hello"), True),
        ({"speech": "any"}, sound(), False),
        ({"speech": "any"}, speech(None), False),
        ({"speech": "good night"}, speech("Good, NIGHT everybody!"), True),
        ({"speech": "good night"}, speech("good knight"), False),
        ({"speech": "night"}, speech("nightly news"), False),
        ({"speech": ["turn on", "switch on"]}, speech("Please switch on the light."), True),
        ({"speech": "おやすみ"}, speech("では、おやすみなさい。", language="ja"), True),
        ({"speech": "電気を 消して"}, speech("電気を消して。", language="ja"), True),
        ({"exactly": "stop"}, speech("Stop!"), True),
        ({"exactly": "stop"}, speech("Stop it"), False),
        ({"regex": "good ?night"}, speech("Goodnight"), True),
        ({"regex": "^night"}, speech("good night"), False),
        ({"speech": "night", "regex": "good"}, speech("a bad night"), False),
        ({"speech": "any", "language": "ja"}, speech("hello"), False),
        ({"speech": "any", "language": ["ja", "en"]}, speech("hello"), True),
        ({"speech": "any", "language": "en"}, speech("hello", language=None), False),
        ({"sound": "dog_bark", "between": "11:00-13:00"}, sound(), True),
        ({"sound": "dog_bark", "between": "22:00-07:00"}, sound(), False),
        ({"sound": "dog_bark", "days": "weekdays"}, sound(), True),
        ({"sound": "dog_bark", "days": ["sat", "Sunday"]}, sound(), False),
        ({"sound": "dog_bark", "language": "en"}, sound(), True),  # `check` warns; it is no reason to stay silent
    ],
)
def test_fires_on_what_it_names(when: dict[str, Any], event: Event, fires: bool) -> None:
    assert len(house(rule(when)).feed(event, NOON)) == fires


def test_text_passed_beside_the_event_is_matched() -> None:
    assert house(rule({"speech": "good night"})).feed(speech(None), NOON, "good night")


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ({}, "needs either sound"),
        ({"sound": "cat", "speech": "any"}, "needs either sound"),
        ({"sound": "cat", "times": 5}, "belong together"),
        ({"sound": "cat", "within": "5 min"}, "belong together"),
        ({"sound": "cat", "lasting": 5, "absent": 5}, "exclude each other"),
        ({"sound": "cat", "absent": 5, "state": "started"}, "takes no state"),
        ({"sound": "cat", "lasting": "five"}, "not a duration"),
        ({"sound": "cat", "lasting": -5}, "greater than 0"),
        ({"sound": "cat", "lasting": True}, "not a duration"),
        ({"sound": "cat", "between": "25:00-26:00"}, "not a part of the day"),
        ({"sound": "cat", "between": "22:60-23:00"}, "not a part of the day"),
        ({"sound": "cat", "days": "someday"}, "'mon'"),
        ({"sound": []}, "at least 1"),
        ({"speech": "!?"}, "no letters"),
        ({"regex": "("}, "not a regular expression"),
        ({"regex": "(a+)+$"}, "for ever"),
        ({"regex": "((a|b)c)*"}, "for ever"),
        ({"regex": r"\w*\w*\w*x"}, "side by side"),
        ({"regex": r"a.*[a-z]+.*?x"}, "side by side"),
        ({"regex": "x" * 501}, "501 characters"),
    ],
)
def test_refuses_nonsense(when: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        rule(when)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:please )?turn (on|off)",
        r"good ?night",
        r"\(x+\)+",
        r"[(+*]+",
        r"\w+\s+\w+\s*\d+",
        ".*a.*b.*c.*d",
        r"(?i)(on|off)$",
    ],
)
def test_takes_usual_regular_expressions(pattern: str) -> None:
    rule({"regex": pattern})


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ([], "at least 1"),
        (
            [{"email": "hi"}],
            'no action "email" in this version; there are publish, log, say, webhook, keep_clip, ask, describe',
        ),
        (
            [{"log": "x", "publish": {"topic": "a", "payload": "b"}}],
            "exactly one of publish, log, say, webhook, keep_clip, ask, describe",
        ),
        (["log"], "an action is one of"),
        ([{"log": None}], "empty"),
        ([{"publish": {"topic": "a/#", "payload": "x"}}], "wildcard #"),
        ([{"publish": {"topic": "a/+/{{ room }}", "payload": "x"}}], "wildcard"),
        ([{"publish": {"topic": "", "payload": "x"}}], "is empty"),
        ([{"publish": {"topic": "a\0", "payload": "x"}}], "control character"),
        ([{"publish": {"topic": "$SYS/x", "payload": "x"}}], "broker"),
        ([{"publish": {"topic": "ä" * 40_000, "payload": "x"}}], "longer than 65535 bytes"),
        ([{"publish": {"topic": "a/{{ text }}", "payload": "x"}}], "unknown field 'text'"),
        ([{"publish": {"topic": "a", "payload": "{{ nosuch }}"}}], "unknown field 'nosuch'"),
        ([{"publish": {"topic": "a", "payload": "{{ "}}], "unexpected"),
        ([{"publish": {"topic": "a", "payload": "x", "qos": 3}}], "0, 1 or 2"),
        ([{"publish": {"topic": "a/{{ answers.x }}", "payload": "x"}}], "unknown field 'answers'"),
        ([{"ask": {"prompt": "a", "as": "x"}}, {"log": "{{ answers.y }}"}], "action 2 uses answers.y.*there are x"),
        ([{"log": "{{ answers.x }}"}, {"ask": {"prompt": "a", "as": "x"}}], "action 1 uses answers.x, which no ask"),
        ([{"ask": {"prompt": "{{ answers['x'] }}", "as": "x"}}], "action 1 uses answers.x"),
        ([{"ask": {"prompt": "a"}}], "as"),
        ([{"ask": {"as": "a"}}], "prompt"),
        ([{"ask": {"prompt": "", "as": "x"}}], "at least 1 character"),
        ([{"ask": {"prompt": "a", "as": "X y"}}], "cannot name an answer"),
        ([{"ask": {"prompt": "a", "as": "items"}}], "templates know it as something else"),
        ([{"ask": {"prompt": "a", "as": "caption"}}, {"describe": None}], 'two answers have the name "caption"'),
        ([{"ask": {"prompt": "a", "as": "x", "choices": ["a"]}}], "at least 2"),
        ([{"ask": {"prompt": "a", "as": "x", "choices": ["a", "a"]}}], "stands twice"),
        ([{"ask": {"prompt": "a", "as": "x", "choices": ["a", "b\n"]}}], "plain characters"),
        ([{"ask": {"prompt": "a", "as": "x", "within": "11 min"}}], "less than or equal to 600"),
        ([{"ask": {"prompt": "a", "as": "x", "max_tokens": 257}}], "less than or equal to 256"),
        ([{"describe": {"prompt": "a"}}], "prompt"),
    ],
)
def test_refuses_actions(do: Any, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Rule.model_validate({"when": {"sound": "cat"}, "do": do})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (90, 90),
        ("90 s", 90),
        ("90", None),
        ("5 min", 300),
        ("1 h 30 min", 5400),
        ("2 days", 172800),
        ("1.5m", 90),
        ("200ms", 0.2),
        ("5 parsecs", None),
        ("", None),
    ],
)
def test_durations(value: object, expected: float | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="not a duration"):
            duration(value)
    else:
        assert duration(value) == pytest.approx(expected)


# --- time -------------------------------------------------------------------------------------------------------------


def test_lasting_fires_once_while_the_sound_goes_on() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": "2 min"}, do={"log": "{{ lasted | round }}"}))
    assert not rules.feed(sound(), NOON)
    assert rules.next_deadline() == NOON + 120
    assert not rules.tick(NOON + 119.9)
    assert logged(rules.tick(NOON + 120)) == ["120"]
    assert not rules.tick(NOON + 240)
    assert rules.next_deadline() is None
    assert not rules.feed(sound(state=State.ENDED, duration=241.0), NOON + 241)


def test_lasting_does_not_fire_for_a_sound_that_ended() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 120}))
    rules.feed(sound(), NOON)
    rules.feed(sound(state=State.ENDED, duration=60.0), NOON + 60)
    assert rules.next_deadline() is None
    assert not rules.tick(NOON + 500)


def test_lasting_counts_from_the_onset() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 10}))
    late = Event("a", "kitchen", "mic", "sound", State.STARTED, "dog_bark", "Bark", 0.9, offset=5.0, heard_at=6.5)
    rules.feed(late, NOON)
    assert rules.next_deadline() == NOON + 8.5


def test_lasting_is_found_in_a_file_that_runs_faster_than_the_clock() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 120}))
    rules.feed(sound(), NOON)
    assert rules.feed(sound(state=State.ENDED, duration=130.0), NOON + 1)


def test_lasting_waits_for_its_hours() -> None:
    rules = house(rule({"sound": "music", "lasting": "10 min", "between": "22:00-07:00"}))
    rules.feed(sound("music"), NOON)
    assert not rules.tick(NOON + 9 * HOUR)
    assert rules.next_deadline() == NOON + 10 * HOUR
    assert rules.tick(NOON + 10 * HOUR)


def test_a_late_tick_still_fires_before_the_end_is_seen() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 10}))
    rules.feed(sound(), NOON)
    assert rules.feed(sound(state=State.ENDED), NOON + 11)


def test_absent_fires_once_and_again_after_the_sound_was_back() -> None:
    rules = house(
        rule(
            {"sound": "snore", "room": "bedroom", "absent": "10 min"}, do={"log": "{{ state }} {{ room }} {{ lasted }}"}
        )
    )
    assert rules.next_deadline() == NOON + 600
    assert logged(rules.tick(NOON + 600)) == ["absent bedroom 600.0"]
    assert not rules.tick(NOON + 5000)
    assert not rules.feed(sound("snore", room="bedroom"), NOON + 6000)
    assert rules.next_deadline() is None  # it goes on
    assert not rules.tick(NOON + 9000)
    rules.feed(sound("snore", State.ENDED, room="bedroom"), NOON + 9000)
    assert not rules.tick(NOON + 9599)
    assert rules.tick(NOON + 9600)


def test_absence_needs_a_room_that_can_hear() -> None:
    rules = house(rule({"speech": "any", "room": "kitchen", "absent": "1 h"}))
    rules.presence(RoomChanged("garden", Presence.OFFLINE), NOON + 5)
    assert rules.next_deadline() == NOON + HOUR
    rules.presence(RoomChanged("kitchen", Presence.OFFLINE), NOON + 10)
    assert rules.next_deadline() is None
    assert not rules.tick(NOON + 2 * HOUR)
    rules.presence(RoomChanged("kitchen", Presence.ONLINE), NOON + 2 * HOUR)
    assert rules.next_deadline() == NOON + 3 * HOUR


def test_a_room_that_was_lost_ends_its_sounds() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 60}))
    rules.feed(sound(), NOON)
    rules.presence(RoomChanged("kitchen", Presence.OFFLINE), NOON + 1)
    assert rules.next_deadline() is None


def test_times_within() -> None:
    rules = house(rule({"sound": "dog_bark", "times": 3, "within": "1 min"}, do={"log": "{{ times }}"}))
    assert not rules.feed(sound(), NOON)
    assert not rules.feed(sound(), NOON + 61)  # the first is forgotten
    assert not rules.feed(sound(), NOON + 62)
    assert logged(rules.feed(sound(), NOON + 63)) == ["3"]
    assert not rules.feed(sound(), NOON + 64)  # the count starts again


def test_cooldown() -> None:
    rules = house(rule({"sound": "dog_bark"}, cooldown="1 min"))
    assert rules.feed(sound(), NOON)
    assert not rules.feed(sound(), NOON + 59.9)
    assert rules.feed(sound(), NOON + 60)
    assert rules.fired == {"rule 1": 2}


def test_a_clock_set_back_does_not_silence_a_rule() -> None:
    rules = house(rule({"sound": "dog_bark"}, cooldown="1 min"), rule({"sound": "snore", "absent": "10 min"}))
    rules.feed(sound(), NOON)
    back = NOON - 30 * 86_400
    rules.tick(back)
    assert rules.next_deadline() == back + 600
    assert rules.feed(sound(), back + 60)


@pytest.mark.parametrize(
    ("span", "days", "moment", "inside"),
    [
        ("22:00-07:00", None, "2026-11-23T23:59", True),
        ("22:00-07:00", None, "2026-11-23T06:59", True),
        ("22:00-07:00", None, "2026-11-23T07:00", False),
        ("22:00-07:00", None, "2026-11-23T21:59", False),
        ("22:00-07:00", ("sun",), "2026-11-23T03:00", True),  # Monday morning is Sunday's night
        ("22:00-07:00", ("mon",), "2026-11-23T03:00", False),
        ("00:00-24:00", ("mon",), "2026-11-23T23:59", True),
        ("07:00-07:00", None, "2026-11-23T07:00", False),
    ],
)
def test_hours_in_local_time(span: str, days: tuple[str, ...] | None, moment: str, inside: bool) -> None:
    zone = timezone(timedelta(hours=9))
    between = rule({"sound": "cat", "between": span}).when.between
    hours = Hours(between, days, zone)
    assert hours.hold(datetime.fromisoformat(moment).replace(tzinfo=zone).timestamp()) is inside


@needs_zones
@given(
    st.integers(0, 1439),
    st.integers(0, 1440),
    st.sampled_from([None, ("mon",), ("sat", "sun")]),
    st.floats(NOON, NOON + 3e7),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Tokyo", "Pacific/Auckland"]),
)
@settings(max_examples=200, deadline=None)
def test_the_next_opening_is_open_and_never_in_the_past(
    start: int, end: int, days: tuple[str, ...] | None, now: float, zone: str
) -> None:
    hours = Hours(Span(start, end), days, ZoneInfo(zone))
    opening = hours.opening(now)
    if start == end:
        assert opening is None
    elif opening is not None:
        assert opening >= now
        assert hours.hold(opening)
    else:  # only where summer time skips a whole short span
        assert zone in {"Europe/Berlin", "Pacific/Auckland"}


# --- actions ----------------------------------------------------------------------------------------------------------


def test_publishes_what_the_templates_say() -> None:
    publish = {
        "topic": "house/{{ room }}",
        "payload": "{{ label }} {{ room_name }} {{ time }}",
        "qos": 2,
        "retain": True,
    }
    rules = house(
        rule({"sound": "dog_bark"}, do=[{"publish": publish}, {"log": "a\nb"}], name="dog"), rooms={"kitchen": "台所"}
    )
    assert rules.feed(sound(), NOON) == [
        Publish("house/kitchen", "Bark 台所 12:00", 2, True, "dog"),
        Log("a b", "dog"),
    ]


def test_a_template_can_link_to_the_event_on_the_page() -> None:
    linking = rule({"sound": "dog_bark"}, do={"publish": {"topic": "a", "payload": "{{ url }}"}})
    (linked,) = house(linking, page="https://house.example/").feed(sound(), NOON)
    assert isinstance(linked, Publish)
    assert linked.payload == f"https://house.example/#/events/{sound().id}"
    (plain,) = house(linking).feed(sound(), NOON)
    assert isinstance(plain, Publish)
    assert plain.payload == ""


@pytest.mark.parametrize(("payload", "expected"), [("ON", "ON"), (1, "1"), (True, "true"), (2.5, "2.5")])
def test_payloads_may_be_numbers(payload: object, expected: str) -> None:
    (action,) = house(rule({"sound": "cat"}, do={"publish": {"topic": "a", "payload": payload}})).feed(
        sound("cat"), NOON
    )
    assert isinstance(action, Publish)
    assert action.payload == expected


def test_templates_do_not_see_what_was_said_unless_allowed() -> None:
    spy = rule({"speech": "secret"}, do={"log": "{{ text }}|{{ words }}|{{ event | tojson }}|{{ label }}"})
    (hidden,) = logged(house(spy).feed(speech("my secret"), NOON))
    assert hidden.startswith("||")
    assert "secret" not in hidden
    assert "good" not in hidden
    (shown,) = logged(house(spy, transcripts=True).feed(speech("my secret"), NOON))
    assert shown.startswith('my secret|[{"word": "good"')


def test_free_slots_of_an_intent_are_hidden_too() -> None:
    event = Event(
        "s",
        "k",
        "m",
        "speech",
        State.HEARD,
        "speech",
        "Speech",
        1.0,
        "note milk",
        intent=Intent("note", {"what": "milk", "list": "shopping"}, "hassil", "en", free=frozenset({"what"})),
    )
    (line,) = logged(house(rule({"speech": "any"}, do={"log": "{{ intent }}"})).feed(event, NOON))
    assert line == '{"name": "note", "slots": {"what": null, "list": "shopping"}, "source": "hassil"}'


def test_a_template_that_fails_is_told_once_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    broken = rule({"sound": "any"}, do=[{"log": "{{ text.upper() }}"}, {"log": "second"}], name="broken")
    rules = house(broken, rule({"sound": "any"}, do={"log": "third"}))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert logged(rules.feed(sound(), NOON)) == ["second", "third"]
    assert rules.failed == {"broken": 3}
    assert [record.getMessage() for record in caplog.records if "broken" in record.getMessage()] == [
        "rule 'broken': log: 'None' has no attribute 'upper' (later failures are only counted)"
    ]


def test_a_topic_with_a_wildcard_is_refused_after_rendering(caplog: pytest.LogCaptureFixture) -> None:
    rules = house(rule({"sound": "any"}, do={"publish": {"topic": "a/{{ room }}", "payload": "x"}}, name="wild"))
    with caplog.at_level(logging.WARNING):
        assert not rules.feed(sound(room="#"), NOON)
        assert not rules.feed(sound(room="a+b"), NOON)
    assert rules.refused == {"wild": 2}
    assert caplog.text.count("rule 'wild' publishes nothing") == 1
    assert len(rules.feed(sound(room="kitchen"), NOON)) == 1


@given(st.text(max_size=30))
def test_topics_that_pass_are_mqtt_topics(topic: str) -> None:
    if topic_problem(topic) is None:
        assert topic
        assert not set(topic) & {"#", "+", "\0"}
        assert len(topic.encode()) <= 65_535


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_text_says_its_own_words(before: str, phrase: str) -> None:
    if fold(phrase):
        assert says(phrase, phrase)
        assert says(f"{before} {phrase}", phrase)


# --- the language model's word --------------------------------------------------------------------------------------


def hearsay(event: Event) -> Event:
    return replace(event, witnessed=False, model="qwen-audio-chat")


def test_does_not_act_on_the_language_models_word_alone(caplog: pytest.LogCaptureFixture) -> None:
    rules = house(rule({"sound": "dog_bark"}, name="dog"), rule({"sound": "cat"}, name="cat"))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert rules.feed(hearsay(sound()), NOON) == []
    assert rules.doubted == {"dog": 3}  # and not the cat, of which nothing was heard
    assert rules.fired == {}
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("rule 'dog' does not act on dog_bark in kitchen, which only qwen-audio-chat heard")
    assert rules.feed(sound(), NOON)


@pytest.mark.parametrize(
    ("when", "event"),
    [
        ({"sound": "dog_bark"}, sound()),
        ({"sound": "dog_bark", "state": "ended"}, sound(state=State.ENDED)),
        ({"speech": "any"}, speech("hello")),
        ({"sound": "dog_bark", "times": 1, "within": 5}, sound()),
    ],
)
def test_acts_on_the_language_models_word_where_a_rule_says_so(when: dict[str, Any], event: Event) -> None:
    assert not house(rule(when)).feed(hearsay(event), NOON)
    assert house(rule(when, unconfirmed=True)).feed(hearsay(event), NOON)


def test_a_sound_that_only_the_language_model_heard_does_not_last() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 60}))
    rules.feed(hearsay(sound()), NOON)
    assert rules.next_deadline() is None
    assert rules.doubted == {"rule 1": 1}
    # but the end of one that was witnessed is believed, whoever says so
    rules.feed(sound(), NOON)
    rules.feed(hearsay(sound(state=State.ENDED, duration=5.0)), NOON + 5)
    assert rules.next_deadline() is None
    assert not rules.tick(NOON + 100)


def test_the_language_model_alone_can_disprove_an_absence() -> None:
    rules = house(rule({"sound": "dog_bark", "absent": 60}))
    rules.feed(hearsay(sound(state=State.STARTED)), NOON + 59)
    rules.feed(hearsay(sound(state=State.ENDED, duration=1.0)), NOON + 60)
    assert not rules.tick(NOON + 61)
    assert rules.tick(NOON + 120)


# --- questions --------------------------------------------------------------------------------------------------------

MOOD = {"ask": {"prompt": "Is {{ label }} in {{ room }} calm?", "as": "mood", "choices": ["calm", "angry"]}}


def only_question(actions: list[Any]) -> Ask:
    assert isinstance(actions[-1], Ask)
    assert not any(isinstance(action, Ask) for action in actions[:-1])
    return actions[-1]


def test_asks_and_goes_on_with_the_answer() -> None:
    rules = house(
        rule(
            {"sound": "dog_bark"},
            do=[{"log": "first"}, MOOD, {"log": "{{ answers.mood }}"}, {"describe": None}, {"log": "{{ answers }}"}],
            name="dog",
        )
    )
    actions = rules.feed(sound(), NOON)
    ask = only_question(actions)
    assert logged(actions[:-1]) == ["first"]
    assert (ask.rule, ask.prompt, ask.name, ask.choices) == (
        "dog",
        "Is Bark in kitchen calm?",
        "mood",
        ("calm", "angry"),
    )
    assert (ask.within, ask.max_tokens, ask.event) == (20.0, 64, sound())
    actions = rules.answered(ask, "angry")
    assert logged(actions[:-1]) == ["angry"]
    caption = only_question(actions)
    assert (caption.prompt, caption.name) == (None, "caption")
    assert logged(rules.answered(caption, "A dog\nbarks.")) == ['{"mood": "angry", "caption": "A dog barks."}']
    assert rules.fired == {"dog": 1}
    assert rules.unanswered == {}


@pytest.mark.parametrize("answer", [None, "", "  ", "<|im_end|>", "furious"])
def test_without_an_answer_the_rule_goes_on(answer: str | None) -> None:
    rules = house(rule({"sound": "dog_bark"}, do=[MOOD, {"log": "{{ answers.mood or 'unknown' }}"}]))
    assert logged(rules.answered(only_question(rules.feed(sound(), NOON)), answer)) == ["unknown"]
    assert rules.unanswered == {"rule 1": 1}


def test_a_prompt_may_use_an_answer_and_one_that_fails_is_not_asked() -> None:
    second = {"ask": {"prompt": "Why {{ answers.mood.upper() }}?", "as": "why"}}
    rules = house(rule({"sound": "dog_bark"}, do=[MOOD, second, {"log": "{{ answers | tojson }}"}]))
    ask = only_question(rules.answered(only_question(rules.feed(sound(), NOON)), "calm"))
    assert (ask.prompt, ask.choices) == ("Why CALM?", ())
    rest = rules.answered(only_question(rules.feed(sound(), NOON)), None)
    assert logged(rest) == ['{"mood": null, "why": null}']
    assert rules.failed == {"rule 1": 1}


def test_a_free_answer_about_speech_is_private_and_choices_are_not(caplog: pytest.LogCaptureFixture) -> None:
    free = {"ask": {"prompt": "What was said?", "as": "said"}}
    spy = rule({"speech": "any"}, do=[free, {"describe": {"as": "scene"}}, MOOD, {"log": "{{ answers | tojson }}"}])
    rules = house(spy)
    with caplog.at_level(logging.INFO):
        ask = only_question(rules.feed(speech("my secret"), NOON))
    assert ask.name == "mood"
    assert logged(rules.answered(ask, "calm")) == ['{"said": null, "scene": null, "mood": "calm"}']
    assert rules.unanswered == {"rule 1": 2}
    assert "asks nothing about speech while privacy.transcripts is off" in caplog.text
    assert only_question(house(spy, transcripts=True).feed(speech("my secret"), NOON)).name == "said"


def test_a_question_while_a_sound_lasts() -> None:
    rules = house(rule({"sound": "dog_bark", "lasting": 60}, do=[MOOD, {"log": "{{ answers.mood }} {{ lasted }}"}]))
    rules.feed(sound(), NOON)
    assert logged(rules.answered(only_question(rules.tick(NOON + 60)), "calm")) == ["calm 60.0"]


def test_absence_cannot_be_asked_about() -> None:
    with pytest.raises(ValidationError, match="absent hears nothing"):
        rule({"sound": "dog_bark", "absent": 60}, do=[MOOD])


def test_an_answer_never_reaches_a_topic() -> None:
    rules = house(
        rule({"sound": "any"}, do=[MOOD, {"publish": {"topic": "a/{{ room }}", "payload": "{{ answers.mood }}"}}])
    )
    assert rules.answered(only_question(rules.feed(sound(), NOON)), "angry") == [
        Publish("a/kitchen", "angry", rule="rule 1")
    ]


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("A dog barks.", "A dog barks."),
        ("two\nlines\t\x00\x1b[31mred", "two lines [31mred"),
        ("<|startofanalysis|>a dog<|2.33|>", "a dog"),
        ("<|<|x|>|>", "<| |>"),
        ("a<\u202e|im_end|>", "a"),
        ("right\u202eleft", "rightleft"),
        ("犬が\u3000吠える", "犬が 吠える"),
        ("👩\u200d🍳", "👩\u200d🍳"),
        ("x" * 5_000, "x" * ANSWER_LIMIT),
    ],
)
def test_answers_are_plain_text(said: str, plain: str) -> None:
    assert clean(said) == plain


@given(st.text(max_size=2_000))
def test_a_clean_answer_is_clean(said: str) -> None:
    answer = clean(said)
    assert len(answer) <= ANSWER_LIMIT
    assert answer.isprintable() or set(filter(lambda sign: not sign.isprintable(), answer)) <= {"\u200c", "\u200d"}


# --- anything ---------------------------------------------------------------------------------------------------------


texts = st.none() | st.text(max_size=50)
numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True)
events = st.builds(
    Event,
    id=st.text(max_size=3),
    room=st.sampled_from(["kitchen", "garden"]) | st.text(max_size=5),
    source=st.text(max_size=5),
    kind=st.sampled_from(["sound", "speech"]),
    state=st.sampled_from(list(State)),
    event_type=st.sampled_from(["dog_bark", "speech"]) | st.text(max_size=5),
    label=st.text(max_size=10),
    score=numbers,
    text=texts,
    language=texts,
    words=st.none() | st.tuples(st.builds(Word, st.text(max_size=5), st.just(0.0), st.just(1.0))),
    intent=st.none()
    | st.builds(
        Intent,
        st.text(max_size=5),
        st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
        st.just("hassil"),
        st.just("en"),
        free=st.frozensets(st.text(max_size=5), max_size=2),
    ),
    caption=texts,
    duration=numbers,
    offset=st.floats(),
    heard_at=st.floats(),
    level_dbfs=numbers,
    witnessed=st.booleans(),
)


@given(st.lists(st.tuples(events, st.floats(-100, 100)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_no_event_makes_a_rule_raise(heard: list[tuple[Event, float]]) -> None:
    everything = {"publish": {"topic": "a/{{ room }}/{{ event_type }}", "payload": "{{ event | tojson }} {{ text.x }}"}}
    rules = house(
        rule({"sound": "any"}, do=[everything, {"log": "{{ score | round(2) }} {{ lasted }}"}]),
        rule({"sound": "any", "lasting": 3, "score": 0.1}, do=everything),
        rule({"sound": "any", "absent": 2, "between": "11:00-12:05"}, do=everything),
        rule({"speech": "any", "times": 2, "within": 5}, do=everything, cooldown=1),
        rule({"regex": "a+.b", "language": "en"}, do=everything),
        rule({"speech": ["おはよう", "good morning"], "room": "kitchen"}, do=everything),
        rule({"sound": "any"}, do=[{"describe": None}, everything], unconfirmed=True),
        transcripts=True,
    )
    for event, moment in heard:
        for action in rules.feed(event, NOON + moment):
            rest = rules.answered(action, event.text) if isinstance(action, Ask) else [action]
            assert not any(isinstance(each, Ask) for each in rest)
            assert all(topic_problem(each.topic) is None for each in rest if isinstance(each, Publish))
        deadline = rules.next_deadline()
        assert deadline is None or deadline >= NOON + moment
        rules.tick(NOON + moment + 1)


def test_following_many_sounds_is_bounded() -> None:
    rules = house(rule({"sound": "any", "lasting": "1 h"}))
    for number in range(1_200):
        rules.feed(sound(key=str(number)), NOON)
    assert len(rules.tick(NOON + HOUR)) == 1_000


# --- keeping clips ----------------------------------------------------------------------------------------------------


def test_what_follows_a_clip_waits_for_its_name() -> None:
    bark = sound()
    keeping = house(
        rule({"sound": "any"}, do=[{"log": "{{ clip }}"}, {"keep_clip": None}, {"log": "{{ event.clip }}"}])
    )
    first, keep = keeping.feed(bark, NOON)
    assert logged([first]) == [""]
    assert isinstance(keep, KeepClip)
    assert keep.event is bark
    assert logged(keeping.kept(keep, "a.flac")) == ["a.flac"]
    assert logged(keeping.kept(keep, None)) == [""]


def test_clip_is_a_field_of_the_actions_after_it_and_it_may_come_last() -> None:
    keeping = house(rule({"sound": "any"}, do=[{"keep_clip": True}, {"log": "{{ clip }}"}, {"keep_clip": True}]))
    (keep,) = keeping.feed(sound(), NOON)
    line, again = keeping.kept(keep, "a.flac")
    assert logged([line]) == ["a.flac"]
    assert keeping.kept(again, "a.flac") == []


def test_a_clip_after_a_question_is_kept_all_the_same() -> None:
    asking = house(rule({"sound": "any"}, do=[{"describe": {}}, {"keep_clip": True}, {"log": "{{ answers.caption }}"}]))
    (ask,) = asking.feed(sound(), NOON)
    assert isinstance(ask, Ask)
    (keep,) = asking.answered(ask, "A dog")
    assert isinstance(keep, KeepClip)
    assert logged(asking.kept(keep, "a.flac")) == ["A dog"]


# --- another configuration --------------------------------------------------------------------------------------------


def test_a_rule_that_stays_keeps_what_it_remembers_wherever_it_stands_now() -> None:
    lasting = rule({"sound": "dog_bark", "lasting": "60 s"})
    twice = rule({"sound": "cat", "times": 2, "within": "10 min"})
    calm = rule({"sound": "doorbell"}, cooldown="1 h")
    before = house(lasting, twice, calm)
    before.feed(sound(), NOON)
    before.feed(sound("cat", key="c"), NOON)
    assert before.feed(sound("doorbell", key="d"), NOON)
    after = Rules([rule({"sound": "bird"}), calm, twice, lasting], timezone=UTC)
    after.inherit(before, NOON + 30.0, ())
    assert after.feed(sound("doorbell", key="e"), NOON + 31.0) == []  # still quiet
    assert len(after.feed(sound("cat", key="f"), NOON + 32.0)) == 1  # the second
    assert after.tick(NOON + 59.0) == []
    assert len(after.tick(NOON + 61.0)) == 1  # it has barked for a minute, half of it before
    assert after.fired.total() == 3


def test_a_rule_that_was_changed_begins_anew_and_knows_who_cannot_hear() -> None:
    absent = {"sound": "any", "absent": "1 h"}
    before = house(rule(absent), rule({"sound": "cat"}, cooldown="1 h"))
    before.feed(sound("cat"), NOON)
    after = Rules([rule({**absent, "absent": "2 h"}), rule({"sound": "cat"}, cooldown="2 h")], timezone=UTC)
    after.inherit(before, NOON + HOUR / 2, [RoomChanged("kitchen", Presence.OFFLINE, "unplugged")])
    assert logged(after.feed(sound("cat", key="b"), NOON + HOUR / 2 + 1)) == ["Bark in kitchen"]
    after.feed(sound("cat", State.ENDED, key="b"), NOON + HOUR / 2 + 2)
    assert after.tick(NOON + 9 * HOUR) == []  # the kitchen proves no absence
    after.presence(RoomChanged("kitchen", Presence.ONLINE), NOON + 9 * HOUR)
    assert after.tick(NOON + 10.9 * HOUR) == []
    assert len(after.tick(NOON + 11.1 * HOUR)) == 1


def test_a_clock_set_back_right_before_does_not_silence_a_rule_that_stays() -> None:
    calm = rule({"sound": "cat"}, cooldown="1 h")
    before = house(calm)
    before.feed(sound("cat"), NOON)
    after = Rules([calm], timezone=UTC)
    after.inherit(before, NOON - 5 * HOUR, ())
    assert len(after.feed(sound("cat", key="b"), NOON - 3.9 * HOUR)) == 1
