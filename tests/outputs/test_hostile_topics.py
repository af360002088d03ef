"""Hostile texts at a real broker: a subscriber of everything sees no topic but ours."""

from __future__ import annotations

import json
from collections.abc import Callable

from brokers import HOME, Subscriber, until
from hostile_texts import EVIL
from paho.mqtt.enums import MQTTProtocolVersion

from assistant.events import Event, Intent, IntentRecognised, Publish, State, Word
from assistant.outputs.mqtt import Mqtt, MqttSettings


async def test_only_our_topics_come_out(
    any_port: int, started: Callable[..., Mqtt], subscribe: Callable[..., Subscriber]
):
    subscriber = subscribe(any_port, MQTTProtocolVersion.MQTTv311)
    await until(subscriber.subscribed.is_set)
    asked: list[object] = []

    async def answer(question: object) -> dict[str, str]:
        asked.append(question)
        return {"text": EVIL[len(asked) % len(EVIL)]}

    output = started(
        any_port,
        settings=MqttSettings(url=f"mqtt://127.0.0.1:{any_port}", hermes=True),
        answer=answer,
        command=lambda _: None,
    )
    await until(output.connected.is_set)
    for number, text in enumerate(EVIL):
        place = {"room": "kitchen", "source": text, "score": 0.9, "label": text, "caption": text}
        meant = Intent("HassTurnOn", {"name": text}, "model", "en")
        said = Event(
            id=f"S{number}", kind="speech", state=State.HEARD, event_type="speech", text=text, language=text,
            words=(Word(text, 0.0, 1.0),), intent=meant, emotion=text, **place,
        )  # fmt: skip
        output.offer(said)
        output.offer(IntentRecognised(said, handled=True))
        output.offer(Event(id=f"H{number}", kind="sound", state=State.STARTED, event_type=text, **place))
        output.offer(Publish("said/plain", text, rule="r"))
        if number < 12:  # more at once would be refused for that reason
            subscriber.publish("kikimimi/ask", json.dumps({"text": "?", "reply_to": text[:300]}))
    subscriber.publish("kikimimi/ask", json.dumps({"text": "?", "reply_to": "kikimimi/reply/x"}))
    await until(lambda: subscriber.payloads("kikimimi/reply/x"))
    output.offer(Publish("the/end", "1"))
    await until(lambda: subscriber.payloads("the/end"), 30)

    ends = (
        "event",
        "last/sound",
        "last/speech",
        "intent",
        "status",
        "listening/state",
        "sensitivity/state",
        "problem",
        "clip",
    )
    rooms = {f"kikimimi/{room.id}/{end}" for room in HOME.rooms for end in ends}
    house = {
        f"kikimimi/{end}" for end in ("status", "alert/state", "listening/state", "announced/7f3a", "ask", "health")
    }
    hermes, rules = (
        {"hermes/intent/HassTurnOn", "hermes/asr/textCaptured"},
        {"said/plain", "the/end", "kikimimi/reply/x"},
    )
    for topic in set(subscriber.topics()) - rooms - house - hermes - rules:
        assert topic.startswith(
            ("kikimimi/kitchen/sound/", "kikimimi/bed-room/sound/", "homeassistant/device/kikimimi")
        )
        assert topic.count("/") <= 4
