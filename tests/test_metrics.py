"""What Prometheus is told."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families

from assistant.health import BOUNDS, Meter
from assistant.metrics import COUNTERS, Latencies, RoomFigures, Snapshot, exposition


def snapshot() -> Snapshot:
    figures = {"events": 7, "rss_mb": 80.5, "mqtt_connected": True, "mqtt_protocol": "5.0", "lag_ms_p95": None}
    latency = Latencies("sound", ((0.1, 2), (1.0, 6)), 7, 3.5)
    return Snapshot(figures, [RoomFigures("kitchen", True, 1.5, 2, 0)], [latency])


def asked() -> dict[str, float]:
    """Every sample by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(exposition(snapshot(), "1.2.3").decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_figures_rooms_and_latencies():
    found = asked()
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
