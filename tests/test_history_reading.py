"""Pages and counts of a history, in SQLite and, where it is installed, PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from histories import emptied, sound, speech
from outputs.brokers import until
from pydantic import SecretStr

from assistant import history_reading
from assistant.errors import HistoryError
from assistant.events import Event, iso
from assistant.history import History
from assistant.history_database import HistorySettings, engine_of
from assistant.history_reading import HistoryReader, Wanted

T0 = 1_790_000_100.0  # a quarter of an hour begins


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest) -> HistorySettings:
    if request.param == "sqlite":
        return HistorySettings()
    url = request.getfixturevalue("postgres")
    emptied(url)
    return HistorySettings(url=SecretStr(url))


@pytest.fixture
async def reader(settings: HistorySettings, tmp_path: Path) -> AsyncIterator[HistoryReader]:
    made = HistoryReader(settings, tmp_path)
    yield made
    made.close()


async def remember(settings: HistorySettings, folder: Path, events: Sequence[Event]) -> None:
    store = History(settings, folder)
    store.start()
    for event in events:
        store.record(event)
    await until(lambda: store.events + store.lost == len(events))
    await store.close()


def at(seconds: float) -> str:
    return iso(T0 + seconds)


def ids(page: Sequence[dict[str, object]]) -> str:
    return "".join(str(event["id"]) for event in page)


async def test_before_the_first_event_there_is_nothing(tmp_path: Path):
    reader = HistoryReader(HistorySettings(), tmp_path)
    assert await reader.page(Wanted()) == []
    assert await reader.event("A") is None
    assert await reader.counts(Wanted()) == []
    assert not (tmp_path / "history.db").exists()  # and none is made
    reader.close()


async def test_while_the_tables_are_made_there_is_nothing(
    settings: HistorySettings, reader: HistoryReader, tmp_path: Path
):
    engine_of(settings, tmp_path / "history.db").connect().close()  # an empty database
    assert await reader.page(Wanted()) == []
    assert await reader.counts(Wanted()) == []


async def test_pages_go_back_in_time_without_gap_or_repetition(
    settings: HistorySettings, reader: HistoryReader, tmp_path: Path
):
    # D, E and F began at once
    times = {"A": 0, "B": 1, "C": 2, "D": 3, "E": 3, "F": 3, "G": 4}
    await remember(settings, tmp_path, [sound(one, start=at(second)) for one, second in times.items()])

    told, before = "", None
    for _ in range(3):
        page = await reader.page(Wanted(limit=3, before=before))
        told += ids(page) + " "
        before = (T0 + times[str(page[-1]["id"])], str(page[-1]["id"]))
    assert told == "GFE DCB A "
    assert await reader.page(Wanted(limit=3, before=before)) == []


async def test_several_rooms_and_types_are_one_page(settings: HistorySettings, reader: HistoryReader, tmp_path: Path):
    rooms, types = ("kitchen", "hall", "garden"), ("cat", "doorbell", "siren")
    events = [
        sound(chr(65 + i), start=at(i), room=rooms[i % 3], event_type=types[i // 3 % 3]) for i in range(18)
    ]  # A is a cat in the kitchen, B one in the hall …
    await remember(settings, tmp_path, events)

    assert ids(await reader.page(Wanted(rooms=("kitchen", "garden"), limit=4))) == "RPOM"
    assert ids(await reader.page(Wanted(event_types=("cat", "siren"), limit=5))) == "RQPLK"
    assert ids(await reader.page(Wanted(rooms=("hall", "garden"), event_types=("cat", "siren")))) == "RQLKIHCB"
    assert ids(await reader.page(Wanted(rooms=("nowhere",)))) == ""


async def test_one_event_is_found_by_its_id(settings: HistorySettings, reader: HistoryReader, tmp_path: Path):
    await remember(settings, tmp_path, [sound("A"), speech("B", "Good night")])
    event = await reader.event("B")
    assert event is not None
    assert event["text"] == "Good night"
    assert await reader.event("' OR 1=1 --") is None


async def test_events_are_counted_by_quarters_of_an_hour(
    settings: HistorySettings, reader: HistoryReader, tmp_path: Path
):
    quarter = int(T0 // 900)
    await remember(
        settings,
        tmp_path,
        [
            sound("A", start=at(0)),
            sound("B", start=at(899.999), room="hall"),
            sound("C", start=at(900), event_type="cat"),
            speech("D", "Turn on the light", start=at(900)),
        ],
    )

    async def counted(*, by_type: bool = True, **wanted: object) -> dict[tuple[str, int], int]:
        counts = await reader.counts(Wanted(**wanted), by_type=by_type)  # type: ignore[arg-type]
        return {(one.event_type, one.slot - quarter): one.count for one in counts}

    assert await counted() == {("dog_bark", 0): 2, ("cat", 1): 1, ("speech", 1): 1}
    assert await counted(by_type=False) == {("", 0): 2, ("", 1): 2}
    assert await counted(rooms=("hall", "garden")) == {("dog_bark", 0): 1}
    assert await counted(event_types=("cat",), since=T0, until=T0 + 900) == {}
    assert await counted(text="LIGHT") == {("speech", 1): 1}
    assert await counted(kind="sound", since=T0 + 100) == {("dog_bark", 0): 1, ("cat", 1): 1}


async def test_a_question_that_takes_too_long_is_given_up(
    settings: HistorySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    await remember(settings, tmp_path, [speech(f"{i:05}", "good night") for i in range(3_000)])
    reader = HistoryReader(settings, tmp_path, within=0.001)
    monkeypatch.setattr(history_reading, "STEPS", 100)
    with pytest.raises(HistoryError, match="no answer within"):
        await reader.page(Wanted(text="elephant", limit=1))
    reader.close()


async def test_a_reader_does_not_wait_for_the_writer(tmp_path: Path):
    settings = HistorySettings()
    await remember(settings, tmp_path, [sound("A")])
    written, read = threading.Event(), threading.Event()

    def write() -> None:
        connection = engine_of(settings, tmp_path / "history.db").connect()
        with connection.begin():  # takes the lock of the writer
            written.set()
            read.wait(10)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    await asyncio.to_thread(written.wait, 10)
    reader = HistoryReader(settings, tmp_path)
    try:
        assert ids(await asyncio.wait_for(reader.page(Wanted()), 3.0)) == "A"
    finally:
        read.set()
        writer.join()
        reader.close()


async def test_a_slow_question_does_not_hold_up_a_quick_one_and_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = HistorySettings()
    await remember(settings, tmp_path, [sound("A")])
    reader = HistoryReader(settings, tmp_path)
    go = threading.Event()
    slow = asyncio.create_task(reader._asked(lambda _connection: go.wait(10), None))
    await asyncio.sleep(0.1)
    try:
        assert ids(await reader.page(Wanted())) == "A"
        monkeypatch.setattr(history_reading, "WAITING", 1)
        with pytest.raises(HistoryError, match="too many"):
            await reader.page(Wanted())
    finally:
        go.set()
    assert await slow
    reader.close()


async def test_a_file_that_cannot_be_read_is_told_without_its_events(tmp_path: Path):
    (tmp_path / "history.db").write_bytes(b"this is no database, it is a letter to a friend" * 100)
    reader = HistoryReader(HistorySettings(), tmp_path)
    with pytest.raises(HistoryError, match=r"history.db: the history cannot be read: file is not a database"):
        await reader.page(Wanted())
    reader.close()


async def test_pages_stay_whole_while_it_is_written(tmp_path: Path):
    """Whoever reads on while events come sees each of the older ones once."""
    settings = HistorySettings()
    store = History(settings, tmp_path)
    store.start()
    reader = HistoryReader(settings, tmp_path)
    for i in range(200):
        store.record(sound(f"{i:04}", start=at(i)))
    await until(lambda: store.events == 200)

    seen: Counter[str] = Counter()
    page = await reader.page(Wanted(limit=20))
    number = 200
    while page:
        seen.update(str(event["id"]) for event in page)
        store.record(sound(f"{number:04}", start=at(number)))
        number += 1
        last = str(page[-1]["id"])
        page = await reader.page(Wanted(limit=20, before=(T0 + int(last), last)))
    assert sorted(seen) == [f"{i:04}" for i in range(200)]
    assert set(seen.values()) == {1}
    reader.close()
    await store.close()
