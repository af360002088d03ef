"""Every event on disk, and the MQTT messages that the broker has not acknowledged yet: one database, one writer.

SQLite beside the switches, or PostgreSQL by URL. A thread owns the only connection that writes; whatever comes while it
commits shares the next commit. Nothing here blocks the loop and nothing raises: a disk that is full or gone is counted,
told once, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.errors import HistoryError
from assistant.events import Event, State
from assistant.history_database import (
    FILE,
    HistorySettings,
    damage_of,
    engine_of,
    is_damage,
    is_of_the_data,
    reason_of,
    remedy_of,
    shown,
    tables,
    upgrade,
)
from assistant.waiting import at_most

if TYPE_CHECKING:
    from sqlalchemy import Connection

log = logging.getLogger(__name__)

BATCH = 500  # changes that share one commit
WAITING = 5_000  # changes that wait for the disk; what comes when it is full is not written, and counted
LETTERS = 50_000  # messages that wait for a broker; then the oldest is shed and counted
PROBE = 5.0  # seconds after a failure in which nothing is tried: a dead database must not hold up each event
TIMED = 200  # events whose way to the disk is remembered
TIDY_EVERY = 3_600.0  # seconds between two looks at age and size
TIDY_AGAIN = 60.0  # seconds after that failed
TIDY_PAGES = 2_000  # given back to the disk at once
TIDY_ROWS = 2_000  # deleted in one transaction, so that an event never waits long
SERVER_LOCK = 0x6B696B69  # of PostgreSQL's advisory locks, which all programs on a database share
STOP = 5.0  # seconds for what waits when the daemon ends
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that waits for the broker."""

    number: int  # later ones are larger
    raised: float  # Unix seconds
    body: str


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """Something to be done with the database, and who is told what came of it: None if it failed."""

    do: Callable[[Connection], Any]
    told: Callable[[Any], None] | None
    reads: bool = False  # it changes nothing


class History:
    """The database of one daemon. The constructor does nothing; `start` opens it in its own thread.

    Its methods are called on the loop and return at once; what they are given to call is called on the loop.
    """

    def __init__(self, settings: HistorySettings, folder: Path) -> None:
        """`folder` is where the file lies unless the settings name one."""
        self.settings = settings
        self.path = None if settings.url is not None else settings.path or folder / FILE
        self.events = 0  # written since the start
        self.lost = 0  # events that could not be written
        self.shed = 0  # messages that were too many, the oldest
        self.took: deque[float] = deque(maxlen=TIMED)  # seconds until an event was on the disk, the latest
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()  # `WAITING` and the end
        self._over = False  # nobody takes what is put there
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Event = asyncio.Event()
        # of the thread alone
        self._connection: Connection | None = None
        self._lock: int | None = None
        self._letters = 0
        self._number = 0  # the highest of a message; later ones are larger, whatever becomes of the file
        self._tidied = 0.0
        self._size = 0
        self._retry_at = 0.0
        self._damage: str | None = None  # of the file, found while it was in use
        self._undone: list[_Change] = []  # acknowledgements that could not be written yet
        self.problem: str | None = None

    @property
    def place(self) -> str:
        """The file or server, for a person, without a password."""
        return str(self.path) if self.path is not None else shown(self.settings)

    def start(self) -> None:
        """Open the database in the background. Changes may be asked for at once."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="history", daemon=True)
        self._thread.start()

    async def close(self, seconds: float = STOP) -> None:
        """Write what waits for at most `seconds`, and close the database."""
        if self._thread is None:
            return
        self._changes.put(None)
        if not await at_most(seconds, self._closed.wait()):
            log.warning("history: %s did not finish within %.0f s", self.place, seconds)

    # what is remembered

    def record(self, event: Event) -> None:
        """Remember an event; the `ended` of a sound completes its `started`."""
        values, asked = event.to_json(), time.monotonic()

        def change(connection: Connection) -> bool:
            _write_event(connection, event, values)
            return True

        def told(outcome: object) -> None:
            if outcome is None:
                self._lost_event()
            else:
                self.events += 1
                self.took.append(time.monotonic() - asked)

        if not self._ask(_Change(change, told)):
            self._lost_event()

    def without_clip(self, identity: str) -> None:
        """The clip that an event named came to nothing: remember the event without it."""

        def change(connection: Connection) -> None:
            _forget_clip(connection, identity)

        if not self._ask(_Change(change, None)):
            log.debug("history: event %s still names a clip that is not there", identity)

    def _lost_event(self) -> None:
        self.lost += 1
        if self.lost % 100 == 1:
            log.warning("history: %s: an event was not written (%d so far)", self.place, self.lost)

    # what waits for the broker (`outputs.outbox.Journal`)

    def put(self, raised: float, body: str, kept: Callable[[int | None], None]) -> None:
        """Keep a message; `kept` is told its number, or None if it could not be written."""

        def change(connection: Connection) -> int:
            return self._put(connection, raised, body)

        if not self._ask(_Change(change, kept)):
            kept(None)

    def drop(self, number: int) -> None:
        """Forget a message: it has arrived."""

        def change(connection: Connection) -> None:
            self._drop(connection, number)

        if not self._ask(_Change(change, None)):
            log.debug("history: message %d stays and will be sent again", number)

    def after(self, number: int, limit: int, found: Callable[[Sequence[Letter] | None, int], None]) -> None:
        """Tell `found` the next `limit` messages after `number`, and how many come after those; None: it failed."""

        def change(connection: Connection) -> tuple[list[Letter], int]:
            return _letters_after(connection, number, limit)

        def told(outcome: tuple[list[Letter], int] | None) -> None:
            found(*(outcome if outcome is not None else (None, 0)))

        if not self._ask(_Change(change, told, reads=True)):
            found(None, 0)

    def health(self) -> Mapping[str, Any]:
        """Figures for the health topic."""
        return {
            "events": self.events,
            "lost": self.lost,
            "waiting": self._changes.qsize(),
            "unsent": self._letters,
            "shed": self.shed,
            "mb": round(self._size / MB, 1),
            "ok": self.problem is None,
        }

    # the thread

    def _ask(self, change: _Change) -> bool:
        """Queue a change; False if too many wait, or nothing is written any more."""
        if self._over or self._changes.qsize() >= WAITING:
            return False
        self._changes.put(change)
        return True

    def _work(self) -> None:
        """The life of the thread: take what waits, write it in one transaction, tell what came of it."""
        batch: list[_Change] = []
        ending = False
        try:
            # opened by the first change: until the house is told that we are online there is other work
            while not ending:
                batch, ending = self._taken()
                self._write(batch)
                self._tidy()
        except Exception:
            log.exception("history: %s: the writer broke; nothing is written any more", self.place)
            self.problem = "internal error"
            self._tell([(change.told, None) for change in batch])
        finally:
            self._over = True
            self._disconnect()
            self._release()
            while True:  # nobody may wait for what is not written any more
                try:
                    change = self._changes.get_nowait()
                except queue.Empty:
                    break
                if change is not None:
                    self._tell([(change.told, None)])
            self._on_loop(self._closed.set)

    def _taken(self) -> tuple[list[_Change], bool]:
        """What waits, at most `BATCH`, and whether it is the last."""
        batch: list[_Change] = []
        with contextlib.suppress(queue.Empty):
            change = self._changes.get(timeout=TIDY_EVERY if self._connection is not None else PROBE)
            while change is not None:
                batch.append(change)
                if len(batch) >= BATCH:
                    return batch, False
                change = self._changes.get_nowait()
            return batch, True
        return batch, False

    def _write(self, batch: list[_Change]) -> None:
        """Write what it takes; of the rest tell that it failed."""
        if self._connection is None and (time.monotonic() < self._retry_at or not self._open()):
            self._failed(batch)
            return
        if self._undone:
            self._catch_up()
        try:
            outcomes = self._transact(batch)
        except Exception as error:
            usable = is_of_the_data(error) or (not is_damage(error) and self._still_there())
            if usable and len(batch) > 1:  # a full disk can still be read; one event's fault is no other's
                for change in batch:
                    self._write([change])
                return
            if is_of_the_data(error):
                log.warning("history: %s: cannot hold an event or message: %s", self.place, reason_of(error))
            else:
                self._broken(error, usable=usable)
            self._failed(batch)
            return
        self._tell(outcomes)

    def _transact(self, batch: Sequence[_Change]) -> list[tuple[Callable[[Any], None] | None, Any]]:
        """Everything in one transaction. Raises what the database raises; then nothing was written."""
        assert self._connection is not None  # noqa: S101 - opened by the caller
        letters, shed = self._letters, self.shed
        try:
            with self._connection.begin():
                outcomes = [(change.told, change.do(self._connection)) for change in batch]
        except BaseException:
            self._letters, self.shed = letters, shed
            raise
        if self.problem is not None and not all(change.reads for change in batch):
            log.info("history: %s is written again", self.place)
            self.problem = None
        return outcomes

    def _catch_up(self) -> None:
        """Mark what has arrived while that could not be written, now and then while it still cannot."""
        if time.monotonic() < self._retry_at:
            return
        try:
            self._transact(self._undone)
        except Exception as error:
            self._broken(error, usable=self._still_there())
            return
        self._undone.clear()

    def _still_there(self) -> bool:
        """Whether the database can be read, though it may not be written."""
        from sqlalchemy import text  # noqa: PLC0415

        if self._connection is None:
            return False
        try:
            with self._connection.begin():
                self._connection.execute(text("SELECT 1")).scalar_one()
        except Exception:
            return False
        return True

    def _failed(self, batch: list[_Change]) -> None:
        """Nobody waits in vain; what has arrived is marked later, for it must not be sent for ever."""
        self._undone += [change for change in batch if change.told is None][: LETTERS - len(self._undone)]
        self._tell([(change.told, None) for change in batch])

    def _tell(self, outcomes: Sequence[tuple[Callable[[Any], None] | None, Any]]) -> None:
        def on_loop() -> None:
            for told, outcome in outcomes:
                try:
                    if told is not None:
                        told(outcome)
                except Exception:  # the others wait for theirs
                    log.exception("history: whoever asked failed on the answer")

        self._on_loop(on_loop)

    def _on_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: the daemon is gone
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)

    def _open(self) -> bool:
        """Connect, check, bring the tables up to date. A damaged file is put aside."""
        try:
            self._hold()
            if self._damage is not None:
                self._put_aside(self._damage)
            try:
                self._connect()
            except Exception as error:
                self._disconnect()
                if self.path is None or not is_damage(error):
                    raise
                self._put_aside(reason_of(error))
                self._connect()
        except Exception as error:
            self._broken(error)
            return False
        finally:
            self._damage = None
        if self._letters:
            log.info("history: %d messages of an earlier run have not arrived yet", self._letters)
        return True

    def _connect(self) -> None:
        """Raises what the database raises, and `HistoryError` for a damaged file."""
        self._connection = engine_of(self.settings, self.path).connect()
        if self.path is not None and (damage := damage_of(self._connection)):
            raise HistoryError(f"malformed: {damage}")
        if self.path is None:
            self._hold_server()
        upgrade(self._connection)
        with self._connection.begin():
            self._letters = _count_letters(self._connection)
            self._number = max(self._number, _highest_letter(self._connection))
        self._measure()

    def _hold(self) -> None:
        """Two daemons that share one file would both send what waits in it. Raises `HistoryError`."""
        if self.path is None or self._lock is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HistoryError(
                "another daemon writes there; remedy: stop it, or give this one a history.path of its own"
            ) from None
        except OSError as error:  # some network shares
            log.warning("history: %s: no lock (%s): see that one daemon alone writes there", self.place, error.strerror)
        self._lock = descriptor

    def _hold_server(self) -> None:
        """The same for a database of a server, which lets go when it loses the connection. Raises `HistoryError`."""
        from sqlalchemy import text  # noqa: PLC0415

        assert self._connection is not None  # noqa: S101 - called by `_connect`
        with self._connection.begin():
            held = text("SELECT pg_try_advisory_lock(:key, hashtext(current_schema()))")
            if not self._connection.execute(held, {"key": SERVER_LOCK}).scalar_one():
                raise HistoryError(
                    "another daemon writes there; remedy: stop it, or give this one a history.url of its own"
                )

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _put_aside(self, damage: str) -> None:
        """Begin a new file; the damaged one is kept for whoever can mend it, but only the latest."""
        assert self.path is not None  # noqa: S101 - only files are put aside
        aside = self.path.with_suffix(".damaged")
        letters = _salvaged(self.path)
        for end in ("", "-wal", "-shm"):
            file = Path(f"{self.path}{end}")
            with contextlib.suppress(FileNotFoundError):
                file.replace(f"{aside}{end}")
        log.error(
            "history: %s is damaged (%s): it is now %s, a new one begins; %d messages that had not arrived were saved",
            self.path,
            damage,
            aside,
            len(letters),
        )

        def change(letter: Letter) -> _Change:
            return _Change(lambda connection: self._put(connection, letter.raised, letter.body), None)

        self._undone = [change(letter) for letter in letters]  # what was to be forgotten is in the other file

    def _broken(self, error: Exception, *, usable: bool = False) -> None:
        """Tell a failure once, and connect again later, unless the connection is `usable` for reading."""
        reason = reason_of(error)
        if reason != self.problem:
            self.problem = reason
            log.error(
                "history: %s cannot be written: %s; events go out all the same, but are not remembered, and wait for "
                "the broker in memory alone. Trying again for ever; remedy: %s",
                self.place,
                reason,
                remedy_of(reason, self.path is not None),
            )
        if self.path is not None and is_damage(error):
            self._damage, usable = reason, False
        if not usable:
            self._disconnect()
        self._retry_at = time.monotonic() + PROBE

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            with contextlib.suppress(Exception):
                self._connection.engine.dispose()
            self._connection = None

    # letters, in the thread

    def _put(self, connection: Connection, raised: float, body: str) -> int:
        from sqlalchemy import insert  # noqa: PLC0415

        self._number += 1
        connection.execute(insert(tables().letters).values(number=self._number, raised=raised, body=body))
        self._letters += 1
        if self._letters > LETTERS:
            self._shed_oldest(connection)
        return self._number

    def _shed_oldest(self, connection: Connection) -> None:
        from sqlalchemy import delete, select  # noqa: PLC0415

        table = tables().letters
        oldest = select(table.c.number).order_by(table.c.number).limit(self._letters - LETTERS)
        shed = connection.execute(delete(table).where(table.c.number.in_(oldest))).rowcount
        self._letters -= shed
        self.shed += shed
        if self.shed % 1000 == 1:
            log.warning("history: %d messages wait for the broker, the oldest are shed (%d so far)", LETTERS, self.shed)

    def _drop(self, connection: Connection, number: int) -> None:
        from sqlalchemy import delete  # noqa: PLC0415

        table = tables().letters
        self._letters -= connection.execute(delete(table).where(table.c.number == number)).rowcount

    # age and size, in the thread

    def _tidy(self) -> None:
        """Delete what is too old or too much, now and then, a little at a time."""
        if self._connection is None or time.monotonic() < self._tidied:
            return
        try:
            more = self._vacuum()
            self._measure()
            more = more or self._delete_some() > 0  # by size only what is left when the file has shrunk
        except Exception as error:
            self._broken(error, usable=self._still_there())  # what waits can still be read from a full disk
            self._tidied = time.monotonic() + TIDY_AGAIN
            return
        # while there is more to delete, go on after whatever came meanwhile
        self._tidied = time.monotonic() + (0.0 if more else TIDY_EVERY)
        if more and self._changes.empty():
            self._ask(_Change(lambda _connection: None, lambda _outcome: None, reads=True))

    def _delete_some(self) -> int:
        """Delete the oldest of what is too old, else of what is too much. How many rows."""
        from sqlalchemy import delete, select  # noqa: PLC0415

        assert self._connection is not None  # noqa: S101 - checked by the caller
        table = tables().events
        oldest = select(table.c.id).order_by(table.c.start).limit(TIDY_ROWS)
        if self.path is None or self._size <= self.settings.megabytes * MB:  # a server's tables do not shrink
            oldest = oldest.where(table.c.start < time.time() - self.settings.days * 86_400.0)
        with self._connection.begin():
            return self._connection.execute(delete(table).where(table.c.id.in_(oldest))).rowcount

    def _vacuum(self) -> bool:
        """Give unused pages of the file back to the disk, a few at a time. Whether there are more."""
        from sqlalchemy import text  # noqa: PLC0415

        assert self._connection is not None  # noqa: S101 - checked by the caller
        if self.path is None:
            return False
        with self._connection.begin():
            unused = self._connection.execute(text("PRAGMA freelist_count")).scalar_one()
        file = self._connection.connection.driver_connection
        assert file is not None  # noqa: S101 - the connection is open
        file.executescript(f"PRAGMA incremental_vacuum({TIDY_PAGES})")  # `execute` would free a single page
        return bool(unused > TIDY_PAGES)

    def _measure(self) -> None:
        from sqlalchemy import text  # noqa: PLC0415

        assert self._connection is not None  # noqa: S101 - checked by the caller
        with self._connection.begin():
            if self.path is not None:
                pages, size = (
                    self._connection.execute(text(f"PRAGMA {name}")).scalar_one()
                    for name in ("page_count", "page_size")
                )
                self._size = pages * size
            else:
                self._size = self._connection.execute(text("SELECT pg_total_relation_size('events')")).scalar_one()


def _salvaged(path: Path) -> list[Letter]:
    """The messages that can still be read out of a damaged file."""
    import sqlite3  # noqa: PLC0415

    letters: list[Letter] = []
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file,
    ):
        rows: Iterator[Any] = iter(file.execute("SELECT number, raised, body FROM letters ORDER BY number"))
        letters.extend(Letter(number, float(raised), body) for number, raised, body in rows if isinstance(body, str))
    return letters


def _write_event(connection: Connection, event: Event, values: dict[str, Any]) -> None:
    from sqlalchemy import insert, select, update  # noqa: PLC0415

    table = tables().events
    if event.state is State.ENDED:
        known = connection.execute(select(table.c.body).where(table.c.id == event.id)).scalar_one_or_none()
        if known is not None:
            told = json.loads(known)
            # when it was told remains that of its beginning
            values = {**values, **{name: told[name] for name in ("heard_at", "latency", "late")}}
            connection.execute(update(table).where(table.c.id == event.id).values(body=_json(values)))
            return
    connection.execute(
        insert(table).values(
            id=event.id,
            room=event.room,
            kind=event.kind,
            event_type=event.event_type,
            start=_unix(event.start),
            text=None if event.text is None else _storable(event.text),
            body=_json(values),
        )
    )


def _forget_clip(connection: Connection, identity: str) -> None:
    from sqlalchemy import select, update  # noqa: PLC0415

    table = tables().events
    known = connection.execute(select(table.c.body).where(table.c.id == identity)).scalar_one_or_none()
    if known is not None:
        body = _json({**json.loads(known), "clip": None})
        connection.execute(update(table).where(table.c.id == identity).values(body=body))


def _json(values: dict[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace").decode()  # half a surrogate pair becomes an escape of JSON


def _storable(text: str) -> str:
    """Without half surrogate pairs, which no database can hold, and NUL, which PostgreSQL cannot."""
    return text.encode(errors="replace").decode().replace("\0", " ")


def _unix(start: str | None) -> float:
    return time.time() if start is None else datetime.fromisoformat(start).timestamp()


def _letters_after(connection: Connection, number: int, limit: int) -> tuple[list[Letter], int]:
    from sqlalchemy import func, select  # noqa: PLC0415

    table = tables().letters
    rows = connection.execute(
        select(table.c.number, table.c.raised, table.c.body)
        .where(table.c.number > number)
        .order_by(table.c.number)
        .limit(limit)
    ).all()
    letters = [Letter(*row) for row in rows]
    if len(letters) < limit:
        return letters, 0
    last = letters[-1].number
    return letters, connection.execute(select(func.count()).where(table.c.number > last)).scalar_one()


def _count_letters(connection: Connection) -> int:
    from sqlalchemy import func, select  # noqa: PLC0415

    return int(connection.execute(select(func.count()).select_from(tables().letters)).scalar_one())


def _highest_letter(connection: Connection) -> int:
    from sqlalchemy import func, select  # noqa: PLC0415

    return connection.execute(select(func.max(tables().letters.c.number))).scalar_one() or 0
