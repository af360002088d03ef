"""The words of a rule in the configuration file."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

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

from assistant.errors import ConfigurationError
from assistant.events import Event, State
from assistant.rules.wording import check_regex, clean, fold, topic_problem
from assistant.settings import Settings
from assistant.templates import Template

ANY = "any"
ALL = "all"  # rooms, of what is said
CHOICE_LIMIT = 100  # characters of a choice
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
_URL = re.compile(
    r"(https?)://([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?=[/?]|$)"
)


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
Regex = Annotated[str, AfterValidator(check_regex), WithJsonSchema({"type": "string", "format": "regex"})]
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
    enabled: bool = Field(default=True, description="false: the rule rests")
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
