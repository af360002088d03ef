"""Every entry of the registry can be imported."""

from __future__ import annotations

import pytest

from assistant import registry
from assistant.errors import ConfigurationError

ENTRIES = [
    pytest.param(table, name, id=f"{kind}-{name}")
    for kind, table in {
        "source": registry.SOURCES,
        "tagger": registry.TAGGERS,
        "recogniser": registry.RECOGNISERS,
        "audio_llm": registry.AUDIO_LLMS,
        "output": registry.OUTPUTS,
    }.items()
    for name in table
]


@pytest.mark.parametrize(("table", "name"), ENTRIES)
def test_entry_is_a_class(table: dict[str, str], name: str) -> None:
    assert isinstance(registry.load(table, name), type)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="'radio' is none of file, microphone, pcm, satellite, stream"):
        registry.load(registry.SOURCES, "radio")
