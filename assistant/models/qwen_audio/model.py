"""Qwen-Audio as a citizen of transformers: device maps, caches, quantisation and sampling come from there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from assistant.errors import ModelError
from assistant.models import packing
from assistant.models.growing_cache import growing_cache
from assistant.models.qwen_audio import checkpoint
from assistant.models.qwen_audio.configuration import QwenAudioConfig
from assistant.models.qwen_audio.decoder import (
    Attention,
    DecoderLayer,
    RMSNorm,
    logn_scale,
    ntk_alpha,
    rotary_embedding,
)
from assistant.models.qwen_audio.encoder import QwenAudioEncoder
from assistant.models.slots import Slots

log = logging.getLogger(__name__)


class QwenAudioPreTrainedModel(PreTrainedModel):
    """What the library needs to know of both classes below."""

    config: QwenAudioConfig
    config_class = QwenAudioConfig
    base_model_prefix = "model"
    input_modalities = ["audio", "text"]  # noqa: RUF012 (the library's protocol, as those below)
    _no_split_modules = ["DecoderLayer", "EncoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DecoderLayer, "attentions": Attention}  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]  # the library's, as below
        if isinstance(module, QwenAudioEncoder):  # for models made from a configuration; a file brings its own
            with torch.no_grad():
                length, channels = module.positional_embedding.shape
                module.positional_embedding.copy_(sinusoids(length, channels))


def sinusoids(length: int, channels: int) -> Tensor:
    """Whisper's positions, (length, channels): sines, then cosines, of wavelengths from 2 pi to 10,000 · 2 pi."""
    step = torch.log(torch.tensor(10_000.0)) / (channels // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(channels // 2))[None]
    return torch.cat((angles.sin(), angles.cos()), 1)


class QwenAudioModel(QwenAudioPreTrainedModel):
    """Encoder and decoder without the LM head."""

    def __init__(self, config: QwenAudioConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.audio_tower = QwenAudioEncoder(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_audio_features(
        self, input_features: Tensor, audio_lengths: Tensor, *, crop_by_batch: bool = False
    ) -> list[Tensor]:
        """One tensor (tokens + 2, hidden_size) for each clip of `input_features` (clips, n_mels, frames).

        `audio_lengths` (clips,) are the mel frames that are audio. Raises `ModelError` for lengths that do not fit.
        """
        lengths = audio_lengths.tolist()
        if len(lengths) != len(input_features):
            raise ModelError(f"audio_lengths has {len(lengths)} clips, input_features {len(input_features)}")
        most = min(input_features.shape[-1], 2 * int(self.config.encoder["n_ctx"]))
        if any(not 3 <= length <= most for length in lengths):
            raise ModelError(f"audio_lengths: {lengths} mel frames; a clip has 3 (30 ms) to {most}")
        features = input_features.to(self.audio_tower.conv1.weight.device)
        return cast("list[Tensor]", self.audio_tower(features, lengths, crop_by_batch=crop_by_batch))

    def embed(
        self,
        input_ids: Tensor,
        input_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        *,
        crop_by_batch: bool = False,
    ) -> Tensor:
        """Embeddings (batch, length, hidden_size) of a prompt, its clips in place of their placeholders.

        A clip's span, `<audio>` and `</audio>` included, is overwritten whole: their rows of the embedding table are
        never used. Clips go to spans in the order of reading, row by row. Raises `ModelError` when they do not fit.
        """
        embeddings: Tensor = self.embed_tokens(input_ids)
        start, end = int(self.config.encoder["audio_start_id"]), self.config.audio_end_id
        opened, closed = input_ids == start, input_ids == end
        if input_features is None:
            if bool(opened.any()):
                raise ModelError("the prompt has <audio> but no input_features; remedy: pass audio to the processor")
            return embeddings
        if audio_lengths is None:
            raise ModelError("input_features came without audio_lengths; remedy: use the processor's whole output")
        clips = self.get_audio_features(input_features, audio_lengths, crop_by_batch=crop_by_batch)
        starts, ends = opened.nonzero().tolist(), closed.nonzero().tolist()
        if len(starts) != len(clips) or len(ends) != len(clips):
            raise ModelError(f"the prompts hold {len(starts)} <audio> and {len(ends)} </audio> for {len(clips)} clips")
        embeddings = embeddings.clone()
        for clip, (row, first), (last_row, last) in zip(clips, starts, ends, strict=True):
            if row != last_row or last - first + 1 != len(clip):
                raise ModelError(
                    f"row {row}: the span at token {first} has {last - first + 1} tokens for {len(clip)} embeddings; "
                    "remedy: use the processor's whole output"
                )
            embeddings[row, first : last + 1] = clip.to(embeddings)
        return embeddings

    @merge_with_config_defaults  # type: ignore[untyped-decorator]  # the library's own, as the next
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(  # noqa: PLR0917 (as callers of transformers expect)
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        ntk_alpha: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,  # noqa: ANN401 (for the attention implementation)
    ) -> BaseModelOutputWithPast:
        """Hidden states (batch, length, hidden_size) after the last norm.

        Without `position_ids` a token's position is its index in the padded row, as published (RoPE does not mind,
        log-n does). Without `ntk_alpha` (batch,) it comes from the cache, else from the lengths of this prompt.
        """
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if use_cache and past_key_values is None:
            past_key_values = growing_cache()
        length, device = inputs_embeds.shape[1], inputs_embeds.device
        if position_ids is None:
            position_ids = (torch.arange(length, device=device) + past)[None]
        alpha = self._alpha(ntk_alpha, past_key_values, attention_mask, inputs_embeds)
        rotary = rotary_embedding(position_ids, alpha, self.config)
        # Slots know their longest row; others may be given positions beyond what they hold.
        positions = None if isinstance(past_key_values, Slots) else position_ids
        logn = logn_scale(position_ids, self.config) if self._needs_logn(past + length, positions) else None
        mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        hidden = inputs_embeds
        for layer in self.layers:
            hidden = layer(hidden, rotary=rotary, logn=logn, mask=mask, cache=past_key_values, **options)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values if use_cache else None
        )

    def _needs_logn(self, length: Any, position_ids: Tensor | None) -> bool:  # noqa: ANN401 (int, or a tensor of a static cache)
        """Whether any token may lie beyond the trained length."""
        if not self.config.use_logn_attn or self.training:
            return False
        if int(length) > self.config.seq_length:
            return True
        return position_ids is not None and bool(position_ids.max() >= self.config.seq_length)

    def _alpha(self, given: Tensor | None, cache: Cache | None, mask: Tensor | None, embeddings: Tensor) -> Tensor:
        """The stretch of each row's rotary base, fixed at prefill: it stays with the cache whose keys it turned."""
        rows = len(embeddings)
        alpha = given if given is not None else getattr(cache, "ntk_alpha", None)
        if alpha is None:
            alpha = self.prompt_alpha(mask, rows, embeddings.shape[1]).to(embeddings.device)
        if cache is not None:
            cache.ntk_alpha = alpha  # type: ignore[attr-defined]
        # A cache whose rows were repeated (beams, labels to score) has fewer alphas than rows.
        return alpha if len(alpha) in {1, rows} else alpha.repeat_interleave(rows // len(alpha), 0)

    def prompt_alpha(self, attention_mask: Tensor | None, rows: int, length: int) -> Tensor:
        """`ntk_alpha` of whole prompts, (rows,) or (1,): from each row's true length, padding not counted."""
        if length <= self.config.seq_length or not self.config.use_dynamic_ntk:
            return torch.ones(1)
        if attention_mask is None or attention_mask.dim() != 2:
            return torch.full((1,), ntk_alpha(length, self.config))
        return torch.tensor([ntk_alpha(count, self.config) for count in attention_mask.sum(-1).tolist()])


class QwenAudioForConditionalGeneration(QwenAudioPreTrainedModel, GenerationMixin):
    """Qwen-Audio and Qwen-Audio-Chat.

    `from_pretrained(folder, dtype=…)` reads the published files; `QwenAudioProcessor` makes the inputs.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (the library's protocol)

    def __init__(self, config: QwenAudioConfig) -> None:
        super().__init__(config)
        self.model = QwenAudioModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(  # type: ignore[override]  # narrower on purpose: safetensors, no remote code
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        weights: packing.Weights = "packed",
        **options: Any,  # noqa: ANN401
    ) -> QwenAudioForConditionalGeneration:
        """Load a folder, or a repository of the hub at the commit `revision`, straight to its device and dtype.

        On a CPU the linear layers are then packed (`assistant.models.packing`): for inference only;
        `weights` "int8" also rounds those of the decoder, "plain" leaves all as they are, to be trained or moved.
        `options` are the library's: dtype, device_map, quantization_config, attn_implementation… Before anything is
        loaded, names, shapes and sizes of all tensors are compared with what the configuration asks for. Raises
        `ModelError` for whatever does not fit, naming the file.
        """
        folder = checkpoint.locate(name, revision, local_files_only=local_files_only)
        config = options.pop("config", None) or checkpoint.configuration(folder)
        with torch.device("meta"):
            expected = {key: tuple(value.shape) for key, value in cls(config).state_dict().items()}
        checkpoint.verify(folder, expected)
        tensors = checkpoint.tensors(folder)
        if options.get("dtype", "auto") == "auto":
            options["dtype"] = checkpoint.dtype_of(tensors)
        options |= {"config": config, "state_dict": tensors, "key_mapping": checkpoint.NAMES}
        try:
            loaded: Any = super().from_pretrained(None, output_loading_info=True, **options)
            if (folder / "generation_config.json").is_file():
                loaded[0].generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"{folder}: cannot be loaded: {error}") from error
        model, report = loaded
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report[kind]:
                raise ModelError(f"{folder}: {kind.replace('_', ' ')} after loading: {sorted(report[kind])[:3]}")
        if options.get("quantization_config") is None:
            packing.pack(model, weights, whole=("audio_tower",))
        return cast("QwenAudioForConditionalGeneration", model)

    @can_return_tuple  # type: ignore[untyped-decorator]  # the library's own
    def forward(  # noqa: PLR0917 (as callers of transformers expect)
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        ntk_alpha: Tensor | None = None,
        crop_by_batch: bool = False,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,  # noqa: ANN401 (output_hidden_states, and what the attention implementation takes)
    ) -> CausalLMOutputWithPast:
        """Logits (batch, length, vocab_size) of every position, or of the last `logits_to_keep`.

        `input_ids` and `attention_mask` (batch, length), left-padded; `input_features` (clips, n_mels, frames) and
        `audio_lengths` (clips,) of all rows together. `prompt_embeds` and `ntk_alpha` hold what `generate` computed
        from the whole prompt, so that it can be taken in pieces. Raises `ModelError` for inputs that do not fit.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ModelError("neither input_ids nor inputs_embeds was given")
            past = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
            if prompt_embeds is not None and past < (prompt := prompt_embeds.shape[1]):
                inputs_embeds = prompt_embeds[:, past : past + input_ids.shape[1]]
                if past + input_ids.shape[1] > prompt:  # generation without a cache takes everything anew
                    new = self.model.embed_tokens(input_ids[:, prompt - past :])
                    inputs_embeds = torch.cat((inputs_embeds, new), 1)
            elif past and input_features is None:
                inputs_embeds = self.model.embed_tokens(input_ids)
            else:
                inputs_embeds = self.model.embed(input_ids, input_features, audio_lengths, crop_by_batch=crop_by_batch)
        outputs = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            ntk_alpha=ntk_alpha,
            use_cache=use_cache,
            **options,
        )
        hidden = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        return CausalLMOutputWithPast(
            logits=self.lm_head(hidden),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]  # the library's, with our inputs named
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        crop_by_batch: bool = False,
        **options: Any,  # noqa: ANN401 (the library's)
    ) -> Any:  # noqa: ANN401 (ids, or the library's output object)
        """Prompt and new ids, (batch, length + new). Options are the library's (`GenerationMixin.generate`).

        The clips are encoded once for the whole prompt; the stretch of the rotary base is fixed by the prompt's length.
        """
        input_ids = inputs if inputs is not None else options.pop("input_ids", None)
        if input_ids is not None and options.get("inputs_embeds") is None:
            mask = options.get("attention_mask")
            input_ids = input_ids.to(self.device)
            options.setdefault(
                "position_ids", torch.arange(input_ids.shape[1], device=self.device).expand_as(input_ids)
            )
            options.setdefault(
                "ntk_alpha", self.model.prompt_alpha(mask, *input_ids.shape).to(self.device).expand(len(input_ids))
            )
            options["prompt_embeds"] = self.model.embed(
                input_ids, input_features, audio_lengths, crop_by_batch=crop_by_batch
            )
        # Beams choose rows anew at each token, which would leave the spare room behind.
        own = {"past_key_values", "cache_implementation", "num_beams", "use_cache"} & options.keys()
        if not own and (generation_config is None or (generation_config.num_beams or 1) == 1):
            options["past_key_values"] = growing_cache()
        generating: Any = super()  # the library types `self` as a protocol that no model fits
        return generating.generate(input_ids, generation_config=generation_config, **options)
