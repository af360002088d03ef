"""Voxtral: Whisper's encoder and a Mistral decoder.

Prompt format: tokenizer version 7 of the package mistral-common. The package itself is not needed: `transformers` reads
its `tekken.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers.integrations.mistral.tokenizer import MistralConverter

from assistant.events import SAMPLE_RATE, Samples
from assistant.models.audio_llm import Message
from assistant.models.relatives.relative import Clip, Relative, Row


class Voxtral(Relative):
    """Voxtral-Mini-3B and -Small-24B: windows of 30 s, 12.5 embeddings a second, silence of the last one included."""

    architecture = "VoxtralForConditionalGeneration"
    placeholder, opening, closing = "[AUDIO]", "[BEGIN_AUDIO]", ""
    ends = ("</s>",)
    padding = "<pad>"

    def _load_tokenizer(self, folder: Path) -> Tokenizer:
        tekken = folder / "tekken.json"
        if not tekken.is_file():
            return super()._load_tokenizer(folder)
        return MistralConverter(str(tekken)).converted()

    def _write(self, row: Row, messages: Sequence[Message]) -> None:
        marks = {
            "system": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
            "user": ("[INST]", "[/INST]"),
            "assistant": ("", "</s>"),
        }
        row.ids.append(self._id("<s>"))
        for message in messages:
            before, after = marks[message.role]
            row.ids += [self._id(before)] if before else []
            self._content(row, message.content)
            row.ids.append(self._id(after))

    def _clip(self, samples: Samples) -> Clip:
        features = self.extractor(
            samples,
            sampling_rate=SAMPLE_RATE,
            padding="longest",
            truncation=False,
            pad_to_multiple_of=self.extractor.n_samples,
            return_tensors="pt",
        )["input_features"][0]
        windows = torch.stack(features.split(self.extractor.nb_max_frames, dim=-1))
        return Clip(windows, features.shape[-1], self._embeddings(len(windows)))

    def _features(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        return {"input_features": torch.cat([clip.features for clip in clips])}

    def _lengths(self, inputs: dict[str, torch.Tensor]) -> int:
        return self._embeddings(len(inputs["input_features"]))

    def _embeddings(self, windows: int) -> int:
        """Embeddings of so many windows: the projector joins positions until they fill its input."""
        audio = self.model.config.audio_config
        return windows * int(audio.max_source_positions) * int(audio.hidden_size) // int(audio.intermediate_size)
