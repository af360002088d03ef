"""What the page Rules asks: the rules of the file beside what became of them, changes, and rehearsals."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from assistant.changing import Changed, Changes, in_time
from assistant.config import Config, shipped
from assistant.configuration_file import Version
from assistant.errors import AssistantError, ConfigurationError
from assistant.events import iso
from assistant.explain import explain
from assistant.hiding import hide, reveal
from assistant.history_reading import Wanted, read
from assistant.rehearsing import Rehearsal, rehearse
from assistant.rewriting import rules_in, with_rule, with_values, without_rule
from assistant.rules import Do, Rule, Rules, names_of
from assistant.tracking import OTHER, SoundTable, load_table
from assistant.web.configuration import Done, FileState, formers
from assistant.web.rules import (
    Checked,
    Condition,
    Deed,
    Draft,
    Evaluated,
    Mistake,
    Rehearsed,
    Rehearsing,
    RuleBook,
    RuleState,
    Words,
    WouldHave,
)

EVENTS = 20_000  # of the history, the latest
REHEARSED_WITHIN = 20.0  # seconds of processor time; a busy machine gets three times as many
PLACE = re.compile(r"(.*?):(\d+): (.*)", re.DOTALL)
LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RulesNow:
    """What the daemon has of its rules at this moment."""

    rules: Rules
    rooms: Mapping[str, str]  # names by id
    restart: Sequence[str]  # keys that wait for a restart
    taught: Mapping[str, str]  # titles of taught sounds by event type


class Ruling:
    """Answers `web.rules` and `web.configuration`."""

    def __init__(self, changes: Changes, now: Callable[[], RulesNow], folder: Path) -> None:
        """`folder` is that of the state, where the history lies."""
        self._changes, self._now, self._folder = changes, now, folder
        self._trying = asyncio.Lock()

    @property
    def _config(self) -> Config:
        return self._changes.household.config

    async def file_state(self) -> FileState:
        """The file."""
        read_ = await self._changes.read()
        versions: list[Version] = await self._changes.versions()
        return FileState(
            file=str(self._changes.path),
            exists=read_.exists,
            digest=read_.digest,
            obstacle=await self._changes.obstacle(),
            restart=list(self._now().restart),
            versions=formers([(one.id, iso(one.time), one.what) for one in versions]),
        )

    async def undo(self, version: str, digest: str) -> Done:
        """Go back to a former version."""
        return _done(await self._changes.undo(version, digest))

    async def book(self) -> RuleBook:
        """All rules."""
        state, now = await self.file_state(), self._now()
        config, problem = self._config, None
        text: str | None = (await self._changes.read()).text
        try:
            config = await self._changes.parsed(text or "")
        except ConfigurationError as error:
            text, problem = None, str(error)
        table = await in_time(lambda: table_of(config))
        shown = [] if text is None else [(hide(one)[0], one.line) for one in rules_in(text)]
        running = dict(zip(names_of(self._config.rules), self._config.rules, strict=True))
        return RuleBook(
            file=state,
            problem=problem,
            rules=[
                RuleState(
                    number=number,
                    name=name,
                    named=rule.name is not None,
                    enabled=rule.enabled,
                    text=shown[number - 1][0] if len(shown) >= number else None,
                    line=shown[number - 1][1] if len(shown) >= number else None,
                    words=words_of(rule),
                    followed=running.get(name) == rule,
                    fired=now.rules.fired[name],
                    evaluations=[
                        Evaluated(
                            time=iso(one.time),
                            outcome=one.outcome,
                            room=one.room,
                            event_type=one.event_type,
                            event_id=one.event_id,
                            value=one.value,
                        )
                        for one in now.rules.evaluations(name)
                    ],
                )
                for number, (name, rule) in enumerate(zip(names_of(config.rules), config.rules, strict=True), 1)
            ],
            rooms=dict(now.rooms),
            event_types=[*dict.fromkeys([*table.groups, *now.taught, OTHER])],
            taught=dict(now.taught),
            transcripts=self._config.privacy.transcripts,
        )

    async def check_rule(self, draft: Draft) -> Checked:
        """What a text means, or what is wrong with it, line by line."""
        before = (await self._changes.read()).text
        index = None if draft.number is None else draft.number - 1
        try:
            text = await in_time(lambda: _with(before, index, draft.text))
        except ConfigurationError as error:
            return Checked(mistakes=[_mistake(str(error))], warnings=[], words=None)
        position = len(rules_in(text)) - 1 if index is None else index
        place = rules_in(text)[position]
        first = text.count("\n", 0, place.start) + 1
        lines = range(first, first + text.count("\n", place.start, place.end))

        def mistakes(told: Sequence[str]) -> list[Mistake]:
            return [_mistake(line, lines) for line in told]

        try:
            config = await self._changes.parsed(text)
            self._changes.household.check(config)
            report = await in_time(lambda: explain(config))
        except ConfigurationError as error:
            return Checked(mistakes=mistakes(str(error).splitlines()), warnings=[], words=None)
        warnings = [one for one in mistakes(report.warnings) if one.line is not None]
        return Checked(mistakes=[], warnings=warnings, words=words_of(config.rules[position]))

    async def save_rule(self, number: int | None, text: str, digest: str) -> Done:
        """Save a rule; None: a new one."""
        what = "rule-added" if number is None else "rule-changed"
        index = None if number is None else number - 1
        return _done(await self._changes.change(digest, what, lambda before: _with(before, index, text)))

    async def remove_rule(self, number: int, digest: str) -> Done:
        """Remove a rule."""

        def rewrite(before: str) -> str:
            _known(before, number - 1)
            return without_rule(before, number - 1)

        return _done(await self._changes.change(digest, "rule-removed", rewrite))

    async def switch_rule(self, number: int, *, on: bool, digest: str) -> Done:
        """Let a rule act or rest."""

        def rewrite(before: str) -> str:
            _known(before, number - 1)
            return with_values(before, {("rules", number - 1, "enabled"): on})

        return _done(await self._changes.change(digest, "rule-switched", rewrite))

    async def rehearse(self, wanted: Rehearsing) -> Rehearsed:
        """Try rules on the history. One at a time."""
        if self._trying.locked():
            raise AssistantError("rules are being tried already; remedy: wait until that is done")
        async with self._trying:
            rules = await self._rules_of(wanted)
            until = time.time()
            since = until - wanted.days * 86_400
            config = self._config
            result, more = await in_time(lambda: self._rehearsed(rules, config, since, until), 3 * REHEARSED_WITHIN)
        return Rehearsed(
            since=iso(since),
            until=iso(until),
            fired={name: result.fired[name] for name in names_of(rules)},
            firings=[
                WouldHave(
                    rule=one.rule,
                    time=iso(one.time),
                    room=one.room,
                    event_type=one.event_type,
                    event_id=one.event_id,
                    deeds=[Deed(kind=deed.kind, what=deed.what, where=deed.where) for deed in one.deeds],
                )
                for one in reversed(result.firings)
            ],
            events=result.events,
            wordless=result.wordless,
            more=more,
            guesses_absence=any(rule.when.absent is not None for rule in rules),
        )

    async def _rules_of(self, wanted: Rehearsing) -> list[Rule]:
        """The rules that are to be tried, under the names that they have in the file."""
        text = (await self._changes.read()).text
        index = None if wanted.number is None else wanted.number - 1
        if wanted.text is not None:
            draft = wanted.text
            text = await in_time(lambda: _with(text, index, draft))
        elif index is not None:
            _known(text, index)
        config = await self._changes.parsed(text)
        rules = [
            rule.model_copy(update={"name": name})
            for name, rule in zip(names_of(config.rules), config.rules, strict=True)
        ]
        if wanted.text is not None and index is None:
            index = len(rules) - 1
        return rules if index is None else [rules[index].model_copy(update={"enabled": True})]

    def _rehearsed(self, rules: Sequence[Rule], config: Config, since: float, until: float) -> tuple[Rehearsal, bool]:
        """In a thread: read the history and tell the rules. Whether there was more of it."""
        if not config.history.enabled:
            raise AssistantError("there is no history to try rules on; remedy: history.enabled: true, then restart")
        history = read(config.history, self._folder, Wanted(since=since, until=until, limit=EVENTS))
        table = table_of(config)

        def hold(event_type: str) -> float:
            group = table.groups.get(event_type)
            return config.sounds.hold if group is None or group.hold is None else group.hold

        result = rehearse(
            rules,
            history,
            since,
            until,
            transcripts=config.privacy.transcripts,
            rooms=self._now().rooms,
            hold=hold,
            understood=config.profile != "embedded",
            within=REHEARSED_WITHIN,
        )
        return result, len(history) >= EVENTS


def table_of(config: Config) -> SoundTable:
    """The sound table that a configuration names."""
    return load_table(config.sounds.table or shipped("sounds.yaml"))


def words_of(rule: Rule) -> Words:
    """A rule in parts, without secrets."""
    when = rule.when.model_dump(mode="json", exclude_none=True)
    return Words(
        when=Condition.model_validate(when),
        do=[_deed(action) for action in rule.do],
        cooldown=rule.cooldown,
        unconfirmed=rule.unconfirmed,
    )


def _deed(action: Do) -> Deed:
    if action.publish is not None:
        return Deed(kind="publish", what=action.publish.payload, where=action.publish.topic)
    if action.say is not None:
        return Deed(kind="say", what=action.say.text, where=action.say.room)
    if action.webhook is not None:
        return Deed(kind="webhook", what=action.webhook.method, where=urlsplit(action.webhook.parts[0]).netloc)
    if action.ask is not None:
        return Deed(kind="ask", what=action.ask.prompt, where=None)
    if action.log is not None:
        return Deed(kind="log", what=action.log, where=None)
    return Deed(kind="keep_clip" if action.keep_clip else "describe", what="", where=None)


def _known(text: str, index: int) -> None:
    if index >= len(rules_in(text)):
        raise AssistantError(f"there is no rule {index + 1} in the file; remedy: load the page again")


def _with(text: str, index: int | None, rule: str) -> str:
    """The file with one rule as somebody wrote it, its secrets back in their places."""
    hidden = []
    if index is not None:
        _known(text, index)
        hidden = hide(rules_in(text)[index])[1]
    return with_rule(text, index, reveal(rule, hidden))


def _mistake(told: str, lines: range | None = None) -> Mistake:
    """A mistake with the line of the rule's own text, where it is of that."""
    if match := LINE.match(told):
        return Mistake(line=int(match[1]), message=match[2])
    match = PLACE.match(told)
    if match is None:
        return Mistake(line=None, message=told)
    if lines is not None and int(match[2]) in lines:
        return Mistake(line=int(match[2]) - lines.start + 1, message=match[3])
    return Mistake(line=None, message=told)


def _done(changed: Changed) -> Done:
    return Done(digest=changed.digest, restart=list(changed.restart))
