"""What the relatives share: loading, safe text, batches with audio, answers and scores.

The processors of `transformers` are left out on purpose. They read control tokens and placeholders in what a user
types, cut clips without a word, let a clip depend on its neighbours in a batch, and those of the Omni models need
vision packages. Here a prompt is put together as ids: control tokens by id, text by a tokenizer that knows none of
them, and for each clip as many placeholders as its features will fill.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, WhisperFeatureExtractor
from transformers.utils.logging import disable_progress_bar

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Samples, seconds
from assistant.models import generation
from assistant.models.audio_llm import Answer, AudioLLMSettings, Message, Prompt
from assistant.models.placement import Placement, place
from assistant.models.relatives import FAMILIES, model_type

log = logging.getLogger(__name__)

TIME_STAMP = re.compile(r"<\|\d{1,2}\.\d+\|>")  # the only special tokens that stay in an answer


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One clip as its encoder takes it."""

    features: torch.Tensor  # (n_mels, frames), or (windows, n_mels, frames) where a family cuts clips in windows
    frames: int  # that are audio, the rest is padding
    tokens: int  # placeholders in the prompt


@dataclass(slots=True)
class Row:
    """One prompt while it is put together."""

    ids: list[int] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)


class Relative(ABC):
    """An `AudioLLM` on a class of `transformers`; a family says how it writes turns and measures clips."""

    architecture: ClassVar[str]  # the class of transformers
    placeholder: ClassVar[str]
    opening: ClassVar[str]  # before a clip's placeholders
    closing: ClassVar[str]  # after them; empty: nothing
    ends: ClassVar[tuple[str, ...]]  # tokens that end an answer
    padding: ClassVar[str]
    shortest: ClassVar[int] = SAMPLE_RATE // 10  # shorter clips are padded with silence to this many samples
    quantisable: ClassVar[bool] = True
    tagged = False

    def __init__(self, folder: Path, settings: AudioLLMSettings) -> None:
        """Load from `folder`, straight to the device and dtype. Raises `ModelError` for what cannot be run as asked."""
        self.name = folder.name
        found = model_type(folder)
        if not FAMILIES.get(found, "").endswith(f":{type(self).__name__}"):
            raise ModelError(
                f"{folder / 'config.json'}: model_type is {found!r}, which {type(self).__name__} cannot run"
            )
        where = place(settings)
        options = self._options(where)
        self.device = where.device
        disable_progress_bar()  # stderr is the log's
        try:
            self.tokenizer = self._load_tokenizer(folder)
            self.extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
            self.model, report = getattr(transformers, self.architecture).from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except ModelError:
            raise
        except Exception as error:  # the library raises what it likes: OSError, ValueError, KeyError, SafetensorError
            raise ModelError(f"{folder} cannot be loaded as {self.architecture}: {error}") from error
        self._accept(folder, report)
        self.model.eval()
        added = self.tokenizer.get_added_tokens_decoder()
        self.added = frozenset(added)
        self.silent = frozenset(
            i for i, token in added.items() if token.special and not TIME_STAMP.fullmatch(token.content)
        )
        self.tokenizer.encode_special_tokens = True  # what looks like a control token in a text is text
        self.placeholder_id = self._id(self.placeholder)
        self.end_ids = [self._id(token) for token in self.ends]
        self.pad_id = self._id(self.padding)
        audio = (self._id(token) for token in (self.placeholder, self.opening, self.closing) if token)
        # A clip is never part of an answer, and rows of the LM head behind the vocabulary are no tokens.
        self.never = (*audio, *range(self.tokenizer.get_vocab_size(), self.model.config.get_text_config().vocab_size))
        if self.placeholder_id != self.model.config.audio_token_id:
            raise ModelError(
                f"{folder}: the tokenizer has {self.placeholder} at {self.placeholder_id}, config.json's audio token "
                f"is {self.model.config.audio_token_id}; remedy: use the tokenizer that came with the checkpoint"
            )

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        """See `AudioLLM.answer`. Raises `ModelError` for a prompt by tags and for audio that does not fit its text."""
        if not prompts:
            return []
        return generation.answer(
            self.model,
            self.inputs(prompts),
            max_new_tokens=max_new_tokens,
            end=self.end_ids,
            pad=self.pad_id,
            decode=self.decode,
            never=self.never,
            choices=None if choices is None else {choice: self.encode(choice) for choice in choices},
            stream=stream,
            cancelled=cancelled,
        )

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        """See `AudioLLM.score`."""
        sequences = [self.encode(label) for label in labels]
        return generation.score(self.model, self.inputs([prompt]), sequences)

    def encode(self, text: str) -> list[int]:
        """The ids of a text in which nothing is a control token, whatever it spells."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if self.added.isdisjoint(ids):
            return ids
        pieces = (self.tokenizer.encode(character, add_special_tokens=False).ids for character in text)
        return [i for piece in pieces for i in piece if i not in self.added]  # an added token that is not special

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer: control tokens go, time stamps stay."""
        text: str = self.tokenizer.decode([i for i in ids if i not in self.silent], skip_special_tokens=False)
        return text

    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """What the model takes for a batch: ids padded on the left, and the clips of all rows in reading order."""
        rows = [self._row(prompt) for prompt in prompts]
        longest = max(len(row.ids) for row in rows)
        ids = [[self.pad_id] * (longest - len(row.ids)) + row.ids for row in rows]
        mask = [[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows]
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        clips = [clip for row in rows for clip in row.clips]
        if clips:
            inputs |= self._features(clips)
            inputs["input_features"] = inputs["input_features"].to(self.model.dtype)
        self._check(inputs, len(clips))
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    @abstractmethod
    def _write(self, row: Row, messages: Sequence[Message]) -> None:
        """Append the conversation, up to where the answer begins."""

    @abstractmethod
    def _clip(self, samples: Samples) -> Clip:
        """Features of one clip, independent of any other. Raises nothing: what is too long is cut with a warning."""

    @abstractmethod
    def _features(self, clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
        """`input_features` and what goes with them."""

    @abstractmethod
    def _lengths(self, inputs: dict[str, torch.Tensor]) -> int:
        """How many embeddings the encoder will make of the features in `inputs`, by its own formula."""

    def _row(self, prompt: Prompt) -> Row:
        if prompt.tags or not prompt.messages or prompt.messages[-1].role != "user":
            raise ModelError(f"{self.name} takes conversations that end with the user, not prompts by tags")
        row = Row()
        self._write(row, prompt.messages)
        return row

    def _content(self, row: Row, content: Sequence[str | Samples], before: Callable[[], str] | None = None) -> None:
        """Append texts and clips; `before` gives the text that leads in a clip."""
        for item in content:
            if isinstance(item, str):
                row.ids += self.encode(item)
                continue
            clip = self._clip(np.pad(item, (0, max(self.shortest - len(item), 0))))
            row.ids += self.encode(before()) if before is not None else []
            row.ids += [self._id(self.opening), *[self.placeholder_id] * clip.tokens]
            row.ids += [self._id(self.closing)] if self.closing else []
            row.clips.append(clip)

    def _whole(self, samples: Samples, longest: int) -> Samples:
        """The clip, cut to what the encoder takes. Never without a word: the tasks split long audio before."""
        if len(samples) > longest:
            log.warning(
                "a clip of %.1f s is cut to the %.0f s that %s takes",
                seconds(len(samples)),
                seconds(longest),
                self.name,
            )
        return samples[:longest]

    def _check(self, inputs: dict[str, torch.Tensor], clips: int) -> None:
        """Raise `ModelError` unless there are features for each clip and a placeholder for each embedding of them."""
        placeholders = int((inputs["input_ids"] == self.placeholder_id).sum())
        if not clips:
            if placeholders:
                raise ModelError(f"{self.name}: the prompt has {placeholders} audio placeholders and no audio")
            return
        features = inputs.get("input_features")
        if features is None or len(features) < clips or not bool(features.isfinite().all()):
            raise ModelError(
                f"{self.name}: {clips} clips gave no usable features; remedy: samples must be finite numbers"
            )
        embeddings = self._lengths(inputs)
        if placeholders != embeddings:
            raise ModelError(
                f"{self.name}: {placeholders} audio placeholders for {embeddings} embeddings of {clips} clips"
            )

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(
                f"{self.name}: the tokenizer has no {token}; remedy: use the one that came with the checkpoint"
            )
        return int(found)

    def _load_tokenizer(self, folder: Path) -> Tokenizer:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return loaded.backend_tokenizer

    def _accept(self, folder: Path, report: dict[str, Any]) -> None:
        """Raise `ModelError` for weights that are not in the files: the library would make them up."""
        for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
            names = sorted(map(str, report.get(kind) or ()))
            if names:
                raise ModelError(
                    f"{folder}: {len(names)} {kind.replace('_', ' ')} in the weights, the first {names[0]}"
                )
        if report.get("unexpected_keys"):
            log.warning("%s holds %d tensors that are not used", folder, len(report["unexpected_keys"]))

    def _options(self, where: Placement) -> dict[str, Any]:
        """Arguments for `from_pretrained`. Raises `ModelError` for a quantisation that does not run there."""
        asked = f"models.audio_llm.quantisation: {where.quantisation} of {self.name}"
        if where.quantisation != "none" and not self.quantisable:
            raise ModelError(f"{asked} would leave its experts as they are; remedy: quantisation: none")
        if where.quantisation != "none" and where.device == "cpu":
            raise ModelError(f"{asked} needs a GPU, the device is cpu; remedy: quantisation: none")
        return where.options()
