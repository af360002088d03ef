"""`kikimimi ask`: questions and tasks about clips, for the audio language model; two of them for the small ones too."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from assistant import startup
from assistant.audio.address import kind_of
from assistant.errors import ConfigurationError, SourceError
from assistant.events import Event, Samples
from assistant.listening import addresses_of
from assistant.models.remote import Remote
from assistant.models.tasks import TASKS, Task, TaskOptions, TaskResult
from assistant.pipeline import Pipeline

if TYPE_CHECKING:
    from assistant.config import Config
    from assistant.models.audio_llm import AudioLLM
    from assistant.pipeline import HearingSettings, Models

SMALL = ("transcribe", "sounds")  # what the models of the profile embedded can do
OPTIONS = ("text", "to", "language", "style")


@dataclass(frozen=True, slots=True)
class Question:
    """What the command line asks."""

    task: Task
    options: TaskOptions
    addresses: tuple[str, ...]


def question_of(task: str | None, options: TaskOptions, paths: Sequence[str], profile: str) -> Question:
    """Check what was asked before anything is loaded. Raises `ConfigurationError` and `SourceError`."""
    if task is None and options.text is None:
        listed = "\n".join(f"  {entry.name:12} {entry.about}" for entry in TASKS.values())
        raise ConfigurationError(f"what is to be asked? remedy: --text QUESTION, or --task NAME, one of\n{listed}")
    name = task or "ask"
    if name not in TASKS:
        raise ConfigurationError(f"--task {name}: there is no such task; remedy: one of {', '.join(TASKS)}")
    chosen = TASKS[name]
    for option in OPTIONS:
        given = getattr(options, option) is not None
        if given and option not in (*chosen.needs, *chosen.takes):
            raise ConfigurationError(f"--{option} means nothing to the task {name}; remedy: leave it out")
        if option in chosen.needs and not (getattr(options, option) or "").strip():
            raise ConfigurationError(f"the task {name} needs --{option}")
    if profile == "embedded" and name not in SMALL:
        raise ConfigurationError(
            f"the profile embedded knows the tasks {' and '.join(SMALL)} alone, not {name}; remedy: --profile qwen, "
            "which needs kikimimi models pull qwen-audio-chat and pip install 'kikimimi[qwen]' (kikimimi doctor tells "
            "what fits)"
        )
    addresses = addresses_of(paths)
    for address in addresses:
        if kind_of(address) in {"stream", "satellite"}:
            raise SourceError(f"{address}: a stream has no end; remedy: record a file from it first")
    return Question(chosen, options, tuple(addresses))


async def clips_of(addresses: Sequence[str]) -> list[Samples]:
    """The whole audio of each address, mono 16 kHz. Raises `SourceError` naming the one that cannot be read."""
    clips: list[Samples] = []
    for address in addresses:
        source = startup.open_source(startup.Room(startup.room_id(address), address), speed=0.0)
        pieces = [chunk.samples async for chunk in source.chunks()]
        if not pieces:
            raise SourceError(f"{address}: holds no audio")
        clips.append(np.concatenate(pieces))
    return clips


def harmless(text: str) -> str:
    """The text for a terminal: a model may have made up control characters."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "�" for sign in text)


class Streamed:
    """Writes the pieces of an answer as they come, and knows whether there were any."""

    def __init__(self, stream: TextIO) -> None:
        self.any = False
        self._stream = stream

    def __call__(self, piece: str) -> None:
        """Write a piece; signs that do not print stay out of the terminal."""
        self.any = True
        self._stream.write(harmless(piece))
        self._stream.flush()


def ask_llm(question: Question, llm: AudioLLM, clips: Sequence[Samples], *, stream: Streamed | None) -> TaskResult:
    """Run the task in this thread, so that Ctrl-C ends it at the next token."""
    options = TaskOptions(
        **{option: getattr(question.options, option) for option in OPTIONS},
        stream=stream if question.task.name == "ask" else None,
    )
    try:
        return question.task.run(llm, clips, options)
    finally:
        if stream is not None and stream.any:
            stream("\n")


async def ask_small(question: Question, models: Models, hearing: HearingSettings) -> TaskResult:
    """`transcribe` and `sounds` by the pipeline of the profile embedded, each file a stream of its own."""
    clips: list[dict[str, Any]] = []
    texts: list[str] = []
    for address in question.addresses:
        heard: list[Event] = []
        source = startup.open_source(startup.Room(startup.room_id(address), address), speed=0.0)
        await Pipeline(source, models, hearing, heard.append, inline=True).run()
        if question.task.name == "transcribe":
            spoken = [event for event in heard if event.kind == "speech" and event.text]
            texts.append(" ".join(event.text or "" for event in spoken))
            languages = {event.language for event in spoken}
            clips.append({"text": texts[-1], "language": languages.pop() if len(languages) == 1 else None})
        else:
            labels = dict.fromkeys(event.label for event in heard if event.kind == "sound" and event.state == "started")
            texts.append(", ".join(label for label in labels if label))
            clips.append({"labels": [label for label in labels if label]})
    numbered = [f"{n}. {text}" for n, text in enumerate(texts, 1)] if len(texts) > 1 else texts
    return TaskResult("\n".join(numbered), {"clips": clips})


def answer(
    config: Config, question: Question, *, as_json: bool, fetch: Callable[[], startup.ModelFiles], out: TextIO
) -> None:
    """Load what is needed, ask, and write the answer to `out`."""
    began = time.monotonic()
    if config.profile == "embedded":
        model = "yamnet" if question.task.name == "sounds" else f"whisper-{config.speech.model}"
        if question.options.language is not None:
            speech = config.speech.model_copy(update={"languages": (question.options.language,)})
            config = config.model_copy(update={"speech": speech})
        result = asyncio.run(_small(config, question, fetch()))
        streamed = None
    else:
        with _audio_llm(config) as load:
            clips = asyncio.run(clips_of(question.addresses))
            llm = load()
            model = llm.name
            streamed = Streamed(out) if out.isatty() and not as_json else None
            result = ask_llm(question, llm, clips, stream=streamed)
    if as_json:
        line = {
            "schema": 1,
            "task": question.task.name,
            "audio": list(question.addresses),
            "text": result.text,
            "data": result.data,
            "model": model,
            "seconds": round(time.monotonic() - began, 3),
        }
        out.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    elif streamed is None or not streamed.any:
        out.write(f"{harmless(result.text) if out.isatty() else result.text}\n")
    out.flush()


@contextmanager
def _audio_llm(config: Config) -> Iterator[Callable[[], AudioLLM]]:
    """What loads the model, or finds it behind its server; what is missing is told before."""
    if config.profile != "remote":
        folder = startup.audio_llm_folder(config)
        yield lambda: startup.load_audio_llm(folder, config.models.audio_llm)
        return
    remote = Remote(config.models.remote)

    def found() -> AudioLLM:
        remote.probe()
        return remote

    try:
        yield found
    finally:
        remote.close()


async def _small(config: Config, question: Question, files: startup.ModelFiles) -> TaskResult:
    models = await startup.load_models(config, files)
    try:
        return await ask_small(question, models, startup.hearing_settings(config))
    finally:
        models.shutdown()
