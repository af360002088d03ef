"""How the log reads."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from assistant.logs import Form, formatter


def record(level: int, message: str, *, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            int("spilt")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("assistant.app", level, "app.py", 1, message, (), info)


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)]
)
def test_journald_is_told_the_priority_of_each_line(level: int, priority: int):
    assert formatter("journal").format(record(level, "a\nb")) == f"<{priority}>a\n<{priority}>b"


def test_a_traceback_keeps_its_priority():
    lines = formatter("journal").format(record(logging.ERROR, "broke", failed=True)).splitlines()
    assert lines[0] == "<3>broke"
    assert lines[-1].startswith("<3>ValueError: ")
    assert all(line.startswith("<3>") for line in lines)


def test_json_is_one_object_a_line():
    text = formatter("json").format(record(logging.WARNING, '台所: "x"\nb', failed=True))
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("warning", "assistant.app", '台所: "x"\nb')
    assert "ValueError: " in line["exception"]
    assert line["time"].endswith("+00:00")


@pytest.mark.parametrize("form", ["text"])
def test_text_is_for_a_person(form: Form):
    assert formatter(form).format(record(logging.INFO, "hello")).endswith(" INFO    hello")
