"""What Prometheus is told, over real HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.request

import pytest
from outputs.brokers import free_port
from prometheus_client.parser import text_string_to_metric_families

from assistant import metrics
from assistant.health import BOUNDS, Meter
from assistant.metrics import COUNTERS, Latencies, MetricsSettings, RoomFigures, Snapshot, served


def snapshot() -> Snapshot:
    figures = {"events": 7, "rss_mb": 80.5, "mqtt_connected": True, "mqtt_protocol": "5.0", "lag_ms_p95": None}
    latency = Latencies("sound", ((0.1, 2), (1.0, 6)), 7, 3.5)
    return Snapshot(figures, [RoomFigures("kitchen", True, 1.5, 2, 0)], [latency])


async def asked(port: int) -> dict[str, float]:
    """Every sample by its name and labels."""

    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    found = {}
    for family in text_string_to_metric_families(await asyncio.to_thread(get)):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_figures_rooms_and_latencies():
    port = free_port()
    with served(MetricsSettings(port=port), snapshot, "1.2.3"):
        found = await asked(port)
    assert found["kikimimi_events_total"] == 7
    assert found["kikimimi_rss_mb"] == 80.5
    assert found["kikimimi_mqtt_connected"] == 1
    assert found["kikimimi_room_online{room=kitchen}"] == 1
    assert found["kikimimi_room_lost_seconds_total{room=kitchen}"] == 1.5
    assert found["kikimimi_latency_seconds_bucket{kind=sound,le=1.0}"] == 6
    assert found["kikimimi_latency_seconds_count{kind=sound}"] == 7
    assert found["kikimimi_info{version=1.2.3}"] == 1
    assert found["process_open_fds"] > 0
    assert not [name for name in found if "protocol" in name or "lag_ms" in name]  # no numbers


async def test_a_loop_that_hangs_costs_the_figures_not_the_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "ANSWER_WITHIN", 0.2)
    port = free_port()

    def hanging() -> Snapshot:
        time.sleep(1.0)  # on the loop
        return snapshot()

    with served(MetricsSettings(port=port), hanging, "1"):
        found = await asked(port)
    assert "kikimimi_events_total" not in found
    assert found["process_open_fds"] > 0


async def test_a_client_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "ASK_WITHIN", 0.3)
    port = free_port()
    with served(MetricsSettings(port=port), snapshot, "1"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metr")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        assert (await asked(port))["kikimimi_events_total"] == 7


async def test_a_port_that_is_taken_is_told(caplog: pytest.LogCaptureFixture):
    port = free_port()
    with served(MetricsSettings(port=port), snapshot, "1"), served(MetricsSettings(port=port), snapshot, "1"):
        assert (await asked(port))["kikimimi_events_total"] == 7
    assert [record.levelno for record in caplog.records if "another metrics.port" in record.getMessage()] == [
        logging.WARNING
    ]


def test_counters_are_figures():
    assert len(COUNTERS.split()) == len(set(COUNTERS.split()))


def test_latencies_are_counted_in_buckets():
    meter = Meter()
    for latency in (0.01, 0.3, 70.0):
        meter.event(latency)
    meter.event(0.7, speech=True)
    sounds = meter.histograms["sound"]
    assert dict(zip(BOUNDS, sounds.counts, strict=True)) == {
        0.05: 1, 0.1: 1, 0.2: 1, 0.5: 2, 1.0: 2, 2.0: 2, 5.0: 2, 10.0: 2,
    }  # fmt: skip
    assert (sounds.count, round(sounds.total, 2), meter.histograms["speech"].count) == (3, 70.31, 1)


def test_a_look_of_prometheus_does_not_disturb_the_share():
    meter = Meter()
    meter.figures(look=False)
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    meter.figures(look=False)
    assert (meter.figures()["cpu_percent"] or 0.0) > 0.0
