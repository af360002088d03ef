"""Commands over MQTT: what is one is told once, whatever else arrives is refused and harms nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from brokers import Subscriber, until
from hypothesis import given
from hypothesis import strategies as st

from assistant.events import Command, Say, SendTest, Sensitivity, SetListening, SetSensitivity
from assistant.outputs.commands import BURST, TELL_EVERY, Commands
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt import Mqtt, MqttSettings
from assistant.outputs.mqtt_client import Arrived

Start = Callable[..., Mqtt]
Subscribe = Callable[..., Subscriber]

QUIET = {"homeassistant_settings": HomeAssistantSettings(discovery=False)}


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Commands of a house with two rooms, and what came of them."""

    def __init__(self, base: str = "kikimimi") -> None:
        self.clock = Clock()
        self.taken: list[Command] = []
        self.commands = Commands(base, ["kitchen", "bed-room"], self.taken.append, self.clock)

    def send(self, topic: str, payload: str | bytes = "", **fields: object) -> list[Command]:
        """The commands that came of this one message."""
        before = len(self.taken)
        raw = payload.encode() if isinstance(payload, str) else payload
        self.commands.received(Arrived(topic, raw, **{"retained": False, **fields}))  # type: ignore[arg-type]
        return self.taken[before:]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("topic", "payload", "command"),
    [
        ("listening/set", "OFF", SetListening(None, on=False)),
        ("kitchen/listening/set", "ON", SetListening("kitchen", on=True)),
        ("kitchen/listening/set", " off\n", SetListening("kitchen", on=False)),
        ("bed-room/sensitivity/set", "miss nothing", SetSensitivity("bed-room", Sensitivity.MOST)),
        ("kitchen/sensitivity/set", "Balanced", SetSensitivity("kitchen", Sensitivity.BALANCED)),
        ("kitchen/test", "PRESS", SendTest("kitchen")),
        ("kitchen/say", "洗濯が終わりました", Say("洗濯が終わりました", "kitchen")),
        ("say", "dinner\nis ready", Say("dinner\nis ready")),
        ("say", '{"text": "Essen!", "language": "de", "room": "kitchen"}', Say("Essen!", "kitchen", "de")),
        ("kitchen/say", '{"text": "Essen!", "language": "de"}', Say("Essen!", "kitchen", "de")),
        ("kitchen/say", '{"text": "a\\u0000b\\ud800c\\u001bd"}', Say("abcd", "kitchen")),
        ("kitchen/say", "x" * 1000, Say("x" * 1000, "kitchen")),
    ],
)
def test_what_is_a_command(topic: str, payload: str, command: Command):
    desk = Desk()

    assert desk.send(f"kikimimi/{topic}", payload) == [command]
    assert desk.commands.health() == {"commands": 1, "commands_refused": 0, "commands_repeated": 0}


@pytest.mark.parametrize(
    ("topic", "payload", "why"),
    [
        ("attic/listening/set", "ON", "no room 'attic'; there are: bed-room, kitchen"),
        ("attic/sensitivity/set", "balanced", "no room 'attic'"),
        ("attic/test", "PRESS", "no room 'attic'"),
        ("attic/say", "hello", "no room 'attic'"),
        ("reply/say", "hello", "no room 'reply'"),  # where answers go: none of them becomes a command
        ("say", '{"text": "hello", "room": "attic"}', "no room 'attic'"),
        ("kitchen/say", '{"text": "hello", "room": "bed-room"}', "the topic names the room already"),
        ("kitchen/listening/set", "toggle", "'toggle' is neither ON nor OFF"),
        ("kitchen/sensitivity/set", "high", "'high' is none of: fewer false alarms, balanced, miss nothing"),
        ("kitchen/say", "   ", "nothing to say"),
        ("kitchen/say", '{"text": "\\u0007"}', "nothing to say"),
        ("kitchen/say", "x" * 1001, "1001 characters, at most 1000"),
        ("kitchen/say", "x" * 8193, "8193 bytes, at most 8192"),
        ("kitchen/say", b"\xff\xfe", "not UTF-8"),
        ("kitchen/test", b"\xff\xfe", "not UTF-8"),
        ("kitchen/say", "{hello", "not JSON"),
        ("kitchen/say", "{" + '"a":{' * 1300, "not JSON"),
        ("kitchen/say", '{"words": "hello"}', "'text': Field required"),
        ("kitchen/say", '{"text": 3}', "'text': Input should be a valid string"),
        ("kitchen/say", '{"text": "hello", "voice": "x"}', "'voice': Extra inputs"),
        ("kitchen/say", '{"text": "hello", "language": "$(reboot)"}', "'language'"),
    ],
)
def test_what_is_none(topic: str, payload: str | bytes, why: str, caplog: pytest.LogCaptureFixture):
    desk = Desk()

    assert desk.send(f"kikimimi/{topic}", payload) == []
    assert desk.commands.health()["commands_refused"] == 1
    (line,) = told(caplog)
    assert why in line
    assert f"'kikimimi/{topic}'" in line
    assert "hello" not in line  # what is to be said is nobody's business


def test_a_retained_command_is_refused_and_deleting_it_is_no_command(caplog: pytest.LogCaptureFixture):
    desk = Desk()

    assert desk.send("kikimimi/kitchen/listening/set", "OFF", retained=True) == []
    assert "remedy: publish it without retain" in told(caplog)[0]
    assert desk.send("kikimimi/kitchen/listening/set", "", retained=True) == []
    assert desk.send("kikimimi/kitchen/test", "") == []
    assert desk.commands.refused == 1


def test_a_flood_is_cut_off_and_does_not_fill_the_log(caplog: pytest.LogCaptureFixture):
    desk = Desk()
    for number in range(5000):
        desk.send(f"kikimimi/room-{number}/test", "PRESS")
    assert len(told(caplog)) == 2  # no such room; too many
    assert desk.commands.refused == 5000

    desk.clock.now += TELL_EVERY
    desk.send("kikimimi/attic/test", "PRESS")
    assert f"({BURST:.0f} more like it" not in told(caplog)[-1]
    assert f"({BURST - 1:.0f} more like it since the last such line)" in told(caplog)[-1]
    assert desk.send("kikimimi/kitchen/test", "PRESS") == [SendTest("kitchen")]


def test_what_the_broker_sends_again_acts_once():
    desk = Desk()
    assert desk.send("kikimimi/say", "hello", identifier=7) != []
    assert desk.send("kikimimi/say", "hello", identifier=7, duplicate=True) == []
    assert desk.commands.repeated == 1

    # sent again because the first never came, the number used for something else, and said twice on purpose
    assert desk.send("kikimimi/say", "hello", identifier=8, duplicate=True) != []
    assert desk.send("kikimimi/say", "dinner", identifier=7, duplicate=True) != []
    assert desk.send("kikimimi/say", "hello", identifier=7) != []


def test_a_command_that_breaks_is_logged_and_counted(caplog: pytest.LogCaptureFixture):
    def broken(_command: Command) -> None:
        raise ZeroDivisionError

    commands = Commands("kikimimi", ["kitchen"], broken, Clock())
    for _ in range(3):
        commands.received(Arrived("kikimimi/kitchen/test", b"PRESS", retained=False))

    assert commands.health() == {"commands": 0, "commands_refused": 3, "commands_repeated": 0}
    assert len(told(caplog)) == 1


def test_a_topic_cannot_write_lines_of_its_own(caplog: pytest.LogCaptureFixture):
    Desk().send("kikimimi/a\nERROR house burns " + "x" * 200 + "/test", "PRESS")

    assert "\n" not in told(caplog)[0]
    assert "x" * 100 not in told(caplog)[0]


def test_other_topics_are_not_ours():
    commands = Desk("home/kikimimi").commands

    assert commands.takes("home/kikimimi/kitchen/say")
    assert commands.takes("home/kikimimi/say")
    for topic in ("kikimimi/say", "home/kikimimi/ask", "home/kikimimi/kitchen/event", "x/home/kikimimi/say", "home"):
        assert not commands.takes(topic)
    assert not commands.takes("home/kikimimi/kitchen/listening/state")


@given(st.sampled_from(["say", "kitchen/say", "kitchen/listening/set", "kitchen/sensitivity/set"]), st.binary())
def test_nothing_that_arrives_raises(topic: str, payload: bytes):
    Desk().send(f"kikimimi/{topic}", payload)
    Desk().send(f"kikimimi/{topic}", b'{"text":' + payload)


# over a broker


async def test_commands_over_a_broker(
    any_port: int, started: Start, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
):
    taken: list[Command] = []
    subscriber = subscribe(any_port)
    await until(subscriber.subscribed.is_set)
    subscriber.publish("kikimimi/kitchen/listening/set", "OFF", retain=True)
    await until(lambda: subscriber.payloads("kikimimi/kitchen/listening/set"))
    output = started(any_port, command=taken.append, **QUIET)
    await asyncio.wait_for(output.connected.wait(), 20)
    for topic, payload in (
        ("attic/test", "PRESS"),
        ("kitchen/test", "PRESS"),
        ("kitchen/say", "hello"),
        ("say", "everyone"),
        ("kitchen/sensitivity/set", "miss nothing"),
        ("bed-room/listening/set", "OFF"),
        ("listening/set", "OFF"),
    ):
        subscriber.publish(f"kikimimi/{topic}", payload)
    await until(lambda: len(taken) == 6)

    assert set(taken) == {
        SendTest("kitchen"),
        Say("hello", "kitchen"),
        Say("everyone"),
        SetSensitivity("kitchen", Sensitivity.MOST),
        SetListening("bed-room", on=False),
        SetListening(None, on=False),
    }
    await until(lambda: any("no room 'attic'" in line for line in told(caplog)))
    assert output.health()["commands"] == 6


async def test_who_takes_no_commands_hears_none(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    await until(subscriber.subscribed.is_set)
    output = started(any_port, **QUIET)
    await asyncio.wait_for(output.connected.wait(), 20)
    subscriber.publish("kikimimi/kitchen/test", "PRESS")
    await until(lambda: subscriber.payloads("kikimimi/kitchen/test"))

    assert "commands" not in output.health()


async def test_a_broker_that_sends_again_is_recognised(started: Start):
    def publish(flags: int, identifier: int) -> bytes:
        body = len(topic).to_bytes(2, "big") + topic + identifier.to_bytes(2, "big") + b"hello"
        return bytes([flags, len(body)]) + body

    topic = b"kikimimi/kitchen/say"
    taken: list[Command] = []

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(1000)
        if connect[connect.index(b"MQTT") + 4] == 5:
            writer.write(b"\x20\x02\x00\x01")  # 3.1.1 only
        else:
            writer.write(b"\x20\x02\x00\x00" + publish(0x32, 9) + publish(0x3A, 9) + publish(0x3A, 10))
            await reader.read()
        writer.close()

    async with await asyncio.start_server(forgetful, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}")
        output = started(port, settings=settings, command=taken.append, **QUIET)
        await until(lambda: output.health()["commands_repeated"] == 1)
        await until(lambda: len(taken) == 2)
        await until(lambda: output._link is not None)  # both came with the broker's first bytes
        assert output._link is not None
        output._link.abandon()
        await output.stop(0.1)

    assert taken == [Say("hello", "kitchen")] * 2
