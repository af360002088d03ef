from __future__ import annotations

import numpy as np
import pytest
import tiny_qwen_audio as tiny
import torch

from assistant.models.qwen_audio import mel


def clip(name: str) -> torch.Tensor:
    return torch.from_numpy(tiny.wave(name))


@pytest.mark.parametrize("name", tiny.CLIPS)
def test_spectrograms_are_those_of_the_original(name: str) -> None:
    ours = mel.log_mel([clip(name)])
    assert ours.shape == (1, 80, 3000)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours[0].numpy(), tiny.mel(name), rtol=0, atol=1e-6)


def test_a_clip_does_not_hear_its_neighbours() -> None:
    together = mel.log_mel([clip(name) for name in tiny.CLIPS])
    for row, name in zip(together, tiny.CLIPS, strict=True):
        np.testing.assert_allclose(row.numpy(), tiny.mel(name), rtol=0, atol=1e-6)


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
