"""What is to be said aloud: texts become speech and are played in their room, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from pydantic import Field

from assistant.errors import AssistantError
from assistant.events import Say
from assistant.settings import Settings
from assistant.voices.voice import Spoken, Voice

log = logging.getLogger(__name__)

QUEUE = 8  # texts that wait in one room
STALE_SECONDS = 30.0  # what was to be said so long ago is no longer true
PLAY_SECONDS = 10.0  # after its duration a speaker must have ended
CACHED = 32  # short texts whose speech is kept
CACHED_SECONDS = 6.0  # longest speech that is kept: 32 of them at 24 kHz are 18 MB


class PiperSettings(Settings):
    """Piper, when it speaks."""

    program: str = Field(default="piper", min_length=1, description="the program: a name on PATH, or its path")
    voice: str | None = Field(
        default=None,
        min_length=1,
        description="the .onnx file of a voice, its .onnx.json beside it; or a name such as en_US-joe-medium, which is "
        "fetched from the Hugging Face hub",
    )


class SaySettings(Settings):
    """Spoken replies."""

    enabled: bool = Field(default=True, description="false: nothing is said aloud")
    engine: Literal["espeak", "piper", "kokoro"] = Field(default="espeak", description="who speaks")
    piper: PiperSettings = PiperSettings()


class Speaker(Protocol):
    """Where speech is played: a sound card, a satellite."""

    async def play(self, speech: Spoken) -> None:
        """Play `speech` and return when it was heard to its end; a cancel silences it at once.

        Raises `AssistantError` that names the device and the remedy.
        """


@dataclass(slots=True, eq=False)
class _Item:
    """A text on its way."""

    say: Say
    offered: float  # monotonic seconds
    speech: Spoken | None = None


class Speaking:
    """Speaks texts in their rooms: one at a time in each, the next synthesised while one is played.

    A room keeps the `QUEUE` newest texts; what waited longer than `STALE_SECONDS` is not said any more. Both are
    counted. A voice or a speaker that fails is one log line, later failures are only counted.
    """

    def __init__(
        self,
        settings: SaySettings,
        voice: Voice,
        speakers: Mapping[str, Speaker],
        *,
        began: Callable[[str, str, Spoken], None] = lambda _room, _text, _speech: None,
        ended: Callable[[str, Say], None] = lambda _room, _say: None,
    ) -> None:
        """`speakers` by room, looked at whenever a text comes, so it may change.

        `began` is called with room, text and speech right before it is played, `ended` always after it, however it
        ended. Both are called from the loop and must not raise.
        """
        self.said = 0
        self.failed = 0
        self.dropped = 0  # too many waited
        self.stale = 0  # waited too long
        self.unheard = 0  # no speaker in the room
        self._enabled = settings.enabled
        self._voice = voice
        self._speakers = speakers
        self._began = began
        self._ended = ended
        self._queues: dict[str, deque[_Item]] = {}
        self._playing: dict[str, asyncio.Task[None]] = {}
        self._making: tuple[_Item, asyncio.Task[None]] | None = None
        self._cache: OrderedDict[tuple[str, str | None], Spoken] = OrderedDict()
        self._told: set[str] = set()
        self._changed = asyncio.Event()
        self._closing = False
        self._ended_run = asyncio.Event()
        self._ended_run.set()  # until `run` is called

    def offer(self, say: Say) -> None:
        """Take a text; never blocks. A room without a speaker is one log line."""
        if not self._enabled or self._closing:
            return
        rooms = list(self._speakers) if say.room is None else [say.room]
        item = _Item(say, time.monotonic())
        for room in rooms:
            if room not in self._speakers:
                self.unheard += 1
                self._tell(
                    f"no {room}", f"{room}: nothing is said, the room has no speaker; remedy: rooms.{room}.speaker"
                )
                continue
            queue = self._queues.setdefault(room, deque())
            if len(queue) >= QUEUE:
                queue.popleft()
                self.dropped += 1
                self._tell(f"full {room}", f"{room}: {QUEUE} texts wait to be said, the oldest is dropped")
            queue.append(item)
        self._changed.set()

    def hush(self, room: str) -> bool:
        """Somebody speaks: silence `room` at once and forget the replies that wait there. Whether anything was."""
        queue = self._queues.get(room, deque())
        kept = [item for item in queue if not item.say.reply]
        forgotten = len(queue) - len(kept)
        queue.clear()
        queue.extend(kept)
        playing = self._playing.get(room)
        if playing is not None:
            playing.cancel()
        self._changed.set()
        return playing is not None or forgotten > 0

    def playing(self, room: str) -> bool:
        """Whether something is being said there."""
        return room in self._playing

    async def run(self) -> None:
        """Speak until stopped or cancelled."""
        self._ended_run.clear()
        try:
            await self._run()
        finally:
            self._ended_run.set()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            try:
                while not (self._closing and self._idle()):
                    self._advance(group)
                    await self._changed.wait()
                    self._changed.clear()
            finally:
                for task in self._tasks():
                    task.cancel()

    async def stop(self, seconds: float) -> None:
        """Say what is left for at most `seconds`; `run` returns, and the engines' processes end."""
        self._closing = True
        self._changed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended_run.wait()
        self._queues.clear()
        for task in self._tasks():
            task.cancel()
        self._changed.set()
        await self._voice.close()

    def health(self) -> dict[str, int]:
        """Counters since the start, and what waits."""
        return {
            "said": self.said,
            "failed": self.failed,
            "dropped": self.dropped + self.stale + self.unheard,
            "waiting": sum(len(queue) for queue in self._queues.values()),
        }

    def _idle(self) -> bool:
        return not self._playing and self._making is None and not any(self._queues.values())

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._playing.values(), *([self._making[1]] if self._making is not None else [])]

    def _advance(self, group: asyncio.TaskGroup) -> None:
        """Start whatever can be started."""
        self._shed()
        waiting = [item for queue in self._queues.values() for item in queue]
        if self._making is not None and self._making[0] not in waiting:
            self._making[1].cancel()  # nobody wants it any more
        if self._making is None and (unmade := [item for item in waiting if item.speech is None]):
            first = min(unmade, key=lambda item: item.offered)
            task = group.create_task(self._make(first), name="synthesise")
            self._making = first, task
            task.add_done_callback(self._made)
        for room, queue in self._queues.items():
            if room in self._playing or not queue or queue[0].speech is None:
                continue
            task = group.create_task(self._play(room, queue.popleft()), name=f"say in {room}")
            self._playing[room] = task
            task.add_done_callback(partial(self._played, room))

    def _shed(self) -> None:
        now = time.monotonic()
        for room, queue in self._queues.items():
            while queue and now - queue[0].offered > STALE_SECONDS:
                queue.popleft()
                self.stale += 1
                self._tell(f"stale {room}", f"{room}: a text waited longer than {STALE_SECONDS:.0f} s and is not said")

    def _made(self, _task: asyncio.Task[None]) -> None:
        self._making = None
        self._changed.set()

    def _played(self, room: str, _task: asyncio.Task[None]) -> None:
        self._playing.pop(room, None)
        self._changed.set()

    async def _make(self, item: _Item) -> None:
        key = item.say.text, item.say.language
        if key in self._cache:
            self._cache.move_to_end(key)
            item.speech = self._cache[key]
            return
        try:
            item.speech = await self._voice.synthesise(*key)
        except AssistantError as error:
            self._fail("voice", str(error))
        except Exception:
            log.exception("a text could not be made speech")
            self.failed += 1
        else:
            if item.speech.seconds <= CACHED_SECONDS:
                self._cache[key] = item.speech
                while len(self._cache) > CACHED:
                    self._cache.popitem(last=False)
        if item.speech is None:
            for queue in self._queues.values():
                if item in queue:
                    queue.remove(item)

    async def _play(self, room: str, item: _Item) -> None:
        speech, speaker = item.speech, self._speakers.get(room)
        if speech is None or speaker is None:
            return
        self._began(room, item.say.text, speech)
        try:
            async with asyncio.timeout(speech.seconds + PLAY_SECONDS):
                await speaker.play(speech)
            self.said += 1
        except TimeoutError:
            self._fail(room, f"{room}: the speaker did not end within {PLAY_SECONDS:.0f} s after the speech")
        except AssistantError as error:
            self._fail(room, f"{room}: {error}")
        except Exception:
            log.exception("%s: the speaker failed", room)
            self.failed += 1
        finally:
            self._ended(room, item.say)

    def _fail(self, who: str, message: str) -> None:
        self.failed += 1
        self._tell(who, message)

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s (later ones are only counted)", message)
