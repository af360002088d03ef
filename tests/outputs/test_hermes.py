"""Hermes topics over real brokers: told when asked for, and never more than may be known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from brokers import HOME, Subscriber, until

from assistant.events import Event, Intent, IntentRecognised, State
from assistant.outputs.hermes import hermes_messages
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt import Mqtt, MqttSettings

INTENT = Intent(
    "HassLightSet",
    {"name": "kitchen light", "brightness": 40, "item": "half a pound of figs"},
    "hassil",
    "en",
    free=frozenset({"item"}),
)
SPEECH = Event(
    id="01JDC9", room="kitchen", source="mic", kind="speech", state=State.HEARD, event_type="speech", label="Speech",
    score=0.75, text="dim the kitchen light to 40", language="en", intent=INTENT, duration=1.5,
)  # fmt: skip
CAPTURED, MEANT = "hermes/asr/textCaptured", "hermes/intent/HassLightSet"


async def told(
    port: int,
    started: Callable[..., Mqtt],
    subscribe: Callable[..., Subscriber],
    *,
    hermes: bool = True,
    transcripts: bool = True,
) -> Subscriber:
    """What a subscriber sees of one command, up to the intent on our own topic."""
    subscriber = subscribe(port)
    output = started(
        port,
        replace(HOME, transcripts=transcripts),
        settings=MqttSettings(url=f"mqtt://127.0.0.1:{port}", hermes=hermes),
        homeassistant_settings=HomeAssistantSettings(discovery=False),
    )
    await until(subscriber.subscribed.is_set)
    await asyncio.wait_for(output.connected.wait(), 20)
    output.offer(SPEECH)
    output.offer(IntentRecognised(SPEECH, handled=True))
    await until(lambda: subscriber.payloads("kikimimi/kitchen/intent"))
    if hermes:
        await until(lambda: subscriber.payloads(MEANT))
    return subscriber


def only(subscriber: Subscriber, topic: str) -> dict[str, Any]:
    (payload,) = subscriber.payloads(topic)
    return dict(json.loads(payload))


async def test_text_and_intent_are_told(
    any_port: int, started: Callable[..., Mqtt], subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = await told(any_port, started, subscribe)
    captured, meant = only(subscriber, CAPTURED), only(subscriber, MEANT)
    assert captured["text"] == meant["input"] == "dim the kitchen light to 40"
    assert (captured["likelihood"], captured["seconds"], captured["lang"]) == (0.75, 1.5, "en")
    for message in (captured, meant):
        assert (message["siteId"], message["sessionId"]) == ("kitchen", "01JDC9")
    assert meant["intent"] == {"intentName": "HassLightSet", "confidenceScore": 0.75}
    slots = {slot["slotName"]: slot for slot in meant["slots"]}
    assert slots["brightness"]["value"] == {"kind": "Number", "value": 40}
    assert slots["name"]["value"] == {"kind": "Custom", "value": "kitchen light"}
    assert slots["name"]["entity"] == "name"
    assert slots["name"]["rawValue"] == "kitchen light"
    assert not any(message.retained for message in subscriber.seen if message.topic.startswith("hermes/"))


async def test_without_transcripts_no_word_leaves(
    any_port: int, started: Callable[..., Mqtt], subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = await told(any_port, started, subscribe, transcripts=False)
    assert subscriber.payloads(CAPTURED) == []
    meant = only(subscriber, MEANT)
    assert meant["input"] == meant["rawInput"] == ""
    assert [slot["slotName"] for slot in meant["slots"]] == ["name", "brightness"]
    assert not any("figs" in message.payload or "dim the" in message.payload for message in subscriber.seen)


async def test_nothing_is_told_unasked(
    any_port: int, started: Callable[..., Mqtt], subscribe: Callable[..., Subscriber]
) -> None:
    subscriber = await told(any_port, started, subscribe, hermes=False)
    assert not any(topic.startswith("hermes/") for topic in subscriber.topics())


@pytest.mark.parametrize(
    "item",
    [
        replace(SPEECH, text=None),
        replace(SPEECH, text=""),
        replace(SPEECH, kind="sound"),
        IntentRecognised(replace(SPEECH, intent=None), handled=False),
    ],
)
def test_what_has_no_words_or_no_intent_is_not_told(item: Event | IntentRecognised) -> None:
    assert hermes_messages(item, 0.0, transcripts=True) == []


def test_an_intent_cannot_choose_its_topic() -> None:
    odd = replace(SPEECH, intent=replace(INTENT, name="a/b#"))
    (message,) = hermes_messages(IntentRecognised(odd, handled=False), 0.0, transcripts=True)
    assert message.topic == "hermes/intent/a_b_"
    assert message.due(61.0) is None
