"""What waits for the broker: messages that must arrive on disk, through a `Journal`; all others in memory.

The disk is the queue: what must arrive is written first and then read back in order, so that a daemon that is killed
or a broker that is away for a day changes nothing but the time. Where the disk fails, memory takes its place, bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from assistant.outputs.topics import Message

log = logging.getLogger(__name__)

PAGE = 100  # messages read from the disk at once
KEPT_WITHIN = 1.0  # seconds: an alarm does not wait longer for a disk that hangs
ASK_AGAIN = 5.0  # seconds after the disk could not be read
WARN_EVERY = 100  # the first and each hundredth message that is shed is logged


def _boot() -> str:
    """What the monotonic clock counts from: this start of the machine, where that can be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return secrets.token_hex(8)


BOOT = _boot()


class Letter(Protocol):
    """A message as it lies on the disk."""

    @property
    def number(self) -> int: ...  # noqa: D102 - later ones are larger
    @property
    def raised(self) -> float: ...  # noqa: D102 - Unix seconds
    @property
    def body(self) -> str: ...  # noqa: D102


class Journal(Protocol):
    """Keeps messages over crashes and power cuts. Every call returns at once and is answered on the loop, in order."""

    def put(self, raised: float, body: str, kept: Callable[[int | None], None]) -> None:
        """Keep a message raised at Unix second `raised`; `kept` is told its number, or None if that failed."""

    def drop(self, number: int) -> None:
        """Forget a message."""

    def after(self, number: int, limit: int, found: Callable[[Sequence[Letter] | None, int], None]) -> None:
        """Tell `found` the next `limit` messages after `number`, and how many follow those; None: it failed."""


@dataclass(slots=True, eq=False)
class _Writing:
    """A message on its way to the disk."""

    message: Message
    since: float
    gone: bool = False  # it was handed on without waiting for the disk


class Outbox:
    """One queue for one connection after the other: `offer`, then `get`, and `arrived` when the broker has it."""

    def __init__(self, size: int, journal: Journal | None, clock: Callable[[], float] = time.monotonic) -> None:
        """At most `size` messages wait in memory; without a `journal` all do. `clock` counts seconds."""
        self.size = size
        self.drops = 0  # shed because too many waited in memory
        self.unkept = 0  # must arrive, but could not be written
        self._journal = journal
        self._clock = clock
        self._prompt: deque[Message] = deque()  # in memory, before everything else
        self._page: deque[Message] = deque()  # read from the disk
        self._unkept: deque[Message] = deque()  # after what lies on the disk
        self._writing: deque[_Writing] = deque()
        self._skip: set[int] = set()  # numbers on the disk that were handed on from memory
        self._last = 0  # number of the last message read from the disk
        self._behind = 0  # so many on the disk after `_last`
        self._earlier = journal is not None  # what an earlier run left there was not looked for yet
        self._reading = False
        self._asked_at = 0.0  # when the disk was last read
        self._ask_at = 0.0  # before which it is not asked again
        self._readable = asyncio.Event()

    def __len__(self) -> int:
        """How many wait, those of an earlier run once they were looked for."""
        return len(self._prompt) + len(self._page) + len(self._unkept) + len(self._writing) + self._behind

    def offer(self, message: Message) -> None:
        """Add at once; never blocks. What must arrive can be read when it is written, all else now."""
        if message.lasting and self._journal is not None:
            writing = _Writing(message, self._clock())
            self._writing.append(writing)
            raised = time.time() - (writing.since - message.raised)
            self._journal.put(raised, encode(message), lambda number: self._kept(writing, number))
        else:
            self._wait(self._prompt, message)

    def arrived(self, message: Message) -> None:
        """The broker has it, or nobody will ever take it: forget it."""
        if message.number is not None and self._journal is not None:
            self._journal.drop(message.number)

    async def get(self) -> Message:
        """The next message. Nothing is lost when this is cancelled."""
        while (message := self._next()) is None:
            self._readable.clear()
            await self._wait_for_more()
        return message

    def _next(self) -> Message | None:
        for waiting in (self._prompt, self._page):
            if waiting:
                return waiting.popleft()
        now = self._clock()
        if self._more() and self._journal is not None and now >= self._ask_at:
            if not self._reading:
                self._reading, self._asked_at = True, now
                self._journal.after(self._last, PAGE, self._found)
            if now - self._asked_at <= KEPT_WITHIN:
                return None
        if self._unkept:
            return self._unkept.popleft()
        if self._writing and now - self._writing[0].since > KEPT_WITHIN:  # the disk has had its time
            writing = self._writing.popleft()
            writing.gone = True
            self.unkept += 1
            return writing.message
        return None

    async def _wait_for_more(self) -> None:
        """Until something happened, or it is time to look again."""
        patient = not self._writing and (self._reading or not self._more())
        try:
            async with asyncio.timeout(None if patient else KEPT_WITHIN / 2):
                await self._readable.wait()
        except TimeoutError:
            return

    def _more(self) -> bool:
        """Whether the disk holds more, as far as is known."""
        return self._earlier or self._behind > 0

    def _kept(self, writing: _Writing, number: int | None) -> None:
        """The answer of the disk, in the order of the questions."""
        if writing.gone:
            if number is not None and self._journal is not None:
                self._journal.drop(number)
                if self._reading:  # that page may hold it still
                    self._skip.add(number)
            return
        self._writing.remove(writing)
        if number is None:
            self.unkept += 1
            self._wait(self._unkept, writing.message)
        else:
            self._behind += 1
            self._readable.set()

    def _found(self, letters: Sequence[Letter] | None, behind: int) -> None:
        """A page of the disk. What was written after it was read is told later, by `_kept`."""
        self._reading = False
        self._readable.set()
        if letters is None:
            self._ask_at = self._clock() + ASK_AGAIN
            return
        self._behind, self._earlier = behind, False
        for letter in letters:
            self._last = letter.number
            if letter.number not in self._skip and (message := self._decoded(letter)) is not None:
                self._page.append(message)
        self._skip.clear()

    def _decoded(self, letter: Letter) -> Message | None:
        try:
            return replace(decode(letter.body, time.time() - letter.raised, self._clock()), number=letter.number)
        except (ValueError, TypeError, KeyError):
            log.exception("MQTT: message %d on the disk cannot be read; it is given up", letter.number)
            if self._journal is not None:
                self._journal.drop(letter.number)
            return None

    def _wait(self, waiting: deque[Message], message: Message) -> None:
        if len(waiting) >= self.size:
            waiting.popleft()
            self.drops += 1
            if self.drops % WARN_EVERY == 1:
                log.warning("mqtt inbox: full at %d, %d shed so far", self.size, self.drops)
        waiting.append(message)
        self._readable.set()


def encode(message: Message) -> str:
    """A message as it lies on the disk. Its payload is a text or a mapping."""
    body = {
        "topic": message.topic,
        "payload": message.payload,
        "qos": message.qos,
        "retain": message.retain,
        "expiry": message.expiry,
        "rule": message.rule,
        "raised": message.raised,
        "boot": BOOT,
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace").decode()  # half a surrogate pair becomes an escape of JSON


def decode(body: str, age: float, now: float) -> Message:
    """The message that `encode` wrote, `age` seconds ago by the calendar; it is `now` of the clock.

    Calendars jump when NTP sets them and stand still where no battery keeps them: what may be old is taken to be old.
    Raises ValueError, TypeError or KeyError.
    """
    values = json.loads(body)
    payload = values["payload"]
    if values.get("boot") == BOOT:
        age = max(age, now - float(values["raised"]))
    elif age < 0.0:
        age = math.inf
    raised = now - max(0.0, age)
    if not isinstance(values["topic"], str) or not isinstance(payload, str | dict):
        raise ValueError("neither topic nor payload of a message")  # noqa: TRY004 - a file, not a caller, is wrong
    return Message(
        values["topic"],
        payload,
        raised,
        qos=int(values["qos"]),
        retain=bool(values["retain"]),
        expiry=values["expiry"],
        rule=str(values["rule"]),
        lasting=True,
    )
