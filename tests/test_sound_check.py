"""How loud it is before a microphone: levels, a clap, one listener at a time, and the microphone closed at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from assistant.audio.source import SourceStats
from assistant.errors import AssistantError, SourceError
from assistant.events import SAMPLE_RATE, Chunk, Samples, frozen
from assistant.sound_check import Loudness, Meter, SoundCheck
from assistant.synthesis import noise, t3

CHUNK = 1280


def chunks_of(samples: Samples) -> list[Chunk]:
    return [
        Chunk("setup", "x", start, frozen(samples[start : start + CHUNK].astype(np.float32).copy()), 0.0)
        for start in range(0, len(samples) - CHUNK + 1, CHUNK)
    ]


def measured(samples: Samples) -> list[Loudness]:
    meter = Meter()
    return [one for chunk in chunks_of(samples) if (one := meter.feed(chunk)) is not None]


def clap(at: float, length: float = 4.0, level: float = 0.3) -> Samples:
    samples = noise(length, -60.0).copy()
    burst = np.random.default_rng(2).normal(0, level, 1600) * np.exp(-np.arange(1600) / 300)
    start = round(at * SAMPLE_RATE)
    samples[start : start + 1600] += burst.astype(np.float32)
    return np.clip(samples, -1, 1)


def test_levels_are_those_of_the_room() -> None:
    levels = measured(noise(5.0, -60.0))
    assert np.median([one.dbfs for one in levels]) == pytest.approx(-60, abs=1.5)
    assert all(one.peak >= one.dbfs for one in levels)
    assert not any(one.clap for one in levels)


@pytest.mark.parametrize("at", [1.5, 2.2, 3.4])
def test_a_clap_is_told_once_it_is_there(at: float) -> None:
    levels = measured(clap(at))
    claps = [place * CHUNK / SAMPLE_RATE for place, one in enumerate(levels) if one.clap]
    assert claps
    assert claps[0] == pytest.approx(at, abs=0.17)


def test_what_rises_slowly_or_goes_on_is_no_clap() -> None:
    ramp = noise(6.0, -30.0) * np.linspace(0.02, 1.0, 6 * SAMPLE_RATE, dtype=np.float32)
    assert not any(one.clap for one in measured(ramp))
    quiet = clap(2.0, level=0.0005)
    assert not any(one.clap for one in measured(quiet))
    assert not any(one.clap for one in measured(noise(3.0, -25.0)))  # loud from the beginning


class Device:
    """A microphone that plays what it is given, in no time."""

    opened = 0
    closed = 0

    def __init__(self, samples: Samples, error: Exception | None = None) -> None:
        self.room, self.name, self.live, self.stats = "setup", "x", True, SourceStats()
        self._samples, self._error = samples, error

    async def chunks(self) -> AsyncIterator[Chunk]:
        Device.opened += 1
        try:
            if self._error is not None:
                raise self._error
            for chunk in chunks_of(self._samples):
                yield chunk
                await asyncio.sleep(0.001)
        finally:
            Device.closed += 1


async def test_one_at_a_time_and_closed_when_left() -> None:
    check = SoundCheck(lambda _: Device(noise(30.0, -60.0)))
    Device.opened = Device.closed = 0
    first = await check.microphone("a", 60)
    assert (await anext(first)).dbfs < -50
    second = await check.microphone("b", 60)
    assert [one async for one in first] == []  # the other has its turn
    await anext(second)
    await second.aclose()
    assert (Device.opened, Device.closed) == (2, 2)
    short = await check.microphone("c", 0.05)
    began = time.monotonic()
    assert len([one async for one in short]) >= 1
    assert time.monotonic() - began < 2
    assert Device.closed == 3


async def test_a_microphone_that_does_not_open_is_told_at_once() -> None:
    check = SoundCheck(lambda _: Device(noise(1.0, -60.0), SourceError("no such microphone; remedy: another")))
    with pytest.raises(SourceError, match="no such microphone"):
        await check.microphone("a", 60)
    with pytest.raises(AssistantError, match="gives nothing"):
        await SoundCheck(lambda _: Device(np.zeros(0, np.float32))).microphone("a", 60)


async def test_a_room_that_is_heard_already_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.sound_check.EVERY", 0.001)
    samples = np.concatenate([noise(2.0, -60.0), 0.3 * t3(cycles=1)[: 2 * SAMPLE_RATE]])
    position = 0

    def heard() -> tuple[int, Samples] | None:
        nonlocal position
        position += 1600
        return None if position > len(samples) else (position, samples[max(0, position - SAMPLE_RATE) : position])

    levels = [one async for one in await SoundCheck().room(heard, 10)]
    assert len(levels) > 20
    assert levels[2].dbfs == pytest.approx(-60, abs=3)
    assert max(one.dbfs for one in levels) > -30
    with pytest.raises(AssistantError, match="not heard now"):
        await SoundCheck().room(lambda: None, 10)
