"""From arguments and configuration to rooms and loaded models."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from assistant import registry, startup
from assistant.config import Config, parse
from assistant.errors import ConfigurationError, ModelError
from assistant.startup import ModelFiles, Room, load_models, model_names, room_id, rooms_of


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("/home/me/House Quiet.flac", "house-quiet"),
        ("日本語.wav", "home"),
        ("status.wav", "status-room"),
        ("default", "home"),
        ("rtsp://camera/1", "home"),
        ("-", "home"),
    ],
)
def test_a_source_without_a_room_gets_one_that_mqtt_can_carry(address: str, identity: str) -> None:
    assert room_id(address) == identity


@pytest.mark.parametrize(
    ("text", "identity", "address"),
    [
        ("kitchen=usb:0d8c:0014", "kitchen", "usb:0d8c:0014"),
        ("kitchen=a=b.wav", "kitchen", "a=b.wav"),
        ("rtsp://camera/1?user=x", "home", "rtsp://camera/1?user=x"),
        ("hall=http://radio/live?id=3", "hall", "http://radio/live?id=3"),
        ("./take=2.wav", "take-2", "./take=2.wav"),
    ],
)
def test_forms_of_a_source(text: str, identity: str, address: str) -> None:
    [room] = rooms_of(Config(), [text])
    assert (room.id, room.address) == (identity, address)


def test_a_file_with_an_equals_sign_that_is_there_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take=2.wav").write_bytes(b"")
    assert rooms_of(Config(), ["take=2.wav"])[0].address == "take=2.wav"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["Küche=default"], "'Küche' is not a room id"),
        (["=default"], "not a room id"),
        (["kitchen="], "the source is missing"),
        (["status=default"], "status-room"),
        (["a.wav", "b/a.wav"], "room a has two sources"),
    ],
)
def test_a_source_that_cannot_be_is_a_configuration_error(sources: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        rooms_of(Config(), sources)


def test_only_a_single_source_must_be_there_at_once() -> None:
    assert rooms_of(Config(), []) == [Room("home", "default")]
    # without the page nobody could choose another source
    without = Config.model_validate({"web": {"enabled": False}})
    assert rooms_of(without, []) == [Room("home", "default", required=True)]
    assert [room.required for room in rooms_of(Config(), ["default"])] == [True]
    assert [room.required for room in rooms_of(Config(), ["a=default", "b=1"])] == [False, False]


def test_the_models_of_the_configuration(tmp_path: Path) -> None:
    assert model_names(Config()) == ["yamnet", "whisper-base"]
    for text, names in (("tiny.en", ["yamnet", "whisper-tiny.en"]), (str(tmp_path), ["yamnet"])):
        assert model_names(parse(f"speech: {{model: {text}}}", tmp_path / "config.yaml")) == names
    assert model_names(parse("speech: {enabled: false}", tmp_path / "config.yaml")) == ["yamnet"]


async def test_a_recogniser_that_cannot_be_loaded_leaves_the_sounds(
    yamnet_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.bin").write_bytes(b"no model")
    models = await load_models(Config(), ModelFiles(yamnet_path, tmp_path))
    try:
        assert await models.recogniser() is None
        assert await models.recogniser() is None  # and again: an utterance must not raise
        assert "speech is not recognised" in caplog.text
    finally:
        models.shutdown()


async def test_a_bug_in_the_loading_of_the_recogniser_leaves_the_sounds(
    yamnet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(registry.RECOGNISERS, "whisper", "builtins:int")  # `int` takes no settings
    models = await load_models(Config(), ModelFiles(yamnet_path, tmp_path))
    try:
        assert await models.recogniser() is None
        assert "speech is not recognised" in caplog.text
    finally:
        models.shutdown()


async def test_a_tagger_that_this_machine_cannot_load_is_a_model_error(
    yamnet_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rubbish = tmp_path / "yamnet.tflite"
    rubbish.write_bytes(b"PK" * 500)
    with pytest.raises(ModelError, match="yamnet"):
        await load_models(Config(), ModelFiles(rubbish, None))
    monkeypatch.setitem(registry.TAGGERS, "yamnet", "assistant.no_such_module:Yamnet")
    with pytest.raises(ModelError, match="ModuleNotFoundError"):
        await load_models(Config(), ModelFiles(yamnet_path, None))


async def test_loading_that_takes_too_long_is_a_model_error(yamnet_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.pipeline.MODEL_TIMEOUT", 0.0)
    with pytest.raises(ModelError, match="to load"):
        await load_models(Config(), ModelFiles(yamnet_path, None))
    await asyncio.sleep(0.2)  # the loading thread ends


def test_native_chatter_goes_to_the_debug_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import os  # noqa: PLC0415

    caplog.set_level(logging.DEBUG, logger="assistant")
    with startup.native_chatter_logged():
        os.write(2, b"INFO: a delegate says hello\n")
    assert "a delegate says hello" in caplog.text
    assert capfd.readouterr().err == ""
