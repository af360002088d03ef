"""What an audio language model can be asked: the tasks of Qwen-Audio, each a function over any `AudioLLM`.

A base model is prompted by the tags of the paper (arXiv 2311.07919, section 3.2, and the published evaluation scripts),
a chat model in plain language; `replies` takes the answer out of what comes back. Unknown is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assistant.errors import ConfigurationError
from assistant.events import Samples
from assistant.models.audio_llm import Answer, AudioLLM, Message, Prompt, Stop

ANSWER_TOKENS = 256  # of a free answer
CAPTION_TOKENS = 64


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task may be told; each takes what it needs."""

    language: str | None = None  # ISO 639-1: what is spoken; None: unknown
    to: str | None = None  # ISO 639-1: what is translated into
    text: str | None = None  # the question, or the words to find
    style: str | None = None  # of a caption: audiocaps, clotho or plain
    stream: Callable[[str], None] | None = None  # `ask` alone: gets each piece of the answer as it comes
    cancelled: Callable[[], bool] | None = None  # `ask` alone: asked before each token


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task gave: lines for a person, and the same for a program."""

    text: str
    data: dict[str, Any]  # JSON; per clip: {"clips": [{…}, …]}, of all clips together: {"answer": …, "stop": …}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as `kikimimi ask --task NAME` and the page list it."""

    name: str
    about: str  # one line
    run: Callable[[AudioLLM, Sequence[Samples], TaskOptions], TaskResult]
    needs: tuple[str, ...] = ()  # options it cannot do without
    takes: tuple[str, ...] = ()  # options it heeds
    data: Mapping[str, str] = field(default_factory=dict)  # keys of its data and what they mean


@dataclass(frozen=True, slots=True)
class Reply:
    """A free answer."""

    text: str  # empty: the model said nothing
    stop: Stop


def ask(
    llm: AudioLLM,
    clips: Sequence[Samples],
    question: str,
    *,
    stream: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Reply:
    """Answer `question` about all `clips` (none: text alone)."""
    if llm.tagged:
        prompt = Prompt(clips=tuple(clips), tags=f"<|startofanalysis|><|en|><|question|>{harmless(question)}<|answer|>")
    else:
        prompt = Prompt(messages=(Message("user", (*clips, question)),))
    return _reply(_stream_one(llm, prompt, stream, cancelled))


def harmless(text: str) -> str:
    """`text` of a person for a prompt of tags, which is trusted: nothing in it is a control token any more."""
    text = re.sub(r"<(?=\|)", "< ", text)
    text = re.sub(r"<(?=/?audio>)", "< ", text)
    return re.sub(r"\[(?=\[\[)", "[ ", text)


def _stream_one(
    llm: AudioLLM, prompt: Prompt, stream: Callable[[str], None] | None, cancelled: Callable[[], bool] | None
) -> Answer:
    (answer,) = llm.answer(
        [prompt],
        max_new_tokens=ANSWER_TOKENS,
        stream=None if stream is None else lambda _, piece: stream(piece),
        cancelled=None if cancelled is None else lambda _: cancelled(),
    )
    return answer


def _reply(answer: Answer) -> Reply:
    return Reply(answer.text.strip(), answer.stop)


def _run_ask(llm: AudioLLM, clips: Sequence[Samples], options: TaskOptions) -> TaskResult:
    if not options.text:
        raise ConfigurationError("ask: no question; remedy: --text QUESTION")
    reply = ask(llm, clips, options.text, stream=options.stream, cancelled=options.cancelled)
    return TaskResult(reply.text, {"answer": reply.text, "stop": reply.stop.value})


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "ask",
            "answer a question about the clips",
            _run_ask,
            needs=("text",),
            takes=("stream", "cancelled"),
            data={"answer": "what the model said", "stop": "end, length or cancelled"},
        ),
    )
}
