"""The configuration: one YAML file, every key optional, each mistake told with file, line, key and remedy.

`load` finds and reads it; `Config` composes the settings that the stages own. YAML is read as its 1.2 core schema means
it (`on` and `22:00` are texts), without tags, and with `${NAME}` for environment variables.

The JSON Schema for editors is written by `python -m assistant.config > config/schema.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError

from assistant.attention import Wake, WakeSettings
from assistant.audio.address import kind_of
from assistant.bounded_yaml import BoundedLoader
from assistant.clips import ClipSettings
from assistant.errors import AssistantError, ConfigurationError
from assistant.history_database import HistorySettings
from assistant.intents import DeviceSettings
from assistant.models.audio_llm import AudioLLMSettings
from assistant.models.remote import NO_ADDRESS, RemoteSettings
from assistant.models.store import StoreSettings
from assistant.models.whisper import WhisperSettings
from assistant.outputs.broker import BrokerSettings
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt_client import MqttSettings
from assistant.outputs.speaking import SaySettings
from assistant.outputs.webhook import WebhookSettings, is_listed
from assistant.rules import RuleList, names_of
from assistant.segment.activity import ActivitySettings
from assistant.segment.speech import SpeechSettings
from assistant.segment.windows import WindowSettings
from assistant.serve.settings import ServeSettings
from assistant.settings import Settings
from assistant.tracking import SoundSettings
from assistant.web.settings import WebSettings
from assistant.wyoming_server import WyomingSettings

SIZE_LIMIT = 256 * 1024  # bytes of a configuration file
NODE_LIMIT = 20_000  # values after aliases are written out: a file that makes more is a bomb
DEPTH_LIMIT = 20

RESERVED_ROOMS = ("status", "alert", "health", "listening", "ask", "say", "reply")  # topics beside the rooms
PROFILES = ("embedded", "qwen", "hybrid", "remote")
GONE_KEYS = {"metrics": "the page serves /metrics by itself, see web"}
SECRET_KEY = re.compile(r"password|secret|token|webhook$", re.IGNORECASE)  # the path of a webhook often is one
CREDENTIALS = re.compile(r"(?<=://)\S*@")  # a password may hold a / by mistake
VARIABLE = re.compile(r"\$(?:(\$)(?=\{)|\{([^}]*)\})")

Location = tuple[str | int, ...]


# --- what may be configured -------------------------------------------------------------------------------------------


def _empty(value: object) -> object:
    """A key with nothing below it, as when all of it is commented out."""
    return {} if value is None else value


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home directory; write the whole path") from None


def _room_id(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise ValueError(f'"{name}" is not a room id: use a-z, 0-9, _ and -; any other writing goes to `name` below it')
    if name in RESERVED_ROOMS:
        raise ValueError(f'"{name}" cannot be a room id, it is a topic of the daemon; choose for example "{name}-room"')
    return name


def _profile(name: str) -> str:
    if name not in PROFILES:
        raise ValueError(f'there is no profile "{name}"; use "embedded", "qwen", "hybrid" or "remote"')
    return name


def _language(code: str) -> str:
    if not re.fullmatch(r"[a-z]{2,3}", code):
        raise ValueError(f'"{code}" is not a language code; write ISO 639-1, for example en or ja')
    return code


LanguageCode = Annotated[str, AfterValidator(_language)]
RoomId = Annotated[str, AfterValidator(_room_id)]


class RoomSettings(Settings):
    """A room and the microphone that hears it."""

    source: str = Field(
        default="default",
        min_length=1,
        repr=False,  # the URL of a stream may hold a password
        description="default, a device of `kikimimi devices`, a file, a stream's URL, wyoming://HOST for a satellite, "
        "or - for PCM on stdin",
    )
    name: str | None = Field(default=None, min_length=1, description="what people call it, in any script")
    area: str | None = Field(default=None, min_length=1, description="area suggested to Home Assistant")
    languages: tuple[LanguageCode, ...] | None = Field(
        default=None, min_length=1, description="languages spoken in this room, instead of speech.languages"
    )
    wake: Wake = Field(
        default=Wake.WAKE,
        description="what makes speech a command: wake (a wake word), follow-up (also right after a reply), or none "
        "(every utterance: a television would switch the lights)",
    )
    speaker: str | None = Field(
        default=None,
        min_length=1,
        description="where replies are heard: an output of `kikimimi devices`, default, or none; left out: the "
        "satellite itself, or the default output for a microphone of this machine",
    )

    @property
    def shown_source(self) -> str:
        """The source without a password; cameras have them in the query too."""
        shown = CREDENTIALS.sub("***@", self.source)
        return shown.partition("?")[0] if kind_of(self.source) == "stream" else shown


class Sounds(SoundSettings):
    """How sounds are found: the tracker's settings and, below them, those of the gate and of the windows."""

    table: Annotated[Path, AfterValidator(_at_home)] | None = Field(
        default=None, description="a file in place of the shipped sounds.yaml: event types, labels, thresholds"
    )
    ignore: tuple[str, ...] = Field(
        default=(), max_length=600, description="event types that nobody is told of: no event, no rule, no entity"
    )
    activity: Annotated[ActivitySettings, BeforeValidator(_empty)] = ActivitySettings()
    windows: Annotated[WindowSettings, BeforeValidator(_empty)] = WindowSettings()


class Speech(WhisperSettings):
    """How speech is heard: the recogniser's settings and, below them, those that cut utterances."""

    enabled: bool = Field(default=True, description="false: only sounds, no recogniser is loaded")
    utterances: Annotated[SpeechSettings, BeforeValidator(_empty)] = SpeechSettings()
    wake: Annotated[WakeSettings, BeforeValidator(_empty)] = WakeSettings()


class ModelSettings(StoreSettings):
    """The models' files, for the profiles qwen and hybrid the audio language model, for remote where it is."""

    audio_llm: Annotated[AudioLLMSettings, BeforeValidator(_empty)] = AudioLLMSettings()
    remote: Annotated[RemoteSettings, BeforeValidator(_empty)] = RemoteSettings()


class Clips(ClipSettings):
    """Which sounds are kept on disk, and for how long."""

    dir: Annotated[Path, AfterValidator(_at_home)] | None = Field(
        default=None, description="instead of kikimimi/clips in the XDG state folder"
    )


class PrivacySettings(Settings):
    """What leaves the daemon."""

    transcripts: bool = Field(default=False, description="send what was said over MQTT and show it to rule templates")


Rooms = dict[RoomId, Annotated[RoomSettings, BeforeValidator(_empty)]]


class Config(Settings):
    """All of it. Every key is optional."""

    profile: Annotated[str, AfterValidator(_profile)] = Field(
        default="embedded",
        description="embedded, qwen (a GPU), hybrid (a GPU; YAMNet decides about sounds), or remote (models.remote)",
    )
    rooms: Rooms = Field(default={}, description="rooms by id; the default microphone as `home` if there is none")
    mqtt: MqttSettings = MqttSettings()
    broker: BrokerSettings = BrokerSettings()
    homeassistant: HomeAssistantSettings = HomeAssistantSettings()
    models: ModelSettings = ModelSettings()
    sounds: Sounds = Sounds()
    speech: Speech = Speech()
    rules: RuleList = ()
    devices: tuple[DeviceSettings, ...] = ()
    say: SaySettings = SaySettings()
    wyoming: WyomingSettings = WyomingSettings()
    clips: Clips = Clips()
    privacy: PrivacySettings = PrivacySettings()
    history: HistorySettings = HistorySettings()
    web: WebSettings = WebSettings()
    serve: ServeSettings = ServeSettings()
    webhooks: WebhookSettings = WebhookSettings()

    _file: Path | None = PrivateAttr(default=None)
    _lines: dict[Location, int] = PrivateAttr(default_factory=dict)

    @property
    def file(self) -> Path | None:
        """The file it was read from; None: there is none, everything has its default."""
        return self._file

    def place(self, *location: str | int) -> str:
        """`FILE:LINE: ` of a key, or as near as is known, for a message; empty without a file."""
        if self._file is None:
            return ""
        line = next((self._lines[key] for key in _shorter(location) if key in self._lines), None)
        return f"{self._file}:{line}: " if line else f"{self._file}: "


def check_profile(config: Config) -> None:
    """Raise `ConfigurationError`, one line for each, if the profile lacks what it or a rule needs."""
    remote = config.models.remote
    if config.profile == "remote" and remote.url is None:
        raise ConfigurationError(f"{config.place('profile')}{NO_ADDRESS}")
    silent = config.profile == "remote" and remote.model is None and remote.transcription_model is not None
    if config.profile != "embedded" and not silent:
        return
    missing = f"the profile {config.profile} does not have"
    remedy = "profile: hybrid, qwen or remote (kikimimi doctor tells what fits)"
    if silent:
        missing, remedy = "models.remote does not name", "models.remote.model"
    lines = []
    for number, (name, rule) in enumerate(zip(names_of(config.rules), config.rules, strict=True)):
        for index, action in enumerate(rule.do if rule.enabled else ()):
            if action.question is not None:
                kind = "ask" if action.ask is not None else "describe"
                lines.append(
                    f'{config.place("rules", number, "do", index)}rule "{name}": {kind} needs an audio language model, '
                    f"which {missing}; remedy: {remedy}, or remove the action"
                )
    if lines:
        raise ConfigurationError("\n".join(lines))


def _unlisted(config: Config) -> Iterator[tuple[Location, str]]:
    """Webhooks to hosts that `webhooks.hosts` does not have."""
    for number, rule in enumerate(config.rules):
        for index, action in enumerate(rule.do if rule.enabled else ()):
            if action.webhook is not None and not is_listed(action.webhook.parts[0], config.webhooks.hosts):
                host = urlsplit(action.webhook.parts[0]).netloc
                place: Location = ("rules", number, "do", index, "webhook", "url")
                yield place, f"the host {host} is not listed; remedy: webhooks: {{hosts: [{json.dumps(host)}]}}"


def check_reloaded(config: Config) -> None:
    """Raise `ConfigurationError` if rules need what the daemon that runs, whose other settings `config` has, lacks."""
    check_profile(config)
    lines = [f"{config.place(*place)}{text}, then restart" for place, text in _unlisted(config)]
    if lines:
        raise ConfigurationError("\n".join(lines))


def _one_line(text: str) -> str:
    """The text with signs that do not print written as escapes."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _shorter(location: Location) -> Iterator[Location]:
    return (location[:length] for length in range(len(location), -1, -1))


# --- finding and reading ----------------------------------------------------------------------------------------------


def shipped(name: str) -> Path:
    """A data file of this package: `assistant/_config/` where it was installed, `config/` in a checkout."""
    for folder in (Path(__file__).parent / "_config", Path(__file__).parent.parent / "config"):
        if (folder / name).is_file():
            return folder / name
    raise AssistantError(f"{name} is missing from this installation; remedy: install kikimimi again")


def places() -> list[Path]:
    """Where the configuration may lie: `$XDG_CONFIG_HOME/kikimimi/config.yaml`, then `/etc/kikimimi/config.yaml`."""
    folders = [Path("/etc/kikimimi")]
    with contextlib.suppress(RuntimeError):  # a service user may have no home directory
        folders.insert(0, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kikimimi")
    return [folder / "config.yaml" for folder in folders]


def find() -> Path | None:
    """The first of these places that has a file."""
    return next((place for place in places() if _is_there(place)), None)


def _is_there(file: Path) -> bool:
    """Whether a file is there, or may be: a folder that cannot be looked into is told when the file is read."""
    try:
        return file.exists()
    except OSError:
        return True


def load(file: Path | None = None) -> Config:
    """The configuration of `file`, else of the first default place that has one, else all defaults.

    Raises `ConfigurationError` with one line for each mistake.
    """
    file = file or find()
    return Config() if file is None else parse(_read(file), file)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{file}: there is no such file; remedy: name another with -c FILE") from None
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    if len(content) > SIZE_LIMIT:
        raise ConfigurationError(f"{file}: larger than {SIZE_LIMIT // 1024} KiB; this is hardly a configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{file}:{line}: not UTF-8 text; remedy: save it as UTF-8") from None


def parse(text: str, file: Path) -> Config:
    """The configuration that `text` (of `file`) writes down. Raises `ConfigurationError`, one line for each mistake."""
    document = _Document()
    document.read(text, file)
    data = document.data if document.data is not None else {}
    if not isinstance(data, dict):
        raise ConfigurationError(f"{file}: needs keys and values, for example: profile: embedded")
    mistakes = document.mistakes
    config: Config | None = None
    try:
        config = Config.model_validate(
            {key: value for key, value in data.items() if value is not None or key not in Config.model_fields}
        )
    except ValidationError as error:
        mistakes += [document.mistake(details) for details in _first_causes(error)]
    except RecursionError:
        mistakes.append((1, "too deeply nested"))
    if config is not None:
        unlisted = _unlisted(config)
        mistakes += [(document.line(place), f"{document.key(place)}: {text}") for place, text in unlisted]
    if mistakes or config is None:
        lines = dict.fromkeys(f"{file}:{line}: {_one_line(message)}" for line, message in sorted(mistakes))
        raise ConfigurationError("\n".join(lines))
    config._file, config._lines = file, document.lines
    return config


class Loader(BoundedLoader):
    """YAML with the scalars of its 1.2 core schema: yes, on and 22:00 are texts."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's protocol)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _signs = [sign if sign != "\0" else "" for sign in _first]
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _signs)


@dataclass
class _Document:
    """A YAML file as plain values, with the line of everything and what is wrong with it."""

    data: object = None
    lines: dict[Location, int] = field(default_factory=dict)
    written: dict[Location, str] = field(default_factory=dict)  # scalars as they stand in the file, ${NAME} included
    mistakes: list[tuple[int, str]] = field(default_factory=list)
    nodes: int = 0

    def read(self, text: str, file: Path) -> None:
        """Raises `ConfigurationError` for what is not YAML at all; other mistakes are collected."""
        try:
            node = yaml.compose(text, Loader=Loader)
            self.data = None if node is None else self._value(node, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = re.sub(r"alias '.*'", "alias", f"{error.problem or error.context}")  # may be a bare password
            remedy = "; remedy: indent with spaces, not tabs" if "\\t" in problem else ""
            remedy = "; remedy: put texts with { or } in quotes" if "'{'" in problem else remedy
            raise ConfigurationError(f"{file}:{mark.line + 1 if mark else 1}: not YAML: {problem}{remedy}") from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigurationError(f"{file}:{line}: not YAML: it holds a control character") from None
        except RecursionError:
            raise ConfigurationError(f"{file}: too deeply nested") from None
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigurationError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None

    def _value(self, node: yaml.Node, location: Location) -> object:
        line = node.start_mark.line + 1
        self.lines.setdefault(location, line)
        self.nodes += 1
        if self.nodes > NODE_LIMIT or len(location) > DEPTH_LIMIT:
            raise yaml.constructor.ConstructorError(
                None, None, "its aliases or levels make too much of it", node.start_mark
            )
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._value(item, (*location, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location)
        tag = _shown_tag(node.tag, location)
        self.mistakes.append((line, f"{self.key(location)}: {tag} is not known; remedy: leave it out"))
        return None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, object]:
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                remedy = 'a template needs quotes: "{{ … }}"'
                self.mistakes.append((line, f"{self.key(location)}: a key must be a text; {remedy}"))
                continue
            key = str(key_node.value)
            place = (*location, key)
            if key in values:
                first = self.lines[place]
                self.mistakes.append((line, f"{self.key(place)}: stands twice, first in line {first}; remove one"))
                continue
            self.lines[place] = line
            values[key] = self._value(value_node, place)
        return values

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> object:
        text = str(node.value)
        self.written[location] = text
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int" if len(text) < 20:
                return int(text)
            case "int" | "float":
                return float(text)
            case "str":
                return VARIABLE.sub(lambda match: self._variable(match, node, location), text)
        remedy = "; secrets are written ${NAME} or go into a password_file" if node.tag == "!secret" else ""
        line = node.start_mark.line + 1
        self.mistakes.append((line, f"{self.key(location)}: {_shown_tag(node.tag, location)} is not known{remedy}"))
        return text

    def _variable(self, match: re.Match[str], node: yaml.ScalarNode, location: Location) -> str:
        """The value of `${NAME}`; `$${` stands for `${`."""
        if match[1]:
            return "$"
        name = match[2].strip()
        value = os.environ.get(name) if name else None
        if value is None:
            remedy = f"remedy: export {name}=… or set it in the service, or write $${{ for a plain ${{"
            message = f"{self.key(location)}: the environment variable {name or '(no name)'} is not set; {remedy}"
            self.mistakes.append((node.start_mark.line + 1, message))
            return ""
        return value

    def line(self, location: Location) -> int:
        """The line of a place, or as near as is known; an action that is alone need not stand in a list."""
        alone = tuple(
            part for before, part in zip(("", *location), location, strict=False) if (before, part) != ("do", 0)
        )
        places = sorted((*_shorter(location), *_shorter(alone)), key=len, reverse=True)
        return next((self.lines[place] for place in places if place in self.lines), 1)

    def key(self, location: Location) -> str:
        """`rules["dog"].when.room`: list items by their name, else their number from 1."""
        text = ""
        for index, part in enumerate(location):
            if isinstance(part, int):
                name = self.written.get((*location[: index + 1], "name"))
                text += f'["{name}"]' if name else f"[{part + 1}]"
            else:
                text += f".{part}" if text else part
        return text or "the file"

    def mistake(self, details: Mapping[str, Any]) -> tuple[int, str]:
        """Line and message of one of pydantic's errors."""
        location: Location = ()
        known: Location = ()
        for part in details["loc"]:
            if (*known, part) in self.lines:
                known = location = (*known, part)
        missing = details["type"] == "missing"
        if missing:
            location = (*known, details["loc"][-1])
        return self.lines.get(known, 1), f"{self.key(location)}: {_explain(details, known, self.written.get(known))}"


def _first_causes(error: ValidationError) -> list[Mapping[str, Any]]:
    """Pydantic's errors without those that only follow from another: wrong items do not make a list empty."""
    every = error.errors(include_url=False)
    return [
        details
        for details in every
        if details["type"] != "too_short"
        or not any(
            len(other["loc"]) > len(details["loc"]) and other["loc"][: len(details["loc"])] == details["loc"]
            for other in every
        )
    ]


_PLAIN_WORDS = {
    "missing": "is missing",
    "too_short": "needs at least one item",
    "int_parsing": "not a whole number{shown}",
    "int_type": "not a whole number{shown}",
    "int_from_float": "not a whole number{shown}",
    "float_parsing": "not a number{shown}",
    "float_type": "not a number{shown}",
    "bool_parsing": "neither true nor false{shown}",
    "bool_type": "neither true nor false{shown}",
    "string_type": "not a text{shown}; put it in quotes",
    "path_type": "not a path{shown}",
    "model_type": "needs keys and values below it{shown}",
    "model_attributes_type": "needs keys and values below it{shown}",
    "dict_type": "needs keys and values below it{shown}",
    "tuple_type": "needs a list, for example [a, b]{shown}",
    "list_type": "needs a list, for example [a, b]{shown}",
}


def _explain(details: Mapping[str, Any], location: Location, written: str | None) -> str:
    """What is wrong and what to do about it, in plain words."""
    kind, message = str(details["type"]), str(details["msg"])
    shown = f": {_quoted(written, location)}" if written is not None else ""
    if kind == "extra_forbidden":
        return _unknown_key(location)
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in _PLAIN_WORDS:
        return _PLAIN_WORDS[kind].replace("{shown}", shown)
    return re.sub(r"^(Input|Value|String) should", "should", message) + shown


def _shown_tag(tag: str, location: Location) -> str:
    """A tag for an error message; a password without quotes may begin with an exclamation mark."""
    return "this tag" if _is_secret(location) else f"the tag {tag}"


def _is_secret(location: Location) -> bool:
    return any(SECRET_KEY.search(str(part)) for part in location)


def _quoted(written: str, location: Location) -> str:
    """A value for an error message, shortened, secrets hidden."""
    if _is_secret(location):
        return "(a secret)"
    shown = CREDENTIALS.sub("***@", written)
    return json.dumps(shown if len(shown) <= 60 else f"{shown[:60]}…", ensure_ascii=False)


def _unknown_key(location: Location) -> str:
    key = str(location[-1]) if location else ""
    if len(location) == 1 and key in GONE_KEYS:
        return f"is not needed any more: {GONE_KEYS[key]}; remove it"
    known = _known_keys(location[:-1])
    near = get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    return f'unknown key; did you mean "{near[0]}"?' if near else f"unknown key; there are {', '.join(known)}"


def _known_keys(location: Location) -> list[str]:
    """The keys that may stand at a place, read from the schema."""
    schema = _cached_schema()
    found: list[dict[str, Any]] = [schema]
    for part in location:
        found = [deeper for node in found for deeper in _step(node, part, schema)]
    return sorted({key for node in found for key in _resolved(node, schema).get("properties", {})})


def _step(node: dict[str, Any], part: str | int, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    node = _resolved(node, schema)
    below = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
    for deeper in (below, node.get("additionalProperties")):
        if isinstance(deeper, dict):
            choices = [choice for choice in deeper.get("anyOf", ()) if choice != {"type": "null"}]
            yield from choices or [deeper]


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    definition: dict[str, Any] = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return definition


@cache
def _cached_schema() -> dict[str, Any]:
    return json_schema()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file, for editors."""
    schema = Config.model_json_schema()
    schema["title"] = "Kikimimi configuration"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
