"""TLS to a real Mosquitto: right and wrong authorities, certificates, names, client certificates and passwords."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import Mosquitto, until
from certificates import Authority

from assistant.outputs.mqtt import Mqtt, MqttSettings, TlsSettings

Start = Callable[..., Mqtt]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


def speaks_tls(broker: Mosquitto, cert: Path, key: Path, *more: str) -> Mosquitto:
    broker.kill()
    broker.config = [f"certfile {cert}", f"keyfile {key}", *more]
    if not any(line.startswith("allow_anonymous") for line in more):
        broker.config.append("allow_anonymous true")
    broker.start()
    return broker


def settings(broker: Mosquitto, tls: TlsSettings, **login: object) -> MqttSettings:
    return MqttSettings(host="127.0.0.1", port=broker.port, tls=tls, **login)  # type: ignore[arg-type]


async def online(output: Mqtt) -> None:
    await asyncio.wait_for(output.connected.wait(), 20)


async def refused(output: Mqtt, caplog: pytest.LogCaptureFixture) -> str:
    """Why it does not connect."""

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    await until(lambda: any("trying again for ever" in line for line in warnings()), 20)
    assert not output.connected.is_set()
    return " ".join(warnings())


async def test_a_broker_of_an_authority_that_we_know(mosquitto: Mosquitto, authority: Authority, started: Start):
    broker = speaks_tls(mosquitto, *authority.issue("127.0.0.1"))
    await online(started(0, settings=settings(broker, TlsSettings(ca=authority.ca))))


async def test_an_authority_that_did_not_sign_it(
    mosquitto: Mosquitto, authority: Authority, started: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    broker = speaks_tls(mosquitto, *authority.issue("127.0.0.1"))
    other = Authority.make(tmp_path, "other")
    told = await refused(started(0, settings=settings(broker, TlsSettings(ca=other.ca))), caplog)
    assert "not trusted" in told
    assert "give its authority in mqtt.tls.ca" in told


async def test_a_certificate_that_has_expired(
    mosquitto: Mosquitto, authority: Authority, started: Start, caplog: pytest.LogCaptureFixture
):
    broker = speaks_tls(mosquitto, *authority.issue("127.0.0.1", expired=True))
    told = await refused(started(0, settings=settings(broker, TlsSettings(ca=authority.ca))), caplog)
    assert "has expired: renew the broker's certificate" in told


@pytest.mark.parametrize("named", ["broker.example", "127.0.0.2"])
async def test_a_certificate_of_another_name(
    named: str, mosquitto: Mosquitto, authority: Authority, started: Start, caplog: pytest.LogCaptureFixture
):
    broker = speaks_tls(mosquitto, *authority.issue(named))
    told = await refused(started(0, settings=settings(broker, TlsSettings(ca=authority.ca))), caplog)
    assert "write mqtt.host as the certificate names the broker" in told


@pytest.fixture
def strict(mosquitto: Mosquitto, authority: Authority) -> Mosquitto:
    """A broker that asks for a client certificate."""
    return speaks_tls(mosquitto, *authority.issue("127.0.0.1"), f"cafile {authority.ca}", "require_certificate true")


async def test_a_client_certificate(strict: Mosquitto, authority: Authority, started: Start):
    cert, key = authority.issue("kikimimi.example")
    await online(started(0, settings=settings(strict, TlsSettings(ca=authority.ca, cert=cert, key=key))))


async def test_no_client_certificate_where_one_is_wanted(
    strict: Mosquitto, authority: Authority, started: Start, caplog: pytest.LogCaptureFixture
):
    told = await refused(started(0, settings=settings(strict, TlsSettings(ca=authority.ca))), caplog)
    assert "mqtt.tls.cert" in told


async def test_a_client_certificate_of_somebody_else(
    strict: Mosquitto, authority: Authority, started: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cert, key = Authority.make(tmp_path, "other").issue("kikimimi.example")
    told = await refused(
        started(0, settings=settings(strict, TlsSettings(ca=authority.ca, cert=cert, key=key))), caplog
    )
    assert "127.0.0.1" in told


async def test_a_key_that_does_not_fit_its_certificate(
    strict: Mosquitto, authority: Authority, started: Start, caplog: pytest.LogCaptureFixture
):
    cert, _ = authority.issue("kikimimi.example")
    _, key = authority.issue("other.example")
    told = await refused(
        started(0, settings=settings(strict, TlsSettings(ca=authority.ca, cert=cert, key=key))), caplog
    )
    assert "are mqtt.tls files right?" in told


async def test_a_password_over_tls(
    mosquitto: Mosquitto, authority: Authority, started: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed: apt-get install mosquitto")
    command = [tool, "-b", "-c", str(tmp_path / "users"), "home", "sesame"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    (tmp_path / "secret").write_text("sesame\n")
    (tmp_path / "secret").chmod(0o644)
    login = ("allow_anonymous false", f"password_file {tmp_path}/users")
    broker = speaks_tls(mosquitto, *authority.issue("127.0.0.1"), *login)
    tls = TlsSettings(ca=authority.ca)

    right = settings(broker, tls, username="home", password_file=tmp_path / "secret")
    await online(started(0, settings=right))
    assert f"{tmp_path}/secret: every user of this machine can read it; remedy: chmod 600" in caplog.text
    assert "sesame" not in caplog.text

    caplog.clear()
    told = await refused(started(0, settings=settings(broker, tls, username="home", password="open")), caplog)
    assert "refuses the login of user 'home'" in told
