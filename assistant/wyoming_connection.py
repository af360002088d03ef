"""One peer of the Wyoming server: its events in, ours out.

Events are read by `wyoming_events`, within limits, and written by the `wyoming` package. What takes long runs beside
the reading, so that `describe` and `ping` are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from wyoming.event import Event, async_write_event

from assistant.audio.source import Converter, SourceStats
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE, Samples, frozen, seconds
from assistant.wyoming_events import Refusal, decoded, event_of, form_of, pcm_of, text_of
from assistant.wyoming_services import Desk

log = logging.getLogger(__name__)

T = TypeVar("T")

PIECE = 65_536  # bytes of audio converted at once, so that one peer does not hold up the others
OUT = 2_048  # samples of speech in one event
JOBS = 8  # requests of one peer that wait
TEXT = 1_000  # characters of a sentence, and of what a voice says at once
LONGEST = 20_000  # characters of all that is to be said for one request

_LANGUAGE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]{1,8})*")
_ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[。！？\n])")


class Turn:
    """The audio of one utterance on its way in, of any format, kept as 16-bit mono at 16 kHz."""

    def __init__(self, peer: str, form: tuple[int, int, int]) -> None:
        """`form`: rate in Hz, bytes of a sample, channels."""
        self.length = 0  # samples so far
        self._form = form
        self._rest = b""
        self._kept = bytearray()  # of pieces, however small, no more than their samples
        self._converter = Converter(f"wyoming {peer}", SourceStats())

    def feed(self, payload: bytes, form: tuple[int, int, int]) -> None:
        """Take bytes; a frame may be cut anywhere."""
        if form != self._form:
            self._form, self._rest = form, b""
        rate, width, channels = form
        data = self._rest + payload
        whole = len(data) // (width * channels) * width * channels
        self._rest = data[whole:]
        if whole:
            self._keep(self._converter.feed(decoded(data[:whole], width).reshape(-1, channels), rate))

    def samples(self) -> Samples:
        """All of it."""
        self._keep(self._converter.flush())
        return frozen(decoded(bytes(self._kept), 2))

    def _keep(self, samples: Samples) -> None:
        self._kept += np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype("<i2").tobytes()
        self.length += len(samples)


@dataclass(slots=True, eq=False)
class Telling:
    """A text that is being spoken to the peer."""

    language: str | None
    streamed: bool  # the text comes in pieces, and the peer waits for `synthesize-stopped`
    text: str = ""  # what is not yet on its way to the voice
    length: int = 0  # characters so far
    rate: int = 0  # Hz, that of the first piece; 0: nothing was said yet


@dataclass(slots=True, eq=False)
class Connection:
    """A peer, from its first event to its last."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    desk: Desk
    _jobs: asyncio.Queue[Callable[[], Awaitable[None]] | None] = field(default_factory=lambda: asyncio.Queue(JOBS))
    _waiting: int = 0  # jobs that are not done
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _language: str | None = None
    _turn: Turn | None = None
    _telling: Telling | None = None
    _held: int = 0  # samples counted in the desk's

    @property
    def _peer(self) -> str:
        name = self.writer.get_extra_info("peername")
        return str(name[0]) if name else "a peer"

    async def run(self) -> None:
        """Answer until the peer goes, or does what cannot be answered."""
        receiving, working = asyncio.create_task(self._receive()), asyncio.create_task(self._work())
        try:
            await asyncio.wait({receiving, working}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
            await working
        except Refusal as refusal:
            self.desk.complaints.add(refusal.kind, f"{self._peer}: {refusal}")
            await self._farewell(str(refusal), refusal.kind)
        except (ConnectionError, TimeoutError):
            self.desk.complaints.add("lost", f"{self._peer}: the connection was lost")
        except Exception:
            self.desk.complaints.counts["failed"] += 1
            log.exception("wyoming: %s: a bug ended the connection", self._peer)
        finally:
            receiving.cancel()
            working.cancel()
            await asyncio.gather(receiving, working, return_exceptions=True)
            self.desk.held -= self._held
            self.writer.transport.abort() if self._stuck else self.writer.close()

    @property
    def _stuck(self) -> bool:
        """The peer does not take what was written: an orderly end would wait for it."""
        return self.writer.transport.get_write_buffer_size() > 0

    async def _farewell(self, text: str, code: str) -> None:
        try:
            await self._send(Event("error", {"text": text, "code": code}))
        except (OSError, TimeoutError):
            log.debug("wyoming: %s was gone before it was told", self._peer)

    async def _receive(self) -> None:
        while (event := await self._next()) is not None:
            handle = HANDLERS.get(event.type)
            if handle is None:
                log.debug("wyoming: %s: %.40r is ignored", self._peer, event.type)
            else:
                await handle(self, event)
        if self._turn is not None:
            self.desk.complaints.add("broken_off", f"{self._peer}: went before the end of its audio, which is dropped")
        await self._jobs.put(None)

    async def _next(self) -> Event | None:
        """The next event; None at the end of the connection. Raises `Refusal`."""
        limits = self.desk.limits
        while True:
            try:
                async with asyncio.timeout(limits.idle):
                    line = await self.reader.readline()
                break
            except TimeoutError:
                if not self._waiting:
                    raise Refusal("timeouts", f"nothing came for {limits.idle:.0f} s") from None
            except ValueError:
                raise Refusal("oversized", f"an event's first line is over {limits.line} bytes") from None
        if not line.endswith(b"\n"):
            return None
        return await event_of(line, self.reader, data=limits.data, payload=limits.payload, patience=limits.body)

    async def _send(self, *events: Event) -> None:
        async with asyncio.timeout(self.desk.limits.write), self._writing:
            for event in events:
                await async_write_event(event, self.writer)

    async def _work(self) -> None:
        """Requests that take long, in their order."""
        while (job := await self._jobs.get()) is not None:
            await job()
            self._waiting -= 1

    async def _later(self, job: Callable[[], Awaitable[None]]) -> None:
        self._waiting += 1
        await self._jobs.put(job)

    async def _answer(self, request: Awaitable[T], what: str) -> T:
        """What a service says, within its time. Raises `Refusal`."""
        limit = self.desk.limits.answer
        try:
            async with asyncio.timeout(limit):
                return await request
        except AssistantError as error:
            raise Refusal("failed", f"{what}: {error}") from error
        except TimeoutError:
            raise Refusal("timeouts", f"{what} took longer than {limit:.0f} s") from None
        except Exception as error:
            log.exception("wyoming: %s broke", what)
            raise Refusal("failed", f"{what} broke; the log of Kikimimi tells more") from error

    async def _describe(self, _event: Event) -> None:
        self.desk.complaints.counts["describes"] += 1
        await self._send(Event("info", self.desk.info))

    async def _ping(self, event: Event) -> None:
        await self._send(Event("pong", {"text": event.data.get("text")} if "text" in event.data else {}))

    # Speech to text

    async def _transcribe(self, event: Event) -> None:
        self._language = self._known(text_of(event, "language"))

    def _known(self, language: str | None) -> str | None:
        """An ISO 639-1 code that is recognised here; None: find out. Raises `Refusal`."""
        if language is None or language.strip().lower() in {"", "auto", "*"}:
            return None
        match = _LANGUAGE.fullmatch(language.strip())
        code = match[1].lower() if match else ""
        if code not in self.desk.languages:
            known = ", ".join(self.desk.languages)
            raise Refusal("unknown_language", f"{language[:20]!r} is not recognised here, only {known}")
        return code

    async def _audio_start(self, event: Event) -> None:
        if self._turn is not None:
            self._unexpected("audio-start within an utterance, whose audio so far is dropped")
            self._release(self._turn.length)
        self._turn = Turn(self._peer, form_of(event))

    async def _audio_chunk(self, event: Event) -> None:
        form = form_of(event)
        if self._turn is None:
            self._unexpected("audio-chunk before audio-start, taken as the start")
            self._turn = Turn(self._peer, form)
        payload, turn, limits = event.payload or b"", self._turn, self.desk.limits
        for first in range(0, len(payload), PIECE):
            before = turn.length
            turn.feed(payload[first : first + PIECE], form)
            self._held += turn.length - before
            self.desk.held += turn.length - before
            if seconds(turn.length) > limits.turn:
                raise Refusal("oversized", f"an utterance is longer than {limits.turn:.0f} s")
            if seconds(self.desk.held) > limits.held:
                raise Refusal("refused", "too much audio is being sent at once")
            await asyncio.sleep(0)

    async def _audio_stop(self, _event: Event) -> None:
        turn, self._turn = self._turn, None
        if turn is None:
            self._unexpected("audio-stop before audio-start, answered with an empty text")
            turn = Turn(self._peer, (SAMPLE_RATE, 2, 1))
        await self._later(partial(self._recognise, turn, self._language))

    async def _recognise(self, turn: Turn, language: str | None) -> None:
        self.desk.complaints.counts["utterances"] += 1
        samples = turn.samples()
        text = ""
        if samples.any():
            transcript = await self._answer(self.desk.services.transcribe(samples, language), "speech recognition")
            text, language = transcript.text, transcript.language or language
        self._release(turn.length)
        spoken_in = {} if language is None else {"language": language}
        await self._send(
            Event("transcript-start", dict(spoken_in)),
            *([Event("transcript-chunk", {"text": text})] if text else []),
            Event("transcript", {"text": text, **spoken_in}),
            Event("transcript-stop"),
        )

    def _release(self, length: int) -> None:
        length = min(length, self._held)
        self._held -= length
        self.desk.held -= length

    def _unexpected(self, what: str) -> None:
        self.desk.complaints.add("unexpected", f"{self._peer}: {what}")

    # Conversation agent

    async def _sentence(self, event: Event) -> None:
        if self._turn is not None:
            self._unexpected(f"{event.type} within an utterance, ignored")
            return
        text = text_of(event, "text")
        if text is None:
            raise Refusal("malformed", f"{event.type} without text")
        language = text_of(event, "language")
        match = _LANGUAGE.fullmatch((language or "").strip())
        await self._later(partial(self._converse, text, match[1].lower() if match else None, event.data.get("context")))

    async def _converse(self, text: str, language: str | None, context: object) -> None:
        self.desk.complaints.counts["sentences"] += 1
        told = context if isinstance(context, dict) else {}
        device, area = (told.get(key) if isinstance(told.get(key), str) else None for key in ("device_id", "area"))
        handled, said = False, ""
        if text.strip() and len(text) <= TEXT and self.desk.conversing:
            try:
                answer = await self._answer(
                    self.desk.services.converse(text.strip(), language, device=device, area=area), "the command"
                )
                handled, said = answer.handled, answer.text
            except Refusal as refusal:
                self.desk.complaints.add(refusal.kind, f"{self._peer}: {refusal}")
                said = str(refusal)
        data = {"text": said, **({"context": told} if told else {})}
        await self._send(Event("handled" if handled else "not-handled", data))

    # Text to speech

    async def _synthesize(self, event: Event) -> None:
        if self._telling is not None:
            return  # the whole text once more, for servers that do not know the streamed one
        text = text_of(event, "text")
        if text is None:
            raise Refusal("malformed", "synthesize without text")
        self.desk.complaints.counts["texts"] += 1
        telling = Telling(self._voice(event), streamed=False)
        await self._tell(telling, text)
        await self._later(partial(self._told, telling, telling.text))

    async def _synthesize_start(self, event: Event) -> None:
        self.desk.complaints.counts["texts"] += 1
        self._telling = Telling(self._voice(event), streamed=True)

    async def _synthesize_chunk(self, event: Event) -> None:
        if self._telling is None:
            self._unexpected("synthesize-chunk before synthesize-start, ignored")
            return
        await self._tell(self._telling, text_of(event, "text") or "")

    async def _synthesize_stop(self, _event: Event) -> None:
        telling, self._telling = self._telling, None
        if telling is None:
            self._unexpected("synthesize-stop before synthesize-start, ignored")
            return
        await self._later(partial(self._told, telling, telling.text))

    def _voice(self, event: Event) -> str | None:
        """The language to speak, of a voice that was named or told."""
        voice = event.data.get("voice")
        if not isinstance(voice, dict):
            return None
        for speaker in self.desk.speakers:
            if speaker.name == voice.get("name"):
                return speaker.languages[0] if len(speaker.languages) == 1 else None
        language = voice.get("language")
        match = _LANGUAGE.fullmatch(language.strip()) if isinstance(language, str) else None
        if match is None and voice:
            self._unexpected(f"voice {str(voice.get('name'))[:40]!r} is not known; another speaks")
        return match[1].lower() if match else None

    async def _tell(self, telling: Telling, text: str) -> None:
        """Take more of a text; whole sentences go to the voice at once when it is streamed, else when it is long."""
        telling.text += text
        telling.length += len(text)
        if telling.length > LONGEST:
            raise Refusal("oversized", f"a text to say is over {LONGEST} characters")
        pieces, telling.text = sentences(telling.text, 1 if telling.streamed else TEXT)
        for piece in pieces:
            await self._later(partial(self._speak, telling, piece))

    async def _speak(self, telling: Telling, text: str) -> None:
        if not any(sign.isalnum() for sign in text):
            return
        request = self.desk.services.synthesise(text.strip(), telling.language)
        spoken = await self._answer(request, "the voice")
        if not telling.rate:
            telling.rate = spoken.rate
            await self._send(Event("audio-start", {"rate": telling.rate, "width": 2, "channels": 1}))
        pcm = await asyncio.to_thread(pcm_of, spoken, telling.rate)
        form = {"rate": telling.rate, "width": 2, "channels": 1}
        for first in range(0, len(pcm), OUT):
            await self._send(Event("audio-chunk", dict(form), pcm[first : first + OUT].tobytes()))
            await asyncio.sleep(0)

    async def _told(self, telling: Telling, rest: str) -> None:
        """The text is complete: say its rest, and that this was all."""
        await self._speak(telling, rest)
        if not telling.rate and not telling.streamed:
            raise Refusal("malformed", "a text without letters and digits cannot be said")
        ends = [Event("audio-stop")] if telling.rate else []
        await self._send(*ends, *([Event("synthesize-stopped")] if telling.streamed else []))


Handler = Callable[[Connection, Event], Awaitable[None]]
HANDLERS: dict[str, Handler] = {
    "describe": Connection._describe,
    "ping": Connection._ping,
    "transcribe": Connection._transcribe,
    "audio-start": Connection._audio_start,
    "audio-chunk": Connection._audio_chunk,
    "audio-stop": Connection._audio_stop,
    "transcript": Connection._sentence,
    "recognize": Connection._sentence,
    "synthesize": Connection._synthesize,
    "synthesize-start": Connection._synthesize_start,
    "synthesize-chunk": Connection._synthesize_chunk,
    "synthesize-stop": Connection._synthesize_stop,
}


def sentences(text: str, least: int) -> tuple[Sequence[str], str]:
    """Pieces of whole sentences of `least` to `TEXT` characters, and what is left; only what has no end is cut."""
    pieces: list[str] = []
    while len(text) > least:
        ends = [match.end() for match in _ENDS.finditer(text[:TEXT]) if match.end() >= min(least, TEXT // 2)]
        if ends:
            cut = ends[-1]
        elif len(text) > TEXT:
            cut = text.rfind(" ", 1, TEXT) + 1 or TEXT
        else:
            break
        pieces.append(text[:cut])
        text = text[cut:]
    return pieces, text
