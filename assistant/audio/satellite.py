"""Wyoming satellites as sources: we connect to one, as Home Assistant would, and it streams what it hears.

Protocol: https://github.com/OHF-Voice/wyoming. A satellite streams always, from when it hears a voice, or from when it
hears a wake word; in the last two cases until it is sent a `transcript`, and nothing arrives in between. The stream has
one clock all the same: after a pause `Chunk.start` jumps by as much time as went by.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
from wyoming.event import Event, async_write_event

from assistant.audio.address import without_secrets
from assistant.audio.source import CHUNK, Chunker, Converter, SourceStats
from assistant.channel import Channel, ClosedError
from assistant.errors import SourceError
from assistant.events import SAMPLE_RATE, Chunk, seconds
from assistant.voices.voice import Spoken
from assistant.waiting import at_most
from assistant.wyoming_events import RATES, Refusal, decoded, event_of, form_of, pcm_of, text_of

log = logging.getLogger(__name__)

PORT = 10700
BACKOFF = (0.5, 8.0)  # seconds, give or take a fifth: first and longest wait before it is tried again
CONNECT_SECONDS = 5.0
INFO_SECONDS = 5.0  # satellites ask their own wake word service before they answer
PING_SECONDS = 2.0
PONG_SECONDS = 5.0  # without a pong it is gone
WRITE_SECONDS = 5.0  # for it to take what it is sent
BODY_SECONDS = 5.0  # for the rest of an event whose first line is there
FAREWELL_SECONDS = 0.5  # for it to hear that nobody listens any more
LINE, DATA, PAYLOAD = 65_536, 262_144, 262_144  # bytes of an event's parts; two seconds of audio are 64,000
HELD_PIECES = 200  # about 12 s between the connection and whoever takes the chunks
UNTOLD = 32  # events that wait to be sent
BURST_SECONDS = 0.1  # what a satellite has kept from before the voice comes at once, within that time
PAUSE_SECONDS = 1.0  # without audio: it has stopped streaming, and not all satellites say so
PADDING_SECONDS = 5.0  # of silence after a stretch of audio, so that what was heard in it ends
END_SECONDS = 4.0  # of silence given at once when it says that it stops; longest hangover of an utterance: 3
TURN_SECONDS = 10.0  # after a wake word somebody speaks, or the turn is over
SPEAKING_SECONDS = 45.0  # longer than any utterance
ANSWER_SECONDS = 15.0  # after somebody spoke there is a transcript, or the turn is over
PLAY_PIECE = 0.1  # seconds of a reply in one event
PLAY_AHEAD = 0.4  # seconds that a reply is sent ahead: what a wireless network may take, and what barge-in cannot stop
PLAYED_SECONDS = 5.0  # after its duration a reply was played; some satellites never say so

Form = tuple[int, int, int]  # Hz, bytes of a sample, channels


@dataclass(frozen=True, slots=True)
class Piece:
    """Audio as it came; without data: the satellite has stopped streaming."""

    data: bytes
    form: Form

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        rate, width, channels = self.form
        return len(self.data) / (rate * width * channels)

    def without_zeros(self, most: float) -> Piece:
        """It, but for zeros at its beginning, at most so many seconds of them: nothing had been kept there yet."""
        rate, width, channels = self.form
        zeros = len(self.data) - len(self.data.lstrip(b"\0"))
        frames = min(zeros // (width * channels), round(max(0.0, most) * rate))
        return Piece(self.data[frames * width * channels :], self.form)


class Stretches:
    """Audio that comes in stretches, as chunks of one stream on one clock. Pure: `now` is in seconds since it began."""

    def __init__(self, room: str, name: str, stats: SourceStats) -> None:
        self._chunker = Chunker(room, name)
        self._converter = Converter(name, stats)
        self._form: Form | None = None
        self._rest = b""  # a part of a frame
        self._told = 0.0  # what happened until then is in the stream, or left out of it
        self._ahead = 0.0  # seconds that the stream is ahead of the clock: silence was given, then audio came late
        self._since: float | None = None  # when audio last came; None: nothing more is expected

    def position(self, now: float) -> int:
        """Samples of the stream so far, as if audio came now."""
        gap = now - self._told if self._since is None or now - self._since > PAUSE_SECONDS else 0.0
        return self._chunker.end + round(max(0.0, gap) * SAMPLE_RATE)

    def patience(self, now: float) -> float | None:
        """Seconds from now after which `pad` has something to say; None: not before more audio."""
        if self._since is None:
            return None
        return max(0.0, self._since + PAUSE_SECONDS - now, self._told + seconds(CHUNK) - now)

    def paused(self, now: float) -> bool:
        """Whether the next piece begins a new stretch."""
        return self._since is None or now - self._since > PAUSE_SECONDS

    def begin(self, pieces: list[Piece], now: float) -> Iterator[Chunk]:
        """A new stretch, of which `pieces` are there by now."""
        gap = now - self._told - sum(piece.seconds for piece in pieces)
        if gap < 0:
            pieces = [pieces[0].without_zeros(-gap), *pieces[1:]]
            gap = now - self._told - sum(piece.seconds for piece in pieces)
        self._ahead = max(0.0, -gap)
        if gap > 0:
            yield from self.lose(gap)
        for piece in pieces:
            yield from self.feed(piece, now)

    def lose(self, lost: float) -> Iterator[Chunk]:
        """So many seconds are missing before the next piece."""
        yield from self._flush()
        self._chunker.skip_to(self._chunker.end + round(lost * SAMPLE_RATE))

    def feed(self, piece: Piece, now: float) -> Iterator[Chunk]:
        """The chunks that are full. A frame may be cut anywhere."""
        rate, width, channels = piece.form
        if piece.form != self._form:
            self._form, self._rest = piece.form, b""
        data = self._rest + piece.data
        whole = len(data) // (width * channels) * width * channels
        self._rest = data[whole:]
        self._since, self._told = now, now + self._ahead
        if whole:
            block = decoded(data[:whole], width).reshape(-1, channels)
            yield from self._chunker.feed(self._converter.feed(block, rate))
        self._chunker.align(time.time())

    def pad(self, now: float) -> Iterator[Chunk]:
        """Silence for the time since the last audio; after `PADDING_SECONDS` nothing more."""
        self._rest = b""
        silence = np.zeros(round(max(0.0, now - self._told) * SAMPLE_RATE), np.float32)
        self._told = max(now, self._told)
        yield from self._chunker.feed(np.concatenate((self._converter.flush(), silence)))
        if self._since is not None and now - self._since >= PADDING_SECONDS:
            self._since = None
            yield from self._chunker.flush()

    def stop(self, now: float, going_on: Callable[[], bool]) -> Iterator[Chunk]:
        """The stretch is over: silence while an utterance is `going_on`, then as `pad`."""
        if self._since is None:
            return
        self._since = min(self._since, now - PAUSE_SECONDS)
        yield from self.pad(now)
        for _ in range(math.ceil(END_SECONDS * SAMPLE_RATE / CHUNK)):
            if not going_on():
                break
            self._told += seconds(CHUNK)
            yield from self._chunker.feed(np.zeros(CHUNK, np.float32))

    def _flush(self) -> Iterator[Chunk]:
        self._rest = b""
        yield from self._chunker.feed(self._converter.flush())
        yield from self._chunker.flush()


@dataclass(slots=True, eq=False)
class Link:
    """A connection to a satellite. What is sent through it raises `OSError` or `TimeoutError` when it is gone."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pong: asyncio.Event = field(default_factory=asyncio.Event)
    played: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False
    untold: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(UNTOLD))
    complained: bool = False  # it told an error
    name: str = "a satellite"
    dropped: int = 0  # events that it did not take in time
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def send(self, event: Event) -> None:
        """Write one event."""
        if self.lost:
            raise ConnectionError("it is gone")
        async with asyncio.timeout(WRITE_SECONDS), self._writing:
            await async_write_event(event, self.writer)

    def tell(self, event: Event) -> None:
        """Have an event sent soon; never blocks."""
        try:
            self.untold.put_nowait(event)
        except asyncio.QueueFull:
            self.dropped += 1
            if self.dropped == 1:
                log.warning("%s: takes nothing: %d events wait, later ones are dropped", self.name, UNTOLD)

    async def next(self) -> Event | None:
        """The next event; None at the end of the connection. Raises `Refusal` for what cannot be read."""
        try:
            line = await self.reader.readline()
        except ValueError:
            raise Refusal("oversized", f"an event's first line is over {LINE} bytes") from None
        if not line.endswith(b"\n"):
            if line:
                raise Refusal("broken_off", "went in the middle of an event")
            return None
        return await event_of(line, self.reader, data=DATA, payload=PAYLOAD, patience=BODY_SECONDS)

    def close(self) -> None:
        """End it; whoever waits for it goes on."""
        self.lost = True
        self.played.set()
        # An orderly end would wait for a peer that does not take what was written.
        self.writer.transport.abort() if self.writer.transport.get_write_buffer_size() else self.writer.close()


class Satellite:
    """One satellite, which is its room's loudspeaker too (`assistant.commanding.Turns`)."""

    live = True
    backoff = BACKOFF

    def __init__(self, room: str, url: str) -> None:
        self.room = room
        self.name = without_secrets(url)
        self.stats = SourceStats()
        self.on_wake: Callable[[int, str], None] = lambda _position, _word: None
        self.on_ready: Callable[[], None] = lambda: None
        self._url = url
        self._link: Link | None = None
        self._began = 0.0  # monotonic seconds of sample 0
        self._stretches = Stretches(room, self.name, self.stats)
        self._woken = -math.inf  # when it told a wake word of its own
        self._speaking = False
        self._turn = False  # it was told, or told, that somebody commands
        self._deadline: asyncio.TimerHandle | None = None  # when the turn is over anyway
        self._rate: int | None = None  # Hz that it plays at, if it tells

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks while it streams. Raises `SourceError` when it cannot be reached, goes, or sends what it must not."""
        link = self._link = await self._connected()
        self._began = time.monotonic()
        self._stretches = Stretches(self.room, self.name, self.stats)
        held: Channel[Piece] = Channel(self.name, HELD_PIECES, weigh=lambda piece: piece.seconds)
        talking = asyncio.create_task(self._talk(link, held), name=f"satellite {self.name}")
        self.on_ready()
        try:
            while True:
                try:
                    async with asyncio.timeout(self._stretches.patience(self._now())):
                        piece: Piece | None = await held.get()
                except TimeoutError:
                    piece = None
                except ClosedError:
                    break
                if piece is not None and piece.data and self._stretches.paused(self._now()):
                    await asyncio.sleep(BURST_SECONDS)
                    pieces = [piece]
                    while len(held) and pieces[-1].data:
                        pieces.append(await held.get())
                    self._missed(held)  # in the pause, which is skipped anyway
                    for chunk in self._stretches.begin([one for one in pieces if one.data], self._now()):
                        yield chunk
                    piece = pieces[-1] if not pieces[-1].data else None
                elif piece is None:
                    for chunk in self._stretches.pad(self._now()):
                        yield chunk
                if piece is not None:
                    for chunk in self._cut(piece, held):
                        yield chunk
            await talking
        finally:
            self._end_turn()
            self._link = None
            await self._farewell(link, talking)

    def _cut(self, piece: Piece, held: Channel[Piece]) -> Iterator[Chunk]:
        if lost := self._missed(held):
            yield from self._stretches.lose(lost)
        if piece.data:
            yield from self._stretches.feed(piece, self._now())
        else:
            yield from self._stretches.stop(self._now(), lambda: self._speaking)

    def _missed(self, held: Channel[Piece]) -> float:
        """Count what was shed since the last time, in seconds."""
        lost = held.shed - self.stats.lost_seconds
        self.stats.overruns, self.stats.lost_seconds = held.drops, held.shed
        return lost

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _farewell(self, link: Link, talking: asyncio.Task[None]) -> None:
        """Tell it that nobody listens any more, if it is still there, and close."""
        if not talking.done():
            with suppress(OSError, TimeoutError):
                await at_most(FAREWELL_SECONDS, self._goodbye(link, talking))
        talking.cancel()
        link.close()
        await asyncio.wait((talking,))
        if not talking.cancelled():
            talking.exception()  # told already, or of no interest any more

    async def _goodbye(self, link: Link, talking: asyncio.Task[None]) -> None:
        await link.send(Event("pause-satellite"))
        link.writer.write_eof()
        # To close on what it still sends would reset the connection, and it might never read this.
        await asyncio.wait((talking,))

    # the connection

    async def _connected(self) -> Link:
        """A link to a satellite that was told to run. Raises `SourceError`."""
        host, port = self._where()
        link = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                link = Link(*await asyncio.open_connection(host, port, limit=LINE), name=self.name)
            async with asyncio.timeout(INFO_SECONDS):
                await self._introduced(link)
            await link.send(Event("run-satellite"))
        except BaseException as error:
            if link is not None:
                link.close()
            match error:
                case TimeoutError():
                    what = "does not say what it is" if link is not None else "does not answer"
                    raise self._failed(f"{what} within {CONNECT_SECONDS:.0f} s", "check address and firewall") from None
                case OSError():
                    reason = error.strerror or str(error) or type(error).__name__
                    raise self._failed(f"cannot be reached ({reason})", "check the address and that it runs") from error
                case Refusal():
                    raise self._failed(str(error), "check that a Wyoming satellite is there") from None
            raise
        return link

    async def _introduced(self, link: Link) -> None:
        await link.send(Event("describe"))
        while (event := await link.next()) is not None:
            if event.type == "info":
                if not isinstance(event.data.get("satellite"), dict):
                    offers = ", ".join(key for key, value in event.data.items() if value and value is not True)
                    raise self._failed(f"is no satellite, it offers {plain(offers) or 'nothing'}", "another port")
                return
            if event.type == "ping":
                await link.send(Event("pong", {"text": text_of(event, "text")}))
        raise Refusal("lost", "closed the connection before it said what it is; does it serve somebody else?")

    def _where(self) -> tuple[str, int]:
        try:
            parts = urlsplit(self._url)
            host, port = parts.hostname, parts.port or PORT
        except ValueError as error:
            raise self._failed(f"is no address ({error})", f"wyoming://HOST or wyoming://HOST:{PORT}") from None
        if not host:
            raise self._failed("names no host", f"wyoming://HOST or wyoming://HOST:{PORT}")
        return host, port

    def _failed(self, what: str, remedy: str) -> SourceError:
        return SourceError(f"{self.name}: {what}; remedy: {remedy}")

    async def _talk(self, link: Link, held: Channel[Piece]) -> None:
        """Read, ping and write until one of them ends. Raises `SourceError`."""
        parts = [asyncio.create_task(part) for part in (self._receive(link, held), self._ping(link), self._write(link))]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()
        except Refusal as refusal:
            raise self._failed(str(refusal), "update the satellite, or check that it is one") from None
        except TimeoutError:
            raise self._failed(f"took nothing for {WRITE_SECONDS:.0f} s", "restart it, check its network") from None
        except OSError as error:
            raise self._failed(f"the connection broke ({error.strerror or error})", "check that it runs") from None
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            link.close()
            held.close()

    async def _write(self, link: Link) -> None:
        while True:
            await link.send(await link.untold.get())

    async def _ping(self, link: Link) -> None:
        while True:
            link.pong.clear()
            await link.send(Event("ping"))
            try:
                async with asyncio.timeout(PONG_SECONDS):
                    await link.pong.wait()
            except TimeoutError:
                raise self._failed(f"no pong within {PONG_SECONDS:.0f} s", "restart it, check its network") from None
            await asyncio.sleep(PING_SECONDS)

    async def _receive(self, link: Link, held: Channel[Piece]) -> None:
        streaming = False  # since it last said that it stopped
        while (event := await link.next()) is not None:
            match event.type:
                case "audio-chunk":
                    form = form_of(event)
                    if event.payload:
                        held.offer(Piece(event.payload, form))
                        streaming = True
                    await asyncio.sleep(0)  # one that floods us must not hold up the others
                case "audio-start":
                    form_of(event)
                case "audio-stop" | "streaming-stopped" if streaming:
                    held.offer(Piece(b"", (SAMPLE_RATE, 2, 1)))
                    streaming = False
                case "pong":
                    link.pong.set()
                case "ping":
                    link.tell(Event("pong", {"text": text_of(event, "text")}))
                case "played":
                    link.played.set()
                case "detection":
                    self._wake(text_of(event, "name") or "a wake word")
                case "run-pipeline":
                    self._run_pipeline(event)
                case "error":
                    level = logging.DEBUG if link.complained else logging.WARNING
                    log.log(level, "%s: the satellite tells an error: %.200r", self.name, text_of(event, "text"))
                    link.complained = True
                case _:
                    log.debug("%s: %.40r is ignored", self.name, event.type)
        raise self._failed("closed the connection", "check that it runs, and that it serves nobody else")

    # turns

    def _run_pipeline(self, event: Event) -> None:
        form = event.data.get("snd_format")  # of older satellites
        rate = form.get("rate") if isinstance(form, dict) else None
        if type(rate) is int and RATES[0] <= rate <= RATES[1]:
            self._rate = rate
        # A `detection` before it has told the wake word already; without one somebody pressed a button.
        if event.data.get("start_stage") == "asr" and self._now() - self._woken > TURN_SECONDS / 2:
            self._wake(text_of(event, "wake_word_name") or "its button")

    def _wake(self, word: str) -> None:
        """It heard a wake word itself, or was asked to listen."""
        self._woken = self._now()
        self.on_wake(self._stretches.position(self._woken), plain(word))
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._turn = True
        self._tell(Event("transcribe"))
        self._over_in(TURN_SECONDS)

    def _end_turn(self) -> None:
        self._turn, self._woken = False, -math.inf
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _over_in(self, delay: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(delay, self.turn_ended, "")

    def _tell(self, event: Event) -> None:
        if self._link is not None:
            self._link.tell(event)

    def position(self) -> int:
        """Samples of its stream so far, as if audio came now; 0 while it is not connected."""
        return 0 if self._link is None else self._stretches.position(self._now())

    def detected(self, name: str, position: int) -> None:
        """A wake word was heard in what it streams."""
        self._tell(Event("detection", {"name": name, "timestamp": round(1000 * seconds(position))}))
        self._begin_turn()

    def voice_started(self, position: int) -> None:
        """Somebody speaks."""
        self._speaking = True
        if self._turn:
            self._tell(Event("voice-started", {"timestamp": round(1000 * seconds(position))}))
            self._over_in(SPEAKING_SECONDS)

    def voice_stopped(self, position: int) -> None:
        """Nobody speaks any more."""
        self._speaking = False
        if self._turn:
            self._tell(Event("voice-stopped", {"timestamp": round(1000 * seconds(position))}))
            self._over_in(ANSWER_SECONDS)

    def turn_ended(self, text: str) -> None:
        """What was said, or an empty text: it goes back to its wake word."""
        self._end_turn()
        self._tell(Event("transcript", {"text": text}))

    # replies

    async def play(self, speech: Spoken) -> None:
        """Play `speech` there and return when it says that it did. Raises `SourceError` when it is gone.

        A cancel silences it as soon as it has played what it was sent ahead.
        """
        link = self._link
        if link is None:
            raise self._failed("is not connected, so it says nothing", "check that it runs")
        rate = self._rate or speech.rate
        pcm = await asyncio.to_thread(pcm_of, speech, rate)
        form = {"rate": rate, "width": 2, "channels": 1}
        began = time.monotonic()
        try:
            await link.send(Event("audio-start", {**form, "timestamp": 0}))
            step = round(PLAY_PIECE * rate)
            for first in range(0, len(pcm), step):
                await asyncio.sleep(max(0.0, first / rate - PLAY_AHEAD - (time.monotonic() - began)))
                await link.send(Event("audio-chunk", dict(form), pcm[first : first + step].tobytes()))
            link.played.clear()  # until now it was an earlier text, one that was silenced
            await link.send(Event("audio-stop", {"timestamp": round(1000 * speech.seconds)}))
        except asyncio.CancelledError:
            link.tell(Event("audio-stop"))
            raise
        except OSError:  # a timeout too
            raise self._failed("went before it had played a text", "check that it runs") from None
        try:
            async with asyncio.timeout(max(0.0, began + speech.seconds + PLAYED_SECONDS - time.monotonic())):
                await link.played.wait()
        except TimeoutError:
            log.info("%s: did not say that it played a text; it is taken for played", self.name)
        if link.lost:
            raise self._failed("went before it had played a text", "check that it runs")


def plain(text: str) -> str:
    """What a satellite tells, for a log line: short, and without line breaks."""
    return "".join(sign for sign in text if sign.isprintable())[:60]
