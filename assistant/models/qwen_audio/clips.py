"""Audio as the model takes it: mono at 16 kHz, float32 of shape (samples,), up to 30 s."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from assistant.errors import ModelError, SourceError
from assistant.events import Samples
from assistant.models.qwen_audio.mel import RATE

log = logging.getLogger(__name__)


def prepared(audio: Any, longest: int, name: str = "the clip") -> Samples:  # noqa: ANN401 (checked here)
    """One clip of an array or tensor, cut at `longest` samples with a warning.

    Raises `ModelError` for what is no mono audio in floating point.
    """
    if isinstance(audio, torch.Tensor):  # numpy knows no bfloat16
        audio = (audio.float() if audio.is_floating_point() else audio).detach().cpu().numpy()
    samples = np.asarray(audio)
    if samples.ndim != 1:
        raise ModelError(f"{name} has shape {samples.shape}; remedy: mono, of shape (samples,)")
    if not samples.size:
        raise ModelError(f"{name} is empty")
    if samples.dtype.kind != "f":
        raise ModelError(f"{name} is {samples.dtype}; remedy: float32 from -1 to 1 (int16 divided by 32768)")
    if strange := int(np.count_nonzero(~np.isfinite(samples))):
        raise ModelError(f"{name} has {strange} samples that are no finite number")
    _warn(name, samples.size / RATE, longest)
    return np.ascontiguousarray(samples[:longest], np.float32)


def read(path: Path, longest: int) -> Samples:
    """The first `longest` samples of a local file, mixed to mono at 16 kHz. Raises `SourceError`."""
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file; remedy: a local audio file, or its samples")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            _warn(str(path), file.frames / rate, longest)
            # One second more than is heard, for the edge of the resampling filter.
            sound = file.read((longest // RATE + 1) * rate, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise SourceError(f"{path}: cannot be read as audio: {error}") from error
    mono: Samples = soxr.resample(sound.mean(axis=1), rate, RATE)
    return mono[:longest]


def _warn(name: str, seconds: float, longest: int) -> None:
    """Tell that a clip is cut, each time: `warnings` would tell it once."""
    if seconds * RATE > longest:
        log.warning("%s: %.1f s of audio, the model hears the first %.1f s", name, seconds, longest / RATE)
