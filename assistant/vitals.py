"""What the page Health shows: put together from what the parts of the daemon know of themselves."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import platformdirs

from assistant import __version__, doctor
from assistant.audio.address import kind_of, without_secrets
from assistant.ears import PROBLEMS, SWITCHED_OFF
from assistant.errors import AssistantError
from assistant.events import Problem, iso
from assistant.health import Meter, Stages, percentile
from assistant.history import LETTERS, WAITING
from assistant.models import store
from assistant.outputs.broker import is_loopback
from assistant.outputs.mqtt import INBOX as MQTT_INBOX
from assistant.outputs.mqtt_client import WINDOW
from assistant.outputs.speaking import QUEUE as SAYINGS
from assistant.outputs.traffic import Traffic
from assistant.outputs.webhook import AT_ONCE
from assistant.outputs.webhook import INBOX as WEBHOOKS
from assistant.pipeline import UTTERANCES, Models, Recogniser
from assistant.resident import LIMITS, Priority, Status
from assistant.startup import on_gpu
from assistant.waiting import in_thread
from assistant.web.health import (
    WATCHED,
    Checked,
    CheckState,
    Disk,
    Health,
    ModelState,
    QueueState,
    RoomHealth,
    StageState,
    WayState,
)

if TYPE_CHECKING:
    from assistant.clips import Clips
    from assistant.config import Config
    from assistant.ears import Ear
    from assistant.history import History
    from assistant.outputs.mqtt import Mqtt
    from assistant.outputs.webhook import Webhooks

EVERY = 2.0  # seconds between two messages to pages that show health
KEPT = 60.0  # seconds that the result of the checks is good for
AGAIN = 5.0  # seconds before they are made anew, whoever asks
PATIENCE = 60.0  # seconds for the checks
LOSS = 1.0  # seconds of audio that make a trouble
NEAR = (".local", ".lan", ".home", ".home.arpa", ".internal", ".localdomain", ".fritz.box")  # names within the house

Reach = Literal["machine", "network", "internet"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a daemon, as they are at one moment."""

    config: Config  # its `mqtt` is the broker that is used
    embedded: bool  # which is its own
    ears: Sequence[Ear]
    models: Models
    meter: Meter
    stages: Stages
    mqtt: Mqtt | None
    history: History | None
    webhooks: Webhooks | None
    clips: Clips | None
    figures: Mapping[str, Any]


class Vitals:
    """Implements what the page asks about health, for one daemon."""

    def __init__(self, parts: Callable[[], Parts], tell: Callable[[Mapping[str, Any]], None]) -> None:
        """`tell` passes a message to the pages that show health. To be made inside a running loop."""
        self._parts, self._tell = parts, tell
        self._timer: asyncio.TimerHandle | None = None
        self._looked = (time.monotonic(), time.process_time())
        self._share: float | None = None  # of a core, since the last message
        self._checking: asyncio.Future[Checked] | None = None
        self._began = 0.0  # monotonic: when the checks were begun last
        self._found: Checked | None = None
        self._found_at = 0.0  # monotonic
        self._recogniser = asyncio.ensure_future(parts().models.recogniser())
        self._recogniser.add_done_callback(_noticed)

    def health(self) -> Health:
        """At this moment."""
        parts = self._parts()
        found = list(ways(parts))
        figures = dict(parts.figures)
        if self._share is not None:
            figures["cpu_percent"] = self._share
        return Health(
            version=__version__,
            at=iso(time.time()),
            troubles=list(troubles(parts)),
            stages=list(stages(parts)),
            queues=list(queues(parts)),
            models=list(models(parts, self._recogniser)),
            ways=found,
            stays=all(way.reach == "machine" for way in found),
            words=parts.config.privacy.transcripts,
            rooms=[
                RoomHealth(
                    id=ear.room.id,
                    name=ear.room.name or ear.room.id,
                    lost_seconds=round(ear.lost(), 1),
                    source_failures=ear.failures,
                    model_errors=ear.model_errors(),
                )
                for ear in parts.ears
            ],
            figures=figures,
        )

    # to whom it is told

    def watch(self, watched: Container[str]) -> None:
        """Tell pages how it fares as long as one shows it."""
        if WATCHED in watched and self._timer is None:
            self._looked, self._share = (time.monotonic(), time.process_time()), None
            self._tick()
        elif WATCHED not in watched and self._timer is not None:
            self._timer.cancel()
            self._timer = self._share = None

    def _tick(self) -> None:
        now, used = time.monotonic(), time.process_time()
        if now - self._looked[0] > EVERY / 2:
            self._share = round(100.0 * (used - self._looked[1]) / (now - self._looked[0]), 1)
            self._looked = now, used
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._tick)
        self._tell({"type": "vitals", "health": self.health().model_dump(mode="json")})

    # the checks

    async def checked(self, *, anew: bool) -> Checked:
        """What doctor finds here, at most a minute ago. One look at a time, whoever asks."""
        age = time.monotonic() - self._found_at
        if self._found is not None and self._checking is None and age < (AGAIN if anew else KEPT):
            return self._found
        if self._checking is None:
            parts = self._parts()
            self._began = time.monotonic()
            self._checking = asyncio.ensure_future(in_thread(lambda: _examined(parts.config), "doctor"))
        checking = self._checking
        await asyncio.wait((checking,), timeout=max(0.0, self._began + PATIENCE - time.monotonic()))
        if not checking.done():
            raise AssistantError(
                f"the checks have not ended within {PATIENCE:.0f} s: a disk or a program hangs; remedy: kikimimi "
                "doctor on this machine"
            )
        if self._checking is checking:
            self._checking = None
            self._found, self._found_at = checking.result(), time.monotonic()
        return checking.result()


def _noticed(loading: asyncio.Future[Any]) -> None:
    """That it failed is shown, not raised."""
    if not loading.cancelled():
        loading.exception()


def _examined(config: Config) -> Checked:
    """Look at this machine; takes seconds where something hangs."""
    began = time.monotonic()
    report = doctor.examine(config, running=True)
    wanted = next((one for one in report.profiles if one.name == config.profile), report.profiles[0])
    missing = [CheckState(name="models", works=False, detail=text) for text in wanted.missing]
    state = platformdirs.user_state_path("kikimimi")
    clips = config.clips.dir or state / "clips"
    return Checked(
        at=iso(time.time()),
        seconds=round(time.monotonic() - began, 1),
        checks=[
            *(CheckState(name=one.name, works=one.works, detail=one.detail) for one in report.checks),
            *(missing or [CheckState(name="models", works=True, detail=f"{report.folder}: all are there")]),
        ],
        system=f"Python {report.python}, {report.system}",
        processor=report.processor,
        cores=report.cores,
        memory=report.memory,
        memory_free=report.memory_free,
        disks=[
            Disk(name="state", folder=str(state), free=_free(state)),
            Disk(name="clips", folder=str(clips), free=_free(clips)),
            Disk(name="models", folder=report.folder, free=report.disk_free),
        ],
        gpus=[f"{gpu.name}, {gpu.total / 1e9:.1f} GB" + ("" if gpu.usable else " (not used)") for gpu in report.gpus],
    )


def _free(folder: Path) -> int | None:
    try:
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        return shutil.disk_usage(there).free
    except OSError:
        return None


# -------------------------------------------------------------------------------------------------------- what is wrong


def troubles(parts: Parts) -> Iterator[CheckState]:
    """What the daemon itself knows to be wrong now, each with its reason and, where there is one, the remedy."""

    def wrong(name: str, detail: str) -> CheckState:
        return CheckState(name=name, works=False, detail=detail)

    for ear in parts.ears:
        name = ear.room.name or ear.room.id
        if not ear.online and ear.told not in {None, SWITCHED_OFF}:
            yield wrong("room", f"{name}: {ear.told}")
        if ear.problem is not Problem.NONE:
            yield wrong("room", f"{name}: {PROBLEMS[ear.problem]}")
        if ear.lost() >= LOSS:
            yield wrong(
                "lost",
                f"{name}: {ear.sounds_shed():.1f} s of audio were not heard and {ear.speech_shed():.1f} s of speech "
                "not recognised; remedy: fewer rooms, a faster machine, or a smaller model",
            )
    if parts.mqtt is not None and parts.mqtt.trouble is not None:
        yield wrong("mqtt", parts.mqtt.trouble)
    if parts.history is not None and parts.history.problem is not None:
        yield wrong("history", f"{parts.history.place}: {parts.history.problem}")
    if parts.clips is not None and parts.clips.problem is not None:
        yield wrong("clips", f"none is kept: {parts.clips.problem}")
    if parts.models.llm is not None and parts.models.llm.status in {Status.UNWELL, Status.FAILED}:
        yield wrong("understanding", parts.models.llm.reason or "the audio language model cannot be used")


# ------------------------------------------------------------------------------------------------ latencies and queues


def stages(parts: Parts) -> Iterator[StageState]:
    """Each stage that has been measured."""
    webhooks = parts.webhooks.traffic.values() if parts.webhooks is not None else ()
    taken: dict[str, Sequence[float]] = {
        **parts.meter.latencies,
        **parts.stages.taken,
        "history": parts.history.took if parts.history is not None else (),
        "mqtt": parts.mqtt.traffic.answers if parts.mqtt is not None else (),
        "webhook": [seconds for traffic in webhooks for seconds in traffic.answers],
    }
    for name in ("sound", "speech", "gate", "tagger", "recogniser", "history", "mqtt", "webhook", "loop"):
        times = tuple(taken.get(name, ()))
        p50, p95 = percentile(times, 0.5), percentile(times, 0.95)
        if p50 is not None and p95 is not None:
            yield StageState(
                name=name,
                count=len(times),
                p50_ms=round(1000.0 * p50, 2),
                p95_ms=round(1000.0 * p95, 2),
            )


def queues(parts: Parts) -> Iterator[QueueState]:
    """Each queue that the figures tell of."""
    rooms = len(parts.ears)
    kept = LETTERS if parts.history is not None else MQTT_INBOX
    known = (
        ("utterances", "utterances_waiting", UTTERANCES * rooms, "utterances_dropped"),
        ("llm_sounds", "llm_waiting_sound", LIMITS[Priority.SOUND], "llm_shed_sound"),
        ("llm_speech", "llm_waiting_speech", LIMITS[Priority.SPEECH], "llm_shed_speech"),
        ("llm_questions", "llm_waiting_question", LIMITS[Priority.QUESTION], "llm_shed_question"),
        ("mqtt", "mqtt_queue", kept, "mqtt_drops"),
        ("mqtt_in_flight", "mqtt_in_flight", WINDOW, None),
        ("history", "history_waiting", WAITING, "history_lost"),
        ("clips", "clips_waiting", None, "clips_refused"),
        ("say", "say_waiting", SAYINGS * rooms, "say_dropped"),
        ("webhook", "webhook_queue", WEBHOOKS + AT_ONCE, "webhook_drops"),
    )
    for name, waiting, limit, dropped in known:
        if (found := parts.figures.get(waiting)) is not None:
            lost = None if dropped is None else parts.figures.get(dropped)
            yield QueueState(name=name, waiting=found, limit=limit, dropped=lost)


# ------------------------------------------------------------------------------------------------------------- models


def models(parts: Parts, recogniser: asyncio.Future[Recogniser | None]) -> Iterator[ModelState]:
    """Who hears, recognises, understands and speaks, where, and why there."""
    config, llm = parts.config, parts.models.llm
    yield ModelState(role="sounds", name="yamnet", device="CPU", why="small", state="ready", reason=None)
    if llm is not None and parts.models.remote is not None:
        yield ModelState(
            role="understanding",
            name=llm.name or parts.models.remote.name,
            device=config.models.remote.place,
            why="configured",
            state=llm.status.value,
            reason=llm.reason,
        )
    elif llm is not None:
        settings = config.models.audio_llm
        gpu = on_gpu(settings)
        numbers = ", ".join(one for one in (settings.dtype, settings.quantisation) if one not in {"auto", "none"})
        why: Literal["configured", "gpu_found", "no_gpu"] = "gpu_found" if gpu else "no_gpu"
        yield ModelState(
            role="understanding",
            name=llm.name or config.models.audio_llm.checkpoint,
            device=f"{'GPU' if gpu else 'CPU'}{f', {numbers}' if numbers else ''}",
            why=why if settings.device == "auto" else "configured",
            state=llm.status.value,
            reason=llm.reason,
        )
    elif config.speech.enabled:
        over = recogniser.done() and not recogniser.cancelled()
        whisper = recogniser.result() if over and recogniser.exception() is None else None
        failed = over and whisper is None
        yield ModelState(
            role="speech",
            name=whisper.name if whisper is not None else f"whisper {config.speech.model}",
            device=f"CPU, {config.speech.compute_type}, {config.speech.threads} thread"
            + ("s" if config.speech.threads > 1 else ""),
            why="configured",
            state="failed" if failed else "ready" if over else "loading",
            reason="it could not be loaded; the log says why" if failed else None,
        )
    if config.say.enabled:
        yield ModelState(role="voice", name=config.say.engine, device="CPU", why="process", state="idle", reason=None)


# --------------------------------------------------------------------------------------------------- what leaves, where


def reach_of(host: str | None) -> Reach:
    """How far away a host is, as far as its name tells without asking anybody."""
    host = (host or "localhost").lower().rstrip(".")
    if is_loopback(host) or host.endswith(".localhost"):
        return "machine"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "network" if "." not in host or host.endswith(NEAR) else "internet"
    return "internet" if address.is_global else "network"


def ways(parts: Parts) -> Iterator[WayState]:
    """Every address that this configuration may send to, and every door that it opens to others."""
    yield from _sent(parts)
    yield from _asked(parts)
    yield from _doors(parts)


def _way(  # noqa: PLR0917 (facts of one address)
    kind: Any,  # noqa: ANN401 (one of the literals of WayState)
    address: str,
    reach: Reach,
    traffic: Traffic | None = None,
    direction: Literal["out", "in"] = "out",
    messages: int | None = None,
    size: int | None = None,
) -> WayState:
    return WayState(
        kind=kind,
        address=address,
        reach=reach,
        direction=direction,
        messages=messages if traffic is None else traffic.messages,
        bytes=size if traffic is None else traffic.bytes,
        last=None if traffic is None or traffic.last is None else iso(traffic.last),
    )


def _sent(parts: Parts) -> Iterator[WayState]:
    """Where messages, requests and events go."""
    config = parts.config
    if parts.mqtt is not None:
        yield _way("mqtt", config.mqtt.address, reach_of(config.mqtt.host), parts.mqtt.traffic)
    if parts.webhooks is not None:
        for host in config.webhooks.hosts:
            traffic = parts.webhooks.traffic.get(host, Traffic())
            yield _way("webhook", host, reach_of(urlsplit(f"//{host}").hostname), traffic)
    if parts.history is not None and config.history.url is not None:
        server = urlsplit(config.history.url.get_secret_value())
        yield _way("database", parts.history.place, reach_of(server.hostname), messages=parts.history.events)


def _asked(parts: Parts) -> Iterator[WayState]:
    """Where audio is asked for, and models were."""
    for ear in parts.ears:
        kind = kind_of(ear.room.address)
        if kind in {"stream", "satellite"}:
            shown = urlsplit(without_secrets(ear.room.address))
            yield _way(kind, shown.netloc, reach_of(shown.hostname))
    if parts.models.remote is not None:
        place = urlsplit(parts.config.models.remote.place)
        sent = parts.models.remote.figures()
        size = round(1e6 * sent["sent_mb"])
        yield _way("remote", place.netloc, reach_of(place.hostname), messages=int(sent["requests"]), size=size)
    for host, size in store.fetched.items():
        yield _way("models", host, "internet", size=size)


def _doors(parts: Parts) -> Iterator[WayState]:
    """Ports that others than this machine may come to."""
    config = parts.config
    doors: list[tuple[str, str, int]] = []
    if parts.embedded:
        doors.append(("broker", config.broker.host, config.mqtt.port))
    if config.web.enabled:
        doors.append(("page", config.web.host, config.web.port))
    if config.wyoming.enabled:
        doors.append(("wyoming", config.wyoming.host, config.wyoming.port))
    for kind, host, port in doors:
        if not is_loopback(host):
            yield _way(kind, f"{host}:{port}", "network", direction="in")
    if config.web.enabled and config.web.public_url is not None:  # a proxy leads others here
        url = urlsplit(config.web.public_url)
        yield _way("page", url.netloc, reach_of(url.hostname), direction="in")
