"""The event is what the design says, field by field."""

from __future__ import annotations

import json

import numpy as np
import pytest

from assistant.events import Event, State, Word, frozen, iso, seconds

ORDER = [
    "schema",
    "id",
    "room",
    "source",
    "kind",
    "state",
    "event_type",
    "label",
    "score",
    "text",
    "language",
    "words",
    "intent",
    "caption",
    "emotion",
    "start",
    "end",
    "offset",
    "duration",
    "heard_at",
    "level_dbfs",
    "model",
    "latency",
    "late",
    "clip",
]


def event(**changes: object) -> Event:
    fields: dict[str, object] = {
        "id": "01JDC900000000000000000000",
        "room": "kitchen",
        "source": "usb-mic",
        "kind": "sound",
        "state": State.STARTED,
        "event_type": "smoke_alarm",
        "label": "Smoke detector, smoke alarm",
        "score": 0.94,
    }
    return Event(**(fields | changes))  # type: ignore[arg-type]


def test_json_has_every_field_in_the_documented_order() -> None:
    written = event().to_json()
    assert list(written) == ORDER
    assert json.loads(json.dumps(written))["state"] == "started"


def test_unknown_is_null() -> None:
    written = event().to_json()
    assert all(written[name] is None for name in ("text", "language", "words", "end", "duration", "clip"))
    assert written["late"] is False


def test_who_witnessed_a_sound_stays_inside_and_is_true_unless_only_a_language_model_says_so() -> None:
    assert event().witnessed
    assert "witnessed" not in event(witnessed=False).to_json()


def test_words_are_objects() -> None:
    written = event(words=(Word("hello", 0.1, 0.4),)).to_json()
    assert written["words"] == [{"word": "hello", "start": 0.1, "end": 0.4}]


def test_times_are_utc_to_the_millisecond() -> None:
    assert iso(1_795_424_401.25) == "2026-11-23T09:00:01.250+00:00"
    assert seconds(8_000) == 0.5


def test_frozen_audio_cannot_be_written() -> None:
    samples = frozen(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        samples[0] = 1.0
