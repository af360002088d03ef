"""Small JSON files in the state folder, replaced as a whole: a power cut leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

log = logging.getLogger(__name__)

SIZE_LIMIT = 1_000_000  # bytes: a larger file is not ours

Kept = TypeVar("Kept", bound=BaseModel)


class StateFile(Generic[Kept]):
    """One file of the form `model`. Never raises for a file: what is wrong with it is one warning."""

    def __init__(self, path: Path, model: type[Kept], *, name: str, otherwise: str) -> None:
        """`name` begins every warning; `otherwise` says how things are without what the file held."""
        self.path = path
        self._model, self._name, self._otherwise = model, name, otherwise
        self._warned = False

    def read(self) -> Kept:
        """What is in it; without a file, or one that can be understood, the model's defaults."""
        try:
            with self.path.open("rb") as file:
                return self._model.model_validate_json(file.read(SIZE_LIMIT))
        except FileNotFoundError:
            return self._model()
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]["msg"]
            remedy = f"{self._otherwise}, or delete the file"
            log.warning("%s: %s cannot be understood (%s): %s", self._name, self.path, problem, remedy)
        except OSError as error:
            remedy = f"{self._otherwise.partition(';')[0]}; check its owner and rights"
            log.warning("%s: %s cannot be read (%s): %s", self._name, self.path, error.strerror, remedy)
        return self._model()

    def write(self, kept: Kept) -> None:
        """Replace it, through to the disk. Blocks."""
        temporary = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                file.write(kept.model_dump_json(indent=1))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if not self._warned:
                log.warning(
                    "%s: %s cannot be written (%s): %s are forgotten at the next start; check its owner,"
                    " its rights and the free space",
                    self._name,
                    self.path,
                    error.strerror,
                    self._name,
                )
            self._warned = True
        else:
            self._warned = False
