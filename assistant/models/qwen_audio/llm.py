"""Qwen-Audio as the resident model of a house: prompts in, answers and label scores out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.utils.logging import disable_progress_bar

from assistant.errors import ModelError
from assistant.models import packing
from assistant.models.audio_llm import Answer, AudioLLMSettings, Prompt, PromptError
from assistant.models.decoding import Decoding, Request, recorded
from assistant.models.generation import Choices, Said
from assistant.models.placement import Placement, memory_for_answers, place
from assistant.models.qwen_audio import checkpoint
from assistant.models.qwen_audio.conversation import Row
from assistant.models.qwen_audio.decoder import ntk_alpha
from assistant.models.qwen_audio.model import QwenAudioForConditionalGeneration
from assistant.models.qwen_audio.processor import QwenAudioProcessor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

ROWS_GPU, ROWS_CPU = 16, 8  # answers made at once


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
        never = (*audio, *range(len(tokenizer), self._model.config.vocab_size))
        config = self._model.config
        token = (
            2 * config.num_hidden_layers * config.hidden_size * self._model.dtype.itemsize
        )  # bytes of keys and values
        cuda = self._model.device.type == "cuda"
        self.decoding = Decoding(
            self._model,
            rows=ROWS_GPU if cuda else ROWS_CPU,
            limit=memory_for_answers(self._model.device) // token,
            never=never,
            record=recorded if cuda else None,
        )
        self._warm_up()
        log.info("%s is on %s in %s", self.name, where.device, where)

    def _warm_up(self) -> None:
        """One answer about a second of silence, so that nobody waits for first calls of the libraries."""
        silence = torch.zeros(16_000).numpy()
        prompt = Prompt(clips=(silence,), tags="<|startofanalysis|>")
        self._answer([self.request(prompt, max_new_tokens=2)])

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
        return self._answer(
            [
                self.request(
                    prompt,
                    max_new_tokens=max_new_tokens,
                    choices=choices,
                    stream=None if stream is None else partial(stream, number),
                    cancelled=None if cancelled is None else partial(cancelled, number),
                )
                for number, prompt in enumerate(prompts)
            ]
        )

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        """As `AudioLLM.score`. Raises `ModelError` for a prompt that cannot be taken."""
        sequences = [self._processor.tokenizer.encode(label) for label in labels]
        return self.decoding.score(self.request(prompt, max_new_tokens=1), sequences)

    def request(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Request:
        """A prompt as `decoding` takes it, made in any thread. Raises `ModelError` for one that cannot be taken."""
        row = self._row(prompt)
        if not row.ids:
            raise PromptError("there is no text to answer")
        tokenizer = self._processor.tokenizer
        texts = None if choices is None else Choices({choice: tokenizer.encode(choice) for choice in choices})
        config = self._model.config
        return Request(
            keys=self._keys(row),
            embed=partial(self._embed, row),
            said=Said(max_new_tokens, self._processor.stop_ids, tokenizer.decode, texts, stream, cancelled),
            alpha=ntk_alpha(len(row.ids), config),
            common=len(row.ids) <= config.seq_length,  # beyond, every token depends on how long the prompt is
        )

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        """All answers, as many at once as fit."""
        waiting = deque(requests)
        try:
            while waiting or self.decoding.running:
                while waiting and self.decoding.fits(waiting[0]):
                    self.decoding.join(waiting.popleft())
                if self.decoding.running:
                    self.decoding.step()
        except BaseException:
            self.decoding.clear()
            raise
        for request in requests:
            if request.error is not None:
                raise request.error
        return [request.said.answer() for request in requests]

    def _row(self, prompt: Prompt) -> Row:
        if prompt.tags:
            return self._processor.row("<audio></audio>" * len(prompt.clips) + prompt.tags, prompt.clips)
        return self._processor.chat(prompt.messages)

    def _keys(self, row: Row) -> list[int]:
        """The ids, but for clips what they sound like: a number below 0 from `<audio>` up to `</audio>`."""
        tokenizer = self._processor.tokenizer
        heard = (-1 - int.from_bytes(blake2b(clip.tobytes(), digest_size=8).digest()) for clip in row.clips)
        keys, clip = list(row.ids), 0
        for at, token in enumerate(row.ids):
            if token == tokenizer.audio_start:
                clip = next(heard)
            if token in {tokenizer.audio_start, tokenizer.audio_pad}:
                keys[at] = clip
        return keys

    def _embed(self, row: Row, start: int) -> torch.Tensor:
        """Embeddings of a prompt from the token `start`, which is in no clip, on; what is before is not computed."""
        before = row.ids[:start].count(self._processor.tokenizer.audio_start)
        inputs = self._processor.batch([Row(row.ids[start:], row.clips[before:])], device=self._model.device)
        embeddings: torch.Tensor = self._model.model.embed(
            inputs["input_ids"], inputs.get("input_features"), inputs.get("audio_lengths")
        )
        return embeddings


def _load(folder: Path, where: Placement) -> QwenAudioForConditionalGeneration:
    disable_progress_bar()  # stderr is the log's
    weights: packing.Weights = "int8" if where.packs_itself else "packed"
    return QwenAudioForConditionalGeneration.from_pretrained(folder, weights=weights, **where.options())
