from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from histories import sound, speech

from assistant import snoozes as module
from assistant.errors import AssistantError
from assistant.events import State
from assistant.snoozes import Snooze, Snoozes

NOON = 1_790_000_000.0


def snooze(kind: str = "dog_bark", *, room: str = "kitchen", until: float = NOON + 3600.0) -> Snooze:
    return Snooze(room=room, kind=kind, event_type=kind, label="Dog", since=NOON, until=until)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snoozes.json"


def test_one_kind_in_one_room_is_silent_for_a_while(path: Path) -> None:
    house = Snoozes(path)
    house.add(snooze())
    assert house.takes(sound("A"), "dog_bark", NOON)
    assert not house.takes(sound("B", room="hall"), "dog_bark", NOON)
    assert not house.takes(sound("C"), "cat", NOON)
    assert not house.takes(speech("D", "dog"), "dog_bark", NOON)
    assert not house.takes(sound("E"), "dog_bark", NOON + 3600.0)
    assert house.silenced == 1
    assert house.all(NOON)[0].silenced == 1


def test_what_began_before_ends_and_what_began_in_it_does_not(path: Path) -> None:
    house = Snoozes(path)
    before, within = sound("A"), sound("B")
    assert not house.takes(before, "dog_bark", NOON)
    house.add(snooze())
    assert not house.takes(replace(before, state=State.ENDED), "dog_bark", NOON + 1)
    assert house.takes(within, "dog_bark", NOON + 2)
    assert house.takes(replace(within, state=State.ENDED), "dog_bark", NOON + 3)
    assert house.end("kitchen", "dog_bark") == []


def test_what_still_sounds_at_the_end_is_told_then(path: Path) -> None:
    house = Snoozes(path)
    house.add(snooze())
    alarm = sound("A")
    assert house.takes(alarm, "dog_bark", NOON)
    assert house.over(NOON + 3599.0) == []
    (over,) = house.over(NOON + 3600.0)
    assert house.end(over.room, over.kind) == [alarm]
    assert not house.takes(replace(alarm, state=State.ENDED), "dog_bark", NOON + 3700.0)


def test_a_room_whose_source_ends_is_told_nothing_later(path: Path) -> None:
    house = Snoozes(path)
    house.add(snooze())
    assert house.takes(sound("A"), "dog_bark", NOON)
    house.left("kitchen")
    assert house.end("kitchen", "dog_bark") == []
    assert house.end("kitchen", "dog_bark") is None


async def test_a_snooze_survives_a_restart(path: Path) -> None:
    house = Snoozes(path)
    house.add(snooze())
    house.add(snooze("cat", until=NOON + 60.0))
    assert house.takes(sound("A"), "dog_bark", NOON)
    await house.save()

    again = Snoozes(path)
    assert [one.kind for one in again.all(NOON)] == ["cat", "dog_bark"]
    assert [one.kind for one in again.all(NOON + 60.0)] == ["dog_bark"]
    assert again.all(NOON)[1].silenced == 1
    assert again.takes(sound("B"), "dog_bark", NOON)


def test_a_longer_snooze_goes_on_counting(path: Path) -> None:
    house = Snoozes(path)
    house.add(snooze())
    assert house.takes(sound("A"), "dog_bark", NOON)
    house.add(snooze(until=NOON + 7200.0))
    (one,) = house.all(NOON)
    assert (one.silenced, one.until) == (1, NOON + 7200.0)


def test_there_is_an_end_to_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    house = Snoozes(path)
    house.add(snooze())
    house.add(snooze(until=NOON + 10.0))
    with pytest.raises(AssistantError, match="remedy: end some"):
        house.add(snooze("cat"))
