"""Checkpoints that are broken in every way a download or a hand can break them: one clear error each."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from assistant.errors import ModelError
from assistant.models.qwen_audio import QwenAudioForConditionalGeneration
from assistant.models.qwen_audio.checkpoint import INDEX, locate

DECODER, AUDIO = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"


@pytest.fixture
def copy(qwen_audio_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    # Hard links: the embeddings are 40 MB; every test replaces files rather than write into them.
    shutil.copytree(
        qwen_audio_checkpoint, folder, copy_function=lambda source, target: Path(target).hardlink_to(source)
    )
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    replace(path, json.dumps(content).encode())


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path, {"format": "pt"})


def truncate_shard(folder: Path) -> None:
    replace(folder / AUDIO, (folder / AUDIO).read_bytes()[:-100])


def cut_into_header(folder: Path) -> None:
    replace(folder / AUDIO, (folder / AUDIO).read_bytes()[:50])


def lose_shard(folder: Path) -> None:
    (folder / AUDIO).unlink()


def lose_index_entry(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].pop("transformer.ln_f.weight"))


def index_what_is_not_there(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"transformer.h.9.ln_1.weight": DECODER}))


def lose_tensor(folder: Path) -> None:
    edit_tensors(folder / DECODER, lambda tensors: tensors.pop("transformer.ln_f.weight"))
    lose_index_entry(folder)


def add_tensor(folder: Path) -> None:
    edit_tensors(folder / DECODER, lambda tensors: tensors.update({"transformer.visual.proj": torch.zeros(2)}))
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"transformer.visual.proj": DECODER}))


def misshape(folder: Path) -> None:
    edit_tensors(folder / DECODER, lambda tensors: tensors.update({"transformer.ln_f.weight": torch.zeros(65)}))


def whole_numbers(folder: Path) -> None:
    edit_tensors(folder / DECODER, lambda tensors: tensors.update({"transformer.ln_f.weight": torch.zeros(64).int()}))


def only_a_pickle(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"transformer.ln_f.weight": 1}))


def shard_is_a_pickle(folder: Path) -> None:
    replace(folder / AUDIO, pickle.dumps({"transformer.ln_f.weight": 1}))


def index_names_a_pickle(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"lm_head.weight": "pytorch_model.bin"}))


def index_leaves_the_folder(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"lm_head.weight": "../x.safetensors"}))


def another_vocabulary(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(vocab_size=151936))


def another_model(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(model_type="qwen2_audio"))


def no_ears(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.pop("audio"))


def half_an_ear(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["audio"].pop("n_state"))


def heads_that_do_not_fit(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(kv_channels=17))


def text_for_a_number(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(num_hidden_layers="three"))


def text_for_an_epsilon(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(layer_norm_epsilon="1e-5"))


def no_channel_to_turn(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(rotary_pct=0.1))


def more_channels_than_there_are(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(rotary_pct=2.0))


def an_odd_number_of_channels(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(rotary_pct=0.95))


def a_length_of_one(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(seq_length=1))


def ears_that_do_not_fit(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config["audio"].update(n_head=5))


def brackets_without_end(folder: Path) -> None:
    replace(folder / AUDIO, (100_000).to_bytes(8, "little") + 100_000 * b"[")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    replace(folder / "config.json", b"{")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (truncate_shard, f"{AUDIO}: .* bytes instead of .* truncated"),
        (cut_into_header, f"{AUDIO}: not a safetensors file"),
        (lose_shard, f"{AUDIO} is missing"),
        (lose_index_entry, f"{DECODER}: holds transformer.ln_f.weight, but {INDEX} does not name it"),
        (index_what_is_not_there, f"{DECODER}: transformer.h.9.ln_1.weight is missing, which {INDEX} places there"),
        (lose_tensor, "there is no tensor for model.norm.weight"),
        (add_tensor, f"{DECODER}: transformer.visual.proj belongs to no part of Qwen-Audio"),
        (misshape, rf"{DECODER}: transformer.ln_f.weight has shape \[65\], config.json asks for \[64\]"),
        (whole_numbers, f"{DECODER}: not a safetensors file of weights .transformer.ln_f.weight, I32"),
        (only_a_pickle, "pytorch_model.bin: a pickle can run any program"),
        (shard_is_a_pickle, f"{AUDIO}: not a safetensors file"),
        (index_names_a_pickle, "'pytorch_model.bin' is not a safetensors file"),
        (index_leaves_the_folder, "'../x.safetensors' is not a safetensors file beside it"),
        (another_vocabulary, r"has shape \[155947, 64\], config.json asks for \[151936, 64\]"),
        (another_model, "config.json: model_type is 'qwen2_audio'"),
        (no_ears, "this is Qwen without ears"),
        (half_an_ear, "config.json: audio.n_state is None, not a size"),
        (heads_that_do_not_fit, "4 heads of kv_channels 17 do not make hidden_size 64"),
        (text_for_a_number, "config.json: num_hidden_layers is 'three', not a size"),
        (text_for_an_epsilon, "config.json: layer_norm_epsilon is '1e-5', not a number above 0"),
        (no_channel_to_turn, "config.json: rotary_pct 0.1 of kv_channels 16 are 1 channels to turn"),
        (more_channels_than_there_are, "config.json: rotary_pct 2.0 of kv_channels 16 are 32 channels to turn"),
        (an_odd_number_of_channels, "config.json: rotary_pct 0.95 of kv_channels 16 are 15 channels to turn"),
        (a_length_of_one, "config.json: seq_length is 1, at least 2"),
        (ears_that_do_not_fit, "config.json: audio.n_state 64 cannot be shared by 5 heads"),
        (brackets_without_end, f"{AUDIO}: not a safetensors file"),
        (no_config, "config.json is missing"),
        (broken_config, "config.json: not readable as JSON"),
    ],
)
def test_a_broken_checkpoint_is_one_clear_error(copy: Path, harm: Callable[[Path], None], says: str) -> None:
    harm(copy)
    with pytest.raises(ModelError, match=f"(?s){says}") as failure:
        QwenAudioForConditionalGeneration.from_pretrained(copy, dtype=torch.float32)
    assert str(copy) in str(failure.value)


def test_a_folder_that_is_not_there_and_a_hub_name_without_a_commit() -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        locate("/nowhere/at all")
    with pytest.raises(ModelError, match="give the commit"):
        locate("Qwen/Qwen-Audio-Chat")
    with pytest.raises(ModelError, match="give the commit"):
        locate("Qwen/Qwen-Audio-Chat", "main")
    with pytest.raises(ModelError, match="cannot be fetched"):
        locate("Qwen/Qwen-Audio-Chat", "0" * 40, local_files_only=True)


def test_weights_are_read_once_into_the_dtype_asked_for(copy: Path) -> None:
    model = QwenAudioForConditionalGeneration.from_pretrained(copy, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    assert model.model.audio_tower.positional_embedding.abs().max() > 0  # from the file, not made anew
    assert not [name for name, tensor in model.named_buffers() if name not in model.state_dict()]
