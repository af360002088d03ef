from __future__ import annotations

import json
from dataclasses import replace

from assistant.events import (
    ClipSettled,
    Event,
    HealthMeasured,
    Intent,
    IntentRecognised,
    LevelMeasured,
    ListeningChanged,
    Pictured,
    Presence,
    Problem,
    ProblemChanged,
    Publish,
    RoomChanged,
    Sensitivity,
    SensitivityChanged,
    State,
)
from assistant.outputs.topics import Home, House, Message, Room, SoundType

HOME = Home(
    install="7f3a",
    version="0.0.1",
    rooms=(Room("kitchen", "Kitchen"), Room("hall", "Hall")),
    sounds=(SoundType("smoke_alarm", "Smoke alarm", alert=True), SoundType("doorbell", "Doorbell")),
)


def sound(event_type: str = "smoke_alarm", state: State = State.STARTED, **fields: object) -> Event:
    known = {"id": "A", "room": "kitchen", "source": "mic", "label": "Smoke detector, smoke alarm", "score": 0.9}
    return Event(kind="sound", state=state, event_type=event_type, **{**known, **fields})  # type: ignore[arg-type]


def speech(**fields: object) -> Event:
    known = {
        "id": "S",
        "room": "kitchen",
        "source": "mic",
        "label": "Speech",
        "score": 0.8,
        "text": "turn on the light",
    }
    return Event(kind="speech", state=State.HEARD, event_type="speech", **{**known, **fields})  # type: ignore[arg-type]


def topics(messages: list[Message]) -> list[str]:
    return [message.topic for message in messages]


def state_of(house: House, topic: str) -> str:
    (message,) = [message for message in house.states(0.0) if message.topic == topic]
    assert isinstance(message.payload, str)
    return message.payload


def test_every_state_is_known_from_the_start():
    states = {message.topic: message.payload for message in House(HOME, "kikimimi").states(1.0)}

    assert states == {
        "kikimimi/listening/state": "ON",
        "kikimimi/kitchen/listening/state": "ON",
        "kikimimi/kitchen/sensitivity/state": "balanced",
        "kikimimi/hall/listening/state": "ON",
        "kikimimi/hall/sensitivity/state": "balanced",
        "kikimimi/kitchen/status": "offline",
        "kikimimi/kitchen/problem": "none",
        "kikimimi/kitchen/sound/smoke_alarm/state": "OFF",
        "kikimimi/kitchen/sound/doorbell/state": "OFF",
        "kikimimi/hall/status": "offline",
        "kikimimi/hall/problem": "none",
        "kikimimi/hall/sound/smoke_alarm/state": "OFF",
        "kikimimi/hall/sound/doorbell/state": "OFF",
        "kikimimi/alert/state": "OFF",
    }


def test_a_started_sound_sets_its_states_before_it_is_told():
    messages = House(HOME, "kikimimi").messages(sound(), 1.0)

    assert topics(messages) == [
        "kikimimi/kitchen/sound/smoke_alarm/state",
        "kikimimi/kitchen/sound/smoke_alarm/attributes",
        "kikimimi/alert/state",
        "kikimimi/kitchen/last/sound",
        "kikimimi/kitchen/event",
        "kikimimi/kitchen/trigger",
    ]
    assert [message.retain for message in messages] == [True, True, True, True, False, False]
    assert all(message.qos == 1 for message in messages)
    assert messages[0].payload == messages[2].payload == "ON"
    assert messages[5].payload == "smoke_alarm"


def test_retained_attributes_link_to_the_event_where_the_page_has_an_address():
    messages = House(replace(HOME, url="https://house.example/"), "kikimimi").messages(sound(), 1.0)
    bodies = {message.topic.removeprefix("kikimimi/kitchen/"): message.payload for message in messages}
    for topic in ("sound/smoke_alarm/attributes", "last/sound"):
        assert bodies[topic]["url"] == "https://house.example/#/events/A"  # type: ignore[index]
    assert "url" not in bodies["event"]
    plain = House(HOME, "kikimimi").messages(sound(), 1.0)
    assert not any("url" in message.payload for message in plain)


def test_a_doorbell_rings_once():
    house = House(HOME, "kikimimi")
    rung = [message for message in house.messages(sound("doorbell"), 1.0) if message.topic.endswith("doorbell/event")]
    ended = house.messages(sound("doorbell", State.ENDED), 2.0)

    assert [message.payload for message in rung] == [{"event_type": "ring", "id": "A"}]
    assert "kikimimi/kitchen/doorbell/event" not in topics(ended)
    assert "kikimimi/kitchen/trigger" not in topics(ended)


def test_overlapping_sounds_of_a_type_are_on_until_the_last_ends():
    house = House(HOME, "kikimimi")
    topic = "kikimimi/kitchen/sound/smoke_alarm/state"
    house.messages(sound(id="A"), 1.0)
    house.messages(sound(id="B"), 2.0)

    house.messages(sound(id="A", state=State.ENDED), 3.0)
    assert state_of(house, topic) == "ON"
    assert topics(house.repeats(4.0)) == [topic]

    house.messages(sound(id="B", state=State.ENDED), 5.0)
    assert state_of(house, topic) == "OFF"
    assert house.repeats(6.0) == []


def test_the_alert_lasts_while_any_room_has_one():
    house = House(HOME, "kikimimi")
    house.messages(sound(id="A"), 1.0)
    house.messages(sound(id="B", room="hall"), 2.0)
    house.messages(sound(id="A", state=State.ENDED), 3.0)
    assert state_of(house, "kikimimi/alert/state") == "ON"

    house.messages(sound(id="B", room="hall", state=State.ENDED), 4.0)
    assert state_of(house, "kikimimi/alert/state") == "OFF"


def test_a_doorbell_is_no_alert():
    house = House(HOME, "kikimimi")
    house.messages(sound("doorbell"), 1.0)

    assert state_of(house, "kikimimi/alert/state") == "OFF"


def test_other_has_an_event_but_no_state_and_no_trigger():
    messages = House(HOME, "kikimimi").messages(sound("other"), 1.0)

    assert topics(messages) == ["kikimimi/kitchen/last/sound", "kikimimi/kitchen/event"]


def test_a_room_that_goes_silent_ends_its_sounds():
    house = House(HOME, "kikimimi")
    house.messages(sound(id="A"), 1.0)
    house.messages(sound(id="B", room="hall"), 1.0)
    messages = house.messages(RoomChanged("kitchen", Presence.OFFLINE), 2.0)

    assert [(message.topic, message.payload) for message in messages] == [
        ("kikimimi/kitchen/status", "offline"),
        ("kikimimi/kitchen/sound/smoke_alarm/state", "OFF"),
        ("kikimimi/alert/state", "ON"),
    ]
    assert state_of(house, "kikimimi/hall/sound/smoke_alarm/state") == "ON"


def test_after_close_nothing_switches_on_but_events_are_told():
    house = House(HOME, "kikimimi")
    house.messages(RoomChanged("kitchen", Presence.ONLINE), 1.0)
    house.messages(sound(id="A"), 1.0)
    goodbye = {message.topic: message.payload for message in house.close(2.0)}

    assert goodbye["kikimimi/status"] == goodbye["kikimimi/kitchen/status"] == "offline"
    assert goodbye["kikimimi/kitchen/sound/smoke_alarm/state"] == goodbye["kikimimi/alert/state"] == "OFF"

    after = house.messages(sound(id="B"), 3.0)
    assert "kikimimi/kitchen/event" in topics(after)
    assert state_of(house, "kikimimi/kitchen/sound/smoke_alarm/state") == "OFF"
    assert house.messages(RoomChanged("kitchen", Presence.ONLINE), 4.0)[0].payload == "offline"


def test_a_message_older_than_a_minute_is_late_and_its_trigger_worthless():
    messages = {message.topic: message for message in House(HOME, "kikimimi").messages(sound(), 100.0)}
    event, trigger = messages["kikimimi/kitchen/event"], messages["kikimimi/kitchen/trigger"]

    assert event.due(160.0) is event
    late = event.due(160.5)
    assert late is not None
    assert json.loads(late.encoded())["late"] is True
    assert trigger.due(160.0) is trigger
    assert trigger.due(160.5) is None


def test_a_late_event_triggers_nothing():
    messages = House(HOME, "kikimimi").messages(sound("doorbell", late=True), 1.0)

    assert "kikimimi/kitchen/event" in topics(messages)
    assert "kikimimi/kitchen/trigger" not in topics(messages)
    assert "kikimimi/kitchen/doorbell/event" not in topics(messages)


def test_without_transcripts_no_text_leaves_even_if_it_was_not_redacted():
    messages = House(HOME, "kikimimi").messages(speech(caption="a person asks for light"), 1.0)

    assert topics(messages) == ["kikimimi/kitchen/last/speech", "kikimimi/kitchen/event"]
    for message in messages:
        assert b"light" not in message.encoded()


def test_with_transcripts_speech_has_a_topic_of_its_own():
    house = House(replace(HOME, transcripts=True), "kikimimi")
    messages = {message.topic: message for message in house.messages(speech(text="あ" * 300), 1.0)}

    assert len(json.loads(messages["kikimimi/kitchen/last/speech"].encoded())["text"]) == 255
    assert len(json.loads(messages["kikimimi/kitchen/transcript"].encoded())["text"]) == 300
    assert not messages["kikimimi/kitchen/transcript"].retain


def levels(*told: tuple[float, float]) -> list[float]:
    """Which of (time, dBFS) are published."""
    house = House(HOME, "kikimimi")
    return [time for time, dbfs in told if house.messages(LevelMeasured("kitchen", dbfs, -60.0, dbfs + 5), time)]


def test_levels_are_rare_unless_they_move():
    assert levels((0, -50), (1, -40), (2, -50), (5, -50.5), (9, -48), (10, -51.5), (12, -48), (13, -60), (14, -60)) == [
        0,
        10,
        12,
        14,
    ]


def test_a_steady_level_is_repeated_each_half_minute():
    assert levels(*[(float(second), -50.0) for second in range(70)]) == [0.0, 30.0, 60.0]


def test_digital_silence_is_a_number_that_json_knows():
    house = House(HOME, "kikimimi")
    (message,) = house.messages(LevelMeasured("kitchen", float("-inf"), -60.04, float("nan")), 0.0)

    assert json.loads(message.encoded()) == {"dbfs": -120.0, "floor": -60.0, "peak": -120.0}
    assert message.qos == 0
    assert not message.retain


def test_health_is_retained_and_its_unknown_figures_are_null():
    (message,) = House(HOME, "kikimimi").messages(HealthMeasured({"cpu_percent": 3.1, "lag_ms_p95": float("nan")}), 0.0)

    assert message.topic == "kikimimi/health"
    assert message.retain
    assert json.loads(message.encoded()) == {"cpu_percent": 3.1, "lag_ms_p95": None}


def test_a_rule_publishes_what_it_says():
    (message,) = House(HOME, "kikimimi").messages(
        Publish("zigbee/lamp/set", "on", qos=0, retain=True, rule="lamp"), 0.0
    )

    assert (message.topic, message.payload, message.qos, message.retain) == ("zigbee/lamp/set", "on", 0, True)
    assert not message.state


def test_a_source_cannot_smuggle_a_wildcard_into_a_topic():
    messages = House(HOME, "kikimimi").messages(sound("other", room="a/b#+"), 0.0)

    assert "kikimimi/a_b__/event" in topics(messages)


# switches


def test_switches_are_remembered_from_the_run_before():
    room = Room("kitchen", "Kitchen", listening=False, sensitivity=Sensitivity.MOST)
    house = House(replace(HOME, rooms=(room, HOME.rooms[1])), "kikimimi")

    assert state_of(house, "kikimimi/kitchen/listening/state") == "OFF"
    assert state_of(house, "kikimimi/kitchen/sensitivity/state") == "miss nothing"
    assert state_of(house, "kikimimi/kitchen/status") == "disabled"
    assert state_of(house, "kikimimi/hall/status") == "offline"
    assert state_of(house, "kikimimi/listening/state") == "ON"

    silent = House(replace(HOME, listening=False), "kikimimi")
    assert state_of(silent, "kikimimi/listening/state") == "OFF"
    assert state_of(silent, "kikimimi/hall/listening/state") == "ON"
    assert state_of(silent, "kikimimi/hall/status") == "disabled"


def test_a_room_that_may_not_listen_is_disabled_and_its_sounds_end():
    house = House(HOME, "kikimimi")
    house.messages(RoomChanged("kitchen", Presence.ONLINE), 1.0)
    house.messages(sound(), 1.0)
    messages = house.messages(ListeningChanged("kitchen", on=False), 2.0)

    assert [(message.topic, message.payload) for message in messages] == [
        ("kikimimi/kitchen/listening/state", "OFF"),
        ("kikimimi/kitchen/status", "disabled"),
        ("kikimimi/kitchen/sound/smoke_alarm/state", "OFF"),
        ("kikimimi/alert/state", "OFF"),
    ]
    assert all(message.retain and message.qos == 1 for message in messages)
    # whatever the source does meanwhile
    assert house.messages(RoomChanged("kitchen", Presence.ONLINE), 3.0)[0].payload == "disabled"
    assert house.messages(RoomChanged("hall", Presence.ONLINE), 3.0)[0].payload == "online"

    house.messages(ListeningChanged("kitchen", on=True), 4.0)
    assert state_of(house, "kikimimi/kitchen/status") == "online"


def test_a_source_that_was_closed_meanwhile_is_offline_until_it_is_there_again():
    house = House(HOME, "kikimimi")
    house.messages(RoomChanged("kitchen", Presence.ONLINE), 1.0)
    house.messages(ListeningChanged("kitchen", on=False), 2.0)
    house.messages(RoomChanged("kitchen", Presence.DISABLED), 2.0)
    house.messages(ListeningChanged("kitchen", on=True), 3.0)
    assert state_of(house, "kikimimi/kitchen/status") == "offline"

    house.messages(RoomChanged("kitchen", Presence.ONLINE), 4.0)
    assert state_of(house, "kikimimi/kitchen/status") == "online"


def test_the_switch_of_the_house_is_above_those_of_the_rooms():
    house = House(HOME, "kikimimi")
    for room in ("kitchen", "hall"):
        house.messages(RoomChanged(room, Presence.ONLINE), 1.0)
    house.messages(ListeningChanged("hall", on=False), 2.0)
    off = house.messages(ListeningChanged(None, on=False), 3.0)
    assert ("kikimimi/listening/state", "OFF") in [(message.topic, message.payload) for message in off]
    assert state_of(house, "kikimimi/kitchen/status") == "disabled"
    assert state_of(house, "kikimimi/kitchen/listening/state") == "ON"

    house.messages(ListeningChanged(None, on=True), 4.0)
    assert state_of(house, "kikimimi/kitchen/status") == "online"
    assert state_of(house, "kikimimi/hall/status") == "disabled"


def test_sensitivity_is_a_retained_state():
    house = House(HOME, "kikimimi")
    (message,) = house.messages(SensitivityChanged("hall", Sensitivity.FEWER), 1.0)

    assert (message.topic, message.payload) == ("kikimimi/hall/sensitivity/state", "fewer false alarms")
    assert message.retain
    assert state_of(house, "kikimimi/hall/sensitivity/state") == "fewer false alarms"


def test_a_problem_is_a_retained_state():
    house = House(HOME, "kikimimi")
    (message,) = house.messages(ProblemChanged("hall", Problem.STUCK), 1.0)

    assert (message.topic, message.payload, message.retain) == ("kikimimi/hall/problem", "stuck", True)
    assert state_of(house, "kikimimi/hall/problem") == "stuck"
    house.messages(ProblemChanged("hall", Problem.NONE), 2.0)
    assert state_of(house, "kikimimi/hall/problem") == "none"


# pictures, tests and intents


def test_a_picture_is_bytes_and_is_not_kept():
    (message,) = House(HOME, "kikimimi").messages(Pictured("kitchen", b"\x89PNG\xff"), 1.0)

    assert (message.topic, message.encoded()) == ("kikimimi/kitchen/spectrogram", b"\x89PNG\xff")
    assert (message.qos, message.retain, message.state) == (0, False, False)
    assert message.content_type == "image/png"


def test_a_test_event_is_told_and_switches_nothing():
    house = House(HOME, "kikimimi")
    messages = house.messages(sound("test", label="Test"), 1.0)

    assert topics(messages) == ["kikimimi/kitchen/last/sound", "kikimimi/kitchen/event"]
    assert state_of(house, "kikimimi/alert/state") == "OFF"


def recognised(*, late: bool = False) -> IntentRecognised:
    intent = Intent(
        "HassShoppingListAddItem", {"item": "secret cake", "area": "kitchen"}, "hassil", "en", free=frozenset({"item"})
    )
    return IntentRecognised(speech(intent=intent, late=late), handled=False)


def test_an_intent_has_a_topic_of_its_own():
    house = House(replace(HOME, transcripts=True), "kikimimi")
    (message,) = house.messages(recognised(), 1.0)

    assert message.topic == "kikimimi/kitchen/intent"
    assert json.loads(message.encoded()) == {
        "schema": 1,
        "id": "S",
        "room": "kitchen",
        "name": "HassShoppingListAddItem",
        "slots": {"item": "secret cake", "area": "kitchen"},
        "source": "hassil",
        "language": "en",
        "handled": False,
        "late": False,
    }
    assert (message.qos, message.retain) == (1, False)
    assert message.expiry is not None
    assert message.due(60.0) is message
    assert message.due(62.0) is None  # nobody wants a light to go on a minute after the fact


def test_without_transcripts_free_slots_stay_even_if_they_were_not_redacted():
    house = House(HOME, "kikimimi")
    messages = house.messages(recognised(), 1.0) + house.messages(recognised().event, 1.0)

    assert not [message for message in messages if b"secret" in message.encoded()]
    assert json.loads(messages[0].encoded())["slots"] == {"item": None, "area": "kitchen"}


def test_speech_without_an_intent_is_none():
    assert House(HOME, "kikimimi").messages(IntentRecognised(speech(), handled=False), 1.0) == []


def test_what_became_of_a_clip_is_told_and_no_state_names_one_that_is_not_there():
    house = House(HOME, "kikimimi")
    for fields in ({"clip": "d/A.flac"}, {"id": "B", "event_type": "doorbell", "clip": "d/B.flac"}):
        house.messages(sound(**fields), 0.0)
    (kept,) = house.messages(ClipSettled("kitchen", "A", "d/A.flac"), 1.0)
    assert (kept.topic, kept.payload) == (
        "kikimimi/kitchen/clip",
        {"schema": 1, "id": "A", "clip": "d/A.flac", "reason": None},
    )
    assert (kept.qos, kept.retain, kept.expiry) == (1, False, 60)
    lost = house.messages(ClipSettled("kitchen", "B", None, "speech"), 2.0)
    assert [message.payload["reason"] for message in lost[:1]] == ["speech"]  # type: ignore[index]
    assert sorted(topics(lost[1:])) == ["kikimimi/kitchen/last/sound", "kikimimi/kitchen/sound/doorbell/attributes"]
    states = {message.topic: message.payload for message in house.states(3.0)}
    assert states["kikimimi/kitchen/sound/smoke_alarm/attributes"]["clip"] == "d/A.flac"  # type: ignore[index]
    assert states["kikimimi/kitchen/sound/doorbell/attributes"]["clip"] is None  # type: ignore[index]
    assert states["kikimimi/kitchen/last/sound"]["clip"] is None  # type: ignore[index]
    assert all(message.retain for message in lost[1:])


def test_another_home_keeps_the_rooms_that_stay_and_forgets_those_that_went():
    house = House(replace(HOME, transcripts=True), "kikimimi")
    for room in ("kitchen", "hall"):
        house.messages(RoomChanged(room, Presence.ONLINE), 1.0)
        house.messages(sound(room=room, id=room), 1.0)
        house.messages(speech(room=room), 1.0)
    house.messages(SensitivityChanged("kitchen", Sensitivity("miss nothing")), 1.0)
    house.change(replace(HOME, rooms=(Room("kitchen", "台所"), Room("attic", "Attic", listening=False))))
    assert not [topic for topic in topics(house.states(2.0)) if "/hall/" in topic]
    assert topics(house.repeats(2.0)) == ["kikimimi/kitchen/sound/smoke_alarm/state"]
    assert state_of(house, "kikimimi/kitchen/status") == "online"
    assert state_of(house, "kikimimi/kitchen/sensitivity/state") == "miss nothing"
    assert state_of(house, "kikimimi/alert/state") == "ON"
    # words are private now, and those that were told are not told again
    assert "kikimimi/kitchen/last/speech" not in topics(house.states(2.0))
    assert "kikimimi/kitchen/last/sound" in topics(house.states(2.0))
    # the attic is there as if it always had been
    assert state_of(house, "kikimimi/attic/status") == "disabled"
    assert state_of(house, "kikimimi/attic/sound/doorbell/state") == "OFF"
    # and the alert ends with the sound
    house.messages(sound(room="kitchen", id="kitchen", state=State.ENDED), 3.0)
    assert state_of(house, "kikimimi/alert/state") == "OFF"


def test_an_alert_ends_with_its_room():
    house = House(HOME, "kikimimi")
    house.messages(sound(room="hall"), 1.0)
    assert state_of(house, "kikimimi/alert/state") == "ON"
    house.change(replace(HOME, rooms=HOME.rooms[:1]))
    assert state_of(house, "kikimimi/alert/state") == "OFF"
