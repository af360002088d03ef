"""What is to be said aloud: texts become speech and are played in their room, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from assistant.settings import Settings

if TYPE_CHECKING:
    from assistant.voices.voice import Spoken


class SaySettings(Settings):
    """Spoken replies."""

    enabled: bool = Field(default=True, description="false: nothing is said aloud")
    engine: Literal["espeak", "piper", "kokoro"] = Field(default="espeak", description="who speaks")


class Speaker(Protocol):
    """Where speech is played: a sound card, a satellite."""

    async def play(self, speech: Spoken) -> None:
        """Play `speech` and return when it was heard to its end; a cancel silences it at once.

        Raises `AssistantError` that names the device and the remedy.
        """
