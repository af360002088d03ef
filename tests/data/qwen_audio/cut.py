"""Cut the golden numbers of the original down to what the tests read.

    python tests/data/qwen_audio/cut.py FOLDER

FOLDER holds what the original Qwen-Audio (QwenLM/Qwen-Audio at b50fb95, torch 2.13 on a CPU, fp32) gave for a small
random checkpoint: `goldens.npz`, the JSON files, `checkpoint/`, `audio/`. Nothing is rounded. Left out is what follows
from the rest: logits of the whole vocabulary (hidden state times LM head), and the silence behind each clip in its mel
(one constant). Waves become int16, which is what they were made from.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile

HERE = Path(__file__).parent
TABLES = ("cases", "chat_prompts", "chat_end_to_end", "tokenizer_goldens", "special_tokens", "lengths")
CLIPS = ("tiny", "odd", "short", "mid", "long")
HOP = 160


def compact(goldens: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    kept = {name: array for name, array in goldens.items() if "logits_full" not in name}
    for name in [name for name in kept if name.startswith("wave/")]:
        wave = np.round(kept[name] * 32768).astype(np.int16)
        if not np.array_equal(wave.astype(np.float32) / 32768, kept[name]):
            raise SystemExit(f"{name} was not made from int16")
        kept[name] = wave
    for clip in CLIPS:
        mel = kept[f"mel/{clip}"]
        heard = min(kept[f"wave/{clip}"].size // HOP + 3, mel.shape[1])
        tail = np.unique(mel[:, heard:])
        if tail.size > 1:
            raise SystemExit(f"mel/{clip} has no constant tail")
        kept[f"mel/{clip}"] = mel[:, :heard]
        kept[f"mel_tail/{clip}"] = tail
    return kept


def main() -> None:
    source = Path(sys.argv[1])
    kept = compact(dict(np.load(source / "goldens.npz")))
    kept["source/stereo44k"], _ = soundfile.read(source / "audio" / "a_stereo44k.wav", dtype="int16")
    np.savez_compressed(HERE / "goldens.npz", **kept)
    for name in TABLES:
        table = json.loads((source / f"{name}.json").read_text())
        (HERE / f"{name}.json").write_text(json.dumps(table, ensure_ascii=False, separators=(",", ":")) + "\n")
    nucleus = (source / "nucleus_text_chat_last.json").read_bytes()
    (HERE / "nucleus_text_chat_last.json.gz").write_bytes(gzip.compress(nucleus, mtime=0))
    (HERE / "checkpoint").mkdir(exist_ok=True)
    for file in sorted((source / "checkpoint").iterdir()):
        shutil.copyfile(file, HERE / "checkpoint" / file.name)


if __name__ == "__main__":
    main()
