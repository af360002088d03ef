"""Questions over real brokers: each is answered once, where it may be, and nothing that arrives breaks the daemon."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from brokers import Mosquitto, Subscriber, until
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTProtocolVersion

from assistant.errors import ModelError
from assistant.outputs import mqtt, questions
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt import Mqtt
from assistant.outputs.questions import AT_ONCE, BURST, Question, Questions
from assistant.outputs.topics import Message

Start = Callable[..., Mqtt]
Subscribe = Callable[..., Subscriber]

ASK, REPLY = "kikimimi/ask", "kikimimi/reply/me"
QUIET = {"homeassistant_settings": HomeAssistantSettings(discovery=False)}


class Model:
    """Answers after `wait` seconds with what it was asked."""

    def __init__(self, wait: float = 0.0) -> None:
        self.wait = wait
        self.asked: list[Question] = []

    async def __call__(self, question: Question) -> Mapping[str, Any]:
        self.asked.append(question)
        await asyncio.sleep(self.wait)
        if question.text == "fail":
            raise ModelError("the audio language model is not there: no GPU")
        if question.text == "bug":
            raise ZeroDivisionError
        return {"text": f"heard: {question.text} 犬", "room": question.room}


def replies(subscriber: Subscriber, topic: str = REPLY) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in subscriber.payloads(topic)]


async def ready(output: Mqtt, subscriber: Subscriber) -> None:
    await until(subscriber.subscribed.is_set)
    await asyncio.wait_for(output.connected.wait(), 20)


async def test_reply_to_works_at_every_broker(any_port: int, started: Start, subscribe: Subscribe) -> None:
    model, subscriber = Model(), subscribe(any_port)
    output = started(any_port, answer=model, **QUIET)
    await ready(output, subscriber)
    asked = {"text": "What is it?", "room": "kitchen", "seconds": 5, "reply_to": REPLY}
    subscriber.publish(ASK, json.dumps(asked))
    await until(lambda: replies(subscriber))

    assert replies(subscriber) == [{"text": "heard: What is it? 犬", "room": "kitchen"}]
    (seen,) = [message for message in subscriber.seen if message.topic == REPLY]
    assert (seen.qos, seen.retained) == (1, False)
    assert (model.asked[0].room, model.asked[0].seconds) == ("kitchen", 5.0)
    assert output.health()["questions"] == 1


async def test_mqtt_5_response_topic_and_correlation_data(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe
) -> None:
    subscriber = subscribe(mosquitto.port, MQTTProtocolVersion.MQTTv5)
    await ready(started(mosquitto.port, answer=Model(), **QUIET), subscriber)
    subscriber.publish(ASK, "What is it?", ResponseTopic=REPLY, CorrelationData=b"\x00\xff1")
    subscriber.publish(ASK, "{", ResponseTopic=REPLY, CorrelationData=b"2")
    subscriber.publish(ASK, '{"text": "x", "reply_to": "kikimimi/reply/other"}', ResponseTopic=REPLY)
    await until(lambda: len(replies(subscriber)) == 3)

    seen = {message.correlation: message for message in subscriber.seen if message.topic == REPLY}
    answer = seen[b"\x00\xff1"]
    assert json.loads(answer.payload) == {"text": "heard: What is it? 犬", "room": None}
    assert (answer.content_type, answer.expiry, answer.retained) == ("application/json", 60, False)
    assert json.loads(seen[b"2"].payload) == {"error": "the question begins with { but is not JSON"}
    assert json.loads(seen[None].payload)["text"].startswith("heard: x")
    assert not subscriber.payloads("kikimimi/reply/other")


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ('{"reply_to": "kikimimi/reply/me"}', "nothing is asked"),
        ('{"text": "", "reply_to": "kikimimi/reply/me"}', "nothing is asked"),
        ('{"text": 3, "reply_to": "kikimimi/reply/me"}', "text: input should be a valid string"),
        (
            '{"text": "x", "seconds": 31, "reply_to": "kikimimi/reply/me"}',
            "seconds: input should be less than or equal to",
        ),
        ('{"text": "x", "seconds": "5", "reply_to": "kikimimi/reply/me"}', "seconds: input should be a valid number"),
        ('{"text": "x", "seconds": NaN, "reply_to": "kikimimi/reply/me"}', "seconds"),
        ('{"text": "x", "rom": "a", "reply_to": "kikimimi/reply/me"}', "rom: unknown key; there are text, task, room"),
        (json.dumps({"text": "x" * 2_001, "reply_to": REPLY}), "text: string should have at most 2000"),
        ('{"text": "fail", "reply_to": "kikimimi/reply/me"}', "the audio language model is not there: no GPU"),
        ('{"text": "bug", "reply_to": "kikimimi/reply/me"}', "internal error"),
    ],
)
async def test_what_is_wrong_is_told(payload: str, error: str) -> None:
    sent: list[Message] = []
    asked = Questions("kikimimi", Model(), sent.append, lambda: 0.0)
    asked.received(payload.encode(), retained=False, response_topic=None, correlation=None)
    await until(lambda: sent)
    assert sent[0].topic == REPLY
    assert isinstance(sent[0].payload, Mapping)
    assert str(sent[0].payload["error"]).startswith(error)
    assert asked.health() == {"questions": 0, "questions_failed": 1, "questions_refused": 0}


@pytest.mark.parametrize(
    "topic",
    [
        "kikimimi/ask",
        "kikimimi/say",
        "kikimimi/reply",
        "kikimimi/reply/",
        "kikimimi/reply/#",
        "kikimimi/reply/+/a",
        "kikimimi/reply/a\0",
        "kikimimi/kitchen/say",
        "homeassistant/light/x/config",
        "$SYS/x",
        "other/reply/a",
        "",
        "kikimimi/reply/" + "x" * 500,
    ],
)
async def test_answers_go_nowhere_else(topic: str, caplog: pytest.LogCaptureFixture) -> None:
    model, sent = Model(), list[Message]()
    asked = Questions("kikimimi", model, sent.append, lambda: 0.0)
    for _ in range(3):
        asked.received(b'{"text": "x", "reply_to": ' + json.dumps(topic).encode() + b"}", **PLAIN)
        asked.received(b"x", retained=False, response_topic=topic or "x", correlation=None)
    await asyncio.sleep(0)
    assert (sent, model.asked) == ([], [])
    assert asked.refused == 6
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) <= 2


PLAIN: dict[str, Any] = {"retained": False, "response_topic": None, "correlation": None}


async def test_a_question_without_a_place_for_the_answer_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    model, sent = Model(), list[Message]()
    asked = Questions("kikimimi", model, sent.append, lambda: 0.0)
    for payload in (b"What is it?", b"", b"\xff\xfe", b"{", b"[1]", b"x" * 9_000):
        asked.received(payload, **PLAIN)
    await asyncio.sleep(0)
    assert (sent, model.asked, asked.refused) == ([], [], 6)
    assert len(caplog.records) == 1
    assert "remedy: an MQTT 5 response topic, or reply_to, below kikimimi/reply/" in caplog.text


async def test_too_many_at_once_are_told_to_come_again() -> None:
    model, sent = Model(wait=60.0), list[Message]()
    asked = Questions("kikimimi", model, sent.append, lambda: 0.0)
    for _ in range(AT_ONCE + 1):
        asked.received(b"x", retained=False, response_topic=REPLY, correlation=None)
    assert [message.payload for message in sent] == [{"error": "too many questions wait; ask again later"}]
    await asyncio.sleep(0)
    await asked.closed()
    assert [message.payload for message in sent[1:]] == [{"error": "kikimimi is stopping"}] * AT_ONCE
    assert len(model.asked) == AT_ONCE
    asked.received(b"x", retained=False, response_topic=REPLY, correlation=None)
    assert len(sent) == AT_ONCE + 2
    assert sent[-1].payload == {"error": "kikimimi is stopping"}


async def test_a_flood_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    now, sent = 0.0, list[Message]()
    asked = Questions("kikimimi", Model(), sent.append, lambda: now)
    for _ in range(200):
        asked.received(b"{", retained=False, response_topic=REPLY, correlation=None)
    assert len(sent) == BURST
    assert asked.refused == 200 - BURST
    assert len(caplog.records) == 1
    now = 2.0
    for _ in range(5):
        asked.received(b"{", retained=False, response_topic=REPLY, correlation=None)
    assert len(sent) == BURST + 2


async def test_retained_questions_are_not_asked(any_port: int, started: Start, subscribe: Subscribe) -> None:
    model, subscriber = Model(), subscribe(any_port)
    await until(subscriber.subscribed.is_set)
    subscriber.publish(ASK, json.dumps({"text": "old", "reply_to": REPLY}), retain=True)
    await until(lambda: subscriber.payloads(ASK))
    await ready(started(any_port, answer=model, **QUIET), subscriber)
    subscriber.publish(ASK, json.dumps({"text": "new", "reply_to": REPLY}))
    await until(lambda: replies(subscriber))
    assert [question.text for question in model.asked] == ["new"]


async def test_an_answer_that_comes_while_the_broker_is_away_waits(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, subscriber = Model(wait=0.3), subscribe(mosquitto.port)
    output = started(mosquitto.port, answer=model, **QUIET)
    await ready(output, subscriber)
    monkeypatch.setattr(mqtt, "FIRST_WAIT", 2.5)  # the subscriber, which tries each second, is back first
    monkeypatch.setattr(mqtt, "LONGEST_WAIT", 3.0)
    subscriber.publish(ASK, json.dumps({"text": "x", "reply_to": REPLY}))
    await until(lambda: model.asked)
    mosquitto.kill()
    await asyncio.sleep(0.5)
    mosquitto.start()
    await until(lambda: replies(subscriber), 20)
    subscriber.publish(ASK, json.dumps({"text": "again", "reply_to": REPLY}))
    await until(lambda: len(replies(subscriber)) == 2)


async def test_without_a_model_nobody_listens(mosquitto: Mosquitto, started: Start, subscribe: Subscribe) -> None:
    subscriber = subscribe(mosquitto.port)
    output = started(mosquitto.port, **QUIET)
    await ready(output, subscriber)
    subscriber.publish(ASK, json.dumps({"text": "x", "reply_to": REPLY}))
    await asyncio.sleep(0.3)
    assert not replies(subscriber)
    assert "questions" not in output.health()


async def test_rubbish_does_not_break_the_connection(any_port: int, started: Start, subscribe: Subscribe) -> None:
    subscriber = subscribe(any_port)
    output = started(any_port, answer=Model(), **QUIET)
    await ready(output, subscriber)
    for payload in (os.urandom(100), b"", b'{"text": ' + b"[" * 3_000, b"\xf0\x28\x8c\x28", b'{"reply_to": 3}'):
        subscriber.publish(ASK, payload)
    subscriber.publish(ASK, json.dumps({"text": "x", "reply_to": REPLY}))
    await until(lambda: replies(subscriber))
    assert output.health()["reconnects"] == 0


async def test_what_was_asked_and_answered_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        sent: list[Message] = []
        asked = Questions("kikimimi", Model(), sent.append, lambda: 0.0)
        payload = {"text": "my secret", "room": "kitchen", "reply_to": REPLY}
        asked.received(json.dumps(payload).encode(), **PLAIN)
        await until(lambda: sent)
    assert "a question about kitchen" in caplog.text
    assert "secret" not in caplog.text


keys = st.sampled_from([*Question.model_fields, "x"])
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(REPLY) | st.just([])


@given(st.dictionaries(keys, values, max_size=6) | st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_question_is_read_or_refused(content: dict[str, Any] | bytes) -> None:
    payload = content if isinstance(content, bytes) else json.dumps(content).encode()
    question, problem, _ = questions._read(payload)
    assert (question is None) != (problem is None)
    if question is not None:
        assert question.text or question.task
        assert 0.0 <= question.seconds <= 30.0
