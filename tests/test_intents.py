"""Devices, what they are told, and why nothing is: clashes, places, values, languages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from assistant.config import shipped
from assistant.devices import DeviceList, DeviceSettings
from assistant.errors import ConfigurationError
from assistant.events import Intent
from assistant.grammar import LONGEST, language_of, number_of
from assistant.intents import Intents, NotUnderstood

ROOMS = {"kitchen": ("Kitchen", "ground floor"), "hall": ("Hall", "ground floor"), "bedroom": ()}


def device(name: str, **fields: Any) -> DeviceSettings:
    return DeviceSettings.model_validate({"name": name, "topic": f"t/{name}", "domain": "light", **fields})


def house(*devices: DeviceSettings, languages: tuple[str, ...] = ("en",)) -> Intents:
    return Intents(devices, ROOMS, languages, shipped("intents/ja.yaml").parent)


@pytest.fixture(scope="module")
def two_lamps() -> Intents:
    return house(
        device("lamp", area="hall", topic="t/hall"),
        device("lamp", area="bedroom", topic="t/bedroom"),
        device("heating", domain="climate", payloads={"temperature": "{{ value }}"}, temperatures=(10, 25)),
        device("blind", domain="cover", area="bedroom"),
        DeviceSettings(name="robot", domain="vacuum", area="hall"),
    )


def done(outcome: Intent | NotUnderstood) -> dict[str, str]:
    assert isinstance(outcome, Intent), outcome
    return {message.topic: message.payload for message in outcome.publish}


def reason(outcome: Intent | NotUnderstood) -> str:
    assert isinstance(outcome, NotUnderstood), outcome
    return outcome.reason


def test_twins_of_one_area_clash_and_those_of_two_do_not() -> None:
    devices = TypeAdapter(DeviceList)
    both = [device("Lamp", area="Hall"), device("Ｌａｍｐ", area="hall")]
    with pytest.raises(
        ValidationError, match=r"'Ｌａｍｐ' and 'Lamp', both in hall, can both be called 'lamp'; remedy"
    ):
        devices.validate_python(both)
    with pytest.raises(ValidationError, match="both without an area, can both be called 'spot'"):
        devices.validate_python([device("lamp", aliases=["spot"]), device("Spot")])
    assert len(devices.validate_python([device("lamp", area="hall"), device("lamp", area="bedroom")])) == 2
    assert len(devices.validate_python([device("lamp", aliases=["lamp", "Lamp"])])) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"topic": "a/#"}, "no topic to publish to"),
        ({"topic": "a/{{ value }}"}, "the topic of a device is literal"),
        ({"domain": None}, "needs a domain"),
        ({"aliases": [" "]}, "blank"),
        ({"payloads": {"brightness": "50"}}, "ignores what is asked for"),
        ({"payloads": {"on": "{{ value }}"}}, "on has no value"),
        ({"payloads": {"brightness": "{{ valu }}"}}, "lamp: payloads.brightness"),
        ({"payloads": {"brightness": "{{ value"}}, "lamp: payloads.brightness"),
        ({"payloads": {"on": "x"}, "topic": None}, "where to"),
        ({"temperatures": [30, 20]}, "the lowest comes first"),
    ],
)
def test_a_device_that_cannot_work_says_which_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        device("lamp", **fields)


def test_the_room_that_heard_it_decides_between_twins_and_where_lights_are(two_lamps: Intents) -> None:
    assert done(two_lamps.understand("turn on the lamp", area="hall")) == {"t/hall": "ON"}
    assert done(two_lamps.understand("turn on the lights", area="bedroom")) == {"t/bedroom": "ON"}
    assert done(two_lamps.understand("turn on the bedroom lamp", area="hall")) == {"t/bedroom": "ON"}
    assert "lamp can be one of several: in hall, bedroom" in reason(two_lamps.understand("turn on the lamp"))
    assert "no room" in reason(two_lamps.understand("turn on the lights"))
    assert "there is no light in kitchen" in reason(two_lamps.understand("turn on the lights", area="kitchen"))


def test_an_area_of_several_rooms_holds_the_devices_of_all(two_lamps: Intents) -> None:
    assert done(two_lamps.understand("turn on the ground floor lights", area="bedroom")) == {"t/hall": "ON"}


def test_values_beyond_what_a_device_takes_are_refused(two_lamps: Intents) -> None:
    assert done(two_lamps.understand("set the heating to 25 degrees", area="hall")) == {"t/heating": "25"}
    assert "26 degrees are out of range: 10 to 25" in reason(
        two_lamps.understand("set the heating to 26 degrees", area="hall")
    )
    assert "there is no payload for brightness; remedy: payloads.brightness" in reason(
        two_lamps.understand("set the lamp to 50 percent", area="hall")
    )


def test_a_device_without_topic_is_left_to_whoever_reads_the_intent(two_lamps: Intents) -> None:
    outcome = two_lamps.understand("start the robot", area="hall")

    assert isinstance(outcome, Intent)
    assert (outcome.name, outcome.slots["name"], outcome.publish) == ("HassVacuumStart", "robot", ())


def test_a_name_alone_is_no_order(two_lamps: Intents) -> None:
    outcome = two_lamps.understand("the lamp", area="hall")

    assert isinstance(outcome, NotUnderstood)
    assert outcome.matched
    assert "only named" in outcome.reason


def test_the_reply_is_in_the_language_of_the_command(two_lamps: Intents) -> None:
    outcome = two_lamps.understand("what time is it", now=datetime(2026, 11, 24, 9, 5, tzinfo=UTC))

    assert isinstance(outcome, Intent)
    assert "9:05" in outcome.reply


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("zh-cn", "zh-CN"),
        ("ZH_cn", "zh-CN"),
        ("zh", "zh-CN"),
        ("EN-us", "en"),
        ("ja_JP", "ja"),
        ("de-AT", "de"),
        ("xx", None),
        ("", None),
    ],
)
def test_codes_of_languages_in_any_case(code: str, language: str | None) -> None:
    assert language_of(code) == language


def test_an_unknown_language_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ConfigurationError, match="'xx'; remedy: a code such as en"):
        house(languages=("xx",))


def test_what_is_too_long_for_a_command_or_empty_is_none(two_lamps: Intents) -> None:
    assert "no command" in reason(two_lamps.understand("turn on the lamp " * 50))
    assert str(LONGEST) in reason(two_lamps.understand("a" * (LONGEST + 1)))
    assert reason(two_lamps.understand(" ?!", language="en")) == "nothing was said"


def test_numerals() -> None:
    assert [number_of(text) for text in ("五", "十", "二十五", "百", "百二十", "三五", "〇")] == [
        5,
        10,
        25,
        100,
        120,
        35,
        0,
    ]


def test_a_french_timer_is_no_music_and_whole_numbers_stay_whole() -> None:
    french = house(device("lampe", payloads={"brightness": "{{ value }}"}), languages=("fr",))
    timer = french.understand("Démarre un minuteur de 5 minutes", language="fr", area="kitchen")
    assert isinstance(timer, Intent)
    assert (timer.name, timer.slots) == ("HassStartTimer", {"minutes": 5})
    dimmed = french.understand("Règle la luminosité de la lampe à 40 %", language="fr", area="kitchen")
    assert isinstance(dimmed, Intent)
    assert repr(dimmed.slots["brightness"]) == "40"
