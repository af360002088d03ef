"""What a model's reply says: the speech in its prose, its time stamps, its lists, its one word.

Rules that all of them keep: a reply that does not say the thing gives None (or nothing of a list), never the likeliest
reading; a stamp that is malformed, out of order or past the clip's end makes unknown what it bounds; nothing raises.
A base model answers by tags and words; a chat model wraps the same in prose, which is what most of this is about.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from assistant.events import Word

SLACK = 0.05  # seconds that a stamp may lie past the clip's end (an audio token is 0.04 s); it then means the end

_MARK = re.compile(r"<\|(?P<inside>[^|<>]{0,40})\|>|<\|(?P<broken>[\d.,:\s-]*)\|?>?")
_STAMP = re.compile(r"\d{1,2}\.\d{1,3}")
_SPACE = re.compile(r"\s+")
_WIDE = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"  # East Asian letters and signs
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")  # Chinese and Japanese: no spaces between words

# The names that replies give to languages, as they are written in prose.
LANGUAGE_NAMES: Mapping[str, tuple[str, ...]] = {
    "en": ("English", "英语", "英文", "英語"),
    "zh": ("Chinese", "Mandarin", "Putonghua", "中文", "汉语", "普通话", "中国語"),
    "yue": ("Cantonese", "粤语", "広東語"),
    "de": ("German", "Deutsch", "德语", "ドイツ語"),
    "es": ("Spanish", "Castilian", "Español", "español", "西班牙语", "スペイン語"),
    "ko": ("Korean", "한국어", "韩语", "韓国語"),
    "fr": ("French", "Français", "français", "法语", "フランス語"),
    "ja": ("Japanese", "日本語", "日语", "日文"),
    "it": ("Italian", "Italiano", "italiano", "意大利语", "イタリア語"),
    "ar": ("Arabic",),
    "cs": ("Czech",),
    "da": ("Danish",),
    "el": ("Greek",),
    "fi": ("Finnish",),
    "hi": ("Hindi",),
    "id": ("Indonesian",),
    "nl": ("Dutch",),
    "no": ("Norwegian",),
    "pl": ("Polish",),
    "pt": ("Portuguese",),
    "ru": ("Russian", "俄语", "ロシア語"),
    "sv": ("Swedish",),
    "th": ("Thai",),
    "tr": ("Turkish",),
    "uk": ("Ukrainian",),
    "vi": ("Vietnamese",),
}
EMOTIONS: Mapping[str, tuple[str, ...]] = {
    "neutral": ("neutral", "calm", "emotionless", "no emotion", "中性", "平静"),
    "happy": ("happy", "happiness", "joy", "joyful", "cheerful", "delighted", "excited", "开心", "高兴", "快乐"),
    "sad": ("sad", "sadness", "sorrow", "sorrowful", "unhappy", "depressed", "悲伤", "难过", "伤心"),
    "angry": ("angry", "anger", "furious", "mad", "annoyed", "愤怒", "生气"),
    "fearful": ("fear", "fearful", "afraid", "scared", "frightened", "terrified", "恐惧", "害怕"),
    "disgusted": ("disgust", "disgusted", "厌恶"),
    "surprised": ("surprise", "surprised", "astonished", "惊讶"),
}
VOCAL_SOUNDS: Mapping[str, tuple[str, ...]] = {  # the classes of VocalSound
    "laughter": ("laughter", "laugh", "laughs", "laughing", "giggle", "giggling", "chuckle", "chuckling"),
    "sigh": ("sigh", "sighs", "sighing"),
    "cough": ("cough", "coughs", "coughing"),
    "throat clearing": ("throat clearing", "clearing his throat", "clearing her throat", "clearing their throat",
                        "clears his throat", "clears her throat", "throatclearing", "clears throat"),
    "sneeze": ("sneeze", "sneezes", "sneezing"),
    "sniff": ("sniff", "sniffs", "sniffing", "sniffle", "sniffling"),
}  # fmt: skip
GENDERS: Mapping[str, tuple[str, ...]] = {
    "male": ("male", "man", "boy", "gentleman", "he", "his", "masculine", "男", "男性"),
    "female": ("female", "woman", "girl", "lady", "she", "her", "feminine", "女", "女性"),
}
AGES: Mapping[str, tuple[str, ...]] = {
    "child": ("child", "kid", "boy", "girl", "toddler", "baby"),
    "teenager": ("teenager", "teenage", "teen", "adolescent"),
    "young adult": ("young adult", "young man", "young woman", "young"),
    "middle-aged": ("middle-aged", "middle aged"),
    "elderly": ("elderly", "old", "senior"),
    "adult": ("adult",),
}

# --- marks ---------------------------------------------------------------------------------------------------------


def _pieces(reply: str) -> list[float | str]:
    """Stamps as seconds (nan: malformed) and the texts between them, in order; other tags are left out."""
    pieces: list[float | str] = []
    position, text = 0, ""
    for mark in _MARK.finditer(reply):
        text += reply[position : mark.start()]
        position = mark.end()
        inside = mark["inside"]
        if inside is not None and not re.search(r"^\W*\d|^\s*$", inside):
            text += " "  # a tag that is no stamp, such as <|sil|>
            continue
        if text.strip():
            pieces.append(text)
        text = ""
        pieces.append(float(inside) if inside is not None and _STAMP.fullmatch(inside) else math.nan)
    text += reply[position:]
    return [*pieces, text] if text.strip() else pieces


def plain(reply: str) -> str:
    """The reply without any tag or stamp, spaces evened."""
    return _SPACE.sub(" ", _MARK.sub(" ", reply)).strip()


def together(words: Sequence[str]) -> str:
    """Words as a text: with spaces, but not between two Chinese or Japanese signs."""
    text = ""
    for word in (word.strip() for word in words):
        if text and word and not (_UNSPACED.match(text[-1]) and _UNSPACED.match(word[0])):
            text += " "
        text += word
    return text


@dataclass(frozen=True, slots=True)
class TimedWords:
    """A transcription with the times of its words."""

    text: str  # everything, timed or not
    words: tuple[Word, ...]  # in order, within the clip
    untimed: tuple[str, ...]  # texts whose times the reply does not tell: never guessed


def words_of(reply: str, seconds: float) -> TimedWords:
    """SRWT: `<|0.00|><|sil|><|0.54|>面<|0.86|>条<|1.17|>`, N words or silences between N + 1 shared boundaries.

    Of stamps that contradict each other those are believed that every longest run in order holds. `seconds` is the
    clip's length.
    """
    pieces = _pieces(reply)
    good = _in_order([(i, piece) for i, piece in enumerate(pieces) if isinstance(piece, float)], seconds)
    words: list[Word] = []
    untimed: list[str] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, float):
            continue
        text = _SPACE.sub(" ", piece).strip()
        if i - 1 in good and i + 1 in good:
            words.append(Word(text, good[i - 1], good[i + 1]))
        else:
            untimed.append(text)
    return TimedWords(together([piece for piece in pieces if isinstance(piece, str)]), tuple(words), tuple(untimed))


def _in_order(stamps: Sequence[tuple[int, float]], seconds: float) -> dict[int, float]:
    """The stamps (by index) within the clip that are part of every longest non-decreasing run."""
    within = [(i, min(time, seconds)) for i, time in stamps if 0.0 <= time <= seconds + SLACK]
    before = _runs([time for _, time in within])
    after = _runs([-time for _, time in reversed(within)])[::-1]
    longest = max(before, default=0)
    candidates = [n for n in range(len(within)) if before[n] + after[n] == longest + 1]
    rivals = Counter(before[n] for n in candidates)
    return {within[n][0]: within[n][1] for n in candidates if rivals[before[n]] == 1}


def _runs(times: Sequence[float]) -> list[int]:
    """For each time the length of the longest non-decreasing run that ends with it."""
    lasts: list[float] = []  # the smallest last time of a run of each length
    lengths: list[int] = []
    for time in times:
        length = bisect_right(lasts, time)
        lasts[length : length + 1] = [time]
        lengths.append(length + 1)
    return lengths


@dataclass(frozen=True, slots=True)
class Span:
    """Where something is in a clip."""

    start: float  # seconds
    end: float  # seconds
    text: str | None = None  # what is there, as the reply quotes it


_TIME = r"(\d{1,2}:\d{2}(?:\.\d+)?|\d{1,3}(?:\.\d+)?)\s*(s\b|secs?\b|seconds?\b|秒)?"
_RANGE = re.compile(
    rf"\b(?:from|between|at|starts?|begins?)\s+{_TIME}(?:\D{{0,30}}?\b(?:to|and|until|till|ends?|ending)\b\D{{0,12}}?|\s*[-–—~]\s*)"
    rf"{_TIME}",
    re.IGNORECASE,
)


def spans_of(reply: str, seconds: float) -> tuple[tuple[Span, ...], int]:
    """Grounding: prose with stamps, paired two by two; and how many pairs (or odd stamps) could not be believed.

    Models without stamps say "from 2.3 to 3.1 seconds" or "from 0:02 to 0:03": read where there is no stamp at all.
    """
    pieces = _pieces(reply)
    stamped = any(isinstance(piece, float) for piece in pieces)
    found = _paired(pieces) if stamped else _ranges(reply)
    spans = {
        Span(min(start, seconds), min(end, seconds), _last_quote(before))
        for start, end, before in found
        if 0.0 <= start <= end <= seconds + SLACK
    }
    bad = sum(not 0.0 <= start <= end <= seconds + SLACK for start, end, _ in found)
    return tuple(sorted(spans, key=lambda span: (span.start, span.end, span.text or ""))), bad


def _ranges(reply: str) -> list[tuple[float, float, str]]:
    """Start, end and the text before each range in plain seconds."""
    found: list[tuple[float, float, str]] = []
    after = 0
    for match in _RANGE.finditer(reply):
        if match[2] or match[4] or ":" in match[1] + match[3]:  # a number without a unit need not be a time
            found.append((_clock(match[1]), _clock(match[3]), reply[after : match.start()]))
            after = match.end()
    return found


def _paired(pieces: Sequence[float | str]) -> list[tuple[float, float, str]]:
    """Start, end and the text before each pair of stamps; the end of an odd last stamp is nan."""
    found: list[tuple[float, float, str]] = []
    start: float | None = None
    before = ""
    for piece in pieces:
        if isinstance(piece, str):
            before += piece if start is None else ""
        elif start is None:
            start = piece
        else:
            found.append((start, piece, before))
            start, before = None, ""
    return found if start is None else [*found, (start, math.nan, before)]


def _clock(time: str) -> float:
    minutes, _, rest = time.rpartition(":")
    return 60.0 * float(minutes or 0) + float(rest)


# --- prose around speech -------------------------------------------------------------------------------------------

_PAIRS = {
    '"': '"',
    "“": "”",
    "„": "“”",
    "«": "»",
    "‹": "›",
    "「": "」",
    "『": "』",
    "'": "'",
    "‘": "’",
    "`": "`",
    "”": "”",
}
_SINGLE = "'‘`"
_SPEAKER = re.compile(
    r"\b(?:speech|speaker|speaking|voice|audio|recording|clip|man|woman|male|female|boy|girl|child|person|people|someone|"
    r"narrator|transcri\w+|content|text|words?|sentence|phrase|translat\w+|first|second|other)\b|[音話话声說说語语]|内容|文字|翻译|翻訳",
    re.IGNORECASE,
)
_SAYS = re.compile(
    r"(?:\b(?:say(?:s|ing)?|said|speak(?:s|ing)?|spoken|reads?|reading|utter\w*|transcri\w+|translat\w+|content|text|words?|"
    r"is|are|was|as|that|follows|states?|stating|asks?|asking|repl\w+|answers?|responds?|mentions?|tells?|telling|shouts?|"
    r"shouting|sentence|phrase|heard)|是|为|為|说|說|道|は|と)\s*[,:：，]?\s*$|[:：]\s*$",
    re.IGNORECASE,
)
_TAIL = re.compile(r"[\s.,!?。！？、;:)\]]*")
_COLON = re.compile(r"^(?P<lead>[^\n:：\"“「]{2,120}[:：])\s*(?P<text>\S.*)$", re.DOTALL)
_DESCRIBES = re.compile(
    r"(?:the|this) (?:speech|audio|recording|clip|voice) (?:is|contains|features|consists) (?:of|an?|in)\b",
    re.IGNORECASE,
)
_NO_SPEECH = re.compile(
    r"(?:(?:sorry,? (?:but )?)?(?:there(?:'s| is| are| was)|(?:the|this) (?:audio|clip|recording|sound)[^.]{0,20}? "
    r"(?:contains|has)|i (?:can )?hear|it contains) no |no )(?:\w+ ){0,2}?"
    r"(?:speech|voices?|spoken words|one (?:is )?(?:speaking|talking))"
    r"(?: (?:content|is|was|are|can be|could be|to be|detected|present|heard|found|recogni[sz]ed|transcribed?|to|in|"
    r"the|this|audio|clip|recording|sound))*[.!]?"
    r"|nobody (?:is )?(?:speaks|speaking|talks|talking)[^.]{0,40}[.!]?"
    r"|(?:(?:the|this) (?:audio|clip|recording) is )?(?:silent|silence|empty)[.!]?",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(
    r"(?:(?:the|this) (?:speech|audio|voice|recording|clip|sound)|it) (?:is|was) (?:\w+ ){0,2}?"
    r"(?:unintelligible|unclear|inaudible|not (?:clear|intelligible|audible|recogni[sz]able|understandable))\b.{0,120}",
    re.IGNORECASE,
)
# Refusals begin a reply. Of speech they must name the audio or the model itself: people say "I can't hear you" too.
_SORRY = r"(?:(?:sorry|unfortunately|i apologi[sz]e|i(?:'m| am) (?:sorry|afraid))\b.{0,20}?\b)?"
_CANNOT = (
    r"(?:i|we)(?:'m| am| are)? (?:can(?:no|')t|can not|could(?:n't| not)|not able to|unable to|"
    r"do(?:n't| not) (?:have|know)|not (?:sure|certain))\b"
)
_REFUSES_SPEECH = re.compile(
    rf"{_SORRY}(?:as an? (?:ai|artificial|language model|large language)\b|"
    rf"{_CANNOT}.{{0,60}}?\b(?:audio|speech|recording|clip|transcri\w+)\b|"
    r"(?:there (?:is|was) )?(?:no|any) audio (?:was |is |has been |file )?"
    r"(?:provided|given|attached|uploaded|included)\b)|"
    r"(?:抱歉|对不起|對不起|很遗憾).{0,20}(?:无法|不能|無法)|(?:申し訳|すみません).{0,30}(?:できません|わかりません)",
    re.IGNORECASE | re.DOTALL,
)
_REFUSES = re.compile(
    rf"{_SORRY}(?:{_CANNOT}|it (?:is|'s) (?:not possible|impossible|difficult|hard) to\b)|"
    r"(?:unknown|unclear|n/?a|none|(?:it )?(?:cannot|can't) (?:be )?(?:determined?|told|tell|identified))[.!]?$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply says was said."""

    text: str | None  # empty: nobody speaks; None: the reply does not tell
    language: str | None  # ISO 639-1 (yue for Cantonese), as the reply names it


def refused(reply: str) -> bool:
    """Whether the model says that it cannot say."""
    text = plain(reply).replace("’", "'")
    return bool(_REFUSES.match(text)) or _refuses_speech(text)


def _refuses_speech(text: str) -> bool:
    return bool(_REFUSES_SPEECH.match(text.replace("’", "'")) or _UNCLEAR.fullmatch(text))


def tagged_speech(reply: str) -> Said:
    """A base model's reply: text alone, maybe after the tag of its language."""
    codes = {m["inside"] for m in _MARK.finditer(reply) if m["inside"] in LANGUAGE_NAMES}
    return Said(plain(reply), codes.pop() if len(codes) == 1 else None)


def speech_of(reply: str) -> Said:
    """A chat model's reply, such as `The speech is of a man speaking, in a Spanish, saying, "..."`, unwrapped.

    In quotes: what is in the outermost ones, when the words before (or after) them speak of speech; several quotes
    with such words between them are joined. After a colon: the rest, when the words before speak of speech. A reply
    that is no such wrapper, no refusal and no mere description is taken to be the text itself.
    """
    text = plain(reply)
    if not text:
        return Said(None, None)
    if _NO_SPEECH.fullmatch(text.replace("’", "'")):
        return Said("", None)
    unwrapped = _unquoted(text)
    if unwrapped is None and _refuses_speech(text):
        return Said(None, None)
    unwrapped = unwrapped or _after_colon(text)
    if unwrapped is not None:
        said, prose = unwrapped
        return Said(said or None, language_named(prose))
    if _DESCRIBES.match(text):
        return Said(None, language_named(text))
    return Said(text, None)


def language_named(prose: str) -> str | None:
    """The one language that `prose` names; None when it names none or several."""
    codes = {
        code
        for code, names in LANGUAGE_NAMES.items()
        for name in names
        if re.search(rf"\b{name}\b" if name.isascii() else name, prose)
    }
    return codes.pop() if len(codes) == 1 else None


def _unquoted(text: str) -> tuple[str, str] | None:
    """The speech in quotes and the prose around it; None when the quotes are not the model's."""
    segments = _quotes(text)
    if not segments:
        return None
    first, last = segments[0][0], segments[-1][1]
    lead, tail = text[: first - 1], text[last + 1 :]
    if lead.strip():
        mine = len(lead) <= 240 and bool(_SPEAKER.search(lead)) and bool(_SAYS.search(lead))
    else:
        mine = bool(_TAIL.fullmatch(tail)) or (bool(_SPEAKER.search(tail)) and len(segments) == 1)
    if not mine:
        return None
    gaps = [text[a[1] + 1 : b[0] - 1] for a, b in pairwise(segments)]
    if gaps and all(_SAYS.search(gap) or gap.strip() in {",", "and", ", and", ";"} for gap in gaps):
        said = together([text[start:end] for start, end in segments])
    else:
        said = text[first:last].strip()
    return said, " ".join((lead, *gaps, tail))


def _quotes(text: str) -> list[tuple[int, int]]:
    """Where the contents of quotes of the first kind begin and end. A quote that is not closed lasts to the end."""
    first = next((i for i, sign in enumerate(text) if _opens(text, i, sign)), None)
    if first is None:
        return []
    opening, closing = text[first], _PAIRS[text[first]]
    if opening in _SINGLE:  # they are apostrophes too: the last that can close does
        ends = [i for i in range(first + 1, len(text)) if text[i] in closing and _closes(text, i)]
        return [(first + 1, ends[-1] if ends else len(text))]
    if opening in closing:
        marks = [i for i, sign in enumerate(text) if sign == opening]
        if len(marks) % 2 == 0:
            return [(a + 1, b) for a, b in zip(marks[::2], marks[1::2], strict=True)]
        whole = len(marks) > 1 and _TAIL.fullmatch(text[marks[-1] + 1 :])
        return [(first + 1, marks[-1] if whole else len(text))]
    return _nested(text, opening, closing)


def _nested(text: str, opening: str, closing: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    depth = start = 0
    for i, sign in enumerate(text):
        if sign in closing and depth:
            depth -= 1
            if not depth:
                found.append((start, i))
        elif sign == opening:
            start = start if depth else i + 1
            depth += 1
    return [*found, (start, len(text))] if depth else found


def _opens(text: str, i: int, sign: str) -> bool:
    if sign not in _PAIRS:
        return False
    if sign not in _SINGLE:
        return True
    return (i == 0 or not text[i - 1].isalnum()) and i + 1 < len(text) and not text[i + 1].isspace()


def _closes(text: str, i: int) -> bool:
    return not text[i - 1].isspace() and (i + 1 == len(text) or not text[i + 1].isalnum())


def _last_quote(text: str) -> str | None:
    segments = _quotes(text)
    return (text[slice(*segments[-1])].strip() or None) if segments else None


def _after_colon(text: str) -> tuple[str, str] | None:
    match = _COLON.match(text)
    if match is None or not (_SPEAKER.search(match["lead"]) and _SAYS.search(match["lead"])):
        return None
    return match["text"].strip(), match["lead"]


# --- descriptions, lists and single words --------------------------------------------------------------------------

_ARTICLE = re.compile(r"^(?:an?|the|some|sounds? of|the sounds? of)\s+", re.IGNORECASE)
_LIST_LEAD = re.compile(
    r"^(?:sure[,.!]?\s*)?(?:(?:in )?(?:the|this) (?:audio|clip|recording|sounds?)[^,:;]{0,60}?\b"
    r"(?:is|are|contains?|includes?|has|have|features?)|(?:i|you|we) (?:can )?hear|there(?:'s| is| are)|"
    r"it (?:is|contains|sounds like)|(?:the )?sounds?(?: events?)?)\s*[:：]?\s*",
    re.IGNORECASE,
)
_STATED_LEAD = re.compile(
    r"^.{0,80}?\b(?:(?:scene|place|location|environment|instrument|emotion|sound|audio|recording|it|this|that|recorded|"
    r"taken|scenario|action|age|gender)\b.{0,30}?\b(?:is|are|was|be|seems?|appears?|sounds?|of|from|in|at|like)|"
    r"(?:probably|likely|mostly) (?:in|at)|takes? place (?:in|at))\b"
    r"\s*(?:(?:to be|like|it (?:was|is)|recorded|probably|likely|most likely|from|of|in|at|inside|being)\s+)*[:：]?\s*",
    re.IGNORECASE,
)


def prose_of(reply: str) -> str | None:
    """A caption or a description, without quotes around it; None when empty or refused."""
    text = plain(reply)
    if not text or refused(text):
        return None
    segments = _quotes(text)
    if segments == [(1, len(text) - 1)]:
        text = text[1:-1].strip()
    return text or None


def listed(reply: str) -> tuple[str, ...]:
    """The items of a list, in order and once each: "a dog barking and a car" → dog barking, car. Refused: nothing."""
    if refused(reply):
        return ()
    lines = [re.sub(r"^\s*(?:[-*•]|\d{1,2}[.)])\s*", "", line) for line in _MARK.sub(" , ", reply).splitlines()]
    text = _LIST_LEAD.sub("", _SPACE.sub(" ", "; ".join(lines)).strip())
    items: dict[str, None] = {}
    for part in re.split(r"\s*[;,、，；|/]\s*(?:and\s+)?|\s+and\s+|(?<=[a-z])\.\s+", text):
        item = _ARTICLE.sub("", part.strip(" .。!！\"'“”")).strip()
        if (
            item
            and len(item) <= 60
            and any(sign.isalnum() for sign in item)
            and item.lower() not in {"none", "unknown"}
        ):
            items.setdefault(item, None)
    return tuple(items)


def stated(reply: str) -> str | None:
    """What a short answer states: "The acoustic scene is a kitchen." → kitchen. None when empty or refused."""
    text = prose_of(reply)
    if text is None:
        return None
    sentence = re.split(r"(?<=[.!?。])\s", text, maxsplit=1)[0]
    quote = _last_quote(sentence)
    rest = quote or _ARTICLE.sub("", _STATED_LEAD.sub("", sentence, count=1)).strip(" .。!\"'")
    return rest or None


def named(reply: str, names: Mapping[str, Sequence[str]]) -> str | None:
    """The one of `names` that the reply speaks of; None when it speaks of none or several. "not happy" is not happy."""
    text = plain(reply).lower()
    found = {key for key, words in names.items() if any(_spoken_of(word, text) for word in words)}
    return found.pop() if len(found) == 1 else None


def _spoken_of(word: str, text: str) -> bool:
    if not word.isascii():
        return word in text
    before = r"(?<!\bnot )(?<!\bno )(?<!n't )(?<!\bnot a )(?<!\bthan )(?<!\bwithout )"
    return bool(re.search(rf"{before}\b{re.escape(word)}\b(?!-)", text))


# --- replies with fields -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks, as far as the reply tells."""

    gender: str | None  # male or female
    age: str | None  # years as digits, or child, teenager, young adult, adult, middle-aged, elderly
    text: str | None  # the whole description


def speaker_of(reply: str) -> Speaker:
    """Gender and age in a description of a speaker."""
    text = prose_of(reply)
    if text is None:
        return Speaker(None, None, None)
    years = {m[1] for m in re.finditer(r"\b(\d{1,3})\b(?:[ -]*(?:years?|yrs?|岁|歳)| of age)", text)}
    age = years.pop() if len(years) == 1 else None if years else named(text, AGES) or _first_age(text)
    return Speaker(named(text, GENDERS), age, text)


def _first_age(text: str) -> str | None:
    """One age where several words name it, as in "a young adult"; None for "a boy or an adult"."""
    lowered = plain(text).lower()
    found = [key for key, words in AGES.items() if any(_spoken_of(word, lowered) for word in words)]
    return "young adult" if set(found) == {"young adult", "adult"} else None


@dataclass(frozen=True, slots=True)
class Note:
    """One musical note."""

    pitch: int | None  # MIDI, 0 to 127
    velocity: int | None  # MIDI, 0 to 127
    qualities: tuple[str, ...]  # such as bright, reverb
    instrument: str | None
    text: str | None  # what the reply says beside its tags


def note_of(reply: str) -> Note:
    """`<|pitch|><|midi_pitch_60|><|velocity|><|midi_velocity_50|><|sonic|>bright<|instrument|>guitar`, or prose."""
    parts = _parts(reply, ("pitch", "velocity", "sonic", "instrument"))
    prose = prose_of(reply)
    instrument = stated(parts["instrument"]) if "instrument" in parts else None
    if not parts and prose is not None:
        found = re.search(
            r"\binstrument\b[^.]{0,30}?\b(?:is|sounds like)\s+(?:an?\s+|the\s+)?([\w -]{2,40}?)(?:[.,;]|$)", prose
        )
        instrument = found[1].strip() if found else None
    pitches = re.findall(r"<\|midi_pitch_(\d{1,3})\|>", reply)
    velocities = re.findall(r"<\|midi_velocity_(\d{1,3})\|>", reply)
    return Note(
        _only(pitches or re.findall(r"\bMIDI (?:pitch|note)\D{0,15}(\d{1,3})\b", reply)),
        _only(velocities or re.findall(r"\bvelocity\D{0,15}(\d{1,3})\b", reply)),
        listed(parts.get("sonic", "")),
        instrument,
        prose,
    )


def _only(numbers: Sequence[str]) -> int | None:
    values = {int(number) for number in numbers}
    value = values.pop() if len(values) == 1 else None
    return value if value is not None and value <= 127 else None


def _parts(reply: str, names: Sequence[str]) -> dict[str, str]:
    """The text after each of these tags, up to the next of them."""
    split = re.split(rf"<\|({'|'.join(names)})\|>", reply)
    return dict(zip(split[1::2], split[2::2], strict=True))


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing that a request names."""

    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a spoken request is about, in the terms of SLURP: scenario `alarm`, action `set`, entity time = five am."""

    scenario: str | None
    action: str | None
    entities: tuple[Entity, ...]
    text: str | None  # the whole reply


_FIELDS = re.compile(r"\b(scenario|action|entities)\b\W{0,3}[:：=]\W{0,3}", re.IGNORECASE)
_ENTITY_TAGS = re.compile(
    r"<\|startofentityvalue\|>(.*?)<\|endofentityvalue\|>\s*<\|startofentitytype\|>(.*?)<\|endofentitytype\|>",
    re.DOTALL,
)


def understanding_of(reply: str) -> Understanding:
    """Scenario, action and entities from tags, from JSON, or from lines such as `scenario: alarm`."""
    text = prose_of(reply)
    if text is None:
        return Understanding(None, None, (), None)
    from_json = _json_fields(reply)
    if from_json is not None:
        return Understanding(*from_json, text)
    parts = _parts(reply, ("scenario", "action", "entities"))
    if not parts:
        split = _FIELDS.split(_MARK.sub(" ", reply))
        parts = {name.lower(): value for name, value in zip(split[1::2], split[2::2], strict=True)}
    entities = [Entity(plain(kind), plain(value)) for value, kind in _ENTITY_TAGS.findall(reply)]
    if not entities:
        entities = [
            Entity(pair[1].strip().lower(), pair[2].strip(" .\"'“”"))
            for item in re.split(r"[;\n,]", plain(parts.get("entities", "")))
            if (pair := re.fullmatch(r"\W*([\w -]{2,30}?)\s*[=:：]\s*(.{1,60}?)\W*", item))
        ]
    return Understanding(_word(parts.get("scenario")), _word(parts.get("action")), tuple(entities), text)


def _word(value: object) -> str | None:
    """The first line of a field, without what people put around words; None when it says nothing."""
    if not isinstance(value, str):
        return None
    line = next((line for line in _MARK.sub(" ", value).splitlines() if line.strip()), "")
    word = re.split(r"[,;。]", line)[0].strip(" .\"'“”*`{}")
    return None if not word or len(word) > 40 or word.lower() in {"none", "unknown", "null", "n/a"} else word.lower()


def _json_fields(reply: str) -> tuple[str | None, str | None, tuple[Entity, ...]] | None:
    match = re.search(r"\{.*\}", reply, re.DOTALL)
    if match is None:
        return None
    try:
        fields = json.loads(match[0])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    entities = fields.get("entities")
    if isinstance(entities, dict):
        entities = [{"type": key, "value": value} for key, value in entities.items()]
    pairs = [
        (item.get("type"), item.get("value", item.get("filler")))
        for item in (entities if isinstance(entities, list) else [])
        if isinstance(item, dict)
    ]
    found = tuple(
        Entity(str(kind), str(value))
        for kind, value in pairs
        if isinstance(kind, str) and isinstance(value, str | int | float)
    )
    return _word(fields.get("scenario")), _word(fields.get("action")), found
