"""What a command means: sentences of the house's languages matched to intents and to the devices of the configuration.

Pure: nothing is sent here.
"""

from __future__ import annotations

from pydantic import Field

from assistant.settings import Settings


class DeviceSettings(Settings):
    """A thing of the house that people talk about: helps recognition to spell it."""

    name: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    area: str | None = None
