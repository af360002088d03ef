"""`kikimimi ask` with a tiny Qwen-Audio of random weights, and with the small models."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import soundfile

from assistant.asking import Streamed, ask_llm, clips_of, question_of
from assistant.cli import parse, run_command
from assistant.errors import ConfigurationError, SourceError
from assistant.models.audio_llm import AudioLLM, AudioLLMSettings
from assistant.models.tasks import TASKS, TaskOptions
from assistant.startup import load_audio_llm

ENTRY = "from assistant.cli import main; raise SystemExit(main())"


def kikimimi(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return forked.kikimimi(*arguments, environment={**os.environ, "XDG_CONFIG_HOME": str(home)}, seconds=110)


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "tone.wav"
    soundfile.write(path, 0.2 * np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000), 16_000)
    return path


@pytest.fixture(scope="module")
def llm(qwen_audio_checkpoint: Path) -> AudioLLM:
    return load_audio_llm(qwen_audio_checkpoint, AudioLLMSettings(device="cpu"))


@pytest.fixture
def configured(tmp_path: Path, qwen_audio_checkpoint: Path) -> Path:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"profile: qwen\nmodels: {{audio_llm: {{checkpoint: {qwen_audio_checkpoint}, device: cpu}}}}\n", "utf-8"
    )
    return config


def test_a_question_is_answered_as_one_line_of_json(
    configured: Path, tone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["ask", "-c", str(configured), str(tone), "--text", "What is it?", "--json", str(tone)]
    assert run_command(parse(asked)) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["schema"], line["task"], line["audio"]) == (1, "ask", [str(tone), str(tone)])
    assert line["text"] == line["data"]["answer"] != ""
    assert line["model"] == "qwen-audio-chat"
    assert line["seconds"] > 0


def interrupted(command: list[str], environment: dict[str, str]) -> tuple[int, bytes, float]:
    """Run on a terminal and press Ctrl-C at the first sign: exit code, what was written, seconds until the end."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, stdout=child, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    os.close(child)
    written = os.read(parent, 1)  # it streams: the first piece comes long before the last
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        while piece := os.read(parent, 4_096):
            written += piece
    except OSError:  # how Linux tells that nobody writes to a terminal any more
        pass
    code = process.wait(20)
    os.close(parent)
    return code, written, time.monotonic() - began


def test_ctrl_c_ends_an_answer_on_a_terminal_with_130(configured: Path, tone: Path) -> None:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tone.parent), "OMP_NUM_THREADS": "1"}
    # A script's background processes ignore SIGINT, and so would what this test starts; a terminal's program does not.
    entry = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {ENTRY}"
    command = [sys.executable, "-c", entry, "ask", "-c", str(configured), str(tone), "--text", "Go on and on"]
    for _ in range(4):
        code, written, seconds = interrupted(command, environment)
        if code != 0:  # 0: on a busy machine the whole answer, half a second, was there before Ctrl-C was pressed
            break
    assert code == 130
    assert written.endswith(b"\n")  # the prompt of the shell has a line of its own
    assert seconds < 15.0  # the end of the interpreter, on a busy machine
    assert len(written.decode("utf-8", "replace")) < 600  # the whole answer has 256 tokens, 1,500 signs


@pytest.mark.parametrize("name", ["caption", "translate"])
def test_every_task_runs(name: str, llm: AudioLLM) -> None:
    clip = np.random.default_rng(1).normal(0, 0.1, 8_000).astype(np.float32)
    texts = {"to": "de", "text": "hello"}
    question = question_of(
        name, TaskOptions(**{option: texts[option] for option in TASKS[name].needs}), ["clip.wav"], "qwen"
    )
    result = ask_llm(question, llm, [clip], stream=None)
    json.dumps(result.data, allow_nan=False)


def test_pieces_are_written_as_they_come_and_harmless(llm: AudioLLM) -> None:
    out = io.StringIO()
    streamed = Streamed(out)
    question = question_of(None, TaskOptions(text="What?"), ["clip.wav"], "qwen")
    result = ask_llm(question, llm, [np.zeros(8_000, np.float32)], stream=streamed)
    assert streamed.any
    shown = "".join(sign if sign.isprintable() or sign in "\n\t" else "�" for sign in result.text)
    assert out.getvalue().strip() == shown.strip()
    assert out.getvalue().endswith("\n")
    streamed("\x1b[2Jgone")
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (None, TaskOptions(), r"--text QUESTION, or --task NAME, one of\n  ask .*\n  transcribe"),
        ("dance", TaskOptions(), "no such task; remedy: one of ask, transcribe"),
        ("transcribe", TaskOptions(text="x"), "--text means nothing to the task transcribe"),
        ("translate", TaskOptions(), "the task translate needs --to"),
        ("ask", TaskOptions(text=" "), "the task ask needs --text"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_loaded(task, options: TaskOptions, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        question_of(task, options, ["a.wav"], "qwen")


def test_the_small_models_say_what_they_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert run_command(parse(["ask", "a.wav", "--text", "What is it?"])) == 2
    said = capsys.readouterr().err
    assert "--profile qwen" in said
    assert said.count("\n") == 1


def test_without_the_checkpoint_it_is_exit_code_4_with_the_remedy(
    tone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"models: {{dir: {tmp_path}}}\n", "utf-8")
    assert run_command(parse(["ask", "-c", str(config), "--profile", "qwen", str(tone), "--text", "What?"])) == 4
    said = capsys.readouterr().err
    assert "remedy: kikimimi models pull qwen-audio-chat" in said
    assert said.count("\n") == 1


def test_transcribe_and_sounds_work_in_the_profile_embedded(
    tmp_path: Path, yamnet_path: Path, whisper_base_path: Path, tone: Path
) -> None:
    done = kikimimi("ask", "--task", "sounds", "--json", str(tone), home=tmp_path)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["model"] == "yamnet"
    assert len(line["data"]["clips"]) == 1
    assert isinstance(line["data"]["clips"][0]["labels"], list)
    missing = kikimimi("ask", "--task", "transcribe", str(tmp_path / "none.wav"), home=tmp_path)
    assert missing.returncode == 3
    assert missing.stderr.count("error: ") == 1


async def test_bad_audio_is_named(tmp_path: Path, tone: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("this is not audio", "utf-8")
    with pytest.raises(SourceError, match=r"text\.wav"):
        await clips_of([str(tone), str(text)])
    with pytest.raises(SourceError, match="a stream has no end"):
        question_of("sounds", TaskOptions(), ["rtsp://me:secret@camera/1"], "qwen")
    assert [len(clip) for clip in await clips_of([str(tone)])] == [16_000]
