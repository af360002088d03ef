"""What `kikimimi doctor` says, on this machine and about GPUs of every size."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from assistant import doctor
from assistant.cli import parse, run_command
from assistant.config import Config
from assistant.config import parse as configured
from assistant.doctor import Gpu, Torch, needed, weights_of
from assistant.errors import ModelError
from assistant.models.catalogue import HUB, Weights

KIKIMIMI = [sys.executable, "-c", "from assistant.cli import main; raise SystemExit(main())"]


def kikimimi(*arguments: str, home: Path, code: str = KIKIMIMI[2]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_here_the_embedded_profile_works(tmp_path: Path, yamnet_path: Path, whisper_base_path: Path) -> None:
    done = kikimimi("doctor", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  embedded: works\n" in done.stdout
    assert "qwen-audio-chat: needs 18.9 GB bf16, 12.7 GB int8, 9.8 GB int4; " in done.stdout
    assert "remedy: kikimimi models pull qwen-audio-chat" in done.stdout or "qwen-audio-chat (there)" in done.stdout


def test_json_is_one_line_and_neither_torch_nor_transformers_is_imported(
    tmp_path: Path, yamnet_path: Path, whisper_base_path: Path
) -> None:
    code = (
        "import sys; from assistant.cli import main; code = main()\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules], file=sys.stderr)\n"
        "raise SystemExit(code)"
    )
    done = kikimimi("doctor", "--json", home=tmp_path, code=code)
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert {profile["name"]: profile["works"] for profile in report["profiles"]}["embedded"] is True
    assert report["memory"] >= report["memory_free"] > 0
    assert [llm["name"] for llm in report["llms"]] == list(HUB)
    if not (report["torch"] and report["torch"]["build"] != "cpu"):
        assert done.stderr == "[]\n"


def test_without_the_models_it_is_exit_code_1_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"models: {{dir: {tmp_path / 'none'}}}\n", "utf-8")
    assert run_command(parse(["doctor", "-c", str(config)])) == 1
    said = capsys.readouterr().out
    assert "embedded: does not work" in said
    assert "remedy: kikimimi models pull yamnet" in said
    assert not (tmp_path / "none").exists()  # looking changes nothing


def test_memory_is_weights_and_context_and_a_reserve() -> None:
    weights = Weights(loaded=2.0, kept=0.5, layers=10, kv_values=1_000)
    context = 2_048 * 10 * 1_000 * 2
    assert needed(weights, "none") == 4_000_000_000 + context + 1_000_000_000
    assert needed(weights, "int8") == 1_575_000_000 + 1_000_000_000 + context + 1_000_000_000
    assert needed(weights, "int4") == 900_000_000 + 1_000_000_000 + context + 1_000_000_000


def test_a_checkpoint_is_measured_by_its_headers(qwen_audio_checkpoint: Path) -> None:
    weights = weights_of(qwen_audio_checkpoint)
    index = json.loads((qwen_audio_checkpoint / "model.safetensors.index.json").read_bytes())
    on_disk = sum(file.stat().st_size for file in qwen_audio_checkpoint.glob("*.safetensors"))
    assert weights.loaded * 2e9 == pytest.approx(
        index["metadata"]["total_size"] if "metadata" in index else on_disk, rel=0.01
    )
    config = json.loads((qwen_audio_checkpoint / "config.json").read_bytes())
    assert weights.layers == config["num_hidden_layers"]
    assert weights.kv_values == 2 * config["hidden_size"]
    assert weights.quantisable
    # The embeddings, which are never quantised, are nearly all of so small a model.
    assert 0.95 < weights.kept / weights.loaded < 1.0


def test_the_catalogue_agrees_with_the_published_layout_of_qwen_audio() -> None:
    width, ff, vocabulary, encoder = 4_096, 11_008, 155_947, 636_800_000 + 1_280 * 4_096
    decoder = 32 * (4 * width * width + 3 * width * ff)
    weights = HUB["qwen-audio-chat"].weights
    assert weights.loaded * 1e9 == pytest.approx(decoder + 2 * vocabulary * width + encoder, rel=0.005)
    assert weights.kept * 1e9 == pytest.approx(2 * vocabulary * width + encoder, rel=0.005)


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree,
        lambda folder: [file.unlink() for file in folder.glob("*.safetensors")],
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"\xff" * 64),
        lambda folder: next(folder.glob("*.safetensors")).write_bytes(b""),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_one_error(spoil, qwen_audio_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(qwen_audio_checkpoint, folder)
    spoil(folder)
    with pytest.raises(ModelError, match="remedy"):
        weights_of(folder)


def config_with(tmp_path: Path, checkpoint: Path | str) -> Config:
    return configured(f"models: {{audio_llm: {{checkpoint: {checkpoint}}}}}\n", tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("size", "fits"),
    [(80, "none"), (24, "none"), (16, "int8"), (12, "int4"), (8, None)],
)
def test_the_least_quantisation_that_fits_is_named(size: int, fits: str | None, tmp_path: Path) -> None:
    gpus = (Gpu("Large", size << 30, size * 10**9, True), Gpu("Other", 10**9, 10**9, True))
    chosen, trouble = doctor._chosen(Config(models={"dir": tmp_path}), gpus, 0)
    assert chosen is not None
    assert chosen.fits == fits
    assert trouble is not None
    assert "kikimimi models pull qwen-audio-chat" in trouble
    remark, missing = doctor._room(Config(), chosen, gpus)
    if fits is None:
        assert "needs 9.8 GB at least" in missing[0]
    else:
        assert remark == (None if fits == "none" else f"with models.audio_llm.quantisation: {fits}")


def test_a_gpu_that_torch_cannot_use_does_not_count(tmp_path: Path) -> None:
    idle = (Gpu("Card", 80 << 30, 80 << 30, False),)
    chosen, _ = doctor._chosen(Config(models={"dir": tmp_path}), idle, 64 * 10**9)
    assert chosen is not None
    assert chosen.fits is None
    assert chosen.fits_cpu
    remark, missing = doctor._room(Config(), chosen, idle)
    assert remark is None
    assert "insist on the CPU: models.audio_llm.device: cpu" in missing[0]
    insisting = Config(models={"audio_llm": {"device": "cpu"}})
    assert doctor._room(insisting, chosen, idle) == ("qwen-audio-chat computes on the CPU, slowly", [])


def test_experts_are_not_quantised() -> None:
    llm = doctor._fitted("x", False, "", HUB["qwen3-omni-30b-a3b-instruct"].weights, False, (), 0)
    assert list(llm.need) == ["none"]


def test_a_folder_of_the_configuration_is_judged(qwen_audio_checkpoint: Path, tmp_path: Path) -> None:
    report = doctor.examine(config_with(tmp_path, qwen_audio_checkpoint))
    assert report.llms[0].name == str(qwen_audio_checkpoint)
    assert report.llms[0].measured
    assert report.llms[0].installed
    profiles = {profile.name: profile for profile in report.profiles}
    assert profiles["qwen"].works, profiles["qwen"].missing
    assert any(line.startswith("  qwen: works") for line in doctor.lines(report))


def test_a_broker_that_is_not_there_is_a_red_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = configured(f"mqtt: {{url: 'mqtt://me:secret@127.0.0.1:{port}'}}\n", tmp_path / "config.yaml")
    report = doctor.examine(config)
    said = "\n".join(doctor.lines(report))
    assert f"broker: tcp: FAILS: nothing listens at 127.0.0.1:{port}" in said
    assert "secret" not in said + report.json()
    assert report.exit_code == 1


def test_the_build_of_torch_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n", "utf-8")
    (package / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '12.8'\n", "utf-8")
    (tmp_path / "torch-2.13.0.dist-info").mkdir()
    (tmp_path / "torch-2.13.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.13.0\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    assert doctor._torch() == Torch("2.13.0", "cuda 12.8")
    (package / "version.py").write_text("cuda = None\nhip: Optional[str] = '6.4'\n", "utf-8")
    assert doctor._torch() == Torch("2.13.0", "rocm 6.4")


def test_nvidias_tool_is_asked_where_torch_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3090, 24576, 20000'\n", "utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert doctor._gpus(None) == (Gpu("NVIDIA GeForce RTX 3090", 24_576 << 20, 20_000 << 20, False),)
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n", "utf-8")
    assert doctor._gpus(None) == ()


def test_a_voice_that_is_missing_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate({"say": {"engine": "piper", "piper": {"voice": "en_US-joe-medium"}}})
    monkeypatch.setenv("PATH", "")
    lacking = doctor._voices(config)
    assert "apt-get install espeak-ng" in (lacking["espeak"] or "")
    assert "piper-tts" in (lacking["piper"] or "")
