"""Where an audio language model lives, in which numbers, and how its weights are packed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from assistant.errors import ModelError
from assistant.models import packing
from assistant.models.audio_llm import AudioLLMSettings

# Never packed: the audio encoders and what joins them to the decoder (their error is heard at once, and they are small)
# and the LM head of a GPU (bitsandbytes leaves it too).
KEPT_WHOLE = ("model.audio_tower", "model.multi_modal_projector", "audio_tower", "multi_modal_projector", "lm_head")


@dataclass(frozen=True, slots=True)
class Placement:
    """What `from_pretrained` is told."""

    device: str  # "cpu", "cuda:0" …
    dtype: torch.dtype
    quantisation: str  # "none", "int8" or "int4"

    def __str__(self) -> str:
        packed = "" if self.quantisation == "none" else f", weights in {self.quantisation}"
        return f"{str(self.dtype).removeprefix('torch.')}{packed}"

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`. Raises `ModelError` when the library that packs is missing."""
        options: dict[str, Any] = {"dtype": self.dtype, "device_map": {"": self.device}}
        if self.quantisation == "none" or self.packs_itself:
            return options
        if find_spec("bitsandbytes") is None:
            raise ModelError(
                f"models.audio_llm.quantisation: {self.quantisation} needs bitsandbytes; remedy: pip install "
                "'kikimimi[qwen]'"
            )
        from transformers import BitsAndBytesConfig  # noqa: PLC0415 (only where it is chosen)

        config: Any = BitsAndBytesConfig  # untyped in the library
        options["quantization_config"] = config(
            load_in_8bit=self.quantisation == "int8",
            load_in_4bit=self.quantisation == "int4",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=self.dtype,
            llm_int8_skip_modules=list(KEPT_WHOLE),
        )
        return options

    @property
    def packs_itself(self) -> bool:
        """Whether the weights are packed here after loading: int8 on a CPU, where bitsandbytes is far slower."""
        return self.quantisation == "int8" and self.device == "cpu"


def memory_for_answers(device: torch.device) -> int:
    """Bytes that keys and values may take once the weights are there.

    On a GPU four fifths of what is free, the rest is for activations; on a CPU a quarter of what is available, since
    the machine has more to do.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free * 4 // 5
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        available = 4 << 30
    return available // 4


def place(settings: AudioLLMSettings) -> Placement:
    """Where and how, for this machine. Raises `ModelError` for a device that is not there."""
    cuda = torch.cuda.is_available()
    device = settings.device if settings.device != "auto" else ("cuda" if cuda else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise ModelError(f'models.audio_llm.device: {device!r} is no device; use auto, cpu, cuda or "cuda:1"') from None
    if parsed.type not in {"cpu", "cuda"}:
        raise ModelError(f"models.audio_llm.device: {device!r} is not supported; use auto, cpu or cuda")
    if parsed.type == "cuda" and (not cuda or (parsed.index or 0) >= torch.cuda.device_count()):
        raise ModelError(
            f"models.audio_llm.device: {device} is not here ({torch.cuda.device_count()} CUDA devices); remedy: "
            "nvidia-smi must show it and torch must be a CUDA build; kikimimi doctor tells more"
        )
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
    elif parsed.type == "cpu":
        # Beside weights in int8 the rest is what costs; halving it pays where the processor computes in bfloat16.
        packed = settings.quantisation == "int8" and packing.can_pack(torch.bfloat16)
        dtype = torch.bfloat16 if packed else torch.float32
    else:
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return Placement(str(parsed) if parsed.type == "cpu" else f"cuda:{parsed.index or 0}", dtype, settings.quantisation)
