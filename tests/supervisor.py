"""A supervisor that speaks sd_notify, as systemd does: it hears what the daemon says of itself."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from pathlib import Path


class Supervisor:
    """Listens on a notification socket of its own; `environment` is what a service is started with."""

    def __init__(self, *, abstract: bool = False, watchdog: float = 2.0) -> None:
        self._folder = tempfile.TemporaryDirectory()
        name = f"kikimimi-test-{os.getpid()}-{id(self)}"
        self.address = f"@{name}" if abstract else str(Path(self._folder.name) / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name if abstract else self.address)
        self._socket.settimeout(0.1)
        self.environment = {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(round(watchdog * 1e6))}
        self.heard: list[tuple[float, str]] = []  # monotonic seconds, and one line
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                datagram = self._socket.recv(65_536)
            except TimeoutError:
                continue
            self.heard += [(time.monotonic(), line) for line in datagram.decode().split("\n")]

    def lines(self, start: str, since: float = 0.0) -> list[str]:
        return [line for when, line in list(self.heard) if line.startswith(start) and when >= since]

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()
        self._folder.cleanup()
