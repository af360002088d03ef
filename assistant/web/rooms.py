"""Rooms: who is heard, who is not and why, and their switches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, HTTPException, Path
from pydantic import BaseModel, Field, StrictBool

from assistant.events import Command, Presence, Problem, Sensitivity, SetListening, SetSensitivity


class RoomState(BaseModel):
    """A room as it is now."""

    id: str
    name: str
    presence: Presence = Field(description="online, offline, or disabled: its switch or that of the house is off")
    reason: str | None = Field(description="why it is not heard")
    problem: Problem = Field(description="what is wrong with what its source gives")
    listening: bool = Field(description="its own switch")
    sensitivity: Sensitivity
    source: str = Field(description="what hears it, without passwords; empty: not opened yet")
    last: dict[str, Any] | None = Field(default=None, description="the latest event there since the start, as on MQTT")


class House(BaseModel):
    """All rooms, and the switch of the whole house."""

    listening: bool
    rooms: list[RoomState]


class Listening(BaseModel):
    """A switch."""

    on: StrictBool


class Chosen(BaseModel):
    """How easily a sound is believed."""

    sensitivity: Sensitivity


class RoomService(Protocol):
    """What the daemon knows of its rooms."""

    def rooms(self) -> Sequence[RoomState]:
        """Every room of the configuration, in its order."""

    def listening(self) -> bool:
        """The switch of the whole house."""

    def command(self, command: Command) -> None:
        """Do what somebody asks for."""


RoomName = Annotated[str, Path(pattern=r"^[a-z0-9_-]+$", max_length=64, description="id of a room")]
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such room"}}


def routes(service: RoomService) -> APIRouter:
    """`/api/rooms`."""
    router = APIRouter(prefix="/api/rooms", tags=["rooms"])

    def known(room: str) -> None:
        if all(one.id != room for one in service.rooms()):
            raise HTTPException(404, f"there is no room {room}")

    @router.get("", summary="All rooms")
    async def rooms() -> House:
        return House(listening=service.listening(), rooms=list(service.rooms()))

    @router.put("/listening", summary="Turn the listening switch of the whole house", status_code=204)
    async def listen_everywhere(switch: Listening) -> None:
        service.command(SetListening(None, switch.on))

    @router.put("/{room}/listening", summary="Turn a listening switch", status_code=204, responses=UNKNOWN)
    async def listen(room: RoomName, switch: Listening) -> None:
        known(room)
        service.command(SetListening(room, switch.on))

    @router.put("/{room}/sensitivity", summary="Choose a sensitivity", status_code=204, responses=UNKNOWN)
    async def be_sensitive(room: RoomName, chosen: Chosen) -> None:
        known(room)
        service.command(SetSensitivity(room, chosen.sensitivity))

    return router
