"""Answers made together are those made alone, whoever comes, goes or fails beside them; memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_qwen_audio as tiny
import torch

from assistant.errors import ModelError
from assistant.models.audio_llm import Answer, AudioLLMSettings, Message, Prompt, Stop
from assistant.models.decoding import Decoding, Prefixes
from assistant.models.growing_cache import growing_cache
from assistant.models.qwen_audio.llm import QwenAudio

NOISE = np.random.default_rng(3).normal(0, 0.1, 24_000).astype(np.float32)


@pytest.fixture(scope="module")
def shared(qwen_audio_checkpoint: Path) -> QwenAudio:
    return QwenAudio(qwen_audio_checkpoint, AudioLLMSettings(device="cpu", dtype="float32"))


@pytest.fixture
def llm(shared: QwenAudio) -> QwenAudio:
    remake(shared)
    return shared


def remake(llm: QwenAudio, *, rows: int = 8, limit: int = 100_000, record: object = None) -> Decoding:
    llm.decoding = Decoding(
        llm._model,
        rows=rows,
        limit=limit,
        never=llm.decoding._never.tolist(),
        record=record,  # type: ignore[arg-type]
    )
    return llm.decoding


def ask(text: str, *clips: np.ndarray, system: str | None = None) -> Prompt:
    first = () if system is None else (Message("system", (system,)),)
    return Prompt((*first, Message("user", (*clips, text))))


PROMPTS = [
    ask("what is that sound?", tiny.wave("short")),
    ask("hello"),
    ask("compare", tiny.wave("mid"), tiny.wave("odd")),
    ask("sing", NOISE),
    ask("what is that sound?", tiny.wave("tiny"), system="You answer with one word."),
]
LENGTHS = [7, 24, 3, 16, 11]


def alone(llm: QwenAudio, prompt: Prompt, new: int, choices: Sequence[str] | None = None) -> Answer:
    llm.decoding.prefixes.clear()
    (answer,) = llm.answer([prompt], max_new_tokens=new, choices=choices)
    llm.decoding.prefixes.clear()
    return answer


def test_answers_that_join_and_leave_are_those_made_alone(llm: QwenAudio) -> None:
    expected = [alone(llm, prompt, new) for prompt, new in zip(PROMPTS, LENGTHS, strict=True)]
    requests = [llm.request(prompt, max_new_tokens=new) for prompt, new in zip(PROMPTS, LENGTHS, strict=True)]
    most = 0
    waiting = list(requests)
    while waiting or llm.decoding.running:  # one joins at every second token
        if waiting:
            llm.decoding.join(waiting.pop(0))
        for _ in range(2):
            most = max(most, len(llm.decoding.running))
            if llm.decoding.running:
                llm.decoding.step()
    assert most >= 3  # they did run together
    assert [request.said.answer() for request in requests] == expected
    assert llm.decoding.figures()["rows"] == 0


def test_steps_give_the_logits_of_the_uncached_model(llm: QwenAudio) -> None:
    prompts = [ask("hello"), PROMPTS[0]]
    requests = [llm.request(prompt, max_new_tokens=9) for prompt in prompts]
    for request in requests:
        llm.decoding.join(request)
    said = [[request.newest] for request in requests]
    forward, seen = llm.decoding._forward, []

    def watched(newest: torch.Tensor) -> torch.Tensor:
        seen.append(forward(newest))
        return seen[-1]

    llm.decoding._forward = watched  # type: ignore[method-assign]
    for _ in range(4):
        llm.decoding.step()
        for ids, request in zip(said, requests, strict=True):
            ids.append(request.newest)
    for number, prompt in enumerate(prompts):
        row = llm._processor.chat(prompt.messages)
        length = len(row.ids)
        row.ids += said[number][:-1]
        with torch.no_grad():
            whole = llm._model(**llm._processor.batch([row])).logits[0, length:]
        got = torch.stack([logits[number] for logits in seen])
        torch.testing.assert_close(got, whole, atol=2e-4, rtol=0)


def test_beyond_the_trained_length_rows_keep_their_own_stretch(llm: QwenAudio) -> None:
    limit = llm._model.config.seq_length
    words = " ".join(f"word{number}" for number in range(limit // 2))
    prompts = [ask(words), ask("hello"), ask(words + words)]
    requests = [llm.request(prompt, max_new_tokens=6) for prompt in prompts]
    assert [request.alpha > 1.0 for request in requests] == [True, False, True]
    assert requests[0].alpha != requests[2].alpha
    expected = [alone(llm, prompt, 6) for prompt in prompts]
    assert llm.answer(prompts, max_new_tokens=6) == expected
    assert llm.decoding.prefixes.tokens < limit  # what depends on the whole prompt is nobody else's beginning


def test_choices_and_free_answers_share_steps(llm: QwenAudio) -> None:
    choices = ("turn on the light", "turn off the light", "turn off the radio")
    expected = [alone(llm, PROMPTS[3], 8), alone(llm, PROMPTS[0], 8, choices)]
    requests = [llm.request(PROMPTS[3], max_new_tokens=8), llm.request(PROMPTS[0], choices=choices)]
    llm._answer(requests)
    assert [request.said.answer() for request in requests] == expected
    assert expected[1].text in choices


def test_a_cancelled_one_leaves_at_once_and_hurts_no_other(llm: QwenAudio) -> None:
    expected = alone(llm, PROMPTS[3], 12)
    gone = False
    pieces: list[str] = []
    leaving = llm.request(PROMPTS[0], max_new_tokens=12, cancelled=lambda: gone)
    staying = llm.request(PROMPTS[3], max_new_tokens=12, stream=pieces.append)
    llm.decoding.join(leaving)
    llm.decoding.join(staying)
    llm.decoding.step()
    gone = True
    llm.decoding.step()
    assert leaving.said.stop is Stop.CANCELLED
    assert llm.decoding.running == [staying]
    while llm.decoding.running:
        llm.decoding.step()
    assert staying.said.answer() == expected
    assert "".join(pieces) == expected.text


def test_who_listens_badly_hurts_no_other(llm: QwenAudio) -> None:
    expected = alone(llm, PROMPTS[1], 8)

    def broken(_piece: str) -> None:
        raise ZeroDivisionError("a bug of who listens")

    bad, good = llm.request(PROMPTS[3], max_new_tokens=8, stream=broken), llm.request(PROMPTS[1], max_new_tokens=8)
    with pytest.raises(ZeroDivisionError):
        llm._answer([bad, good])
    assert good.said.answer() == expected
    assert not llm.decoding.running


def test_what_does_not_fit_waits_and_what_never_will_is_refused(llm: QwenAudio) -> None:
    expected = [alone(llm, prompt, 8) for prompt in PROMPTS[:3]]
    size = len(llm.request(PROMPTS[2]).keys) + 8
    decoding = remake(llm, limit=2 * -(-size // 64) * 64)  # a quarter of it is for beginnings: one at a time
    requests = [llm.request(prompt, max_new_tokens=8) for prompt in PROMPTS[:3]]
    decoding.join(requests[2])
    assert decoding.running == [requests[2]]
    assert not decoding.fits(requests[2])
    assert decoding.figures()["kv_tokens"] <= decoding.limit
    while decoding.running:
        decoding.step()
    assert llm.answer(PROMPTS[:3], max_new_tokens=8) == expected
    with pytest.raises(ModelError, match="does not fit"):
        llm.answer([PROMPTS[2]], max_new_tokens=10_000)
    assert llm.answer(PROMPTS[:1], max_new_tokens=8) == expected[:1]


def test_rows_are_limited_and_the_last_are_for_the_urgent(llm: QwenAudio) -> None:
    decoding = remake(llm, rows=4)
    for prompt in PROMPTS[:3]:
        decoding.join(llm.request(prompt, max_new_tokens=20))
    another = llm.request(PROMPTS[3])
    assert decoding.fits(another)
    assert not decoding.fits(another, 0.75)
    decoding.join(another)
    assert not decoding.fits(llm.request(PROMPTS[4]))


def test_an_idle_house_holds_no_slots(llm: QwenAudio) -> None:
    llm.answer(PROMPTS, max_new_tokens=4)
    assert llm.decoding._slots.slots == 0
    assert llm.decoding._slots.layers == []


def test_a_common_beginning_is_computed_once(llm: QwenAudio) -> None:
    first, second = ask("what is it?", NOISE), ask("is it loud?", NOISE)
    expected = [alone(llm, prompt, 8) for prompt in (first, second)]
    scores = llm.score(second, ["dog", "rain"])
    llm.decoding.prefixes.clear()
    heard: list[int] = []
    encode = llm._model.model.get_audio_features

    def counted(features: torch.Tensor, *rest: object, **options: object) -> list[torch.Tensor]:
        heard.append(len(features))
        return encode(features, *rest, **options)  # type: ignore[arg-type]

    llm._model.model.get_audio_features = counted
    try:
        assert llm.answer([first], max_new_tokens=8) == expected[:1]
        assert heard == [1]
        assert llm.answer([second], max_new_tokens=8) == expected[1:]
        np.testing.assert_allclose(llm.score(second, ["dog", "rain"]), scores, atol=1e-4)
        assert heard == [1]  # neither encoded nor run again
        other = NOISE.copy()
        other[-1] += 0.5
        llm.answer([ask("what is it?", other)], max_new_tokens=1)
        assert heard == [1, 1]  # a clip that differs in one sample is another
    finally:
        llm._model.model.get_audio_features = encode
    assert llm.decoding.prefixes.saved > 2 * 38


def test_prefixes_are_bounded_and_the_least_used_go() -> None:
    def cache(tokens: int) -> object:
        made = growing_cache()
        states = torch.arange(float(tokens)).view(1, 1, tokens, 1).expand(1, 2, tokens, 4)
        made.update(states, -states, 0)
        return made

    prefixes = Prefixes(3, 100)
    for name in (1, 2, 3):
        prefixes.keep([name] * 30, cache(30))  # type: ignore[arg-type]
    start, begun = prefixes.begin([1] * 20 + [9] * 9)
    assert (start, begun.get_seq_length()) == (20, 20)
    assert begun.layers[0].keys[0, 0, :, 0].tolist() == list(range(20))
    prefixes.keep([4] * 30, cache(30))  # type: ignore[arg-type]
    assert prefixes.tokens == 90
    assert prefixes.begin([2] * 20)[0] == 0  # it was the oldest that nobody used
    assert prefixes.begin([1] * 30)[0] == 29  # the last token must run for its logits
    assert prefixes.begin([1] * 7 + [5] * 30)[0] == 0  # not worth it
    prefixes.keep([6] * 101, cache(101))  # type: ignore[arg-type]
    assert prefixes.tokens <= 100


def test_steps_of_fixed_sizes_give_the_same(llm: QwenAudio) -> None:
    """As on a GPU, but that each replay runs the step: padded rows, masked room, inputs that are copied in place."""
    expected = [alone(llm, prompt, new) for prompt, new in zip(PROMPTS, LENGTHS, strict=True)]
    recordings = 0

    def record(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        nonlocal recordings
        recordings += 1
        run()
        return run

    decoding = remake(llm, rows=4, limit=4 * 1024, record=record)
    requests = [llm.request(prompt, max_new_tokens=new) for prompt, new in zip(PROMPTS, LENGTHS, strict=True)]
    llm._answer(requests)
    assert [request.said.answer() for request in requests] == expected
    assert 1 <= recordings <= 6  # rows of 1, 2 and 4, of two lengths at most
    llm._answer([llm.request(PROMPTS[1], max_new_tokens=4)])
    assert 1 <= recordings <= 6
    assert decoding._slots.slots == 4  # they stay where the graphs write


def test_steps_of_fixed_sizes_go_beyond_the_trained_length(llm: QwenAudio) -> None:
    prompt = ask(" ".join(f"word{number}" for number in range(200)))
    trained = len(llm.request(prompt).keys) + 4
    kept = llm._model.config.seq_length
    llm._model.config.seq_length = trained
    try:
        expected = alone(llm, prompt, 12)
        remake(llm, record=lambda run: run)
        assert alone(llm, prompt, 12) == expected
        assert {beyond for _, _, beyond in llm.decoding._graphs} == {False, True}
    finally:
        llm._model.config.seq_length = kept


def test_a_step_that_cannot_be_recorded_runs_all_the_same(llm: QwenAudio, caplog: pytest.LogCaptureFixture) -> None:
    expected = alone(llm, PROMPTS[0], 8)

    def record(_run: object) -> Callable[[], torch.Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    remake(llm, record=record)
    assert llm.answer([PROMPTS[0]], max_new_tokens=8) == [expected]
    assert "not recorded as graphs: operation not permitted when stream is capturing" in caplog.text
