"""What surrounds the daemon: the broker, the disk, the clock, rights. Each check says what to do when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from assistant import history_reading
from assistant.errors import HistoryError, ModelError
from assistant.history_reading import Wanted
from assistant.models.remote import Remote
from assistant.outputs.probe import probe

if TYPE_CHECKING:
    from assistant.config import Config

FREE = 200_000_000  # bytes: with less the history and the broker soon cannot write
BUILT = 1_790_000_000.0  # Unix seconds: an earlier clock has not been set since the machine was switched on
CLOCK_PATIENCE = 2.0  # seconds
PROBE_PATIENCE = 25.0  # seconds for a broker that answers each step at the last moment
REMOTE_PATIENCE = 5.0  # seconds for each thing that a server of models is asked
SOUND = Path("/dev/snd")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    works: bool
    detail: str  # what was found; of what does not work also the remedy


def checks(config: Config) -> tuple[Check, ...]:
    """Everything but the broker, which `broker` asks. Nothing is changed."""
    state = platformdirs.user_state_path("kikimimi")
    return (
        *_folder("state folder", state),
        *(_history(config, state) if config.history.enabled else ()),
        _clock(),
        *_sound_rights(),
        *_secrets(config),
    )


def broker(config: Config) -> tuple[Check, ...]:
    """Each step towards the configured broker, up to the first that fails. Takes seconds if that hangs."""
    if config.mqtt.host is None:
        return (
            Check(
                "broker", True, f"a broker of our own, {config.broker.host}:{config.broker.port}, while the daemon runs"
            ),
        )

    async def steps() -> tuple[Check, ...]:
        found: list[Check] = []
        try:
            async with asyncio.timeout(PROBE_PATIENCE), contextlib.aclosing(probe(config.mqtt)) as tried:
                async for step in tried:
                    found.append(Check(f"broker: {step.name}", step.works, step.detail))
        except TimeoutError:
            remedy = "remedy: look at the broker's log"
            found.append(Check("broker", False, f"no answer in {PROBE_PATIENCE:.0f} s; {remedy}"))
        return tuple(found)

    return asyncio.run(steps())


def remote(config: Config) -> tuple[Check, ...]:
    """The server of remote models, if there is one: what it lists, and whether it answers."""
    settings = config.models.remote
    if settings.url is None:
        return ()
    made = Remote(settings.model_copy(update={"timeout": min(settings.timeout, REMOTE_PATIENCE)}))
    try:
        made.probe()
    except ModelError as error:
        return (Check("remote models", False, str(error)),)
    finally:
        made.close()
    able = [f"{made.model} answers"] * bool(made.model) + [f"{made.transcriber} transcribes"] * bool(made.transcriber)
    clear = "; not encrypted on its way" if settings.in_the_clear else ""
    return (Check("remote models", True, f"{settings.place}: {', '.join(able)}{clear}"),)


def _folder(name: str, folder: Path) -> Iterator[Check]:
    """Whether files can be written there, and how many more."""
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        yield Check(name, False, f"{there}: cannot be written ({error.strerror}); remedy: check its owner and rights")
        return
    free = shutil.disk_usage(there).free
    detail = f"{folder}, {free / 1e9:.1f} GB of the disk free"
    yield Check(name, free >= FREE, detail if free >= FREE else f"{detail}; remedy: free some space there")


def _history(config: Config, state: Path) -> Iterator[Check]:
    try:
        latest = history_reading.read(config.history, state, Wanted(limit=1))
    except HistoryError as error:
        if "there is no history yet" in str(error):
            yield Check("history", True, "nothing was heard yet")
        else:
            yield Check("history", False, str(error))
        return
    yield Check("history", True, f"the latest event is of {latest[0]['start']}" if latest else "it is empty")


def _clock() -> Check:
    if time.time() < BUILT:
        return Check("clock", False, f"it is said to be {time.ctime()}; remedy: set the clock, or let NTP do it")
    if (tool := shutil.which("timedatectl")) is not None:
        command = [tool, "show", "--property=NTPSynchronized", "--value"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(command, capture_output=True, text=True, timeout=CLOCK_PATIENCE, check=True).stdout
            if answer.strip() == "no":
                remedy = "remedy: timedatectl set-ntp true"
                return Check("clock", False, f"nobody keeps it right, so events may carry a wrong time; {remedy}")
    return Check("clock", True, time.strftime("%Y-%m-%d %H:%M:%S %z"))


def _sound_rights() -> Iterator[Check]:
    """Whether ALSA's devices may be opened by this user."""
    with contextlib.suppress(OSError):
        captures = [device for device in SOUND.iterdir() if device.name.startswith("pcm") and device.name.endswith("c")]
        closed = [device for device in captures if not os.access(device, os.R_OK | os.W_OK)]
        if closed:
            remedy = "remedy: usermod -aG audio USER, then log in again"
            yield Check("sound devices", False, f"{closed[0]} may not be opened by this user; {remedy}")
        elif captures:
            yield Check("sound devices", True, f"{len(captures)} can be recorded from")


def _secrets(config: Config) -> Iterator[Check]:
    """Files with secrets that others may read."""
    held = (config.mqtt.password_file, config.models.remote.token_file, config.serve.token_file)
    for file in (*held, config.file):
        with contextlib.suppress(OSError):
            if file is None or not file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
                continue
            if file in held:
                yield Check("secrets", False, f"{file} can be read by others; remedy: chmod 600 {file}")
            elif config.mqtt.password is not None:
                detail = f"{file} holds a password and can be read by others"
                yield Check("secrets", False, f"{detail}; remedy: chmod 600 {file}, or mqtt.password_file")
