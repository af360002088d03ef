"""What a command means: sentences of the house's languages matched to intents and to the devices of the configuration.

Pure: nothing is sent here and no clock is read. A wrong action is worse than none: what fits several things, no thing,
or only in part is refused, with the reason.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assistant.devices import ACTIONS, Device, DeviceList, DeviceSettings, Places, key
from assistant.errors import AssistantError, ConfigurationError
from assistant.events import Intent, Publish
from assistant.grammar import LONGEST, Grammar, language_of, scale_of, simplified, unmarked

if TYPE_CHECKING:
    from hassil.intents import SlotList
    from hassil.models import MatchEntity
    from hassil.recognize import RecognizeResult

__all__ = ["ACTIONS", "DeviceList", "DeviceSettings", "Intents", "NotUnderstood", "Target"]

log = logging.getLogger(__name__)

# What an intent tells a device, and the slot that holds the value. Turning on and off depends on the domain.
_ACTS: Final[Mapping[str, tuple[tuple[str, str | None], ...]]] = {
    "HassToggle": (("toggle", None),),
    "HassOpenCover": (("open", None),),
    "HassCloseCover": (("close", None),),
    "HassStopMoving": (("stop", None),),
    "HassLightSet": (("brightness", "brightness"), ("color", "color"), ("color_temperature", "temperature")),
    "HassSetPosition": (("position", "position"),),
    "HassClimateSetTemperature": (("temperature", "temperature"),),
    "HassClimateSetFanMode": (("fan_mode", "fan_mode"),),
    "HassFanSetSpeed": (("speed", "percentage"),),
    "HassSetVolume": (("volume", "volume_level"),),
    "HassMediaPlayerMute": (("mute", None),),
    "HassMediaPlayerUnmute": (("unmute", None),),
    "HassMediaPause": (("pause", None),),
    "HassMediaUnpause": (("play", None),),
    "HassMediaNext": (("next", None),),
    "HassMediaPrevious": (("previous", None),),
    "HassVacuumStart": (("start", None),),
    "HassVacuumReturnToBase": (("return", None),),
    "HassLawnMowerStartMowing": (("start", None),),
    "HassLawnMowerDock": (("return", None),),
}
_TURNED: Final[Mapping[str, tuple[str, str]]] = {
    "cover": ("open", "close"),
    "valve": ("open", "close"),
    "lock": ("lock", "unlock"),
    "vacuum": ("start", "return"),
}
_DOMAINS: Final[Mapping[str, str]] = {  # of intents that need not say it
    "HassLightSet": "light",
    "HassSetPosition": "cover",
    "HassOpenCover": "cover",
    "HassCloseCover": "cover",
    "HassClimateSetTemperature": "climate",
    "HassClimateSetFanMode": "climate",
    "HassFanSetSpeed": "fan",
    "HassSetVolume": "media_player",
    "HassSetVolumeRelative": "media_player",
    "HassMediaPlayerMute": "media_player",
    "HassMediaPlayerUnmute": "media_player",
    "HassMediaPause": "media_player",
    "HassMediaUnpause": "media_player",
    "HassMediaNext": "media_player",
    "HassMediaPrevious": "media_player",
    "HassVacuumStart": "vacuum",
    "HassVacuumReturnToBase": "vacuum",
    "HassLawnMowerStartMowing": "lawn_mower",
    "HassLawnMowerDock": "lawn_mower",
}
_NO_ROOM: Final = "it names no room, and none is known that heard it"
_NOWHERE: Final = ""  # the room of a command that none was told to have heard
HOTTEST_CELSIUS: Final = 60  # a device that can be set to more counts in Fahrenheit
_PERCENT: Final = frozenset({"brightness", "position", "speed", "volume"})
_EVERYWHERE: Final = frozenset({"light_all", "lights_all", "fan_all", "fans_all"})
_ONE_OF_A_HOUSE: Final = frozenset({"garage", "gate"})  # where there is one, it is meant from every room
_PLACE_FIRST: Final = frozenset({"ja", "ko", "zh"})  # languages that name the place before what shall happen there
_ANSWERED: Final = frozenset({"HassGetCurrentTime", "HassGetCurrentDate", "HassNevermind", "HassRespond"})
_KEPT_BY: Final[Mapping[str, str]] = {  # what has to be configured, without a topic, for others to do it
    "HassListAddItem": "todo",
    "HassListCompleteItem": "todo",
    "HassListRemoveItem": "todo",
    "HassShoppingListAddItem": "todo",
    "HassShoppingListCompleteItem": "todo",
    "HassGetWeather": "weather",
    "HassClimateGetTemperature": "climate",
    "HassMediaSearchAndPlay": "media_player",
    "HassVacuumCleanArea": "vacuum",
}
_REPLIES: Final[Mapping[str, str]] = {one: one for one in ("cover", "valve", "lock", "scene", "script", "button")} | {
    "input_button": "button"
}
_ARTICLES: Final = frozenset(
    (
        "the",
        "my",
        "our",
        "der",
        "die",
        "das",
        "den",
        "dem",
        "el",
        "la",
        "los",
        "las",
        "mi",
        "le",
        "les",
        "l'",
        "mon",
        "ma",
    )
)
_NUMBER: Final = re.compile(r"(?<![\d.])\d{1,6}(?:\.\d+)?(?![\d.])")
_KANA: Final = re.compile(r"[\u3041-\u30ff]")
_HAN: Final = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """Why nothing follows from a text."""

    reason: str  # for a person; may hold words of the text
    matched: bool = False  # a sentence fitted but was refused: nobody else shall guess what it means
    language: str | None = None  # whose sentence that was


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that one device can be told, for those who choose among them."""

    intent: str  # HassTurnOn
    action: str
    device: DeviceSettings
    rooms: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known of a command beside its words, or was taken out of them."""

    area: str | None  # the room that heard it
    now: datetime | None
    scale: str | None  # of its degrees: C or F


class _RefusedError(Exception):
    """A sentence fits, but nothing may follow from it."""


class Intents:
    """Understands commands. Safe to call from several threads once it is made."""

    def __init__(
        self,
        devices: Sequence[DeviceSettings],
        rooms: Mapping[str, Sequence[str]],
        languages: Sequence[str],
        folder: Path | None = None,
    ) -> None:
        """Nothing is compiled yet.

        `rooms`: other names (its name, its area) of each room by id; `languages`: tried in this order when a text's
        own is not known; `folder`: our own sentences (`config/intents`).

        Raises `ConfigurationError` if no sentences exist for a language.
        """
        self.languages = tuple(dict.fromkeys(self._checked(code) for code in languages))
        self._places = Places(rooms, devices)
        self._devices = [Device(device, self._places) for device in devices]
        self._names = _variants((*self._places.spoken.values(), *(name for device in devices for name in device.names)))
        self._folder = folder
        self._grammars: dict[str, Grammar] = {}
        self._slots: dict[str, SlotList] | None = None
        self._lock = threading.Lock()

    @staticmethod
    def _checked(code: str) -> str:
        language = language_of(code)
        if language is None:
            raise ConfigurationError(
                f"no sentences are known for the language {code!r}; remedy: a code such as en, ja, de, fr, es or zh-CN"
            )
        return language

    def _own(self, code: str) -> str:
        """The language that `code` means here: zh is zh-TW in a house that speaks that."""
        language = self._checked(code)
        kin = [own for own in self.languages if own.partition("-")[0] == language.partition("-")[0]]
        return kin[0] if kin and language not in kin and not set("-_") & set(code) else language

    def warm(self) -> None:
        """Compile the languages of the house, and run each once."""
        for language in self.languages:
            self.understand("xyzzy", language=language)

    def warm_in_background(self) -> None:
        """`warm` in a thread that nobody waits for, so that the first command is not slow."""
        threading.Thread(target=self._warm, name="intents", daemon=True).start()

    def _warm(self) -> None:
        try:
            self.warm()
        except Exception:  # the first command will meet it again, and tell
            log.debug("the sentences of commands could not be compiled", exc_info=True)

    def understand(
        self, text: str, *, language: str | None = None, area: str | None = None, now: datetime | None = None
    ) -> Intent | NotUnderstood:
        """The intent of `text` and what its devices are told.

        `language`: of the text, any code; None: those of the house are tried in order. `area`: the room that heard it.
        `now`: local time, to answer what the time is. Raises `ConfigurationError` for a language without sentences.
        """
        candidates = (self._own(language),) if language is not None else self._likely(text)
        refusal: NotUnderstood | None = None
        for code in candidates:
            outcome = self._understand(text, code, area, now)
            if isinstance(outcome, Intent):
                return outcome
            if refusal is None or (outcome.matched and not refusal.matched):
                refusal = outcome
        return refusal or NotUnderstood("no language of this house is written like this")

    def settled(self, text: str, *, language: str | None = None, area: str | None = None) -> bool:
        """Whether `text` is a command that means the same whatever the speaker adds.

        It names what it is about: "turn off the lights" may go on with "in the living room". A number at its end may
        go on ("set the heating to twenty"), a name that begins another one too, and free words (a song) always may.
        """
        meaning = self.understand(text, language=language, area=area)
        if not isinstance(meaning, Intent) or meaning.free:
            return False
        if meaning.name in _ANSWERED:
            return True
        if meaning.language not in _PLACE_FIRST and not self._placed(text, meaning):
            return False
        grammar = self._grammar(self._own(meaning.language or self.languages[0]))
        plain = grammar.plain(text, self._names).casefold()
        readings = self._results(grammar, plain, area) or self._results(grammar, plain, _NOWHERE)
        return not any(self._may_go_on(entity, plain) for entity in readings[0].entities.values())

    def _may_go_on(self, entity: MatchEntity, plain: str) -> bool:
        """Whether a plain text ends in a number, or in a name with which another name begins."""
        said = (entity.text or "").strip().casefold()
        if not said or not plain.endswith(said):
            return False
        number = entity.name not in {"name", "area"} and isinstance(entity.value, int | float)
        return number or any(name.casefold().startswith(f"{said} ") for name in self._names)

    def _placed(self, text: str, meaning: Intent) -> bool:
        """Whether `text` names a thing or a room, and means the same wherever it is heard."""
        nowhere = self.understand(text, language=meaning.language)
        if not isinstance(nowhere, Intent) or nowhere.publish != meaning.publish:
            return False
        return bool(nowhere.slots.get("name") or nowhere.slots.get("area"))

    def _likely(self, text: str) -> tuple[str, ...]:
        """The languages of the house that write like this."""
        if _KANA.search(text):
            return tuple(code for code in self.languages if code == "ja")
        if _HAN.search(text):
            return tuple(code for code in self.languages if code == "ja" or code.startswith("zh"))
        return tuple(code for code in self.languages if code != "ja" and not code.startswith("zh"))

    def _understand(self, text: str, code: str, area: str | None, now: datetime | None) -> Intent | NotUnderstood:
        grammar = self._grammar(code)
        if len(text) > 2 * LONGEST or len(plain := grammar.plain(text, self._names)) > LONGEST:
            return NotUnderstood(f"longer than {LONGEST} characters: no command", language=code)
        if not plain:
            return NotUnderstood("nothing was said", language=code)
        results = self._results(grammar, plain, area)
        if not results and area is None:
            results = self._results(grammar, plain, _NOWHERE)
        if not results:
            return self._unmatched(grammar, plain, area)
        try:
            return self._intent(grammar, results, plain, _Told(area, now, scale_of(text)))
        except _RefusedError as refused:
            return NotUnderstood(str(refused), matched=True, language=code)
        except AssistantError as error:  # a payload's template failed on the value
            return NotUnderstood(str(error), matched=True, language=code)

    def _grammar(self, code: str) -> Grammar:
        with self._lock:
            if code not in self._grammars:
                self._grammars[code] = Grammar(code, self._folder)
            if self._slots is None:
                self._slots = self._slot_lists()
            return self._grammars[code]

    def _slot_lists(self) -> dict[str, SlotList]:
        from hassil.intents import TextSlotList  # noqa: PLC0415

        names = [
            (name, index, {"domain": device.settings.domain or "switch"})
            for index, device in enumerate(self._devices)
            for name in _variants(device.settings.names)
        ]
        areas = [(name, code) for code, spoken in self._places.spoken.items() for name in _variants((spoken,))]
        return {
            "name": TextSlotList.from_tuples(names, allow_template=False, name="name"),
            "area": TextSlotList.from_tuples(areas, allow_template=False, name="area"),
            "floor": TextSlotList.from_tuples(
                [(name, code) for name, code in areas if len(self._places.rooms_of(code)) > 1],
                allow_template=False,
                name="floor",
            ),
        }

    def _results(self, grammar: Grammar, plain: str, area: str | None) -> list[RecognizeResult]:
        context: dict[str, Any] = {}
        if area is not None:
            heard = key(area)
            context["area"] = {"value": heard, "text": "", "metadata": {"heard": True}}
        return grammar.results(plain, self._slots or {}, context)

    def _unmatched(self, grammar: Grammar, plain: str, area: str | None) -> NotUnderstood:
        """Why no sentence fits: perhaps a number that none allows, or no room."""
        for number in _NUMBER.findall(plain):
            if float(number) > 100 and self._results(grammar, plain.replace(number, "20", 1), area):
                return NotUnderstood(f"{number} is out of range", matched=True, language=grammar.language)
        return NotUnderstood(f"no sentence of {grammar.language} fits", language=grammar.language)

    # ------------------------------------------------------------------------------------------- from result to intent

    def _intent(self, grammar: Grammar, results: list[RecognizeResult], plain: str, told: _Told) -> Intent:
        heard = told.area
        best = results[0]
        name = best.intent.name
        entities = dict(best.entities)
        if name == "HassTurnOn" and "name" in entities and not entities["name"].is_wildcard:
            self._refuse_bare(plain, entities["name"].text, self._devices[int(entities["name"].value)])
        area, floor = entities.get("area"), entities.pop("floor", None)
        said = area is not None and not (area.metadata or {}).get("heard")
        if floor is not None and not said:
            area = entities["area"] = floor
            said = True
        if best.response in _EVERYWHERE and area is not None and not said:
            del entities["area"]
            area = None
        values: dict[str, Any] = {slot: _whole(entity.value) for slot, entity in entities.items()}
        rooms = frozenset(self._places.rooms_of(str(area.value))) if area is not None else None
        if floor is not None and rooms is not None:
            rooms &= frozenset(self._places.rooms_of(str(floor.value)))
        acts = self._acts(name, values)
        if acts is None and area is not None and not said and heard is None:
            raise _RefusedError(_NO_ROOM)
        targets: list[Device] = []
        if acts is not None or ("name" in entities and not entities["name"].is_wildcard):
            targets = self._targets(name, results, values, rooms, said=said, heard=heard)
        if "name" in entities and targets and not entities["name"].is_wildcard:
            values["name"] = targets[0].settings.name
        if rooms is not None:
            values["area"] = next(iter(rooms)) if len(rooms) == 1 else self._places.spoken.get(str(values["area"]))
        publish = () if acts is None else self._publish(acts, targets, values, told.scale)
        spoken = self._spoken_values(best, values, targets, told.now)
        reply = grammar.reply(name, best.response, spoken) if publish or name in _ANSWERED else ""
        undone = "" if publish or name in _ANSWERED else self._undone(name, values, targets)
        if undone and not self._lent(name, values, targets):
            reply = grammar.cannot(name)
        return Intent(
            name=name,
            slots=values,
            source="hassil",
            language=grammar.language.split("-")[0],
            publish=publish,
            reply=reply,
            undone=undone,
            free=frozenset(slot for slot, entity in entities.items() if entity.is_wildcard),
        )

    def _lent(self, intent: str, values: Mapping[str, Any], targets: Sequence[Device]) -> list[Device]:
        """The devices without a topic that an intent is about: others act on them, and answer."""
        domain = values.get("domain") or _KEPT_BY.get(intent)
        about = targets or [device for device in self._devices if domain and device.settings.domain == domain]
        return [device for device in about if not device.told]

    def _undone(self, intent: str, values: Mapping[str, Any], targets: Sequence[Device]) -> str:
        """Why nothing follows here from an intent that was understood."""
        if lent := self._lent(intent, values, targets):
            return f"{', '.join(device.settings.name for device in lent)}: there is no topic; others may act"
        if intent in {"HassGetState", "HassClimateGetTemperature"}:
            return "what state things are in is not known here; others may answer"
        return f"nothing here does {intent}; others may act"

    @staticmethod
    def _refuse_bare(plain: str, name: str, device: Device) -> None:
        """Whoever only names a lamp need not want it on, as some sentences of the package have it."""
        rest = key(plain).replace(key(name), " ", 1).split()
        if device.settings.domain not in {"scene", "script"} and not set(rest) - _ARTICLES:
            raise _RefusedError(f"{device.settings.name} is only named; say what it shall do")

    @staticmethod
    def _acts(name: str, values: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...] | None:
        """What the intent tells its devices; None: it is nothing that devices are told."""
        if name in {"HassTurnOn", "HassTurnOff"}:
            return ((name, None),)  # depends on each device's domain
        if name == "HassSetVolumeRelative":
            step = values.get("volume_step")
            down = step == "down" or (isinstance(step, int | float) and step < 0)
            return (("volume_down" if down else "volume_up", "volume_step"),)
        acts = _ACTS.get(name)
        if acts is None:
            return None
        return tuple(act for act in acts if act[1] is None or act[1] in values)

    def _targets(
        self,
        intent: str,
        results: list[RecognizeResult],
        values: Mapping[str, Any],
        rooms: frozenset[str] | None,
        *,
        said: bool,
        heard: str | None,
    ) -> list[Device]:
        """The devices that are meant. Raises `_RefusedError` when that is not clear."""
        entity = results[0].entities.get("name")
        if entity is not None and not entity.is_wildcard:
            return [self._named(intent, results, rooms if said else None, heard)]
        domain, kind = values.get("domain") or _DOMAINS.get(intent), values.get("device_class")
        kinds = {str(one) for one in (kind if isinstance(kind, list | tuple) else [kind])} if kind else None
        fitting = [
            device
            for device in self._devices
            if device.settings.domain == domain and (kinds is None or device.settings.device_class in kinds)
        ]
        here = fitting if rooms is None else [device for device in fitting if device.rooms & rooms]
        only = len(fitting) == 1 and (
            intent.startswith("HassClimate") or (kinds is not None and kinds <= _ONE_OF_A_HOUSE)
        )
        if not here and not said and only:
            return fitting  # the only thermostat or garage door of the house need not be in this room
        if not here and rooms is not None and not said and heard is None:
            raise _RefusedError(_NO_ROOM)
        if not here and self._devices:
            what = " or ".join(sorted(kinds)) if kinds else domain or "device"
            raise _RefusedError(f"there is no {what} in {', '.join(sorted(rooms)) if rooms else 'the configuration'}")
        return here

    def _named(
        self, intent: str, results: list[RecognizeResult], said: frozenset[str] | None, heard: str | None
    ) -> Device:
        text = key(results[0].entities["name"].text)
        found: dict[int, Device] = {}
        for result in results:
            entity = result.entities.get("name")
            if result.intent.name == intent and entity is not None and key(entity.text) == text:
                found.setdefault(int(entity.value), self._devices[int(entity.value)])
        devices = list(found.values())
        if said is not None:
            devices = [device for device in devices if device.rooms & said]
            if not devices:
                raise _RefusedError(f"there is no {text} in {', '.join(sorted(said))}")
        if len(devices) > 1 and heard is not None:
            rooms = frozenset(self._places.rooms_of(heard))
            devices = [device for device in devices if device.rooms & rooms] or devices
        if len(devices) > 1:
            where = ", ".join(device.settings.area or "no area" for device in devices)
            raise _RefusedError(f"{text} can be one of several: in {where}")
        return devices[0]

    def _publish(
        self,
        acts: Sequence[tuple[str, str | None]],
        targets: Sequence[Device],
        values: Mapping[str, Any],
        scale: str | None,
    ) -> tuple[Publish, ...]:
        """What the targets are told; empty when they have no topics. Raises `_RefusedError` if they cannot do it."""
        told = [device for device in targets if device.told]
        messages: list[Publish] = []
        for act, slot in acts:
            value = values.get(slot) if slot is not None else None
            reached = 0
            for device in told:
                action = turned(act, device.settings.domain)
                check_scale(action, scale, device.settings)
                check_value(action, value, device.settings)
                message = device.message(action, None if isinstance(value, str) and slot == "volume_step" else value)
                if message is not None:
                    messages.append(message)
                    reached += 1
            if told and not reached:
                names = ", ".join(device.settings.name for device in told)
                action = turned(act, told[0].settings.domain)
                raise _RefusedError(f"{names}: there is no payload for {action}; remedy: payloads.{action}")
        return tuple(messages)

    def _spoken_values(
        self, best: RecognizeResult, values: Mapping[str, Any], targets: Sequence[Device], now: datetime | None
    ) -> dict[str, Any]:
        """What a response may name."""
        slots = {
            slot: (best.entities[slot].text or value) if slot in best.entities else value
            for slot, value in values.items()
        }
        slots = {slot: text.strip() if isinstance(text, str) else text for slot, text in slots.items()}
        if "name" in values and targets:
            slots["name"] = targets[0].settings.name
        if "device_class" in values:
            slots["device_class"] = values["device_class"]
        if "area" in values:
            slots["area"] = self._places.title(str(values["area"]))
        if now is not None:
            slots |= {"time": now.time(), "date": now.date()}
        domain = targets[0].settings.domain if targets else values.get("domain")
        state = {"domain": domain, "name": slots.get("name", ""), "state": ""}
        return {"slots": slots, "state": state}

    # --------------------------------------------------------------------------------------- for those who choose

    def targets(self) -> list[Target]:
        """Everything that the devices with topics can be told, in the order of the configuration."""
        found: list[Target] = []
        for device in self._devices:
            intents = {turned("HassTurnOn", device.settings.domain): "HassTurnOn"}
            intents[turned("HassTurnOff", device.settings.domain)] = "HassTurnOff"
            intents |= {act: intent for intent, acts in _ACTS.items() for act, _slot in acts if act not in intents}
            for action in device.actions:
                if action in intents:
                    found.append(Target(intents[action], action, device.settings, device.rooms))
        return found

    def chosen(self, target: Target, value: float | str | None, language: str) -> Intent | NotUnderstood:
        """The intent that a choice means; the same checks as for a sentence."""
        device = next(device for device in self._devices if device.settings is target.device)
        try:
            check_value(target.action, value, target.device)
            message = device.message(target.action, value)
        except (_RefusedError, AssistantError) as refused:
            return NotUnderstood(str(refused), matched=True, language=language)
        if message is None:
            return NotUnderstood(f"{target.device.name}: there is no payload for {target.action}", True, language)
        slots: dict[str, Any] = {"name": target.device.name}
        slot = dict(_ACTS.get(target.intent, ())).get(target.action)
        if value is not None and slot is not None:
            slots[slot] = value
        domain = target.device.domain or ""
        response = target.action if target.intent == "HassLightSet" else _REPLIES.get(domain, "default")
        spoken = {"slots": slots, "state": {"domain": domain, "name": target.device.name, "state": ""}}
        reply = self._grammar(self._checked(language)).reply(target.intent, response, spoken)
        return Intent(target.intent, slots, "model", language.split("-", maxsplit=1)[0], (message,), reply)

    def plain(self, text: str, language: str) -> str:
        """The text as the grammar of `language` compares it."""
        return self._grammar(self._checked(language)).plain(text)


def turned(act: str, domain: str | None) -> str:
    """The action of turning something of `domain` on or off; any other action as it is."""
    if act not in {"HassTurnOn", "HassTurnOff"}:
        return act
    on, off = _TURNED.get(domain or "", ("on", "off"))
    return on if act == "HassTurnOn" else off


def check_value(action: str, value: float | str | None, device: DeviceSettings) -> None:
    """Raise `_RefusedError` for a value that the device must not be told."""
    if action in _PERCENT and not (isinstance(value, int | float) and 0 <= value <= 100):
        raise _RefusedError(f"{device.name}: {_plainly(value)} % is out of range: 0 to 100")
    if action == "temperature":
        low, high = device.temperatures
        if not (isinstance(value, int | float) and low <= value <= high):
            raise _RefusedError(f"{device.name}: {_plainly(value)} degrees are out of range: {low:g} to {high:g}")


def check_scale(action: str, scale: str | None, device: DeviceSettings) -> None:
    """Raise `_RefusedError` for degrees of the scale that the device does not have."""
    low, high = device.temperatures
    own = "F" if high > HOTTEST_CELSIUS else "C"
    if action == "temperature" and scale is not None and scale != own:
        raise _RefusedError(f"{device.name}: degrees are °{own} there, as its temperatures say: {low:g} to {high:g}")


def _plainly(value: float | str | None) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _whole(value: Any) -> Any:  # noqa: ANN401 (whatever a slot holds)
    """40 for 40.0, as people and most devices write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _variants(names: Iterable[str]) -> list[str]:
    """Names as recognisers write them; those in traditional Chinese characters in simplified ones too."""
    spoken = [said for name in names if (said := _spoken(name))]
    return list(dict.fromkeys((*spoken, *map(simplified, spoken))))


def _spoken(name: str) -> str:
    """A name as a recogniser writes it, for the grammar."""
    return unmarked(name.replace("_", " "))
