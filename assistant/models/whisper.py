"""Whisper through CTranslate2: an utterance to text in about a fifth of the usual time, and only text to believe.

Paper: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022). Whisper was trained on
windows of 30 s, and padding an utterance to that length is most of its cost on a CPU. Here the encoder sees the
utterance and a second of silence; the rest of a longer window is spliced in from the encoding of silence, made once.
Without that tail the decoder often misses its end and loops (docs/adr/0005).
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import yaml
from pydantic import Field, field_validator

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, Samples, SpeechEvidence, Transcript, Word
from assistant.models.heap import given_back
from assistant.settings import Settings

if TYPE_CHECKING:
    from faster_whisper.tokenizer import Tokenizer

FRAME: Final = 320  # samples of one encoder frame (20 ms)
HOP: Final = 160  # samples of one mel frame
SHORTEST: Final = 1_600  # samples: no word is shorter than 0.1 s
WINDOW: Final = 30.0  # seconds Whisper was trained on
AFTER: Final = 1.0  # seconds of silence encoded after an utterance …
AGAIN_AFTER: Final = 3.0  # … and where its text is poor: it comes out as well as over the full window (docs/adr/0016)
SHORT: Final = 15.0  # seconds the decoder sees at least, of which most is spliced silence
PEAK: Final = 1.5  # log10 power of the loudest mel bin after normalisation: Whisper hears quiet speech better so
TOKENS_PER_SECOND: Final = 15  # nobody speaks faster; a longer text is a loop
PROMPT_TOKENS: Final = 160  # each costs the decoder about 0.4 ms
RETRY_BELOW: Final = -0.7  # average log-probability: below it a longer context is tried
RETRY_SPEECH: Final = 0.85  # the tagger's speech score from which that is worth its time
RETRY_LOOP: Final = 0.5  # the same for a text that loops
SPEECH_POSSIBLE: Final = 0.12  # the tagger's speech score below which nobody speaks
BELIEF: Final = -0.7  # average log-probability a text needs where the tagger is undecided (0.5) …
TRUST: Final = 0.25  # … how much less for each unit of its log-odds …
CAUTION: Final = 0.5  # … and how much more for each unit of Whisper's no-speech probability above a half

# What Whisper writes when it hears nothing (subtitles end like this); people say some of it too, but clearly.
HOLLOW: Final = frozenset(
    {
        "you",
        "thank you",
        "thanks for watching",
        "thank you for watching",
        "bye",
        "bye bye",
        "ご視聴ありがとうございました",
        "ありがとうございました",
        "謝謝觀看",
        "продолжение следует",
        "mbc 뉴스",
    }
)
LONGEST_SAID: Final = 1_200  # characters in 30 s: one and a half times what the fastest say
HOLLOW_BELIEF: Final = -0.5  # average log-probability that such a text needs

# Widely spoken languages that `base` reads passably; a choice, not a measurement of each (docs/adr/0005).
LANGUAGES: Final = ("en", "ja", "de", "es", "fr", "it", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "zh")
# Scripts (first word of the Unicode names of letters) of languages that are not written in Latin letters.
SCRIPTS: Final = {
    "ja": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "zh": {"CJK"},
    "ko": {"HANGUL"},
    "ru": {"CYRILLIC"},
    "uk": {"CYRILLIC"},
    "bg": {"CYRILLIC"},
    "el": {"GREEK"},
    "hi": {"DEVANAGARI"},
    "ar": {"ARABIC"},
    "fa": {"ARABIC"},
    "he": {"HEBREW"},
    "th": {"THAI"},
}


class WhisperSettings(Settings):
    """What is recognised, and how."""

    model: str = Field(default="base", description="base, tiny.en, or a folder with a CTranslate2 Whisper")
    languages: tuple[str, ...] = Field(
        default=LANGUAGES, min_length=1, description="ISO 639-1 codes spoken in the home; detection keeps to them"
    )
    words: tuple[str, ...] = Field(
        default=(), description="names and words of this home that recognition should favour"
    )
    vocabulary: bool = Field(default=True, description="favour common words of a home (config/words.yaml)")
    word_times: bool = Field(default=False, description="give each word its time")
    compute_type: str = Field(default="int8", description="CTranslate2's: int8, float32 …")
    threads: int = Field(default=1, ge=1, le=16, description="CPU threads; int8 gains nothing from a second")

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [code for code in languages if not re.fullmatch(r"[a-z]{2,3}", code)]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not ISO 639-1 codes such as en or ja")
        return languages


@dataclass(frozen=True, slots=True, eq=False)
class Decoding:
    """One pass of the decoder."""

    text: str
    tokens: tuple[int, ...]
    log_probability: float  # mean over the tokens
    no_speech: float  # 0 to 1
    fault: str | None  # what makes the text no transcript: a loop, or the prompt read back
    encoded: Any = None  # ctranslate2.StorageView, for word times


class Whisper:
    """The recogniser. As many threads as `callers` may call it at once; the weights are there once."""

    def __init__(self, folder: Path, settings: WhisperSettings | None = None, callers: int = 1) -> None:
        """Load the model in `folder` and warm it up (about a second and a half). Raises `ModelError`."""
        from faster_whisper import WhisperModel  # noqa: PLC0415 (half a second: only where it is chosen)

        self._settings = settings or WhisperSettings()
        missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder}: {', '.join(missing)} is missing; remedy: kikimimi models pull whisper-base")
        try:
            with given_back():
                self._model = WhisperModel(
                    str(folder),
                    device="cpu",
                    compute_type=self._settings.compute_type,
                    cpu_threads=self._settings.threads,
                    num_workers=callers,
                    local_files_only=True,
                )
                self._tail = np.array(self._encode(np.zeros(0, np.float32), WINDOW))
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(
                f"{folder}: not a Whisper for CTranslate2 ({error}); remedy: kikimimi models pull whisper-base"
            ) from error
        self.name = f"whisper-{self._settings.model}" if "/" not in self._settings.model else folder.name
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}  # by language and task

    @cached_property
    def supported(self) -> frozenset[str]:
        """ISO 639-1 codes the model knows."""
        return frozenset(self._model.supported_languages)

    @property
    def multilingual(self) -> bool:
        """Whether it knows languages other than English, and so translates into English."""
        return bool(self._model.model.is_multilingual)

    def transcribe(
        self,
        samples: Samples,
        evidence: SpeechEvidence,
        *,
        languages: Sequence[str] | None = None,
        words: Sequence[str] = (),
        timed: bool = False,
        into_english: bool = False,
    ) -> Transcript:
        """What was said in `samples` (at most 30 s at 16 kHz), or an empty text and the reason.

        `languages` (a room's) replaces those of the settings; `words` (rooms, devices) join those of the settings.
        `timed` gives each word its time whatever the settings say. `into_english`, of a multilingual model: the text is
        a translation, without word times; `language` is what was spoken.
        """
        doubt = doubt_before(evidence)
        if doubt is not None:
            return Transcript("", None, 0.0, rejected=doubt)
        if len(samples) < SHORTEST:
            return Transcript("", None, 0.0, rejected="it is shorter than 0.1 s")
        clean = np.nan_to_num(samples[: round(WINDOW * SAMPLE_RATE)], nan=0.0, posinf=0.0, neginf=0.0)
        encoded = self._spliced(clean, AFTER)
        language = self._language(encoded, languages or self._settings.languages)
        tokenizer = self._tokenizer(language, "translate" if into_english else "transcribe")
        prompt = "" if into_english else self._prompt(language, words)
        decoding = self._decode(encoded, tokenizer, prompt, len(clean))
        if worth_another(decoding, evidence):
            decoding = self._again(clean, tokenizer, "" if decoding.fault else prompt, decoding)
        score = float(np.exp(decoding.log_probability))
        doubt = decoding.fault or doubt_after(decoding, evidence)
        if doubt is not None or not decoding.text:
            return Transcript("", language, score, rejected=doubt or "nothing was said")
        wanted = (timed or self._settings.word_times) and not into_english
        times = self._word_times(decoding, tokenizer, len(clean)) if wanted else None
        return Transcript(decoding.text, language, score, times)

    def _again(self, samples: Samples, tokenizer: Tokenizer, prompt: str, first: Decoding) -> Decoding:
        """A second chance with more silence after it; the likelier of the two without a fault."""
        encoded = self._spliced(samples, AGAIN_AFTER)
        second = self._decode(encoded, tokenizer, prompt, len(samples))
        if first.fault is not None or (second.fault is None and second.log_probability >= first.log_probability):
            return second
        return first

    def _encode(self, samples: Samples, length: float) -> Any:  # noqa: ANN401 (ctranslate2.StorageView)
        """Encoder output over `samples` padded to `length` seconds, shape (1, length × 50, width)."""
        from faster_whisper.transcribe import get_ctranslate2_storage  # noqa: PLC0415

        count = min(round(WINDOW * SAMPLE_RATE), max(len(samples), round(length * SAMPLE_RATE)))
        count -= count % FRAME
        padded = np.zeros(count, np.float32)
        padded[: len(samples)] = samples[:count]
        mel = self._model.feature_extractor(padded, padding=0)[:, : count // HOP]
        if len(samples):
            mel = mel + (PEAK - (4.0 * mel.max() - 4.0)) / 4.0  # Whisper's log-mel is (log10 + 4) / 4
        return self._model.model.encode(get_ctranslate2_storage(mel[None].astype(np.float32, copy=False)))

    def _spliced(self, samples: Samples, after: float) -> Any:  # noqa: ANN401
        """Encoder output over the utterance and `after` seconds of silence; the rest is spliced in from silence."""
        from faster_whisper.transcribe import get_ctranslate2_storage  # noqa: PLC0415

        duration = len(samples) / SAMPLE_RATE
        head = np.array(self._encode(samples, duration + after))
        end = round(min(WINDOW, max(SHORT, duration + 5.0)) * SAMPLE_RATE / FRAME)
        whole = np.concatenate((head, self._tail[:, head.shape[1] : end]), axis=1)
        return get_ctranslate2_storage(whole)

    def _language(self, encoded: Any, languages: Sequence[str]) -> str:  # noqa: ANN401
        """The likeliest of `languages`."""
        if not self.multilingual:
            return "en"
        allowed = [code for code in languages if code in self.supported] or ["en"]
        if len(allowed) == 1:
            return allowed[0]
        ranked: list[str] = [token[2:-2] for token, _ in self._model.model.detect_language(encoded)[0]]
        return next(code for code in ranked if code in allowed)

    def _tokenizer(self, language: str, task: str) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer  # noqa: PLC0415

        if (language, task) not in self._tokenizers:
            self._tokenizers[language, task] = Tokenizer(
                self._model.hf_tokenizer, self.multilingual, task=task, language=language
            )
        return self._tokenizers[language, task]

    def _prompt(self, language: str, words: Sequence[str]) -> str:
        """The home's words in `language`: those of any home first, its own last, where they weigh most."""
        common = vocabulary().get(language, ()) if self._settings.vocabulary else ()
        own = [word for word in (*self._settings.words, *words) if written_in(word, language)]
        return prompt_of(list(dict.fromkeys((*common, *own))), language)

    def _decode(self, encoded: Any, tokenizer: Tokenizer, prompt: str, length: int) -> Decoding:  # noqa: ANN401
        """Greedy decoding without timestamps of an utterance of `length` samples."""
        before = [tokenizer.sot_prev, *tokenizer.encode(" " + prompt)[-PROMPT_TOKENS:]] if prompt else []
        tokens = [*before, *tokenizer.sot_sequence, tokenizer.no_timestamps]
        most = 10 + round(TOKENS_PER_SECOND * length / SAMPLE_RATE)
        result = self._model.model.generate(
            encoded,
            [tokens],
            beam_size=1,
            max_length=min(448, len(tokens) + most),
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        chosen = tuple(result.sequences_ids[0])
        text = tokenizer.decode(list(chosen)).strip()
        fault = "the text loops" if len(chosen) >= most or loops(text) else None
        if fault is None and echoes(text, prompt):
            fault = "the text is the prompt"
        mean = result.scores[0] * len(chosen) / (len(chosen) + 1)  # the end token counts, as in the paper
        return Decoding(text, chosen, float(mean), float(result.no_speech_prob), fault, encoded)

    def _word_times(self, decoding: Decoding, tokenizer: Tokenizer, length: int) -> tuple[Word, ...]:
        tokens = [token for token in decoding.tokens if token < tokenizer.eot]
        (found,) = self._model.find_alignment(tokenizer, [tokens], decoding.encoded, length // HOP) or ([],)
        words: list[Word] = []
        for part in found:
            text, start, end = part["word"].strip(), round(float(part["start"]), 2), round(float(part["end"]), 2)
            if words and not re.search(r"\w", text):  # punctuation belongs to the word before it
                words[-1] = Word(words[-1].word + text, words[-1].start, words[-1].end)
            elif text:
                words.append(Word(text, start, end))
        return tuple(words)


def doubt_before(evidence: SpeechEvidence) -> str | None:
    """Why recognition is not worth its cost: a tagger that heard the utterance heard no speech in it."""
    if evidence.tagger_score is not None and evidence.tagger_score < SPEECH_POSSIBLE:
        return f"the tagger hears no speech ({evidence.tagger_score:.2f})"
    return None


def doubt_after(decoding: Decoding, evidence: SpeechEvidence) -> str | None:
    """Why a text is not believed: the decoder's certainty and the tagger's together are too low.

    One alone is not enough: Whisper is certain of "Ha ha ha", and a tagger of a television's murmur.
    """
    wanted = BELIEF - TRUST * _log_odds(tagged(evidence)) + CAUTION * max(0.0, decoding.no_speech - 0.5)
    if _folded(decoding.text) in HOLLOW:
        wanted = max(wanted, HOLLOW_BELIEF)
    if decoding.log_probability >= wanted:
        return None
    return (
        f"average log-probability {decoding.log_probability:.2f} is below {wanted:.2f} "
        f"(tagger {tagged(evidence):.2f}, no speech {decoding.no_speech:.2f})"
    )


def tagged(evidence: SpeechEvidence) -> float:
    """The tagger's speech score; half the detector's share where no window was tagged."""
    return evidence.speech_share / 2 if evidence.tagger_score is None else evidence.tagger_score


def _log_odds(score: float) -> float:
    clipped = min(max(score, 0.01), 0.99)
    return math.log(clipped / (1.0 - clipped))


def worth_another(decoding: Decoding, evidence: SpeechEvidence) -> bool:
    """Whether a poor text deserves a longer context: only where the tagger is rather sure of speech."""
    if decoding.fault is not None:
        return tagged(evidence) >= RETRY_LOOP
    return decoding.log_probability < RETRY_BELOW and tagged(evidence) >= RETRY_SPEECH


def loops(text: str) -> bool:
    """Whether a text repeats itself as only a decoder does that missed its end, or is longer than anybody speaks."""
    if len(text) > LONGEST_SAID:  # and the patterns below would take minutes, in which no other thread runs
        return True
    folded = _folded(text)
    if re.search(r"(.{6,}?)( ?\1){2,}", folded) or re.fullmatch(r"(.{8,}?)( ?\1)+", folded):
        return True
    if re.search(r"\b(.+?)( \1){3,}\b", folded) or re.search(r"([^\d\s]{2,}?)\1{4,}", folded.replace(" ", "")):
        return True
    raw = text.encode()
    return len(raw) > 80 and len(raw) / len(zlib.compress(raw)) > 2.0


def _folded(text: str) -> str:
    """Lower case, without punctuation."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def echoes(text: str, prompt: str) -> bool:
    """Whether a text is two or more of the prompt's entries read back."""
    said = _entries(text)
    return len(said) >= 2 and sum(entry in set(_entries(prompt)) for entry in said) >= 0.6 * len(said)


def _entries(text: str) -> list[str]:
    return [part for part in (piece.strip().lower() for piece in re.split(r"[,.、。!?！？]", text)) if part]


def prompt_of(words: Sequence[str], language: str) -> str:
    """A list of words as a text of that language, for the decoder's context."""
    if not words:
        return ""
    comma, stop = ("、", "。") if language in {"ja", "zh"} else (", ", ".")
    return comma.join(words) + stop


def written_in(word: str, language: str) -> bool:
    """Whether all letters of `word` belong to the script of `language`."""
    scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in word if letter.isalpha()}
    return bool(scripts) and scripts <= SCRIPTS.get(language, {"LATIN"})


@cache
def vocabulary() -> dict[str, tuple[str, ...]]:
    """Words that any home uses, by language, from the shipped `words.yaml`."""
    shipped = resources.files("assistant") / "_config" / "words.yaml"
    path = shipped if shipped.is_file() else Path(__file__).parents[2] / "config" / "words.yaml"
    content: dict[str, list[str]] = yaml.safe_load(path.read_text("utf-8"))
    return {language: tuple(words) for language, words in content.items()}
