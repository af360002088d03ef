"""The exceptions a person may see; everything else is a bug and keeps its traceback.

AssistantError            exit 1  something failed
├── ConfigurationError    exit 2  a configuration or rule file, or a command line, is wrong
├── SourceError           exit 3  a microphone, file or stream cannot be opened or read
├── ModelError            exit 4  model files are missing, broken or cannot be run
├── VoiceError            exit 1  a text cannot be said
└── HistoryError          exit 1  the history cannot be opened or read
"""

from __future__ import annotations


class AssistantError(Exception):
    """A failure told in one sentence that names the file, the field and the remedy."""

    exit_code = 1


class ConfigurationError(AssistantError):
    """The configuration, a rule or the command line is wrong."""

    exit_code = 2


class SourceError(AssistantError):
    """A source of audio cannot be opened or read."""

    exit_code = 3


class ModelError(AssistantError):
    """A model is missing, broken or cannot be run."""

    exit_code = 4


class VoiceError(AssistantError):
    """A text cannot be said: an engine is missing or fails."""


class HistoryError(AssistantError):
    """The history cannot be opened or read."""
