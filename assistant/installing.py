"""`kikimimi install-service` and `uninstall-service`: a virtual environment of its own, a systemd unit, a user.

Everything is a list of steps, each told in one line before it is done; `--dry-run` stops after telling. Doing it again
is an update: nothing of the household's (configuration, state, models) is ever written over.
"""

from __future__ import annotations

import grp
import importlib.metadata
import json
import logging
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs

from assistant import __version__
from assistant.config import load, shipped
from assistant.errors import AssistantError, ConfigurationError

log = logging.getLogger(__name__)

USER = "kikimimi"  # the system service runs as
PREFIX = Path("/opt/kikimimi")
PYTHONS = (Path("/usr/bin"), Path("/usr/local/bin"))  # where a service may read one
UNIT = "kikimimi.service"
PROMPT = "kikimimi-service"  # of the environment, by which it is known as ours
INSTALL_SECONDS = 1_800.0  # for pip, and for the models
COMMAND_SECONDS = 120.0  # for anything else
WRITTEN_FIRST = """\
# The service's configuration. Below are all keys, commented out, as in config/config.example.yaml.
# After a change: kikimimi check -c {file} && systemctl {user}reload kikimimi
rooms:
  home: {{source: default}}  # the default microphone; kikimimi devices lists the others

"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes."""

    user: bool  # of a desktop's user, not of the system
    prefix: Path  # the virtual environment
    unit: Path
    config: Path
    state: Path
    cache: Path
    sysusers: Path | None = None
    tmpfiles: Path | None = None
    root: Path = Path("/")  # of the system that is installed into, where that is not this one

    @property
    def program(self) -> Path:
        """The command in the environment."""
        return self.prefix / "bin" / "kikimimi"

    @property
    def here(self) -> bool:
        """Whether it is the running system."""
        return self.root == Path("/")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and how it is told."""

    text: str
    action: Callable[[], None]


def layout_of(*, user: bool, prefix: Path | None = None, root: Path = Path("/")) -> Layout:
    """The places of a service of the system, or of this user. Raises `ConfigurationError` for a relative prefix."""
    if prefix is not None and not prefix.is_absolute():
        raise ConfigurationError(f"--prefix {prefix}: is no absolute path; remedy: --prefix {prefix.absolute()}")
    if user:
        return Layout(
            True,
            prefix or platformdirs.user_data_path("kikimimi") / "service",
            Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user" / UNIT,
            Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kikimimi/config.yaml",
            platformdirs.user_state_path("kikimimi"),
            platformdirs.user_cache_path("kikimimi"),
        )
    return Layout(
        False,
        root / (prefix or PREFIX).relative_to("/"),
        root / "etc/systemd/system" / UNIT,
        root / "etc/kikimimi/config.yaml",
        root / "var/lib/kikimimi",
        root / "var/cache/kikimimi",
        root / "usr/lib/sysusers.d/kikimimi.conf",
        root / "usr/lib/tmpfiles.d/kikimimi.conf",
        root,
    )


def check_caller(layout: Layout, command: str) -> None:
    """Raise `AssistantError` with the remedy when whoever calls cannot do it, or would do it for somebody else."""
    if layout.user and "SUDO_USER" in os.environ:
        raise AssistantError(f"--user installs for whoever calls it, which is root; remedy: {command} without sudo")
    if not layout.user and os.geteuid() != 0:
        program = shutil.which(sys.argv[0]) or sys.argv[0]
        raise AssistantError(
            f"{command} writes to /etc and {PREFIX.parent}, which needs root; remedy: sudo {program} {command}, "
            f"or {command} --user for a service of your own"
        )


# --- install ----------------------------------------------------------------------------------------------------------


def install_steps(layout: Layout, config: Path | None = None, source: str | None = None) -> list[Step]:
    """What installs or updates the service. `config` becomes the configuration where there is none yet.

    `source` is what pip installs, by default what runs now. Raises `AssistantError` for what cannot become a service.
    """
    source = source or source_of()
    text = first_configuration(layout, config)
    kept = layout.config.is_file()
    if config is not None and kept and config.resolve() != layout.config.resolve():
        raise ConfigurationError(
            f"-c {config}: {layout.config} is there already; remedy: edit that, or remove it first"
        )
    checked = layout.config if kept else config
    if checked is not None:
        load(checked)  # a service with a wrong one would not start
    _refuse_foreign(layout)
    python = service_python(layout)
    steps = []
    if layout.sysusers is not None and layout.tmpfiles is not None:
        steps += _account_steps(layout, layout.sysusers, layout.tmpfiles)
    steps += [
        Step(f"virtual environment {layout.prefix} with {python}", lambda: make_environment(layout, python)),
        Step(f"install {source} there", lambda: pip_install(layout, source)),
    ]
    if kept:
        steps.append(Step(f"{layout.config} stays as it is", lambda: None))
    else:
        origin = f"from {config}" if config is not None else "with every key commented out"
        steps.append(Step(f"{layout.config}, {origin}", lambda: write(layout.config, text, *_owner(layout))))
    steps += [
        Step(f"fetch the models into {layout.cache}", lambda: fetch_models(layout)),
        Step(f"{layout.unit}", lambda: write(layout.unit, unit_text(layout))),
    ]
    if manages(layout):
        restarted = ("restart", UNIT)
        steps += [
            _systemctl(layout, "daemon-reload"),
            _systemctl(layout, "enable", UNIT),
            _systemctl(layout, *restarted),
        ]
    return steps


def _account_steps(layout: Layout, sysusers: Path, tmpfiles: Path) -> list[Step]:
    at = () if layout.here else (f"--root={layout.root}",)
    return [
        Step(f"{sysusers}", lambda: write(sysusers, shipped_unit("sysusers.conf").read_text("utf-8"))),
        Step(f"user {USER}, in the group audio", lambda: run("systemd-sysusers", *at, "kikimimi.conf")),
        Step(f"{tmpfiles}", lambda: write(tmpfiles, shipped_unit("tmpfiles.conf").read_text("utf-8"))),
        Step(
            f"folders {layout.config.parent}, {layout.state}, {layout.cache}",
            lambda: run("systemd-tmpfiles", *at, "--create", "kikimimi.conf"),
        ),
    ]


def _systemctl(layout: Layout, *arguments: str) -> Step:
    command = ("systemctl", *(("--user",) if layout.user else ()), *arguments)
    return Step(" ".join(command), lambda: run(*command))


def by_hand(layout: Layout) -> list[str]:
    """The commands that are left to do where no systemd runs; none where it did them."""
    if manages(layout):
        return []
    user = "--user " if layout.user else ""
    return [f"systemctl {user}daemon-reload", f"systemctl {user}enable --now {UNIT}"]


def manages(layout: Layout) -> bool:
    """Whether the systemd that would start the service runs here."""
    if not layout.here:
        return False
    if not layout.user:
        return Path("/run/systemd/system").is_dir()
    return (Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "systemd").is_dir()


def source_of() -> str:
    """What pip installs to have this same version: the checkout or wheel that it came from, else the name."""
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    try:
        origin = importlib.metadata.distribution("kikimimi").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    if origin:
        url = str(json.loads(origin).get("url", ""))
        local = Path(unquote(urlsplit(url).path))
        if urlsplit(url).scheme == "file" and local.exists():
            return str(local)
    return f"kikimimi=={__version__}"


def service_python(layout: Layout) -> str:
    """The interpreter of the environment: the one that runs now, or its like where a service may not read that."""
    running = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if layout.user or not _in_a_home(running):
        return str(running)
    name = f"python3.{sys.version_info.minor}"
    found = next((folder / name for folder in PYTHONS if (folder / name).exists()), None)
    if found is None:
        raise AssistantError(
            f"{running} lies in a home directory, which the service cannot read, and there is no /usr/bin/{name}; "
            f"remedy: apt-get install {name} {name}-venv, or run this with a Python of the system"
        )
    return str(found)


def _in_a_home(path: Path) -> bool:
    return any(path.is_relative_to(home) for home in ("/root", "/home", "/run/user"))


def _refuse_foreign(layout: Layout) -> None:
    """A folder that we did not make is nobody's to fill or to remove."""
    if layout.prefix.is_symlink() or (
        layout.prefix.exists()
        and not is_ours(layout)
        and not (layout.prefix.is_dir() and not any(layout.prefix.iterdir()))
    ):
        raise AssistantError(f"{layout.prefix} is there and holds something else; remedy: --prefix with another folder")


def is_ours(layout: Layout) -> bool:
    """Whether the prefix is an environment that this command made."""
    settings = layout.prefix / "pyvenv.cfg"
    return settings.is_file() and PROMPT in settings.read_text("utf-8", "replace")


def make_environment(layout: Layout, python: str) -> None:
    """A virtual environment with `python`; one that is there and works with that version stays."""
    layout.prefix.mkdir(0o755, parents=True, exist_ok=True)
    there = layout.prefix / "bin" / "python"
    asked = "import sys; print(*sys.version_info[:3])"
    if there.exists() and _output(str(there), "-c", asked) == _output(python, "-c", asked) != "":
        return
    try:
        run(python, "-m", "venv", "--clear", "--prompt", PROMPT, str(layout.prefix))
    except AssistantError as error:
        raise AssistantError(f"{error}; remedy: apt-get install python3-venv") from None


def pip_install(layout: Layout, source: str) -> None:
    """Install `source`, and again where it is a wheel of the same version. Raises `AssistantError`."""
    pip = (str(layout.prefix / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
    attempts = [("--upgrade", "--prefer-binary", source)]
    if source.endswith(".whl"):
        attempts.append(("--force-reinstall", "--no-deps", source))
    for arguments in attempts:
        try:
            run(*pip, "install", *arguments, seconds=INSTALL_SECONDS)
        except AssistantError as error:
            raise AssistantError(
                f"{error}; remedy: check the network (or pip's index) and do it again, it goes on from what is there"
            ) from None


def fetch_models(layout: Layout) -> None:
    """Have the service's own user fetch what its configuration needs, into the service's own cache."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "PYTHON", "SUDO"))}
    owner: dict[str, int | Sequence[int]] = {}
    if not layout.user:
        environment |= {
            "HOME": str(layout.state),
            "XDG_STATE_HOME": str(layout.state.parent),
            "XDG_CACHE_HOME": str(layout.cache.parent),
        }
        uid, gid = _account(layout.root)
        owner = {"user": uid, "group": gid, "extra_groups": ()}
    else:
        environment |= {name: value for name, value in os.environ.items() if name.startswith("XDG_")}
    models = (str(layout.program), "models", "pull", "-c", str(layout.config))
    run(*models, seconds=INSTALL_SECONDS, environment=environment, owner=owner)


def first_configuration(layout: Layout, config: Path | None) -> str:
    """What a service without a configuration begins with."""
    if config is not None:
        try:
            return config.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"-c {config}: cannot be read: {error}") from None
    head = WRITTEN_FIRST.format(file=layout.config, user="--user " if layout.user else "")
    example = shipped("config.example.yaml").read_text("utf-8").splitlines()
    return head + "".join(f"{line if not line or line.startswith('#') else f'# {line}'}\n" for line in example)


def unit_text(layout: Layout) -> str:
    """The unit, with the places of `layout`."""
    text = shipped_unit("user/kikimimi.service" if layout.user else UNIT).read_text("utf-8")
    program = str(layout.program if layout.here else Path("/") / layout.program.relative_to(layout.root))
    if any(sign in program for sign in "\"'\\%$ ") or not program.isprintable():
        raise ConfigurationError(f"--prefix: {layout.prefix} cannot stand in a unit; remedy: a path of plain letters")
    return text.replace(str(PREFIX / "bin" / "kikimimi"), program)


def shipped_unit(name: str) -> Path:
    """A file of this package: `assistant/_systemd/` where it was installed, `systemd/` in a checkout."""
    for folder in (Path(__file__).parent / "_systemd", Path(__file__).parent.parent / "systemd"):
        if (folder / name).is_file():
            return folder / name
    raise AssistantError(f"{name} is missing from this installation; remedy: install kikimimi again")


# --- uninstall --------------------------------------------------------------------------------------------------------


def uninstall_steps(layout: Layout, *, purge: bool) -> list[Step]:
    """What removes the service; `purge` also its configuration, state and models. Nothing that is not there."""
    steps = []
    if manages(layout) and layout.unit.exists():
        steps.append(_systemctl(layout, "disable", "--now", UNIT))
    files = [path for path in (layout.unit, layout.sysusers, layout.tmpfiles) if path is not None and path.exists()]
    steps += [Step(f"remove {path}", path.unlink) for path in files]
    if manages(layout) and files:
        steps.append(_systemctl(layout, "daemon-reload"))
    folders = [layout.prefix] if is_ours(layout) else []
    if purge:
        folders += [path for path in (layout.config.parent, layout.state, layout.cache) if path.is_dir()]
    steps += [Step(f"remove {path}", lambda path=path: shutil.rmtree(path)) for path in folders]  # type: ignore[misc]
    return steps


def stays(layout: Layout, *, purge: bool) -> list[str]:
    """What is left afterwards, and is told."""
    places = [] if purge else [path for path in (layout.config, layout.state, layout.cache) if path.exists()]
    told = [f"{path} stays (--purge removes it)" for path in places]
    if not layout.user and layout.here:
        told.append(f"the user {USER} stays, as files may still be its own; remedy if not: userdel {USER}")
    return told


# --- doing it ---------------------------------------------------------------------------------------------------------


def perform(steps: Sequence[Step], say: Say, *, dry_run: bool) -> None:
    """Tell each step and, unless `dry_run`, do it. Raises `AssistantError` for the one that fails."""
    for step in steps:
        say(f"would: {step.text}" if dry_run else step.text)
        if dry_run:
            continue
        try:
            step.action()
        except OSError as error:
            raise AssistantError(
                f"{step.text}: {error}; what was done before stays; remedy: mend it, do it again"
            ) from error


def write(path: Path, text: str, mode: int = 0o644, group: int | None = None) -> None:
    """Replace a file as a whole; one that says the same already is left alone."""
    if path.is_file() and path.read_text("utf-8") == text:
        return
    path.parent.mkdir(0o755, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if group is not None:
            os.chown(temporary, -1, group)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def run(
    *command: str,
    seconds: float = COMMAND_SECONDS,
    environment: Mapping[str, str] | None = None,
    owner: Mapping[str, int | Sequence[int]] | None = None,
) -> None:
    """Run a command. Raises `AssistantError` with the last line that it wrote when it fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            cwd="/",
            env=environment,
            **(owner or {}),  # type: ignore[call-overload]
        )
    except FileNotFoundError:
        raise AssistantError(f"{command[0]} is not there; remedy: a system with systemd, or docs/service.md") from None
    except subprocess.TimeoutExpired:
        raise AssistantError(f"{' '.join(command)}: took longer than {seconds:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines or [f"code {done.returncode}"]
        # pip's last error sums up, systemctl's last line only says where to look
        said = f"{errors[0]} remedy: journalctl -u kikimimi" if command[0] == "systemctl" else errors[-1]
        raise AssistantError(f"{' '.join(command)}: {said}")


def _output(*command: str) -> str:
    """What a command prints; empty when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _owner(layout: Layout) -> tuple[int, int | None]:
    """Mode and group of the configuration: it may hold secrets, and the service must read it."""
    return (0o600, None) if layout.user else (0o640, _account(layout.root)[1])


def _account(root: Path) -> tuple[int, int]:
    """User and group number of the service's user. Raises `AssistantError` when there is none."""
    if root == Path("/"):
        try:
            return pwd.getpwnam(USER).pw_uid, grp.getgrnam(USER).gr_gid
        except KeyError:
            raise AssistantError(f"there is no user {USER}; remedy: systemd-sysusers kikimimi.conf") from None
    for line in (root / "etc/passwd").read_text("utf-8").splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == USER:
            return int(uid), int(gid)
    raise AssistantError(f"{root}/etc/passwd has no user {USER}; remedy: systemd-sysusers --root={root} kikimimi.conf")


def told(layout: Layout) -> Iterator[str]:
    """What to do next, after an installation."""
    for command in by_hand(layout):
        yield f"systemd does not run here; on the system itself: {command}"
    user = "--user " if layout.user else ""
    yield f"change {layout.config}, then: systemctl {user}reload kikimimi"
    yield f"its log: journalctl {user}-u kikimimi -f"
