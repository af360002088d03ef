from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from assistant.local_time import SLOT, by_day, by_hour, day_of, span_of, zone_of


def slot(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) // SLOT


def test_a_day_begins_at_midnight_there() -> None:
    begin, end = span_of(date(2026, 11, 28), zone_of("Asia/Tokyo"))
    assert datetime.fromtimestamp(begin, UTC).isoformat() == "2026-11-27T15:00:00+00:00"
    assert end - begin == 24 * 3600


def test_days_on_which_the_clocks_change_are_shorter_or_longer() -> None:
    berlin = zone_of("Europe/Berlin")
    spring, autumn = span_of(date(2026, 3, 29), berlin), span_of(date(2026, 10, 25), berlin)
    assert spring[1] - spring[0] == 23 * 3600
    assert autumn[1] - autumn[0] == 25 * 3600


def test_hours_are_those_of_the_zone_also_with_half_and_quarter_hours() -> None:
    counts = [(slot("2026-11-28T00:00:00+00:00"), 2), (slot("2026-11-28T00:15:00+00:00"), 3)]
    assert by_hour(counts, zone_of("UTC"))[:2] == [5, 0]
    kathmandu = by_hour(counts, zone_of("Asia/Kathmandu"))  # 5:45
    assert (kathmandu[5], kathmandu[6]) == (2, 3)


def test_the_hour_that_comes_twice_in_autumn_is_one() -> None:
    twice = [(slot("2026-10-25T00:30:00+00:00"), 1), (slot("2026-10-25T01:30:00+00:00"), 1)]
    assert by_hour(twice, zone_of("Europe/Berlin"))[2] == 2


def test_days_are_those_of_the_zone() -> None:
    counts = [(slot("2026-11-28T20:00:00+00:00"), 1), (slot("2026-11-28T03:00:00+00:00"), 4)]
    assert by_day(counts, zone_of("Asia/Tokyo")) == {date(2026, 11, 28): 4, date(2026, 11, 29): 1}
    assert by_day(counts, zone_of("UTC")) == {date(2026, 11, 28): 5}
    assert list(by_day(counts, zone_of("America/Los_Angeles"))) == [date(2026, 11, 27), date(2026, 11, 28)]


@pytest.mark.parametrize("name", ["", "Nowhere/Land", "../../etc/passwd", "/etc/passwd", "Europe", "a" * 300, "UTC\0"])
def test_zones_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        zone_of(name)


@pytest.mark.parametrize("text", ["2026-02-30", "yesterday", "0001-01-01", "9999-12-31", ""])
def test_days_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        day_of(text)
