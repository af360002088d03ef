"""A tiny random Qwen2 decoder stands for every model: what is tested is independent of its family."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from assistant.models import generation
from assistant.models.audio_llm import Stop
from assistant.models.generation import Trie, answer, last_logits_only, score

END, PAD, VOCABULARY = 3, 0, 260
BYTES = 4  # ids from here are bytes: a byte-level vocabulary as the real ones


def decode(ids: Sequence[int]) -> str:
    return bytes(max(i - BYTES, 0) for i in ids).decode(errors="replace")


def encode(text: str) -> list[int]:
    return [byte + BYTES for byte in text.encode()]


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.6,  # far from uniform, so that greedy choices are not ties
    )
    model = Qwen2ForCausalLM(config).eval()
    model.generation_config = GenerationConfig(  # what a chat checkpoint brings along must not matter
        do_sample=True, top_p=0.5, top_k=0, temperature=0.7, repetition_penalty=1.9, eos_token_id=7
    )
    return model


def padded(*rows: list[int]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[PAD] * (longest - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
    }


PROMPTS = [[9, 30, 77, 120, 4, 8], [101, 5], [44, 200, 33, 10]]


def greedy(model: Qwen2ForCausalLM, prompt: list[int], tokens: int) -> list[int]:
    """Uncached and one by one: the slow path."""
    ids = list(prompt)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_a_batch_answers_as_each_prompt_alone_and_uncached(model: Qwen2ForCausalLM) -> None:
    expected = [greedy(model, prompt, 12) for prompt in PROMPTS]
    ends = expected[1][4]  # declare a token the model does say to be the end
    answers = answer(model, padded(*PROMPTS), max_new_tokens=12, end=[ends], pad=PAD, decode=decode)
    for wanted, got in zip(expected, answers, strict=True):
        said = wanted[: wanted.index(ends)] if ends in wanted else wanted
        assert (got.tokens, got.stop) == (len(said), Stop.END if ends in wanted else Stop.LENGTH)
        assert got.text == (decode(said) if ends in wanted else decode(said).rstrip("\ufffd"))
    assert answers[1].stop is Stop.END


def test_an_answer_holds_no_forbidden_token(model: Qwen2ForCausalLM) -> None:
    said = greedy(model, PROMPTS[0], 4)
    spoken: list[int] = []

    def keep(ids: Sequence[int]) -> str:
        spoken[:] = ids
        return decode(ids)

    answer(model, padded(PROMPTS[0]), max_new_tokens=4, end=[END], pad=PAD, decode=keep, never=said[:1])
    assert len(spoken) == 4
    assert said[0] not in spoken


def test_streamed_pieces_are_the_text_and_no_character_is_torn() -> None:
    script = [*encode("né 你好"), END]
    pieces: list[str] = []
    said = generation.Said(99, [END], decode, stream=pieces.append)
    for token in script:
        said.take(token)
    assert "".join(pieces) == said.answer().text == "né 你好"
    assert pieces == ["n", "é", " ", "你", "好"]


def test_streaming_changes_nothing(model: Qwen2ForCausalLM) -> None:
    pieces: dict[int, str] = {0: "", 1: "", 2: ""}

    def stream(row: int, piece: str) -> None:
        assert piece
        pieces[row] += piece

    plain = answer(model, padded(*PROMPTS), max_new_tokens=20, end=[END], pad=PAD, decode=decode)
    streamed = answer(model, padded(*PROMPTS), max_new_tokens=20, end=[END], pad=PAD, decode=decode, stream=stream)
    assert streamed == plain
    assert [pieces[i] for i in range(3)] == [a.text for a in plain]


def test_a_cancelled_row_stops_within_one_token_and_the_others_go_on(model: Qwen2ForCausalLM) -> None:
    plain = answer(model, padded(*PROMPTS), max_new_tokens=10, end=[END], pad=PAD, decode=decode)
    asked = [0, 0, 0]

    def cancelled(row: int) -> bool:
        asked[row] += 1
        return row == 1 and asked[row] > 3

    answers = answer(model, padded(*PROMPTS), max_new_tokens=10, end=[END], pad=PAD, decode=decode, cancelled=cancelled)
    assert (answers[1].stop, answers[1].tokens) == (Stop.CANCELLED, 3)
    assert plain[1].text.startswith(answers[1].text)
    assert (answers[0], answers[2]) == (plain[0], plain[2])


def test_a_batch_that_nobody_waits_for_runs_nothing(model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "forward", None)
    answers = answer(
        model, padded(*PROMPTS), max_new_tokens=10, end=[END], pad=PAD, decode=decode, cancelled=lambda _: True
    )
    assert [(a.text, a.tokens, a.stop) for a in answers] == [("", 0, Stop.CANCELLED)] * 3


CHOICES = ["yes", "yesterday", "no", "nothing", "你", "none of these"]


def test_every_answer_is_one_of_the_choices(model: Qwen2ForCausalLM) -> None:
    streamed = {0: "", 1: "", 2: ""}

    def stream(row: int, piece: str) -> None:
        streamed[row] += piece

    answers = answer(
        model,
        padded(*PROMPTS),
        max_new_tokens=1,  # does not cut a choice
        end=[END],
        pad=PAD,
        decode=decode,
        choices={text: encode(text) for text in CHOICES},
        stream=stream,
    )
    for row, (prompt, got) in enumerate(zip(PROMPTS, answers, strict=True)):
        assert got.text == streamed[row] == constrained(model, prompt)
        assert (got.stop, got.tokens) == (Stop.END, len(encode(got.text)))


def constrained(model: Qwen2ForCausalLM, prompt: list[int]) -> str:
    """The slow path: at each step the best token that some choice goes on with."""
    said: list[int] = []
    options = [[*encode(text), END] for text in CHOICES]
    while len(options) > 1:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + said])).logits[0, -1]
        said.append(max({option[len(said)] for option in options}, key=lambda token: float(logits[token])))
        options = [option for option in options if option[: len(said)] == said]
    return decode(options[0][:-1])


def test_a_choice_that_others_go_on_from_can_be_taken(model: Qwen2ForCausalLM) -> None:
    said = greedy(model, PROMPTS[0], 3)
    choices = {"short": said[:1], "long": said[:2], "other": [said[0], said[1], (said[2] + 1) % VOCABULARY]}
    for end, expected in (([said[1]], "short"), ([said[2]], "long")):
        got = answer(model, padded(PROMPTS[0]), max_new_tokens=9, end=end, pad=PAD, decode=decode, choices=choices)
        assert got[0].text == expected


def test_a_single_choice_needs_no_model(model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "forward", None)
    got = answer(
        model, padded([5]), max_new_tokens=9, end=[END], pad=PAD, decode=decode, choices={"yes": encode("yes")}
    )
    assert (got[0].text, got[0].stop) == ("yes", Stop.END)


def test_a_cancelled_choice_is_no_choice(model: Qwen2ForCausalLM) -> None:
    choices = {text: encode(text) for text in ("aaab", "aaac")}
    calls = iter([False, False, True])
    got = answer(
        model,
        padded([5]),
        max_new_tokens=9,
        end=[END],
        pad=PAD,
        decode=decode,
        choices=choices,
        cancelled=lambda _: next(calls),
    )
    assert (got[0].text, got[0].stop) == ("", Stop.CANCELLED)


@pytest.mark.parametrize("arguments", [{"max_new_tokens": 0}, {"max_new_tokens": 5, "choices": {}}])
def test_nothing_to_say_is_refused(model: Qwen2ForCausalLM, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        answer(model, padded([5]), end=[END], pad=PAD, decode=decode, **arguments)  # type: ignore[arg-type]


def mean_log_probability(model: Qwen2ForCausalLM, prompt: list[int], sequence: list[int]) -> float:
    """The slow path: prompt and sequence in one uncached row."""
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([prompt + sequence])).logits[0].log_softmax(-1)
    return float(np.mean([logs[len(prompt) + at - 1, token] for at, token in enumerate(sequence)]))


def sequences(count: int, longest: int) -> list[list[int]]:
    """Random token sequences that share beginnings, some the beginning of others."""
    random = np.random.default_rng(4)
    made = [[50], [50, 51], [50, 51, END], [60, 61, 62, 63, 64, 65]]
    while len(made) < count:
        base = made[random.integers(len(made))]
        made.append(
            [*base[: random.integers(len(base) + 1)], *random.integers(4, VOCABULARY, random.integers(1, longest))]
        )
    return [[int(token) for token in sequence] for sequence in made]


@pytest.mark.parametrize("budget", [128, 7, 1])  # of token positions: one pass, several, one for each sequence
def test_scores_are_those_of_each_sequence_alone(
    model: Qwen2ForCausalLM, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(generation, "PASS", budget)
    labels = sequences(20, 4)
    got = score(model, padded(PROMPTS[0]), labels)
    expected = [mean_log_probability(model, PROMPTS[0], label) for label in labels]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.ptp(got) > 1  # they do differ


def test_scores_do_not_depend_on_the_other_labels(model: Qwen2ForCausalLM) -> None:
    labels = sequences(12, 4)
    together = score(model, padded(PROMPTS[2]), labels)
    alone = [score(model, padded(PROMPTS[2]), [label])[0] for label in labels]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_the_prompt_runs_once_and_shared_beginnings_run_once(model: Qwen2ForCausalLM) -> None:
    lengths: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        score(model, padded(PROMPTS[0]), [[10, 11, 12, END], [10, 11, 13, END], [10, 14]])
    finally:
        hook.remove()
    assert lengths == [len(PROMPTS[0]), 4]  # 10, 11, 12 and 13: what comes last is predicted, not run


def test_scoring_takes_one_whole_prompt(model: Qwen2ForCausalLM) -> None:
    assert score(model, padded([5]), []).shape == (0,)
    with pytest.raises(ValueError, match="one prompt"):
        score(model, padded(*PROMPTS), [[5]])
    with pytest.raises(ValueError, match="without tokens"):
        score(model, padded([5]), [[5], []])


def test_the_trie_shares_beginnings() -> None:
    trie = Trie([[1, 2], [1, 3], [1], [1, 2]])
    assert len(trie.children) == 4
    assert trie.ends == {2: 0, 3: 1, 1: 2}
    assert trie.paths == [[0, 1, 2], [0, 1, 3], [0, 1], [0, 1, 2]]


def test_only_the_last_row_meets_the_head_where_forward_cannot_say_so(model: Qwen2ForCausalLM) -> None:
    class Mute(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=input_ids).logits
            return logits

        def get_output_embeddings(self) -> torch.nn.Module:
            return model.lm_head

    mute = Mute()
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        whole = mute(ids)
        with last_logits_only(mute):  # type: ignore[arg-type]
            last = mute(ids)
        assert mute(ids).shape == whole.shape  # and only within
    assert last.shape == (1, 1, VOCABULARY)
    torch.testing.assert_close(last, whole[:, -1:])
