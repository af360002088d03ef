"""Audio of any length to text, through the same stages as a room's: what others send us to be recognised.

It is cut, tagged and recognised just as a pipeline does, so it has the same words; nothing comes of it but a text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from assistant.audio.source import Chunker
from assistant.errors import ModelError
from assistant.events import Chunk, Cut, Samples, SpeechEvidence, Tags, Transcript, Utterance, Word
from assistant.evidence import Evidence
from assistant.models.overlap import joined, joined_words
from assistant.models.replies import together
from assistant.pipeline import Caller, HearingSettings, Models, Tagger
from assistant.segment.activity import Activity
from assistant.segment.speech import Speech
from assistant.segment.windows import Windows

BATCH = 13  # chunks taken at once, a second of audio: rooms wait no longer than that for the tagger


@dataclass(slots=True, eq=False)
class Cutter:
    """The stages before the recogniser, for one recording. Call it in the tagger's thread."""

    tagger: Tagger
    activity: Activity
    windows: Windows
    speech: Speech
    evidence: Evidence
    found: list[tuple[Utterance, SpeechEvidence]] = field(default_factory=list)

    def feed(self, chunks: Sequence[Chunk]) -> None:
        """Find utterances."""
        for chunk in chunks:
            frames = self.activity.feed(chunk)
            for window in self.windows.feed(chunk, frames):
                self.evidence.feed(Tags(window, self.tagger.tag(window.samples)))
            self._note(self.speech.feed(chunk, frames))

    def end(self) -> None:
        """The last of them."""
        for window in self.windows.end():
            self.evidence.feed(Tags(window, self.tagger.tag(window.samples)))
        self._note(self.speech.end())

    def _note(self, utterances: Sequence[Utterance]) -> None:
        self.found += [(utterance, self.evidence.over(utterance)) for utterance in utterances]


async def transcribe(samples: Samples, language: str | None, models: Models, hearing: HearingSettings) -> Transcript:
    """What is said in `samples` (mono 16 kHz); empty when nothing was. Waits for a recogniser that still loads.

    `language` None: one of those of `hearing`, else of the recogniser's settings. Raises `ModelError`.
    """
    recogniser, thread = await models.recognition()
    if recogniser is None:
        raise ModelError("speech recognition is off or could not be loaded; remedy: kikimimi doctor")
    languages = (language,) if language else hearing.languages
    recognise = partial(recogniser.transcribe, languages=languages, words=hearing.words)
    said = [each async for each in utterances(samples, models, hearing, thread, recognise)]
    if not said:
        return Transcript("", language, None, rejected="nothing was said")
    return Transcript(
        text_of(said), said[0][1].language or language, min(one.score or 0.0 for _, one in said), words_of(said)
    )


async def utterances(
    samples: Samples,
    models: Models,
    hearing: HearingSettings,
    thread: Caller,
    recognise: Callable[[Samples, SpeechEvidence], Transcript],
) -> AsyncIterator[tuple[Utterance, Transcript]]:
    """What is said in `samples`, as `recognise` tells it in its `thread`; what it does not believe is left out."""
    for utterance, evidence in await cut(samples, models, hearing):
        heard = await thread.call(partial(recognise, utterance.samples, evidence))
        if heard.text:
            yield utterance, heard


async def cut(samples: Samples, models: Models, hearing: HearingSettings) -> Sequence[tuple[Utterance, SpeechEvidence]]:
    """The utterances in `samples`, and what speaks for each."""
    chunker = Chunker("", "wyoming", time.time())
    chunks = [*chunker.feed(samples), *chunker.flush()]
    cutter = Cutter(
        models.tagger,
        Activity(hearing.activity),
        Windows(hearing.windows),
        Speech(hearing.speech),
        Evidence(models.tagger.labels),
    )
    for first in range(0, len(chunks), BATCH):
        await models.tagging.call(partial(cutter.feed, chunks[first : first + BATCH]))
        await asyncio.sleep(0)
    await models.tagging.call(cutter.end)
    return cutter.found


def text_of(said: Sequence[tuple[Utterance, Transcript]]) -> str:
    """All of it; what both sides of a cut at the longest length have heard is there once."""
    text = ""
    capped = False
    for utterance, heard in said:
        text = joined([text, heard.text]) if capped else together([text, heard.text])
        capped = utterance.cut is Cut.CAP
    return text


def words_of(said: Sequence[tuple[Utterance, Transcript]]) -> tuple[Word, ...] | None:
    """Each word with its time in the whole recording; None: nobody told."""
    if all(heard.words is None for _, heard in said):
        return None
    return joined_words([(utterance.start, utterance.end, heard.words or ()) for utterance, heard in said])
