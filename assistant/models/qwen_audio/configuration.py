"""The published `config.json` of Qwen-Audio as a configuration of transformers."""

from __future__ import annotations

import math
from typing import Any

from transformers import PreTrainedConfig

from assistant.errors import ModelError

AUDIO = ("n_mels", "n_ctx", "n_state", "n_head", "n_layer", "output_dim", "audio_start_id")
SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_channels", "intermediate_size"),
    "seq_length",
)
_AGAIN = "remedy: fetch the checkpoint again"


class QwenAudioConfig(PreTrainedConfig):
    """Sizes and switches of one checkpoint; names and defaults are those of the published `configuration_qwen.py`.

    `audio` holds the encoder's: n_mels, n_ctx (positions of 20 ms), n_state (width), n_head, n_layer, output_dim (the
    decoder's width) and audio_start_id (the token `<audio>`; `</audio>` is the next one).
    """

    model_type = "qwen"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (the library's protocol)

    vocab_size: int = 151936
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    kv_channels: int = 128  # width of a head
    intermediate_size: int = 22016  # of w1 and w2 together
    layer_norm_epsilon: float = 1e-6
    initializer_range: float = 0.02
    max_position_embeddings: int = 8192
    seq_length: int = 2048  # tokens the model was trained on; dynamic NTK and log-n begin beyond
    rotary_pct: float = 1.0
    rotary_emb_base: float | int = 10000
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    no_bias: bool = True
    tie_word_embeddings: bool = False
    use_cache: bool = True
    audio: dict[str, Any] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.kv_channels

    @property
    def num_key_value_heads(self) -> int:
        """As many as query heads: Qwen-7B has no grouped queries."""
        return self.num_attention_heads

    @property
    def audio_end_id(self) -> int:
        """The token `</audio>`."""
        return int(self.encoder["audio_start_id"]) + 1

    @property
    def encoder(self) -> dict[str, Any]:
        """`audio`, checked. Raises `ModelError` for a configuration that is not of Qwen-Audio."""
        where = f"{self.name_or_path or 'config.json'}"
        if not isinstance(self.audio, dict):
            raise ModelError(f'{where}: config.json has no "audio": this is Qwen without ears, not Qwen-Audio')
        sizes = {key: getattr(self, key) for key in SIZES} | {f"audio.{key}": self.audio.get(key) for key in AUDIO}
        for key, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ModelError(f"{where}: config.json: {key} is {size!r}, not a size; {_AGAIN}")
        if not self.audio.get("avg_pool", True) or not self.audio.get("add_audio_bos_eos_token", True):
            raise ModelError(f"{where}: config.json: audio.avg_pool and audio.add_audio_bos_eos_token must be true")
        if self.audio["output_dim"] != self.hidden_size:
            raise ModelError(
                f"{where}: config.json: audio.output_dim {self.audio['output_dim']} != hidden_size {self.hidden_size}"
            )
        if self.kv_channels * self.num_attention_heads != self.hidden_size:
            raise ModelError(
                f"{where}: config.json: {self.num_attention_heads} heads of kv_channels {self.kv_channels} do not make "
                f"hidden_size {self.hidden_size}"
            )
        self._check_numbers(where, self.audio)
        return self.audio

    def _check_numbers(self, where: str, audio: dict[str, Any]) -> None:
        """Raise `ModelError` for numbers that no checkpoint has, rather than fail at the first prompt."""
        for key in ("layer_norm_epsilon", "rotary_emb_base", "rotary_pct"):
            number = getattr(self, key)
            if not isinstance(number, int | float) or isinstance(number, bool) or not 0.0 < number < math.inf:
                raise ModelError(f"{where}: config.json: {key} is {number!r}, not a number above 0; {_AGAIN}")
        turned = int(self.kv_channels * self.rotary_pct)
        if self.rotary_pct > 1.0 or turned < 4 or turned % 2:
            raise ModelError(
                f"{where}: config.json: rotary_pct {self.rotary_pct} of kv_channels {self.kv_channels} are {turned} "
                f"channels to turn, which must be an even number from 4 to {self.kv_channels}; {_AGAIN}"
            )
        if self.seq_length < 2:
            raise ModelError(f"{where}: config.json: seq_length is {self.seq_length}, at least 2 is needed; {_AGAIN}")
        if audio["n_state"] % audio["n_head"]:
            raise ModelError(
                f"{where}: config.json: audio.n_state {audio['n_state']} cannot be shared by {audio['n_head']} heads; "
                f"{_AGAIN}"
            )
