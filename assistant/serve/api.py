"""The requests and answers of the API as types: those of OpenAI as far as our models can follow, and our tags."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from assistant.models.audio_llm import Answer, Stop
from assistant.serve.engine import ApiError, Heard, Tagged

TEXT_LIMIT: Final = 32_000  # characters of one part
TURNS: Final = 100
PARTS: Final = 32  # of one turn
CHOICES: Final = 256


class TextPart(BaseModel):
    """Something that is said in writing."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=TEXT_LIMIT)]


class Recording(BaseModel):
    """A recording in base64."""

    data: Annotated[str, Field(description="base64 of a file: WAV, FLAC, MP3, Ogg …")]
    format: Annotated[str, Field(max_length=20)] = "wav"

    def content(self) -> bytes:
        """The file. Raises `ApiError`."""
        try:
            return base64.b64decode(self.data.partition("base64,")[2] or self.data, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, "input_audio.data is not base64", "invalid_audio", "messages") from None


class AudioPart(BaseModel):
    """Something to listen to."""

    type: Literal["input_audio"]
    input_audio: Recording


Part = Annotated[TextPart | AudioPart, Field(discriminator="type")]


class Turn(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=TEXT_LIMIT)] | Annotated[list[Part], Field(max_length=PARTS)] | None = None


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class Chat(BaseModel):
    """A conversation whose next turn is wanted. The models answer greedily: temperature, top_p and seed do nothing."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1, max_length=TURNS)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = Field(
        default=None, description="text, or json_schema of one property whose values are an enum of texts"
    )
    n: int | None = 1
    tools: list[Any] | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    stop: str | list[str] | None = None

    def check(self) -> None:
        """Raise `ApiError` for what is asked and cannot be done."""
        wanted = {
            "n": self.n not in {None, 1},
            "tools": bool(self.tools),
            "logprobs": bool(self.logprobs),
            "modalities": bool(self.modalities) and self.modalities != ["text"],
            "stop": bool(self.stop),
        }
        for name, asked in wanted.items():
            if asked:
                raise ApiError(400, f"{name}: not known here; remedy: leave it out", "unsupported_parameter", name)

    def choice(self) -> tuple[str, list[str]] | None:
        """The property and the texts that a `response_format` leaves; None: any answer. Raises `ApiError`."""
        wanted = self.response_format
        if wanted is None or wanted.get("type") == "text":
            return None
        try:
            ((name, values),) = wanted["json_schema"]["schema"]["properties"].items()
            texts = values["enum"]
        except (KeyError, TypeError, ValueError, AttributeError):
            texts, name = None, ""
        good = isinstance(texts, list) and 0 < len(texts) <= CHOICES and all(map(_is_text, [name, *texts]))
        if wanted.get("type") != "json_schema" or not good:
            raise ApiError(
                400,
                "response_format: only text, or a json_schema of one property that is an enum of texts",
                "unsupported_parameter",
                "response_format",
            )
        return name, list(texts)


def _is_text(value: object) -> bool:
    """Whether it is a text that can be said; half a surrogate pair, which JSON can hold, is none."""
    return isinstance(value, str) and 0 < len(value) <= TEXT_LIMIT and not any("\ud800" <= c <= "\udfff" for c in value)


def usage(answer: Answer) -> dict[str, int]:
    """Tokens; those of the prompt are not counted."""
    return {"prompt_tokens": 0, "completion_tokens": answer.tokens, "total_tokens": answer.tokens}


def finish_of(answer: Answer) -> str:
    """Why an answer is not longer, as OpenAI says it."""
    return "length" if answer.stop is Stop.LENGTH else "stop"


def transcription(heard: Heard, duration: float, *, words: bool) -> dict[str, Any]:
    """The form verbose_json, with all that typed clients insist on.

    No text is told that our models take for silence, so `no_speech_prob` is 0.
    """
    told: dict[str, Any] = {
        "task": "transcribe",
        "language": heard.language or "",
        "duration": round(duration, 3),
        "text": heard.text,
        "segments": [
            {
                "id": number,
                "seek": round(segment.start * 100),
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "tokens": [],
                "temperature": 0.0,
                "compression_ratio": _compression(segment.text),
                "no_speech_prob": 0.0,
                "avg_logprob": segment.log_probability,
            }
            for number, segment in enumerate(heard.segments)
        ],
    }
    if words:
        told["words"] = [
            {"word": word.word, "start": round(word.start, 3), "end": round(word.end, 3)} for word in heard.words or ()
        ]
    return told


def _compression(text: str) -> float:
    """As Whisper has it: what repeats itself has more."""
    content = text.encode("utf-8", "replace")
    return round(len(content) / len(zlib.compress(content)), 3)


def tags(name: str, tagged: Sequence[Tagged], duration: float) -> dict[str, Any]:
    """Labels over time, and the best score of each."""
    best: dict[str, float] = {}
    for window in tagged:
        for label, score in window.scores:
            best[label] = max(best.get(label, 0.0), score)
    return {
        "model": name,
        "duration": round(duration, 3),
        "labels": [
            {"label": label, "score": round(score, 4)}
            for label, score in sorted(best.items(), key=lambda item: -item[1])
        ],
        "windows": [
            {
                "start": round(window.start, 4),
                "end": round(window.end, 4),
                "labels": [{"label": label, "score": round(score, 4)} for label, score in window.scores],
            }
            for window in tagged
        ],
    }
