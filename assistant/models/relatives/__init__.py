"""Qwen-Audio's relatives, run through the classes of `transformers`: picked by what a checkpoint's config.json says.

Nothing heavy is imported here, so that the registry can name the classes.
"""

from __future__ import annotations

import json
from pathlib import Path

from assistant.errors import ModelError

FAMILIES = {  # `model_type` of config.json to the class that runs it
    "qwen2_audio": "assistant.models.relatives.chatml:Qwen2Audio",
    "qwen2_5_omni": "assistant.models.relatives.chatml:Qwen25Omni",  # with the talker, which is not loaded
    "qwen2_5_omni_thinker": "assistant.models.relatives.chatml:Qwen25Omni",
    "qwen3_omni_moe": "assistant.models.relatives.chatml:Qwen3Omni",
    "qwen3_omni_moe_thinker": "assistant.models.relatives.chatml:Qwen3Omni",
    "voxtral": "assistant.models.relatives.voxtral:Voxtral",
}


def model_type(folder: Path) -> str:
    """What the checkpoint's config.json says the model is. Raises `ModelError` for a file that does not say it."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; remedy: give the folder that holds the checkpoint's files") from None
    except (OSError, ValueError, RecursionError) as error:  # a broken file is no text or no JSON
        raise ModelError(f"{path} cannot be read: {error}") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(found, str):
        raise ModelError(f"{path} names no model_type; remedy: use the config.json that came with the checkpoint")
    return found


def class_of(folder: Path) -> str:
    """The "module:Class" that runs the checkpoint. Raises `ModelError` for a family that is not here."""
    found = model_type(folder)
    if found not in FAMILIES:
        raise ModelError(f"{folder / 'config.json'}: model_type is {found!r}, which is none of {', '.join(FAMILIES)}")
    return FAMILIES[found]
