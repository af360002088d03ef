"""The command line as a user meets it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]


def kikimimi(*arguments: str, home: Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command with a configuration folder of its own."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    done = subprocess.run(
        [*KIKIMIMI, *arguments], input=stdin, capture_output=True, env=environment, timeout=110, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from assistant.cli import parser; parser().format_help();"
        "print([m for m in ('numpy', 'av', 'paho', 'pydantic', 'faster_whisper', 'ai_edge_litert', 'amqtt', 'rich',"
        " 'sounddevice', 'yaml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("command", ["run", "listen", "devices", "models", "check", "demo"])
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
    done = kikimimi("models", "pull", "yamnett", home=tmp_path)
    assert done.returncode == 4
    assert "yamnet" in done.stderr


def test_a_profile_that_is_not_there_yet_says_so(tmp_path: Path) -> None:
    done = kikimimi("run", "--profile", "qwen", home=tmp_path)
    assert done.returncode == 2
    assert "embedded" in done.stderr
