"""Microphones through PortAudio, at whatever rate and channel count the device has.

A device is named by `default`, its number, a part of its name, or an identity that survives renumbering and replugging:
`usb:VENDOR:PRODUCT:SERIAL`, or `usb:VENDOR:PRODUCT@PORT` for those without a serial number of their own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant import portaudio
from assistant.audio.source import Block, Gathering, Pace, SourceStats, Splicer, late
from assistant.channel import Channel
from assistant.errors import SourceError
from assistant.events import Chunk
from assistant.waiting import at_most, in_thread

BLOCK_SECONDS = 0.04
HELD_BLOCKS = 250  # between PortAudio's thread and whoever takes the chunks
HELD_SECONDS = 10.1  # at most, however much a block holds
OPEN_SECONDS = portaudio.OPEN_SECONDS
CLOSE_SECONDS = 2.0
FIRST_SECONDS = 5.0  # until the first callback: PulseAudio takes two
STALL_SECONDS = 2.0  # without a callback: unplugged, or its sound server is gone
JUMP_SECONDS = 0.25  # of the device's clock without the overflow flag: lost audio too; less is jitter
PLUGIN_CHANNELS = 9  # a "device" with that many is ALSA's or a sound server's plugin and converts by itself
SYSFS = portaudio.CARDS
BACKOFF = (0.5, 8.0)  # seconds, give or take a fifth: first and longest wait before it is tried again


@dataclass(frozen=True, slots=True)
class Device:
    """A device that can record."""

    index: int
    name: str
    channels: int
    rate: float  # Hz, its own default
    identities: tuple[str, ...]  # that survive renumbering, the best first
    default: bool

    @property
    def identity(self) -> str | None:
        """The best identity, None for what is no USB device."""
        return self.identities[0] if self.identities else None


class Microphone:
    """One microphone. What is not taken within 10 s is lost, counted, and shows as a jump in `Chunk.start`."""

    live = True
    backoff = BACKOFF

    def __init__(self, room: str, device: str = "default") -> None:
        self.room = room
        self.name = device
        self.stats = SourceStats()
        self.pace = Pace()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks until cancelled. Raises `SourceError` when there is no such device, or it stops delivering."""
        held: Channel[Block] = Channel(self.name, HELD_BLOCKS, weigh=lambda block: block.seconds, limit=HELD_SECONDS)
        capture = _Capture(asyncio.get_running_loop(), held, self.pace)
        splicer = Splicer(self.room, self.name, self.stats, self.pace)
        try:
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await in_thread(lambda: capture.open(self.name), "portaudio")
            except TimeoutError:
                raise SourceError(
                    f"{self.name}: did not open in {OPEN_SECONDS:.0f} s; remedy: replug it or restart the sound server"
                ) from None
            patience = FIRST_SECONDS
            while True:
                try:
                    block = await _within(patience, held)
                except TimeoutError:
                    if time.monotonic() - capture.disturbed > FIRST_SECONDS:
                        raise
                    continue
                patience = STALL_SECONDS
                self.stats.overruns = capture.overflows + held.drops
                self.stats.underruns = capture.underflows
                for chunk in splicer.feed(late(block, held)):
                    yield chunk
        except TimeoutError:
            raise SourceError(
                f"{self.name}: no audio for {patience:.0f} s; remedy: plug it in again, or see kikimimi devices"
            ) from None
        finally:
            held.close()
            if not await at_most(CLOSE_SECONDS, in_thread(capture.close, "portaudio")):
                # An unplugged device or a frozen sound server may never let go. The thread is a daemon, and PortAudio's
                # own clean-up at exit, which would hang as well, is left to the kernel.
                atexit.unregister(portaudio.library(SourceError)._exit_handler)


async def _within(patience: float, held: Channel[Block]) -> Block:
    """The next block. Waits in four parts, because a process that slept is late for its timer, not the device."""
    for _ in range(4):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience / 4):
                return await held.get()
    raise TimeoutError


class _Capture:
    """The PortAudio stream and its callback, which only copies, looks how loud it is and hands over.

    Several blocks at once if it may.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, held: Channel[Block], pace: Pace) -> None:
        self.overflows = 0
        self.underflows = 0
        self.disturbed = -math.inf  # monotonic seconds when it was last suspended or resumed
        self._name = ""
        self._loop = loop
        self._held = held
        self._gathering = Gathering(pace)
        self._stream: Any = None
        self._closed = False
        self._rate = 0.0
        self._position = 0.0  # seconds since the first sample, lost audio counted
        self._next: float | None = None  # when the next block should begin, by the device's clock

    def open(self, name: str) -> None:
        """Find the device and start. Raises `SourceError`."""
        with portaudio.exclusive(SourceError):
            sounddevice = portaudio.library(SourceError)
            self._name, device = name, _present(name)
            try:
                self._rate, channels = _format(sounddevice, device)
                stream = sounddevice.InputStream(
                    samplerate=self._rate,
                    blocksize=round(self._rate * BLOCK_SECONDS),
                    device=device.index,
                    channels=channels,
                    dtype="float32",
                    latency="high",
                    callback=self._callback,
                )
                stream.start()
            except sounddevice.PortAudioError as error:
                raise SourceError(
                    f"{name}: {device.name} cannot be opened ({portaudio.reason(error)}); "
                    "remedy: close the program that holds it, or use the source default"
                ) from error
            self._stream = stream
            portaudio.opened.add(self)
            if self._closed:  # given up meanwhile
                self._close()

    def suspend(self) -> bool:
        """Let PortAudio look for devices: what is missed meanwhile counts as lost (`portaudio.Holder`)."""
        self.disturbed = time.monotonic()
        self._close()
        return True

    def resume(self) -> None:
        """Open again, unless it was closed meanwhile. Raises `SourceError`."""
        if not self._closed:
            self.open(self._name)
        self.disturbed = time.monotonic()

    def close(self) -> None:
        """Stop at once; harmless when it never opened."""
        self._closed = True
        with portaudio.exclusive(SourceError):
            self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)
            self._stream = None
        portaudio.opened.discard(self)

    def _callback(self, data: NDArray[np.float32], frames: int, times: Any, status: Any) -> None:  # noqa: ANN401
        """In PortAudio's thread. What was lost is the gap on the device's own clock (time of the first sample, ADC)."""
        duration = frames / self._rate
        overflow = bool(status.input_overflow)
        self.overflows += overflow
        self.underflows += bool(status.input_underflow)
        begun = times.inputBufferAdcTime if times.inputBufferAdcTime > 0 else times.currentTime - duration
        if self._next is not None:
            gap = begun - self._next
            if gap > JUMP_SECONDS or (overflow and gap > BLOCK_SECONDS):
                self._position += gap
        self._next = begun + duration
        # The wall time is that of arrival: the delay that PulseAudio tells is wrong by 0.7 s in the first seconds.
        for block in self._gathering.feed(Block(self._position, data.copy(), self._rate, time.time())):
            self._held.offer_threadsafe(self._loop, block)
        self._position += duration


def _format(sounddevice: Any, device: Device) -> tuple[float, int]:  # noqa: ANN401
    """The rate and channel count to record with: the device's own, else the first usual ones that it takes.

    A device that is just coming back refuses everything for a moment, so what was refused is asked a second time: else
    it would be heard with the worst format of all, in which the moment was over.
    """
    plugin = device.channels >= PLUGIN_CHANNELS
    # A plugin names an arbitrary default rate; most hardware behind it runs at 48 kHz, and soxr converts better.
    rates = [48_000.0, device.rate] if plugin else [device.rate, 48_000.0]
    channels = [2, 1] if plugin else [device.channels, 2, 1]
    formats = [
        (rate, count)
        for rate in dict.fromkeys([*rates, 44_100.0, 16_000.0, 32_000.0, 8_000.0])
        for count in dict.fromkeys(count for count in channels if count <= device.channels)
    ]
    if not formats:
        raise ValueError(f"{device.name} has no channel")
    found = _first_taken(sounddevice, device, formats)
    return found if found == formats[0] else _first_taken(sounddevice, device, formats)


def _first_taken(sounddevice: Any, device: Device, formats: list[tuple[float, int]]) -> tuple[float, int]:  # noqa: ANN401
    failure: Exception | None = None
    for rate, count in formats:
        try:
            sounddevice.check_input_settings(device.index, count, "float32", None, rate)
        except sounddevice.PortAudioError as error:
            failure = failure or error
        else:
            return rate, count
    assert failure is not None  # noqa: S101 (there is at least one format)
    raise failure


# ------------------------------------------------------------------------------------------------------------- devices


def _present(name: str) -> Device:
    """The device that `name` means, for which PortAudio looks anew where its list may be outdated.

    Only for a card, or what is not in the list: it disturbs the other microphones for a moment.
    """
    if portaudio.outdated():
        try:
            found = find(name, devices())
        except SourceError:
            found = None
        if found is None or _card(found.name) is not None:
            portaudio.renew(SourceError)
    return find(name, devices())


def devices(sysfs: Path = SYSFS) -> list[Device]:
    """What can record here. Raises `SourceError` without PortAudio or without any device.

    PortAudio sees devices plugged in later only while none of its streams is open.
    """
    with portaudio.exclusive(SourceError):
        listed, default = portaudio.listing("input", SourceError)
    if not listed:
        raise SourceError(
            "no microphone found; remedy: plug one in, see that this user is in group audio or its sound server runs, "
            "then kikimimi devices"
        )
    identities = _identities(sysfs)
    return [
        Device(
            index,
            str(entry["name"]),
            int(entry["max_input_channels"]),
            float(entry["default_samplerate"]),
            identities.get(_card(str(entry["name"])), ()),
            index == default,
        )
        for index, entry in listed
    ]


def find(name: str, known: list[Device]) -> Device:
    """The device that `name` means. Raises `SourceError` when none or several do."""
    if name == "default":
        matches = [device for device in known if device.default] or known[:1]
    elif name.isdecimal():
        matches = [device for device in known if device.index == int(name)]
    elif name.startswith("usb:"):
        # A card with several inputs: its first. Without the serial number or port: any device of that make.
        matches = [
            device
            for device in known
            if any(identity == name or identity.startswith((f"{name}:", f"{name}@")) for identity in device.identities)
        ]
        if len({_card(device.name) for device in matches}) == 1:
            matches = matches[:1]
    else:
        folded = name.casefold()
        matches = [device for device in known if device.name.casefold() == folded] or [
            device for device in known if folded in device.name.casefold()
        ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        several = ", ".join(f"{device.index} {device.name}" for device in matches)
        raise SourceError(
            f"{name}: several microphones match ({several}); remedy: name one as kikimimi devices shows it"
        )
    there = ", ".join(f"{device.index} {device.name}" for device in known)
    raise SourceError(f"{name}: no such microphone (there are: {there}); remedy: kikimimi devices")


def _card(name: str) -> str | None:
    """The ALSA card of a PortAudio name, "1" for "USB Audio: - (hw:1,0)"."""
    match = re.search(r"\(hw:(\d+),\d+\)", name)
    return match[1] if match else None


def _identities(sysfs: Path) -> dict[str | None, tuple[str, ...]]:
    """Identities of each ALSA card that is a USB device, by card number.

    The kernel links `card<N>/device` to the USB interface; its device, with `idVendor`, `idProduct` and `serial`, lies
    above it and is named after the port (Documentation/ABI/stable/sysfs-bus-usb).
    """
    found: dict[str | None, tuple[str, str]] = {}
    for card in sorted(sysfs.glob("card*")):
        for folder in _upwards((card / "device").resolve()):
            vendor, product = _read(folder / "idVendor"), _read(folder / "idProduct")
            if vendor and product:
                serial = re.sub(r"[^\w.-]", "_", _read(folder / "serial"))
                make = f"usb:{vendor}:{product}"
                found[card.name.removeprefix("card")] = (f"{make}:{serial}" if serial else "", f"{make}@{folder.name}")
                break
    serials = [serial for serial, _ in found.values()]
    # Some makers give every device the same serial number: then only the port tells them apart.
    return {
        number: (serial, port) if serial and serials.count(serial) == 1 else (port,)
        for number, (serial, port) in found.items()
    }


def _upwards(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
