"""The service installed into a folder that stands for the system's root, updated and removed; and its unit files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from assistant import installing
from assistant.cli import main
from assistant.config import load
from assistant.errors import AssistantError, ConfigurationError
from assistant.installing import Layout, install_steps, layout_of, perform, run, stays, uninstall_steps, write

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
REPOSITORY = Path(__file__).parent.parent
UNITS = [REPOSITORY / "systemd/kikimimi.service", REPOSITORY / "systemd/user/kikimimi.service"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root; remedy: run it as root, or in a container")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing; remedy: apt-get install systemd")
    return found


@pytest.fixture
def system(tmp_path: Path) -> Layout:
    """A system without anything: only root is known there."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", "ascii")
    (tmp_path / "etc/group").write_text("root:x:0:\naudio:x:29:\n", "ascii")
    return layout_of(user=False, root=tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything is done but what takes minutes: pip puts nothing but our own code there, and no model is fetched."""
    done: list[str] = []

    def pip_install(layout: Layout, source: str) -> None:
        done.append(source)
        packages = next((layout.prefix / "lib").glob("python3*")) / "site-packages"
        others = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "kikimimi.pth").write_text("\n".join([str(REPOSITORY), *others]), "utf-8")
        write(
            layout.program,
            f"#!{layout.prefix}/bin/python\nfrom assistant.cli import main\nraise SystemExit(main())\n",
            0o755,
        )

    monkeypatch.setattr(installing, "pip_install", pip_install)
    monkeypatch.setattr(installing, "fetch_models", lambda _layout: done.append("models"))
    return done


def install(layout: Layout, config: Path | None = None) -> list[str]:
    said: list[str] = []
    perform(install_steps(layout, config), said.append, dry_run=False)
    return said


@needs_root
def test_install_update_and_uninstall(system: Layout, quick: list[str], tmp_path: Path) -> None:
    for name in ("systemd-sysusers", "systemd-tmpfiles"):
        tool(name)
    install(system)
    assert quick == [str(REPOSITORY), "models"]
    # the user, in the group audio, owns its folders; the configuration is root's, and readable to it alone
    name, _, uid, gid, _, home, _ = next(
        line for line in (tmp_path / "etc/passwd").read_text("utf-8").splitlines() if line.startswith("kikimimi:")
    ).split(":")
    assert home == "/var/lib/kikimimi"
    assert "audio:x:29:kikimimi" in (tmp_path / "etc/group").read_text("utf-8")
    for folder in (system.state, system.cache):
        assert (folder.stat().st_uid, folder.stat().st_gid) == (int(uid), int(gid))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    file = system.config.stat()
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode)) == (0, int(gid), 0o640)
    assert load(system.config).rooms["home"].source == "default"
    # the command in the environment is the same version
    said = subprocess.run([system.program, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"kikimimi {installing.__version__}\n"
    assert "ExecStart=/opt/kikimimi/bin/kikimimi run" in system.unit.read_text("utf-8")

    # again: an update, which leaves alone what the household wrote
    system.config.write_text("rooms: {kitchen: {source: default}}\n", "utf-8")
    (system.state / "switches.json").write_text("{}", "ascii")
    inode = system.unit.stat().st_ino
    said_again = install(system)
    assert f"{system.config} stays as it is" in said_again
    assert system.config.read_text("utf-8") == "rooms: {kitchen: {source: default}}\n"
    assert system.unit.stat().st_ino == inode  # the same text is not written again

    perform(uninstall_steps(system, purge=False), lambda _line: None, dry_run=False)
    assert not system.prefix.exists()
    assert not system.unit.exists()
    assert not system.sysusers.exists()  # type: ignore[union-attr]
    assert (system.state / "switches.json").exists()
    assert any(str(system.config) in line for line in stays(system, purge=False))
    perform(uninstall_steps(system, purge=True), lambda _line: None, dry_run=False)
    assert not (system.config.parent.exists() or system.state.exists() or system.cache.exists())
    assert uninstall_steps(system, purge=True) == []


def test_a_dry_run_writes_nothing(system: Layout, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    said: list[str] = []
    perform(install_steps(system), said.append, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(line.startswith("would: ") for line in said)
    assert any("/opt/kikimimi" in line for line in said)


def test_a_wrong_configuration_is_refused_before_anything_is_done(system: Layout, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("roms: {}\n", "utf-8")
    with pytest.raises(ConfigurationError, match=r"mine\.yaml:1: roms"):
        install_steps(system, mine)
    system.config.parent.mkdir()
    system.config.write_text("profile: [\n", "utf-8")
    with pytest.raises(ConfigurationError, match=str(system.config)):
        install_steps(system)


def test_a_configuration_of_ones_own_does_not_replace_the_services(system: Layout, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("rooms: {attic: {source: default}}\n", "utf-8")
    assert any(f"from {mine}" in step.text for step in install_steps(system, mine))
    system.config.parent.mkdir()
    system.config.write_text("{}\n", "utf-8")
    with pytest.raises(ConfigurationError, match="is there already"):
        install_steps(system, mine)


def test_a_folder_of_somebody_else_is_neither_filled_nor_removed(system: Layout) -> None:
    system.prefix.mkdir(parents=True)
    (system.prefix / "precious").write_text("data", "ascii")
    with pytest.raises(AssistantError, match="holds something else; remedy: --prefix"):
        install_steps(system)
    assert all(str(system.prefix) not in step.text for step in uninstall_steps(system, purge=True))


def test_the_first_configuration_holds_every_key_and_means_the_defaults(system: Layout, tmp_path: Path) -> None:
    text = installing.first_configuration(system, None)
    file = tmp_path / "first.yaml"
    file.write_text(text, "utf-8")
    assert load(file).model_dump(exclude={"rooms"}) == load(_empty(tmp_path)).model_dump(exclude={"rooms"})
    example = yaml.safe_load((REPOSITORY / "config/config.example.yaml").read_text("utf-8"))
    assert all(f"# {key}:" in text for key in example)


def _empty(folder: Path) -> Path:
    path = folder / "empty.yaml"
    path.write_text("", "ascii")
    return path


@pytest.mark.parametrize(
    ("prefix", "wrong"), [("opt/kikimimi", "absolute"), ("/srv/my apps/kikimimi", "plain letters")]
)
def test_a_prefix_that_cannot_be_is_refused(prefix: str, wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        installing.unit_text(layout_of(user=False, prefix=Path(prefix), root=tmp_path))


def test_another_prefix_is_in_the_unit(tmp_path: Path) -> None:
    text = installing.unit_text(layout_of(user=False, prefix=Path("/srv/ears"), root=tmp_path))
    assert "ExecStart=/srv/ears/bin/kikimimi run" in text
    assert "/opt/kikimimi" not in text


def test_a_python_in_a_home_is_not_what_the_service_runs_on(
    system: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ProtectHome hides it, and /root cannot be read by another user anyway."""
    name = f"python3.{sys.version_info.minor}"
    monkeypatch.setattr(sys, "_base_executable", f"/home/me/.pyenv/bin/{name}", raising=False)
    monkeypatch.setattr(installing, "PYTHONS", (tmp_path / "usr/bin",))
    with pytest.raises(AssistantError, match=f"home directory.*remedy: apt-get install {name}"):
        installing.service_python(system)
    write(tmp_path / "usr/bin" / name, "", 0o755)
    assert installing.service_python(system) == str(tmp_path / "usr/bin" / name)
    assert installing.service_python(layout_of(user=True)) == f"/home/me/.pyenv/bin/{name}"


@pytest.mark.parametrize("command", ["install-service", "uninstall-service"])
def test_without_root_it_says_so_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main([command]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "needs root; remedy: sudo " in said
    assert f"{command} --user" in said


def test_a_service_of_ones_own_is_not_installed_with_sudo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUDO_USER", "me")
    assert main(["install-service", "--user"]) == 1
    assert "remedy: install-service without sudo" in capsys.readouterr().err


def test_pip_without_a_network_is_one_clear_line(system: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    installing.make_environment(system, sys.executable)
    with pytest.raises(AssistantError, match="remedy: check the network") as refused:
        installing.pip_install(system, "kikimimi==0.0.0")
    assert "\n" not in str(refused.value)


def test_a_command_that_fails_or_hangs_is_told_with_its_last_words() -> None:
    with pytest.raises(AssistantError, match=r"sh -c .*: Error: no such thing"):
        run("sh", "-c", "echo Error: no such thing >&2; echo and so on; exit 3")
    with pytest.raises(AssistantError, match="took longer than"):
        run("sleep", "20", seconds=0.2)
    with pytest.raises(AssistantError, match="kikimimi-not-there is not there; remedy"):
        run("kikimimi-not-there")


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "unit"
    write(path, "old")

    def fail(*_arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, "new")
    assert path.read_text("ascii") == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- the unit files ---------------------------------------------------------------------------------------------------


def values(unit: Path, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.read_text("utf-8").splitlines() if line.startswith(f"{key}=")]


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[Path], Path]:
    """A unit whose program exists, as after an installation."""

    def make(unit: Path) -> Path:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text("utf-8").replace("/opt/kikimimi/bin/kikimimi", "/bin/true"), "utf-8")
        return copy

    return make


def test_systemd_has_nothing_to_say_against_the_units(installed: Callable[[Path], Path]) -> None:
    analyze = tool("systemd-analyze")
    for unit, scope in zip(UNITS, ("--system", "--user"), strict=True):
        done = subprocess.run(
            [analyze, "verify", "--man=no", scope, str(installed(unit))],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "XDG_RUNTIME_DIR": str(installed(unit).parent)},
        )
        about = [line for line in done.stderr.splitlines() if "kikimimi" in line]
        assert about == []
        assert done.returncode == 0, done.stderr


def test_the_exposure_of_the_system_service_is_small(installed: Callable[[Path], Path]) -> None:
    analyze = tool("systemd-analyze")
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(installed(UNITS[0]))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=["system", "user"])
def test_the_units_agree_with_the_daemon(unit: Path) -> None:
    assert values(unit, "Type") == ["notify"]
    assert values(unit, "RestartPreventExitStatus") == [str(ConfigurationError.exit_code)]
    assert values(unit, "StartLimitIntervalSec") == ["0"]
    from assistant.app import DRAIN  # noqa: PLC0415
    from assistant.cli import THREADS_WITHIN  # noqa: PLC0415
    from assistant.ears import CHUNK_HANGS  # noqa: PLC0415

    assert int(values(unit, "TimeoutStopSec")[0]) > DRAIN + 2.0 + THREADS_WITHIN + 10.0
    assert int(values(unit, "WatchdogSec")[0]) > CHUNK_HANGS
    ordered = " ".join(values(unit, "Wants") + values(unit, "Requires") + values(unit, "After"))
    assert "network-online" not in ordered
    assert not values(unit, "MemoryDenyWriteExecute")


def test_the_wheel_carries_the_unit_files() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["systemd"] == "assistant/_systemd"
    for name in ("kikimimi.service", "user/kikimimi.service", "sysusers.conf", "tmpfiles.conf"):
        assert installing.shipped_unit(name).is_file()


def test_the_command_tells_a_dry_run(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [*KIKIMIMI, "install-service", "--user", "--dry-run"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"would: {tmp_path}/systemd/user/kikimimi.service" in done.stdout
    assert list(tmp_path.iterdir()) == []
