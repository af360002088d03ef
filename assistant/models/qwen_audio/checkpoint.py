"""The published files: where they are, whether they are whole, and what their tensors are called here."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from assistant.errors import ModelError
from assistant.models.qwen_audio.configuration import QwenAudioConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, the format's own limit
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of the dtypes that weights may have
AGAIN = "remedy: fetch the checkpoint again"

# Published name → ours, as regular expressions, applied in order.
NAMES = {
    r"^transformer\.wte\.": "model.embed_tokens.",
    r"^transformer\.ln_f\.": "model.norm.",
    r"^transformer\.h\.(\d+)\.ln_1\.": r"model.layers.\1.input_layernorm.",
    r"^transformer\.h\.(\d+)\.ln_2\.": r"model.layers.\1.post_attention_layernorm.",
    r"^transformer\.h\.(\d+)\.attn\.c_attn\.": r"model.layers.\1.self_attn.qkv_proj.",
    r"^transformer\.h\.(\d+)\.attn\.c_proj\.": r"model.layers.\1.self_attn.o_proj.",
    r"^transformer\.h\.(\d+)\.mlp\.w1\.": r"model.layers.\1.mlp.up_proj.",
    r"^transformer\.h\.(\d+)\.mlp\.w2\.": r"model.layers.\1.mlp.gate_proj.",
    r"^transformer\.h\.(\d+)\.mlp\.c_proj\.": r"model.layers.\1.mlp.down_proj.",
    r"^transformer\.audio\.blocks\.(\d+)\.attn\.query\.": r"model.audio_tower.layers.\1.self_attn.q_proj.",
    r"^transformer\.audio\.blocks\.(\d+)\.attn\.key\.": r"model.audio_tower.layers.\1.self_attn.k_proj.",
    r"^transformer\.audio\.blocks\.(\d+)\.attn\.value\.": r"model.audio_tower.layers.\1.self_attn.v_proj.",
    r"^transformer\.audio\.blocks\.(\d+)\.attn\.out\.": r"model.audio_tower.layers.\1.self_attn.out_proj.",
    r"^transformer\.audio\.blocks\.(\d+)\.attn_ln\.": r"model.audio_tower.layers.\1.self_attn_layer_norm.",
    r"^transformer\.audio\.blocks\.(\d+)\.mlp\.0\.": r"model.audio_tower.layers.\1.fc1.",
    r"^transformer\.audio\.blocks\.(\d+)\.mlp\.2\.": r"model.audio_tower.layers.\1.fc2.",
    r"^transformer\.audio\.blocks\.(\d+)\.mlp_ln\.": r"model.audio_tower.layers.\1.final_layer_norm.",
    r"^transformer\.audio\.": "model.audio_tower.",
}


def our_name(published: str) -> str:
    """The name of a published tensor in our model."""
    for pattern, replacement in NAMES.items():
        name, count = re.subn(pattern, replacement, published)
        if count:
            return name
    return published


def locate(name: str | Path, revision: str | None = None, *, local_files_only: bool = False) -> Path:
    """The folder of a checkpoint: `name` itself, or that repository of the hub, downloaded at `revision`.

    Raises `ModelError` for neither, and for a repository without a pinned commit: what is loaded must not change.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise ModelError(
            f"{name}: there is no such folder; remedy: the folder of a checkpoint, or OWNER/NAME of the hub"
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ModelError(f"{name}: give the commit of the hub's repository: revision=<40 hexadecimal digits>")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 (only where the hub is asked)
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(
                str(name),
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", "*.tiktoken"],
                local_files_only=local_files_only,
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{name} at {revision}: cannot be fetched: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `ModelError` naming the file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; {AGAIN}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds no JSON object; {AGAIN}")
    return content


def configuration(folder: Path) -> QwenAudioConfig:
    """The configuration of a checkpoint. Raises `ModelError` for another model's."""
    path = folder / "config.json"
    content = read_json(path)
    if content.get("model_type") != QwenAudioConfig.model_type:
        raise ModelError(f'{path}: model_type is {content.get("model_type")!r}, Qwen-Audio has "qwen"')
    try:
        config = QwenAudioConfig.from_dict(content | {"name_or_path": str(folder)})
    except (TypeError, ValueError) as error:  # the library checks the types of fields
        raise ModelError(f"{path}: {str(error).strip()}; {AGAIN}") from error
    config.encoder  # noqa: B018 (checks it)
    assert isinstance(config, QwenAudioConfig)  # noqa: S101 (for mypy: the library says PreTrainedConfig)
    return config


def shards_of(folder: Path) -> dict[str, str] | None:
    """Tensor → file name as the index says; None for a checkpoint of one file. Raises `ModelError`."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
            raise ModelError(f"{folder / INDEX}: has no weight_map; {AGAIN}")
        if strange := [file for file in index.values() if Path(file).name != file or not file.endswith(".safetensors")]:
            raise ModelError(f"{folder / INDEX}: {strange[0]!r} is not a safetensors file beside it; {AGAIN}")
        return index
    if (folder / SINGLE).is_file():
        return None
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"})
    if pickles:
        raise ModelError(
            f"{folder / pickles[0]}: a pickle can run any program when it is read, so it is not; remedy: fetch the "
            "checkpoint's safetensors files"
        )
    raise ModelError(f"{folder}: neither {INDEX} nor {SINGLE} is there; {AGAIN}")


def tensors_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors of a safetensors file, from its header.

    Raises `ModelError` when the file is missing, truncated or not of that format
    (https://huggingface.co/docs/safetensors, "Format").
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise ValueError(f"its header would have {length} bytes of {size}")  # noqa: TRY301 (told below)
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensors = {name: tuple(entry["shape"]) for name, entry in header.items()}
        needed = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if entry["dtype"] not in WIDTHS or end - begin != WIDTHS[entry["dtype"]] * prod(entry["shape"]):
                raise ValueError(f"{name}, {entry['dtype']} {entry['shape']}, has {end - begin} bytes")  # noqa: TRY301
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; {AGAIN}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise ModelError(f"{path}: not a safetensors file of weights ({error}); {AGAIN}") from error
    if size != needed:
        raise ModelError(f"{path}: {size:,} bytes instead of {needed:,}: truncated or damaged; {AGAIN}")
    return tensors


class LazyTensor:
    """A tensor of a file that is mapped only while it is read, as the library asks of a state dict's values.

    Were the files mapped until the last tensor is loaded, all their pages would count as this process's memory.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def __getitem__(self, index: Any) -> torch.Tensor:  # noqa: ANN401 (whatever slices a tensor)
        with safe_open(self._path, framework="pt") as file:
            tensor: torch.Tensor = file.get_slice(self._name)[index]
        return tensor

    def get_dtype(self) -> str:
        """As the format writes it, for example BF16."""
        with safe_open(self._path, framework="pt") as file:
            return str(file.get_slice(self._name).get_dtype())

    def get_shape(self) -> list[int]:
        """Its size in each dimension."""
        with safe_open(self._path, framework="pt") as file:
            return list(file.get_slice(self._name).get_shape())


def tensors(folder: Path) -> dict[str, LazyTensor]:
    """Published name → tensor of the files of a checkpoint that was verified."""
    index = shards_of(folder)
    places = dict.fromkeys(tensors_of(folder / SINGLE), SINGLE) if index is None else index
    return {name: LazyTensor(folder / file, name) for name, file in places.items()}


def dtype_of(tensors: Mapping[str, LazyTensor]) -> torch.dtype:
    """The dtype that the files are in, by their first tensor."""
    return next(iter(tensors.values()))[:0].dtype


def verify(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the files with the model (our names → shapes) without reading weights.

    Raises `ModelError` for the first thing that is wrong: a shard, the index, a missing, an extra, a misshapen tensor.
    """
    index = shards_of(folder)
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in sorted(set(index.values())) if index is not None else [SINGLE]:
        for name, shape in tensors_of(folder / file).items():
            if index is not None and index.get(name) != file:
                where = f"places it in {index[name]}" if name in index else "does not name it"
                raise ModelError(f"{folder / file}: holds {name}, but {INDEX} {where}; {AGAIN}")
            found[name] = (shape, file)
    for name, file in (index or {}).items():
        if name not in found:
            raise ModelError(f"{folder / file}: {name} is missing, which {INDEX} places there; {AGAIN}")
    ours = {our_name(name): (name, *entry) for name, entry in found.items()}
    for name in expected:
        if name not in ours:
            raise ModelError(f"{folder}: there is no tensor for {name}; {AGAIN}")
    for name, (published, shape, file) in ours.items():
        if name not in expected:
            raise ModelError(f"{folder / file}: {published} belongs to no part of Qwen-Audio; {AGAIN}")
        if shape != expected[name]:
            raise ModelError(
                f"{folder / file}: {published} has shape {list(shape)}, config.json asks for {list(expected[name])}; "
                f"{AGAIN}"
            )
