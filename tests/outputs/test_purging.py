"""`kikimimi mqtt purge` against real brokers: everything of ours goes, nothing of anybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import HOME, Mosquitto, Subscriber, free_port, until

from assistant import cli, purging
from assistant.errors import AssistantError, ConfigurationError
from assistant.events import Event, HealthMeasured, Publish, State
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt import Mqtt, MqttSettings
from assistant.purging import find, plan_of, remove

Start = Callable[..., Mqtt]
Subscribe = Callable[..., Subscriber]

FOREIGN = {
    "homeassistant/device/zigbee_lamp/config": '{"origin":{"name":"zigbee"}}',
    "homeassistant/device/kikimimi_7f3a_lamp/config": '{"origin":{"name":"somebody"}}',  # our id, not our words
    "homeassistant/device/kikimimi_7f3a_lamp2/config": "no JSON",
    "homeassistant/sensor/kikimimi_7f3a/config": "{}",
    "kikimimi/lamp/status": "on",
    "kikimimi/kitchen/scene": "cosy",
    "kikimimi/kitchen/sound/level": "3",
    "kikimimi/kitchen/listening/set": "ON",
    "zigbee/lamp": "on",
}


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker on this machine has told everything soon."""
    monkeypatch.setattr(purging, "QUIET", 0.2)


def settings(port: int, **fields: object) -> MqttSettings:
    return MqttSettings(url=f"mqtt://127.0.0.1:{port}", **fields)  # type: ignore[arg-type]


def retained(subscriber: Subscriber) -> dict[str, str]:
    return {message.topic: message.payload for message in list(subscriber.seen) if message.retained and message.payload}


async def kept(subscribe: Subscribe, port: int) -> dict[str, str]:
    newcomer = subscribe(port)
    await until(newcomer.subscribed.is_set)
    await asyncio.sleep(0.5)
    newcomer.stop()
    return retained(newcomer)


async def live(started: Start, port: int, home: object = HOME, **options: object) -> None:
    """A run that says all that it can, and ends."""
    output = started(port, home, **options)
    await asyncio.wait_for(output.connected.wait(), 20)
    await until(lambda: output._announcer.swept)
    for kind, event_type in (("sound", "smoke_alarm"), ("sound", "other"), ("speech", "speech")):
        output.offer(
            Event(
                id=event_type, room="kitchen", source="mic", kind=kind, state=State.STARTED, event_type=event_type,
                label="x", score=1.0,
            )
        )  # fmt: skip
    output.offer(HealthMeasured({"cpu_percent": 1.0}))
    output.offer(Publish("kikimimi/kitchen/rule", "of a rule", retain=True))
    await output.stop(3)


async def plant(subscribe: Subscribe, port: int) -> None:
    """What others keep on the broker."""
    gardener = subscribe(port)
    await until(gardener.subscribed.is_set)
    for topic, payload in FOREIGN.items():
        gardener.publish(topic, payload, retain=True)
    await until(lambda: set(FOREIGN) <= set(gardener.topics()))
    gardener.stop()


async def test_everything_of_ours_goes_and_nothing_else(any_port: int, started: Start, subscribe: Subscribe):
    await plant(subscribe, any_port)
    await live(started, any_port)
    before = await kept(subscribe, any_port)
    plan = await find(settings(any_port), "homeassistant", "7f3a", [])
    assert await remove(settings(any_port), plan) == ()

    after = await kept(subscribe, any_port)
    assert after == {**FOREIGN, "kikimimi/kitchen/rule": "of a rule"}
    assert set(plan.remove) == set(before) - set(after)
    assert plan.remove[-1] == "kikimimi/announced/7f3a"
    assert plan.remove[2] == "homeassistant/device/kikimimi_7f3a/config"  # its rooms go before the hub
    assert "kikimimi/kitchen/rule" in plan.kept
    assert not plan.running
    assert {"kikimimi/bed-room/listening/state", "kikimimi/health", "kikimimi/listening/state"} <= set(plan.remove)

    again = await find(settings(any_port), "homeassistant", "7f3a", [])
    assert again.remove == ()


async def test_a_base_topic_that_is_shared(mosquitto: Mosquitto, started: Start, subscribe: Subscribe):
    """The other installation has the bedroom too, and the kitchen is ours alone."""
    await live(started, mosquitto.port, replace(HOME, install="beef", rooms=HOME.rooms[1:]))
    await live(started, mosquitto.port)
    plan = await find(settings(mosquitto.port), "homeassistant", "7f3a", [])
    assert await remove(settings(mosquitto.port), plan) == ()

    left = await kept(subscribe, mosquitto.port)
    assert plan.others == ("beef",)
    assert not [topic for topic in left if "7f3a" in topic]
    assert not [topic for topic in left if topic.startswith("kikimimi/kitchen/") and not topic.endswith("/rule")]
    assert {"homeassistant/device/kikimimi_beef/config", "kikimimi/bed-room/status", "kikimimi/status"} <= set(left)


async def test_an_earlier_prefix_and_a_base_topic_of_two_levels(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe
):
    where = settings(mosquitto.port, base_topic="home/ears")
    discovery = HomeAssistantSettings(prefix="earlier/ha")
    await live(started, mosquitto.port, settings=where, homeassistant_settings=discovery)
    plan = await find(where, "homeassistant", "7f3a", [])
    assert await remove(where, plan) == ()

    assert await kept(subscribe, mosquitto.port) == {"kikimimi/kitchen/rule": "of a rule"}


async def test_what_may_not_be_removed_is_told(mosquitto: Mosquitto, started: Start, tmp_path: Path):
    await live(started, mosquitto.port)
    plan = await find(settings(mosquitto.port), "homeassistant", "7f3a", [])
    mosquitto.kill()
    (tmp_path / "acl").write_text("topic read kikimimi/#\nuser me\ntopic readwrite kikimimi/#\n")
    mosquitto.config = ["allow_anonymous true", f"acl_file {tmp_path}/acl", "max_packet_size 9000"]
    mosquitto.start()
    # the broker has forgotten; somebody else says it again
    author = Subscriber(mosquitto.port)
    author._client.username_pw_set("me")
    author._client.connect("127.0.0.1", mosquitto.port)
    author._client.loop_start()
    author.publish("kikimimi/status", "offline", retain=True)
    await asyncio.sleep(0.5)
    author.stop()

    assert await remove(settings(mosquitto.port), plan) == ("kikimimi/status",)


def test_rooms_that_nobody_remembers_are_those_of_the_configuration():
    told = {
        "kikimimi/hall/status": b"offline",
        "kikimimi/hall/sound/cat/state": b"OFF",
        "kikimimi/attic/status": b"offline",
    }

    assert plan_of(told, "7f3a", "kikimimi", {"homeassistant"}, ["hall"]).remove == (
        "kikimimi/hall/sound/cat/state",
        "kikimimi/hall/status",
    )
    assert plan_of({}, "7f3a", "kikimimi", {"homeassistant"}, ["hall"]).remove == ()


def test_an_id_that_begins_like_ours_is_not_ours():
    ours = b'{"origin":{"name":"Kikimimi"}}'
    told = {f"homeassistant/device/kikimimi_{end}/config": ours for end in ("7f3a", "7f3a_hall", "7f3abc", "7f3abc_x")}

    assert plan_of(told, "7f3a", "kikimimi", {"homeassistant"}, []).remove == (
        "homeassistant/device/kikimimi_7f3a_hall/config",
        "homeassistant/device/kikimimi_7f3a/config",
    )


async def test_a_broker_that_is_not_there():
    with pytest.raises(AssistantError, match="nothing listens at"):
        await find(settings(free_port()), "homeassistant", "7f3a", [])
    with pytest.raises(ConfigurationError, match=r"mqtt\.url"):
        await find(MqttSettings(), "homeassistant", "7f3a", [])


# the command


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of installation 7f3a, and a configuration file."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state" / "kikimimi").mkdir(parents=True)
    (tmp_path / "state" / "kikimimi" / "install-id").write_text("7f3a\n")
    (tmp_path / "config.yaml").write_text("rooms:\n  hall:\n    source: default\n")
    return tmp_path / "config.yaml"


def test_the_command(
    mosquitto: Mosquitto, subscribe: Subscribe, installation: Path, capsys: pytest.CaptureFixture[str]
):
    gardener = subscribe(mosquitto.port)
    assert gardener.subscribed.wait(5)
    gardener.publish("kikimimi/hall/status", "online", retain=True)
    gardener.publish("kikimimi/status", "online", retain=True)
    gardener.publish("kikimimi/elsewhere", "x", retain=True)
    command = ["mqtt", "purge", "-c", str(installation), "--mqtt", f"mqtt://127.0.0.1:{mosquitto.port}"]

    assert cli.main([*command, "--json"]) == 2
    assert cli.main(command) == 1  # nobody is there to be asked
    told = capsys.readouterr()
    assert "kikimimi/hall/status" in told.out
    assert "not touched below the base topic: kikimimi/elsewhere" in told.out
    assert "stop it first" in told.out
    assert "nothing was removed" in told.err

    assert cli.main([*command, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "broker": f"127.0.0.1:{mosquitto.port}",
        "installation": "7f3a",
        "removed": ["kikimimi/hall/status", "kikimimi/status"],
        "stayed": [],
        "not_touched": ["kikimimi/elsewhere"],
        "shared_with": [],
    }
    assert cli.main([*command, "--yes"]) == 0
    assert "installation 7f3a: 0 retained messages" in capsys.readouterr().out


def test_the_command_without_a_broker(installation: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["mqtt", "purge", "-c", str(installation)]) == 2
    assert "--mqtt mqtt://" in capsys.readouterr().err
    assert cli.main(["mqtt", "purge", "-c", str(installation), "--mqtt", f"mqtt://127.0.0.1:{free_port()}"]) == 1
    assert "nothing listens at" in capsys.readouterr().err
