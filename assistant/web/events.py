"""What was heard: pages and counts of events, their clips, what people say of them, and what is snoozed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Header, HTTPException, Path, Query, Response
from pydantic import BaseModel, Field

LIMIT = 200  # events of a page at most
CHOICES = 40  # rooms or event types that are asked for at once
DAYS = 100  # that are counted at once
LONGEST = 24 * 3600.0  # seconds of a snooze


class WordSaid(BaseModel):
    """One word, in seconds from the start of the event."""

    word: str
    start: float
    end: float


class EventBody(BaseModel):
    """An event as it is told over MQTT; unknown is null."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    id: str
    room: str
    source: str
    kind: Literal["sound", "speech"]
    state: Literal["started", "ended", "heard"]
    event_type: str
    label: str
    score: float | None = None
    text: str | None = None
    language: str | None = None
    words: list[WordSaid] | None = None
    intent: dict[str, Any] | None = None
    caption: str | None = None
    emotion: str | None = None
    start: str | None = None
    end: str | None = None
    offset: float = 0.0
    duration: float | None = None
    heard_at: float = 0.0
    level_dbfs: float | None = None
    model: str = ""
    latency: float = 0.0
    late: bool = False
    clip: str | None = None


class Opinion(BaseModel):
    """What somebody says of an event."""

    opinion: Literal["correct", "wrong"]


class Threshold(BaseModel):
    """What a kind of sound needs in a room."""

    room: str
    kind: str = Field(description="an event type, or for `other` a family of labels: other:door")
    event_type: str
    label: str = Field(description="a label of that kind")
    configured: float | None = Field(description="with the sensitivity of the room; null: it is told by other means")
    in_force: float | None = Field(description="after what was said of events")
    correct: int = Field(description="verdicts that count")
    wrong: int


class Snoozed(BaseModel):
    """A kind of sound in a room that is told to nobody."""

    room: str
    kind: str
    event_type: str
    label: str
    since: float = Field(description="Unix seconds")
    until: float
    silenced: int = Field(description="sounds so far")
    life_safety: bool = Field(description="smoke or carbon monoxide")


class Clip(BaseModel):
    """The recording of an event."""

    state: Literal["kept", "coming", "forgotten", "none"]
    picture: bool = Field(description="a spectrogram is kept with it")


class Heard(BaseModel):
    """An event, and what is known about it here."""

    event: EventBody
    subject: str = Field(description="what verdicts and snoozes are about: its event type, or of `other` a family")
    clip: Clip
    opinion: Literal["correct", "wrong"] | None
    threshold: Threshold | None = Field(description="null: of this kind of event there is none")
    snoozed_until: float | None = Field(description="Unix seconds")
    life_safety: bool


class HeardPage(BaseModel):
    """Events, the newest first."""

    events: list[Heard]
    next: str | None = Field(description="`before` of the next page; null: this is the last one")


class ClipLengths(BaseModel):
    """How a clip lies around its event."""

    seconds: float
    before: float | None = Field(description="seconds from the beginning of the clip to that of the event")


class HeardAlone(Heard):
    """One event, with what its clip tells."""

    lengths: ClipLengths | None
    url: str | None = Field(description="where people see it: below web.public_url")


class About(BaseModel):
    """What can be asked for."""

    event_types: list[str]
    remembered: bool = Field(description="false: there is no history, events are only told as they come")
    words: bool = Field(description="false: what was said is private, and cannot be searched")
    clips: bool = Field(description="whether clips are kept")
    clip_days: float | None = Field(description="days after which clips are deleted")


class Row(BaseModel):
    """How often one type of event was heard."""

    event_type: str
    total: int
    hours: list[int] = Field(description="24 counts")


class Hours(BaseModel):
    """A day, hour by hour."""

    day: str
    zone: str
    begin: float = Field(description="Unix seconds of its midnight")
    end: float
    rows: list[Row] = Field(description="the most frequent first")


class Day(BaseModel):
    """How much was heard on a day."""

    day: str
    count: int


class Days(BaseModel):
    """Days on which anything was heard, the earliest first."""

    zone: str
    days: list[Day]


class Judged(BaseModel):
    """What came of a verdict, or of taking one back."""

    opinion: Literal["correct", "wrong"] | None
    threshold: Threshold | None
    before: float | None = Field(description="the threshold before it")
    moved: bool
    why: Literal["moved", "no_threshold", "sure", "bound", "above"] = Field(
        description="sure: it was no near miss; bound: as far as verdicts can move it; above: it is high enough by now"
    )


class Wish(BaseModel):
    """For how long."""

    seconds: Annotated[float, Field(ge=1.0, le=LONGEST)] = 3600.0


Name = Annotated[str, Field(max_length=80)]


class Filters(BaseModel):
    """Which events are asked for. Everything that is given must hold."""

    room: Annotated[list[Name], Field(max_length=CHOICES, description="one of these rooms")] = []
    type: Annotated[list[Name], Field(max_length=CHOICES, description="one of these event types")] = []
    kind: Literal["sound", "speech"] | None = None
    text: Annotated[str | None, Field(max_length=200, description="found in what was said, in any case")] = None


class PageFilters(Filters):
    """A page of events, the newest first."""

    since: Annotated[float | None, Field(ge=0.0, le=1e11, description="Unix seconds")] = None
    until: Annotated[float | None, Field(ge=0.0, le=1e11, description="Unix seconds; earlier than this")] = None
    before: Annotated[
        str | None,
        Field(pattern=r"^[0-9]{1,11}(\.[0-9]{1,6})?_[0-9A-Z]{1,26}$", description="`next` of the page before"),
    ] = None
    limit: Annotated[int, Field(ge=1, le=LIMIT)] = 50


class DayFilters(Filters):
    """A day, in a time zone."""

    day: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", description="2026-11-28")]
    zone: Annotated[str, Field(min_length=1, max_length=64, description="Europe/Berlin")] = "UTC"


class DaysFilters(Filters):
    """Some days, in a time zone."""

    last: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", description="the last of them")]
    days: Annotated[int, Field(ge=1, le=DAYS, description="how many")] = 31
    zone: Annotated[str, Field(min_length=1, max_length=64, description="Europe/Berlin")] = "UTC"


class UnknownError(Exception):
    """There is no such thing; its text says what."""


class ForgottenError(Exception):
    """A clip that is not there any more; its text says why."""


class EventService(Protocol):
    """What the daemon knows of events. What is not there is an `UnknownError`."""

    def about(self) -> About:
        """What can be asked for."""

    async def page(self, wanted: PageFilters) -> HeardPage:
        """Events, the newest first."""

    async def hours(self, wanted: DayFilters) -> Hours:
        """One day."""

    async def days(self, wanted: DaysFilters) -> Days:
        """Days that have any."""

    async def event(self, identity: str) -> HeardAlone:
        """One event."""

    async def clip(self, identity: str, suffix: Literal[".flac", ".png"]) -> bytes:
        """Its recording or picture. Raises `ForgottenError` where there was one."""

    async def judge(self, identity: str, opinion: Literal["correct", "wrong"]) -> Judged:
        """Somebody says that an event was right or wrong."""

    async def withdraw(self, identity: str) -> Judged:
        """Somebody takes that back."""

    def thresholds(self) -> Sequence[Threshold]:
        """Those that verdicts are about."""

    async def reset(self, room: str, kind: str) -> None:
        """Take back everything that was said of a kind of sound in a room."""

    async def snooze(self, identity: str, seconds: float) -> Snoozed:
        """Tell nobody of more like this event for a while."""

    def snoozes(self) -> Sequence[Snoozed]:
        """What is snoozed."""

    async def wake(self, room: str, kind: str) -> None:
        """End a snooze."""


Identity = Annotated[str, Path(pattern=r"^[0-9A-Z]{1,26}$", description="id of an event")]
RoomName = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[^/\x00-\x1f]+$", description="id of a room")]
Kind = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[^/\x00-\x1f]+$", description="kind of sound")]
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "there is no such thing"}}
RANGED: dict[int | str, dict[str, Any]] = {
    200: {"content": {"audio/flac": {}}, "description": "all of it"},
    206: {"content": {"audio/flac": {}}, "description": "the range that was asked for"},
    404: {"description": "there is no such event, or no clip of it"},
    410: {"description": "it has been deleted"},
    416: {"description": "there is nothing in that range"},
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "the spectrogram of the clip"},
    404: RANGED[404],
    410: RANGED[410],
}


def routes(service: EventService) -> APIRouter:
    """`/api/events`, `/api/thresholds`, `/api/snoozes`."""
    router = APIRouter(prefix="/api", tags=["events"])
    _reading(router, service)
    _clips(router, service)
    _opinions(router, service)
    _snoozing(router, service)
    return router


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except UnknownError as error:
        raise HTTPException(404, str(error)) from error
    except ForgottenError as error:
        raise HTTPException(410, str(error)) from error


def _reading(router: APIRouter, service: EventService) -> None:
    @router.get("/events", summary="Events, the newest first, page by page")
    async def page(wanted: Annotated[PageFilters, Query()]) -> HeardPage:
        return await service.page(wanted)

    @router.get("/events/about", summary="What can be asked for")
    async def about() -> About:
        return service.about()

    @router.get("/events/hours", summary="A day: how often each type was heard, hour by hour", responses=UNKNOWN)
    async def hours(wanted: Annotated[DayFilters, Query()]) -> Hours:
        with _told():
            return await service.hours(wanted)

    @router.get("/events/days", summary="Days on which anything was heard", responses=UNKNOWN)
    async def days(wanted: Annotated[DaysFilters, Query()]) -> Days:
        with _told():
            return await service.days(wanted)

    @router.get("/events/{identity}", summary="One event", responses=UNKNOWN)
    async def event(identity: Identity) -> HeardAlone:
        with _told():
            return await service.event(identity)


def _clips(router: APIRouter, service: EventService) -> None:
    async def content(identity: str, suffix: Literal[".flac", ".png"]) -> bytes:
        with _told():
            return await service.clip(identity, suffix)

    @router.get("/events/{identity}/clip", summary="Its recording (FLAC)", response_class=Response, responses=RANGED)
    async def clip(
        identity: Identity, range_: Annotated[str | None, Header(alias="range", max_length=100)] = None
    ) -> Response:
        return _ranged(await content(identity, ".flac"), range_, "audio/flac", f"{identity}.flac")

    @router.get(
        "/events/{identity}/picture", summary="Its spectrogram (PNG)", response_class=Response, responses=PICTURE
    )
    async def picture(identity: Identity) -> Response:
        return _ranged(await content(identity, ".png"), None, "image/png", f"{identity}.png")


def _ranged(content: bytes, wanted: str | None, media: str, name: str) -> Response:
    """All of it, or the one range that was asked for (RFC 9110, 14); several are answered with all of it."""
    size = len(content)
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=86400, immutable",  # a clip is never written twice
        "content-disposition": f'inline; filename="{name}"',
    }
    match = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", wanted.strip(), re.ASCII) if wanted else None
    if match is None or not (match[1] or match[2]):
        return Response(content, 200, headers, media)
    if match[1]:
        begin, end = int(match[1]), min(int(match[2]) if match[2] else size, size - 1)
        if match[2] and int(match[2]) < begin:  # no range at all
            return Response(content, 200, headers, media)
    else:
        begin, end = max(0, size - int(match[2])), size - 1
    if begin > end:
        return Response(None, 416, {**headers, "content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {begin}-{end}/{size}"
    return Response(content[begin : end + 1], 206, headers, media)


def _opinions(router: APIRouter, service: EventService) -> None:
    @router.put("/events/{identity}/verdict", summary="Say that an event was right or wrong", responses=UNKNOWN)
    async def judge(identity: Identity, said: Opinion) -> Judged:
        with _told():
            return await service.judge(identity, said.opinion)

    @router.delete("/events/{identity}/verdict", summary="Take that back", responses=UNKNOWN)
    async def withdraw(identity: Identity) -> Judged:
        with _told():
            return await service.withdraw(identity)

    @router.get("/thresholds", summary="Thresholds that verdicts are about")
    async def thresholds() -> list[Threshold]:
        return list(service.thresholds())

    @router.delete(
        "/thresholds/{room}/{kind}", summary="Take back all verdicts of a kind of sound", status_code=204,
        responses=UNKNOWN,
    )  # fmt: skip
    async def reset(room: RoomName, kind: Kind) -> None:
        with _told():
            await service.reset(room, kind)


def _snoozing(router: APIRouter, service: EventService) -> None:
    @router.put("/events/{identity}/snooze", summary="Tell nobody of more like this for a while", responses=UNKNOWN)
    async def snooze(identity: Identity, wish: Wish) -> Snoozed:
        with _told():
            return await service.snooze(identity, wish.seconds)

    @router.get("/snoozes", summary="What is told to nobody now")
    async def snoozes() -> list[Snoozed]:
        return list(service.snoozes())

    @router.delete("/snoozes/{room}/{kind}", summary="End a snooze", status_code=204, responses=UNKNOWN)
    async def wake(room: RoomName, kind: Kind) -> None:
        with _told():
            await service.wake(room, kind)
