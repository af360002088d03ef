"""Which events make the house do something: rules from the configuration, and the memory they need.

Pure: time is passed in as Unix seconds, nothing is read or sent. `Rules.feed` takes an event, `Rules.tick` lets time
pass, both return the actions that are due; `Rules.next_deadline` says when the next `tick` is worth making.
"""

from __future__ import annotations

import json
import logging
import math
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as with_default
from datetime import datetime, time, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from assistant.errors import AssistantError, ConfigurationError
from assistant.events import (
    Action,
    Ask,
    Event,
    KeepClip,
    Log,
    Presence,
    Publish,
    RoomChanged,
    Say,
    State,
    Webhook,
    link_to,
    without_words,
)
from assistant.settings import Settings
from assistant.templates import Template

log = logging.getLogger(__name__)

ANY = "any"
ALL = "all"  # rooms, of what is said
WHOLE_TEXT = 1_000  # characters of an utterance that rules look at: bounds what a regular expression can cost
REGEX_LIMIT = 500  # characters of a regular expression
OPEN_LIMIT = 1_000  # sounds that one rule follows at once; the oldest is forgotten
TOPIC_LIMIT = 65_535  # bytes, MQTT 5.0 section 1.5.4
ANSWER_LIMIT = 1_000  # characters of an answer that templates see
DESCRIBE_TOKENS = 64  # longest description
CHOICE_LIMIT = 100  # characters of a choice
BODY_LIMIT = 65_536  # characters of a webhook's body
ACTIONS = ("publish", "log", "say", "webhook", "keep_clip", "ask", "describe")

PRIVATE_FIELDS = ("text", "words", "caption")  # None in templates unless `privacy.transcripts` is on
TOPIC_FIELDS = frozenset({"room", "event_type", "kind", "state", "language"})  # never what somebody said
EVENT_FIELDS = tuple(name for name in Event.__dataclass_fields__ if name != "witnessed")
FIELDS = frozenset(EVENT_FIELDS) | {
    "event",  # all of the event
    "answers",  # by name, what `ask` and `describe` of this rule were told; null: no answer
    "room_name",
    "url",  # of the event on the page; null where nobody has told its address
    "rule",  # name of the rule
    "times",  # how often it was heard, for a rule with `times`
    "lasted",  # seconds the sound has lasted, or has been absent
    "date",  # local, 2026-11-23
    "time",  # local, 22:05
}

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_SETS = {"weekdays": DAYS[:5], "weekend": DAYS[5:]}
_UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_UNITS |= {"m": 60.0, "d": 86400.0, "day": 86400.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_SPAN = re.compile(r"\s*(\d{1,2}):(\d{2})\s*(?:-|–|to)\s*(\d{1,2}):(\d{2})\s*")
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
_URL = re.compile(
    r"(https?)://([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?=[/?]|$)"
)
_CONTROL_TOKEN = re.compile(r"<\|[^<>|]*\|>")
_JOINERS = "\u200c\u200d"  # format characters that words of some scripts and emoji need
_SCRIPT_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


# --- the words of a rule file ---------------------------------------------------------------------------------------


def duration(value: object) -> float:
    """Seconds of `90`, `"90 s"`, `"5 min"` or `"1 h 30 min"`. Raises `ValueError`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value).strip().lower()
    total, position = 0.0, 0
    while match := _QUANTITY.match(text, position):
        unit = match[2] if match[2] in _UNITS else match[2].removesuffix("s")
        if unit not in _UNITS:
            break
        total += float(match[1]) * _UNITS[unit]
        position = match.end()
    if not text or position < len(text):
        raise ValueError(f'not a duration: "{value}"; write seconds or for example 90 s, 5 min, 1 h 30 min')
    return total


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the day, in minutes since midnight; it crosses midnight when `end` comes before `start`."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start // 60:02}:{self.start % 60:02}-{self.end // 60:02}:{self.end % 60:02}"


def _span(value: object) -> Span:
    if isinstance(value, Span):
        return value
    match = _SPAN.fullmatch(str(value))
    numbers = [int(number) for number in match.groups()] if match else [99]
    minutes = [hour * 60 + minute for hour, minute in zip(numbers[::2], numbers[1::2], strict=False)]
    if not match or max(numbers[1::2]) > 59 or max(minutes) > 24 * 60:
        raise ValueError(f'not a part of the day: "{value}"; write for example "22:00-07:00"')
    return Span(minutes[0], minutes[1])


def _tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _days(value: object) -> object:
    names = _tuple(value)
    if not isinstance(names, list | tuple):
        return names
    days: list[object] = []
    for name in names:
        word = str(name).strip().lower()
        days.extend(_DAY_SETS.get(word, (word[:3] if f"{word}day".startswith(word) else word,)))
    return tuple(days)


def _words(phrases: tuple[str, ...]) -> tuple[str, ...]:
    for phrase in phrases:
        if not fold(phrase):
            raise ValueError(f'"{phrase}" has no letters')
    return phrases


def _check_regex(pattern: str) -> str:
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


def _check_topic(topic: str) -> str:
    template = Template(topic, TOPIC_FIELDS, "topic") if "{" in topic else None
    for part in template.literals if template else (topic,):
        if problem := topic_problem(part, whole=template is None):
            raise ValueError(f'"{topic}" {problem}')
    return topic


def _check_url(url: str) -> str:
    match = _URL.match(url)
    if match is None:
        raise ValueError(
            "not an address: write https:// (or http://), a host that webhooks.hosts lists, and a path; neither host "
            "nor port is a template, and a login goes into headers"
        )
    if not (0 < int(match[3] or 80) < 65_536):
        raise ValueError("the port is 1 to 65535")
    rest = url[match.end() :]
    literal = re.sub(r"{[{%].*?[%}]}", "", rest)
    if "#" in rest or any(unicodedata.category(sign) in {"Cc", "Cs", "Zs"} for sign in literal):
        raise ValueError("a # or a blank does not belong into an address")
    Template(rest, FIELDS, url=True)
    return url


def _check_template(text: str) -> str:
    Template(text, FIELDS)
    return text


def _payload(value: object) -> object:
    """Numbers and truth values as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _refusal_as_value_error(check: Any) -> Any:  # noqa: ANN401 (pydantic's validator protocol)
    """The same check, failing in pydantic's way so that the place in the file is found."""

    def checked(value: str) -> str:
        try:
            return str(check(value))
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix("template: ").removeprefix("topic: ")) from None

    return checked


_TEXTS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
_BRIEF = PlainSerializer(str, return_type=str)
Seconds = Annotated[
    float,
    BeforeValidator(duration),
    Field(gt=0, le=31 * 86_400, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
Texts = Annotated[tuple[str, ...], BeforeValidator(_tuple), Field(min_length=1), _TEXTS]
Phrases = Annotated[Texts, AfterValidator(_words), _TEXTS]
Days = Annotated[
    tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...],
    BeforeValidator(_days),
    Field(min_length=1),
    _TEXTS,
]
Between = Annotated[
    Span, PlainValidator(_span), _BRIEF, WithJsonSchema({"type": "string", "examples": ["22:00-07:00"]})
]
Regex = Annotated[str, AfterValidator(_check_regex), WithJsonSchema({"type": "string", "format": "regex"})]
TextTemplate = Annotated[str, AfterValidator(_refusal_as_value_error(_check_template))]
UrlTemplate = Annotated[str, AfterValidator(_refusal_as_value_error(_check_url))]
TopicTemplate = Annotated[str, AfterValidator(_refusal_as_value_error(_check_topic))]


def _answer_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ValueError(f'"{name}" cannot name an answer: use a-z, 0-9 and _, a letter first')
    if hasattr(dict, name):
        raise ValueError(f'"{name}" cannot name an answer, templates know it as something else; choose another')
    return name


def _choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    for choice in choices:
        if not choice.strip() or len(choice) > CHOICE_LIMIT or clean(choice) != choice:
            raise ValueError(f"a choice is 1 to {CHOICE_LIMIT} plain characters, not {choice[:CHOICE_LIMIT]!r}")
    if len(set(choices)) < len(choices):
        raise ValueError("a choice stands twice; remove one")
    return choices


def _empty(value: object) -> object:
    return {} if value is None else value


def _yes(value: object) -> object:
    if value is not None and value is not True:
        raise ValueError("takes nothing; write keep_clip: true")
    return value


AnswerName = Annotated[str, AfterValidator(_answer_name)]
Choices = Annotated[tuple[str, ...], Field(min_length=2, max_length=50), AfterValidator(_choices)]
Patience = Annotated[Seconds, Field(le=600)]


class When(Settings):
    """What must be heard. Everything that is given must hold; of a list, one."""

    sound: Texts | None = Field(default=None, description="event types of config/sounds.yaml, or any")
    label: Texts | None = Field(default=None, description="the model's own labels (AudioSet display names)")
    speech: Phrases | None = Field(default=None, description="words that are said, in any case, or any")
    exactly: Phrases | None = Field(default=None, description="all that is said, but for case and punctuation")
    regex: Regex | None = Field(default=None, description="regular expression found in what is said")
    state: State | None = Field(default=None, description="started (sounds), ended (sounds) or heard (speech)")
    score: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="at least, 0 to 1")
    language: Texts | None = Field(default=None, description="ISO 639-1 codes of what is said")
    room: Texts | None = Field(default=None, description="room ids; any room if left out")
    lasting: Seconds | None = Field(default=None, description="fires once, while the sound lasts, after so long")
    absent: Seconds | None = Field(default=None, description="fires once when nothing of it was heard for so long")
    times: int | None = Field(default=None, ge=1, le=1_000, description="so often within `within`")
    within: Seconds | None = Field(default=None, description="the time in which `times` are counted")
    between: Between | None = Field(default=None, description="local time, also across midnight")
    days: Days | None = Field(default=None, description="mon to sun, weekdays, weekend: when `between` begins")

    @property
    def is_speech(self) -> bool:
        """Whether it waits for speech; otherwise for a sound."""
        return any((self.speech, self.exactly, self.regex))

    @model_validator(mode="after")
    def _makes_sense(self) -> When:
        if self.is_speech == bool(self.sound or self.label):
            raise ValueError(
                "needs either sound (or label) or speech (or exactly, regex); `any` stands for all of them"
            )
        if (self.times is None) != (self.within is None):
            raise ValueError("times and within belong together, for example: times: 5, within: 10 min")
        if sum(value is not None for value in (self.lasting, self.absent, self.times)) > 1:
            raise ValueError("lasting, absent and times exclude each other; write two rules")
        if self.absent is not None and self.state is not None:
            raise ValueError("absent takes no state")
        return self


class PublishAction(Settings):
    """An MQTT message."""

    topic: TopicTemplate = Field(description="a topic; may use {{ room }}, event_type, kind, state, language")
    payload: Annotated[
        TextTemplate, BeforeValidator(_payload), WithJsonSchema({"type": ["string", "number", "boolean"]})
    ] = Field(description="a Jinja2 template")
    qos: Literal[0, 1, 2] = 1
    retain: bool = False


class SayAction(Settings):
    """Something is said aloud."""

    text: TextTemplate = Field(min_length=1, description="a Jinja2 template")
    room: str | None = Field(
        default=None, min_length=1, description="a room id, or all; the room of the event if left out"
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] | None = Field(
        default=None, description="ISO 639-1; if left out by the script of the text, else the household's first"
    )


def _text_only(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


_TEXT_OR_SAY = WithJsonSchema({"anyOf": [{"type": "string"}, SayAction.model_json_schema()]})


class SecretFile(Settings):
    """A header's value that stands in a file."""

    file: Path = Field(description="holds the value alone")


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
        raise ValueError("a header's name has letters, digits and -")
    if name.lower() in {"host", "content-length", "transfer-encoding", "connection", "content-type"}:
        raise ValueError(f"the header {name} is ours to write; leave it out")
    return name


def _header_value(value: SecretStr | SecretFile) -> SecretStr | SecretFile:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else ""
    if not (plain.isascii() and plain.isprintable()) or len(plain) > 4_096:
        raise ValueError("a header's value is one line of at most 4096 ASCII characters")
    return value


HeaderName = Annotated[str, AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr | SecretFile, AfterValidator(_header_value)]


class WebhookAction(Settings):
    """An HTTP request to a host of `webhooks.hosts`."""

    url: UrlTemplate = Field(
        repr=False, description="https:// (or http://), a listed host, and a path whose templates are escaped"
    )
    method: Literal["POST", "PUT", "GET"] = "POST"
    headers: dict[HeaderName, HeaderValue] = Field(
        default={}, repr=False, description="by name: a text (a secret as ${NAME}) or {file: PATH} that holds it"
    )
    json_: Any = Field(
        default=None,
        alias="json",
        repr=False,
        description="what is sent as JSON; its texts are templates",
    )
    body: TextTemplate | None = Field(
        default=None, repr=False, description="a template that is sent as text; without it and json, the event as JSON"
    )

    @model_validator(mode="after")
    def _one_body(self) -> WebhookAction:
        if self.json_ is not None and self.body is not None:
            raise ValueError("json and body are both given; remove one")
        if self.method == "GET" and (self.json_ is not None or self.body is not None):
            raise ValueError("GET has no body; use POST, or put it into the query of the url")
        for text in _texts_of(self.json_):
            try:
                Template(text, FIELDS)
            except ConfigurationError as error:
                raise ValueError(f"json: {str(error).removeprefix('template: ')}") from None
        return self

    @property
    def parts(self) -> tuple[str, str]:
        """What is literal of the URL, up to its path, and the template behind it."""
        match = _URL.match(self.url)
        assert match is not None  # noqa: S101 (validated)
        return match[0], self.url[match.end() :]


def _texts_of(tree: object) -> Iterator[str]:
    """The texts in what is sent as JSON; keys are literal."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _texts_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts_of(value)


class DescribeAction(Settings):
    """The audio language model describes the clip of the event."""

    name: AnswerName = Field(
        default="caption", alias="as", description="later actions of the rule read it as answers.<name>"
    )
    within: Patience = Field(default=20.0, description="after so long the rule goes on without the answer")


class AskAction(Settings):
    """The audio language model is asked about the clip of the event."""

    prompt: TextTemplate = Field(min_length=1, description="the question, a Jinja2 template")
    name: AnswerName = Field(alias="as", description="later actions of the rule read it as answers.<name>")
    within: Patience = Field(default=20.0, description="after so long the rule goes on without the answer")
    choices: Choices | None = Field(default=None, description="the answer is one of these; any text if left out")
    max_tokens: int = Field(default=64, ge=1, le=256, description="longest answer, about four letters a token")


class Do(Settings):
    """One action: the name of its kind and what it needs."""

    publish: PublishAction | None = None
    log: TextTemplate | None = None
    say: Annotated[SayAction, BeforeValidator(_text_only), _TEXT_OR_SAY] | None = None
    webhook: WebhookAction | None = None
    keep_clip: Annotated[Literal[True] | None, BeforeValidator(_yes)] = Field(
        default=None, description="true: keep the clip of the event, whatever clips.keep says"
    )
    ask: AskAction | None = None
    describe: Annotated[DescribeAction, BeforeValidator(_empty)] | None = None

    @property
    def question(self) -> AskAction | DescribeAction | None:
        """What it asks the audio language model."""
        return self.ask or self.describe

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        kinds = ", ".join(ACTIONS)
        if isinstance(value, Do):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"an action is one of {kinds} with what it needs, for example: log: heard {{{{ label }}}}")  # noqa: TRY004 (pydantic takes ValueError)
        for kind in value:
            if kind not in ACTIONS:
                raise ValueError(f'there is no action "{kind}" in this version; there are {kinds}')
        if len(value) != 1:
            raise ValueError(f"each action is an item of its own with exactly one of {kinds}")
        whole: dict[str, Any] = {"describe": {}, "keep_clip": True}
        return {kind: whole[kind] if kind in whole and given is None else given for kind, given in value.items()}

    @model_validator(mode="after")
    def _filled(self) -> Do:
        if all(getattr(self, kind) is None for kind in ACTIONS):
            raise ValueError("the action is empty")
        return self


def _actions(value: object) -> object:
    return [value] if isinstance(value, Mapping) else value


def _one_or_more(schema: dict[str, Any]) -> None:
    """A list, or its only item."""
    several = dict(schema)
    schema.clear()
    schema["anyOf"] = [several["items"], several]


class Rule(Settings):
    """When something is heard, do something."""

    name: str | None = Field(default=None, min_length=1, max_length=200, description="for the log and for `check`")
    when: When
    do: Annotated[tuple[Do, ...], BeforeValidator(_actions)] = Field(min_length=1, json_schema_extra=_one_or_more)
    cooldown: Seconds | None = Field(default=None, description="after it fired it does not fire again for so long")
    unconfirmed: bool = Field(
        default=False,
        description="true: fires also on what only an audio language model heard, without a tagger or recogniser",
    )

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of all answers, in order."""
        return tuple(action.question.name for action in self.do if action.question is not None)

    @model_validator(mode="after")
    def _asks_first(self) -> Rule:
        """An answer has one name, is used after it was asked for, and is about something that was heard."""
        known: list[str] = []
        for number, action in enumerate(self.do, 1):
            if action.keep_clip and self.when.absent is not None:
                raise ValueError("absent hears nothing that could be kept; remove keep_clip")
            for name in _answers_used(action):
                if name not in known:
                    only = f"; there are {', '.join(known)}" if known else ""
                    raise ValueError(
                        f"action {number} uses answers.{name}, which no ask or describe before it gives{only}"
                    )
            if action.question is None:
                continue
            if action.question.name in known:
                raise ValueError(f'two answers have the name "{action.question.name}"; give one another with as')
            if self.when.absent is not None:
                raise ValueError("absent hears nothing that could be asked about; remove ask and describe")
            known.append(action.question.name)
        return self


def _answers_used(action: Do) -> frozenset[str]:
    """The answers that an action's templates name."""
    return frozenset(name for _, template in templates_of(action) for name in template.members("answers"))


def templates_of(action: Do) -> Iterator[tuple[tuple[str, ...], Template]]:
    """The templates of an action but for a topic, each with its place below it."""
    for place, source in (
        (("publish", "payload"), action.publish and action.publish.payload),
        (("log",), action.log),
        (("say",), action.say and action.say.text),
        (("ask", "prompt"), action.ask and action.ask.prompt),
        (("webhook", "body"), action.webhook and action.webhook.body),
    ):
        if source:
            yield place, Template(source, FIELDS, "the template")
    if action.webhook is not None:
        yield ("webhook", "url"), Template(action.webhook.parts[1], FIELDS, "the template", url=True)
        for text in _texts_of(action.webhook.json_):
            yield ("webhook", "json"), Template(text, FIELDS, "the template")


def _unique_names(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    names = Counter(names_of(rules))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f'two rules have the name "{twice[0]}"; rename one')
    return rules


RuleList = Annotated[tuple[Rule, ...], AfterValidator(_unique_names)]


def names_of(rules: Sequence[Rule]) -> list[str]:
    """The rules' names; a rule without one goes by its number."""
    return [rule.name or f"rule {number}" for number, rule in enumerate(rules, 1)]


# --- matching ---------------------------------------------------------------------------------------------------------


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


def _text_matches(when: When, text: str) -> bool:
    text = text[:WHOLE_TEXT]
    if when.speech and ANY not in when.speech and not any(says(text, phrase) for phrase in when.speech):
        return False
    if when.exactly and not any(
        fold(text).replace(" ", "") == fold(phrase).replace(" ", "") for phrase in when.exactly
    ):
        return False
    return not when.regex or re.search(when.regex, text, re.IGNORECASE) is not None


def matches(when: When, event: Event, text: str | None) -> bool:
    """Whether the event is of the kind that `when` names, whatever its state and the time."""
    if when.room and event.room not in when.room:
        return False
    if when.score is not None and (event.score is None or event.score < when.score):
        return False
    if when.is_speech:
        spoken = event.kind == "speech" and text is not None
        return spoken and (not when.language or event.language in when.language) and _text_matches(when, text or "")
    if event.kind != "sound":
        return False
    if when.sound and ANY not in when.sound and event.event_type not in when.sound:
        return False
    return not when.label or event.label.casefold() in {label.casefold() for label in when.label}


@dataclass(frozen=True, slots=True)
class Hours:
    """The local hours and days in which a rule may fire."""

    between: Span | None
    days: tuple[str, ...] | None
    timezone: tzinfo | None  # None: the daemon's own

    def hold(self, now: float) -> bool:
        """Whether the rule may fire at `now`. A night belongs to the day on which it began."""
        local = datetime.fromtimestamp(now, self.timezone)
        minute = local.hour * 60 + local.minute
        span = self.between or Span(0, 24 * 60)
        began_today = span.start <= minute and (minute < span.end or span.end < span.start)
        began_yesterday = span.end < span.start and minute < span.end
        day = local.weekday() - (1 if began_yesterday else 0)
        return (began_today or began_yesterday) and (not self.days or DAYS[day % 7] in self.days)

    def opening(self, now: float) -> float | None:
        """The first moment from `now` on at which `hold` is true; None if there is none."""
        if self.hold(now):
            return now
        span = self.between or Span(0, 24 * 60)
        today = datetime.fromtimestamp(now, self.timezone).date()
        begin = time(span.start // 60 % 24, span.start % 60)
        for days in range(9):
            moment = datetime.combine(today + timedelta(days=days), begin, tzinfo=self.timezone).timestamp()
            if moment >= now and self.hold(moment):
                return moment
        return None


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A sound that goes on."""

    event: Event
    onset: float
    fired: bool = False


@dataclass(frozen=True, slots=True)
class _Firing:
    """A rule's condition came true."""

    event: Event | None  # None: something was absent
    times: int | None = None
    lasted: float | None = None  # seconds


@dataclass(slots=True)
class _Watch:
    """One rule, what it remembers and when it may fire again."""

    name: str
    rule: Rule
    hours: Hours
    since: float = 0.0  # last time that the sound was there, for `absent`
    quiet_until: float = float("-inf")
    told: bool = False  # `absent` fired; waits for the sound to come back
    open: dict[str, _Open] = with_default(default_factory=dict)
    hits: deque[float] = with_default(default_factory=deque)
    away: set[str] = with_default(default_factory=set)  # rooms that cannot hear

    def waits_for(self, event: Event, text: str | None, now: float) -> bool:
        """Whether the event is what the rule names, in the state and at the time that it names."""
        when = self.rule.when
        wanted = when.state or (State.HEARD if when.is_speech else State.STARTED)
        return event.state == wanted and matches(when, event, text) and self.hours.hold(now)

    def doubts(self, event: Event) -> bool:
        """Whether the rule must not act on this event, since only an audio language model heard it.

        The end of a sound that it follows is believed, and so is a sound that disproves an absence: nothing is done.
        """
        when = self.rule.when
        followed = when.lasting is not None and event.state is State.ENDED
        return not (event.witnessed or self.rule.unconfirmed or followed or when.absent is not None)

    def feed(self, event: Event, text: str | None, now: float) -> Iterator[_Firing]:
        when = self.rule.when
        if when.lasting is not None or when.absent is not None:
            yield from self._follow(event, text, now)
            return
        if not self.waits_for(event, text, now):
            return
        if when.times is None or when.within is None:
            yield _Firing(event)
            return
        self.hits.append(now)
        while self.hits and self.hits[0] < now - when.within:
            self.hits.popleft()
        if len(self.hits) >= when.times:
            count = len(self.hits)
            self.hits.clear()
            yield _Firing(event, times=count)

    def _follow(self, event: Event, text: str | None, now: float) -> Iterator[_Firing]:
        """Keep the book of sounds that go on."""
        when = self.rule.when
        if event.state is State.ENDED:
            going = self.open.pop(event.id, None)
            if going is None:
                return
            self.since, self.told = now, False
            # A file read faster than real time ends a sound before the clock says that it has lasted.
            long = when.lasting is not None and event.duration is not None and event.duration >= when.lasting
            if long and not going.fired and when.state is not State.ENDED and self.hours.hold(now):
                yield _Firing(event, lasted=event.duration)
        elif matches(when, event, text):
            self.since, self.told = now, False
            if event.state is State.STARTED:
                while len(self.open) >= OPEN_LIMIT:
                    self.open.pop(next(iter(self.open)))
                heard_for = max(0.0, min(60.0, event.heard_at - event.offset))
                self.open[event.id] = _Open(event, now - heard_for)

    def presence(self, changed: RoomChanged, now: float) -> None:
        """A room that cannot hear ends its sounds and proves no absence."""
        if self.rule.when.room and changed.room not in self.rule.when.room:
            return
        if changed.presence is Presence.ONLINE:
            if changed.room in self.away:
                self.away.discard(changed.room)
                self.since = now
        else:
            # A room switched off is no longer part of the whole house, but a rule that names it waits for it.
            if changed.presence is Presence.OFFLINE or self.rule.when.room:
                self.away.add(changed.room)
            else:
                self.away.discard(changed.room)
            for key in [key for key, going in self.open.items() if going.event.room == changed.room]:
                del self.open[key]
                self.since = now

    def tick(self, now: float) -> Iterator[_Firing]:
        when = self.rule.when
        if not self.hours.hold(now):
            return
        if when.lasting is not None and when.state is not State.ENDED:
            for going in self.open.values():
                if not going.fired and now >= going.onset + when.lasting:
                    going.fired = True
                    yield _Firing(going.event, lasted=now - going.onset)
        elif self._absence_counts() and when.absent is not None and now >= self.since + when.absent:
            self.told = True
            yield _Firing(None, lasted=now - self.since)

    def _absence_counts(self) -> bool:
        return self.rule.when.absent is not None and not (self.told or self.open or self.away)

    def deadline(self, now: float) -> float | None:
        """When `tick` should be called, as far as it is known."""
        when = self.rule.when
        due: list[float] = []
        if when.lasting is not None and when.state is not State.ENDED:
            due = [going.onset + when.lasting for going in self.open.values() if not going.fired]
        elif self._absence_counts() and when.absent is not None:
            due = [self.since + when.absent]
        return self.hours.opening(max(min(due), now)) if due else None

    def shift(self, by: float) -> None:
        """The clock was set back: what is remembered goes with it."""
        self.since += by
        self.quiet_until += by
        self.hits = deque(hit + by for hit in self.hits)
        for going in self.open.values():
            going.onset += by


class Rules:
    """All rules of the house. `fired`, `failed` and the other counters count by rule name since the start."""

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        transcripts: bool = False,
        rooms: Mapping[str, str] | None = None,
        page: str | None = None,
        timezone: tzinfo | None = None,
    ) -> None:
        """`rooms` are names by id; `transcripts` lets templates see what was said; `timezone` None is the daemon's.

        `page` is the address of the page, for links.

        The clock of `absent` starts with the first call of `feed`, `tick` or `presence`.
        """
        self.fired: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()  # templates that did not render
        self.refused: Counter[str] = Counter()  # topics that no broker takes
        self.doubted: Counter[str] = Counter()  # events that only an audio language model heard
        self.unanswered: Counter[str] = Counter()  # questions without an answer
        self._transcripts = transcripts
        self._rooms, self._page = dict(rooms or {}), page
        self._timezone = timezone
        self._now: float | None = None
        self._watches = [
            _Watch(name, rule, Hours(rule.when.between, rule.when.days, timezone))
            for name, rule in zip(names_of(rules), rules, strict=True)
        ]
        self._rules = {watch.name: watch.rule for watch in self._watches}
        self._templates: dict[str, list[tuple[Template, Template | None]]] = {
            watch.name: [_compile(watch.name, action) for action in watch.rule.do] for watch in self._watches
        }

    def inherit(self, before: Rules, now: float, presences: Sequence[RoomChanged]) -> None:
        """Take over from `before` what its rules remember that are here too, word for word, and the counts of all.

        A rule that is new or was changed begins at `now`; `presences` tell it which rooms hear.
        """
        before._set(now)
        self._set(now)
        remembered = list(before._watches)
        for watch in self._watches:
            same = next((known for known in remembered if known.rule == watch.rule), None)
            if same is None:
                for changed in presences:
                    watch.presence(changed, now)
                continue
            remembered.remove(same)
            watch.since, watch.quiet_until, watch.told = same.since, same.quiet_until, same.told
            watch.open, watch.hits, watch.away = same.open, same.hits, same.away
        self.fired, self.failed, self.refused = before.fired, before.failed, before.refused
        self.doubted, self.unanswered = before.doubted, before.unanswered

    def feed(self, event: Event, now: float, text: str | None = None) -> list[Action]:
        """The actions due at `now` after `event`. `text` is what was said, where the event itself does not tell."""
        actions = self.tick(now)
        heard = event.text if text is None else text
        for watch in self._watches:
            if watch.doubts(event):
                self._doubt(watch, event, heard, now)
            else:
                actions += self._fire(watch, watch.feed(event, heard, now), now)
        return actions

    def answered(self, ask: Ask, answer: str | None) -> list[Action]:
        """The rest of the rule's actions, now that its question has an answer; None: there is none."""
        answer = clean(answer or "") or None
        if ask.choices and answer not in ask.choices:
            answer = None
        if answer is None:
            self.unanswered[ask.rule] += 1
        return self._perform(ask.rule, ask.step + 1, ask.event, _with_answer(ask.values, ask.name, answer))

    def kept(self, keep: KeepClip, clip: str | None) -> list[Action]:
        """The rule's actions after `keep_clip`, which see the name of the clip; None: there will be none."""
        values = {**keep.values, "clip": clip, "event": {**keep.values["event"], "clip": clip}}
        return self._perform(keep.rule, keep.step + 1, keep.event, values)

    def _doubt(self, watch: _Watch, event: Event, text: str | None, now: float) -> None:
        if not watch.waits_for(event, text, now):
            return
        self.doubted[watch.name] += 1
        if self.doubted[watch.name] == 1:
            log.info(
                "rule %r does not act on %s in %s, which only %s heard (told once; unconfirmed: true in the rule "
                "lets it)",
                watch.name,
                event.event_type,
                event.room,
                event.model or "the audio language model",
            )

    def tick(self, now: float) -> list[Action]:
        """The actions that are due because time passed."""
        self._set(now)
        return [action for watch in self._watches for action in self._fire(watch, watch.tick(now), now)]

    def _set(self, now: float) -> None:
        """Take the time; when the clock was set back, what is remembered goes with it."""
        for watch in self._watches:
            if self._now is None:
                watch.since = now
            elif now < self._now:
                watch.shift(now - self._now)
        self._now = now

    def presence(self, changed: RoomChanged, now: float) -> None:
        """A room's source came or went: a room that cannot hear proves no absence."""
        self._set(now)
        for watch in self._watches:
            watch.presence(changed, now)

    def next_deadline(self) -> float | None:
        """When `tick` should be called next (Unix seconds), unless an event comes first; None: no need."""
        if self._now is None:
            return None
        due = [moment for watch in self._watches if (moment := watch.deadline(self._now)) is not None]
        return min(due, default=None)

    def _fire(self, watch: _Watch, firings: Iterator[_Firing], now: float) -> list[Action]:
        actions: list[Action] = []
        for firing in firings:
            if now < watch.quiet_until:
                continue
            watch.quiet_until = now + (watch.rule.cooldown or 0.0)
            self.fired[watch.name] += 1
            actions += self._perform(watch.name, 0, firing.event, self._values(watch, firing, now))
        return actions

    def _perform(self, name: str, first: int, event: Event | None, values: Mapping[str, Any]) -> list[Action]:
        """The rule's actions from `first` on, up to and with the first question or clip; the rest wait for it."""
        actions: list[Action] = []
        for step, action in enumerate(self._rules[name].do[first:], first):
            templates = self._templates[name][step]
            if action.keep_clip:
                if event is not None:
                    return [*actions, KeepClip(name, event, step, values)]
            elif action.question is None:
                request = (
                    self._request(name, action, templates, values)
                    if action.webhook is None
                    else self._webhook(name, action.webhook, values)
                )
                actions += [] if request is None else [request]
            elif (question := self._ask(name, step, event, values)) is not None:
                return [*actions, question]
            else:
                self.unanswered[name] += 1
                values = _with_answer(values, action.question.name, None)
        return actions

    def _ask(self, name: str, step: int, event: Event | None, values: Mapping[str, Any]) -> Ask | None:
        """The question of the action at `step`; None when it may not or cannot be asked.

        A free answer about speech could be what was said, so it follows `privacy.transcripts`; choices are the user's
        own words, and tell no more than that a rule matched.
        """
        action = self._rules[name].do[step]
        if event is None or action.question is None:
            return None
        choices = (action.ask.choices if action.ask is not None else None) or ()
        if event.kind == "speech" and not choices and not self._transcripts:
            if not self.unanswered[name]:
                log.info("rule %r asks nothing about speech while privacy.transcripts is off (told once)", name)
            return None
        prompt = None
        if action.ask is not None:
            prompt = self._rendered(name, self._templates[name][step][0], values)
            if prompt is None or not prompt.strip():
                return None
        return Ask(
            rule=name,
            event=event,
            prompt=prompt,
            name=action.question.name,
            within=action.question.within,
            choices=choices,
            max_tokens=action.ask.max_tokens if action.ask is not None else DESCRIBE_TOKENS,
            step=step,
            values=values,
        )

    def _rendered(self, name: str, template: Template, values: Mapping[str, Any]) -> str | None:
        try:
            return template.render(values)
        except AssistantError as error:
            self.failed[name] += 1
            if self.failed[name] == 1:
                log.warning("%s (later failures are only counted)", error)
            return None

    def _request(
        self, name: str, action: Do, templates: tuple[Template, Template | None], values: Mapping[str, Any]
    ) -> Action | None:
        message, topic_template = templates
        if (payload := self._rendered(name, message, values)) is None:
            return None
        if action.say is not None:
            return _said(name, action.say, payload, values["room"])
        if action.publish is None:
            return Log(" ".join(payload.split()), rule=name)
        topic = action.publish.topic if topic_template is None else self._rendered(name, topic_template, values)
        if topic is None:
            return None
        problem = topic_problem(topic)
        if topic_template is not None and any("/" in str(values[field]) for field in topic_template.names):
            problem = "would get more levels than the rule has"
        if problem:
            self.refused[name] += 1
            if self.refused[name] == 1:
                log.warning("rule %r publishes nothing: topic %.200r %s (told once)", name, topic, problem)
            return None
        return Publish(topic, payload, action.publish.qos, action.publish.retain, rule=name)

    def _webhook(self, name: str, webhook: WebhookAction, values: Mapping[str, Any]) -> Webhook | None:
        """The request of an action; None, counted, when a template fails or makes no address or too large a body."""
        try:
            origin, path = webhook.parts
            target = origin + _template(path, f"rule {name!r}: url", url=True).render(values)
            if {".", ".."} & set(urlsplit(target).path.split("/")):
                raise AssistantError(f"rule {name!r}: url: what it names would leave its folder")  # noqa: TRY301
            body, content_type = _body(name, webhook, values)
        except (AssistantError, ValueError) as error:  # ValueError: what neither JSON nor UTF-8 can carry
            self.failed[name] += 1
            if self.failed[name] == 1:
                log.warning("%s (later failures are only counted)", error)
            return None
        headers = tuple(
            (key, value.get_secret_value() if isinstance(value, SecretStr) else value.file)
            for key, value in webhook.headers.items()
        )
        return Webhook(target, webhook.method, headers, body, content_type, rule=name)

    def _values(self, watch: _Watch, firing: _Firing, now: float) -> dict[str, Any]:
        """What a template sees."""
        event = (
            absence(watch.rule.when) if firing.event is None else visible(firing.event, transcripts=self._transcripts)
        )
        local = datetime.fromtimestamp(now, self._timezone)
        return {
            **event,
            "event": event,
            "answers": dict.fromkeys(watch.rule.answers),
            "room_name": self._rooms.get(event["room"] or "", event["room"]),
            "url": link_to(self._page, event["id"]),
            "rule": watch.name,
            "times": firing.times,
            "lasted": None if firing.lasted is None else round(firing.lasted, 1),
            "date": local.strftime("%Y-%m-%d"),
            "time": local.strftime("%H:%M"),
        }


def _body(name: str, webhook: WebhookAction, values: Mapping[str, Any]) -> tuple[bytes | None, str | None]:
    """Body and content type of a webhook. Raises `AssistantError`."""
    if webhook.method == "GET":
        return None, None
    if webhook.body is not None:
        return _template(webhook.body, f"rule {name!r}: body").render(values).encode(), "text/plain; charset=utf-8"
    tree = _filled(webhook.json_, values, f"rule {name!r}: json")
    if webhook.json_ is None:
        known = values["event"].items()
        tree = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in known}
    body = json.dumps(tree, ensure_ascii=False, allow_nan=False, default=list)
    if len(body) > BODY_LIMIT:
        raise AssistantError(f"rule {name!r}: json: more than {BODY_LIMIT} characters")
    return body.encode(), "application/json"


@lru_cache(256)
def _template(source: str, place: str, *, url: bool = False) -> Template:
    return Template(source, FIELDS, place, url=url)


def _filled(tree: object, values: Mapping[str, Any], place: str) -> object:
    """What is sent as JSON, its templates filled: a text cannot become anything but a text."""
    if isinstance(tree, str):
        return _template(tree, place).render(values)
    if isinstance(tree, Mapping):
        return {key: _filled(value, values, place) for key, value in tree.items()}
    return [_filled(value, values, place) for value in tree] if isinstance(tree, list) else tree


def _said(name: str, say: SayAction, text: str, heard_in: str | None) -> Say | None:
    """What is said: nothing when the template gives nothing; everywhere when no room is known (`absent`)."""
    line = clean(text)
    if not line:
        return None
    room = say.room or heard_in or ALL
    return Say(line, None if room == ALL else room, say.language, rule=name)


def _with_answer(values: Mapping[str, Any], name: str, answer: str | None) -> dict[str, Any]:
    return {**values, "answers": {**values["answers"], name: answer}}


def clean(answer: str) -> str:
    """An answer as one line of plain text of bounded length, without control tokens and control characters."""
    plain = " ".join(answer[: 4 * ANSWER_LIMIT].split())
    kept = (sign for sign in plain if sign in _JOINERS or not unicodedata.category(sign).startswith("C"))
    return " ".join(_CONTROL_TOKEN.sub(" ", "".join(kept)).split())[:ANSWER_LIMIT].strip()


def visible(event: Event, *, transcripts: bool) -> dict[str, Any]:
    """The event as templates see it: without what was said unless `transcripts`."""
    values = (event if transcripts else without_words(event)).to_json()
    del values["schema"]
    values["state"] = str(event.state)
    return values


def absence(when: When) -> dict[str, Any]:
    """What templates see as the event when nothing was heard: little but what was waited for."""
    known = {"room": when.room, "event_type": when.sound, "label": when.label}
    return {
        **dict.fromkeys(EVENT_FIELDS),
        **{key: names[0] for key, names in known.items() if names and len(names) == 1 and names[0] != ANY},
        "kind": "speech" if when.is_speech else "sound",
        "state": "absent",
    }


def _compile(name: str, action: Do) -> tuple[Template, Template | None]:
    """The templates of payload (or message, or prompt) and topic. Raises `ConfigurationError`."""
    if action.question is not None:
        prompt = action.ask.prompt if action.ask is not None else ""
        return Template(prompt, FIELDS, f"rule {name!r}: prompt"), None
    if action.say is not None:
        return Template(action.say.text, FIELDS, f"rule {name!r}: say"), None
    if action.publish is None:
        return Template(action.log or "", FIELDS, f"rule {name!r}: log"), None
    topic = action.publish.topic
    template = Template(topic, TOPIC_FIELDS, f"rule {name!r}: topic") if "{" in topic else None
    return Template(action.publish.payload, FIELDS, f"rule {name!r}: payload"), template
