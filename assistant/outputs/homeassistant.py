"""What Home Assistant is told to show: device-based MQTT discovery for the house and each room.

Pure functions from a `Home` to payloads. Format: Home Assistant's MQTT integration, "device discovery payload", 2024.11
and later; root keys are strict there, so nothing newer than 2024.11 is used at the root.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from assistant.events import Problem, Sensitivity
from assistant.outputs.topics import OFF_DELAY, Home, Room, SoundType, level_topic_part
from assistant.settings import Settings

HEALTH_LIFETIME = 180  # seconds: health comes each minute
LEVEL_LIFETIME = 90  # seconds: a level comes at least each 30 s
TOPIC = r"^[^+#\x00/]+(/[^+#\x00/]+)*$"  # no wildcard, no empty level
ALWAYS_SENT = ("other", "speech", "test")  # event types beside the sounds of the home

# The same event twice would fire automations twice, and a late one would fire them late.
EVENT_TEMPLATE = "{{ value if value_json.state != 'ended' and not value_json.late else '' }}"

# A state that Home Assistant does not know, as `disabled`, would leave its entities as they were.
ROOM_AVAILABLE = "{{ 'online' if value == 'online' else 'offline' }}"

ICONS = {
    "alarm_clock": "mdi:alarm",
    "appliance_beep": "mdi:washing-machine-alert",
    "baby_cry": "mdi:baby-face-outline",
    "bird": "mdi:bird",
    "cat": "mdi:cat",
    "co_alarm": "mdi:molecule-co",
    "cough": "mdi:emoticon-sick-outline",
    "dog_bark": "mdi:dog",
    "doorbell": "mdi:doorbell",
    "footsteps": "mdi:shoe-print",
    "glass_break": "mdi:image-broken-variant",
    "gunshot": "mdi:pistol",
    "knock": "mdi:door",
    "laughter": "mdi:emoticon-lol-outline",
    "music": "mdi:music",
    "phone": "mdi:phone-ring",
    "power_tool": "mdi:saw-blade",
    "shout": "mdi:account-voice",
    "siren": "mdi:alarm-light",
    "smoke_alarm": "mdi:smoke-detector-variant-alert",
    "snore": "mdi:sleep",
    "thunder": "mdi:weather-lightning",
    "vehicle": "mdi:car",
    "water": "mdi:water",
}


class HomeAssistantSettings(Settings):
    """Home Assistant discovery over MQTT."""

    discovery: bool = Field(default=True, description="announce the house and its rooms to Home Assistant")
    prefix: str = Field(
        default="homeassistant",
        pattern=TOPIC,
        description="discovery prefix that Home Assistant's MQTT integration listens to",
    )
    birth_topic: str = Field(
        default="homeassistant/status",
        pattern=TOPIC,
        description="where Home Assistant says that it started; its default does not depend on the prefix",
    )


def node(install: str) -> str:
    """The stable part of every id of this installation."""
    return f"kikimimi_{install}"


def config_topic(prefix: str, install: str, room: str | None = None) -> str:
    """The retained discovery topic of a room's device, or of the hub."""
    object_id = node(install) if room is None else f"{node(install)}_{room}"
    return f"{prefix}/device/{object_id}/config"


def hub_payload(home: Home, base: str) -> dict[str, Any]:
    """The device of the daemon itself."""
    unique = node(home.install)
    device = {
        "identifiers": [unique],
        "name": "Kikimimi",
        "manufacturer": "Kikimimi",
        "model": "Listening service",
        "sw_version": home.version,
    }
    if home.url:
        device["configuration_url"] = home.url
    online = {"availability": [{"topic": f"{base}/status"}]}
    components: dict[str, Any] = {
        "status": {
            "platform": "binary_sensor",
            "unique_id": f"{unique}_status",
            "name": "Service",
            "device_class": "connectivity",
            "default_entity_id": "binary_sensor.kikimimi_service",
            "state_topic": f"{base}/status",
            "payload_on": "online",
            "payload_off": "offline",
            "entity_category": "diagnostic",
            "qos": 1,
        },
        "alert": {
            "platform": "binary_sensor",
            "unique_id": f"{unique}_alert",
            "name": "Any alert heard",
            "device_class": "sound",
            "icon": "mdi:bell-alert",
            "default_entity_id": "binary_sensor.kikimimi_any_alert",
            "state_topic": f"{base}/alert/state",
            "qos": 1,
            **online,
        },
        "listening": {
            "platform": "switch",
            "unique_id": f"{unique}_listening",
            "name": "Listening",
            "icon": "mdi:ear-hearing",
            "default_entity_id": "switch.kikimimi_listening",
            "state_topic": f"{base}/listening/state",
            "command_topic": f"{base}/listening/set",
            "entity_category": "config",
            "qos": 1,
            **online,
        },
        "say": {
            "platform": "notify",
            "unique_id": f"{unique}_say",
            "name": "Say everywhere",
            "icon": "mdi:bullhorn",
            "default_entity_id": "notify.kikimimi_say",
            "command_topic": f"{base}/say",
            "qos": 1,
            **online,
        },
        "clips": {**_clips(unique, base), **online} if home.clips else {"platform": "binary_sensor"},
        **{key: {**sensor, **online} for key, sensor in _health_sensors(unique, base).items()},
    }
    return {"device": device, "origin": _origin(home), "components": components}


def _clips(unique: str, base: str) -> dict[str, Any]:
    """On while no clip can be kept: the disk is nearly full, or the folder cannot be written."""
    return {
        "platform": "binary_sensor",
        "unique_id": f"{unique}_clips",
        "name": "Clips",
        "device_class": "problem",
        "default_entity_id": "binary_sensor.kikimimi_clips",
        "state_topic": f"{base}/health",
        "value_template": "{{ 'ON' if value_json.clips_problem else 'OFF' }}",
        "expire_after": HEALTH_LIFETIME,
        "entity_category": "diagnostic",
        "qos": 0,
    }


def _health_sensors(unique: str, base: str) -> dict[str, dict[str, Any]]:
    """Figures of `<base>/health`; one that is not measured stays unknown."""
    measured: dict[str, dict[str, Any]] = {
        "lag_ms_p95": {
            "name": "Detection lag",
            "device_class": "duration",
            "unit_of_measurement": "ms",
            "state_class": "measurement",
        },
        "dropped_s_total": {
            "name": "Dropped audio",
            "device_class": "duration",
            "unit_of_measurement": "s",
            "state_class": "total_increasing",
        },
        "cpu_percent": {
            "name": "CPU",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 1,
            "icon": "mdi:cpu-64-bit",
        },
        "rss_mb": {
            "name": "Memory",
            "device_class": "data_size",
            "unit_of_measurement": "MB",
            "state_class": "measurement",
            "suggested_display_precision": 0,
        },
    }
    return {
        key: {
            "platform": "sensor",
            "unique_id": f"{unique}_{key}",
            "default_entity_id": f"sensor.kikimimi_{_slug(str(sensor['name']))}",
            "state_topic": f"{base}/health",
            "value_template": "{{ value_json." + key + " | default(none) }}",
            "entity_category": "diagnostic",
            "expire_after": HEALTH_LIFETIME,
            **sensor,
        }
        for key, sensor in measured.items()
    }


def room_payload(home: Home, room: Room, base: str, *, removed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The device of one room. Event types in `removed` are named without content, which deletes their entities."""
    unique = f"{node(home.install)}_{room.id}"
    top = f"{base}/{level_topic_part(room.id)}"
    device = {
        "identifiers": [unique],
        "name": room.name,
        "manufacturer": "Kikimimi",
        "model": room.source,
        "sw_version": home.version,
        "via_device": node(home.install),
    }
    if room.area:
        device["suggested_area"] = room.area
    if home.url:
        device["configuration_url"] = home.url
    components = {**_room_entities(home, room, unique, top, base), **_room_controls(room, unique, top, base)}
    for sound in home.sounds:
        components[f"sound_{sound.event_type}"] = _sound(sound, room, unique, top)
        components[f"trigger_{sound.event_type}"] = _trigger(sound, top)
    for event_type in removed:
        components[f"sound_{event_type}"] = {"platform": "binary_sensor"}
        components[f"trigger_{event_type}"] = {"platform": "device_automation"}
    return {
        "device": device,
        "origin": _origin(home),
        "availability": [
            {"topic": f"{base}/status"},
            {"topic": f"{top}/status", "value_template": ROOM_AVAILABLE},
        ],
        "availability_mode": "all",
        "components": components,
    }


def _room_entities(home: Home, room: Room, unique: str, top: str, base: str) -> dict[str, dict[str, Any]]:
    """What every room has, whatever sounds are watched."""
    slug = _slug(room.id)
    sent = {sound.event_type for sound in home.sounds} | set(ALWAYS_SENT)
    entities: dict[str, dict[str, Any]] = {
        "sound_event": {
            "platform": "event",
            "name": "Sound",
            "icon": "mdi:ear-hearing",
            "default_entity_id": f"event.{slug}_sound",
            "state_topic": f"{top}/event",
            "event_types": sorted(sent),
            "value_template": EVENT_TEMPLATE,
            "qos": 1,
        },
        "doorbell_event": {
            "platform": "event",
            "name": "Doorbell",
            "device_class": "doorbell",
            "default_entity_id": f"event.{slug}_doorbell",
            "state_topic": f"{top}/doorbell/event",
            "event_types": ["ring"],
            "qos": 1,
        },
        "last_sound": {
            "platform": "sensor",
            "name": "Last sound",
            "icon": "mdi:waveform",
            "default_entity_id": f"sensor.{slug}_last_sound",
            "state_topic": f"{top}/last/sound",
            "value_template": "{{ value_json.label }}",
            "json_attributes_topic": f"{top}/last/sound",
            "qos": 1,
        },
        "last_speech": {
            "platform": "sensor",
            "name": "Last speech",
            "icon": "mdi:comment-text-outline",
            "default_entity_id": f"sensor.{slug}_last_speech",
            "state_topic": f"{top}/last/speech",
            # without transcripts there is only that something was said
            "value_template": "{{ value_json.text if value_json.text else 'heard' }}",
            "json_attributes_topic": f"{top}/last/speech",
            "qos": 1,
        },
        "level": {
            "platform": "sensor",
            "name": "Sound level",
            "default_entity_id": f"sensor.{slug}_sound_level",
            "state_topic": f"{top}/level",
            "value_template": "{{ value_json.dbfs }}",
            "unit_of_measurement": "dBFS",  # no device class: `sound_pressure` takes dB and dBA only
            "state_class": "measurement",
            "suggested_display_precision": 0,
            "expire_after": LEVEL_LIFETIME,
            "entity_category": "diagnostic",
            "qos": 0,
        },
        "microphone": {
            "platform": "binary_sensor",
            "name": "Microphone",
            "device_class": "connectivity",
            "default_entity_id": f"binary_sensor.{slug}_microphone",
            "state_topic": f"{top}/status",
            # `disabled` is neither connected nor lost: no state that would be untrue
            "value_template": "{{ {'online': 'ON', 'offline': 'OFF'}.get(value, 'None') }}",
            "availability": [{"topic": f"{base}/status"}],  # it must be seen when the room is not
            "entity_category": "diagnostic",
            "qos": 1,
        },
        "problem": {
            "platform": "sensor",
            "name": "Microphone problem",
            "device_class": "enum",
            "options": [problem.value for problem in Problem],
            "icon": "mdi:microphone-question",
            "default_entity_id": f"sensor.{slug}_microphone_problem",
            "state_topic": f"{top}/problem",
            "entity_category": "diagnostic",
            "qos": 1,
        },
    }
    return {key: {"unique_id": f"{unique}_{key}", **entity} for key, entity in entities.items()}


def _room_controls(room: Room, unique: str, top: str, base: str) -> dict[str, dict[str, Any]]:
    """What can be set, pressed, said and looked at in a room."""
    slug = _slug(room.id)
    always = {"availability": [{"topic": f"{base}/status"}]}  # a room that may not listen must be able to again
    entities: dict[str, dict[str, Any]] = {
        "listening": {
            "platform": "switch",
            "name": "Listening",
            "icon": "mdi:microphone",
            "default_entity_id": f"switch.{slug}_listening",
            "state_topic": f"{top}/listening/state",
            "command_topic": f"{top}/listening/set",
            "entity_category": "config",
            "qos": 1,
            **always,
        },
        "sensitivity": {
            "platform": "select",
            "name": "Sensitivity",
            "icon": "mdi:tune-variant",
            "default_entity_id": f"select.{slug}_sensitivity",
            "state_topic": f"{top}/sensitivity/state",
            "command_topic": f"{top}/sensitivity/set",
            "options": [sensitivity.value for sensitivity in Sensitivity],
            "entity_category": "config",
            "qos": 1,
            **always,
        },
        "test": {
            "platform": "button",
            "name": "Send test alert",
            "icon": "mdi:bell-ring-outline",
            "default_entity_id": f"button.{slug}_test_alert",
            "command_topic": f"{top}/test",
            "entity_category": "diagnostic",
            "qos": 1,
        },
        "say": {
            "platform": "notify",
            "name": "Say",
            "icon": "mdi:bullhorn",
            "default_entity_id": f"notify.{slug}_say",
            "command_topic": f"{top}/say",
            "qos": 1,
            **always,  # its loudspeaker is not its microphone
        },
        "spectrogram": {
            "platform": "image",
            "name": "Spectrogram",
            "icon": "mdi:chart-histogram",
            "default_entity_id": f"image.{slug}_spectrogram",
            "image_topic": f"{top}/spectrogram",
            "content_type": "image/png",
        },
    }
    return {key: {"unique_id": f"{unique}_{key}", **entity} for key, entity in entities.items()}


def _sound(sound: SoundType, room: Room, unique: str, top: str) -> dict[str, Any]:
    """On while the sound lasts. A life-safety sound never claims to be a detector: it was "heard"."""
    name = sound.name
    if sound.life_safety and not name.endswith("heard"):
        name = f"{name} heard"
    state = f"{top}/sound/{sound.event_type}"
    return {
        "platform": "binary_sensor",
        "unique_id": f"{unique}_sound_{sound.event_type}",
        "name": name,
        "device_class": "safety" if sound.life_safety else "sound",
        "icon": ICONS.get(sound.event_type, "mdi:ear-hearing"),
        "default_entity_id": f"binary_sensor.{_slug(room.id)}_{_slug(sound.event_type)}",
        "state_topic": f"{state}/state",
        "json_attributes_topic": f"{state}/attributes",
        "off_delay": OFF_DELAY,  # the net for a lost OFF: ON is repeated well within it
        "qos": 1,
    }


def _trigger(sound: SoundType, top: str) -> dict[str, Any]:
    return {
        "platform": "device_automation",
        "automation_type": "trigger",
        "topic": f"{top}/trigger",
        "payload": sound.event_type,
        "type": "heard",
        "subtype": sound.event_type,
        "qos": 1,
    }


def _origin(home: Home) -> dict[str, str]:
    return {"name": "Kikimimi", "sw_version": home.version}


def _slug(name: str) -> str:
    """As Home Assistant writes entity ids: `[a-z0-9_]+`."""
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "room"
