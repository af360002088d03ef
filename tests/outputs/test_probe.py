"""Brokers that fail at each step, real ones where there is one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from contextlib import aclosing
from pathlib import Path

import pytest
from brokers import Mosquitto, free_port

from assistant.outputs import mqtt_client, probe
from assistant.outputs.mqtt_client import MqttSettings, TlsSettings
from assistant.outputs.probe import Step


async def steps(settings: MqttSettings) -> list[Step]:
    async with aclosing(probe.probe(settings)) as tried:
        return [step async for step in tried]


def names(found: list[Step]) -> str:
    """The steps that work, then the one that does not."""
    return " ".join(step.name if step.works else f"!{step.name}" for step in found)


def guarded(mosquitto: Mosquitto, folder: Path, rules: str) -> MqttSettings:
    """The broker with the user `home` and access rules."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    mosquitto.kill()
    subprocess.run([tool, "-b", "-c", str(folder / "passwords"), "home", "sesame"], check=True, capture_output=True)
    (folder / "acl").write_text(rules)
    mosquitto.config = ["allow_anonymous false", f"password_file {folder}/passwords", f"acl_file {folder}/acl"]
    mosquitto.start()
    return MqttSettings(url=f"mqtt://home:sesame@127.0.0.1:{mosquitto.port}")


async def test_a_broker_that_does_everything(any_port: int):
    found = await steps(MqttSettings(url=f"mqtt://localhost:{any_port}", host=None))
    assert names(found) == "name tcp login subscribe publish"
    assert "127.0.0.1" in found[0].detail


async def test_nothing_is_left_behind(mosquitto: Mosquitto):
    from brokers import Subscriber  # noqa: PLC0415

    await steps(MqttSettings(url=mosquitto.url))
    subscriber = Subscriber(mosquitto.port).start()
    await asyncio.sleep(0.5)
    subscriber.stop()
    assert not [topic for topic in subscriber.topics() if "probe" in topic]


async def test_an_unknown_host():
    found = await steps(MqttSettings(url="mqtt://no-such-host.invalid"))
    assert names(found) == "!name"
    assert "no-such-host.invalid" in found[0].detail


async def test_a_closed_port():
    found = await steps(MqttSettings(url=f"mqtt://127.0.0.1:{free_port()}"))
    assert names(found) == "name !tcp"
    assert "nothing listens" in found[1].detail


async def test_a_port_without_tls(mosquitto: Mosquitto):
    found = await steps(MqttSettings(url=f"mqtts://127.0.0.1:{mosquitto.port}"))
    assert names(found) == "name tcp !tls"
    assert "is this the TLS port" in found[2].detail


async def test_a_missing_authority(mosquitto: Mosquitto):
    settings = MqttSettings(url=f"mqtts://127.0.0.1:{mosquitto.port}", tls=TlsSettings(ca=Path("/nowhere/ca.pem")))
    found = await steps(settings)
    assert names(found) == "name tcp !tls"
    assert "/nowhere/ca.pem" in found[2].detail


async def test_a_port_that_never_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mqtt_client, "CONNACK_TIMEOUT", 0.3)
    monkeypatch.setattr(probe, "STEP_TIMEOUT", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        found = await steps(MqttSettings(url=f"mqtt://127.0.0.1:{port}"))
        assert names(found) == "name tcp !login"
        found = await steps(MqttSettings(url=f"mqtts://127.0.0.1:{port}"))
        assert names(found) == "name tcp !tls"


async def test_a_wrong_password(mosquitto: Mosquitto, tmp_path: Path):
    guarded(mosquitto, tmp_path, "topic readwrite #\n")
    found = await steps(MqttSettings(url=f"mqtt://home:open@127.0.0.1:{mosquitto.port}"))
    assert names(found) == "name tcp !login"
    assert "refuses the login of user 'home'" in found[2].detail


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("user home\ntopic readwrite kikimimi/#\n", "name tcp login subscribe publish"),
        ("user home\ntopic read kikimimi/#\n", "name tcp login subscribe !publish"),
        ("user home\ntopic readwrite other/#\n", "name tcp login"),
    ],
)
async def test_access_rules(
    rules: str, told: str, mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probe, "ANSWER_TIMEOUT", 1.0)
    found = await steps(guarded(mosquitto, tmp_path, rules))
    assert names(found).startswith(told)
    assert "!" in names(found) or rules.endswith("readwrite kikimimi/#\n")
