"""Events on standard output: JSON lines for programs, one readable line each for people."""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

from assistant.events import Event, Fact, State

SOUND_COLOUR = "bold yellow"
SPEECH_COLOUR = "cyan"
ENDED_COLOUR = "dim"


class JsonLines:
    """`listen --json`: an event a line, flushed at once. `closed` is true once nobody reads any more."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.closed = False

    def offer(self, item: Fact) -> None:
        """Write an event; other facts are not for standard output."""
        if isinstance(item, Event) and not self.closed:
            self.closed = not _write(self._stream, json_line(item))


class ReadableLines:
    """`listen` without `--json`: one line an event, in colours on a terminal only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
        self.closed = False

    def offer(self, item: Fact) -> None:
        """Write an event; other facts are not for standard output."""
        if not isinstance(item, Event) or self.closed:
            return
        if not self._console.is_terminal:
            self.closed = not _write(self._stream, readable(item))
            return
        try:
            self._console.print(Text(readable(item), style=_colour(item)))
            self._stream.flush()
        except BrokenPipeError:
            self.closed = True
            _mute(self._stream)


def json_line(event: Event) -> str:
    """The event as one line of JSON, without the line break. Numbers that JSON does not know are an error."""
    return json.dumps(event.to_json(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def readable(event: Event) -> str:
    """One line for a person: when, where, what, how sure.

    `    12.5 s  kitchen  smoke_alarm started  Smoke detector, smoke alarm 94 %`
    """
    seconds = (
        event.offset if event.state is not State.ENDED or event.duration is None else event.offset + event.duration
    )
    head = f"{seconds:8.1f} s  {_one_line(event.room)}  "
    if event.kind == "speech":
        said = f"“{_one_line(event.text)}”" if event.text else "something was said"
        return f"{head}speech  {said}{_note(event.language)}{_percent(event.score)}"
    if event.state is State.ENDED:
        lasted = f" after {event.duration:.1f} s" if event.duration is not None else ""
        return f"{head}{event.event_type} ended{lasted}"
    return f"{head}{event.event_type} {event.state}  {_one_line(event.label)}{_percent(event.score)}"


def _one_line(text: str) -> str:
    """Without line breaks and terminal escapes, which a transcript or a file name may hold."""
    return "".join(character if character.isprintable() else " " for character in text)


def _note(text: str | None) -> str:
    return f" [{text}]" if text else ""


def _percent(score: float | None) -> str:
    return "" if score is None else f" {score:.0%}".replace("%", " %")


def _colour(event: Event) -> str:
    if event.state is State.ENDED:
        return ENDED_COLOUR
    return SPEECH_COLOUR if event.kind == "speech" else SOUND_COLOUR


def _write(stream: TextIO, line: str) -> bool:
    """Write and flush a line; False when nobody reads any more."""
    try:
        stream.write(line + "\n")
        stream.flush()
    except BrokenPipeError:
        _mute(stream)
        return False
    return True


def _mute(stream: TextIO) -> None:
    """Let the interpreter's flush at exit go nowhere (Python documentation, "Note on SIGPIPE")."""
    try:
        target = stream.fileno()
    except (OSError, ValueError):  # not a file: nothing is flushed at exit
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, target)
    os.close(null)
