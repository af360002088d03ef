"""YAMNet: 521 AudioSet classes from 0.975 s of audio, on one CPU thread.

Source: TF-Hub `lite-model_yamnet_classification_tflite_1` (Apache-2.0); its labels are the text file inside the model
file, which is also a zip archive.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ModelError
from assistant.events import Samples

WINDOW = 15_600  # samples: 0.975 s at 16 kHz
LABELS = 521


class Yamnet:
    """The tagger. Load, warm up and call it in one thread: the interpreter is not thread-safe."""

    def __init__(self, path: Path) -> None:
        """Load the model and its labels from `path`. Raises `ModelError`."""
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (0.1 s: only where it is chosen)

        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read("yamnet_label_list.txt").decode("utf-8")
            self._interpreter = Interpreter(model_path=str(path), num_threads=1)
            self._interpreter.allocate_tensors()
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
            raise ModelError(f"{path}: not the YAMNet model ({error}); remedy: kikimimi models pull yamnet") from error
        self.labels = tuple(text.splitlines())
        shape = self._interpreter.get_output_details()[0]["shape"]
        if len(self.labels) != LABELS or shape[-1] != LABELS:
            raise ModelError(
                f"{path}: {len(self.labels)} labels for {shape[-1]} scores, YAMNet has {LABELS} of both; "
                "remedy: kikimimi models pull yamnet"
            )
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def tag(self, samples: Samples) -> NDArray[np.float32]:
        """Scores of shape (521,), 0 to 1, for `samples` of shape (15600,). Raises `ModelError` for another length.

        What is not a number is taken for silence. The array is the caller's.
        """
        if samples.size != WINDOW:
            raise ModelError(f"YAMNet takes {WINDOW} samples, not {samples.size}")
        self._interpreter.set_tensor(self._input, np.nan_to_num(samples.reshape(-1), posinf=0.0, neginf=0.0))
        self._interpreter.invoke()
        scores: NDArray[np.float32] = self._interpreter.get_tensor(self._output)[0]
        return scores
