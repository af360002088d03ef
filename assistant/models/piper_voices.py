"""Voices of Piper by name, from `rhasspy/piper-voices` on the Hugging Face hub; or a file that the user has.

Each voice has a licence of its own, told by the MODEL_CARD that is kept beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

from assistant.errors import ModelError
from assistant.models import store
from assistant.models.hub import endpoint

REPOSITORY = "rhasspy/piper-voices"
REVISION = "v1.0.0"  # the repository's released set
ASK_SECONDS = 10.0

_NAME = re.compile(r"(([a-z]{2,3})_[A-Z]{2})-([a-zA-Z0-9_]{1,40})-(x_low|low|medium|high)")


def located(voice: str, root: Path | None = None) -> Path:
    """The `.onnx` file of a voice: the path itself, or a name such as `en_US-joe-medium`, fetched once.

    Raises `ModelError` with the remedy when it is neither there nor to be had.
    """
    name = _NAME.fullmatch(voice)
    if name is None:
        path = Path(voice).expanduser()
        if path.is_file():
            return path
        raise ModelError(
            f"say.piper.voice: {path} is not there; remedy: the .onnx file of a voice of Piper, or a name such as "
            "en_US-joe-medium"
        )
    folder = f"{name[2]}/{name[1]}/{name[3]}/{name[4]}"
    place = store.root(root) / "piper-voices"
    model = place / folder / f"{voice}.onnx"
    if not (model.is_file() and model.with_name(f"{voice}.onnx.json").is_file()):
        for file in ("MODEL_CARD", f"{voice}.onnx.json", f"{voice}.onnx"):
            _fetch(f"{folder}/{file}", place)
    return model


def _fetch(file: str, place: Path) -> None:
    """One file of the repository, complete or not at all."""
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        hf_hub_download(
            REPOSITORY,
            file,
            revision=REVISION,
            local_dir=place,
            endpoint=endpoint(),
            token=False,
            etag_timeout=ASK_SECONDS,
            library_name="kikimimi",
        )
    except Exception as error:  # the library's HTTP client differs with its version
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"{REPOSITORY}: {file} could not be fetched from {endpoint()} ({reason}); remedy: check the name and the "
            "network, or give the voice's .onnx file (with its .onnx.json) as say.piper.voice"
        ) from error
