"""Text and clips to what the model takes, and what it says back to text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import BatchFeature

from assistant.errors import ModelError
from assistant.events import Samples
from assistant.models.audio_llm import Message
from assistant.models.qwen_audio import checkpoint, clips
from assistant.models.qwen_audio.configuration import QwenAudioConfig
from assistant.models.qwen_audio.conversation import Row, audio_row, chat_row
from assistant.models.qwen_audio.mel import HOP, N_SAMPLES, RATE, log_mel, mel_frames
from assistant.models.qwen_audio.tokenizer import AUDIO_END, AUDIO_START, SPECIAL, QwenAudioTokenizer

WINDOW = 6144  # tokens of system prompt and history, where the checkpoint does not say
ROLES = ("system", "user", "assistant")

Conversation = Sequence[Mapping[str, Any]]


class QwenAudioProcessor:
    """Tokenizer and log-mel of one checkpoint.

    A clip is mono at 16 kHz, float, of shape (samples,). One under 30 ms gets silence behind it; one over 30 s is cut,
    as the original does, but with a warning.
    """

    def __init__(
        self,
        tokenizer: QwenAudioTokenizer,
        config: QwenAudioConfig,
        *,
        pad_token_id: int | None = None,
        max_window_size: int = WINDOW,
    ) -> None:
        """Raises `ModelError` for a configuration that is not of this vocabulary."""
        start = int(config.encoder["audio_start_id"])
        if start != tokenizer.audio_start or config.vocab_size < len(tokenizer):
            raise ModelError(
                f"{config.name_or_path or 'config.json'}: audio_start_id {start} and vocab_size {config.vocab_size} "
                f"are not of this vocabulary: <audio> is {tokenizer.audio_start} of {len(tokenizer)} tokens; "
                "remedy: take config.json and qwen.tiktoken from one checkpoint"
            )
        self.tokenizer = tokenizer
        self.n_mels = int(config.encoder["n_mels"])
        self.longest = min(N_SAMPLES, 2 * HOP * int(config.encoder["n_ctx"]))  # samples
        self.pad_token_id = tokenizer.end_of_text if pad_token_id is None else pad_token_id
        self.max_window_size = max_window_size
        self.stop_ids = (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, local_files_only: bool = False, **ignored: object
    ) -> QwenAudioProcessor:
        """The processor of a checkpoint: a folder, or a repository of the hub with the commit as `revision`.

        What else a model takes (dtype, device_map …) is accepted and means nothing here. Raises `ModelError`.
        """
        folder = checkpoint.locate(name, revision, local_files_only=local_files_only)
        path = folder / "generation_config.json"
        generation = checkpoint.read_json(path)
        for key in ("pad_token_id", "max_window_size"):
            if not isinstance(generation.get(key, 0), int | None):
                raise ModelError(f"{path}: {key} is not a whole number but {generation[key]!r}; {checkpoint.AGAIN}")
        return cls(
            QwenAudioTokenizer.from_pretrained(folder),
            checkpoint.configuration(folder),
            pad_token_id=generation.get("pad_token_id"),
            max_window_size=generation.get("max_window_size") or WINDOW,
        )

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Sequence[Any] | Samples | torch.Tensor | None = None,
        *,
        sampling_rate: int = RATE,
        padding: bool | Literal["longest"] = True,
        return_tensors: Literal["pt"] = "pt",
        device: str | torch.device = "cpu",
    ) -> BatchFeature:
        """Prompts to the inputs of the model, which are made on `device`.

        `text` is trusted: special tokens in it are read as such. Each `<audio></audio>` takes the next of the clips in
        `audio`; what stands between the tags is ignored, never opened. Returns `input_ids` and `attention_mask` of
        shape (texts, longest), padded at the left, and for clips `input_features` (clips, n_mels, 3000) and
        `audio_lengths` (clips,) in mel frames. Raises `ModelError` for text or audio that cannot be taken.
        """
        _check_call(sampling_rate, return_tensors)
        source = iter(self._clips(audio))
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self.row(each, source) for each in texts]
        if left := len(list(source)):
            used = sum(len(row.clips) for row in rows)
            raise ModelError(f"audio has {used + left} clips, the text {used} times {AUDIO_START}{AUDIO_END}")
        return self.batch(rows, padding=padding, device=device)

    def apply_chat_template(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        tokenize: bool = True,
        return_dict: bool = True,
        add_generation_prompt: bool = True,
        sampling_rate: int = RATE,
        padding: bool | Literal["longest"] = True,
        return_tensors: Literal["pt"] = "pt",
        device: str | torch.device = "cpu",
    ) -> BatchFeature | torch.Tensor | str | list[str]:
        """A conversation, or a batch of them, to the inputs of the model.

        A message is `{"role": …, "content": …}`; the content is a text or a list of `{"type": "text", "text": …}` and
        `{"type": "audio", "audio": clip or path of a local file}`. No text in it becomes a special token, a path or an
        address. With `return_dict` off only the `input_ids`. With `tokenize` off the prompt as text, for `__call__`
        with the clips beside it; refused where a message holds the text of a special token. Raises `ModelError` for
        what is no conversation, `SourceError` for files that cannot be read.
        """
        _check_call(sampling_rate, return_tensors)
        single = not messages or isinstance(messages[0], Mapping)
        conversations: Any = [messages] if single else messages
        parsed = [_messages(conversation, self.longest) for conversation in conversations]
        rows = [self.chat(each, add_generation_prompt=add_generation_prompt) for each in parsed]
        if not tokenize:
            texts = [self._trusted(row) for row in rows]
            return texts[0] if single else texts
        inputs = self.batch(rows, padding=padding, device=device)
        return inputs if return_dict else inputs["input_ids"]

    def chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> Row:
        """The prompt of a conversation, with as much history as fits in `max_window_size` tokens."""
        whole = [
            Message(
                each.role,
                tuple(part if isinstance(part, str) else clips.prepared(part, self.longest) for part in each.content),
            )
            for each in messages
        ]
        return chat_row(
            whole,
            self.tokenizer,
            max_window_size=self.max_window_size,
            add_generation_prompt=add_generation_prompt,
        )

    def row(self, text: str, audio: Iterable[Samples] = ()) -> Row:
        """The prompt of a trusted text; each `<audio></audio>` takes the next clip of `audio`."""
        source = iter(audio)
        row = Row()
        inside = False
        for piece in re.split(f"({AUDIO_START}|{AUDIO_END})", text):
            if piece in (AUDIO_START, AUDIO_END):
                if inside == (piece == AUDIO_START):
                    raise ModelError(f"{piece} in the text has no counterpart; remedy: {AUDIO_START}{AUDIO_END}")
                inside = not inside
                if inside:
                    clip = next(source, None)
                    if clip is None:
                        raise ModelError(f"the text has more {AUDIO_START}{AUDIO_END} than audio has clips")
                    row += audio_row(clip, self.tokenizer)
            elif not inside:
                row += Row(self.tokenizer.encode(piece, SPECIAL))
        if inside:
            raise ModelError(f"{AUDIO_START} in the text is not closed; remedy: {AUDIO_START}{AUDIO_END}")
        return row

    def batch(
        self,
        rows: Sequence[Row],
        *,
        padding: bool | Literal["longest"] = True,
        device: str | torch.device = "cpu",
    ) -> BatchFeature:
        """Rows to the inputs of the model, as `__call__` returns them."""
        lengths = [len(row.ids) for row in rows]
        if not lengths or min(lengths) == 0:
            raise ModelError("there is no text to answer, or one text of the batch is empty")
        if padding not in (True, "longest") and min(lengths) != max(lengths):
            raise ModelError(f"prompts of {min(lengths)} to {max(lengths)} tokens make no tensor; remedy: padding=True")
        ids = torch.full((len(rows), max(lengths)), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, -len(row.ids) :] = torch.tensor(row.ids)
            mask[at, -len(row.ids) :] = 1
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if heard := [torch.tensor(clip, device=device) for row in rows for clip in row.clips]:
            inputs["input_features"] = log_mel(heard, self.n_mels)
            inputs["audio_lengths"] = torch.tensor([mel_frames(len(clip)) for clip in heard], device=device)
        return BatchFeature(inputs)

    def _clips(self, audio: Sequence[Any] | Samples | torch.Tensor | None) -> list[Samples]:
        if audio is None:
            return []
        if isinstance(audio, np.ndarray | torch.Tensor):
            return [clips.prepared(audio, self.longest)]
        return [clips.prepared(each, self.longest, f"clip {number}") for number, each in enumerate(audio)]

    def decode(self, ids: Sequence[int] | torch.Tensor, *, skip_special_tokens: bool = False) -> str:
        """Text of one row of ids; see `QwenAudioTokenizer.decode`."""
        return self.tokenizer.decode(_integers(ids), skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self, ids: Sequence[Sequence[int]] | torch.Tensor, *, skip_special_tokens: bool = False
    ) -> list[str]:
        """Texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in ids]

    def reply(self, new_ids: Sequence[int] | torch.Tensor) -> str:
        """What the model said: the ids behind the prompt, up to the first that ends a turn; stamps and tags stay.

        The original cuts decoded text by the length of a prompt in another normal form, and drops the last token where
        nothing ended the turn.
        """
        said: list[int] = []
        for token in _integers(new_ids):
            if token in self.stop_ids:
                break
            said.append(token)
        return self.tokenizer.decode(said)

    def _trusted(self, row: Row) -> str:
        """The text that `__call__` turns into the ids of `row`. Raises `ModelError` where there is none."""
        pads = re.escape(self.tokenizer.decode([self.tokenizer.audio_pad]))
        text = self.tokenizer.decode(row.ids)
        text = re.sub(f"{AUDIO_START}(?:{pads})+{AUDIO_END}", f"{AUDIO_START}{AUDIO_END}", text)
        try:
            same = self.row(text, row.clips).ids == row.ids
        except ModelError:
            same = False
        if not same:
            raise ModelError(
                "a message holds the text of a special token; remedy: tokenize=True, which keeps it as text"
            )
        return text


def _messages(conversation: Conversation, longest: int) -> list[Message]:
    messages = []
    for number, message in enumerate(conversation):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise ModelError(f"message {number} has no role of {', '.join(ROLES)}")
        content = message.get("content")
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(items, list | tuple):
            raise ModelError(f"message {number}: content is neither a text nor a list")
        parts = [_part(item, f"message {number}, item {at}", longest) for at, item in enumerate(items)]
        messages.append(Message(message["role"], tuple(parts)))
    return messages


def _part(item: Any, name: str, longest: int) -> str | Samples:  # noqa: ANN401 (checked here)
    kind = item.get("type") if isinstance(item, Mapping) else None
    value = item.get(kind) if kind in ("text", "audio") else None
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "audio" and isinstance(value, str | Path):
        return clips.prepared(clips.read(Path(value), longest), longest, str(value))
    if kind == "audio" and value is not None:
        return clips.prepared(value, longest, name)
    raise ModelError(f'{name} is neither {{"type": "text", "text": …}} nor {{"type": "audio", "audio": …}}')


def _check_call(sampling_rate: int, return_tensors: str) -> None:
    if sampling_rate != RATE:
        raise ModelError(f"audio at {sampling_rate} Hz; remedy: resample it to {RATE} Hz")
    if return_tensors != "pt":
        raise ModelError(f'return_tensors is {return_tensors!r}; remedy: "pt"')


def _integers(ids: Sequence[int] | torch.Tensor) -> Iterator[int]:
    return iter(ids.tolist() if isinstance(ids, torch.Tensor) else ids)
