from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import HOME, Mosquitto, Subscriber, free_port, until
from paho.mqtt.enums import MQTTProtocolVersion
from pydantic import SecretStr, ValidationError

from assistant.errors import ConfigurationError
from assistant.events import (
    Event,
    HealthMeasured,
    Intent,
    IntentRecognised,
    LevelMeasured,
    ListeningChanged,
    Pictured,
    Presence,
    Publish,
    RoomChanged,
    Sensitivity,
    SensitivityChanged,
    State,
)
from assistant.outputs import mqtt, mqtt_client
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt import Mqtt, MqttSettings, TlsSettings

Start = Callable[..., Mqtt]
Subscribe = Callable[..., Subscriber]

SMOKE = "kikimimi/kitchen/sound/smoke_alarm/state"
EVENT = "kikimimi/kitchen/event"
NO_DISCOVERY = HomeAssistantSettings(discovery=False)


def sound(event_type: str = "smoke_alarm", state: State = State.STARTED, **fields: object) -> Event:
    known = {"id": "A", "room": "kitchen", "source": "mic", "label": "Smoke detector, smoke alarm", "score": 0.9}
    return Event(kind="sound", state=state, event_type=event_type, **{**known, **fields})  # type: ignore[arg-type]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def online(output: Mqtt) -> None:
    await asyncio.wait_for(output.connected.wait(), 20)


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


# settings


def test_a_url_is_host_port_user_and_password():
    settings = MqttSettings(url="mqtt://home:s%40crt@[::1]:1884")  # type: ignore[arg-type]

    assert (settings.host, settings.port, settings.username) == ("::1", 1884, "home")
    assert settings.password == SecretStr("s@crt")
    assert settings.url == "mqtt://home@[::1]:1884"
    assert "crt" not in repr(settings)
    assert settings.tls is None


def test_mqtts_is_tls_on_its_own_port():
    assert MqttSettings(url="mqtts://broker").port == 8883
    assert MqttSettings(url="mqtts://broker").tls == TlsSettings()
    assert MqttSettings(url="mqtts://broker", tls=TlsSettings(insecure=True)).tls == TlsSettings(insecure=True)
    assert MqttSettings(host="broker", tls=True).tls == TlsSettings()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "http://broker"}, "url must read mqtt://"),
        ({"url": "broker:1883"}, "url must read mqtt://"),
        ({"url": "mqtt://broker:port"}, "url"),
        ({"url": "mqtt://broker/topic"}, "url must read mqtt://"),
        ({"url": "mqtt://a@broker", "username": "b"}, "username is given both"),
        ({"host": "h", "password": "p", "password_file": "/p"}, "password and password_file"),
        ({"host": "h", "base_topic": "a/#"}, "base_topic"),
        ({"host": "h", "base_topic": "a/"}, "base_topic"),
        ({"host": "h", "port": 0}, "port"),
        ({"host": "h", "tls": {"key": "/k"}}, "tls.key needs tls.cert"),
        ({"host": "h", "tls": {"verify": False}}, "tls.verify"),
    ],
)
def test_settings_that_cannot_be_meant(values: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        MqttSettings(**values)  # type: ignore[arg-type]


def test_without_a_broker_there_is_no_output():
    with pytest.raises(ConfigurationError, match=r"mqtt\.url"):
        Mqtt(MqttSettings(), HOME)


# what is published


async def test_at_connect_states_come_first_and_online_last(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    await until(subscriber.subscribed.is_set)
    await online(started(any_port))
    await until(lambda: "kikimimi/status" in subscriber.topics())

    topics = subscriber.topics()
    hub = topics.index("homeassistant/device/kikimimi_7f3a/config")
    rooms = [topics.index(f"homeassistant/device/kikimimi_7f3a_{room}/config") for room in ("kitchen", "bed-room")]
    assert max(topics.index(SMOKE), topics.index("kikimimi/kitchen/status")) < hub < min(rooms)
    assert max(rooms) < topics.index("kikimimi/status")
    assert subscriber.payloads("kikimimi/status") == ["online"]
    assert subscriber.payloads(SMOKE) == ["OFF"]


async def test_a_sound_from_its_start_to_its_end(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    output.offer(RoomChanged("kitchen", Presence.ONLINE))
    output.offer(sound())
    output.offer(sound(state=State.ENDED, duration=2.5))
    await until(lambda: len(subscriber.payloads(EVENT)) == 2)

    assert subscriber.payloads("kikimimi/kitchen/status")[-1] == "online"
    assert subscriber.payloads(SMOKE)[-2:] == ["ON", "OFF"]
    assert subscriber.payloads("kikimimi/alert/state")[-2:] == ["ON", "OFF"]
    assert [json.loads(payload) for payload in subscriber.payloads(EVENT)] == [
        sound().to_json(),
        sound(state=State.ENDED, duration=2.5).to_json(),
    ]
    assert subscriber.payloads("kikimimi/kitchen/trigger") == ["smoke_alarm"]

    later = subscribe(any_port)
    await until(lambda: later.payloads("kikimimi/kitchen/last/sound"))
    retained = {message.topic for message in later.seen if message.retained}
    assert {SMOKE, "kikimimi/kitchen/sound/smoke_alarm/attributes", "kikimimi/kitchen/status"} <= retained
    assert not {EVENT, "kikimimi/kitchen/trigger"} & retained
    assert output.health()["drops"] == 0


async def test_on_is_repeated_while_a_sound_lasts(
    any_port: int, started: Start, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mqtt, "REPEAT_EVERY", 0.2)
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    output.offer(sound())
    await until(lambda: subscriber.payloads(SMOKE).count("ON") >= 3)
    output.offer(sound(state=State.ENDED))
    await until(lambda: subscriber.payloads(SMOKE)[-1] == "OFF")
    told = len(subscriber.payloads(SMOKE))
    await asyncio.sleep(0.6)

    assert len(subscriber.payloads(SMOKE)) == told


async def test_levels_health_and_rules(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    for dbfs in (-50.0, -40.0, -30.0):
        output.offer(LevelMeasured("kitchen", dbfs, -60.0, -20.0))
    output.offer(HealthMeasured({"cpu_percent": 3.0}))
    output.offer(Publish("zigbee/lamp/set", '{"state":"ON"}', qos=1, retain=True, rule="lamp"))
    await until(lambda: subscriber.payloads("zigbee/lamp/set"))

    await until(lambda: len(output.traffic.answers) > 3)
    assert output.traffic.messages > len(output.traffic.answers)  # levels and health are not acknowledged
    assert output.traffic.bytes > len('zigbee/lamp/set{"state":"ON"}')
    assert all(0.0 <= seconds < 5.0 for seconds in output.traffic.answers)
    assert output.trouble is None
    assert subscriber.payloads("kikimimi/kitchen/level") == ['{"dbfs":-50.0,"floor":-60.0,"peak":-20.0}']
    assert subscriber.payloads("kikimimi/health") == ['{"cpu_percent":3.0}']
    assert subscriber.payloads("zigbee/lamp/set") == ['{"state":"ON"}']


async def test_mqtt_5_says_what_a_payload_is_and_how_long_it_counts(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe
):
    subscriber = subscribe(mosquitto.port, MQTTProtocolVersion.MQTTv5)
    await until(subscriber.subscribed.is_set)
    output = started(mosquitto.port)
    await online(output)
    output.offer(sound("doorbell"))
    intent = Intent("HassTurnOn", {"name": "light"}, "hassil", "en")
    output.offer(IntentRecognised(sound("speech", State.HEARD, intent=intent), handled=True))
    output.offer(Pictured("kitchen", b"\x89PNG"))
    await until(lambda: "kikimimi/kitchen/spectrogram" in subscriber.topics())

    told = {message.topic: message for message in subscriber.seen}
    assert told[EVENT].content_type == "application/json"
    assert told[EVENT].expiry == 60
    assert told["kikimimi/kitchen/trigger"].expiry == 10
    assert told["kikimimi/kitchen/sound/doorbell/state"].expiry == 45
    picture = told["kikimimi/kitchen/spectrogram"]
    assert (picture.content_type, picture.expiry, picture.qos, picture.retained) == ("image/png", 60, 0, False)
    assert told["kikimimi/kitchen/intent"].expiry == 30
    assert told["kikimimi/alert/state"].expiry is None
    assert told["kikimimi/alert/state"].content_type is None


async def test_a_message_that_cannot_be_sent_is_logged_and_harms_nobody(
    any_port: int, started: Start, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
):
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    output.offer(Publish("lamp/#", "on", rule="lamp"))
    output.offer(Publish("", "on", rule="lamp"))
    output.offer(Publish("lamp", "\ud800", rule="broken text"))
    output.offer(Publish("lamp", "on"))
    await until(lambda: subscriber.payloads("lamp") == ["on"])

    assert output.health()["drops"] == 3
    told = warnings(caplog)
    assert len(told) == 3
    assert "'lamp/#' of rule 'lamp' cannot be sent" in told[0]
    assert output.health()["reconnects"] == 0


async def test_what_the_broker_does_not_take_is_dropped_not_sent_for_ever(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
):
    mosquitto.kill()
    mosquitto.config = ["allow_anonymous true", "max_packet_size 9000"]
    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    output = started(mosquitto.port, homeassistant_settings=NO_DISCOVERY)
    await until(subscriber.subscribed.is_set)
    await online(output)
    output.offer(Publish("big", "x" * 10_000, rule="big"))
    output.offer(Publish("small", "x"))
    await until(lambda: subscriber.payloads("small"))

    assert subscriber.payloads("big") == []
    assert "more than the broker takes (9000)" in warnings(caplog)[0]
    assert output.health()["reconnects"] == 0


async def test_a_topic_that_access_rules_forbid_is_told_once(
    mosquitto: Mosquitto, started: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    mosquitto.kill()
    (tmp_path / "acl").write_text("topic readwrite kikimimi/#\ntopic readwrite homeassistant/#\n")
    mosquitto.config = ["allow_anonymous true", f"acl_file {tmp_path}/acl"]
    mosquitto.start()
    output = started(mosquitto.port)
    await online(output)
    for _ in range(3):
        output.offer(Publish("lamp", "on"))
    await until(lambda: output.health()["refused"] == 3)

    assert len(warnings(caplog)) == 1
    assert "does not take lamp: Not authorized" in warnings(caplog)[0]


async def test_a_topic_that_may_not_be_listened_to_is_told(started: Start, caplog: pytest.LogCaptureFixture):
    async def strict(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(1000)
        if connect[connect.index(b"MQTT") + 4] == 5:
            writer.write(b"\x20\x02\x00\x01")  # 3.1.1 only
        else:
            writer.write(b"\x20\x02\x00\x00")
            subscribe = await reader.read(1000)
            writer.write(b"\x90\x03" + subscribe[2:4] + b"\x80")  # SUBACK: failure
            await reader.read()
        writer.close()

    async with await asyncio.start_server(strict, "127.0.0.1", 0) as server:
        output = started(server.sockets[0].getsockname()[1])
        await until(lambda: any("not let us listen to homeassistant/status" in line for line in warnings(caplog)))
        assert output._link is not None
        output._link.abandon()
        await output.stop(0.1)


async def test_switches_are_states_that_a_newcomer_is_told(any_port: int, started: Start, subscribe: Subscribe):
    home = replace(HOME, rooms=(replace(HOME.rooms[0], listening=False), HOME.rooms[1]))
    output = started(any_port, home, homeassistant_settings=NO_DISCOVERY)
    await online(output)
    output.offer(ListeningChanged("bed-room", on=False))
    output.offer(SensitivityChanged("bed-room", Sensitivity.MOST))
    newcomer = subscribe(any_port)
    await until(lambda: newcomer.payloads("kikimimi/bed-room/sensitivity/state")[-1:] == ["miss nothing"])

    last = {message.topic: message.payload for message in newcomer.seen}
    assert last["kikimimi/listening/state"] == "ON"
    assert last["kikimimi/kitchen/listening/state"] == last["kikimimi/bed-room/listening/state"] == "OFF"
    assert last["kikimimi/kitchen/status"] == last["kikimimi/bed-room/status"] == "disabled"
    assert last["kikimimi/kitchen/sensitivity/state"] == "balanced"


async def test_a_picture_of_a_broker_that_is_away_is_not_kept(started: Start):
    output = started(free_port(), homeassistant_settings=NO_DISCOVERY)
    output.offer(Pictured("kitchen", b"\x89PNG"))

    assert output.health()["queue"] == 0


# going away


async def test_a_clean_stop_says_offline_at_once_and_loses_nothing(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    output.offer(RoomChanged("kitchen", Presence.ONLINE))
    output.offer(sound())
    await until(lambda: subscriber.payloads(SMOKE)[-1:] == ["ON"])
    for number in range(50):
        output.offer(Publish("many", str(number)))

    began = time.monotonic()
    stopping = asyncio.create_task(output.stop(10))
    await until(lambda: subscriber.payloads("kikimimi/status")[-1:] == ["offline"])
    assert time.monotonic() - began < 1
    await asyncio.wait_for(stopping, 5)
    await until(lambda: len(subscriber.payloads("many")) == 50)

    assert subscriber.payloads("many") == [str(number) for number in range(50)]
    assert subscriber.payloads("kikimimi/kitchen/status")[-1] == "offline"
    assert subscriber.payloads(SMOKE)[-1] == subscriber.payloads("kikimimi/alert/state")[-1] == "OFF"
    assert not output.connected.is_set()
    await asyncio.sleep(0.3)
    assert subscriber.payloads("kikimimi/status").count("offline") == 1  # the will was not needed


async def test_events_may_follow_after_going_offline(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    output.go_offline()
    output.offer(sound(id="B"))
    await output.stop(5)
    await until(lambda: subscriber.payloads(EVENT))

    assert "ON" not in subscriber.payloads(SMOKE)
    assert subscriber.payloads("kikimimi/status")[-1] == "offline"


async def test_a_stop_right_after_connecting_says_offline(any_port: int, quick: None, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    subscriber.publish("kikimimi/status", "online", retain=True)  # what a connection lost a moment ago left behind
    output = Mqtt(MqttSettings(host="127.0.0.1", port=any_port), HOME)
    task = asyncio.create_task(output.run())
    await until(lambda: output._link is not None)
    await output.stop(2)
    await asyncio.wait_for(task, 4)
    await until(lambda: subscriber.payloads("kikimimi/status")[-1:] == ["offline"])


async def test_cancelling_says_offline_too(any_port: int, quick: None, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    output = Mqtt(MqttSettings(host="127.0.0.1", port=any_port), HOME)
    task = asyncio.create_task(output.run())
    await online(output)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 4)
    await until(lambda: subscriber.payloads("kikimimi/status")[-1:] == ["offline"])


async def test_what_is_heard_before_the_broker_has_answered_is_still_told(
    any_port: int, started: Start, subscribe: Subscribe
):
    subscriber = subscribe(any_port)
    await until(subscriber.subscribed.is_set)
    output = started(any_port)
    output.offer(sound())
    output.offer(sound(state=State.ENDED))
    await asyncio.sleep(0)
    await output.stop(5)
    await until(lambda: len(subscriber.payloads(EVENT)) == 2)
    await until(lambda: subscriber.payloads("kikimimi/kitchen/last/sound"))

    assert subscriber.payloads("kikimimi/status")[-1:] == ["offline"]


async def test_stop_does_not_wait_for_a_broker_that_is_not_there(started: Start, caplog: pytest.LogCaptureFixture):
    output = started(free_port())
    output.offer(sound())
    await asyncio.sleep(0.3)
    began = time.monotonic()
    await output.stop(10)

    assert time.monotonic() - began < 1
    assert "never connected, 2 messages were not sent" in warnings(caplog)[-1]


async def test_when_the_daemon_is_lost_the_broker_says_offline(
    any_port: int, started: Start, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mqtt_client, "WILL_DELAY", 1)
    monkeypatch.setattr(mqtt, "_backoff", lambda _attempt: 30.0)
    subscriber = subscribe(any_port)
    output = started(any_port)
    await online(output)
    assert output._link is not None
    output._link.abandon()
    await until(lambda: subscriber.payloads("kikimimi/status")[-1:] == ["offline"])


# a broker that goes and comes


async def test_after_a_restart_the_broker_knows_the_present(mosquitto: Mosquitto, started: Start, subscribe: Subscribe):
    output = started(mosquitto.port)
    await online(output)
    output.offer(RoomChanged("kitchen", Presence.ONLINE))
    output.offer(sound(id="A"))
    await until(lambda: output.health()["in_flight"] == output.health()["queue"] == 0)
    mosquitto.kill()
    await until(lambda: not output.connected.is_set())
    output.offer(sound(id="A", state=State.ENDED))
    output.offer(sound("dog_bark", id="B"))
    output.offer(LevelMeasured("kitchen", -40.0, -60.0, -20.0))
    await asyncio.sleep(1.0)

    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    await until(lambda: len(subscriber.payloads(EVENT)) == 2 and subscriber.payloads("kikimimi/status"))
    assert subscriber.payloads(SMOKE)[-1] == "OFF"
    assert subscriber.payloads("kikimimi/kitchen/sound/dog_bark/state")[-1] == "ON"
    assert subscriber.payloads("kikimimi/kitchen/status")[-1] == "online"
    assert [json.loads(payload)["id"] for payload in subscriber.payloads(EVENT)] == ["A", "B"]
    assert subscriber.payloads("kikimimi/kitchen/trigger") == ["dog_bark"]
    assert subscriber.payloads("kikimimi/kitchen/level") == []
    assert output.health()["reconnects"] == 1
    assert output.health()["drops"] == 0


async def test_a_message_that_was_not_acknowledged_is_sent_again(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe
):
    output = started(mosquitto.port)
    await online(output)
    await until(lambda: output.health()["in_flight"] == 0)
    mosquitto.freeze()
    for number in range(30):  # more than may be unacknowledged at a time
        output.offer(Publish("many", str(number)))
    await until(lambda: output.health()["in_flight"] == 20)
    mosquitto.kill()
    await until(lambda: not output.connected.is_set())
    assert output.health()["queue"] == 30

    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    await until(lambda: len(subscriber.payloads("many")) == 30)
    assert subscriber.payloads("many") == [str(number) for number in range(30)]


async def test_a_frozen_broker_is_given_up(
    mosquitto: Mosquitto, started: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(mqtt_client, "ACK_TIMEOUT", 1.0)
    monkeypatch.setattr(mqtt_client, "CONNACK_TIMEOUT", 0.5)
    output = started(mosquitto.port)
    await online(output)
    await until(lambda: output.health()["in_flight"] == 0)
    mosquitto.freeze()
    output.offer(sound())
    await until(lambda: not output.connected.is_set())
    await until(lambda: len(warnings(caplog)) == 2)

    assert "stopped to acknowledge" in warnings(caplog)[0]
    assert "accepts connections but does not answer" in warnings(caplog)[1]
    assert output.health()["queue"] >= 2  # the event and its trigger wait


async def test_what_is_late_says_so_and_triggers_nothing(mosquitto: Mosquitto, started: Start, subscribe: Subscribe):
    clock = Clock()
    mosquitto.kill()
    output = started(mosquitto.port, clock=clock)
    output.offer(sound("doorbell", id="A"))
    clock.now += 61
    output.offer(sound("dog_bark", id="B"))
    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    await until(lambda: len(subscriber.payloads(EVENT)) == 2)

    assert [json.loads(payload)["late"] for payload in subscriber.payloads(EVENT)] == [True, False]
    assert subscriber.payloads("kikimimi/kitchen/trigger") == ["dog_bark"]
    assert subscriber.payloads("kikimimi/kitchen/doorbell/event") == []
    assert output.health()["expired"] == 2


async def test_the_inbox_is_bounded_and_keeps_the_newest(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mqtt, "INBOX", 10)
    mosquitto.kill()
    output = started(mosquitto.port)
    for number in range(25):
        output.offer(Publish("many", str(number)))
    assert output.health()["queue"] == 10
    assert output.health()["drops"] == 15

    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    await until(lambda: len(subscriber.payloads("many")) == 10)
    assert subscriber.payloads("many") == [str(number) for number in range(15, 25)]


async def test_a_state_that_was_shed_is_made_up_for(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mqtt, "INBOX", 10)
    subscriber = subscribe(mosquitto.port)
    output = started(mosquitto.port)
    await online(output)
    output.offer(sound())
    for number in range(20):  # offered in one go, so that the state is shed before it is sent
        output.offer(Publish("many", str(number)))
    await until(lambda: subscriber.payloads(SMOKE)[-1:] == ["ON"])

    assert output.health()["drops"] == 16


# why there is no connection


async def cause(output: Mqtt, caplog: pytest.LogCaptureFixture) -> str:
    """The one line that tells why, after several attempts."""
    await until(lambda: warnings(caplog))
    await asyncio.sleep(0.8)
    (told,) = warnings(caplog)
    assert not output.connected.is_set()
    return told


async def test_a_closed_port(started: Start, caplog: pytest.LogCaptureFixture):
    port = free_port()
    told = await cause(started(port), caplog)

    assert f"nothing listens at 127.0.0.1:{port}" in told


async def test_an_unknown_host(started: Start, caplog: pytest.LogCaptureFixture):
    told = await cause(started(0, settings=MqttSettings(host="broker.invalid")), caplog)

    assert "host 'broker.invalid' is unknown" in told


@pytest.fixture
def guarded(mosquitto: Mosquitto, tmp_path: Path) -> Mosquitto:
    """A Mosquitto that knows the user `home`, password `sesame`."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    mosquitto.kill()
    subprocess.run([tool, "-b", "-c", str(tmp_path / "passwords"), "home", "sesame"], check=True, capture_output=True)
    mosquitto.config = ["allow_anonymous false", f"password_file {tmp_path}/passwords"]
    mosquitto.start()
    return mosquitto


async def test_a_wrong_password(guarded: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    settings = MqttSettings(url=f"mqtt://home:secretword@127.0.0.1:{guarded.port}")
    told = await cause(started(0, settings=settings), caplog)

    assert "refuses the login of user 'home'" in told
    assert "Not authorized" in told
    assert "secretword" not in caplog.text


async def test_no_password(guarded: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    told = await cause(started(guarded.port), caplog)

    assert "refuses the login of a client without a user name" in told


async def test_the_right_password(guarded: Mosquitto, started: Start, tmp_path: Path):
    (tmp_path / "secret").write_text("sesame\n")
    await online(started(0, settings=MqttSettings(url=f"mqtt://home:sesame@127.0.0.1:{guarded.port}")))
    settings = MqttSettings(
        host="127.0.0.1", port=guarded.port, username="home", password_file=tmp_path / "secret", client_id="second"
    )
    await online(started(0, settings=settings))


async def test_a_missing_password_file(guarded: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    settings = MqttSettings(host="127.0.0.1", port=guarded.port, username="home", password_file=Path("/nowhere/secret"))
    told = await cause(started(0, settings=settings), caplog)

    assert "/nowhere/secret: No such file or directory" in told


async def test_a_port_that_accepts_and_never_answers(
    started: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mqtt_client, "CONNACK_TIMEOUT", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        output = started(silent.getsockname()[1])
        told = await cause(output, caplog)
        await output.stop(1)

    assert "accepts connections but does not answer" in told


@pytest.mark.skipif(sys.platform != "linux", reason="counts the files that Linux shows in /proc")
async def test_attempts_leave_no_sockets_behind(
    started: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def sockets() -> int:
        return sum("socket:" in os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir())

    monkeypatch.setattr(mqtt_client, "CONNACK_TIMEOUT", 0.1)
    gc.collect()
    gc.disable()  # a collection would close them too, but nobody knows when it comes
    try:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            before = sockets()
            output = started(silent.getsockname()[1])
            await cause(output, caplog)
            await output.stop(1)
            await until(lambda: sockets() <= before)
    finally:
        gc.enable()


async def test_something_that_is_no_broker(started: Start, caplog: pytest.LogCaptureFixture):
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
        output = started(server.sockets[0].getsockname()[1])
        told = await cause(output, caplog)
        await output.stop(1)

    assert "is it an MQTT broker" in told


async def test_a_cause_is_told_again_after_another_one(
    mosquitto: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture
):
    output = started(mosquitto.port)
    await online(output)
    for _ in range(2):
        mosquitto.kill()
        await until(lambda: not output.connected.is_set())
        await asyncio.sleep(0.5)
        mosquitto.start()
        await online(output)

    told = warnings(caplog)
    assert len([line for line in told if "is gone" in line]) == 2
    assert len([line for line in told if "nothing listens" in line]) == 2


async def test_a_second_daemon_with_the_same_name_is_explained(
    mosquitto: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture
):
    first = started(mosquitto.port)
    await online(first)
    await online(started(mosquitto.port))
    await until(lambda: any("client_id 'kikimimi-7f3a'" in line for line in warnings(caplog)))


# TLS


@pytest.fixture
def tls_broker(mosquitto: Mosquitto, tmp_path: Path) -> Mosquitto:
    """A Mosquitto with a certificate for 127.0.0.1, signed by `ca.pem`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr",
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out broker.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    for name in ("broker.key", "broker.pem", "ca.pem"):
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    mosquitto.kill()
    mosquitto.config = ["allow_anonymous true", f"certfile {tmp_path}/broker.pem", f"keyfile {tmp_path}/broker.key"]
    mosquitto.start()
    return mosquitto


async def test_tls(tls_broker: Mosquitto, started: Start, tmp_path: Path):
    url = f"mqtts://127.0.0.1:{tls_broker.port}"
    await online(started(0, settings=MqttSettings(url=url, tls=TlsSettings(ca=tmp_path / "ca.pem"))))
    await online(started(0, settings=MqttSettings(url=url, tls=TlsSettings(insecure=True), client_id="second")))


async def test_an_untrusted_certificate(tls_broker: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    told = await cause(started(0, settings=MqttSettings(url=f"mqtts://127.0.0.1:{tls_broker.port}")), caplog)

    assert "certificate is not trusted" in told
    assert "mqtt.tls.ca" in told


async def test_tls_to_a_port_without(mosquitto: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    told = await cause(started(0, settings=MqttSettings(url=f"mqtts://127.0.0.1:{mosquitto.port}")), caplog)

    assert "TLS" in told
    assert "is this the TLS port" in told


async def test_no_tls_to_a_port_with(tls_broker: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    told = await cause(started(tls_broker.port), caplog)

    assert "closes the connection without an answer" in told
    assert "does it want TLS" in told


async def test_a_missing_authority(tls_broker: Mosquitto, started: Start, caplog: pytest.LogCaptureFixture):
    settings = MqttSettings(url=f"mqtts://127.0.0.1:{tls_broker.port}", tls=TlsSettings(ca=Path("/nowhere/ca.pem")))
    told = await cause(started(0, settings=settings), caplog)

    assert "/nowhere/ca.pem: No such file or directory" in told


async def test_a_message_that_is_too_large_is_never_sent_to_us(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe
):
    async def answer(_question: object) -> dict[str, str]:
        return {"text": "yes"}

    output = started(mosquitto.port, answer=answer)
    subscriber = subscribe(mosquitto.port)
    await online(output)
    subscriber.publish("kikimimi/ask", b"x" * 2_000_000)
    subscriber.publish("kikimimi/ask", json.dumps({"text": "there?", "reply_to": "kikimimi/reply/a"}))
    await until(lambda: subscriber.payloads("kikimimi/reply/a"))
    assert (output.health()["questions"], output.health()["questions_refused"]) == (1, 0)
    assert output.health()["reconnects"] == 0


# versions of MQTT


async def test_the_version_is_5_where_the_broker_speaks_it(
    any_port: int, started: Start, request: pytest.FixtureRequest
):
    output = started(any_port)
    await online(output)

    assert output.health()["protocol"] == ("5.0" if "mosquitto" in request.node.name else "3.1.1")


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b""], ids=["refuses", "hangs up"])
async def test_a_broker_without_mqtt_5_is_asked_again_at_once(answer: bytes, started: Start):
    levels: list[int] = []

    async def old_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await reader.read(1000)
        levels.append(packet[packet.index(b"MQTT") + 4])
        if levels[-1] == 5:
            writer.write(answer)
        else:
            writer.write(b"\x20\x02\x00\x00")  # welcome, and no acknowledgement ever after
            await reader.read()
        writer.close()

    async with await asyncio.start_server(old_broker, "127.0.0.1", 0) as server:
        output = started(server.sockets[0].getsockname()[1])
        await until(lambda: output._link is not None, 1.0)
        assert levels == [5, 4]
        assert output._link is not None
        output._link.abandon()
        await until(lambda: len(levels) == 3)
        assert levels[2] == 4  # remembered
        await output.stop(0.1)


# Home Assistant and what earlier runs left behind


async def test_when_homeassistant_starts_everything_is_announced_again(
    any_port: int, started: Start, subscribe: Subscribe
):
    waited: list[float] = []

    def wait() -> float:
        waited.append(0.3)
        return 0.3

    subscriber = subscribe(any_port)
    output = started(any_port, birth_wait=wait)
    await online(output)
    await until(lambda: subscriber.payloads("kikimimi/announced/7f3a"))
    before = len(subscriber.payloads("homeassistant/device/kikimimi_7f3a/config"))
    output.offer(sound())
    subscriber.publish("homeassistant/status", "offline")
    subscriber.publish("homeassistant/status", "online")
    subscriber.publish("homeassistant/status", "online")
    await until(lambda: len(subscriber.payloads("homeassistant/device/kikimimi_7f3a/config")) > before)
    await until(lambda: len(subscriber.payloads("kikimimi/status")) == 2)

    assert waited == [0.3]
    assert subscriber.payloads(SMOKE)[-1] == "ON"
    assert len(subscriber.payloads("homeassistant/device/kikimimi_7f3a_kitchen/config")) == 2


async def test_discovery_can_be_off(any_port: int, started: Start, subscribe: Subscribe):
    subscriber = subscribe(any_port)
    await online(started(any_port, homeassistant_settings=NO_DISCOVERY))
    await until(lambda: subscriber.payloads("kikimimi/announced/7f3a"))

    assert not [topic for topic in subscriber.topics() if topic.startswith("homeassistant/")]


async def retained(subscribe: Subscribe, port: int) -> dict[str, str]:
    """What a newcomer is told."""
    newcomer = subscribe(port)
    await until(newcomer.subscribed.is_set)
    await asyncio.sleep(0.3)
    newcomer.stop()
    return {message.topic: message.payload for message in newcomer.seen}


async def run_once(started: Start, port: int, home: object, **options: object) -> None:
    """A run that announces and ends."""
    output = started(port, home, **options)
    await online(output)
    await until(lambda: output._announcer.swept)
    await output.stop(2)


async def test_rooms_and_sounds_that_are_gone_are_removed(any_port: int, started: Start, subscribe: Subscribe):
    await run_once(started, any_port, HOME)
    smaller = replace(HOME, rooms=HOME.rooms[:1], sounds=HOME.sounds[1:])
    subscriber = subscribe(any_port)
    await until(subscriber.subscribed.is_set)
    await run_once(started, any_port, smaller)

    configs = [
        json.loads(payload)["components"]
        for payload in subscriber.payloads("homeassistant/device/kikimimi_7f3a_kitchen/config")
    ]
    assert {"platform": "binary_sensor"} in [components.get("sound_smoke_alarm") for components in configs]
    assert {"platform": "device_automation"} in [components.get("trigger_smoke_alarm") for components in configs]
    assert "sound_smoke_alarm" not in configs[-1]

    left = await retained(subscribe, any_port)
    assert "homeassistant/device/kikimimi_7f3a_kitchen/config" in left
    assert not [topic for topic in left if "bed-room" in topic or "smoke_alarm" in topic]


async def test_turning_discovery_off_removes_every_device(any_port: int, started: Start, subscribe: Subscribe):
    await run_once(started, any_port, HOME)
    await run_once(started, any_port, HOME, homeassistant_settings=NO_DISCOVERY)

    left = await retained(subscribe, any_port)
    assert not [topic for topic in left if topic.startswith("homeassistant/")]
    assert SMOKE in left


async def test_turning_transcripts_off_deletes_what_was_said(any_port: int, started: Start, subscribe: Subscribe):
    said = Event(
        id="S", room="kitchen", source="mic", kind="speech", state=State.HEARD, event_type="speech", label="Speech",
        score=0.8, text="open sesame",
    )  # fmt: skip
    talking = started(any_port, replace(HOME, transcripts=True))
    await online(talking)
    talking.offer(said)
    await until(lambda: talking._announcer.swept)
    await talking.stop(2)
    assert "open sesame" in (await retained(subscribe, any_port))["kikimimi/kitchen/last/speech"]

    await run_once(started, any_port, HOME)
    assert not [payload for payload in (await retained(subscribe, any_port)).values() if "open sesame" in payload]


async def test_another_installation_is_left_alone(any_port: int, started: Start, subscribe: Subscribe):
    other = replace(HOME, install="beef", rooms=HOME.rooms[1:])
    await run_once(started, any_port, other)
    await run_once(started, any_port, replace(HOME, rooms=HOME.rooms[:1]))

    left = await retained(subscribe, any_port)
    assert "homeassistant/device/kikimimi_beef_bed-room/config" in left
    assert "kikimimi/bed-room/status" in left


@pytest.mark.parametrize("garbage", ["", "no JSON", "[]", '{"rooms": 3}', '{"rooms": {"a": 1}, "prefix": 2}'])
async def test_a_memory_that_cannot_be_read_is_ignored(
    garbage: str, started: Start, mosquitto: Mosquitto, subscribe: Subscribe
):
    subscriber = subscribe(mosquitto.port)
    subscriber.publish("kikimimi/announced/7f3a", garbage, retain=True)
    await run_once(started, mosquitto.port, HOME)

    assert json.loads((await retained(subscribe, mosquitto.port))["kikimimi/announced/7f3a"])["rooms"]
