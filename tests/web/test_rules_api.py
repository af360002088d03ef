"""Rules through the API of a real daemon: changed, refused, rehearsed, undone."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from houses import House
from outputs.brokers import Subscriber

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3

Make = Callable[..., House]
RULES = """\
# my rules
rules:
  # the alarm
  - name: smoke
    when: {sound: smoke_alarm}  # any room
    do: {publish: {topic: house/alarm, payload: "{{ label }}"}}
  - name: in the garden
    when: {sound: smoke_alarm, room: garden}
    do:
      - log: "fire"
      - webhook: {url: "https://hooks.example.org/T0KEN", headers: {Authorization: Bearer s3cret}}
webhooks: {hosts: [hooks.example.org]}
"""
CAT = "name: cat\nwhen: {sound: cat, lasting: 2 min, between: 22:00-06:00}\ndo:\n  - say: {text: Meow, room: all}\n"


@pytest.fixture
def alarm(tmp_path: Path) -> Path:
    """An alarm after a second, then a quiet minute."""
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, placed(noise(120.0, -60.0), 0.2 * t3(cycles=4), 1.0), SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture
def here(house: Make, alarm: Path) -> House:
    """A house with two rules whose alarm has been heard."""
    made = house(settings=RULES).start("--source", f"kitchen={alarm}")
    until(lambda: book(made)["rules"][0]["fired"])
    return made


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def book(here: House) -> dict[str, Any]:
    status, told = here.call("GET", "rules")
    assert status == 200, told
    return dict(told)


def digest(here: House) -> str:
    return str(book(here)["file"]["digest"])


def test_rules_say_what_they_are_and_why_they_did_not_fire(here: House) -> None:
    told = book(here)
    smoke, garden = told["rules"]
    assert smoke["text"].startswith("name: smoke\nwhen: {sound: smoke_alarm}  # any room\n")
    assert smoke["words"]["when"]["sound"] == ["smoke_alarm"]
    assert smoke["words"]["do"] == [{"kind": "publish", "what": "{{ label }}", "where": "house/alarm"}]
    assert [one["outcome"] for one in smoke["evaluations"]] == ["fired"]
    assert [one["outcome"] for one in garden["evaluations"]] == ["room"]
    assert smoke["evaluations"][0]["event_id"] == garden["evaluations"][0]["event_id"]
    assert (smoke["followed"], smoke["enabled"], told["problem"], told["file"]["obstacle"]) == (True, True, None, None)
    assert told["file"]["digest"] == hashlib.sha256(here.config.read_bytes()).hexdigest()


def test_secrets_never_leave(here: House) -> None:
    everything = json.dumps([here.call("GET", path)[1] for path in ("rules", "configuration", "setup")])
    text = book(here)["rules"][1]["text"]
    everything += json.dumps(here.call("POST", "rules/check", {"number": 2, "text": text})[1])
    everything += json.dumps(here.call("POST", "rules/check", {"number": 2, "text": text.replace("name", "nam")})[1])
    everything += json.dumps(here.call("POST", "rules/rehearsal", {"number": 2})[1])
    assert "T0KEN" not in everything
    assert "s3cret" not in everything
    stolen = text.replace("fire", "‹hidden 2›")
    status, told = here.call("PUT", "rules/2", {"text": stolen, "digest": digest(here)})
    assert (status, "stands for a secret of another place" in told["detail"]) == (422, True)
    changed = text.replace("fire", "fire!")
    assert here.call("PUT", "rules/2", {"text": changed, "digest": digest(here)})[0] == 200
    assert "T0KEN" in here.config.read_text()
    assert "Bearer s3cret" in here.config.read_text()
    assert "s3cret" not in here.log.read_text()


def test_a_rule_is_added_switched_changed_and_removed_and_the_daemon_follows(here: House) -> None:
    before = here.config.read_bytes()
    assert here.call("POST", "rules", {"text": CAT, "digest": digest(here)})[0] == 201
    told = book(here)
    assert [one["name"] for one in told["rules"]] == ["smoke", "in the garden", "cat"]
    assert told["rules"][2]["followed"]
    assert told["rules"][2]["words"]["when"]["lasting"] == 120
    assert told["rules"][0]["fired"] == 1  # what stays as it was remembers
    assert before[: before.index(b"webhooks")] in here.config.read_bytes()
    assert here.call("PUT", "rules/3/enabled", {"on": False, "digest": digest(here)})[0] == 200
    assert book(here)["rules"][2]["enabled"] is False
    assert here.call("PUT", "rules/3", {"text": "when: {sound: cat}\ndo: {log: x}", "digest": digest(here)})[0] == 200
    assert book(here)["rules"][2]["name"] == "rule 3"
    assert here.call("DELETE", f"rules/3?digest={digest(here)}")[0] == 200
    assert here.config.read_bytes() == before
    whats = [one["what"] for one in book(here)["file"]["versions"]]
    assert whats == ["rule-removed", "rule-changed", "rule-switched", "rule-added"]


BAD = [
    ("when: {sound: cat}\ndo: {shout: loud}\n", 2, 'no action "shout"'),
    ("when: {sound: cat}\ndo:\n  - log: a\n  - publish: {topic: 'a/#', payload: x}\n", 4, "wildcard"),
    ("when: {sound: cat\n", 2, "not YAML"),
    ("name: x\nwhen: {}\ndo: {log: x}\n", 2, "needs either sound"),
    ("when: {sound: cat, betwen: 1}\ndo: {log: x}\n", 1, 'did you mean "between"'),
    ("when: {sound: cat}\ndo: {ask: {prompt: 'Is it?', as: it}}\n", 2, "needs an audio language model"),
    ("when: {sound: cat}\ndo: {webhook: {url: 'https://evil.example/'}}\n", 2, "not listed"),
    ("name: smoke\nwhen: {sound: cat}\ndo: {log: x}\n", None, 'two rules have the name "smoke"'),
    ("", None, "keys and values"),
]


def test_a_bad_rule_is_refused_with_its_line_and_nothing_changes(here: House) -> None:
    before, rules = here.config.read_bytes(), book(here)["rules"]
    for text, line, told in BAD:
        status, checked = here.call("POST", "rules/check", {"text": text})
        assert status == 200
        assert told in checked["mistakes"][0]["message"], checked
        assert (checked["mistakes"][0]["line"], checked["words"]) == (line, None), checked
        status, refused = here.call("POST", "rules", {"text": text, "digest": digest(here)})
        assert (status, told in refused["detail"]) == (422, True), refused
        status, refused = here.call("PUT", "rules/2", {"text": text, "digest": digest(here)})
        assert status == 422, refused
    assert here.config.read_bytes() == before
    assert book(here)["rules"] == rules
    status, told = here.call("POST", "rules/check", {"text": "name: x\nwhen: {sound: kat}\ndo: {log: x}\n"})
    assert (status, told["mistakes"]) == (200, [])  # it could be saved, but cannot work
    (warning,) = told["warnings"]
    assert (warning["line"], "did you mean cat?" in warning["message"]) == (2, True)
    assert told["words"]["when"]["sound"] == ["kat"]


def test_undo_brings_the_file_back_byte_for_byte(here: House) -> None:
    before = here.config.read_bytes()
    assert here.call("POST", "rules", {"text": CAT, "digest": digest(here)})[0] == 201
    after = here.config.read_bytes()
    version = book(here)["file"]["versions"][0]
    status, told = here.call("POST", "configuration/undo", {"version": version["id"], "digest": digest(here)})
    assert status == 200, told
    assert here.config.read_bytes() == before
    assert len(book(here)["rules"]) == 2
    version = book(here)["file"]["versions"][0]
    assert version["what"] == "undo"
    assert here.call("POST", "configuration/undo", {"version": version["id"], "digest": told["digest"]})[0] == 200
    assert here.config.read_bytes() == after
    status, told = here.call("POST", "configuration/undo", {"version": "nothing", "digest": digest(here)})
    assert (status, "not kept" in told["detail"]) == (409, True)


def test_what_somebody_else_changed_is_not_overwritten(here: House) -> None:
    seen = digest(here)
    here.config.write_text(here.config.read_text() + "# theirs\n")
    status, told = here.call("POST", "rules", {"text": CAT, "digest": seen})
    assert (status, "somebody else" in told["detail"]) == (409, True)
    assert here.config.read_text().endswith("# theirs\n")
    here.config.write_text("rules: [\n")
    told = book(here)
    assert "not YAML" in told["problem"]
    assert [(one["name"], one["text"]) for one in told["rules"]] == [("smoke", None), ("in the garden", None)]
    status, told = here.call("POST", "rules", {"text": CAT, "digest": digest(here)})
    assert (status, here.config.read_text()) == (422, "rules: [\n")
    assert here.call("PUT", "rules/9/enabled", {"on": True, "digest": digest(here)})[0] in {409, 422}


def test_a_rehearsal_counts_what_the_history_holds_and_does_nothing(here: House) -> None:
    client = Subscriber(here.mqtt_port).start()
    assert client.subscribed.wait(10)
    try:
        for _ in range(3):
            status, told = here.call("POST", "rules/rehearsal", {"days": 1})
            assert status == 200, told
        assert told["fired"] == {"smoke": 1, "in the garden": 0}
        (firing,) = told["firings"]
        assert firing["deeds"][0]["where"] == "house/alarm"
        assert "alarm" in firing["deeds"][0]["what"].lower()
        assert (firing["room"], firing["event_type"]) == ("kitchen", "smoke_alarm")
        draft = "when: {sound: smoke_alarm, lasting: 5 s}\ndo: {publish: {topic: a, payload: '{{ lasted }}'}}\n"
        until(lambda: here.call("POST", "rules/rehearsal", {"text": draft})[1]["fired"] == {"rule 3": 1})
        assert here.call("POST", "rules/rehearsal", {"number": 2})[1]["fired"] == {"in the garden": 0}
        assert here.call("POST", "rules/rehearsal", {"number": 7})[0] == 409
        status, told = here.call("POST", "rules/rehearsal", {"text": "when: {}"})
        assert (status, "keys" in told["detail"] or "needs" in told["detail"]) == (422, True)
    finally:
        client.stop()
    assert client.topics().count("house/alarm") <= 1  # the rule itself, whose message may have come late
    assert "a" not in client.topics()
    assert "a" not in client.topics()
