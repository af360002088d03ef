"""Sounds of one's own: what was taught, and the drafts that become it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, Field

from assistant.errors import AssistantError, ConfigurationError

T = TypeVar("T")

LONGEST_RECORDING = 8.0  # seconds
Score = Annotated[float, Field(ge=0.0, le=1.0)]


class ExampleState(BaseModel):
    """One example of a sound."""

    number: int = Field(description="under which it is dropped")
    title: str = Field(description="where it came from")
    score: Score | None = Field(description="how sure it is recognised by what the others teach; null: not known yet")
    recognised: bool | None = Field(description="whether that is enough")


class VerdictState(BaseModel):
    """How well a sound is told from all others."""

    kind: Literal["clear", "confusable", "different"] = Field(
        description="clear, may be confused with others, or examples too different from each other"
    )
    confused_with: list[str] = Field(description="AudioSet's names of the sounds most like it")
    false_per_day: float | None = Field(
        description="expected false alarms, by what this house sounds like; null: unknown"
    )
    heard_per_day: float | None = Field(description="how often something just like it was heard; null: unknown")


class TaughtState(BaseModel):
    """A sound that was taught."""

    name: str = Field(description="its event type")
    title: str = Field(description="as people call it")
    taught: str = Field(description="when, UTC")
    threshold: Score
    verdict: VerdictState
    examples: list[ExampleState]


class HouseState(BaseModel):
    """All taught sounds, and how well the house is known."""

    sounds: list[TaughtState]
    problems: list[str] = Field(description="files that cannot be used, and why")
    heard: int = Field(description="sounds of this house that taught ones are told from")
    days: float = Field(description="days in which they were heard")


class DraftState(BaseModel):
    """A sound that is being taught. It is lost an hour after its last change, or when it is saved."""

    id: str
    name: str
    title: str
    examples: list[ExampleState]
    threshold: Score | None = Field(description="null: too few examples yet")
    verdict: VerdictState | None = Field(description="null: too few examples yet")


class ClipState(BaseModel):
    """A past event whose recording was kept."""

    event: str = Field(description="id of the event")
    room: str
    label: str
    start: str | None = Field(description="UTC")
    duration: float | None = Field(description="seconds")


class NewDraft(BaseModel):
    """What is to be taught."""

    title: Annotated[str, Field(min_length=1, max_length=80, description="as people call it, in any script")]
    name: Annotated[
        str | None, Field(pattern=r"^[a-z0-9_]{1,40}$", description="its event type; left out: made of the title")
    ] = None


class FromRoom(BaseModel):
    """Record in a room."""

    room: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$", max_length=64)]
    seconds: Annotated[float, Field(ge=1.0, le=LONGEST_RECORDING)] = 4.0


class FromEvent(BaseModel):
    """Take the recording of a past event."""

    event: Annotated[str, Field(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}$")]


class TeachService(Protocol):
    """Who teaches. `AssistantError` is raised for what cannot be done."""

    async def taught(self) -> HouseState:
        """All taught sounds."""

    async def forget(self, name: str) -> None:
        """Delete one."""

    async def begin(self, title: str, name: str | None) -> DraftState:
        """Begin to teach."""

    def draft(self, draft: str) -> DraftState:
        """As it is now."""

    def discard(self, draft: str) -> None:
        """Forget a draft."""

    async def add_file(self, draft: str, title: str, content: bytes) -> DraftState:
        """One more example out of a file."""

    async def add_recording(self, draft: str, room: str, seconds: float) -> DraftState:
        """One more example: what is heard in a room from now on."""

    async def add_clip(self, draft: str, event: str) -> DraftState:
        """One more example: the recording of a past event."""

    async def drop(self, draft: str, number: int) -> DraftState:
        """Without this example."""

    async def save(self, draft: str) -> TaughtState:
        """Keep it: from now on it is heard."""

    async def clips(self, limit: int) -> Sequence[ClipState]:
        """Past events whose recordings are there, the latest first."""


Draft = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$", description="id of a draft")]
GONE: dict[int | str, dict[str, Any]] = {
    409: {"description": "there is no such draft or sound, or this cannot be done now"},
}


async def _done(doing: Awaitable[T]) -> T:
    """What comes of it. A mistake that no description of a body can hold is answered 409, as what cannot be done."""
    try:
        return await doing
    except ConfigurationError as error:
        raise AssistantError(str(error)) from error


def routes(service: TeachService) -> APIRouter:
    """`/api/teach`."""
    router = APIRouter(prefix="/api/teach", tags=["teach"])

    @router.get("", summary="All taught sounds")
    async def taught() -> HouseState:
        return await service.taught()

    @router.delete("/sounds/{name}", summary="Forget a taught sound", status_code=204, responses=GONE)
    async def forget(name: Annotated[str, Path(pattern=r"^[a-z0-9_]{1,40}$")]) -> None:
        await service.forget(name)

    @router.get("/clips", summary="Recordings of past events that can be examples")
    async def clips(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> list[ClipState]:
        return list(await service.clips(limit))

    @router.post("/drafts", summary="Begin to teach a sound", status_code=201, responses=GONE)
    async def begin(new: NewDraft) -> DraftState:
        return await _done(service.begin(new.title, new.name))

    @router.get("/drafts/{draft}", summary="A draft", responses=GONE)
    async def draft(draft: Draft) -> DraftState:
        return service.draft(draft)

    @router.delete("/drafts/{draft}", summary="Forget a draft", status_code=204)
    async def discard(draft: Draft) -> None:
        service.discard(draft)

    @router.post(
        "/drafts/{draft}/files",
        summary="One more example out of a file",
        description="The body is the file: anything that libsndfile or FFmpeg reads. It is not kept.",
        responses=GONE,
    )
    async def add_file(
        draft: Draft,
        content: Annotated[bytes, Body(media_type="application/octet-stream", min_length=1)],
        title: Annotated[str, Query(min_length=1, max_length=200)] = "recording",
    ) -> DraftState:
        return await _done(service.add_file(draft, title, content))

    @router.post(
        "/drafts/{draft}/recordings",
        summary="One more example: what is heard in a room from now on",
        description="Answered when the recording is over. It is not kept.",
        responses=GONE,
    )
    async def add_recording(draft: Draft, wanted: FromRoom) -> DraftState:
        return await _done(service.add_recording(draft, wanted.room, wanted.seconds))

    @router.post("/drafts/{draft}/clips", summary="One more example: the recording of a past event", responses=GONE)
    async def add_clip(draft: Draft, wanted: FromEvent) -> DraftState:
        return await _done(service.add_clip(draft, wanted.event))

    @router.delete("/drafts/{draft}/examples/{number}", summary="Drop an example", responses=GONE)
    async def drop(draft: Draft, number: Annotated[int, Path(ge=1, le=1_000_000)]) -> DraftState:
        return await service.drop(draft, number)

    @router.post(
        "/drafts/{draft}/save", summary="Keep a draft: from now on it is heard", status_code=201, responses=GONE
    )
    async def save(draft: Draft) -> TaughtState:
        return await _done(service.save(draft))

    return router
