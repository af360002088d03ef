"""What was heard, as the page shows it: the history, clips, and what was said of events (`web.events.EventService`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from assistant.clip_folder import PICTURE, SOUND, ClipFolder
from assistant.clips import lengths_of
from assistant.errors import AssistantError
from assistant.events import link_to
from assistant.history_reading import HistoryReader, Wanted
from assistant.judging import LIFE_SAFETY, Judging, Moved, by_threshold, shown
from assistant.local_time import by_day, by_hour, day_of, span_of, zone_of
from assistant.verdicts import Opinion
from assistant.web.events import (
    About,
    Clip,
    ClipLengths,
    Day,
    DayFilters,
    Days,
    DaysFilters,
    EventBody,
    Filters,
    ForgottenError,
    Heard,
    HeardAlone,
    HeardPage,
    Hours,
    Judged,
    PageFilters,
    Row,
    Snoozed,
    Threshold,
    UnknownError,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_WITHIN = 5.0  # seconds to read a clip


class Review:
    """Answers what the page asks about events."""

    def __init__(
        self,
        judging: Judging,
        reader: HistoryReader | None,
        clips: ClipFolder | None,
        *,
        event_types: Callable[[], Sequence[str]],
        transcripts: Callable[[], bool],
        clip_days: float,
        url: str | None,
    ) -> None:
        """Without `reader` only the last events are known; without `clips` none is kept. `url` is that of the page."""
        self._judging, self._reader, self._clips = judging, reader, clips
        self._event_types, self._transcripts = event_types, transcripts
        self._clip_days, self._url = clip_days, url

    # what was heard

    def about(self) -> About:
        """What can be asked for."""
        return About(
            event_types=list(self._event_types()),
            remembered=self._reader is not None,
            words=self._transcripts(),
            clips=self._clips is not None,
            clip_days=None if self._clips is None else self._clip_days,
        )

    async def page(self, wanted: PageFilters) -> HeardPage:
        """Events, the newest first."""
        reader = self._remembered()
        if self._is_private(wanted):
            return HeardPage(events=[], next=None)
        before = None
        if wanted.before is not None:
            start, _, identity = wanted.before.partition("_")
            before = (float(start), identity)
        found = await reader.page(
            Wanted(
                since=wanted.since,
                until=wanted.until,
                rooms=tuple(dict.fromkeys(wanted.room)),
                event_types=tuple(dict.fromkeys(wanted.type)),
                kind=wanted.kind,
                text=_searchable(wanted.text),
                before=before,
                limit=wanted.limit,
            )
        )
        more = len(found) == wanted.limit
        return HeardPage(events=[self._heard(body) for body in found], next=_cursor(found[-1]) if more else None)

    async def hours(self, wanted: DayFilters) -> Hours:
        """One day."""
        reader, zone = self._remembered(), _zone(wanted.zone)
        begin, end = span_of(_day(wanted.day), zone)
        counts = [] if self._is_private(wanted) else await reader.counts(_counted(wanted, begin, end))
        slots: dict[str, list[tuple[int, int]]] = {}
        for one in counts:
            slots.setdefault(one.event_type, []).append((one.slot, one.count))
        rows = [
            Row(event_type=event_type, total=sum(count for _, count in of_type), hours=by_hour(of_type, zone))
            for event_type, of_type in slots.items()
        ]
        rows.sort(key=lambda row: (-row.total, row.event_type))
        return Hours(day=wanted.day, zone=wanted.zone, begin=begin, end=end, rows=rows)

    async def days(self, wanted: DaysFilters) -> Days:
        """Days that have any."""
        reader, zone = self._remembered(), _zone(wanted.zone)
        end = span_of(_day(wanted.last), zone)[1]
        begin = end - wanted.days * 86_400.0
        private = self._is_private(wanted)
        counts = [] if private else await reader.counts(_counted(wanted, begin, end), by_type=False)
        found = by_day(((one.slot, one.count) for one in counts), zone)
        return Days(zone=wanted.zone, days=[Day(day=day.isoformat(), count=count) for day, count in found.items()])

    async def event(self, identity: str) -> HeardAlone:
        """One event."""
        body = await self._body(identity)
        lengths = None
        if self._clips is not None and SOUND in self._clips.has(identity):
            with suppress(OSError, ValueError, AssistantError):  # whoever plays it is told why not
                seconds, before = lengths_of(await self._read(identity, SOUND))
                lengths = ClipLengths(seconds=seconds, before=before)
        heard = self._heard(body)
        known = {name: getattr(heard, name) for name in Heard.model_fields}
        return HeardAlone(**known, lengths=lengths, url=link_to(self._url, identity))

    async def clip(self, identity: str, suffix: Literal[".flac", ".png"]) -> bytes:
        """Its recording or picture."""
        if self._clips is not None and suffix in self._clips.has(identity):
            try:
                return await self._read(identity, suffix)
            except FileNotFoundError as error:
                raise ForgottenError("somebody has deleted the clip from its folder") from error
        match self._clip_of(await self._body(identity)).state:
            case "none":
                raise UnknownError("no clip was kept of this event")
            case "coming":
                raise UnknownError("the clip is not there yet: it is written when the sound has ended")
            case "kept":
                raise UnknownError("no spectrogram was kept of this event: clips.spectrogram was false")
        if self._clips is None:
            raise ForgottenError("clips are switched off; remedy: clips.enabled: true")
        raise ForgottenError(
            f"the clip has been deleted: it was older than {self._clip_days:g} days, or all needed too much space"
        )

    # what people say of it

    async def judge(self, identity: str, opinion: Literal["correct", "wrong"]) -> Judged:
        """Somebody says that an event was right or wrong."""
        return _judged(await self._judging.judge(await self._body(identity), Opinion(opinion)))

    async def withdraw(self, identity: str) -> Judged:
        """Somebody takes that back."""
        moved = await self._judging.withdraw(identity)
        if moved is None:
            raise UnknownError("nothing was said of this event")
        return _judged(moved)

    def thresholds(self) -> list[Threshold]:
        """Those that verdicts are about."""
        return [Threshold(**asdict(one)) for one in self._judging.thresholds()]

    async def reset(self, room: str, kind: str) -> None:
        """Take back everything that was said of a kind of sound in a room."""
        if not await self._judging.reset(room, kind):
            raise UnknownError(f"nothing was said of {kind} in {room}")

    async def snooze(self, identity: str, seconds: float) -> Snoozed:
        """Tell nobody of more like this event for a while."""
        return Snoozed(**shown(await self._judging.snooze(await self._body(identity), seconds)))

    def snoozes(self) -> list[Snoozed]:
        """What is snoozed."""
        return [Snoozed(**shown(one)) for one in self._judging.snoozes()]

    async def wake(self, room: str, kind: str) -> None:
        """End a snooze."""
        if not await self._judging.wake(room, kind):
            raise UnknownError(f"{kind} is not snoozed in {room}")

    # parts of answers

    def _heard(self, body: Mapping[str, Any]) -> Heard:
        body = self._with_rights(body)
        room, kind = body["room"], self._judging.kind(body["event_type"], body["label"])
        threshold = self._judging.threshold(room, kind) if by_threshold(body["model"]) else None
        opinion = self._judging.opinion(body["id"])
        return Heard(
            event=EventBody.model_validate(body),
            subject=kind,
            clip=self._clip_of(body),
            opinion=None if opinion is None else opinion.value,
            threshold=None if threshold is None else Threshold(**asdict(threshold)),
            snoozed_until=self._judging.snoozed_until(room, kind),
            life_safety=kind in LIFE_SAFETY,
        )

    def _with_rights(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Without words where these are private by now, though they were not when it was written."""
        if self._transcripts():
            return dict(body)
        intent = body["intent"] and {**body["intent"], "slots": {}}
        return {**body, "text": None, "words": None, "caption": None, "intent": intent}

    def _clip_of(self, body: Mapping[str, Any]) -> Clip:
        kept = frozenset[str]() if self._clips is None else self._clips.has(body["id"])
        state: Literal["kept", "coming", "forgotten", "none"] = "none"
        if SOUND in kept:
            state = "kept"
        elif body["clip"] is not None:
            fresh = self._clips is not None and self._judging.fresh(body["id"]) is not None
            state = "coming" if fresh else "forgotten"
        return Clip(state=state, picture=PICTURE in kept)

    async def _body(self, identity: str) -> Mapping[str, Any]:
        body = self._judging.fresh(identity)
        if body is None and self._reader is not None:
            body = await self._reader.event(identity)
        if body is None:
            raise UnknownError(f"there is no event {identity}")
        return body

    def _remembered(self) -> HistoryReader:
        if self._reader is None:
            raise AssistantError("nothing is remembered; remedy: history.enabled: true")
        return self._reader

    def _is_private(self, wanted: Filters) -> bool:
        """Whether this asks for words that nobody may know."""
        return bool(wanted.text) and not self._transcripts()

    async def _read(self, identity: str, suffix: str) -> bytes:
        """A file of a clip. Raises `FileNotFoundError` and, for what else is wrong with it, `AssistantError`."""
        assert self._clips is not None  # noqa: S101 (asked before)
        remedy = "remedy: check the owner, the rights and the disk of clips.dir"
        try:
            async with asyncio.timeout(READ_WITHIN):
                return await asyncio.to_thread(self._clips.read, identity, suffix)
        except FileNotFoundError:
            raise
        except TimeoutError:
            raise AssistantError(f"the clip cannot be read within {READ_WITHIN:.0f} s; {remedy}") from None
        except OSError as error:
            raise AssistantError(f"the clip cannot be read: {error.strerror or error}; {remedy}") from error


def _judged(moved: Moved) -> Judged:
    return Judged.model_validate({**asdict(moved), "opinion": None if moved.opinion is None else moved.opinion.value})


def _cursor(body: Mapping[str, Any]) -> str:
    return f"{datetime.fromisoformat(body['start']).timestamp():.6f}_{body['id']}"


def _counted(wanted: Filters, begin: float, end: float) -> Wanted:
    return Wanted(
        since=begin,
        until=end,
        rooms=tuple(wanted.room),
        event_types=tuple(wanted.type),
        kind=wanted.kind,
        text=_searchable(wanted.text),
    )


def _searchable(text: str | None) -> str | None:
    """A text as the database can hold it."""
    return text.replace("\0", " ") if text else None


def _day(text: str) -> date:
    try:
        return day_of(text)
    except ValueError as error:
        raise UnknownError(f"{text}: there is no such day") from error


def _zone(name: str) -> ZoneInfo:
    try:
        return zone_of(name)
    except ValueError as error:
        raise UnknownError(str(error)) from error
