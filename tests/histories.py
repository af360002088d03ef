"""Events to remember, and an empty PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from assistant.events import Event, State
from assistant.history_database import HistorySettings, engine_of, tables, upgrade


def sound(identity: str = "A", **fields: object) -> Event:
    known = {"room": "kitchen", "state": State.STARTED, "event_type": "dog_bark", "label": "Dog", "score": 0.9}
    start = {"start": "2026-09-21T13:46:40+00:00"}
    return Event(id=identity, source="mic", kind="sound", **{**known, **start, **fields})  # type: ignore[arg-type]


def speech(identity: str, text: str | None, **fields: object) -> Event:
    known = {"room": "kitchen", "start": "2026-09-21T13:46:41+00:00", "language": "en"}
    return Event(
        id=identity,
        source="mic",
        kind="speech",
        state=State.HEARD,
        event_type="speech",
        label="Speech",
        score=0.8,
        text=text,
        **{**known, **fields},  # type: ignore[arg-type]
    )


def remembered(path: Path, events: Sequence[Event]) -> None:
    """A new history file that holds these events, as a daemon would have written it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with engine_of(HistorySettings(), path).connect() as connection:
        upgrade(connection)
        rows = [
            {
                "id": event.id,
                "room": event.room,
                "kind": event.kind,
                "event_type": event.event_type,
                "start": datetime.fromisoformat(event.start or "").timestamp(),
                "text": event.text,
                "body": json.dumps(event.to_json(), ensure_ascii=False),
            }
            for event in events
        ]
        with connection.begin():
            connection.execute(tables().events.insert(), rows)


def emptied(url: str) -> None:
    import psycopg  # noqa: PLC0415

    with psycopg.connect(url) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
