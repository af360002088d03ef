"""Which utterances are meant for the house: after a wake word, right after a reply, or every one.

Pure: positions are samples of the room's stream.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from assistant.settings import Settings

WakeWord = Literal["okay_nabu", "hey_jarvis", "hey_mycroft", "alexa"]


class Wake(StrEnum):
    """What makes an utterance of a room a command."""

    WAKE = "wake"  # a wake word before it
    FOLLOW_UP = "follow-up"  # the same, and for some seconds after a reply nothing
    NONE = "none"  # nothing: every utterance is one


class WakeSettings(Settings):
    """When speech is a command."""

    words: tuple[WakeWord, ...] = Field(default=("okay_nabu",), min_length=1, description="wake words, any of them")
    follow_up: float = Field(
        default=8.0, ge=1.0, le=60.0, description="seconds after a reply in rooms with `wake: follow-up`"
    )
