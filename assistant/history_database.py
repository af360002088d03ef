"""The database of the history: its settings, tables and connections, SQLite or PostgreSQL, and its errors in words."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from assistant.errors import HistoryError
from assistant.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

FILE = "history.db"
REVISION = "0001"  # the newest of migrations/
STATEMENT = 10.0  # seconds that one statement, or connecting, may take
URL_REMEDY = (
    "url must read postgresql://user:password@host:port/database; write : / and @ in a password as %3A, %2F and %40"
)


class HistorySettings(Settings):
    """Where events are remembered, and for how long."""

    enabled: bool = Field(
        default=True, description="false: nothing is written; events wait for the broker in memory alone"
    )
    path: Path | None = Field(default=None, description="SQLite file; default: history.db in the state folder")
    url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host/database in place of a file (extra: postgres)"
    )
    days: float = Field(default=365, gt=0, le=36_500, description="older events are deleted")
    megabytes: float = Field(default=500, ge=1, description="of a larger SQLite file the oldest events are deleted")

    @field_validator("path")
    @classmethod
    def _at_home(cls, path: Path | None) -> Path | None:
        try:
            return None if path is None else path.expanduser()
        except RuntimeError:
            raise ValueError(f"{path}: there is no such home directory; write the whole path") from None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.path is not None and self.url is not None:
            raise ValueError("path and url are both given: remove one")
        if self.url is not None and not _is_of_a_server(self.url.get_secret_value()):
            raise ValueError(URL_REMEDY)
        return self


@dataclass(frozen=True, slots=True)
class Tables:
    """Both tables, as SQLAlchemy's."""

    events: Any
    letters: Any


_known_tables: list[Tables] = []


def tables() -> Tables:
    """The tables as `migrations/` makes them."""
    if not _known_tables:
        from sqlalchemy import Column, Double, Integer, MetaData, String, Table, Text  # noqa: PLC0415

        metadata = MetaData()
        events = Table(
            "events",
            metadata,
            Column("id", String(26), primary_key=True),
            Column("room", String, nullable=False),
            Column("kind", String, nullable=False),
            Column("event_type", String, nullable=False),
            Column("start", Double, nullable=False),  # Unix seconds
            Column("text", Text),
            Column("body", Text, nullable=False),  # the event's JSON
        )
        letters = Table(
            "letters",
            metadata,
            Column("number", Integer, primary_key=True),
            Column("raised", Double, nullable=False),  # Unix seconds
            Column("body", Text, nullable=False),
        )
        _known_tables.append(Tables(events, letters))
    return _known_tables[0]


def engine_of(settings: HistorySettings, path: Path | None, *, reading: bool = False) -> Engine:
    """An engine with one connection. Raises `HistoryError` without the driver, or a wrong URL."""
    from sqlalchemy import URL, create_engine, event, make_url  # noqa: PLC0415 (takes a quarter of a second)
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    if settings.url is not None:
        try:
            url = make_url(settings.url.get_secret_value()).set(drivername="postgresql+psycopg")
            return create_engine(
                url,
                poolclass=NullPool,
                connect_args={
                    "connect_timeout": round(STATEMENT),
                    # the server, too, is to find out that we are gone: it holds the lock for us
                    "options": " ".join(
                        f"-c {name}={value}"
                        for name, value in {
                            "statement_timeout": round(STATEMENT * 1000),
                            "tcp_keepalives_idle": 5,
                            "tcp_keepalives_interval": 2,
                            "tcp_keepalives_count": 3,
                        }.items()
                    ),
                    "tcp_user_timeout": round(STATEMENT * 1000),
                    "keepalives_idle": 5,
                    "keepalives_interval": 2,
                    "keepalives_count": 3,
                },
            )
        except ModuleNotFoundError as error:
            raise HistoryError(
                f"history.url needs the package {error.name}; remedy: pip install 'kikimimi[postgres]'"
            ) from None
        except (ArgumentError, ValueError):  # its text may quote a piece of the password
            raise HistoryError(f"history.{URL_REMEDY}") from None
    assert path is not None  # noqa: S101 - the only other place
    if not reading:
        path.touch(mode=0o600)  # SQLite's own would be readable by all
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, connect_args={"timeout": 5.0})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's, through SQLAlchemy
        connection.isolation_level = None  # transactions as SQLAlchemy begins them, tables included
        if reading:  # SQLite's own knows no letters beyond ASCII
            connection.create_function("lower", 1, lambda text: text and text.lower(), deterministic=True)
        for pragma in (
            ("query_only = ON",)
            if reading
            else (
                "auto_vacuum = INCREMENTAL",  # before the first table
                "journal_mode = WAL",
                "synchronous = FULL",  # an event that is offered to the broker must survive a power cut
                "journal_size_limit = 16000000",
            )
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest revision of `migrations/`, which is `REVISION`."""
    from sqlalchemy import inspect, text  # noqa: PLC0415

    with connection.begin():
        if inspect(connection).has_table("alembic_version"):
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
            if revision == REVISION:  # nearly always; Alembic takes half a second to import
                return
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    for name in ("alembic.runtime.migration", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        if "Can't locate revision" not in str(error):
            raise
        raise HistoryError(
            "a newer kikimimi has changed its tables; remedy: update this one, or give it a history of its own "
            "(history.path or history.url)"
        ) from None


def damage_of(connection: Connection) -> str | None:
    """What SQLite's own check finds wrong with the file."""
    from sqlalchemy import text  # noqa: PLC0415

    with connection.begin():
        found = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
    return None if found == "ok" else str(found)


def _is_of_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = 5432 if parts.port is None else parts.port
    except ValueError:
        return False
    return parts.scheme in ("postgresql", "postgres") and port > 0


def shown(settings: HistorySettings) -> str:
    """The server without its password."""
    assert settings.url is not None  # noqa: S101 - asked only for a server
    parts = urlsplit(settings.url.get_secret_value())
    return f"postgresql://{parts.hostname}:{parts.port or 5432}{parts.path}"


def is_of_the_data(error: Exception) -> bool:
    """Whether one row is at fault rather than the database."""
    from sqlalchemy.exc import DataError, IntegrityError, StatementError  # noqa: PLC0415

    cause = error.orig if isinstance(error, StatementError) else error
    return isinstance(error, DataError | IntegrityError) or isinstance(cause, ValueError | TypeError | OverflowError)


def is_damage(error: Exception) -> bool:
    """Whether the file is broken rather than the disk full or the server away."""
    text = reason_of(error).lower()  # not the error's: that quotes events
    return "malformed" in text or "not a database" in text


def reason_of(error: Exception) -> str:
    """The database's own words on one line, without the statement and its values: those are events."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}"
    return " ".join(str(cause).split()) or type(cause).__name__


def remedy_of(reason: str, file: bool) -> str:
    """What a person can do about it."""
    text = reason.lower()
    if "full" in text or "no space" in text:
        return "free some space on that disk, or lower history.megabytes"
    if "readonly" in text or "read-only" in text or "permission" in text or "unable to open" in text:
        return "check the owner and rights of the file and its folder"
    if "remedy: " in text:
        return text.split("remedy: ", 1)[1]
    return "see the reason" if file else "check history.url and the server"
