"""Audio that comes faster than the models can take: bounded queues, the oldest shed, every second of it counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_app import Inbox, _own_state, until  # noqa: F401 (a fixture)

from assistant import app
from assistant.audio.source import Block, SourceStats, Splicer
from assistant.channel import Channel
from assistant.config import parse
from assistant.events import SAMPLE_RATE, Chunk, Samples
from assistant.pipeline import Tagger
from assistant.startup import ModelFiles, Room, hearing_settings, load_models
from assistant.synthesis import noise, placed, tone

pytestmark = pytest.mark.alone

BLOCK = 640  # samples: 40 ms
HELD = 25  # blocks: one second


class Live:
    """A microphone that hears a beep each second and is not held up by whoever takes its chunks."""

    live = True

    def __init__(self, room: str) -> None:
        self.room, self.name, self.stats = room, f"{room}-mic", SourceStats()
        self.held: Channel[Block] = Channel(self.name, HELD, weigh=lambda block: block.seconds)
        self.given = 0.0  # seconds
        self.taken = 0  # samples
        self.longest = 0

    async def _record(self) -> None:
        heard = placed(noise(1.0, -60.0), 0.3 * tone(3100.0, 0.5), 0.2)[:, np.newaxis]
        began = time.monotonic()
        while True:
            at = round(self.given * SAMPLE_RATE) % SAMPLE_RATE
            self.held.offer(Block(self.given, heard[at : at + BLOCK].copy(), SAMPLE_RATE, time.time()))
            self.longest = max(self.longest, len(self.held))
            self.given += BLOCK / SAMPLE_RATE
            await asyncio.sleep(max(0.0, began + self.given - time.monotonic()))

    async def chunks(self) -> AsyncIterator[Chunk]:
        recording = asyncio.create_task(self._record())
        splicer = Splicer(self.room, self.name, self.stats)
        try:
            while True:
                for chunk in splicer.feed(await self.held.get()):
                    self.taken += len(chunk.samples)
                    yield chunk
        finally:
            recording.cancel()


class Slowed:
    """A tagger on a machine that is too slow for two rooms."""

    def __init__(self, tagger: Tagger) -> None:
        self.labels, self._tagger = tagger.labels, tagger

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        time.sleep(0.25)
        return self._tagger.tag(samples)


@pytest.mark.slow
async def test_rooms_that_are_too_many_for_the_tagger_shed_their_oldest_audio_and_count_it(
    yamnet_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sources = {name: Live(name) for name in ("kitchen", "hall")}
    monkeypatch.setattr(app, "open_source", lambda room, _speed: sources[room.id])
    config = parse("speech: {enabled: false}\nwyoming: {enabled: false}\nsay: {enabled: false}", Path("c.yaml"))
    models = await load_models(config, ModelFiles(yamnet_path, None))
    models = replace(models, tagger=Slowed(models.tagger))
    rooms = [Room(name, "default") for name in sources]
    daemon = app.Daemon(config, hearing_settings(config), models, rooms, {"inbox": Inbox()})
    task = asyncio.create_task(daemon.run())
    try:
        await until(lambda: "s of audio were not heard" in caplog.text, 30)  # with the health line
        figures = daemon.health()
        for source in sources.values():
            waiting = len(source.held) * BLOCK / SAMPLE_RATE
            assert source.longest <= HELD
            assert source.taken / SAMPLE_RATE + source.held.shed + waiting == pytest.approx(source.given, abs=0.2)
            # What is shed is seen, as a gap, with the next block that is taken.
            assert 0.5 < source.stats.lost_seconds <= source.held.shed + 0.01
            assert source.stats.lost_seconds > source.held.shed - 1.5
    finally:
        daemon.stop()
        await asyncio.wait_for(task, 20)
        models.shutdown()
    both = sum(source.stats.lost_seconds for source in sources.values())
    assert 1.0 < figures["shed_sounds_s"] <= both + 0.1
    assert figures["dropped_s_total"] == figures["shed_sounds_s"]
    assert figures["shed_speech_s"] == 0.0
    assert "kitchen-mic: full at 25, 1 shed so far" in caplog.text
    assert caplog.text.count("kitchen-mic: full at") <= 1 + sources["kitchen"].held.drops // 100
