"""YAMNet: 521 AudioSet classes from 0.975 s of audio, on one CPU thread, and the embedding they are made of.

Source: TF-Hub `lite-model_yamnet_classification_tflite_1` (Apache-2.0); its labels are the text file inside the model
file, which is also a zip archive.

The network (an int8 MobileNet) runs in LiteRT. Its front end, a log-mel spectrogram, is computed here with the window
and the mel matrix of the same file: LiteRT's own takes longer than the network, and windows of one stream overlap, so
that three quarters of a spectrogram are there already (docs/adr/0019-many-rooms.md).
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.errors import ModelError
from assistant.events import Samples, Window

WINDOW = 15_600  # samples: 0.975 s at 16 kHz
LABELS = 521
EMBEDDING = 1024
EMBEDDING_TENSOR = "tower0/network/layer28/reduce_mean"  # before the last layer; int8, 0.0223 a step from -128 on
PATCH_TENSOR = "feature_patch"  # the log-mel spectrogram, before it is quantised
HANN_TENSOR, MEL_TENSOR, OFFSET_TENSOR = (
    "stft/hann_window/sub_2",
    "mel_spectrogram",
    "add",
)  # constants of the front end
# Fields of Model, SubGraph, Tensor and Operator in TFLite's schema.fbs.
SUBGRAPHS, TENSORS, INPUTS, OUTPUTS, OPERATORS, NAME, MADE = 2, 0, 1, 2, 3, 3, 2

FRAME, HOP, N_FFT = 400, 160, 512  # samples
FRAMES, BANDS = 96, 64
ROWS = 15  # frames multiplied at once: OpenBLAS starts threads for more, which on busy cores cost more than they bring

Patch = NDArray[np.float32]
"""A log-mel spectrogram of shape (FRAMES, BANDS)."""


class Yamnet:
    """The tagger. Load, warm up and call it in one thread: the interpreter is not thread-safe.

    `front_end` and the streams that `follow` gives may be used in other ones.
    """

    def __init__(self, path: Path) -> None:
        """Load the model and its labels from `path`. Raises `ModelError`."""
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (0.1 s: only where it is chosen)

        try:
            with zipfile.ZipFile(path) as archive:
                text = archive.read("yamnet_label_list.txt").decode("utf-8")
            model, constants = from_patch(path.read_bytes())
            self._interpreter = Interpreter(model_content=model, num_threads=1)
            self._interpreter.allocate_tensors()
            self.front_end = FrontEnd(*(self._interpreter.get_tensor(index) for index in constants))
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
        return self.score(self.front_end.patch(samples.reshape(-1)))

    def follow(self) -> YamnetStream:
        """The front end of one stream, whose windows overlap."""
        return YamnetStream(self.front_end)

    def score(self, patch: Patch) -> NDArray[np.float32]:
        """Scores of shape (521,), 0 to 1. The array is the caller's."""
        self._interpreter.set_tensor(self._input, patch[np.newaxis])
        self._interpreter.invoke()
        scores: NDArray[np.float32] = self._interpreter.get_tensor(self._output)[0]
        return scores

    def embedding(self) -> NDArray[np.uint8]:
        """Shape (1024,): what the model made of what `tag` or `score` was called with last, in its own steps from zero.

        Call it in the thread of `tag`, before the next one. The array is the caller's.
        """
        stepped: NDArray[np.int8] = self._interpreter.get_tensor(self._embedding).reshape(EMBEDDING)
        return (stepped.astype(np.int16) + 128).astype(np.uint8)


class FrontEnd:
    """From samples to a log-mel spectrogram."""

    def __init__(self, hann: NDArray[np.float32], mel: NDArray[np.float32], offset: NDArray[np.float32]) -> None:
        """`hann` of shape (FRAME,), `mel` (BANDS, N_FFT / 2 + 1), `offset` (BANDS,). Raises `ValueError` for others."""
        if (hann.shape, mel.shape, offset.shape) != ((FRAME,), (BANDS, N_FFT // 2 + 1), (BANDS,)):
            raise ValueError("its front end is another")
        # Copies: LiteRT's lie in its own memory.
        self._hann, self._mel, self._offset = hann.copy(), np.ascontiguousarray(mel.T), offset.copy()

    def patch(self, samples: Samples) -> Patch:
        """Of a window of shape (WINDOW,)."""
        return self.logarithm(self.magnitudes(samples))

    def magnitudes(self, samples: Samples) -> NDArray[np.float32]:
        """Shape (frames, BANDS): as much as `samples` are louder, these are greater."""
        bands = self._magnitudes(samples)
        if not np.isfinite(bands).all():
            bands = self._magnitudes(np.nan_to_num(samples, posinf=0.0, neginf=0.0))
        return bands

    def _magnitudes(self, samples: Samples) -> NDArray[np.float32]:
        samples = np.ascontiguousarray(samples, np.float32)
        count, step = (len(samples) - FRAME) // HOP + 1, samples.itemsize
        frames = np.ndarray((count, FRAME), np.float32, samples, strides=(HOP * step, step)) * self._hann
        spectrum = np.fft.rfft(frames, N_FFT)
        lines = np.sqrt(np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32, copy=False)
        bands = np.empty((count, BANDS), np.float32)
        for at in range(0, count, ROWS):
            np.matmul(lines[at : at + ROWS], self._mel, out=bands[at : at + ROWS])
        return bands

    def logarithm(self, magnitudes: NDArray[np.float32]) -> Patch:
        """What the network takes."""
        patch: Patch = np.log(magnitudes + self._offset)
        return patch


class YamnetStream:
    """Patches of the windows of one stream: of one that overlaps the one before, only what is new is computed."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._before: Window | None = None
        self._magnitudes = np.zeros((0, BANDS), np.float32)  # of `_before`

    def patch(self, window: Window) -> Patch:
        """Of the next window. Raises `ModelError` for one that is not as long as YAMNet's."""
        if window.samples.size != WINDOW:
            raise ModelError(f"YAMNet takes {WINDOW} samples, not {window.samples.size}")
        before, self._before = self._before, window
        known = _shared(before, window)
        if known and before is not None and before.gain and window.gain:
            louder = np.float32(window.gain / before.gain)
            fresh = self._front_end.magnitudes(window.samples[known * HOP :])
            self._magnitudes = np.concatenate((self._magnitudes[FRAMES - known :] * louder, fresh))
        else:
            self._magnitudes = self._front_end.magnitudes(window.samples)
        return self._front_end.logarithm(self._magnitudes)


def _shared(before: Window | None, window: Window) -> int:
    """How many frames of a window are the last of the one before it."""
    if before is None or before.end - before.start != WINDOW or window.end - window.start != WINDOW:
        return 0  # what was repeated to fill a window is nowhere in the stream
    ahead = window.start - before.start
    return max(0, FRAMES - ahead // HOP) if ahead > 0 and ahead % HOP == 0 else 0


def from_patch(content: bytes) -> tuple[bytes, tuple[int, int, int]]:
    """The same TFLite model from the spectrogram on, with the embedding as a second output; three of its constants.

    The embedding is free so, where keeping all tensors costs 5 %. The constants, given as tensors, are those of the
    front end that was left out. Lists are cut or written anew behind the end, and their offsets point there: a
    FlatBuffer may lie in any order. Raises `ValueError` and `struct.error` for what is no such model.
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

    def entries(vector: int) -> list[int]:
        count = struct.unpack_from("<I", model, vector)[0]
        if count > len(model) // 4:
            raise ValueError("its parts cannot be counted")
        return [vector + 4 + 4 * i for i in range(count)]

    def name(tensor: int) -> bytes:
        text = follow(field(tensor, NAME))
        return bytes(model[text + 4 : text + 4 + struct.unpack_from("<I", model, text)[0]])

    def first(vector: int) -> int:
        return int(struct.unpack_from("<i", model, entries(vector)[0])[0]) if entries(vector) else -1

    graph = follow(follow(field(follow(0), SUBGRAPHS)) + 4)  # the first of the vector
    names = [name(follow(entry)) for entry in entries(follow(field(graph, TENSORS)))]
    patch = names.index(PATCH_TENSOR.encode())

    operators = follow(field(graph, OPERATORS))
    made = [first(follow(field(follow(entry), MADE))) for entry in entries(operators)]
    dropped = made.index(patch) + 1
    kept = operators + 4 * dropped  # the entry before the first that stays becomes the new count
    struct.pack_into("<I", model, kept, len(made) - dropped)
    struct.pack_into("<I", model, field(graph, OPERATORS), kept - field(graph, OPERATORS))
    struct.pack_into("<i", model, follow(field(graph, INPUTS)) + 4, patch)

    outputs = field(graph, OUTPUTS)
    scores = first(follow(outputs))
    model += bytes(-len(model) % 4)
    struct.pack_into("<I", model, outputs, len(model) - outputs)
    model += struct.pack("<Iii", 2, scores, names.index(EMBEDDING_TENSOR.encode()))
    hann, mel, offset = (names.index(constant.encode()) for constant in (HANN_TENSOR, MEL_TENSOR, OFFSET_TENSOR))
    return bytes(model), (hann, mel, offset)
