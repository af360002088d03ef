"""The resident audio language model: one thread that loads it, warms it up and serves a priority queue.

Jobs run in threads of their own, as many as the model can take at once: one for most; several for a model behind a
server, where what is asked at once is the server's business, and for one that makes answers together
(`assistant.models.batching`, which has a thread for the model itself). What waits is bounded, every job has a deadline,
and nobody's answer is made to its end when nobody waits for it any more.

A model that is out of memory or out of reach is `unwell`: it is asked nothing, somebody else does its work, and after a
while one request tries whether it is well again (a circuit breaker: closed is `ready`, open is `unwell`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from assistant.errors import ModelError
from assistant.events import SAMPLE_RATE, frozen
from assistant.models.audio_llm import Answer, AudioLLM, AwayError, Message, Prompt, PromptError, Stop
from assistant.models.batching import Asker, Batched, GivenUpError, asking_for
from assistant.models.halving import free_memory, halved, out_of_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

T = TypeVar("T")

WARN_EVERY = 100  # the first and each hundredth shed, late or failed job is logged
MOST = 32  # jobs that wait in all
BATCH_GPU, BATCH_CPU = 8, 4  # answers made at once
AGAIN = (60.0, 120.0, 300.0)  # seconds after which a model that was out of memory is tried: first, second, every time
AGAIN_AWAY = (2.0, 5.0, 15.0, 60.0)  # the same for one that was out of reach; each up to a fifth more or less


class Priority(IntEnum):
    """Who is served first."""

    SOUND = 0
    SPEECH = 1
    QUESTION = 2


LIMITS: Mapping[Priority, int] = {Priority.SOUND: 16, Priority.SPEECH: 16, Priority.QUESTION: 16}


class Status(StrEnum):
    """How far the model is."""

    LOADING = "loading"
    READY = "ready"
    UNWELL = "unwell"  # out of memory or out of reach; it is tried again
    FAILED = "failed"
    STOPPED = "stopped"


class BusyError(ModelError):
    """The model had no time: the job was shed for others, or its deadline has passed."""


class UnwellError(BusyError):
    """The model is out of memory or out of reach for now: somebody else has to do it."""


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """One thing to do, from the loop that waits for it to the thread that does it."""

    priority: Priority
    until: float | None  # monotonic seconds; None: it may wait for ever
    future: asyncio.Future[T]
    function: Callable[[AudioLLM], T] | None = None  # anything; or
    prompt: Prompt | None = None  # one prompt, which shares a call with others of the same limits
    limits: tuple[int, tuple[str, ...] | None] = (0, None)  # most new tokens, choices
    stream: Callable[[str], None] | None = None
    streamed: bool = False  # pieces are out: it cannot be tried again
    given_up: bool = False

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.given_up or (self.until is not None and time.monotonic() > self.until)


@dataclass(slots=True)
class _Counts:
    """Over the life of the model; `tokens` and `busy` since the last look too."""

    jobs: int = 0
    shed: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    late: int = 0
    cancelled: int = 0
    errors: int = 0
    exhausted: int = 0  # times that memory did not suffice for one thing alone
    away: int = 0  # times that it was out of reach, attempts to come back included
    batches: int = 0
    batched: int = 0  # answers made in those batches
    tokens: int = 0
    busy: float = 0.0  # seconds
    answering: float = 0.0  # seconds of `busy` in which tokens were made
    looked: float = field(default_factory=time.monotonic)
    before: tuple[int, float, float] = (0, 0.0, 0.0)  # tokens, busy and answering at the last look


class Resident:
    """Serves one audio language model to one asyncio loop: sounds before speech before questions.

    The model begins to load at once, in its thread; jobs wait for it within their deadlines.
    """

    def __init__(
        self,
        load: Callable[[], AudioLLM],
        *,
        batch: int = BATCH_GPU,
        threads: int = 1,
        reserve: int = 0,
        trial: Callable[[AudioLLM], None] | None = None,
    ) -> None:
        """`load` runs in a thread of the `threads`. To be made inside a running loop.

        `reserve` threads are for what is more urgent than questions, as many again for what is more urgent than speech.
        `trial` asks the model something small, when it is loaded and when it was unwell; by default one token.
        """
        self.status = Status.LOADING
        self.reason: str | None = None  # why it failed
        self.name: str | None = None  # of the model, once it is there
        self._batch = batch
        self._threads = {priority: max(1, threads - reserve * priority) for priority in Priority}
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: dict[Priority, deque[_Job[Any]]] = {priority: deque() for priority in Priority}
        self._counts = _Counts()
        self._current: dict[int, list[_Job[Any]]] = {}  # by thread
        self._began: dict[int, float] = {}  # monotonic: when the call of each thread began that runs now
        self._stop = False
        self._loaded = asyncio.Event()
        self._llm: _Guarded | None = None
        self._loader, self._trial = load, trial or _warm_up
        self._exhausted = False  # set in the thread at once, so that it takes no more jobs
        self._attempts = 0  # to come back, since it was well for long
        self._well_since = time.monotonic()
        self._again: asyncio.TimerHandle | None = None
        # Each job leaves a ticket there, which serves whatever is most urgent when its turn comes.
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="audio-llm-jobs")
        self._executor.submit(self._load, load)

    # ------------------------------------------------------------------------------------------------- for the loop

    @property
    def busy_since(self) -> float | None:
        """When the call began (monotonic) that has lasted longest; None: none runs."""
        if self._batched is not None:  # the others wait for their turn
            return self._batched.busy_since
        return min(list(self._began.values()), default=None)

    async def ready(self) -> bool:
        """Wait until the model is there; False: it will not be, or is unwell, `reason` says why."""
        await self._loaded.wait()
        return self.status is Status.READY

    async def answer(
        self,
        prompt: Prompt,
        *,
        priority: Priority,
        deadline: float | None,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> Answer:
        """The model's answer within `deadline` seconds from now (None: however long it takes).

        `stream` gets the pieces, on the loop. Raises `BusyError` when it was shed or came too late, `ModelError` when
        the model is not there or broke on it. A cancelled caller stops it at the next token.
        """
        limits = (max_new_tokens, None if choices is None else tuple(choices))
        future: asyncio.Future[Answer] = self._loop.create_future()
        until = _until(deadline)
        return await self._wait(_Job(priority, until, future, prompt=prompt, limits=limits, stream=stream), deadline)

    async def call(self, function: Callable[[AudioLLM], T], *, priority: Priority, deadline: float | None) -> T:
        """What `function(llm)` returns, run in the model's thread; the same rules as for `answer`.

        The model it gets is always the same object: it stops at each token when nobody waits, and may be kept for later
        calls (by a tagger that measured its prior, say).
        """
        future: asyncio.Future[T] = self._loop.create_future()
        return await self._wait(_Job(priority, _until(deadline), future, function=function), deadline)

    def figures(self, *, look: bool = True) -> dict[str, Any]:
        """For health: what waits, what was lost, and rates since the last `look`."""
        now, counts = time.monotonic(), self._counts
        since = self.busy_since
        busy = counts.busy + (0.0 if since is None else now - since)
        tokens_before, busy_before, answering_before = counts.before
        elapsed, answering = max(now - counts.looked, 1e-3), counts.answering - answering_before
        rate = (counts.tokens - tokens_before) / answering if answering > 0.0 else None
        share = min(1.0, (busy - busy_before) / elapsed)
        if look:
            counts.looked, counts.before = now, (counts.tokens, busy, counts.answering)
        return {
            "status": self.status.value,
            "healthy": self.status in {Status.LOADING, Status.READY},
            "out_of_memory": counts.exhausted,
            "away": counts.away,
            **{f"waiting_{priority.name.lower()}": len(self._waiting[priority]) for priority in Priority},
            "jobs": counts.jobs,
            "shed": sum(counts.shed.values()),
            **{f"shed_{priority.name.lower()}": counts.shed[priority] for priority in Priority},
            "late": counts.late,
            "cancelled": counts.cancelled,
            "errors": counts.errors,
            "batches": counts.batches,
            "batch_mean": round(counts.batched / counts.batches, 2) if counts.batches else None,
            "tokens_per_s": None if rate is None else round(rate, 1),
            "busy_percent": round(100.0 * share, 1),
        } | ({} if self._batched is None else self._batched.figures(look=look))

    @property
    def _batched(self) -> Batched | None:
        """The model, where it has a thread of its own: it knows best how busy it is."""
        llm = None if self._llm is None else self._llm.unguarded
        return llm if isinstance(llm, Batched) else None

    def shutdown(self) -> None:
        """Take no more jobs; what waits is refused, what runs stops at its next token. Never blocks."""
        self._stop = True
        if self._again is not None:
            self._again.cancel()
        waiting = self._take_all()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._batched is not None:
            self._batched.close()
        if self.status is not Status.FAILED:
            self.status, self.reason = Status.STOPPED, "it is shutting down"
        for job in (*waiting, *(job for jobs in list(self._current.values()) for job in jobs)):
            _fail(job, ModelError("the audio language model is shutting down"))
        self._loaded.set()

    async def _wait(self, job: _Job[T], deadline: float | None) -> T:
        if self.status in {Status.FAILED, Status.STOPPED}:
            raise ModelError(f"the audio language model is not there: {self.reason}")
        if self.status is Status.UNWELL:
            raise UnwellError(f"the audio language model is out of order: {self.reason}")
        self._offer(job)
        alarm = None if deadline is None else self._loop.call_later(max(0.0, deadline), self._too_late, job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._counts.cancelled += 1
            raise
        finally:
            job.given_up = True
            self._forget(job)
            if alarm is not None:
                alarm.cancel()

    def _offer(self, job: _Job[Any]) -> None:
        victim: _Job[Any] | None = None
        with self._lock:
            queue = self._waiting[job.priority]
            if len(queue) >= LIMITS[job.priority]:
                victim = queue.popleft()
            elif sum(map(len, self._waiting.values())) >= MOST:
                lowest = max(priority for priority, waiting in self._waiting.items() if waiting)
                victim = self._waiting[lowest].popleft() if lowest >= job.priority else job
            if victim is not job:
                queue.append(job)
        if victim is not None:
            self._counts.shed[victim.priority] += 1
            shed = sum(self._counts.shed.values())
            if shed % WARN_EVERY == 1:
                log.warning("the audio language model is too slow for its house: %d jobs shed so far", shed)
            _fail(victim, BusyError("the audio language model had no time for it: too much waits"))
        if victim is not job:
            self._submit()

    def _submit(self) -> None:
        """A ticket for what waits."""
        try:
            self._executor.submit(self._serve)
        except RuntimeError:  # it is shutting down, which answers those who wait
            return

    def _too_late(self, job: _Job[Any]) -> None:
        if job.future.done():
            return
        self._counts.late += 1
        if self._counts.late % WARN_EVERY == 1:
            what = "is still loading" if self.status is Status.LOADING else "is too slow"
            log.warning("the audio language model %s: %d jobs were too late so far", what, self._counts.late)
        _fail(job, BusyError("the audio language model did not answer in time"))

    def _forget(self, job: _Job[Any]) -> None:
        with self._lock:
            if job in self._waiting[job.priority]:
                self._waiting[job.priority].remove(job)

    def _take_all(self) -> list[_Job[Any]]:
        with self._lock:
            waiting = [job for queue in self._waiting.values() for job in queue]
            for queue in self._waiting.values():
                queue.clear()
        return waiting

    # ----------------------------------------------------------------------------------------------- for the thread

    def _load(self, load: Callable[[], AudioLLM]) -> None:
        began = time.monotonic()
        try:
            llm = load()
            if not self._stop:
                self._trial(llm)
        except AwayError as error:
            self._exhaust(error)
            return
        except ModelError as error:
            log.error("the audio language model cannot be loaded: %s", error)  # noqa: TRY400 (a person reads this)
            self._tell(self._failed, str(error))
            return
        except Exception as error:
            if out_of_memory(error):
                self._exhaust(error)
                return
            log.exception("the audio language model cannot be loaded")
            self._tell(self._failed, f"{type(error).__name__}: {error}")
            return
        self._llm = _Guarded(llm, self)
        self.name = llm.name
        log.info("%s is ready after %.1f s", llm.name, time.monotonic() - began)
        self._tell(self._came)

    def _came(self) -> None:
        if self.status is Status.UNWELL:
            log.info("the audio language model is well again and goes on")
        if self.status in {Status.LOADING, Status.UNWELL}:
            self.status, self.reason, self._well_since = Status.READY, None, time.monotonic()
        self._loaded.set()
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
        for _ in range(waiting):  # other threads may have taken the tickets before it was there
            self._executor.submit(self._serve)

    def _exhaust(self, error: Exception) -> None:
        """In the thread: memory did not suffice, not even for one thing alone, or nobody could be reached."""
        with self._lock:
            if self._exhausted:
                return
            self._exhausted = True
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        self._tell(self._unwell, reason, isinstance(error, AwayError))

    def _unwell(self, reason: str, away: bool) -> None:
        if self.status in {Status.STOPPED, Status.FAILED}:
            return
        waits = AGAIN_AWAY if away else AGAIN
        if self.status is Status.READY and time.monotonic() - self._well_since > waits[-1]:
            self._attempts = 0
        wait = waits[min(self._attempts, len(waits) - 1)]
        if away:
            self._counts.away += 1
            wait *= random.uniform(0.8, 1.2)  # noqa: S311 (jitter, not a secret)
            if f"out of reach: {reason}" == self.reason:
                log.debug("the audio language model is still out of reach, it is tried again in %.1f s", wait)
            else:
                log.error(
                    "the audio language model is out of reach (%s); the small models go on without it, it is tried "
                    "again, first in %.1f s",
                    reason,
                    wait,
                )
        else:
            self._counts.exhausted += 1
            log.error(
                "the audio language model is out of memory (%s); the small models go on without it, it is tried again "
                "in %.0f s; remedy: models.audio_llm.quantisation: int8 or int4, or fewer programs on the GPU",
                reason,
                wait,
            )
        self._attempts += 1
        self.status, self.reason = Status.UNWELL, f"out of {'reach' if away else 'memory'}: {reason}"
        for job in self._take_all():
            _fail(job, UnwellError(f"the audio language model is {self.reason}"))
        self._loaded.set()
        self._again = self._loop.call_later(wait, lambda: self._executor.submit(self._recover, away))

    def _recover(self, away: bool) -> None:
        """In the thread: see whether there is memory again, or somebody to be reached."""
        if not away:
            free_memory()
        if self._llm is None:
            self._exhausted = False
            self._load(self._loader)
            return
        try:
            self._trial(self._llm.unguarded)
        except Exception as error:
            self._exhausted = False
            self._exhaust(error)
            return
        self._exhausted = False
        self.name = self._llm.name = self._llm.unguarded.name
        self._tell(self._came)

    def _failed(self, reason: str) -> None:
        if self.status is Status.STOPPED:
            return
        self.status, self.reason = Status.FAILED, reason
        for job in self._take_all():
            _fail(job, ModelError(f"the audio language model is not there: {reason}"))
        self._loaded.set()

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Call `function` on the loop; nothing happens once that is closed."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return

    def _serve(self) -> None:
        """One ticket's turn: the most urgent job and, for answers, those that can share its call."""
        if self._llm is None:  # it cannot be loaded: the loop answers those who wait
            return
        jobs = self._take()
        if not jobs:
            return
        thread = threading.get_ident()
        self._began[thread] = began = time.monotonic()
        try:
            with asking_for(Asker(jobs[0].priority, self.watched())):
                if jobs[0].prompt is not None:
                    self._answer(jobs)
                else:
                    self._call(jobs[0])
        finally:
            with self._lock:
                del self._current[thread], self._began[thread]
                self._counts.busy += time.monotonic() - began
                waits = any(self._waiting.values())
            if waits and not self._stop:  # its own ticket came when there was no thread for it
                self._submit()
            if self._stop:  # those of a batch that were not begun, or were taken while it began to stop
                for job in jobs:
                    self._tell(_fail, job, ModelError("the audio language model is shutting down"))

    def _take(self) -> list[_Job[Any]]:
        with self._lock:
            if self._stop or self._exhausted:  # `shutdown` and `_unwell` refuse what waits
                return []
            for priority, queue in self._waiting.items():
                while queue and len(self._current) < self._threads[priority]:
                    first = queue.popleft()
                    if first.unwanted:
                        continue
                    jobs = [first, *self._companions(first, queue)] if first.prompt is not None else [first]
                    self._current[threading.get_ident()] = jobs
                    return jobs
        return []

    def _companions(self, first: _Job[Any], queue: deque[_Job[Any]]) -> list[_Job[Any]]:
        """Answers of the same priority and limits that wait too. Others would make the urgent ones late."""
        if self._batched is not None and self._batched.together:  # it joins them itself, and lets each go by itself
            return []
        found = [job for job in queue if job.prompt is not None and job.limits == first.limits and not job.unwanted]
        found = found[: self._batch - 1]
        for job in found:
            queue.remove(job)
        return found

    def _call(self, job: _Job[Any]) -> None:
        assert job.function is not None  # noqa: S101 (for the type checker)
        assert self._llm is not None  # noqa: S101
        self._counts.jobs += 1
        try:
            result = job.function(self._llm)
        except GivenUpError:
            return
        except Exception as error:  # a bad job must not take the thread down
            self._broke(job, error)
            return
        self._tell(_resolve, job, result)

    def _answer(self, jobs: list[_Job[Any]]) -> None:
        assert self._llm is not None  # noqa: S101
        self._counts.jobs += len(jobs)
        most, choices = jobs[0].limits
        try:
            answers = self._llm.answer(
                [job.prompt for job in jobs if job.prompt is not None],
                max_new_tokens=most,
                choices=choices,
                stream=(lambda i, piece: self._piece(jobs[i], piece)) if any(job.stream for job in jobs) else None,
                cancelled=lambda i: jobs[i].unwanted,
            )
        except GivenUpError:
            return
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, AwayError) or out_of_memory(error):
                for job in jobs:
                    self._broke(job, error)
            else:
                self._one_by_one(jobs, error)
            return
        self._counts.batches += 1
        self._counts.batched += len(jobs)
        for job, answer in zip(jobs, answers, strict=True):
            if answer.stop is not Stop.CANCELLED:
                self._tell(_resolve, job, answer)

    def _one_by_one(self, jobs: list[_Job[Any]], error: Exception) -> None:
        """A batch failed: only the job that made it fail shall suffer."""
        log.debug("a batch of %d answers failed (%s); trying them one by one", len(jobs), error)
        self._counts.jobs -= len(jobs)
        for job in jobs:
            if job.streamed:
                self._broke(job, error)
            elif not job.unwanted and not self._stop:
                self._current[threading.get_ident()] = [job]
                self._answer([job])

    def _piece(self, job: _Job[Any], piece: str) -> None:
        if job.stream is not None and not job.unwanted:
            job.streamed = True
            self._tell(_passed_on, job, piece)

    def _broke(self, job: _Job[Any], error: Exception) -> None:
        away = isinstance(error, AwayError)
        if away or out_of_memory(error):
            self._exhaust(error)
            told = str(error) if away else "the audio language model is out of memory"
            self._tell(_fail, job, UnwellError(told))
            return
        if isinstance(error, PromptError):  # its asker's
            self._tell(_fail, job, error)
            return
        self._counts.errors += 1
        if self._counts.errors % WARN_EVERY == 1:
            log.error("the audio language model failed (%d errors so far)", self._counts.errors, exc_info=error)
        known = error if isinstance(error, ModelError) else ModelError(f"the audio language model failed: {error}")
        if known is not error:
            known.__cause__ = error
        self._tell(_fail, job, known)

    def watched(self) -> Callable[[], bool]:
        """Tells, in any thread, whether nobody waits for anything that this thread does now."""
        jobs = self._current.get(threading.get_ident(), ())
        return lambda: self._stop or all(job.unwanted for job in jobs)

    def given_up(self) -> bool:
        """Whether nobody waits for anything that this thread does now."""
        return self.watched()()

    def batch_at_most(self, size: int) -> None:
        """Memory did not suffice for more answers at once."""
        if size < self._batch:
            log.warning("memory does not suffice for %d answers at once; from now on %d", self._batch, size)
            self._batch = size

    def made(self, answers: Sequence[Answer], seconds: float) -> None:
        """Count what the model said in `seconds`."""
        with self._lock:
            self._counts.tokens += sum(answer.tokens for answer in answers)
            self._counts.answering += seconds


class _Guarded:
    """The model as jobs see it: it stops at the next token, or the next call, once nobody waits any more.

    What memory does not suffice for at once it does in halves.
    """

    def __init__(self, llm: AudioLLM, resident: Resident) -> None:
        self.name, self.tagged = llm.name, llm.tagged
        self.unguarded, self._resident = llm, resident

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        self._check()
        given_up, began = self._resident.watched(), time.monotonic()
        streamed = False

        def piece(i: int, text: str) -> None:
            nonlocal streamed
            streamed = True
            assert stream is not None  # noqa: S101 (for the type checker)
            stream(i, text)

        def some(first: int, last: int) -> list[Answer]:
            return self.unguarded.answer(
                prompts[first:last],
                max_new_tokens=max_new_tokens,
                choices=choices,
                stream=None if stream is None else lambda i, text: piece(first + i, text),
                cancelled=lambda i: given_up() or (cancelled is not None and cancelled(first + i)),
            )

        parts = halved(len(prompts), some, once=lambda: streamed)
        if len(parts) > 1:
            self._resident.batch_at_most(max(map(len, parts)))
        answers = [answer for part in parts for answer in part]
        self._resident.made(answers, time.monotonic() - began)
        self._check()
        return answers

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        self._check()
        return np.concatenate(halved(len(labels), lambda first, last: self.unguarded.score(prompt, labels[first:last])))

    def _check(self) -> None:
        if self._resident.given_up():
            raise GivenUpError


@dataclass(frozen=True, slots=True)
class Lane:
    """The model's thread as a stage of hearing uses it: always with the same priority and deadline."""

    resident: Resident
    priority: Priority
    deadline: float  # seconds

    async def call(self, function: Callable[[], T], *, patient: bool = False) -> T:
        """Run `function` in the model's thread; `patient`: however long it takes. Raises like `Resident.call`."""
        deadline = None if patient else self.deadline
        return await self.resident.call(lambda _llm: function(), priority=self.priority, deadline=deadline)

    def shutdown(self) -> None:
        """Take no more calls."""
        self.resident.shutdown()


def _warm_up(llm: AudioLLM) -> None:
    """One token about a second of nearly nothing: the first real clip must not pay for kernels and caches."""
    clip = frozen(np.full(SAMPLE_RATE, 1e-4, np.float32))
    if llm.tagged:
        prompt = Prompt(clips=(clip,), tags="<|startofanalysis|><|en|><|question|>What is heard?<|answer|>")
    else:
        prompt = Prompt(messages=(Message("user", (clip, "What is heard?")),))
    llm.answer([prompt], max_new_tokens=2)


def _until(deadline: float | None) -> float | None:
    return None if deadline is None else time.monotonic() + deadline


def _resolve(job: _Job[T], result: T) -> None:
    if not job.future.done():
        job.future.set_result(result)


def _fail(job: _Job[Any], error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _passed_on(job: _Job[Any], piece: str) -> None:
    if job.stream is not None and not job.future.done():
        job.stream(piece)
