"""Sentences of one language: those of home-assistant-intents and our own, compiled for hassil.

`config/intents/<language>.yaml` holds our own in hassil's format, merged over the package's, and how people talk:
`before` and `after` list what may stand around a command, `replace` what is written in several ways.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from assistant.errors import AssistantError

if TYPE_CHECKING:
    from hassil import Intents
    from hassil.intents import SlotList
    from hassil.recognize import RecognizeResult
    from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST: Final = 120  # characters of a command; what is longer is talk, and slow to compare
MOST_RESULTS: Final = 200
_STANDING: Final = {"zh": "zh-CN", "zh-hans": "zh-CN", "zh-hant": "zh-TW", "yue": "zh-HK", "no": "nb", "sr": "sr"}
_MARKS: Final = re.compile(r"[.。](?!\d)|[!?,、;:…\"“”„«»¿¡()「」『』・]")
_GROUPED: Final = ("en", "ja", "zh")  # where 2,700 is a whole number
# What Whisper writes in traditional characters where Chinese is spoken, as far as commands need it
_SIMPLER: Final = str.maketrans(
    "開關燈電視調溫風簾臥廳廚衛書門鎖閉啟動設為將這裡裏讓給請幫麼嗎點擴聲響靜機掃熱氣濕頂牆檯臺樓層陽車庫間長"
    "綠藍黃紅時鐘鍾後個兩雙單購買項場執運顏進階條連網絡邊側幾總轉換貓養記憶錶體樣終繼續別來說誰沒經對還",
    "开关灯电视调温风帘卧厅厨卫书门锁闭启动设为将这里里让给请帮么吗点扩声响静机扫热气湿顶墙台台楼层阳车库间长"
    "绿蓝黄红时钟钟后个两双单购买项场执运颜进阶条连网络边侧几总转换猫养记忆表体样终继续别来说谁没经对还",
)
_LETTERS: Final = re.compile(r"[^\W_\u2e80-\uffff]")  # and digits, of scripts with spaces between words
_FAHRENHEIT: Final = re.compile(r"\d\s*°\s*[Ff]\b|\bfahrenheit\b|华氏|華氏", re.IGNORECASE)
_CELSIUS: Final = re.compile(r"\d\s*°\s*[Cc]\b|\bcelsius\b|\bcentígrados?\b|摄氏|摂氏", re.IGNORECASE)
_SCALE: Final = re.compile(
    r"(?<=\d)(\s*°)\s*[CF]\b|(?<=\w)()\s+(?:celsius|fahrenheit|centígrados?)\b|()(?:摄氏|摂氏|华氏|華氏)(?=度|\d)",
    re.IGNORECASE,
)
_COUNTERS: Final = "(?=パーセント|%|度|割|段|半|分钟|分鐘)"
_NUMERALS: Final = re.compile(f"[〇零一二三四五六七八九十百两]+{_COUNTERS}|(?<=百分之)[零一二三四五六七八九十百两]+")
_DIGITS: Final = {sign: value for value, sign in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}


def language_of(code: str) -> str | None:
    """The language of the package that serves `code` (case does not count; a prefix will do); None: there is none."""
    from home_assistant_intents import get_languages  # noqa: PLC0415 (takes time; only where commands are understood)

    there = {language.casefold(): language for language in sorted(get_languages())}
    wanted = code.strip().casefold().replace("_", "-")
    while wanted:
        if wanted in there:
            return there[wanted]
        if wanted in _STANDING:
            return _STANDING[wanted]
        longer = [language for known, language in there.items() if known.startswith(f"{wanted}-")]
        if longer:
            return longer[0]
        wanted = wanted.rpartition("-")[0]
    return None


def number_of(numeral: str) -> int:
    """A Chinese or Japanese numeral below 1000."""
    total, digit = 0, None
    for sign in numeral:
        if sign in _DIGITS:
            digit = _DIGITS[sign] if digit is None else digit * 10 + _DIGITS[sign]
        else:
            total += (1 if digit is None else digit) * {"十": 10, "百": 100}[sign]
            digit = None
    return total + (digit or 0)


def unmarked(text: str) -> str:
    """Text and names as they are compared: of one width, numerals as digits, without punctuation."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    text = _MARKS.sub(" ", re.sub(r"(?<=\d),(?=\d)", ".", text))
    text = re.sub(r"\s+(?=%)", "", re.sub(r"(?<=\d)\s*°", "°", " ".join(text.split())))
    return _NUMERALS.sub(lambda found: str(number_of(found[0])), text)


def simplified(text: str) -> str:
    """Chinese in simplified characters, as far as commands need it."""
    return text.translate(_SIMPLER)


def scale_of(text: str) -> str | None:
    """The scale of the degrees in `text`, C or F; None: it does not say."""
    text = unicodedata.normalize("NFKC", text)
    return "F" if _FAHRENHEIT.search(text) else "C" if _CELSIUS.search(text) else None


class Grammar:
    """One language, compiled."""

    def __init__(self, language: str, folder: Path | None = None) -> None:
        """`language` is one that `language_of` gave; `folder` holds our own sentences. Takes 10 to 300 ms."""
        from hassil import Intents  # noqa: PLC0415
        from home_assistant_intents import get_intents  # noqa: PLC0415

        began = time.perf_counter()
        sentences = get_intents(language)
        if sentences is None:
            raise AssistantError(f"home-assistant-intents has no sentences for {language}")
        own = _own(language, folder)
        self.language = language
        self._before = _around(own.get("before", ()), "^{}")
        self._after = _around(own.get("after", ()), "{}$")
        self._replace = [(re.compile(pattern), text) for pattern, text in own.get("replace", {}).items()]
        self._intents: Intents = Intents.from_dict(_merged(sentences, own))
        self._errors: Mapping[str, str] = sentences.get("responses", {}).get("errors", {})
        theirs = dict(sentences.get("responses", {}).get("intents", {}))
        theirs.pop("HassRespond", None)  # what Home Assistant says of itself does not hold for us
        self._responses: Mapping[str, Mapping[str, str]] = _deep(theirs, own.get("responses", {}).get("intents", {}))
        self.seconds = time.perf_counter() - began

    def plain(self, text: str, names: Iterable[str] = ()) -> str:
        """What a recogniser wrote, without what does not change its meaning.

        `names`: of devices and areas; what they begin or end with is no filler, even where it looks like one.
        """
        if self.language.startswith(_GROUPED):
            text = re.sub(r"(?<=\d)[,，](?=\d{3}(?!\d))", "", text)
        text = unmarked(_SCALE.sub(lambda found: found[1] or "", unicodedata.normalize("NFKC", text)))
        text = re.sub(r"百分之(\d+)", r"\1%", text)
        if self.language == "zh-CN":
            text = simplified(text)
        for pattern, replacement in self._replace:
            text = pattern.sub(replacement, text)
        known = [name.casefold() for name in names]
        for edge, last in ((self._before, False), (self._after, True)):
            while edge is not None and not any(_bordered(text.casefold(), name, last=last) for name in known):
                shorter = edge.sub("", text, count=1).strip()
                if shorter == text:
                    break
                text = shorter
        return text

    def results(self, text: str, slots: dict[str, SlotList], context: Mapping[str, Any]) -> list[RecognizeResult]:
        """All readings of a plain text, best first: longest name, fewest free words, ours, most words matched."""
        from itertools import islice  # noqa: PLC0415

        from hassil.recognize import recognize_all  # noqa: PLC0415

        found = recognize_all(
            text, self._intents, slot_lists=slots, intent_context=dict(context), language=self.language.split("-")[0]
        )
        return sorted(islice(found, MOST_RESULTS), key=_rank)

    def cannot(self, intent: str) -> str:
        """What says that nothing here does what `intent` wants."""
        return self._errors.get("no_timer_support" if "Timer" in intent else "feature_not_supported", "")

    def reply(self, intent: str, response: str | None, values: Mapping[str, Any]) -> str:
        """The package's or our own answer; empty when there is none or it would say something wrong."""
        source = self._responses.get(intent, {}).get(response or "default", "")
        if not source:
            return ""
        try:
            text = _environment().from_string(source).render(values)
        except Exception:  # whatever a response makes of values it was not written for
            return ""
        text = " ".join(text.split())
        return "" if re.search(r"\bNone\b", text) else text


def _rank(result: RecognizeResult) -> tuple[int, int, bool, int, int, str]:
    name = result.entities.get("name")
    free = [entity for entity in result.entities_list if entity.is_wildcard]
    return (
        -len(name.text) if name is not None and not name.is_wildcard else 0,
        len(free),
        not (result.intent_metadata or {}).get("own"),
        -result.text_chunks_matched,
        sum(len(entity.text or "") for entity in free),
        result.intent.name,
    )


_ENVIRONMENT: list[ImmutableSandboxedEnvironment] = []


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    if not _ENVIRONMENT:
        _ENVIRONMENT.append(ImmutableSandboxedEnvironment(undefined=StrictUndefined))
    return _ENVIRONMENT[0]


def _own(language: str, folder: Path | None) -> dict[str, Any]:
    if folder is None or not (file := folder / f"{language}.yaml").is_file():
        return {}
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise AssistantError(f"{file}: {str(error).splitlines()[0]}; remedy: install kikimimi again") from error
    return read if isinstance(read, dict) else {}


def _bordered(text: str, name: str, *, last: bool) -> bool:
    """Whether `text` begins, or at `last` ends, with the whole words of `name`; kana and han have no spaces."""
    if not name.isascii() and not _LETTERS.search(name):
        text, name = "".join(text.split()), "".join(name.split())
    if not (text.endswith(name) if last else text.startswith(name)):
        return False
    rest = text[: -len(name)] if last else text[len(name) :]
    return not (_LETTERS.match(rest[-1:] if last else rest[:1]) and _LETTERS.match(name[:1] if last else name[-1:]))


def _around(words: Iterable[str], pattern: str) -> re.Pattern[str] | None:
    """One thing that may stand before or after a command; words with spaces between end where a word does."""
    edges = "|".join(
        rf"\b{word}\b\s*" if word.isascii() or word[0].isascii() else rf"{word}\s*"
        for word in sorted(words, key=len)[::-1]
    )
    return re.compile(pattern.format(rf"\s*(?:{edges})"), re.IGNORECASE) if edges else None


def _deep(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for name, value in above.items():
        old = both.get(name)
        both[name] = _deep(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return both


def _merged(package: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The package's sentences with ours added; our lists and rules replace those of the same name."""
    merged = {
        "language": package["language"],
        "settings": {**package.get("settings", {}), **own.get("settings", {})},
        "skip_words": [*package.get("skip_words", ()), *own.get("skip_words", ())],
        "lists": {**package.get("lists", {}), **own.get("lists", {})},
        "expansion_rules": {**package.get("expansion_rules", {}), **own.get("expansion_rules", {})},
        "intents": {name: {"data": list(body["data"])} for name, body in package["intents"].items()},
    }
    for name, body in own.get("intents", {}).items():
        merged["intents"].setdefault(name, {"data": []})["data"] += [
            {**data, "metadata": {**data.get("metadata", {}), "own": True}} for data in body["data"]
        ]
    return merged
