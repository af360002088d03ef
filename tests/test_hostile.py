"""What is said, and what a model writes, reaches no topic and no host that the configuration does not list."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import spoken_house
from hostile_texts import EVIL
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from assistant.attention import Address, Wake
from assistant.choosing import Chooser
from assistant.config import parse
from assistant.events import (
    Action,
    Ask,
    Event,
    Intent,
    IntentRecognised,
    Log,
    Publish,
    Say,
    State,
    Webhook,
    Word,
)
from assistant.handling import Handler
from assistant.intents import Intents
from assistant.models.audio_llm import Prompt
from assistant.outputs.announce import recalled
from assistant.outputs.commands import Commands
from assistant.outputs.hermes import hermes_messages
from assistant.outputs.mqtt_client import Arrived
from assistant.outputs.questions import Question, Questions
from assistant.outputs.topics import Home, House, Message, Room, SoundType
from assistant.outputs.webhook import is_listed
from assistant.resident import Resident
from assistant.rules import Rules

NOW = 1_795_435_200.0
ROOMS = ("kitchen", "hall")
texts = st.one_of(
    st.sampled_from(EVIL),
    st.text(max_size=60),
    st.lists(st.sampled_from([text for text in EVIL if len(text) < 100]), max_size=4).map(" ".join),
    st.text(alphabet="/+#$\0{}%. \n<|>ab", max_size=40),
)

CONFIG = parse(
    """
profile: hybrid
privacy: {transcripts: true}
rooms: {kitchen: {name: "台所/#"}, hall: }
webhooks: {hosts: [hooks.example, "ha.local:8123"]}
devices:
  - {name: light, area: kitchen, domain: light, topic: k/light}
rules:
  - name: everything said
    when: {speech: any}
    unconfirmed: true
    do:
      - publish: {topic: said/plain, payload: "{{ text }} {{ event | tojson }}"}
      - publish:
          topic: "said/{{ room }}/{{ event_type }}/{{ kind }}/{{ state }}/{{ language }}"
          payload: "{{ words }}"
      - webhook:
          url: "https://hooks.example/{{ text }}/{{ label }}?q={{ caption }}&r={{ room }}"
          json: {"t": ["{{ text }}"]}
      - webhook: {url: "http://ha.local:8123/hook", body: "{{ text }}"}
      - webhook: {url: "http://ha.local:8123/hook"}
      - log: "{{ text }}"
      - say: "{{ text }}"
      - ask: {prompt: "Is this bad: {{ text }}", as: free}
      - ask: {prompt: "Is it?", as: chosen, choices: ["yes", "no"]}
      - publish: {topic: "answered/{{ room }}", payload: "{{ answers.free }} {{ answers.chosen }}"}
      - webhook: {url: "https://hooks.example/{{ answers.free }}", json: {a: "{{ answers.free }}"}}
  - name: everything heard
    when: {sound: any}
    unconfirmed: true
    do: {publish: {topic: "heard/{{ room }}/{{ event_type }}", payload: "{{ label }} {{ caption }}"}}
""",
    Path("config.yaml"),
)
RULE_TOPICS = re.compile(
    r"said/plain|said/(kitchen|hall)/speech/speech/heard/([^/+#\0]*)|answered/(kitchen|hall)"
    r"|heard/(kitchen|hall)/[^/+#\0]*"
)

HOME = Home(
    install="7f3a",
    version="0",
    rooms=tuple(Room(room, room) for room in ROOMS),
    sounds=(SoundType("smoke_alarm", "Smoke alarm", alert=True), SoundType("doorbell", "Doorbell")),
    transcripts=True,
)
OWN_TOPICS = {
    *(f"kikimimi/{end}" for end in ("status", "health", "alert/state", "listening/state")),
    *(
        f"kikimimi/{room}/{end}"
        for room in ROOMS
        for end in (
            *("status", "event", "trigger", "transcript", "intent", "level", "spectrogram", "doorbell/event"),
            *("listening/state", "sensitivity/state", "last/sound", "last/speech", "problem", "clip"),
            *(f"sound/{sound.event_type}/{end}" for sound in HOME.sounds for end in ("state", "attributes")),
        )
    ),
}


def speech(text: str, **fields: Any) -> Event:
    known = {"label": text, "caption": text, "emotion": text, "words": (Word(text, 0.0, 1.0),), "score": 0.5}
    place = {"room": "kitchen", "source": "mic", "kind": "speech", "state": State.HEARD, "event_type": "speech"}
    return Event(id="01", **{**place, **known, "text": text, "language": "en", **fields})


def sound(text: str, **fields: Any) -> Event:
    known = {"event_type": text, "label": text, "caption": text, "score": 0.9, "model": text, "witnessed": False}
    place = {"room": "kitchen", "source": "mic", "kind": "sound", "state": State.STARTED}
    return Event(id="02", **{**place, **known, **fields})


def performed(rules: Rules, actions: Iterable[Action], answer: str) -> list[Action]:
    """All actions that follow, every question being answered with `answer`."""
    done: list[Action] = []
    for action in actions:
        done.append(action)
        if isinstance(action, Ask):
            done += performed(rules, rules.answered(action, answer), answer)
    return done


# rules


@settings(max_examples=300, deadline=None)
@given(texts, texts, texts)
def test_rules_publish_where_they_say_and_call_listed_hosts(said: str, written: str, language: str) -> None:
    rules = Rules(CONFIG.rules, transcripts=True, rooms={"kitchen": "台所/#"})
    events = [speech(said, language=language), sound(written), sound("dog_bark", label=said, room="hall")]
    for event in events:
        for action in performed(rules, rules.feed(event, NOW), written):
            match action:
                case Publish():
                    assert RULE_TOPICS.fullmatch(action.topic), action.topic
                case Webhook():
                    origin = urlsplit(action.url)
                    assert origin.netloc in {"hooks.example", "ha.local:8123"}
                    assert is_listed(action.url, CONFIG.webhooks.hosts)
                    assert action.url.isascii()
                    assert not re.search(r"[\s\0#]", action.url)
                    assert set(origin.path.split("/")).isdisjoint({"..", "."})
                    if origin.netloc == "hooks.example":
                        assert origin.path.count("/") <= 2
                        assert origin.query.count("&") <= 1
                case Ask():
                    assert action.choices in ((), ("yes", "no"))
                case Say():
                    assert action.room == "kitchen"
                    assert all(sign.isprintable() or sign in "\u200c\u200d" for sign in action.text)
                case Log():
                    assert "\n" not in action.message


@settings(max_examples=200, deadline=None)
@given(texts)
def test_a_text_stays_a_text_in_the_json_of_a_webhook(said: str) -> None:
    rules = Rules(CONFIG.rules, transcripts=True)
    for action in performed(rules, rules.feed(speech(said), NOW), said):
        if isinstance(action, Webhook) and action.content_type == "application/json":
            body = json.loads(action.body or b"")
            assert set(body) in ({"t"}, {"a"}, set(speech("").to_json()) - {"schema"}) or "state" in body
            if set(body) == {"t"}:
                assert body == {"t": [said]}


def test_what_was_said_is_not_in_a_webhook_unless_transcripts_are_on() -> None:
    rules = Rules(CONFIG.rules, transcripts=False)
    for action in performed(rules, rules.feed(speech("geheim", label="Speech", emotion=None), NOW), "geheim"):
        if isinstance(action, Webhook):
            assert "geheim" not in action.url
            assert b"geheim" not in (action.body or b"")


# topics of our own


@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from(["hassil", "model"]))
def test_facts_go_to_the_topics_of_the_house(said: str, source: Any) -> None:
    house = House(HOME, "kikimimi")
    meant = Intent("HassTurnOn", {"name": said, said: said}, source, "en", reply=said, free=frozenset({said}))
    event = speech(said, intent=meant)
    items = [event, sound(said), sound("doorbell", label=said, caption=said), IntentRecognised(event, handled=True)]
    for item in items:
        told = {message.topic for message in house.messages(item, NOW)}
        assert told <= OWN_TOPICS, told - OWN_TOPICS
        hermes = {message.topic for message in hermes_messages(item, NOW, transcripts=True)}
        assert hermes <= {"hermes/asr/textCaptured", "hermes/intent/HassTurnOn"}
    assert {message.topic for message in house.states(NOW)} <= OWN_TOPICS


@settings(max_examples=200, deadline=None)
@given(texts)
def test_an_intent_with_a_hostile_name_stays_one_level(name: str) -> None:
    item = IntentRecognised(speech("x", intent=Intent(name, {}, "model", "en")), handled=False)
    for message in hermes_messages(item, NOW, transcripts=True):
        assert re.fullmatch(r"hermes/intent/[^/+#\0]+", message.topic, re.DOTALL)


# commands


@pytest.fixture(scope="module")
def houses() -> Mapping[str, Intents]:
    return {language: spoken_house.house(language) for language in ("en", "de", "ja")}


def device_topics(intents: Intents) -> set[str]:
    return {topic for device in intents._devices for topic, _template in device._told.values()}


@settings(max_examples=150, deadline=None)
@given(texts, texts, st.sampled_from(["en", "de", "ja", None]))
def test_commands_reach_devices_of_the_configuration_alone(
    houses: Mapping[str, Intents], said: str, area: str, language: str | None
) -> None:
    intents = houses[language or "en"]
    outcome = intents.understand(said, language=language, area=area)
    if isinstance(outcome, Intent):
        assert {message.topic for message in outcome.publish} <= device_topics(intents)


class Puppet:
    """A model that says whatever its attacker likes, and scores as he likes."""

    name, tagged = "puppet", False

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def answer(self, prompts: Sequence[Prompt], **_: object) -> list[object]:
        return []

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.random.uniform(-9, 0) for _ in labels], np.float32)


@pytest.fixture
async def puppet(houses: Mapping[str, Intents], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Chooser]:
    monkeypatch.setattr("assistant.resident._warm_up", lambda _llm: None)
    resident = Resident(lambda: Puppet(4711))  # type: ignore[arg-type, return-value]
    yield Chooser(houses["en"], resident)
    resident.shutdown()


async def test_a_hostile_model_can_only_choose_what_devices_can_be_told(
    houses: Mapping[str, Intents], puppet: Chooser
) -> None:
    told: list[IntentRecognised | Publish] = []
    handler = Handler(houses["en"], tell=told.append, say=lambda _: None, transcripts=True, choose=puppet.choose)
    for round_ in range(4):
        for text in EVIL:
            await handler.converse(f"{text} {round_}", "en", text[:50])
            event = speech(text)
            handler.handle(event, await handler.understand(text, "en", "kitchen"), Address(0, Wake.WAKE, "alexa"))
            await asyncio.gather(*handler._choosing)
    published = [one for one in told if isinstance(one, Publish)]
    assert handler.health()["chosen_by_model"] > 0  # else this shows nothing
    assert {message.topic for message in published} <= device_topics(houses["en"])
    values = {message.payload for message in published}
    assert all(len(value) < 40 for value in values), values
    assert "UNLOCK" not in values


# what comes over MQTT


@settings(max_examples=300, deadline=None)
@given(texts, texts, st.binary(max_size=40))
def test_answers_go_below_reply_alone(topic: str, answer: str, junk: bytes) -> None:
    sent: list[Message] = []

    async def reply(_question: Question) -> Mapping[str, Any]:
        return {"text": answer}

    async def ask() -> None:
        questions = Questions("kikimimi", reply, sent.append, lambda: 0.0)
        for response in (topic, f"kikimimi/reply/{topic}", f"kikimimi/reply/../{topic}", None):
            for payload in (b"what?", json.dumps({"text": "a", "reply_to": topic}).encode(), junk):
                questions.received(payload, retained=False, response_topic=response, correlation=junk)
        await asyncio.gather(*questions._tasks)

    asyncio.run(ask())
    for message in sent:
        assert message.topic.startswith("kikimimi/reply/")
        assert message.topic.isprintable()
        assert not set(message.topic) & set("+#")


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_commands_over_mqtt_never_raise_and_name_rooms_that_there_are(topic: str, payload: str) -> None:
    done: list[Any] = []
    commands = Commands("kikimimi", list(ROOMS), done.append, lambda: 0.0)
    raw = payload.encode("utf-8", "surrogatepass")
    for where in (
        topic,
        f"kikimimi/{topic}/say",
        "kikimimi/say",
        "kikimimi/kitchen/test",
        "kikimimi/hall/listening/set",
    ):
        commands.received(Arrived(where, raw, retained=False))
    for command in done:
        assert getattr(command, "room", None) in {None, *ROOMS}


@settings(max_examples=300, deadline=None)
@given(texts, texts, texts)
def test_a_forged_memory_deletes_one_level_at_most(room: str, kind: str, prefix: str) -> None:
    memory = json.dumps({"prefix": prefix, "rooms": {room: [kind, 1], "a": room}}).encode()
    known = recalled(memory)
    for name, kinds in known["rooms"].items():
        assert not set(name) & set("/+#\0")
        assert all(not set(one) & set("/+#\0") for one in kinds)
    assert not set(known["prefix"] or "") & set("+#\0")


@pytest.mark.parametrize(
    "memory", [b"[" * 100_000, b'{"rooms":' * 20_000, b"\xff", b"1" * 10_000, b'{"rooms":{"a":3}}']
)
def test_a_memory_that_is_none_is_nothing(memory: bytes) -> None:
    assert recalled(memory) == {"prefix": None, "transcripts": False, "rooms": {}}
