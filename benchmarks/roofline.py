"""What hardware allows Qwen-Audio at best: tokens a second, time to the first token, rows that make it compute-bound.

    python benchmarks/roofline.py

Arithmetic on spec sheets, nothing is measured; the tables of docs/performance.md come from here. Decoding reads the
decoder's weights and the LM head once a step and the keys and values of each row; a prompt costs two operations for
each weight and token. No real program reaches these. The last line is one JSON object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

GB, TFLOPS = 1e9, 1e12


@dataclass(frozen=True, slots=True)
class Card:
    """Spec sheet: dense tensor operations in bf16 or fp16 with sums in fp32."""

    name: str
    bandwidth: float  # bytes a second
    operations: float  # a second
    memory: float  # bytes that a program can have: what is sold less 1 GB for driver and context


CARDS = (
    Card("RTX 3090, 24 GB", 936 * GB, 71 * TFLOPS, 24 * 2**30 - 1 * GB),
    Card("RTX 4090, 24 GB", 1008 * GB, 165 * TFLOPS, 24 * 2**30 - 1 * GB),
    # GPU alone: 170 sparse INT8 TOPS, half of it dense, half of that in fp16. The memory is shared with the system.
    Card("Jetson AGX Orin, 64 GB", 204.8 * GB, 42.5 * TFLOPS, 48 * 2**30),
)

# Qwen-Audio-Chat (config.json of the published files).
WIDTH, LAYERS, INNER, VOCABULARY = 4096, 32, 11_008, 155_947
ENCODER_WIDTH, ENCODER_LAYERS = 1280, 32
DECODER = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * INNER)  # weights
HEAD = WIDTH * VOCABULARY
ENCODER = ENCODER_LAYERS * 12 * ENCODER_WIDTH**2 + ENCODER_WIDTH * WIDTH
KV = 2 * LAYERS * WIDTH * 2  # bytes of a token's keys and values in bf16
BYTES = {"bf16": 2.0, "int8": 1.05, "int4": 0.6}  # for each weight of the decoder, scales included; the rest has 2
PROMPTS = {10: 292, 30: 792}  # seconds of audio: tokens of a prompt with one clip and a short question
NEW = 64  # tokens of an answer
MOST = 256  # tokens that an answer may get, for which memory is promised
SHARE, SLOTS = 0.8, 0.75  # of what is free for keys and values; of that for answers (assistant.models.decoding)


def step_bytes(kind: str) -> float:
    """Weights that a step reads, whatever the number of rows."""
    return DECODER * BYTES[kind] + HEAD * 2


def held_bytes(kind: str) -> float:
    """Weights in memory: embeddings and encoder too."""
    return step_bytes(kind) + (HEAD + ENCODER) * 2


def step_seconds(card: Card, kind: str, rows: int, context: float) -> float:
    """The longer of reading and computing."""
    reading = (step_bytes(kind) + rows * context * KV) / card.bandwidth
    return max(reading, rows * 2 * (DECODER + HEAD) / card.operations)


def first_token(card: Card, seconds: int) -> float:
    """Encoder and prompt, bound by arithmetic: both, attention included."""
    frames, tokens = 50 * seconds, PROMPTS[seconds]
    encoder = 2 * ENCODER * frames + 4 * frames**2 * ENCODER_WIDTH * ENCODER_LAYERS
    prompt = 2 * DECODER * tokens + 2 * tokens**2 * WIDTH * LAYERS + 2 * HEAD
    return (encoder + prompt) / card.operations


def turns(card: Card, kind: str, context: float) -> float | None:
    """Rows from which arithmetic takes longer than reading; None: never, keys and values are read faster than used."""
    a_row = 2 * (DECODER + HEAD) / card.operations - context * KV / card.bandwidth
    return step_bytes(kind) / card.bandwidth / a_row if a_row > 0 else None


def budget(card: Card, kind: str) -> int:
    """Tokens of keys and values."""
    return max(0, int((card.memory - held_bytes(kind)) * SHARE / KV))


def main() -> None:
    """Print tables in Markdown and one JSON line."""
    context = PROMPTS[10] + NEW / 2
    found: dict[str, dict[str, float | int | None]] = {}
    print(f"decoder {DECODER / 1e9:.2f} G weights, LM head {HEAD / 1e9:.2f} G, encoder {ENCODER / 1e9:.2f} G")
    print(f"keys and values: {KV / 1024:.0f} KiB a token; a row of {context:.0f} tokens {context * KV / 1e6:.0f} MB\n")
    print("| card | weights | GB a step | tok/s, 1 row | 8 | 16 | first token, 10 s | 30 s | compute-bound |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for card in CARDS:
        for kind in BYTES:
            rates = [rows / step_seconds(card, kind, rows, context) for rows in (1, 8, 16)]
            bound, bare = turns(card, kind, context), turns(card, kind, 0)
            ms = [1000 * first_token(card, seconds) for seconds in PROMPTS]
            turning = f"{bound:.0f} rows ({bare:.0f} without KV)" if bound else f"never ({bare:.0f} rows without KV)"
            print(f"| {card.name} | {kind} | {step_bytes(kind) / GB:.1f} | {' | '.join(f'{r:.0f}' for r in rates)} "
                  f"| {ms[0]:.0f} ms | {ms[1]:.0f} ms | {turning} |")  # fmt: skip
            found[f"{card.name}, {kind}"] = {
                "tok_s_1": rates[0], "tok_s_8": rates[1], "tok_s_16": rates[2],
                "first_10s_ms": ms[0], "first_30s_ms": ms[1], "compute_bound_rows": bound,
                "kv_tokens": budget(card, kind),
            }  # fmt: skip
    print("\n| card | weights | held, GB | KV budget, tokens | answers about 10 s at once | about 30 s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for card in CARDS:
        for kind in BYTES:
            tokens = budget(card, kind)
            rows = [int(tokens * SLOTS) // (-(-(prompt + MOST) // 64) * 64) for prompt in PROMPTS.values()]
            print(f"| {card.name} | {kind} | {held_bytes(kind) / GB:.1f} | {tokens:,} | {rows[0]} | {rows[1]} |")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
