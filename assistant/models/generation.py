"""Greedy answers, constrained answers and label scores on any model of `transformers` that generates with a cache.

Nothing here knows a family: a model comes with its processed inputs (`input_ids`, `attention_mask`, features), the ids
that end an answer, and a function that turns ids into text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from assistant.models.audio_llm import Answer, Stop

Decode = Callable[[Sequence[int]], str]  # ids of an answer, without the end, to its text

PASS = 128  # token positions of one scoring pass: bounds the logits to 80 MB for a vocabulary of 156,000
INCOMPLETE = "\ufffd"  # what a decoder makes of the first bytes of a character


class Trie:
    """Token sequences that share their beginnings; node 0 is the empty sequence, a parent comes before its children."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.children: list[dict[int, int]] = [{}]  # token to node, for each node
        self.parents = [0]
        self.tokens = [-1]  # the token that leads to each node
        self.depths = [0]
        self.through: list[list[int]] = [[]]  # the sequences that pass or end at each node
        self.ends: dict[int, int] = {}  # node to the sequence that ends there: the first of equal ones
        self.paths = [self._insert(index, sequence) for index, sequence in enumerate(sequences)]

    def _insert(self, index: int, sequence: Sequence[int]) -> list[int]:
        """The nodes of the sequence, root first."""
        path = [0]
        self.through[0].append(index)
        for token in sequence:
            node = self.children[path[-1]].get(token)
            if node is None:
                node = len(self.children)
                self.children[path[-1]][token] = node
                self.children.append({})
                self.parents.append(path[-1])
                self.tokens.append(token)
                self.depths.append(self.depths[path[-1]] + 1)
                self.through.append([])
            self.through[node].append(index)
            path.append(node)
        self.ends.setdefault(path[-1], index)
        return path


class Choices:
    """The texts an answer may be, as a trie of their tokens."""

    def __init__(self, choices: Mapping[str, Sequence[int]]) -> None:
        """From each text to its tokens. Raises `ValueError` for none."""
        if not choices:
            raise ValueError("an answer with choices needs at least one")
        first = {
            tuple(sequence): text for text, sequence in reversed(list(choices.items()))
        }  # equal tokens: the first text
        self.texts = list(first.values())
        self.sequences = list(first)
        self.trie = Trie(self.sequences)
        self.longest = max(map(len, self.sequences))


@dataclass(slots=True, eq=False)
class Said:
    """One answer as it grows: token by token, streamed, until it ends or nobody waits."""

    max_new_tokens: int
    end: Collection[int]
    decode: Decode
    choices: Choices | None = None
    stream: Callable[[str], None] | None = None
    cancelled: Callable[[], bool] | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""  # what is certain of it: bytes of an unfinished character are held back
    node: int = 0  # in the trie of choices
    stop: Stop | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for no token."""
        if self.max_new_tokens < 1:
            raise ValueError("an answer needs at least one token")

    @property
    def longest(self) -> int:
        """Tokens it can take, its end included where that is a token."""
        return self.max_new_tokens if self.choices is None else self.choices.longest + 1

    def begin(self) -> None:
        """Before the first token: it may have one choice only, or nobody waits any more."""
        self._settle()
        self._ask()

    def take(self, token: int) -> None:
        """The next token; `stop` tells afterwards whether it was the last."""
        self._append(token)
        self._ask()

    def answer(self) -> Answer:
        """What came of it."""
        return Answer(self.text, len(self.ids), self.stop or Stop.LENGTH)

    def allowed(self) -> list[int] | None:
        """The tokens it may continue with; None: any."""
        if self.choices is None or self.stop is not None:
            return None
        trie = self.choices.trie
        return [*trie.children[self.node], *(sorted(self.end) if self.node in trie.ends else ())]

    def _append(self, token: int) -> None:
        if self.choices is not None:
            trie = self.choices.trie
            if token in self.end:
                self._choose(trie.ends[self.node])
            else:
                self.node = trie.children[self.node][token]
                self._settle()
            return
        if token in self.end:
            self.stop = Stop.END
        else:
            self.ids.append(token)
            self.stop = Stop.LENGTH if len(self.ids) == self.max_new_tokens else None
        if self.stream is not None or self.stop is not None:
            self._grow()

    def _grow(self) -> None:
        """Bring the text up to the ids. Byte-level vocabularies only append, so what was sent stays true."""
        text = self.decode(self.ids)
        if self.stop is not Stop.END:  # the rest of the character may come, or was cut off
            text = text.rstrip(INCOMPLETE)
        piece, self.text = text[len(self.text) :], text
        if piece and self.stream is not None:
            self.stream(piece)

    def _settle(self) -> None:
        """End what can become one choice only: the model need not spell it out."""
        if self.choices is not None and self.stop is None and len(self.choices.trie.through[self.node]) == 1:
            self._choose(self.choices.trie.through[self.node][0])

    def _choose(self, choice: int) -> None:
        assert self.choices is not None  # noqa: S101 (narrows the type; only answers with choices come here)
        self.text = self.choices.texts[choice]
        self.ids = list(self.choices.sequences[choice])
        self.stop = Stop.END
        if self.text and self.stream is not None:
            self.stream(self.text)

    def _ask(self) -> None:
        if self.stop is None and self.cancelled is not None and self.cancelled():
            self.stop = Stop.CANCELLED
            if self.choices is None:
                self._grow()


class _Rows(StoppingCriteria):
    """Follows each row of a batch, and stops it alone.

    `generate` fills the rows that stopped with padding because this has the attribute `eos_token_id`.
    """

    def __init__(self, rows: list[Said], end: Collection[int]) -> None:
        self.rows = rows
        self.eos_token_id = sorted(end)

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        """Which rows are done after their newest token, shape (rows,)."""
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if row.stop is None:
                row.take(token)
        return torch.tensor([row.stop is not None for row in self.rows], device=input_ids.device)


class _Never(LogitsProcessor):
    """Keeps tokens out of every answer."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with these tokens at minus infinity, shape (rows, vocabulary)."""
        self.tokens = self.tokens.to(scores.device)
        return scores.index_fill(-1, self.tokens, -torch.inf)


class _Only(LogitsProcessor):
    """Lets each row continue with tokens of its choices only."""

    def __init__(self, rows: list[Said]) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with everything else at minus infinity, shape (rows, vocabulary)."""
        for index, row in enumerate(self.rows):
            allowed = row.allowed()
            if allowed is not None:
                kept = scores[index, allowed]
                scores[index] = -torch.inf
                scores[index, allowed] = kept
        return scores


def answer(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    *,
    max_new_tokens: int,
    end: Collection[int],
    pad: int,
    decode: Decode,
    never: Sequence[int] = (),
    choices: Mapping[str, Sequence[int]] | None = None,
    stream: Callable[[int, str], None] | None = None,
    cancelled: Callable[[int], bool] | None = None,
) -> list[Answer]:
    """Answer a batch greedily; one answer for each row of `inputs`, which is padded on the left.

    `inputs` goes to `model.generate` as it is (a cache may be in it); the checkpoint's own sampling settings are left
    out. `end` holds the ids that end an answer, `never` those that no answer holds. `choices` maps each allowed text to
    its tokens without the end; a row ends as soon as one choice remains, and `max_new_tokens` does not cut a choice.
    `stream` and `cancelled` are those of `AudioLLM.answer`; a cancelled row keeps the text it has, or none of a choice.
    Raises `ValueError` for `max_new_tokens` below 1 and for empty `choices`.
    """
    table = None if choices is None else Choices(choices)
    rows = [
        Said(
            max_new_tokens,
            end,
            decode,
            table,
            None if stream is None else partial(stream, index),
            None if cancelled is None else partial(cancelled, index),
        )
        for index in range(len(inputs["input_ids"]))
    ]
    for row in rows:
        row.begin()
    if any(row.stop is None for row in rows):
        with last_logits_only(model):
            model.generate(  # type: ignore[operator]  # of GenerationMixin, which PreTrainedModel does not name
                **inputs,
                generation_config=_greedy(rows[0].longest, sorted(end), pad),
                stopping_criteria=StoppingCriteriaList([_Rows(rows, end)]),
                logits_processor=_processors(rows, table, never),
            )
    return [row.answer() for row in rows]


def _processors(rows: list[Said], choices: Choices | None, never: Sequence[int]) -> LogitsProcessorList:
    """What keeps answers to their choices, or from tokens that are none."""
    if choices is not None:
        return LogitsProcessorList([_Only(rows)])
    return LogitsProcessorList([_Never(never)] if never else [])


def _greedy(max_new_tokens: int, end: list[int], pad: int) -> GenerationConfig:
    """Settings that name every sampling option, because `generate` fills those left out from the checkpoint."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=pad,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
    )


@contextmanager
def last_logits_only(model: PreTrainedModel) -> Iterator[None]:
    """Within, only the last position of each row goes through the LM head.

    `generate` asks that of models whose `forward` knows `logits_to_keep`; Qwen2-Audio and the Omni Thinkers do not, and
    would multiply each of a clip's 750 positions by the vocabulary (468 MB of float32 logits).
    """
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        yield
        return
    head: torch.nn.Module = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def score(model: PreTrainedModel, inputs: Mapping[str, Any], sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Mean log-probability per token of each sequence as the continuation of one prompt, shape (sequences,).

    A sequence is scored as given: who wants it to be the whole answer appends the id that ends one. The prompt (one row
    without padding) runs once. Then the sequences run together as a tree, packed in one row behind the prompt's cache:
    a beginning that several share is computed once, and the last token of each is not run at all, only predicted. For
    that `model` must take, beside `past_key_values`, explicit `position_ids` of shape (1, n) and an additive
    `attention_mask` of shape (1, 1, n, cached + n), as the decoders of `transformers` do. Raises `ValueError` for an
    empty sequence and for a prompt of several rows or with padding.
    """
    if not sequences:
        return np.zeros(0, np.float32)
    mask = inputs.get("attention_mask")
    if len(inputs["input_ids"]) != 1 or (mask is not None and not bool(mask.all())):
        raise ValueError("scores are given for one prompt without padding")
    if not all(sequences):
        raise ValueError("a sequence without tokens has no score")
    keep = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        keep = {"logits_to_keep": 1}
    with last_logits_only(model):
        output = model(**inputs, **keep, use_cache=True)
    return scored(model, output.logits[:, -1], output.past_key_values, sequences)


@torch.no_grad()
def scored(
    model: PreTrainedModel, logits: torch.Tensor, cache: Cache, sequences: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """`score` behind a prompt that has run: its last `logits` (1, vocabulary) and its cache, left as it was."""
    first = logits.float().log_softmax(-1)
    prompt = cache.get_seq_length()
    scores = np.zeros(len(sequences), np.float32)
    for group in _groups(sequences):
        trie = Trie([sequences[index] for index in group])
        gains = _gains(model, trie, first, cache, prompt)
        for index, path in zip(group, trie.paths, strict=True):
            scores[index] = gains[path[1:]].mean()
    return scores


def _groups(sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of the sequences, neighbours in the tree together, in groups of one or at most `PASS` tokens."""
    group: list[int] = []
    size = 0
    for index in sorted(range(len(sequences)), key=lambda index: tuple(sequences[index])):
        previous = sequences[group[-1]] if group else ()
        shared = next(
            (at for at, (a, b) in enumerate(zip(previous, sequences[index], strict=False)) if a != b),
            min(len(previous), len(sequences[index])),
        )
        if group and size + len(sequences[index]) - shared > PASS:
            yield group
            group, size, shared = [], 0, 0
        group.append(index)
        size += len(sequences[index]) - shared
    yield group


def _gains(
    model: PreTrainedModel,
    trie: Trie,
    first: torch.Tensor,
    cache: Cache,
    prompt: int,
) -> NDArray[np.float64]:
    """Log-probability of the token that leads to each node, shape (nodes,); the root has 0.

    `first` is the log-softmax behind the prompt, shape (1, vocabulary). The cache is left as it was.
    """
    inner = [node for node in range(1, len(trie.children)) if trie.children[node]]
    gains = np.zeros(len(trie.children))
    _read(gains, trie, [0], first)
    if not inner:
        return gains
    row = {node: at for at, node in enumerate(inner)}
    seen = torch.zeros(len(inner), len(inner), dtype=torch.bool)  # each node sees its ancestors and itself
    for at, node in enumerate(inner):
        if trie.parents[node]:
            seen[at] = seen[row[trie.parents[node]]]
        seen[at, at] = True
    device, dtype = first.device, model.dtype
    mask = torch.zeros(1, 1, len(inner), prompt + len(inner), dtype=dtype)
    mask[..., prompt:].masked_fill_(~seen, torch.finfo(dtype).min)
    output = model(
        input_ids=torch.tensor([[trie.tokens[node] for node in inner]], device=device),
        attention_mask=mask.to(device),
        position_ids=torch.tensor([[prompt + trie.depths[node] - 1 for node in inner]], device=device),
        past_key_values=cache,
        use_cache=True,
    )
    cache.crop(-len(inner))
    _read(gains, trie, inner, output.logits[0])
    return gains


def _read(gains: NDArray[np.float64], trie: Trie, nodes: list[int], logits: torch.Tensor) -> None:
    """Write the log-probabilities of the children of `nodes`, whose logits are (nodes, vocabulary), into `gains`.

    Row by row: a vocabulary's worth of logits stays in the processor's cache (110 rows of 156,000: 19 ms, not 52).
    """
    found: list[torch.Tensor] = []
    children: list[int] = []
    for row, node in zip(logits, nodes, strict=True):
        following = trie.children[node]
        found.append(row.log_softmax(-1, dtype=torch.float32)[list(following)])
        children += following.values()
    gains[children] = torch.cat(found).cpu().numpy()
