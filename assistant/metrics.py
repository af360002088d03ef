"""The health figures for Prometheus, at http://127.0.0.1:8765/metrics while the daemon runs.

The server is the client library's own, in a thread that sleeps until somebody asks; figures are taken on the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from assistant.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

ANSWER_WITHIN = 2.0  # seconds for the loop to give its figures
ASK_WITHIN = 5.0  # seconds for a client to say what it wants: each has a thread
# Figures that only grow; all others are gauges.
COUNTERS = """
uptime_s events model_errors source_errors dropped_s_total shed_sounds_s shed_speech_s utterances_dropped wake_words
commands_understood commands_not_understood commands_chosen_by_model rules_unanswered rules_doubted
mqtt_reconnects mqtt_drops mqtt_unkept mqtt_expired mqtt_refused mqtt_questions mqtt_questions_failed
mqtt_questions_refused mqtt_commands mqtt_commands_refused mqtt_commands_repeated
history_events history_lost history_shed
clips_kept clips_spoken clips_refused clips_dropped clips_failed clips_deleted say_said say_failed say_dropped
llm_jobs llm_shed llm_shed_sound llm_shed_speech llm_shed_question llm_late
llm_out_of_memory llm_cancelled llm_errors llm_batches
"""


class MetricsSettings(Settings):
    """Whether Prometheus may ask. What it is told says when somebody is at home: keep it on loopback."""

    enabled: bool = False
    host: str = Field(default="127.0.0.1", min_length=1, description="0.0.0.0: the whole network, without a password")
    port: int = Field(default=8765, ge=1, le=65535)


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


@contextmanager
def served(settings: MetricsSettings, snapshot: Callable[[], Snapshot], version: str) -> Iterator[None]:
    """Answer Prometheus meanwhile; a port that is taken is told, and the daemon goes on without.

    `snapshot` is called on the loop that is running now.
    """
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 (only where it is used)

    registry = CollectorRegistry()
    _register(registry, asyncio.get_running_loop(), snapshot, version)
    try:
        server, thread = start_http_server(settings.port, settings.host, registry)
    except OSError as error:
        log.warning(
            "metrics: %s:%d: %s: nobody is told; remedy: another metrics.port",
            settings.host,
            settings.port,
            error.strerror or error,
        )
        yield
        return
    # socketserver.StreamRequestHandler's own; the library sets none
    server.RequestHandlerClass.timeout = ASK_WITHIN  # type: ignore[attr-defined]
    log.info("metrics: http://%s:%d/metrics", settings.host, settings.port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(ANSWER_WITHIN)


def _register(
    registry: CollectorRegistry, loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Snapshot], version: str
) -> None:
    from prometheus_client import Info, ProcessCollector  # noqa: PLC0415

    ProcessCollector(registry=registry)
    Info("kikimimi", "What runs", registry=registry).info({"version": version})

    async def now() -> Snapshot:
        return snapshot()

    class Collector:
        """Asked by the server's thread."""

        def collect(self) -> Iterator[Metric]:
            """The families of now; nothing when the loop hangs."""
            asked = asyncio.run_coroutine_threadsafe(now(), loop)
            try:
                found = asked.result(ANSWER_WITHIN)
            except TimeoutError:
                asked.cancel()
                log.warning("metrics: the loop gave no figures within %.0f s", ANSWER_WITHIN)
                return
            yield from metrics(found)

        def describe(self) -> list[Metric]:
            """Nothing, so that registering does not ask the loop, which waits for it."""
            return []

    registry.register(Collector())


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
