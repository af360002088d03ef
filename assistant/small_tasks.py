"""What Whisper and YAMNet tell of a recording, in the shape of what an audio language model is asked for.

Whisper writes down, gives each word its time and translates into English; YAMNet names sounds and when they are heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Samples, Transcript, Utterance, seconds
from assistant.models.tasks import TaskOptions, TaskResult, WordTimes, looked_up
from assistant.models.yamnet import WINDOW
from assistant.transcribing import text_of, utterances, words_of

if TYPE_CHECKING:
    from assistant.models.whisper import Whisper
    from assistant.pipeline import Caller, HearingSettings, Models, ModelThread, Tagger

SPEECH: Final = ("transcribe", "words", "find", "translate")  # tasks of Whisper
TAG: Final = "tag"
HOP: Final = 8_000  # samples between two of its windows
AT_ONCE: Final = 10  # windows: rooms wait no longer than that for the tagger
HEARD: Final = 0.2  # score from which a sound is told
MOST: Final = 8  # sounds of a recording that are told


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound of a recording."""

    label: str
    score: float  # the best
    spans: tuple[tuple[float, float], ...]  # seconds from the start of the recording


@dataclass(frozen=True, slots=True)
class Listener:
    """Whisper, where it is called, and what finds the utterances for it."""

    whisper: Whisper
    thread: Caller
    models: Models
    hearing: HearingSettings


async def by_whisper(task: str, clips: Sequence[Samples], options: TaskOptions, listener: Listener) -> TaskResult:
    """One of `SPEECH`; `options.stream` gets what is written down as it comes. Raises `ConfigurationError`."""
    whisper = listener.whisper
    into_english = task == "translate"
    if into_english and options.to != "en":
        raise ConfigurationError(
            f"to: Whisper translates into English alone, not into {options.to}; remedy: to: en, or an audio language "
            "model (profile: hybrid, qwen or remote, kikimimi doctor tells what fits)"
        )
    if into_english and not whisper.multilingual:
        raise ConfigurationError(f"to: {whisper.name} knows English alone; remedy: speech.model: base")
    if options.language is not None and options.language not in whisper.supported:
        raise ConfigurationError(f"language: {whisper.name} does not know {options.language}; remedy: another one")
    results = []
    for number, clip in enumerate(clips):
        if number and options.stream is not None and task != "find":
            options.stream("\n")
        results.append(await _spoken(task, clip, options, listener))
    lines = [one["text"] or ("not found" if task == "find" else "no speech") for one in results]
    return TaskResult("\n".join(lines), {"clips": results})


async def _spoken(task: str, clip: Samples, options: TaskOptions, listener: Listener) -> dict[str, Any]:
    hearing = listener.hearing
    recognise = partial(
        listener.whisper.transcribe,
        languages=(options.language,) if options.language else hearing.languages,
        words=hearing.words,
        timed=True,
        into_english=task == "translate",
    )
    said: list[tuple[Utterance, Transcript]] = []
    async for each in utterances(clip, listener.models, hearing, listener.thread, recognise):
        if options.stream is not None and task != "find":
            options.stream((" " if said else "") + each[1].text)
        said.append(each)
    text = text_of(said)
    language = said[0][1].language if said else options.language
    words = words_of(said) or ()
    if task == "find":
        found = looked_up(WordTimes(text, language, words, ()), options.text or "")
        shown = "\n".join(f"{span.start:.2f}–{span.end:.2f} {span.text}" for span in found.spans)
        return {"text": shown, "spans": [asdict(span) for span in found.spans], "heard": text, "language": language}
    if task == "translate":
        return {"text": text, "language": "en", "spoken": language, "complete": True}
    return {"text": text, "language": language, "complete": True, "words": [asdict(word) for word in words]}


async def by_tagger(clips: Sequence[Samples], tagger: Tagger, thread: ModelThread) -> TaskResult:
    """The sounds of each recording, the likeliest first, and when they are heard."""
    results, lines = [], []
    for clip in clips:
        scores = await _scores(clip, tagger, thread)
        heard = sounds_in(scores, tagger.labels, seconds(len(clip)))
        results.append({"sounds": [asdict(one) for one in heard]})
        lines.append(", ".join(f"{one.label} {one.score:.2f}" for one in heard) or "nothing that has a name")
    return TaskResult("\n".join(lines), {"clips": results})


async def _scores(clip: Samples, tagger: Tagger, thread: ModelThread) -> NDArray[np.float32]:
    """Of every window, shape (windows, labels)."""
    starts = range(0, max(1, len(clip) - WINDOW + HOP), HOP)
    scores: list[NDArray[np.float32]] = []

    def some(part: Sequence[int]) -> None:
        for start in part:
            window = np.zeros(WINDOW, np.float32)
            piece = clip[start : start + WINDOW]
            window[: len(piece)] = piece
            scores.append(np.array(tagger.tag(window), np.float32))

    for first in range(0, len(starts), AT_ONCE):
        work: Callable[[], None] = partial(some, starts[first : first + AT_ONCE])
        await thread.call(work)
        await asyncio.sleep(0)
    return np.stack(scores)


def sounds_in(scores: NDArray[np.float32], labels: Sequence[str], duration: float) -> list[Heard]:
    """The sounds above `HEARD` in `scores` of shape (windows, labels); a window stands for the time around its middle.

    `duration` of the recording in seconds.
    """
    best = scores.max(axis=0)
    chosen = [int(i) for i in np.argsort(-best)[:MOST] if best[i] >= HEARD]
    return [Heard(labels[i], round(float(best[i]), 3), _spans(scores[:, i] >= HEARD, duration)) for i in chosen]


def _spans(heard: NDArray[np.bool_], duration: float) -> tuple[tuple[float, float], ...]:
    """Neighbouring windows as one stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], heard, [False])).astype(np.int8)))
    spans = []
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        start = 0.0 if first == 0 else (first * HOP + (WINDOW - HOP) / 2) / SAMPLE_RATE
        end = duration if after == len(heard) else ((after - 1) * HOP + (WINDOW + HOP) / 2) / SAMPLE_RATE
        spans.append((round(float(start), 2), round(float(min(end, duration)), 2)))
    return tuple(spans)
