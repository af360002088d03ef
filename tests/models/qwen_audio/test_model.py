"""The model against the golden numbers of the original, and its fast paths against its slow one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_qwen_audio as tiny
import torch
from transformers import DynamicCache, StaticCache

from assistant.errors import ModelError
from assistant.models.qwen_audio import QwenAudioConfig, QwenAudioForConditionalGeneration
from assistant.models.qwen_audio.decoder import ntk_alpha
from assistant.models.qwen_audio.mel import mel_frames

ENCODER, HIDDEN, LOGITS = 1e-5, 1e-4, 5e-4  # largest differences that are float32 noise
CASES = sorted(tiny.table("cases"))
CROPPED_TOGETHER = {"audio2_chat", "threeturn_two_audio_chat", "batch2_left_pad"}  # as the original crops


@pytest.fixture(scope="module")
def model(qwen_audio_checkpoint: Path) -> QwenAudioForConditionalGeneration:
    return QwenAudioForConditionalGeneration.from_pretrained(qwen_audio_checkpoint, dtype=torch.float32)


def frames(clip: str) -> int:
    return mel_frames(tiny.goldens()[f"wave/{clip}"].size)


def features(*clips: str) -> dict[str, torch.Tensor]:
    return {
        "input_features": torch.from_numpy(np.stack([tiny.mel(clip) for clip in clips])),
        "audio_lengths": torch.tensor([frames(clip) for clip in clips]),
    }


def names_of(case: str) -> list[str]:
    info = tiny.table("cases")[case]["audio_info"] or []
    entries = info if isinstance(info, list) else [info]
    return [Path(url).stem.removeprefix("a_") for entry in entries for url in entry["audio_urls"]]


def inputs_of(case: str) -> dict[str, Any]:
    """What the processor makes of a case's prompt, with the golden mel."""
    golden = tiny.case(case)
    inputs: dict[str, Any] = {
        "input_ids": torch.from_numpy(golden["input_ids"].copy()).long(),
        "attention_mask": torch.from_numpy(golden["attention_mask"].copy()).long(),
    }
    if clips := names_of(case):
        inputs |= features(*clips)
    return inputs


def worst(found: torch.Tensor, golden: np.ndarray) -> float:
    return float((found.float() - torch.from_numpy(np.array(golden))).abs().max())


def greedy(
    model: QwenAudioForConditionalGeneration, inputs: dict[str, Any], count: int, **options: Any
) -> torch.Tensor:
    ids = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, **options)
    return ids[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
@pytest.mark.parametrize("clip", tiny.CLIPS)
def test_a_clip_is_encoded_as_the_original_does(model: QwenAudioForConditionalGeneration, clip: str) -> None:
    (found,) = model.model.get_audio_features(**features(clip))
    assert found.shape == tiny.goldens()[f"enc/{clip}"].shape
    assert worst(found, tiny.goldens()[f"enc/{clip}"]) < ENCODER


@torch.no_grad()
def test_each_stage_of_the_encoder_is_the_originals(model: QwenAudioForConditionalGeneration) -> None:
    tower, seen = model.model.audio_tower, {}
    watched = {
        "conv1": tower.conv1,
        "conv2": tower.conv2,
        "block0": tower.layers[0],
        "block1": tower.layers[1],
        "ln_post": tower.ln_post,
        "proj": tower.proj,
    }
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output}))
        for name, module in watched.items()
    ]
    hooks.append(tower.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.update(block_input=inputs[0])))
    hooks.append(tower.ln_post.register_forward_pre_hook(lambda _module, inputs: seen.update(avg_pool=inputs[0].mT)))
    model.model.get_audio_features(**features("odd"))
    for hook in hooks:
        hook.remove()
    stages = {key.rsplit("/", 1)[1] for key in tiny.goldens() if key.startswith("enc_stages/odd/")}
    assert set(seen) == stages
    for stage, found in seen.items():
        assert worst(found, tiny.goldens()[f"enc_stages/odd/{stage}"]) < ENCODER, stage


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_neighbours_unless_cropped_as_published(
    model: QwenAudioForConditionalGeneration,
) -> None:
    clips = ("short", "mid", "odd")
    apart = model.model.get_audio_features(**features(*clips))
    together = model.model.get_audio_features(**features(*clips), crop_by_batch=True)
    for clip, alone, beside in zip(clips, apart, together, strict=True):
        assert worst(alone, tiny.goldens()[f"enc/{clip}"]) < ENCODER
        assert worst(beside, tiny.goldens()[f"enc_batch3/{clip}"]) < ENCODER
    assert worst(apart[2], tiny.goldens()["enc_batch3/odd"]) > 1e-3  # else this test shows nothing


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_ids_are_the_originals(model: QwenAudioForConditionalGeneration, case: str) -> None:
    golden, inputs = tiny.case(case), inputs_of(case)
    if case in CROPPED_TOGETHER:
        inputs["crop_by_batch"] = True
    positions = torch.from_numpy(golden["positions"].copy()).long()
    output = model(**inputs, logits_to_keep=positions, output_hidden_states=True)
    heard = inputs["attention_mask"][:, positions].bool()  # the original's numbers for padding mean nothing
    columns = torch.from_numpy(tiny.goldens()["logits_cols_ids"].copy()).long()
    difference = output.logits[..., columns] - torch.from_numpy(np.array(golden["logits_cols"]))
    assert difference[heard].abs().max() < LOGITS
    hidden = output.hidden_states[-1][:, positions] - torch.from_numpy(np.array(golden["hidden_last"]))
    assert hidden[heard].abs().max() < HIDDEN
    wanted = torch.from_numpy(golden["greedy_ids"].copy()).long()
    assert torch.equal(greedy(model, inputs, wanted.shape[1]), wanted)


@torch.no_grad()
def test_every_layer_and_every_key_and_value_is_the_originals(model: QwenAudioForConditionalGeneration) -> None:
    golden = tiny.case("audio1_chat")
    cache = DynamicCache(config=model.config)
    output = model(**inputs_of("audio1_chat"), output_hidden_states=True, past_key_values=cache)
    assert len(output.hidden_states) == len(golden["hidden_all_layers"]) == model.config.num_hidden_layers + 1
    for found, wanted in zip(output.hidden_states, golden["hidden_all_layers"], strict=True):
        assert worst(found, wanted) < HIDDEN
    for layer in range(model.config.num_hidden_layers):
        assert worst(cache.layers[layer].keys.transpose(1, 2), golden[f"past_key_{layer}"]) < HIDDEN
        assert worst(cache.layers[layer].values.transpose(1, 2), golden[f"past_value_{layer}"]) < HIDDEN


@torch.no_grad()
def test_bfloat16_stays_near_float32(qwen_audio_checkpoint: Path) -> None:
    model = QwenAudioForConditionalGeneration.from_pretrained(qwen_audio_checkpoint, dtype=torch.bfloat16)
    golden, inputs = tiny.case("audio1_chat"), inputs_of("audio1_chat")
    output = model(**inputs, logits_to_keep=torch.from_numpy(golden["positions"].copy()).long())
    columns = torch.from_numpy(tiny.goldens()["logits_cols_ids"].copy()).long()
    wanted = torch.from_numpy(np.array(golden["logits_cols"]))
    difference = (output.logits[..., columns].float() - wanted).abs()
    assert difference.mean() < 0.02 * wanted.std()
    assert torch.isfinite(output.logits).all()


@torch.no_grad()
def test_a_batch_answers_as_each_prompt_alone(model: QwenAudioForConditionalGeneration) -> None:
    cases = ("audio1_chat", "text_chat", "tag_srwt_base", "twoturn_chat")
    alone = [greedy(model, inputs_of(case), 8)[0] for case in cases]
    rows = [inputs_of(case)["input_ids"][0] for case in cases]
    width = max(len(row) for row in rows)
    batch = {
        "input_ids": torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=151643) for row in rows]),
        "attention_mask": torch.stack(
            [torch.nn.functional.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows]
        ),
        **features(*[clip for case in cases for clip in names_of(case)]),
    }
    assert torch.equal(greedy(model, batch, 8), torch.stack(alone))


@torch.no_grad()
@pytest.mark.parametrize("case", ["audio1_chat", "batch2_left_pad", "ntk_long"])
def test_a_static_cache_and_prefill_in_pieces_change_nothing(
    model: QwenAudioForConditionalGeneration, case: str
) -> None:
    inputs = inputs_of(case)
    wanted, piece = greedy(model, inputs, 4), inputs["input_ids"].shape[1] // 3
    assert torch.equal(greedy(model, inputs, 4, cache_implementation="static", disable_compile=True), wanted)
    assert torch.equal(greedy(model, inputs, 4, prefill_chunk_size=piece), wanted)
    assert torch.equal(greedy(model, inputs, 4, use_cache=False), wanted)


@torch.no_grad()
def test_decoding_by_hand_equals_one_pass(model: QwenAudioForConditionalGeneration) -> None:
    inputs = inputs_of("audio1_chat")
    ids = inputs["input_ids"]
    whole = model(**inputs).logits
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=80)):
        head = {**inputs, "input_ids": ids[:, :-3], "attention_mask": None}
        pieces = [model(**head, past_key_values=cache).logits]
        pieces += [
            model(ids[:, at : at + 1], past_key_values=cache).logits for at in range(ids.shape[1] - 3, ids.shape[1])
        ]
        assert (torch.cat(pieces, 1) - whole).abs().max() < LOGITS


@torch.no_grad()
def test_two_generations_may_be_interleaved(model: QwenAudioForConditionalGeneration) -> None:
    """The original keeps the stretch of the rotary base on the module, so the second prompt spoils the first."""
    long, short = inputs_of("ntk_long"), inputs_of("text_chat")
    wanted = tiny.case("ntk_long")["greedy_ids"][0]
    cache = DynamicCache(config=model.config)
    token = model(**long, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
    ids = [int(token)]
    for _ in range(5):
        model(**short)
        token = model(token, past_key_values=cache).logits[:, -1].argmax(-1, keepdim=True)
        ids.append(int(token))
    assert ids == wanted[:6].tolist()


@torch.no_grad()
def test_several_samples_of_two_clips(model: QwenAudioForConditionalGeneration) -> None:
    """The original raises IndexError; repeating clips one by one would give the wrong ones to the second row."""
    inputs = inputs_of("audio2_chat")
    once = greedy(model, inputs, 5)
    beams = model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=2, num_return_sequences=2)
    assert beams.shape[0] == 2
    torch.manual_seed(1)
    samples = greedy(model, {**inputs}, 5)
    assert torch.equal(samples, once)
    repeated = model.generate(
        **inputs, max_new_tokens=5, min_new_tokens=5, do_sample=True, top_k=1, top_p=1.0, num_return_sequences=3
    )
    assert torch.equal(repeated[:, inputs["input_ids"].shape[1] :], once.expand(3, -1))


@torch.no_grad()
def test_sampling_keeps_the_ids_that_the_original_keeps(model: QwenAudioForConditionalGeneration) -> None:
    from transformers import TopPLogitsWarper  # noqa: PLC0415

    logits = model(**inputs_of("text_chat"), logits_to_keep=1).logits[:, -1]
    for name, kept in tiny.table("nucleus_text_chat_last").items():
        if not name.startswith(("0.", "top_p")):
            continue
        ids = kept["ids"] if isinstance(kept, dict) else kept
        share = float(name.removeprefix("top_p_").removeprefix("top_p"))
        warped = TopPLogitsWarper(share)(None, logits.clone())  # type: ignore[arg-type]
        assert set(warped[0].isfinite().nonzero().flatten().tolist()) == set(ids)


@pytest.mark.parametrize(("length", "alpha"), [(1, 1), (2048, 1), (2049, 3), (4096, 3), (4097, 7), (8192, 7)])
def test_the_stretch_of_the_rotary_base(length: int, alpha: float) -> None:
    assert ntk_alpha(length, QwenAudioConfig()) == alpha
    assert ntk_alpha(length, QwenAudioConfig(use_dynamic_ntk=False)) == 1


@torch.no_grad()
def test_audio_that_does_not_fit_the_prompt_is_an_error(model: QwenAudioForConditionalGeneration) -> None:
    inputs = inputs_of("audio1_chat")
    with pytest.raises(ModelError, match="no input_features"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ModelError, match="without audio_lengths"):
        model(input_ids=inputs["input_ids"], input_features=inputs["input_features"])
    with pytest.raises(ModelError, match="1 <audio> and 1 </audio> for 2 clips"):
        model(input_ids=inputs["input_ids"], **features("short", "mid"))
    with pytest.raises(ModelError, match="34 tokens for 102 embeddings"):
        model(input_ids=inputs["input_ids"], **features("mid"))
    with pytest.raises(ModelError, match=r"3 \(30 ms\) to 3000"):
        model(input_ids=inputs["input_ids"], **{**features("short"), "audio_lengths": torch.tensor([2])})
    with pytest.raises(ModelError, match="2 clips, input_features 1"):
        model(input_ids=inputs["input_ids"], **{**features("short"), "audio_lengths": torch.tensor([130, 130])})


def test_what_is_saved_can_be_loaded_again(model: QwenAudioForConditionalGeneration, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = QwenAudioForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    for (name, wanted), (_, found) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(wanted, found), name
