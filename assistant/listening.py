"""`kikimimi listen`: files through the same pipeline, as fast as it can, with nothing shed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from assistant.audio.address import kind_of
from assistant.audio.wavfile import expand
from assistant.errors import ModelError, SourceError
from assistant.events import Event
from assistant.pipeline import HearingSettings, Models, Pipeline
from assistant.startup import Room, open_source, room_id

log = logging.getLogger(__name__)


class Printer(Protocol):
    """Where events are written; `closed` once nobody reads them any more."""

    closed: bool

    def offer(self, item: Event) -> None:
        """Write one event."""


class NobodyReadsError(Exception):
    """Whoever read the events has gone."""


def addresses_of(paths: Sequence[str]) -> list[str]:
    """Files, with each folder replaced by the audio files below it. Raises `SourceError` for a folder with none.

    What could be the name of a microphone is a file here: `default` and 3 too.
    """
    addresses: list[str] = []
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 (a `Path` raises for a folder above that may not be searched)
            addresses += [str(file) for file in expand(Path(path))]
        else:
            addresses.append(f"./{path}" if kind_of(path) == "microphone" else path)
    return addresses


async def listen(
    addresses: Sequence[str],
    models: Models,
    hearing: HearingSettings,
    printer: Printer,
    done: Callable[[str], None] = lambda _address: None,
) -> int:
    """Hear each address as a stream of its own, in order; returns the exit code.

    A file that cannot be read is reported, the rest go on, and the exit code is that of a source. When nobody reads the
    events any more the file at hand is left too. Raises `ModelError` for an audio language model that cannot be loaded.
    """

    def offer(event: Event) -> None:
        printer.offer(event)
        if printer.closed:
            raise NobodyReadsError

    code = 0
    await models.recogniser()  # so that no file's latency holds the loading of the model
    if models.llm is not None and not await models.llm.ready():
        raise ModelError(f"the audio language model is not there: {models.llm.reason}")
    for address in addresses:
        source = open_source(Room(room_id(address), address), speed=0.0)
        try:
            await Pipeline(source, models, hearing, offer, inline=True).run()
        except NobodyReadsError:
            break
        except SourceError as error:
            log.error("%s", error)  # noqa: TRY400 (a person reads this: no traceback)
            code = SourceError.exit_code
        except Exception:  # a bug; the other files are heard all the same
            log.exception("%s: listening broke", address)
            code = code or 1
        done(address)
    return code
