"""Changes of the configuration from the page: checked, written, followed by the daemon, taken back if it cannot.

One at a time. What somebody else has changed meanwhile is never overwritten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from assistant.config import Config, parse
from assistant.configuration_file import ConfigurationFile, Text, Version
from assistant.errors import AssistantError

T = TypeVar("T")

WITHIN = 20.0  # seconds for the disk, and for the daemon to follow


class Household(Protocol):
    """The daemon whose configuration is changed."""

    @property
    def config(self) -> Config:
        """As it is followed now."""

    def check(self, config: Config) -> None:
        """Raise `ConfigurationError` if this configuration cannot be followed without a restart."""

    async def read_again(self) -> Sequence[str]:
        """Follow the file as it is now. What takes effect only after a restart. Raises `AssistantError`."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was made."""

    digest: str  # of the file
    restart: tuple[str, ...]  # keys that take effect only after a restart


class Changes:
    """Who may change the file of a daemon that runs."""

    def __init__(self, household: Household, file: ConfigurationFile) -> None:
        self.household, self.file = household, file
        self._one = asyncio.Lock()

    @property
    def path(self) -> Path:
        """Of the file, which need not be there."""
        return self.file.path

    async def read(self) -> Text:
        """The file as it stands. Raises `AssistantError`."""
        return await in_time(self.file.read)

    async def parsed(self, text: str) -> Config:
        """What a text of the file means. Raises `ConfigurationError`."""
        return await in_time(lambda: parse(text, self.path))

    async def versions(self) -> list[Version]:
        """What can be gone back to, the latest first."""
        return await in_time(self.file.versions)

    async def obstacle(self) -> str | None:
        """Why the file cannot be changed here."""
        return await in_time(self.file.obstacle)

    async def change(self, digest: str, what: str, rewrite: Callable[[str], str]) -> Changed:
        """Have `rewrite` change the text that has this digest, unless it is another by now.

        Raises `AssistantError`; then nothing has changed.
        """

        def write(before: Text) -> str:
            if before.digest != digest:
                raise self.file.changed_meanwhile()
            text = rewrite(before.text)
            self.household.check(parse(text, self.path))
            return self.file.write(text, digest, what)

        async with self._one:
            before = await self.read()
            return await self._follow(before, await in_time(lambda: write(before)))

    async def undo(self, version: str, digest: str) -> Changed:
        """Go back to a former version of the file. Raises `AssistantError`; then nothing has changed."""

        def restore() -> str:
            if before.digest != digest:
                raise self.file.changed_meanwhile()
            content = self.file.version(version)
            self.household.check(parse((content or b"").decode("utf-8-sig", "replace"), self.path))
            return self.file.restore(version, digest)

        async with self._one:
            before = await self.read()
            return await self._follow(before, await in_time(restore))

    async def _follow(self, before: Text, digest: str) -> Changed:
        try:
            restart = await asyncio.shield(self.household.read_again())
        except AssistantError:
            latest = (await self.versions())[0]
            if digest != before.digest:
                await in_time(lambda: self.file.restore(latest.id, digest))
            raise
        return Changed(digest, tuple(restart))


async def in_time(function: Callable[[], T], seconds: float = WITHIN) -> T:
    """Run in a thread. Raises `AssistantError` when it takes too long; it is left to itself then."""
    call: Awaitable[T] = asyncio.to_thread(function)
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise AssistantError(
            f"this took more than {seconds:.0f} s; remedy: is the disk or the machine too busy?"
        ) from None
