"""Memory that loading needs: measured in a process of its own, since other tests leave theirs behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOAD = """
import sys, threading
from contextlib import nullcontext
from pathlib import Path
from assistant.models.heap import given_back

def megabytes():
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024

def load():
    for _ in range(40):  # pieces grow: glibc raises its own threshold with each that is freed
        kept.append(bytes(1000))
        pieces = [bytearray(3_000_000) for _ in range(30)]
        kept.append(bytes(200_000))
        del pieces

kept = []
before = megabytes()
with given_back() if sys.argv[1] == "given back" else nullcontext():
    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
print(megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only; remedy: run on Linux")
def test_what_loading_needed_is_given_back() -> None:
    def left(how: str) -> float:
        command = [sys.executable, "-c", LOAD, how]
        return float(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)

    assert left("given back") < 30
    assert left("kept") > 60, "glibc gives it back by itself: the module is not needed any more"
