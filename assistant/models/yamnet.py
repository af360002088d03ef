"""YAMNet: 521 AudioSet classes from 0.975 s of audio, on one CPU thread, and the embedding they are made of.

Source: TF-Hub `lite-model_yamnet_classification_tflite_1` (Apache-2.0); its labels are the text file inside the model
file, which is also a zip archive.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ModelError
from assistant.events import Samples

WINDOW = 15_600  # samples: 0.975 s at 16 kHz
LABELS = 521
EMBEDDING = 1024
EMBEDDING_TENSOR = "tower0/network/layer28/reduce_mean"  # before the last layer; int8, 0.0223 a step from -128 on
SUBGRAPHS, TENSORS, OUTPUTS, NAME = 2, 0, 2, 3  # fields of Model, SubGraph and Tensor in TFLite's schema.fbs


class Yamnet:
    """The tagger. Load, warm up and call it in one thread: the interpreter is not thread-safe."""

    def __init__(self, path: Path) -> None:
        """Load the model and its labels from `path`. Raises `ModelError`."""
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (0.1 s: only where it is chosen)

        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read("yamnet_label_list.txt").decode("utf-8")
            self._interpreter = Interpreter(model_content=with_embedding(path.read_bytes()), num_threads=1)
            self._interpreter.allocate_tensors()
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, RuntimeError, struct.error) as error:
            raise ModelError(f"{path}: not the YAMNet model ({error}); remedy: kikimimi models pull yamnet") from error
        self.labels = tuple(text.splitlines())
        shape = self._interpreter.get_output_details()[0]["shape"]
        if len(self.labels) != LABELS or shape[-1] != LABELS:
            raise ModelError(
                f"{path}: {len(self.labels)} labels for {shape[-1]} scores, YAMNet has {LABELS} of both; "
                "remedy: kikimimi models pull yamnet"
            )
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output, self._embedding = (each["index"] for each in self._interpreter.get_output_details())

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

    def embedding(self) -> NDArray[np.uint8]:
        """Shape (1024,): what the model made of the window that `tag` was called with last, in its own steps from zero.

        Call it in the thread of `tag`, before the next one. The array is the caller's.
        """
        stepped: NDArray[np.int8] = self._interpreter.get_tensor(self._embedding).reshape(EMBEDDING)
        return (stepped.astype(np.int16) + 128).astype(np.uint8)


def with_embedding(content: bytes) -> bytes:
    """The same TFLite model with the embedding as a second output: free, where keeping all tensors costs 5 %.

    The list of outputs is written anew behind the end, and its offset points there: a FlatBuffer may lie in any order.
    Raises `ValueError` and `struct.error` for what is no such model.
    """
    model = bytearray(content)

    def follow(at: int) -> int:
        return at + int(struct.unpack_from("<I", model, at)[0])

    def field(table: int, number: int) -> int:
        """Where a field of a table lies."""
        known = table - struct.unpack_from("<i", model, table)[0]
        size, offset = struct.unpack_from("<H", model, known)[0], 0
        if 4 + 2 * number < size:
            offset = struct.unpack_from("<H", model, known + 4 + 2 * number)[0]
        if not offset:
            raise ValueError("a field of the model is missing")
        return table + int(offset)

    def name(tensor: int) -> bytes:
        text = follow(field(tensor, NAME))
        return bytes(model[text + 4 : text + 4 + struct.unpack_from("<I", model, text)[0]])

    graph = follow(follow(field(follow(0), SUBGRAPHS)) + 4)  # the first of the vector
    tensors = follow(field(graph, TENSORS))
    count = struct.unpack_from("<I", model, tensors)[0]
    if count > len(model) // 4:
        raise ValueError("its tensors cannot be counted")
    names = [name(follow(tensors + 4 + 4 * i)) for i in range(count)]
    outputs = field(graph, OUTPUTS)
    scores = struct.unpack_from("<i", model, follow(outputs) + 4)[0]
    model += bytes(-len(model) % 4)
    struct.pack_into("<I", model, outputs, len(model) - outputs)
    model += struct.pack("<Iii", 2, scores, names.index(EMBEDDING_TENSOR.encode()))
    return bytes(model)
