"""PortAudio for microphones and loudspeakers: one call at a time, never on the event loop, and what devices there are.

Every function takes the kind of `AssistantError` that it raises.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from assistant.errors import AssistantError

log = logging.getLogger(__name__)

OPEN_SECONDS = 10.0  # until a device must have opened
CARDS = Path("/sys/class/sound")


class Holder(Protocol):
    """Whoever holds an open stream."""

    def suspend(self) -> bool:
        """Close the stream, to be resumed soon; False: it must not be disturbed."""

    def resume(self) -> None:
        """Open it again. Raises `AssistantError`."""


# PortAudio's functions must not run at the same time; the callbacks of open streams go on meanwhile.
_one = threading.RLock()
opened: set[Holder] = set()  # changed only within `exclusive`
_listed: frozenset[tuple[str, str]] = frozenset()  # the sound cards when PortAudio last looked
_since: float | None = None  # when whoever calls PortAudio now began (monotonic)


@contextlib.contextmanager
def exclusive(fails: type[AssistantError]) -> Iterator[None]:
    """Nobody else calls PortAudio meanwhile."""
    global _since  # noqa: PLW0603 (PortAudio itself is global)
    if not _one.acquire(timeout=OPEN_SECONDS - 1):
        raise fails("another sound device hangs in PortAudio; remedy: restart the sound server, or replug it")
    outermost = _since is None
    if outermost:
        _since = time.monotonic()
    try:
        yield
    finally:
        if outermost:
            _since = None
        _one.release()


def stuck(now: float) -> float:
    """Seconds that one call of PortAudio has not returned for at `now` (monotonic); 0: none is under way."""
    since = _since
    return 0.0 if since is None else now - since


def library(fails: type[AssistantError]) -> Any:  # noqa: ANN401 (it has no types)
    """The module `sounddevice`."""
    try:
        import sounddevice  # noqa: PLC0415 (loads and starts PortAudio: only where a device is used)
    except OSError as error:
        raise fails("no PortAudio library; remedy: apt-get install libportaudio2") from error
    if not log.isEnabledFor(logging.DEBUG):
        _hush_alsa()
    return sounddevice


@functools.cache
def _hush_alsa() -> object:
    """ALSA writes ten lines to stderr at each attempt to open what is not there; we tell the reason ourselves."""
    name = ctypes.util.find_library("asound")
    if name is None:
        return None
    # What follows the format is not touched, so the rest of the variadic signature does not matter.
    signature = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)
    handler = signature(lambda *_: None)
    ctypes.CDLL(name).snd_lib_error_set_handler(handler)
    return handler  # kept by the cache, because ALSA keeps it


def _cards() -> frozenset[tuple[str, str]]:
    """The sound cards of the kernel and where they are plugged in."""
    return frozenset((card.name, str((card / "device").resolve())) for card in CARDS.glob("card*"))


def outdated() -> bool:
    """Whether cards came or went since PortAudio made its list, which it does only while no stream is open."""
    return bool(opened) and _cards() != _listed


def renew(fails: type[AssistantError]) -> bool:
    """Have PortAudio make its list anew: open streams pause for it. False when one of them must not.

    A stream that does not come back stalls, which its owner notices.
    """
    with exclusive(fails):
        paused: list[Holder] = []
        try:
            for holder in list(opened):
                if not holder.suspend():
                    return False
                paused.append(holder)
            _enumerate(library(fails))
        finally:
            for holder in paused:
                try:
                    holder.resume()
                except AssistantError as error:
                    log.warning("%s", error)
    return True


def _enumerate(sounddevice: Any) -> None:  # noqa: ANN401
    """The only way to enumerate anew; sounddevice has no public name for it."""
    global _listed  # noqa: PLW0603 (PortAudio itself is global)
    _listed = _cards()
    sounddevice._terminate()
    sounddevice._initialize()


def listing(kind: Literal["input", "output"], fails: type[AssistantError]) -> tuple[list[tuple[int, Any]], int]:
    """Number and description of each device of that kind, and the number of the default one, -1 if there is none.

    PortAudio sees devices plugged in later only while none of its streams is open (see `outdated`, `renew`).
    """
    with exclusive(fails):
        sounddevice = library(fails)
        try:
            if not opened:
                _enumerate(sounddevice)
            listed = [
                (index, entry)
                for index, entry in enumerate(sounddevice.query_devices())
                if entry[f"max_{kind}_channels"] > 0
            ]
            default = sounddevice.default.device[0 if kind == "input" else 1]
            if default < 0:
                default = (
                    sounddevice.query_hostapis(0)[f"default_{kind}_device"] if sounddevice.query_hostapis() else -1
                )
        except sounddevice.PortAudioError as error:
            raise fails(f"PortAudio fails ({reason(error)}); remedy: restart the sound server") from error
    return listed, int(default)


def reason(error: Exception) -> str:
    """PortAudio's text without its number."""
    text = str(error.args[0]) if error.args else str(error)
    return re.sub(r"^Error \w+ \w+: | \[PaErrorCode .*", "", text)
