"""Qwen-Audio as the resident model of a house: prompts in, answers and label scores out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils.logging import disable_progress_bar

from assistant.errors import ModelError
from assistant.models import generation, packing
from assistant.models.audio_llm import Answer, AudioLLMSettings, Prompt
from assistant.models.placement import Placement, place
from assistant.models.qwen_audio import checkpoint
from assistant.models.qwen_audio.conversation import Row
from assistant.models.qwen_audio.model import QwenAudioForConditionalGeneration
from assistant.models.qwen_audio.processor import QwenAudioProcessor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class QwenAudio:
    """Implements `AudioLLM` for Qwen-Audio-Chat (conversations) and for the base model (tags)."""

    def __init__(self, folder: Path, settings: AudioLLMSettings | None = None) -> None:
        """Load the checkpoint and warm it up. Raises `ModelError`."""
        settings = settings or AudioLLMSettings()
        chat_format = checkpoint.read_json(folder / "generation_config.json").get("chat_format")
        if chat_format not in {"chatml", "raw"}:
            raise ModelError(f"{folder}/generation_config.json: chat_format is {chat_format!r}, neither chatml nor raw")
        self.tagged = chat_format == "raw"
        self.name = "qwen-audio" if self.tagged else "qwen-audio-chat"
        self._processor = QwenAudioProcessor.from_pretrained(folder)
        where = place(settings)
        self._model = _load(folder, where)
        tokenizer = self._processor.tokenizer
        # Rows of the LM head behind the vocabulary are no tokens, and a clip is never part of an answer.
        audio = (tokenizer.audio_start, tokenizer.audio_end, tokenizer.audio_pad)
        self._never = (*audio, *range(len(tokenizer), self._model.config.vocab_size))
        self._warm_up()
        log.info("%s is on %s in %s", self.name, where.device, where)

    def _warm_up(self) -> None:
        """One answer about a second of silence, so that nobody waits for first calls of the libraries."""
        silence = torch.zeros(16_000).numpy()
        prompt = Prompt(clips=(silence,), tags="<|startofanalysis|>")
        self._answer([self._row(prompt)], max_new_tokens=2)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        """As `AudioLLM.answer`. Raises `ModelError` for a prompt that cannot be taken."""
        if not prompts:
            return []
        rows = [self._row(prompt) for prompt in prompts]
        return self._answer(rows, max_new_tokens=max_new_tokens, choices=choices, stream=stream, cancelled=cancelled)

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        """As `AudioLLM.score`. Raises `ModelError` for a prompt that cannot be taken."""
        sequences = [self._processor.tokenizer.encode(label) for label in labels]
        return generation.score(self._model, self._inputs([self._row(prompt)]), sequences)

    def _row(self, prompt: Prompt) -> Row:
        if prompt.tags:
            return self._processor.row("<audio></audio>" * len(prompt.clips) + prompt.tags, prompt.clips)
        return self._processor.chat(prompt.messages)

    def _inputs(self, rows: Sequence[Row]) -> dict[str, Any]:
        inputs = dict(self._processor.batch(rows, device=self._model.device))
        # True positions, not those in the padded row: an answer must not depend on what it was batched with.
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

    def _answer(
        self,
        rows: Sequence[Row],
        *,
        max_new_tokens: int,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        tokenizer = self._processor.tokenizer
        return generation.answer(
            self._model,
            self._inputs(rows),
            max_new_tokens=max_new_tokens,
            end=self._processor.stop_ids,
            pad=self._processor.pad_token_id,
            decode=tokenizer.decode,
            never=self._never,
            choices=None if choices is None else {choice: tokenizer.encode(choice) for choice in choices},
            stream=stream,
            cancelled=cancelled,
        )


def _load(folder: Path, where: Placement) -> QwenAudioForConditionalGeneration:
    disable_progress_bar()  # stderr is the log's
    weights: packing.Weights = "int8" if where.packs_itself else "packed"
    return QwenAudioForConditionalGeneration.from_pretrained(folder, weights=weights, **where.options())
