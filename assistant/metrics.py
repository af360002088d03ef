"""The health figures for Prometheus, as the page serves them at `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Figures that only grow; all others are gauges.
COUNTERS = """
uptime_s events model_errors source_errors dropped_s_total shed_sounds_s shed_speech_s utterances_dropped wake_words
speculations_kept speculations_dropped speculations_skipped
commands_understood commands_not_understood commands_chosen_by_model rules_unanswered rules_doubted
mqtt_reconnects mqtt_drops mqtt_unkept mqtt_expired mqtt_refused mqtt_questions mqtt_questions_failed
mqtt_questions_refused mqtt_commands mqtt_commands_refused mqtt_commands_repeated
history_events history_lost history_shed
clips_kept clips_spoken clips_refused clips_dropped clips_failed clips_deleted say_said say_failed say_dropped
llm_jobs llm_shed llm_shed_sound llm_shed_speech llm_shed_question llm_late
llm_out_of_memory llm_cancelled llm_errors llm_batches llm_prefix_tokens_saved
"""


@dataclass(frozen=True, slots=True)
class RoomFigures:
    """What is counted of one room."""

    room: str
    online: bool
    lost_seconds: float
    failures: int
    model_errors: int


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long events took from their last sample until they were handed over: a Prometheus histogram."""

    kind: str  # sound or speech
    buckets: tuple[tuple[float, int], ...]  # upper bound in seconds, events up to it
    count: int
    total: float  # seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment."""

    figures: Mapping[str, Any]
    rooms: Sequence[RoomFigures]
    latencies: Sequence[Latencies]


def exposition(found: Snapshot, version: str) -> bytes:
    """The text that Prometheus reads, those of the process included."""
    from prometheus_client import CollectorRegistry, Info, ProcessCollector, generate_latest  # noqa: PLC0415

    class Collector:
        def collect(self) -> Iterator[Metric]:
            yield from metrics(found)

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Info("kikimimi", "What runs", registry=registry).info({"version": version})
    registry.register(Collector())
    return generate_latest(registry)


def metrics(found: Snapshot) -> Iterator[Metric]:
    """The families of one moment."""
    from prometheus_client.core import (  # noqa: PLC0415
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    counters = frozenset(COUNTERS.split())
    for name, value in found.figures.items():
        if not isinstance(value, int | float):
            continue
        family = CounterMetricFamily if name in counters else GaugeMetricFamily
        yield family(f"kikimimi_{name}", f"The health figure {name}", value=float(value))
    online = GaugeMetricFamily("kikimimi_room_online", "Whether the room is heard", labels=["room"])
    lost = CounterMetricFamily("kikimimi_room_lost_seconds", "Audio lost or shed", labels=["room"])
    broken = CounterMetricFamily("kikimimi_room_source_failures", "Times its source broke", labels=["room"])
    errors = CounterMetricFamily("kikimimi_room_model_errors", "What the models failed on", labels=["room"])
    for room in found.rooms:
        online.add_metric([room.room], float(room.online))
        lost.add_metric([room.room], room.lost_seconds)
        broken.add_metric([room.room], room.failures)
        errors.add_metric([room.room], room.model_errors)
    yield from (online, lost, broken, errors)
    latency = HistogramMetricFamily(
        "kikimimi_latency_seconds", "From the last sample used until the event was handed over", labels=["kind"]
    )
    for each in found.latencies:
        buckets = [(str(bound), float(count)) for bound, count in each.buckets] + [("+Inf", float(each.count))]
        latency.add_metric([each.kind], buckets, each.total)
    yield latency
