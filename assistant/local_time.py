"""Days and hours of a time zone: where they begin, and which of them a quarter of an hour belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

SLOT = 900  # seconds: the offset of every time zone is a multiple of a quarter of an hour
HOURS = 24


@lru_cache(maxsize=16)
def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name. Raises `ValueError` for one that nobody knows."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError, a path, a folder of zones
        raise ValueError(f"there is no time zone {name}; remedy: one as Europe/Berlin, or UTC") from error


def day_of(text: str) -> date:
    """A day as `2026-11-28`. Raises `ValueError`."""
    day = date.fromisoformat(text)
    if not 1970 < day.year < 9999:
        raise ValueError(f"{text} is too far away")
    return day


def span_of(day: date, zone: ZoneInfo) -> tuple[float, float]:
    """Unix seconds at which a day begins and ends there; in spring it may have 23 hours."""
    begin = datetime.combine(day, time.min, zone)
    return begin.timestamp(), datetime.combine(day + timedelta(days=1), time.min, zone).timestamp()


def by_hour(counts: Iterable[tuple[int, int]], zone: ZoneInfo) -> list[int]:
    """Of counts by slot (quarters of an hour since 1970) how many fall into each hour of a day."""
    hours = [0] * HOURS
    for slot, count in counts:
        hours[_local(slot, zone).hour] += count
    return hours


def by_day(counts: Iterable[tuple[int, int]], zone: ZoneInfo) -> dict[date, int]:
    """Of counts by slot how many fall into each day; only days with any, in their order."""
    days: dict[date, int] = {}
    for slot, count in sorted(counts):
        day = _local(slot, zone).date()
        days[day] = days.get(day, 0) + count
    return days


def _local(slot: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(slot * SLOT, UTC).astimezone(zone)
