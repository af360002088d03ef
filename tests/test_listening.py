"""`kikimimi listen`: many files in one process, and what remains of them."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest
import soundfile

from assistant.config import Config
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Event
from assistant.health import rss_mb
from assistant.listening import addresses_of, listen
from assistant.startup import ModelFiles, hearing_settings, load_models
from assistant.synthesis import noise, placed, t3


class Collector:
    """A printer that keeps the events, for as long as it reads."""

    def __init__(self, most: int = 1_000_000) -> None:
        self.events: list[Event] = []
        self._most = most

    @property
    def closed(self) -> bool:
        return len(self.events) >= self._most

    def offer(self, item: Event) -> None:
        self.events.append(item)


def alarm(path: Path, *, pauses: int = 1) -> Path:
    """A smoke alarm that goes off `pauses` times, a minute apart."""
    heard = noise(60.0 * pauses, -60.0)
    for n in range(pauses):
        heard = placed(heard, 0.3 * t3(cycles=4), 2.0 + 60.0 * n)
    soundfile.write(path, heard[: 20 * SAMPLE_RATE] if pauses == 1 else heard, SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture
def files(yamnet_path: Path) -> ModelFiles:
    return ModelFiles(yamnet_path, None)


async def test_nothing_is_heard_for_a_reader_that_has_gone(files: ModelFiles, tmp_path: Path) -> None:
    """`kikimimi listen a.wav b.wav | head -1`."""
    models = await load_models(Config(), files)
    collector = Collector(most=1)
    done: list[str] = []
    first, second = alarm(tmp_path / "a.wav", pauses=4), alarm(tmp_path / "b.wav")
    try:
        assert await listen([str(first), str(second)], models, hearing_settings(Config()), collector, done.append) == 0
    finally:
        models.shutdown()
    assert done == []
    assert all(event.heard_at < 60.0 for event in collector.events)  # the file was left, not heard to its end


async def test_a_file_that_fails_does_not_stop_the_rest(files: ModelFiles, tmp_path: Path) -> None:
    models = await load_models(Config(), files)
    collector = Collector()
    try:
        code = await listen(
            [str(tmp_path / "missing.wav"), str(alarm(tmp_path / "a.wav"))],
            models,
            hearing_settings(Config()),
            collector,
        )
    finally:
        models.shutdown()
    assert code == 3
    assert {event.room for event in collector.events} == {"a"}


def test_what_is_named_is_a_file_never_a_microphone(tmp_path: Path) -> None:
    assert addresses_of(["default", "3", "-", "a.wav"]) == ["./default", "./3", "-", "a.wav"]
    with pytest.raises(SourceError, match="no audio file"):
        addresses_of([str(tmp_path)])


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.slow
async def test_fifty_files_leave_nothing_behind(files: ModelFiles, tmp_path: Path) -> None:
    models = await load_models(Config(), files)
    path = str(alarm(tmp_path / "a.wav"))
    hearing = hearing_settings(Config())

    async def left(times: int) -> tuple[int, int, int, float]:
        assert await listen([path] * times, models, hearing, Collector()) == 0
        await asyncio.sleep(0.2)  # threads that were told to end
        gc.collect()
        return threading.active_count(), open_files(), len(asyncio.all_tasks()), rss_mb()

    try:
        before = await left(5)
        after = await left(45)
    finally:
        models.shutdown()
    assert after[:3] == before[:3]
    assert after[3] - before[3] < 15.0
