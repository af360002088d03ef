"""`kikimimi events` as people call it."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
import pytest

from assistant import remembering
from assistant.cli import main
from assistant.errors import ConfigurationError
from assistant.events import Event, State
from assistant.history import History
from assistant.history_database import HistorySettings


@pytest.fixture
async def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history with an old sound, a fresh one, and what was said."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    store = History(HistorySettings(), platformdirs.user_state_path("kikimimi"))
    store.start()
    now = datetime.now(UTC).isoformat(timespec="milliseconds")  # not earlier: a run goes on past midnight
    common = {"room": "kitchen", "source": "mic", "score": 0.94}
    old = Event(
        "A",
        kind="sound",
        state=State.STARTED,
        event_type="dog_bark",
        label="Bark",
        start="2026-09-21T10:00:00+00:00",
        **common,
    )  # type: ignore[arg-type]
    new = Event(
        "B",
        kind="sound",
        state=State.ENDED,
        event_type="smoke_alarm",
        label="Smoke\x1b[31m alarm",
        start=now,
        duration=12.34,
        **common,
    )  # type: ignore[arg-type]
    said = Event(
        "C",
        kind="speech",
        state=State.HEARD,
        event_type="speech",
        label="Speech",
        text="Good night",
        language="en",
        start=now,
        **common,
    )  # type: ignore[arg-type]
    for event in (old, new, said):
        store.record(event)
    await store.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["events", *arguments])
    return code, *capsys.readouterr()


async def test_events_read_as_lines(remembered: None, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "--since", "today")
    assert code == 0
    first, second = out.splitlines()
    assert first.endswith("  kitchen  smoke_alarm  Smoke [31m alarm 94 %, 12.3 s")
    assert second.endswith("  kitchen  speech  “Good night” en")


async def test_events_as_json(remembered: None, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(capsys, "--json", "--type", "dog_bark")
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["A"]
    assert json.loads(out)["schema"] == 1


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (("--text", "NIGHT"), "C"),
        (("--room", "hall"), ""),
        (("--until", "2026-10-01"), "A"),
        (("--since", "1 h"), "BC"),
        (("--limit", "1"), "C"),
    ],
)
async def test_what_is_asked_for(
    options: tuple[str, ...], ids: str, remembered: None, capsys: pytest.CaptureFixture[str]
):
    _, out, _ = run(capsys, "--json", *options)
    assert "".join(json.loads(line)["id"] for line in out.splitlines()) == ids


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--since", "whenever"), "not a time"),
        (("--limit", "0"), "between 1 and"),
        (("--since", "1 h", "--until", "2 h"), "is later than"),
    ],
)
def test_what_cannot_be_meant(options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(capsys, *options)
    assert code == 2
    assert complaint in err


def test_without_a_history_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, _, err = run(capsys)
    assert code == 1
    assert "there is no history yet" in err


def test_a_moment_is_local_unless_it_says_otherwise():
    assert remembering.moment("2026-11-28T12:00:00+00:00", "--since") == 1_795_867_200.0
    assert abs(remembering.moment("90 min", "--since") - (time.time() - 5_400)) < 5
    with pytest.raises(ConfigurationError):
        remembering.moment("", "--since")


async def test_what_the_terminal_cannot_show_is_escaped(tmp_path: Path):
    settings = HistorySettings(path=tmp_path / "history.db")
    store = History(settings, tmp_path)
    store.start()
    store.record(
        Event(
            "A",
            "kitchen",
            "mic",
            "speech",
            State.HEARD,
            "speech",
            "Speech",
            0.9,
            start=f"{datetime.now(UTC):%FT%TZ}",
            text="Öl \ud800",
        )
    )
    await store.close()
    for encoding, as_json in (("utf-8", True), ("utf-8", False), ("ascii", True), ("ascii", False)):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        remembering.show(settings, remembering.wanted(), out, as_json=as_json)
        out.seek(0)
        line = out.read()
        assert "l \\ud800" in line if as_json else "l " in line
