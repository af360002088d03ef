"""What the API asks of whoever holds the models, and how it is told that something cannot be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from assistant.events import Samples, Word
from assistant.models.audio_llm import Answer, Prompt


class ApiError(Exception):
    """A refusal as OpenAI's clients read it."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is served."""

    name: str
    tasks: tuple[str, ...]  # chat, transcription, tags


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said in a part of a recording."""

    start: float  # seconds of the recording
    end: float  # seconds
    text: str
    log_probability: float | None  # mean over the tokens


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said in a recording; empty when nothing believable was."""

    text: str
    language: str | None  # ISO 639-1
    segments: tuple[Segment, ...]
    words: tuple[Word, ...] | None  # seconds of the recording; None: not asked for, or not known


@dataclass(frozen=True, slots=True)
class Tagged:
    """What the tagger hears in one window."""

    start: float  # seconds of the recording
    end: float  # seconds
    scores: tuple[tuple[str, float], ...]  # label and score, 0 to 1, the likeliest first


class Engine(Protocol):
    """The models. Every call may raise `ApiError`, and stops when it is cancelled."""

    def served(self) -> Sequence[Served]:
        """What is there now."""

    def trouble(self) -> str | None:
        """Why nobody should be sent here; None: all is well."""

    async def chat(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        choices: Sequence[str] | None,
        stream: Callable[[str], None] | None,
    ) -> Answer:
        """The next turn of a conversation."""

    async def transcribe(
        self, samples: Samples, *, model: str, language: str | None, words: Sequence[str], timed: bool
    ) -> Heard:
        """What is said in mono 16 kHz `samples`; `words` are favoured, `timed` gives each word its time."""

    async def tag(self, samples: Samples, *, top: int, threshold: float) -> Sequence[Tagged]:
        """The labels of each window, at most `top`, from `threshold` on."""
