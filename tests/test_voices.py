"""espeak-ng speaks what it is given as text, whatever that looks like; what is missing is told with a remedy."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from assistant.errors import VoiceError
from assistant.voices import espeak
from assistant.voices.espeak import Espeak
from assistant.voices.kokoro import Kokoro
from assistant.voices.piper import Piper
from assistant.voices.voice import TEXT_LIMIT, base_language, speakable


@pytest.mark.parametrize("text", ["Hello", "-v fr --help", "$(reboot)", "one\ntwo", "<speak>three</speak>", "電気"])
async def test_any_text_is_only_text(text: str) -> None:
    speech = await Espeak().synthesise(text, "en")
    assert speech.rate > 8_000
    assert 0.1 < speech.seconds < 30.0


async def test_what_cannot_be_said_is_refused() -> None:
    for text in ("", " ", "\0", "…!?"):
        with pytest.raises(VoiceError, match="cannot be said"):
            await Espeak().synthesise(text, "en")
    with pytest.raises(VoiceError, match=r"speaks no 'xx'; remedy"):
        await Espeak().synthesise("hello", "xx")
    with pytest.raises(VoiceError, match="is no language"):
        await Espeak().synthesise("hello", "../../etc/passwd")


def test_a_language_is_known_in_capitals_too() -> None:
    assert [base_language(code) for code in ("EN", "de-AT", "Ja")] == ["en", "de", "ja"]


def test_a_text_has_a_limit_and_no_phonemes() -> None:
    assert len(speakable("word " * 10_000)) <= TEXT_LIMIT
    assert "[[" not in speakable("[[h@l'oU]] hello")


async def test_a_program_that_is_missing_hangs_or_gives_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Espeak("no-such-program")
    assert not await missing.speaks("en")
    with pytest.raises(VoiceError, match="apt-get install espeak-ng"):
        await missing.synthesise("hello", "en")

    def program(body: str) -> str:
        path = tmp_path / "espeak"
        path.write_text(f"#!/bin/sh\n[ $1 = --voices ] && {{ echo head; echo ' 5 en x'; exit; }}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    with pytest.raises(VoiceError, match="no WAV file"):
        await Espeak(program("echo rubbish")).synthesise("hello", "en")
    monkeypatch.setattr(espeak, "SECONDS", 0.5)
    with pytest.raises(VoiceError, match=r"espeak-ng"):
        await Espeak(program("exec sleep 60")).synthesise("hello", "en")


async def test_piper_without_its_voice_or_for_another_language_says_so(tmp_path: Path) -> None:
    piper = Piper(lambda: tmp_path / "voice.onnx")
    assert not await piper.speaks("en")
    with pytest.raises(VoiceError, match=r"voice.onnx is not there; remedy"):
        await piper.synthesise("hello", "en")
    (tmp_path / "voice.onnx").touch()
    (tmp_path / "voice.onnx.json").write_text('{"language": {"family": "de"}}')
    with pytest.raises(VoiceError, match="speaks de, not en"):
        await piper.synthesise("hello", "en")
    with pytest.raises(VoiceError, match="remedy"):
        await Piper(lambda: tmp_path / "voice.onnx", "no-such-piper").synthesise("hallo", "de")


async def test_kokoro_speaks_japanese_only_and_only_where_it_is_installed() -> None:
    kokoro = Kokoro()
    assert not await kokoro.speaks("en")
    if await kokoro.speaks(None):
        with pytest.raises(VoiceError, match="speaks Japanese"):
            await kokoro.synthesise("hello", "en")
    else:
        with pytest.raises(VoiceError, match=r"kikimimi\[kokoro\]"):
            await kokoro.synthesise("電気", "ja")
