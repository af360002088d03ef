"""`kikimimi intent` as people call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assistant.cli import main

HOUSE = """
speech: {languages: [en]}
rooms:
  kitchen: {source: "file:kitchen.wav"}
  hall: {source: "file:hall.wav", languages: [de]}
devices:
- {name: kitchen light, aliases: [Küchenlicht, キッチンの電気], area: kitchen, domain: light, topic: k/light}
"""


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    file = tmp_path / "config.yaml"
    file.write_text(HOUSE, encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["intent", *arguments, "--config", str(file)])
        return code, *capsys.readouterr()

    return run


def test_what_would_happen(ask) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = ask("Turn on the light", "--room", "kitchen", "--language", "EN")
    assert code == 0
    assert "publish k/light ON" in out

    code, out, _ = ask("キッチンの電気を消して", "--language", "ja", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["publish"] == [{"topic": "k/light", "payload": "OFF"}]
    assert found["intent"]["name"] == "HassTurnOff"


def test_the_languages_of_the_room_are_taken(ask) -> None:  # type: ignore[no-untyped-def]
    assert ask("Mach das Küchenlicht an", "--room", "hall")[0] == 0
    assert ask("Mach das Küchenlicht an", "--room", "kitchen")[0] == 1


def test_why_not(ask) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = ask("turn on the light", "--language", "en")
    assert (code, out) == (1, "nothing would happen: it names no room, and none is known that heard it\n")

    code, out, _ = ask("make me a sandwich", "--json")
    assert code == 1
    assert json.loads(out) == {"intent": None, "reason": "no sentence of en fits"}


def test_unknown_room_and_language_are_errors(ask) -> None:  # type: ignore[no-untyped-def]
    code, out, err = ask("turn on the light", "--room", "cellar")
    assert (code, out) == (2, "")
    assert "--room cellar: there is no such room; there is kitchen, hall" in err

    code, out, err = ask("turn on the light", "--language", "tlh")
    assert (code, out) == (2, "")
    assert "'tlh'" in err


def test_why_nothing_follows_from_what_was_understood(ask) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = ask("set a timer for five minutes", "--room", "kitchen")
    assert code == 0
    assert "because nothing here does HassStartTimer" in out

    code, out, _ = ask("is the kitchen light on", "--json")
    found = json.loads(out)
    assert (code, found["intent"]["name"], found["publish"]) == (0, "HassGetState", [])
    assert "not known here" in found["reason"]
