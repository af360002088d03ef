"""Many threads ask one model: who comes first, who shares steps, and that nobody's trouble is another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_qwen_audio as tiny

from assistant.errors import ModelError
from assistant.models.audio_llm import AudioLLMSettings, Message, Prompt, Stop
from assistant.models.batching import Asker, Batched, GivenUpError, asking_for
from assistant.models.decoding import Request
from assistant.models.qwen_audio.llm import QwenAudio
from assistant.models.slots import Slots

TEXTS = ["hello", "what is it?", "sing", "count to ten", "why?"]


def ask(text: str, *clips: np.ndarray) -> Prompt:
    return Prompt((Message("user", (*clips, text)),))


@pytest.fixture(scope="module")
def loaded(qwen_audio_checkpoint: Path) -> QwenAudio:
    return QwenAudio(qwen_audio_checkpoint, AudioLLMSettings(device="cpu", dtype="float32"))


@pytest.fixture
def batched(loaded: QwenAudio) -> Iterator[Batched]:
    loaded.decoding.clear()
    loaded.decoding.rows = 8
    made = Batched(lambda: loaded)
    yield made
    made.close()
    made._thread.join(10)
    assert not made._thread.is_alive()


class Gate:
    """Holds the model's thread between two tokens."""

    def __init__(self, batched: Batched) -> None:
        self.open, self.held = threading.Event(), threading.Event()
        self._ticket = batched._put(self._hold)

    def _hold(self) -> None:
        self.held.set()
        assert self.open.wait(30)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_threads_that_ask_at_once_get_what_they_would_get_alone(batched: Batched, loaded: QwenAudio) -> None:
    clip = tiny.wave("short")
    prompts = [ask(text, clip) if number % 2 else ask(text) for number, text in enumerate(TEXTS)]
    expected = [loaded.answer([prompt], max_new_tokens=6 + number)[0] for number, prompt in enumerate(prompts)]
    scores = loaded.score(prompts[1], ["dog", "rain"])
    loaded.decoding.prefixes.clear()
    loaded.decoding._steps = loaded.decoding._made = 0
    gate = Gate(batched)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(batched.answer, [prompt], max_new_tokens=6 + number) for number, prompt in enumerate(prompts)
        ]
        scoring = pool.submit(batched.score, prompts[1], ["dog", "rain"])
        until(lambda: len(batched._waiting) == 6)
        gate.open.set()
        assert [each.result(60)[0] for each in asked] == expected
        np.testing.assert_allclose(scoring.result(60), scores, atol=1e-4)
    figures = batched.figures()
    assert figures["batch_mean"] > 2  # they shared their steps
    assert figures["tokens_per_s"] > 0
    assert (figures["rows"], figures["waiting_turn"]) == (0, 0)


def test_the_most_urgent_comes_first_then_who_came_first(batched: Batched) -> None:
    gate, order = Gate(batched), list[str]()
    assert gate.held.wait(10)
    for name, urgency in (("q1", 2), ("w1", 1), ("s1", 0), ("q2", 2), ("s2", 0)):
        with asking_for(Asker(urgency)):
            batched._put(lambda name=name: order.append(name))
    gate.open.set()
    until(lambda: len(order) == 5)
    assert order == ["s1", "s2", "w1", "q1", "q2"]


def test_something_urgent_waits_for_a_token_not_for_an_answer(batched: Batched) -> None:
    made = threading.Event()

    def piece(_row: int, _text: str) -> None:
        made.set()

    with ThreadPoolExecutor(1) as pool, asking_for(Asker(2)):
        stop = threading.Event()
        long = pool.submit(
            batched.answer, [ask("sing")], max_new_tokens=3000, stream=piece, cancelled=lambda _: stop.is_set()
        )
        assert made.wait(30)
        with asking_for(Asker(0)):
            assert batched.score(ask("hello"), ["dog", "rain"]).shape == (2,)
        assert not long.done()
        stop.set()
        assert long.result(30)[0].stop is Stop.CANCELLED


def test_what_nobody_waits_for_is_never_begun(batched: Batched) -> None:
    gate = Gate(batched)
    assert gate.held.wait(10)
    unwanted = False

    def both() -> list[object]:
        found: list[object] = []
        with asking_for(Asker(1, lambda: unwanted)):
            found += batched.answer([ask("hello")], max_new_tokens=4)
            with pytest.raises(GivenUpError):
                batched.score(ask("hello"), ["dog", "rain"])
        return found

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(both)
        until(lambda: batched._waiting)
        unwanted = True
        gate.open.set()
        (answer,) = asked.result(30)
    assert answer.stop is Stop.CANCELLED  # type: ignore[attr-defined]
    assert answer.tokens == 0  # type: ignore[attr-defined]


def test_a_prompt_that_is_refused_and_an_error_are_their_askers(batched: Batched, loaded: QwenAudio) -> None:
    expected = loaded.answer([ask("hello")], max_new_tokens=5)
    with pytest.raises(ModelError):
        batched.answer([Prompt()])
    embed = loaded._embed

    def broken(row: object, start: int) -> object:
        raise ZeroDivisionError("a bug")

    loaded._embed = broken  # type: ignore[method-assign, assignment]
    loaded.decoding.prefixes.clear()
    with pytest.raises(ZeroDivisionError):
        batched.answer([ask("hello")], max_new_tokens=5)
    loaded._embed = embed  # type: ignore[method-assign]
    assert batched.answer([ask("hello")], max_new_tokens=5) == expected


def test_out_of_memory_beside_others_means_waiting_for_them(
    batched: Batched, loaded: QwenAudio, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [loaded.answer([ask(text)], max_new_tokens=9)[0] for text in TEXTS[:3]]
    join = loaded.decoding.join

    def tight(request: Request) -> None:
        if len(loaded.decoding.running) >= 2:
            raise MemoryError("CUDA out of memory")
        join(request)

    loaded.decoding.join = tight  # type: ignore[method-assign]
    try:
        assert batched.answer([ask(text) for text in TEXTS[:3]], max_new_tokens=9) == expected
    finally:
        loaded.decoding.join = join  # type: ignore[method-assign]
    assert loaded.decoding.rows == 2
    assert "memory does not suffice for 8 answers at once; from now on 2" in caplog.text


def test_an_answer_that_is_let_in_anew_says_nothing_twice(
    batched: Batched, loaded: QwenAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory gives out once the prompt was computed, where its keys and values get their slot."""
    expected = [loaded.answer([ask(text)], max_new_tokens=9)[0] for text in TEXTS[:2]]
    put, refused = Slots.put, []

    def tight(slots: Slots, *arguments: Any) -> None:
        if slots.lengths and not refused:
            refused.append(True)
            raise MemoryError("CUDA out of memory")
        put(slots, *arguments)

    monkeypatch.setattr(Slots, "put", tight)
    pieces = ["", ""]

    def stream(number: int, piece: str) -> None:
        pieces[number] += piece

    assert batched.answer([ask(text) for text in TEXTS[:2]], max_new_tokens=9, stream=stream) == expected
    assert refused
    assert pieces == [answer.text for answer in expected]


def test_memory_that_gives_out_for_one_alone_is_not_held_by_beginnings(
    batched: Batched, loaded: QwenAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loaded.answer([ask("sing")], max_new_tokens=5)
    assert loaded.decoding.prefixes.tokens
    put = Slots.put

    def tight(slots: Slots, *arguments: Any) -> None:
        if len(loaded.decoding.prefixes._kept) > 1:
            raise MemoryError("CUDA out of memory")
        put(slots, *arguments)

    monkeypatch.setattr(Slots, "put", tight)
    with pytest.raises(MemoryError):
        batched.answer([ask("hello")], max_new_tokens=5)
    assert batched.answer([ask("sing")], max_new_tokens=5) == expected


def test_a_bug_between_two_tokens_leaves_nobody_waiting(
    batched: Batched, loaded: QwenAudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loaded.answer([ask("sing")], max_new_tokens=5)

    def broken(*_arguments: Any) -> bool:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(loaded.decoding, "fits", broken)
        for each in [pool.submit(batched.answer, [ask(text)], max_new_tokens=50) for text in TEXTS[:2]]:
            with pytest.raises(ZeroDivisionError):
                each.result(30)
    assert batched.answer([ask("sing")], max_new_tokens=5) == expected


def test_a_step_that_memory_does_not_suffice_for_is_tried_once_more(batched: Batched, loaded: QwenAudio) -> None:
    expected = loaded.answer([ask("sing"), ask("hello")], max_new_tokens=9)
    step, failures = loaded.decoding.step, [2, 3, 7]
    calls = 0

    def tight() -> None:
        nonlocal calls
        calls += 1
        if calls in failures:
            raise MemoryError("CUDA out of memory")
        step()

    loaded.decoding.step = tight  # type: ignore[method-assign]
    try:
        with pytest.raises(MemoryError):  # twice in a row
            batched.answer([ask("sing"), ask("hello")], max_new_tokens=9)
        calls = 5
        assert batched.answer([ask("sing"), ask("hello")], max_new_tokens=9) == expected
    finally:
        loaded.decoding.step = step  # type: ignore[method-assign]


def test_closing_waits_for_nothing(loaded: QwenAudio) -> None:
    loaded.decoding.clear()
    batched = Batched(lambda: loaded)
    gate = Gate(batched)
    assert gate.held.wait(10)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(batched.answer, [ask(text)], max_new_tokens=3000) for text in TEXTS[:2]]
        until(lambda: len(batched._waiting) == 2)
        batched.close()
        gate.open.set()
        for each in asked:
            with pytest.raises(GivenUpError):
                each.result(30)
    with pytest.raises(ModelError, match="shutting down"):
        batched.answer([ask("hello")])
    batched._thread.join(10)
    assert not batched._thread.is_alive()


def test_what_load_raises_is_told_to_who_loads() -> None:
    def load() -> QwenAudio:
        raise ModelError("there is no such folder")

    with pytest.raises(ModelError, match="no such folder"):
        Batched(load)
