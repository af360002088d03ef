"""Audio to log-mel spectrograms, and how long each stage of the encoder is.

The features are those of Whisper (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022):
frames of 25 ms each 10 ms, 80 Slaney mels, the last 8 powers of ten of each clip. Qwen-Audio computes them over 30 s,
silence added, so the silence behind a clip depends on its loudest frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from transformers.audio_utils import mel_filter_bank

RATE = 16_000  # samples per second
N_FFT = 400
HOP = 160
N_MELS = 80
FRAMES = 3000  # of every spectrogram: 30 s
N_SAMPLES = FRAMES * HOP
SHORTEST = 3 * HOP  # samples: 30 ms, of which one audio token is made

_FLOOR = 1e-10
_RANGE = 8.0  # powers of ten


def mel_frames(samples: int) -> int:
    """Mel frames of a clip: whole hops, of at most 30 s and at least 30 ms."""
    return min(max(samples, SHORTEST), N_SAMPLES) // HOP


def encoder_frames(mel_frames: int) -> int:
    """Frames of 20 ms behind the convolutions, of stride 1 and 2."""
    return (mel_frames + 1) // 2


def audio_tokens(mel_frames: int) -> int:
    """Tokens of 40 ms: pairs of encoder frames, the odd one out dropped."""
    return encoder_frames(mel_frames) // 2


def audio_span(mel_frames: int) -> int:
    """Tokens that a clip takes in the prompt: its audio tokens between `<audio>` and `</audio>`."""
    return audio_tokens(mel_frames) + 2


def log_mel(clips: Sequence[torch.Tensor], n_mels: int = N_MELS) -> torch.Tensor:
    """Log-mel spectrograms of `clips`, each float32 of shape (samples,) at 16 kHz: float32 of (clips, n_mels, 3000).

    A clip is cut to 30 s or silence is added. Computed where the first clip lies; no clip changes another's result.
    """
    batch = torch.zeros(len(clips), N_SAMPLES, device=clips[0].device)
    for row, clip in zip(batch, clips, strict=True):
        heard = clip[:N_SAMPLES]
        row[: heard.shape[0]] = heard
    window = torch.hann_window(N_FFT, device=batch.device)
    spectrum = torch.stft(batch, N_FFT, HOP, window=window, return_complex=True)  # (clips, 201, 3001)
    power = spectrum[..., :-1].abs() ** 2
    logarithm = (_filters(n_mels).to(batch.device) @ power).clamp(min=_FLOOR).log10()
    loudest = logarithm.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(logarithm, loudest - _RANGE) + 4) / 4


@cache
def _filters(n_mels: int) -> torch.Tensor:
    """Triangles on Slaney's mel scale up to 8 kHz, each of unit area: float32 of shape (n_mels, 201)."""
    bank = mel_filter_bank(1 + N_FFT // 2, n_mels, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank.T).float().contiguous()
