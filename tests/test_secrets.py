"""No secret in logs, in what the commands print, in events, in what is announced, or in the list of processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile
from forked import kikimimi

from assistant import secret_files
from assistant.cli import argument, broker_of
from assistant.config import Config, load, parse
from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Webhook
from assistant.outputs.mqtt_client import MqttSettings
from assistant.synthesis import noise, placed, t3

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
SECRET = "Xq7geheimZ"  # stands in every place that may hold a secret

CONFIG = """
mqtt: {{url: "mqtt://home:{secret}@127.0.0.1:{broker}"}}
wyoming: {{enabled: false}}
say: {{enabled: false}}
speech: {{enabled: false}}
rooms:
  camera: {{source: "rtsp://admin:{secret}@127.0.0.1:{camera}/live?password={secret}"}}
  radio: {{source: "http://admin:{secret}@127.0.0.1:{camera}/live?token={secret}"}}
  attic: {{source: "wyoming://admin:{secret}@127.0.0.1:{camera}"}}
  alarm: {{source: "{alarm}"}}
webhooks: {{hosts: ["127.0.0.1:{camera}"]}}
rules:
  - name: alarm
    when: {{sound: any}}
    do:
      - webhook:
          url: "http://127.0.0.1:{camera}/{secret}?key={secret}"
          headers: {{Authorization: "Bearer {secret}", X-File: {{file: "{file}"}}}}
          json: {{key: "{secret}"}}
"""


@contextmanager
def rude() -> Iterator[int]:
    """A port that hangs up on everybody, after it has answered something wrong."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(1.0)
                    try:
                        client.recv(65_536)
                        client.sendall(b"RTSP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n\r\n")
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "alarm.wav", placed(noise(20.0, -60.0), 0.2 * t3(cycles=4), 1.0), SAMPLE_RATE)
    (tmp_path / "token").write_text(SECRET)
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    own = {"XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config"), "HF_TOKEN": SECRET}
    return {**os.environ, **own, "MQTT_PASSWORD": SECRET}


def written(home: Path, broker: int, camera: int) -> Path:
    file = home / "config.yaml"
    file.write_text(
        CONFIG.format(secret=SECRET, broker=broker, camera=camera, alarm=home / "alarm.wav", file=home / "token")
    )
    return file


def command_lines(top: int) -> str:
    """What everybody sees of a process and of those it started."""
    seen, children = "", [top]
    while children:
        process = children.pop()
        try:
            seen += Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for task in Path(f"/proc/{process}/task").iterdir():
                children += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return seen


@pytest.mark.slow
def test_a_run_in_which_everything_fails_tells_no_secret(yamnet_path: Path, home: Path) -> None:
    with rude() as broker, rude() as camera:
        config = written(home, broker, camera)
        log = home / "run.log"
        with log.open("wb") as file:
            command = [*KIKIMIMI, "run", "-v", "-c", str(config)]
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment(home))
        seen = ""
        try:
            deadline = time.monotonic() + 60
            missing = {"MQTT: ", "camera: ", "radio: ", "attic: ", "webhook of rule 'alarm'", "health: "}
            while missing and time.monotonic() < deadline and process.poll() is None:
                seen += command_lines(process.pid)
                time.sleep(0.5)
                missing = {expected for expected in missing if expected not in log.read_text("utf-8")}
            time.sleep(2.0)  # what fails fails again
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        finally:
            process.kill()
            process.wait()
        out = log.read_text("utf-8")

    assert not missing, f"{missing} is missing, so this shows nothing:\n{out}"
    assert SECRET not in out
    assert "kikimimi" in seen or "assistant" in seen
    assert SECRET not in seen
    kept = [file.read_bytes() for file in (home / "state").rglob("*") if file.is_file()]
    assert not [content for content in kept if SECRET.encode() in content]


@pytest.mark.parametrize(
    "command", [["check"], ["doctor"], ["doctor", "--json"], ["models", "list"], ["mqtt", "purge"]]
)
def test_no_command_prints_a_secret(command: list[str], home: Path) -> None:
    with rude() as port:
        config = written(home, port, port)
        done = kikimimi(*command, "-v", "-c", str(config), environment=environment(home))
    assert done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_check_shows_where_the_daemon_goes_but_no_secret(home: Path) -> None:
    config = written(home, 1, 2)
    done = kikimimi("check", "-c", str(config), environment=environment(home))
    assert done.returncode == 0, done.stderr
    assert "rtsp://***@127.0.0.1:2/live" in done.stdout
    assert "send POST to 127.0.0.1:2" in done.stdout
    assert "token: every user of this machine can read it; remedy: chmod 600" in done.stderr
    assert "its headers go over the network in the clear" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "mqtt: {{url: 'mqtt://u:{secret}/x@h:1883'}}",
        "mqtt: {{url: 'mqtt://u:a@{secret}@h/path'}}",
        "mqtt: {{url: 'http://u:{secret}@h'}}",
        "mqtt: {{password: *{secret}}}",
        "mqtt: {{password: !{secret} x}}",
        "mqtt: {{password: [{secret}]}}",
        "mqtt: {{pasword: {secret}, password_file: {{a: {secret}}}}}",
        "mqtt: {{port: 'rtsp://u:{secret}@h'}}",
        "rooms: {{a: {{source: ['rtsp://u:{secret}@h']}}}}",
        "rules: [{{when: {{sound: cat}}, do: {{webhook: {{url: 'ftp://u:{secret}@h'}}}}}}]",
        "rules: [{{when: {{sound: cat}}, do: {{webhook: {{url: 'https://h/{secret}'}}}}}}]",
        "rules: [{{when: {{sound: cat}}, do: {{webhook: {{url: 'https://h/{secret} x'}}}}}}]",
        "rules: [{{when: {{sound: cat}}, do: {{webhook: {{url: 'https://h/', headers: {{A: [{secret}]}}}}}}}}]",
        'rules: [{{when: {{sound: cat}}, do: {{webhook: {{url: "https://h/", headers: {{A: "{secret}\\n"}}}}}}}}]',
        "rules: [{{when: {{sound: cat}}, do: {{webhook: {{url: 'https://h/', headers: {secret}}}}}}}]",
        "broker: {{host: 0.0.0.0, password: [{secret}]}}",
        "history: {{url: 'mysql://u:{secret}@h/d'}}",
        "history: {{url: ['postgresql://u:{secret}@h/d']}}",
    ],
)
def test_no_mistake_in_a_configuration_quotes_a_secret(text: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        parse(text.format(secret=SECRET), Path("c.yaml"))
    assert SECRET not in str(wrong.value)


def test_settings_show_no_secret_when_they_are_printed(home: Path) -> None:
    config = load(written(home, 1, 2))
    assert SECRET not in repr(config)
    assert SECRET not in repr(config.model_dump(mode="json", include={"mqtt": True}))
    assert SECRET not in repr(Webhook(f"https://h/{SECRET}", headers=(("A", SECRET),), body=SECRET.encode()))


# files and systemd's credentials


def test_a_credential_of_systemd_is_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = home / "credentials"
    credentials.mkdir(mode=0o700)
    (credentials / "mqtt-password").write_text(f"{SECRET}\n")
    (credentials / "mqtt-password").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    config = parse("mqtt: {host: h, username: u, password_file: '${CREDENTIALS_DIRECTORY}/mqtt-password'}", Path("c"))
    assert config.mqtt.password_file is not None
    assert secret_files.read(config.mqtt.password_file) == SECRET
    assert config.mqtt.exposed == []


def test_without_systemd_the_missing_credential_is_told() -> None:
    os.environ.pop("CREDENTIALS_DIRECTORY", None)
    with pytest.raises(
        ConfigurationError, match=r"mqtt\.password_file: the environment variable CREDENTIALS_DIRECTORY"
    ):
        parse("mqtt: {host: h, password_file: '${CREDENTIALS_DIRECTORY}/mqtt-password'}", Path("c"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"a\nb\n", "more than one line"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a" * 5000, "more"),
    ],
)
def test_a_file_that_holds_no_password(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ValueError, match=problem) as wrong:
        secret_files.read(tmp_path / "secret")
    assert str(tmp_path / "secret") in str(wrong.value)


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_everybody_reads_is_told(mode: int, told: bool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(mode)
    settings = MqttSettings(host="h", password_file=tmp_path / "secret")
    assert [f"chmod 600 {tmp_path}/secret" in problem for problem in settings.exposed] == ([True] if told else [])


def test_a_password_in_an_argument_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "a$b")
    broker = broker_of(argument("--mqtt", "mqtt://me:${MQTT_PASSWORD}@broker"), Config().mqtt)
    assert broker.password is not None
    assert broker.password.get_secret_value() == "a$b"
    assert argument("--source", "kitchen=a:b@c.wav") == "kitchen=a:b@c.wav"
    with pytest.raises(ConfigurationError, match="single quotes"):
        argument("--source", "rtsp://me:x${MQTT_PASSWORD}@cam")
