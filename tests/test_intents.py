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


def test_what_a_name_begins_or_ends_with_is_no_filler() -> None:
    ja = house(
        device("おやすみモード", domain="input_boolean", topic="t/night"),
        device("おやすみライト", topic="t/lamp", area="bedroom"),
        device("天井灯", topic="t/ceiling", area="bedroom"),
        languages=("ja",),
    )
    assert done(ja.understand("おやすみモードをオンにして", area="bedroom")) == {"t/night": "ON"}
    assert done(ja.understand("すみません、おやすみライトを消してください", area="bedroom")) == {"t/lamp": "OFF"}
    assert done(ja.understand("おやすみ、電気を消して", area="bedroom")) == {"t/lamp": "OFF", "t/ceiling": "OFF"}
    en = house(device("so lamp", topic="t/so"), device("right now", domain="scene", topic="t/scene"))
    assert done(en.understand("so, turn on the so lamp please")) == {"t/so": "ON"}
    assert done(en.understand("so lamp on")) == {"t/so": "ON"}
    assert done(en.understand("activate right now")) == {"t/scene": "ON"}


def test_names_are_compared_without_their_punctuation_and_with_their_numerals_as_digits() -> None:
    de = house(
        device("Lampe (Bad)", topic="t/bath"), device("Dr. Kühl", domain="fan", topic="t/fan"), languages=("de",)
    )
    assert done(de.understand("Schalte die Lampe Bad ein")) == {"t/bath": "ON"}
    assert done(de.understand("Schalte Dr. Kühl aus")) == {"t/fan": "OFF"}
    ja = house(
        device("二段ベッドの灯り", topic="t/bunk"), device("リビング・ライト", topic="t/living"), languages=("ja",)
    )
    assert done(ja.understand("二段ベッドの灯りをつけて")) == {"t/bunk": "ON"}
    assert done(ja.understand("リビングライトを消して")) == {"t/living": "OFF"}


def test_traditional_characters_are_understood_where_chinese_is_spoken() -> None:
    zh = house(
        device("電視", domain="media_player", topic="t/tv"), device("卧室灯", topic="t/lamp"), languages=("zh-CN",)
    )
    for text in ("打開電視", "打开电视"):
        assert done(zh.understand(text)) == {"t/tv": "ON"}
    assert done(zh.understand("請關閉臥室燈")) == {"t/lamp": "OFF"}
    assert isinstance(zh.understand("別關臥室燈"), NotUnderstood)


def test_degrees_of_the_other_scale_are_refused() -> None:
    payloads = {"temperature": "{{ value }}"}
    celsius = house(device("heating", domain="climate", payloads=payloads))
    assert done(celsius.understand("set the heating to 20 degrees celsius")) == {"t/heating": "20"}
    assert done(celsius.understand("set the heating to 20°C")) == {"t/heating": "20"}
    for text in ("set the heating to 30°F", "set the heating to 30 degrees Fahrenheit"):
        assert "degrees are °C there" in reason(celsius.understand(text))
    fahrenheit = house(device("heating", domain="climate", payloads=payloads, temperatures=(41, 95)))
    assert done(fahrenheit.understand("set the heating to 70°F")) == {"t/heating": "70"}
    assert done(fahrenheit.understand("set the heating to 70")) == {"t/heating": "70"}
    assert "degrees are °F there" in reason(fahrenheit.understand("set the heating to 50 degrees celsius"))


def test_the_only_garage_door_of_a_house_is_meant_from_every_room() -> None:
    doors = [device(name, domain="cover", device_class="garage") for name in ("left portal", "right portal")]
    assert done(house(doors[0]).understand("open the garage door", area="kitchen")) == {"t/left portal": "OPEN"}
    assert done(house(doors[0]).understand("open the garage door")) == {"t/left portal": "OPEN"}
    assert "no garage in kitchen" in reason(house(*doors).understand("open the garage door", area="kitchen"))
    assert "no room" in reason(house(*doors).understand("open the garage door"))
    blind = device("roller", domain="cover", device_class="blind", area="hall")
    assert "no blind in kitchen" in reason(house(blind).understand("open the blinds", area="kitchen"))


def test_an_area_of_several_rooms_can_be_said_as_a_floor(two_lamps: Intents) -> None:
    assert done(two_lamps.understand("turn off the lights on the ground floor", area="bedroom")) == {"t/hall": "OFF"}


@pytest.mark.parametrize(
    ("text", "why", "reply"),
    [
        ("set a timer for 5 minutes", "nothing here does HassStartTimer", "timers are not supported"),
        ("add milk to my shopping list", "nothing here does HassShoppingListAddItem", "no device supports"),
        ("is the lamp on", "what state things are in is not known", "no device supports"),
        ("start the robot", "robot: there is no topic", ""),
    ],
)
def test_what_nothing_follows_from_is_not_confirmed(two_lamps: Intents, text: str, why: str, reply: str) -> None:
    outcome = two_lamps.understand(text, area="hall")

    assert isinstance(outcome, Intent)
    assert not outcome.publish
    assert why in outcome.undone
    assert reply in outcome.reply
    assert bool(reply) == bool(outcome.reply)


def test_what_home_assistant_keeps_is_left_to_it_to_answer() -> None:
    lent = house(*(DeviceSettings(name=name, domain=name) for name in ("todo", "weather")))
    for text in ("add milk to my shopping list", "what's the weather like"):
        outcome = lent.understand(text, area="hall")
        assert isinstance(outcome, Intent)
        assert (outcome.publish, outcome.reply) == ((), "")
        assert "others may act" in outcome.undone
    listed = lent.understand("add milk to my todo list")
    assert isinstance(listed, Intent)
    assert listed.slots == {"item": "milk", "name": "todo"}
    with pytest.raises(ValidationError, match="a todo is told nothing"):
        device("chores", domain="todo")


def test_replies_name_a_room_as_people_do() -> None:
    zh = Intents([device("灯", area="kitchen")], {"kitchen": ("厨房",)}, ("zh-CN",), shipped("intents/ja.yaml").parent)
    outcome = zh.understand("打开厨房的灯", area="kitchen")
    assert isinstance(outcome, Intent)
    assert "kitchen" not in outcome.reply
    assert "Home Assistant" not in getattr(zh.understand("你好"), "reply", "")


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "turn the lamp down to 30 percent", "30"),
        ("fr", "Veuillez régler la lamp à 30 %", "30"),
        ("fr", "Mettez la lamp à trente pour cent", "30"),
        ("es", "Ponme la lamp al 30 por ciento", "30"),
        ("ja", "lamp３０％", "30"),
        ("ja", "lampを三十パーセントにして", "30"),
        ("zh-CN", "把lamp調到百分之三十", "30"),
    ],
)
def test_one_brightness_in_several_wordings(language: str, text: str, expected: str) -> None:
    lamp = house(device("lamp", payloads={"brightness": "{{ value }}"}), languages=(language,))
    assert done(lamp.understand(text, language=language, area="hall")) == {"t/lamp": expected}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Stop the roller please"),
        ("de", "Halte die roller an"),
        ("fr", "Arrête la roller"),
        ("es", "Para la roller"),
        ("ja", "rollerを止めて"),
        ("zh-CN", "停止roller"),
    ],
)
def test_a_cover_can_be_stopped(language: str, text: str) -> None:
    covers = house(device("roller", domain="cover", area="bedroom"), languages=(language,))
    outcome = covers.understand(text, language=language, area="hall")
    assert done(outcome) == {"t/roller": "STOP"}
    assert getattr(outcome, "reply", "")


def test_a_name_without_a_letter_matches_nothing() -> None:
    odd = house(device("?!", topic="t/odd"), device("lamp", topic="t/lamp"))
    assert done(odd.understand("turn on the lamp")) == {"t/lamp": "ON"}
    assert isinstance(odd.understand("turn on"), NotUnderstood)


def test_a_plain_code_means_the_variety_that_the_house_speaks() -> None:
    taiwan = house(device("電視", domain="media_player", topic="t/tv"), languages=("zh-TW",))
    for code in ("zh", "ZH-tw", None):
        assert done(taiwan.understand("打開電視", language=code)) == {"t/tv": "ON"}


def test_thousands_may_be_grouped() -> None:
    lamp = house(device("lamp", payloads={"color_temperature": "{{ value }}"}))
    assert done(lamp.understand("set the lamp temperature to 2,700 kelvin")) == {"t/lamp": "2700"}
    assert "400" in reason(lamp.understand("set the lamp to 400 percent"))


def test_every_room_is_lit_where_french_says_everywhere() -> None:
    lamps = [device(f"lampe {room}", area=room) for room in ("hall", "bedroom")]
    french = house(*lamps, languages=("fr",))
    for text in ("Allumez les lumières dans toute la maison", "Allume la lumière partout, s'il te plaît"):
        assert done(french.understand(text, area="hall")) == {"t/lampe hall": "ON", "t/lampe bedroom": "ON"}
    assert isinstance(french.understand("N'allume pas les lumières partout", area="hall"), NotUnderstood)


@pytest.mark.parametrize(
    ("language", "kind", "text"),
    [
        ("en", "blind", "Please close all of the blinds"),
        ("de", "blind", "Mach bitte alle Jalousien zu"),
        ("fr", "shutter", "Fermez les volets partout"),
        ("es", "blind", "Baja todas las persianas"),
        ("ja", "curtain", "家中のカーテンを閉めてください"),
        ("zh-CN", "curtain", "把所有的窗帘都关上"),
    ],
)
def test_all_blinds_are_those_of_the_house_and_doors_are_not_among_them(language: str, kind: str, text: str) -> None:
    rooms = ("hall", "bedroom")
    covers = [device(f"q{room}", domain="cover", device_class=kind, area=room, topic=f"t/{room}") for room in rooms]
    doors = [device(f"g{room}", domain="cover", device_class="garage", area=room) for room in rooms]
    all_of_them = house(*covers, *doors, languages=(language,))
    outcome = all_of_them.understand(text, language=language, area="hall")
    assert done(outcome) == {"t/hall": "CLOSE", "t/bedroom": "CLOSE"}
    assert getattr(outcome, "reply", "")
    assert isinstance(all_of_them.understand("open all garage doors", language=language, area=None), NotUnderstood)


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("open the blind", True),
        ("turn on the lights in the hall", True),
        ("turn off the lamp in the bedroom", True),
        ("set the heating to twenty degrees", True),
        ("never mind", True),
        ("turn on the lights", False),  # in the bedroom
        ("turn off all the lights", False),  # in the bedroom
        ("turn off the lamp", False),  # in the bedroom: it has a twin
        ("set the heating to twenty", False),  # one degrees
        ("set the heating to 20", False),
        ("set the temperature to twenty degrees", False),  # in the hall
        ("set a timer for five minutes", False),  # and ten seconds
        ("add milk to the shopping list", False),  # free words
        ("set the heating to 99 degrees", False),  # refused
        ("turn on the", False),
    ],
)
def test_a_command_is_settled_where_nothing_that_may_follow_changes_it(
    two_lamps: Intents, text: str, settled: bool
) -> None:
    assert two_lamps.settled(text, language="en", area="hall") is settled


def test_a_name_that_begins_another_may_go_on() -> None:
    lights = house(device("desk", area="hall"), device("desk lamp", area="hall"))
    assert not lights.settled("turn on the desk", language="en", area="hall")
    assert lights.settled("turn on the desk lamp", language="en", area="hall")


def test_a_language_that_names_the_place_first_has_said_it() -> None:
    lights = house(device("ランプ", area="hall"), languages=("ja",))
    assert lights.settled("電気をつけて", language="ja", area="hall")
