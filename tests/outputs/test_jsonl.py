from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from assistant.events import Event, LevelMeasured, State, Word
from assistant.outputs.jsonl import JsonLines, ReadableLines, readable

BARK = Event(
    id="A", room="kitchen", source="mic", kind="sound", state=State.STARTED, event_type="dog_bark", label="Bark",
    score=0.94, offset=12.48,
)  # fmt: skip
ENDED = Event(
    id="A", room="kitchen", source="mic", kind="sound", state=State.ENDED, event_type="dog_bark", label="Bark",
    score=0.94, offset=12.48, duration=2.1,
)  # fmt: skip
SPEECH = Event(
    id="S", room="台所", source="mic", kind="speech", state=State.HEARD, event_type="speech", label="Speech",
    score=None, text="電気を\nつけて\x1b[31m", language="ja", words=(Word("電気", 0.1, 0.4),), offset=3.0,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Flushed(io.StringIO):
    """Remembers what could be read at the last flush."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


def test_a_line_is_the_event_and_is_there_at_once():
    stream = Flushed()
    JsonLines(stream).offer(SPEECH)

    (line,) = stream.flushed.splitlines()
    assert json.loads(line) == SPEECH.to_json()
    assert "電気" in line


def test_only_events_are_written():
    stream = io.StringIO()
    JsonLines(stream).offer(LevelMeasured("kitchen", -40.0, -60.0, -20.0))
    ReadableLines(stream).offer(LevelMeasured("kitchen", -40.0, -60.0, -20.0))

    assert stream.getvalue() == ""


def test_people_get_one_line():
    assert readable(BARK) == "    12.5 s  kitchen  dog_bark started  Bark 94 %"
    assert readable(ENDED) == "    14.6 s  kitchen  dog_bark ended after 2.1 s"
    assert readable(SPEECH) == "     3.0 s  台所  speech  “電気を つけて [31m” [ja]"


def test_redacted_speech_says_that_something_was_said():
    redacted = Event(
        id="S",
        room="hall",
        source="mic",
        kind="speech",
        state=State.HEARD,
        event_type="speech",
        label="Speech",
        score=0.8,
    )

    assert readable(redacted) == "     0.0 s  hall  speech  something was said 80 %"


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, pipe = Terminal(), io.StringIO()
    ReadableLines(terminal).offer(BARK)
    ReadableLines(pipe).offer(BARK)

    assert "\x1b[" in terminal.getvalue()
    assert pipe.getvalue() == readable(BARK) + "\n"


def test_a_long_line_stays_one_line_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    ReadableLines(terminal).offer(
        Event(**{**{name: getattr(SPEECH, name) for name in SPEECH.__slots__}, "text": "x" * 200})
    )

    assert terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize("writer", ["JsonLines", "ReadableLines"])
def test_a_reader_that_leaves_ends_the_output_quietly(writer: str):
    program = (
        "from assistant.outputs.jsonl import JsonLines, ReadableLines\n"
        "from assistant.events import Event, State\n"
        f"out = {writer}()\n"
        "event = Event(id='A', room='r', source='s', kind='sound', state=State.STARTED,"
        " event_type='x', label='X', score=1)\n"
        "while not out.closed:\n"
        "    out.offer(event)\n"
        "raise SystemExit(7)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 7
        assert process.stderr.read() == b""
