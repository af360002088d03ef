"""What `kikimimi doctor` looks at around the daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from outputs.brokers import free_port

from assistant import checkup
from assistant.config import Config, parse


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def found(config: Config, name: str) -> checkup.Check:
    return next(check for check in checkup.checks(config) if check.name == name)


def test_here_all_is_well(tmp_path: Path):
    checks = {check.name: check for check in checkup.checks(Config())}
    assert checks["state folder"].works
    assert checks["history"].detail == "nothing was heard yet"
    assert not (tmp_path / "state").exists()  # looking changes nothing


def test_a_history_that_cannot_be_read(tmp_path: Path):
    file = tmp_path / "history.db"
    file.write_text("no database" * 100)
    check = found(parse(f"history: {{path: {file}}}\n", tmp_path / "c.yaml"), "history")
    assert not check.works
    assert str(file) in check.detail


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that is read-only."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a read-only disk: run the tests as root")
    folder = tmp_path / "state" / "kikimimi"
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here: run the tests on a host")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_state_folder_that_cannot_be_written(sealed: Path):
    check = found(Config(), "state folder")
    assert not check.works
    assert "cannot be written (Read-only file system); remedy" in check.detail


def test_a_disk_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkup, "FREE", shutil.disk_usage("/").total * 2)
    assert "remedy: free some space" in found(Config(), "state folder").detail


def test_a_clock_that_was_never_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time", lambda: 100.0)
    check = found(Config(), "clock")
    assert not check.works
    assert "remedy: set the clock" in check.detail


def test_a_password_that_others_can_read(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    secret.chmod(0o644)
    config = parse(f"mqtt: {{url: 'mqtt://me@localhost', password_file: {secret}}}\n", tmp_path / "c.yaml")
    assert found(config, "secrets").detail == f"{secret} can be read by others; remedy: chmod 600 {secret}"
    secret.chmod(0o600)
    assert "secrets" not in {check.name for check in checkup.checks(config)}


def test_a_broker_that_is_not_there(tmp_path: Path):
    config = parse(f"mqtt: {{url: 'mqtt://me:sesame@127.0.0.1:{free_port()}'}}\n", tmp_path / "c.yaml")
    checks = checkup.broker(config)
    assert [(check.name, check.works) for check in checks] == [("broker: name", True), ("broker: tcp", False)]
    assert "sesame" not in str(checks)


def test_a_broker_of_our_own():
    (check,) = checkup.broker(Config())
    assert check.works
