"""How fast a microphone that goes is missed, and heard again: the whole daemon on a private PulseAudio, in real time.

    python benchmarks/sources.py [--rounds 20] [--gone 3] [--lasts 11] [--only removed|restarted|frozen]

The microphone is the monitor of a null sink, heard through PortAudio. Each round takes it away in one of three ways,
waits until MQTT says `offline` and `--gone` seconds more, gives it back, plays noise, and waits until a level of that
noise arrives: the device is removed and added again (PulseAudio numbers it anew), the sound server is stopped and
started again, the sound server freezes (SIGSTOP) and goes on. Threads and open files of the daemon are counted after
the second round and after the last. Needs pulseaudio, pulseaudio-utils and mosquitto. Ends in one JSON line; all times
in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]
ALSA = Path("/usr/share/alsa/alsa.conf")
CONFIG = """\
mqtt: {url: "mqtt://127.0.0.1:PORT"}
speech: {enabled: false}
wyoming: {enabled: false}
say: {enabled: false}
rooms:
  desk: {source: pulse}
"""
LOUD, SOFT = -20.0, -40.0  # dBFS of the noise: a level is told when it has moved
PATIENCE = 120.0  # seconds
SINK = "module-null-sink sink_name=room rate=48000 channels=2"


def until(true: Callable[[], bool], what: str) -> float:
    """Wait for it; the seconds that it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"waited {PATIENCE:.0f} s in vain for: {what}")
        time.sleep(0.01)
    return time.monotonic() - began


class Server:
    """A private PulseAudio whose null sink is the microphone."""

    def __init__(self, folder: Path) -> None:
        runtime = folder / "runtime"
        runtime.mkdir(mode=0o700)
        (folder / "asound.conf").write_text("pcm.pulse { type pulse }\npcm.!default { type pulse }\n")
        self._socket = folder / "s"
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(folder),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "PULSE_RUNTIME_PATH": str(runtime),
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": f"{ALSA}:{folder / 'asound.conf'}",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._player: subprocess.Popen[bytes] | None = None
        self._module = ""

    def start(self) -> None:
        """Start it, with the sink."""
        self._socket.unlink(missing_ok=True)
        options = ["--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--log-target=stderr", "-n"]
        listen = f"module-native-protocol-unix socket={self._socket} auth-anonymous=1"
        self._process = subprocess.Popen(
            ["pulseaudio", *options, "-L", listen],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, "pulseaudio")
        self.add()

    def stop(self) -> None:
        """End it as `pulseaudio --kill` does."""
        self.quiet()
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(timeout=20)

    def freeze(self) -> None:
        """It is there and does nothing."""
        self._process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]

    def thaw(self) -> None:
        """It goes on."""
        self.quiet()
        self._process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]

    def add(self) -> None:
        """Plug the microphone in."""
        self._module = self._pactl("load-module", *SINK.split())

    def remove(self) -> None:
        """Unplug the microphone."""
        self.quiet()
        self._pactl("unload-module", self._module)

    def play(self, dbfs: float) -> None:
        """Noise of that level from now on."""
        self.quiet()
        noise = np.random.default_rng(0).standard_normal((48_000 * 5, 1)) * 10 ** (dbfs / 20)
        data = np.repeat(np.clip(noise, -1, 1), 2, axis=1).astype("<f4").tobytes()
        form = ["--raw", "--rate=48000", "--channels=2", "--format=float32le", "--latency-msec=50"]
        player = self._player = subprocess.Popen(
            ["paplay", *form, "--device=room"], env=self.environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

        def feed() -> None:
            try:
                while True:
                    player.stdin.write(data)  # type: ignore[union-attr]
            except OSError:
                return

        threading.Thread(target=feed, daemon=True).start()

    def plays(self, dbfs: float) -> bool:
        """Whether the player still plays; one that ended is started again."""
        if self._player is not None and self._player.poll() is None:
            return True
        print("paplay ended by itself; it is started again", flush=True)
        self.play(dbfs)
        return False

    def quiet(self) -> None:
        """No noise any more."""
        if self._player is not None:
            self._player.kill()
            self._player.wait(timeout=10)
            self._player = None

    def _answers(self) -> bool:
        """A socket may be there before anybody listens."""
        info = subprocess.run(
            ["pactl", "info"], env=self.environment, check=False, timeout=30, capture_output=True, text=True
        )
        return info.returncode == 0

    def _pactl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["pactl", *arguments], env=self.environment, check=True, timeout=30, capture_output=True, text=True
        )
        return done.stdout.strip()


class Told:
    """What the daemon says of its room."""

    def __init__(self, port: int) -> None:
        self.status = ""
        self.levels: list[float] = []
        self._process = subprocess.Popen(
            ["mosquitto_sub", "-p", str(port), "-v", "-t", "kikimimi/desk/status", "-t", "kikimimi/desk/level"],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, _, payload = line.strip().partition(" ")
            if topic.endswith("status"):
                self.status = payload
            else:
                self.levels.append(json.loads(payload)["dbfs"])

    def close(self) -> None:
        """No more."""
        self._process.kill()
        self._process.wait(timeout=10)


def heard(told: Told, dbfs: float, since: int) -> bool:
    """Whether that level arrived after the first `since` ones."""
    return any(abs(level - dbfs) < 8.0 for level in told.levels[since:])  # a third of the band is heard: -5 dB


def held(pid: int) -> tuple[int, int]:
    """Threads and open files of a process."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (names are enough)


def rounds_of(
    how: str, server: Server, told: Told, pid: int, *, rounds: int, gone: float, lasts: float
) -> dict[str, object]:
    """The figures of so many rounds of one kind."""
    take, give = {
        "removed": (server.remove, server.add),
        "restarted": (server.stop, server.start),
        "frozen": (server.freeze, server.thaw),
    }[how]
    offline, hearing = [], []
    before = (0, 0)
    for number in range(rounds):
        time.sleep(lasts)
        took = time.monotonic()
        take()
        until(lambda: told.status == "offline", f"offline ({how}, round {number + 1})")
        offline.append(time.monotonic() - took)
        time.sleep(gone)
        dbfs, known = (SOFT, LOUD)[number % 2], len(told.levels)
        gave = time.monotonic()
        give()
        server.play(dbfs)
        until(
            lambda: server.plays(dbfs) and heard(told, dbfs, known),  # noqa: B023
            f"a level of {dbfs} dBFS ({how}, round {number + 1})",
        )
        hearing.append(time.monotonic() - gave)
        print(f"{how} {number + 1}: offline {offline[-1]:.2f}, hearing again {hearing[-1]:.2f}", flush=True)
        if number == min(1, rounds - 1):
            before = held(pid)
    after = held(pid)
    return {
        "rounds": rounds,
        "threads_leaked": after[0] - before[0],
        "files_leaked": after[1] - before[1],
        **{
            f"{name}_{which}": round(float(np.percentile(values, share)), 2)
            for name, values in (("offline", offline), ("hearing_again", hearing))
            for which, share in (("p50", 50), ("max", 100))
        },
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure all kinds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--gone", type=float, default=3.0, help="seconds between `offline` and its return")
    parser.add_argument(
        "--lasts",
        type=float,
        default=11.0,
        help="seconds that it is there before it is taken away; after less than 8 it is waited for longer each time",
    )
    parser.add_argument("--only", choices=("removed", "restarted", "frozen"))
    parser.add_argument("--log", type=Path, help="where the daemon's log goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "config.yaml").write_text(CONFIG.replace("PORT", str(port)))
        (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        server = Server(folder)
        path = options.log or folder / "log"
        log = path.open("w")
        broker = subprocess.Popen(["mosquitto", "-c", str(folder / "mosquitto.conf")], stderr=subprocess.DEVNULL)
        told = daemon = None
        try:
            server.start()
            time.sleep(0.5)
            told = Told(port)
            daemon = subprocess.Popen(
                [*KIKIMIMI, "run", "-c", str(folder / "config.yaml")], env=server.environment, stderr=log
            )
            until(lambda: told.status == "online", "the daemon")
            kinds = [options.only] if options.only else ["removed", "restarted", "frozen"]
            figures = {
                how: rounds_of(
                    how, server, told, daemon.pid, rounds=options.rounds, gone=options.gone, lasts=options.lasts
                )
                for how in kinds
            }
            daemon.terminate()
            figures["exit_code"] = {"daemon": daemon.wait(timeout=30)}
            print(json.dumps({"gone_s": options.gone, **figures}))
        except SystemExit as stop:
            said = f"status {told.status!r}, levels {told.levels[-9:]}" if told is not None else "nothing was told"
            raise SystemExit(f"{stop}; {said}; the daemon's log:\n{path.read_text()[-9000:]}") from None
        finally:
            server.stop()
            if told is not None:
                told.close()
            for process in (daemon, broker):
                if process is not None:
                    process.kill()
                    process.wait(timeout=10)


if __name__ == "__main__":
    main()
