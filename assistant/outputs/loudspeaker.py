"""Loudspeakers of this machine through PortAudio."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant import portaudio
from assistant.errors import AssistantError
from assistant.events import Samples
from assistant.voices.voice import Spoken
from assistant.waiting import in_thread

END_SECONDS = 5.0  # after its duration the speech must have been played
CLOSE_SECONDS = 2.0
BLOCK_SECONDS = 0.02
LATENCY_SECONDS = 0.1  # of the device's buffer: what is still heard when the sound server does not drop it
LEAD_SECONDS = 0.1  # of silence first: sound servers and amplifiers swallow the beginning
TAIL_SECONDS = 0.25  # of silence at the end: sound servers drop what they still hold when a stream ends
RATES = (48_000.0, 44_100.0)  # to try after the speech's own rate and the device's


@dataclass(frozen=True, slots=True)
class Output:
    """A device that can play."""

    index: int
    name: str
    channels: int
    rate: float  # Hz, its own default
    default: bool


def outputs() -> list[Output]:
    """What can play here. Raises `AssistantError` without PortAudio or without any device."""
    listed, default = portaudio.listing("output", AssistantError)
    if not listed:
        raise AssistantError(
            "no loudspeaker found; remedy: plug one in, see that this user is in group audio or its sound server runs, "
            "then kikimimi devices"
        )
    return [
        Output(
            index,
            str(entry["name"]),
            int(entry["max_output_channels"]),
            float(entry["default_samplerate"]),
            index == default,
        )
        for index, entry in listed
    ]


def find(name: str, known: list[Output]) -> Output:
    """The output that `name` means: default, a number, a name or a part of one. Raises `AssistantError`."""
    folded = name.casefold()
    if name == "default":
        matches = [output for output in known if output.default] or known[:1]
    elif name.isdecimal():
        matches = [output for output in known if output.index == int(name)]
    else:
        matches = [output for output in known if output.name.casefold() == folded] or [
            output for output in known if folded in output.name.casefold()
        ]
    if len(matches) == 1:
        return matches[0]
    there = ", ".join(f"{output.index} {output.name}" for output in matches or known)
    wrong = f"several outputs match ({there})" if matches else f"no such output (there are: {there})"
    raise AssistantError(f"{name}: {wrong}; remedy: name one as kikimimi devices shows it")


class Loudspeaker:
    """One output, opened for each text, so that other programs may have it in between."""

    def __init__(self, device: str = "default") -> None:
        self.name = device

    async def play(self, speech: Spoken) -> None:
        """Play to the end; a cancel silences it at once. Raises `AssistantError`."""
        playback = _Playback(self.name, speech)
        try:
            try:
                async with asyncio.timeout(portaudio.OPEN_SECONDS):
                    await in_thread(playback.open, "portaudio")
            except TimeoutError:
                raise AssistantError(
                    f"{self.name}: did not open in {portaudio.OPEN_SECONDS:.0f} s; remedy: restart the sound server"
                ) from None
            if not await playback.finished(speech.seconds + END_SECONDS):
                raise AssistantError(
                    f"{self.name}: did not play {speech.seconds:.1f} s of speech within {END_SECONDS:.0f} s more; "
                    "remedy: plug it in again, or see kikimimi devices"
                )
        finally:
            playback.silence()
            closing = asyncio.ensure_future(in_thread(playback.close, "portaudio"))
            await asyncio.wait([closing], timeout=CLOSE_SECONDS)


class _Playback:
    """The PortAudio stream of one text, and its callback, which only copies."""

    def __init__(self, name: str, speech: Spoken) -> None:
        self._name = name
        self._speech = speech
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._samples: Samples = speech.samples
        self._position = 0
        self._silent = threading.Event()
        self._closed = False
        self._stream: Any = None

    def open(self) -> None:
        """Find the device and start. Raises `AssistantError`."""
        with portaudio.exclusive(AssistantError):
            sounddevice = portaudio.library(AssistantError)
            output = find(self._name, outputs())
            try:
                rate, channels = _format(sounddevice, output, self._speech.rate)
                if rate != self._speech.rate:
                    import soxr  # noqa: PLC0415 (a native library, only where it is needed)

                    self._samples = soxr.resample(self._speech.samples, self._speech.rate, rate)
                lead, tail = (np.zeros(round(rate * part), np.float32) for part in (LEAD_SECONDS, TAIL_SECONDS))
                self._samples = np.concatenate([lead, self._samples, tail])
                stream = sounddevice.OutputStream(
                    samplerate=rate,
                    blocksize=round(rate * BLOCK_SECONDS),
                    device=output.index,
                    channels=channels,
                    dtype="float32",
                    latency=LATENCY_SECONDS,
                    callback=self._callback,
                    finished_callback=self._finished,
                )
                self._sounddevice = sounddevice
                stream.start()
            except sounddevice.PortAudioError as error:
                raise AssistantError(
                    f"{self._name}: {output.name} cannot be opened ({portaudio.reason(error)}); "
                    "remedy: close the program that holds it, or another output of kikimimi devices"
                ) from error
            self._stream = stream
            portaudio.opened.add(self)
            if self._closed:  # given up meanwhile
                self._close()

    async def finished(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it came, and with it all of the speech."""
        try:
            async with asyncio.timeout(seconds):
                await self._done.wait()
        except TimeoutError:
            return False
        return self._position >= len(self._samples)

    def silence(self) -> None:
        """Zeros from the next block on, whatever the device does with what it holds."""
        self._silent.set()

    def suspend(self) -> bool:
        """Never: a gap would be heard (`portaudio.Holder`)."""
        return False

    def resume(self) -> None:
        """It was not suspended."""

    def close(self) -> None:
        """Stop at once; harmless when it never opened."""
        self._closed = True
        with portaudio.exclusive(AssistantError):
            self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)
            self._stream = None
        portaudio.opened.discard(self)

    def _callback(self, data: NDArray[np.float32], frames: int, _times: Any, _status: Any) -> None:  # noqa: ANN401
        """In PortAudio's thread."""
        part = self._samples[self._position : self._position + frames]
        if self._silent.is_set() or not len(part):
            data.fill(0.0)
            raise self._sounddevice.CallbackStop
        data[: len(part)] = part[:, np.newaxis]
        data[len(part) :] = 0.0
        self._position += len(part)

    def _finished(self) -> None:
        """In PortAudio's thread, when the last block was played or the device is gone."""
        try:
            self._loop.call_soon_threadsafe(self._done.set)
        except RuntimeError:  # the loop has been closed meanwhile
            return


def _format(sounddevice: Any, output: Output, wanted: int) -> tuple[float, int]:  # noqa: ANN401
    """A rate and channel count that the device takes: its own rate first, so that only we resample."""
    failure: Exception | None = None
    for rate in dict.fromkeys([output.rate, *RATES, float(wanted)]):
        for channels in dict.fromkeys(count for count in (2, 1, output.channels) if count <= output.channels):
            try:
                sounddevice.check_output_settings(output.index, channels, "float32", None, rate)
            except sounddevice.PortAudioError as error:
                failure = failure or error
            else:
                return rate, channels
    if failure is None:
        raise ValueError(f"{output.name} has no channel")
    raise failure
