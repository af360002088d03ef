"""The contract of all sources, and how their audio becomes chunks of mono 16 kHz: convert, then cut."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import soxr
from numpy.typing import NDArray

from assistant.audio.faults import Faults
from assistant.channel import Channel
from assistant.events import SAMPLE_RATE, Chunk, Problem, Samples, frozen, seconds

log = logging.getLogger(__name__)

CHUNK = 1280  # samples: 80 ms; at 40 ms a quiet room costs half as much again in wake-ups
LONGEST_CHUNK = 24 * CHUNK  # samples: 1.92 s, where nothing is heard
LATE_CHUNK = 6 * CHUNK  # samples: 480 ms, of who is late
LOOK = 0.02  # seconds of which the loudest counts when a source looks whether anything is heard
FULL_SCALE = 0.9999  # a sample at or above it counts as clipped (32767 / 32768 = 0.99997)
ARRIVALS = 250  # of blocks, about ten seconds: how often the wall clock is compared
CLOCK_SET = 2.0  # seconds: somebody set the wall clock
GAP = 0.001  # seconds; less is rounding
CANCELLED = 0.01  # the mean of the channels has lost 20 dB: they are in anti-phase


@dataclass(slots=True)
class SourceStats:
    """What went wrong at a source since it was opened."""

    overruns: int = 0  # times that audio came faster than it was taken: some is lost
    underruns: int = 0  # times that the device had nothing to give
    lost_seconds: float = 0.0
    bad_samples: int = 0  # NaN or infinite, replaced by zero
    clipped_samples: int = 0  # at full scale (per channel)
    problem: Problem = Problem.NONE  # what it has given for the last seconds


@dataclass(slots=True)
class Pace:
    """How much audio a source hands over at once: who hears it raises that while nothing goes on there.

    What is loud is not held back: the source looks at what it gathers. Any thread may use it.
    """

    samples: int = CHUNK  # of a chunk: a multiple of 80 ms, at most `LONGEST_CHUNK`
    loud: float = math.inf  # mean square of 20 ms that is to be handed over at once
    outside: float = 0.0  # mean square of what the source gives beyond what is heard of it: over 8 kHz, of one channel

    def loud_at(self, block: NDArray[np.float32], rate: float, outside: float = 0.0) -> int | None:
        """After how many frames of `block`, of shape (frames, channels), something loud has been heard; None: never."""
        powers, least = _powers(block, rate), self.loud + outside
        if not np.maximum.reduce(powers, initial=0.0) >= least:  # it may be NaN
            return None
        return (int((powers >= least).argmax()) + 1) * len(block) // len(powers)

    def compare(self, block: NDArray[np.float32], rate: float, heard: Samples) -> None:
        """`block` became `heard`. Of a room in which nothing goes on that tells what is outside."""
        if (rate == SAMPLE_RATE and block.shape[1] == 1) or not len(heard):
            self.outside = 0.0
        elif self.loud < math.inf:
            given, left = _powers(block, rate), _powers(heard[:, np.newaxis], SAMPLE_RATE)
            self.outside = max(0.0, float(given.mean() - left.mean()))


def _powers(block: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    """Mean square of each 20 ms of a block of shape (frames, channels), of the channel that is loudest there."""
    frames, channels = block.shape
    length = max(1, frames // max(1, round(frames / (LOOK * rate))))
    cut = block[: frames // length * length].reshape(-1, length, channels).swapaxes(1, 2)
    powers: NDArray[np.float32] = np.vecdot(cut, cut) / np.float32(length)
    return powers[:, 0] if channels == 1 else powers.max(axis=1)


@runtime_checkable
class Paced(Protocol):
    """A source whose chunks may be longer for a while."""

    pace: Pace


class Source(Protocol):
    """Where sound comes from. Constructors do nothing; `chunks` opens, and closes when it ends or is cancelled."""

    room: str
    name: str  # what events call `source`
    live: bool  # True: cannot be back-pressured, what is not taken in time is lost
    stats: SourceStats

    def chunks(self) -> AsyncIterator[Chunk]:
        """Open and yield chunks in order. Raises `SourceError` naming the file or device and the remedy."""
        ...


class Converter:
    """Any rate and channel count to mono 16 kHz, in pieces.

    Channels are averaged, but for those that have been all zero so far; channels in anti-phase would cancel, so the
    strongest of them stands for all from then on. Samples are clamped to -1 to 1, NaN and infinity become zero.
    """

    def __init__(self, name: str, stats: SourceStats) -> None:
        self._name = name
        self._stats = stats
        self._faults = Faults()
        self._rate = 0.0
        self._channels = 0
        self._resampler: soxr.ResampleStream | None = None

    def feed(self, block: NDArray[np.float32], rate: float) -> Samples:
        """`block` of shape (frames, channels) as mono samples; the resampler keeps back a few milliseconds."""
        kept = np.zeros(0, np.float32)
        if (rate, block.shape[1]) != (self._rate, self._channels):
            kept = self.flush()
            self._rate, self._channels = rate, block.shape[1]
            self._resampler = (
                None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            )
            self._heard = np.zeros(block.shape[1], dtype=bool)
            self._power = np.zeros(block.shape[1] + 1)  # of each channel and of their mean, half-life one second
            self._only: int | None = None
        mono = self._mix(self._clean(block, rate))
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono)
        return np.concatenate((kept, mono)) if len(kept) else mono

    def flush(self) -> Samples:
        """What the resampler kept back; the next `feed` starts afresh."""
        self._rate = 0.0
        if self._resampler is None:
            return np.zeros(0, np.float32)
        rest: Samples = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        self._resampler = None
        return rest

    def _clean(self, block: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
        """`block` without what is no audio, and judged."""
        # NaN where there is one. Not `max` and `min`, which call these from Python.
        highest, lowest = (of.reduce(block, axis=None, initial=0.0) for of in (np.maximum, np.minimum))
        peak = max(float(highest), -float(lowest))
        clipped = 0
        if not peak < FULL_SCALE:  # NaN too
            block, clipped = self._limited(block)
            peak = float(np.abs(block).max())
        self._faults.feed(block, rate, peak, clipped)
        self._stats.problem = self._faults.problem
        return block

    def _limited(self, block: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """`block` with finite samples from -1 to 1, and how many were at full scale."""
        bad = ~np.isfinite(block)
        count = int(bad.sum())
        if count:
            if not self._stats.bad_samples:
                log.warning("%s: NaN or infinite samples are heard as silence", self._name)
            self._stats.bad_samples += count
            block = np.where(bad, np.float32(0), block)
        clipped = int((np.abs(block) >= FULL_SCALE).sum())
        self._stats.clipped_samples += clipped
        return np.clip(block, -1, 1), clipped

    def _mix(self, block: NDArray[np.float32]) -> Samples:
        if block.shape[1] == 1:
            return np.ascontiguousarray(block[:, 0])
        if not self._heard.all():
            self._heard |= block.any(axis=0)
        heard = np.flatnonzero(self._heard)
        if len(heard) == 0:
            return np.zeros(len(block), np.float32)
        if self._only is not None:
            return np.ascontiguousarray(block[:, self._only])
        mono: Samples = block[:, heard].mean(axis=1, dtype=np.float32)
        if len(heard) > 1:
            self._power *= 0.5 ** (len(block) / self._rate)
            self._power[:-1] += np.einsum("ij,ij->j", block, block)
            self._power[-1] += mono @ mono
            if self._power[-1] < CANCELLED * self._power[heard].mean():
                self._only = int(self._power[:-1].argmax())
                log.warning("%s: the channels cancel each other; only channel %d is heard", self._name, self._only + 1)
                return np.ascontiguousarray(block[:, self._only])
        return mono


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What the thread of a live source hands over."""

    start: float  # seconds of the source before its first frame, lost audio counted
    samples: NDArray[np.float32]  # shape (frames, channels)
    rate: float  # Hz
    taken: float  # Unix seconds when its last frame was taken

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate

    @property
    def end(self) -> float:
        """Seconds of the source after its last frame."""
        return self.start + self.seconds


class Gathering:
    """Blocks of a live source on their way out of its thread: several at once while nothing goes on.

    Each wakes the loop, which is most of what a quiet room costs. It belongs to that thread.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._blocks: list[Block] = []
        self._seconds = 0.0  # in them

    def feed(self, block: Block) -> list[Block]:
        """What is to be handed over now."""
        pace = self._pace
        ready = [] if not self._blocks or _follows(self._blocks[-1], block) else self.flush()
        self._blocks.append(block)
        self._seconds += block.seconds
        if pace.samples > CHUNK and pace.loud_at(block.samples, block.rate, pace.outside) is not None:
            pace.samples = CHUNK
        if pace.samples == CHUNK or self._seconds >= pace.samples / SAMPLE_RATE - GAP:
            ready += self.flush()
        return ready

    def flush(self) -> list[Block]:
        """What waits."""
        blocks, self._blocks, self._seconds = self._blocks, [], 0.0
        return [_joined(blocks)] if blocks else []


def late(block: Block, held: Channel[Block]) -> Block:
    """`block`, taken from `held`, with what waits there by now: who is late hears more at once, which costs less."""
    blocks, length = [block], block.seconds
    while length < seconds(LATE_CHUNK):
        following = held.more(lambda waiting: _follows(blocks[-1], waiting))
        if following is None:
            break
        blocks.append(following)
        length += following.seconds
    return _joined(blocks)


def _joined(blocks: Sequence[Block]) -> Block:
    """Blocks that follow each other as one."""
    if len(blocks) == 1:
        return blocks[0]
    samples = np.concatenate([block.samples for block in blocks])
    return Block(blocks[0].start, samples, blocks[0].rate, blocks[-1].taken)


def _follows(before: Block, block: Block) -> bool:
    """Whether nothing was lost between them, and they are of one format."""
    return (
        abs(block.start - before.end) <= GAP
        and block.rate == before.rate
        and block.samples.shape[1] == before.samples.shape[1]
    )


class Chunker:
    """Cuts mono 16 kHz audio into chunks of 80 ms, or as long as `pace` says; only the last before a gap is shorter."""

    def __init__(
        self,
        room: str,
        name: str,
        opened: float | None = None,
        pace: Pace | None = None,
        *,
        together: bool = False,
    ) -> None:
        """`opened`: Unix seconds of sample 0, by default now. `together`: what is there goes on in one piece."""
        self._together = together
        self._room = room
        self._name = name
        self._pace = pace or Pace()
        self._opened = time.time() if opened is None else opened
        self._earliest = math.inf
        self._arrivals = 0
        self._start = 0
        self._pending = np.zeros(0, np.float32)

    @property
    def end(self) -> int:
        """Position after the last sample fed."""
        return self._start + len(self._pending)

    def feed(self, samples: Samples) -> Iterator[Chunk]:
        """The chunks that are full."""
        self._pending = np.concatenate((self._pending, samples)) if len(self._pending) else samples
        while len(self._pending) >= (size := self._size()):  # it may change with each
            full, self._pending = self._pending[:size], self._pending[size:]
            yield self._cut(full)

    def _size(self) -> int:
        """Samples of the next chunk: what is loud is not held back."""
        size, there = self._pace.samples, len(self._pending) // CHUNK * CHUNK
        if there and size > CHUNK:
            loud = self._pace.loud_at(self._pending[:size, np.newaxis], SAMPLE_RATE)
            size = size if loud is None else -(-loud // CHUNK) * CHUNK
        return max(size, min(there, LATE_CHUNK)) if self._together else size

    def flush(self) -> Iterator[Chunk]:
        """What is left, if anything."""
        if len(self._pending):
            rest, self._pending = self._pending, np.zeros(0, np.float32)
            yield self._cut(rest)

    def skip_to(self, position: int) -> None:
        """After `flush`: audio was lost, the next sample is number `position` (never earlier than now)."""
        self._start = max(self._start, position)

    def align(self, now: float) -> None:
        """Follow the wall clock: the last sample fed arrived at `now`. A device's clock drifts seconds a day.

        The earliest arrival of ten seconds counts: a later one was only held up on its way.
        """
        self._earliest = min(self._earliest, now - seconds(self.end))
        self._arrivals += 1
        if self._arrivals == ARRIVALS:
            error = self._earliest - self._opened
            self._opened += error if abs(error) > CLOCK_SET else error / 2
            self._earliest, self._arrivals = math.inf, 0

    def _cut(self, samples: Samples) -> Chunk:
        start = self._start
        self._start += len(samples)
        # A copy, so that a chunk kept for long does not hold the whole block it was cut from.
        return Chunk(self._room, self._name, start, frozen(samples.copy()), self._opened + seconds(start))


class Splicer:
    """Blocks of a live source to chunks: a gap between blocks closes the chunk and shows as a jump in `Chunk.start`."""

    def __init__(self, room: str, name: str, stats: SourceStats, pace: Pace | None = None) -> None:
        self._room = room
        self._name = name
        self._stats = stats
        self._pace = pace
        self._converter = Converter(name, stats)
        self._chunker: Chunker | None = None
        self._expected = 0.0

    def feed(self, block: Block) -> Iterator[Chunk]:
        """The chunks that are full."""
        if self._chunker is None:
            self._chunker = Chunker(self._room, self._name, block.taken - block.seconds, self._pace, together=True)
        lost = block.start - self._expected
        if lost > GAP:
            yield from self.flush()
            self._chunker.skip_to(round(block.start * SAMPLE_RATE))
            self._stats.lost_seconds += lost
        self._expected = block.start + block.seconds
        heard = self._converter.feed(block.samples, block.rate)
        if self._pace is not None:
            self._pace.compare(block.samples, block.rate, heard)
        yield from self._chunker.feed(heard)
        self._chunker.align(block.taken)

    def flush(self) -> Iterator[Chunk]:
        """What is left."""
        if self._chunker is not None:
            yield from self._chunker.feed(self._converter.flush())
            yield from self._chunker.flush()
