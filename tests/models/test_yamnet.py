"""YAMNet as shipped: labels, scores, and what it says of bad files."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from assistant.errors import ModelError
from assistant.models.yamnet import EMBEDDING, LABELS, WINDOW, Yamnet


@pytest.fixture(scope="module")
def yamnet(yamnet_path: Path) -> Yamnet:
    return Yamnet(yamnet_path)


def top(yamnet: Yamnet, samples: np.ndarray, n: int = 5) -> list[str]:
    return [yamnet.labels[i] for i in np.argsort(-yamnet.tag(samples.astype(np.float32)))[:n]]


def test_labels_are_the_521_of_audioset(yamnet: Yamnet) -> None:
    assert len(yamnet.labels) == LABELS == len(set(yamnet.labels))
    assert (yamnet.labels[0], yamnet.labels[132], yamnet.labels[-1]) == ("Speech", "Music", "Field recording")


def test_scores_are_between_0_and_1_and_the_caller_keeps_them(yamnet: Yamnet) -> None:
    first = yamnet.tag(np.zeros(WINDOW, np.float32))
    kept = first.copy()
    second = yamnet.tag(np.random.default_rng(1).normal(size=WINDOW).astype(np.float32) * 0.1)
    assert first.shape == (LABELS,)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_silence_a_tone_and_noise_are_told_apart(yamnet: Yamnet) -> None:
    t = np.arange(WINDOW) / 16_000
    assert top(yamnet, np.zeros(WINDOW), 1) == ["Silence"]
    assert "Sine wave" in top(yamnet, 0.2 * np.sin(2 * np.pi * 440 * t))
    assert {"White noise", "Noise", "Static"} & set(top(yamnet, np.random.default_rng(1).normal(size=WINDOW) * 0.1))


def test_a_window_of_another_length_is_refused(yamnet: Yamnet) -> None:
    with pytest.raises(ModelError, match="15600"):
        yamnet.tag(np.zeros(16_000, np.float32))


def test_not_a_number_is_heard_as_silence(yamnet: Yamnet) -> None:
    scores = yamnet.tag(np.full(WINDOW, np.nan, np.float32))
    np.testing.assert_array_equal(scores, yamnet.tag(np.zeros(WINDOW, np.float32)))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.tflite.*kikimimi models pull yamnet"):
        Yamnet(tmp_path / "none.tflite")


def test_a_truncated_file_is_told(tmp_path: Path, yamnet_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(yamnet_path.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="not the YAMNet model"):
        Yamnet(broken)


def test_an_archive_without_labels_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "other.tflite"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "nothing here")
    with pytest.raises(ModelError, match="not the YAMNet model"):
        Yamnet(archive)


def test_an_archive_with_labels_but_no_network_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "other.tflite"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("yamnet_label_list.txt", "\n".join(f"label {i}" for i in range(LABELS)))
    with pytest.raises(ModelError, match="not the YAMNet model"):
        Yamnet(archive)


def test_the_embedding_is_that_of_the_window_and_leaves_the_scores_as_they_are(
    yamnet: Yamnet, yamnet_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    plain = Interpreter(model_path=str(yamnet_path), num_threads=1)
    plain.allocate_tensors()
    rng = np.random.default_rng(3)
    embeddings = []
    for _ in range(5):
        samples = (rng.standard_normal(WINDOW) * 0.05).astype(np.float32)
        plain.set_tensor(plain.get_input_details()[0]["index"], samples)
        plain.invoke()
        scores = yamnet.tag(samples)
        np.testing.assert_array_equal(scores, plain.get_tensor(plain.get_output_details()[0]["index"])[0])
        embeddings.append(yamnet.embedding())
    assert all(one.shape == (EMBEDDING,) and one.dtype == np.uint8 and one.any() for one in embeddings)
    assert not np.array_equal(embeddings[0], embeddings[1])


def test_a_model_that_is_cut_or_another_is_told(tmp_path: Path, yamnet_path: Path) -> None:
    content = yamnet_path.read_bytes()
    for bad in (content[:40], content[:100_000], bytes(5_000), content[:4] + b"\xff" * 4 + content[8:]):
        path = tmp_path / "bad.tflite"
        path.write_bytes(bad)
        with pytest.raises(ModelError, match="kikimimi models pull yamnet"):
            Yamnet(path)
