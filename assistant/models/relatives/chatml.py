"""The relatives that speak ChatML: Qwen2-Audio, and the Thinkers of Qwen2.5-Omni and Qwen3-Omni.

The Thinker's own class is used, not the whole Omni model: that one's `generate` wants a talker even for text.
Prompt formats: the chat templates of Qwen2-Audio-7B-Instruct, Qwen2.5-Omni-7B and Qwen3-Omni-30B-A3B-Instruct.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as qwen3

from assistant.events import SAMPLE_RATE, Samples
from assistant.models.audio_llm import AudioLLMSettings, Message
from assistant.models.relatives.relative import Clip, Relative, Row


class ChatML(Relative):
    """Turns between `<|im_start|>` and `<|im_end|>`; features come with a mask of the frames that are audio."""

    ends = ("<|im_end|>", "<|endoftext|>")
    padding = "<|endoftext|>"
    system: ClassVar[str]  # what stands where a conversation has no system message; empty: no such turn
    numbered: ClassVar[bool] = False  # "Audio 1: " before each clip and a new line after it

    def _write(self, row: Row, messages: Sequence[Message]) -> None:
        numbers = count(1)
        if messages[0].role != "system" and self.system:
            messages = (Message("system", (self.system,)), *messages)
        for message in messages:
            row.ids += [self._id("<|im_start|>"), *self.encode(f"{message.role}\n")]
            for item in message.content:
                lead = (lambda: f"Audio {next(numbers)}: ") if self.numbered else None
                self._content(row, (item,), lead)
                if self.numbered and not isinstance(item, str):
                    row.ids += self.encode("\n")
            row.ids += [self._id("<|im_end|>"), *self.encode("\n")]
        row.ids += [self._id("<|im_start|>"), *self.encode("assistant\n")]

    def _mel(self, samples: Samples, **options: Any) -> Clip:  # noqa: ANN401 (the extractor's own)
        extracted = self.extractor(
            samples, sampling_rate=SAMPLE_RATE, return_attention_mask=True, return_tensors="pt", **options
        )
        frames = int(extracted["attention_mask"][0].sum())
        return Clip(extracted["input_features"][0], frames, int(self._tokens(torch.tensor([frames]))[0]))

    def _features(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        features = pad_sequence([clip.features.T for clip in clips], batch_first=True).transpose(1, 2)
        frames = torch.tensor([clip.frames for clip in clips])
        mask = torch.arange(features.shape[-1])[None] < frames[:, None]
        return {"input_features": features, "feature_attention_mask": mask.long()}

    def _lengths(self, inputs: dict[str, torch.Tensor]) -> int:
        return int(self._tokens(inputs["feature_attention_mask"].sum(-1)).sum())

    def _tokens(self, frames: torch.Tensor) -> torch.Tensor:
        """Embeddings of clips with so many mel frames, by the encoder itself."""
        lengths: torch.Tensor = self.model.model.audio_tower._get_feat_extract_output_lengths(frames)[1]
        return lengths


class Qwen2Audio(ChatML):
    """Qwen2-Audio-7B(-Instruct): 25 embeddings a second, clips of at most 30 s."""

    architecture = "Qwen2AudioForConditionalGeneration"
    placeholder, opening, closing = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
    system = "You are a helpful assistant."
    numbered = True

    def _clip(self, samples: Samples) -> Clip:
        return self._mel(self._whole(samples, self.extractor.n_samples))  # its encoder takes 30 s, padded


class Thinker(ChatML):
    """The part of an Omni model that reads and hears; its eyes are dropped, its voice is not loaded."""

    def __init__(self, folder: Path, settings: AudioLLMSettings) -> None:
        super().__init__(folder, settings)
        self.model.model.visual = None  # 1.3 GB of a 7B checkpoint that nothing here looks through


class Qwen25Omni(Thinker):
    """Qwen2.5-Omni-3B and -7B: 25 embeddings a second."""

    architecture = "Qwen2_5OmniThinkerForConditionalGeneration"
    placeholder, opening, closing = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
    system = "You are a helpful assistant."

    def _clip(self, samples: Samples) -> Clip:
        samples = self._whole(samples, self.extractor.n_samples)
        hop, n_fft = self.extractor.hop_length, self.extractor.n_fft
        # Published: padded with silence to 300 s, then only the frames of audio are used. One window of it is the same.
        return self._mel(samples, max_length=-(-(len(samples) + n_fft) // hop) * hop)


class Qwen3Omni(Thinker):
    """Qwen3-Omni-30B-A3B: 13 embeddings a second.

    Its encoder pads chunks of one second to the longest of the batch and looks at the padding, so that a clip under a
    second would depend on its neighbours: such clips are filled up with silence here.
    """

    architecture = "Qwen3OmniMoeThinkerForConditionalGeneration"
    placeholder, opening, closing = "<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"
    system = ""
    shortest = SAMPLE_RATE
    quantisable = False  # its experts are no linear layers, bitsandbytes passes them over

    def _clip(self, samples: Samples) -> Clip:
        return self._mel(samples, padding="longest", truncation=False)

    def _tokens(self, frames: torch.Tensor) -> torch.Tensor:
        lengths: torch.Tensor = qwen3._get_feat_extract_output_lengths(frames, self.model.config.audio_config.n_window)
        return lengths
