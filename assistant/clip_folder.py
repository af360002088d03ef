"""The folder of the clips: each is written whole or not at all, and the oldest go when there are too many.

Blocking, for one thread. A clip is named as `2026-11-28/01KB….flac`: a day, and the ULID of its event, which tells when
that was raised. Files that are not named so are never touched, links never followed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ulid import ULID

log = logging.getLogger(__name__)

SOUND, PICTURE = ".flac", ".png"
MEGABYTE = 1_000_000
LARGEST = 8 * MEGABYTE  # bytes of a file that are read: a minute of FLAC is a quarter of it
DAY = 86_400.0  # seconds
ENOUGH = 1.1  # times the free space that must be left, for a nearly full disk to be one no more
WARN_EVERY = 100  # the first and each hundredth file that cannot be deleted is logged

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"
_NAME = re.compile(rf"({_ID})(\.flac|\.png)")
_HALF = re.compile(rf"\.{_ID}(?:\.flac|\.png)\.part")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NearlyFullError(OSError):
    """The disk has no room for clips; its text says so to a person."""


def name_of(day: str, identity: str) -> str:
    """Where the clip of the event `identity` is, below the folder. `day` as `2026-11-28`."""
    return f"{day}/{identity}{SOUND}"


@dataclass(slots=True)
class _Kept:
    """A clip on disk."""

    day: str
    sizes: dict[str, int] = field(default_factory=dict)  # bytes by suffix


class ClipFolder:
    """The clips of one daemon. Nothing is read or made before `open`."""

    def __init__(self, path: Path, *, days: float, megabytes: float, at_least: int, free: float) -> None:
        """Clips go when older than `days`, or when all need more than `megabytes`, but the last `at_least` stay.

        None is written that would leave less than `free` MB of the disk.
        """
        self.path = path
        self.bytes = 0
        self.deleted = 0
        self._days, self._size, self._at_least = days, megabytes * MEGABYTE, at_least
        self._free = free * MEGABYTE
        self._full = False
        self._undeletable = 0
        self._clips: dict[str, _Kept] = {}  # by id, the oldest first

    def __len__(self) -> int:
        return len(self._clips)

    def open(self) -> None:
        """Make the folder, remove what was left half written, learn what is there, forget what is too old.

        Raises `OSError`.
        """
        self._make()
        found: dict[str, _Kept] = {}
        for day in sorted(entry.name for entry in self.path.iterdir()):
            if _DAY.fullmatch(day) and not (self.path / day).is_symlink():
                try:
                    with self._day(day) as folder:
                        _learn(day, folder, found)
                except OSError as error:
                    log.warning("clips: %s is left alone (%s)", self.path / day, error.strerror)
                self._drop_if_empty(day)
        self._clips = dict(sorted(found.items()))
        self.bytes = sum(sum(clip.sizes.values()) for clip in found.values())
        self.tidy()

    def has(self, identity: str) -> frozenset[str]:
        """What is kept of an event: `SOUND`, `PICTURE`. Does not block."""
        clip = self._clips.get(identity)
        return frozenset() if clip is None else frozenset(clip.sizes)

    def read(self, identity: str, suffix: str) -> bytes:
        """A file that is kept of an event. Raises `OSError`; `FileNotFoundError` when it has been forgotten."""
        clip = self._clips.get(identity)
        if clip is None or suffix not in clip.sizes:
            raise FileNotFoundError(errno.ENOENT, "it is no longer kept", f"{identity}{suffix}")
        with self._day(clip.day) as folder:
            descriptor = os.open(f"{identity}{suffix}", _OLD_FILE, dir_fd=folder)
            with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor)
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "it is no file", f"{identity}{suffix}")
                return file.read(LARGEST)

    def check(self) -> None:
        """Raise `NearlyFullError` while there is too little room, and `OSError` when the folder cannot be reached."""
        self._make()
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be written", str(self.path))
        left = shutil.disk_usage(self.path).free
        self._full = left < self._free * (ENOUGH if self._full else 1.0)
        if self._full:
            raise NearlyFullError(
                f"the disk is nearly full: {left / MEGABYTE:.0f} MB are free at {self.path}, "
                f"{self._free / MEGABYTE:.0f} must stay free"
            )

    def write(self, name: str, sound: bytes, picture: bytes | None = None) -> None:
        """Keep a clip as `name` and its picture beside it, all of it or nothing, then `tidy`.

        Raises `NearlyFullError` and `OSError`; then nothing of it is there.
        """
        self.check()
        day, _, file = name.partition("/")
        identity = file.removesuffix(SOUND)
        # The sound comes last: where it is, everything is.
        contents = {**({} if picture is None else {PICTURE: picture}), SOUND: sound}
        with contextlib.suppress(FileExistsError):
            (self.path / day).mkdir(mode=0o700)
        with self._day(day) as folder:
            try:
                for suffix, content in contents.items():
                    _write_through(folder, f".{identity}{suffix}.part", content)
                for suffix in contents:
                    os.rename(f".{identity}{suffix}.part", f"{identity}{suffix}", src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except BaseException:
                for suffix in contents:
                    for half in (f".{identity}{suffix}.part", f"{identity}{suffix}"):
                        with contextlib.suppress(OSError):
                            os.unlink(half, dir_fd=folder)
                raise
        sizes = {suffix: len(content) for suffix, content in contents.items()}
        self._clips[identity] = _Kept(day, sizes)
        self.bytes += sum(sizes.values())
        self.tidy()

    def tidy(self) -> None:
        """Delete what is too old or too much."""
        oldest_allowed = time.time() - self._days * DAY
        while len(self._clips) > self._at_least:
            identity = next(iter(self._clips))
            if self.bytes <= self._size and ULID.from_str(identity).timestamp >= oldest_allowed:
                return
            self._delete(identity)

    def _delete(self, identity: str) -> None:
        """Delete the files of a clip; it is forgotten also when one of them stays."""
        clip = self._clips.pop(identity)
        self.bytes -= sum(clip.sizes.values())
        self.deleted += 1
        try:
            with self._day(clip.day) as folder:
                for suffix in clip.sizes:
                    with contextlib.suppress(FileNotFoundError):  # somebody else was tidy
                        os.unlink(f"{identity}{suffix}", dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self._undeletable += 1
            if self._undeletable % WARN_EVERY == 1:
                log.warning(
                    "clips: %s cannot be deleted (%s), %d so far; remedy: check the owner and rights of %s",
                    name_of(clip.day, identity),
                    error.strerror,
                    self._undeletable,
                    self.path,
                )
            return
        self._drop_if_empty(clip.day)

    def _make(self) -> None:
        if not self.path.is_dir():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def _day(self, day: str) -> Iterator[int]:
        """The folder of a day, which everything below goes through: a link put in its place leads nowhere."""
        folder = os.open(self.path / day, _FOLDER)
        try:
            yield folder
        finally:
            os.close(folder)

    def _drop_if_empty(self, day: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / day).rmdir()


def _learn(day: str, folder: int, found: dict[str, _Kept]) -> None:
    """Add the clips of a day to `found`; what was left half written is removed."""
    for name in os.listdir(folder):
        half, whole = _HALF.fullmatch(name), _NAME.fullmatch(name)
        if not (half or whole):
            continue
        with contextlib.suppress(FileNotFoundError):  # somebody deletes it at this moment
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                continue
            if whole:
                found.setdefault(whole[1], _Kept(day)).sizes[whole[2]] = status.st_size
            else:
                os.unlink(name, dir_fd=folder)


def _write_through(folder: int, name: str, content: bytes) -> None:
    """A new file that is on disk, and not only in memory, when this returns."""
    with open(os.open(name, _NEW_FILE, 0o600, dir_fd=folder), "wb") as file:  # noqa: PTH123 (a descriptor)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
