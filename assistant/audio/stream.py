"""Network streams (RTSP, HTTP and what else FFmpeg speaks), read in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from assistant.audio.address import without_secrets
from assistant.audio.frames import planes
from assistant.audio.source import Block, Gathering, Pace, SourceStats, Splicer, late
from assistant.channel import Channel
from assistant.errors import SourceError
from assistant.events import Chunk

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

OPEN_SECONDS = 8.0  # until the peer has answered and the format is known
READ_SECONDS = 8.0  # without a packet
# FFmpeg looks at up to 5 s of a stream before its first frame, mostly for the sake of pictures; sound is known at once.
ANALYSE_MICROSECONDS = "500000"
LEAD_SECONDS = 2.0  # a peer that sends faster than real time (a file, a radio's first burst) is read this far ahead
HELD_FRAMES = 1_000  # between the thread and whoever takes the chunks
HELD_SECONDS = 20.0  # at most, however much a frame holds
BACKOFF = (1.0, 15.0)  # seconds, give or take a fifth: first and longest wait before it is tried again
GAP_SECONDS = 0.1, 3600.0  # a jump of the time stamps between these is lost audio; a larger one is a new clock


class Stream:
    """One network stream. Login and query of its URL never leave this object."""

    live = True
    backoff = BACKOFF

    def __init__(self, room: str, url: str) -> None:
        self.room = room
        self.name = without_secrets(url)
        self.stats = SourceStats()
        self.pace = Pace()
        self._url = url
        self._failure: SourceError | None = None
        self._stopped = threading.Event()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunks until the peer ends the stream. Raises `SourceError` when it cannot be reached, stalls or breaks.

        An HTTP peer that told no length and closes has broken off, as FFmpeg sees it: that is a `SourceError` too.
        """
        held: Channel[Block] = Channel(self.name, HELD_FRAMES, weigh=lambda block: block.seconds, limit=HELD_SECONDS)
        self._failure = None
        self._stopped = threading.Event()
        loop = asyncio.get_running_loop()
        # A daemon thread: the only way out of a hanging read is its timeout, and stopping must not wait for that.
        threading.Thread(
            target=self._read, args=(loop, held, self._stopped), name=f"read {self.name}", daemon=True
        ).start()
        splicer = Splicer(self.room, self.name, self.stats, self.pace)
        try:
            async for block in held:
                self.stats.overruns = held.drops
                for chunk in splicer.feed(late(block, held)):
                    yield chunk
            for chunk in splicer.flush():
                yield chunk
            if self._failure is not None:
                raise self._failure
        finally:
            self._stopped.set()
            held.close()

    def _read(self, loop: asyncio.AbstractEventLoop, held: Channel[Block], stopped: threading.Event) -> None:
        """The thread: open, decode and hand over until the end, a failure or `stopped`."""
        import av  # noqa: PLC0415 (0.1 s: only where a stream is read)

        try:
            scheme = self._url.partition("://")[0].lower()
            options = {"analyzeduration": ANALYSE_MICROSECONDS}
            if scheme.startswith("rtsp"):
                options["rtsp_transport"] = "tcp"
            patience = (OPEN_SECONDS, READ_SECONDS)
            with av.open(self._url, timeout=patience, options=options, metadata_errors="replace") as container:
                if not container.streams.audio:
                    self._failure = SourceError(f"{self.name}: carries no audio; remedy: a stream with sound")
                    return
                self._decode(container, loop, held, stopped)
        except av.FFmpegError as error:
            # Its own text repeats the whole URL.
            self._failure = SourceError(
                f"{self.name}: {_reason(error)}; remedy: check the address, the login and that the peer is up"
            )
        except Exception as error:  # a thread's exception would be lost
            self._failure = SourceError(
                f"{self.name}: cannot be read ({type(error).__name__}); remedy: check the address"
            )
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: the daemon is stopping
                loop.call_soon_threadsafe(held.close)

    def _decode(
        self,
        container: InputContainer,
        loop: asyncio.AbstractEventLoop,
        held: Channel[Block],
        stopped: threading.Event,
    ) -> None:
        position = 0.0  # seconds of the stream since its first sample
        stamp: float | None = None  # where the next frame should start on the peer's clock
        began = time.monotonic()
        gathering = Gathering(self.pace)
        for frame in container.decode(container.streams.audio[0]):
            if stopped.is_set():
                return
            rate = float(frame.sample_rate)
            lost = 0.0
            if frame.time is not None:
                if stamp is not None and GAP_SECONDS[0] < frame.time - stamp < GAP_SECONDS[1]:
                    lost = frame.time - stamp
                stamp = frame.time + frame.samples / rate
            position += lost
            ahead = position + frame.samples / rate - (time.monotonic() - began)
            block = Block(position, planes(frame), rate, time.time() + max(0.0, ahead))
            for gathered in gathering.feed(block):
                held.offer_threadsafe(loop, gathered)
            position += block.seconds
            if ahead > LEAD_SECONDS:
                stopped.wait(ahead - LEAD_SECONDS)
        for gathered in gathering.flush():
            held.offer_threadsafe(loop, gathered)


def _reason(error: av.FFmpegError) -> str:
    """Why, without the URL."""
    import av  # noqa: PLC0415

    if isinstance(error, av.ExitError):  # the interrupt that our timeouts raise
        return f"no answer or no audio for {READ_SECONDS:.0f} s"
    return error.strerror or type(error).__name__
