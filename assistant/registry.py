"""Which class serves a name of the configuration; nothing is imported until it is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from assistant.errors import ConfigurationError
from assistant.models.relatives import FAMILIES

SOURCES = {
    "microphone": "assistant.audio.microphone:Microphone",
    "file": "assistant.audio.wavfile:File",
    "pcm": "assistant.audio.pcm:Pcm",
    "stream": "assistant.audio.stream:Stream",
    "satellite": "assistant.audio.satellite:Satellite",
}
TAGGERS = {"yamnet": "assistant.models.yamnet:Yamnet"}
RECOGNISERS = {"whisper": "assistant.models.whisper:Whisper"}
# By `model_type` of the checkpoint's config.json; each is called with its folder and `AudioLLMSettings`.
AUDIO_LLMS = {"qwen": "assistant.models.qwen_audio.llm:QwenAudio", **FAMILIES}
VOICES = {
    "espeak": "assistant.voices.espeak:Espeak",
    "piper": "assistant.voices.piper:Piper",
    "kokoro": "assistant.voices.kokoro:Kokoro",
}
OUTPUTS = {"mqtt": "assistant.outputs.mqtt:Mqtt"}


def load(table: dict[str, str], name: str) -> Any:  # noqa: ANN401 (the class is named at run time)
    """The class that `table` names for `name`. Raises `ConfigurationError` for a name it does not hold."""
    try:
        module, _, attribute = table[name].partition(":")
    except KeyError:
        raise ConfigurationError(f"{name!r} is none of {', '.join(sorted(table))}") from None
    return getattr(import_module(module), attribute)
