"""`kikimimi check`: what a configuration means in plain English, and what in it cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import urlsplit

from assistant import secret_files
from assistant.clips import KEPT_WORDS
from assistant.config import Config, check_profile, shipped
from assistant.errors import AssistantError
from assistant.events import Event, State, Word, link_to
from assistant.outputs.broker import BrokerSettings
from assistant.rules import (
    ALL,
    ANY,
    DAYS,
    PRIVATE_FIELDS,
    TOPIC_FIELDS,
    Do,
    PublishAction,
    Rule,
    SecretFile,
    WebhookAction,
    When,
    absence,
    names_of,
    templates_of,
    visible,
)
from assistant.taught_folder import TaughtFolder
from assistant.templates import Template
from assistant.tracking import SoundGroup, SoundTable, load_table

COMMAND_TOPICS = re.compile(r"(?:ask|say|listening/set|reply/.+|[^/]+/(?:say|test|listening/set|sensitivity/set))")
PRIVATE_ATTRIBUTE = re.compile(rf"\bevent\s*(?:\.\s*|\[\s*[\"'])({'|'.join(PRIVATE_FIELDS)})\b")
_DAYS = {DAYS[:5]: "weekdays", DAYS[5:]: "the weekend"}
SHOWN = 80  # characters of a payload


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` prints: the explanation, then the warnings (each names its place in the file)."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def explain(config: Config) -> Report:
    """Rooms and rules in words, and warnings.

    Raises `ConfigurationError` for a broken sound table, and for rules that the profile cannot run.
    """
    check_profile(config)
    table = _with_taught(load_table(config.sounds.table or shipped("sounds.yaml")))
    lines = [f"Configuration: {config.file or 'none, everything has its default'}", *_profile(config), *_rooms(config)]
    own = "" if config.broker.private else f", for others too at {config.broker.host}:{config.broker.port}"
    lines.append(f"Broker: {config.mqtt.address if config.mqtt.host else f'none given, the embedded one{own}'}")
    lines += _clips(config)
    lines.append(f"Rules: {len(config.rules) or 'none'}")
    lines += [f"  {name}: {describe(rule)}" for name, rule in zip(names_of(config.rules), config.rules, strict=True)]
    found = [*_house(config), *_kept(config, table)]
    for index, (name, rule) in enumerate(zip(names_of(config.rules), config.rules, strict=True)):
        called = f'rule "{name}"' if rule.name else name
        for key, problem, alone in _never(rule.when, config, table):
            effect = "can never fire" if alone else "never fires for all of its list"
            found.append(f"{config.place('rules', index, 'when', *key)}{called} {effect}: {problem}")
        for place, problem in (*_odd(rule.when), *_actions(name, rule, config)):
            found.append(f"{config.place('rules', index, *place)}{called}: {problem}")
    return Report(tuple(lines), tuple(found))


def _with_taught(table: SoundTable) -> SoundTable:
    """The table with the household's own sounds, as groups that the tagger has no label for."""
    taught = {sound.name: SoundGroup(labels=(sound.title,)) for sound in TaughtFolder().read()[0]}
    return table.model_copy(update={"groups": {**taught, **table.groups}})


# --- in words ---------------------------------------------------------------------------------------------------------


def _profile(config: Config) -> Iterator[str]:
    if config.profile == "embedded":
        return
    remote = config.models.remote
    if config.profile == "remote":
        clear = ", not encrypted on its way" if remote.in_the_clear else ""
        yield f"Profile: remote: speech and questions, with their audio, are sent to {remote.place}{clear}"
    else:
        yield f"Profile: {config.profile}, with the audio language model {config.models.audio_llm.checkpoint}"
    if config.rules:
        yield "  rules act only on what a tagger or recogniser heard too, unless they say unconfirmed: true"


def _rooms(config: Config) -> Iterator[str]:
    if not config.rooms:
        yield "Rooms: none given, the default microphone is home"
        return
    yield f"Rooms: {len(config.rooms)}"
    for identity, room in config.rooms.items():
        name = f" ({room.name})" if room.name else ""
        area = f", area {room.area}" if room.area else ""
        languages = f", languages {', '.join(room.languages)}" if room.languages else ""
        source = "the default microphone" if room.source == "default" else room.shown_source
        yield f"  {identity}{name}: hears {source}{area}{languages}"


def _clips(config: Config) -> Iterator[str]:
    clips = config.clips
    if clips.enabled:
        kept = f"{', '.join(clips.keep)} and what rules keep" if clips.keep else "what rules keep"
        unspoken = ", none with speech" if clips.drop_speech else ""
        where = clips.dir or "kikimimi/clips in the state folder"
        yield f"Clips: {kept}{unspoken}; in {where}, for {clips.days:g} days, at most {clips.megabytes:g} MB"


def describe(rule: Rule) -> str:
    """A rule as one sentence."""
    when = rule.when
    condition = _spoken(when) if when.is_speech else _sounded(when)
    if when.score is not None:
        condition += f" with a score of at least {when.score:g}"
    if when.between is not None:
        condition += " between {} and {}".format(*str(when.between).split("-"))
    if when.days:
        condition += f" on {_DAYS.get(when.days) or _either(when.days)}"
    if rule.unconfirmed:
        condition += ", even if only the audio language model hears it"
    actions = ", then ".join(_deed(action) for action in rule.do)
    pause = f" (not again for {span_of(rule.cooldown)})" if rule.cooldown else ""
    off = "" if rule.enabled else " (It is switched off.)"
    return f"When {condition}, {actions}{pause}.{off}"


def _sounded(when: When) -> str:
    subject = "any sound" if not when.sound or ANY in when.sound else _either(when.sound)
    if when.label:
        subject += f" labelled {_either([_shown(label) for label in when.label])}"
    subject += f" in {_either(when.room)}" if when.room else ""
    if when.absent is not None:
        return f"no {subject.removeprefix('any ')} was heard for {span_of(when.absent)}"
    verb = "ends" if when.state is State.ENDED else "starts"
    return f"{subject} {_how(when, verb, 'is heard')}"


def _spoken(when: When) -> str:
    parts = []
    if when.speech and ANY not in when.speech:
        parts.append(_either([_shown(phrase) for phrase in when.speech]))
    if when.exactly:
        parts.append(f"exactly {_either([_shown(phrase) for phrase in when.exactly])}")
    if when.regex:
        parts.append(f"something like /{when.regex}/")
    language = f" in the language {_either(when.language)}" if when.language else ""
    room = f" in {_either(when.room)}" if when.room else ""
    what = " and ".join(parts) or "anything"
    if when.absent is not None:
        said = f"nothing like {what} was said" if parts else "nothing was said"
        return f"{said}{language}{room} for {span_of(when.absent)}"
    return f"{what} {_how(when, 'is said', 'is said')}{language}{room}"


def _how(when: When, verb: str, passive: str) -> str:
    if when.lasting is not None:
        return f"lasts {span_of(when.lasting)}"
    if when.times is not None and when.within is not None:
        times = "once" if when.times == 1 else f"{when.times} times"
        return f"{passive} {times} within {span_of(when.within)}"
    return verb


def _deed(action: Do) -> str:  # noqa: PLR0911 - one a kind of action
    if action.question is not None:
        patience = f"(answers.{action.question.name}, at most {span_of(action.question.within)})"
        if action.ask is None:
            return f"describe what is heard {patience}"
        choices = f" for {_either([_shown(choice) for choice in action.ask.choices])}" if action.ask.choices else ""
        return f"ask {_shown(action.ask.prompt)}{choices} {patience}"
    if action.keep_clip:
        return "keep the clip"
    if action.say is not None:
        where = "in all rooms" if action.say.room == ALL else f"in {action.say.room or 'the same room'}"
        return f"say {_shown(action.say.text)} {where}"
    if action.webhook is not None:
        return f"send {action.webhook.method} to {urlsplit(action.webhook.parts[0]).netloc}"
    if action.publish is None:
        return f"log {_shown(action.log or '')}"
    publish = action.publish
    retained = ", retained" if publish.retain else ""
    return f"publish {_shown(publish.payload)} to {publish.topic} (QoS {publish.qos}{retained})"


def span_of(seconds: float) -> str:
    """Seconds as a person writes them: `90 s`, `2 min`, `1 h 30 min`."""
    if seconds < 120 and seconds % 60:
        return f"{seconds:g} s"
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count:g} {unit}")
    if seconds:
        parts.append(f"{seconds:g} s")
    return " ".join(parts)


def _either(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} or {items[-1]}"


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= SHOWN else f'"{line[:SHOWN]}…"'


# --- what cannot work -------------------------------------------------------------------------------------------------

Found = Iterator[tuple[tuple[str | int, ...], str]]  # place below the rule, problem
Never = Iterator[tuple[tuple[str, ...], str, bool]]  # place below its `when`, problem, whether nothing else is left


def _kept(config: Config, table: SoundTable) -> Iterator[str]:
    """Warnings about clips that are never kept, and sounds that are not ignored."""
    for name in config.sounds.ignore:
        if problem := _unknown_sound(name, table):
            yield f"{config.place('sounds', 'ignore')}sounds.ignore: {problem}"
    for name in config.clips.keep:
        if name not in KEPT_WORDS and (problem := _unknown_sound(name, table)):
            yield f"{config.place('clips', 'keep')}clips.keep: {problem}"


def _house(config: Config) -> Iterator[str]:
    """Warnings about anything but rules."""
    if config.mqtt.host is not None and config.broker != BrokerSettings():
        yield f"{config.place('broker')}the embedded broker does not run: mqtt names another; remove broker or mqtt.url"
    if config.broker.password_file is not None and (told := secret_files.exposed(config.broker.password_file)):
        yield f"{config.place('broker', 'password_file')}{told}"
    remote = config.models.remote
    for key, file in (("models", remote.token_file), ("serve", config.serve.token_file)):
        if file is not None and (told := secret_files.exposed(file)):
            yield f"{config.place(key)}{told}"
    if config.profile == "remote" and remote.in_the_clear:
        yield (
            f"{config.place('models', 'remote', 'url')}what is said goes over the network in the clear; use https "
            "where you can"
        )
    for problem in config.mqtt.exposed:
        yield f"{config.place('mqtt')}{problem}"
    by_source: dict[str, str] = {}
    for identity, room in config.rooms.items():
        first = by_source.setdefault(room.source, identity)
        if first != identity:
            place = config.place("rooms", identity, "source")
            yield f"{place}rooms {first} and {identity} hear the same source; give each its own (kikimimi devices)"
    if config.speech.enabled and config.speech.model.endswith(".en"):
        for language in config.speech.languages:
            if language != "en":
                yield f"{config.place('speech', 'model')}{config.speech.model} knows English only, not {language}"


def _near(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?`, where something is near."""
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), folded, n=3, cutoff=0.6)
    return f"; did you mean {_either([folded[name] for name in near])}?" if near else ""


def _never(when: When, config: Config, table: SoundTable) -> Never:
    """Why a rule cannot fire, or not for all that it lists."""
    rooms = list(config.rooms) or ["home"]
    unknown = [room for room in when.room or () if room not in rooms]
    for room in unknown:
        hint = _near(room, rooms) or f"; there is {_either(rooms)}"
        yield ("room",), f"there is no room {room}{hint}", len(unknown) == len(when.room or ())
    if when.score is not None and when.score > 1:
        remedy = f"; did you mean {when.score / 100:g}?" if when.score <= 100 else ""
        yield ("score",), f"scores go from 0 to 1{remedy}", True
    if when.between is not None and when.between.start == when.between.end:
        both = str(when.between).replace("-", " and ")
        yield ("between",), f"no time lies between {both}; write 00:00-24:00 for all day", True
    if when.is_speech:
        yield from _never_spoken(when, config)
    else:
        yield from _never_sounded(when, table)
        ignored = [name for name in when.sound or () if name in config.sounds.ignore]
        for name in ignored:
            yield ("sound",), f"{name} is in sounds.ignore", len(ignored) == len(when.sound or ())


def _never_spoken(when: When, config: Config) -> Never:
    if not config.speech.enabled:
        yield (), "speech.enabled is false, nothing that is said is recognised", True
    if when.state not in (None, State.HEARD):
        yield ("state",), f"speech is heard, never {when.state}; remove state", True
    if when.lasting is not None:
        yield ("lasting",), "speech is told when it has ended; lasting is for sounds", True
    known = _languages(when, config)
    strange = [language for language in when.language or () if language not in known]
    for language in strange:
        only = _either(sorted(known))
        problem = f"{language} is not recognised there, only {only} (speech.languages, speech.model)"
        yield ("language",), problem, len(strange) == len(when.language or ())


def _languages(when: When, config: Config) -> set[str]:
    """The languages that can be recognised in the rule's rooms."""
    if config.speech.model.endswith(".en"):
        return {"en"}
    rooms = [room for identity, room in config.rooms.items() if not when.room or identity in when.room]
    spoken = [room.languages or config.speech.languages for room in rooms] or [config.speech.languages]
    return {language for languages in spoken for language in languages}


def _never_sounded(when: When, table: SoundTable) -> Never:
    if when.state is State.HEARD:
        yield ("state",), "sounds are started and ended; heard is for speech", True
    if when.state is State.ENDED and when.lasting is not None:
        yield ("state",), "a sound that has ended does not last; for its length use the field duration", True
    if when.language:
        yield ("language",), "sounds have no language; it is for speech", True
    wanted = [name for name in when.sound or () if name != ANY]
    problems = [problem for name in wanted if (problem := _unknown_sound(name, table))]
    for problem in problems:
        yield ("sound",), problem, len(problems) == len(when.sound or ())
    types = wanted if wanted and len(wanted) == len(when.sound or ()) else None
    problems = [problem for label in when.label or () if (problem := _mute_label(label, types, table))]
    for problem in problems:
        yield ("label",), problem, len(problems) == len(when.label or ())


def _homes(table: SoundTable) -> dict[str, str]:
    """The event type of each label that makes events."""
    homes = {label: "other" for family in table.families.values() for label in family.labels}
    homes |= dict.fromkeys(table.general, "other")
    return homes | {label: name for name, group in table.groups.items() for label in group.labels}


def _unknown_sound(name: str, table: SoundTable) -> str | None:
    types = [*table.groups, "other"]
    if name in types:
        return None
    if name == "speech":
        return "speech is not a sound here; write speech: any"
    home = next((home for label, home in _homes(table).items() if label.casefold() == name.casefold()), None)
    hint = f"; it is a label of {home}: write it as label" if home else _near(name, types)
    return f"there is no event type {name}{hint or f'; there are {_either(types)}'}"


def _mute_label(label: str, types: Sequence[str] | None, table: SoundTable) -> str | None:
    """Why no event of `types` (None: any) has the label."""
    homes = _homes(table)
    mute = (*table.speech, *table.scenes)
    spelled = next((known for known in (*homes, *mute) if known.casefold() == label.casefold()), None)
    if spelled is None:
        return f'no label in the sound table reads "{label}"{_near(label, list(homes))}'
    if spelled in mute:
        return f'"{spelled}" is a label of speech or of a place and makes no sound event'
    if types is not None and homes[spelled] not in types:
        return f'"{spelled}" belongs to {homes[spelled]}, not to {_either(types)}'
    return None


def _odd(when: When) -> Found:
    """What is allowed but hardly meant."""
    unsaid = [
        sign for phrase in (*(when.speech or ()), *(when.exactly or ())) for sign in phrase if sign in r"\^$*+?[]{}|()"
    ]
    if any(sign not in "?" for sign in unsaid) or re.search(r"\w \?\w", " ".join(when.speech or ())):
        yield ("when", "speech"), "the phrase looks like a regular expression; write it as regex"


def _actions(name: str, rule: Rule, config: Config) -> Found:
    """What is wrong with the actions, tried on an event of the kind that the rule waits for."""
    rooms = rule.when.room or tuple(config.rooms) or ("home",)
    silent = _silenced(rule, config)
    for index, action in enumerate(rule.do):
        if action.question is not None and action.question.name in silent:
            yield (
                ("do", index),
                f"answers.{action.question.name} stays without a value while privacy.transcripts is off, since it is "
                "about speech; give choices to ask",
            )
        for below, template in templates_of(action):
            place: tuple[str | int, ...] = ("do", index, *below)
            hidden = sorted((template.names & set(PRIVATE_FIELDS)) | set(PRIVATE_ATTRIBUTE.findall(template.source)))
            if hidden and not config.privacy.transcripts:
                yield place, f"no value for {' and '.join(hidden)} while privacy.transcripts is off"
            sample = _sample(name, rule.when, rooms[0], config)
            yield from ((place, problem) for problem in _tried(template, sample, rule))
        if action.webhook is not None:
            yield from _careless(action.webhook, index)
        if action.say is not None and action.say.room not in {None, ALL, *(config.rooms or ("home",))}:
            there = _either([*(config.rooms or ("home",)), ALL])
            yield ("do", index, "say", "room"), f'there is no room "{action.say.room}"; there is {there}'
        if action.keep_clip and not config.clips.enabled:
            yield ("do", index, "keep_clip"), "keeps no clip while clips.enabled is false; set it to true"
        elif action.keep_clip and config.clips.drop_speech and rule.when.is_speech:
            yield ("do", index, "keep_clip"), "keeps no clip of speech while clips.drop_speech is true"
        if action.publish:
            yield from _topics(action.publish, index, rule.when, rooms, config)


def _careless(webhook: WebhookAction, index: int) -> Found:
    """What a webhook shows to others than its host."""
    for name, value in webhook.headers.items():
        if isinstance(value, SecretFile) and (problem := secret_files.exposed(value.file)):
            yield ("do", index, "webhook", "headers", name), problem
    if webhook.headers and webhook.url.startswith("http:"):
        yield ("do", index, "webhook", "url"), "its headers go over the network in the clear; use https where you can"


def _silenced(rule: Rule, config: Config) -> set[str]:
    """The answers that are private: free ones about speech."""
    if not rule.when.is_speech or config.privacy.transcripts:
        return set()
    return {
        action.question.name
        for action in rule.do
        if action.question is not None and not (action.ask and action.ask.choices)
    }


def _tried(template: Template, values: dict[str, object], rule: Rule) -> Iterator[str]:
    """What goes wrong with a template: with answers, and without."""
    said: dict[str, str | None] = {
        action.question.name: (action.ask.choices[0] if action.ask and action.ask.choices else "A dog barks.")
        for action in rule.do
        if action.question is not None
    }
    cases: list[tuple[dict[str, str | None], str]] = [(said, "when tried on an event of its kind")]
    if template.members("answers") or "answers" in template.names:
        cases.append((dict.fromkeys(said, None), "when the model gives no answer"))
    for answers, when in cases:
        try:
            template.render({**values, "answers": answers})
        except AssistantError as error:
            yield f"{error}, {when}"
            return


def _topics(publish: PublishAction, index: int, when: When, rooms: Sequence[str], config: Config) -> Found:
    """Topics that are not the rule's to publish to."""
    base, prefix = config.mqtt.base_topic, config.homeassistant.prefix
    template = Template(publish.topic, TOPIC_FIELDS, "the topic")
    for room in rooms:
        try:
            topic = template.render(_sample("", when, room, config))
        except AssistantError as error:
            yield ("do", index, "publish", "topic"), f"{error}, when tried on an event of its kind"
            return
        if topic.startswith(f"{prefix}/"):
            yield (
                ("do", index, "publish", "topic"),
                f"{topic} is Home Assistant's discovery; choose a topic of your own",
            )
            return
        own = topic == base or topic.startswith(f"{base}/")
        if own and not COMMAND_TOPICS.fullmatch(topic.removeprefix(base).lstrip("/")):
            yield (
                ("do", index, "publish", "topic"),
                f"{topic} is one of the daemon's own topics; choose one of your own",
            )
            return


def _sample(name: str, when: When, room: str, config: Config) -> dict[str, object]:
    """What a template sees for an event of the kind that `when` waits for."""
    kind, state = ("speech", State.HEARD) if when.is_speech else ("sound", when.state or State.STARTED)
    phrase = (when.exactly or when.speech or ("good night",))[0]
    ended = state is not State.STARTED
    event = Event(
        id="01JDC9QK5T0000000000000000",
        room=room,
        source="default",
        kind="speech" if kind == "speech" else "sound",
        state=state,
        event_type="speech" if when.is_speech else (when.sound or ("dog_bark",))[0].replace(ANY, "dog_bark"),
        label="Speech" if when.is_speech else (when.label or ("Bark",))[0],
        score=0.9,
        text=phrase if when.is_speech else None,
        language=(when.language or ("en",))[0] if when.is_speech else None,
        words=(Word(phrase, 0.0, 1.0),) if when.is_speech else None,
        start="2026-11-23T09:00:01.250+00:00",
        end="2026-11-23T09:00:03.250+00:00" if ended else None,
        duration=2.0 if ended else None,
        level_dbfs=-20.0,
    )
    values = visible(event, transcripts=config.privacy.transcripts) if when.absent is None else absence(when)
    settings = config.rooms.get(room)
    return {
        **values,
        "event": values,
        "room_name": (settings.name if settings else None) or room,
        "url": link_to(config.web.public_url, event.id if when.absent is None else None),
        "rule": name,
        "times": when.times,
        "lasted": when.lasting or when.absent,
        "date": "2026-11-23",
        "time": "09:00",
    }
