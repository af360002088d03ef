"""YAMNet as shipped: labels, scores, and what it says of bad files."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from assistant.errors import ModelError
from assistant.events import Window
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
    embeddings, different = [], 0
    for n in range(40):
        samples = (rng.standard_normal(WINDOW) * 0.05 * (1 + np.sin(np.arange(WINDOW) / (50 + n)))).astype(np.float32)
        plain.set_tensor(plain.get_input_details()[0]["index"], samples)
        plain.invoke()
        scores = yamnet.tag(samples)
        wanted = plain.get_tensor(plain.get_output_details()[0]["index"])[0]
        # Its steps are an eighth of a bit at most; where a value lies between two, ours may take the other one.
        assert np.abs(scores - wanted).max() <= 0.09
        different += int((scores != wanted).sum())
        embeddings.append(yamnet.embedding())
    assert different <= 4  # of 20,840
    assert all(one.shape == (EMBEDDING,) and one.dtype == np.uint8 and one.any() for one in embeddings)
    assert not np.array_equal(embeddings[0], embeddings[1])


def test_windows_of_a_stream_give_the_patches_that_each_gives_alone(yamnet: Yamnet) -> None:
    """Whatever their gain, after a gap, and beside clipped or repeated ones."""
    rng = np.random.default_rng(5)
    audio = (rng.standard_normal(20 * 16_000) * 0.02 * (1 + np.sin(np.arange(20 * 16_000) / 700))).astype(np.float32)
    stream = yamnet.follow()
    cuts = [
        *((n * 3520, 1.0 + n % 3) for n in range(12)),  # overlapping, each louder or quieter than the one before
        (12 * 3520, None),  # clipped
        (13 * 3520, 2.0),
        (13 * 3520 + 1000, 2.0),  # not in step
        (13 * 3520 + 1000 + 160 * 95, 1.0),  # one frame in common
        (16_000 * 18, 1.0),  # nothing in common
    ]
    for start, gain in cuts:
        samples = audio[start : start + WINDOW] * np.float32(gain or 60.0)
        lifted = samples if gain is not None else np.clip(samples, -1.0, 1.0)
        window = Window(start, start + WINDOW, lifted, start, -30.0, -60.0, gain)
        np.testing.assert_allclose(stream.patch(window), yamnet.front_end.patch(lifted), atol=2e-5)
    short = Window(16_000 * 19, 16_000 * 19 + 8_000, np.resize(audio[:8_000], WINDOW), 16_000 * 19, -30.0, -60.0, 1.0)
    np.testing.assert_array_equal(stream.patch(short), yamnet.front_end.patch(short.samples))


def test_a_model_that_is_cut_or_another_is_told(tmp_path: Path, yamnet_path: Path) -> None:
    content = yamnet_path.read_bytes()
    for bad in (content[:40], content[:100_000], bytes(5_000), content[:4] + b"\xff" * 4 + content[8:]):
        path = tmp_path / "bad.tflite"
        path.write_bytes(bad)
        with pytest.raises(ModelError, match="kikimimi models pull yamnet"):
            Yamnet(path)
