"""The configuration file behind the pages Rules and Set up: what it can be brought back to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, Field

Digest = Annotated[
    str,
    Field(pattern=r"^([0-9a-f]{64}|none)$", description="of the file as it was seen; another one by now is refused"),
]
REFUSALS: dict[int | str, dict[str, Any]] = {
    409: {"description": "the file was changed meanwhile, or cannot be written; nothing has changed"},
    422: {"description": "a mistake, told with its line and the remedy; nothing has changed"},
}


class Former(BaseModel):
    """What stood in the file before a change."""

    id: str
    time: str = Field(description="when it was changed, ISO 8601")
    what: str = Field(description="the change: rule-added, rule-changed, rule-removed, rule-switched, setup, undo")


class FileState(BaseModel):
    """The file, never its text: that may hold passwords."""

    file: str
    exists: bool
    digest: str
    obstacle: str | None = Field(description="why it cannot be changed here, with the remedy")
    restart: list[str] = Field(description="keys that were changed and take effect only after a restart")
    versions: list[Former] = Field(description="the latest first")


class Undo(BaseModel):
    """A former version."""

    version: Annotated[str, Field(max_length=64)]
    digest: Digest


class Done(BaseModel):
    """A change that was made and is followed."""

    digest: str
    restart: list[str] = Field(description="keys that take effect only after a restart")


class ConfigurationService(Protocol):
    """Who changes the file."""

    async def file_state(self) -> FileState:
        """The file."""

    async def undo(self, version: str, digest: str) -> Done:
        """Go back. Raises `AssistantError`."""


def routes(service: ConfigurationService) -> APIRouter:
    """`/api/configuration`."""
    router = APIRouter(prefix="/api/configuration", tags=["configuration"])

    @router.get("", summary="The configuration file and its former versions")
    async def state() -> FileState:
        return await service.file_state()

    @router.post("/undo", summary="Bring a former version back, byte for byte", responses=REFUSALS)
    async def undo(wanted: Undo) -> Done:
        return await service.undo(wanted.version, wanted.digest)

    return router


def formers(versions: Sequence[tuple[str, str, str]]) -> list[Former]:
    """Id, time and change of each."""
    return [Former(id=identity, time=time, what=what) for identity, time, what in versions]
