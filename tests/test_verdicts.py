from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from assistant import verdicts as module
from assistant.verdicts import CAREFULLY_HIGHEST, HIGHEST, LOWEST, Opinion, Verdict, Verdicts, factor_of

PLAIN = 0.3


def verdict(
    opinion: str, score: float | None = 0.9, *, event: str = "A", kind: str = "dog_bark", **more: object
) -> Verdict:
    known = {"room": "kitchen", "event_type": kind, "label": "Dog", "plain": PLAIN, "at": 1.0}
    return Verdict(event=event, kind=kind, opinion=Opinion(opinion), score=score, **{**known, **more})  # type: ignore[arg-type]


def said(*opinions: tuple[str, float | None]) -> Sequence[Verdict]:
    return [verdict(opinion, score, event=str(i)) for i, (opinion, score) in enumerate(opinions)]


def test_without_verdicts_nothing_moves() -> None:
    assert factor_of([]) == 1.0


def test_not_this_raises_the_threshold_by_a_fifth() -> None:
    assert factor_of(said(("wrong", 0.9))) == pytest.approx(1.2)
    assert factor_of(said(("wrong", 0.9), ("wrong", 0.9))) == pytest.approx(1.44)


def test_it_rises_no_further_than_just_above_the_score_that_was_wrong() -> None:
    once = factor_of(said(("wrong", 0.33)))
    assert 0.33 < once * PLAIN < 0.34
    assert factor_of(said(*[("wrong", 0.33)] * 9)) * PLAIN < 0.35
    # a score below the threshold: it had begun at a lower one
    assert factor_of(said(("wrong", 0.2))) == 1.0


def test_correct_lowers_it_only_after_a_near_miss() -> None:
    assert factor_of(said(("correct", 0.35))) == pytest.approx(0.94)
    assert factor_of(said(("correct", 0.9))) == 1.0


@pytest.mark.parametrize("opinion", ["wrong", "correct"])
def test_it_stays_within_bounds(opinion: str) -> None:
    scores = {"wrong": 1.0, "correct": 0.01}
    factor = factor_of([verdict(opinion, scores[opinion], plain=0.01 if opinion == "wrong" else PLAIN)] * 500)
    assert factor == {"wrong": HIGHEST, "correct": LOWEST}[opinion]


def test_an_alarm_that_saves_lives_is_hardly_raised() -> None:
    assert factor_of(said(("wrong", 0.9)), careful=True) == pytest.approx(1.05)
    assert factor_of(said(*[("wrong", 0.9)] * 100), careful=True) == CAREFULLY_HIGHEST
    assert factor_of(said(("correct", 0.35)), careful=True) == pytest.approx(0.94)


def test_what_has_no_threshold_moves_nothing() -> None:
    assert factor_of([verdict("wrong", plain=None), verdict("wrong", None), verdict("wrong", plain=0.0)]) == 1.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "verdicts.json"


async def test_verdicts_survive_a_restart_and_can_be_taken_back(path: Path) -> None:
    house = Verdicts(path)
    await house.give(verdict("wrong", event="A"))
    await house.give(verdict("wrong", event="B"))
    await house.give(verdict("wrong", event="C", room="hall"))

    again = Verdicts(path)
    assert len(again) == 3
    assert again.factor("kitchen", "dog_bark") == pytest.approx(1.44)
    assert again.factors("kitchen") == {"dog_bark": pytest.approx(1.44)}
    assert again.factors("garden") == {}
    assert again.kinds() == [("hall", "dog_bark"), ("kitchen", "dog_bark")]

    taken = await again.withdraw("A")
    assert taken is not None
    assert taken.opinion is Opinion.WRONG
    assert await again.withdraw("A") is None
    assert Verdicts(path).factor("kitchen", "dog_bark") == pytest.approx(1.2)
    assert await again.reset("kitchen", "dog_bark") == 1
    assert await again.reset("kitchen", "dog_bark") == 0
    assert Verdicts(path).kinds() == [("hall", "dog_bark")]


async def test_taking_one_back_leaves_what_the_others_make(path: Path) -> None:
    house = Verdicts(path)
    await house.give(verdict("wrong", 0.9, event="A"))
    await house.give(verdict("correct", 0.31, event="B"))
    await house.withdraw("A")
    assert house.factor("kitchen", "dog_bark") == factor_of([verdict("correct", 0.31)])


async def test_another_word_about_the_same_event_replaces_the_first(path: Path) -> None:
    house = Verdicts(path)
    await house.give(verdict("wrong"))
    await house.give(verdict("correct"))
    assert len(house) == 1
    assert house.factor("kitchen", "dog_bark") == 1.0


async def test_smoke_alarms_are_judged_with_care(path: Path) -> None:
    house = Verdicts(path, frozenset({"smoke_alarm"}))
    await house.give(verdict("wrong", kind="smoke_alarm"))
    assert house.factor("kitchen", "smoke_alarm") == pytest.approx(1.05)


async def test_the_oldest_is_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    house = Verdicts(path)
    for event in "ABCD":
        await house.give(verdict("wrong", event=event))
    kept = await asyncio.to_thread(path.read_text)
    assert [one["event"] for one in json.loads(kept)["verdicts"]] == ["B", "C", "D"]


def test_a_file_that_is_none_is_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_text('{"verdicts": [{"event": 1}]}')
    house = Verdicts(path)
    assert len(house) == 0
    (line,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert str(path) in line
    assert "thresholds are as they are configured" in line
