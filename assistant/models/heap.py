"""Memory that loading a model needs for a moment, given back to the system afterwards.

glibc keeps what was freed, and soon takes even large pieces from its heap instead of mapping them: 50 MB that Whisper
tiny needs while it is read and converted stayed with the process for good (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MMAP_THRESHOLD: Final = -3  # mallopt(3): larger pieces are mapped, and so given back when they are freed …
TRIM_THRESHOLD: Final = -1  # … and so is a free end of the heap that is larger
LOADING: Final = 1 << 20  # bytes of both while a model is loaded
RUNNING: Final = 32 << 20  # bytes: what glibc comes to by itself, since mapping costs a running model time


@contextmanager
def given_back() -> Iterator[None]:
    """Load something within, from any thread. Does nothing where the C library is not glibc."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim") or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, LOADING)
    libc.mallopt(TRIM_THRESHOLD, LOADING)
    try:
        yield
    finally:
        libc.malloc_trim(0)
        libc.mallopt(MMAP_THRESHOLD, RUNNING)
        libc.mallopt(TRIM_THRESHOLD, 2 * RUNNING)
