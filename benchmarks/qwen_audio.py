"""How fast Qwen-Audio is on this machine: prefill, decoding, batch of 8, label scores, memory, share of the limit.

    python benchmarks/qwen_audio.py [config.json] [--dtypes fp32 bf16 int8] [--repeats 5] [--threads 2]

Writes a checkpoint of random weights in the published layout (bf16, the file's dtype) to a temporary folder and calls
the model as anyone would: `from_pretrained`, then `generate` on 10 s of audio and a prompt of 292 tokens. Without a
configuration: a decoder of 12 layers by 1024 and the real vocabulary, 513 M parameters. Each dtype has its own process,
so that peak memory is its own. Prefill is `generate` of one token; decoding is what each of 63 more adds to it.
Labels are the first 50 that the tagger of the profile `qwen` asks about. The limit is a plain read of the bytes a token
needs, timed between the repeats. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.utils.logging import disable_progress_bar

from assistant.models import generation, store
from assistant.models.classify import PHRASES
from assistant.models.qwen_audio import checkpoint
from assistant.models.qwen_audio.checkpoint import NAMES
from assistant.models.qwen_audio.configuration import QwenAudioConfig
from assistant.models.qwen_audio.mel import log_mel
from assistant.models.qwen_audio.model import QwenAudioForConditionalGeneration, sinusoids
from assistant.models.qwen_audio.tokenizer import QwenAudioTokenizer

MIB = 2**20
SECONDS, PROMPT, NEW, BATCH = 10, 292, 64, 8
LABELS, LABEL_SECONDS = 50, 3
SHARD = 1 << 30  # bytes
CONFIG = {
    "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "hidden_size": 1024, "num_hidden_layers": 12,
    "num_attention_heads": 8, "kv_channels": 128, "intermediate_size": 5632, "layer_norm_epsilon": 1e-5,
    "vocab_size": 155_947, "seq_length": 2048, "max_position_embeddings": 8192, "rotary_emb_base": 10_000,
    "rotary_pct": 1.0, "use_dynamic_ntk": True, "use_logn_attn": True, "no_bias": True, "initializer_range": 0.02,
    "audio": {
        "n_mels": 80, "n_ctx": 1500, "n_state": 512, "n_head": 8, "n_layer": 12, "output_dim": 1024,
        "avg_pool": True, "add_audio_bos_eos_token": True, "audio_start_id": 155_163,
    },
}  # fmt: skip


def published_name(ours: str) -> str:
    """The name of one of our tensors in the published files."""
    for pattern, replacement in NAMES.items():
        back = re.escape(replacement).replace(r"\\1", r"(\d+)")
        name, count = re.subn(f"^{back}", pattern.lstrip("^").replace(r"(\d+)", r"\1").replace(r"\.", "."), ours)
        if count:
            return name
    return ours


def write_checkpoint(folder: Path, content: dict[str, Any]) -> int:
    """A checkpoint of random bf16 weights in the published layout; the number of parameters."""
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": "chatml", "pad_token_id": 151_643}))
    with torch.device("meta"):
        model = QwenAudioForConditionalGeneration(checkpoint.configuration(folder))
    random = torch.Generator().manual_seed(2)
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    shards, size, total = 0, 0, 0
    for name, tensor in model.state_dict().items():
        if name.endswith("positional_embedding"):
            weight = sinusoids(*tensor.shape)
        elif "norm" in name or "ln_post" in name:
            weight = torch.full(tensor.shape, float(name.endswith("weight")))
        else:
            weight = torch.randn(tensor.shape, generator=random) * 0.02
        shard[published_name(name)] = weight.bfloat16()
        total += weight.numel()
        size += 2 * weight.numel()
        if size > SHARD // 4:
            shards, size = shards + 1, 0
            save_file(shard, folder / f"model-{shards}.safetensors", metadata={"format": "pt"})
            index |= dict.fromkeys(shard, f"model-{shards}.safetensors")
            shard = {}
    save_file(shard, folder / "model-0.safetensors", metadata={"format": "pt"})
    index |= dict.fromkeys(shard, "model-0.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return total


def resident(field: str = "VmRSS") -> float:
    """MiB of this process now (`VmRSS`) or at most (`VmHWM`)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def inputs_of(config: QwenAudioConfig, seconds: float, rows: int, length: int | None) -> dict[str, Any]:
    """Prompts of `length` tokens with a clip each, as the processor makes them; None: as short as the clip allows."""
    noise = np.random.default_rng(1).normal(0, 0.1, round(seconds * 16_000)).astype(np.float32)
    frames = len(noise) // 160
    span = (frames + 1) // 4 + 2
    start = int(config.encoder["audio_start_id"])
    around = (length or span + 20) - span
    words = np.random.default_rng(2).integers(100, 10_000, around)
    clip = [start, *[start - 3_312] * (span - 2), start + 1]
    ids = torch.tensor([*words[:4], *clip, *words[4:]])
    mel = log_mel([torch.from_numpy(noise)])
    return {
        "input_ids": ids.repeat(rows, 1),
        "attention_mask": torch.ones(rows, len(ids), dtype=torch.long),
        "input_features": mel.repeat(rows, 1, 1),
        "audio_lengths": torch.full((rows,), frames),
    }


def token_bytes(config: QwenAudioConfig, dtype: str) -> int:
    """Bytes of weights that one decoded token reads: the decoder's products and the LM head."""
    layer = config.hidden_size * (4 * config.hidden_size + 3 * config.intermediate_size // 2)
    weights = config.num_hidden_layers * layer + config.hidden_size * config.vocab_size
    return weights * {"fp32": 4, "bf16": 2, "int8": 1}[dtype]


def seconds_of(work: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder: Path, dtype: str, repeats: int, threads: int) -> dict[str, Any]:
    """All figures of one dtype, in this process."""
    disable_progress_bar()
    torch.set_num_threads(threads)
    before = resident()
    began = time.perf_counter()
    model = QwenAudioForConditionalGeneration.from_pretrained(
        folder,
        dtype={"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}[dtype],
        weights="int8" if dtype == "int8" else "packed",
    )
    loading = time.perf_counter() - began
    loaded = resident() - before
    one, many, short = (
        inputs_of(model.config, *which)
        for which in ((SECONDS, 1, PROMPT), (SECONDS, BATCH, PROMPT), (LABEL_SECONDS, 1, None))
    )
    tokenizer = QwenAudioTokenizer.from_pretrained(store.pull("qwen-tokenizer"))
    labels = [tokenizer.encode(phrase) for phrase in list(PHRASES.values())[:LABELS]]
    times: dict[str, list[float]] = {}

    def run(inputs: dict[str, Any], new: int) -> None:
        made = model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        assert made.shape[1] == inputs["input_ids"].shape[1] + new

    peak = 0.0
    for repeat in range(repeats + 1):  # the first is not counted
        figures = {"prefill": seconds_of(lambda: run(one, 1)), "whole": seconds_of(lambda: run(one, NEW))}
        peak = peak or resident("VmHWM") - before
        figures |= {"prefill8": seconds_of(lambda: run(many, 1)), "whole8": seconds_of(lambda: run(many, NEW))}
        figures |= {
            "prefill_short": seconds_of(lambda: run(short, 1)),
            "labels": seconds_of(lambda: generation.score(model, short, labels)),
        }
        for name, value in figures.items() if repeat else ():
            times.setdefault(name, []).append(value)
        if not repeat:
            buffer = torch.ones(128 * MIB, dtype=torch.int32)
        times.setdefault("read", []).append(seconds_of(buffer.amax))
    figures = summary(times)
    read = buffer.nbytes / min(times["read"])  # bytes a second
    return {
        "load_s": loading, "loaded_mib": loaded, "peak_mib": peak, "read_gb_s": read / 1e9,
        "token_mib": token_bytes(model.config, dtype) / MIB,
        "share_of_limit": figures["decode_tok_s"] * token_bytes(model.config, dtype) / read, **figures,
    }  # fmt: skip


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians over the repeats, and lowest and highest of what matters most."""
    decode = [(NEW - 1) / (whole - first) for first, whole in zip(times["prefill"], times["whole"], strict=True)]
    decode8 = [
        BATCH * (NEW - 1) / (whole - first) for first, whole in zip(times["prefill8"], times["whole8"], strict=True)
    ]
    ratio = [score / first for score, first in zip(times["labels"], times["prefill_short"], strict=True)]
    median = statistics.median
    return {
        "prefill_s": median(times["prefill"]), "prefill_range": [min(times["prefill"]), max(times["prefill"])],
        "decode_tok_s": median(decode), "decode_range": [min(decode), max(decode)],
        "batch8_tok_s": median(decode8), "batch8_factor": median(decode8) / median(decode),
        "labels_s": median(times["labels"]), "labels_over_prefill": median(ratio),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="write it here, or use what is here")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "int8"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.checkpoint, options.worker, options.repeats, options.threads)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").is_file():
            write_checkpoint(folder, json.loads(options.config.read_text()) if options.config else CONFIG)
        results = {}
        for dtype in options.dtypes:
            command = [sys.executable, __file__, "--checkpoint", str(folder), "--worker", dtype,
                       "--repeats", str(options.repeats), "--threads", str(options.threads)]  # fmt: skip
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[dtype] = json.loads(done.stdout.splitlines()[-1])
            print(dtype, json.dumps(results[dtype], indent=1), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
