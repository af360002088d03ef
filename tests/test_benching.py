"""`kikimimi bench`: the parts of it, with the real tagger, on less audio than the command takes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from assistant import benching, startup
from assistant.audio.source import CHUNK, LONGEST_CHUNK
from assistant.benching import Delays, Memory, Report
from assistant.config import parse
from assistant.events import SAMPLE_RATE, Event, State

REPORT = Report(
    version="1",
    system="Linux",
    processor="a processor",
    cores=2,
    profile="embedded",
    memory_mb=200.0,
    memory_a_room_mb=0.5,
    peak_mb=300.0,
    quiet_cpu_s_an_hour=7.2,
    busy_cpu_s_an_hour=90.0,
    window_ms=1.2,
    rooms_busy=40,
    rooms_busy_late=44,
    rooms_quiet=500,
    sounds=Delays(0.4, 0.9, 3, 3),
    speech=None,
    recognition_s=None,
    caption_s=None,
    remarks=("delays of speech were not measured: speech is off",),
)


async def test_memory_goes_round_without_a_gap_and_tells_how_late_it_is() -> None:
    samples = np.linspace(-0.1, 0.1, 10 * CHUNK + LONGEST_CHUNK, dtype=np.float32)
    source = Memory(samples, 2.0, paced=False)
    chunks = [chunk async for chunk in source.chunks()]
    assert len(chunks) == 2 * SAMPLE_RATE // CHUNK
    assert all(one.end == other.start for one, other in pairwise(chunks))
    assert chunks[10].samples[0] == samples[0]  # from the beginning again
    assert source.latest == 0.0
    source.pace.samples, source.pace.loud = LONGEST_CHUNK, 0.05**2
    first, *_, last = [chunk async for chunk in source.chunks()]
    assert len(first.samples) == CHUNK  # loud, so it is not held back
    assert last.end == 2 * SAMPLE_RATE
    source.pace.samples, source.pace.loud = LONGEST_CHUNK, 1.0
    assert len((await anext(source.chunks())).samples) == LONGEST_CHUNK


async def test_a_busy_room_costs_more_than_a_quiet_one(
    tmp_path: Path, yamnet_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse("speech: {enabled: false}", Path("bench.yaml"))
    hearing = startup.hearing_settings(config, tmp_path)
    models = await startup.load_models(config, startup.ModelFiles(yamnet_path, None))
    try:
        quiet = await benching.heard(models, hearing, benching.still(), 20.0)
        busy = await benching.heard(models, hearing, benching.never_quiet(), 20.0)
        scene, _, alarms = benching.said()
        assert len(alarms) == 3
        events = await benching.lived(models, hearing, scene[: 15 * SAMPLE_RATE])
        monkeypatch.setattr(benching, "TRIAL", 3.0)
        for late, expected in (
            (60.0, True),
            (-1.0, False),
        ):  # not how late this machine is
            monkeypatch.setattr(benching, "LATE", late)
            assert await benching.in_time(models, hearing, benching.never_quiet(), 2) is expected
    finally:
        models.shutdown()
    assert 0.0 < quiet < busy
    found = benching.delays(events, "sound", alarms[:1])
    assert found is not None
    assert found.heard == 1


def event(kind: str, state: State) -> Event:
    return replace(
        Event("1", "r", "s", "sound", State.STARTED, "siren", "Siren", 0.5),
        kind=kind,
        state=state,
    )


def test_delays_are_those_of_the_first_event_after_each_moment() -> None:
    events = [
        (event("sound", State.STARTED), 4.5),
        (event("sound", State.ENDED), 10.1),
        (event("speech", State.STARTED), 10.2),
        (event("sound", State.STARTED), 11.0),
    ]
    assert benching.delays(events, "sound", [4.0, 10.0, 30.0]) == Delays(0.75, 1.0, 2, 3)
    assert benching.delays(events, "sound", [30.0]) is None


def test_the_report_is_one_line_and_reads_well() -> None:
    assert json.loads(REPORT.json())["rooms_busy"] == 40
    text = benching.readable(REPORT)
    assert "40 that are never quiet were heard in real time, 44 were not" in text
    assert "3 of 3 heard, 0.40 s (at most 0.90 s) after they begin" in text
    assert "0.20 % of a core" in text
    assert "speech is off" in text
    nothing = replace(REPORT, rooms_busy_late=None, sounds=None, caption_s=2.5)
    assert "at least 40" in benching.readable(nothing)
    assert "none was heard" in benching.readable(nothing)
    assert json.loads(nothing.json())["sounds"] is None
    assert "captions   2.5 s each" in benching.readable(nothing)


@pytest.mark.parametrize(("good", "tried"), [(12, [8, 10, 13, 11, 12]), (3, [8, 4, 2, 3])])
async def test_the_number_of_rooms_is_searched(good: int, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    async def in_time(_models: object, _hearing: object, _samples: object, count: int) -> bool:
        counts.append(count)
        return count <= good

    monkeypatch.setattr(benching, "in_time", in_time)
    monkeypatch.setattr(benching.doctor, "cores", lambda: 2)
    found, late = await benching.carried(None, None, None, 5.0, lambda _line: None)  # type: ignore[arg-type]
    assert found == good
    assert late is not None
    assert found < late
    assert counts[: len(tried)] == tried
