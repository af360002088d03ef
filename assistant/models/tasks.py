"""What an audio language model can be asked: the tasks of Qwen-Audio, each a function over any `AudioLLM`.

A base model is prompted by the tags of the paper (arXiv 2311.07919, section 3.2): those of transcription, translation,
word times, captions, emotion, vocal sounds, scenes, notes and questions are the published evaluation prompts; those of
sound events, speakers, music, other caption styles and speech understanding follow their pattern and are not published.
A chat model is asked in plain language, in the words of the published tutorial where it has any. No weights were at
hand when this was written, so no wording is tuned. `replies` takes the answer out of what comes back.

Each function takes several clips of any length (mono 16 kHz float32) and gives one result for each, in order. Audio of
more than 30 s is asked about in windows that share 2 s (`overlap`): transcriptions are joined without what was heard
twice, word times and spans are shifted, descriptions are listed with their times, lists are united, and a single answer
(an emotion, a scene) is given when all windows that tell it agree. Unknown is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from assistant.errors import ConfigurationError
from assistant.events import SAMPLE_RATE, Samples, Word, seconds
from assistant.models.audio_llm import Answer, AudioLLM, Message, Prompt, Stop
from assistant.models.overlap import joined, joined_words, windows
from assistant.models.replies import (
    EMOTIONS,
    VOCAL_SOUNDS,
    Note,
    Span,
    Speaker,
    TimedWords,
    Understanding,
    listed,
    named,
    note_of,
    prose_of,
    refused,
    spans_of,
    speaker_of,
    speech_of,
    stated,
    tagged_speech,
    understanding_of,
    words_of,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")  # Thai, Lao, Khmer, Japanese, Chinese

LANGUAGES: Final[Mapping[str, str]] = {  # those that have tags
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "es": "Spanish",
    "ko": "Korean",
    "fr": "French",
    "ja": "Japanese",
    "it": "Italian",
}
STYLES: Final[Mapping[str, str]] = {  # of captions: how a chat model is asked for them
    "audiocaps": "Describe the sounds in this audio in one short sentence.",
    "clotho": "Describe the sounds in this audio in one sentence of 8 to 20 words.",
    "plain": "Describe this audio.",
}
BATCH: Final = 8  # prompts answered at once; each holds up to 30 s of audio
MOST_CLIPS: Final = 8  # clips (and windows of long ones) of one message: 30 s are 752 positions of about 8,000
ANSWER_TOKENS: Final = 256
CAPTION_TOKENS: Final = 96
LABEL_TOKENS: Final = 48
FEW_TOKENS: Final = 32  # for what a model says around speech
SPOKEN_TOKENS: Final = 12  # a second: nobody speaks faster, a longer text is a loop
TIMED_TOKENS: Final = 24  # a second: each word has a stamp


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

    text: str  # "unknown" where the model does not tell; of several clips one line each, numbered from 1
    data: dict[str, Any]  # JSON: {"clips": [{…}, …]}, the fields of each clip's result; of `ask` {"answer", "stop"}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as `kikimimi ask --task NAME` and the page list it."""

    name: str
    about: str  # one line
    run: Callable[[AudioLLM, Sequence[Samples], TaskOptions], TaskResult]
    needs: tuple[str, ...] = ()  # options it cannot do without
    takes: tuple[str, ...] = ()  # further options it heeds


# --- results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transcription:
    """What is said in a clip, or its translation."""

    text: str | None  # empty: the model hears no speech; None: it does not tell
    language: str | None  # ISO 639-1: as asked for, or as the model names it
    complete: bool = True  # False: the model was cut off at its most tokens


@dataclass(frozen=True, slots=True)
class WordTimes:
    """What is said in a clip, and when."""

    text: str | None
    language: str | None
    words: tuple[Word, ...]  # seconds from the clip's start, in order
    untimed: tuple[str, ...]  # texts whose times the model did not give credibly


@dataclass(frozen=True, slots=True)
class Description:
    """Prose about a clip."""

    text: str | None  # of a long clip the descriptions of its windows, a line each, with their times
    parts: tuple[Span, ...]  # one for each window


@dataclass(frozen=True, slots=True)
class Labels:
    """What can be heard in a clip, in the model's own words."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """The one thing a clip is."""

    label: str | None
    text: str | None  # the whole reply


@dataclass(frozen=True, slots=True)
class Found:
    """Where words are said in a clip."""

    spans: tuple[Span, ...]  # in order of time; none: not said, or not told
    dropped: int  # time stamps that could not be believed
    text: str | None  # the reply


@dataclass(frozen=True, slots=True)
class Reply:
    """A free answer."""

    text: str  # empty: the model said nothing
    stop: Stop


# --- asking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Heard:
    """The answer about one window of a clip."""

    start: int  # samples of the clip
    end: int  # samples of the clip
    text: str
    stop: Stop

    @property
    def duration(self) -> float:
        """Seconds of the window."""
        return seconds(self.end - self.start)


def _each(
    llm: AudioLLM, clips: Sequence[Samples], tags: str, text: str, *, tokens: int, per_second: int = 0
) -> list[list[_Heard]]:
    """The answers about each clip's windows, `BATCH` at a time."""
    cut = [(n, start, audio) for n, clip in enumerate(clips) for start, audio in windows(clip)]
    heard: list[list[_Heard]] = [[] for _ in clips]
    for i in range(0, len(cut), BATCH):
        batch = cut[i : i + BATCH]
        prompts = [
            Prompt(clips=(audio,), tags=tags) if llm.tagged else Prompt(messages=(Message("user", (audio, text)),))
            for _, _, audio in batch
        ]
        longest = max(len(audio) for _, _, audio in batch)
        answers = llm.answer(prompts, max_new_tokens=tokens + per_second * (longest // SAMPLE_RATE + 1))
        for (n, start, audio), answer in zip(batch, answers, strict=True):
            heard[n].append(_Heard(start, start + len(audio), answer.text, answer.stop))
    return heard


def _tags(begin: str, language: str | None, task: str, text_language: str | None, output: str) -> str:
    """The six parts of a prompt: begin, audio language, task, text language, then time stamps and output together."""
    return f"<|{begin}|><|{language or 'unknown'}|><|{task}|><|{text_language or 'unknown'}|>{output}"


def _analysis(output: str, *, task: str = "keyword", language: str | None = None) -> str:
    return _tags("startofanalysis", language, task, "en", f"<|notimestamps|><|{output}|>")


def _known(language: str | None, option: str) -> str | None:
    if language is not None and language not in LANGUAGES:
        raise ConfigurationError(
            f"{option}: {language!r} is none of {', '.join(LANGUAGES)}; remedy: one of these, or none for unknown"
        )
    return language


def _agreed(values: Sequence[T | None]) -> T | None:
    """What all that tell agree on."""
    told = {value for value in values if value is not None}
    return told.pop() if len(told) == 1 else None


def _timed(texts: Sequence[tuple[_Heard, str | None]]) -> str | None:
    """One text as it is; those of several windows with their times, a line each."""
    if len(texts) == 1:
        return texts[0][1]
    return "\n".join(f"{_clock(h.start)}–{_clock(h.end)} {text}" for h, text in texts if text) or None


def _clock(samples: int) -> str:
    minutes, rest = divmod(round(seconds(samples)), 60)
    return f"{minutes}:{rest:02}"


# --- speech --------------------------------------------------------------------------------------------------------


def transcribe(llm: AudioLLM, clips: Sequence[Samples], *, language: str | None = None) -> list[Transcription]:
    """What is said, in `language` (en, zh, de, es, ko, fr, ja, it; None: whatever it is).

    Raises `ConfigurationError` for another language.
    """
    _known(language, "language")
    tags = _tags("startoftranscript", language, "transcribe", language, "<|notimestamps|><|wo_itn|>")
    text = f"Recognize the {LANGUAGES[language]} speech" if language else "Recognize the speech"
    return [
        _spoken(llm, heard, language)
        for heard in _each(llm, clips, tags, text, tokens=FEW_TOKENS, per_second=SPOKEN_TOKENS)
    ]


def translate(llm: AudioLLM, clips: Sequence[Samples], to: str, *, language: str | None = None) -> list[Transcription]:
    """What is said, translated into `to`; `language` is what is spoken. `Transcription.language` is then `to`.

    Raises `ConfigurationError` for a language that has no tag.
    """
    _known(language, "language")
    _known(to, "to")
    tags = _tags("startoftranscript", language, "translate", to, "<|notimestamps|><|itn|>")
    spoken = f"{LANGUAGES[language]} speech" if language else "speech"
    text = f"Translate the {spoken} into {LANGUAGES[to]}. Answer with the translation only."
    return [
        _spoken(llm, heard, to) for heard in _each(llm, clips, tags, text, tokens=FEW_TOKENS, per_second=SPOKEN_TOKENS)
    ]


def _spoken(llm: AudioLLM, heard: Sequence[_Heard], language: str | None) -> Transcription:
    said = [tagged_speech(h.text) if llm.tagged else speech_of(h.text) for h in heard]
    texts = [part.text for part in said if part.text is not None]
    return Transcription(
        joined(texts) if texts else None,
        language or _agreed([part.language for part in said]),
        all(h.stop is Stop.END for h in heard),
    )


def word_times(llm: AudioLLM, clips: Sequence[Samples], *, language: str | None = None) -> list[WordTimes]:
    """What is said, and when each word is. Raises `ConfigurationError` for a language that has no tag."""
    _known(language, "language")
    tags = _tags("startoftranscript", language, "transcribe", language, "<|timestamps|><|0.00|>")
    spoken = f"{LANGUAGES[language]} speech" if language else "speech"
    text = f"Recognize the {spoken} and give the start time and end time of every word."
    return [
        _word_times(llm, heard, language)
        for heard in _each(llm, clips, tags, text, tokens=FEW_TOKENS, per_second=TIMED_TOKENS)
    ]


def _word_times(llm: AudioLLM, heard: Sequence[_Heard], language: str | None) -> WordTimes:
    parts = [_timed_words(llm, h) for h in heard]
    texts = [part.text for part in parts if part.text or llm.tagged]
    return WordTimes(
        joined(texts) if texts else None,
        language or _agreed([tagged_speech(h.text).language for h in heard]),
        joined_words([(h.start, h.end, part.words) for h, part in zip(heard, parts, strict=True)]),
        tuple(text for part in parts for text in part.untimed),
    )


def _timed_words(llm: AudioLLM, heard: _Heard) -> TimedWords:
    """The first stamp is in the prompt of a base model and belongs to its answer. Prose without stamps has no times."""
    if llm.tagged:
        given = "" if heard.text.lstrip().startswith("<|0.00|>") else "<|0.00|>"
        return words_of(given + heard.text, heard.duration)
    timed = words_of(heard.text, heard.duration)
    if timed.words:
        return timed
    text = speech_of(heard.text).text or ""
    return TimedWords(text, (), (text,) if text else ())


def find(llm: AudioLLM, clips: Sequence[Samples], words: str, *, language: str | None = None) -> list[Found]:
    """Where `words` are said (grounding). A base model tells all word times, and the words are looked up there."""
    if not words.strip():
        raise ConfigurationError("text: nothing to find; remedy: the words to look for")
    if llm.tagged:
        return [looked_up(timed, words) for timed in word_times(llm, clips, language=language)]
    text = f'Find the start time and end time of the word "{words.strip()}"'
    return [_found(heard) for heard in _each(llm, clips, "", text, tokens=ANSWER_TOKENS)]


def _found(heard: Sequence[_Heard]) -> Found:
    spans: list[Span] = []
    dropped = 0
    for h in heard:
        told, bad = spans_of(h.text, h.duration)
        dropped += bad
        shift = seconds(h.start)
        for span in told:
            moved = replace(span, start=round(span.start + shift, 2), end=round(span.end + shift, 2))
            if not any(_same(moved, other) for other in spans):
                spans.append(moved)
    return Found(tuple(sorted(spans, key=_when)), dropped, _timed([(h, prose_of(h.text)) for h in heard]))


def _when(span: Span) -> tuple[float, float]:
    return span.start, span.end


def _same(a: Span, b: Span) -> bool:
    """Whether two windows have heard the same: the spans share more than half of the shorter."""
    shared = min(a.end, b.end) - max(a.start, b.start)
    return a.text == b.text and shared > 0.5 * min(a.end - a.start, b.end - b.start)


def looked_up(timed: WordTimes, words: str) -> Found:
    """Where `words` are among timed ones: whole words, but any part of what is written without spaces."""
    target = _folded(words)
    folded = [_folded(word.word) for word in timed.words]
    text = "".join(folded)
    owner = [i for i, part in enumerate(folded) for _ in part]  # of each sign
    spans: list[Span] = []
    at = text.find(target) if target else -1
    while at >= 0:
        end = at + len(target)
        first, last = owner[at], owner[end - 1]
        whole = (at == 0 or owner[at - 1] != first) and (end == len(text) or owner[end] != last)
        if whole or _UNSPACED.search(target):
            spans.append(Span(timed.words[first].start, timed.words[last].end, words.strip()))
        at = text.find(target, end if whole else at + 1)
    return Found(tuple(spans), len(timed.untimed), timed.text)


def _folded(word: str) -> str:
    return re.sub(r"[\W_]+", "", word.lower())


def understand(llm: AudioLLM, clips: Sequence[Samples], *, language: str | None = None) -> list[Understanding]:
    """What a spoken request wants: scenario, action and entities."""
    _known(language, "language")
    tags = _tags("startofanalysis", language, "keyword", "en", "<|notimestamps|><|speech_understanding|>")
    text = (
        "What does the speaker want? Answer in three lines: scenario: one word, such as alarm, play or weather; "
        "action: one word, such as set, query or remove; entities: type = value, separated by semicolons."
    )
    return [_understood(heard) for heard in _each(llm, clips, tags, text, tokens=ANSWER_TOKENS)]


def _understood(heard: Sequence[_Heard]) -> Understanding:
    told = [understanding_of(h.text) for h in heard]
    return Understanding(
        _agreed([part.scenario for part in told]),
        _agreed([part.action for part in told]),
        tuple(dict.fromkeys(entity for part in told for entity in part.entities)),
        _timed([(h, part.text) for h, part in zip(heard, told, strict=True)]),
    )


def speaker_meta(llm: AudioLLM, clips: Sequence[Samples]) -> list[Speaker]:
    """Gender and age of who speaks, as the model hears them."""
    text = "What are the gender and the age of the speaker?"
    return [_speaker(heard) for heard in _each(llm, clips, _analysis("speaker_meta"), text, tokens=LABEL_TOKENS)]


def _speaker(heard: Sequence[_Heard]) -> Speaker:
    told = [speaker_of(h.text) for h in heard]
    return Speaker(
        _agreed([part.gender for part in told]),
        _agreed([part.age for part in told]),
        _timed([(h, part.text) for h, part in zip(heard, told, strict=True)]),
    )


def emotion(llm: AudioLLM, clips: Sequence[Samples]) -> list[Label]:
    """The speaker's emotion: neutral, happy, sad, angry, fearful, disgusted or surprised."""
    tags = _analysis("emotion_recognition", language="en")
    return _labelled(llm, clips, tags, "What is the emotion of the speaker?", lambda reply: named(reply, EMOTIONS))


# --- sounds --------------------------------------------------------------------------------------------------------


def caption(llm: AudioLLM, clips: Sequence[Samples], *, style: str = "plain") -> list[Description]:
    """A sentence about the audio in the style of AudioCaps (short), of Clotho (8 to 20 words), or plain.

    Raises `ConfigurationError` for another style.
    """
    if style not in STYLES:
        raise ConfigurationError(f"style: {style!r} is none of {', '.join(STYLES)}; remedy: one of these")
    tags = _analysis(f"caption_{style}", task="caption")
    return _described(llm, clips, tags, STYLES[style], CAPTION_TOKENS)


def sound_events(llm: AudioLLM, clips: Sequence[Samples]) -> list[Labels]:
    """Every sound that the model names, in its own words. For labels of one's own with scores see `classify`."""
    text = "What sounds are in this audio? List them, separated by commas."
    replies = _each(llm, clips, _analysis("event"), text, tokens=LABEL_TOKENS)
    return [Labels(tuple(dict.fromkeys(label for h in heard for label in listed(h.text)))) for heard in replies]


def acoustic_scene(llm: AudioLLM, clips: Sequence[Samples]) -> list[Label]:
    """Where the audio was recorded, in the model's own words."""
    return _labelled(llm, clips, _analysis("scene"), "What is the acoustic scene of this audio?", stated)


def vocal_sound(llm: AudioLLM, clips: Sequence[Samples]) -> list[Label]:
    """The sound somebody makes: laughter, sigh, cough, throat clearing, sneeze or sniff."""
    tags = _analysis("vocal_classification", language="en")
    text = (
        "Which vocal sound is this: laughter, sigh, cough, throat clearing, sneeze or sniff? Answer with one of them."
    )
    return _labelled(llm, clips, tags, text, lambda reply: named(reply, VOCAL_SOUNDS))


def _labelled(
    llm: AudioLLM, clips: Sequence[Samples], tags: str, text: str, label_of: Callable[[str], str | None]
) -> list[Label]:
    return [
        Label(
            _agreed([None if refused(h.text) else label_of(h.text) for h in heard]),
            _timed([(h, prose_of(h.text)) for h in heard]),
        )
        for heard in _each(llm, clips, tags, text, tokens=LABEL_TOKENS)
    ]


def _described(llm: AudioLLM, clips: Sequence[Samples], tags: str, text: str, tokens: int) -> list[Description]:
    results = []
    for heard in _each(llm, clips, tags, text, tokens=tokens):
        told = [(h, prose_of(h.text)) for h in heard]
        parts = tuple(Span(round(seconds(h.start), 2), round(seconds(h.end), 2), prose) for h, prose in told)
        results.append(Description(_timed(told), parts))
    return results


# --- music ---------------------------------------------------------------------------------------------------------


def music_description(llm: AudioLLM, clips: Sequence[Samples]) -> list[Description]:
    """Genre, instruments, tempo and mood in prose."""
    tags = _analysis("music_description", task="caption")
    return _described(llm, clips, tags, "Describe the music in detail", ANSWER_TOKENS)


def note_analysis(llm: AudioLLM, clips: Sequence[Samples]) -> list[Note]:
    """Pitch, velocity, qualities and instrument of a single note."""
    text = "What is the instrument, and what are the MIDI pitch and velocity of the note?"
    results = []
    for heard in _each(llm, clips, _analysis("note_analysis"), text, tokens=LABEL_TOKENS):
        told = [note_of(h.text) for h in heard]
        results.append(
            Note(
                _agreed([part.pitch for part in told]),
                _agreed([part.velocity for part in told]),
                tuple(dict.fromkeys(quality for part in told for quality in part.qualities)),
                _agreed([part.instrument for part in told]),
                _timed([(h, part.text) for h, part in zip(heard, told, strict=True)]),
            )
        )
    return results


# --- questions and conversation ------------------------------------------------------------------------------------


def ask(
    llm: AudioLLM,
    clips: Sequence[Samples],
    question: str,
    *,
    stream: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Reply:
    """Answer `question` about all `clips` together (none: text alone).

    A single clip of more than 30 s is asked about window by window, and the answers are listed with their times; of
    several clips the long ones are given as their windows, one after the other. Raises `ConfigurationError` for more
    than `MOST_CLIPS`. The pieces that `stream` gets are the answer's text but for white space around it.
    """
    if len(clips) == 1 and len(windows(clips[0])) > 1:
        return _ask_windows(llm, clips[0], question, stream, cancelled)
    return _ask_once(llm, _fitting(clips), question, stream, cancelled)


def _ask_windows(
    llm: AudioLLM,
    clip: Samples,
    question: str,
    stream: Callable[[str], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Reply:
    lines: list[str] = []
    reply = Reply("", Stop.END)
    for start, audio in windows(clip):
        if reply.stop is Stop.CANCELLED or (cancelled is not None and cancelled()):
            reply = Reply("", Stop.CANCELLED)
            break
        times = f"{_clock(start)}–{_clock(start + len(audio))} "
        if stream is not None:
            stream(("\n" if lines else "") + times)
        reply = _ask_once(llm, (audio,), question, stream, cancelled)
        lines.append(times + reply.text)
    return Reply("\n".join(lines), reply.stop)


def _ask_once(
    llm: AudioLLM,
    clips: Sequence[str | Samples],
    question: str,
    stream: Callable[[str], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Reply:
    if llm.tagged:
        tags = f"<|startofanalysis|><|en|><|question|>{harmless(question)}<|answer|>"
        return _answered(
            llm, Prompt(clips=tuple(clip for clip in clips if not isinstance(clip, str)), tags=tags), stream, cancelled
        )
    return _answered(llm, Prompt(messages=(Message("user", (*clips, question)),)), stream, cancelled)


def chat(
    llm: AudioLLM,
    messages: Sequence[Message],
    *,
    stream: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Reply:
    """The next turn of a conversation that ends with the user; clips of more than 30 s are given as their windows.

    Append the reply as a message of the assistant to go on. How much history the model sees is the model's business.
    Raises `ConfigurationError` for a base model, which does not converse, for a conversation that does not end with the
    user, and for more than `MOST_CLIPS` in a message.
    """
    if llm.tagged:
        raise ConfigurationError(f"{llm.name} is a base model and does not converse; remedy: qwen-audio-chat")
    if not messages or messages[-1].role != "user":
        raise ConfigurationError("a conversation must end with the user; remedy: add a question")
    fitting = tuple(replace(message, content=_fitting(message.content)) for message in messages)
    return _answered(llm, Prompt(messages=fitting), stream, cancelled)


def _fitting(content: Sequence[str | Samples]) -> tuple[str | Samples, ...]:
    """The same with each clip as its windows."""
    parts: list[str | Samples] = []
    for part in content:
        parts += [part] if isinstance(part, str) else [audio for _, audio in windows(part)]
    count = sum(not isinstance(part, str) for part in parts)
    if count > MOST_CLIPS:
        raise ConfigurationError(
            f"{count} clips (of up to 30 s; longer ones count as several) are more than the {MOST_CLIPS} that fit one "
            "message; remedy: ask about fewer, or about one alone"
        )
    return tuple(parts)


def _answered(
    llm: AudioLLM, prompt: Prompt, stream: Callable[[str], None] | None, cancelled: Callable[[], bool] | None
) -> Reply:
    answer: Answer
    (answer,) = llm.answer(
        [prompt],
        max_new_tokens=ANSWER_TOKENS,
        stream=None if stream is None else lambda _, piece: stream(piece),
        cancelled=None if cancelled is None else lambda _: cancelled(),
    )
    return Reply(answer.text.strip(), answer.stop)


def harmless(text: str) -> str:
    """`text` of a person for a prompt of tags, which is trusted: nothing in it is a control token any more."""
    text = re.sub(r"<(?=\||/?audio>)", "< ", text)
    return re.sub(r"\[(?=\[\[)", "[ ", text)


# --- the table -----------------------------------------------------------------------------------------------------


def _result(results: Sequence[DataclassInstance], line: Callable[[Any], str | None]) -> TaskResult:
    lines = [line(result) or "unknown" for result in results]
    text = lines[0] if len(lines) == 1 else "\n".join(f"{n}: {line}" for n, line in enumerate(lines, 1))
    return TaskResult(text, {"clips": [asdict(result) for result in results]})


def _text(result: Any) -> str | None:  # noqa: ANN401 (any result with a text)
    text: str | None = result.text
    return "no speech" if text == "" else text


def _label(result: Label) -> str | None:
    return result.label or result.text


def _times(result: WordTimes) -> str | None:
    if not result.words:
        return _text(result)
    return "\n".join(f"{word.start:.2f}–{word.end:.2f} {word.word}" for word in result.words)


def _spans(result: Found) -> str | None:
    if not result.spans:
        return "not found"
    return "\n".join(f"{span.start:.2f}–{span.end:.2f} {span.text or ''}".rstrip() for span in result.spans)


def _fields(result: Any) -> str | None:  # noqa: ANN401 (a Speaker or a Note)
    told = [
        f"{name} {', '.join(value) if isinstance(value, tuple) else value}"
        for name, value in asdict(result).items()
        if name != "text" and value not in (None, ())
    ]
    return ", ".join(told) or _text(result)


def _request(result: Understanding) -> str | None:
    told = [part for part in (result.scenario, result.action) if part]
    told += [f"{entity.type} = {entity.value}" for entity in result.entities]
    return ", ".join(told) or result.text


def _needed(value: str | None, option: str, task: str) -> str:
    if not value or not value.strip():
        raise ConfigurationError(f"{task}: {option} is missing; remedy: --{option}")
    return value


def _ask(llm: AudioLLM, clips: Sequence[Samples], options: TaskOptions) -> TaskResult:
    question = _needed(options.text, "text", "ask")
    reply = ask(llm, clips, question, stream=options.stream, cancelled=options.cancelled)
    return TaskResult(reply.text, {"answer": reply.text, "stop": reply.stop.value})


_TASKS: Final = (
    Task("ask", "answer a question about the clips", _ask, ("text",)),
    Task(
        "transcribe",
        "write down what is said",
        lambda llm, clips, options: _result(transcribe(llm, clips, language=options.language), _text),
        takes=("language",),
    ),
    Task(
        "translate",
        "translate what is said",
        lambda llm, clips, options: _result(
            translate(llm, clips, _needed(options.to, "to", "translate"), language=options.language), _text
        ),
        ("to",),
        ("language",),
    ),
    Task(
        "words",
        "write down what is said with the time of each word",
        lambda llm, clips, options: _result(word_times(llm, clips, language=options.language), _times),
        takes=("language",),
    ),
    Task(
        "find",
        "find when words are said",
        lambda llm, clips, options: _result(
            find(llm, clips, _needed(options.text, "text", "find"), language=options.language), _spans
        ),
        ("text",),
        ("language",),
    ),
    Task(
        "understand",
        "tell what a spoken request wants: scenario, action, entities",
        lambda llm, clips, options: _result(understand(llm, clips, language=options.language), _request),
        takes=("language",),
    ),
    Task(
        "speaker", "tell who speaks: gender and age", lambda llm, clips, _: _result(speaker_meta(llm, clips), _fields)
    ),
    Task("emotion", "name the speaker's emotion", lambda llm, clips, _: _result(emotion(llm, clips), _label)),
    Task(
        "caption",
        "describe what can be heard in a sentence",
        lambda llm, clips, options: _result(caption(llm, clips, style=options.style or "plain"), _text),
        takes=("style",),
    ),
    Task(
        "sounds",
        "list the sounds",
        lambda llm, clips, _: _result(sound_events(llm, clips), lambda result: ", ".join(result.labels)),
    ),
    Task("scene", "tell where it was recorded", lambda llm, clips, _: _result(acoustic_scene(llm, clips), _label)),
    Task(
        "vocal-sound",
        "name a cough, sneeze, sniff, sigh, laughter or throat clearing",
        lambda llm, clips, _: _result(vocal_sound(llm, clips), _label),
    ),
    Task("music", "describe music", lambda llm, clips, _: _result(music_description(llm, clips), _text)),
    Task(
        "note",
        "tell pitch, velocity, qualities and instrument of a note",
        lambda llm, clips, _: _result(note_analysis(llm, clips), _fields),
    ),
)
TASKS: Final[Mapping[str, Task]] = {task.name: task for task in _TASKS}
