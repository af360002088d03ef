"""Each rule knows of the last events why it did or did not fire."""

import time
from dataclasses import replace
from typing import Any

import pytest
from test_rules import NOON, house, rule, sound, speech

from assistant.events import Ask, Event, State
from assistant.rules import Evaluation, Outcome, Rules
from assistant.rules.evaluations import KEPT

O = Outcome  # noqa: E741 (a table of them)


def outcomes(rules: Rules, name: str = "rule 1") -> list[Outcome]:
    """The oldest first."""
    return [one.outcome for one in rules.evaluations(name)][::-1]


@pytest.mark.parametrize(
    ("when", "event", "expected"),
    [
        ({"sound": "dog_bark"}, sound(), [O.FIRED]),
        ({"sound": "dog_bark"}, sound("cat"), []),
        ({"sound": "dog_bark"}, speech("woof"), []),
        ({"sound": "dog_bark"}, sound(state=State.ENDED), []),
        ({"sound": "dog_bark", "room": "garden"}, sound(), [O.ROOM]),
        ({"sound": "dog_bark", "score": 0.95}, sound(), [O.SCORE]),
        ({"sound": "dog_bark", "score": 0.95}, sound(score=None), [O.SCORE]),
        ({"sound": "dog_bark", "label": "Howl"}, sound(), [O.LABEL]),
        ({"label": "Howl"}, sound(), []),
        ({"label": "Bark", "room": "garden"}, sound(), [O.ROOM]),
        ({"sound": "dog_bark", "between": "22:00-07:00"}, sound(), [O.HOURS]),
        ({"sound": "dog_bark", "days": "weekend"}, sound(), [O.HOURS]),
        ({"sound": "dog_bark", "room": "garden", "days": "weekend"}, sound(), [O.ROOM]),
        ({"speech": "good night"}, speech("good morning"), [O.WORDS]),
        ({"speech": "good night", "language": "ja"}, speech("good night"), [O.LANGUAGE]),
        ({"speech": "good night"}, speech(None), []),
        ({"speech": "good night"}, sound(), []),
        ({"speech": "good night"}, speech("good night"), [O.FIRED]),
        ({"sound": "dog_bark"}, replace(sound(), witnessed=False), [O.DOUBTED]),
        ({"sound": "dog_bark", "absent": "1 h"}, sound(), [O.PRESENT]),
        ({"sound": "dog_bark", "absent": "1 h", "room": "garden"}, sound(), [O.ROOM]),
        ({"sound": "dog_bark", "lasting": "1 min"}, sound(), [O.WAITING]),
        ({"sound": "dog_bark", "lasting": "1 min", "room": "garden"}, sound(), [O.ROOM]),
        ({"sound": "dog_bark", "times": 2, "within": "1 min"}, sound(), [O.COUNTING]),
    ],
)
def test_an_event_has_a_reason(when: dict[str, Any], event: Event, expected: list[Outcome]) -> None:
    rules = house(rule(when))
    rules.feed(event, NOON)
    assert outcomes(rules) == expected


def test_what_is_known_of_the_event_stands_there_and_not_what_was_said() -> None:
    rules = house(rule({"speech": "good night"}), rule({"sound": "dog_bark", "score": 0.95}))
    rules.feed(speech("a secret"), NOON)
    rules.feed(sound(key="b"), NOON + 1)
    assert rules.evaluations("rule 1") == [Evaluation(NOON, O.WORDS, "kitchen", "speech", "s", None)]
    assert rules.evaluations("rule 2") == [Evaluation(NOON + 1, O.SCORE, "kitchen", "dog_bark", "b", 0.9)]
    assert rules.evaluations("no such rule") == []


def test_a_rule_rests_and_counts_and_waits() -> None:
    rules = house(
        rule({"sound": "dog_bark"}, cooldown="10 s"),
        rule({"sound": "dog_bark", "times": 3, "within": "1 min"}),
        rule({"sound": "dog_bark", "lasting": "20 s"}),
    )
    for second in range(3):
        rules.feed(sound(key=f"k{second}"), NOON + second)
    assert outcomes(rules) == [O.FIRED, O.COOLDOWN, O.COOLDOWN]
    assert rules.evaluations("rule 1")[0].value == NOON + 10
    assert outcomes(rules, "rule 2") == [O.COUNTING, O.COUNTING, O.FIRED]
    assert [one.value for one in rules.evaluations("rule 2")] == [None, 2, 1]
    rules.feed(sound(key="k0", state=State.ENDED, duration=5.0), NOON + 5)
    rules.tick(NOON + 21)
    assert outcomes(rules, "rule 3") == [O.WAITING, O.WAITING, O.WAITING, O.SHORT, O.FIRED]
    assert rules.evaluations("rule 3")[1].value == 5.0


def test_nothing_heard_fires_without_an_event() -> None:
    rules = house(rule({"sound": "dog_bark", "absent": "1 h"}))
    rules.tick(NOON + 3600)
    assert rules.evaluations("rule 1") == [Evaluation(NOON + 3600, O.FIRED)]


def test_what_goes_wrong_afterwards_is_told_too() -> None:
    rules = house(
        rule({"sound": "any"}, do={"log": "{{ score | round(method='no') }}"}),
        rule({"sound": "any"}, do={"publish": {"topic": "a/{{ room }}", "payload": "x"}}),
        rule({"sound": "any"}, do={"ask": {"prompt": "what?", "as": "what"}}),
    )
    actions = rules.feed(sound(room="#"), NOON)
    assert outcomes(rules, "rule 1") == [O.FIRED, O.FAILED]
    assert outcomes(rules, "rule 2") == [O.FIRED, O.REFUSED]
    (ask,) = [action for action in actions if isinstance(action, Ask)]
    rules.answered(ask, None)
    assert outcomes(rules, "rule 3") == [O.FIRED, O.UNANSWERED]


def test_only_the_last_are_kept_and_a_reload_keeps_them() -> None:
    one = rule({"sound": "dog_bark", "room": "garden"})
    rules = house(one)
    for second in range(2 * KEPT):
        rules.feed(sound(key=str(second)), NOON + second)
    assert [one.event_id for one in rules.evaluations("rule 1")] == [str(n) for n in range(2 * KEPT - 1, KEPT - 1, -1)]
    after = house(one, rule({"sound": "cat"}))
    after.inherit(rules, NOON + 100, [])
    assert len(after.evaluations("rule 1")) == KEPT
    assert after.evaluations("rule 2") == []


def test_a_rule_that_is_switched_off_does_nothing() -> None:
    rules = house(rule({"sound": "dog_bark"}, enabled=False), rule({"sound": "dog_bark"}))
    assert len(rules.feed(sound(), NOON)) == 1
    assert rules.fired == {"rule 2": 1}
    assert rules.evaluations("rule 1") == []


def test_the_reasons_cost_next_to_nothing() -> None:
    """50 rules that all have a reason, 1,000 events: some 10 µs a rule; a busy house has a few events a minute."""
    rules = house(*(rule({"sound": "any", "room": "garden"}) for _ in range(50)))
    began = time.process_time()
    for second in range(1_000):
        rules.feed(sound(key=str(second)), NOON + second)
    assert time.process_time() - began < 2.5
