"""The action `say` of rules, from the file to what is to be said."""

import pytest
from pydantic import ValidationError

from assistant.events import Event, Say, State
from assistant.rules import Rule, Rules

NOW = 1_764_000_000.0


def heard(kind: str = "sound", **fields: object) -> Event:
    speech = {"text": "good night", "state": State.HEARD, "event_type": "speech", "label": "Speech"}
    sound = {"state": State.STARTED, "event_type": "kettle", "label": "Kettle"}
    values = {"id": "1", "room": "kitchen", "source": "x", "score": 0.9, **(speech if kind == "speech" else sound)}
    return Event(kind=kind, **{**values, **fields})  # type: ignore[arg-type]


def fire(do: object, event: Event, *, when: dict[str, object] | None = None, transcripts: bool = False) -> list[object]:
    rule = Rule.model_validate({"name": "r", "when": when or {"sound": "any"}, "do": do})
    return list(Rules([rule], transcripts=transcripts, rooms={"kitchen": "台所"}).feed(event, NOW))


def test_a_text_is_said_in_the_room_of_the_event():
    said = fire({"say": "The {{ label }}  in {{ room_name }}\n is ready"}, heard())
    assert said == [Say("The Kettle in 台所 is ready", "kitchen", rule="r")]


def test_another_room_all_rooms_and_a_language():
    (said,) = fire({"say": {"text": "お湯", "room": "garden", "language": "ja"}}, heard())
    assert said == Say("お湯", "garden", "ja", rule="r")
    (said,) = fire({"say": {"text": "x", "room": "all"}}, heard())
    assert said == Say("x", None, rule="r")


def test_what_was_said_is_told_only_when_transcripts_are_on():
    spoken, when = heard("speech"), {"speech": "any"}
    (said,) = fire({"say": "you said {{ text }}!"}, spoken, when=when)
    assert said == Say("you said !", "kitchen", rule="r")
    (said,) = fire({"say": "you said {{ text }}!"}, spoken, when=when, transcripts=True)
    assert said == Say("you said good night!", "kitchen", rule="r")
    assert fire({"say": "{{ text }}"}, spoken, when=when) == []


def test_absence_is_said_in_its_room_or_everywhere():
    for room, where in (("kitchen", "kitchen"), (None, None)):
        when = {"sound": "any", "absent": 60} | ({"room": room} if room else {})
        rules = Rules([Rule.model_validate({"name": "r", "when": when, "do": {"say": "quiet"}})])
        rules.tick(NOW)
        assert rules.tick(NOW + 61) == [Say("quiet", where, rule="r")]


@pytest.mark.parametrize(
    ("say", "told"),
    [
        ("{{ nothing_known }}", "nothing_known"),
        ("", "at least 1"),
        ({"text": "x", "language": "English"}, "language"),
        ({"text": "x", "loud": True}, "loud"),
        ({"room": "all"}, "text"),
    ],
)
def test_what_cannot_be_said_is_refused(say, told):
    with pytest.raises(ValidationError, match=told):
        Rule.model_validate({"when": {"sound": "any"}, "do": {"say": say}})
