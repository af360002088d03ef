"""How the log reads: lines for a person, for journald with the priority it understands, or JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Literal

Form = Literal["text", "journal", "json"]
FORMS: tuple[Form, ...] = ("text", "journal", "json")


def set_up(form: Form | None, *, verbose: bool) -> None:
    """Log to stderr; the libraries only when they warn. `form` None: journal under systemd, else text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form or ("journal" if "JOURNAL_STREAM" in os.environ else "text")))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("zeroconf").setLevel(logging.ERROR)  # it warns, with a traceback, of each network it cannot reach
    logging.getLogger("assistant").setLevel(logging.DEBUG if verbose else logging.INFO)


def formatter(form: Form) -> logging.Formatter:
    """What writes a record in that form."""
    if form == "json":
        return _Json()
    if form == "journal":
        return _Journal("%(message)s")
    return logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


class _Journal(logging.Formatter):
    """Each line with its syslog priority, see sd-daemon(3): `journalctl -p warning` then shows what matters."""

    PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in self.PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines() or [""])


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message and, of a failure, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
