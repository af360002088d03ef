"""The MQTT output: whatever is offered reaches the broker, now or when it is back.

`offer` never blocks. Retained states live in a table (`House`) that is published whole at each connect, so a broker or
a Home Assistant that was away always sees the present; events wait in the outbox, on disk where there is one, and say
that they are late.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from assistant.errors import ConfigurationError
from assistant.events import Command, Fact, LevelMeasured, Pictured, Publish
from assistant.outputs.announce import Announcer
from assistant.outputs.commands import Commands
from assistant.outputs.hermes import hermes_messages
from assistant.outputs.homeassistant import HomeAssistantSettings
from assistant.outputs.mqtt_client import (
    PROTOCOL_NAMES,
    Arrived,
    Connector,
    Link,
    LinkError,
    MqttSettings,
    TlsSettings,
)
from assistant.outputs.outbox import Journal, Outbox
from assistant.outputs.questions import Answer, Questions
from assistant.outputs.topics import REPEAT_EVERY, Home, House, Message
from assistant.outputs.traffic import Traffic

__all__ = ["Mqtt", "MqttSettings", "TlsSettings"]

log = logging.getLogger(__name__)

INBOX = 1000  # messages that wait for a broker in memory
SENDS = 5  # a message that so many connections did not survive is sent alone, and after as many more given up
FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0  # seconds between two attempts to connect: an alarm must not wait a minute
STABLE_AFTER = 30.0  # seconds: a connection that lasted longer was a good one
FLAPS = 3  # that many in a row that lasted less want an explanation
SUBSCRIBE_TIMEOUT = 2.0  # seconds for the broker to grant our subscriptions before we are online without
RECALL_TIMEOUT = 2.0  # seconds for the broker to hand over what an earlier run announced
BIRTH_WAIT = 5.0  # seconds: everyone answers Home Assistant's birth message, but not at the same time
CLOSE_TIMEOUT = 1.0  # seconds for DISCONNECT
CANCELLED_DRAIN = 1.0  # seconds to drain when `run` is cancelled rather than stopped


class Mqtt:
    """The MQTT output of one daemon. The constructor does nothing; `run` connects and reconnects for ever.

    Read it from `run` down: one `_connection` after the other, each of which announces, then drains, repeats and
    follows Home Assistant until it is lost or we stop. Its many small methods are the steps of that one life.
    """

    def __init__(
        self,
        settings: MqttSettings,
        home: Home,
        homeassistant_settings: HomeAssistantSettings | None = None,
        *,
        answer: Answer | None = None,
        command: Callable[[Command], None] | None = None,
        journal: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
        birth_wait: Callable[[], float] = lambda: random.uniform(0.0, BIRTH_WAIT),  # noqa: S311 - no secret
    ) -> None:
        """`answer` is asked what arrives on `<base>/ask`; None: nobody listens there.

        `command` is told, on the loop, what arrives on the command topics (`commands`); None: nobody listens there.
        `journal` keeps what must arrive until it has; None: all waits in memory.
        `clock` counts seconds; `birth_wait` says how long to wait after Home Assistant's birth message.
        """
        if settings.host is None:
            raise ConfigurationError("mqtt.url or mqtt.host is missing: say where the broker is")
        self.settings = settings
        self.home = home
        self.connected = asyncio.Event()  # set while the broker knows that we are online
        self._homeassistant = homeassistant_settings or HomeAssistantSettings()
        self._clock = clock
        self._birth_wait = birth_wait
        self._connector = Connector(settings, settings.client_id or f"kikimimi-{home.install}")
        self._house = House(home, settings.base_topic)
        self._outbox = Outbox(INBOX, journal, clock)
        self._journaled = journal is not None
        self._questions: Questions | None = None
        if answer is not None:
            self._questions = Questions(settings.base_topic, answer, self._outbox.offer, clock)
        self._commands: Commands | None = None
        if command is not None:
            self._commands = Commands(settings.base_topic, [room.id for room in home.rooms], command, clock)
        self._resend: deque[Message] = deque()
        self._link: Link | None = None
        self._said_goodbye_to: Link | None = None
        self._live = False  # the table was published on this connection: states go out one by one from now on
        self._settled_at = 0.0
        self._settled_drops = 0
        self._connects = 0
        self._expired = 0
        self._given_up = 0
        self._refused = 0
        self._cause: str | None = None  # why there is no connection, as last logged
        self._announcer = Announcer(home, settings.base_topic, self._homeassistant, clock)
        self._memory: asyncio.Future[bytes] | None = None  # what an earlier run announced
        self._birth = asyncio.Event()
        self._changed = asyncio.Event()  # it is another home than was announced
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._running = False
        self._parted = False  # the last connection was left as it should be, and what was not sent was told
        self._drain_seconds = CANCELLED_DRAIN

    def offer(self, item: Fact | Publish) -> None:
        """Take a fact or a rule's message. Never blocks; the oldest waiting message is shed when the inbox is full."""
        if isinstance(item, LevelMeasured | Pictured) and not self._live:
            return  # it would be stale, and would push out an event
        now = self._clock()
        messages = self._house.messages(item, now)
        if self.settings.hermes:
            messages += hermes_messages(item, now, transcripts=self.home.transcripts)
        for message in messages:
            if self._live or not message.state:
                self._outbox.offer(message)

    def change(self, home: Home) -> None:
        """From now on tell of this home: rooms that came are announced, what is left of those that went is removed."""
        self.home = home
        self._house.change(home)
        self._announcer.change(home)
        if self._commands is not None:
            self._commands.know(room.id for room in home.rooms)
        self._changed.set()

    @property
    def trouble(self) -> str | None:
        """Why there is no connection; None: there is one, or none was tried yet."""
        return None if self.connected.is_set() else self._cause

    @property
    def traffic(self) -> Traffic:
        """What went to the broker since the start."""
        return self._connector.traffic

    def health(self) -> Mapping[str, Any]:
        """Figures for the health topic."""
        return {
            "connected": self.connected.is_set(),
            "protocol": PROTOCOL_NAMES[self._connector.protocol] if self.connected.is_set() else None,
            "reconnects": max(0, self._connects - 1),
            "queue": self._waiting(),
            "in_flight": len(self._link.unacknowledged) if self._link is not None else 0,
            "drops": self._outbox.drops + self._given_up,
            "unkept": self._outbox.unkept,
            "expired": self._expired,
            "refused": self._refused + (self._link.refused if self._link is not None else 0),
            **(self._questions.health() if self._questions is not None else {}),
            **(self._commands.health() if self._commands is not None else {}),
        }

    @property
    def _kept(self) -> str:
        """What becomes of events that were not sent, for the log."""
        return "; events wait on disk for the next start" if self._journaled else ""

    def _waiting(self) -> int:
        return len(self._outbox) + len(self._resend)

    async def run(self) -> None:
        """Stay connected until cancelled or stopped; then say goodbye."""
        self._running = True
        for problem in self.settings.exposed:
            log.warning("MQTT: %s", problem)
        attempt = 0  # since the last connection that lasted
        flaps = 0  # connections in a row that did not last
        try:
            while not self._stop.is_set():
                began, connects = self._clock(), self._connects
                try:
                    await self._connection()
                except LinkError as error:
                    flaps += self._connects - connects
                    if self._clock() - began > STABLE_AFTER:
                        self._cause = None
                    self._report(f"{error}{self._flap_hint(flaps)}")
                if self._clock() - began > STABLE_AFTER:
                    attempt = flaps = 0
                await self._pause(_backoff(attempt))
                attempt += 1
        finally:
            if not self._parted and self._waiting():
                state = "not connected at the end" if self._connects else "never connected"
                log.warning("MQTT: %s, %d messages were not sent%s", state, self._waiting(), self._kept)
            if self._questions is not None:
                self._questions.close()
            self._running = False
            self._stopped.set()

    def go_offline(self) -> None:
        """Tell at once that service and rooms are offline and nothing sounds; what is queued still goes out."""
        messages = self._house.close(self._clock())
        if self._link is not None:
            self._said_goodbye_to = self._link
            for message in messages:
                self._send(self._link, message)

    async def stop(self, seconds: float) -> None:
        """Go offline, send what is queued for at most `seconds`, then DISCONNECT; `run` returns."""
        self.go_offline()
        self._drain_seconds = seconds
        if self._questions is not None:
            await self._questions.closed()
        self._stop.set()
        if self._running:
            await self._stopped.wait()

    # connection

    async def _connection(self) -> None:
        """One connection from CONNECT to its end. Raises `LinkError`."""
        link = await self._open_unless_stopped()
        if link is None:
            return
        self._link = link
        self._connects += 1
        try:
            try:
                await _race(self._work(link), link.broken(), self._stop.wait())
                await self._farewell(link, self._drain_seconds)
            except asyncio.CancelledError:
                await self._farewell(link, CANCELLED_DRAIN)
                raise
        finally:
            self._leave(link)

    async def _open_unless_stopped(self) -> Link | None:
        will = Message(self._house.status_topic, "offline", self._clock(), retain=True)
        opening = asyncio.create_task(
            self._connector.open(will, self._received, self._outbox.arrived), name="mqtt open"
        )
        stopping = asyncio.create_task(self._stop.wait(), name="mqtt stop")
        try:
            await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not opening.done() and self._waiting():  # a short recording can end before the broker has answered
                await asyncio.wait((opening,), timeout=self._drain_seconds)
        except asyncio.CancelledError:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            raise
        finally:
            stopping.cancel()
        if opening.done():
            return opening.result()
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        return None

    def _leave(self, link: Link) -> None:
        """Keep what the broker did not acknowledge, for the next connection."""
        self._link = None
        self._live = False
        self.connected.clear()
        self._refused += link.refused
        link.abandon()
        lost = [message for message, _ in link.unacknowledged.values() if not message.state]  # as they were sent
        for message in reversed(lost):
            if message.sends + 1 < 2 * SENDS:
                self._resend.appendleft(replace(message, sends=message.sends + 1))
            else:
                self._give_up(message)
                log.warning("MQTT: %s is given up: %d connections broke with it", message.topic, 2 * SENDS)

    def _give_up(self, message: Message) -> None:
        self._given_up += 1
        self._outbox.arrived(message)

    def _flap_hint(self, flaps: int) -> str:
        """Two clients of one name throw each other out, and not every broker says so."""
        if flaps < FLAPS:
            return ""
        name = self._connector.client_id
        return f" (again and again soon after connecting: does another client use the client_id {name!r}?)"

    def _report(self, cause: str) -> None:
        """Log a cause once, however often it repeats."""
        if cause != self._cause:
            self._cause = cause
            log.warning("MQTT: %s; trying again for ever", cause)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    # while connected

    async def _work(self, link: Link) -> None:
        await self._announce(link)
        log.info(
            "MQTT: connected to %s (MQTT %s%s)",
            self.settings.address,
            PROTOCOL_NAMES[self._connector.protocol],
            ", TLS" if self.settings.tls is not None else "",
        )
        await _race(self._drain(link), self._repeat(link), self._follow_homeassistant(link))

    async def _announce(self, link: Link) -> None:
        """States first, then what they belong to, then `online`: nobody sees a state of yesterday."""
        if self._homeassistant.discovery:
            link.subscribe(self._homeassistant.birth_topic)
        if self._questions is not None:
            link.subscribe(self._questions.topic, commands=True)
        if self._commands is not None:
            link.subscribe(*self._commands.topics, commands=True)
        await self._settle(link)
        await self._announcer.announce(partial(self._send_all, link))
        await link.subscribed(SUBSCRIBE_TIMEOUT)  # who is online can be told something
        await self._send_all(link, [self._house.status(self._clock())])
        self.connected.set()

    async def _settle(self, link: Link) -> None:
        """Publish every retained state as it is now; states that wait in the inbox are older and are skipped."""
        self._live = True
        self._settled_at = self._clock()
        self._settled_drops = self._outbox.drops
        for message in self._house.states(self._settled_at):
            await link.room()
            state = self._house.state(message.topic, self._clock())  # it may have changed meanwhile, or be gone
            if state is not None:
                self._send(link, state)

    async def _send_all(self, link: Link, messages: list[Message]) -> None:
        for message in messages:
            await link.room()
            self._send(link, message)

    def _send(self, link: Link, message: Message) -> None:
        """Send what is still worth it. A message that cannot be sent at all is logged and dropped."""
        due = message.due(self._clock())
        if due is None:
            self._expired += 1
            self._outbox.arrived(message)
            return
        try:
            link.send(due)
        except (ValueError, TypeError) as error:
            self._give_up(message)
            source = f" of rule {message.rule!r}" if message.rule else ""
            log.warning("MQTT: message to %r%s cannot be sent: %s", message.topic, source, error)

    async def _drain(self, link: Link) -> None:
        while True:
            await self._send_next(link)

    async def _send_next(self, link: Link) -> None:
        """Send the oldest waiting message. Nothing is lost when this is cancelled.

        One that many connections did not survive may be why they broke: it goes alone, so that no other is blamed.
        """
        alone = bool(self._resend) and self._resend[0].sends >= SENDS
        await (link.flushed() if alone else link.room())
        message = self._resend.popleft() if self._resend else await self._outbox.get()
        if not (message.state and message.raised < self._settled_at):
            self._send(link, message)
        if alone:
            await link.flushed()
        if self._outbox.drops != self._settled_drops and not len(self._outbox):
            await self._settle(link)  # a state may have been among what was shed

    async def _repeat(self, link: Link) -> None:
        """ON again for what lasts, so that the receiver's own time limit clears only what was lost."""
        while True:
            await asyncio.sleep(REPEAT_EVERY)
            await self._send_all(link, self._house.repeats(self._clock()))

    async def _farewell(self, link: Link, seconds: float) -> None:
        """Offline at once, then the queue, then DISCONNECT."""
        if self._said_goodbye_to is not link:
            self.go_offline()
        self._parted = True
        try:
            async with asyncio.timeout(seconds):
                if not self._live:
                    await self._settle(link)
                while self._waiting():
                    await self._send_next(link)
                await link.flushed()
        except TimeoutError:
            log.warning("MQTT: %d messages could not be sent in %.0f s%s", self._waiting(), seconds, self._kept)
        except LinkError as error:
            log.warning("MQTT: %s; %d messages were not sent%s", error, self._waiting(), self._kept)
        await link.close(CLOSE_TIMEOUT)

    # Home Assistant and what earlier runs left behind

    def _received(self, arrived: Arrived) -> None:
        if self._questions is not None and arrived.topic == self._questions.topic:
            self._questions.received(
                arrived.payload,
                retained=arrived.retained,
                response_topic=arrived.response_topic,
                correlation=arrived.correlation,
            )
        elif self._commands is not None and self._commands.takes(arrived.topic):
            if not self._house.closed:
                self._commands.received(arrived)
        elif arrived.topic == self._homeassistant.birth_topic:
            if arrived.payload == b"online" and not arrived.retained:
                self._birth.set()
        elif arrived.topic == self._announcer.memory_topic and self._memory is not None and not self._memory.done():
            self._memory.set_result(arrived.payload)

    async def _follow_homeassistant(self, link: Link) -> None:
        """Once a run, remove what is configured no longer; then announce again whenever that is needed.

        That is when Home Assistant starts and when the home changes.
        """
        if not self._announcer.swept:
            await self._announcer.sweep(partial(self._send_all, link), await self._recall(link))
        while True:
            while self._announcer.superseded:
                await self._announcer.sweep(partial(self._send_all, link), self._announcer.superseded[0])
                self._announcer.superseded.pop(0)
            await _race(self._birth.wait(), self._changed.wait())
            if self._changed.is_set():
                self._changed.clear()
            else:
                await asyncio.sleep(self._birth_wait())
                self._birth.clear()
                log.info("MQTT: Home Assistant has started, announcing again")
            await self._announce(link)

    async def _recall(self, link: Link) -> bytes:
        """What an earlier run announced, as the broker kept it."""
        self._memory = asyncio.get_running_loop().create_future()
        link.subscribe(self._announcer.memory_topic)
        try:
            async with asyncio.timeout(RECALL_TIMEOUT):
                return await self._memory
        except TimeoutError:
            return b""
        finally:
            link.unsubscribe(self._announcer.memory_topic)


def _backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, at random so that a house does not return in step."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt + 1, 10))
    return random.uniform(max(FIRST_WAIT, longest / 2), longest)  # noqa: S311 - no secret


async def _race(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run all until the first ends, cancel the others, and raise what the first raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
