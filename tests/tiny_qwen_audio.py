"""The tiny Qwen-Audio checkpoint of the tests, and what the original computes with it."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data" / "qwen_audio"
CLIPS = ("tiny", "odd", "short", "mid", "long")  # 0.1, 0.4, 1.3, 4 and 33.7 s
FRAMES = 3000  # of every mel

_GAMMA = 0x9E3779B97F4A7C15  # Steele et al., "Fast splittable pseudorandom number generators" (2014)
_STREAM = 0xD1B54A32D192ED03
_BLOCK = 1 << 20


def build(folder: Path, vocabulary: Path) -> Path:
    """Write the complete checkpoint to `folder`, with `vocabulary` as its `qwen.tiktoken`."""
    shutil.copytree(DATA / "checkpoint", folder, dirs_exist_ok=True)
    shutil.copyfile(vocabulary, folder / "qwen.tiktoken")
    spec = json.loads((folder / "embeddings.json").read_text())
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    (shard,) = {index[tensor["name"]] for tensor in spec["tensors"]}
    content = _shard(spec)
    assert hashlib.sha256(content).hexdigest() == spec["sha256"], "the embeddings are not those of the goldens"
    (folder / shard).write_bytes(content)
    return folder


def _shard(spec: dict[str, Any]) -> bytes:
    """The safetensors file of the embeddings, a function of the seed alone."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    tensors = []
    offset = 0
    for tensor in spec["tensors"]:
        rows, columns = tensor["shape"]
        values = _values(spec["seed"], tensor["tensor_no"], rows * columns, tensor["std"]).reshape(rows, columns)
        for start, end in tensor.get("zero_rows", []):
            values[start:end] = 0
        tensors.append(values.tobytes())
        span = [offset, offset + values.nbytes]
        offset = span[1]
        header[tensor["name"]] = {"dtype": "BF16", "shape": tensor["shape"], "data_offsets": span}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *tensors])


def _values(seed: int, tensor: int, count: int, std: float) -> NDArray[np.uint16]:
    """`count` bfloat16 bit patterns, about normal: sums of the eight bytes of splitmix64."""
    scale = np.float32(std / 209.02)  # the standard deviation of such a sum
    bits = np.empty(count, np.uint16)
    start = (seed * _GAMMA + tensor * _STREAM + _GAMMA) % 2**64
    for at in range(0, count, _BLOCK):
        size = min(_BLOCK, count - at)
        with np.errstate(over="ignore"):
            x = np.uint64((start + at) % 2**64) + np.arange(size, dtype=np.uint64)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        sums = x.view(np.uint8).reshape(size, 8).sum(axis=1, dtype=np.int32) - 1020
        single = (sums.astype(np.float32) * scale).view(np.uint32)
        single += np.uint32(0x7FFF) + ((single >> np.uint32(16)) & np.uint32(1))  # to nearest, ties to even
        bits[at : at + size] = single >> np.uint32(16)
    return bits


@cache
def goldens() -> dict[str, NDArray[Any]]:
    """Every golden array by name, for example `enc/short` or `case/text_chat/logits_cols`. Do not write to them."""
    with np.load(DATA / "goldens.npz") as file:
        arrays = {name: file[name] for name in file.files}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def wave(clip: str) -> NDArray[np.float32]:
    """A clip at 16 kHz, -1 to 1. Also `stereo44k`, as ffmpeg resampled `goldens()["source/stereo44k"]`."""
    samples: NDArray[np.float32] = goldens()[f"wave/{clip}"].astype(np.float32) / 32768
    return samples


def mel(clip: str) -> NDArray[np.float32]:
    """The log-mel of a clip as the original computes it, shape (80, 3000)."""
    heard, tail = goldens()[f"mel/{clip}"], goldens()[f"mel_tail/{clip}"]
    whole: NDArray[np.float32] = np.full((heard.shape[0], FRAMES), tail[0] if tail.size else 0, np.float32)
    whole[:, : heard.shape[1]] = heard
    return whole


@cache
def table(name: str) -> Any:
    """A JSON golden: cases, chat_prompts, chat_end_to_end, tokenizer_goldens, special_tokens, lengths, nucleus…"""
    plain = DATA / f"{name}.json"
    return json.loads(
        plain.read_bytes() if plain.is_file() else gzip.decompress((DATA / f"{name}.json.gz").read_bytes())
    )


def case(name: str) -> dict[str, NDArray[Any]]:
    """The arrays of one case: input_ids, attention_mask, positions, logits_cols, greedy_ids …"""
    prefix = f"case/{name}/"
    return {key.removeprefix(prefix): array for key, array in goldens().items() if key.startswith(prefix)}


def clips_of(entry: dict[str, Any]) -> list[NDArray[np.float32]]:
    """The waves of an entry of `cases` or `chat_prompts`, in the order of its prompts."""
    info = entry["audio_info"] or []
    urls = [url for row in (info if isinstance(info, list) else [info]) for url in row["audio_urls"]]
    return [wave(Path(url).stem.removeprefix("a_")) for url in urls]


def at_rest() -> None:
    """Wait until no thread of a resident model computes any more: residents of different tests share one model."""
    for thread in threading.enumerate():
        if thread.name.startswith("audio-llm"):  # a resident's jobs, or the model's own
            thread.join(60)
            assert not thread.is_alive(), "a model goes on after its shutdown"
