"""The decoder: Qwen-7B, with dynamic NTK and log-n attention beyond the length it was trained on.

Source: Bai et al., "Qwen Technical Report" (2023), section 2; the published `modeling_qwen.py` for what the paper
leaves open. Nothing is kept between calls but what the caller holds (cache, `ntk_alpha`): calls may be interleaved.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from assistant.models.qwen_audio.configuration import QwenAudioConfig


def ntk_alpha(length: int, config: QwenAudioConfig) -> float:
    """How far the rotary base is stretched for a prompt of `length` tokens: 1 up to `seq_length`, 3 to twice that."""
    if not config.use_dynamic_ntk or length <= config.seq_length:
        return 1.0
    return float(2 ** math.ceil(math.log2(length / config.seq_length) + 1) - 1)


def rotary_embedding(positions: Tensor, alpha: Tensor, config: QwenAudioConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape (batch, 1, length, rotary width), float32.

    `positions` (batch or 1, length), `alpha` (batch or 1,) from `ntk_alpha`. Computed anew each time: a buffer that is
    not in the file would come out of a load through the meta device uninitialised.
    """
    width = int(config.head_dim * config.rotary_pct)
    # In float64 as Python computes it: at position 4,000 the last bit of a float32 base turns a key by 2e-4.
    base = (config.rotary_emb_base * alpha.double() ** (width / (width - 2))).float()
    exponents = torch.arange(0, width, 2, device=positions.device).float() / width
    frequencies = 1.0 / base[:, None] ** exponents
    angles = positions.float()[..., None] * frequencies[:, None, :]
    angles = torch.cat((angles, angles), -1)[:, None]
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE by halves (not interleaved) on the first `cos.shape[-1]` channels, in float32."""
    width = cos.shape[-1]
    head = states[..., :width].float()
    first, second = head.chunk(2, -1)
    turned = (head * cos + torch.cat((-second, first), -1) * sin).to(states.dtype)
    return turned if width == states.shape[-1] else torch.cat((turned, states[..., width:]), -1)


def logn_scale(positions: Tensor, config: QwenAudioConfig) -> Tensor:
    """log(i) / log(seq_length) for the i-th token (from 1) beyond `seq_length`, else 1; shape (batch, 1, length, 1)."""
    scale = (positions.float() + 1.0).log() / math.log(config.seq_length)
    return scale.clamp(min=1.0)[:, None, :, None]


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32; the weight is applied after the cast back."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """The same shape and dtype."""
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return wide.to(hidden.dtype) * self.weight


def eager_attention(  # noqa: PLR0917 (the library's attention interface)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_options: Any,  # noqa: ANN401 (the library's attention interface)
) -> tuple[Tensor, Tensor]:
    """Attention written out, for those who want the weights (`attn_implementation="eager"`)."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class Attention(nn.Module):
    """Causal attention with one projection for query, key and value, the only one in the decoder that has a bias."""

    def __init__(self, config: QwenAudioConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.is_causal = True  # read by the library's attention functions
        self.num_key_value_groups = 1
        self.scaling = config.head_dim**-0.5
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=not config.no_bias)

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        logn: Tensor | None,
        mask: Tensor | None,
        cache: Cache | None,
        **options: Any,  # noqa: ANN401 (the library's attention interface)
    ) -> tuple[Tensor, Tensor | None]:
        """`hidden` (batch, length, width) to the same shape, and the weights where the implementation tells them."""
        batch, length, width = hidden.shape
        heads = self.qkv_proj(hidden).view(batch, length, 3, -1, self.config.head_dim).transpose(1, 3)
        query, key, value = heads.unbind(2)
        query, key = rotate(query, *rotary), rotate(key, *rotary)
        if logn is not None:
            query = (query.float() * logn).to(query.dtype)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, weights = attend(self, query, key, value, mask, dropout=0.0, scaling=self.scaling, **options)
        return self.o_proj(attended.reshape(batch, length, width)), weights


class MLP(nn.Module):
    """SwiGLU. In the file `w2` is the gate and `w1` what it lets through."""

    def __init__(self, config: QwenAudioConfig) -> None:
        super().__init__()
        inner, bias = config.intermediate_size // 2, not config.no_bias
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=bias)
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) to (…, width)."""
        output: Tensor = self.down_proj(self.up_proj(hidden) * functional.silu(self.gate_proj(hidden)))
        return output


class DecoderLayer(nn.Module):
    """A pre-norm block."""

    def __init__(self, config: QwenAudioConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, **context: Any) -> Tensor:  # noqa: ANN401 (handed to `Attention` as it is)
        """`hidden` (batch, length, width) to the same shape; `context` is what `Attention` takes."""
        attended, _ = self.self_attn(self.input_layernorm(hidden), **context)
        hidden = hidden + attended
        inner: Tensor = self.mlp(self.post_attention_layernorm(hidden))
        return hidden + inner
