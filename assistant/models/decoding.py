"""Answers of many requests decoded together: each joins between two tokens when there is room, and leaves when it ends.

A step reads all weights once, whatever the number of answers; that is what decoding costs, so eight answers take little
longer than one. No answer depends on its neighbours. Memory for keys and values is bounded: a request is let in only
when the longest answer it may get fits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, PreTrainedModel

from assistant.models import generation
from assistant.models.audio_llm import PromptError, Stop
from assistant.models.generation import Said
from assistant.models.growing_cache import growing_cache
from assistant.models.slots import STEP, Slots, rounded

log = logging.getLogger(__name__)

WORTH = 8  # tokens of a common beginning that are worth looking up
PREFIX_SHARE = 4  # one in so many tokens of the budget is for beginnings of prompts
SEEN = 256  # graphs read a multiple of so many keys

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


@dataclass(slots=True, eq=False)
class Request:
    """One prompt and the answer it gets."""

    keys: Sequence[int]  # what each token of the prompt is: where two prompts begin with the same, so do their caches
    embed: Callable[[int], Tensor]  # the prompt's embeddings from that token on, (1, rest, width)
    said: Said
    alpha: float = 1.0  # stretch of the rotary base
    common: bool = True  # its beginning may be another's: the model computes it as if nothing followed
    error: Exception | None = None  # what its stream raised
    newest: int = field(default=-1)  # the token that is not in the cache yet

    @property
    def tokens(self) -> int:
        """The most that its slot will hold."""
        return len(self.keys) + self.said.longest


class Prefixes:
    """Keys and values of the last prompts, for those that begin alike: the same instructions, the same clip."""

    def __init__(self, most: int, tokens: int) -> None:
        """At most so many prompts, and tokens in all."""
        self._most, self._tokens = most, tokens
        self._kept: list[tuple[Sequence[int], Cache]] = []  # the latest last
        self.saved = 0  # tokens that were not computed again

    @property
    def tokens(self) -> int:
        """How many are kept."""
        return sum(len(keys) for keys, _ in self._kept)

    def begin(self, keys: Sequence[int]) -> tuple[int, Cache]:
        """How many of the tokens have been seen before, all but the last at most, and a cache of them to go on with."""
        fresh = growing_cache()
        shared, index = max(((_common(kept, keys), i) for i, (kept, _) in enumerate(self._kept)), default=(0, 0))
        shared = min(shared, len(keys) - 1)
        if shared < WORTH:
            return 0, fresh
        self._kept.append(self._kept.pop(index))
        layers: list[Any] = self._kept[-1][1].layers
        for number, layer in enumerate(layers):
            fresh.update(layer.keys[:, :, :shared], layer.values[:, :, :shared], number)
        self.saved += shared
        return shared, fresh

    def keep(self, keys: Sequence[int], cache: Cache) -> None:
        """Remember a prompt; nobody may write into its tokens any more. The oldest go."""
        self._kept = [(kept, old) for kept, old in self._kept if _common(kept, keys) < len(kept)]
        self._kept.append((keys, cache))
        while self._kept and (len(self._kept) > self._most or self.tokens > self._tokens):
            del self._kept[0]

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts have in common."""
    shortest = min(len(one), len(other))
    if one[:shortest] == other[:shortest]:
        return shortest
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


class Decoding:
    """The answers that a model makes now. For one thread."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        rows: int,
        limit: int,
        never: Sequence[int] = (),
        record: Record | None = None,
    ) -> None:
        """At most `rows` at once, with `limit` tokens of keys and values in all; no answer holds a token of `never`.

        `model` takes one token a row with `position_ids` (rows, 1), an additive `attention_mask` (rows, 1, 1, seen) and
        a cache. `record` makes of a step of fixed sizes one that is replayed (`recorded`, for a GPU).
        """
        self.rows, self.limit = rows, limit
        self.running: list[Request] = []
        self.prefixes = Prefixes(rows, limit // PREFIX_SHARE)
        self._model, self._record = model, record
        self._never = torch.tensor(never, dtype=torch.long, device=model.device)
        self._slots = Slots()
        self._graphs: dict[tuple[int, int, bool], _Graph] = {}
        self._steps, self._made = 0, 0

    def fits(self, request: Request, share: float = 1.0) -> bool:
        """Whether it can join now, within its share of rows and memory. Alone it always may: `join` refuses it."""
        if not self.running:
            return True
        return len(self.running) < max(1, int(share * self.rows)) and self._layout(request, share) is not None

    @torch.no_grad()
    def join(self, request: Request) -> None:
        """Run the prompt; the answer gets its first token and, unless it ends there, more with each `step`.

        Raises `PromptError` for what will never fit.
        """
        said = request.said
        if said.stop is None:
            said.begin()
        if said.stop is not None:
            return
        layout = self._layout(request, 1.0)
        if layout is None:
            raise PromptError(
                f"a prompt of {len(request.keys)} tokens with an answer of up to {said.longest} does not fit: there is "
                f"memory for {self._room} tokens and {len(self.running)} others; remedy: shorter audio or history, or "
                "models.audio_llm.quantisation: int8"
            )
        logits, cache = self._prefill(request)
        newest = self._likeliest(logits, [request])
        if layout != (self._slots.slots, self._slots.room):
            self._graphs.clear()  # they write to tensors that are no more
        self._slots.put(cache, len(request.keys), request.alpha, *layout)
        self.running.append(request)
        self._say(newest)  # when nothing can fail any more: who is let in anew must not say it twice
        self._let_go()

    @torch.no_grad()
    def step(self) -> None:
        """One more token of each answer."""
        logits = self._forward(torch.tensor([[request.newest] for request in self.running]))
        newest = self._likeliest(logits, self.running)
        self._slots.end()  # until here nothing is changed that a second attempt would not do again
        self._steps, self._made = self._steps + 1, self._made + len(self.running)
        self._say(newest)
        self._let_go()

    @torch.no_grad()
    def score(self, request: Request, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """As `generation.score`, behind the prompt of a request, whatever is running."""
        if not sequences:
            return np.zeros(0, np.float32)
        if not all(sequences):
            raise ValueError("a sequence without tokens has no score")
        return generation.scored(self._model, *self._prefill(request), sequences)

    def clear(self) -> None:
        """Give up all answers and all memory, after an error."""
        self.running.clear()
        self._graphs.clear()
        self._slots.clear()
        self.prefixes.clear()

    def figures(self) -> dict[str, Any]:
        """For health."""
        return {
            "rows": len(self.running),
            "batch_mean": round(self._made / self._steps, 2) if self._steps else None,
            "kv_tokens": sum(request.tokens for request in self.running) + self.prefixes.tokens,
            "kv_limit": self.limit,
            "prefix_tokens_saved": self.prefixes.saved,
        }

    @property
    def _room(self) -> int:
        """Tokens of all slots together."""
        return self.limit - self.limit // PREFIX_SHARE

    def _layout(self, request: Request, share: float) -> tuple[int, int] | None:
        """Slots and tokens in each with one more request; None: memory does not suffice."""
        count = len(self.running) + 1
        room = rounded(max(each.tokens for each in (*self.running, request)))
        limit = int(self._room * share)
        now = (self._slots.slots, self._slots.room)
        if count <= now[0] and room <= now[1] and count * now[1] <= limit:
            return now
        whole = self._room // self.rows // STEP * STEP
        if self._record is not None and room <= whole and count * whole <= limit:
            return self.rows, whole  # made once, so that graphs stay true
        for slots in (min(self.rows, 1 << (count - 1).bit_length()), count):  # doubled: not copied for each that joins
            if slots * room <= limit:
                return slots, room
        return None

    def _prefill(self, request: Request) -> tuple[Tensor, Cache]:
        """The logits (1, vocabulary) behind a prompt, and its cache."""
        start, cache = self.prefixes.begin(request.keys) if request.common else (0, growing_cache())
        cache.ntk_alpha = torch.tensor([request.alpha], device=self._model.device)  # type: ignore[attr-defined]
        embeddings = request.embed(start)
        output = self._model(
            inputs_embeds=embeddings,
            position_ids=torch.arange(start, len(request.keys), device=embeddings.device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if request.common:
            self.prefixes.keep(request.keys, cache)
        return output.logits[:, -1], cache

    def _forward(self, newest: Tensor) -> Tensor:
        """The logits (rows, vocabulary) behind the newest tokens (rows, 1)."""
        slots, dtype, device = self._slots, self._model.dtype, self._model.device
        if self._record is None:
            slots.begin(dtype, device)
            return _logits(self._model, slots, newest.to(device))
        rows = min(slots.slots, 1 << (len(newest) - 1).bit_length())
        seen = min(slots.room, -(-(slots.get_seq_length() + 1) // SEEN) * SEEN)
        slots.begin(dtype, device, rows=rows, seen=seen)
        newest = torch.nn.functional.pad(newest, (0, 0, 0, rows - len(newest))).to(device)
        trained = getattr(self._model.config, "seq_length", None)  # beyond, Qwen-Audio computes something more
        which = (rows, seen, trained is not None and slots.get_seq_length() >= trained)
        if which not in self._graphs:
            try:
                self._graphs[which] = _Graph(self._model, slots, newest, self._record)
            except RuntimeError as error:  # products that ask the CPU in between cannot be recorded
                log.warning("steps are not recorded as graphs: %s", str(error).partition("\n")[0])
                self._record = None
                return self._forward(newest[: len(self.running)])
        return self._graphs[which].run(slots, newest)[: len(self.running)]

    def _likeliest(self, logits: Tensor, requests: Sequence[Request]) -> list[int]:
        """The likeliest token of each row that it may say."""
        logits = logits.index_fill(-1, self._never, -torch.inf)
        newest: list[int] = logits.argmax(-1).tolist()
        for row, request in enumerate(requests):
            allowed = request.said.allowed()
            if allowed is not None:
                newest[row] = allowed[int(logits[row, allowed].argmax())]
        return newest

    def _say(self, newest: Sequence[int]) -> None:
        """Tell who listens the newest token of each of the last rows."""
        for request, token in zip(self.running[-len(newest) :], newest, strict=True):
            request.newest = token
            try:
                request.said.take(token)
            except Exception as error:  # of who listens: it must not hurt the others
                request.error, request.said.stop = error, Stop.CANCELLED

    def _let_go(self) -> None:
        """Free the slots of what has ended."""
        for row in reversed(range(len(self.running))):
            if self.running[row].said.stop is not None:
                self._leave(row)

    def _leave(self, row: int) -> None:
        self._slots.drop(row)
        self.running[row] = self.running[-1]
        self.running.pop()
        if not self.running and self._record is None:
            self._slots.clear()  # an idle house holds no memory


def _logits(model: PreTrainedModel, slots: Slots, newest: Tensor) -> Tensor:
    output = model(
        input_ids=newest,
        attention_mask=slots.mask,
        position_ids=slots.at[:, None],
        past_key_values=slots,
        use_cache=True,
    )
    logits: Tensor = output.logits[:, -1]
    return logits


class _Graph:
    """A step of fixed sizes, recorded with inputs of its own, to which those of each step are copied."""

    def __init__(self, model: PreTrainedModel, slots: Slots, newest: Tensor, record: Record) -> None:
        self._inputs = newest.clone(), *(tensor.clone() for tensor in slots.inputs)
        seen = slots.seen

        def run() -> Tensor:  # it may write more than once: each time where this step's tokens go anyway
            first, *rest = self._inputs
            slots.inputs, slots.seen = tuple(rest), seen
            return _logits(model, slots, first)

        self._run = record(run)

    def run(self, slots: Slots, newest: Tensor) -> Tensor:
        """The logits, in a tensor that the next run overwrites."""
        for kept, new in zip(self._inputs, (newest, *slots.inputs), strict=True):
            kept.copy_(new)
        return self._run()


def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A step as a CUDA graph: hundreds of launches of small kernels become one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries choose their kernels and make room at first calls
        run()
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
