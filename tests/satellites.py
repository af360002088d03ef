"""A simulated Wyoming satellite: the events of the `wyoming` package over TCP, a microphone that is fed by the test."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import numpy as np
from wyoming.audio import AudioChunk, AudioStop
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.info import Attribution, Info, Satellite
from wyoming.ping import Pong
from wyoming.pipeline import PipelineStage, RunPipeline
from wyoming.snd import Played
from wyoming.wake import Detection

from assistant.events import SAMPLE_RATE, Samples
from assistant.synthesis import noise

Mode = Literal["always", "vad", "wake"]

PIECE = 1024  # samples of a chunk, as wyoming-satellite sends them
PRE_ROLL = 2 * SAMPLE_RATE  # bytes are zero where nothing was heard yet, as there
LOUD = 0.02  # RMS that its voice activity detector takes for speech
WAITS = 5.0  # seconds that the VAD mode streams without a wake word


class Simulated:
    """One satellite. `say` feeds its microphone, which otherwise hears a quiet room; `told` is what it was sent."""

    def __init__(self, mode: Mode = "always", *, speed: float = 1.0, floor_dbfs: float = -65.0) -> None:
        self.mode = mode
        self.port = 0
        self.told: list[tuple[float, Event]] = []
        self.streaming = False
        self.pongs = True
        self.plays = True  # it says `played` when it has
        self.served = 0  # connections that were told to run
        self._speed = speed
        self._quiet = noise(20.0, floor_dbfs)
        self._said: deque[Samples] = deque()
        self._before: deque[Samples] = deque(maxlen=PRE_ROLL // PIECE)
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._mic: asyncio.Task[None] | None = None
        self._until = 0.0  # when the VAD mode gives up
        self._rate = 0
        self._held = 0.0  # seconds of a reply

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._mic = asyncio.create_task(self._hear(), name="simulated microphone")

    async def kill(self) -> None:
        """As if it lost its power, but that the kernel says so."""
        assert self._server is not None and self._mic is not None
        self._mic.cancel()
        self._server.close()
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer, self.streaming = None, False
        self._said.clear()
        self._before.clear()
        await asyncio.gather(self._mic, return_exceptions=True)

    def say(self, samples: Samples) -> None:
        """Have its microphone hear `samples` from now on."""
        for first in range(0, len(samples), PIECE):
            piece = samples[first : first + PIECE]
            self._said.append(np.pad(piece, (0, PIECE - len(piece))))

    async def wake(self, word: str) -> None:
        """Its own detector hears a wake word."""
        await self._send(Detection(name=word, timestamp=0).event())
        await self._send(RunPipeline(PipelineStage.ASR, PipelineStage.TTS).event())
        self.streaming = True

    def events(self, kind: str) -> list[Event]:
        return [event for _, event in self.told if event.type == kind]

    @property
    def quiet(self) -> bool:
        """Everything that was said has been heard."""
        return not self._said

    async def _send(self, event: Event) -> None:
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                await async_write_event(event, self._writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while (event := await async_read_event(reader)) is not None:
                self.told.append((time.monotonic(), event))
                await self._answer(event, writer)
        if self._writer is writer:
            self._writer, self.streaming = None, False
        writer.close()

    async def _answer(self, event: Event, writer: asyncio.StreamWriter) -> None:
        match event.type:
            case "describe":
                nobody = Attribution("nobody", "")
                satellite = Satellite("simulated", nobody, True, None, "1", has_vad=self.mode == "vad")
                await async_write_event(Info(satellite=satellite).event(), writer)
            case "run-satellite":
                self._writer = writer
                self.served += 1
                if self.mode == "always":
                    self.streaming = True
                    await self._send(RunPipeline(PipelineStage.WAKE, PipelineStage.TTS, restart_on_end=True).event())
            case "ping" if self.pongs:
                await async_write_event(Pong().event(), writer)
            case "transcript" | "pause-satellite" if self.mode != "always":
                self.streaming = False
            case "audio-start":
                self._rate, self._held = event.data["rate"], 0.0
            case "audio-chunk":
                self._held += len(event.payload or b"") / 2 / self._rate
            case "audio-stop" if self.plays:
                await self._send(Played().event())

    async def _hear(self) -> None:
        """The microphone, in real time or `speed` times as fast."""
        began, heard = time.monotonic(), 0
        while True:
            at = heard * PIECE % (len(self._quiet) - PIECE)
            piece = self._quiet[at : at + PIECE]
            if self._said:
                piece = piece + self._said.popleft()
            heard += 1
            await asyncio.sleep(max(0.0, began + heard * PIECE / SAMPLE_RATE / self._speed - time.monotonic()))
            await self._heard(piece)

    async def _heard(self, piece: Samples) -> None:
        if self.mode == "vad" and self.streaming and time.monotonic() > self._until:
            self.streaming = False
            await self._send(AudioStop().event())
        loud = float(np.sqrt(np.mean(piece**2))) > LOUD
        if self.mode == "vad" and not self.streaming and loud:
            self.streaming, self._until = True, time.monotonic() + WAITS
            await self._send(RunPipeline(PipelineStage.WAKE, PipelineStage.TTS).event())
            before = np.concatenate([*self._before, np.zeros(0, np.float32)])
            await self._send_audio(np.pad(before, (PRE_ROLL - len(before), 0)))
            self._before.clear()
        if self.streaming:
            await self._send_audio(piece)
        else:
            self._before.append(piece)

    async def _send_audio(self, samples: Samples) -> None:
        pcm = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype("<i2").tobytes()
        await self._send(AudioChunk(SAMPLE_RATE, 2, 1, pcm).event())


@asynccontextmanager
async def satellite(
    mode: Mode = "always", *, speed: float = 1.0, floor_dbfs: float = -65.0
) -> AsyncIterator[Simulated]:
    """A satellite that runs."""
    simulated = Simulated(mode, speed=speed, floor_dbfs=floor_dbfs)
    await simulated.start()
    try:
        yield simulated
    finally:
        await simulated.kill()
