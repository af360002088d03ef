"""Where a model goes and how its weights are packed, with the real library that packs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from assistant.errors import ModelError
from assistant.models.audio_llm import AudioLLMSettings
from assistant.models.placement import Placement, place
from assistant.models.qwen_audio import QwenAudioForConditionalGeneration, checkpoint

SIZES: dict[str, Any] = {
    "model_type": "qwen", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 32,
    "intermediate_size": 512, "layer_norm_epsilon": 1e-5, "vocab_size": 512, "seq_length": 64, "no_bias": True,
    "audio": {"n_mels": 80, "n_ctx": 1500, "n_state": 64, "n_head": 2, "n_layer": 1, "output_dim": 128,
              "audio_start_id": 500},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose rows are whole blocks of 64 weights, as those of the published sizes are."""
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "config.json").write_text(json.dumps(SIZES))
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": "chatml"}))
    with torch.device("meta"):
        state = QwenAudioForConditionalGeneration(checkpoint.configuration(folder)).state_dict()
    random = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(tensor.shape, generator=random) * 0.1 for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@torch.no_grad()
def test_weights_in_four_bits_are_smaller_and_answer_alike(folder: Path) -> None:
    whole = QwenAudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, weights="plain")
    packed = QwenAudioForConditionalGeneration.from_pretrained(
        folder, **Placement("cpu", torch.float32, "int4").options()
    )
    ids = torch.randint(0, 490, (1, 24), generator=torch.Generator().manual_seed(1))
    wanted, found = whole(ids).logits, packed(ids).logits
    assert (found - wanted).std() < 0.35 * wanted.std()
    assert not torch.equal(found, wanted)  # else nothing was packed
    assert packed.get_memory_footprint() < whole.get_memory_footprint()
    assert packed.model.audio_tower.proj.weight.dtype is torch.float32  # ears stay whole


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="is no device"):
        place(AudioLLMSettings(device="gpu"))
    with pytest.raises(ModelError, match="is not supported"):
        place(AudioLLMSettings(device="meta"))
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="is not here"):
            place(AudioLLMSettings(device="cuda"))
        assert place(AudioLLMSettings()).device == "cpu"


def test_the_dtype_follows_the_device_unless_chosen() -> None:
    assert place(AudioLLMSettings(device="cpu")).dtype is torch.float32
    assert place(AudioLLMSettings(device="cpu", dtype="bfloat16")).dtype is torch.bfloat16
    assert str(place(AudioLLMSettings(device="cpu", quantisation="int4"))) == "float32, weights in int4"
