"""`kikimimi mqtt purge`: takes what this installation left on a broker, and nothing else.

Found by what the broker retains: discovery payloads with our id, the memory of what we announced, and the states of the
rooms that these or the configuration name. A base topic may be shared: rooms that another installation announced there
stay, and so do the states of the house itself as long as there is another one.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from assistant.errors import AssistantError, ConfigurationError
from assistant.outputs.announce import ROOM_STATES, recalled
from assistant.outputs.homeassistant import config_topic, node
from assistant.outputs.mqtt_client import Arrived, Connector, Link, LinkError, MqttSettings
from assistant.outputs.topics import Message

GRANT_TIMEOUT = 5.0  # seconds for the broker to answer a subscription
QUIET = 0.5  # seconds without another retained message after which all are there
LOOK_TIMEOUT = 30.0  # seconds after which no more are waited for
REMOVE_TIMEOUT = 30.0  # seconds for the broker to acknowledge all
ENTITIES_FIRST = 0.5  # seconds: Home Assistant drops a device before its states go
LOOKS = 3  # times to look whether the broker has done what it acknowledged
CLOSE_TIMEOUT = 2.0
HOUSE_STATES = ("status", "alert/state", "listening/state", "health")

Retained = dict[str, bytes]  # payload by topic


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to go and what stays."""

    install: str
    remove: tuple[str, ...]  # topics in the order in which they go
    kept: tuple[str, ...]  # other retained topics below our base topic
    others: tuple[str, ...]  # ids of other installations on the same base topic
    running: bool  # the broker says that a daemon is online


def plan_of(
    retained: Mapping[str, bytes], install: str, base: str, prefixes: Iterable[str], rooms: Iterable[str]
) -> Plan:
    """Decide. `retained` is what the broker keeps below `base` and the discovery prefixes, `rooms` are configured."""
    memory = f"{base}/announced/"
    memories = {topic.removeprefix(memory): recalled(retained[topic]) for topic in retained if topic.startswith(memory)}
    others = {other: memories[other] for other in memories if other != install}
    theirs = {room for remembered in others.values() for room in remembered["rooms"]}
    configs = {
        topic: match.group("room")
        for prefix in prefixes
        for topic, payload in retained.items()
        if (match := _config_pattern(prefix, install).fullmatch(topic)) and _is_ours(payload)
    }
    ours = {*rooms, *(room for room in configs.values() if room), *memories.get(install, {"rooms": ()})["rooms"]}
    states = [
        topic
        for room in sorted(ours - theirs)
        for topic in sorted(retained)
        if _is_state(topic.removeprefix(f"{base}/{room}/"), topic)
    ]
    house = [] if others else [topic for end in HOUSE_STATES if (topic := f"{base}/{end}") in retained]
    last = [topic for topic in (f"{memory}{install}",) if topic in retained]
    remove = (*sorted(configs, reverse=True), *states, *house, *last)  # a room's device before the hub it hangs on
    kept = tuple(sorted(topic for topic in retained if topic.startswith(f"{base}/") and topic not in remove))
    running = retained.get(f"{base}/status") == b"online"
    return Plan(install, remove, kept, tuple(sorted(others)), running)


def lines(plan: Plan, address: str) -> list[str]:
    """The plan for a person."""
    told = [f"{address}, installation {plan.install}: {len(plan.remove)} retained messages", *plan.remove]
    if plan.kept:
        told.append(f"not touched below the base topic: {', '.join(plan.kept)}")
    if plan.others:
        told.append(
            f"the base topic is shared with {', '.join(plan.others)}: what they announced stays, and the house's states"
        )
    if plan.running and not plan.others and plan.remove:
        told.append("a daemon is online: stop it first, or it tells everything again when it next connects")
    return told


def as_json(plan: Plan, address: str, stayed: Iterable[str]) -> str:
    """What was done, as one line."""
    there = set(stayed)
    return json.dumps(
        {
            "broker": address,
            "installation": plan.install,
            "removed": [topic for topic in plan.remove if topic not in there],
            "stayed": sorted(there),
            "not_touched": plan.kept,
            "shared_with": plan.others,
        },
        ensure_ascii=False,
    )


async def find(settings: MqttSettings, prefix: str, install: str, rooms: Iterable[str]) -> Plan:
    """What of the installation `install` the broker keeps. Raises `AssistantError` when it cannot be asked."""
    base, prefixes = settings.base_topic, {prefix}
    async with _connected(settings) as (link, retained):
        await _look(link, retained, f"{base}/#", f"{prefix}/device/+/config")
        earlier = recalled(retained.get(f"{base}/announced/{install}", b""))["prefix"]
        if earlier is not None and earlier != prefix:
            prefixes.add(earlier)
            await _look(link, retained, f"{earlier}/device/+/config")
        return plan_of(retained, install, base, prefixes, rooms)


async def remove(settings: MqttSettings, plan: Plan) -> tuple[str, ...]:
    """Remove what was planned; the topics that are there all the same. Raises `AssistantError`."""
    async with _connected(settings) as (link, _):
        try:
            async with asyncio.timeout(REMOVE_TIMEOUT):
                for topic in plan.remove:
                    if _starts_states(plan, topic):
                        await link.flushed()
                        await asyncio.sleep(ENTITIES_FIRST)
                    await link.room()
                    link.send(Message(topic, "", time.monotonic(), retain=True))
                await link.flushed()
        except TimeoutError:
            raise AssistantError(
                f"{settings.address} does not acknowledge within {REMOVE_TIMEOUT:.0f} s; remedy: try again"
            ) from None
    left = plan.remove
    for _ in range(LOOKS):  # the embedded broker acknowledges before it has removed
        async with _connected(settings) as (link, retained):
            await _look(link, retained, *left)
            left = tuple(topic for topic in left if topic in retained)
        if not left:
            break
    return left


def _starts_states(plan: Plan, topic: str) -> bool:
    """Whether this is the first topic after the discovery payloads."""
    index = plan.remove.index(topic)
    return index > 0 and plan.remove[index - 1].endswith("/config") and not topic.endswith("/config")


@asynccontextmanager
async def _connected(settings: MqttSettings) -> AsyncIterator[tuple[Link, Retained]]:
    """A connection of our own (never the daemon's client id, which would throw it out) and what it is told."""
    if settings.host is None:
        raise ConfigurationError("which broker? remedy: mqtt.url in the configuration, or --mqtt mqtt://user@host:port")
    retained: Retained = {}

    def received(arrived: Arrived) -> None:
        if not arrived.payload:  # it was deleted just now
            retained.pop(arrived.topic, None)
        elif arrived.retained:
            retained[arrived.topic] = arrived.payload

    try:
        link = await Connector(settings, f"kikimimi-purge-{secrets.token_hex(4)}").open(None, received)
        try:
            yield link, retained
        finally:
            await link.close(CLOSE_TIMEOUT)
    except LinkError as error:
        raise AssistantError(str(error)) from error


async def _look(link: Link, retained: Retained, *topics: str) -> None:
    """Wait until the broker has told what it retains on these topics."""
    if not topics:
        return
    link.subscribe(*topics)
    await link.subscribed(GRANT_TIMEOUT)
    known, deadline = -1, time.monotonic() + LOOK_TIMEOUT
    while len(retained) > known and time.monotonic() < deadline:
        known = len(retained)
        await asyncio.sleep(QUIET)


def _config_pattern(prefix: str, install: str) -> re.Pattern[str]:
    """Discovery topics of an installation; its id holds no underscore, so that no other one's begins with it."""
    hub = re.escape(config_topic(prefix, install)).replace(
        re.escape(node(install)), f"{node(install)}(_(?P<room>[^/]+))?"
    )
    return re.compile(hub)


def _is_ours(payload: bytes) -> bool:
    """Whether a discovery payload says that Kikimimi wrote it."""
    try:
        return bool(json.loads(payload)["origin"]["name"] == "Kikimimi")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_state(end: str, topic: str) -> bool:
    """Whether `end`, the rest of `topic` below its room, is one that we retain."""
    return end != topic and (end in ROOM_STATES or re.fullmatch(r"sound/[^/]+/(state|attributes)", end) is not None)
