"""One audio language model in a thread of its own, asked by many threads at once.

Who is most urgent comes first; between two tokens of the answers that are being made others join, labels are scored,
and what nobody waits for any more leaves. A model that cannot do that (no `decoding`) is asked one thing after another.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from assistant.errors import ModelError
from assistant.models.audio_llm import Answer, AudioLLM, Prompt, Stop
from assistant.models.halving import free_memory, out_of_memory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from assistant.models.decoding import Decoding, Request

log = logging.getLogger(__name__)

BETWEEN = 1024  # tokens of prompts that may run between two tokens of the answers that others wait for


class GivenUpError(Exception):
    """Nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom a thread asks."""

    urgency: int = 0  # 0 is served first
    unwanted: Callable[[], bool] = lambda: False  # asked in the model's thread


_NOBODY = Asker()
_ASKER: ContextVar[Asker] = ContextVar("asker", default=_NOBODY)


@contextmanager
def asking_for(asker: Asker) -> Iterator[None]:
    """Within, this thread asks for somebody."""
    token = _ASKER.set(asker)
    try:
        yield
    finally:
        _ASKER.reset(token)


class Together(AudioLLM, Protocol):
    """A model that makes many answers at once."""

    decoding: Decoding

    def request(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Request:
        """In any thread: a prompt as `decoding` takes it."""


@dataclass(slots=True, order=True)
class _Ticket:
    """What waits for the model's thread."""

    urgency: int
    number: int  # first come, first served
    unwanted: Callable[[], bool] = field(compare=False)
    work: Callable[[], Any] | None = field(compare=False)  # anything, or
    request: Request | None = field(compare=False)
    future: Future[Any] = field(compare=False, default_factory=Future)


@dataclass(slots=True)
class _Spent:
    """In the model's thread, in all."""

    busy: float = 0.0  # seconds
    answering: float = 0.0  # seconds of `busy` in which answers were made
    tokens: int = 0
    at: float = field(default_factory=time.monotonic)


class Batched:
    """Implements `AudioLLM` for any number of threads."""

    def __init__(self, load: Callable[[], AudioLLM]) -> None:
        """Load the model in its thread. Raises what `load` raises."""
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []  # a heap
        self._numbers = itertools.count()
        self._running: list[_Ticket] = []
        self._closed = False
        self._spent, self._looked = _Spent(), _Spent()
        self.busy_since: float | None = None  # monotonic: when the call began that runs now
        loaded: Future[AudioLLM] = Future()
        self._thread = threading.Thread(target=self._live, args=(load, loaded), name="audio-llm", daemon=True)
        self._thread.start()
        self._llm = loaded.result()
        self.name, self.tagged = self._llm.name, self._llm.tagged

    @property
    def together(self) -> bool:
        """Whether it makes many answers at once."""
        return hasattr(self._llm, "decoding")

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        """As `AudioLLM.answer`; the callbacks are called in the model's thread."""
        llm: Any = self._llm
        if not self.together:
            asked = self._put(
                lambda: llm.answer(
                    prompts, max_new_tokens=max_new_tokens, choices=choices, stream=stream, cancelled=cancelled
                )
            )
            return self._result(asked)  # type: ignore[no-any-return]
        unwanted, failed = _ASKER.get().unwanted, False

        def given_up(number: int) -> bool:
            return failed or unwanted() or (cancelled is not None and cancelled(number))

        def one(number: int, prompt: Prompt) -> Request:
            return llm.request(  # type: ignore[no-any-return]  # a `Together`
                prompt,
                max_new_tokens=max_new_tokens,
                choices=choices,
                stream=None if stream is None else lambda piece: stream(number, piece),
                cancelled=lambda: given_up(number),
            )

        asked = self._put(*[one(number, prompt) for number, prompt in enumerate(prompts)])
        try:
            return [ticket.future.result() for ticket in asked]
        except BaseException:
            failed = True
            raise

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        """As `AudioLLM.score`. Raises `GivenUpError` when nobody waits for it once it is its turn."""
        return self._result(self._put(lambda: self._llm.score(prompt, labels)))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Take no more, give up what is there. Never blocks."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def figures(self, *, look: bool = True) -> dict[str, Any]:
        """For health: rates since the last `look`, and what the answers hold."""
        spent, before = self._spent, self._looked
        since, now = self.busy_since, time.monotonic()
        busy = spent.busy + (0.0 if since is None else now - since) - before.busy
        answering = spent.answering - before.answering
        if look:
            self._looked = _Spent(before.busy + busy, spent.answering, spent.tokens, now)
        decoding: Decoding | None = getattr(self._llm, "decoding", None)
        with self._changed:
            waiting = len(self._waiting)
        return {
            "tokens_per_s": round((spent.tokens - before.tokens) / answering, 1) if answering > 0.0 else None,
            "busy_percent": round(100.0 * min(1.0, busy / max(now - before.at, 1e-3)), 1),
            "waiting_turn": waiting,
            **({} if decoding is None else decoding.figures()),
        }

    def _put(self, *things: Callable[[], Any] | Request) -> list[_Ticket]:
        asker = _ASKER.get()
        with self._changed:
            if self._closed:
                raise ModelError("the audio language model is shutting down")
            tickets = [
                _Ticket(
                    asker.urgency,
                    next(self._numbers),
                    asker.unwanted if callable(thing) else thing.said.cancelled or asker.unwanted,
                    thing if callable(thing) else None,
                    None if callable(thing) else thing,
                )
                for thing in things
            ]
            for ticket in tickets:
                heapq.heappush(self._waiting, ticket)
            self._changed.notify()
        return tickets

    def _result(self, tickets: list[_Ticket]) -> Any:  # noqa: ANN401 (whatever the work returns)
        (ticket,) = tickets
        return ticket.future.result()

    # ----------------------------------------------------------------------------------------------- in the thread

    def _live(self, load: Callable[[], AudioLLM], loaded: Future[AudioLLM]) -> None:
        try:
            llm = load()
        except BaseException as error:  # it is the caller's
            loaded.set_exception(error)
            return
        decoding: Decoding | None = getattr(llm, "decoding", None)
        loaded.set_result(llm)
        while self._wait():
            try:
                self._let_in(decoding)
                if self._running and decoding is not None:
                    self._step(decoding)
            except Exception as error:  # a bug: those who ask are told, and not left to wait for ever
                self._give_up(error, decoding)
        self._give_up(GivenUpError(), decoding)

    def _give_up(self, error: Exception, decoding: Decoding | None) -> None:
        """End all that runs and waits."""
        with self._changed:
            left, self._waiting = [*self._waiting, *self._running], []
        self._running = []
        if decoding is not None:
            decoding.clear()
        for ticket in left:
            if not ticket.future.done():
                ticket.future.set_exception(error)

    def _wait(self) -> bool:
        """Until there is something to do; False: never again."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
            return not self._closed

    def _let_in(self, decoding: Decoding | None) -> None:
        """Start what waits, the most urgent first, but not so much at once that those who get tokens starve."""
        computed = 0
        while not self._closed and (ticket := self._next(decoding)) is not None:
            if ticket.request is None:
                self._run(ticket)
                computed += BETWEEN // 4
            elif decoding is not None:
                self._join(ticket, ticket.request, decoding)
                computed += len(ticket.request.keys)
            if self._running and computed >= BETWEEN:
                return

    def _next(self, decoding: Decoding | None) -> _Ticket | None:
        """What comes next, without what nobody waits for; None: nothing, or there is no room for it yet."""
        with self._changed:
            dropped = [ticket for ticket in self._waiting if ticket.unwanted()]
            if dropped:
                self._waiting = [ticket for ticket in self._waiting if ticket not in dropped]
                heapq.heapify(self._waiting)
            first = self._waiting[0] if self._waiting else None
            if first is not None and first.request is not None and decoding is not None:
                share = max(0.5, 1.0 - first.urgency / 8)  # the last rows, and their memory, are for the more urgent
                if not decoding.fits(first.request, share):
                    first = None
            if first is not None:
                heapq.heappop(self._waiting)
        for ticket in dropped:
            if ticket.request is None:
                ticket.future.set_exception(GivenUpError())
            else:
                ticket.request.said.stop = Stop.CANCELLED
                ticket.future.set_result(ticket.request.said.answer())
        return first

    def _run(self, ticket: _Ticket) -> None:
        assert ticket.work is not None  # noqa: S101 (for the type checker)
        try:
            with self._timed():
                result = ticket.work()
        except BaseException as error:  # it is the asker's
            ticket.future.set_exception(error)
        else:
            ticket.future.set_result(result)

    def _join(self, ticket: _Ticket, request: Request, decoding: Decoding) -> None:
        try:
            with self._timed(answering=True):
                decoding.join(request)
        except Exception as error:
            if out_of_memory(error):
                decoding.prefixes.clear()  # for the next attempt, its asker's or ours
            if not out_of_memory(error) or not self._running:
                ticket.future.set_exception(error)
                return
            self._fewer(decoding, len(self._running))  # it did not fit beside the others: it waits for them
        else:
            self._spent.tokens += 1
            self._running.append(ticket)
            self._settle()
            return
        free_memory()
        with self._changed:
            heapq.heappush(self._waiting, ticket)

    def _step(self, decoding: Decoding) -> None:
        try:
            with self._timed(answering=True):
                try:
                    decoding.step()
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    decoding.prefixes.clear()
                    again = True
                else:
                    again = False
                if again:  # out of the handler, whose frames hold tensors
                    free_memory()
                    decoding.step()
        except Exception as error:
            if out_of_memory(error):
                self._fewer(decoding, len(self._running) // 2)
            decoding.clear()
            for ticket in self._running:
                ticket.future.set_exception(error)
            self._running = []
            return
        self._spent.tokens += len(self._running)
        self._settle()

    def _settle(self) -> None:
        """Hand out the answers that are done."""
        left = []
        for ticket in self._running:
            assert ticket.request is not None  # noqa: S101 (for the type checker)
            if ticket.request.error is not None:
                ticket.future.set_exception(ticket.request.error)
            elif ticket.request.said.stop is not None:
                ticket.future.set_result(ticket.request.said.answer())
            else:
                left.append(ticket)
        self._running = left

    def _fewer(self, decoding: Decoding, rows: int) -> None:
        rows = max(1, rows)
        if rows < decoding.rows:
            log.warning("memory does not suffice for %d answers at once; from now on %d", decoding.rows, rows)
            decoding.rows = rows

    @contextmanager
    def _timed(self, *, answering: bool = False) -> Iterator[None]:
        self.busy_since = began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._spent.busy += seconds
            self._spent.answering += seconds if answering else 0.0
            self.busy_since = None
