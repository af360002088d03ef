"""`kikimimi` as processes of their own that need not import everything first: forked from one that has done so.

A start takes one to 4 s of a core, nearly all of it imports, and the tests start more than a hundred.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    "assistant.app",
    "assistant.doctor",
    "assistant.web.application",
    "ai_edge_litert.interpreter",
    "alembic.command",
    "alembic.ddl.sqlite",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)


class Forked:
    """Its process, used like `subprocess.Popen`."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, printed: Path | None = None
    ) -> None:
        """`kikimimi` with these arguments. Its stderr is added to `log`, its stdout to `printed`, or to `log` too."""
        request = {
            "run": list(arguments),
            "environment": dict(environment),
            "log": str(log),
            "printed": str(printed or log),
        }
        self.pid: int = _ask(request)
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            self._code = _ask({"poll": self.pid})
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("kikimimi", timeout or 0.0)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """As `kill` does."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def kikimimi(
    *arguments: str, environment: Mapping[str, str], seconds: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as folder:
        printed, said = Path(folder) / "stdout", Path(folder) / "stderr"
        process = Forked(arguments, environment, said, printed)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(arguments, code, printed.read_text("utf-8"), said.read_text("utf-8"))


@atexit.register
def _end() -> None:
    if _parent is not None and _parent.stdin is not None and _parent.stdout is not None:
        _parent.stdin.close()
        _parent.wait(10)
        _parent.stdout.close()


_lock = threading.Lock()
_parent: subprocess.Popen[bytes] | None = None


def _ask(request: object) -> Any:
    global _parent  # noqa: PLW0603 - one for all tests of this process
    with _lock:
        if _parent is None:
            _parent = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert _parent.stdin is not None
        assert _parent.stdout is not None
        _parent.stdin.write(json.dumps(request).encode() + b"\n")
        _parent.stdin.flush()
        answer = _parent.stdout.readline()
    assert answer, "the process that forks daemons has ended"
    return json.loads(answer)


def _serve() -> list[str]:
    """Answer requests from stdin; returns in each child, with its arguments."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := requests.readline():
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                requests.close()
                return _become(**request)
        os.write(1, json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _become(run: list[str], environment: dict[str, str], log: str, printed: str) -> list[str]:
    os.environ.clear()
    os.environ.update(environment)
    adding = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for number, (path, mode) in enumerate(((os.devnull, os.O_RDONLY), (printed, adding), (log, adding))):
        opened = os.open(path, mode, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    program = "from assistant.cli import main; raise SystemExit(main())"
    sys.orig_argv[:] = [sys.executable, "-c", program, *run]  # what a daemon that starts anew executes
    sys.argv[:] = ["-c", *run]
    return run


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # what is there is no garbage, and stays shared
    arguments = _serve()
    from assistant.cli import main

    raise SystemExit(main(arguments))
