"""The file is replaced whole or not at all, keeps its rights, and goes back to what it was byte for byte."""

import contextlib
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant import configuration_file
from assistant.configuration_file import KEPT, NONE, ChangedMeanwhileError, ConfigurationFile, write_secret
from assistant.errors import AssistantError, ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> ConfigurationFile:
    (tmp_path / "home").mkdir()
    return ConfigurationFile(tmp_path / "home" / "config.yaml", tmp_path / "state" / "configurations")


def test_it_is_made_where_there_was_none_and_goes_away_again(tmp_path: Path) -> None:
    file = ConfigurationFile(tmp_path / "new" / "kikimimi" / "config.yaml", tmp_path / "state")
    assert file.read().digest == NONE
    assert file.obstacle() is None
    digest = file.write("a: 1\n", NONE, "setup")
    assert file.read().text == "a: 1\n"
    assert file.read().digest == digest
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    (version,) = file.versions()
    assert version.what == "setup"
    assert file.version(version.id) is None
    assert file.restore(version.id, digest) == NONE
    assert not file.path.exists()
    assert file.restore(file.versions()[0].id, NONE) == digest


def test_rights_owner_and_links_are_kept(file: ConfigurationFile, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.yaml"
    real.write_text("a: 1\n")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 12345, 54321)
    file.path.symlink_to(real)
    file.write("a: 2\n", file.read().digest, "setup")
    assert file.path.is_symlink()
    assert real.read_text() == "a: 2\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    if os.geteuid() == 0:
        assert (real.stat().st_uid, real.stat().st_gid) == (12345, 54321)
    assert {one.name for one in tmp_path.iterdir()} == {"home", "state", "elsewhere.yaml"}


def test_versions_are_private_and_few(file: ConfigurationFile, tmp_path: Path) -> None:
    digest = NONE
    for number in range(KEPT + 5):
        digest = file.write(f"a: {number}\n", digest, "rule-changed")
    versions = file.versions()
    assert len(versions) == KEPT
    assert file.version(versions[0].id) == f"a: {KEPT + 3}\n".encode()
    assert versions[0].time >= versions[-1].time
    folder = tmp_path / "state" / "configurations"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    with pytest.raises(AssistantError, match="not kept any more"):
        file.restore("01JDC9QK5T0000000000000000", digest)
    with pytest.raises(AssistantError, match="not kept any more"):
        file.version("../../config")


def test_a_change_by_somebody_else_is_not_overwritten(file: ConfigurationFile) -> None:
    digest = file.write("a: 1\n", NONE, "setup")
    file.path.write_text("a: theirs\n")
    with pytest.raises(ChangedMeanwhileError, match="somebody else"):
        file.write("a: ours\n", digest, "setup")
    with pytest.raises(ChangedMeanwhileError):
        file.restore(file.versions()[0].id, digest)
    assert file.path.read_text() == "a: theirs\n"


def test_a_full_disk_leaves_the_old_file(small_disk: Path, tmp_path: Path) -> None:
    file = ConfigurationFile(small_disk / "config.yaml", tmp_path / "state")
    digest = file.write("a: 1\n", NONE, "setup")
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
        while fill.write(b"x" * 4096):
            pass
    with pytest.raises(AssistantError, match="stays as it was"):
        file.write("a: " + "2" * 100_000, digest, "setup")
    assert file.path.read_text() == "a: 1\n"
    assert {one.name for one in small_disk.iterdir()} == {"config.yaml", "fill"}


def test_a_read_only_disk_is_told_before(small_disk: Path, tmp_path: Path) -> None:
    file = ConfigurationFile(small_disk / "config.yaml", tmp_path / "state")
    digest = file.write("a: 1\n", NONE, "setup")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "cannot be written here; remedy" in (file.obstacle() or "")
    with pytest.raises(AssistantError, match="check the owner"):
        file.write("a: 2\n", digest, "setup")
    assert file.path.read_text() == "a: 1\n"


def test_a_file_of_the_system_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    told = ConfigurationFile(Path("/etc/kikimimi/config.yaml"), tmp_path).obstacle()
    assert told is not None
    assert "belongs to the system" in told
    assert "systemctl reload" in told


def test_newlines_and_marks_of_other_systems_stay(file: ConfigurationFile) -> None:
    file.path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    read = file.read()
    assert read.text == "a: 1\nb: 2\n"
    file.write("a: 1\nb: 3\n", read.digest, "setup")
    assert file.path.read_bytes() == b"\xef\xbb\xbfa: 1\r\nb: 3\r\n"


def test_what_is_no_text_or_too_large_is_told(file: ConfigurationFile) -> None:
    file.path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        file.read()
    file.path.write_bytes(b"x" * 300_000)
    with pytest.raises(ConfigurationError, match="larger"):
        file.read()
    file.path.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="larger"):
        file.write("x" * 300_000, file.read().digest, "setup")


def test_a_power_cut_before_the_rename_leaves_the_old_file(
    file: ConfigurationFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = file.write("a: 1\n", NONE, "setup")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(configuration_file.os, "fsync", cut)
        with pytest.raises(KeyboardInterrupt):
            file.write("a: 2\n", digest, "setup")
    assert file.path.read_text() == "a: 1\n"
    file.write("a: 3\n", digest, "setup")  # what was left lying about is no hindrance
    assert file.path.read_text() == "a: 3\n"


def test_a_secret_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "kikimimi" / "mqtt-password"
    write_secret(path, "old")
    path.chmod(0o644)
    write_secret(path, "correct horse")
    assert path.read_text() == "correct horse\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=200))
def test_undo_brings_every_byte_back(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("undo")
    file = ConfigurationFile(folder / "config.yaml", folder / "state")
    file.path.write_bytes(content)
    digest = file.write("something: else\n", hashlib.sha256(content).hexdigest(), "setup")
    assert file.path.read_bytes() != content
    file.restore(file.versions()[0].id, digest)
    assert file.path.read_bytes() == content
