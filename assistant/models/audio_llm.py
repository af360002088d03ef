"""What an audio language model does for the house, whatever its family: answer prompts with audio, weigh answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from assistant.errors import ModelError
from assistant.events import Samples
from assistant.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 30.0  # seconds of one clip; the tasks split longer ones


class AudioLLMSettings(Settings):
    """Which audio language model is resident, and how it is held."""

    checkpoint: str = Field(
        default="qwen-audio-chat", min_length=1, description="a name of `kikimimi models list`, or a folder"
    )
    device: str = Field(default="auto", description="auto (the GPU if there is one), cpu, cuda, cuda:1 …")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="auto: bfloat16 on a GPU that computes it, float32 on a CPU"
    )
    quantisation: Literal["none", "int8", "int4"] = Field(
        default="none", description="of the decoder's weights; `kikimimi doctor` tells which fits"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One turn of a conversation.

    Text is what a person or a transcript says: it never becomes a control token, a path or a URL.
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Samples, ...]  # in order; clips are mono 16 kHz float32 of shape (n,), nominally -1 to 1


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What the model is asked: a conversation that ends with the user, or for a base model clips and then tags."""

    messages: tuple[Message, ...] = ()
    clips: tuple[Samples, ...] = ()  # with `tags` only
    tags: str = ""  # trusted text that may hold control tokens; empty: `messages` is the prompt


class Stop(StrEnum):
    """Why an answer is not longer."""

    END = "end"  # the model said so
    LENGTH = "length"  # as many tokens as were allowed
    CANCELLED = "cancelled"  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, without control tokens; time stamps such as `<|2.33|>` and output tags stay."""

    text: str
    tokens: int
    stop: Stop


class AwayError(ModelError):
    """The model is out of reach for now: its server, or the way there. Somebody else has to do it."""


class PromptError(ModelError):
    """This prompt cannot be answered: too long, or in an order that the model does not know. It quotes no word."""


class AudioLLM(Protocol):
    """A resident model. Load and call it in one thread (`batching.Batched` has that thread, and is called by many)."""

    name: str  # for `Event.model`: the checkpoint's name, for example "qwen-audio-chat"
    tagged: bool  # a base model that is prompted by tags, not by conversation

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        """Answer all prompts in one batch, greedily; one answer for each prompt, in order.

        `choices`: every answer is exactly one of these texts. `stream(i, text)` gets each piece of answer `i` as it
        comes; the pieces joined are its text. `cancelled(i)` is asked before each token: nobody waits for that answer.
        """

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        """Mean log-probability per token of each label as what the answer begins with, shape (labels,).

        The prompt runs once. The token that would end the answer is not counted: it would nearly double the work for
        sets of short labels, where it is the only thing to predict behind most of them.
        """
