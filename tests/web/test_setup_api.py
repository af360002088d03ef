"""Set-up through the API of a real daemon, with a real Mosquitto: each stage of a broker, the file, a new start."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from houses import House
from outputs.brokers import Mosquitto, Subscriber, free_port, until
from outputs.certificates import Authority
from supervisor import Supervisor

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise

Make = Callable[..., House]


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, noise(300.0, -60.0), SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is missing; remedy: apt-get install mosquitto")
    broker = Mosquitto(program, tmp_path)
    yield broker
    broker.kill()


def with_passwords(broker: Mosquitto, folder: Path) -> Mosquitto:
    import subprocess  # noqa: PLC0415

    passwords = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "home", "correct horse"], check=True)
    passwords.chmod(0o644)
    broker.config = ["allow_anonymous false", f"password_file {passwords}"]
    return broker


def set_up(here: House) -> dict[str, Any]:
    status, told = here.call("GET", "setup")
    assert status == 200, told
    return dict(told)


def steps(here: House, **wanted: Any) -> list[dict[str, Any]]:
    """What a try of a broker tells."""
    body = json.dumps({"kind": "own", **wanted}).encode()
    request = urllib.request.Request(f"{here.url}api/setup/broker/test", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")]


def save(here: House, **wanted: Any) -> dict[str, Any]:
    status, told = here.call("PUT", "setup", {"digest": set_up(here)["file"]["digest"], **wanted})
    assert status == 200, told
    return dict(told)


def test_a_broker_is_tried_stage_by_stage(house: Make, quiet: Path, mosquitto: Mosquitto, tmp_path: Path) -> None:
    with_passwords(mosquitto, tmp_path).start()
    here = house().start("--source", f"kitchen={quiet}")
    (failed,) = steps(here, host="no-such-host.invalid")
    assert (failed["step"], failed["works"]) == ("name", False)
    assert "no-such-host.invalid" in failed["detail"]
    told = steps(here, host="127.0.0.1", port=free_port())
    assert [(one["step"], one["works"]) for one in told] == [("name", True), ("tcp", False)]
    told = steps(here, host="127.0.0.1", port=mosquitto.port, username="home", password="wrong")
    assert [(one["step"], one["works"]) for one in told] == [("name", True), ("tcp", True), ("login", False)]
    told = steps(here, host="127.0.0.1", port=mosquitto.port, username="home", password="correct horse")
    assert [one["step"] for one in told if one["works"]] == ["name", "tcp", "login", "subscribe", "publish"]
    told = steps(here, host="127.0.0.1", port=mosquitto.port, tls=True)
    assert [(one["step"], one["works"]) for one in told] == [("name", True), ("tcp", True), ("tls", False)]
    (failed,) = steps(here)
    assert "the host of the broker is missing" in failed["detail"]
    assert "correct horse" not in here.log.read_text()


def test_tls_with_an_authority_of_ones_own(house: Make, quiet: Path, mosquitto: Mosquitto, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("localhost")
    mosquitto.config += [f"certfile {certificate}", f"keyfile {key}"]
    mosquitto.start()
    settings = f"mqtt: {{host: localhost, port: {mosquitto.port}, tls: {{ca: {authority.ca}}}}}\n"
    here = house(settings=settings).start("--source", f"kitchen={quiet}")
    told = steps(here, host="localhost", port=mosquitto.port, tls=True)
    assert [one["step"] for one in told if one["works"]] == ["name", "tcp", "tls", "login", "subscribe", "publish"]
    told = steps(here, host="127.0.0.1", port=mosquitto.port, tls=True)  # its authority is meant for the other name
    assert (told[-1]["step"], told[-1]["works"]) == ("tls", False)
    assert "remedy" in told[-1]["detail"] or ":" in told[-1]["detail"]
    deadline = time.monotonic() + 20.0
    while not set_up(here)["broker"]["connected"]:
        assert time.monotonic() < deadline, here.log.read_text()
        time.sleep(0.1)
    status, tested = here.call("POST", "setup/test", {"room": "kitchen"})
    assert (status, tested["arrived"]) == (200, True), tested


def test_a_broker_is_saved_and_used_after_a_new_start(
    house: Make, quiet: Path, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    with_passwords(mosquitto, tmp_path).start()
    here = house().start("--source", f"kitchen={quiet}")
    before = here.config.read_bytes()
    state = set_up(here)
    assert (state["broker"]["kind"], state["broker"]["password"], state["fixed_rooms"]) == ("page", False, True)
    wanted = {"kind": "own", "host": "127.0.0.1", "port": mosquitto.port, "username": "home"}
    done = save(here, broker={**wanted, "password": "correct horse"}, ignore=["bird", "cat"])
    assert sorted(done["restart"]) == ["mqtt", "sounds"]
    text = here.config.read_text()
    assert text.startswith(before.decode())
    assert "correct horse" not in text
    (secret,) = here.config.parent.glob("mqtt-password-*")
    assert secret.read_text() == "correct horse\n"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    state = set_up(here)
    assert state["broker"] | {"connected": None} == {
        "kind": "own", "host": "127.0.0.1", "port": mosquitto.port, "username": "home", "password": True, "tls": False,
        "connected": None, "fixed": False,
    }  # fmt: skip
    assert [one["event_type"] for one in state["sounds"] if not one["told"]] == ["cat", "bird"]
    # the password that is set is for this broker alone
    assert steps(here, **{key: value for key, value in wanted.items() if key != "kind"})[-1]["step"] == "publish"
    assert steps(here, host="localhost", port=mosquitto.port, username="home")[-1]["step"] == "login"
    status, told = here.call("PUT", "setup", {"digest": done["digest"], "broker": {**wanted, "host": "localhost"}})
    assert (status, "type it again" in told["detail"]) == (422, True)
    # nothing of it is followed before a new start, which keeps the process
    pid, began = here.pid, here.log.read_text().count("web: http")
    assert here.call("POST", "setup/restart", {"digest": "0" * 64})[0] == 409
    assert here.call("POST", "setup/restart", {"digest": done["digest"]})[0] == 202
    deadline = time.monotonic() + 60
    while here.log.read_text().count("web: http") == began:
        assert time.monotonic() < deadline, here.log.read_text()
        time.sleep(0.1)
    here.served()
    assert here.pid == pid
    assert f"connected to 127.0.0.1:{mosquitto.port}" in here.log.read_text()
    state = set_up(here)
    assert (state["file"]["restart"], state["broker"]["connected"]) == ([], True)
    status, tested = here.call("POST", "setup/test", {"room": "kitchen"})
    assert (status, tested["arrived"]) == (200, True), tested
    assert tested["seconds"] < 5
    assert here.call("POST", "setup/test", {"room": "attic"})[0] == 409
    # and back: no broker but the page, the file as it was
    save(here, broker={"kind": "page"}, ignore=[])
    assert "mqtt:" not in here.config.read_text()
    version = set_up(here)["file"]["versions"][1]["id"]
    digest = set_up(here)["file"]["digest"]
    assert here.call("POST", "configuration/undo", {"version": version, "digest": digest})[0] == 200
    assert here.config.read_bytes() == before
    everything = json.dumps([set_up(here), here.call("GET", "configuration")[1]]) + here.log.read_text()
    assert "correct horse" not in everything


async def test_a_supervisor_sees_one_process_that_reloads(house: Make, quiet: Path) -> None:
    supervisor = Supervisor()
    here = house()
    here.environment = supervisor.environment
    try:
        await asyncio.to_thread(here.start, "--source", f"kitchen={quiet}")
        await until(lambda: supervisor.lines("READY=1"), 60)
        pid, began = here.pid, time.monotonic()
        digest = (await asyncio.to_thread(set_up, here))["file"]["digest"]
        assert (await asyncio.to_thread(here.call, "POST", "setup/restart", {"digest": digest}))[0] == 202
        await until(lambda: supervisor.lines("READY=1", since=began), 60)
        assert supervisor.lines("RELOADING=1", since=began)
        assert not supervisor.lines("STOPPING=1")
        assert here.pid == pid
        await asyncio.to_thread(here.served)
        await asyncio.to_thread(here.stop)
        assert supervisor.lines("STOPPING=1")
    finally:
        supervisor.close()


def test_privacy_is_followed_at_once_and_a_broker_for_the_network_needs_a_password(house: Make, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}")
    done = save(here, privacy={"transcripts": True, "clips": True, "drop_speech": True})
    assert done["restart"] == ["clips"]
    assert here.call("GET", "rules")[1]["transcripts"] is True
    before = here.config.read_bytes()
    digest = set_up(here)["file"]["digest"]
    status, told = here.call("PUT", "setup", {"digest": digest, "broker": {"kind": "embedded"}})
    assert (status, "password" in told["detail"]) == (422, True)
    assert here.config.read_bytes() == before
    assert not list(here.config.parent.glob("broker-password-*"))
    wanted = {"kind": "embedded", "username": "home", "password": "correct horse", "port": here.mqtt_port}
    assert "broker" in save(here, broker=wanted)["restart"]
    assert set_up(here)["broker"]["kind"] == "embedded"
    status, told = here.call(
        "PUT", "setup", {"digest": "0" * 64, "privacy": {"transcripts": False, "clips": False, "drop_speech": False}}
    )
    assert (status, "somebody else" in told["detail"]) == (409, True)
    status, told = here.call(
        "PUT", "setup", {"digest": set_up(here)["file"]["digest"], "microphone": {"source": "/etc/passwd"}}
    )
    assert (status, "neither a microphone nor" in told["detail"]) == (422, True)
    status, told = here.call("POST", "setup/microphones/listen", {"address": "http://127.0.0.1:1/"})
    assert status == 409
    status, told = here.call("GET", "setup/microphones")
    assert status == 200
    assert told["microphones"] or "remedy" in told["problem"]


def test_the_level_of_a_room_that_is_heard(house: Make, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}").says("kitchen: listening to")
    body = json.dumps({"address": "room:kitchen", "seconds": 3}).encode()
    request = urllib.request.Request(
        f"{here.url}api/setup/microphones/listen", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        levels = [json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert 10 < len(levels) < 60
    assert all(-68 < one["dbfs"] < -52 for one in levels), levels
    assert not any(one["clap"] for one in levels)
    assert here.call("POST", "setup/microphones/listen", {"address": "room:attic"})[0] == 409


def test_brokers_are_looked_for(house: Make, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}")
    status, told = here.call("GET", "setup/brokers")
    assert (status, isinstance(told, list)) == (200, True)


def test_our_own_broker_hands_out_a_test_alert(house: Make, quiet: Path) -> None:
    here = house().start("--source", f"kitchen={quiet}").says("MQTT: connected to")
    client = Subscriber(here.mqtt_port).start()
    assert client.subscribed.wait(10)
    try:
        status, tested = here.call("POST", "setup/test", {"room": "kitchen"})
        assert (status, tested["arrived"]) == (200, True), tested
        deadline = time.monotonic() + 10
        while not any('"test"' in one for one in client.payloads("kikimimi/kitchen/event")):
            assert time.monotonic() < deadline, client.topics()
            time.sleep(0.05)
    finally:
        client.stop()
    told = steps(here, kind="page")
    assert [one["step"] for one in told if one["works"]] == ["name", "tcp", "login", "subscribe", "publish"]
