"""The things of the house that commands are about: their settings, where they stand, and what each action tells them.

Topics are literal and come from the configuration alone; only numbers and colours of a command enter a payload.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from assistant.errors import ConfigurationError
from assistant.events import Publish
from assistant.settings import Settings
from assistant.templates import Template

Domain = Literal[
    "light",
    "switch",
    "cover",
    "climate",
    "fan",
    "lock",
    "media_player",
    "vacuum",
    "scene",
    "script",
    "button",
    "valve",
    "lawn_mower",
    "input_boolean",
    "input_button",
    "todo",
    "weather",
    "sensor",
    "binary_sensor",
    "person",
]
Action = Literal[
    "on",
    "off",
    "toggle",
    "open",
    "close",
    "stop",
    "lock",
    "unlock",
    "brightness",
    "color",
    "color_temperature",
    "position",
    "temperature",
    "speed",
    "fan_mode",
    "volume",
    "volume_up",
    "volume_down",
    "mute",
    "unmute",
    "play",
    "pause",
    "next",
    "previous",
    "start",
    "return",
]
ACTIONS: Final[tuple[str, ...]] = get_args(Action)
WITHIN: Final = 30.0  # seconds: a light that goes on a minute after it was asked for frightens people
VALUED: Final = frozenset(
    {"brightness", "color", "color_temperature", "position", "temperature", "speed", "fan_mode", "volume"}
)  # actions that mean nothing without their value

ONLY_ASKED: Final = frozenset({"todo", "weather", "sensor", "binary_sensor", "person"})  # Home Assistant knows of them

_SWITCHED: Final = {"on": "ON", "off": "OFF"}
_MOVED: Final = {"open": "OPEN", "close": "CLOSE", "stop": "STOP"}
DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {  # those of Home Assistant's MQTT entities
    **dict.fromkeys(("light", "switch", "fan", "climate", "media_player", "input_boolean"), _SWITCHED),
    **dict.fromkeys(("cover", "valve"), _MOVED),
    "lock": {"lock": "LOCK", "unlock": "UNLOCK"},
    "scene": {"on": "ON"},
    "script": {"on": "ON"},
    "button": {"on": "PRESS"},
    "input_button": {"on": "PRESS"},
    "vacuum": {"start": "start", "return": "return_to_base", "stop": "stop", "pause": "pause"},
    "lawn_mower": {"start": "start_mowing", "return": "dock", "pause": "pause"},
}

HEX: Final[Mapping[str, str]] = {
    "white": "#ffffff",
    "black": "#000000",
    "red": "#ff0000",
    "orange": "#ffa500",
    "yellow": "#ffff00",
    "green": "#00ff00",
    "blue": "#0000ff",
    "purple": "#800080",
    "brown": "#a52a2a",
    "pink": "#ff69b4",
    "turquoise": "#40e0d0",
}
_FIELDS: Final = ("value", "hex")


def _topic(topic: str) -> str:
    if any(sign in topic for sign in "+#") or not topic.isprintable() or topic.startswith("$"):
        raise ValueError(f"{topic!r} is no topic to publish to: no +, no #, no control signs, no $ in front")
    if "{{" in topic or "{%" in topic:
        raise ValueError(f"{topic!r}: the topic of a device is literal; only payloads are templates")
    return topic


Topic = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_topic)]


class PayloadSettings(Settings):
    """What one action sends, where its topic is not that of the device."""

    topic: Topic
    payload: str


class DeviceSettings(Settings):
    """A thing of the house that people talk about. With a name alone it only helps recognition to spell it."""

    name: str = Field(min_length=1, max_length=100, description="what people call it, in any script")
    aliases: tuple[str, ...] = Field(default=(), description="other names, in any language")
    area: str | None = Field(
        default=None,
        min_length=1,
        description="where it is: a room's id, name or area, or a place without a microphone",
    )
    domain: Domain | None = Field(default=None, description="what kind of thing it is, as Home Assistant names it")
    device_class: str | None = Field(
        default=None, min_length=1, description="of a cover: curtain, blind, shutter, garage …: 'close the blinds'"
    )
    topic: Topic | None = Field(default=None, description="where its commands go; left out: Home Assistant may act")
    payloads: dict[Action, str | PayloadSettings | None] = Field(
        default={},
        description="by action, in place of the defaults (ON, OFF, OPEN …); templates with {{ value }}, for color also "
        "{{ hex }}; a topic and a payload where the topic differs; null: it cannot do that",
    )
    temperatures: tuple[float, float] = Field(
        default=(5.0, 35.0), description="lowest and highest that may be asked for; (41, 95) for Fahrenheit"
    )

    @model_validator(mode="after")
    def _whole(self) -> DeviceSettings:
        if self.topic is not None and self.domain is None:
            raise ValueError(f"{self.name}: a device with a topic needs a domain: {', '.join(get_args(Domain))}")
        if self.domain in ONLY_ASKED and (self.topic is not None or self.payloads):
            raise ValueError(f"{self.name}: a {self.domain} is told nothing; leave out topic and payloads")
        if self.payloads and self.domain is None:
            raise ValueError(f"{self.name}: a device with payloads needs a domain: {', '.join(get_args(Domain))}")
        if any(not alias.strip() for alias in (self.name, *self.aliases)):
            raise ValueError(f"{self.name!r}: a name or alias is blank")
        for action, payload in self.payloads.items():
            self._check(action, payload)
        if self.temperatures[0] >= self.temperatures[1]:
            raise ValueError(f"{self.name}: temperatures: the lowest comes first")
        return self

    def _check(self, action: Action, payload: str | PayloadSettings | None) -> None:
        place = f"{self.name}: payloads.{action}"
        if payload is None:
            return
        if isinstance(payload, str) and self.topic is None:
            raise ValueError(f"{place}: where to? give the device a topic, or this payload its own")
        source = payload if isinstance(payload, str) else payload.payload
        try:
            template = Template(source, _FIELDS, place)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        if action in VALUED and not template.names:
            raise ValueError(f"{place}: {source!r} ignores what is asked for; write {{{{ value }}}} where it belongs")
        if action not in {*VALUED, "volume_up", "volume_down"} and template.names:
            raise ValueError(f"{place}: {action} has no value; write the payload without {{{{ }}}}")

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and aliases."""
        return (self.name, *self.aliases)


def key(text: str) -> str:
    """A name as it is compared: width, case and spaces do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("_", " ").split())


def _clashes(devices: Sequence[DeviceSettings]) -> Iterator[str]:
    seen: dict[tuple[str, str], DeviceSettings] = {}
    for device in devices:
        for name in dict.fromkeys(map(key, device.names)):
            place = key(device.area or "")
            other = seen.setdefault((place, name), device)
            if other is not device:
                where = f"in {device.area}" if device.area else "without an area"
                yield (
                    f"{device.name!r} and {other.name!r}, both {where}, can both be called {name!r}; "
                    "remedy: rename one, or give them different areas"
                )


def _unclashing(devices: tuple[DeviceSettings, ...]) -> tuple[DeviceSettings, ...]:
    if clashes := list(_clashes(devices)):
        raise ValueError("; ".join(clashes))
    return devices


DeviceList = Annotated[tuple[DeviceSettings, ...], AfterValidator(_unclashing)]


class Places:
    """Rooms and areas by what they are called. An area that several rooms share holds them all."""

    def __init__(self, rooms: Mapping[str, Sequence[str]], devices: Iterable[DeviceSettings]) -> None:
        """`rooms`: other names of each room, by its id."""
        named: dict[str, dict[str, None]] = {}
        self.spoken: dict[str, str] = {}  # as people say it, by key
        for room, names in rooms.items():
            for name in (room, *names):
                named.setdefault(key(name), {})[room] = None
                self.spoken.setdefault(key(name), " ".join(name.replace("_", " ").split()) if name == room else name)
        for device in devices:
            if device.area is not None and key(device.area) not in named:
                named[key(device.area)] = {device.area: None}
                self.spoken[key(device.area)] = device.area
        self._rooms = {name: tuple(found) for name, found in named.items()}
        self._titles = {key(room): names[0] for room, names in rooms.items() if names}

    def rooms_of(self, name: str) -> tuple[str, ...]:
        """The rooms that are called so, or are in the area that is; empty: there is none."""
        return self._rooms.get(key(name), ())

    def title(self, name: str) -> str:
        """What to call a place in a reply: the first name of a room, rather than its id."""
        return self._titles.get(key(name)) or self.spoken.get(key(name), name)


class Device:
    """A device ready to be told something."""

    def __init__(self, settings: DeviceSettings, places: Places) -> None:
        self.settings = settings
        self.rooms = frozenset(places.rooms_of(settings.area)) if settings.area is not None else frozenset()
        self._told: dict[str, tuple[str, Template]] = {}
        defaults = DEFAULTS.get(settings.domain or "", {}) if settings.topic is not None else {}
        payloads: dict[Any, str | PayloadSettings | None] = {**defaults, **settings.payloads}
        for action, payload in payloads.items():
            if payload is None:
                continue
            topic, source = (
                (payload.topic, payload.payload)
                if isinstance(payload, PayloadSettings)
                else (settings.topic or "", payload)
            )
            self._told[action] = (topic, Template(source, _FIELDS, f"{settings.name}: payloads.{action}"))

    @property
    def told(self) -> bool:
        """Whether it has a topic; otherwise others act on it."""
        return bool(self._told)

    @property
    def actions(self) -> tuple[str, ...]:
        """What it can be told."""
        return tuple(self._told)

    def message(self, action: str, value: float | str | None) -> Publish | None:
        """What tells it to do `action`; None: it cannot. Raises `AssistantError` if the template fails on `value`."""
        if action not in self._told:
            return None
        topic, template = self._told[action]
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        payload = template.render({"value": plain, "hex": HEX.get(str(value), "")})
        return Publish(topic, payload, rule=f"command: {self.settings.name}", within=WITHIN)
