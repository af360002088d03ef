from __future__ import annotations

import pytest

from assistant.audio.address import kind_of, without_secrets


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("-", "pcm"),
        ("rtsp://user:pass@camera.lan:554/1", "stream"),
        ("HTTPS://radio.example/live.mp3", "stream"),
        ("default", "microphone"),
        ("3", "microphone"),
        ("usb:0d8c:0014:A1", "microphone"),
        ("usb:0d8c:0014@1-1.4", "microphone"),
        ("hw:1,0", "microphone"),
        ("Jabra", "microphone"),
        ("USB PnP Sound Device: Audio (hw:1,0)", "microphone"),
        ("house.wav", "file"),
        ("recordings/house", "file"),
        ("/srv/x", "file"),
        ("~/house.FLAC", "file"),
        ("台所.m4a", "file"),
        ("wyoming://kitchen.local", "satellite"),
        ("Wyoming://[::1]:10700", "satellite"),
    ],
)
def test_kind_of(address, kind):
    assert kind_of(address) == kind


def test_what_exists_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kitchen").mkdir()
    assert kind_of("kitchen") == "file"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:p@ss@camera.lan:554/1?token=abc", "rtsp://camera.lan:554/1"),
        ("http://radio.example/live.mp3#x", "http://radio.example/live.mp3"),
        ("https://[::1]:8000/a", "https://[::1]:8000/a"),
    ],
)
def test_secrets_are_left_out(url, shown):
    assert without_secrets(url) == shown
