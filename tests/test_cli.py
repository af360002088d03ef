"""The command line as a user meets it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from forked import kikimimi as forked

from assistant.cli import broker_of, file_bar, parse
from assistant.errors import ConfigurationError
from assistant.outputs.mqtt import MqttSettings

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]


def environment_of(home: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(home / "state")}


def kikimimi(*arguments: str, home: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command with a configuration folder of its own."""
    done = subprocess.run(
        [*KIKIMIMI, *arguments],
        input=stdin,
        capture_output=True,
        env=environment_of(home),
        timeout=110,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from assistant.cli import parser; parser().format_help();"
        "print([m for m in ('numpy', 'av', 'paho', 'pydantic', 'faster_whisper', 'ai_edge_litert', 'amqtt', 'rich',"
        " 'sounddevice', 'yaml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "command",
    ["run", "listen", "ask", "devices", "models", "check", "doctor", "bench", "demo", "alive", "install-service"],
)
def test_each_command_explains_itself(command: str, tmp_path: Path) -> None:
    done = kikimimi(command, "--help", home=tmp_path)
    assert done.returncode == 0
    assert "Exit codes: 0 well, 1 failure, 2 configuration, 3 source, 4 model" in " ".join(done.stdout.split())


def test_a_wrong_configuration_is_one_line_a_mistake_and_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("mqtt:\n  port: abc\nroms: {}\n", "utf-8")
    done = kikimimi("check", "-c", str(config), home=tmp_path)
    assert done.returncode == 2
    assert f"{config}:2: mqtt.port" in done.stderr
    assert f"{config}:3: roms" in done.stderr
    assert "rooms" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_explains_a_rule_and_warns_of_one_that_cannot_fire(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "rooms: {kitchen: {source: default}}\n"
        "rules:\n"
        "  - name: smoke\n    when: {sound: smoke_alarm}\n    do: [{publish: {topic: house/alarm, payload: '1'}}]\n"
        "  - name: never\n    when: {sound: smoke_alarm, room: attic}\n    do: [{log: up there}]\n",
        "utf-8",
    )
    done = kikimimi("check", "-c", str(config), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "house/alarm" in done.stdout
    assert "attic" in done.stderr


def test_listen_json_is_json_lines_alone(tmp_path: Path, yamnet_path: Path, whisper_base_path: Path) -> None:
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, np.random.default_rng(1).normal(0, 1e-4, 32_000).astype(np.float32), 16_000)
    text = tmp_path / "text.wav"
    text.write_text("this is not audio", "utf-8")
    done = kikimimi("listen", "--json", str(quiet), str(text), home=tmp_path)
    assert done.returncode == 3
    assert "text.wav" in done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == []


def test_listen_to_a_folder_without_audio_says_what_it_looked_for(tmp_path: Path, yamnet_path: Path) -> None:
    done = kikimimi("listen", str(tmp_path), home=tmp_path)
    assert done.returncode == 3
    assert str(tmp_path) in done.stderr
    assert ".wav" in done.stderr


def test_an_unknown_model_is_exit_code_4(tmp_path: Path) -> None:
    done = kikimimi("models", "pull", "qwen-audio-cht", home=tmp_path)
    assert done.returncode == 4
    assert "did you mean qwen-audio-chat" in done.stderr


@pytest.mark.parametrize(
    ("line", "listed"),
    [
        ("listen a.wav --json b.wav -", ["a.wav", "b.wav", "-"]),
        ("listen -c config.yaml a.wav b.wav", ["a.wav", "b.wav"]),
        ("models pull -c config.yaml yamnet", ["yamnet"]),
        ("models list", []),
    ],
)
def test_options_may_stand_between_files(line: str, listed: list[str]) -> None:
    arguments = parse(line.split())
    assert getattr(arguments, "paths", getattr(arguments, "names", None)) == listed


@pytest.mark.parametrize("line", ["run a.wav", "listen a.wav --jsn", "models list --all", "demo a.wav"])
def test_arguments_that_mean_nothing_are_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(line.split())
    assert refused.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_profile_remote_without_a_server_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    file = str(tmp_path / "a.wav")
    for command in (("run",), ("listen", file), ("ask", file, "--text", "what?")):
        done = forked(*command, "--profile", "remote", environment=environment_of(tmp_path))
        assert done.returncode == 2
        assert "models.remote.url: the profile remote needs it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mqtt", "http://me@broker"], "--mqtt: url must read mqtt://"),
        (["--mqtt", "mqtt://me:secret@broker"], "--mqtt: every user of this machine can read a password"),
        (["--mqtt", "mqtt://me:secret/@broker"], "--mqtt: every user of this machine can read a password"),
        (["--mqtt", "mqtt://me:${NO_SUCH}@broker"], "--mqtt: the environment variable NO_SUCH is not set"),
        (["--source", "kitchen=rtsp://me:secret@cam/1"], "--source: every user of this machine can read a password"),
        (["--mqtt", ""], "--mqtt"),
        (["--source", "Küche=default"], "'Küche' is not a room id"),
        (["--source", "alert=default"], "alert-room"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = forked("run", *arguments, environment=environment_of(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize("name", ["take [red].wav", "take\n2.wav"])
def test_a_file_name_is_one_line_of_text_in_the_progress_bar(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    with file_bar(2) as done:
        done(f"folder/{name}")
    assert name.replace("\n", " ") in capsys.readouterr().err


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    code = (
        "import threading, time; from assistant.cli import leave_hanging_threads\n"
        "threading.Thread(target=time.sleep, args=(60,)).start(); print('said', end=''); leave_hanging_threads(3)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (3, "said")
    assert time.monotonic() - began < 10.0


def test_a_thread_that_still_computes_does_not_change_the_exit_code() -> None:
    # the interpreter's own end stands for what C++ does when a thread is ended inside it
    code = (
        "import atexit, os, threading, time; from assistant import cli\n"
        "atexit.register(os.abort)\n"
        "cli.main = lambda: (threading.Thread(target=time.sleep, args=(60,), daemon=True).start(), 3)[1]\n"
        "print('said', end=''); raise SystemExit(cli.program())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (3, "said")


def test_two_signals_together_stop_in_order_and_a_later_one_at_once() -> None:
    code = (
        "import asyncio; from assistant.cli import stop_on_signals\n"
        "async def main():\n"
        "    stop_on_signals(lambda: print('stopping', flush=True)); print('ready', flush=True)\n"
        "    await asyncio.sleep(40); print('never')\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopping\n"
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert rest == ""
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize("ignored", [False, True], ids=["in a terminal", "under nohup"])
def test_a_hangup_stops_only_where_a_terminal_is_gone_and_nobody_said_nohup(ignored: bool) -> None:
    code = (
        "import asyncio, os, signal, sys; from assistant import cli\n"
        "if sys.argv[1] == 'True': signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "there = [True]; cli.has_terminal = lambda: there[0]; said = []\n"
        "async def main():\n"
        "    cli.on_hangup(lambda: said.append('reload'), lambda: said.append('stop'))\n"
        "    for there[0] in (True, False):\n"
        "        os.kill(os.getpid(), signal.SIGHUP); await asyncio.sleep(0.1)\n"
        "    print(*said)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ignored)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["reload", "reload" if ignored else "stop"]


class TestBrokerOf:
    """`--mqtt` names another broker; what the configuration says besides stays."""

    SETTINGS = MqttSettings(
        host="old", username="house", password="secret", base_topic="home/ears", keepalive=60, client_id="ears"
    )

    def test_topic_and_login_of_the_configuration_stay(self):
        broker = broker_of("mqtt://new:1884", self.SETTINGS)
        assert (broker.address, broker.tls) == ("new:1884", None)
        assert (broker.base_topic, broker.keepalive, broker.client_id) == ("home/ears", 60, "ears")
        assert broker.username == "house"
        assert broker.password is not None
        assert broker.password.get_secret_value() == "secret"

    def test_another_user_does_not_get_this_ones_password(self):
        broker = broker_of("mqtts://guest@new", self.SETTINGS)
        assert (broker.port, broker.username, broker.password) == (8883, "guest", None)
        assert broker.tls is not None

    def test_a_password_in_the_url_replaces_the_file(self, tmp_path):
        settings = MqttSettings(host="old", username="house", password_file=tmp_path / "password")
        broker = broker_of("mqtt://house:other@new", settings)
        assert broker.password_file is None
        assert broker.password is not None
        assert broker.password.get_secret_value() == "other"

    def test_own_authorities_stay_with_tls(self, tmp_path):
        settings = MqttSettings.model_validate({"host": "old", "tls": {"ca": str(tmp_path / "ca.pem")}})
        assert broker_of("mqtts://new", settings).tls == settings.tls
        assert broker_of("mqtt://new", settings).tls is None

    def test_a_wrong_url_does_not_tell_its_password(self):
        with pytest.raises(ConfigurationError, match=r"--mqtt: url must read mqtt://") as refused:
            broker_of("http://house:topsecret@new", self.SETTINGS)
        assert "topsecret" not in str(refused.value)
