"""The OpenAI-compatible API as its clients write and read it: requests, answers, refusals. Nothing is sent here.

What a server says is never quoted in an error: its words may be what somebody said. Only statuses and codes are.
"""

from __future__ import annotations

import base64
import io
import json
import re
import ssl
import wave
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Samples
from assistant.models.audio_llm import Answer, AwayError, Message, Stop

if TYPE_CHECKING:
    import httpx2

CONNECT_WITHIN: Final = 3.0  # seconds
ANSWER_LIMIT: Final = 4_000_000  # bytes
LINE_LIMIT: Final = 256_000  # bytes of a line of a stream
AGAIN: Final = frozenset({408, 425, 429})  # refusals that time may heal, as all from 500 on
TOKEN: Final = 40  # characters of a token at most: who answers much more than was asked for is cut off
SPOKEN_LIMIT: Final = 10_000  # characters of what was said in one recording
CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a server wrote down."""

    text: str
    language: str | None  # ISO 639-1, or a name in English
    log_probability: float | None  # mean over the tokens; None: not told
    no_speech: float | None  # 0 to 1


class PassingError(Exception):
    """It may go well another time, `after` so many seconds if the server says so."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


def wav(samples: Samples) -> bytes:
    """Mono 16 kHz audio as a WAV file of 16 bits."""
    pcm = np.rint(np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32_767.0).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(pcm.tobytes())
    return file.getvalue()


def chosen_from(choices: Sequence[str]) -> dict[str, Any]:
    """The `response_format` that lets a model say nothing but one of `choices`."""
    answer = {"type": "string", "enum": list(choices)}
    schema = {"type": "object", "properties": {"answer": answer}, "required": ["answer"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}


def message_body(message: Message, *, by_url: bool = False) -> dict[str, Any]:
    """One turn of a conversation, clips as WAV in base64; `by_url`: as servers take it that know no `input_audio`."""
    if message.role != "user":  # a text for servers that take no list there
        return {"role": message.role, "content": "\n".join(part for part in message.content if isinstance(part, str))}
    return {"role": "user", "content": [_part(part, by_url) for part in message.content]}


def _part(part: str | Samples, by_url: bool) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(wav(part)).decode("ascii")
    if by_url:
        return {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{data}"}}
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


# ------------------------------------------------------------------------------------------------- what servers answer


def not_ours(path: str) -> str:
    """What is wrong when something else answers there."""
    return f"what answers {path} is no OpenAI-compatible API; remedy: check models.remote.url"


async def read(answer: httpx2.Response) -> bytes:
    """The body. Raises `AwayError` when it is too long, or packed though we take no packed ones."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise AwayError("the server packs its answers though it was told not to; remedy: check what is in front of it")
    content = b""
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > ANSWER_LIMIT:
            raise AwayError(f"the server answers more than {ANSWER_LIMIT / 1e6:.0f} MB; {not_ours('there')}")
    return content


async def events_of(answer: httpx2.Response) -> AsyncIterator[str]:
    """The data of each server-sent event."""
    total, rest = 0, b""
    async for chunk in answer.aiter_raw():
        total += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        if total > ANSWER_LIMIT or len(rest) > LINE_LIMIT:
            raise AwayError(f"the server streams too much; {not_ours('there')}")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode("utf-8", "replace")


def object_of(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises `AwayError` for anything else."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise AwayError(not_ours("there"))
    return told


def sound(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON alone can hold, and without controls of terminals."""
    return CONTROLS.sub("", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def most_of(tokens: int) -> int:
    """Characters that so many tokens can have."""
    return 1_000 + TOKEN * tokens


def answer_of(told: Mapping[str, Any]) -> Answer:
    """The answer of a chat completion. Raises `AwayError` for anything else."""
    try:
        choice = told["choices"][0]
        text = choice["message"]["content"]
        stop = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise AwayError(not_ours("/chat/completions")) from None
    if not isinstance(text, str | None):
        raise AwayError(not_ours("/chat/completions"))
    usage = told.get("usage")
    tokens = count_of(usage) if isinstance(usage, dict) else 0
    return Answer(sound(text or ""), tokens, Stop.LENGTH if stop == "length" else Stop.END)


def pieces_of(told: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Each choice of an event of a stream: the text that it adds, and why there is no more. What is none has none."""
    found = []
    choices = told.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            delta, finish = choice.get("delta"), choice.get("finish_reason")
            text = delta.get("content") if isinstance(delta, dict) else None
            found.append((sound(text) if isinstance(text, str) else "", finish if isinstance(finish, str) else None))
    return found


def count_of(usage: Mapping[str, Any]) -> int:
    """Tokens of an answer; 0: not told."""
    tokens = usage.get("completion_tokens")
    return tokens if isinstance(tokens, int) and 0 <= tokens < 1_000_000 else 0


def chosen(answer: Answer, choices: Sequence[str]) -> Answer:
    """The answer as one of `choices`. Raises `ModelError` when it is none of them."""
    said = answer.text.strip()
    try:
        told = json.loads(said)
        said = told["answer"] if isinstance(told, dict) and isinstance(told.get("answer"), str) else said
    except (ValueError, RecursionError):
        pass
    for choice in choices:
        if said.strip().casefold() == choice.strip().casefold():
            return Answer(choice, answer.tokens, answer.stop)
    raise ModelError("the server's model answered with none of the choices; does it know response_format json_schema?")


def spoken_of(told: Mapping[str, Any]) -> Spoken:
    """A transcription, verbose or not. Raises `AwayError` for anything else."""
    text = told.get("text")
    if not isinstance(text, str):
        raise AwayError(not_ours("/audio/transcriptions"))
    language = told.get("language")
    segments = told.get("segments")
    segments = [part for part in segments if isinstance(part, dict)] if isinstance(segments, list) else []
    likely, silent = _mean(segments, "avg_logprob"), _mean(segments, "no_speech_prob")
    said = " ".join(sound(text[:SPOKEN_LIMIT]).split())
    return Spoken(said, language[:40] if isinstance(language, str) else None, likely, silent)


def _mean(segments: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [part[key] for part in segments if isinstance(part.get(key), int | float) and abs(part[key]) < 1e6]
    return sum(values) / len(values) if values else None


async def refusal(answer: httpx2.Response) -> Exception:
    """What a status other than success means."""
    status = answer.status_code
    if 300 <= status < 400:
        return AwayError(f"redirects (HTTP {status}), which is not followed; remedy: the right models.remote.url")
    if status in {401, 403}:
        return AwayError(
            f"the server refuses us (HTTP {status}); remedy: models.remote.token_file, or token: ${{NAME}}"
        )
    if status >= 500 or status in AGAIN:
        return PassingError(f"answers HTTP {status}", seconds_of(answer.headers.get("retry-after")))
    if status in {404, 405, 501}:
        return AwayError(f"has no such model or path (HTTP {status}); remedy: models.remote.url and model")
    return ModelError(f"the server refuses the request (HTTP {status}{await _code(answer)})")


async def _code(answer: httpx2.Response) -> str:
    """A code of a refusal, never its words."""
    try:
        error = json.loads(await read(answer)).get("error")
        code = error.get("code") or error.get("type")
    except Exception:
        return ""
    return f", {code}" if isinstance(code, str) and CODE.fullmatch(code) else ""


def seconds_of(text: str | None) -> float | None:
    """A Retry-After in seconds; None for a date or none."""
    return float(text) if text is not None and re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) else None


def explained(error: Exception) -> Exception:
    """The cause below what the library raised; its own text may quote the address."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError():
                return AwayError(
                    f"its certificate is not trusted ({cause.verify_message}); remedy: models.remote.ca, or the name "
                    "of the certificate in models.remote.url"
                )
            case ssl.SSLError():
                return PassingError(f"speaks no TLS there ({cause.reason}); remedy: check models.remote.url")
            case ConnectionRefusedError():
                return PassingError("cannot be reached (connection refused)")
            case OSError(strerror=str()):
                return PassingError(f"cannot be reached ({cause.strerror})")
        cause = cause.__cause__ or cause.__context__
    if "Timeout" in type(error).__name__:
        return PassingError(f"cannot be reached within {CONNECT_WITHIN:.0f} s")
    return PassingError(f"broke off ({type(error).__name__})")
