"""What is to be said aloud: texts become speech and are played in their room, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from assistant.settings import Settings

if TYPE_CHECKING:
    from assistant.voices.voice import Spoken


class PiperSettings(Settings):
    """Piper, when it speaks."""

    program: str = Field(default="piper", min_length=1, description="the program: a name on PATH, or its path")
    voice: str | None = Field(
        default=None,
        min_length=1,
        description="the .onnx file of a voice, its .onnx.json beside it; or a name such as en_US-joe-medium, which is "
        "fetched from the Hugging Face hub",
    )


class SaySettings(Settings):
    """Spoken replies."""

    enabled: bool = Field(default=True, description="false: nothing is said aloud")
    engine: Literal["espeak", "piper", "kokoro"] = Field(default="espeak", description="who speaks")
    piper: PiperSettings = PiperSettings()


class Speaker(Protocol):
    """Where speech is played: a sound card, a satellite."""

    async def play(self, speech: Spoken) -> None:
        """Play `speech` and return when it was heard to its end; a cancel silences it at once.

        Raises `AssistantError` that names the device and the remedy.
        """
