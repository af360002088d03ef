"""Text to the tokens of Qwen-Audio and back, byte for byte, on tiktoken.

The ranks are those of `qwen.tiktoken` in the checkpoint; the special tokens behind them are not in any published file
but `tokenization_qwen.py` (QwenLM/Qwen-Audio at b50fb95): chat markers, spare tokens, then what the paper's tasks need.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

import tiktoken

from assistant.errors import ModelError

FILE = "qwen.tiktoken"
RANKS = 151_643
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # for bytes that are no text, and for ids that are no token

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_START, AUDIO_END, AUDIO_PAD = "<audio>", "</audio>", "[[[AUDIO:modality]]]"

_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _tags(words: str) -> list[str]:
    return [f"<|{word}|>" for word in words.split()]


STAMPS = tuple(f"<|{hundredths / 100:.2f}|>" for hundredths in range(3001))  # <|0.00|> to <|30.00|>
AUDIO_TAGS = (
    AUDIO_PAD,
    *_tags("startoftranscript startofanalysis translate transcribe caption keyword"),
    *_tags("unknown en zh de es ko fr ja it zh_tr notimestamps sil timestamps"),
    *STAMPS,
    *_tags("caption_audiocaps caption_clotho audioset_ontology caption_plain itn wo_itn"),
    *_tags("startofentityvalue endofentityvalue startofentitytype endofentitytype named_entity_recognition"),
    *_tags("audio_grounding startofword endofword delim emotion_recognition music_description note_analysis pitch"),
    *(f"<|midi_pitch_{pitch}|>" for pitch in range(128)),
    "<|velocity|>",
    *(f"<|midi_velocity_{velocity}|>" for velocity in range(128)),
    *_tags("sonic instrument speaker_meta song_meta question answer choice scene event vocal_classification"),
    *_tags("speech_understanding scenario action entities speech_edit"),
    AUDIO_START,
    AUDIO_END,
)
SPECIAL = (END_OF_TEXT, IM_START, IM_END, *(f"<|extra_{number}|>" for number in range(205)), *AUDIO_TAGS)


class QwenAudioTokenizer:
    """The vocabulary of one checkpoint. Text is plain text unless the caller allows special tokens in it by name."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self.special_ids = {token: len(ranks) + number for number, token in enumerate(SPECIAL)}
        self.end_of_text = self.special_ids[END_OF_TEXT]
        self.im_start = self.special_ids[IM_START]
        self.im_end = self.special_ids[IM_END]
        self.audio_start = self.special_ids[AUDIO_START]
        self.audio_end = self.special_ids[AUDIO_END]
        self.audio_pad = self.special_ids[AUDIO_PAD]
        self._encoding = tiktoken.Encoding(
            "Qwen", pat_str=_PIECES, mergeable_ranks=ranks, special_tokens=self.special_ids
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> QwenAudioTokenizer:
        """The tokenizer of the checkpoint in `folder`. Raises `ModelError` for a vocabulary that is not Qwen's."""
        return cls(_ranks(Path(folder) / FILE))

    def __len__(self) -> int:
        """How many tokens there are; the embeddings have more rows."""
        return self._encoding.n_vocab

    def encode(self, text: str, allowed: Collection[str] = ()) -> list[int]:
        """Tokens of `text` in normal form C. Only what `allowed` names is read as a special token: by default nothing.

        For trusted text allow `SPECIAL`; the original allows `AUDIO_TAGS` in what people write. Raises `ModelError` for
        text that cannot be cut into words, such as a million spaces.
        """
        normal = unicodedata.normalize("NFC", text)
        try:
            return self._encoding.encode(normal, allowed_special=frozenset(allowed), disallowed_special=())
        except ValueError as error:
            raise ModelError(f"a text of {len(normal)} characters cannot be tokenised: {error}") from error

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, perhaps a part of a character. An id that is no token is a replacement character."""
        if not 0 <= token < len(self):
            return REPLACEMENT.encode()
        return self._encoding.decode_single_token_bytes(token)

    def decode(self, tokens: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Text of `tokens`. What is not UTF-8 and ids that are no token become replacement characters.

        `skip_special_tokens` leaves out, as the original does, every id from `<|endoftext|>` on: stamps and tags too.
        """
        kept = (token for token in tokens if not (skip_special_tokens and token >= self.end_of_text))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")

    def id_of(self, token: str) -> int:
        """The id of a special token, or of a text that is one token. Raises `KeyError` for other text."""
        if token in self.special_ids:
            return self.special_ids[token]
        return self._encoding.encode_single_token(token)


class TextStream:
    """Decodes tokens as they come: only whole characters, and the pieces joined are the text of all tokens."""

    def __init__(self, tokenizer: QwenAudioTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token: int) -> str:
        """The text that `token` completes; empty if a character is not whole yet."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def end(self) -> str:
        """A replacement character if the last one was cut off, otherwise nothing. The stream can be used anew."""
        return self._decoder.decode(b"", final=True)


def _ranks(path: Path) -> dict[bytes, int]:
    """Token → rank of a file with lines of base64 and number. Raises `ModelError`."""
    remedy = "remedy: take qwen.tiktoken from the published checkpoint"
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ModelError(f"{path}: line {number} is not a token and its rank; {remedy}") from None
    whole = set(ranks.values()) == set(range(RANKS)) and all(bytes([byte]) in ranks for byte in range(256))
    if not whole or len(ranks) != RANKS:
        raise ModelError(f"{path}: {len(ranks)} tokens are not the {RANKS} ranks of Qwen: another vocabulary; {remedy}")
    return ranks
