"""How loud it is before a microphone that no room has yet, and whether somebody claps: for whoever sets it up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from assistant.audio.microphone import Microphone
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Chunk, Samples, frozen
from assistant.segment.activity import FRAME, Activity

if TYPE_CHECKING:
    from assistant.audio.source import Source

EVERY = 0.1  # seconds between two looks at a room that is heard already
SETTLED = SAMPLE_RATE  # samples until the floor is known well enough to tell a clap
CLAP_OVER_FLOOR, CLAP_RISE = 20.0, 12.0  # dB: over the room's noise, and within the last frames
RISES_IN = 4  # frames

Heard = Callable[[], tuple[int, Samples] | None]  # position and the last samples of a room; None: it is not heard


@dataclass(frozen=True, slots=True)
class Loudness:
    """How loud it is."""

    dbfs: float
    floor: float  # of the room's noise
    peak: float
    clap: bool  # somebody clapped


class Meter:
    """Measures chunks. Pure."""

    def __init__(self) -> None:
        self._activity = Activity()
        self._before: deque[float] = deque(maxlen=RISES_IN)
        self._samples = 0

    def feed(self, chunk: Chunk) -> Loudness | None:
        """How loud the chunk was; None for one that is too short to tell."""
        frames = self._activity.feed(chunk)
        if not frames:
            return None
        clap = False
        for frame in frames:
            self._samples += FRAME
            sudden = bool(self._before) and frame.dbfs - min(self._before) >= CLAP_RISE
            loud = frame.dbfs - frame.floor_dbfs >= CLAP_OVER_FLOOR
            clap = clap or (sudden and loud and self._samples > SETTLED)
            self._before.append(frame.dbfs)
        levels = [frame.dbfs for frame in frames]
        return Loudness(sum(levels) / len(levels), frames[-1].floor_dbfs, max(levels), clap)


class SoundCheck:
    """Listens to one microphone at a time: who asks next ends the one before."""

    def __init__(self, open_source: Callable[[str], Source] = lambda address: Microphone("setup", address)) -> None:
        self._open = open_source
        self._turn = asyncio.Event()  # set when somebody else is listened to

    async def microphone(self, address: str, seconds: float) -> AsyncGenerator[Loudness]:
        """A microphone of its own, which is open from now on. Raises `SourceError`."""
        turn = self._take_turn()
        chunks = cast("AsyncGenerator[Chunk]", self._open(address).chunks())
        try:
            first = await anext(chunks)
        except StopAsyncIteration:
            raise AssistantError(f"{address}: gives nothing; remedy: choose another one") from None
        except BaseException:
            await chunks.aclose()
            raise
        return self._measured(first, chunks, turn, time.monotonic() + seconds)

    async def room(self, heard: Heard, seconds: float) -> AsyncGenerator[Loudness]:
        """What a room hears anyway. Raises `AssistantError` when it hears nothing."""
        turn, until = self._take_turn(), time.monotonic() + seconds
        if heard() is None:
            raise AssistantError("this room is not heard now; remedy: see why on the page Now")
        return self._followed(heard, turn, until)

    def _take_turn(self) -> asyncio.Event:
        self._turn.set()
        self._turn = asyncio.Event()
        return self._turn

    async def _measured(
        self, first: Chunk, chunks: AsyncGenerator[Chunk], turn: asyncio.Event, until: float
    ) -> AsyncGenerator[Loudness]:
        meter = Meter()
        async with aclosing(chunks):
            chunk: Chunk | None = first
            while chunk is not None and not turn.is_set() and time.monotonic() < until:
                if (loudness := meter.feed(chunk)) is not None:
                    yield loudness
                chunk = await anext(cast("AsyncIterator[Chunk]", chunks), None)

    async def _followed(self, heard: Heard, turn: asyncio.Event, until: float) -> AsyncGenerator[Loudness]:
        meter, told = Meter(), 0
        while not turn.is_set() and time.monotonic() < until:
            found = heard()
            if found is None:
                return
            position, samples = found
            fresh = samples[-max(0, position - told) :] if told and position > told else samples[:0]
            if position < told:  # it was opened anew
                meter = Meter()
            told = position
            chunk = Chunk("setup", "room", position - len(fresh), frozen(fresh.copy()), time.time())
            if (loudness := meter.feed(chunk)) is not None:
                yield loudness
            await asyncio.sleep(EVERY)
