"""How the daemon fares: what is wrong, what waits, how long things take, what runs where, and what leaves the house."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field

WATCHED = "health"  # what a page names in {"watch": […]} for a `vitals` message every two seconds; no room is called so


class CheckState(BaseModel):
    """One thing that was looked at."""

    name: str
    works: bool
    detail: str = Field(description="what was found; of what does not work also the remedy")


class StageState(BaseModel):
    """How long one stage takes, over its latest 200 times."""

    name: Literal["sound", "speech", "gate", "tagger", "recogniser", "history", "mqtt", "webhook", "loop"] = Field(
        description="sound, speech: from the last sample of an event until it is handed to the outputs. gate: gate, "
        "windows, voice activity and wake words, of a second of audio. tagger: one window, the wait for its thread "
        "included. recogniser: one utterance, its wait included. history: an event until it is on the disk. mqtt: from "
        "sending a message until the broker has acknowledged it. webhook: from asking until the answer. loop: how late "
        "the loop wakes"
    )
    count: int = Field(description="times that the two are taken over")
    p50_ms: float
    p95_ms: float


class QueueState(BaseModel):
    """Something that waits."""

    name: str
    waiting: int
    limit: int | None = Field(description="more than that is not kept; null: by seconds, or no limit of its own")
    dropped: int | None = Field(description="since the start; null: nothing can be dropped there")


class ModelState(BaseModel):
    """A model, and where it computes."""

    role: Literal["sounds", "speech", "understanding", "voice"]
    name: str
    device: str
    why: Literal["small", "configured", "gpu_found", "no_gpu", "process"] = Field(
        description="why there. small: a window costs it about a millisecond. configured: by the configuration. "
        "gpu_found, no_gpu: what torch found. process: a program of its own"
    )
    state: Literal["loading", "ready", "unwell", "failed", "stopped", "idle"]
    reason: str | None = Field(description="why it is not ready")


class WayState(BaseModel):
    """An address outside this process that data may go to, or that others may come to."""

    kind: Literal["mqtt", "webhook", "database", "satellite", "stream", "models", "remote", "page", "wyoming", "broker"]
    address: str = Field(description="host and port, without login")
    reach: Literal["machine", "network", "internet"] = Field(description="how far away that is, as its name tells")
    direction: Literal["out", "in"] = Field(description="in: others come and are answered")
    messages: int | None = Field(description="sent there since the start; null: not counted")
    bytes: int | None = Field(description="of topics, addresses and bodies (models: fetched); null: not counted")
    last: str | None = Field(description="when, UTC")


class RoomHealth(BaseModel):
    """What is counted of a room."""

    id: str
    name: str
    lost_seconds: float = Field(description="audio not heard and speech not recognised")
    source_failures: int
    model_errors: int


class Health(BaseModel):
    """The daemon at this moment."""

    version: str
    at: str = Field(description="UTC")
    troubles: list[CheckState] = Field(description="what is wrong now; empty: nothing that the daemon knows of")
    stages: list[StageState]
    queues: list[QueueState]
    models: list[ModelState]
    ways: list[WayState]
    stays: bool = Field(description="nothing leaves this machine, and nobody else can come to it")
    words: bool = Field(description="what was said goes along: privacy.transcripts")
    rooms: list[RoomHealth]
    figures: dict[str, Any] = Field(description="those of the MQTT topic health")


class Disk(BaseModel):
    """A folder, and the room on its disk."""

    name: Literal["state", "models", "clips"]
    folder: str
    free: int | None = Field(description="bytes; null: it cannot be asked")


class Checked(BaseModel):
    """What `kikimimi doctor` finds."""

    at: str = Field(description="when, UTC; at most a minute ago unless asked for anew")
    seconds: float = Field(description="that it took")
    checks: list[CheckState]
    system: str
    processor: str
    cores: int
    memory: int = Field(description="bytes")
    memory_free: int = Field(description="bytes")
    disks: list[Disk]
    gpus: list[str]


class HealthService(Protocol):
    """Who knows all that."""

    def health(self) -> Health:
        """At this moment; never blocks."""

    async def checked(self, *, anew: bool) -> Checked:
        """What the checks found. Raises `AssistantError` when they do not end."""


def routes(service: HealthService) -> APIRouter:
    """`/api/health`."""
    router = APIRouter(prefix="/api/health", tags=["health"])
    slow: dict[int | str, dict[str, Any]] = {409: {"description": "the checks do not end"}}

    @router.get("", summary="The daemon at this moment")
    async def health() -> Health:
        return service.health()

    @router.get("/checks", summary="What doctor finds, at most a minute old", responses=slow)
    async def checks() -> Checked:
        return await service.checked(anew=False)

    @router.post("/checks", summary="Check anew", responses=slow)
    async def check() -> Checked:
        return await service.checked(anew=True)

    return router
