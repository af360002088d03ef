"""A whole daemon as its own process, and a browser in front of its page."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forked import Forked
from outputs.brokers import free_port

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def chromium() -> str | None:
    """Debian's browser; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class House:
    """`kikimimi run` with ports, state and configuration of its own. Sounds alone unless `speech`."""

    def __init__(self, folder: Path, *, settings: str = "", speech: bool = False) -> None:
        """`settings` is YAML beside what this class writes."""
        self.folder = folder
        self.port, self.mqtt_port = free_port(), free_port()
        self.log = folder / "daemon.log"
        self.config = folder / "config.yaml"
        own = f"broker: {{port: {self.mqtt_port}}}\nwyoming: {{enabled: false}}\n"
        if "say:" not in settings:
            own += "say: {enabled: false}\n"
        if "speech:" not in settings and not speech:
            own += "speech: {enabled: false}\n"
        if "web:" not in settings:
            own += f"web: {{port: {self.port}}}\n"
        self.config.write_text(own + settings.replace("{web_port}", str(self.port)), encoding="utf-8")
        self.environment: dict[str, str] = {}  # beside that of the tests
        self._process: subprocess.Popen[bytes] | Forked | None = None

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._process is not None
        return self._process.pid

    def arguments(self) -> list[str]:
        """Of `kikimimi`."""
        return ["run", "-c", str(self.config)]

    def process(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes] | Forked:
        """The daemon."""
        return Forked(arguments, environment, self.log)

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self, *arguments: str, seconds: float = 60.0) -> House:
        """Run with `arguments` and wait until the page is served."""
        environment = {
            **os.environ,
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CONFIG_HOME": str(self.folder / "xdg-config"),
            **self.environment,
        }
        self._process = self.process([*self.arguments(), *arguments], environment)
        return self.served(seconds)

    def served(self, seconds: float = 60.0) -> House:
        """Wait until the page is served."""
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while True:
            assert self._process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}api/session", timeout=2):
                    return self
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def says(self, text: str, seconds: float = 30.0) -> House:
        """Wait until its log says that."""
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self

    def reload(self) -> None:
        """SIGHUP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of a request to `api/…`, as a program makes it."""
        data = None if body is None else json.dumps(body).encode()
        headers = {**({"content-type": "application/json"} if data else {}), **(headers or {})}
        request = urllib.request.Request(f"{self.url}api/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                content = answer.read()
                status = int(answer.status)
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        return status, json.loads(content) if content else None

    def stop(self) -> None:
        """SIGTERM; what hangs is killed, and that is a failure."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None
        assert code == 0, self.log.read_text()[-4000:]


class FreshHouse(House):
    """A house without a configuration file: only its ports are others than those that Kikimimi has by default."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config.unlink()
        self.config = folder / "xdg-config" / "kikimimi" / "config.yaml"

    def arguments(self) -> list[str]:
        """No configuration."""
        return ["run"]

    def process(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """The defaults of the ports are changed before anything reads them."""
        ports = {
            "assistant.web.settings:WebSettings": self.port,
            "assistant.outputs.broker:BrokerSettings": self.mqtt_port,
            "assistant.wyoming_server:WyomingSettings": free_port(),
        }
        program = f"""
import importlib
for name, port in {ports!r}.items():
    module, _, settings = name.partition(":")
    settings = getattr(importlib.import_module(module), settings)
    settings.model_fields["port"].default = port
    settings.model_rebuild(force=True)
from assistant.cli import main
raise SystemExit(main())
"""
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-c", program, *arguments], stdout=out, stderr=out, env=environment
            )
