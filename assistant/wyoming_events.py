"""Events of the Wyoming protocol as peers send them, read within limits.

The `wyoming` package reads whatever length an event claims, and takes a broken line for the end of the connection.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from wyoming.event import Event

from assistant.events import Samples
from assistant.voices.voice import Spoken

RATES = (4_000, 192_000)  # Hz
CHANNELS = 8


class Refusal(Exception):  # noqa: N818 (it is how a connection ends)
    """A peer did what cannot be answered: the connection ends."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


async def event_of(line: bytes, reader: asyncio.StreamReader, *, data: int, payload: int, patience: float) -> Event:
    """The event whose first line is `line`, its rest read within `patience` seconds. Raises `Refusal`.

    `data` and `payload`: the most bytes of each.
    """
    event, data_length, payload_length = header(line)
    if data_length > data or payload_length > payload:
        raise Refusal("oversized", f"an event claims {data_length} bytes of data and {payload_length} of audio")
    try:
        async with asyncio.timeout(patience):
            more = await reader.readexactly(data_length)
            event.payload = await reader.readexactly(payload_length) or None
    except TimeoutError:
        raise Refusal("timeouts", f"the rest of an event did not come within {patience:.0f} s") from None
    except asyncio.IncompleteReadError:
        raise Refusal("broken_off", "went in the middle of an event") from None
    if more:
        event.data.update(json_object(more))
    return event


def header(line: bytes) -> tuple[Event, int, int]:
    """An event without its payload, and the lengths of its data and payload. Raises `Refusal`."""
    fields = json_object(line)
    kind, data = fields.get("type"), fields.get("data") or {}
    lengths = [fields.get(key) or 0 for key in ("data_length", "payload_length")]
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise Refusal("malformed", "an event without type, or with data that is no object")
    if not all(type(length) is int and length >= 0 for length in lengths):
        raise Refusal("malformed", f"{kind[:40]!r}: its lengths are no numbers")
    return Event(kind, data), lengths[0], lengths[1]


def json_object(raw: bytes) -> dict[str, Any]:
    """Raises `Refusal` for anything but a JSON object, and for halves of characters, which no answer could repeat."""
    try:
        text = raw.decode()
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refusal("malformed", "not JSON; is this a Wyoming client?") from None
    if not isinstance(value, dict):
        raise Refusal("malformed", "JSON, but no object")
    return value


def text_of(event: Event, key: str) -> str | None:
    """A text of an event's data, if it is there. Raises `Refusal`."""
    value = event.data.get(key)
    if value is not None and not isinstance(value, str):
        raise Refusal("malformed", f"{event.type}: {key} is no text")
    return value


def form_of(event: Event) -> tuple[int, int, int]:
    """Rate in Hz, bytes of a sample and channels. Raises `Refusal` for what cannot be heard."""
    rate, width, channels = (event.data.get(key) for key in ("rate", "width", "channels"))
    if not (type(rate) is int and type(width) is int and type(channels) is int):
        raise Refusal("bad_format", f"{event.type}: rate, width and channels must be whole numbers")
    if not (RATES[0] <= rate <= RATES[1] and 1 <= width <= 4 and 1 <= channels <= CHANNELS):
        raise Refusal(
            "bad_format",
            f"{event.type}: {rate} Hz, {width} bytes, {channels} channels; wanted are {RATES[0]} to {RATES[1]} Hz, "
            f"1 to 4 bytes, 1 to {CHANNELS} channels",
        )
    return rate, width, channels


def decoded(data: bytes, width: int) -> Samples:
    """Little-endian PCM as numbers from -1 to 1; 8 bits are unsigned, as in WAV files."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / np.float32(128)
    if width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    return np.frombuffer(data, f"<i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))


def pcm_of(spoken: Spoken, rate: int) -> NDArray[np.int16]:
    """Speech as 16-bit samples at `rate`."""
    samples = spoken.samples if spoken.rate == rate else soxr.resample(spoken.samples, spoken.rate, rate)
    return np.clip(np.rint(samples * 32_767), -32_768, 32_767).astype("<i2")
