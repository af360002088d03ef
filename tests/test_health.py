"""Health figures are measured."""

from __future__ import annotations

import mmap

from assistant.health import LATENCIES, Meter, Stages, percentile, rss_mb


def test_memory_is_that_of_this_process() -> None:
    before = rss_mb()
    with mmap.mmap(-1, 64_000_000) as block:  # fresh pages: an allocator may have some to spare
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert rss_mb() - before > 50


def test_lag_is_the_95th_percentile_of_what_was_seen() -> None:
    meter = Meter()
    assert meter.figures()["lag_ms_p95"] is None
    for n in range(100):
        meter.event(n / 1000)
    figures = meter.figures()
    assert figures["lag_ms_p95"] == 94.0
    assert figures["events"] == 100


def test_recognition_is_no_lag_of_the_alarms() -> None:
    meter = Meter()
    meter.event(0.01)
    meter.event(2.5, speech=True)
    figures = meter.figures()
    assert figures["lag_ms_p95"] == 10.0
    assert figures["speech_lag_ms_p95"] == 2500.0
    assert figures["events"] == 2


def test_cpu_is_the_share_since_the_last_look() -> None:
    meter = Meter()
    meter.figures()
    total = sum(n * n for n in range(2_000_000))
    share = meter.figures()["cpu_percent"]
    assert total
    assert share is not None
    assert 1.0 < share < 150.0  # of a machine that may have other things to do


def test_stages_keep_the_latest_times() -> None:
    stages = Stages()
    for n in range(LATENCIES + 50):
        stages.took("tagger", float(n))
    stages.took("gate", 0.001)
    assert list(stages.taken) == ["tagger", "gate"]
    assert min(stages.taken["tagger"]) == 50.0
    assert percentile(stages.taken["tagger"], 0.5) == 149.0
    assert percentile((), 0.5) is None
