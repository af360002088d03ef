"""`kikimimi events`: what was heard, out of the history."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from typing import Any, TextIO

import platformdirs

from assistant import history_reading
from assistant.errors import ConfigurationError
from assistant.history_database import HistorySettings
from assistant.history_reading import Wanted
from assistant.rules import duration

MOST = 1_000_000  # events at once


def wanted(
    *,
    since: str | None = None,
    until: str | None = None,
    room: str | None = None,
    event_type: str | None = None,
    text: str | None = None,
    limit: int = 100,
) -> Wanted:
    """What the options of the command line ask for. Raises `ConfigurationError`."""
    if not 1 <= limit <= MOST:
        raise ConfigurationError(f"--limit {limit}: between 1 and {MOST}")
    begin = None if since is None else moment(since, "--since")
    end = None if until is None else moment(until, "--until")
    if begin is not None and end is not None and begin >= end:
        raise ConfigurationError("--since is later than --until; remedy: exchange them")
    return Wanted(
        since=begin,
        until=end,
        rooms=() if room is None else (room,),
        event_types=() if event_type is None else (event_type,),
        text=text,
        limit=limit,
    )


def moment(text: str, option: str) -> float:
    """Unix seconds of `today`, `yesterday`, an age such as `2 h`, or an ISO date, local if it names no time zone."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    match text.strip().lower():
        case "today":
            return midnight.timestamp()
        case "yesterday":
            return (midnight - timedelta(days=1)).timestamp()
    try:
        return datetime.fromisoformat(text.strip()).astimezone().timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        return time.time() - duration(text)
    except ValueError:
        raise ConfigurationError(
            f'{option} {text}: not a time; remedy: today, an age such as "2 h", or a date such as 2026-11-28T22:00'
        ) from None


def show(settings: HistorySettings, wanted: Wanted, out: TextIO, *, as_json: bool = False) -> None:
    """Write the events that are wanted, the oldest first; what `out` cannot show is escaped. Raises `HistoryError`."""
    encoding = out.encoding or "utf-8"
    for event in history_reading.read(settings, platformdirs.user_state_path("kikimimi"), wanted):
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) if as_json else _readable(event)
        out.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _readable(event: dict[str, Any]) -> str:
    """`2026-11-28 22:00:01  kitchen  smoke_alarm  Smoke detector, smoke alarm 94 %, 12.3 s`."""
    start = datetime.fromisoformat(event["start"]).astimezone().strftime("%Y-%m-%d %H:%M:%S") if event["start"] else "-"
    if event["kind"] == "speech":
        what = f"“{event['text']}”" if event["text"] else "something was said"
        notes = [event["language"]] if event["language"] else []
    else:
        what = event["caption"] or event["label"]
        notes = [] if event["score"] is None else [f"{100 * event['score']:.0f} %"]
    if event["duration"] is not None:
        notes.append(f"{event['duration']:.1f} s")
    line = f"{start}  {event['room']}  {event['event_type']}  {what}{' ' if notes else ''}{', '.join(notes)}"
    return "".join(sign if sign.isprintable() else " " for sign in line)
