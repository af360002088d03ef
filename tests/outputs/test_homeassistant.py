"""Discovery payloads against the rules of Home Assistant's MQTT integration (its schemas.py), written down anew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jinja2
import pytest
from brokers import HOME
from pydantic import ValidationError

from assistant.events import Command, Event, State
from assistant.outputs.commands import Commands
from assistant.outputs.homeassistant import HomeAssistantSettings, config_topic, hub_payload, room_payload
from assistant.outputs.mqtt_client import Arrived
from assistant.outputs.topics import House, Message, Room

ROOT_KEYS = {
    "device", "origin", "components", "availability", "availability_mode", "availability_topic",
    "availability_template", "payload_available", "payload_not_available", "state_topic", "command_topic", "qos",
    "encoding",
}  # fmt: skip
DEVICE_KEYS = {
    "identifiers", "connections", "manufacturer", "model", "model_id", "name", "hw_version", "serial_number",
    "sw_version", "via_device", "suggested_area", "configuration_url",
}  # fmt: skip
ORIGIN_KEYS = {"name", "sw_version", "support_url"}
REQUIRED = {
    "event": {"state_topic", "event_types"},
    "binary_sensor": {"state_topic"},
    "sensor": {"state_topic"},
    "device_automation": {"automation_type", "topic", "type", "subtype"},
    "switch": {"command_topic", "state_topic"},
    "select": {"command_topic", "options"},
    "button": {"command_topic"},
    "notify": {"command_topic"},
    "image": {"image_topic"},
}
COMMON_KEYS = {
    "platform", "unique_id", "name", "icon", "default_entity_id", "entity_category", "availability", "qos",
}  # fmt: skip
ENTITY_KEYS = COMMON_KEYS | {"device_class", "state_topic", "value_template", "json_attributes_topic", "expire_after"}
KEYS = {
    "event": ENTITY_KEYS | {"event_types"},
    "binary_sensor": ENTITY_KEYS | {"payload_on", "payload_off", "off_delay"},
    "sensor": ENTITY_KEYS | {"unit_of_measurement", "state_class", "suggested_display_precision", "options"},
    "device_automation": {"platform", "automation_type", "topic", "payload", "type", "subtype", "qos"},
    "switch": COMMON_KEYS | {"state_topic", "command_topic"},
    "select": COMMON_KEYS | {"state_topic", "command_topic", "options"},
    "button": COMMON_KEYS | {"command_topic"},
    "notify": COMMON_KEYS | {"command_topic"},
    "image": COMMON_KEYS - {"qos"} | {"image_topic", "content_type"},
}
DEVICE_CLASSES = {
    "event": {"doorbell", "button", "motion"},
    "binary_sensor": {"connectivity", "safety", "sound", "problem"},
    "sensor": {"duration", "data_size", "enum"},
}
DURATION_UNITS = {"d", "h", "min", "s", "ms", "μs"}


def check(topic: str, payload: dict[str, Any]) -> None:
    """Fail on whatever Home Assistant would refuse or warn of."""
    assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)
    assert set(payload) <= ROOT_KEYS
    assert payload["origin"]["name"]
    assert set(payload["origin"]) <= ORIGIN_KEYS
    assert set(payload["device"]) <= DEVICE_KEYS
    assert payload["device"]["identifiers"]
    ids = [component["unique_id"] for component in payload["components"].values() if "unique_id" in component]
    assert len(ids) == len(set(ids))
    for key, component in payload["components"].items():
        check_component(key, component)
    assert len(json.dumps(payload, ensure_ascii=False).encode()) < 60_000


def check_component(key: str, component: dict[str, Any]) -> None:
    platform = component["platform"]
    assert set(component) <= KEYS[platform], key
    assert REQUIRED[platform] <= set(component), key
    for name, value in component.items():
        if name.endswith("topic"):
            assert not re.search(r"[+#\x00]|^/|/$", value), key
    if platform == "device_automation":
        assert component["automation_type"] == "trigger"
        return
    assert re.fullmatch(rf"{platform}\.[a-z0-9_]+", component["default_entity_id"]), key
    assert component.get("device_class") in {None, *DEVICE_CLASSES.get(platform, ())}
    assert component.get("entity_category") in {None, "diagnostic", "config"}
    assert ("options" in component) == (component.get("device_class") == "enum" or platform == "select"), key
    if component.get("device_class") == "duration":
        assert component["unit_of_measurement"] in DURATION_UNITS


def rooms() -> list[dict[str, Any]]:
    return [room_payload(HOME, room, "kikimimi") for room in HOME.rooms]


def components(payload: dict[str, Any], platform: str) -> dict[str, dict[str, Any]]:
    return {key: each for key, each in payload["components"].items() if each["platform"] == platform}


def test_every_payload_keeps_the_rules():
    check(config_topic("homeassistant", "7f3a"), hub_payload(HOME, "kikimimi"))
    for room in HOME.rooms:
        check(config_topic("homeassistant", "7f3a", room.id), room_payload(HOME, room, "kikimimi"))


def test_ids_are_unique_in_the_house_and_stay_when_names_change():
    payloads = [hub_payload(HOME, "kikimimi"), *rooms()]
    ids = [each["unique_id"] for payload in payloads for each in payload["components"].values() if "unique_id" in each]
    renamed = replace(HOME, version="9", rooms=(Room("kitchen", "Küche"), HOME.rooms[1]))
    again = room_payload(renamed, renamed.rooms[0], "kikimimi")

    assert len(ids) == len(set(ids))
    assert again["device"]["name"] == "Küche"
    assert again["device"]["identifiers"] == payloads[1]["device"]["identifiers"]
    assert [each.get("unique_id") for each in again["components"].values()] == [
        each.get("unique_id") for each in payloads[1]["components"].values()
    ]


def test_a_room_belongs_to_the_hub_and_keeps_its_name():
    hub, room = hub_payload(HOME, "kikimimi"), rooms()[0]

    assert room["device"]["via_device"] in hub["device"]["identifiers"]
    assert room["device"]["name"] == "台所"
    assert room["device"]["suggested_area"] == "Kitchen"
    assert "suggested_area" not in rooms()[1]["device"]
    assert [each["topic"] for each in room["availability"]] == ["kikimimi/status", "kikimimi/kitchen/status"]
    assert room["availability_mode"] == "all"


def test_what_is_lost_can_still_be_seen():
    """The service's and the microphone's own state must not depend on themselves being there."""
    assert "availability" not in hub_payload(HOME, "kikimimi")["components"]["status"]
    assert rooms()[0]["components"]["microphone"]["availability"] == [{"topic": "kikimimi/status"}]


def test_a_room_that_may_not_listen_is_not_available_but_can_be_switched_on():
    room = rooms()[0]
    template = jinja2.Template(room["availability"][1]["value_template"])

    assert [template.render(value=value) for value in ("online", "offline", "disabled")] == [
        "online",
        "offline",
        "offline",
    ]
    for key in ("listening", "sensitivity", "say"):
        assert room["components"][key]["availability"] == [{"topic": "kikimimi/status"}]


def test_a_problem_is_one_of_those_that_are_told():
    sensor = rooms()[0]["components"]["problem"]
    assert sensor["device_class"] == "enum"
    assert sensor["options"] == ["none", "silent", "stuck", "clipped"]


def test_the_choices_of_sensitivity_are_those_that_are_taken():
    assert rooms()[0]["components"]["sensitivity"]["options"] == ["fewer false alarms", "balanced", "miss nothing"]


def test_the_event_entity_knows_every_type_that_can_be_sent():
    event = rooms()[0]["components"]["sound_event"]

    assert event["event_types"] == ["dog_bark", "doorbell", "other", "smoke_alarm", "speech", "test"]
    assert event["value_template"] == ("{{ value if value_json.state != 'ended' and not value_json.late else '' }}")


def test_only_life_safety_sounds_are_safety_and_they_are_heard_not_detected():
    sensors = components(rooms()[0], "binary_sensor")

    assert sensors["sound_smoke_alarm"]["device_class"] == "safety"
    assert sensors["sound_smoke_alarm"]["name"] == "Smoke alarm heard"
    assert sensors["sound_dog_bark"]["device_class"] == "sound"
    assert sensors["sound_dog_bark"]["name"] == "Dog barking"
    for payload in (hub_payload(HOME, "kikimimi"), *rooms()):
        assert not {"smoke", "gas", "carbon_monoxide"} & {
            str(each.get("device_class")) for each in payload["components"].values()
        }


def test_triggers_are_the_types_that_have_a_state():
    triggers = components(rooms()[0], "device_automation").values()

    assert [(trigger["payload"], trigger["subtype"], trigger["topic"]) for trigger in triggers] == [
        (kind, kind, "kikimimi/kitchen/trigger") for kind in ("smoke_alarm", "dog_bark", "doorbell")
    ]


def test_every_topic_that_is_announced_is_one_that_is_published():
    house = House(HOME, "kikimimi")
    published = {message.topic for message in [*house.states(0.0), house.status(0.0)]}
    facts: list[Message] = []
    for number, sound in enumerate(HOME.sounds):
        for room in HOME.rooms:
            event = Event(
                id=str(number), room=room.id, source="mic", kind="sound", state=State.STARTED,
                event_type=sound.event_type, label="x", score=1.0,
            )  # fmt: skip
            facts += house.messages(event, 0.0)
    published |= {message.topic for message in facts} | {"kikimimi/health"}
    published |= {f"kikimimi/{room.id}/{end}" for room in HOME.rooms for end in ("last/speech", "level", "spectrogram")}

    announced = {
        value
        for payload in (hub_payload(HOME, "kikimimi"), *rooms())
        for component in payload["components"].values()
        for name, value in component.items()
        if name.endswith("topic") and name != "command_topic"
    }
    assert announced <= published


def test_every_command_that_is_announced_is_one_that_is_taken():
    taken: list[Command] = []
    commands = Commands("kikimimi", [room.id for room in HOME.rooms], taken.append, lambda: 0.0)
    announced = [
        component
        for payload in (hub_payload(HOME, "kikimimi"), *rooms())
        for component in payload["components"].values()
        if "command_topic" in component
    ]
    sent = {"switch": "OFF", "select": "miss nothing", "button": "PRESS", "notify": "The washing is done"}
    for component in announced:
        commands.received(Arrived(component["command_topic"], sent[component["platform"]].encode(), retained=False))

    assert len(taken) == len(announced) == 2 + 4 * len(HOME.rooms)
    assert commands.refused == 0


def test_a_removed_type_is_named_without_content():
    payload = room_payload(HOME, HOME.rooms[0], "kikimimi", removed=("cat",))

    assert payload["components"]["sound_cat"] == {"platform": "binary_sensor"}
    assert payload["components"]["trigger_cat"] == {"platform": "device_automation"}


def test_a_web_page_is_linked_when_there_is_one():
    linked = replace(HOME, url="http://house.local:8765")

    assert "configuration_url" not in hub_payload(HOME, "kikimimi")["device"]
    assert hub_payload(linked, "kikimimi")["device"]["configuration_url"] == "http://house.local:8765"


@pytest.mark.parametrize("prefix", ["", "/homeassistant", "home/", "home/#", "+"])
def test_a_prefix_that_is_no_topic(prefix: str):
    with pytest.raises(ValidationError, match="prefix"):
        HomeAssistantSettings(prefix=prefix)


def test_a_problem_with_clips_is_seen_where_clips_are_kept():
    entity = hub_payload(HOME, "kikimimi")["components"]["clips"]
    state = jinja2.Environment().from_string(entity["value_template"])  # noqa: S701 (no HTML)
    assert state.render(value_json={"clips_problem": "the disk is nearly full"}) == "ON"
    assert state.render(value_json={"clips_problem": None}) == "OFF"
    assert entity["device_class"] == "problem"

    without = hub_payload(replace(HOME, clips=False), "kikimimi")
    assert without["components"]["clips"] == {"platform": "binary_sensor"}  # deletes one that was there
