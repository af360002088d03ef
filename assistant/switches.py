"""What the household has switched: which rooms may listen, and how easily sounds are believed there.

It survives restarts in a small JSON file, since a microphone that was turned off must not listen again by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from assistant.events import Sensitivity
from assistant.state_file import StateFile


class _Room(BaseModel):
    """The switches of one room; None: never touched."""

    model_config = ConfigDict(strict=True)

    listening: bool = True
    sensitivity: Annotated[Sensitivity | None, Field(strict=False)] = None


class _Kept(BaseModel):
    """The file. Rooms that are configured no longer stay in it: they may come back."""

    model_config = ConfigDict(strict=True)

    listening: bool = True
    rooms: dict[str, _Room] = {}


class Switches:
    """The switches of one home, read once and written at each change. Never raises for a file."""

    def __init__(self, path: Path, sensitivity: Sensitivity = Sensitivity.BALANCED) -> None:
        """`path` is the file; `sensitivity` that of rooms where none was chosen.

        A file that cannot be read is one warning, and everything is as it was never switched.
        """
        self.path = path
        self._default = sensitivity
        self._file = StateFile(
            path, _Kept, name="switches", otherwise="everything listens; turn off again what should not"
        )
        self._kept = self._file.read()

    def own(self, room: str | None) -> bool:
        """The switch of a room by itself, or with None that of the whole house."""
        if room is None:
            return self._kept.listening
        return self._room(room).listening

    def listening(self, room: str) -> bool:
        """Whether this room may be listened to: its own switch and that of the house are on."""
        return self.own(None) and self.own(room)

    def set_listening(self, room: str | None, on: bool) -> bool:
        """Turn the switch of a room, or with None that of the house. Whether that changed anything."""
        if self.own(room) is on:
            return False
        if room is None:
            self._kept.listening = on
        else:
            self._kept.rooms.setdefault(room, _Room()).listening = on
        self._file.write(self._kept)
        return True

    def sensitivity(self, room: str) -> Sensitivity:
        """How easily a sound is believed in this room."""
        return self._room(room).sensitivity or self._default

    def set_sensitivity(self, room: str, sensitivity: Sensitivity) -> bool:
        """Choose how easily a sound is believed in this room. Whether that changed anything."""
        if self._room(room).sensitivity is sensitivity:
            return False
        changed = self.sensitivity(room) is not sensitivity
        self._kept.rooms.setdefault(room, _Room()).sensitivity = sensitivity
        self._file.write(self._kept)
        return changed

    def _room(self, room: str) -> _Room:
        return self._kept.rooms.get(room, _Room())
