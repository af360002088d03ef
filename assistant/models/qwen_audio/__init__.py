"""Qwen-Audio, written natively: a Whisper-large encoder and a Qwen-7B decoder that hear sounds, speech and music.

Paper: Chu et al., "Qwen-Audio: Advancing Universal Audio Understanding via Unified Large-Scale Audio-Language Models"
(2023). The published files are loaded as they are; nothing of the published code is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assistant.models.qwen_audio.configuration import QwenAudioConfig
    from assistant.models.qwen_audio.model import QwenAudioForConditionalGeneration
    from assistant.models.qwen_audio.processor import QwenAudioProcessor

_WHERE = {
    "QwenAudioConfig": "configuration",
    "QwenAudioForConditionalGeneration": "model",
    "QwenAudioProcessor": "processor",
}

__all__ = ["QwenAudioConfig", "QwenAudioForConditionalGeneration", "QwenAudioProcessor"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (torch and transformers are imported only for what is asked for)
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
