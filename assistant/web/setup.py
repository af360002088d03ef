"""Set up: which microphone, what to hear, where to send it, what stays private, and whether an alert arrives."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StrictBool

from assistant.web.configuration import REFUSALS, Digest, Done, FileState

Text = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
Identity = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$", description="id of a room")]


class SetUpRoom(BaseModel):
    """A room and what hears it."""

    id: str
    name: str | None
    source: str = Field(description="without passwords")
    online: bool
    reason: str | None = Field(description="why it is not heard")


class SoundChoice(BaseModel):
    """An event type."""

    event_type: str
    title: str | None = Field(description="of a taught sound")
    alert: bool = Field(description="somebody must hear about it")
    told: bool = Field(description="false: it is ignored")


class BrokerState(BaseModel):
    """Where it is sent."""

    kind: Literal["page", "embedded", "own"] = Field(
        description="page: nowhere but to this page (a broker on loopback); embedded: a broker of ours for the "
        "network; own: a broker that is there already"
    )
    host: str | None
    port: int
    username: str | None
    password: bool = Field(description="one is set; it is never told")
    tls: bool
    connected: bool
    fixed: bool = Field(description="given on the command line, so that the file does not matter")


class Privacy(BaseModel):
    """What stays private."""

    transcripts: StrictBool = Field(description="what was said goes to MQTT, to rules and into the history")
    clips: StrictBool = Field(description="recordings of alerts are kept on disk")
    drop_speech: StrictBool = Field(description="but none in which somebody speaks")


class SetUp(BaseModel):
    """Everything that the page shows."""

    file: FileState
    first: bool = Field(description="there is no configuration yet, and this page was never opened: it opens by itself")
    problem: str | None = Field(description="what is wrong with the file, which keeps it from being changed here")
    rooms: list[SetUpRoom]
    fixed_rooms: bool = Field(description="given on the command line, so that the file does not matter")
    sounds: list[SoundChoice]
    broker: BrokerState
    discovery: bool = Field(description="rooms and sounds appear in Home Assistant by themselves")
    privacy: Privacy
    can_restart: bool = Field(description="the daemon can start anew when asked to")


class MicrophoneFound(BaseModel):
    """Something that can record."""

    address: str = Field(description="as `source` of a room")
    name: str
    default: bool
    room: str | None = Field(description="the room that it hears now")


class Microphones(BaseModel):
    """What can record here."""

    microphones: list[MicrophoneFound]
    problem: str | None = Field(description="why there is none, with the remedy")


class Listen(BaseModel):
    """A microphone to be listened to for a while."""

    address: Annotated[str, Field(min_length=1, max_length=300)] = Field(
        description="of GET /api/setup/microphones, or `room:ID` for what a room hears"
    )
    seconds: Annotated[float, Field(gt=0, le=600)] = 120.0


class BrokerFound(BaseModel):
    """A broker in the house."""

    name: str
    host: str
    port: int
    how: Literal["supervisor", "network"] = Field(description="who told us: Home Assistant's Supervisor, or mDNS")


class BrokerWanted(BaseModel):
    """Where it is to be sent."""

    kind: Literal["page", "embedded", "own"]
    host: Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9._:-]*$")] = ""
    port: Annotated[int, Field(ge=1, le=65_535)] = 1883
    username: Text = ""
    password: Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = Field(
        default=None, description="null: the one that is set, for the same host and user; empty: none"
    )
    tls: StrictBool = False
    supervisor: StrictBool = Field(default=False, description="host, user and password as the Supervisor tells them")


class MicrophoneWanted(BaseModel):
    """What is to hear a room."""

    room: Identity = "home"
    name: Annotated[Text, Field(min_length=1)] | None = None
    source: Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")] | None = Field(
        default=None, description="a microphone, or the URL of a camera, stream or satellite; null: as it is"
    )


class Wanted(BaseModel):
    """What is to be changed; what is left out stays."""

    digest: Digest
    microphone: MicrophoneWanted | None = None
    ignore: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=600)] | None = Field(
        default=None, description="event types that nobody is told of"
    )
    broker: BrokerWanted | None = None
    privacy: Privacy | None = None


class TestWanted(BaseModel):
    """An alert that nobody heard."""

    room: Identity


class Tested(BaseModel):
    """What became of it."""

    arrived: bool = Field(description="the broker handed it out")
    seconds: float | None
    detail: str = Field(description="where it was seen, or what is wrong and the remedy")


class Anew(BaseModel):
    """The daemon is to start anew."""

    digest: Digest


class SetUpService(Protocol):
    """What the daemon knows of its surroundings, and how it is set up. All raise `AssistantError`."""

    async def set_up(self) -> SetUp:
        """As it is."""

    async def seen(self) -> None:
        """The page was opened, which happens by itself only once."""

    async def microphones(self) -> Microphones:
        """What can record."""

    async def listen(self, wanted: Listen) -> AsyncGenerator[Mapping[str, Any]]:
        """How loud it is there, ten times a second, once it is open."""

    async def brokers(self) -> list[BrokerFound]:
        """Those that can be found."""

    def try_broker(self, wanted: BrokerWanted) -> AsyncGenerator[Mapping[str, Any]]:
        """Each step towards a broker, as it is done."""

    async def save(self, wanted: Wanted) -> Done:
        """Change the configuration."""

    async def test(self, room: str) -> Tested:
        """Send a test alert and see whether it arrives."""

    async def restart(self, digest: str) -> None:
        """Start anew."""


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "one `data:` line for each"}
}


def routes(service: SetUpService) -> APIRouter:
    """`/api/setup`."""
    router = APIRouter(prefix="/api/setup", tags=["setup"])

    @router.get("", summary="How it is set up")
    async def set_up() -> SetUp:
        return await service.set_up()

    @router.post("/seen", summary="The page was opened: it opens by itself only once", status_code=204)
    async def seen() -> None:
        await service.seen()

    @router.get("/microphones", summary="What can record here")
    async def microphones() -> Microphones:
        return await service.microphones()

    @router.post(
        "/microphones/listen",
        summary="How loud it is before a microphone, ten times a second; it is closed when the request is",
        response_class=StreamingResponse,
        responses=EVENTS,
    )
    async def listen(wanted: Listen) -> StreamingResponse:
        return _streamed(await service.listen(wanted))

    @router.get("/brokers", summary="MQTT brokers that can be found in the house")
    async def brokers() -> list[BrokerFound]:
        return await service.brokers()

    @router.post(
        "/broker/test",
        summary="Try a broker step by step: name, tcp, tls, login, subscribe, publish",
        response_class=StreamingResponse,
        responses=EVENTS,
    )
    async def try_broker(wanted: BrokerWanted) -> StreamingResponse:
        return _streamed(service.try_broker(wanted))

    @router.put("", summary="Change how it is set up", responses=REFUSALS)
    async def save(wanted: Wanted) -> Done:
        return await service.save(wanted)

    @router.post("/test", summary="Send a test alert and see whether the broker hands it out")
    async def test(wanted: TestWanted) -> Tested:
        return await service.test(wanted.room)

    @router.post("/restart", summary="Start the daemon anew, which takes some seconds", status_code=202)
    async def restart(wanted: Anew) -> None:
        await service.restart(wanted.digest)

    return router


def _streamed(items: AsyncGenerator[Mapping[str, Any]]) -> StreamingResponse:
    async def lines() -> AsyncGenerator[str]:
        try:
            async for item in items:
                yield f"data: {json.dumps(item, ensure_ascii=False)}\n\n"
        finally:
            await items.aclose()

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})
