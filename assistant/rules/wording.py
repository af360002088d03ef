"""What is said, as rules compare it; regular expressions and topics that are safe to use."""

from __future__ import annotations

import re
import unicodedata

ANSWER_LIMIT = 1_000  # characters of an answer that templates see
REGEX_LIMIT = 500  # characters of a regular expression
TOPIC_LIMIT = 65_535  # bytes, MQTT 5.0 section 1.5.4
_REPEATED = re.compile(r"(\\.|\[[^\]]*\]|[^\\()])(?:[*+]|\{\d*,\d*\})\??")
_DISJOINT = (
    {r"\s", r"\w"},
    {r"\s", r"\d"},
    {r"\s", r"\S"},
    {r"\w", r"\W"},
    {r"\d", r"\D"},
    {r"\d", r"\W"},
    {" ", r"\w"},
)
_CONTROL_TOKEN = re.compile(r"<\|[^<>|]*\|>")
_JOINERS = "\u200c\u200d"  # format characters that words of some scripts and emoji need
_SCRIPT_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def fold(text: str) -> str:
    """Lower-case words with single spaces: what is left when case, width and punctuation are taken away."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    kept = (sign if sign.isalnum() or unicodedata.category(sign).startswith("M") else " " for sign in plain)
    return " ".join("".join(kept).split())


def says(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in `text` in a row; in scripts without spaces, its letters."""
    said, wanted = fold(text), fold(phrase)
    if _SCRIPT_WITHOUT_SPACES.search(wanted):
        return wanted.replace(" ", "") in said.replace(" ", "")
    return f" {wanted} " in f" {said} "


def clean(answer: str) -> str:
    """An answer as one line of plain text of bounded length, without control tokens and control characters."""
    plain = " ".join(answer[: 4 * ANSWER_LIMIT].split())
    kept = (sign for sign in plain if sign in _JOINERS or not unicodedata.category(sign).startswith("C"))
    return " ".join(_CONTROL_TOKEN.sub(" ", "".join(kept)).split())[:ANSWER_LIMIT].strip()


def check_regex(pattern: str) -> str:
    """The pattern. Raises `ValueError` for one that is wrong, or that a text could keep busy for ever."""
    if len(pattern) > REGEX_LIMIT:
        raise ValueError(f"the regular expression has {len(pattern)} characters; {REGEX_LIMIT} is the limit")
    try:
        re.compile(pattern, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if _crowded(pattern):
        raise ValueError("three repetitions side by side can take for ever; put a letter between them or use one")
    if _may_explode(pattern):
        raise ValueError("a repeated group that holds another repetition or | can take for ever; write it without")
    return pattern


def _may_explode(pattern: str) -> bool:
    """Whether a repeated group holds a repetition, an option or alternatives: the cause of exponential matching."""
    bare = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", bare)
    inside = [False]
    for position, sign in enumerate(bare):
        following = bare[position + 1 : position + 2]
        if sign == "(":
            inside.append(False)
        elif sign == ")" and len(inside) > 1:
            varied = inside.pop()
            if varied and following in {"*", "+", "{"}:
                return True
            inside[-1] = inside[-1] or varied
        elif sign in "*+{|" or (sign == "?" and bare[position - 1 : position] != "("):
            inside[-1] = True
    return False


def _crowded(pattern: str) -> bool:
    """Whether three overlapping repetitions stand side by side: matching goes with length to the fourth."""
    run, end, before = 0, -1, ""
    for match in _REPEATED.finditer(pattern):
        atom = match[1]
        plain = all(len(sign) == 1 and sign not in ".]" for sign in (atom, before))
        apart = {atom, before} in _DISJOINT or (plain and atom != before)
        run = run + 1 if match.start() == end and not apart else 1
        end, before = match.end(), atom
        if run == 3:
            return True
    return False


def topic_problem(topic: str, *, whole: bool = True) -> str | None:
    """Why nothing can be published to `topic`, or None. A part of a topic (not `whole`) may be empty."""
    if whole and not topic:
        return "is empty"
    for sign in "#+":
        if sign in topic:
            return f"holds the wildcard {sign}, which is for subscribing; name one topic"
    if any(unicodedata.category(sign) in {"Cc", "Cs"} for sign in topic):
        return "holds a control character"
    if whole and topic.startswith("$"):
        return "begins with $, which belongs to the broker"
    if len(topic.encode("utf-8")) > TOPIC_LIMIT:
        return f"is longer than {TOPIC_LIMIT} bytes"
    return None
