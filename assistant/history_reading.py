"""What was heard, out of the history: a list for the command line, pages and counts for whoever looks at it.

A daemon may write meanwhile, and never waits for a reader: each reading has a connection of its own, a thread that is
not the writer's, and little time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from assistant.errors import AssistantError, HistoryError
from assistant.history_database import FILE, HistorySettings, engine_of, reason_of, shown, tables
from assistant.local_time import SLOT

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select

T = TypeVar("T")

WITHIN = 5.0  # seconds for one question of a page
GRACE = 2.0  # seconds more until it is given up, though the database still works at it
THREADS = 2  # a long search must not hold up the first page
WAITING = 16  # questions at once, in all; more are refused
STEPS = 10_000  # instructions of SQLite between two looks at the clock: some 0.1 ms


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for. Everything that is given must hold."""

    since: float | None = None  # Unix seconds
    until: float | None = None
    rooms: tuple[str, ...] = ()  # one of these; empty: any
    event_types: tuple[str, ...] = ()
    kind: str | None = None  # sound or speech
    text: str | None = None  # found in what was said, in any case
    before: tuple[float, str] | None = None  # start (Unix seconds) and id of an event: only older ones
    limit: int = 100  # the latest so many


@dataclass(frozen=True, slots=True)
class Counted:
    """How many events of one type began within a quarter of an hour."""

    event_type: str
    slot: int  # quarters of an hour since 1970, UTC
    count: int


def read(settings: HistorySettings, folder: Path, wanted: Wanted) -> list[dict[str, Any]]:
    """The latest events that are wanted, as they were told, the oldest of them first.

    Raises `HistoryError`.
    """
    path = _path_of(settings, folder)
    if path is not None and not path.exists():
        raise HistoryError(f"{path}: there is no history yet; remedy: kikimimi run, or another history.path")
    try:
        with contextlib.closing(engine_of(settings, path, reading=True).connect()) as connection:
            return _page(connection, wanted)[::-1]
    except AssistantError:
        raise
    except Exception as error:
        raise _unreadable(settings, path, error) from error


class HistoryReader:
    """Answers what a page asks. The methods raise `HistoryError`; before the first event all is empty."""

    def __init__(self, settings: HistorySettings, folder: Path, *, within: float = WITHIN) -> None:
        """Nothing is opened before the first question. `within`: seconds for each."""
        self._settings, self._path, self._within = settings, _path_of(settings, folder), within
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="history-reader")
        self._waiting = 0
        self._engine: Engine | None = None

    async def page(self, wanted: Wanted) -> list[dict[str, Any]]:
        """The latest events that are wanted, the newest first."""
        return await self._asked(lambda connection: _page(connection, wanted), [])

    async def event(self, identity: str) -> dict[str, Any] | None:
        """One event."""
        return await self._asked(lambda connection: _event(connection, identity), None)

    async def counts(self, wanted: Wanted, *, by_type: bool = True) -> list[Counted]:
        """How many there are in each quarter of an hour; not `by_type`: of all types together, named with ""."""
        return await self._asked(lambda connection: _counts(connection, wanted, by_type=by_type), [])

    def close(self) -> None:
        """Answer nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _asked(self, question: Callable[[Connection], T], nothing: T) -> T:
        if self._waiting >= WAITING:
            raise HistoryError("too many questions about the history at once; remedy: try again in a few seconds")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._within + GRACE):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._answer, question, nothing)
        except TimeoutError:
            raise self._too_slow() from None
        finally:
            self._waiting -= 1

    def _answer(self, question: Callable[[Connection], T], nothing: T) -> T:
        """In a thread: ask the database on a connection of our own."""
        if self._path is not None and not self._path.exists():
            return nothing
        try:
            if self._engine is None:
                self._engine = engine_of(self._settings, self._path, reading=True)
            with contextlib.closing(self._engine.connect()) as connection:
                self._hurry(connection)
                return question(connection)
        except AssistantError:
            raise
        except Exception as error:
            reason = reason_of(error)
            if "no such table" in reason or type(getattr(error, "orig", None)).__name__ == "UndefinedTable":
                return nothing  # the first event makes them
            if "interrupted" in reason or "statement timeout" in reason:
                raise self._too_slow() from None
            raise _unreadable(self._settings, self._path, error) from error

    def _hurry(self, connection: Connection) -> None:
        """Have the database itself give up in time."""
        from sqlalchemy import text  # noqa: PLC0415

        if self._path is None:
            with connection.begin():
                connection.execute(text(f"SET statement_timeout = {round(self._within * 1000)}"))
            return
        file = connection.connection.driver_connection
        assert file is not None  # noqa: S101 - the connection is open
        until = time.monotonic() + self._within
        file.set_progress_handler(lambda: time.monotonic() > until, STEPS)

    def _too_slow(self) -> HistoryError:
        return HistoryError(f"the history has no answer within {self._within:.0f} s; remedy: ask for a shorter time")


def _path_of(settings: HistorySettings, folder: Path) -> Path | None:
    return None if settings.url is not None else settings.path or folder / FILE


def _unreadable(settings: HistorySettings, path: Path | None, error: Exception) -> HistoryError:
    return HistoryError(f"{path or shown(settings)}: the history cannot be read: {reason_of(error)}")


def _where(query: Select[Any], wanted: Wanted) -> Select[Any]:
    """The query for those that are wanted, of whatever room and type."""
    from sqlalchemy import tuple_  # noqa: PLC0415

    table = tables().events
    if wanted.since is not None:
        query = query.where(table.c.start >= wanted.since)
    if wanted.until is not None:
        query = query.where(table.c.start < wanted.until)
    if wanted.kind is not None:
        query = query.where(table.c.kind == wanted.kind)
    if wanted.text is not None:
        query = query.where(table.c.text.icontains(wanted.text, autoescape=True))
    if wanted.before is not None:
        query = query.where(tuple_(table.c.start, table.c.id) < wanted.before)
    return query


def _page(connection: Connection, wanted: Wanted) -> list[dict[str, Any]]:
    """The newest first. Rooms and types are asked for one by one: of several at once a database would sort all."""
    from sqlalchemy import select  # noqa: PLC0415

    table = tables().events
    found: list[tuple[float, str, str]] = []
    with connection.begin():
        for room, event_type in product(wanted.rooms or (None,), wanted.event_types or (None,)):
            query = _where(select(table.c.start, table.c.id, table.c.body), wanted)
            if room is not None:
                query = query.where(table.c.room == room)
            if event_type is not None:
                query = query.where(table.c.event_type == event_type)
            query = query.order_by(table.c.start.desc(), table.c.id.desc()).limit(wanted.limit)
            found += [(row.start, row.id, row.body) for row in connection.execute(query)]
    return [json.loads(body) for _, _, body in sorted(found, reverse=True)[: wanted.limit]]


def _event(connection: Connection, identity: str) -> dict[str, Any] | None:
    from sqlalchemy import select  # noqa: PLC0415

    table = tables().events
    with connection.begin():
        body = connection.execute(select(table.c.body).where(table.c.id == identity)).scalar_one_or_none()
    return None if body is None else json.loads(body)


def _counts(connection: Connection, wanted: Wanted, *, by_type: bool) -> list[Counted]:
    from sqlalchemy import Integer, cast, func, literal, select  # noqa: PLC0415

    table = tables().events
    slot = cast(func.floor(table.c.start / SLOT), Integer).label("slot")
    name = table.c.event_type.label("name") if by_type else literal("").label("name")
    query = _where(select(name, slot, func.count()), wanted).group_by(name, slot)
    for column, values in ((table.c.room, wanted.rooms), (table.c.event_type, wanted.event_types)):
        if values:
            query = query.where(column.in_(values))
    with connection.begin():
        return [Counted(*row) for row in connection.execute(query)]
