"""The history in real databases: SQLite always, PostgreSQL where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from histories import emptied, sound, speech
from outputs.brokers import free_port, until
from pydantic import SecretStr, ValidationError

from assistant import history
from assistant.errors import HistoryError
from assistant.events import State, Word
from assistant.history import History, Letter
from assistant.history_database import FILE, REVISION, HistorySettings
from assistant.history_reading import Wanted, read

Start = Callable[..., Awaitable[History]]
T0 = 1_790_000_000.0


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> HistorySettings:
    if request.param == "sqlite":
        return HistorySettings()
    url = request.getfixturevalue("postgres")
    emptied(url)
    return HistorySettings(url=SecretStr(url))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """A maker of histories in one folder, closed at the end."""
    made: list[History] = []

    async def make(settings: HistorySettings) -> History:
        made.append(History(settings, tmp_path))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def kept(store: History, body: str, raised: float = T0) -> int | None:
    answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    store.put(raised, body, answer.set_result)
    return await asyncio.wait_for(answer, 10)


async def letters(store: History, after: int = 0, limit: int = 100) -> tuple[Sequence[Letter] | None, int]:
    answer: asyncio.Future[tuple[Sequence[Letter] | None, int]] = asyncio.get_running_loop().create_future()
    store.after(after, limit, lambda found, behind: answer.set_result((found, behind)))
    return await asyncio.wait_for(answer, 10)


async def told(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await until(lambda: any(text in record.getMessage() for record in caplog.records))


# what is remembered


async def test_a_sound_is_one_event_that_its_end_completes(settings: HistorySettings, start: Start, tmp_path: Path):
    store = await start(settings)
    begun = sound(heard_at=3.5, latency=0.04)
    store.record(begun)
    store.record(replace(begun, state=State.ENDED, duration=2.5, score=0.95, heard_at=9.0, caption="a dog"))
    await until(lambda: store.events == 2)

    (event,) = read(settings, tmp_path, Wanted())
    assert (event["state"], event["duration"], event["score"], event["caption"]) == ("ended", 2.5, 0.95, "a dog")
    assert (event["heard_at"], event["latency"]) == (3.5, 0.04)  # when it was told is that of its beginning


async def test_what_is_remembered_is_the_event_as_it_was_told(settings: HistorySettings, start: Start, tmp_path: Path):
    store = await start(settings)
    event = speech("B", "電気を\0つけて 'x\"", words=(Word("電気", 0.1, 0.4),), language="ja")
    store.record(event)
    await until(lambda: store.events + store.lost == 1)

    (found,) = read(settings, tmp_path, Wanted())
    assert found == json.loads(json.dumps(event.to_json()))


async def test_a_clip_that_came_to_nothing_is_not_named(settings: HistorySettings, start: Start, tmp_path: Path):
    history = await start(settings)
    for identity in ("A", "B"):
        history.record(sound(identity, clip=f"2026-09-21/{identity}.flac"))
    history.without_clip("A")
    history.without_clip("nobody")
    await history.close()
    assert {body["id"]: body["clip"] for body in read(settings, tmp_path, Wanted())} == {
        "A": None,
        "B": "2026-09-21/B.flac",
    }


async def test_events_are_found_by_time_room_type_and_text(settings: HistorySettings, start: Start, tmp_path: Path):
    store = await start(settings)
    store.record(sound("A", start="2026-09-21T10:00:00+00:00"))
    store.record(sound("B", start="2026-09-21T11:00:00+00:00", room="garden"))
    store.record(sound("C", start="2026-09-21T12:00:00+00:00", event_type="doorbell"))
    store.record(speech("D", "Turn on the LIGHT, 100%", start="2026-09-21T13:00:00+00:00"))
    store.record(speech("E", None, start="2026-09-21T14:00:00+00:00"))
    await until(lambda: store.events == 5)

    def ids(**wanted: object) -> str:
        return "".join(event["id"] for event in read(settings, tmp_path, Wanted(**wanted)))  # type: ignore[arg-type]

    noon = 1_789_992_000.0
    assert ids() == "ABCDE"
    assert ids(since=noon) == "CDE"
    assert ids(until=noon) == "AB"
    assert ids(rooms=("garden",)) == "B"
    assert ids(event_types=("doorbell",)) == "C"
    assert ids(text="light") == "D"
    assert ids(text="100%") == "D"
    assert ids(text="0_") == ""
    assert ids(limit=2) == "DE"
    assert ids(kind="speech") == "DE"


async def test_words_are_found_in_any_case_beyond_ascii(start: Start, tmp_path: Path):
    store = await start(HistorySettings())
    store.record(speech("A", "Ärger mit dem ÖL"))
    store.record(speech("B", None))
    await until(lambda: store.events == 2)
    for text in ("ärger", "ÄRGER", "öl"):
        assert [event["id"] for event in read(HistorySettings(), tmp_path, Wanted(text=text))] == ["A"]


async def test_a_new_run_goes_on_where_the_last_ended(settings: HistorySettings, start: Start, tmp_path: Path):
    first = await start(settings)
    first.record(sound("A"))
    await kept(first, "one")
    await first.close()
    second = await start(settings)
    second.record(sound("B"))
    number = await kept(second, "two")
    found, behind = await letters(second)

    assert found is not None
    assert [(letter.body, letter.raised) for letter in found] == [("one", T0), ("two", T0)]
    assert (found[1].number, behind) == (number, 0)
    assert len(read(settings, tmp_path, Wanted())) == 2


# what waits for the broker


async def test_letters_come_in_order_page_by_page(settings: HistorySettings, start: Start):
    store = await start(settings)
    numbers = [await kept(store, str(index)) for index in range(5)]
    first, behind = await letters(store, limit=2)
    assert first is not None
    assert ([letter.body for letter in first], behind) == (["0", "1"], 3)
    rest, behind = await letters(store, after=first[-1].number, limit=10)
    assert rest is not None
    assert ([letter.body for letter in rest], behind) == (["2", "3", "4"], 0)

    store.drop(numbers[4] or 0)
    store.drop(numbers[0] or 0)
    left, _ = await letters(store)
    assert left is not None
    assert [letter.body for letter in left] == ["1", "2", "3"]
    later = await kept(store, "5")
    assert later is not None
    assert later > (numbers[4] or 0)  # a number is never used again
    assert store.health()["unsent"] == 4


async def test_too_many_letters_shed_the_oldest(
    settings: HistorySettings, start: Start, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history, "LETTERS", 3)
    store = await start(settings)
    for index in range(5):
        await kept(store, str(index))
    left, _ = await letters(store)
    assert left is not None
    assert [letter.body for letter in left] == ["2", "3", "4"]
    assert store.health()["shed"] == 2


async def test_what_comes_at_once_shares_a_commit(start: Start):
    store = await start(HistorySettings())
    await kept(store, "warm")
    answers: list[int | None] = []
    began = time.monotonic()
    for index in range(2_000):
        store.put(T0, str(index), answers.append)
    await until(lambda: len(answers) == 2_000)
    assert time.monotonic() - began < 20.0
    assert answers == sorted(answers)  # type: ignore[type-var]


async def test_more_than_the_disk_can_take_is_told_at_once(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "WAITING", 10)
    store = await start(HistorySettings())
    await kept(store, "warm")
    held = threading.Event()
    store._ask(history._Change(lambda _connection: held.wait(10), None))
    await asyncio.sleep(0.2)
    answers: list[int | None] = []
    for index in range(30):
        store.put(T0, str(index), answers.append)
        store.record(sound(str(index)))
    assert answers.count(None) >= 20
    assert store.lost >= 20
    held.set()
    await until(lambda: len(answers) == 30)


# what goes wrong


async def test_half_a_character_is_kept_and_found(
    settings: HistorySettings, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = await start(settings)
    event = speech("A", "half \ud800 of a pair", caption="\udc00")
    store.record(event)
    store.record(sound("B"))
    await until(lambda: store.events + store.lost == 2)
    assert store.lost == 0
    assert read(settings, tmp_path, Wanted(text="half"))[0] == event.to_json()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_an_event_that_cannot_be_held_is_not_a_broken_disk(start: Start, caplog: pytest.LogCaptureFixture):
    store = await start(HistorySettings())
    store.record(sound("A", room="half \ud800"))
    store.record(sound("B"))
    await until(lambda: store.events == 1 and store.lost == 1)
    assert store.health()["ok"]
    await told(caplog, "cannot hold an event")


async def test_the_end_comes_though_too_much_waits(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "WAITING", 10)
    store = await start(HistorySettings())
    await kept(store, "warm")
    held = threading.Event()
    store._ask(history._Change(lambda _connection: held.wait(10), None))
    await asyncio.sleep(0.2)
    answers: list[int | None] = []
    while None not in answers:
        store.put(T0, "x", answers.append)
    asyncio.get_running_loop().call_later(0.2, held.set)
    await store.close()
    assert store._thread is not None
    await asyncio.to_thread(store._thread.join, 5)
    assert not store._thread.is_alive()
    assert answers.count(None) == 1  # all that waited was written


async def test_a_writer_that_broke_keeps_nobody_waiting(start: Start, monkeypatch: pytest.MonkeyPatch):
    store = await start(HistorySettings())
    await kept(store, "warm")
    monkeypatch.setattr(store, "_write", lambda _batch: 1 / 0)
    assert await kept(store, "breaks it") is None
    await until(lambda: store._thread is not None and not store._thread.is_alive())
    assert await kept(store, "x") is None
    store.record(sound())
    assert store.lost == 1
    assert store.health()["ok"] is False


async def test_who_fails_on_its_answer_costs_no_other_its_own(start: Start, caplog: pytest.LogCaptureFixture):
    store = await start(HistorySettings())
    answers: list[int | None] = []
    store.put(T0, "a", lambda _number: 1 / 0)  # type: ignore[arg-type,return-value]
    store.put(T0, "b", answers.append)
    await until(lambda: answers == [2])
    await told(caplog, "failed on the answer")


async def test_a_file_that_is_damaged_while_it_is_used(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(history, "PROBE", 0.2)
    store = await start(HistorySettings())
    for index in range(5):
        await kept(store, f"letter {index}")
    damaged = threading.Event()

    def damage(connection: object) -> None:
        if not damaged.is_set():
            damaged.set()
            raise sqlite3.DatabaseError("database disk image is malformed")

    store._ask(history._Change(damage, None))
    assert await kept(store, "meanwhile") is None
    await asyncio.sleep(0.3)
    number = await kept(store, "after")
    assert number is not None
    assert number > 5  # what is in flight must not be taken for something else
    found, _ = await letters(store)
    assert found is not None
    assert [letter.body for letter in found] == [*(f"letter {index}" for index in range(5)), "after"]
    assert (tmp_path / "history.damaged").exists()
    await told(caplog, "5 messages that had not arrived were saved")


async def test_words_of_an_event_are_no_damage(start: Start, tmp_path: Path):
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415

    error = OperationalError("INSERT", {"text": "a malformed sentence"}, sqlite3.OperationalError("disk is full"))
    assert not history.is_damage(error)


async def test_tables_of_a_newer_version(
    settings: HistorySettings, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    from sqlalchemy import text  # noqa: PLC0415

    monkeypatch.setattr(history, "PROBE", 0.2)
    store = await start(settings)
    await kept(store, "one")
    answer = asyncio.Event()
    change = text("UPDATE alembic_version SET version_num = '9999'")
    store._ask(history._Change(lambda connection: connection.execute(change), lambda _outcome: answer.set()))
    await asyncio.wait_for(answer.wait(), 5)
    await store.close()
    older = await start(settings)
    assert await kept(older, "two") is None
    await told(caplog, "a newer kikimimi has changed its tables; remedy: update this one")
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


async def test_a_share_that_knows_no_locks_is_used_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refused(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    store = await start(HistorySettings())
    assert await kept(store, "x") == 1
    await told(caplog, "no lock (No locks available)")


async def test_two_daemons_on_one_server(postgres: str, start: Start, caplog: pytest.LogCaptureFixture):
    emptied(postgres)
    settings = HistorySettings(url=SecretStr(postgres))
    first = await start(settings)
    assert await kept(first, "mine") == 1
    second = await start(settings)
    assert await kept(second, "not mine") is None
    await told(caplog, "another daemon writes there; remedy: stop it, or give this one a history.url")
    await first.close()
    third = await start(settings)
    assert await kept(third, "again") == 2


async def test_a_server_that_ends_the_connection_is_asked_again(
    postgres: str, start: Start, monkeypatch: pytest.MonkeyPatch
):
    import psycopg  # noqa: PLC0415

    monkeypatch.setattr(history, "PROBE", 0.2)
    emptied(postgres)
    store = await start(HistorySettings(url=SecretStr(postgres)))
    number = await kept(store, "before")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(  # and waits until it is gone
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    meanwhile = await kept(store, "meanwhile")  # None, unless the server was asked again before that
    store.drop(number or 0)
    await asyncio.sleep(0.5)
    assert await kept(store, "after") is not None
    found, _ = await letters(store)
    assert found is not None
    assert [letter.body for letter in found] == (["after"] if meanwhile is None else ["meanwhile", "after"])


async def test_a_server_is_not_emptied_by_its_size(postgres: str, start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "MB", 1_000)  # its tables do not shrink when rows are deleted
    emptied(postgres)
    settings = HistorySettings(url=SecretStr(postgres), megabytes=1)
    store = await start(settings)
    for index in range(50):
        store.record(sound(str(index)))
    await until(lambda: store.events == 50)
    store._tidied = 0.0
    for _ in range(3):
        await kept(store, "wake")
    assert store.health()["mb"] > 1
    assert len(read(settings, Path(), Wanted())) == 50


async def test_a_damaged_file_is_put_aside_and_its_letters_are_saved(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = await start(HistorySettings())
    for index in range(3):
        await kept(store, f"letter {index}")
    for index in range(400):
        store.record(sound(str(index), label="x" * 500))
    await until(lambda: store.events == 400)
    await store.close()
    file = tmp_path / FILE
    with sqlite3.connect(file) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    with file.open("r+b") as damaged:
        damaged.seek((root - 1) * 4096)
        damaged.write(b"\xff" * 4096)

    again = await start(HistorySettings())
    found, _ = await letters(again)
    assert found is not None
    assert [letter.body for letter in found] == ["letter 0", "letter 1", "letter 2"]
    assert (tmp_path / "history.damaged").exists()
    await told(caplog, "is damaged")
    again.record(sound("new"))
    await until(lambda: again.events == 1)


async def test_what_is_no_database_is_put_aside(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / FILE).write_bytes(b"this is a letter to my aunt, not a database" * 100)
    store = await start(HistorySettings())
    assert await kept(store, "one") == 1
    await told(caplog, "is damaged")
    assert (tmp_path / "history.damaged").read_bytes().startswith(b"this is a letter")


async def test_a_full_disk_is_told_once_and_written_again(
    start: Start, small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history, "PROBE", 0.2)
    store = await start(HistorySettings(path=small_disk / FILE))
    assert await kept(store, "before") == 1
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
    answers = [await kept(store, "x" * 20_000) for _ in range(5)]
    assert None in answers
    for index in range(20):
        store.record(sound(str(index), label="y" * 5_000))
    await until(lambda: store.lost > 0)
    assert store.health()["ok"] is False
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    await told(caplog, "free some space")

    ballast.unlink()
    await asyncio.sleep(0.3)
    assert await kept(store, "after") is not None
    await until(lambda: store.health()["ok"])
    found, _ = await letters(store)
    assert found is not None
    assert (found[0].body, found[-1].body) == ("before", "after")


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


async def test_a_disk_that_becomes_read_only(start: Start, small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "PROBE", 0.2)
    store = await start(HistorySettings(path=small_disk / FILE))
    number = await kept(store, "before")
    await store.close()
    await asyncio.to_thread(remount, small_disk, "ro")
    again = await start(HistorySettings(path=small_disk / FILE))
    assert await kept(again, "lost") is None
    assert again.health()["ok"] is False
    again.drop(number or 0)  # it has arrived, but that cannot be written yet
    await asyncio.to_thread(remount, small_disk, "rw")
    await asyncio.sleep(0.3)
    assert await kept(again, "after") is not None
    found, _ = await letters(again)
    assert found is not None
    assert [letter.body for letter in found] == ["after"]


async def test_a_second_daemon_on_one_file_keeps_out(start: Start, caplog: pytest.LogCaptureFixture):
    first = await start(HistorySettings())
    assert await kept(first, "mine") == 1
    second = await start(HistorySettings())
    assert await kept(second, "not mine") is None
    await told(caplog, "another daemon writes there")
    found, _ = await letters(first)
    assert found is not None
    assert [letter.body for letter in found] == ["mine"]


async def test_a_server_that_is_away_is_tried_again(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("psycopg")
    monkeypatch.setattr(history, "PROBE", 0.2)
    settings = HistorySettings(url=SecretStr(f"postgresql://house:hush@127.0.0.1:{free_port()}/house"))
    store = await start(settings)
    assert await kept(store, "x") is None
    await told(caplog, "cannot be written")
    assert "hush" not in caplog.text
    with pytest.raises(HistoryError, match="cannot be read"):
        read(settings, tmp_path, Wanted())


@pytest.mark.parametrize(
    "values",
    [
        {"url": "mysql://house"},
        {"url": "postgresql://house", "path": "/tmp/x"},  # noqa: S108
        {"url": "postgresql://user:pass/word@house/database"},
        {"url": "postgresql://user:word@house:99999/database"},
        {"days": 0},
        {"megabytes": 0.1},
    ],
)
def test_settings_that_cannot_be_meant(values: dict[str, object]):
    with pytest.raises(ValidationError):
        HistorySettings.model_validate(values)


def test_a_history_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(HistoryError, match="there is no history yet"):
        read(HistorySettings(), tmp_path, Wanted())


# age and size


async def test_old_events_are_deleted(settings: HistorySettings, start: Start, tmp_path: Path):
    store = await start(settings)
    store.record(sound("A", start="2020-01-01T00:00:00+00:00"))
    store.record(sound("B", start=None))
    await until(lambda: store.events == 2)
    await store.close()
    again = await start(settings.model_copy(update={"days": 30.0}))
    await kept(again, "wake")
    await until(lambda: [event["id"] for event in read(settings, tmp_path, Wanted())] == ["B"])


async def test_a_large_file_loses_the_oldest_events(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "TIDY_ROWS", 50)
    settings = HistorySettings()
    store = await start(settings)
    for index in range(1_000):
        moment = f"2026-09-21T13:{index // 60:02}:{index % 60:02}+00:00"
        store.record(sound(f"{index:04}", label="z" * 3_000, start=moment))
    await until(lambda: store.events == 1_000)
    await store.close()
    size = (tmp_path / FILE).stat().st_size
    again = await start(settings.model_copy(update={"megabytes": 1.0}))
    await kept(again, "wake")
    await until(lambda: 0 < again.health()["mb"] <= 1.0)
    left = [event["id"] for event in read(settings, tmp_path, Wanted(limit=1_000))]
    assert left[-1] == "0999"
    assert 100 < len(left) < 500
    await again.close()
    assert (tmp_path / FILE).stat().st_size < size / 2


def test_the_newest_revision_is_the_one_that_is_known():
    script = ScriptDirectory(str(Path(history.__file__).parent / "migrations"))
    assert script.get_current_head() == REVISION


async def test_messages_that_have_arrived_cost_no_event(start: Start, tmp_path: Path):
    store = await start(HistorySettings())
    for index in range(100):
        store.record(sound(f"{index:04}"))
    numbers = [await kept(store, "x" * 50_000) for _ in range(60)]
    for number in numbers:
        store.drop(number or 0)
    await store.close()  # three megabytes of the file are not used any more
    assert (tmp_path / FILE).stat().st_size > 2_000_000
    again = await start(HistorySettings(megabytes=1.0))
    await kept(again, "wake")
    await until(lambda: 0 < again.health()["mb"] <= 1.0)
    await again.close()
    assert len(read(HistorySettings(), tmp_path, Wanted(limit=1_000))) == 100


async def test_the_file_is_for_its_owner_alone(start: Start, tmp_path: Path):
    store = await start(HistorySettings())
    await kept(store, "x")
    for file in os.scandir(tmp_path):
        assert file.stat().st_mode & 0o077 == 0, file.path
