"""The outbox on a real disk, and with a real broker that dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import Mosquitto, Subscriber, until

from assistant import history
from assistant.events import Event, Publish, State
from assistant.history import History
from assistant.history import _Change as Change
from assistant.history_database import HistorySettings
from assistant.outputs import outbox
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt import Mqtt
from assistant.outputs.outbox import Letter, Outbox, decode, encode
from assistant.outputs.topics import Message

Start = Callable[..., Mqtt]
Subscribe = Callable[..., Subscriber]
EVENT = "kikimimi/kitchen/event"


def lasting(text: str) -> Message:
    return Message("t", text, 0.0, lasting=True)


def event(identity: str) -> Event:
    return Event(
        id=identity,
        room="kitchen",
        source="mic",
        kind="sound",
        state=State.STARTED,
        event_type="dog_bark",
        label="Dog",
        score=0.9,
    )


@pytest.fixture
async def journals(tmp_path: Path) -> AsyncIterator[Callable[[], History]]:
    """A maker of histories in one folder: one run of the daemon after the other."""
    made: list[History] = []

    def make() -> History:
        made.append(History(HistorySettings(), tmp_path))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def taken(box: Outbox, count: int) -> list[str]:
    return [str((await asyncio.wait_for(box.get(), 10)).payload) for _ in range(count)]


class Scripted:
    """A disk that answers when it is told to."""

    def __init__(self) -> None:
        self.puts: list[Callable[[int | None], None]] = []
        self.reads: list[Callable[[Sequence[Letter] | None, int], None]] = []
        self.dropped: list[int] = []

    def put(self, raised: float, body: str, kept: Callable[[int | None], None]) -> None:
        self.puts.append(kept)

    def drop(self, number: int) -> None:
        self.dropped.append(number)

    def after(self, number: int, limit: int, found: Callable[[Sequence[Letter] | None, int], None]) -> None:
        self.reads.append(found)


def test_what_lies_on_the_disk_is_the_message():
    message = Message(
        "a/b", {"text": "電気", "late": False}, 5.0, qos=2, retain=True, expiry=60, rule="r", lasting=True
    )
    assert decode(encode(message), 0.0, 5.0) == message
    for text in ("\0 {{ }}", "half a pair \ud800"):
        assert decode(encode(lasting(text)), 0.0, 0.0) == lasting(text)


def test_a_calendar_that_jumps_makes_nothing_fresh(monkeypatch: pytest.MonkeyPatch):
    body = encode(Message("t", {"late": False}, 1_000.0, lasting=True))
    an_hour_back = -3_600.0
    assert decode(body, an_hour_back, 1_050.0).raised == 1_000.0
    assert decode(body, 7_200.0, 1_050.0).raised == 1_050.0 - 7_200.0  # the machine slept
    monkeypatch.setattr(outbox, "BOOT", "another")
    assert decode(body, 30.0, 50.0).raised == 20.0
    sent = decode(body, an_hour_back, 50.0).due(50.0)
    assert sent is not None
    assert sent.payload == {"late": True}


async def test_without_a_disk_all_waits_in_memory():
    box = Outbox(2, None)
    for text in "abc":
        box.offer(lasting(text))
    assert (len(box), box.drops) == (2, 1)
    assert await taken(box, 2) == ["b", "c"]


async def test_what_must_arrive_is_read_back_from_the_disk(journals: Callable[[], History]):
    box = Outbox(10, journals())
    for index in range(250):
        box.offer(lasting(str(index)))
    assert await taken(box, 250) == [str(index) for index in range(250)]
    assert len(box) == 0


async def test_the_next_run_sends_what_has_not_arrived(journals: Callable[[], History]):
    first = journals()
    box = Outbox(10, first)
    for text in "abcd":
        box.offer(lasting(text))
    messages = [await box.get() for _ in range(3)]
    box.arrived(messages[1])
    await first.close()

    again = Outbox(10, journals())
    again.offer(lasting("e"))
    assert await taken(again, 4) == ["a", "c", "d", "e"]


async def test_states_do_not_wait_for_the_disk():
    box = Outbox(10, Scripted())
    box.offer(lasting("event"))
    box.offer(Message("state", "ON", 0.0, state=True))
    assert await taken(box, 1) == ["ON"]
    assert len(box) == 1


async def test_an_alarm_does_not_wait_for_a_disk_that_hangs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outbox, "KEPT_WITHIN", 0.2)
    disk = Scripted()
    box = Outbox(10, disk)
    box.offer(lasting("alarm"))
    getting = asyncio.create_task(box.get())
    await until(lambda: disk.reads)
    disk.reads[0]([], 0)
    assert (await asyncio.wait_for(getting, 5)).payload == "alarm"
    assert box.unkept == 1
    disk.puts[0](7)  # written after all: it must not go out twice
    assert disk.dropped == [7]
    assert len(box) == 0


async def test_a_disk_that_is_slow_costs_no_message_and_no_order():
    disk = Scripted()
    box = Outbox(3, disk)
    for number in range(20):  # more than memory would hold
        box.offer(lasting(str(number)))
    getting = asyncio.create_task(box.get())
    await until(lambda: disk.reads)
    for number, kept in enumerate(disk.puts, 1):
        kept(number)

    class Page:
        def __init__(self, number: int) -> None:
            self.number, self.raised, self.body = number, 0.0, encode(lasting(str(number - 1)))

    disk.reads[0]([Page(number) for number in range(1, 21)], 0)
    assert (await asyncio.wait_for(getting, 5)).payload == "0"
    assert await taken(box, 19) == [str(number) for number in range(1, 20)]
    assert (len(box), box.unkept, box.drops, disk.dropped) == (0, 0, 0, [])


async def test_where_the_disk_fails_memory_takes_its_place():
    disk = Scripted()
    box = Outbox(3, disk)
    for text in "abcde":
        box.offer(lasting(text))
        disk.puts[-1](None)
    getting = asyncio.create_task(box.get())
    await until(lambda: disk.reads)
    disk.reads[0](None, 0)
    assert (await asyncio.wait_for(getting, 5)).payload == "c"
    assert await taken(box, 2) == ["d", "e"]
    assert (box.unkept, box.drops) == (5, 2)


async def test_a_letter_that_cannot_be_read_is_given_up(caplog: pytest.LogCaptureFixture):
    disk = Scripted()
    box = Outbox(3, disk)
    getting = asyncio.create_task(box.get())
    await until(lambda: disk.reads)

    class Torn:
        number, raised, body = 3, 0.0, '{"topic": 5'

    class Whole:
        number, raised, body = 4, 0.0, encode(lasting("whole"))

    disk.reads[0]([Torn(), Whole()], 0)
    assert (await asyncio.wait_for(getting, 5)).payload == "whole"
    assert disk.dropped == [3]
    assert "cannot be read" in caplog.text


# with a broker


async def test_half_a_character_stops_no_event(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, journals: Callable[[], History]
):
    journal = journals()
    subscriber = subscribe(mosquitto.port)
    output = started(mosquitto.port, journal=journal)
    await asyncio.wait_for(output.connected.wait(), 20)
    output.offer(replace(event("A"), label="Dog \ud800"))
    output.offer(event("B"))
    await until(lambda: len(subscriber.payloads(EVENT)) == 2)
    assert [json.loads(payload)["id"] for payload in subscriber.payloads(EVENT)] == ["A", "B"]
    await until(lambda: journal.health()["unsent"] == 0)
    assert (output.health()["unkept"], output.health()["drops"]) == (0, 0)


async def test_events_go_out_when_the_file_was_replaced_meanwhile(
    mosquitto: Mosquitto,
    started: Start,
    subscribe: Subscribe,
    journals: Callable[[], History],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(history, "PROBE", 0.1)
    journal = journals()
    subscriber = subscribe(mosquitto.port)
    output = started(mosquitto.port, journal=journal)
    await asyncio.wait_for(output.connected.wait(), 20)
    for number in range(20):
        output.offer(event(f"{number:02}"))
    await until(lambda: len(subscriber.payloads(EVENT)) == 20)

    def replaced(_connection: object) -> None:
        for end in ("", "-wal", "-shm"):
            Path(f"{journal.path}{end}").unlink()
        journal._disconnect()

    journal._ask(Change(replaced, None))
    await asyncio.sleep(0.5)
    for number in range(20, 30):
        output.offer(event(f"{number:02}"))
    await until(lambda: len(subscriber.payloads(EVENT)) == 30)
    assert output.health()["unkept"] == 0
    assert [json.loads(payload)["id"] for payload in subscriber.payloads(EVENT)] == [f"{n:02}" for n in range(30)]
    await until(lambda: journal.health()["unsent"] == 0)


async def test_events_survive_daemon_and_broker(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, journals: Callable[[], History]
):
    mosquitto.kill()
    first = journals()
    output = started(mosquitto.port, journal=first)
    for number in range(40):
        output.offer(event(f"{number:02}"))
    output.offer(Publish("alarm", "from a rule"))
    output.offer(Publish("light", "ON", within=30.0))  # worth nothing after a restart
    await until(lambda: first.health()["unsent"] == 41)
    assert output.health()["queue"] >= 41
    await first.close()  # the process is gone: nothing was sent
    await output.stop(0.1)

    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    second = journals()
    output = started(mosquitto.port, journal=second)
    await until(lambda: len(subscriber.payloads(EVENT)) == 40 and subscriber.payloads("alarm"))
    assert [json.loads(payload)["id"] for payload in subscriber.payloads(EVENT)] == [f"{n:02}" for n in range(40)]
    await until(lambda: second.health()["unsent"] == 0)
    assert subscriber.payloads("light") == []
    assert output.health()["queue"] == 0


async def test_a_late_event_says_so_after_a_restart(
    mosquitto: Mosquitto, started: Start, subscribe: Subscribe, journals: Callable[[], History]
):
    first = journals()
    body = encode(Message(EVENT, {"id": "A", "late": False}, 0.0, lasting=True))
    first.put(1_790_000_000.0, body, lambda _number: None)
    await until(lambda: first.health()["unsent"] == 1)
    await first.close()
    subscriber = subscribe(mosquitto.port)
    started(mosquitto.port, journal=journals())
    await until(lambda: subscriber.payloads(EVENT))
    assert json.loads(subscriber.payloads(EVENT)[0]) == {"id": "A", "late": True}


async def test_a_message_that_breaks_every_connection_goes_alone_and_is_given_up(
    mosquitto: Mosquitto,
    started: Start,
    subscribe: Subscribe,
    journals: Callable[[], History],
    caplog: pytest.LogCaptureFixture,
):
    mosquitto.config.append("max_packet_size 3000")  # a larger one ends the connection under MQTT 3.1.1
    mosquitto.kill()
    mosquitto.start()
    subscriber = subscribe(mosquitto.port)
    journal = journals()
    output = started(mosquitto.port, homeassistant_settings=HomeAssistantSettings(discovery=False), journal=journal)
    output._connector.protocol = 4
    await asyncio.wait_for(output.connected.wait(), 20)
    output.offer(Publish("before", "1"))
    output.offer(Publish("poison", "x" * 5_000))
    output.offer(Publish("after", "1"))
    await until(lambda: subscriber.payloads("after"), 60)
    assert subscriber.payloads("before")
    await until(lambda: journal.health()["unsent"] == 0, 60)
    assert "poison is given up" in caplog.text
    assert len([record for record in caplog.records if "again and again" in record.getMessage()]) == 1
    assert output.health()["drops"] == 1
