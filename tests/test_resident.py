"""The model's thread: who is served first, what is shed, and that nobody waits for what nobody wants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from assistant import resident as resident_module
from assistant.errors import ModelError
from assistant.models.audio_llm import Answer, AudioLLM, AudioLLMSettings, AwayError, Message, Prompt, Stop
from assistant.models.batching import Batched
from assistant.models.qwen_audio.llm import QwenAudio
from assistant.resident import BusyError, Lane, Priority, Resident, Status, UnwellError

SOUND, SPEECH, QUESTION = Priority


class Scripted:
    """A model of which each prompt says what it does: `slow 3` makes 300 tokens of 10 ms, `bad` raises."""

    name, tagged = "scripted", False

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self.hold = threading.Event()
        self.hold.set()

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 256,
        choices: Sequence[str] | None = None,
        stream: Callable[[int, str], None] | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Answer]:
        self.threads.add(threading.get_ident())
        asked = [str(prompt.messages[-1].content[-1]) for prompt in prompts]
        self.calls.append(asked)
        self.hold.wait(10)
        if any(text == "bad" for text in asked):
            raise RuntimeError("a tensor of another shape")
        answers = []
        for i, text in enumerate(asked):
            tokens, stop = 1, Stop.END
            if text.startswith("slow"):
                while tokens < round(100 * float(text.split()[1])):
                    if cancelled is not None and cancelled(i):
                        stop = Stop.CANCELLED
                        break
                    time.sleep(0.01)
                    tokens += 1
                    if stream is not None:
                        stream(i, ".")
            answers.append(Answer(text.upper(), tokens, stop))
        return answers

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        return np.zeros(len(labels), np.float32)


def asking(text: str) -> Prompt:
    return Prompt(messages=(Message("user", (text,)),))


@pytest.fixture
def llm() -> Scripted:
    return Scripted()


@pytest.fixture
async def resident(llm: Scripted) -> AsyncIterator[Resident]:
    made = Resident(lambda: llm, batch=4)
    assert await made.ready()
    llm.calls.clear()
    yield made
    made.shutdown()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


async def busy(resident: Resident, llm: Scripted) -> asyncio.Task[Answer]:
    """A job that is running until `llm.hold` is set."""
    llm.hold.clear()
    task = asyncio.create_task(resident.answer(asking("first"), priority=QUESTION, deadline=None))
    await until(lambda: llm.calls)
    return task


async def test_everything_happens_in_one_thread_of_its_own(resident: Resident, llm: Scripted) -> None:
    answer = await resident.answer(asking("hello"), priority=QUESTION, deadline=5.0)
    where = await resident.call(lambda _llm: threading.get_ident(), priority=SOUND, deadline=5.0)
    assert answer == Answer("HELLO", 1, Stop.END)
    assert llm.threads == {where}  # the warm-up too
    assert where != threading.get_ident()
    assert (resident.status, resident.name) == (Status.READY, "scripted")


async def test_sounds_come_before_speech_before_questions(resident: Resident, llm: Scripted) -> None:
    first = await busy(resident, llm)
    order: list[str] = []

    async def ask(text: str, priority: Priority) -> None:
        await resident.call(lambda _llm: order.append(text), priority=priority, deadline=None)

    waiting = [
        asyncio.create_task(ask(text, priority))
        for text, priority in (("q1", QUESTION), ("w1", SPEECH), ("s1", SOUND), ("q2", QUESTION), ("s2", SOUND))
    ]
    await asyncio.sleep(0)
    assert resident.figures()["waiting_question"] == 2
    llm.hold.set()
    await asyncio.gather(first, *waiting)
    assert order == ["s1", "s2", "w1", "q1", "q2"]


async def test_answers_of_the_same_limits_that_wait_are_made_in_one_batch(resident: Resident, llm: Scripted) -> None:
    first = await busy(resident, llm)
    kinds = [("a", QUESTION, 8), ("b", QUESTION, 8), ("long", QUESTION, 99), ("c", QUESTION, 8), ("urgent", SOUND, 8)]
    kinds += [("d", QUESTION, 8), ("e", QUESTION, 8)]
    waiting = [
        asyncio.create_task(resident.answer(asking(text), priority=priority, deadline=None, max_new_tokens=most))
        for text, priority, most in kinds
    ]
    await asyncio.sleep(0)
    llm.hold.set()
    answers = await asyncio.gather(first, *waiting)
    assert [answer.text for answer in answers[1:]] == [text.upper() for text, _, _ in kinds]  # each got its own
    assert llm.calls == [["first"], ["urgent"], ["a", "b", "c", "d"], ["long"], ["e"]]
    figures = resident.figures()
    assert figures["batches"] == 5
    assert figures["batch_mean"] == 1.6
    assert figures["jobs"] == 8


async def test_a_bad_job_hurts_no_other(resident: Resident, llm: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    first = await busy(resident, llm)
    waiting = [
        asyncio.create_task(resident.answer(asking(text), priority=QUESTION, deadline=None))
        for text in ("a", "bad", "b")
    ]
    await asyncio.sleep(0)
    llm.hold.set()
    await first
    a, bad, b = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(a, Answer)
    assert isinstance(b, Answer)
    assert (a.text, b.text) == ("A", "B")
    assert isinstance(bad, ModelError)
    assert "another shape" in str(bad)
    assert llm.calls == [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert (await resident.answer(asking("after"), priority=SOUND, deadline=5.0)).text == "AFTER"
    assert resident.figures()["errors"] == 1
    assert "the audio language model failed" in caplog.text


async def test_an_exception_of_a_call_is_its_callers(resident: Resident) -> None:
    def broken(_llm: AudioLLM) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ModelError, match="a bug") as raised:
        await resident.call(broken, priority=SPEECH, deadline=5.0)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert await resident.call(lambda _llm: 1, priority=SPEECH, deadline=5.0) == 1


async def test_a_job_past_its_deadline_is_dropped_unheard(resident: Resident, llm: Scripted) -> None:
    first = await busy(resident, llm)
    began = time.monotonic()
    with pytest.raises(BusyError, match="in time"):
        await resident.answer(asking("too late"), priority=SOUND, deadline=0.1)
    assert time.monotonic() - began < 0.5  # told at once, though the thread is still busy
    llm.hold.set()
    await first
    await resident.call(lambda _llm: None, priority=QUESTION, deadline=5.0)
    assert llm.calls == [["first"]]
    assert resident.figures()["late"] == 1


async def test_a_running_answer_past_its_deadline_stops_at_the_next_token(resident: Resident) -> None:
    with pytest.raises(BusyError):
        await resident.answer(asking("slow 20"), priority=SOUND, deadline=0.1)
    began = time.monotonic()
    assert await resident.call(lambda _llm: 1, priority=QUESTION, deadline=5.0) == 1
    assert time.monotonic() - began < 0.3


async def test_a_cancelled_caller_stops_its_tokens(resident: Resident, llm: Scripted) -> None:
    pieces: list[str] = []
    task = asyncio.create_task(resident.answer(asking("slow 20"), priority=SOUND, deadline=None, stream=pieces.append))
    await until(lambda: len(pieces) >= 3)
    task.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    there = len(pieces)
    assert await resident.call(lambda _llm: 1, priority=QUESTION, deadline=5.0) == 1
    assert time.monotonic() - began < 0.3
    assert len(pieces) == there  # no piece for whom nobody waits
    assert resident.figures()["cancelled"] == 1


async def test_a_cancelled_task_of_several_answers_asks_no_further(resident: Resident, llm: Scripted) -> None:
    def windows(model: AudioLLM) -> None:
        for _ in range(50):
            model.answer([asking("slow 0.2")])

    task = asyncio.create_task(resident.call(windows, priority=SPEECH, deadline=None))
    await until(lambda: len(llm.calls) >= 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await resident.call(lambda _llm: 1, priority=QUESTION, deadline=5.0) == 1
    assert len(llm.calls) <= 4


async def test_a_cancelled_job_that_waited_is_never_begun(resident: Resident, llm: Scripted) -> None:
    first = await busy(resident, llm)
    waiting = asyncio.create_task(resident.answer(asking("unwanted"), priority=SOUND, deadline=None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    llm.hold.set()
    await first
    assert await resident.call(lambda _llm: 1, priority=QUESTION, deadline=5.0) == 1
    assert llm.calls == [["first"]]


async def test_what_waits_is_bounded_and_the_oldest_of_the_least_urgent_is_shed(
    resident: Resident, llm: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resident_module, "LIMITS", {SOUND: 2, SPEECH: 2, QUESTION: 3})
    monkeypatch.setattr(resident_module, "MOST", 5)
    first = await busy(resident, llm)
    made: dict[str, asyncio.Task[Answer]] = {}

    async def offer(text: str, priority: Priority) -> None:
        made[text] = asyncio.create_task(resident.answer(asking(text), priority=priority, deadline=None))
        await asyncio.sleep(0)

    for text in ("q1", "q2", "q3", "q4"):  # three fit: q1 goes
        await offer(text, QUESTION)
    for text in ("s1", "s2", "s3"):  # two fit: s1 goes
        await offer(text, SOUND)
    await offer("w1", SPEECH)  # five wait: the oldest question goes
    await asyncio.sleep(0)
    shed = sorted(text for text, task in made.items() if task.done())
    assert shed == ["q1", "q2", "s1"]
    with pytest.raises(BusyError, match="too much waits"):
        await made["q1"]
    figures = resident.figures()
    assert figures["shed"] == 3
    assert (figures["shed_sound"], figures["shed_speech"], figures["shed_question"]) == (1, 0, 2)
    assert sum("jobs shed so far" in record.message for record in caplog.records) == 1
    llm.hold.set()
    await asyncio.gather(first, *(task for task in made.values() if not task.done()))
    assert [text for call in llm.calls for text in call] == ["first", "s2", "s3", "w1", "q3", "q4"]
    assert all(task.exception() for text, task in made.items() if text in shed)


async def test_jobs_wait_for_the_model_to_load() -> None:
    let = threading.Event()
    llm = Scripted()

    def load() -> AudioLLM:
        let.wait(10)
        return llm

    resident = Resident(load)
    try:
        patient = asyncio.create_task(resident.answer(asking("patient"), priority=SPEECH, deadline=5.0))
        with pytest.raises(BusyError):
            await resident.answer(asking("hasty"), priority=SOUND, deadline=0.05)
        assert resident.status is Status.LOADING
        let.set()
        assert (await patient).text == "PATIENT"
    finally:
        resident.shutdown()


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModelError("config.json: no such model"), "no such model"), (RuntimeError("a bug"), "RuntimeError: a bug")],
)
async def test_a_model_that_cannot_be_loaded_is_an_error_at_once(error: Exception, said: str) -> None:
    let = threading.Event()

    def load() -> AudioLLM:
        let.wait(10)
        raise error

    resident = Resident(load)
    try:
        waiting = asyncio.create_task(resident.answer(asking("early"), priority=SPEECH, deadline=60.0))
        await asyncio.sleep(0)
        let.set()
        with pytest.raises(ModelError, match=said):
            await waiting
        assert not await resident.ready()
        assert resident.status is Status.FAILED
        with pytest.raises(ModelError, match=said):
            await resident.call(lambda _llm: None, priority=SOUND, deadline=None)
    finally:
        resident.shutdown()
    assert resident.figures()["status"] == "failed"


async def test_shutting_down_waits_for_nothing(llm: Scripted) -> None:
    resident = Resident(lambda: llm)
    pieces: list[str] = []
    long = asyncio.create_task(
        resident.answer(asking("slow 30"), priority=QUESTION, deadline=None, stream=pieces.append)
    )
    await until(lambda: pieces)
    waiting = asyncio.create_task(resident.answer(asking("next"), priority=SOUND, deadline=None))
    await asyncio.sleep(0)
    began = time.monotonic()
    resident.shutdown()
    assert time.monotonic() - began < 0.05
    for task in (long, waiting):
        with pytest.raises(ModelError, match="shutting down"):
            await task
    with pytest.raises(ModelError, match="shutting down"):
        await resident.answer(asking("after"), priority=SOUND, deadline=None)
    (thread,) = [thread for thread in threading.enumerate() if thread.name.startswith("audio-llm")] or [None]
    if thread is not None:
        await asyncio.to_thread(thread.join, 1.0)
        assert not thread.is_alive()
    assert time.monotonic() - began < 1.0


async def test_shutting_down_refuses_what_a_failed_batch_left_to_do(resident: Resident, llm: Scripted) -> None:
    first = await busy(resident, llm)
    waiting = [
        asyncio.create_task(resident.answer(asking(text), priority=QUESTION, deadline=None))
        for text in ("slow 50", "bad", "later")
    ]
    await asyncio.sleep(0)
    llm.hold.set()
    await until(lambda: llm.calls[-1] == ["slow 50"])  # the batch failed; its jobs are tried one by one
    resident.shutdown()
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5.0)
    assert [type(result) for result in results] == [ModelError] * 3
    assert (await first).text == "FIRST"


async def test_shutting_down_refuses_a_job_that_the_thread_has_just_taken(resident: Resident) -> None:
    taken, go_on = threading.Event(), threading.Event()
    take = resident._take

    def slowly() -> list[resident_module._Job[Any]]:
        jobs = take()
        taken.set()
        go_on.wait(5)
        return jobs

    resident._take = slowly  # type: ignore[method-assign]
    job = asyncio.create_task(resident.call(lambda llm: llm.answer([asking("hi")]), priority=SOUND, deadline=None))
    await until(taken.is_set)
    resident.shutdown()
    go_on.set()
    with pytest.raises(ModelError, match="shutting down"):
        await asyncio.wait_for(job, 5.0)


async def test_a_thread_that_sees_the_stop_first_leaves_the_refusal_to_it(resident: Resident, llm: Scripted) -> None:
    first = await busy(resident, llm)
    job = asyncio.create_task(resident.answer(asking("second"), priority=SOUND, deadline=None))
    await asyncio.sleep(0)
    resident._stop = True  # as `shutdown` begins, on the other thread
    llm.hold.set()
    await until(lambda: resident.busy_since is None)
    await asyncio.to_thread(resident._executor.submit(resident._serve).result, 5.0)
    resident.shutdown()
    with pytest.raises(ModelError, match="shutting down"):
        await asyncio.wait_for(job, 5.0)
    await asyncio.gather(first, return_exceptions=True)


async def test_figures_tell_tokens_and_time(resident: Resident) -> None:
    resident.figures()
    await resident.answer(asking("slow 0.5"), priority=QUESTION, deadline=None)
    figures = resident.figures()
    assert 50 < figures["tokens_per_s"] <= 110
    assert 50 < figures["busy_percent"] <= 100
    assert resident.figures()["tokens_per_s"] is None  # since the last look: nothing


class Exhausted(Scripted):
    """A model on a GPU that has memory for so many prompts, or labels, at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def answer(self, prompts: Sequence[Prompt], **options: Any) -> list[Answer]:
        self.calls.append([str(prompt.messages[-1].content[-1]) for prompt in prompts])
        if len(prompts) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a secret.")
        stream = options.get("stream")
        if stream is not None:
            for i in range(len(prompts)):
                stream(i, f"piece {i}")
        return [Answer(text.upper(), 1, Stop.END) for text in self.calls[-1]]

    def score(self, prompt: Prompt, labels: Sequence[str]) -> NDArray[np.float32]:
        if len(labels) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return np.array([len(label) for label in labels], np.float32)


async def several(resident: Resident, count: int) -> list[Answer | BaseException]:
    """That many answers, of which all but the first wait together."""
    asked = [resident.answer(asking(f"p{n}"), priority=SPEECH, deadline=5.0) for n in range(count)]
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_what_memory_does_not_suffice_for_is_done_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    llm = Exhausted(2)
    resident = Resident(lambda: llm, batch=8)
    try:
        assert await resident.ready()
        held = threading.Event()
        blocking = asyncio.create_task(resident.call(lambda _llm: held.wait(10), priority=SOUND, deadline=None))
        waiting = asyncio.create_task(several(resident, 8))
        await until(lambda: resident.figures()["waiting_speech"] == 8)
        held.set()
        await blocking
        assert [answer.text for answer in await waiting] == [f"P{n}" for n in range(8)]  # type: ignore[union-attr]
        assert [len(call) for call in llm.calls[1:]] == [8, 4, 2, 2, 4, 2, 2]
        assert "from now on 2" in caplog.text
        scores = await resident.call(
            lambda model: model.score(asking("x"), ["a", "bb", "ccc", "dddd", "eeeee"]), priority=SOUND, deadline=5.0
        )
        assert scores.tolist() == [1, 2, 3, 4, 5]
        assert (resident.status, resident.figures()["healthy"]) == (Status.READY, True)
    finally:
        resident.shutdown()


async def test_out_of_memory_is_told_others_stand_in_and_it_comes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resident_module, "AGAIN", (0.2, 0.4, 0.6))
    caplog.set_level("INFO")
    llm = Exhausted(8)
    resident = Resident(lambda: llm, batch=4)
    try:
        assert await resident.ready()
        llm.room = 0
        answers = await several(resident, 3)
        assert all(isinstance(answer, UnwellError) for answer in answers)
        assert resident.status is Status.UNWELL
        assert not await resident.ready()
        figures = resident.figures()
        assert (figures["healthy"], figures["out_of_memory"], figures["status"]) == (False, 1, "unwell")
        tried = len(llm.calls)
        with pytest.raises(UnwellError, match=r"out of memory: CUDA out of memory\. Tried to allocate 2\.00 GiB"):
            await resident.answer(asking("now"), priority=SOUND, deadline=5.0)
        assert len(llm.calls) == tried  # nobody is kept waiting for what cannot be
        await until(lambda: resident.figures()["out_of_memory"] == 3)  # two attempts in vain
        waits = [record.args[1] for record in caplog.records if "is tried again" in record.message]  # type: ignore[index]
        assert waits == [0.2, 0.4, 0.6]
        assert "remedy: models.audio_llm.quantisation" in caplog.text
        llm.room = 8
        await until(lambda: resident.status is Status.READY)
        assert resident.figures()["healthy"]
        assert "goes on" in caplog.text
        assert (await resident.answer(asking("again"), priority=SOUND, deadline=5.0)).text == "AGAIN"
    finally:
        resident.shutdown()


async def test_a_model_that_memory_does_not_suffice_to_load_is_loaded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_module, "AGAIN", (0.05, 0.05, 0.05))
    attempts: list[float] = []

    def load() -> AudioLLM:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Scripted()

    resident = Resident(load)
    try:
        assert not await resident.ready()
        await until(lambda: resident.status is Status.READY)
        assert (await resident.answer(asking("here"), priority=SOUND, deadline=5.0)).text == "HERE"
        assert len(attempts) == 3
    finally:
        resident.shutdown()


async def test_what_was_streamed_is_not_said_twice() -> None:
    class Late(Exhausted):
        def answer(self, prompts: Sequence[Prompt], **options: Any) -> list[Answer]:
            answers = super().answer(prompts, **options)
            if options.get("stream") is not None:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return answers

    llm = Late(8)
    resident = Resident(lambda: llm)
    pieces: list[str] = []
    try:
        assert await resident.ready()
        with pytest.raises(UnwellError):
            await resident.answer(asking("once"), priority=SOUND, deadline=5.0, stream=pieces.append)
        assert len(llm.calls) == 2  # the warm-up, and it
        assert pieces in ([], ["piece 0"])
        began = time.monotonic()
        resident.shutdown()  # with the next attempt a minute away
        assert time.monotonic() - began < 0.5
        with pytest.raises(ModelError, match="shutting down"):
            await resident.answer(asking("late"), priority=SOUND, deadline=5.0)
    finally:
        resident.shutdown()


async def test_a_lane_is_a_call_with_a_fixed_deadline(resident: Resident, llm: Scripted) -> None:
    lane = Lane(resident, SPEECH, 0.1)
    assert await lane.call(lambda: 3) == 3
    first = await busy(resident, llm)
    with pytest.raises(BusyError):
        await lane.call(lambda: 3)
    patient = asyncio.create_task(lane.call(lambda: 4, patient=True))
    await asyncio.sleep(0.2)
    llm.hold.set()
    await first
    assert await patient == 4


# ------------------------------------------------------------------------------------ a model that is out of reach


class Distant(Scripted):
    """A model behind a server, which can be `gone`."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.tried = 0

    def answer(self, prompts: Sequence[Prompt], **options: Any) -> list[Answer]:
        if self.gone:
            raise AwayError("http://gpu cannot be reached (connection refused)")
        return super().answer(prompts, **options)

    def probe(self) -> None:
        self.tried += 1
        if self.gone:
            raise AwayError("http://gpu cannot be reached (connection refused)")


@pytest.fixture
async def distant(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Distant, Resident]]:
    monkeypatch.setattr(resident_module, "AGAIN_AWAY", (0.1, 0.2))
    model = Distant()
    made = Resident(lambda: model, batch=1, threads=4, trial=lambda _llm: model.probe())
    try:
        yield model, made
    finally:
        made.shutdown()


async def test_the_breaker_opens_tries_and_closes(
    distant: tuple[Distant, Resident], caplog: pytest.LogCaptureFixture
) -> None:
    model, made = distant
    assert await made.ready()
    model.gone = True
    with pytest.raises(UnwellError, match="connection refused"):
        await made.answer(asking("a"), priority=SPEECH, deadline=5.0)
    await until(lambda: made.status is Status.UNWELL)
    with pytest.raises(UnwellError, match="out of reach"):  # open: at once, and nobody is asked
        await made.answer(asking("b"), priority=SPEECH, deadline=5.0)
    assert model.calls == []
    figures = made.figures()
    assert (figures["status"], figures["healthy"], figures["away"], figures["out_of_memory"]) == ("unwell", False, 1, 0)
    await until(lambda: made.figures()["away"] >= 2)  # half open, and open again
    assert model.tried >= 2
    model.gone = False
    await until(lambda: made.status is Status.READY)
    assert (await made.answer(asking("c"), priority=SPEECH, deadline=5.0)).text == "C"
    assert made.figures()["healthy"]
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


async def test_a_server_that_is_not_there_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_module, "AGAIN_AWAY", (0.1, 0.1))
    model = Distant()
    model.gone = True
    made = Resident(lambda: model, batch=1, threads=2, trial=lambda _llm: model.probe())
    try:
        assert not await made.ready()
        assert made.status is Status.UNWELL
        model.gone = False
        await until(lambda: made.status is Status.READY)
        assert made.name == "scripted"
    finally:
        made.shutdown()


async def test_several_are_asked_at_once_and_each_can_be_given_up(distant: tuple[Distant, Resident]) -> None:
    model, made = distant
    waiting = [made.answer(asking("slow 0.5"), priority=QUESTION, deadline=5.0) for _ in range(4)]
    began = time.monotonic()
    first, *others = [asyncio.create_task(each) for each in waiting]
    await made.ready()
    await asyncio.sleep(0.15)
    assert made.busy_since is not None
    first.cancel()
    answers = await asyncio.gather(*others)
    assert [answer.text for answer in answers] == ["SLOW 0.5"] * 3
    assert time.monotonic() - began < 1.5
    assert len(model.threads) == 4
    await until(lambda: made.busy_since is None)
    assert made.figures()["cancelled"] == 1


async def test_what_waits_while_it_loads_is_served_by_whichever_thread() -> None:
    model = Distant()
    loading = threading.Event()

    def load() -> AudioLLM:
        loading.wait(5)
        return model

    made = Resident(load, batch=1, threads=3, trial=lambda _llm: model.probe())
    try:
        waiting = [asyncio.create_task(made.answer(asking(str(i)), priority=SPEECH, deadline=5.0)) for i in range(6)]
        await asyncio.sleep(0.1)  # their tickets are used up by now
        loading.set()
        assert [answer.text for answer in await asyncio.gather(*waiting)] == list("012345")
    finally:
        made.shutdown()


async def test_jobs_of_many_rooms_share_the_steps_of_one_model(qwen_audio_checkpoint: Path) -> None:
    made: list[QwenAudio] = []

    def load() -> AudioLLM:
        made.append(QwenAudio(qwen_audio_checkpoint, AudioLLMSettings(device="cpu", dtype="float32")))
        return Batched(lambda: made[0])

    resident = Resident(load, threads=8, reserve=2)
    try:
        assert await resident.ready()
        rooms = [asking(f"room {number}: what is it?") for number in range(4)]
        expected = await resident.call(
            lambda llm: [llm.answer([room], max_new_tokens=12)[0] for room in rooms], priority=QUESTION, deadline=None
        )
        made[0].decoding._steps = made[0].decoding._made = 0
        answers = await asyncio.gather(
            *(
                resident.call(
                    lambda llm, room=room: llm.answer([room], max_new_tokens=12)[0], priority=QUESTION, deadline=60.0
                )  # type: ignore[misc]
                for room in rooms[:2]
            ),
            *(resident.answer(room, priority=SPEECH, deadline=60.0, max_new_tokens=12) for room in rooms[2:]),
        )
        assert list(answers) == expected
        figures = resident.figures()
        assert figures["batch_mean"] > 1.0
        assert figures["kv_limit"] > 0
        assert figures["rows"] == 0
        late = asyncio.gather(
            *(
                resident.call(lambda llm: llm.answer([rooms[0]], max_new_tokens=3000), priority=QUESTION, deadline=0.3)
                for _ in range(6)
            ),
            return_exceptions=True,
        )
        assert all(isinstance(each, BusyError) for each in await late)
        # Nobody waits for them: the model is free again.
        assert await resident.call(lambda llm: llm.score(rooms[0], ["dog"]).shape, priority=SOUND, deadline=60.0) == (
            1,
        )
        await until(lambda: resident.figures()["rows"] == 0)
    finally:
        resident.shutdown()


async def test_threads_are_kept_for_what_is_urgent(llm: Scripted) -> None:
    resident = Resident(lambda: llm, threads=3, reserve=1)
    assert await resident.ready()
    hold, running = threading.Event(), list[str]()

    def job(name: str) -> Callable[[AudioLLM], None]:
        def run(_llm: AudioLLM) -> None:
            running.append(name)
            assert hold.wait(10)

        return run

    try:
        jobs = [
            asyncio.create_task(resident.call(job(name), priority=priority, deadline=None))
            for name, priority in (("q1", QUESTION), ("q2", QUESTION), ("w1", SPEECH), ("w2", SPEECH), ("s1", SOUND))
        ]
        await until(lambda: len(running) == 3)
        await asyncio.sleep(0.05)
        assert sorted(running) == ["q1", "s1", "w1"]
        hold.set()
        await asyncio.wait_for(asyncio.gather(*jobs), 10)  # whose ticket came too early is served all the same
        assert sorted(running) == ["q1", "q2", "s1", "w1", "w2"]
    finally:
        hold.set()
        resident.shutdown()
