"""The audio encoder: Whisper-large's, pooled by two and projected into the decoder's width.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), section 2.2; Qwen-Audio's
`audio.py` for the crop, the pooling and the order at the end. A frame of the log-mel is 10 ms, of the encoder 20 ms,
an audio token 40 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from assistant.models.qwen_audio.configuration import QwenAudioConfig
from assistant.models.qwen_audio.mel import audio_tokens, encoder_frames


class SelfAttention(nn.Module):
    """Bidirectional attention over a clip; the key has no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`hidden` (clips, frames, width), `mask` (clips, 1, 1, frames) with True for keys that count."""
        clips, frames, width = hidden.shape
        query, key, value = (
            project(hidden).view(clips, frames, self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        output: Tensor = self.out_proj(attended.transpose(1, 2).reshape(clips, frames, width))
        return output


class EncoderLayer(nn.Module):
    """A pre-norm transformer block with an exact (erf) GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`hidden` (clips, frames, width) to the same shape."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), mask)
        inner: Tensor = self.fc2(functional.gelu(self.fc1(self.final_layer_norm(hidden))))
        return hidden + inner


class QwenAudioEncoder(nn.Module):
    """Log-mel spectrograms to embeddings of the decoder's width, 25 a second."""

    positional_embedding: Tensor

    def __init__(self, config: QwenAudioConfig) -> None:
        super().__init__()
        sizes = config.encoder
        width, heads = int(sizes["n_state"]), int(sizes["n_head"])
        self.conv1 = nn.Conv1d(int(sizes["n_mels"]), width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        # Sinusoids, but loaded: the file holds them rounded to its own dtype.
        self.register_buffer("positional_embedding", torch.empty(int(sizes["n_ctx"]), width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(int(sizes["n_layer"])))
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Linear(width, int(sizes["output_dim"]))
        self.audio_bos_eos_token = nn.Embedding(2, int(sizes["output_dim"]))

    def forward(self, mel: Tensor, mel_frames: Sequence[int], *, crop_by_batch: bool = False) -> list[Tensor]:
        """`mel` (clips, n_mels, frames ≤ 2 n_ctx) to one tensor (tokens + 2, output_dim) a clip, boundaries included.

        `mel_frames` are the frames of each clip that are audio; what follows is not heard. With `crop_by_batch` the
        last frame of a shorter clip sees the silence after it, as in the published code, where a clip's embeddings
        depend on the longest of its batch.
        """
        frames = [encoder_frames(count) for count in mel_frames]
        longest = max(frames)
        mel = mel[:, :, : 2 * longest].to(self.conv1.weight.dtype)
        mixed = min(frames) < longest
        if mixed:
            lengths = torch.tensor(frames, device=mel.device)
            if not crop_by_batch:  # the zeros that the convolution itself puts after a clip on its own
                heard = torch.arange(mel.shape[-1], device=mel.device) < 2 * lengths[:, None]
                mel = mel * heard[:, None]
        hidden = functional.gelu(self.conv1(mel))
        hidden = functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.positional_embedding[:longest]
        mask = None
        if mixed:
            valid = torch.arange(longest, device=mel.device) < lengths[:, None]
            hidden, mask = hidden * valid[..., None], valid[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        hidden = functional.avg_pool1d(hidden.transpose(1, 2), 2, 2).transpose(1, 2)
        hidden = self.proj(self.ln_post(hidden))
        start, end = self.audio_bos_eos_token.weight.unbind()
        return [
            torch.cat((start[None], clip[: audio_tokens(count)], end[None]))
            for clip, count in zip(hidden, mel_frames, strict=True)
        ]
