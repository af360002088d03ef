"""The folder of the sounds that a household taught: each a file, whole or not at all.

A file is an `.npz` of plain arrays and one JSON text: no pickle, no audio. What is kept of an example are the tagger's
embeddings of its windows, so that the sound can be learnt again when the house is known better.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant.errors import AssistantError
from assistant.taught_sounds import NAME, SIZE, Example, TaughtSound, Verdict

FILE_LIMIT, UNPACKED_LIMIT = 4_000_000, 64_000_000  # bytes: what is larger is not ours
MOST = 64  # taught sounds
MOST_WINDOWS = 20_000  # of all examples of one sound
SUFFIX = ".npz"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# --- files ------------------------------------------------------------------------------------------------------------


class _Example(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    title: Annotated[str, Field(max_length=500)]
    windows: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=1_000)]  # of each activity
    labels: Annotated[list[str], Field(max_length=600)]


class _Kept(BaseModel):
    """The JSON of a file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: Literal[1] = 1
    title: Annotated[str, Field(min_length=1, max_length=200)]
    bias: Annotated[float, Field(allow_inf_nan=False)]
    threshold: Annotated[float, Field(allow_inf_nan=False)]
    examples: Annotated[list[_Example], Field(max_length=32)]
    kind: Literal["clear", "confusable", "different"]
    recognised: Annotated[list[float], Field(max_length=32)]
    confused_with: Annotated[list[str], Field(max_length=8)]
    false_per_day: float | None
    heard_per_day: float | None
    taught: Annotated[str, Field(max_length=40)]


def packed(sound: TaughtSound) -> bytes:
    """A sound as its file."""
    kept = _Kept(
        title=sound.title,
        bias=sound.bias,
        threshold=sound.threshold,
        examples=[
            _Example(title=one.title[:500], windows=[len(a) for a in one.activities], labels=sorted(one.labels))
            for one in sound.examples
        ],
        kind=sound.verdict.kind,
        recognised=list(sound.verdict.recognised),
        confused_with=list(sound.verdict.confused_with),
        false_per_day=sound.verdict.false_per_day,
        heard_per_day=sound.verdict.heard_per_day,
        taught=sound.taught,
    )
    text = np.frombuffer(kept.model_dump_json().encode("utf-8", "replace"), np.uint8)
    windows = np.concatenate([a for one in sound.examples for a in one.activities])
    file = io.BytesIO()
    np.savez_compressed(file, kept=text, weights=sound.weights.astype(np.float32), windows=windows)
    return file.getvalue()


def unpacked(name: str, content: bytes) -> TaughtSound:
    """The sound of a file. Raises `ValueError` for anything that `packed` does not write."""
    arrays = arrays_of(content, ("kept", "weights", "windows"))
    try:
        kept = _Kept.model_validate(json.loads(arrays["kept"].tobytes()))
    except (ValidationError, RecursionError) as error:
        raise ValueError("its text is not that of a taught sound") from error
    weights, windows = arrays["weights"], arrays["windows"]
    if weights.shape != (SIZE,) or weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise ValueError("its weights are not numbers")
    counts = [count for one in kept.examples for count in one.windows]
    if windows.dtype != np.uint8 or windows.shape != (sum(counts), SIZE) or len(windows) > MOST_WINDOWS:
        raise ValueError("its examples are not whole")
    pieces = iter(np.split(windows, np.cumsum(counts)[:-1]))
    examples = tuple(
        Example(one.title, tuple(next(pieces) for _ in one.windows), frozenset(one.labels)) for one in kept.examples
    )
    return TaughtSound(
        name,
        kept.title,
        weights,
        kept.bias,
        kept.threshold,
        frozenset().union(*(one.labels for one in examples)),
        examples,
        Verdict(kept.kind, tuple(kept.recognised), tuple(kept.confused_with), kept.false_per_day, kept.heard_per_day),
        kept.taught,
    )


def arrays_of(content: bytes, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz`, no pickle among them. Raises `ValueError` for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > UNPACKED_LIMIT:
            raise ValueError("it unpacks to more than such a file ever holds")  # noqa: TRY301 (as NumPy does)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except ValueError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise a dozen kinds for damaged files
        raise ValueError(f"it is no whole .npz file ({type(error).__name__})") from error


class TaughtFolder:
    """The taught sounds of one home. Blocking, for one thread at a time; any process may change the folder."""

    def __init__(self, state: Path | None = None) -> None:
        """`state` is the folder of the state; None: the user's. Nothing is read or made before it is asked for."""
        self.path = (state or platformdirs.user_state_path("kikimimi")) / "taught"

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """What changes whenever a sound is taught or deleted, by whomever."""
        return tuple((path.name, status.st_mtime_ns, status.st_size) for path, status in self._files())

    def read(self) -> tuple[list[TaughtSound], list[str]]:
        """All sounds by name, and what is wrong with the files that are none. Never raises for a file."""
        sounds: list[TaughtSound] = []
        problems: list[str] = []
        for path, _ in self._files():
            try:
                sounds.append(unpacked(path.name.removesuffix(SUFFIX), read_limited(path)))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                problems.append(
                    f"{path} cannot be used: {why}; that sound is not heard; remedy: teach it again, or delete the file"
                )
        if len(sounds) > MOST:
            problems.append(f"{self.path}: of {len(sounds)} sounds the first {MOST} are heard; remedy: delete some")
        return sounds[:MOST], problems

    def write(self, sound: TaughtSound) -> None:
        """Keep a sound, all of it or nothing; one of the same name is replaced. Raises `AssistantError`."""
        names = [path.name for path, _ in self._files()]
        if len(names) >= MOST and f"{sound.name}{SUFFIX}" not in names:
            raise AssistantError(f"there are {MOST} taught sounds, and no more are heard; remedy: delete one first")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self.path / f"{sound.name}{SUFFIX}", packed(sound))
        except OSError as error:
            raise AssistantError(
                f"{self.path}: {sound.name} cannot be kept ({error.strerror}); remedy: check the owner, the rights and "
                "the free space"
            ) from error

    def delete(self, name: str) -> None:
        """Forget a sound. Raises `AssistantError` when there is none of that name or its file stays."""
        try:
            (self.path / f"{name if NAME.fullmatch(name) else ''}{SUFFIX}").unlink()
        except FileNotFoundError:
            known = ", ".join(path.name.removesuffix(SUFFIX) for path, _ in self._files())
            raise AssistantError(f"no sound {name} was taught; there is {known or 'none'}") from None
        except OSError as error:
            raise AssistantError(f"{self.path}: {name} cannot be deleted ({error.strerror})") from error

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        try:
            found = sorted(self.path.iterdir())
        except OSError:  # nothing was taught yet
            return
        for path in found:
            if path.name.endswith(SUFFIX) and NAME.fullmatch(path.name.removesuffix(SUFFIX)):
                with contextlib.suppress(OSError):  # deleted meanwhile
                    yield path, path.stat()


def read_limited(path: Path) -> bytes:
    """A file of ours. Raises `OSError`, and `ValueError` for one that is too large to be ours."""
    with path.open("rb") as file:
        content = file.read(FILE_LIMIT + 1)
    if len(content) > FILE_LIMIT:
        raise ValueError("it is larger than such a file ever is")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file as a whole, for its owner alone: a power cut leaves the old one or the new one. `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, _FOLDER)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
