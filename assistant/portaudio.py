"""PortAudio for microphones and loudspeakers: one call at a time, never on the event loop, and what devices there are.

Every function takes the kind of `AssistantError` that it raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from assistant.errors import AssistantError

T = TypeVar("T")

OPEN_SECONDS = 10.0  # until a device must have opened

# PortAudio's functions must not run at the same time; the callbacks of open streams go on meanwhile.
_one = threading.RLock()
opened: set[object] = set()  # whoever holds an open stream; changed only within `exclusive`


@contextlib.contextmanager
def exclusive(fails: type[AssistantError]) -> Iterator[None]:
    """Nobody else calls PortAudio meanwhile."""
    if not _one.acquire(timeout=OPEN_SECONDS - 1):
        raise fails("another sound device hangs in PortAudio; remedy: restart the sound server, or replug it")
    try:
        yield
    finally:
        _one.release()


async def in_thread(function: Callable[[], T]) -> T:
    """Run in a daemon thread: what hangs in a driver must not keep the program from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(deliver, result, error)
        except RuntimeError:  # the loop has been closed meanwhile
            return

    threading.Thread(target=run, name="portaudio", daemon=True).start()
    return await future


def library(fails: type[AssistantError]) -> Any:  # noqa: ANN401 (it has no types)
    """The module `sounddevice`."""
    try:
        import sounddevice  # noqa: PLC0415 (loads and starts PortAudio: only where a device is used)
    except OSError as error:
        raise fails("no PortAudio library; remedy: apt-get install libportaudio2") from error
    return sounddevice


def listing(kind: Literal["input", "output"], fails: type[AssistantError]) -> tuple[list[tuple[int, Any]], int]:
    """Number and description of each device of that kind, and the number of the default one, -1 if there is none.

    PortAudio sees devices plugged in later only while none of its streams is open.
    """
    with exclusive(fails):
        sounddevice = library(fails)
        try:
            if not opened:
                # The only way to enumerate anew; sounddevice has no public name for it.
                sounddevice._terminate()
                sounddevice._initialize()
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
