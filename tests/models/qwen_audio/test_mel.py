from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_qwen_audio as tiny
import torch
from numpy.typing import NDArray

from assistant.models.qwen_audio import mel


def clip(name: str) -> torch.Tensor:
    return torch.from_numpy(tiny.wave(name))


# The goldens were computed by MKL's generic FFT. Where it knows the processor MKL takes another one, whose float32
# rounding moves quiet bins by up to 6e-5; float64 is as far from both.
OTHER_FFT = 1e-4
GENERIC = """
import sys
import numpy as np, tiny_qwen_audio as tiny, torch
from assistant.models.qwen_audio import mel
clips = [torch.from_numpy(tiny.wave(name)) for name in tiny.CLIPS]
single = {name: mel.log_mel([clip])[0].numpy() for name, clip in zip(tiny.CLIPS, clips)}
np.savez(sys.argv[1], batch=mel.log_mel(clips).numpy(), **single)
"""


@pytest.fixture(scope="module")
def generic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.float32]]:
    """Our spectrograms by the FFT of the goldens, which a process chooses as it begins: one by one, and a `batch`."""
    file = tmp_path_factory.mktemp("generic") / "mel.npz"
    path = os.pathsep.join((str(Path(tiny.__file__).parent), *sys.path))
    environment = {**os.environ, "MKL_CBWR": "COMPATIBLE", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", GENERIC, str(file)], check=True, env=environment, timeout=100)
    return dict(np.load(file))


@pytest.mark.parametrize("name", tiny.CLIPS)
def test_spectrograms_are_those_of_the_original(name: str, generic: dict[str, NDArray[np.float32]]) -> None:
    ours = mel.log_mel([clip(name)])
    assert ours.shape == (1, 80, 3000)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(generic[name], tiny.mel(name), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[0].numpy(), tiny.mel(name), rtol=0, atol=OTHER_FFT)


def test_a_clip_does_not_hear_its_neighbours(generic: dict[str, NDArray[np.float32]]) -> None:
    together = mel.log_mel([clip(name) for name in tiny.CLIPS])
    for row, others, name in zip(together, generic["batch"], tiny.CLIPS, strict=True):
        np.testing.assert_allclose(row.numpy(), mel.log_mel([clip(name)])[0].numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(others, tiny.mel(name), rtol=0, atol=1e-6)


def test_the_filters_are_those_of_whisper() -> None:
    np.testing.assert_allclose(mel._filters(80).numpy(), tiny.goldens()["mel_filters_80x201"], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(torch.hann_window(400).numpy(), tiny.goldens()["hann_400"])


def test_only_the_first_30_seconds_are_heard() -> None:
    long = clip("long")
    assert long.numel() > mel.N_SAMPLES
    assert torch.equal(mel.log_mel([long]), mel.log_mel([long[: mel.N_SAMPLES]]))


def test_silence_is_flat() -> None:
    assert mel.log_mel([torch.zeros(16_000)]).unique().tolist() == [(-10 + 4) / 4]


def test_lengths_are_those_of_the_original() -> None:
    table = tiny.table("lengths")
    assert table["columns"] == ["samples", "mel_len", "len_after_cnn", "audio_tokens", "audio_span_tokens"]
    compared = 0
    for samples, frames, encoded, tokens, span in table["rows"]:
        if samples < mel.SHORTEST:  # the original fails on these
            assert (mel.mel_frames(samples), mel.audio_span(mel.mel_frames(samples))) == (3, 3)
            continue
        ours = mel.mel_frames(samples)
        assert (ours, mel.encoder_frames(ours), mel.audio_tokens(ours), mel.audio_span(ours)) == (
            frames,
            encoded,
            tokens,
            span,
        )
        compared += 1
    assert compared == len(table["rows"]) - 10
    assert compared > 60


def test_lengths_of_the_golden_clips() -> None:
    spans = {name: mel.audio_span(mel.mel_frames(tiny.wave(name).size)) for name in tiny.CLIPS}
    assert spans == {name: tiny.goldens()[f"enc/{name}"].shape[0] for name in tiny.CLIPS}
    assert spans["long"] == 752
