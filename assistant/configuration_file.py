"""The configuration file while it is changed from the page: whole or not at all, and the last versions to go back to.

Nothing here reads what the file means; who changes it has checked it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ulid import ULID

from assistant.config import SIZE_LIMIT
from assistant.errors import AssistantError, ConfigurationError

log = logging.getLogger(__name__)

KEPT = 20  # versions
NONE = "none"  # the digest of a file that is not there
SUFFIX, ABSENT = ".yaml", ".none"  # of a version; of a time when there was no file


class ChangedMeanwhileError(AssistantError):
    """Somebody else has changed the file."""


@dataclass(frozen=True, slots=True)
class Text:
    """The file as it was read."""

    text: str
    digest: str  # of its bytes, `NONE` without a file

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self.digest != NONE


@dataclass(frozen=True, slots=True)
class Version:
    """What stood in the file before a change."""

    id: str
    time: float  # Unix seconds, when it was changed
    what: str  # the change that followed: rule-added, rule-changed, setup, undo …


class ConfigurationFile:
    """One file and its former versions. All methods wait for the disk: call them in a thread."""

    def __init__(self, path: Path, versions: Path) -> None:
        """`path` need not be there yet; `versions` is a folder of our own."""
        self.path, self._versions = path, versions

    def read(self) -> Text:
        """What stands there. Raises `ConfigurationError`."""
        content = self._bytes()
        if content is None:
            return Text("", NONE)
        try:
            return Text(content.decode("utf-8-sig").replace("\r\n", "\n"), _digest(content))
        except UnicodeDecodeError:
            raise ConfigurationError(f"{self.path}: not UTF-8 text; remedy: save it as UTF-8") from None

    def write(self, text: str, digest: str, what: str) -> str:
        """Replace what stands there, unless its digest is another one; what stood there is kept. The new digest.

        Raises `ChangedMeanwhileError`, and `AssistantError` where it cannot be written.
        """
        before = self._bytes()
        content = text.encode()
        if before is not None and b"\r\n" in before and before.count(b"\r\n") == before.count(b"\n"):
            content = content.replace(b"\n", b"\r\n")
        if before is not None and before.startswith(b"\xef\xbb\xbf"):
            content = b"\xef\xbb\xbf" + content
        return self._change(before, content, digest, what)

    def restore(self, version: str, digest: str) -> str:
        """Go back to a former version; what stood there until now is kept too. The new digest.

        Raises `ChangedMeanwhileError`, and `AssistantError` for one that is not there or cannot be written.
        """
        return self._change(self._bytes(), self.version(version), digest, "undo")

    def version(self, identity: str) -> bytes | None:
        """The bytes of a former version; None: there was no file. Raises `AssistantError`."""
        known = next((file for file in self._files() if _identity(file) == identity), None)
        if known is None:
            raise AssistantError("this version is not kept any more; remedy: choose another one")
        try:
            return None if known.suffix == ABSENT else known.read_bytes()
        except OSError as error:
            raise AssistantError(f"{known}: cannot be read: {error.strerror}") from error

    def versions(self) -> list[Version]:
        """What can be gone back to, the latest first."""
        found = []
        for file in self._files():
            identity, _, what = file.stem.partition(".")
            with contextlib.suppress(ValueError):
                found.append(Version(identity, ULID.from_str(identity).timestamp, what))
        return found[::-1]

    def obstacle(self) -> str | None:
        """Why the file cannot be changed here, with the remedy; None: it can."""
        real = self._real()
        folder = next(place for place in real.parents if place.is_dir())
        try:
            alone = os.statvfs(folder).f_flag & os.ST_RDONLY
        except OSError:
            alone = 0
        if alone or not os.access(folder, os.W_OK) or (real.exists() and not os.access(real, os.W_OK)):
            if str(real).startswith("/etc/"):
                return (
                    f"{self.path} belongs to the system, which this daemon may not change; remedy: edit it as root, "
                    "then systemctl reload kikimimi"
                )
            return f"{self.path} cannot be written here; remedy: check the owner and rights of the file and its folder"
        if real.exists() and os.geteuid() not in {0, real.stat().st_uid}:
            return f"{self.path} has another owner than this daemon, which it would lose; remedy: chown it"
        return None

    def changed_meanwhile(self) -> ChangedMeanwhileError:
        """What is told to somebody who saw another text than stands there now."""
        return ChangedMeanwhileError(
            f"{self.path} was changed by somebody else meanwhile; remedy: look at it again, then change it"
        )

    # how it is done

    def _real(self) -> Path:
        """Where the file lies that a symbolic link leads to."""
        return Path(os.path.realpath(self.path))

    def _bytes(self) -> bytes | None:
        try:
            with self.path.open("rb") as file:
                content = file.read(SIZE_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be read: {error.strerror}") from None
        if len(content) > SIZE_LIMIT:
            raise ConfigurationError(f"{self.path}: larger than {SIZE_LIMIT // 1024} KiB")
        return content

    def _change(self, before: bytes | None, after: bytes | None, digest: str, what: str) -> str:
        if _digest(before) != digest:
            raise self.changed_meanwhile()
        if before == after:
            return digest
        if after is not None and len(after) > SIZE_LIMIT:
            raise ConfigurationError(f"{self.path}: would be larger than {SIZE_LIMIT // 1024} KiB")
        if obstacle := self.obstacle():
            raise AssistantError(obstacle)
        try:
            self._keep(before, what)
            if after is None:
                self._real().unlink()
            else:
                self._replace(after)
        except OSError as error:
            raise AssistantError(
                f"{self.path}: cannot be written ({error.strerror}), it stays as it was; remedy: check its rights and "
                "the free space of the disk"
            ) from error
        self._forget()
        log.info("%s was changed on the page: %s", self.path, what)
        return _digest(after)

    def _replace(self, content: bytes) -> None:
        """Put a new file in place of the old one in one step, with its rights and owner."""
        real = self._real()
        known = real.stat() if real.exists() else None
        if known is None:
            real.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _written(
            real,
            content,
            0o600 if known is None else stat.S_IMODE(known.st_mode),
            None if known is None else (known.st_uid, known.st_gid),
        )

    def _keep(self, content: bytes | None, what: str) -> None:
        """Keep what stands in the file, for the owner alone: it may hold passwords."""
        self._versions.mkdir(parents=True, exist_ok=True, mode=0o700)
        suffix = ABSENT if content is None else SUFFIX
        _written(self._versions / f"{ULID()}.{what}{suffix}", content or b"", 0o600, None)

    def _forget(self) -> None:
        for file in self._files()[:-KEPT]:
            with contextlib.suppress(OSError):
                file.unlink()

    def _files(self) -> list[Path]:
        """The oldest first."""
        try:
            return sorted(file for file in self._versions.iterdir() if file.suffix in {SUFFIX, ABSENT})
        except OSError:
            return []


def write_secret(path: Path, secret: str) -> None:
    """A password alone in a file, for its owner alone. Raises `AssistantError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _written(path, f"{secret}\n".encode(), 0o600, None)
    except OSError as error:
        raise AssistantError(f"{path}: cannot be written ({error.strerror}); remedy: check its rights") from error


def _written(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    """Write beside `path`, then rename. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _identity(file: Path) -> str:
    return file.name.partition(".")[0]


def _digest(content: bytes | None) -> str:
    return NONE if content is None else hashlib.sha256(content).hexdigest()
