"""All rules of the house: events and time in, actions out."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from assistant.errors import AssistantError
from assistant.events import (
    Action,
    Ask,
    Event,
    KeepClip,
    Log,
    Publish,
    RoomChanged,
    Say,
    Webhook,
    link_to,
    without_words,
)
from assistant.rules.evaluations import Evaluation, Outcome
from assistant.rules.matching import Hours
from assistant.rules.settings import (
    ALL,
    ANY,
    EVENT_FIELDS,
    FIELDS,
    TOPIC_FIELDS,
    Do,
    Rule,
    SayAction,
    WebhookAction,
    When,
    names_of,
)
from assistant.rules.watching import Firing, Watch
from assistant.rules.wording import clean, topic_problem
from assistant.templates import Template

log = logging.getLogger(__name__)

DESCRIBE_TOKENS = 64  # longest description
BODY_LIMIT = 65_536  # characters of a webhook's body


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
            Watch(name, rule, Hours(rule.when.between, rule.when.days, timezone))
            for name, rule in zip(names_of(rules), rules, strict=True)
            if rule.enabled
        ]
        self._by_name = {watch.name: watch for watch in self._watches}
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
            watch.evaluations = same.evaluations
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
            self._note(ask.rule, Outcome.UNANSWERED, ask.event)
        return self._perform(ask.rule, ask.step + 1, ask.event, _with_answer(ask.values, ask.name, answer))

    def kept(self, keep: KeepClip, clip: str | None) -> list[Action]:
        """The rule's actions after `keep_clip`, which see the name of the clip; None: there will be none."""
        values = {**keep.values, "clip": clip, "event": {**keep.values["event"], "clip": clip}}
        return self._perform(keep.rule, keep.step + 1, keep.event, values)

    def _doubt(self, watch: Watch, event: Event, text: str | None, now: float) -> None:
        if not watch.waits_for(event, text, now):
            return
        self.doubted[watch.name] += 1
        watch.note(now, Outcome.DOUBTED, event)
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

    def evaluations(self, name: str) -> list[Evaluation]:
        """What came of the last events for a rule, the latest first."""
        watch = self._by_name.get(name)
        return [] if watch is None else list(watch.evaluations)[::-1]

    def _note(self, name: str, outcome: Outcome, event: Event | None = None) -> None:
        """What came of it later, when the rule acts."""
        if self._now is not None:
            self._by_name[name].note(self._now, outcome, event)

    def _fire(self, watch: Watch, firings: Iterator[Firing], now: float) -> list[Action]:
        actions: list[Action] = []
        for firing in firings:
            if now < watch.quiet_until:
                watch.note(now, Outcome.COOLDOWN, firing.event, watch.quiet_until)
                continue
            watch.note(now, Outcome.FIRED, firing.event)
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
                self._note(name, Outcome.UNANSWERED, event)
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
            self._note(name, Outcome.FAILED)
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
            self._note(name, Outcome.REFUSED)
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
            self._note(name, Outcome.FAILED)
            if self.failed[name] == 1:
                log.warning("%s (later failures are only counted)", error)
            return None
        headers = tuple(
            (key, value.get_secret_value() if isinstance(value, SecretStr) else value.file)
            for key, value in webhook.headers.items()
        )
        return Webhook(target, webhook.method, headers, body, content_type, rule=name)

    def _values(self, watch: Watch, firing: Firing, now: float) -> dict[str, Any]:
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
